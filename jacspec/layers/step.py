"""The step of a network over depth whose drivers are its layers: h_l = F_l(h_{l-1})."""

from typing import Any

from jax import Array

from jacspec._ground.pytree import pytree
from jacspec.layers import _calling


@pytree
class LayerStep:
    """step(h, layer) = layer(h), for `jacspec.jacobian_chain` over equal layers stacked along their leading axis.

    All layers are then one program in one scan; `jacspec.layer_chain` takes layers that differ, one by one.

    Example:
        >>> import jax, jax.numpy as jnp, jacspec as js
        >>> five = [js.layers.Dense(0.5 * jnp.eye(2))] * 5
        >>> stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *five)
        >>> chain = js.jacobian_chain(js.layers.LayerStep(), jnp.ones(2), stacked)
        >>> [round(float(v), 3) for v in js.log_singular_values(chain)]  # 5 ln 0.5
        [-3.466, -3.466]
    """

    def __call__(self, h: Array, layer: Any) -> Array:
        """layer(h), the state behind the layer."""
        return layer(h)

    def jacobian(self, h: Array, layer: Any) -> Any:
        """The layer's own step Jacobian, or that of automatic differentiation."""
        return _calling.jacobian(layer, h)
