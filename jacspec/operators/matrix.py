"""A matrix as a step Jacobian, and the norms of the rows of any operator."""

from jax import Array

from jacspec._ground.arithmetic import matmul, norms, transposed_matmul
from jacspec._ground.pytree import pytree
from jacspec.typing import StepJacobian


def row_norms(J: StepJacobian) -> Array:
    """Euclidean norms of the rows of J, or the operator's own upper bound."""
    own = getattr(J, "row_norms", None)
    return norms(J.dense()) if own is None else own()


@pytree
class Matrix:
    """J as an array of shape (m, n)."""

    matrix: Array

    @property
    def shows_slopes(self) -> bool:
        """False: an entry does not say which slopes it is made of (`jacspec._product.slopes`)."""
        return False

    def push(self, V: Array) -> Array:
        """J V."""
        return matmul(self.matrix, V)

    def pull(self, U: Array) -> Array:
        """J^T U."""
        return transposed_matmul(self.matrix, U)

    def dense(self) -> Array:
        """J."""
        return self.matrix

    def row_norms(self) -> Array:
        """Norms of the rows."""
        return norms(self.matrix)

    @property
    def factors(self) -> dict[str, Array]:
        """The matrix itself: nothing is known of what it is made of."""
        return {"matrix": self.matrix}


@pytree
class Given(Matrix):
    """A matrix (m, n) that was given: it has no slopes that could have been stopped short of zero.

    Attributes:
        knows_stops: (), False where a row is decided by subnormal numbers, which XLA takes as zeros.
    """

    knows_stops: Array
