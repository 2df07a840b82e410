"""Several layers as one.

h' = F_L(... F_2(F_1(h))),    J = J_L ... J_2 J_1
"""

import functools
from typing import Any

from jax import Array

from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.layers import _calling
from jacspec.operators import Composed


@pytree
class Sequential:
    """h' = F_L(... F_1(h)), with J = J_L ... J_1: one step, for example the branch of a `Residual`.

    To ask about the product layer by layer, give the layers themselves to `layer_chain`.

    Args:
        *layers: callables, the first one applied first. One without a ``jacobian`` is linearized by autodiff.

    Raises:
        TypeError: if a layer is not callable.
        ValueError: if there is no layer.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> double, swap = js.layers.Dense(2.0 * jnp.eye(2)), js.layers.Dense(jnp.array([[0.0, 1.0], [1.0, 0.0]]))
        >>> js.layers.Sequential(double, swap).jacobian(jnp.zeros(2)).dense().tolist()
        [[0.0, 2.0], [2.0, 0.0]]
    """

    layers: tuple[Any, ...]

    def __init__(self, *layers: Any):
        name = "layers.Sequential"
        if not layers:
            raise ValueError(checks.message(name, "layers", "is empty", "no layer", "one layer or more"))
        for i, layer in enumerate(layers):
            if not callable(layer):
                got, hint = type(layer).__name__, "Pass the layers one by one, Sequential(a, b), not as a list."
                text = checks.message(name, f"layers[{i}]", "must be callable", got, "layer(h) -> h'", hint)
                raise TypeError(text)
        object.__setattr__(self, "layers", layers)

    def __call__(self, h: Array, x: Any = None) -> Array:
        """F_L(... F_1(h)); x goes to every layer if it is given."""
        for layer in self.layers:
            h = _calling.call(layer, h, x)
        return h

    def jacobian(self, h: Array, x: Any = None) -> Any:
        """J_L ... J_1 as an operator."""
        parts = []
        for layer in self.layers:
            parts.append(_calling.jacobian(layer, h, x))
            h = _calling.call(layer, h, x)
        return functools.reduce(lambda inner, outer: Composed(outer, inner), parts)
