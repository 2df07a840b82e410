"""A gradient on its way back through a chain, in logs, and beside it what tells whether rounding decided its norm.

Two copies of the gradient travel with it. At every step all of their entries, and all small parts of the step Jacobian,
are changed at random by a few roundings; then they go through the same pull, whose own rounding differs from copy to
copy. What the copies and the gradient still share is known; what they do not is noise. The price is a pull a copy.

An entry that a pull leaves at zero is zero by structure (a mask, a dead unit) if it is so for every gradient with the
same zeros. Else it cancelled or underflowed, and the copies put a small random number in its place.

Reference: J. Vignes, Discrete stochastic arithmetic for validating results of numerical software, Numer. Algorithms 37
(2004) 377; D. S. Parker, Monte Carlo arithmetic, UCLA CSD-970002 (1997).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import checks
from jacspec._ground.arithmetic import rescale, smallest_factor
from jacspec._product import logs as lg
from jacspec._product.image import NEAR_ONE
from jacspec._product.slopes import SLOPES_PER_UNIT, STOPPED, knows_stops, may_be_stopped, shows_slopes, with_parts
from jacspec.typing import StepJacobian, in_turn

COPIES = 2
"""One alone would miss an error by chance once in a few hundred times."""

NUDGE = 3.0
"""Size of the random changes, in roundings."""

DISTANCE = {4: 5e-3, 8: 1e-7}
"""Relative distance of a copy from which on a norm is not resolved, by the bytes of a number: a tenth of it is usual after
5000 steps in float32."""


class Gradient(NamedTuple):
    """A gradient and its copies.

    Attributes:
        units: 1 + COPIES vectors (n,) of norm 1 or 0; the first is the gradient.
        logs: of their norms, (1 + COPIES,).
        support: (n,), False where the gradient is zero by structure.
    """

    units: tuple[Array, ...]
    logs: lg.Logs
    support: Array


Map: TypeAlias = Callable[[Array], list[Array]]
"""A linear map of a vector to a list of vectors."""


def start(vector: Array, support: Array) -> Gradient:
    """A gradient (n,) as it is given; `support` (n,) tells a number that was too small for the dtype from a zero."""
    tiny = jnp.where(support & (vector == 0), 2 * jnp.finfo(vector.dtype).tiny, 0)
    copies = [vector + tiny * (1.5 + _chance(vector.shape, vector.dtype, 0, i)) for i in range(1, 1 + COPIES)]
    return _rescaled((vector, *lax.stop_gradient(copies)), lg.zeros(1 + COPIES, vector.dtype), support)


def pulled(gradient: Gradient, J: StepJacobian, t: Array) -> Gradient:
    """J^T g, where J is the t-th step Jacobian; the factors of a product are steps of their own."""
    for place, factor in enumerate(reversed(in_turn(J))):
        seed = t + (place << 20)
        most = SLOPES_PER_UNIT * gradient.support.shape[0]
        operators = [factor, *(_nudged(factor, most, seed, i) for i in range(1, 1 + COPIES))]
        maps: list[Map] = [lambda u, J=J: [J.pull(u[:, None])[:, 0]] for J in operators]
        (gradient,) = through(gradient, maps, seed, changed=knows_stops(factor))
    return gradient


def through(gradient: Gradient, maps: Sequence[Map], t: Array | int, *, changed: Array | bool) -> list[Gradient]:
    """What a linear map makes of a gradient.

    Args:
        gradient: of n numbers.
        maps: the map for the gradient and for each copy; they may differ by rounding.
        t: a number from which all that is random is drawn.
        changed: whether the maps for the copies have already altered every slope that may have been stopped short of zero.

    Returns:
        A gradient for every vector that the map returns.
    """
    (unit, *others), logs, support = gradient
    n, dtype = unit.shape[0], unit.dtype
    halvings = n.bit_length() + 2  # no sum of n terms overflows
    shrink, least = 0.5**halvings, 0.5**halvings * smallest_factor(dtype)
    nudges = [_nudge((n,), dtype, t, i) for i in range(1, 1 + COPIES)]

    def images(scale: Array | float) -> tuple[list[Array], list[list[Array]]]:
        copies = [f(scale * (u * x)) for f, u, x in zip(maps[1:], others, nudges, strict=True)]
        return maps[0](scale * unit), copies

    found, copies = images(shrink)
    size = jnp.max(jnp.stack([jnp.max(jnp.abs(v)) for v in lax.stop_gradient(found)]))
    low = size < 1 / NEAR_ONE
    lift = jnp.where(low, jnp.clip(jnp.floor(-jnp.log2(size)), 0, jnp.finfo(dtype).maxexp - 30.0), 0)
    right, copies = lax.stop_gradient(_cond(low, lambda: images(shrink * jnp.exp2(lift)), lambda: (found, copies)))
    # terms of a small product underflow, those of its tangent do not: only the value comes from the raised vector
    raised = [v * jnp.exp2(lift) for v in found]
    found = [jnp.where(low, v + lax.stop_gradient(r - v), v) for v, r in zip(raised, right, strict=True)]
    stopped = jnp.where(changed, 0, STOPPED * least * jnp.exp2(lift))

    def with_small(found: list[Array], copies: list[list[Array]]) -> tuple[list[Array], list[list[Array]]]:
        large = jnp.where(support, float(jnp.finfo(dtype).max) ** 0.9, 0)
        generic = maps[0](large * (1.5 + _chance((n,), dtype, t, 0)))
        supports = [(v != 0) | (g != 0) for v, g in zip(found, generic, strict=True)]
        return supports, [[small(v, s, i) for v, s in zip(c, supports, strict=True)] for i, c in enumerate(copies)]

    def small(copy: Array, reached: Array, i: int) -> Array:
        """What was stopped short of zero lies anywhere between it and zero; what was lost, anywhere below `least`."""
        chance = jnp.abs(_chance(copy.shape, dtype, t, -1 - i))
        copy = jnp.where(jnp.abs(copy) <= stopped, chance * copy, copy)
        return jnp.where((copy == 0) & reached, least * chance, copy)

    fixed, copies = lax.stop_gradient((found, copies))
    lowest = jnp.stack([jnp.min(jnp.abs(v)) for v in jax.tree.leaves((fixed, copies))])
    as_they_are = lambda found, copies: ([jnp.ones(v.shape, bool) for v in found], copies)
    supports, copies = _cond(jnp.any(lowest <= jnp.maximum(stopped, least)), with_small, as_they_are, fixed, copies)
    columns = zip(found, *copies, strict=True)
    # a log is rounded, too, to its own size, and in all copies alike
    nudges = jnp.asarray([_nudge((), dtype, t, -COPIES - i) - 1 for i in range(1, 1 + COPIES)])
    nudges = jnp.concatenate([jnp.zeros(1, dtype), nudges * (1 + halvings * math.log(2))])
    for part in _parts_of_log_two(1, dtype):
        logs = lg.add(logs, -lift * part, logs.hi != -jnp.inf)
    out = [_rescaled(c, logs, s, halvings) for c, s in zip(columns, supports, strict=True)]
    return [g._replace(logs=lg.add(g.logs, nudges, g.logs.hi != -jnp.inf)) for g in out]


def added(a: Gradient, b: Gradient) -> Gradient:
    """a + b."""
    dead = a.logs.hi == -jnp.inf, b.logs.hi == -jnp.inf
    gap = (jnp.where(dead[0], 0, a.logs.hi) - jnp.where(dead[1], 0, b.logs.hi)) + (a.logs.lo - b.logs.lo)
    gap = jnp.where(dead[1], jnp.inf, jnp.where(dead[0], -jnp.inf, gap))
    part_a, part_b = jnp.exp(jnp.minimum(gap, 0)), jnp.exp(jnp.minimum(-gap, 0))
    sums = [u * x + v * y for u, x, v, y in zip(a.units, part_a, b.units, part_b, strict=True)]
    larger = lg.Logs(jnp.where(gap < 0, b.logs.hi, a.logs.hi), jnp.where(gap < 0, b.logs.lo, a.logs.lo))
    return _rescaled(sums, larger, a.support | b.support)


def read(*parts: Gradient) -> tuple[Array, Array]:
    """Log of the norm of all parts together, and whether gradient and copies differ by less than `DISTANCE` times it.

    Where they differ by more the log is that of the largest of them, an upper bound as a rule.
    """
    logs = together([part.logs.hi + part.logs.lo for part in parts])
    apart = together([_log_distances(part) for part in parts])
    close = apart - logs[0] < math.log(DISTANCE[logs.dtype.itemsize])
    resolved = lax.stop_gradient(jnp.all(jnp.where(logs[0] == -jnp.inf, apart == -jnp.inf, close)))
    return jnp.where(resolved, logs[0], jnp.maximum(logs[0], lax.stop_gradient(jnp.max(logs)))), resolved


def together(logs: Sequence[Array]) -> Array:
    """log sqrt(sum_i e^(2 l_i)), elementwise."""
    stacked = jnp.stack(logs)
    top = jnp.max(stacked, axis=0)
    live = top != -jnp.inf
    total = jnp.sum(jnp.exp(2 * (stacked - jnp.where(live, top, 0))), axis=0)
    return jnp.where(live, top + 0.5 * jnp.log(jnp.where(live, total, 1)), -jnp.inf)


def _log_distances(gradient: Gradient) -> Array:
    """Log of the distance of every copy from the gradient, (COPIES,)."""
    (unit, *others), (hi, lo) = lax.stop_gradient((gradient.units, gradient.logs))
    top = jnp.maximum(hi[0], hi[1:])
    top = jnp.where(top == -jnp.inf, 0, top)
    own, theirs = jnp.exp(hi[0] - top + lo[0]), jnp.exp(hi[1:] - top + lo[1:])
    gaps = [rescale((v * y - unit * x)[:, None])[1][0] for v, x, y in zip(others, own, theirs, strict=True)]
    return jnp.stack(gaps) + top


def _rescaled(vectors: Sequence[Array], logs: lg.Logs, support: Array, halvings: int = 0) -> Gradient:
    """2^halvings e^logs times the vectors, rescaled; logs of -inf are for those that are zero."""
    units, grown = zip(*(rescale(v[:, None]) for v in vectors), strict=True)
    grown = jnp.concatenate(grown)
    live = (logs.hi != -jnp.inf) & (grown != -jnp.inf)
    logs = lg.add(logs, jnp.where(live, grown, 0), live)
    for part in _parts_of_log_two(halvings, grown.dtype):
        logs = lg.add(logs, part, live)
    return Gradient(tuple(u[:, 0] for u in units), logs, support)


def _parts_of_log_two(factor: int, dtype: Any) -> tuple[Array, Array]:
    """factor ln 2 as a number of the dtype and what that leaves, so that a sum over many steps does not drift."""
    whole = np.asarray(factor * math.log(2), dtype)
    return jnp.asarray(whole), jnp.asarray(factor * math.log(2) - float(whole), dtype)


def _cond(predicate: Array, true: Callable, false: Callable, *args: Any) -> Any:
    """`lax.cond`, and outside of jit without a program to compile."""
    if checks.is_concrete(predicate):
        return (true if predicate else false)(*args)
    return lax.cond(predicate, true, false, *args)


def _nudged(J: Any, most: int, t: Array, seed: int) -> Any:
    """J with its small parts changed by a few roundings, and those that may be stopped slopes anywhere down to zero."""

    def nudged(part: Array, place: int) -> Array:
        dtype, own = jnp.promote_types(part.dtype, jnp.float32), seed + (place + 1) * (COPIES + 1)
        part = part.astype(dtype)
        if not shows_slopes(J):
            return part * _nudge(part.shape, dtype, t, own)
        chance = jnp.abs(_chance(part.shape, dtype, t, own))
        return jnp.where(may_be_stopped(part), chance * part, part * _nudge(part.shape, dtype, t, own))

    return with_parts(J, most, nudged)


def _nudge(shape: tuple[int, ...], dtype: Any, t: Array | int, seed: int) -> Array:
    """Random factors that differ from 1 by half to all of NUDGE roundings: by less, most would be rounded to 1."""
    chance = _chance(shape, dtype, t, seed)
    return 1 + NUDGE * jnp.finfo(dtype).eps * (chance + jnp.sign(chance)) / 2


@functools.partial(jax.jit, static_argnums=(0, 1))
def _chance(shape: tuple[int, ...], dtype: Any, t: Array | int, seed: int) -> Array:
    """Numbers in (-1, 1), a hash of their place, t and the seed: a random stream would cost more than the product.

    The mixing function is C. Wellons' lowbias32.
    """

    def mixed(x: Array) -> Array:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = (x ^ (x >> shift)) * jnp.uint32(factor)
        return x ^ (x >> 16)

    place = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits = mixed(place + mixed(jnp.asarray(t).astype(jnp.uint32) + mixed(jnp.asarray(seed).astype(jnp.uint32))))
    return (lax.bitcast_convert_type(bits, jnp.int32).astype(dtype) + 0.5) / 2.0**31
