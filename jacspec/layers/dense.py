"""The dense (fully connected) layer.

a = W h + b,    h' = f(a),    J = diag(f'(a)) W
"""

from typing import Any, Self

from jax import Array

from jacspec import activations
from jacspec._ground.arithmetic import matmul
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.layers import _parameters
from jacspec.operators import Scaled


@pytree
class Dense(_parameters.Weighted):
    """h' = f(W h + b), with J = diag(f'(a)) W.

    Args:
        W: weights, (m, n), from n units to m units (the transpose of a Flax kernel).
        b: bias, (m,), or None.
        activation: a name of `jacspec.activations.TABLE` or an `Activation`.

    Raises:
        TypeError: for parameters that are not floating arrays, or an activation without a derivative.
        ValueError: for shapes that do not fit, or an unknown activation.

    Reference: J. Pennington, S. Schoenholz, S. Ganguli, Resurrecting the sigmoid, NeurIPS 2017, eq. (1) and (2).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layer = js.layers.Dense(jnp.array([[1.0, -2.0]]), activation="relu")
        >>> layer(jnp.array([3.0, 1.0])).tolist(), layer.jacobian(jnp.array([3.0, 1.0])).dense().tolist()
        ([1.0], [[1.0, -2.0]])
    """

    W: Array
    b: Array | None = None
    activation: str | Activation = static(default="linear")

    def __post_init__(self):
        """Check shapes and the name of the activation."""
        W = _parameters.weight("Dense", "W", self.W)
        object.__setattr__(self, "W", W)
        object.__setattr__(self, "b", _parameters.shaped("Dense", "b", self.b, W.shape[:1], "(m,) with W of (m, n)"))
        activations.get(self.activation, function="layers.Dense")

    @classmethod
    def _of_weights(cls, W: Array, b: Array, **options: Any) -> Self:
        return cls(W, b, **options)

    def preactivation(self, h: Array) -> Array:
        """a = W h + b, shape (m,)."""
        _parameters.vector("Dense", h, self.W.shape[-1])
        a = matmul(self.W, h)
        return a if self.b is None else a + self.b

    def __call__(self, h: Array, x: Any = None) -> Array:
        """f(a), shape (m,); x is not used."""
        del x
        return activations.get(self.activation)(self.preactivation(h))

    def jacobian(self, h: Array, x: Any = None) -> Scaled:
        """diag(f'(a)) W as an operator; its factors are ``slope`` and ``weight``."""
        del x
        return Scaled(activations.get(self.activation).derivative(self.preactivation(h)), self.W)
