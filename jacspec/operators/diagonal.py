"""A diagonal, alone or on the left of a matrix."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jacspec._ground.arithmetic import matmul, norms, transposed_matmul
from jacspec._ground.pytree import pytree, static
from jacspec.operators.matrix import Matrix


@pytree
class Diagonal:
    """J = diag(d).

    Attributes:
        d: shape (n,).
        name: what it is made of.
    """

    d: Array
    name: str = static(default="kept")

    def push(self, V: Array) -> Array:
        """d * V."""
        return self.d[:, None] * V

    def pull(self, U: Array) -> Array:
        """d * U."""
        return self.d[:, None] * U

    def dense(self) -> Array:
        """diag(d)."""
        return jnp.diag(self.d)

    def row_norms(self) -> Array:
        """abs(d)."""
        return jnp.abs(self.d)

    @property
    def factors(self) -> dict[str, Array]:
        """The diagonal, by its name."""
        return {self.name: self.d}


@pytree
class Scaled:
    """J = diag(d) W: a slope for every row of a weight matrix.

    Attributes:
        d: slopes f'(a), shape (m,).
        W: weights, shape (m, n), shared by all steps of a recurrent network.
    """

    d: Array
    W: Array

    @property
    def pieces(self) -> tuple[Any, ...]:
        """W and diag(d), the first to act first."""
        return Matrix(self.W), Diagonal(self.d)

    def push(self, V: Array) -> Array:
        """d * (W V)."""
        return self.d[:, None] * matmul(self.W, V)

    def pull(self, U: Array) -> Array:
        """W^T (d * U)."""
        return transposed_matmul(self.W, self.d[:, None] * U)

    def dense(self) -> Array:
        """diag(d) W."""
        return self.d[:, None] * self.W

    def row_norms(self) -> Array:
        """abs(d_i) ||W_i||."""
        return jnp.abs(self.d) * norms(self.W)

    @property
    def factors(self) -> dict[str, Array]:
        """``slope`` d and ``weight`` W."""
        return {"slope": self.d, "weight": self.W}
