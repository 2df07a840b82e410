"""Gradient clipping as Optax transformations that are right at every magnitude and say what they did.

    by value: g_i <- min(max(g_i, lower), upper),        by norm: if ||g|| >= c then g <- (c / ||g||) g

A norm is kept as r 2^E, where E is 0 but near the ends of the dtype. The entries are taken apart by their bits,
g = m 2^e, so that nothing overflows, underflows or is rounded: in the ordinary range the result is that of Optax, and
a finite gradient of 1e20 in float32 is clipped to c, not to zero. Half precision is computed in float32. What comes out
below the smallest normal number is flushed to zero where the device does so. Derivatives are those of the branch taken,
right at every magnitude too.

A group of entries (one entry, a unit, a leaf, the whole tree: whatever shares a norm) that holds a NaN or Inf becomes
NaN altogether, never a number that looks like an update; `jacspec.remedies.reject_nonfinite` then rejects it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jacspec._ground import checks
from jacspec._ground.precision import at_least_float32, floating
from jacspec.remedies.norm import Norm, brought_down, magnitude, norm
from jacspec.remedies.report import ClipReport, no_clip_report


class ClipState(NamedTuple):
    """What a clipping transformation remembers: its report, and the memory of an adaptive threshold."""

    report: ClipReport
    memory: Any


def rescaled(leaves: list[Array], size: Norm, bound: Norm, *, factor: bool = False) -> tuple[list[Array], Array]:
    """The leaves with their common norm brought down to `bound` where it reaches it; NaN where it is not finite.

    With `factor`, they are multiplied by bound / norm, else divided by the norm first: as Optax rounds the one or the other.
    """
    clipped = size.reaches(bound) & size.finite
    divisor = jnp.where(size.scaled > 0, size.scaled, 1)
    goal = jnp.where(clipped, bound.scaled, 1)  # an infinite one would multiply a derivative of zero
    exponent = jnp.where(clipped, bound.exponent, size.exponent)
    brought = [
        brought_down(g.astype(divisor.dtype), divisor, size.exponent, goal, exponent, factor=factor) for g in leaves
    ]
    return [select(clipped, size.finite, b, g) for b, g in zip(brought, leaves, strict=True)], clipped


def select(clipped: Array, finite: Array, new: Array, old: Array) -> Array:
    """`new` where clipped, else `old` to the bit, and NaN where the group is not finite."""
    return jnp.where(finite, jnp.where(clipped, new.astype(old.dtype), old), jnp.nan)


Rule = Callable[[list[Array], list[Array] | None, Norm, Any], tuple[list[Array], Array, Any]]
"""(leaves, parameters, norm of the leaves, memory) -> (clipped leaves, whether any was, memory)."""


def clipping(
    name: str,
    rule: Rule,
    memory: Callable[[Any], Any] = lambda _: (),
    *,
    thresholds: dict[str, Any],
    check: Callable[[Any], None] = lambda _: None,
) -> optax.GradientTransformation:
    """The transformation of a rule, with its report.

    Args:
        name: of the public function, for messages.
        rule: what is done to the leaves.
        memory: makes what an adaptive threshold remembers, from the dtype of the norm.
        thresholds: by name, the numbers that must be normal numbers of that dtype, or infinite.
        check: raises for parameters that the rule is not for.
    """

    def init(params: Any) -> Any:
        check(params)
        dtype = at_least_float32(*floating(jax.tree.map(_as_array, params)))
        for argument, value in thresholds.items():
            within(name, argument, value, dtype)
        return ClipState(no_clip_report(dtype), memory(dtype))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        paths, structure = jax.tree_util.tree_flatten_with_path(updates)
        leaves = [_real(name, "updates" + jax.tree_util.keystr(path), g) for path, g in paths]
        weights = None if params is None else matching(name, params, updates)
        before = norm(leaves)
        leaves, clipped, remembered = rule(leaves, weights, before, state.memory)
        after = norm(leaves)
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


def _as_array(leaf: Any) -> Any:
    """A Python float as an array, as JAX takes it; others as they are."""
    return jnp.asarray(leaf) if isinstance(leaf, float) else leaf


def _real(name: str, argument: str, leaf: Any) -> Array:
    """A leaf as a floating array."""
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        hint = "Wrap the transformation: optax.contrib.split_real_and_imaginary makes two real leaves of each."
        raise TypeError(checks.message(name, argument, "is complex", f"dtype {leaf.dtype}", "a floating dtype", hint))
    return checks.array(name, argument, _as_array(leaf))


def matching(name: str, params: Any, updates: Any) -> list[Array]:
    """The leaves of the parameters, one of equal shape for each of the updates."""
    paths, structure = jax.tree_util.tree_flatten_with_path(updates)
    try:
        weights = structure.flatten_up_to(params)
    except ValueError as error:
        got = f"{jax.tree.structure(params)}"
        raise ValueError(
            checks.message(name, "params", "has not the structure of updates", got, f"{structure}")
        ) from error
    for (path, g), w in zip(paths, weights, strict=True):
        if jnp.shape(w) != jnp.shape(g):
            argument, got = "params" + jax.tree_util.keystr(path), f"shape {jnp.shape(w)}"
            raise ValueError(checks.message(name, argument, "does not fit its update", got, f"shape {jnp.shape(g)}"))
    return [jnp.asarray(w) for w in weights]


def within(name: str, argument: str, value: Any, dtype: Any) -> None:
    """Refuse a threshold that would be 0 or infinite in the dtype: nothing or everything would reach it."""
    info = jnp.finfo(dtype)
    if isinstance(value, float) and math.isfinite(value) and not float(info.tiny) <= abs(value) <= float(info.max):
        want = f"a size in {float(info.tiny):.3g}..{float(info.max):.3g}"
        raise ValueError(checks.message(name, argument, f"leaves the range of {info.dtype}", value, want))


def threshold(name: str, argument: str, value: Any, sign: int = 1, *, none: bool = False) -> Any:
    """`value` if it is a finite number on the right side of 0, or a scalar of JAX; with `none`, infinity is no threshold."""
    most = "" if none else "a finite "
    expected = f"{most}{argument} {'>' if sign > 0 else '<'} 0"
    return checks.number(
        name, argument, value, expected, lambda v: 0 < sign * v < math.inf or (none and sign * v == math.inf)
    )


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
        ValueError: unless min_value < 0 < max_value; in `init`, for finite ends beyond the dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.clip_by_value(1.0, -2.0)
        >>> g = jnp.array([10.0, 1.0, -3.0])
        >>> jnp.asarray(clip.update(g, clip.init(g))[0]).tolist()
        [1.0, 1.0, -2.0]
    """
    name = "remedies.clip_by_value"
    upper = threshold(name, "max_value", max_value, none=True)
    lower = -upper if min_value is None else threshold(name, "min_value", min_value, -1, none=True)

    def rule(leaves, weights, size, memory):
        del weights, size
        new, marks = [], [jnp.zeros((), bool)]
        for g in leaves:
            wide = g.astype(at_least_float32(g))
            beyond = (wide > upper) | (wide < lower)
            new.append(select(beyond, jnp.isfinite(g), jnp.clip(wide, lower, upper), g))
            marks.append(jnp.any(beyond & jnp.isfinite(g)))
        return new, jnp.stack(marks).any(), memory

    return clipping(name, rule, thresholds={"max_value": upper, "min_value": lower})


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
        ValueError: unless max_norm > 0; in `init`, for a finite one beyond the dtype.

    Reference: R. Pascanu, T. Mikolov, Y. Bengio, arXiv 1211.5063, Algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.clip_by_global_norm(5.0)
        >>> g = jnp.array([3e20, 4e20], jnp.float32)
        >>> jnp.asarray(clip.update(g, clip.init(g))[0]).round(5).tolist()
        [3.0, 4.0]
    """
    name = "remedies.clip_by_global_norm"
    bound = threshold(name, "max_norm", max_norm, none=True)

    def rule(leaves, weights, size, memory):
        del weights
        new, clipped = rescaled(leaves, size, magnitude(bound, size.scaled.dtype))
        return new, clipped, memory

    return clipping(name, rule, thresholds={"max_norm": bound})


def clip_by_leaf_norm(max_norm: float) -> optax.GradientTransformation:
    """Norm clipping of every leaf by itself: if ||g_l|| >= c then g_l <- (c / ||g_l||) g_l.

    The direction within a leaf stays; that of the whole update turns.

    Args:
        max_norm: c > 0, Euclidean norm of one leaf; inf for no clipping.

    Returns:
        An Optax transformation. A leaf with an entry that is not finite becomes NaN.

    Raises:
        TypeError: if `max_norm` is no number; in an update, for leaves that are not floating.
        ValueError: unless max_norm > 0; in `init`, for a finite one beyond the dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.clip_by_leaf_norm(1.0)
        >>> g = {"W": jnp.array([0.0, 4.0]), "b": jnp.array([0.5])}
        >>> jax.tree.map(lambda leaf: leaf.tolist(), clip.update(g, clip.init(g))[0])
        {'W': [0.0, 1.0], 'b': [0.5]}
    """
    name = "remedies.clip_by_leaf_norm"
    bound = threshold(name, "max_norm", max_norm, none=True)

    def rule(leaves, weights, size, memory):
        del weights, size
        each = [rescaled([g], norm([g]), magnitude(bound, at_least_float32(g))) for g in leaves]
        clipped = jnp.stack([jnp.zeros((), bool), *(hit for _, hit in each)]).any()
        return [new for (new,), _ in each], clipped, memory

    return clipping(name, rule, thresholds={"max_norm": bound})
