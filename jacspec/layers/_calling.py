"""How a layer is called, and its own Jacobian or that of automatic differentiation."""

from typing import Any

import jax
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec.operators import Linear


def call(layer: Any, h: Array, x: Any = None) -> Array:
    """layer(h), or layer(h, x) for a layer that is also driven from outside."""
    return layer(h) if x is None else layer(h, x)


def linearize(layer: Any, h: Array, x: Any = None) -> Linear:
    """The Jacobian of any callable at (h, x)."""
    flat, unravel = ravel_pytree(h)
    _, jvp = jax.linearize(lambda v: ravel_pytree(call(layer, unravel(v), x))[0], flat)
    return Linear(jvp, flat.size, flat.dtype)


def jacobian(layer: Any, h: Array, x: Any = None) -> Any:
    """The layer's own step Jacobian, or for a callable without one that of automatic differentiation."""
    analytic = getattr(layer, "jacobian", None)
    if analytic is None:
        return linearize(layer, h, x)
    return analytic(h) if x is None else analytic(h, x)
