"""What the closed forms share: domains of their parameters, and an inverse by bisection that keeps its derivative."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.theory import _domain

ROOM = "theory.random_matrix."


def at_least(function: str, argument: str, value: Any, low: float) -> Array:
    """A finite number >= `low`, NaN under jit where it is not."""
    return _domain.within(
        ROOM + function, argument, value, lambda v: (v >= low) & jnp.isfinite(v), f"{argument} >= {low:g}"
    )


def positive(function: str, argument: str, value: Any) -> Array:
    """A finite number > 0, NaN under jit where it is not."""
    return _domain.positive(ROOM + function, argument, value)


def share(function: str, u: Any) -> Array:
    """u in [0, 1], NaN under jit where it is not."""
    return _domain.within(ROOM + function, "u", u, lambda v: (v >= 0) & (v <= 1), "0 <= u <= 1")


def increasing_root(f: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The root of an increasing elementwise f between arrays `low` and `high`, and the derivative of that root.

    y = y* - f(y*) / f'(y*) with y* held fixed: one more Newton step, and dy = -df / f' by the chain rule.
    """

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = f(middle) < 0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = lax.fori_loop(0, 60, halve, (lax.stop_gradient(low), lax.stop_gradient(high)))
    root = lax.stop_gradient((low + high) / 2)
    value, slope = jax.jvp(f, (root,), (jnp.ones_like(root),))
    slope = lax.stop_gradient(slope)
    step = value / jnp.where(slope > 0, slope, 1)
    return root - jnp.where(slope > 0, step, 0)
