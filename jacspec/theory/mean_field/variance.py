"""The variance of pre-activations through depth, q -> sigma_w^2 E phi(a)^2 + sigma_b^2, and its fixed point.

a ~ N(0, q) throughout. The iteration converges only algebraically at criticality (tanh at sigma_w = 1, sigma_b = 0:
q_l ~ 1/(2l)), so the fixed point is the root of map(q) / q - 1 in log q, by Newton's method in a bracket, and its error is
proved by the signs on either side.

Reference: B. Poole et al., arXiv 1606.05340; S. Schoenholz et al., arXiv 1611.01232.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.activations import Activation
from jacspec.theory import _roots
from jacspec.theory.mean_field._common import compiled, enclosed, log_grid, resolve, scalar
from jacspec.theory.mean_field.moments import expansion, moments


class FixedPoint(NamedTuple):
    """A fixed point of a map.

    Attributes:
        value: NaN outside the domain, inf where the iteration diverges.
        error: absolute: within it of `value` the map moves q towards it from either side, by more than rounding and
            quadrature may err; inf where that cannot be seen.
        converged: whether `error` is below sqrt(eps) of the value (64 eps at 0); False where there is no fixed point.
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
def second_moment(f: Activation, q: Array) -> tuple[Array, Array]:
    """E phi^2 and its error."""
    found = moments(f, expansion(f, q.dtype), q)
    return found.square, found.square_error


@compiled
def squared_slope(f: Activation, q: Array) -> tuple[Array, Array]:
    """E phi'^2 and its error."""
    found = moments(f, expansion(f, q.dtype), q)
    return found.slope, found.slope_error


def map_slope(f: Activation, q: Array) -> Array:
    """d/dq E phi^2 = E [phi'^2 + phi phi'']; the density is differentiated, phi is not."""
    return jax.jvp(lambda q: second_moment(f, q)[0], (q,), (jnp.ones_like(q),))[1]


def growth(f: Activation, sw2: Array, sb2: Array) -> tuple[Callable, Callable, Array]:
    """q -> map(q) - q, q -> (map(q) / q - 1, bound of its error) for q > 0, and sigma_w^2 r - 1.

    Where phi is nearly linear it is (sigma_w^2 r - 1) + sigma_w^2 bend + ..., whose terms are known to their digits.
    """
    near = expansion(f, sw2.dtype)
    eps = float(jnp.finfo(sw2.dtype).eps)
    gain = sw2 * near.gain - 1
    rounding = jnp.where(near.exact, 0, 4 * eps * sw2 * near.gain) + 4 * eps * jnp.abs(gain)

    def excess(q):
        found = moments(f, near, q)
        near_zero = gain * q + sw2 * (near.value**2 + 2 * near.value * found.mean + q * found.bend) + sb2
        return jnp.where(jnp.abs(found.bend) < 0.5 * near.gain, near_zero, sw2 * found.square + sb2 - q)

    def relative_excess(q):
        found = moments(f, near, q)
        shift = (sb2 + sw2 * near.value * (near.value + 2 * found.mean)) / q
        doubt = rounding + sw2 * (found.bend_error + 2 * jnp.abs(near.value) * found.mean_error / q)
        doubt = doubt + 4 * eps * (sw2 * jnp.abs(found.bend) + jnp.abs(shift))
        value, ratio = gain + sw2 * found.bend + shift, (sw2 * found.square + sb2) / q
        other = sw2 * found.square_error / q + 4 * eps * (1 + ratio)
        return jnp.where(doubt < other, value, ratio - 1), lax.stop_gradient(jnp.minimum(doubt, other))

    return excess, relative_excess, gain


@compiled
def fixed_point(f: Activation, sw2: Array, sb2: Array, q0: Array) -> tuple[FixedPoint, Array]:
    """`variance_fixed_point` of checked arguments, and the slope of the map there.

    The map is followed from q0 over a grid to where it no longer moves q the same way. Below the grid it is linear.
    """
    sw2, sb2, q0 = (v.astype(jnp.result_type(sw2, sb2, q0)) for v in (sw2, sb2, q0))
    eps = float(jnp.finfo(q0.dtype).eps)
    excess, relative_excess, gain = growth(f, sw2, sb2)
    grid = log_grid(q0.dtype)

    def solve():
        start = jnp.log(q0)
        values, bounds = jax.vmap(relative_excess)(jnp.exp(jnp.append(grid, start)))
        value, bound, here, doubt = values[:-1], bounds[:-1], values[-1], bounds[-1]
        rises, rests = here > doubt, jnp.abs(here) <= doubt
        left = jnp.max(jnp.where((grid < start) & (value > bound), grid, -jnp.inf))
        low = jnp.where(rises, start, left)
        right = jnp.min(jnp.where((grid > low) & ((value < -bound) | ~rises), grid, jnp.inf))
        high = jnp.where(rises, right, jnp.minimum(right, start))
        sinks, diverges = ~rises & ~rests & jnp.isinf(low), rises & jnp.isinf(high)
        inside = ~(rests | sinks | diverges)
        guarded = lambda q: jax.tree.map(lambda v: jnp.where(inside, v, 0), relative_excess(q))
        q, h = _roots.newton(guarded, *(jnp.where(inside, end, 0) for end in (low, high)))
        # below the grid the map is linear, q = gain q + shift
        shift = excess(jnp.zeros_like(q0))
        linear = shift / jnp.where(gain < 0, -gain, jnp.nan)
        q = jnp.where(inside, q, jnp.where(rests, q0, jnp.where(linear > 0, linear, 1)))
        h = jnp.where(inside, h, 4 * eps)
        error = jnp.where(rests & (doubt == 0), 0, enclosed(relative_excess, q, h, shift == 0))
        # q* = 0 is known as far as the map is seen to fall, also with a bias that is too small for the dtype
        rest = float(jnp.finfo(q0.dtype).tiny) * jnp.exp(-grid)
        seen = jnp.max(jnp.where((grid < start) & (value + rest >= -bound), grid, -jnp.inf))
        edge = jnp.where(jnp.isinf(seen), 0, jnp.min(jnp.where(grid > seen, jnp.exp(grid), jnp.inf)))
        zero = sinks & (shift == 0)
        q = jnp.where(zero, 0, jnp.where(diverges, jnp.inf, jnp.where(jnp.isnan(here), jnp.nan, q)))
        return q, jnp.where(jnp.isfinite(q), jnp.where(zero, edge, error), jnp.inf)

    q, error = _roots.implicit(excess, solve)
    room = eps**0.5 * q + jnp.where(q == 0, 64 * eps, 0)
    return FixedPoint(q, error, jnp.isfinite(q) & (error <= room)), sw2 * map_slope(f, q)
