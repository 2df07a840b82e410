"""Changes of a task's inputs before the network sees them: each makes another `Task` with the same answers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground.arithmetic import matmul
from jacspec.remedies import importance_weights
from jacspec.remedies.norm import parts_and_norm
from jacspec.tasks import Batch, Task

SAMPLE = 1024
"""Training sequences over which means and covariances are taken: a standard error of 1/32 of a deviation."""

KEPT = 1e-6
"""Whitening leaves out directions with a smaller share of the variance: in float32 they are near rounding."""

DUE_LAST = ("adding", "multiplication", "temporal_order", "permutation", "digits", "sunspots")
"""Tasks whose answer is due at the last step, by the first word of their names."""


def due_last(task: Task) -> bool:
    """Whether nothing is asked for before the last step."""
    if has_shift(task):
        return all(not part.weights[:, :-1].any() for part in task.data.values())
    return task.name.partition(",")[0] in DUE_LAST


def standardized(task: Task, *, whole: bool = False) -> Task:
    """Every feature with mean 0 and variance 1 over the training sequences and steps; constant ones become 0.

    With `whole`, the T x features numbers of a sequence are features of one vector.
    """
    x, exponent = _in_range(_seen(task, whole), axis=0)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    varies = deviation > 0
    scale = jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0)
    return _mapped(task, whole, lambda c, x: (jnp.ldexp(x, -c[0]) - c[1]) * c[2], (exponent, mean, scale))


def whitened(task: Task, *, whole: bool = False) -> Task:
    """x -> C^(-1/2) (x - mean): features without correlation and of variance 1; C^(-1/2) is symmetric (ZCA).

    With `whole`, the T x features numbers of a sequence are features of one vector.
    """
    x, exponent = _in_range(_seen(task, whole), axis=(0, 1))
    mean = x.mean(axis=0)
    variance, V = jnp.linalg.eigh(matmul((x - mean).T, x - mean) / len(x))
    kept = variance > KEPT * variance.sum()
    inverse_root = jnp.where(kept, jnp.where(kept, variance, 1) ** -0.5, 0)
    W = matmul(V * inverse_root, V.T)
    return _mapped(task, whole, lambda c, x: matmul(jnp.ldexp(x, -c[0]) - c[1], c[2]), (exponent, mean, W))


def _in_range(x: Array, axis: Any) -> tuple[Array, Array]:
    """x 2^-E and E, for columns or for all of x, such that squares neither overflow nor underflow."""
    (parts,), size = parts_and_norm([x], axis)
    return parts, size.exponent


def _seen(task: Task, whole: bool) -> Array:
    """Inputs of training, (vectors, features)."""
    return _vectors(task.sample(jax.random.key(0), SAMPLE).inputs, whole).reshape(-1, _size(task, whole))


def _vectors(x: Array, whole: bool) -> Array:
    return x.reshape(len(x), 1, -1) if whole else x


def _size(task: Task, whole: bool) -> int:
    return task.features * (task.length if whole else 1)


def _mapped(task: Task, whole: bool, change: Callable[[Any, Array], Array], constants: Any) -> Task:
    """The task with the vectors x of its inputs replaced by `change(constants, x)`."""
    held_out = task.draw_held_out or task.draw

    def changed(data: Any, batch: Batch) -> Batch:
        new = change(data["constants"], _vectors(batch.inputs, whole))
        return batch._replace(inputs=new.reshape(batch.inputs.shape))

    return dataclasses.replace(
        task,
        draw=lambda data, key, count: changed(data, task.draw(data["task"], key, count)),
        draw_held_out=lambda data, key, count: changed(data, held_out(data["task"], key, count)),
        data={"task": task.data, "constants": constants},
    )


def has_shift(task: Task) -> bool:
    """Whether training and held-out sequences are stored, so that their inputs may follow different laws."""
    return isinstance(task.data, dict) and isinstance(task.data.get("train"), Batch)


def reweighted(task: Task) -> Task:
    """Training sequences weighted by p_held_out(x) / p_train(x), x the whole sequence; the answers are not used."""
    train, held_out = (task.data[part].inputs for part in ("train", "held_out"))
    weights = importance_weights(*(x.reshape(len(x), -1) for x in (train, held_out)))
    weighted = task.data["train"]._replace(weights=task.data["train"].weights * weights[:, None])
    return dataclasses.replace(task, data=task.data | {"train": weighted})
