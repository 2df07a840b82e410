"""The nouns: a step, its state, its Jacobian."""

from typing import Any, Protocol, TypeAlias, runtime_checkable

from jax import Array

State: TypeAlias = Any
"""A pytree of floating arrays; flattened in `jax.flatten_util.ravel_pytree` order it is a vector of n numbers."""

Driver: TypeAlias = Any
"""What a step receives beside the state: an input (over time), a layer's parameters (over depth), or None."""


class Step(Protocol):
    """h_t = step(h_{t-1}, x_t)."""

    def __call__(self, h: State, x: Driver, /) -> State:
        """The next state."""
        ...


@runtime_checkable
class StepJacobian(Protocol):
    """The matrix J = d step(h, x) / d h, of shape (m, n), as a linear operator.

    Two optional members: ``row_norms() -> (m,)``, the Euclidean norms of the rows or a tight upper bound (taken from
    ``dense()`` where missing), and ``factors``, a dict that names what the matrix is made of.
    """

    def push(self, V: Array, /) -> Array:
        """J V, (n, k) -> (m, k)."""
        ...

    def pull(self, U: Array, /) -> Array:
        """J^T U, (m, k) -> (n, k)."""
        ...

    def dense(self) -> Array:
        """J, (m, n)."""
        ...


def in_turn(J: StepJacobian) -> tuple[StepJacobian, ...]:
    """The factors of J, the first to act first: J itself unless it is a composition."""
    return getattr(J, "in_turn", (J,))


def pieces(J: StepJacobian) -> tuple[StepJacobian, ...]:
    """The factors of J, taken apart until none can cancel: an entry of a piece is zero only where one of its numbers is zero.

    diag(d) W, one factor, has the pieces W and diag(d).
    """
    return tuple(piece for factor in in_turn(J) for piece in getattr(factor, "pieces", (factor,)))
