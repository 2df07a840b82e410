"""The line chi_1 = 1 between order and chaos.

At a point of it sigma_w^2 E phi'^2 = 1 and sigma_b^2 = q* - sigma_w^2 E phi^2. With the moments of `moments` (psi = phi - phi(0))
the second is a sum in which nothing cancels,

    sigma_b^2 = sigma_w^2 (q* twist - phi(0)^2 - 2 phi(0) E psi),    twist = E (phi' - psi / a)^2,

zero for what is linear on either side of 0, so that no point is found in its rounding. The fixed point attracts where
dq'/dq < chi_1 = 1: E phi'^2 - d/dq E phi^2 > 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.activations import Activation
from jacspec.theory import _roots
from jacspec.theory.mean_field._common import compiled, enclosed, log_grid, resolve, scalar
from jacspec.theory.mean_field.moments import Expansion, expansion, moments


class CriticalPoint(NamedTuple):
    """A point of the line chi_1 = 1.

    Attributes:
        weight_variance: sigma_w^2; NaN where there is none.
        bias_variance: sigma_b^2; NaN where there is none.
        q_star: the variance of the pre-activations there.
        error: of q_star and of the variance that was looked for, relative, the larger of the two.
        converged: whether there is such a point, to `error` < sqrt(eps), and its q* attracts (or, as for ReLU, keeps all).
    """

    weight_variance: Array
    bias_variance: Array
    q_star: Array
    converged: Array
    error: Array


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
    near, eps = expansion(f, sb2.dtype), float(jnp.finfo(sb2.dtype).eps)

    def surplus(q):
        found = moments(f, near, q)
        return found, sb2 * found.slope + near.value * (near.value + 2 * found.mean)

    def relative_excess(q):
        found, rest = surplus(q)
        doubt = (sb2 * found.slope_error + 2 * jnp.abs(near.value) * found.mean_error + 4 * eps * jnp.abs(rest)) / q
        return rest / q - found.twist, lax.stop_gradient(doubt + found.twist_error)

    def excess(q):
        found, rest = surplus(q)
        return rest - q * found.twist

    at_zero = (sb2 == 0) & (near.value == 0) & (near.gain > 0)
    q, off = _crossing(relative_excess, excess, at_zero, jnp.isfinite, sb2.dtype)
    found, rate = jax.jvp(lambda q: moments(f, near, q), (q,), (jnp.ones_like(q),))
    error = (jnp.abs(rate.slope) * off + found.slope_error) / found.slope
    return _critical(f, near, 1 / found.slope, sb2, q, off, error)


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
    near, eps = expansion(f, sw2.dtype), float(jnp.finfo(sw2.dtype).eps)
    gain = sw2 * near.gain - 1
    rounding = jnp.where(near.exact, 0, 4 * eps * sw2 * near.gain) + 4 * eps * jnp.abs(gain)

    def chi_minus_one(q):
        found = moments(f, near, q)
        return gain + sw2 * found.lift, lax.stop_gradient(rounding + sw2 * found.lift_error)

    def bias(q):
        found = moments(f, near, q)
        rest = near.value * (near.value + 2 * found.mean)
        error = q * found.twist_error + 2 * jnp.abs(near.value) * found.mean_error + 8 * eps * jnp.abs(rest)
        return sw2 * (q * found.twist - rest), lax.stop_gradient(sw2 * error)

    at_zero = (jnp.abs(gain) <= rounding) & (near.value == 0)
    allowed = lambda q: bias(q)[0] >= -bias(q)[1]
    q, off = _crossing(chi_minus_one, lambda q: chi_minus_one(q)[0], at_zero, allowed, sw2.dtype)
    (sb2, error), (rate, _) = jax.jvp(bias, (q,), (jnp.ones_like(q),))
    error = error + jnp.abs(rate) * off
    off = jnp.where(sb2 >= -error, off, jnp.inf)
    sb2 = jnp.where(jnp.abs(sb2) <= error, jnp.maximum(sb2, 0), sb2)
    return _critical(f, near, sw2, sb2, q, off, jnp.where(error == 0, 0, error / jnp.where(sb2 > 0, sb2, jnp.inf)))


def _crossing(
    bounded: Callable, excess: Callable, at_zero: Array, allowed: Callable, dtype: Any
) -> tuple[Array, Array]:
    """The smallest q at which `excess` changes its sign to where q is `allowed`, and its error.

    `bounded` is q -> (a multiple of `excess`, bound of its error): a sign counts where it exceeds the bound.

    q = 0 of error 0 where `at_zero`, NaN of error inf where there is none.
    """

    def solve():
        x = log_grid(dtype)
        value, bound = jax.vmap(bounded)(jnp.exp(x))
        sign = jnp.where(jnp.abs(value) > bound, jnp.sign(value), 0)
        index = jnp.arange(x.size)
        last = lax.cummax(jnp.where(sign != 0, index, -1))
        last = jnp.concatenate([jnp.asarray([-1]), last[:-1]])
        change = (last >= 0) & (sign * sign[last] < 0) & jax.vmap(allowed)(jnp.exp(x))
        end = jnp.argmax(change)
        found, side = change.any() & ~at_zero, sign[last[end]]

        def falling(q):
            value, bound = bounded(q)
            return jnp.where(found, side * value, 0), bound

        low, high = x[jnp.maximum(last[end], 0)], x[end]
        q, h = _roots.newton(falling, low, high)
        error = enclosed(falling, q, h, jnp.zeros((), bool))
        q = jnp.where(at_zero, 0, jnp.where(found, q, jnp.nan))
        return q, jnp.where(at_zero, 0, jnp.where(found, error, jnp.inf))

    return _roots.implicit(excess, solve)


def _critical(
    f: Activation, near: Expansion, sw2: Array, sb2: Array, q: Array, off: Array, error: Array
) -> CriticalPoint:
    """The point, NaN where there is none; `off` is the error of q, `error` the relative one of the variance."""
    info = jnp.finfo(q.dtype)
    at = lax.stop_gradient(jnp.where(q > 0, q, float(info.tiny) ** 0.5))
    here, rate = jax.jvp(lambda q: moments(f, near, q), (at,), (jnp.ones_like(at),))
    pull = here.lift - here.bend - at * rate.bend - 2 * near.value * rate.mean  # E phi'^2 - d/dq E phi^2
    doubt = 8 * (here.lift_error + here.bend_error + 2 * jnp.abs(near.value) * here.mean_error / at)
    error = lax.stop_gradient(jnp.maximum(error, off / jnp.where(q > 0, q, jnp.inf)))
    found = jnp.isfinite(off)
    sw2, sb2, q = (jnp.where(found, v, jnp.nan) for v in (sw2, sb2, q))
    converged = found & (pull >= doubt) & (error <= float(info.eps) ** 0.5)
    return CriticalPoint(sw2, sb2, q, converged, jnp.where(found, error, jnp.nan))
