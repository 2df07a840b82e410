"""A task: where its sequences come from, their targets, and when they count as learned.

A task fixes everything that two remedies must have in common to be compared: the law of the data, the loss, what a
predictor reaches that has learned nothing (`baseline`, `chance`), and the rule by which a sequence is wrong.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._ground import checks
from jacspec._ground.memory import affordable
from jacspec._ground.pytree import pytree, static

LONGEST = 10**9
"""Steps of a sequence: more than any memory holds."""


class Batch(NamedTuple):
    """Sequences with a target and a weight at every step.

    Attributes:
        inputs: (batch, T, features).
        targets: (batch, T) class numbers, or (batch, T, outputs) numbers where the loss is logistic or squared.
        weights: (batch, T), weight of each step in the loss; 0 where no answer is due and the target means nothing.
    """

    inputs: Array
    targets: Array
    weights: Array


Draw = Callable[[Any, Array, int], Batch]
"""`draw(data, key, count)`: a batch of `count` sequences."""


@pytree
class Task:
    """A law of sequences, a loss and a rule of success.

    A frozen value and a pytree: its leaves are the data of a real task, so pass it to a jitted function as an argument.

    Attributes:
        name: with the options that matter.
        length: T, steps of a sequence.
        features: numbers per input.
        outputs: numbers per output.
        kind: of the loss at a step: "cross_entropy" (logits of classes, nats), "logistic" (logits of bits, nats) or
            "squared"; the last two are means over the outputs.
        baseline: loss of the trivial predictor, which knows the law of the targets and has seen no input.
        chance: fraction of sequences that this predictor gets wrong.
        success: largest fraction wrong that counts as solved.
        tolerance: a sequence is wrong if its mean loss exceeds it; None: if any answer that is due is wrong (for a squared
            loss: not exact).
        held_out: number of sequences kept for evaluation; 0: fresh ones without end.
        scale: unit of the targets (a squared loss times scale^2 is in the units of the source).
        labels: names of the classes in the source of the data: class c is `labels[c]`; () where they are 0, 1, ...
        sha256: of the data of a real task, or "".
        data: arrays that `draw` and `draw_held_out` read.
        draw: the law of training batches.
        draw_held_out: the law of `evaluation`; `draw` if None.
    """

    name: str = static()
    length: int = static()
    features: int = static()
    outputs: int = static()
    kind: str = static()
    baseline: float = static()
    chance: float = static()
    draw: Draw = static()
    success: float = static(default=0.01)
    tolerance: float | None = static(default=None)
    held_out: int = static(default=0)
    scale: float = static(default=1.0)
    labels: tuple[Any, ...] = static(default=())
    sha256: str = static(default="")
    draw_held_out: Draw | None = static(default=None)
    data: Any = ()

    def __post_init__(self) -> None:
        name = "tasks.Task"
        checks.one_of(name, "kind", self.kind, ("cross_entropy", "logistic", "squared"))
        for size in ("length", "features", "outputs"):
            checks.integer(name, size, getattr(self, size), 1)
        checks.function(name, "draw", self.draw, "draw(data, key, count) -> Batch")
        for argument in ("baseline", "scale", "tolerance"):
            if (value := getattr(self, argument)) is not None or argument != "tolerance":
                checks.number(name, argument, value, f"a finite {argument} >= 0", lambda v: 0 <= v < math.inf)
        for argument in ("chance", "success"):
            checks.number(name, argument, getattr(self, argument), "a fraction in [0, 1]", lambda v: 0 <= v <= 1)

    def __repr__(self) -> str:
        scores = f"baseline={self.baseline:.6g}, chance={self.chance:.4g}, success={self.success:g}"
        return f"Task({self.name}: ({self.length}, {self.features}) -> {self.outputs}, {self.kind}, {scores})"

    def sample(self, key: Array, batch: int) -> Batch:
        """`batch` training sequences.

        Args:
            key: a JAX key.
            batch: number of sequences.

        Returns:
            A `Batch`, generated on the device.

        Raises:
            TypeError: if `key` is no key or `batch` no integer.
            ValueError: for batch < 1, a batch that no memory holds, or more than one key.
        """
        return self._drawn(self.draw, "sample", key, "batch", batch)

    def evaluation(self, key: Array, count: int) -> Batch:
        """`count` sequences to judge by: fresh ones, or of the held-out data of a real task.

        Held-out sequences come in random order, none twice before all have occurred once: `count = held_out` is all of them.

        Args:
            key: a JAX key; not one that training uses.
            count: number of sequences.

        Returns:
            A `Batch`.

        Raises:
            TypeError: if `key` is no key or `count` no integer.
            ValueError: for count < 1, a count that no memory holds, or more than one key.
        """
        return self._drawn(self.draw_held_out or self.draw, "evaluation", key, "count", count)

    def _drawn(self, draw: Draw, method: str, key: Any, argument: str, count: Any) -> Batch:
        name = f"tasks.Task.{method}"
        count = checks.integer(name, argument, count, 1, checks.INT32_MAX)
        affordable(name, argument, count, count * self.length * self.features, "their inputs")
        return _drawn(draw, self.data, checks.key(name, key), count)

    def step_losses(self, outputs: Array, batch: Batch) -> Array:
        """The loss of each step before weighting.

        Args:
            outputs: (batch, T, outputs), logits or predictions.
            batch: what they answer.

        Returns:
            (batch, T), nats or squared units of `scale`; float32 at least.

        Raises:
            TypeError: for outputs that are no floating array, or what is no `Batch`.
            ValueError: for outputs of another shape.
        """
        checks.instance("tasks.Task", "batch", batch, Batch, "Take it from sample or evaluation.")
        outputs = checks.array("tasks.Task", "outputs", outputs)
        expected = (*batch.weights.shape, self.outputs)
        if outputs.shape != expected:
            hint = f"{self.name} asks for (batch, T, outputs)."
            text = checks.message(
                "tasks.Task", "outputs", "have the wrong shape", f"shape {outputs.shape}", str(expected), hint
            )
            raise ValueError(text)
        y = _wide(outputs)
        if self.kind == "cross_entropy":
            return -jnp.take_along_axis(jax.nn.log_softmax(y), batch.targets[..., None], axis=-1)[..., 0]
        if self.kind == "logistic":  # -ln sigmoid(y) for a 1, -ln sigmoid(-y) for a 0
            return jnp.mean(jax.nn.softplus(y * (1 - 2 * batch.targets)), axis=-1)
        return jnp.mean((y - batch.targets) ** 2, axis=-1)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """sum w l / sum w over all sequences and steps.

        Args:
            outputs: (batch, T, outputs), logits or predictions.
            batch: what they answer.

        Returns:
            A scalar, nats or a mean squared error.

        Raises:
            ValueError: for outputs of another shape.
        """
        losses, w = self.step_losses(outputs, batch), _wide(batch.weights)
        return jnp.sum(w * losses) / jnp.sum(w)

    def step_errors(self, outputs: Array, batch: Batch) -> Array:
        """At which steps an answer that is due is wrong; one that is not finite is.

        Args:
            outputs: (batch, T, outputs), logits or predictions.
            batch: what they answer.

        Returns:
            (batch, T) bool: another class has the largest logit; a bit the wrong sign; a squared loss is over `tolerance`.

        Raises:
            ValueError: for outputs of another shape.
        """
        losses = self.step_losses(outputs, batch)
        if self.kind == "cross_entropy":
            wrong = jnp.argmax(outputs, axis=-1) != batch.targets
        elif self.kind == "logistic":
            wrong = jnp.any((outputs >= 0) != (batch.targets > 0.5), axis=-1)
        else:
            wrong = ~(losses <= (self.tolerance or 0.0))
        return (wrong | ~jnp.isfinite(losses) | ~jnp.all(jnp.isfinite(outputs), axis=-1)) & (batch.weights > 0)

    def wrong(self, outputs: Array, batch: Batch) -> Array:
        """Which sequences are wrong, by the rule of the task.

        Args:
            outputs: (batch, T, outputs), logits or predictions.
            batch: what they answer.

        Returns:
            (batch,) bool.

        Raises:
            ValueError: for outputs of another shape.
        """
        if self.tolerance is None:
            return jnp.any(self.step_errors(outputs, batch), axis=1)
        w = _wide(batch.weights)
        mean = jnp.sum(w * self.step_losses(outputs, batch), axis=1) / jnp.sum(w, axis=1)
        return ~(mean <= self.tolerance) | ~jnp.isfinite(mean)


def _wide(x: Array) -> Array:
    """In float32 at least: sums of float16 weights overflow at 65504 steps."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@partial(jax.jit, static_argnames=("draw", "count"))
def _drawn(draw: Draw, data: Any, key: Array, count: int) -> Batch:
    return draw(data, key, count)


def at_the_end(targets: Array, length: int, dtype: Any) -> tuple[Array, Array]:
    """One target a sequence, due at the last step.

    Args:
        targets: (batch,) or (batch, outputs).
        length: T.
        dtype: of the weights.

    Returns:
        targets (batch, T) or (batch, T, outputs), the same at all steps, and weights (batch, T), 1 at the last.
    """
    count = targets.shape[0]
    last = jnp.zeros((count, length), dtype).at[:, -1].set(1)
    return jnp.broadcast_to(targets[:, None], (count, length, *targets.shape[1:])), last


def at_least(task: str, length: Any, least: int, holds: str) -> int:
    """`length` as an int of at least `least` steps, so that a sequence can hold what `holds` names."""
    name = f"tasks.{task}"
    if isinstance(length, (int, np.integer)) and not isinstance(length, bool) and length < least:
        expected = f"a length of at least {least}"
        raise ValueError(checks.message(name, "length", "is too short", length, expected, f"It must hold {holds}."))
    return checks.integer(name, "length", length, least, LONGEST)


def precision(task: str, dtype: Any) -> Any:
    """The floating dtype that `dtype` names, as JAX will use it: float64 is float32 where jax_enable_x64 is off."""
    want = "jnp.float32, or another floating dtype of 16 bits or more"
    try:
        found = jnp.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(checks.message(f"tasks.{task}", "dtype", "is no dtype", repr(dtype), want)) from error
    if not jnp.issubdtype(found, jnp.floating) or found.itemsize < 2:
        raise TypeError(checks.message(f"tasks.{task}", "dtype", "holds no numbers of a network", found, want))
    checks.warn_if_narrowed(f"tasks.{task}", "dtype", np.empty(0, found))
    return jax.dtypes.canonicalize_dtype(found)
