"""Exponents and bounds of one unit without gates, h_t = f(w h_{t-1}); nats per step."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jacspec.theory import _domain


class LinearDerivatives(NamedTuple):
    """x_t = x_0 w^t and its derivatives with respect to w, as logs of absolute values, nats."""

    log_state: Array
    log_first: Array
    log_second: Array


def linear_exponent(w: Array | float) -> Array:
    """h' = w h: lambda = ln abs w; also of a ReLU that stays active.

    Args:
        w: recurrent weight, any shape.

    Returns:
        Nats per step; -inf for w = 0.

    Raises:
        TypeError: if w is no real number.
        ValueError: if it is not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(365 * float(scalar.linear_exponent(1.01)), 6)
        3.631871
    """
    return jnp.log(jnp.abs(_domain.within("theory.scalar.linear_exponent", "w", w, jnp.isfinite, "a finite number")))


def log_power(alpha: Array | float, depth: Array | float) -> Array:
    """log abs(alpha^n): n layers with the derivative alpha each.

    Args:
        alpha: derivative of a layer, any shape.
        depth: n >= 0.

    Returns:
        Nats; n = 0 gives 0.

    Raises:
        TypeError: for what is no real number.
        ValueError: for a negative depth or numbers that are not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.log_power(0.25, 20)), 6)
        -27.725887
    """
    name = "theory.scalar.log_power"
    alpha = _domain.within(name, "alpha", alpha, jnp.isfinite, "a finite number")
    depth = _domain.nonnegative(name, "depth", depth)
    return jnp.where(depth == 0, 0 * alpha, depth * jnp.log(jnp.abs(alpha)))


def linear_weight_derivatives(x: Array | float, w: Array | float, steps: Array | float) -> LinearDerivatives:
    """x_t = x_0 w^t, dx_t/dw = t x_0 w^(t-1), d2x_t/dw2 = t (t-1) x_0 w^(t-2).

    Args:
        x: x_0.
        w: recurrent weight.
        steps: t = 0, 1, 2, ...

    Returns:
        `LinearDerivatives`, log absolute values.

    Raises:
        TypeError: for what is no real number.
        ValueError: for negative or fractional steps or numbers that are not finite.

    Reference: R. Pascanu, T. Mikolov, Y. Bengio, arXiv 1211.5063.

    Example:
        >>> from jacspec.theory import scalar
        >>> [round(float(v), 4) for v in scalar.linear_weight_derivatives(1.0, 2.0, 3)]
        [2.0794, 2.4849, 2.4849]
    """
    name = "theory.scalar.linear_weight_derivatives"
    x = _domain.within(name, "x", x, jnp.isfinite, "a finite number")
    t = _domain.within(name, "steps", steps, lambda t: (t >= 0) & (t % 1 == 0), "a whole number >= 0")
    w = _domain.within(name, "w", w, jnp.isfinite, "a finite number")
    start = jnp.log(jnp.abs(x))
    power = lambda k: log_power(w, jnp.maximum(t - k, 0))
    first, second = jnp.log(t), jnp.log(jnp.maximum(t * (t - 1), 0))
    return LinearDerivatives(start + power(0), start + first + power(1), start + second + power(2))


def sigmoid_log_bound(w: Array | float, steps: Array | float) -> Array:
    """log abs dh_T/dh_0 <= T ln(abs w / 4) for h' = sigmoid(w h + b), whatever the bias and the inputs.

    Args:
        w: recurrent weight, any shape.
        steps: T >= 0.

    Returns:
        Nats.

    Raises:
        TypeError: for what is no real number.
        ValueError: for negative steps or numbers that are not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.sigmoid_log_bound(1.0, 20)), 6)
        -27.725887
    """
    return log_power(
        0.25 * _domain.within("theory.scalar.sigmoid_log_bound", "w", w, jnp.isfinite, "a finite number"), steps
    )


def relu_exponent(w: Array | float, h: Array | float) -> Array:
    """h' = max(w h, 0): ln w for w > 0 and h_0 > 0, where the unit stays active; otherwise it dies, -inf.

    Args:
        w: recurrent weight, any shape.
        h: h_0.

    Returns:
        Nats per step.

    Raises:
        TypeError: for what is no real number.
        ValueError: for numbers that are not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> float(scalar.relu_exponent(1.0, 0.5)), float(scalar.relu_exponent(1.0, -0.5))
        (0.0, -inf)
    """
    name = "theory.scalar.relu_exponent"
    w = _domain.within(name, "w", w, jnp.isfinite, "a finite number")
    h = _domain.within(name, "h", h, jnp.isfinite, "a finite number")
    active = (w > 0) & (h > 0)
    value = jnp.where(active, jnp.log(jnp.where(active, w, 1)), -jnp.inf)
    return jnp.where(jnp.isnan(w + h), jnp.nan, value)


def leaky_exponent(leak: Array | float, w: Array | float, slope: Array | float = 1.0) -> Array:
    """h' = (1 - a) h + a f(w h): ln abs(1 - a + a w f') at a fixed point with the slope f'.

    Args:
        leak: a in [0, 1].
        w: recurrent weight.
        slope: f' at the fixed point; 1 for tanh at 0.

    Returns:
        Nats per step.

    Raises:
        TypeError: for what is no real number.
        ValueError: for a leak outside [0, 1] or numbers that are not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.leaky_exponent(0.1, 0.0)), 6)
        -0.105361
    """
    name = "theory.scalar.leaky_exponent"
    a = _domain.within(name, "leak", leak, lambda a: (a >= 0) & (a <= 1), "0 <= leak <= 1")
    w = _domain.within(name, "w", w, jnp.isfinite, "a finite number")
    slope = _domain.within(name, "slope", slope, jnp.isfinite, "a finite number")
    return residual_exponent(a, w * slope - 1)


def residual_exponent(scale: Array | float, slope: Array | float) -> Array:
    """h' = h + eps f(h): ln abs(1 + eps f').

    Args:
        scale: eps, any shape.
        slope: f', or an eigenvalue of a linear branch.

    Returns:
        Nats per layer or step.

    Raises:
        TypeError: for what is no real number.
        ValueError: for numbers that are not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.residual_exponent(0.1, 2.0)), 6)
        0.182322
    """
    name = "theory.scalar.residual_exponent"
    eps = _domain.within(name, "scale", scale, jnp.isfinite, "a finite number")
    step = eps * _domain.within(name, "slope", slope, jnp.isfinite, "a finite number")
    above = step > -1  # log1p keeps a small branch
    return jnp.where(above, jnp.log1p(jnp.where(above, step, 0)), jnp.log(jnp.abs(1 + jnp.where(above, -1, step))))
