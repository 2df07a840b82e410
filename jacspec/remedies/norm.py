"""Norms as pairs (root, exponent), by whose arithmetic no number overflows, underflows or loses its derivative."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jacspec._links import at_least_float32
from jacspec._primitives import Primitive

LEAST = -(2**20)
"""Exponent that stands for that of zero: below every exponent of a floating number."""


class Norm(NamedTuple):
    """The Euclidean norm root 2^exponent of a group of entries; no square overflows or underflows, and the root may be 0."""

    root: Array
    exponent: Array

    @property
    def value(self) -> Array:
        """As a number: inf beyond the dtype."""
        return shifted(self.root, self.exponent)

    @property
    def log(self) -> Array:
        """Natural log: -inf for zero, NaN if an entry is not finite."""
        live = self.root > 0
        log = jnp.log(jnp.where(live, self.root, 1)) + self.exponent * jnp.log(jnp.asarray(2, self.root.dtype))
        return jnp.where(self.finite, jnp.where(live, log, -jnp.inf), jnp.nan)

    @property
    def finite(self) -> Array:
        """Whether every entry is: the entries, divided by 2^exponent, cannot overflow in a sum."""
        return jnp.isfinite(self.root)

    def reaches(self, bound: "Norm") -> Array:
        """Whether the norm is >= `bound` > 0, compared beyond the range of the dtype too; never for a zero norm."""
        return (self.root >= shifted(bound.root, bound.exponent - self.exponent)) & (self.root > 0)


def magnitude(value: Array | float, dtype: Any) -> Norm:
    """A number > 0 as a norm, exact beyond the range of the dtype too; its exponent is 0 but near the ends and beyond."""
    if isinstance(value, float):
        mantissa, exponent = math.frexp(value)
        near = within_reach(jnp.asarray(exponent), dtype)
        return Norm(jnp.ldexp(jnp.asarray(mantissa, dtype), near), exponent - near)
    value = jnp.asarray(value, jnp.result_type(value, dtype))
    _, exponent = mantissa_and_exponent(value)
    beyond = exponent - within_reach(exponent, dtype)
    return Norm(shifted(value, -beyond).astype(dtype), beyond)


def within_reach(exponent: Array, dtype: Any) -> Array:
    """The nearest exponent short of the ends of the dtype, by so much that a change of 1 survives the division by 2^E."""
    info = jnp.finfo(dtype)
    most = int(info.maxexp) - int(info.nmant) - 5
    return jnp.clip(exponent, -most, most)


def parts_and_norm(leaves: list[Array], axis: Any = None) -> tuple[list[Array], Norm]:
    """The entries as parts of 2^E, and their norm: over all the leaves, or over an axis (kept) of a single leaf."""
    dtype = at_least_float32(*leaves)
    wide = [g.astype(dtype) for g in leaves]
    keep = axis is not None
    taken = [mantissa_and_exponent(g) for g in wide]
    tops = [jnp.max(jnp.where(m != 0, e, LEAST), axis=axis, keepdims=keep, initial=LEAST) for m, e in taken]
    top = jnp.max(jnp.stack(tops), axis=0) if tops else jnp.asarray(LEAST)
    top = jnp.where(top == LEAST, 0, within_reach(top, dtype))
    parts = [shifted(g, -top) for g in wide]
    square = jnp.asarray(sum((jnp.sum(p**2, axis=axis, keepdims=keep) for p in parts), start=0.0))
    return parts, Norm(jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square))), top)


@Primitive
def shifted(x: Array, exponent: Array) -> Array:
    """x 2^exponent, subnormal numbers included."""
    m, e = mantissa_and_exponent(x)
    return jnp.ldexp(m, e + exponent)


@shifted.defjvp
def _shifted_jvp(primals, tangents):
    (x, exponent), (dx, _) = primals, tangents
    return shifted(x, exponent), shifted(jnp.ones_like(x), exponent) * dx


def mantissa_and_exponent(x: Array) -> tuple[Array, Array]:
    """x = m 2^e with 1/2 <= abs(m) < 1, subnormal numbers included: to arithmetic on a CPU those are zero."""
    info = jnp.finfo(x.dtype)
    bits = lax.bitcast_convert_type(x, jnp.uint32 if info.bits == 32 else jnp.uint64)
    fraction = bits & ((1 << info.nmant) - 1)
    subnormal = (bits >> info.nmant) & ((1 << info.nexp) - 1) == 0
    whole = jnp.where(jnp.signbit(x), -1, 1) * fraction.astype(x.dtype)  # in units of the smallest number
    m, e = jnp.frexp(jnp.where(subnormal, whole, x))
    return m, e + jnp.where(subnormal, int(info.minexp) - int(info.nmant), 0).astype(e.dtype)


@Primitive
def brought_down(x: Array, root: Array, top: Array, goal: Array, exponent: Array, *, factor: bool) -> Array:
    """x / (root 2^top) goal 2^exponent."""
    (m, e), (r, re), (c, ce) = map(mantissa_and_exponent, (x, root, goal))
    return jnp.ldexp(m * (c / r) if factor else (m / r) * c, (e - re - top) + (ce + exponent))


@brought_down.defjvp
def _brought_down_jvp(primals, tangents, *, factor):
    (x, root, top, goal, exponent), (dx, droot, _, dgoal, _) = primals, tangents
    one, zero = jnp.ones_like(root), jnp.zeros_like(top)
    ratio = brought_down(one, root, top, goal, exponent, factor=factor)
    share = brought_down(x, root, top, one, zero, factor=factor)  # both <= 1 where it clips
    change = shifted(one, exponent) * dgoal - brought_down(one, root, zero, goal, exponent, factor=factor) * droot
    return brought_down(*primals, factor=factor), ratio * dx + share * change
