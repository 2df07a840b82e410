"""Layer normalization.

z = (h - mean h) / s,    s^2 = var h + epsilon,    h' = gamma z + beta
J = diag(gamma / s) (I - 1 1^T / n - z z^T / n)
"""

from typing import Any

from jax import Array

from jacspec._ground.arithmetic import normalized
from jacspec._ground.pytree import pytree, static
from jacspec.layers import _parameters
from jacspec.operators.normalization import Standardized, centered


@pytree
class LayerNorm:
    """h' = gamma (h - mean h) / sqrt(var h + epsilon) + beta over the units of one example.

    With gamma = 1 the singular values of J are 1/s (n - 2 times), epsilon / s^3 and 0. A constant state gives z = 0 and
    the gain gamma / sqrt(epsilon); with epsilon = 0 it has no derivative and gives NaN.

    Args:
        scale: gamma, (n,), or None for ones.
        bias: beta, (n,), or None.
        epsilon: added to the variance; 1e-6 as in Flax, 0 allowed.

    Raises:
        TypeError: for parameters that are not floating arrays.
        ValueError: for shapes that do not fit or a negative epsilon.

    Reference: J. L. Ba, J. R. Kiros, G. E. Hinton, arXiv 1607.06450, eq. (3) and (4).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> constant = js.layers.LayerNorm().jacobian(jnp.ones(3)).dense()
        >>> round(float(constant.max()), 2)
        666.67
    """

    scale: Array | None = None
    bias: Array | None = None
    epsilon: float = static(default=1e-6)

    def __post_init__(self):
        """Check shapes and epsilon."""
        scale = _parameters.shaped("LayerNorm", "scale", self.scale, (None,), "(n,)")
        n = None if scale is None else scale.shape[0]
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "bias", _parameters.shaped("LayerNorm", "bias", self.bias, (n,), "(n,) as scale"))
        object.__setattr__(self, "epsilon", _parameters.epsilon("LayerNorm", self.epsilon))

    def _standardize(self, h):
        """z (n,) and s."""
        width = next((p.shape[0] for p in (self.scale, self.bias) if p is not None), None)
        _parameters.vector("LayerNorm", h, width)
        return normalized(centered(h, 0), 0, count=h.size, epsilon=self.epsilon)

    def __call__(self, h: Array, x: Any = None) -> Array:
        """gamma z + beta, shape (n,); x is not used."""
        del x
        z, _ = self._standardize(h)
        z = z if self.scale is None else z * self.scale
        return z if self.bias is None else z + self.bias

    def jacobian(self, h: Array, x: Any = None) -> Standardized:
        """J as an operator; its factors are ``normalization gain`` gamma / s and ``normalized state`` z."""
        del x
        z, s = self._standardize(h)
        gain = 1 / s if self.scale is None else self.scale / s
        return Standardized(gain.reshape(-1, 1), z[:, None], True)
