"""The options of `jacspec.training.fit`, checked before anything compiles."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optax

from jacspec._ground import checks
from jacspec.tasks import Task

JUDGED = 1000
"""Held-out sequences, where the task does not have fewer."""

MOST = 2**31 - 1
"""What an int32 counts to: updates, rejections and rows are counted on the device."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """As in `jacspec.training.fit`, which says what they mean."""

    updates: int
    batch: int = 32
    every: int = 100
    probes: Sequence[Callable] = ()
    regularizer: Callable | None = None
    success: Any = None
    jump: Any = 100.0
    patience: int = 0
    held_out: Any = None
    log: str | os.PathLike | None = None
    callback: Callable | None = None
    checkpoint: str | os.PathLike | None = None
    progress: bool = False


def checked(name: str, options: dict[str, Any], task: Task, optimizer: Any) -> Options:
    """The options, with None replaced by what it stands for.

    Raises:
        TypeError: for options of the wrong type, or an optimizer that is none.
        ValueError: for unknown options, or values out of range.
    """
    known = [field.name for field in dataclasses.fields(Options)]
    for option in options:
        checks.one_of(name, "option", option, known)
    if "updates" not in options:
        raise TypeError(checks.message(name, "updates", "is missing", expected="a number of updates"))
    o = Options(**options)
    if not isinstance(optimizer, optax.GradientTransformation):
        got, want = type(optimizer).__name__, "an optax.GradientTransformation"
        hint = "Call it: optax.adam(1e-3)." if callable(optimizer) else "Use optax.adam(1e-3), say."
        raise TypeError(checks.message(name, "optimizer", "is none", got, want, hint))
    for argument in ("updates", "batch", "every"):
        checks.integer(name, argument, getattr(o, argument), 1, MOST)
    checks.integer(name, "patience", o.patience, 0, MOST)
    judged = min(task.held_out or JUDGED, JUDGED) if o.held_out is None else o.held_out
    judged = max(checks.integer(name, "held_out", judged, 1, MOST), o.batch)
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
            _free(name, argument, value)
    if o.log is not None and o.checkpoint is not None and Path(o.log).absolute() == Path(o.checkpoint).absolute():
        raise ValueError(checks.message(name, "log", "is the directory of the checkpoint", o.log, "another path"))
    return dataclasses.replace(o, success=_success(name, o.success, task), jump=_jump(name, o.jump), held_out=judged)


def _free(name: str, argument: str, value: str | os.PathLike) -> None:
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
