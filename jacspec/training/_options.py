"""The options of `jacspec.training.fit` as one value, checked before anything compiles."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optax

from jacspec._ground import checks
from jacspec.tasks import Task

HELD_OUT = 1000
"""Held-out sequences, where the task does not have fewer: the fraction wrong is then known to 0.016 or better."""

RECORDED = {"recorded": True}
"""Marks options that decide the numbers of a training and are no functions: the log and the checkpoint hold them."""


def _count(least: int) -> Any:
    """A field for an integer in least..checks.INT32_MAX."""
    return dataclasses.field(metadata=RECORDED | {"least": least})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What `jacspec.training.fit` is given beside model, task, optimizer and seed; it says what each option means."""

    updates: int = _count(1)
    batch: int = _count(1)
    every: int = _count(1)
    patience: int = _count(0)
    held_out: Any = dataclasses.field(metadata=RECORDED)
    success: Any = dataclasses.field(metadata=RECORDED)
    jump: Any = dataclasses.field(metadata=RECORDED)
    probes: Sequence[Callable]
    regularizer: Callable | None
    log: str | os.PathLike | None
    callback: Callable | None
    checkpoint: str | os.PathLike | None
    progress: bool

    def recorded(self) -> dict[str, Any]:
        """The options that decide the numbers of a training, by name."""
        return {field.name: getattr(self, field.name) for field in FIELDS if "recorded" in field.metadata}


FIELDS = dataclasses.fields(Options)


def checked(name: str, options: dict[str, Any], task: Task, optimizer: Any) -> Options:
    """The options, with None replaced by what it stands for.

    Args:
        name: the public function that is called, for messages.
        options: all of them, by name.
        task: what is learned.
        optimizer: an Optax transformation.

    Raises:
        TypeError: for options of the wrong type, or an optimizer that is none.
        ValueError: for unknown options, or values out of range.
    """
    for option in options:
        checks.one_of(name, "option", option, [field.name for field in FIELDS])
    o = Options(**options)
    if not isinstance(optimizer, optax.GradientTransformation):
        got, want = type(optimizer).__name__, "an optax.GradientTransformation"
        hint = "Call it: optax.adam(1e-3)." if callable(optimizer) else "Use optax.adam(1e-3), say."
        raise TypeError(checks.message(name, "optimizer", "is none", got, want, hint))
    for field in FIELDS:
        if (least := field.metadata.get("least")) is not None:
            checks.integer(name, field.name, getattr(o, field.name), least, checks.INT32_MAX)
    held_out = min(task.held_out or HELD_OUT, HELD_OUT) if o.held_out is None else o.held_out
    held_out = max(checks.integer(name, "held_out", held_out, 1, checks.INT32_MAX), o.batch)
    if not isinstance(o.probes, Sequence):
        hint = "Put a single one into a list."
        raise TypeError(
            checks.message(name, "probes", "must be a sequence", type(o.probes).__name__, "callables", hint)
        )
    forms = {f"probes[{i}]": (probe, "probe(model, batch) -> dict") for i, probe in enumerate(o.probes)}
    forms |= {"regularizer": (o.regularizer, "regularizer(model, batch) -> scalar")}
    forms |= {"callback": (o.callback, "callback(record) -> bool or None")}
    for argument, (value, form) in forms.items():
        if value is not None:
            checks.function(name, argument, value, form)
    checks.one_of(name, "progress", o.progress, (True, False))
    for argument in ("log", "checkpoint"):
        value = getattr(o, argument)
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise TypeError(checks.message(name, argument, "is no path", type(value).__name__, "a path or None"))
        if value is not None:
            _check_writable(name, argument, value)
    if o.log is not None and o.checkpoint is not None and Path(o.log).absolute() == Path(o.checkpoint).absolute():
        raise ValueError(checks.message(name, "log", "is the directory of the checkpoint", o.log, "another path"))
    return dataclasses.replace(o, success=_success(name, o.success, task), jump=_jump(name, o.jump), held_out=held_out)


def _check_writable(name: str, argument: str, value: str | os.PathLike) -> None:
    """Refuse a path that cannot be written: a log is a file, a checkpoint a directory."""
    path = os.fspath(value)
    wanted = "a file" if argument == "log" else "a directory"
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(checks.message(name, argument, "is no path", repr(path), f"the path of {wanted}"))
    whole = Path(path).absolute()
    try:
        whole.exists()
    except OSError as error:  # a name that is too long
        raise ValueError(checks.message(name, argument, "cannot be used", error.strerror, wanted)) from error
    if whole.exists() and whole.is_dir() != (argument == "checkpoint"):
        kind = "a directory" if whole.is_dir() else "a file"
        raise ValueError(checks.message(name, argument, f"is {kind}", path, f"the path of {wanted}"))
    above = next(folder for folder in (whole, *whole.parents) if folder.exists())
    if above != whole and not above.is_dir():
        raise ValueError(checks.message(name, argument, f"leads through {above}, which is a file", path, wanted))
    if not os.access(above, os.W_OK):
        raise PermissionError(checks.message(name, argument, f"cannot be written: no right to {above}", path, wanted))


def _success(name: str, value: Any, task: Task) -> float:
    """The largest fraction wrong that ends the training; -1 for never."""
    if value is None or value is False:
        return task.success if value is None else -1.0
    want = "None (the task's own), False (never), or a fraction of sequences wrong within [0, 1]"
    return checks.plain_number(name, "success", value, want, lambda fraction: 0 <= fraction <= 1)


def _jump(name: str, value: Any) -> float:
    if value is None:
        return math.inf
    return checks.plain_number(name, "jump", value, "jump > 1, or None", lambda jump: jump > 1)
