"""A layer applied to each example of a batch that is one state.

h'_b = F(h_b),    J = blockdiag(J_F(h_1), ..., J_F(h_B))
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
class BlockDiagonal:
    """J = blockdiag(J_F(h_1), ..., J_F(h_B)), the states of the examples flattened one after another.

    The blocks are rebuilt where they are used, so that the layer's weights stay one array: a push is one matrix product
    with them for the whole batch.

    Attributes:
        layer: F.
        states: shape (B, ...).
    """

    layer: Any
    states: Array

    def _each(self, question, *args):
        return jax.vmap(lambda h, *a: question(_calling.jacobian(self.layer, h), *a))(self.states, *args)

    def push(self, V: Array) -> Array:
        """J_F(h_b) V_b for every b, (B n, k) -> (B m, k)."""
        parts = V.reshape(self.states.shape[0], -1, V.shape[-1])
        return self._each(lambda J, v: J.push(v), parts).reshape(-1, V.shape[-1])

    def pull(self, U: Array) -> Array:
        """J_F(h_b)^T U_b for every b, (B m, k) -> (B n, k)."""
        parts = U.reshape(self.states.shape[0], -1, U.shape[-1])
        return self._each(lambda J, u: J.pull(u), parts).reshape(-1, U.shape[-1])

    def dense(self) -> Array:
        """J, (B m, B n)."""
        blocks = self._each(lambda J: J.dense())
        B, m, n = blocks.shape
        at = jnp.arange(B)
        return jnp.zeros((B, m, B, n), blocks.dtype).at[at, :, at].set(blocks).reshape(B * m, B * n)

    def row_norms(self) -> Array:
        """Those of the blocks."""
        return self._each(operators.row_norms).ravel()

    @property
    def factors(self) -> dict[str, Array]:
        """Those of the layer; the ones that depend on the state have a leading axis B."""
        out = {}
        for name in jax.eval_shape(lambda h: _calling.jacobian(self.layer, h).factors, self.states[0]):
            factor = lambda h, name=name: _calling.jacobian(self.layer, h).factors[name]
            try:  # a factor that is the same for all examples has no batch axis, and is not copied
                out[name] = jax.vmap(factor, out_axes=None)(self.states)
            except ValueError:
                out[name] = jax.vmap(factor)(self.states)
        return out


@pytree
class PerExample:
    """h'_b = F(h_b) for each row of a (B, n) state, with a block-diagonal J.

    It is for layers beside a `BatchNorm` in training mode, whose state is the whole batch; everywhere else the
    batch axis belongs outside, to `jax.vmap` or `jacspec.batched`.

    Args:
        layer: F, any callable on one example.

    Raises:
        TypeError: if `layer` is not callable.
        ValueError: on a call, if the state has no batch axis.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> dense = js.layers.PerExample(js.layers.Dense(2.0 * jnp.eye(1)))
        >>> layer = js.layers.Sequential(dense, js.layers.BatchNorm())
        >>> layer.jacobian(jnp.array([[1.0], [3.0], [5.0]])).dense().shape
        (3, 3)
    """

    layer: Any

    def __post_init__(self):
        """Check that the layer can be called."""
        if not callable(self.layer):
            got = type(self.layer).__name__
            raise TypeError(checks.message("layers.PerExample", "layer", "must be callable", got, "layer(h) -> h'"))

    def __call__(self, h: Array, x: Any = None) -> Array:
        """F(h_b) for each b, shape (B, ...); x is not used."""
        del x
        _check_batch(h)
        return jax.vmap(self.layer)(h)

    def jacobian(self, h: Array, x: Any = None) -> Any:
        """The block-diagonal Jacobian as an operator, (B m) x (B n)."""
        del x
        _check_batch(h)
        if any(
            map(callable, jax.tree.leaves(self.layer))
        ):  # a bare function, which `BlockDiagonal` cannot carry as leaves
            return _calling.linearize(jax.vmap(self.layer), h)
        return BlockDiagonal(self.layer, h)


def _check_batch(h):
    if not hasattr(h, "shape") or len(h.shape) < 2 or h.shape[0] == 0:
        got = f"shape {h.shape}" if hasattr(h, "shape") else type(h).__name__
        raise ValueError(checks.message("layers.PerExample", "h", "must be a batch", got, "(B, n) with B >= 1"))
