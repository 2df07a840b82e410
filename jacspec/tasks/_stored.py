"""Tasks whose sequences are stored: drawing from them, and how frequent their classes are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from jacspec.tasks._task import Batch, Task


def stored(
    name: str, train: Batch, held_out: Batch, outputs: int, kind: str, baseline: float, chance: float, **fields: Any
) -> Task:
    """A task that draws training sequences with replacement and held-out ones without."""
    _, length, features = train.inputs.shape
    return Task(
        name, length, features, outputs, kind, baseline, chance, _any_trained,
        held_out=len(held_out.inputs), draw_held_out=_any_held_out, data={"train": train, "held_out": held_out}, **fields,
    )  # fmt: skip


def _any_trained(data: Any, key: Array, count: int) -> Batch:
    rows = random.randint(key, (count,), 0, len(data["train"].inputs))
    return jax.tree.map(lambda a: a[rows], data["train"])


def _any_held_out(data: Any, key: Array, count: int) -> Batch:
    rows = any_order(key, len(data["held_out"].inputs), count)
    return jax.tree.map(lambda a: a[rows], data["held_out"])


def any_order(key: Array, size: int, count: int) -> Array:
    """`count` of the numbers below `size` in random order; none is repeated before all have occurred."""
    return random.permutation(key, size)[jnp.arange(count) % size]


def frequencies(classes: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """How frequent each of `count` classes is, with 1/2 added to each count so that none is impossible."""
    counts = np.bincount(classes, weights, count) + 0.5
    return counts / counts.sum()
