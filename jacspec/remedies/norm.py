"""Norms as pairs (scaled, exponent), by whose arithmetic no number overflows, underflows or loses its derivative."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground.precision import at_least_float32
from jacspec._ground.primitives import Primitive

LEAST = -(2**20)
"""Exponent that stands for that of zero: below every exponent of a floating number."""


class Norm(NamedTuple):
    """The Euclidean norm of a group of entries as scaled * 2^exponent; `scaled` stays within the dtype, and may be 0."""

    scaled: Array
    exponent: Array

    @property
    def value(self) -> Array:
        """As a number: inf beyond the dtype."""
        return shifted(self.scaled, self.exponent)

    @property
    def log(self) -> Array:
        """Natural log: -inf for zero, NaN if an entry is not finite."""
        live = self.scaled > 0
        log = jnp.log(jnp.where(live, self.scaled, 1)) + self.exponent * jnp.log(jnp.asarray(2, self.scaled.dtype))
        return jnp.where(self.finite, jnp.where(live, log, -jnp.inf), jnp.nan)

    @property
    def finite(self) -> Array:
        """Whether every entry is: the scaled norm of finite entries cannot overflow."""
        return jnp.isfinite(self.scaled)

    def reaches(self, bound: "Norm") -> Array:
        """Whether the norm is >= `bound` > 0, compared beyond the range of the dtype too; never for a zero norm."""
        return (self.scaled >= shifted(bound.scaled, bound.exponent - self.exponent)) & (self.scaled > 0)


def magnitude(value: Array | float, dtype: Any) -> Norm:
    """A number > 0 as a norm, exact beyond the range of the dtype too; its exponent is 0 but near the ends and beyond."""
    if isinstance(value, float):
        mantissa, exponent = math.frexp(value)
        excess = beyond(jnp.asarray(exponent), dtype)
        return Norm(jnp.ldexp(jnp.asarray(mantissa, dtype), exponent - excess), excess)
    value = jnp.asarray(value, jnp.result_type(value, dtype))
    excess = beyond(mantissa_and_exponent(value)[1], dtype)
    return Norm(shifted(value, -excess).astype(dtype), excess)


def beyond(exponent: Array, dtype: Any) -> Array:
    """What an exponent exceeds +-(maxexp - nmant - 5) by: short of that, 1 / 2^exponent keeps all its digits."""
    info = jnp.finfo(dtype)
    most = int(info.maxexp) - int(info.nmant) - 5
    return exponent - jnp.clip(exponent, -most, most)


def norm(leaves: list[Array], axis: Any = None) -> Norm:
    """The norm over all the leaves, or over an axis (kept) of a single leaf; its exponent is as in `magnitude`."""
    dtype = at_least_float32(*leaves)
    leaves = [g.astype(dtype) for g in leaves]
    _, whole = parts_and_norm(leaves, axis)
    scaled = lax.stop_gradient(whole.scaled)
    exponent = beyond(mantissa_and_exponent(scaled)[1] + whole.exponent, dtype)
    return Norm(length(exponent, *leaves, axis=axis), exponent)


def parts_and_norm(leaves: Sequence[Array], axis: Any = None) -> tuple[list[Array], Norm]:
    """The entries divided by 2^E, the power of two above the largest, and their norm scaled * 2^E; axes as in `norm`."""
    dtype = at_least_float32(*leaves)
    wide = [g.astype(dtype) for g in leaves]
    keep = axis is not None
    taken = [mantissa_and_exponent(g) for g in wide]
    tops = [jnp.max(jnp.where(m != 0, e, LEAST), axis=axis, keepdims=keep, initial=LEAST) for m, e in taken]
    top = jnp.max(jnp.stack(tops), axis=0) if tops else jnp.asarray(LEAST)
    top = jnp.where(top == LEAST, 0, top)
    parts = [shifted(g, -top) for g in wide]
    squares = [jnp.sum(p**2, axis=axis, keepdims=keep) for p in parts]
    return parts, Norm(jnp.sqrt(jnp.asarray(sum(squares, start=jnp.zeros((), dtype)))), top)


@Primitive
def length(exponent: Array, *leaves: Array, axis: Any) -> Array:
    """The norm divided by 2^exponent; where it is 0, its derivative is 0."""
    _, whole = parts_and_norm(leaves, axis)
    return shifted(whole.scaled, whole.exponent - exponent)


@length.defjvp
def _length_jvp(primals, tangents, *, axis):
    (exponent, *leaves), (_, *changes) = primals, tangents
    scaled = length(exponent, *leaves, axis=axis)
    divisor = jnp.where(scaled > 0, scaled, 1)
    change = jnp.zeros_like(scaled)
    for g, dg in zip(leaves, changes, strict=True):
        share = brought_down(g, divisor, exponent, jnp.ones_like(scaled), jnp.zeros_like(exponent), factor=False)
        change = change + jnp.sum(share * dg, axis=axis, keepdims=axis is not None)
    return scaled, shifted(jnp.ones_like(scaled), -exponent) * change


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
def brought_down(x: Array, scaled: Array, top: Array, goal: Array, exponent: Array, *, factor: bool) -> Array:
    """x / (scaled * 2^top) * goal * 2^exponent, in that order; with `factor`, goal / scaled first."""
    (m, e), (r, re), (c, ce) = map(mantissa_and_exponent, (x, scaled, goal))
    return jnp.ldexp(m * (c / r) if factor else (m / r) * c, (e - re - top) + (ce + exponent))


@brought_down.defjvp
def _brought_down_jvp(primals, tangents, *, factor):
    (x, scaled, top, goal, exponent), (dx, dscaled, _, dgoal, _) = primals, tangents
    one, zero = jnp.ones_like(scaled), jnp.zeros_like(top)
    ratio = brought_down(one, scaled, top, goal, exponent, factor=factor)
    share = brought_down(x, scaled, top, one, zero, factor=factor)  # both <= 1 where it clips
    change = shifted(one, exponent) * dgoal - brought_down(one, scaled, zero, goal, exponent, factor=factor) * dscaled
    return brought_down(*primals, factor=factor), ratio * dx + share * change
