"""h' = f(h): an activation by itself."""

from typing import Any

from jax import Array

from jacspec import activations
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.operators import Diagonal


@pytree
class Elementwise:
    """h' = f(h), J = diag(f'(h)): an activation by itself, where no layer stands before it.

    Attributes:
        activation: a name of the table or an `Activation`.

    Raises:
        TypeError: for an activation without a derivative.
        ValueError: for an unknown one.
    """

    activation: str | Activation = static()

    def __post_init__(self):
        """Check the name of the activation."""
        activations.get(self.activation, function="layers.Elementwise")

    def __call__(self, h: Array, x: Any = None) -> Array:
        """f(h), of the shape of h; x is not used."""
        del x
        return activations.get(self.activation)(h)

    def jacobian(self, h: Array, x: Any = None) -> Diagonal:
        """diag(f'(h)) on the flattened state."""
        del x
        return Diagonal(activations.get(self.activation).derivative(h).ravel(), "slope")
