"""The Jacobian of a piece between wide states, by push and pull alone: nothing of size m n is kept."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground.pytree import pytree, static
from jacspec.chain.state_trees import size
from jacspec.operators import Linearized


@pytree
class Wide:
    """J of a step at h, asked by compiled push and pull; equal steps are compiled once.

    Attributes:
        step: the piece.
        h: the state before it.
        reverse: whether it has no forward mode: J V is then the transpose of U -> J^T U, which is linear in U.
    """

    step: Any
    h: Any
    reverse: bool = static()

    def push(self, V: Array) -> Array:
        """J V."""
        return _push(self, V)

    def pull(self, U: Array) -> Array:
        """J^T U."""
        return _pull(self, U)

    def dense(self) -> Array:
        """J."""
        return _dense(self)


@jax.jit
def _push(J: Wide, V: Array) -> Array:
    whole = Linearized(J.step, J.h, None)
    if not J.reverse:
        return whole.push(V)
    m = size(jax.eval_shape(J.step, J.h))
    U = jax.ShapeDtypeStruct((m, V.shape[1]), V.dtype)
    return jax.linear_transpose(whole.pull, U)(V)[0]


_pull = jax.jit(lambda J, U: Linearized(J.step, J.h, None).pull(U))


@jax.jit
def _dense(J: Wide) -> Array:
    n = size(J.h)
    return J.push(jnp.eye(n, dtype=jnp.result_type(*jax.tree.leaves(J.h))))
