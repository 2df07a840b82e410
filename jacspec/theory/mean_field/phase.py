"""The order-to-chaos plane: q*, chi_1, c* and depth scales.

The correlation of two inputs follows c -> M(c) = (sigma_w^2 E phi(u1) phi(u2) + sigma_b^2) / q*, with M(1) = 1. Divided by
1 - c the fixed-point equation is

    Q(c) = (1 - M(c)) / (1 - c) = 1,    Q increasing, Q(1) = chi_1

so there is a c* < 1 exactly where chi_1 > 1, and it is a simple root, also as it approaches 1.

Reference: B. Poole et al., arXiv 1606.05340; S. Schoenholz et al., arXiv 1611.01232.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.activations import Activation
from jacspec.theory import _domain, _roots
from jacspec.theory.mean_field import correlation
from jacspec.theory.mean_field._common import LARGEST, compiled, resolve, scalar
from jacspec.theory.mean_field.variance import fixed_point, second_moment, squared_slope

CORRELATION = 1e-8
"""The error of a correlation beyond which it is NaN."""


class Phase(NamedTuple):
    """Where a network of given variances stands; every number is that of an infinitely wide one.

    Attributes:
        q_star: variance of the pre-activations of deep layers.
        chi_1: factor per layer of the squared norm of a gradient; < 1: ordered, > 1: chaotic.
        xi_q: depth over which q settles, in layers, -1/ln abs(dq'/dq).
        c_star: correlation of two different inputs in deep layers; 1 in the ordered phase.
        chi_c: slope of the correlation map there.
        xi_c: depth over which correlations settle and signals can be told apart, in layers, -1/ln chi_c.
        error: the sum of the errors of q_star, chi_1 and chi_c, relative, and of c_star. Those of xi follow:
            d xi = xi^2 d chi / chi, without a bound at criticality.
        converged: whether `error` is below sqrt(eps); False where there is no fixed point, or the method does not suffice
            ("series" at large q).
    """

    q_star: Array
    chi_1: Array
    xi_q: Array
    c_star: Array
    chi_c: Array
    xi_c: Array
    error: Array
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
        method: "series" (smooth), "quadrature" (any), "closed" (linear, ReLU, leaky ReLU), or "auto": the first that suffices.

    Returns:
        c', scalar, to 1e-8 (float32: 2e-5); NaN where the method does not get there (the series of 128 terms at large q).

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
    return _map(f, correlation.checked_method(name, f, method), method == "auto", c, q, sw2, sb2)


def _correlated(f: Activation, how: str, free: bool, c: Array, q: Array, sw2: Array, sb2: Array) -> Array:
    """`correlation_map` of checked arguments; where it is `free` to, by quadrature if the series does not suffice."""
    below = sw2 * second_moment(f, q)[0] + sb2
    tolerance = max(CORRELATION, float(jnp.finfo(q.dtype).eps) ** (2 / 3))

    def image(how):
        found = correlation.overlap(f, how, q, c)
        return 1 - sw2 * found.gap / below, lax.stop_gradient(sw2 * found.gap_error / below)

    value, error = image(how)
    if free and how == "series":
        value, error = lax.cond(error <= tolerance, lambda: (value, error), lambda: image("quadrature"))
    return jnp.where(error <= tolerance, value, jnp.nan)


_map = compiled(_correlated, 3)


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
    there = jnp.isfinite(q_star)
    at = jnp.where(jnp.isinf(q_star), LARGEST, q_star)
    (steep, steep_error), (rate, _) = jax.jvp(lambda q: squared_slope(f, q), (at,), (jnp.ones_like(at),))
    q_error = jnp.where(there, q_error, jnp.inf)
    steep_error = steep_error + jnp.abs(rate) * q_error
    c_star, chi_c, c_error = _decorrelation(f, sw2, sb2, q_star, q_error, (steep, steep_error), how)
    slope = jnp.where(jnp.isnan(q_star), jnp.nan, slope)
    chi_1 = sw2 * steep
    xi_q, xi_c = depth_scale(jnp.abs(slope)), depth_scale(chi_c)
    error = q_error / jnp.where(q_star > 0, q_star, 1) + steep_error / steep + c_error
    error = lax.stop_gradient(error)
    done = q_done & (error <= float(jnp.finfo(q_star.dtype).eps) ** 0.5)
    return Phase(q_star, chi_1, xi_q, c_star, chi_c, xi_c, error, done)


_phase = compiled(_point, 2)


def depth_scale(factor: Array) -> Array:
    """-1/ln(factor) in layers; inf where the factor is 1 to rounding, NaN above."""
    log, rounding = jnp.log(factor), 16 * float(jnp.finfo(factor.dtype).eps)
    decays = log < -rounding
    return jnp.where(decays, -1 / jnp.where(decays, log, -1), jnp.where(log <= rounding, jnp.inf, jnp.nan))


def _decorrelation(
    f: Activation, sw2: Array, sb2: Array, q: Array, q_error: Array, steep: tuple[Array, Array], how: str
) -> tuple[Array, ...]:
    """c*, chi at c*, and the sum of the errors of c* and, relative, of chi; `steep` is E phi'^2 and its error."""
    eps = float(jnp.finfo(q.dtype).eps)
    chi_1 = sw2 * steep[0]
    chaotic = (chi_1 - 1 > sw2 * steep[1]) & (q > 0) & jnp.isfinite(q)
    safe = jnp.where(chaotic, q, 1)

    def overlap(c, q):
        """Q and chi at c < 1, and their errors."""
        if how == "series":
            second = (q - sb2) / sw2, eps * q / sw2  # q* is a fixed point
            table = correlation.series(f, q, second, steep)
            found, ratio = table.at(c), table.quotient(c)
        else:
            found = correlation.overlap(f, how, q, c)
            ratio = found.gap / (1 - c)
        off = found.gap_error / (1 - c) + 4 * eps * ratio
        return (sw2 / q * ratio, sw2 * found.slope), lax.stop_gradient((sw2 / q * off, sw2 * found.slope_error))

    def excess(apart):
        (ratio, _), (bound, _) = overlap(1 - apart, lax.stop_gradient(safe))
        return jnp.where(chaotic, ratio - 1, 0), bound

    def solve():
        apart, _ = _roots.newton(excess, jnp.log(jnp.full_like(q, eps)), jnp.zeros_like(q))
        value, bound = excess(jnp.ones_like(q))
        return 1 - jnp.where(value >= -bound, 1, apart), jnp.zeros_like(q)

    inside = lambda c: jnp.where(chaotic, jnp.minimum(c, 1 - eps), 0.5)
    c, _ = _roots.implicit(lambda c: jnp.where(chaotic, overlap(inside(c), safe)[0][0] - 1, c - 1), solve)
    inner, one, none = inside(c), jnp.ones_like(q), jnp.zeros_like(q)
    ((_, chi), (off, chi_off)), ((curve, by_c), _) = jax.jvp(overlap, (inner, safe), (one, none))
    (shift, by_q), _ = jax.jvp(overlap, (inner, safe), (none, one))[1]
    c_error = (off + jnp.abs(shift) * q_error) / jnp.where(curve > 0, curve, 1)
    error = c_error + (chi_off + jnp.abs(by_c) * c_error + jnp.abs(by_q) * q_error) / chi
    there = jnp.isfinite(q)
    c_star = jnp.where(there, jnp.where(chaotic, c, 1), jnp.nan)
    chi_c = jnp.where(there, jnp.where(chaotic, chi, chi_1), jnp.nan)
    return c_star, chi_c, jnp.where(chaotic, error, 0)
