"""The domains of the parameters of closed forms."""

from typing import Any

import jax.numpy as jnp
from jax import Array

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
