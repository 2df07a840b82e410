"""Clipping whose threshold follows the weights (AGC) or the history of the norms (ZClip, AutoClip)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from jacspec import _checks
from jacspec.operators import norms
from jacspec.remedies.clipping import Norm, clipping, rescaled, select, threshold, units_and_norm


def adaptive_clip(
    clipping_factor: float = 0.01, *, eps: float = 1e-3, axis: int | tuple[int, ...] | None = None
) -> optax.GradientTransformation:
    """Adaptive gradient clipping (AGC), unit by unit.

        if ||G_i|| > lambda max(||W_i||, eps):    G_i <- lambda max(||W_i||, eps) / ||G_i||  G_i

    A unit that starts at zero may only move by lambda eps an update, 1e-5 with the defaults.

    Args:
        clipping_factor: lambda > 0.
        eps: floor of the norm of a unit's weights, > 0.
        axis: the axes that belong to one unit, the inputs. None follows Flax kernels, whose last axis counts the units:
            all but the last (axis 0 of 3-D leaves); a vector is one unit. For W of shape (out, in), as in
            `jacspec.cells`, give 1: leaves of a smaller rank are then one unit.

    Returns:
        An Optax transformation; its update needs the parameters. A unit with an entry that is not finite becomes NaN.

    Raises:
        TypeError: for numbers that are none; in an update, for leaves that are not floating.
        ValueError: unless clipping_factor > 0 and eps > 0; in an update, without parameters.

    Reference: A. Brock, S. De, S. L. Smith, K. Simonyan, arXiv 2102.06171.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> clip = remedies.adaptive_clip(0.01)
        >>> W = jnp.ones((4, 3))
        >>> clip.update(W, clip.init(W), W)[0][0].round(6).tolist()
        [0.01, 0.01, 0.01]
    """
    name = "remedies.adaptive_clip"
    factor, floor = threshold(name, "clipping_factor", clipping_factor), threshold(name, "eps", eps)

    def rule(leaves, weights, norm, units, memory):
        del norm, units
        if weights is None:
            hint = "Call update(updates, state, params)."
            raise ValueError(_checks.message(name, "params", "is missing", "None", "the parameters", hint))
        new, marks = [], [jnp.zeros((), bool)]
        for G, W in zip(leaves, weights, strict=True):
            over = _inputs(G.ndim, axis)
            (u,), size = units_and_norm([G], over)
            _, weight = units_and_norm([W], over)
            bound = factor * jnp.where(floor > weight.value, floor, weight.value).astype(u.dtype)
            hit = size.reaches(bound) & size.finite
            brought = u * (jnp.where(hit, bound, 1) / jnp.where(size.root > 0, size.root, 1))
            new.append(select(hit, size.finite, brought, G))
            marks.append(hit.any())
        return new, jnp.stack(marks).any(), memory

    return clipping(name, rule)


def _inputs(ndim: int, axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The axes over which the norm of a unit is taken."""
    every = tuple(range(ndim))
    if axis is None:
        return every if ndim <= 1 else (0,) if ndim <= 3 else every[:-1]
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    return tuple(a % ndim for a in given) if all(-ndim <= a < ndim for a in given) else every


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
        >>> g.round(4).tolist()
        [2.4]
    """
    name = "remedies.zclip"
    z_threshold, eps = threshold(name, "z_threshold", z_threshold), threshold(name, "eps", eps)
    ceiling = jnp.inf if max_norm is None else threshold(name, "max_norm", max_norm)
    alpha = _inside(name, "decay", decay, 1)
    warm_up = _checks.integer(name, "warm_up", warm_up, 2)

    def rule(leaves, weights, norm, units, memory):
        del weights
        size = _size(norm, memory.mean.dtype)
        started = memory.count >= warm_up
        z = (size - memory.mean) / (memory.deviation + eps)
        outlier = started & (z > z_threshold)
        adapted = jnp.where(outlier, memory.mean + z_threshold**2 * memory.deviation / jnp.where(outlier, z, 1), size)
        bound = jnp.minimum(jnp.where(outlier, adapted, jnp.inf), ceiling)
        new, clipped = rescaled(leaves, units, norm, bound)
        return new, clipped, _keep(norm, _moved(memory, adapted, started, alpha), memory)

    def memory(dtype: Any) -> Moments:
        return Moments(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), jnp.zeros((), dtype))

    return clipping(name, rule, memory)


def _moved(old: Moments, norm: Array, started: Array, alpha: float) -> Moments:
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
        >>> g.tolist()
        [2.0]
    """
    name = "remedies.autoclip"
    fraction = _inside(name, "percentile", percentile, 100, closed=True) / 100
    window = _checks.integer(name, "window", window, 1)

    def rule(leaves, weights, norm, units, memory):
        del weights
        size = _size(norm, memory.ring.dtype)
        seen = History(memory.count + 1, memory.ring.at[memory.count % window].set(size))
        last = jnp.minimum(seen.count, window) - 1
        place = fraction * last.astype(size.dtype)
        below = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last)
        ordered = jnp.sort(seen.ring)  # empty places hold inf and come last
        low, high = ordered[below], ordered[jnp.minimum(below + 1, last)]
        bound = low + (place - below) * (high - low)
        new, clipped = rescaled(leaves, units, norm, jnp.where(bound < size, bound, jnp.inf))
        return new, clipped, _keep(norm, seen, memory)

    def memory(dtype: Any) -> History:
        return History(jnp.zeros((), jnp.int32), jnp.full(window, jnp.inf, dtype))

    return clipping(name, rule, memory)


def _size(norm: Norm, dtype: Any) -> Array:
    """The norm as a number, at most the largest of the dtype."""
    return jnp.minimum(norm.value, jnp.finfo(dtype).max).astype(dtype)


def _keep(norm: Norm, new: Any, old: Any) -> Any:
    """The new memory, or the old one if the update was not finite."""
    return type(new)(*(jnp.where(norm.finite, a, b) for a, b in zip(new, old, strict=True)))


def _inside(name: str, argument: str, value: Any, high: float, *, closed: bool = False) -> Any:
    """`value` in (0, high), or in (0, high]."""
    bounds = f"0 < {argument} {'<=' if closed else '<'} {high}"
    value = threshold(name, argument, value)
    if _checks.is_concrete(value) and (value > high or (value == high and not closed)):
        raise ValueError(_checks.message(name, argument, "is out of range", value, bounds))
    return value
