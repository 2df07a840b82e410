"""The part of a training that runs on the host: one dispatch after another, with records, log and checkpoint."""

import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jacspec import results
from jacspec._ground import checks
from jacspec._ground.jsonable import jsonable
from jacspec.tasks import Task
from jacspec.training import _trial
from jacspec.training._loop import RUNNING, STOPPED, Program, State
from jacspec.training._options import Options
from jacspec.training.checkpoint import Checkpoint, fingerprint


class Training:
    """The states of all seeds, stacked, and their records so far.

    Args:
        name: the public function that is called, for messages.
        models: one for every seed, of equal shapes.
        task: what they learn.
        optimizer: any Optax transformation.
        seeds: of the data.
        options: checked.
    """

    def __init__(
        self,
        name: str,
        models: Sequence[nnx.Module],
        task: Task,
        optimizer: Any,
        seeds: Sequence[int],
        options: Options,
    ):
        self.name, self.task, self.seeds, self.options = name, task, seeds, options
        graph, parameters, rest = _stacked(name, models)
        self.program = Program(graph, optimizer, options)
        self.keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        first = _of_seed((parameters, rest, self.keys), 0)
        _trial.program(name, self.program, first, task)
        _trial.values(name, self.program, first[-1], task, getattr(models[0], "dtype", None))
        self.states: State = self._over_seeds(self.program.start, 3)(parameters, rest, self.keys, task)
        self.records: list[list[dict[str, np.ndarray]]] = [[] for _ in seeds]
        self.done = -1

    def _over_seeds(self, f: Any, mapped: int) -> Any:
        """A jitted f over the leading axis of the first `mapped` arguments; for a single seed without `vmap`."""
        if len(self.seeds) > 1:
            return jax.jit(lambda *a: jax.vmap(f, in_axes=(0,) * mapped + (None,) * (len(a) - mapped))(*a))
        lift = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)
        return jax.jit(lambda *a: lift(f(*_of_seed(a[:mapped], 0), *a[mapped:])))

    def run(self) -> None:
        """Train until every seed has stopped or has done its updates."""
        o = self.options
        with contextlib.ExitStack() as stack:
            store = None
            if o.checkpoint is not None:
                store = Checkpoint(self.name, o.checkpoint, self._fingerprint())
                stack.callback(store.close)
            try:
                self._run(store)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                got, hint = str(error).splitlines()[0][:200], "Take a smaller batch, fewer held_out or fewer seeds."
                raise MemoryError(
                    checks.message(self.name, "batch", "needs too much memory", got, hint=hint)
                ) from error

    def _run(self, store: Checkpoint | None) -> None:
        o, program = self.options, self.program
        advance, judge = self._over_seeds(program.advance, 2), self._over_seeds(program.judge, 3)
        if store is not None and (found := store.restore(self.states)) is not None:
            self.done, self.states, self.records = found
        past, begun = self.seconds, time.perf_counter()
        stops = itertools.chain([0], range(o.every, o.updates, o.every), [o.updates])
        with _log(o.log, self) as write_record, _bar(o, self.done) as show_progress:
            for stop in itertools.dropwhile(lambda stop: stop <= self.done, stops):
                running = np.flatnonzero(np.asarray(self.states.status) == RUNNING)
                if not len(running):
                    break
                self.states, trained = advance(self.states, self.keys, self.task, np.int32(stop))
                judged = judge(self.states.parameters, self.states.rest, self.keys, self.task)
                self.states = program.settled(self.states, judged["metric"])
                counts = {"update": self.states.update, "rejected": self.states.optimizer.report.times_rejected}
                record = jax.device_get(counts | judged | trained)
                seconds = np.asarray(past + time.perf_counter() - begun)
                for i in map(int, running):
                    self.records[i].append(_of_seed(record, i) | {"seconds": seconds})
                    write_record(i)
                    if o.callback is not None and o.callback({"seed": self.seeds[i], **self.records[i][-1]}):
                        status = self.states.status.at[i].set(STOPPED)
                        self.states = dataclasses.replace(self.states, status=status)
                self.done = stop
                show_progress(stop, record["loss"][running])
                if store is not None:
                    store.save(self.done, self.states, self.records)

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return max((float(rows[-1]["seconds"]) for rows in self.records if rows), default=0.0)

    def _fingerprint(self) -> dict[str, str]:
        return fingerprint(self.program, _of_seed(self.states, 0), self.states, self.keys, self.task, self.config())

    def config(self) -> dict[str, Any]:
        """Task, seeds and those options that decide the numbers and are no functions, for the log and the checkpoint."""
        return {"task": repr(self.task), "seeds": list(self.seeds), **self.options.recorded()}


def _stacked(name: str, models: Sequence[nnx.Module]) -> tuple[Any, Any, Any]:
    """The structure that all models share, and their variables with a leading axis of seeds."""
    parts = [nnx.split(model, nnx.Param, ...) for model in models]
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), part[1:]) for part in parts]
    for graph, shape in zip((part[0] for part in parts), shapes, strict=True):
        if graph != parts[0][0] or shape != shapes[0]:
            text = checks.message(
                name, "make", "makes models that differ in more than their numbers", hint="One for all seeds."
            )
            raise ValueError(text)
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    return parts[0][0], stack(*(part[1] for part in parts)), stack(*(part[2] for part in parts))


def _of_seed(tree: Any, i: int) -> Any:
    """What belongs to seed number i, of leaves with a leading axis of seeds."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _ignore(*arguments: Any) -> None:
    """In place of a log or a progress bar that is not wanted."""
    del arguments


@contextlib.contextmanager
def _log(path: Any, training: Training) -> Iterator[Any]:
    """A function that appends the last record of a seed; the header and the records of an earlier part go first."""
    if path is None:
        yield _ignore
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8") as stream:

        def line(content: dict[str, Any]) -> None:
            stream.write(json.dumps(content, allow_nan=False) + "\n")
            stream.flush()

        line({"config": jsonable(training.config()), **results.environment()})
        for seed, rows in zip(training.seeds, training.records, strict=True):
            for row in rows:
                line({"seed": seed, **jsonable(row)})
        yield lambda i: line({"seed": training.seeds[i], **jsonable(training.records[i][-1])})


@contextlib.contextmanager
def _bar(options: Options, done: int) -> Iterator[Any]:
    """A function of the updates done and the loss that moves a progress bar, where there is one."""
    if not options.progress:
        yield _ignore
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        row = bar.add_task("training", total=options.updates, completed=max(done, 0))
        yield lambda stop, losses: bar.update(row, completed=stop, description=f"loss {np.median(losses):.4g}")
