"""The order-to-chaos plane: q*, chi_1, c*, depth scales, and the line chi_1 = 1.

The correlation of two inputs follows c -> M(c) = (sigma_w^2 E phi(u1) phi(u2) + sigma_b^2) / q*, with M(1) = 1. Divided by
1 - c the fixed-point equation is

    Q(c) = (1 - M(c)) / (1 - c) = 1,    Q increasing, Q(1) = chi_1

so there is a c* < 1 exactly where chi_1 > 1, and it is a simple root, also as it approaches 1.

Reference: B. Poole et al., arXiv 1606.05340; S. Schoenholz et al., arXiv 1611.01232.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.activations import Activation
from jacspec.theory import _domain
from jacspec.theory.mean_field import correlation
from jacspec.theory.mean_field._common import compiled, floor, implicit, resolve, root, scalar
from jacspec.theory.mean_field.variance import LARGEST, fixed_point, map_slope, second_moment, squared_slope

SCAN = 48
"""Variances at which the critical line is looked for, a factor of three apart."""


class Phase(NamedTuple):
    """Where a network of given variances stands; every number is that of an infinitely wide one.

    Attributes:
        q_star: variance of the pre-activations of deep layers.
        chi_1: factor per layer of the squared norm of a gradient; < 1: ordered, > 1: chaotic.
        xi_q: depth over which q settles, in layers, -1/ln abs(dq'/dq).
        c_star: correlation of two different inputs in deep layers; 1 in the ordered phase.
        chi_c: slope of the correlation map there.
        xi_c: depth over which correlations settle and signals can be told apart, in layers, -1/ln chi_c.
        error: error of q_star, relative, plus that of c_star.
        converged: False where a root find did not end, or there is no fixed point.
    """

    q_star: Array
    chi_1: Array
    xi_q: Array
    c_star: Array
    chi_c: Array
    xi_c: Array
    error: Array
    converged: Array


class CriticalPoint(NamedTuple):
    """A point of the line chi_1 = 1.

    Attributes:
        weight_variance: sigma_w^2; NaN where there is none.
        bias_variance: sigma_b^2; NaN where there is none.
        q_star: the variance of the pre-activations there.
        converged: False where there is no such point, or its q* does not attract.
    """

    weight_variance: Array
    bias_variance: Array
    q_star: Array
    converged: Array


def correlation_map(
    activation: Any, c: Any, q: Any, *, weight_variance: Any, bias_variance: Any = 0.0, method: str = "auto"
) -> Array:
    """The correlation of the next layer's pre-activations, both of variance `q`.

        c' = (sigma_w^2 E phi(u1) phi(u2) + sigma_b^2) / (sigma_w^2 E phi(u)^2 + sigma_b^2)

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        c: correlation of u1 and u2, -1..1.
        q: their variance, > 0.
        weight_variance: sigma_w^2 > 0.
        bias_variance: sigma_b^2 >= 0.
        method: "series" (smooth), "quadrature" (any), "closed" (linear, ReLU, leaky ReLU), or "auto".

    Returns:
        c', scalar.

    Raises:
        ValueError: for arguments outside these ranges (NaN under jit), that are no scalars, or an unknown method.

    Reference: Poole et al. 2016, arXiv 1606.05340; Y. Cho, L. Saul, NIPS 2009 (ReLU).

    Example:
        >>> from jacspec.theory import mean_field
        >>> round(float(mean_field.correlation_map("relu", 0.0, 1.0, weight_variance=2.0)), 6)  # 1/pi
        0.31831
    """
    f, name = resolve("correlation_map", activation), "correlation_map"
    full = f"theory.mean_field.{name}"
    c = _domain.within(full, "c", c, lambda v: jnp.abs(v) <= 1, "-1 <= c <= 1")
    q = scalar(name, "q", q, positive=True)
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    sb2 = scalar(name, "bias_variance", bias_variance)
    c, q, sw2, sb2 = (v.astype(jnp.result_type(c, q, sw2, sb2)) for v in (c, q, sw2, sb2))
    found = correlation.overlap(f, correlation.checked_method(name, f, method), q, c)
    return 1 - sw2 * found.gap / (sw2 * second_moment(f, q)[0] + sb2)


def phase(
    activation: Any, *, weight_variance: Any, bias_variance: Any = 0.0, q: Any = 1.0, method: str = "auto"
) -> Phase:
    """Everything about one point of the order-to-chaos plane; map it with `jax.vmap` for a phase diagram.

        chi_1 = sigma_w^2 E phi'(u)^2,    1/xi_c = -ln sigma_w^2 E phi'(u1) phi'(u2) at c*

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        weight_variance: sigma_w^2 > 0.
        bias_variance: sigma_b^2 >= 0.
        q: variance of the first pre-activations, > 0; it matters where there are several fixed points.
        method: how correlations are computed, as in `correlation_map`; "series" is fastest, "quadrature" takes kinks.

    Returns:
        A `Phase`; differentiable in the variances.

    Raises:
        ValueError: for arguments outside these ranges (NaN under jit), that are no scalars, or an unknown method.

    Reference: Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017, arXiv 1611.01232.

    Example:
        >>> from jacspec.theory import mean_field
        >>> point = mean_field.phase("tanh", weight_variance=3.0, bias_variance=0.05)
        >>> [round(float(v), 5) for v in (point.q_star, point.chi_1, point.c_star, point.xi_c)]
        [1.42801, 1.20893, 0.29932, 9.05146]
    """
    f, name = resolve("phase", activation), "phase"
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    sb2 = scalar(name, "bias_variance", bias_variance)
    q0 = scalar(name, "q", q, positive=True)
    return _phase(f, correlation.checked_method(name, f, method), sw2, sb2, q0)


def _point(f: Activation, how: str, sw2: Array, sb2: Array, q0: Array) -> Phase:
    """`phase` of checked arguments."""
    (q_star, q_error, q_done), slope = fixed_point(f, sw2, sb2, q0)
    chi_1 = sw2 * squared_slope(f, jnp.where(jnp.isinf(q_star), LARGEST, q_star))[0]
    c_star, chi_c, c_error, c_done = _decorrelation(f, sw2, sb2, q_star, chi_1, how)
    slope = jnp.where(jnp.isnan(q_star), jnp.nan, slope)
    xi_q, xi_c = depth_scale(jnp.abs(slope)), depth_scale(chi_c)
    relative = jnp.where(q_star > 0, q_error / jnp.where(q_star > 0, q_star, 1), 0)
    return Phase(q_star, chi_1, xi_q, c_star, chi_c, xi_c, lax.stop_gradient(relative + c_error), q_done & c_done)


_phase = compiled(_point, 2)


def depth_scale(factor: Array) -> Array:
    """-1/ln(factor) in layers; inf where the factor is 1 to rounding, NaN above."""
    log, rounding = jnp.log(factor), 16 * float(jnp.finfo(factor.dtype).eps)
    decays = log < -rounding
    return jnp.where(decays, -1 / jnp.where(decays, log, -1), jnp.where(log <= rounding, jnp.inf, jnp.nan))


def _decorrelation(f: Activation, sw2: Array, sb2: Array, q: Array, chi_1: Array, how: str) -> tuple[Array, ...]:
    """c*, chi at c*, the error of c*, and whether it converged."""
    eps = float(jnp.finfo(q.dtype).eps)
    chaotic = (chi_1 > 1 + 8 * eps) & (q > floor(q.dtype)) & jnp.isfinite(q)
    safe = jnp.where(chaotic, q, 1)
    ratio = sw2 / safe
    second = (safe - sb2) / sw2, eps * safe / sw2  # q* is a fixed point
    table = correlation.series(f, safe, second, chi_1 / sw2) if how == "series" else None

    def quotient(c):
        inside = jnp.where(chaotic, jnp.minimum(c, 1 - eps), 0.5)
        if table is not None:
            return ratio * table.quotient(inside)
        return ratio * correlation.overlap(f, how, safe, inside).gap / (1 - inside)

    def solve():
        def excess(c):
            value, slope = jax.jvp(lambda c: 1 - quotient(c), (c,), (jnp.ones_like(c),))
            return jnp.where(chaotic, value, 0), slope

        none, whole = jnp.zeros_like(q), jnp.ones_like(q)
        return root(excess, none, whole, jnp.where(excess(none)[0] <= 8 * eps, none, whole), 8 * eps)

    c, done = implicit(lambda c: jnp.where(chaotic, quotient(c) - 1, c - 1), solve, q.dtype)
    inner = jnp.where(chaotic, c, 0.5)
    found = table.at(inner) if table is not None else correlation.overlap(f, how, safe, inner)
    curve = jax.jvp(quotient, (inner,), (jnp.ones_like(inner),))[1]
    error = ratio * found.error / ((1 - inner) * jnp.where(curve > 0, curve, 1))
    there = jnp.isfinite(q)
    c_star = jnp.where(there, jnp.where(chaotic, c, 1), jnp.nan)
    chi_c = jnp.where(there, jnp.where(chaotic, sw2 * found.slope, chi_1), jnp.nan)
    return c_star, chi_c, jnp.where(chaotic, error, 0), done & there


def critical_weight_variance(activation: Any, *, bias_variance: Any = 0.0) -> CriticalPoint:
    """The sigma_w^2 on the order-to-chaos line at a given sigma_b^2.

        sigma_w^2 = 1 / E phi'(a)^2,    q* - E phi(a)^2 / E phi'(a)^2 = sigma_b^2,    a ~ N(0, q*)

    Of several points it is the one of the smallest q*; at sigma_b = 0 that is q* = 0+ for every phi with phi(0) = 0.

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        bias_variance: sigma_b^2 >= 0.

    Returns:
        A `CriticalPoint`; differentiable in sigma_b^2 > 0.

    Raises:
        ValueError: for a bias variance outside this range (NaN under jit) or that is no scalar.

    Reference: Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017, arXiv 1611.01232.

    Example:
        >>> from jacspec.theory import mean_field
        >>> point = mean_field.critical_weight_variance("tanh", bias_variance=0.05)
        >>> round(float(point.weight_variance), 7), round(float(point.q_star), 7)
        (1.7609546, 0.5700479)
    """
    f, name = resolve("critical_weight_variance", activation), "critical_weight_variance"
    return _weights_at(f, scalar(name, "bias_variance", bias_variance))


@compiled
def _weights_at(f: Activation, sb2: Array) -> CriticalPoint:
    """`critical_weight_variance` of checked arguments."""

    def ratio(q):
        return second_moment(f, q)[0] / squared_slope(f, q)[0]

    tiny = jnp.asarray(floor(sb2.dtype), sb2.dtype)
    at_zero = (sb2 == 0) & (jnp.abs(ratio(tiny * 0) / tiny - 1) < 1e-6)
    q, found = _crossing(
        lambda x: jnp.log((ratio(jnp.exp(x)) + sb2) / jnp.exp(x)), lambda q: q - ratio(q) - sb2, at_zero, sb2.dtype
    )
    return _critical(f, 1 / squared_slope(f, q)[0], sb2, q, found)


def critical_bias_variance(activation: Any, *, weight_variance: Any) -> CriticalPoint:
    """The sigma_b^2 on the order-to-chaos line at a given sigma_w^2.

        sigma_w^2 E phi'(a)^2 = 1,    sigma_b^2 = q* - sigma_w^2 E phi(a)^2,    a ~ N(0, q*)

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        weight_variance: sigma_w^2 > 0.

    Returns:
        A `CriticalPoint`; differentiable in sigma_w^2 where q* > 0.

    Raises:
        ValueError: for a weight variance outside this range (NaN under jit) or that is no scalar.

    Reference: Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017, arXiv 1611.01232.

    Example:
        >>> from jacspec.theory import mean_field
        >>> round(float(mean_field.critical_bias_variance("tanh", weight_variance=1.177569).bias_variance), 7)
        0.0008323
    """
    f, name = resolve("critical_bias_variance", activation), "critical_bias_variance"
    return _biases_at(f, scalar(name, "weight_variance", weight_variance, positive=True))


@compiled
def _biases_at(f: Activation, sw2: Array) -> CriticalPoint:
    """`critical_bias_variance` of checked arguments."""
    chi = lambda q: sw2 * squared_slope(f, q)[0]
    rounding = 16 * float(jnp.finfo(sw2.dtype).eps)
    at_zero = jnp.abs(chi(jnp.zeros_like(sw2)) - 1) <= rounding
    q, found = _crossing(lambda x: jnp.log(chi(jnp.exp(x))), lambda q: chi(q) - 1, at_zero, sw2.dtype)
    sb2, least = q - sw2 * second_moment(f, q)[0], rounding * q + 4 * sw2 * floor(sw2.dtype)
    return _critical(f, sw2, jnp.where(jnp.abs(sb2) <= least, 0, sb2), q, found & (sb2 >= -least))


def _crossing(log_ratio: Any, excess: Any, at_zero: Array, dtype: Any) -> tuple[Array, Array]:
    """The smallest q at which `log_ratio` of log q turns from positive to negative; 0 where `at_zero`."""
    eps = float(jnp.finfo(dtype).eps)

    def solve():
        grid = jnp.linspace(0.75 * math.log(eps), 0.75 * math.log(eps) + SCAN * math.log(3), SCAN + 1, dtype=dtype)
        values = jax.vmap(log_ratio)(grid)
        below = values < -16 * eps
        first = jnp.argmax(below)
        found = below.any() & (first > 0) & ~at_zero
        low, high = grid[jnp.maximum(first - 1, 0)], grid[jnp.maximum(first, 1)]

        def guarded(x):
            value, slope = jax.jvp(log_ratio, (x,), (jnp.ones_like(x),))
            return jnp.where(found, value, 0), slope

        x, done = root(guarded, low, high, 0.5 * (low + high), 4 * eps)
        q = jnp.where(at_zero, 0, jnp.where(found, jnp.exp(x), jnp.nan))
        return q, done & (found | at_zero)

    return implicit(excess, solve, dtype)


def _critical(f: Activation, sw2: Array, sb2: Array, q: Array, found: Array) -> CriticalPoint:
    """The point, NaN where there is none; one whose q* repels (dq'/dq > 1) is not converged."""
    attracts = sw2 * map_slope(f, q)[0] <= 1 + 1e-6
    sw2, sb2, q = (jnp.where(found, v, jnp.nan) for v in (sw2, sb2, q))
    return CriticalPoint(sw2, sb2, q, found & attracts)
