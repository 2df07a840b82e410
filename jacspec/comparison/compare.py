"""The comparison: the same task, data, budget and seeds for every remedy, one row each, stored as soon as it is done.

A row is all seeds of a remedy, trained as one program. It is stored under a hash of everything that decides its
numbers, written whole or not at all; a run that is killed goes on with the first row that is missing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacspec import results, tasks
from jacspec._ground import checks, files
from jacspec.comparison.build import DEEPEST, Plan, plan
from jacspec.comparison.remedy import Remedy
from jacspec.comparison.rows import HELD_OUT, MEASURED, RECORDS, Row, train
from jacspec.comparison.table import Comparison
from jacspec.results import ResultError
from jacspec.tasks import Task

NAME = "compare"


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A comparison that has passed every check and has not begun.

    Attributes:
        task: what is learned.
        settings: what all rows share.
        plans: one a row.
        store: folder of the finished rows, or None.
    """

    task: Task
    settings: dict[str, Any]
    plans: tuple[Plan, ...]
    store: Path | None

    def run(self, *, progress: bool | Callable[[str], None] = False) -> Comparison:
        """Compute the rows that are not stored.

        Args:
            progress: show a bar, or a function that is called with a sentence after every row.

        Returns:
            A `Comparison`.

        Raises:
            OSError: if the store cannot be written into, before anything trains; if a row cannot be stored.
        """
        if self.store is not None:
            files.probe(self.store)
        with _reporter(progress, len(self.plans)) as report:
            rows = tuple(self._row(row_plan, report) for row_plan in self.plans)
        return Comparison(self.task.name, self.task.baseline, self.task.chance, self.settings, rows)

    @property
    def name(self) -> str:
        """The task and a hash of everything that decides the numbers."""
        digest = _digest([self._config(row_plan) for row_plan in self.plans])
        return f"{re.split('[^A-Za-z0-9_-]', self.task.name)[0] or 'task'}-{digest[:8]}"

    def _row(self, row_plan: Plan, report: Callable[[str], None]) -> Row:
        """The row from the store, or trained and stored."""
        config = None if self.store is None else json.loads(json.dumps(self._config(row_plan)))
        name, first = f"row-{_digest(config)}", self.settings["first_seed"]
        found = None if self.store is None or config is None else _stored(self.store, name, config)
        if found is None:
            found = train(row_plan, range(first, first + self.settings["seeds"]))
            if config is not None:
                origin = {"seed": first, "wall_time": found.seconds, "code": config["code"]}
                results.save(name, found.arrays(), config, **origin, root=self.store)
            report(f"{row_plan.remedy}: {found.seconds:.0f} s")
        else:
            report(f"{row_plan.remedy}: stored")
        words = {"remedy": str(row_plan.remedy), "law": row_plan.law, "parameters": row_plan.parameters}
        return dataclasses.replace(found, **words)

    def _config(self, row_plan: Plan) -> dict[str, Any]:
        """Everything that decides the numbers of a row."""
        return {
            "task": repr(self.task),
            "data": self.task.sha256,
            "remedy": row_plan.remedy.given(),
            "code": _code() + row_plan.remedy.own_code(),
            "x64": bool(jnp.zeros(()).dtype == jnp.float64),
            "records": RECORDS,
            "held_out": HELD_OUT,
            **self.settings,
        }


def compare(
    task: str | Task,
    remedies: Iterable[str | Remedy],
    *,
    store: str | os.PathLike | None = None,
    progress: bool | Callable[[str], None] = False,
    **options: Any,
) -> Comparison:
    """What each remedy does to one task: success, loss, spectrum and gradient, at the same data, budget and seeds.

    Args:
        task: a name such as "temporal_order" or "digits,order=pixel", or a `Task`.
        remedies: one row each, as `Remedy` or as text: "none", "clip=norm:1", "lstm,forget_bias=1".
        store: folder of finished rows; a second call with the same arguments takes them from there (a `Task` is identified
            by its `repr` and its sha256). None: no folder.
        progress: show a bar, or a function that is called with a sentence after every row.
        **options: of `prepare`: length, width, depth, updates, batch, learning_rate, optimizer, seeds, first_seed.

    Returns:
        A `Comparison`.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for unknown tasks, remedies or options (the nearest is given), contradictions, numbers out of range;
            always before anything trains.
    """
    known = [name for name in inspect.signature(prepare).parameters if name not in ("task", "remedies", "store")]
    for option in options:
        checks.one_of(NAME, "option", option, known)
    return prepare(task, remedies, store=store, **options).run(progress=progress)


def prepare(
    task: str | Task,
    remedies: Iterable[str | Remedy],
    *,
    length: int | None = None,
    width: int = 50,
    depth: int | None = None,
    updates: int = 2000,
    batch: int = 20,
    learning_rate: float = 0.01,
    optimizer: str = "sgd",
    seeds: int = 5,
    first_seed: int = 0,
    store: str | os.PathLike | None = None,
) -> Prepared:
    """All the checks of `compare`, without computing anything.

    Args:
        task: as in `compare`.
        remedies: as in `compare`.
        length: of a task by name; None for its own default.
        width: units a layer.
        depth: None for recurrent networks; else the layers of deep ones that see the sequence as one vector.
        updates: of every row.
        batch: sequences an update.
        learning_rate: of every row.
        optimizer: "sgd" or "adam", of every row.
        seeds: number of runs a row.
        first_seed: theirs are first_seed, first_seed + 1, ...
        store: as in `compare`.

    Returns:
        A `Prepared`, to be `run`.

    Raises:
        ImportError: if the task needs a package that is not installed.
        TypeError: as `compare`.
        ValueError: as `compare`.

    Example:
        >>> from jacspec.comparison import prepare
        >>> rows = prepare("temporal_order", ["none", "lstm,forget_bias=1", "batch=40"], length=50).plans
        >>> [(row.law, row.parameters, row.updates, row.batch) for row in rows]
        [('gaussian', 3054, 2000, 20), ('gaussian, forget_bias 1', 11604, 2000, 20), ('gaussian', 3054, 1000, 40)]
    """
    if isinstance(remedies, (str, Remedy)) or not np.iterable(remedies):
        hint = "Put a single one into a list."
        raise TypeError(checks.message(NAME, "remedies", "must be a list", type(remedies).__name__, hint=hint))
    read = [r if isinstance(r, Remedy) else Remedy.parse(r) for r in remedies]
    if not read:
        raise ValueError(checks.message(NAME, "remedies", "is empty", expected="one remedy or more"))
    texts = [str(r) for r in read]
    if len({_changes(r) for r in read}) < len(read):
        raise ValueError(checks.message(NAME, "remedies", "has the same row twice", texts, "different remedies"))
    shared: dict[str, Any] = {
        name: checks.integer(NAME, name, value, 1, checks.INT32_MAX)
        for name, value in {"width": width, "updates": updates, "batch": batch, "seeds": seeds}.items()
    }
    shared["first_seed"] = checks.integer(NAME, "first_seed", first_seed, 0, 2**32 - seeds, "Seeds lie in 0..2**32-1.")
    shared["depth"] = None if depth is None else checks.integer(NAME, "depth", depth, 1, DEEPEST)
    low, high = (float(end) for end in (jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max))
    want = f"learning_rate > 0 within the range of float32, {low:.3g}..{high:.3g}"
    rate = checks.number(NAME, "learning_rate", learning_rate, want, lambda v: low <= v <= high)
    checks.one_of(NAME, "optimizer", optimizer, ("sgd", "adam"))
    task = read_task(task, length)
    if task.baseline == 0:
        hint = "Its targets are constant, or known beforehand."
        raise ValueError(checks.message(NAME, "task", "has a baseline of 0: nothing to learn", task.name, hint=hint))
    keys = ("width", "depth", "updates", "batch")
    budget = {key: shared[key] for key in keys} | {"learning_rate": float(rate), "rule": optimizer}
    plans = tuple(plan(remedy, task, **budget) for remedy in read)
    for row_plan in plans:
        row_plan.fits_memory(shared["seeds"])
    folder = None if store is None else files.place(NAME, "store", store)
    if folder is not None:
        for remedy in read:
            remedy.own_code()  # refused here where it cannot be told, before anything trains
    return Prepared(task, shared | {"learning_rate": float(rate), "optimizer": optimizer}, plans, folder)


def _changes(remedy: Remedy) -> str:
    """What a remedy changes, as JSON; a value that JSON cannot hold is refused here, before its row is trained."""
    try:
        kind = type(remedy)
        return json.dumps([kind.__module__, kind.__qualname__, remedy.given()], allow_nan=False)
    except (TypeError, ValueError) as error:
        want = "finite numbers and names"
        raise ValueError(
            checks.message(NAME, "remedies", "has a value that cannot be stored", repr(remedy), want)
        ) from error


def read_task(task: str | Task, length: int | None = None) -> Task:
    """The task that a text such as ``"digits,order=pixel"`` names; a `Task` passes through.

    Raises:
        ImportError: if the task needs a package that is not installed.
        TypeError: if it is neither, or a length is given for a `Task`.
        ValueError: for an unknown task or option (the nearest is given), or a value out of range.
    """
    if isinstance(task, Task) and length is None:
        return task
    if not isinstance(task, str):
        want = "a name of jacspec.tasks, or a Task (which has its own length)"
        raise TypeError(checks.message(NAME, "task", "is no task", repr(task), want))
    name, *words = (word.strip() for word in task.split(","))
    options: dict[str, Any] = {} if length is None else {"length": length}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(checks.message(NAME, "task", "has an option without value", word, "option=value"))
        options[key] = int(value) if value.lstrip("-").isdigit() else value
    return tasks.get(name, **options)


# The store, and the report of progress


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _stored(store: Path, name: str, config: dict[str, Any]) -> Row | None:
    """The row of that name, if it is whole and of this configuration."""
    try:
        arrays, manifest = results.load(name, root=store)
    except (FileNotFoundError, ResultError):
        return None
    known = manifest["config"] == config and set(arrays) == set(MEASURED)
    return Row("", "", 0, manifest["wall_time"], **arrays) if known else None


@functools.cache
def _code() -> str:
    """The hash of the package's code: rows that other code computed are computed again."""
    return results.code_hash(Path(__file__).resolve().parents[1])


@contextlib.contextmanager
def _reporter(progress: bool | Callable[[str], None], rows: int) -> Iterator[Callable[[str], None]]:
    """A function that is called with a sentence when a row is done."""
    if callable(progress) or not progress:
        yield progress or (lambda _: None)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        line = bar.add_task("comparing", total=rows)

        def report(sentence: str) -> None:
            bar.console.print(sentence, highlight=False, markup=False, emoji=False)
            bar.advance(line)

        yield report
