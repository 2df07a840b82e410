"""The one form of every error message; this file does not need JAX."""

from typing import Any


def message(function: str, argument: str, problem: str, got: Any = None, expected: str = "", hint: str = "") -> str:
    """``jacspec.<function>: argument '<name>' <problem>; got <...>, expected <...>. <hint>``."""
    if isinstance(got, int) and got.bit_length() > 1024:  # beyond the range of a float; Python may refuse to print it
        got = f"an integer of {got.bit_length()} bits"
    text = f"jacspec.{function}: argument '{argument}' {problem}"
    if got is not None:
        text += f"; got {got}"
    if expected:
        text += f"{',' if got is not None else ';'} expected {expected}"
    return text + "." + (f" {hint}" if hint else "")
