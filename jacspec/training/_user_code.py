"""Errors inside a function of the user's, reported as errors of the argument that brought it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jacspec._ground import checks


@contextlib.contextmanager
def reported_as(name: str, argument: str, form: str) -> Iterator[None]:
    """Call a function of the user's inside; errors of this package pass as they are.

    Raises:
        TypeError: for what is of the wrong type, or lacks a name or an argument.
        ValueError: for anything else.
    """
    try:
        yield
    except Exception as error:
        text = str(error).strip()
        if text.startswith("jacspec."):
            error.add_note(f"jacspec.{name}: in argument '{argument}'")
            raise
        got = ": ".join([type(error).__name__, *text.splitlines()[:1]])
        kind = TypeError if isinstance(error, (TypeError, AttributeError)) else ValueError
        raise kind(checks.message(name, argument, "fails when it is called", got[:300], form)) from error


def output_shapes(name: str, argument: str, form: str, f: Callable, *arguments: Any) -> Any:
    """The shapes of ``f(*arguments)``, where f is a function of the user's."""
    with reported_as(name, argument, form):
        return jax.eval_shape(f, *arguments)
