"""The residual connection.

h' = h + alpha F(h),    J = I + alpha J_F
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec import operators
from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.layers import _calling


@pytree
class ResidualJacobian:
    """J = I + scale B, with B the Jacobian of the branch."""

    branch: Any
    scale: Array

    def push(self, V: Array) -> Array:
        """V + scale (B V)."""
        return V + self.scale * self.branch.push(V)

    def pull(self, U: Array) -> Array:
        """U + scale (B^T U)."""
        return U + self.scale * self.branch.pull(U)

    def dense(self) -> Array:
        """I + scale B."""
        B = self.branch.dense()
        return jnp.eye(B.shape[0], dtype=B.dtype) + self.scale * B

    def row_norms(self) -> Array:
        """1 + abs(scale) ||B_i||, an upper bound."""
        return 1 + jnp.abs(self.scale) * operators.row_norms(self.branch)

    @property
    def factors(self) -> dict[str, Array]:
        """``branch scale``, and the factors of the branch, each named ``branch ...``."""
        return {"branch scale": self.scale} | {f"branch {k}": v for k, v in self.branch.factors.items()}


@pytree
class Residual:
    """h' = h + scale F(h), with J = I + scale J_F.

    Args:
        layer: F, any callable whose output has the shape of its input: a layer, a `Sequential`, a function. One that
            brings no ``jacobian`` is linearized by automatic differentiation.
        scale: alpha, a number or a floating scalar array. It is a leaf: with 0 at the start this is SkipInit.

    Raises:
        TypeError: if `layer` is not callable or `scale` is not a floating number.
        ValueError: if `scale` is not a scalar or not finite; on a call, if the branch changes the shape.

    Reference: K. He et al., CVPR 2016, eq. (1); S. De, S. L. Smith, NeurIPS 2020 (SkipInit).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layer = js.layers.Residual(js.layers.Dense(jnp.ones((2, 2))), scale=0.5)
        >>> layer.jacobian(jnp.zeros(2)).dense().tolist()
        [[1.5, 0.5], [0.5, 1.5]]
    """

    layer: Any
    scale: Any = 1.0

    def __post_init__(self):
        """Check that the branch can be called, and the scale."""
        name = "layers.Residual"
        if not callable(self.layer):
            text = checks.message(name, "layer", "must be callable", type(self.layer).__name__, "layer(h) -> h'")
            raise TypeError(text)
        scale = self.scale
        if isinstance(scale, (int, float)):
            scale = jnp.asarray(checks.plain_number(name, "scale", scale))
        object.__setattr__(self, "scale", checks.array(name, "scale", scale, 0, "a floating scalar"))

    def __call__(self, h: Array, x: Any = None) -> Array:
        """h + scale F(h), of the shape of h; x goes to the branch if it is given."""
        out = _calling.call(self.layer, h, x)
        _check_shape(h, out.shape)
        return h + self.scale * out

    def jacobian(self, h: Array, x: Any = None) -> ResidualJacobian:
        """I + scale J_F as an operator; its factors are ``branch scale`` and those of the branch."""
        _check_shape(h, jax.eval_shape(lambda h: _calling.call(self.layer, h, x), h).shape)
        return ResidualJacobian(_calling.jacobian(self.layer, h, x), self.scale)


def _check_shape(h, shape):
    if h.shape != shape:
        got, hint = f"{h.shape} -> {shape}", "Put a layer that changes the width beside the residual ones, not inside."
        raise ValueError(checks.message("layers.Residual", "layer", "changes the shape", got, f"{h.shape}", hint))
