"""Jacobians of steps and layers by automatic differentiation: whether they are finite, and whether they are kept."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import checks
from jacspec._ground.memory import free_bytes
from jacspec._ground.pytree import pytree
from jacspec.chain.sources import FromOperators, FromStates
from jacspec.chain.state_trees import size
from jacspec.operators import Linearized, Matrix
from jacspec.typing import State

STORED_BYTES = 2**28
"""Up to this size the matrices of an autodiff chain are kept with ``store="auto"``."""


def keeps_matrices(name: str, source: FromStates, store: str | bool) -> bool:
    """Whether the matrices of an autodiff chain are kept, by an estimate of their size."""
    if store is False:
        return False
    count = source.length * source.size**2 * jnp.dtype(source.dtype).itemsize
    if store == "auto":
        return count <= STORED_BYTES
    free = free_bytes()
    if count > free / 2:
        got = f"{count / 2**30:.1f} GiB for T={source.length}, n={source.size}"
        hint = "Use store=False, or give the step an analytic jacobian."
        limit = f"at most half of the free {free / 2**30:.1f} GiB"
        raise MemoryError(checks.message(name, "store", "asks for too much", got, limit, hint))
    return True


@functools.partial(jax.jit, static_argnames=("keep", "reverse"))
def probed(source: FromStates, *, keep: bool, reverse: bool) -> FromStates | FromOperators:
    """The chain of an autodiff step with `sound`, its matrices kept (T n^2 numbers) or not.

    Forward and reverse mode are both asked (the latter only with `reverse`): they differ where a branch that is not
    taken has an infinite slope.
    """

    def look(carry, J, _):
        fixed = lax.stop_gradient(J)
        matrix = J.dense() if keep else None
        seen = fixed.push(_probe(J.h, source.size)) if matrix is None else lax.stop_gradient(matrix)
        pulled = fixed.pull(_probe(J.h, source.size)) if reverse else seen
        return carry, (matrix, jnp.isfinite(seen).all() & jnp.isfinite(pulled).all())

    _, (matrices, sound) = source.fold(look, (), reverse=False, xs=None)
    if keep:
        return FromOperators(Matrix(matrices), source.states, sound, source.length, (source.size,))
    return dataclasses.replace(source, sound=sound)


@pytree
class _WithoutDriver:
    """A layer as a step without a driver."""

    layer: Any

    def __call__(self, h: State, x: None) -> State:
        """layer(h)."""
        del x
        return self.layer(h)


def jacobian_matrix(layer: Any, h: State, m: int) -> tuple[Matrix, Array]:
    """The Jacobian (m, n) of a layer by automatic differentiation, and whether it is finite in both modes."""
    J, n = Linearized(_WithoutDriver(layer), h, None), size(h)
    fixed = lax.stop_gradient(J)
    try:
        pulled = fixed.pull(_probe(h, m))
    except (TypeError, ValueError):  # a loop of unknown length has no reverse mode
        pulled = jnp.zeros(())
        matrix = J.push(jnp.eye(n, dtype=jnp.result_type(*jax.tree.leaves(h))))
    else:
        matrix = J.dense()
    pushed = fixed.push(_probe(h, n)) if m < n else matrix  # else `dense` has pushed
    seen = [jnp.isfinite(lax.stop_gradient(a)).all() for a in (pulled, matrix, pushed)]
    return Matrix(matrix), jnp.stack(seen).all()


def _probe(h: State, n: int) -> Array:
    """A column (n, 1) without a zero, so that what it meets of a matrix shows every entry that is not finite."""
    column = np.random.default_rng(0).uniform(0.5, 1, (n, 1)) / n
    return jnp.asarray(column, jnp.result_type(*jax.tree.leaves(h)))
