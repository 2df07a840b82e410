"""The line of source that an equation of a traced program comes from."""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

LIBRARIES = ("jacspec", "flax", "optax", "equinox", "haiku", "diffrax")
"""Their lines are named where no line of the user stands between them and the question."""

HERE = os.path.dirname(__file__) + os.sep


class Frame(NamedTuple):
    """A line of a program on the way from the question to an equation."""

    file: str
    line: int
    function: str


def lines(path: Sequence[Any], here: str = HERE) -> list[Frame]:
    """The lines outside JAX from the last of some equations, each inside the one before, to the question.

    Innermost first; those of a program within a program end where it begins: in the folder `here`.
    """
    found, jax_itself = [], _folders("jax", "jaxlib")
    for equation in reversed(path):
        trace = equation.source_info.traceback
        frames = [Frame(f.file_name, f.line_num, f.function_name) for f in (trace.frames if trace is not None else ())]
        inner = [*itertools.takewhile(lambda frame: not frame.file.startswith(here), frames)]
        found += [frame for frame in inner if not frame.file.startswith(jax_itself)]
        if len(inner) < len(frames):
            break
    return found


def place(frames: Sequence[Frame]) -> str:
    """``file:line (function)`` of the innermost line of the user, or else of a library; "" if there is none."""
    libraries = _folders(*LIBRARIES)
    users = [frame for frame in frames if not frame.file.startswith(libraries)]
    roots = [os.getcwd()] if users else [os.path.dirname(folder.rstrip(os.sep)) for folder in libraries]
    for file, line, function in (*users, *frames):
        root = next((root for root in roots if Path(file).is_relative_to(root)), None)
        short = file if root is None else os.path.relpath(file, root)
        return f"{short}:{line} ({function.split('.')[-1]})"
    return ""


def _folders(*packages: str) -> tuple[str, ...]:
    """Where those of the packages lie that are loaded."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in packages]
    return tuple(os.path.dirname(file) + os.sep for file in files if file is not None)
