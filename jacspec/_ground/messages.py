"""The one form of what an error says; here nothing needs JAX."""

from typing import Any


def message(function: str, argument: str, problem: str, got: Any = None, expected: str = "", hint: str = "") -> str:
    """``jacspec.<function>: argument '<name>' <problem>; got <...>, expected <...>. <hint>``."""
    text = f"jacspec.{function}: argument '{argument}' {problem}"
    if got is not None:
        text += f"; got {got}"
    if expected:
        text += f"{',' if got is not None else ';'} expected {expected}"
    return text + "." + (f" {hint}" if hint else "")
