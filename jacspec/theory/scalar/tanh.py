"""One tanh unit, h_t = tanh(w h_{t-1}): where it settles, how fast its gradient decays, and the critical point between.

abs w < 1 forgets at the rate ln abs w; abs w > 1 latches at +-h* and forgets faster the deeper it saturates; at
abs w = 1 both the state and the gradient fall algebraically.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jacspec.theory import _domain, _roots

TANH_PEAK = 0.447743204694303
"""max over c of c (1 - tanh^2 c), reached where 2 c tanh c = 1, c = 0.771702319209104."""

_NEWTON = 6
"""Newton steps from the bound in `_argument`; 3 are enough for every weight in float64."""

_SERIES = [2 * k / math.factorial(2 * k + 1) for k in range(12, 0, -1)]
"""Coefficients of a cosh a - sinh a in odd powers of a, highest first: sum_k 2 k a^(2 k + 1) / (2 k + 1)!."""


class CriticalDecay(NamedTuple):
    """h_t of the critical tanh unit and log abs dh_t/dh_0."""

    state: Array
    log_sensitivity: Array


def tanh_fixed_point(w: Array | float) -> Array:
    """The h* >= 0 that h' = tanh(w h) goes to: h* = tanh(abs w h*), 0 up to abs w = 1.

    The amplitude of a pair of fixed points for w > 1 and of a cycle of two for w < -1.

    Args:
        w: recurrent weight, any shape.

    Returns:
        h*, of relative precision eps also where it is small.

    Raises:
        TypeError: if w is no real number.
        ValueError: if it is not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.tanh_fixed_point(1.5)), 8)
        0.85855964
    """
    w = _domain.within("theory.scalar.tanh_fixed_point", "w", w, jnp.isfinite, "a finite number")
    return jnp.where(jnp.abs(w) > 1, jnp.tanh(_argument(jnp.abs(w))), 0 * w)


def tanh_exponent(w: Array | float) -> Array:
    """h' = tanh(w h): lambda = ln abs w up to abs w = 1, then ln(abs w (1 - h*^2)) at h* = tanh(abs w h*).

    Args:
        w: recurrent weight, any shape.

    Returns:
        Nats per step; 0 at the critical abs w = 1, where the decay is algebraic (`tanh_critical_decay`).

    Raises:
        TypeError: if w is no real number.
        ValueError: if it is not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> [round(float(scalar.tanh_exponent(w)), 6) for w in (0.5, 1.0, 1.5)]
        [-0.693147, 0.0, -0.93061]
    """
    w = jnp.abs(_domain.within("theory.scalar.tanh_exponent", "w", w, jnp.isfinite, "a finite number"))
    a = _argument(w)
    near = jnp.log1p(jnp.sinh(jnp.minimum(a, 1)) ** 2)
    far = 2 * (a + jnp.log1p(jnp.exp(-2 * a)) - math.log(2))
    return jnp.log(w) - jnp.where(w <= 1, 0 * a, jnp.where(a < 1, near, far))  # log cosh^2 a


def tanh_critical_decay(h: Array | float, steps: Array | float) -> CriticalDecay:
    """h' = tanh h: h_t = h_0 / sqrt(1 + 2 t h_0^2 / 3), dh_t/dh_0 = (1 + 2 t h_0^2 / 3)^(-3/2).

    So h_t -> sqrt(3 / (2t)) and the gradient falls as t^(-3/2). 1/h_t^2 grows by 2/3 + h_t^2 / 15 + ... per step: the
    square of the state is right to the relative h_t^2 (ln(h_0 / h_t) / 5 + h_0^2 / 30), and dh_t/dh_0
    to h_0^2 / 10 + h_0^4 / 30.

    Args:
        h: h_0, any shape; the law is that of small h_0 or of late times.
        steps: t >= 0.

    Returns:
        `CriticalDecay`, the log in nats.

    Raises:
        TypeError: for what is no real number.
        ValueError: for negative steps or numbers that are not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.tanh_critical_decay(0.5, 1e6).state), 6)
        0.001225
    """
    name = "theory.scalar.tanh_critical_decay"
    h = _domain.within(name, "h", h, jnp.isfinite, "a finite number")
    growth = jnp.log1p(2 / 3 * h**2 * _domain.nonnegative(name, "steps", steps))
    return CriticalDecay(h * jnp.exp(-0.5 * growth), -1.5 * growth)


def tanh_slope_bound(h: Array | float) -> Array:
    """sup over U of abs(U (1 - tanh^2(U h))) = 0.4477432 / abs h: large weights saturate, but not at small h.

    Args:
        h: state before the step, not 0, any shape.

    Returns:
        The bound.

    Raises:
        TypeError: if h is no real number.
        ValueError: if it is 0 or not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.tanh_slope_bound(1.0)), 7)
        0.4477432
    """
    inside = lambda h: (h != 0) & jnp.isfinite(h)
    return TANH_PEAK / jnp.abs(_domain.within("theory.scalar.tanh_slope_bound", "h", h, inside, "h != 0"))


@jax.jit
def _argument(w: Array) -> Array:
    """The a > 0 with a = w tanh a; any number where w <= 1.

    a - tanh a = d tanh a with d = w - 1, an exact difference near 1. The left side is a power series with positive
    terms over cosh a. Newton's method starts at the lesser of w and the root with tanh a replaced by its bound
    a / (1 + a^2 / (3 + a^2 / 5)), both above the root.
    """
    w = jnp.where(w > 1, w, 2)
    d = w - 1
    start = jnp.where(d < 4, jnp.minimum(w, jnp.sqrt(3 * d / jnp.where(d < 4, 1 - d / 5, 1))), w)
    return _roots.attach(lambda a: _excess(a) - d * jnp.tanh(a), start, _NEWTON)


def _excess(a):
    """a - tanh a for a >= 0, of full relative precision: (a cosh a - sinh a) / cosh a in powers of a below 1."""
    small = jnp.minimum(a, 1)
    series = jnp.polyval(jnp.asarray([*_SERIES, 0.0], a.dtype), small**2) * small
    return jnp.where(a < 1, series / jnp.cosh(small), a - jnp.tanh(a))
