"""Roots that are searched for without a derivative and then have the right one.

The search sees its parameters through `stop_gradient`. One Newton step from the root, x = x* - R(x*, theta) / R'(x*)
with x* and R' held fixed, leaves the value where it is and has the derivative -R_theta / R' of the implicit function.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

PRECISION = 20
"""Halvings of the interval that holds a fixed point, for two Newton steps to start from."""


def bisect(f: Callable[[Array], Array], low: Array, high: Array, steps: int) -> Array:
    """Where f, elementwise, turns from positive to not positive between `low` and `high`."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        positive = f(middle) > 0
        return jnp.where(positive, middle, low), jnp.where(positive, high, middle)

    low, high = lax.fori_loop(0, steps, halve, (low, high))
    return (low + high) / 2


def attach(residual: Callable[[Array, Any], Array], root: Array, theta: Any) -> Array:
    """`root` of the elementwise `residual(x, theta)`, improved by one Newton step and differentiable in theta."""
    root = lax.stop_gradient(root)
    value, slope = jax.jvp(lambda x: residual(x, theta), (root,), (jnp.ones_like(root),))
    slope = lax.stop_gradient(slope)
    return root - jnp.where(slope == 0, 0, value / jnp.where(slope == 0, 1, slope))


def largest_fixed_point(F: Callable[[Array, Any], Array], octaves: range, theta: Any) -> Array:
    """The largest q = F(q, theta) between 2^octaves.stop and 2^octaves.start, to 1e-5 of it.

    F is scanned downwards for the first point above the diagonal, and the interval above that is halved: to iterate
    q <- F(q) would take forever at a critical point. 0 where F is below the diagonal throughout, inf where it is above
    at the largest q.
    """
    theta = lax.stop_gradient(theta)
    start, step = float(octaves.start), float(octaves.step)

    def move(_, bracket):
        low, high, found = bracket
        probe = jnp.where(found, (low + high) / 2, low)
        q = 2.0**probe
        above = (F(q, theta) > q * (1 + 16 * jnp.finfo(q.dtype).eps)) & (found | (probe >= octaves[-1]))
        low = jnp.where(found, jnp.where(above, probe, low), jnp.where(above, low, low + step))
        high = jnp.where(found, jnp.where(above, high, probe), jnp.where(above, high, probe))
        return low, high, found | above

    first = jnp.asarray(start, jnp.result_type(float))
    low, high, found = lax.fori_loop(0, len(octaves) + PRECISION, move, (first, first, jnp.asarray(False)))
    return jnp.where(found, jnp.where(high == first, jnp.inf, 2.0 ** ((low + high) / 2)), 0)


def attach_fixed_point(F: Callable[[Array, Any], Array], q: Array, theta: Any, polish: int = 1) -> Array:
    """A root of `largest_fixed_point` after `polish` + 1 Newton steps, differentiable in theta; 0 stays, inf is NaN."""
    inside = (q > 0) & (q < jnp.inf)
    residual = lambda x, theta: F(x, theta) - x
    better = start = jnp.where(inside, q, 1)
    for _ in range(polish):
        better = attach(residual, better, lax.stop_gradient(theta))
    root = attach(residual, jnp.where(better > 0, better, start), theta)
    return jnp.where(inside, root, jnp.where(q == 0, 0, jnp.nan))
