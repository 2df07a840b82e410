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

    Optional members: ``row_norms() -> (m,)``, the Euclidean norms of the rows or a tight upper bound (taken from
    ``dense()`` where missing); ``factors``, a dict that names what the matrix is made of; ``in_turn`` and ``pieces``, see
    below; those of `jacspec._product.slopes`.
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
    """The factors of J, products among them taken apart, so that what underflows in one is not taken for a zero.

    diag(d) W, one factor, has the pieces W and diag(d).
    """
    return tuple(piece for factor in in_turn(J) for piece in getattr(factor, "pieces", (factor,)))
