"""The text of a result, its numbers in a line or two, and all of them as plain Python."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jacspec._ground import checks
from jacspec._ground.jsonable import jsonable
from jacspec._ground.pytree import shapes

SHOWN = 3
"""Leading values in a line; the last follows."""


def readable(result: Any) -> bool:
    """Whether every field of `result` is an array whose values this process can look at."""
    leaves = [getattr(result, field.name) for field in dataclasses.fields(result)]
    arrays = all(isinstance(leaf, (jax.Array, np.ndarray, np.generic)) and checks.is_concrete(leaf) for leaf in leaves)
    return arrays and all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves)


def sentence(result: Any, values: Any, noun: str, unit: str, of: str, *remarks: str) -> str:
    """``<class> <of>: <count> <noun> <numbers> <unit>; <how many resolved>; <remarks>``, and what went wrong.

    Args:
        result: with `complete`, `resolved`, `converged` and `first_nonfinite`.
        values: (..., n), the numbers of one product or chain along the last axis.
        noun: what they are.
        unit: their unit.
        of: what `result` belongs to.
        remarks: more to say; an empty one is left out.
    """
    values = np.asarray(values, float)
    table = values.reshape(-1, values.shape[-1])
    resolved, zeros, bad = np.asarray(result.resolved), int(np.isneginf(values).sum()), np.ravel(result.first_nonfinite)
    leading = "" if np.all(result.complete) else "leading "
    listed = numbers(table[0])
    if np.isnan(values).all():
        listed = "all NaN,"
    elif len(table) > 1:
        listed = f"each, the first {span(table[:, 0])}, the last {span(table[:, -1])}"
    parts = [
        f"{type(result).__name__} {of}: {table.shape[1]} {leading}{noun} {listed} {unit}",
        f"{resolved.sum()} of {values.size} resolved" + (f", {zeros} exactly zero" if zeros else ""),
        *remarks,
        f"not finite from index {bad[bad >= 0].min()}" if (bad >= 0).any() else "",
        "not converged" if not np.all(np.asarray(result.converged) | (np.asarray(result.first_nonfinite) >= 0)) else "",
    ]
    return "; ".join(part for part in parts if part)


def numbers(values: np.ndarray) -> str:
    """The leading values and the last, to four digits."""
    texts = [f"{v:.4g}" for v in values]
    return ", ".join(texts) if len(texts) <= SHOWN + 1 else ", ".join(texts[:SHOWN]) + f" ... {texts[-1]}"


def span(values: Any) -> str:
    """The smallest and the largest, to four digits."""
    low, high = (f"{v:.4g}" for v in (np.min(values), np.max(values)))
    return low if low == high else f"{low} to {high}"


def to_dict(result: Any, *derived: str) -> dict[str, Any]:
    """Fields of `result` and the properties named in `derived`, as plain Python.

    Raises:
        TypeError: under a transformation of JAX, where there are no numbers yet.
    """
    if not readable(result):
        name, hint = type(result).__name__, "Call it outside jit, vmap and grad."
        raise TypeError(checks.message(f"{name}.to_dict", "self", "is traced", shapes(result), "numbers", hint))
    names = [*(field.name for field in dataclasses.fields(result)), *derived]
    return {name: jsonable(np.asarray(getattr(result, name))) for name in names}
