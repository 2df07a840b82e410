"""Gradient clipping as Optax transformations that are right at every magnitude and say what they did.

    by value: g_i <- min(max(g_i, lower), upper),        by norm: if ||g|| >= c then g <- (c / ||g||) g

A norm is kept as r 2^E, where 2^E is a power of two near the largest entry. The entries are taken apart by their
bits, g = m 2^e, so that nothing overflows, underflows or is rounded: in the ordinary range the result is that of
Optax, and a finite gradient of 1e20 in float32 is clipped to c, not to zero. Half precision is computed in float32.
What comes out below the smallest normal number is flushed to zero where the device does so.

A group of entries (one entry, a unit, a leaf, the whole tree: whatever shares a norm) that holds a NaN or Inf becomes
NaN altogether, never a number that looks like an update; `jacspec.remedies.reject_nonfinite` then rejects it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jacspec import _checks
from jacspec._links import at_least_float32
from jacspec._primitives import Primitive
from jacspec.remedies.report import ClipReport, no_clip_report

LEAST = -(2**20)
"""Exponent that stands for that of zero: below every exponent of a floating number."""


class Norm(NamedTuple):
    """The Euclidean norm root 2^exponent of a group of entries; no square overflows or underflows, and the root may be 0."""

    root: Array
    exponent: Array

    @property
    def value(self) -> Array:
        """As a number: inf beyond the dtype."""
        return shifted(self.root, jnp.ldexp(jnp.ones_like(self.root), self.exponent))

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

    def reaches(self, bound: Array | float) -> Array:
        """Whether the norm is >= `bound` > 0, compared beyond the range of the dtype too; never for a zero norm."""
        mantissa, exponent = jnp.frexp(jnp.asarray(bound, self.root.dtype))
        return (self.root >= jnp.ldexp(mantissa, exponent - self.exponent)) & (self.root > 0)


class ClipState(NamedTuple):
    """What a clipping transformation remembers: its report, and the memory of an adaptive threshold."""

    report: ClipReport
    memory: Any


def units_and_norm(leaves: list[Array], axis: Any = None) -> tuple[list[Array], Norm]:
    """The entries divided by 2^E and their norm: over all the leaves, or over an axis (kept) of a single leaf."""
    dtype = at_least_float32(*leaves)
    wide = [g.astype(dtype) for g in leaves]
    parts = [mantissa_and_exponent(g) for g in wide]
    keep = axis is not None
    tops = [jnp.max(jnp.where(m != 0, e, LEAST), axis=axis, keepdims=keep, initial=LEAST) for m, e in parts]
    top = jnp.max(jnp.stack(tops), axis=0) if tops else jnp.asarray(LEAST)
    info = jnp.finfo(dtype)
    most = int(info.maxexp) - int(info.nmant) - 5  # short of the ends, so that a change of 1 survives the division
    top = jnp.where(top == LEAST, 0, jnp.clip(top, -most, most))
    units = [shifted(g, jnp.ldexp(jnp.ones((), dtype), -top)) for g in wide]
    square = jnp.asarray(sum((jnp.sum(u**2, axis=axis, keepdims=keep) for u in units), start=0.0))
    return units, Norm(jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square))), top)


@Primitive
def shifted(x: Array, power: Array) -> Array:
    """x times a power of two, subnormal numbers included."""
    m, e = mantissa_and_exponent(x)
    return jnp.ldexp(m, e + jnp.frexp(power)[1] - 1)


@shifted.defjvp
def _shifted_jvp(primals, tangents):
    (x, power), (dx, dpower) = primals, tangents
    return shifted(x, power), power * dx + x * dpower


def mantissa_and_exponent(x: Array) -> tuple[Array, Array]:
    """x = m 2^e with 1/2 <= abs(m) < 1, subnormal numbers included: to arithmetic on a CPU those are zero."""
    info = jnp.finfo(x.dtype)
    bits = lax.bitcast_convert_type(x, jnp.uint32 if info.bits == 32 else jnp.uint64)
    fraction = bits & ((1 << info.nmant) - 1)
    subnormal = (bits >> info.nmant) & ((1 << info.nexp) - 1) == 0
    whole = jnp.where(jnp.signbit(x), -1, 1) * fraction.astype(x.dtype)  # in units of the smallest number
    m, e = jnp.frexp(jnp.where(subnormal, whole, x))
    return m, e + jnp.where(subnormal, int(info.minexp) - int(info.nmant), 0).astype(e.dtype)


def rescaled(leaves: list[Array], units: list[Array], norm: Norm, bound: Array | float) -> tuple[list[Array], Array]:
    """The leaves with their common norm brought down to `bound` where it reaches it; NaN where it is not finite."""
    clipped = norm.reaches(bound) & norm.finite
    root = jnp.where(norm.root > 0, norm.root, 1)
    bound = jnp.where(clipped, bound, 1)  # an infinite one would multiply a derivative of zero
    brought = [along(u, root, bound.astype(u.dtype)) for u in units]
    return [select(clipped, norm.finite, b, g) for b, g in zip(brought, leaves, strict=True)], clipped


@Primitive
def along(u: Array, root: Array, bound: Array) -> Array:
    """(u / root) bound, rounded as Optax rounds it; in the derivative the two large factors meet first."""
    return (u / root) * bound


@along.defjvp
def _along_jvp(primals, tangents):
    (u, root, bound), (du, droot, dbound) = primals, tangents
    ratio = bound / root
    return along(u, root, bound), ratio * du + (u / root) * (dbound - ratio * droot)


def select(clipped: Array, finite: Array, new: Array, old: Array) -> Array:
    """`new` where clipped, else `old` to the bit, and NaN where the group is not finite."""
    return jnp.where(finite, jnp.where(clipped, new.astype(old.dtype), old), jnp.nan)


Rule = Callable[[list[Array], list[Array] | None, Norm, list[Array], Any], tuple[list[Array], Array, Any]]
"""(leaves, parameters, their norm, their units, memory) -> (clipped leaves, whether any was, memory)."""


def clipping(name: str, rule: Rule, memory: Callable[[Any], Any] = lambda _: ()) -> optax.GradientTransformation:
    """The transformation of a rule, with its report."""

    def init(params: Any) -> Any:
        dtype = at_least_float32(*jax.tree.leaves(params))
        return ClipState(no_clip_report(dtype), memory(dtype))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        for path, g in jax.tree_util.tree_leaves_with_path(updates):
            _checks.array(name, "updates" + jax.tree_util.keystr(path), g)
        leaves, structure = jax.tree.flatten(updates)
        weights = None if params is None else structure.flatten_up_to(params)
        units, before = units_and_norm(leaves)
        leaves, clipped, remembered = rule(leaves, weights, before, units, state.memory)
        _, after = units_and_norm(leaves)
        old = state.report
        dtype = old.norm_before.dtype
        report = ClipReport(
            norm_before=before.value.astype(dtype),
            norm_after=after.value.astype(dtype),
            log_norm_before=before.log.astype(dtype),
            log_norm_after=after.log.astype(dtype),
            clipped=clipped,
            finite=before.finite,
            updates=old.updates + 1,
            times_clipped=old.times_clipped + clipped,
            times_nonfinite=old.times_nonfinite + ~before.finite,
        )
        return structure.unflatten(leaves), ClipState(report, remembered)

    return optax.GradientTransformation(init, update)


def threshold(name: str, argument: str, value: Any, sign: int = 1) -> Any:
    """`value` if it is a number on the right side of 0 (infinity is no threshold) or a scalar that JAX traces."""
    expected = f"{argument} {'>' if sign > 0 else '<'} 0"
    scalar = isinstance(value, (int, float, np.number, np.ndarray, Array)) and np.ndim(value) == 0
    if isinstance(value, bool) or not scalar:
        shape = getattr(value, "shape", None)
        got = repr(value) if shape is None else f"shape {shape}"
        raise TypeError(_checks.message(name, argument, "must be a number", got, expected))
    if _checks.is_concrete(value) and not sign * value > 0:
        raise ValueError(_checks.message(name, argument, "is out of range", value, expected))
    return value


def clip_by_value(max_value: float, min_value: float | None = None) -> optax.GradientTransformation:
    """Clip every entry to an interval: g_i <- min(max(g_i, min_value), max_value).

    It turns the update: (10, 1) becomes (1, 1) at 1. No learning rate does the same.

    Args:
        max_value: upper end, > 0; inf for none.
        min_value: lower end, < 0; -max_value if None.

    Returns:
        An Optax transformation. An entry that is not finite becomes NaN, not an end of the interval.

    Raises:
        TypeError: for ends that are no numbers; in an update, for leaves that are not floating.
        ValueError: unless min_value < 0 < max_value.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.clip_by_value(1.0, -2.0)
        >>> g = jnp.array([10.0, 1.0, -3.0])
        >>> clip.update(g, clip.init(g))[0].tolist()
        [1.0, 1.0, -2.0]
    """
    name = "remedies.clip_by_value"
    upper = threshold(name, "max_value", max_value)
    lower = -upper if min_value is None else threshold(name, "min_value", min_value, -1)

    def rule(leaves, weights, norm, units, memory):
        del weights, norm, units
        new, marks = [], [jnp.zeros((), bool)]
        for g in leaves:
            wide = g.astype(at_least_float32(g))
            beyond = (wide > upper) | (wide < lower)
            new.append(select(beyond, jnp.isfinite(g), jnp.clip(wide, lower, upper), g))
            marks.append(jnp.any(beyond & jnp.isfinite(g)))
        return new, jnp.stack(marks).any(), memory

    return clipping(name, rule)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Norm clipping over all parameters: if ||g|| >= c then g <- (c / ||g||) g.

    With plain gradient descent it is a learning rate eta min(1, c / ||g||) that the step chooses for itself; behind
    Adam, which divides any common scale out again, it does far less.

    Args:
        max_norm: c > 0, Euclidean norm over all leaves; inf for no clipping.

    Returns:
        An Optax transformation. If any entry is not finite, all become NaN.

    Raises:
        TypeError: if `max_norm` is no number; in an update, for leaves that are not floating.
        ValueError: unless max_norm > 0.

    Reference: R. Pascanu, T. Mikolov, Y. Bengio, arXiv 1211.5063, Algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.clip_by_global_norm(5.0)
        >>> g = jnp.array([3e20, 4e20], jnp.float32)
        >>> clip.update(g, clip.init(g))[0].round(5).tolist()
        [3.0, 4.0]
    """
    name = "remedies.clip_by_global_norm"
    bound = threshold(name, "max_norm", max_norm)

    def rule(leaves, weights, norm, units, memory):
        del weights
        new, clipped = rescaled(leaves, units, norm, bound)
        return new, clipped, memory

    return clipping(name, rule)


def clip_by_leaf_norm(max_norm: float) -> optax.GradientTransformation:
    """Norm clipping of every leaf by itself: if ||g_l|| >= c then g_l <- (c / ||g_l||) g_l.

    The direction within a leaf stays; that of the whole update turns.

    Args:
        max_norm: c > 0, Euclidean norm of one leaf; inf for no clipping.

    Returns:
        An Optax transformation. A leaf with an entry that is not finite becomes NaN.

    Raises:
        TypeError: if `max_norm` is no number; in an update, for leaves that are not floating.
        ValueError: unless max_norm > 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.clip_by_leaf_norm(1.0)
        >>> g = {"W": jnp.array([0.0, 4.0]), "b": jnp.array([0.5])}
        >>> new, _ = clip.update(g, clip.init(g))
        >>> new["W"].tolist(), new["b"].tolist()
        ([0.0, 1.0], [0.5])
    """
    name = "remedies.clip_by_leaf_norm"
    bound = threshold(name, "max_norm", max_norm)

    def rule(leaves, weights, norm, units, memory):
        del weights, norm, units
        each = [rescaled([g], *units_and_norm([g]), bound) for g in leaves]
        clipped = jnp.stack([jnp.zeros((), bool), *(hit for _, hit in each)]).any()
        return [new for (new,), _ in each], clipped, memory

    return clipping(name, rule)
