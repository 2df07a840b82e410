"""What a question found, read with its marks.

An experiment asks the package through `known`: a number that the precision cannot see becomes NaN, which spoils whatever
is computed from it, leaves a gap in a figure and holds in no claim.
"""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Found = TypeVar("Found")

VALUES = ("log_singular_values", "exponents", "standard_error", "history", "log_norms")
"""The fields that `resolved` is a mark of, where it is one array."""


def known(found: Found) -> Found:
    """A spectrum, exponents, adjoints or gradients of parameters with NaN in place of every value that is not resolved.

    Args:
        found: what `spectrum`, `lyapunov_exponents`, `adjoints`, `parameter_gradient_by_lag` or
            `parameter_gradient_norms` returns; of one chain, or within `jax.vmap`. Directions and terms stay as they
            are: with the log norms that scale them they are NaN.
    """
    answer: Any = found
    fields = {field.name for field in dataclasses.fields(answer)}
    if hasattr(answer.resolved, "_fields"):  # a mark for every field
        marks = answer.resolved._asdict()
    else:
        marks = {name: answer.resolved for name in VALUES if name in fields}
        if "by_parameter" in fields:
            marks["by_parameter"] = answer.resolved_by_parameter
    blank = lambda value, mark: jnp.where(mark, value, jnp.nan)
    return dataclasses.replace(
        answer,
        **{name: jax.tree.map(blank, getattr(answer, name), mark) for name, mark in marks.items()},
    )
