"""Tasks for recurrent networks, each with the score of a trivial predictor and the rule by which it counts as solved.

`get(name, **options)` or one of the functions below gives a `Task`: `sample` draws training sequences, `evaluation`
sequences to judge by, `loss` and `wrong` judge the outputs of a network.
"""

import inspect
from collections.abc import Callable
from typing import Any

from jacspec._ground import checks
from jacspec.tasks._task import Batch as Batch
from jacspec.tasks._task import Task as Task
from jacspec.tasks.files import from_file as from_file
from jacspec.tasks.real import digits as digits
from jacspec.tasks.real import sunspots as sunspots
from jacspec.tasks.real import text as text
from jacspec.tasks.recall import copy as copy
from jacspec.tasks.recall import delayed_copy as delayed_copy
from jacspec.tasks.recall import delayed_xor as delayed_xor
from jacspec.tasks.recall import memorization as memorization
from jacspec.tasks.synthetic import adding as adding
from jacspec.tasks.synthetic import multiplication as multiplication
from jacspec.tasks.synthetic import permutation as permutation
from jacspec.tasks.synthetic import temporal_order as temporal_order

TABLE: dict[str, Callable[..., Task]] = {
    task.__name__: task
    for task in (
        adding, multiplication, temporal_order, permutation,
        copy, memorization, delayed_copy, delayed_xor,
        digits, sunspots, text,
    )
}  # fmt: skip
"""Every task by its name."""


def get(name: str, **options: Any) -> Task:
    """The task of that name.

    Args:
        name: a key of `TABLE`.
        options: of the function of that name.

    Returns:
        A `Task`.

    Raises:
        ImportError: if the task needs a package that is not installed.
        TypeError: if an option is of the wrong type.
        ValueError: for an unknown name or option (the message has the nearest), or a value out of range.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.get("temporal_order", length=50, symbols=3)
        Task(temporal_order, 3 symbols, L=50: (50, 6) -> 8, cross_entropy, baseline=2.07944, chance=0.875, success=0.01)
    """
    checks.one_of("tasks.get", "name", name, TABLE)
    for option in options:
        checks.one_of(f"tasks.{name}", "option", option, inspect.signature(TABLE[name]).parameters)
    return TABLE[name](**options)
