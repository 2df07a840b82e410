"""Weight normalization.

W_i = g_i V_i / ||V_i||,    a = W h + b,    h' = f(a),    J = diag(f'(a)) W
"""

from typing import Any, Self

import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground.arithmetic import matmul, norms, units
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.layers import _parameters
from jacspec.operators.normalization import Projected


@pytree
class WeightNorm(_parameters.Weighted):
    """h' = f(W h + b) with W_i = g_i V_i / ||V_i||, and J = diag(f'(a)) W.

    A zero row of V has no direction: it counts as a row of zeros in W, so that its unit is f(b_i) with an exactly zero
    row in J; `zero_rows` says which.

    Args:
        V: directions, (m, n), of any length.
        g: lengths of the rows of W, (m,), or None for ones.
        b: bias, (m,), or None.
        activation: a name of `jacspec.activations.TABLE` or an `Activation`.

    Raises:
        TypeError: for parameters that are not floating arrays, or an activation without a derivative.
        ValueError: for shapes that do not fit, or an unknown activation.

    Reference: T. Salimans, D. P. Kingma, NeurIPS 2016, eq. (2).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layer = js.layers.WeightNorm(jnp.array([[3.0, 4.0], [0.0, 0.0]]), g=jnp.array([10.0, 1.0]))
        >>> layer.W.round(6).tolist(), layer.zero_rows.tolist()
        ([[6.0, 8.0], [0.0, 0.0]], [False, True])
    """

    V: Array
    g: Array | None = None
    b: Array | None = None
    activation: str | Activation = static(default="linear")

    def __post_init__(self):
        """Check shapes and the name of the activation."""
        V = _parameters.weight("WeightNorm", "V", self.V)
        object.__setattr__(self, "V", V)
        for key in ("g", "b"):
            value = _parameters.shaped("WeightNorm", key, getattr(self, key), V.shape[:1], "(m,) with V of (m, n)")
            object.__setattr__(self, key, value)
        activations.get(self.activation, function="layers.WeightNorm")

    @classmethod
    def _of_weights(cls, W: Array, b: Array, **options: Any) -> Self:
        return cls(W, norms(W), b, **options)

    @property
    def zero_rows(self) -> Array:
        """Which rows of V are zero, (m,)."""
        return norms(self.V) == 0

    @property
    def W(self) -> Array:
        """The weights g_i V_i / ||V_i||, (m, n)."""
        unit = units(self.V)[0]
        return unit if self.g is None else self.g[:, None] * unit

    def preactivation(self, h: Array) -> Array:
        """a = W h + b, shape (m,)."""
        _parameters.vector("WeightNorm", h, self.V.shape[-1])
        a = matmul(self.W, h)
        return a if self.b is None else a + self.b

    def __call__(self, h: Array, x: Any = None) -> Array:
        """f(a), shape (m,); x is not used."""
        del x
        return activations.get(self.activation)(self.preactivation(h))

    def jacobian(self, h: Array, x: Any = None) -> Projected:
        """diag(f'(a) g) V/||V||; its factors are ``slope``, ``normalization gain`` g and ``weight`` V/||V||."""
        del x
        slope = activations.get(self.activation).derivative(self.preactivation(h))
        unit = units(self.V)[0]
        return Projected(slope, jnp.ones_like(unit[:, 0]) if self.g is None else self.g, unit)
