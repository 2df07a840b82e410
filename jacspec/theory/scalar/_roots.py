"""Roots of one equation in one unknown, with derivatives."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

Function = Callable[[Array], Array]

HALVINGS = 60
"""Bisections: more than the bits of a double."""


def polished(f: Function, slope: Function, x: Array) -> Array:
    """The root of f near x after two Newton steps.

    Steps from a root that carries no derivative: the first gives dx/dtheta = -f_theta / f', the second the second and
    third derivatives.
    """
    x = lax.stop_gradient(x)
    for _ in range(2):
        x = x - f(x) / slope(x)
    return x


def newton(f: Function, slope: Function, start: Array, steps: int) -> Array:
    """The root of a convex increasing f below `start`, to which Newton's method comes down without overshooting."""
    found = lax.fori_loop(0, steps, lambda _, x: x - f(x) / slope(x), lax.stop_gradient(start))
    return polished(f, slope, found)


def bisection(f: Function, slope: Function, low: Array, high: Array) -> Array:
    """The root of f in [low, high], where it changes its sign."""
    low, high = lax.stop_gradient((low, high))
    sign = jnp.sign(f(high))

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        above = f(middle) * sign > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = lax.fori_loop(0, HALVINGS, halve, (low, high))
    return polished(f, slope, 0.5 * (low + high))
