"""What a gated cell keeps, plus what its gates let through."""

import jax.numpy as jnp
from jax import Array

from jacspec._ground.arithmetic import matmul, norms, transposed_matmul
from jacspec._ground.pytree import pytree, static


@pytree
class GatedSum:
    """J = diag(carry) + sum_k diag(gains_k) W_k: what a gated cell keeps plus what its gates let through.

    One matrix product with the stacked weights serves all gates.

    Attributes:
        carry: shape (n,).
        gains: shape (K, n).
        weights: shape (K, n, n).
        names: the name of the carry and of the K gains.
    """

    carry: Array
    gains: Array
    weights: Array
    names: tuple[str, ...] = static()

    def push(self, V: Array) -> Array:
        """carry * V + sum_k gains_k * (W_k V)."""
        count, n, _ = self.weights.shape
        parts = matmul(self.weights.reshape(count * n, n), V).reshape(count, n, -1)
        return self.carry[:, None] * V + jnp.sum(self.gains[:, :, None] * parts, axis=0)

    def pull(self, U: Array) -> Array:
        """carry * U + sum_k W_k^T (gains_k * U)."""
        count, n, _ = self.weights.shape
        parts = (self.gains[:, :, None] * U).reshape(count * n, -1)
        return self.carry[:, None] * U + transposed_matmul(self.weights.reshape(count * n, n), parts)

    def dense(self) -> Array:
        """The sum, as an (n, n) array."""
        return jnp.diag(self.carry) + jnp.sum(self.gains[:, :, None] * self.weights, axis=0)

    def row_norms(self) -> Array:
        """abs(carry_i) + sum_k abs(gain_ki) ||W_ki||, an upper bound."""
        return jnp.abs(self.carry) + jnp.sum(jnp.abs(self.gains) * norms(self.weights), axis=0)

    @property
    def factors(self) -> dict[str, Array]:
        """The carry and each gain with its weight, by name."""
        carry, *gains = self.names
        out = {carry: self.carry}
        for k, name in enumerate(gains):
            out |= {name: self.gains[..., k, :], f"{name} weight": self.weights[..., k, :, :]}
        return out
