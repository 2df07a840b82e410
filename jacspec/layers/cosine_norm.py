"""Cosine normalization, plain and centered.

    w_i = W_i / ||W_i||,    u = h / r,    r^2 = ||h||^2 + epsilon,    a_i = g_i w_i . u + b_i,    h' = f(a)
    J = diag(f'(a) g / r) w (I - u u^T)

Centered, W_i and h are first replaced by themselves minus their means: a_i / g_i is then Pearson's correlation.
"""

from typing import Any, Self

import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground import checks
from jacspec._ground.arithmetic import matmul, normalized, units
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.layers import _parameters
from jacspec.operators.normalization import Projected, centered


@pytree
class CosineNorm(_parameters.Weighted):
    """h' = f(g cos(W_i, h) + b), with J = diag(f'(a) g / ||h||) w (I - u u^T).

    A zero row of W (centered: a constant one) has no direction: its cosine counts as 0 and its row of J is exactly zero;
    `zero_rows` says which. The zero state (centered: a constant one) has no cosine: with epsilon = 0 the output is NaN,
    which a chain reports with its step; with epsilon > 0 the cosine is 0 there and the gain g / sqrt(epsilon).

    Args:
        W: weights, (m, n), of any length.
        g: gain, (m,), or None for ones.
        b: bias, (m,), or None.
        activation: a name of `jacspec.activations.TABLE` or an `Activation`.
        centered: whether means are subtracted (needs n >= 2).
        epsilon: added to ||h||^2; 0 is the cosine itself.

    Raises:
        TypeError: for parameters that are not floating arrays, or an activation without a derivative.
        ValueError: for shapes that do not fit, an unknown activation, a negative epsilon, or `centered` with n = 1.

    Reference: C. Luo et al., Cosine normalization, arXiv 1702.05870, eq. (3) and (9).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layer = js.layers.CosineNorm(jnp.array([[3.0, 4.0]]))
        >>> round(float(layer(jnp.array([60.0, 80.0]))[0]), 6)
        1.0
    """

    W: Array
    g: Array | None = None
    b: Array | None = None
    activation: str | Activation = static(default="linear")
    centered: bool = static(default=False)
    epsilon: float = static(default=0.0)

    def __post_init__(self):
        """Check shapes and options."""
        W = _parameters.weight("CosineNorm", "W", self.W)
        object.__setattr__(self, "W", W)
        for key in ("g", "b"):
            value = _parameters.shaped("CosineNorm", key, getattr(self, key), W.shape[:1], "(m,) with W of (m, n)")
            object.__setattr__(self, key, value)
        activations.get(self.activation, function="layers.CosineNorm")
        checks.one_of("layers.CosineNorm", "centered", self.centered, (True, False))
        if self.centered and W.shape[1] < 2:
            got = f"shape {W.shape}"
            raise ValueError(checks.message("layers.CosineNorm", "W", "is too narrow to center", got, "n >= 2"))
        object.__setattr__(self, "epsilon", _parameters.epsilon("CosineNorm", self.epsilon))

    def _unit_rows(self):
        return units(centered(self.W, -1) if self.centered else self.W)

    @classmethod
    def _of_weights(cls, W: Array, b: Array, **options: Any) -> Self:
        return cls(W, jnp.ones_like(b), b, **options)

    @property
    def zero_rows(self) -> Array:
        """Which rows of W (centered: of W minus their means) are zero, (m,)."""
        return self._unit_rows()[1] == 0

    def _parts(self, h):
        """Unit rows w, direction u, radius r and pre-activation a."""
        _parameters.vector("CosineNorm", h, self.W.shape[-1])
        w, _ = self._unit_rows()
        h = centered(h, 0) if self.centered else h
        u, r = normalized(h, 0, epsilon=self.epsilon)
        a = matmul(w, u)
        a = a if self.g is None else self.g * a
        return w, u, r, a if self.b is None else a + self.b

    def preactivation(self, h: Array) -> Array:
        """a_i = g_i cos(W_i, h) + b_i, shape (m,)."""
        return self._parts(h)[-1]

    def __call__(self, h: Array, x: Any = None) -> Array:
        """f(a), shape (m,); x is not used."""
        del x
        return activations.get(self.activation)(self.preactivation(h))

    def jacobian(self, h: Array, x: Any = None) -> Projected:
        """J as an operator, the projection never formed.

        Its factors are ``slope``, ``normalization gain`` g / r, ``weight`` w and ``normalized state`` u.
        """
        del x
        w, u, r, a = self._parts(h)
        gain = jnp.ones_like(a) / r if self.g is None else self.g / r
        return Projected(activations.get(self.activation).derivative(a), gain, w, u, self.centered)
