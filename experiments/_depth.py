"""Deep networks as scans over their equal layers, which are values with parameters as leaves; and the digits they read."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jacspec import models, tasks


@functools.cache
def digits() -> Any:
    """Training and held-out pixels with their classes."""
    task = tasks.digits()
    held = task.evaluation(jax.random.key(0), task.held_out)
    flat = lambda batch: (batch.inputs.reshape(len(batch.inputs), -1), batch.targets[:, -1])
    return flat(task.data["train"]), flat(held)


def stacked(model: models.Deep, like: jax.Array) -> tuple[Any, Any, Any]:
    """The first layer, the equal ones stacked, and the readout, of a network that reads inputs like this one."""
    first, *hidden, head = model.layers(like)
    return first, jax.tree.map(lambda *leaves: jnp.stack(leaves), *hidden), head


def outputs(net: Any, x: jax.Array) -> jax.Array:
    """The logits of what the layers take as one state."""
    first, hidden, head = net
    return head(jax.lax.scan(lambda h, layer: (layer(h), None), first(x), hidden)[0])


def loss(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy, nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))
