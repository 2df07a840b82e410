"""Numbers of a step Jacobian that are not what they seem: slopes stopped short of zero, and numbers that count as zeros.

A slope that would underflow in a product is stopped at `smallest_factor`, because a zero would be a false claim: it is an
upper bound. An operator such as diag(d) W shows its slopes d among its parts, where their size tells. A matrix
that autodiff made does not: its entries are slopes times weights. A matrix that was given has no slopes at all.

An operator may answer for itself by ``shows_slopes``, ``knows_stops`` and ``with_parts``; one with ``row_norms`` that does not
is taken to show its slopes, and any other is not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground.arithmetic import smallest_factor

STOPPED = 1024.0
"""Numbers of up to STOPPED smallest factors may be made of a slope that was stopped short of underflow: upper bounds."""

SLOPES_PER_UNIT = 8
"""Part of an operator with at most so many numbers a unit is taken for slopes, which the step computed;
a larger one for a weight, in which nothing was stopped."""


def lost(A: Array) -> Array:
    """Which numbers of A (..., m, n) count as zeros and decide their row, (..., m, n).

    XLA takes numbers below `tiny`, the smallest normal one, as zeros. That matters in a row without a number above tiny / eps,
    beside which they would be a rounding. Only the bits tell: a comparison would take them as zeros, too.
    """
    info, width = jnp.finfo(A.dtype), jnp.int64 if A.dtype.itemsize == 8 else jnp.int32
    as_bits = lambda number: lax.bitcast_convert_type(jnp.asarray(number, A.dtype), width)
    size = as_bits(lax.stop_gradient(A)) & jnp.iinfo(width).max  # bits without the sign are ordered like the sizes
    largest = jnp.max(size, axis=-1, keepdims=True)
    return (size > 0) & (size < as_bits(info.tiny)) & (largest < as_bits(info.tiny / info.eps))


def shows_slopes(J: Any) -> bool:
    """Whether the slopes of J stand among its parts, so that their size tells which were stopped."""
    return getattr(J, "shows_slopes", hasattr(J, "row_norms"))


def knows_stops(J: Any) -> bool:
    """Whether it is known which numbers of J were stopped: it shows its slopes, or has none."""
    return getattr(J, "knows_stops", shows_slopes(J))


def may_be_stopped(part: Array) -> Array:
    """Where the numbers of a part of an operator may have been stopped short of zero."""
    return (part != 0) & (jnp.abs(part) <= STOPPED * smallest_factor(part.dtype))


def with_parts(J: Any, most: int, change: Callable[[Array, int], Array]) -> Any:
    """J with `change(part, i)` in place of each floating array of at most `most` numbers among its leaves, i its number.

    J itself where nothing is known of its parts.
    """
    if hasattr(J, "with_parts"):
        return J.with_parts(most, change)
    if not hasattr(J, "row_norms"):
        return J
    leaves, structure = jax.tree.flatten(J)
    small = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.size(leaf) <= most for leaf in leaves]
    changed = [change(leaf, i) if part else leaf for i, (leaf, part) in enumerate(zip(leaves, small, strict=True))]
    return jax.tree.unflatten(structure, changed)
