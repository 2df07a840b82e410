"""Clipping whose threshold follows the weights (AGC) or the history of the norms (ZClip, AutoClip)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jacspec._ground import checks
from jacspec._ground.arithmetic import norms
from jacspec._ground.memory import affordable
from jacspec._ground.precision import at_least_float32
from jacspec.remedies.clipping import clipping, rescaled, threshold
from jacspec.remedies.norm import Norm, magnitude, norm, shifted

MOST_AXES = 5
"""Axes of a Flax kernel at most: three of space, in and out."""


def adaptive_clip(
    clipping_factor: float = 0.01, *, eps: float = 1e-3, axis: int | tuple[int, ...] | None = None
) -> optax.GradientTransformation:
    """Adaptive gradient clipping (AGC), unit by unit.

        if ||G_i|| > lambda max(||W_i||, eps):    G_i <- lambda max(||W_i||, eps) / ||G_i||  G_i

    A unit that starts at zero may only move by lambda eps an update, 1e-5 with the defaults.

    Args:
        clipping_factor: lambda > 0.
        eps: floor of the norm of a unit's weights, > 0.
        axis: the axes that belong to one unit, its inputs, in leaves of two axes or more; a vector is one unit. Give -1
            for W of shape (out, in), (gates, out, in) or (layers, gates, out, in), as in `jacspec.cells`, whose biases
            (gates, out) then have one unit a gate, and -2 for stacks of (in, out). A single axis from the front is for
            leaves of two axes; a tuple names the axes of every leaf. None follows the published program and Optax,
            for Flax kernels, whose last axis counts the units: axis 0 of (in, out) and (in, heads, out), all but the last
            of 4 and 5 axes (convolutions), everything where only one axis is longer than 1.

    Returns:
        An Optax transformation; its update needs the parameters. A unit with an entry that is not finite, in the update
        or the parameters, becomes NaN.

    Raises:
        TypeError: for numbers or axes that are none; in an update, for leaves that are not floating.
        ValueError: unless clipping_factor > 0 and eps > 0; in `init` and an update, for leaves without such an axis, and
            numbers beyond the dtype; in an update, without parameters, or parameters that do not fit.

    Reference: A. Brock, S. De, S. L. Smith, K. Simonyan, arXiv 2102.06171, eq. (3), and their code (`agc_optax.py`).

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.adaptive_clip(0.01)
        >>> W = jnp.ones((4, 3))
        >>> jnp.asarray(clip.update(W, clip.init(W), W)[0]).max().round(6).item()
        0.01
    """
    name = "remedies.adaptive_clip"
    factor, floor = threshold(name, "clipping_factor", clipping_factor), threshold(name, "eps", eps)
    if isinstance(axis, bool) or not (axis is None or isinstance(axis, (int, tuple))):
        raise TypeError(checks.message(name, "axis", "is no axis", repr(axis), "an integer, a tuple of them, or None"))

    def check(params):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            _unit_axes(name, "params" + jax.tree_util.keystr(path), jnp.shape(leaf), axis)

    def rule(leaves, weights, whole, memory):
        del whole
        if weights is None:
            hint = "Call update(updates, state, params)."
            raise ValueError(checks.message(name, "params", "is missing", "None", "the parameters", hint))
        new, marks = [], [jnp.zeros((), bool)]
        for G, W in zip(leaves, weights, strict=True):
            over, dtype = _unit_axes(name, "params", G.shape, axis), at_least_float32(G, W)
            weight, size = (norm([x.astype(dtype)], over) for x in (W, G))
            size = size._replace(scaled=jnp.where(weight.finite, size.scaled, jnp.nan))
            least, share = magnitude(floor, dtype), magnitude(factor, dtype)
            larger = Norm(*(jnp.where(weight.reaches(least), a, b) for a, b in zip(weight, least, strict=True)))
            bound = Norm(shifted(share.scaled, larger.exponent) * larger.scaled, share.exponent)
            (clipped,), hit = rescaled([G], size, bound, factor=True)
            new.append(clipped)
            marks.append(hit.any())
        return new, jnp.stack(marks).any(), memory

    thresholds = {"clipping_factor": factor, "eps": floor, "clipping_factor * eps": factor * floor}
    return clipping(name, rule, thresholds=thresholds, check=check)


def _unit_axes(name: str, leaf: str, shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The axes over which the norm of a unit is taken."""
    ndim, every = len(shape), tuple(range(len(shape)))
    if ndim <= 1 or (axis is None and sum(n > 1 for n in shape) <= 1):
        return every
    if axis is None:
        if ndim > MOST_AXES:
            hint = "Give the axes of a unit: axis=-1 for stacks of (out, in)."
            raise ValueError(checks.message(name, leaf, "has units that are not known", f"shape {shape}", "", hint))
        return (0,) if ndim <= 3 else every[:-1]
    given = (axis,) if isinstance(axis, int) else axis
    if any(not -ndim <= a < ndim for a in given) or len({a % ndim for a in given}) < len(given) or not given:
        raise ValueError(checks.message(name, leaf, "has no such axes", f"axis={axis} and shape {shape}"))
    if isinstance(axis, int) and 0 <= axis < ndim - 1 and ndim > 2:
        hint = f"Write axis=-1 for (..., out, in), axis=-2 for (..., in, out), or axis=({axis},) for this one."
        got = f"axis={axis} and shape {shape}"
        raise ValueError(checks.message(name, leaf, "has leading axes: count from the end", got, "", hint))
    return tuple(a % ndim for a in given)


class Moments(NamedTuple):
    """Running mean and standard deviation of the norms, and how many went in."""

    count: Array
    mean: Array
    deviation: Array


def zclip(
    z_threshold: float = 2.5,
    *,
    decay: float = 0.97,
    warm_up: int = 25,
    max_norm: float | None = 1.0,
    eps: float = 1e-6,
) -> optax.GradientTransformation:
    """ZClip: clip the global norm where it is an outlier among those before it.

        z = (||g|| - mu) / (sd + eps);    if z > z_thr:    ||g|| <- mu + z_thr^2 sd / z

    mu and sd are those of the first `warm_up` norms, and then exponential averages of the norms after this rule. Only
    `max_norm` clips during the warm-up; later it bounds the threshold.

    Args:
        z_threshold: z_thr > 0, in standard deviations.
        decay: alpha in (0, 1), of the averages, per update.
        warm_up: number of norms that start them, >= 2.
        max_norm: a fixed bound beside the adaptive one, > 0; None for no such bound.
        eps: > 0, in the unit of the norm.

    Returns:
        An Optax transformation. If any entry is not finite, all become NaN and the averages stay.

    Raises:
        TypeError: for arguments that are no numbers; in an update, for leaves that are not floating.
        ValueError: for arguments out of range.

    Reference: A. Kumar, L. Owen, N. Roy Chowdhury, F. Güra, arXiv 2504.02507.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.zclip(2.0, warm_up=2, max_norm=None)
        >>> state = clip.init(jnp.ones(1))
        >>> for norm in (1.0, 3.0, 12.0):  # mean 2, deviation 1: z = 10, bound 2 + 4 / 10
        ...     g, state = clip.update(jnp.array([norm]), state)
        >>> jnp.asarray(g).round(4).tolist()
        [2.4]
    """
    name = "remedies.zclip"
    z_threshold, eps = threshold(name, "z_threshold", z_threshold), threshold(name, "eps", eps)
    ceiling = math.inf if max_norm is None else threshold(name, "max_norm", max_norm)
    alpha = _below(name, "decay", decay, 1)
    warm_up = checks.integer(name, "warm_up", warm_up, 2, checks.INT32_MAX)

    def rule(leaves, weights, whole, memory):
        del weights
        size = _as_number(whole, memory.mean.dtype)
        started = memory.count >= warm_up
        z = (size - memory.mean) / (memory.deviation + eps)
        outlier = started & (z > z_threshold)
        share = z_threshold / jnp.where(outlier, z, 1)
        adapted = jnp.where(outlier, memory.mean + z_threshold * share * memory.deviation, size)
        bound = jnp.minimum(jnp.where(outlier, adapted, jnp.inf), ceiling)
        new, clipped = rescaled(leaves, whole, magnitude(bound, whole.scaled.dtype))
        return new, clipped, _keep(whole, _with_one_more(memory, adapted, started, alpha), memory)

    def memory(dtype: Any) -> Moments:
        return Moments(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), jnp.zeros((), dtype))

    thresholds = {"z_threshold": z_threshold, "eps": eps, "max_norm": ceiling}
    return clipping(name, rule, memory, thresholds=thresholds)


def _with_one_more(old: Moments, norm: Array, started: Array, alpha: float) -> Moments:
    """The moments with one more norm: plain (Welford's update) during the warm-up, exponential after it.

    The exponential deviation is taken from the new mean, sd^2 <- alpha sd^2 + (1 - alpha) (norm - mu)^2. Roots are
    carried instead of squares, by a norm that does not overflow.
    """
    n = (old.count + 1).astype(norm.dtype)
    weight = jnp.where(started, 1 - alpha, 1 / n)
    mean = old.mean + weight * (norm - old.mean)
    # n sd_n^2 = (n - 1) sd_{n-1}^2 + (x - mu_{n-1}) (x - mu_n), and x - mu_n = (1 - 1/n) (x - mu_{n-1})
    step = jnp.where(started, norm - mean, (norm - old.mean) * jnp.sqrt(1 - 1 / n))
    deviation = norms(jnp.stack([jnp.sqrt(1 - weight) * old.deviation, jnp.sqrt(weight) * step]))
    return Moments(old.count + 1, mean, deviation)


class History(NamedTuple):
    """The last norms in a ring, and how many were seen."""

    count: Array
    ring: Array


def autoclip(percentile: float = 10.0, *, window: int = 1000) -> optax.GradientTransformation:
    """AutoClip: clip the global norm to a percentile of its own history, the present one included.

    Args:
        percentile: in (0, 100], interpolated linearly between the two nearest norms.
        window: how many of the last norms are remembered, >= 1. The published algorithm remembers all.

    Returns:
        An Optax transformation. If any entry is not finite, all become NaN and the history stays.

    Raises:
        TypeError: for arguments that are no numbers; in an update, for leaves that are not floating.
        ValueError: for arguments out of range.

    Reference: P. Seetharaman, G. Wichern, B. Pardo, J. Le Roux, AutoClip: adaptive gradient clipping for source
    separation networks, MLSP 2020, arXiv 2007.14469.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.autoclip(50)
        >>> state = clip.init(jnp.ones(1))
        >>> for norm in (1.0, 2.0, 9.0):
        ...     g, state = clip.update(jnp.array([norm]), state)
        >>> jnp.asarray(g).tolist()
        [2.0]
    """
    name = "remedies.autoclip"
    fraction = _below(name, "percentile", percentile, 100, closed=True) / 100
    window = checks.integer(name, "window", window, 1, checks.INT32_MAX)
    affordable(name, "window", window, window, "its norms")

    def rule(leaves, weights, whole, memory):
        del weights
        size = _as_number(whole, memory.ring.dtype)
        seen = History(memory.count + 1, memory.ring.at[memory.count % window].set(size))
        last = jnp.minimum(seen.count, window) - 1
        place = fraction * last.astype(size.dtype)
        below = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last)
        ordered = jnp.sort(seen.ring)  # empty places hold inf and come last
        low, high = ordered[below], ordered[jnp.minimum(below + 1, last)]
        bound = low + (place - below) * (high - low)
        bound = magnitude(jnp.where(bound < size, bound, jnp.inf), whole.scaled.dtype)
        new, clipped = rescaled(leaves, whole, bound)
        return new, clipped, _keep(whole, seen, memory)

    def memory(dtype: Any) -> History:
        return History(jnp.zeros((), jnp.int32), jnp.full(window, jnp.inf, dtype))

    return clipping(name, rule, memory, thresholds={})


def _as_number(norm: Norm, dtype: Any) -> Array:
    """The norm as a number, at most the largest of the dtype."""
    return jnp.minimum(norm.value, jnp.finfo(dtype).max).astype(dtype)


def _keep(norm: Norm, new: Any, old: Any) -> Any:
    """The new memory, or the old one if the update was not finite."""
    return type(new)(*(jnp.where(norm.finite, a, b) for a, b in zip(new, old, strict=True)))


def _below(name: str, argument: str, value: Any, high: float, *, closed: bool = False) -> Any:
    """`value` in (0, high), or in (0, high]."""
    bounds = f"0 < {argument} {'<=' if closed else '<'} {high}"
    return checks.number(name, argument, value, bounds, lambda v: 0 < v < high or (closed and v == high))
