"""The leaky Elman cell: leaky integrator units, a discretized continuous-time network.

a_t = W h_{t-1} + U x_t + b,    h_t = (1 - alpha) h_{t-1} + alpha f(a_t),
J_t = diag(1 - alpha) + diag(alpha f'(a_t)) W
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec import activations
from jacspec._ground import checks
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.cells import _gates, _parameters
from jacspec.operators import GatedSum


@pytree
class LeakyElman(_parameters.VectorCell):
    """h_t = (1 - alpha) h_{t-1} + alpha f(W h_{t-1} + U x_t + b), with J_t = diag(1 - alpha) + diag(alpha f'(a_t)) W.

    Args:
        W: recurrent weights, (n, n); W_ij acts from unit j on unit i.
        U: input weights, (n, m), or None for a cell without input.
        b: bias, (n,), or None.
        activation: a name of `jacspec.activations.TABLE` or an `Activation`.
        rate: leak rate alpha (dt / tau of the continuous-time network), a number or (n,), 0 < rate <= 1; 1 is `Elman`.

    Raises:
        TypeError: for parameters that are not floating arrays, or an activation without a derivative.
        ValueError: for shapes that do not fit, an unknown activation, or a rate outside (0, 1].

    Reference: H. Jaeger et al., Optimization and applications of echo state networks with leaky-integrator neurons,
    Neural Networks 20 (2007) 335, section 2.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> cell = js.cells.LeakyElman(2.0 * jnp.eye(2), rate=0.25)
        >>> cell.jacobian(jnp.zeros(2)).dense().tolist()
        [[1.25, 0.0], [0.0, 1.25]]
    """

    W: Array
    U: Array | None = None
    b: Array | None = None
    activation: str | Activation = static(default="tanh")
    rate: Array | float = 1.0

    def __post_init__(self):
        """Check shapes, the activation and the rate."""
        n = _parameters.check_gated(self, None)
        activations.get(self.activation, function="cells.LeakyElman")
        rate, text = self.rate, "a number or (n,), 0 < rate <= 1"
        if isinstance(rate, (float, int)) and not isinstance(rate, bool):
            rate = jnp.asarray(rate, self.W.dtype)
        rate = checks.array("cells.LeakyElman", "rate", rate, (0, 1), text)
        if rate.shape not in ((), (n,)):
            got = f"shape {rate.shape}"
            raise ValueError(checks.message("cells.LeakyElman", "rate", "has the wrong shape", got, text))
        if checks.is_concrete(rate) and not np.all((np.asarray(rate) > 0) & (np.asarray(rate) <= 1)):
            raise ValueError(checks.message("cells.LeakyElman", "rate", "is out of range", rate, text))
        _parameters.store(self, rate=rate)

    @property
    def f(self) -> Activation:
        """The activation."""
        return activations.get(self.activation)

    def preactivation(self, h: Array, x: Array | None = None) -> Array:
        """a = W h + U x + b, shape (n,)."""
        return _parameters.preactivation(self, h, x)

    def __call__(self, h: Array, x: Array | None = None) -> Array:
        """The next state (1 - alpha) h + alpha f(a), shape (n,)."""
        return (1 - self.rate) * h + self.rate * self.f(self.preactivation(h, x))

    def jacobian(self, h: Array, x: Array | None = None) -> GatedSum:
        """diag(1 - alpha) + diag(alpha f'(a)) W; its factors are ``kept``, ``slope`` and ``slope weight``."""
        slope = self.f.derivative(self.preactivation(h, x))
        kept = jnp.broadcast_to(1 - self.rate, slope.shape)
        return GatedSum(kept, _gates.product(jnp.asarray(self.rate), slope)[None], self.W[None], ("kept", "slope"))
