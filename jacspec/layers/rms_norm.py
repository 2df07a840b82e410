"""Root-mean-square normalization.

z = h / s,    s^2 = mean(h^2) + epsilon,    h' = gamma z
J = diag(gamma / s) (I - z z^T / n)
"""

from typing import Any

from jax import Array

from jacspec._ground.arithmetic import normalized
from jacspec._ground.pytree import pytree, static
from jacspec.layers import _parameters
from jacspec.operators.normalization import Standardized


@pytree
class RMSNorm:
    """h' = gamma h / sqrt(mean(h^2) + epsilon) over the units of one example.

    The zero state gives 0 and the gain gamma / sqrt(epsilon); with epsilon = 0 it has no derivative and gives NaN.

    Args:
        scale: gamma, (n,), or None for ones.
        epsilon: added to the mean square; 1e-6 as in Flax, 0 allowed.

    Raises:
        TypeError: for a scale that is not a floating array.
        ValueError: for shapes that do not fit or a negative epsilon.

    Reference: B. Zhang, R. Sennrich, NeurIPS 2019, eq. (4).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layer = js.layers.RMSNorm(epsilon=0.0)
        >>> layer(jnp.array([3.0, -3.0])).tolist()
        [1.0, -1.0]
    """

    scale: Array | None = None
    epsilon: float = static(default=1e-6)

    def __post_init__(self):
        """Check shapes and epsilon."""
        object.__setattr__(self, "scale", _parameters.shaped("RMSNorm", "scale", self.scale, (None,), "(n,)"))
        object.__setattr__(self, "epsilon", _parameters.epsilon("RMSNorm", self.epsilon))

    def _standardize(self, h):
        """z (n,) and s."""
        _parameters.vector("RMSNorm", h, None if self.scale is None else self.scale.shape[0])
        return normalized(h, 0, count=h.size, epsilon=self.epsilon)

    def __call__(self, h: Array, x: Any = None) -> Array:
        """gamma z, shape (n,); x is not used."""
        del x
        z, _ = self._standardize(h)
        return z if self.scale is None else z * self.scale

    def jacobian(self, h: Array, x: Any = None) -> Standardized:
        """J as an operator; its factors are ``normalization gain`` gamma / s and ``normalized state`` z."""
        del x
        z, s = self._standardize(h)
        gain = 1 / s if self.scale is None else self.scale / s
        return Standardized(gain.reshape(-1, 1), z[:, None], False)
