"""The variance of pre-activations through depth, q -> sigma_w^2 E phi(a)^2 + sigma_b^2, and its fixed point.

a ~ N(0, q) throughout. The iteration converges only algebraically at criticality (tanh at sigma_w = 1, sigma_b = 0:
q_l ~ 1/(2l)), so the fixed point is the root of log map(q) - log q in log q, by Newton's method in a bracket.

Reference: B. Poole et al., arXiv 1606.05340; S. Schoenholz et al., arXiv 1611.01232.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.theory._quadrature import PANELS
from jacspec.theory.mean_field._common import compiled, implicit, moment, resolve, root, scalar

ROUGH = 4
"""Panels of the first guess."""

LARGEST = 1e12
"""A variance beyond which the iteration is taken to diverge."""


class FixedPoint(NamedTuple):
    """A fixed point of a map.

    Attributes:
        value: NaN outside the domain, inf where the iteration diverges.
        error: of quadrature and rounding, absolute, carried to the fixed point.
        converged: False where the root find did not end, or there is no fixed point.
    """

    value: Array
    error: Array
    converged: Array


def variance_map(activation: Any, q: Any, *, weight_variance: Any, bias_variance: Any = 0.0) -> Array:
    """The variance of the next layer's pre-activations.

        q' = sigma_w^2 E phi(a)^2 + sigma_b^2,    a ~ N(0, q)

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        q: variance of the pre-activations, scalar >= 0.
        weight_variance: sigma_w^2 > 0, for W_ij ~ N(0, sigma_w^2 / n_in).
        bias_variance: sigma_b^2 >= 0.

    Returns:
        q', scalar.

    Raises:
        ValueError: for arguments outside these ranges (NaN under jit) or that are no scalars.

    Reference: Poole et al. 2016, arXiv 1606.05340.

    Example:
        >>> from jacspec.theory import mean_field
        >>> round(float(mean_field.variance_map("relu", 3.0, weight_variance=2.0)), 12)
        3.0
    """
    f, name = resolve("variance_map", activation), "variance_map"
    q = scalar(name, "q", q)
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    sb2 = scalar(name, "bias_variance", bias_variance)
    return sw2 * second_moment(f, q)[0] + sb2


def chi(activation: Any, q: Any, *, weight_variance: Any) -> Array:
    """The factor by which a layer multiplies the squared norm of a gradient, chi_1 at q = q*.

        chi = sigma_w^2 E phi'(a)^2,    a ~ N(0, q)

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        q: variance of the pre-activations, scalar >= 0.
        weight_variance: sigma_w^2 > 0.

    Returns:
        chi per layer, scalar, of the squared norm.

    Raises:
        ValueError: for arguments outside these ranges (NaN under jit) or that are no scalars.

    Reference: Poole et al. 2016, arXiv 1606.05340.

    Example:
        >>> from jacspec.theory import mean_field
        >>> round(float(mean_field.chi("selu", 1.0, weight_variance=1.0)), 7)
        1.071575
    """
    f, name = resolve("chi", activation), "chi"
    q = scalar(name, "q", q)
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    return sw2 * squared_slope(f, q)[0]


def variance_fixed_point(
    activation: Any, *, weight_variance: Any, bias_variance: Any = 0.0, q: Any = 1.0
) -> FixedPoint:
    """The variance q* at which the pre-activations of a deep network settle.

        q* = sigma_w^2 E phi(a)^2 + sigma_b^2,    a ~ N(0, q*)

    Of several fixed points it is one on the side of `q` to which the map moves `q`. q* = 0 is found where it attracts
    (tanh at sigma_b = 0, sigma_w <= 1); a network that preserves every variance (ReLU at sigma_w^2 = 2, sigma_b = 0)
    keeps `q`.

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function.
        weight_variance: sigma_w^2 > 0.
        bias_variance: sigma_b^2 >= 0.
        q: variance of the first pre-activations, > 0.

    Returns:
        A `FixedPoint`; differentiable in the variances.

    Raises:
        ValueError: for arguments outside these ranges (NaN under jit) or that are no scalars.

    Reference: Poole et al. 2016, arXiv 1606.05340.

    Example:
        >>> from jacspec.theory import mean_field
        >>> found = mean_field.variance_fixed_point("tanh", weight_variance=1.7609546, bias_variance=0.05)
        >>> round(float(found.value), 6), bool(found.converged)
        (0.570048, True)
    """
    f, name = resolve("variance_fixed_point", activation), "variance_fixed_point"
    sw2 = scalar(name, "weight_variance", weight_variance, positive=True)
    sb2 = scalar(name, "bias_variance", bias_variance)
    return fixed_point(f, sw2, sb2, scalar(name, "q", q, positive=True))[0]


@compiled
def second_moment(f: Any, q: Array) -> tuple[Array, Array]:
    """E phi^2 and its error."""
    return moment(lambda a: f(a) ** 2, q, f.kinks)


@compiled
def squared_slope(f: Any, q: Array) -> tuple[Array, Array]:
    """E phi'^2 and its error."""
    return moment(lambda a: f.slope(a) ** 2, q, f.kinks)


def map_slope(f: Any, q: Array) -> tuple[Array, Array]:
    """d/dq E phi^2 = E [phi'^2 + phi phi''], and the error of E phi^2; the density is differentiated, phi is not."""
    (_, error), (slope, _) = jax.jvp(lambda q: second_moment(f, q), (q,), (jnp.ones_like(q),))
    return slope, error


@compiled
def fixed_point(f: Any, sw2: Array, sb2: Array, q0: Array) -> tuple[FixedPoint, Array]:
    """`variance_fixed_point` of checked arguments, and the slope of the map there.

    Below q = eps^(3/4) the map is linear to rounding, q' = gain q + sigma_b^2, and so is a fixed point that attracts.
    """
    sw2, sb2, q0 = (v.astype(jnp.result_type(sw2, sb2, q0)) for v in (sw2, sb2, q0))
    eps = float(jnp.finfo(q0.dtype).eps)

    def log_excess(x, panels):
        return jnp.log(sw2 * moment(lambda a: f(a) ** 2, jnp.exp(x), f.kinks, panels)[0] + sb2) - x

    def solve():
        least, most = (jnp.asarray(v, q0.dtype) for v in (0.75 * math.log(eps), math.log(LARGEST)))
        start = jnp.clip(jnp.log(q0), least, most)
        gain = sw2 * second_moment(f, jnp.exp(least))[0] / jnp.exp(least)
        falls = jnp.log(gain + sb2 / jnp.exp(least)) < -8 * eps

        def guarded(panels):
            def at(x):
                value, slope = jax.jvp(lambda x: log_excess(x, panels), (x,), (jnp.ones_like(x),))
                return jnp.where(falls & (x == start) & (value < 0), 0, value), slope

            return at

        guess, _ = root(guarded(ROUGH), least, most, start, 1e-6)  # cheap steps first, the full rule at their end
        x, done = root(guarded(PANELS), least, most, guess, 4 * eps)
        tiny, diverges = falls & (x == start), x > most - 1e-3
        q = jnp.where(tiny, sb2 / jnp.where(tiny, 1 - gain, 1), jnp.where(diverges, jnp.inf, jnp.exp(x)))
        return q, done & ~diverges

    excess = lambda q: sw2 * second_moment(f, q)[0] + sb2 - q
    q, done = implicit(excess, solve, q0.dtype)
    slope, error = map_slope(f, q)
    error = (sw2 * error + 4 * eps * q) / jnp.abs(1 - sw2 * slope)
    return FixedPoint(q, lax.stop_gradient(jnp.where(q == 0, 0, error)), done), sw2 * slope
