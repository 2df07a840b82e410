"""The Elman (simple, vanilla) recurrent cell.

a_t = W h_{t-1} + U x_t + b,    h_t = f(a_t),    J_t = diag(f'(a_t)) W
"""

from jax import Array

from jacspec import activations
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.cells import _parameters
from jacspec.operators import Scaled


@pytree
class Elman(_parameters.VectorCell):
    """h_t = f(W h_{t-1} + U x_t + b), with J_t = diag(f'(a_t)) W.

    Args:
        W: recurrent weights, (n, n); W_ij acts from unit j on unit i.
        U: input weights, (n, m), or None for a cell without input.
        b: bias, (n,), or None.
        activation: a name of `jacspec.activations.TABLE` or an `Activation`.

    Raises:
        TypeError: for parameters that are not floating arrays, or an activation without a derivative.
        ValueError: for shapes that do not fit, or an unknown activation.

    Reference: J. L. Elman, Finding structure in time, Cognitive Science 14 (1990) 179.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> cell = js.cells.Elman(2.0 * jnp.eye(2))
        >>> cell.jacobian(jnp.zeros(2)).dense().tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    W: Array
    U: Array | None = None
    b: Array | None = None
    activation: str | Activation = static(default="tanh")

    def __post_init__(self):
        """Check shapes and the name of the activation."""
        _parameters.check_gated(self, None)
        activations.get(self.activation, function="cells.Elman")

    @property
    def f(self) -> Activation:
        """The activation."""
        return activations.get(self.activation)

    def preactivation(self, h: Array, x: Array | None = None) -> Array:
        """a = W h + U x + b, shape (n,)."""
        return _parameters.preactivation(self, h, x)

    def __call__(self, h: Array, x: Array | None = None) -> Array:
        """The next state f(a), shape (n,)."""
        return self.f(self.preactivation(h, x))

    def jacobian(self, h: Array, x: Array | None = None) -> Scaled:
        """diag(f'(a)) W as an operator; its factors are ``slope`` and ``weight``."""
        return Scaled(self.f.derivative(self.preactivation(h, x)), self.W)
