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


def bisection(f: Function, slope: Function, low: Array, high: Array, rising: bool) -> Array:
    """The root in [low, high] of f, which rises or falls there; f need not have its sign at an end that is the root."""
    low, high = lax.stop_gradient((low, high))

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        above = f(middle) > 0 if rising else f(middle) < 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = lax.fori_loop(0, HALVINGS, halve, (low, high))
    return polished(f, slope, 0.5 * (low + high))
