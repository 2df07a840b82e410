"""One operator after another."""

from typing import Any

from jax import Array

from jacspec._ground.arithmetic import norms
from jacspec._ground.pytree import pytree
from jacspec.operators.matrix import row_norms
from jacspec.typing import in_turn


@pytree
class Composed:
    """J = outer inner: one operator after another."""

    outer: Any
    inner: Any

    @property
    def in_turn(self) -> tuple[Any, ...]:
        """The factors, the first to act first."""
        return in_turn(self.inner) + in_turn(self.outer)

    def push(self, V: Array) -> Array:
        """outer (inner V)."""
        return self.outer.push(self.inner.push(V))

    def pull(self, U: Array) -> Array:
        """inner^T (outer^T U)."""
        return self.inner.pull(self.outer.pull(U))

    def dense(self) -> Array:
        """The product as a matrix."""
        return self.outer.push(self.inner.dense())

    def row_norms(self) -> Array:
        """||outer_i|| times the Frobenius norm of the inner one, an upper bound."""
        return row_norms(self.outer) * norms(row_norms(self.inner))

    @property
    def factors(self) -> dict[str, Array]:
        """The factors of both; a name that is taken gets a prime."""
        out = dict(self.inner.factors)
        for name, factor in self.outer.factors.items():
            while name in out:
                name += "'"
            out[name] = factor
        return out
