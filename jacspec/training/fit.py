"""`fit`: a model, a task and an optimizer in, a trained model and the record of its training out."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from jacspec._ground import checks
from jacspec.tasks import Task
from jacspec.training import _options, _trial
from jacspec.training._driver import Training
from jacspec.training._loop import EXPLODED, RUNNING, SOLVED, STOPPED
from jacspec.training._user_code import reported_as
from jacspec.training.trace import Trace, locate

STATUS = {RUNNING: "finished", EXPLODED: "exploded", SOLVED: "solved", STOPPED: "stopped"}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """The outcome of a training.

    Attributes:
        model: the trained model; after an explosion the last finite one.
        optimizer_state: for `jacspec.remedies.clip_report` and `reject_report`.
        history: arrays over the records, the first before any update. ``update``: updates done; ``loss`` and
            ``metric``: held-out loss, and fraction of the held-out sequences that are wrong; ``training_loss``,
            ``gradient_norm`` and ``clip_rate``: means over the updates since the record before, NaN in the first;
            the last NaN, too, where nothing clips; ``log_gradient_norm``: the largest, nats, right beyond the range of floating
            point; ``rejected``: updates rejected so far; ``seconds``: so far; and whatever the probes return.
        status: "finished", "solved", "stopped" (by the callback) or "exploded".
        updates: number done.
        solved_at: that number if the success criterion held, else None.
        loss: the last held-out loss.
        metric: the last fraction of held-out sequences wrong.
        trace: where the explosion began, or None.
        seconds: wall time, that before an interruption included.
        seed: of the data.
    """

    model: Any
    optimizer_state: Any
    history: dict[str, np.ndarray]
    status: str
    updates: int
    solved_at: int | None
    loss: float
    metric: float
    trace: Trace | None
    seconds: float
    seed: int

    def __repr__(self) -> str:
        text = f"{self.status} after {self.updates} updates, loss={self.loss:.6g}, metric={self.metric:.4g}"
        return f"Fit({text})" if self.trace is None else f"Fit({text}; {self.trace})"


def fit(
    model: nnx.Module,
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    updates: int,
    batch: int = 32,
    seed: int = 0,
    every: int = 100,
    probes: Sequence[Callable] = (),
    regularizer: Callable | None = None,
    success: float | bool | None = None,
    jump: float | None = 100.0,
    patience: int = 0,
    held_out: int | None = None,
    log: str | os.PathLike | None = None,
    callback: Callable | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = False,
) -> Fit:
    """Train a model on a task: many updates in one compiled loop, probes between two loops, and a trace of an explosion.

        loss = task.loss + regularizer,    theta <- theta + optimizer(d loss / d theta)

    Every update is guarded by `jacspec.remedies.reject_nonfinite`: what is not finite is never applied. Batch and
    held-out data depend on the seed and the number of the update alone, so that every optimizer sees the same, and a
    second run gives the same bits.

    Args:
        model: a `jacspec.models` model, or an `nnx.Module` that maps (batch, T, features) to (batch, T, outputs), or to
            (batch, outputs) for the last step: a `jacspec.training.Model`. It is not changed; `Fit.model` is the trained one.
        task: of `jacspec.tasks`.
        optimizer: any Optax transformation; remedies are chained into it. It may take ``value``, ``grad`` and
            ``value_fn``, as `optax.lbfgs` does.
        updates: number of updates at most.
        batch: sequences an update.
        seed: of the data, 0..2**32-1; the model is made with a seed of its own.
        every: updates between two records.
        probes: callables ``probe(model, batch) -> dict of real arrays``, compiled, called at every record on the same
            `batch` held-out sequences; see `SpectrumProbe` and `jacspec.training.Probe`.
        regularizer: callable ``regularizer(model, batch) -> real scalar``, added to the loss, or None; `batch` is a
            `jacspec.tasks.Batch`.
        success: largest fraction of held-out sequences wrong that ends the training; None: the task's own; False: never.
        jump: a training loss above `jump` times the larger of the task's baseline and the median of the last 32
            training losses is an explosion; None: no finite loss is.
        patience: updates in a row that may be rejected as not finite before that is an explosion.
        held_out: number of held-out sequences to judge by, `batch` at least; None: 1000, or all that the task has.
        log: path of a JSON-lines file: a header with configuration and versions, then a line a record.
        callback: ``callback(record)``, after every record; what is true stops.
        checkpoint: a directory, written by Orbax after every record. A rerun with the same arguments goes on from there
            and ends with the same bits.
        progress: show a bar.

    Returns:
        A `Fit`.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for arguments out of range, a model that does not fit the task, paths that cannot be written, a
            checkpoint that is damaged or of other arguments. All but the last is found before anything is compiled.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from jacspec import models, tasks, training
        >>> task = tasks.adding(10)
        >>> model = models.Recurrent("elman", task.features, 4, task.outputs, readout="last", rngs=nnx.Rngs(0))
        >>> found = training.fit(model, task, optax.sgd(0.01), updates=20, every=10)
        >>> found.status, found.history["update"].tolist()
        ('finished', [0, 10, 20])
    """
    given = locals()
    options = {field.name: given[field.name] for field in _options.FIELDS}
    return _train("training.fit", [model], task, optimizer, [seed], options)[0]


def fit_seeds(
    make: Callable[[nnx.Rngs], nnx.Module],
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seeds: Iterable[int],
    **options: Any,
) -> list[Fit]:
    """`fit` for several seeds as one program: ``[fit(make(nnx.Rngs(seed)), ..., seed=seed) for seed in seeds]``.

    Equal within rounding. A seed that is solved or has exploded stays as it is while the others go on.

    Args:
        make: ``make(rngs) -> model``; the models must differ in their numbers only.
        task: as in `fit`.
        optimizer: as in `fit`.
        seeds: of model and data, one at least, 0..2**32-1.
        **options: of `fit`. A record and a line of the log have their ``seed``.

    Returns:
        One `Fit` for every seed, in their order.

    Raises:
        TypeError: as `fit`.
        ValueError: as `fit`, and for models that differ in shape.
    """
    name = "training.fit_seeds"
    checks.function(name, "make", make, "make(rngs) -> model")
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        hint = "Use range(5) for five seeds."
        raise TypeError(checks.message(name, "seeds", "must be numbers", repr(seeds), "a sequence of integers", hint))
    seeds = [checks.integer(name, "seeds", seed, 0, 2**32 - 1) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(checks.message(name, "seeds", "must be different numbers", seeds, "one seed or more"))
    with reported_as(name, "make", "make(rngs) -> model"):
        models = [make(nnx.Rngs(seed)) for seed in seeds]
    of_fit = inspect.signature(fit).parameters
    if "updates" not in options:
        raise TypeError(checks.message(name, "updates", "is missing", expected="a number of updates"))
    defaults = {field.name: of_fit[field.name].default for field in _options.FIELDS}
    return _train(name, models, task, optimizer, seeds, defaults | options)


def _train(
    name: str, models: list[nnx.Module], task: Task, optimizer: Any, seeds: list[int], options: dict[str, Any]
) -> list[Fit]:
    """One `Fit` a seed; `name` is the public function that is called, `options` are all of them by name."""
    checks.instance(name, "task", task, Task, "Take one of jacspec.tasks.")
    seeds = [checks.integer(name, "seed", seed, 0, 2**32 - 1, "A seed lies in 0..2**32-1.") for seed in seeds]
    checked = _options.checked(name, options, task, optimizer)
    _trial.data(name, task, {"batch": checked.batch, "held_out": checked.held_out})
    _trial.model(name, models[0], task, checked.batch)  # the others have its shapes, or are refused
    for other in models[1:]:
        checks.instance(name, "make", other, type(models[0]), "One kind of model for all seeds.")
    training = Training(name, models, task, optimizer, seeds, checked)
    training.run()
    return [_fit_of(training, i) for i in range(len(seeds))]


def _fit_of(training: Training, i: int) -> Fit:
    """The outcome for seed number i."""
    state = jax.tree.map(lambda leaf: leaf[i], training.states)
    rows, code = training.records[i], int(state.status)
    history = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    exploded = code == EXPLODED
    return Fit(
        model=training.program.model(state),
        optimizer_state=state.optimizer,
        history=history,
        status=STATUS[code],
        updates=int(state.update),
        solved_at=int(state.update) if code == SOLVED else None,
        loss=float(history["loss"][-1]),
        metric=float(history["metric"][-1]),
        trace=_trace(training, state, i) if exploded else None,
        seconds=float(history["seconds"][-1]),
        seed=training.seeds[i],
    )


def _trace(training: Training, state: Any, i: int) -> Trace:
    """Where the explosion of seed i began; a chain of the user's that fails says so and does not cost the training."""
    try:
        return locate(training.program, state, training.keys[i], training.task)
    except Exception as error:
        where = f"the trace did not succeed: {type(error).__name__}: {error}"
        return Trace("unknown", int(state.update), where)
