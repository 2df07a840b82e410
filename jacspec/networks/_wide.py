"""The Jacobian of a piece between wide states, by push and pull alone: nothing of size m n is kept."""

from typing import Any

import jax
from jax import Array

from jacspec._pytree import pytree
from jacspec.operators import Linearized


@pytree
class Wide:
    """J of a step at h, asked by compiled push and pull; equal steps are compiled once."""

    step: Any
    h: Any

    def push(self, V: Array) -> Array:
        """J V."""
        return _push(self, V)

    def pull(self, U: Array) -> Array:
        """J^T U."""
        return _pull(self, U)

    def dense(self) -> Array:
        """J."""
        return _dense(self)


_push = jax.jit(lambda J, V: Linearized(J.step, J.h, None).push(V))
_pull = jax.jit(lambda J, U: Linearized(J.step, J.h, None).pull(U))
_dense = jax.jit(lambda J: Linearized(J.step, J.h, None).dense())
