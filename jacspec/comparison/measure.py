"""How gradients travel through a network, in leading exponents and a slope: a probe for `jacspec.training`.

The chain runs over time, or over the hidden layers of equal width of a deep network.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground.pytree import pytree
from jacspec.chain import JacobianChain, jacobian_chain
from jacspec.layers import LayerStep
from jacspec.questions.exponents import lyapunov_exponents
from jacspec.questions.gradients import log_gradient_norms
from jacspec.tasks import Batch, Task
from jacspec.training import reading

LEADING = 4
"""Number of exponents that are measured."""

SEQUENCES = 8
"""Sequences over which exponents and slopes are averaged; with BatchNorm the whole batch is one state instead."""


@pytree
class Measure:
    """Leading exponents of the chain, and the slope of the log gradient norm along it.

    Attributes:
        task: whose loss the gradient is of.
    """

    task: Task

    def __call__(self, model: Any, batch: Batch) -> dict[str, Array]:
        """The measures of a model.

        Args:
            model: of `jacspec.models`.
            batch: held-out sequences.

        Returns:
            ``exponents``, (k,): leading growth rates of the QR recursion after a fifth of the steps, nats per step,
            descending. ``slope``: of log||dE/dh_t|| against t by least squares, nats per step; positive where the
            gradient vanishes on its way back, inf where it vanishes exactly. Both NaN where they are not resolved for
            one of the sequences.
        """
        if reading.joint(model):
            return self._measured(model, batch.inputs, batch)
        few = jax.tree.map(lambda a: a[:SEQUENCES], batch)
        singles = jax.tree.map(lambda a: a[:, None], few)  # batches of one
        each = jax.vmap(lambda single: self._measured(model, single.inputs[0], single))(singles)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), each)

    def _measured(self, model: Any, x: Array, batch: Batch) -> dict[str, Array]:
        over_time = reading.over_time(model)
        chain, cotangent = (self._over_time if over_time else self._over_depth)(model, x, batch)
        T, n = chain.length, chain.shape[0]
        k = min(LEADING, n)
        if T == 0:
            return {"exponents": jnp.full(k, jnp.nan), "slope": jnp.asarray(jnp.nan)}
        found = lyapunov_exponents(chain, k=k, transient=T // 5)
        exponents = reading.resolved_or_nan(found.exponents, found)
        return {"exponents": exponents, "slope": slope(log_gradient_norms(chain, cotangent))}

    def _over_time(self, model: Any, x: Array, batch: Batch) -> tuple[JacobianChain, Any]:
        """The chain of a sequence x (T, features), and dE/dh_t."""
        chain = reading.chain(model, x)
        y_bar = reading.error_signal(self.task, batch, reading.outputs(model, x[None]))[0]
        return chain, reading.cotangent(model, chain.states, y_bar)

    def _over_depth(self, model: Any, x: Array, batch: Batch) -> tuple[JacobianChain, Array]:
        """The chain from the first layer to the readout at x, (T, features) or a whole batch, and dE/dh at its end."""
        vectors = jax.vmap(model.entry)(x) if x.ndim == 3 else model.entry(x)
        first, *hidden, head = model.layers(vectors)
        start = first(vectors)
        if not hidden:
            return jacobian_chain(LayerStep(), start, length=0), jnp.zeros(start.size)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *hidden)
        chain = jacobian_chain(LayerStep(), start, stacked, check=False)
        y, pull = jax.vjp(head, chain.states[-1])
        shape = (len(x), 1, -1) if x.ndim == 3 else (1, 1, -1)
        return chain, pull(reading.error_signal(self.task, batch, y.reshape(shape)).reshape(y.shape))[0]


def slope(log_norms: Array) -> Array:
    """The slope of log norms (T+1,) against t = 0..T by least squares; inf if one is -inf, NaN if one is."""
    t = jnp.arange(log_norms.size, dtype=log_norms.dtype)
    t = t - jnp.mean(t)
    found = jnp.sum(t * jnp.where(jnp.isneginf(log_norms), 0, log_norms)) / jnp.sum(t * t)
    return jnp.where(jnp.isneginf(log_norms).any() & ~jnp.isnan(log_norms).any(), jnp.inf, found)
