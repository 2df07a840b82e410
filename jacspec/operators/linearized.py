"""The Jacobian of any callable, by automatic differentiation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec._ground.pytree import pytree, static
from jacspec.operators.matrix import Matrix


@pytree
class Linearized:
    """The Jacobian of any step at (h, x), by automatic differentiation; the oracle of the analytic ones."""

    step: Any
    h: Any
    x: Any

    def _flat(self):
        flat, unravel = ravel_pytree(self.h)
        return (lambda v: ravel_pytree(self.step(unravel(v), self.x))[0]), flat

    def push(self, V: Array) -> Array:
        """J V by one linearization, mapped over the columns."""
        f, flat = self._flat()
        if V.dtype != flat.dtype:  # in low precision J is rounded, and V is not
            return Matrix(self.dense().astype(V.dtype)).push(V)
        _, jvp = jax.linearize(f, flat)
        return jax.vmap(jvp, in_axes=1, out_axes=1)(V)

    def pull(self, U: Array) -> Array:
        """J^T U by one linearization, mapped over the columns."""
        f, flat = self._flat()
        if U.dtype != flat.dtype:
            return Matrix(self.dense().astype(U.dtype)).pull(U)
        _, vjp = jax.vjp(f, flat)
        return jax.vmap(lambda u: vjp(u)[0], in_axes=1, out_axes=1)(U)

    def dense(self) -> Array:
        """J by forward or reverse mode, whichever has fewer columns to push."""
        f, flat = self._flat()
        m = jax.eval_shape(f, flat).shape[0]
        return (jax.jacfwd if m >= flat.size else jax.jacrev)(f)(flat)

    @property
    def factors(self) -> dict[str, Array]:
        """The matrix itself."""
        return {"matrix": self.dense()}


@pytree
class Linear:
    """J of any callable by automatic differentiation: one linearization, whose residuals are the leaves.

    `operators.Linearized` would carry the callable itself, and a bare function is no leaf that JAX can take.

    Attributes:
        jvp: v -> J v, on flat vectors of n numbers.
        n: the width of the state.
        dtype: that of the state.
    """

    jvp: Any
    n: int = static()
    dtype: Any = static()

    def push(self, V: Array) -> Array:
        """J V, column by column."""
        if V.dtype != self.dtype:  # in low precision J is rounded, and V is not
            return Matrix(self.dense().astype(V.dtype)).push(V)
        return jax.vmap(self.jvp, in_axes=1, out_axes=1)(V)

    def pull(self, U: Array) -> Array:
        """J^T U, column by column."""
        if U.dtype != self.dtype:
            return Matrix(self.dense().astype(U.dtype)).pull(U)
        transpose = jax.linear_transpose(self.jvp, jax.ShapeDtypeStruct((self.n,), self.dtype))
        return jax.vmap(lambda u: transpose(u)[0], in_axes=1, out_axes=1)(U)

    def dense(self) -> Array:
        """J."""
        return self.push(jnp.eye(self.n, dtype=self.dtype))

    @property
    def factors(self) -> dict[str, Array]:
        """The matrix itself: nothing is known of what it is made of."""
        return {"matrix": self.dense()}
