"""What goes wrong inside a function of the user's, told as a fault of the argument that it is."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jacspec._ground import checks


@contextlib.contextmanager
def told(name: str, argument: str, form: str) -> Iterator[None]:
    """Call a function of the user's inside; the package's own errors pass.

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


def tried(name: str, argument: str, form: str, f: Callable, *arguments: Any) -> Any:
    """The shapes of ``f(*arguments)``, which is a function of the user's."""
    with told(name, argument, form):
        return jax.eval_shape(f, *arguments)
