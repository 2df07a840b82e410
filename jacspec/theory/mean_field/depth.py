"""Gradients through depth away from the fixed point: normalized layers, residual networks, partial Jacobians.

Factors are those of squared norms, per layer; their logs add up to the log of a squared gradient norm in nats.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import checks
from jacspec.activations import Activation
from jacspec.theory._quadrature import nodes
from jacspec.theory.mean_field._common import compiled, resolve, scalar
from jacspec.theory.mean_field.moments import expansion, moments
from jacspec.theory.mean_field.variance import second_moment, squared_slope

FAR = 1e8
"""The variance at which the integral of phi'^2 over the line is taken: it ends at +-1e5."""


class Growth(NamedTuple):
    """Variance and gradients, layer by layer.

    Attributes:
        variance: (depth + 1,), of the state, or of the pre-activations for `partial_jacobians`; entry 0 is the input.
        log_chi: (depth + 1,), nats, log of the mean squared partial Jacobian (1/n) E ||dx_l/dx_0||_F^2; entry 0 is 0.
    """

    variance: Array
    log_chi: Array


def normalized_chi(activation: Any, *, weight_variance: Any = 1.0, bias_variance: Any = 0.0, scale: Any = 1.0) -> Array:
    """The rate at which gradients explode with LayerNorm or RMSNorm before the activation.

        chi = sigma_w^2 g^2 E phi'(g z)^2 / (sigma_w^2 E phi(g z)^2 + sigma_b^2),    z ~ N(0, 1)

    The network is W phi(g norm(a)) + b; the two norms agree at large width, where the mean over units is 0. At
    sigma_b = 0 the weights cancel.

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        weight_variance: sigma_w^2 > 0.
        bias_variance: sigma_b^2 >= 0 of the layer before the norm.
        scale: g > 0 of the norm, whose shift is 0.

    Returns:
        chi per layer, scalar, of the squared norm.

    Raises:
        ValueError: for arguments outside these ranges (NaN under jit) or that are no scalars.

    Example:
        >>> from jacspec.theory import mean_field
        >>> round(float(mean_field.normalized_chi("tanh")), 5), round(float(mean_field.normalized_chi("relu")), 12)
        (1.17781, 1.0)
    """
    f, name = resolve("normalized_chi", activation), "normalized_chi"
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    sb2 = scalar(name, "bias_variance", bias_variance)
    q = scalar(name, "scale", scale, positive=True) ** 2
    return sw2 * q * squared_slope(f, q)[0] / (sw2 * second_moment(f, q)[0] + sb2)


def partial_jacobians(
    activation: Any, depth: int, *, weight_variance: Any, bias_variance: Any = 0.0, q: Any = 1.0
) -> Growth:
    """Averaged partial Jacobian norms of a plain network, also where it has not reached q*.

        q_{l+1} = sigma_w^2 E phi(a)^2 + sigma_b^2,    J_{l+1} = sigma_w^2 E phi'(a)^2 J_l,    a ~ N(0, q_l)

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        depth: number of layers, >= 1.
        weight_variance: sigma_w^2 > 0.
        bias_variance: sigma_b^2 >= 0.
        q: variance of the first pre-activations, > 0.

    Returns:
        A `Growth`.

    Raises:
        TypeError: for a depth that is no integer.
        ValueError: for arguments outside these ranges (NaN under jit) or that are no scalars.

    Reference: D. Doshi et al., arXiv 2111.12143.

    Example:
        >>> from jacspec.theory import mean_field
        >>> found = mean_field.partial_jacobians("relu", 10, weight_variance=2.0)
        >>> abs(round(float(found.log_chi[-1]), 12))
        0.0
    """
    f, name = resolve("partial_jacobians", activation), "partial_jacobians"
    depth = checks.integer(f"theory.mean_field.{name}", "depth", depth, 1)
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    sb2 = scalar(name, "bias_variance", bias_variance)

    return _plain(f, depth, sw2, sb2, scalar(name, "q", q, positive=True))


def _plain_growth(f: Activation, depth: int, sw2: Array, sb2: Array, q0: Array) -> Growth:
    """`partial_jacobians` of checked arguments."""

    def layer(q):
        return sw2 * second_moment(f, q)[0] + sb2, jnp.log(sw2 * squared_slope(f, q)[0])

    return _grow(layer, q0, depth)


_plain = compiled(_plain_growth, 2)


def partial_jacobian_exponent(activation: Any) -> Array:
    """The power of depth with which gradients decay at the critical point q* = 0 (sigma_b = 0, sigma_w phi'(0) = 1).

        J_l ~ l^zeta,    zeta = (phi2^2 + phi1 phi3) / abs(3/4 phi2^2 + phi1 phi3)

    phi1, phi2, phi3 are the derivatives at 0. From E phi^2 = phi1^2 q + (3/4 phi2^2 + phi1 phi3) q^2 and
    E phi'^2 = phi1^2 + (phi2^2 + phi1 phi3) q: q_l ~ 1/(c l), c = -(3/4 phi2^2 + phi1 phi3)/phi1^2, and ln J adds up zeta / l.
    tanh, erf and every odd phi with phi3 < 0: -1. ReLU and all that is linear on either side of 0: 0.

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.

    Returns:
        zeta; NaN where phi(0) is not 0 or the variance does not decay to 0 there.

    Raises:
        ValueError: for an unknown name.

    Reference: D. Doshi et al., arXiv 2111.12143 (the exponents -1 and 0).

    Example:
        >>> from jacspec.theory import mean_field
        >>> float(mean_field.partial_jacobian_exponent("tanh")), float(mean_field.partial_jacobian_exponent("relu"))
        (-1.0, 0.0)
    """
    f = resolve("partial_jacobian_exponent", activation)
    zero = jnp.zeros((), jnp.result_type(float))
    x = jnp.asarray(np.geomspace(1e-3, 1e3, 13), zero.dtype)
    if 0.0 in f.kinks or f.name == "linear":
        homogeneous = jnp.all(jnp.abs(f(jnp.stack([2 * x, -2 * x])) - 2 * f(jnp.stack([x, -x]))) <= 1e-6 * x)
        return jnp.where(homogeneous, 0.0, jnp.nan)
    first = f.slope(zero)
    second, third = jax.grad(f.slope)(zero), jax.grad(jax.grad(f.slope))(zero)
    fall = 0.75 * second**2 + first * third
    return jnp.where((f(zero) == 0) & (fall < 0), (second**2 + first * third) / jnp.abs(fall), jnp.nan)


def residual_growth(
    activation: Any, depth: int, *, weight_variance: Any, bias_variance: Any = 0.0, branch_scale: Any = 1.0,
    variance: Any = 1.0, form: str = "activation_last",
) -> Growth:  # fmt: skip
    """Variance and gradients of a residual network, layer by layer.

    With p = E x^2, branch scale s, a ~ N(0, q):

        "activation_last"  x' = x + s phi(W x + b)        q = sigma_w^2 p + sigma_b^2
                           p' = p + 2 s m E phi + s^2 E phi^2,  m' = m + s E phi,  chi = 1 + s^2 sigma_w^2 E phi'^2
        "weights_last"     x' = x + s (W phi(x) + b)      q = p
        "normalized"       x' = x + s (W phi(norm(x)) + b),  q = 1
                           p' = p + s^2 (sigma_w^2 E phi^2 + sigma_b^2),  chi = 1 + s^2 sigma_w^2 E phi'^2 q / p

    ReLU at sigma_w^2 = 2 gives p_l = 2^l with "weights_last" and l + 1 with "normalized"; s = 0 (SkipInit) gives the
    identity. The first form leaves out 2 s E phi' E W_ii, which is O(1/n).

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        depth: number of layers, >= 1.
        weight_variance: sigma_w^2 > 0.
        bias_variance: sigma_b^2 >= 0.
        branch_scale: s >= 0.
        variance: p_0 > 0.
        form: one of the three.

    Returns:
        A `Growth`.

    Raises:
        TypeError: for a depth that is no integer.
        ValueError: for arguments outside these ranges (NaN under jit), that are no scalars, or an unknown form.

    Reference: G. Yang, S. Schoenholz, arXiv 1712.08969; S. De, S. Smith, arXiv 2002.10444.

    Example:
        >>> from jacspec.theory import mean_field
        >>> for form in ("weights_last", "normalized"):
        ...     print(mean_field.residual_growth("relu", 4, weight_variance=2.0, form=form).variance.round(9).tolist())
        [1.0, 2.0, 4.0, 8.0, 16.0]
        [1.0, 2.0, 3.0, 4.0, 5.0]
    """
    f, name = resolve("residual_growth", activation), "residual_growth"
    full = f"theory.mean_field.{name}"
    depth = checks.integer(full, "depth", depth, 1)
    checks.one_of(full, "form", form, ("activation_last", "weights_last", "normalized"))
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    sb2 = scalar(name, "bias_variance", bias_variance)
    s = scalar(name, "branch_scale", branch_scale)
    return _residual(f, depth, form, sw2, sb2, s, scalar(name, "variance", variance, positive=True))


def _residual_growth(
    f: Activation, depth: int, form: str, sw2: Array, sb2: Array, s: Array, p0: Array
) -> Growth:  # fmt: skip
    """`residual_growth` of checked arguments."""

    def activation_last(state):
        p, m = state
        q = sw2 * p + sb2
        near = expansion(f, q.dtype)
        mean = near.value + moments(f, near, q).mean
        following = p + 2 * s * m * mean + s * s * second_moment(f, q)[0], m + s * mean
        return following, jnp.log1p(s * s * sw2 * squared_slope(f, q)[0])

    def weights_last(state):
        p, m = state
        q = jnp.ones_like(p) if form == "normalized" else p
        following = p + s * s * (sw2 * second_moment(f, q)[0] + sb2), m
        return following, jnp.log1p(s * s * sw2 * squared_slope(f, q)[0] * q / p)

    layer = activation_last if form == "activation_last" else weights_last
    found = _grow(layer, (p0, jnp.zeros_like(p0)), depth)
    return Growth(found.variance[0], found.log_chi)


_residual = compiled(_residual_growth, 3)


def residual_sqrt_rate(activation: Any, *, weight_variance: Any, branch_scale: Any = 1.0) -> Array:
    """The a of log chi ~ a sqrt(l) in a residual network x' = x + s phi(W x + b) of a bounded odd phi.

        p_l ~ s^2 phi_inf^2 l,    a = 2 s sigma_w I / (phi_inf sqrt(2 pi)),    I = integral of phi'^2 over the line

    from E phi'^2 ~ I / sqrt(2 pi q), q = sigma_w^2 p. For tanh I = 4/3 and a = (8/3) sigma_w s / sqrt(2 pi).

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function; bounded and odd.
        weight_variance: sigma_w^2 > 0.
        branch_scale: s > 0.

    Returns:
        a, nats per sqrt(layer), of the log squared norm; NaN for a phi that is not bounded or not odd.

    Raises:
        ValueError: for arguments outside these ranges (NaN under jit) or that are no scalars.

    Reference: G. Yang, S. Schoenholz, arXiv 1712.08969.

    Example:
        >>> from jacspec.theory import mean_field
        >>> round(float(mean_field.residual_sqrt_rate("tanh", weight_variance=1.0)), 6)
        1.063846
    """
    f, name = resolve("residual_sqrt_rate", activation), "residual_sqrt_rate"
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    s = scalar(name, "branch_scale", branch_scale, positive=True)
    a, weights, _ = nodes(jnp.asarray(FAR, sw2.dtype), f.kinks)
    integral = jnp.sum(weights * f.slope(a) ** 2)
    far = math.sqrt(FAR)
    ends = f(jnp.asarray([far, 10 * far, -far], sw2.dtype))
    bounded = (jnp.abs(ends[1] - ends[0]) <= 1e-6 * jnp.abs(ends[0])) & (jnp.abs(ends[0] + ends[2]) <= 1e-6)
    return jnp.where(bounded, 2 * s * jnp.sqrt(sw2) * integral / (ends[0] * math.sqrt(2 * math.pi)), jnp.nan)


def _grow(layer: Any, state: Any, depth: int) -> Growth:
    """`depth` steps of state -> (state, log chi), states and running sum of the logs, the start included."""

    def step(carry, _):
        state, log = carry
        following, more = layer(state)
        return (following, log + more), (following, log + more)

    dtype = jnp.result_type(*jax.tree.leaves(jax.eval_shape(layer, state)))
    state = jax.tree.map(lambda v: v.astype(dtype), state)
    start = (state, jnp.zeros((), dtype))
    _, rows = lax.scan(step, start, length=depth)
    return Growth(*jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, rows))
