"""Slopes that were stopped short of zero: which numbers of a step Jacobian are upper bounds only.

A slope below what survives a product (`smallest_factor`) stops there, because zero would be a claim. It stands among
the parts of an operator (the d of diag(d) W); in a matrix that autodiff made it has been multiplied already.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.operators import smallest_factor

STOPPED = 1024.0
"""Numbers of up to STOPPED smallest factors may be made of a slope that was stopped short of underflow: upper bounds."""

SMALL = 8
"""What has at most so many numbers a unit of the state is a part of an operator that was computed, not a weight."""


def has_normal_rows(J: Array) -> Array:
    """Whether no row of J (..., m, n) lives on numbers below the smallest normal one: their bits tell, for XLA they are zeros."""
    info, width = jnp.finfo(J.dtype), jnp.int64 if J.dtype.itemsize == 8 else jnp.int32
    bits = lax.bitcast_convert_type(lax.stop_gradient(J), width) & jnp.iinfo(width).max
    least = lax.bitcast_convert_type(jnp.asarray(info.tiny, J.dtype), width)
    largest = jnp.max(bits, axis=-1, keepdims=True)  # as integers they are ordered like the sizes
    decides = largest < lax.bitcast_convert_type(jnp.asarray(info.tiny / info.eps, J.dtype), width)
    return ~jnp.any((bits > 0) & (bits < least) & decides, axis=(-2, -1))


def shows_slopes(J: Any) -> bool:
    """Whether a slope that was stopped short of zero (`smallest_factor`) stands among the parts of J."""
    return getattr(J, "shows_slopes", hasattr(J, "row_norms"))


def told_apart(J: Any) -> bool:
    """Whether it is known which numbers of J were stopped short of zero."""
    return getattr(J, "told_apart", shows_slopes(J))


def may_be_stopped(part: Array) -> Array:
    """Where the numbers of a part of an operator may have been stopped short of zero."""
    return (part != 0) & (jnp.abs(part) <= STOPPED * smallest_factor(part.dtype))


def with_parts(J: Any, most: int, change: Callable[[Array, int], Array]) -> Any:
    """J with `change(part, place)` for each floating part of at most `most` numbers; J itself where they are not known."""
    if hasattr(J, "with_parts"):
        return J.with_parts(most, change)
    if not hasattr(J, "row_norms"):
        return J
    leaves, structure = jax.tree.flatten(J)
    small = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.size(leaf) <= most for leaf in leaves]
    changed = [change(leaf, i) if part else leaf for i, (leaf, part) in enumerate(zip(leaves, small, strict=True))]
    return jax.tree.unflatten(structure, changed)
