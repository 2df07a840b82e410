"""What a formula asks of its parameters: a ValueError where they can be seen, NaN under jit, never a plausible number."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks


def within(function: str, argument: str, value: Any, inside: Callable[[Array], Array], expected: str) -> Array:
    """`value` as a floating array, NaN where it is not `inside`.

    Raises:
        TypeError: for what is not a real number or an array of them.
        ValueError: for concrete values outside; the message names the argument and what was `expected`.
    """
    try:
        number = jnp.asarray(value)
    except TypeError as error:
        kind = type(value).__name__
        raise TypeError(checks.message(function, argument, "must be a number", kind, expected)) from error
    if jnp.issubdtype(number.dtype, jnp.complexfloating) or number.dtype == bool:
        raise TypeError(checks.message(function, argument, "must be real", f"dtype {number.dtype}", expected))
    number = number.astype(jnp.result_type(number.dtype, float))
    ok = inside(number)
    if checks.is_concrete(ok) and not bool(ok.all()):
        raise ValueError(checks.message(function, argument, "is outside the domain", value, expected))
    return jnp.where(ok, number, jnp.nan)


def positive(function: str, argument: str, value: Any) -> Array:
    """`value` > 0 and finite."""
    return within(function, argument, value, lambda v: (v > 0) & jnp.isfinite(v), f"{argument} > 0")


def nonnegative(function: str, argument: str, value: Any) -> Array:
    """`value` >= 0 and finite."""
    return within(function, argument, value, lambda v: (v >= 0) & jnp.isfinite(v), f"{argument} >= 0")
