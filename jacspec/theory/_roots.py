"""Roots of one equation in one unknown: searched for without a derivative, then given the ones that the equation implies.

No derivative passes through a search. `attach` ends it with two steps x - f(x) / f'(x*) from a root x* that is held fixed,
as the slope f'(x*) is. By the chain rule the first step has dx/dtheta = -f_theta / f', that of the implicit function, and
the second step its second derivative as well. They are plain code: no rule that a transformation could lose.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Function = Callable[[Array], Array]

HALVINGS = 60
"""Bisections: more than the bits of a double."""

OCTAVE_HALVINGS = 20
"""Halvings of the interval of log2 q that holds a fixed point: 1e-5 of q, for two Newton steps to start from."""

NEWTON_STEPS = 100
"""Most steps of Newton's method in a bracket; it takes five to ten, and halving a double's ln q about sixty."""


def bisect(below: Function, low: Array, high: Array, halvings: int = HALVINGS) -> Array:
    """Where the elementwise predicate `below` turns from true, at `low`, to false, at `high`."""

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        true = below(middle)
        return jnp.where(true, middle, low), jnp.where(true, high, middle)

    low, high = lax.fori_loop(0, halvings, halve, lax.stop_gradient((low, high)))
    return 0.5 * (low + high)


def attach(f: Function, root: Array, newton: int = 1, where: Array | bool = True) -> Array:
    """The root of an elementwise f near `root`, with its first and second derivatives in whatever f closes over.

    Args:
        f: differentiable; where its slope is zero, `root` stays and its derivatives are infinite.
        root: found by any search, of which no derivative is taken.
        newton: Newton steps by which the value moves; after 0 it is `root` to the last bit.
        where: elsewhere `root` stays and has no derivatives; f is finite there.
    """
    x = lax.stop_gradient(root)
    at = lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))

    def step(x, value, slope):
        largest = jnp.finfo(slope.dtype).max
        inverse = jnp.where(where, jnp.clip(1 / slope, -largest, largest), 0)
        stays = (slope == 0) | (newton == 0)
        return x - (value - jnp.where(stays, lax.stop_gradient(value), 0)) * inverse

    if newton > 1:
        x = lax.fori_loop(0, newton - 1, lambda _, x: lax.stop_gradient(step(x, *at(x))), x)
    value, slope = at(x)
    slope = lax.stop_gradient(slope)
    x = step(x, value, slope)
    return step(x, f(x), slope)


def falling_root(f: Function, low: Array, high: Array, halvings: int = HALVINGS) -> Array:
    """The root between `low` and `high`, with derivatives, of an elementwise f that falls there."""
    return attach(f, bisect(lambda x: f(x) > 0, low, high, halvings))


def largest_fixed_point(F: Function, octaves: range) -> Array:
    """The largest q = F(q) between 2^octaves.stop and 2^octaves.start, to 1e-5 of it, without derivatives.

    F is scanned downwards for the first point above the diagonal, and the interval above that is halved: to iterate
    q <- F(q) would take forever at a critical point. 0 where F is below the diagonal throughout, inf where it is above
    at the largest q.
    """
    start, step = float(octaves.start), float(octaves.step)

    def move(_, bracket):
        low, high, found = bracket
        probe = jnp.where(found, (low + high) / 2, low)
        q = 2.0**probe
        above = (F(q) > q * (1 + 16 * jnp.finfo(q.dtype).eps)) & (found | (probe >= octaves[-1]))
        low = jnp.where(found, jnp.where(above, probe, low), jnp.where(above, low, low + step))
        high = jnp.where(found, jnp.where(above, high, probe), jnp.where(above, high, probe))
        return low, high, found | above

    first = jnp.asarray(start, jnp.result_type(float))
    low, high, found = lax.fori_loop(0, len(octaves) + OCTAVE_HALVINGS, move, (first, first, jnp.asarray(False)))
    return jnp.where(found, jnp.where(high == first, jnp.inf, 2.0 ** ((low + high) / 2)), 0)


def attach_fixed_point(F: Function, q: Array, newton: int = 2) -> Array:
    """`attach` for q = F(q) from what `largest_fixed_point` found; 0 stays, and inf is NaN."""
    inside = (q > 0) & (q < jnp.inf)
    log = jnp.log(jnp.where(inside, q, 1))  # in which no step leads below zero
    root = jnp.exp(attach(lambda log: F(jnp.exp(log)) / jnp.exp(log) - 1, log, newton, inside))
    return jnp.where(inside, root, jnp.where(q == 0, 0, jnp.nan))


def newton(f: Callable[[Array], tuple[Array, Array]], low: Array, high: Array) -> tuple[Array, Array]:
    """The root in ln q of a function that is positive at `low` and negative at `high`, by Newton's method in the bracket.

    Args:
        f: q -> (value, bound of its error); a value within its bound ends the search.
        low: ln q, scalar.
        high: ln q, scalar.

    Returns:
        (q, h) without derivatives, h the relative error of q that the bound and the slope there suggest.
    """
    eps = float(jnp.finfo(low.dtype).eps)
    at = lambda x: f(jnp.exp(x))

    def step(state):
        x, low, high, _, _, count = state
        (value, bound), (slope, _) = jax.jvp(at, (x,), (jnp.ones_like(x),))
        low, high = jnp.where(value > 0, x, low), jnp.where(value < 0, x, high)
        newton = -value / jnp.where(slope == 0, jnp.nan, slope)
        inside = (x + newton > low) & (x + newton < high)
        move = jnp.where(inside, newton, 0.5 * (low + high) - x)
        ends = (jnp.abs(value) <= bound) | (jnp.abs(move) <= 4 * eps * jnp.maximum(1, jnp.abs(x)))
        # the last step is not added to x, which would round it
        last = jnp.exp(x) * (1 + jnp.where(jnp.abs(newton) < 0.1, newton, 0))
        h = jnp.maximum(4 * eps, 2 * bound / jnp.where(slope < 0, -slope, jnp.inf))
        return jnp.where(ends, x, x + move), low, high, jnp.stack([last, h]), ends | jnp.isnan(value), count + 1

    unfinished = lambda state: ~state[4] & (state[5] < NEWTON_STEPS)
    state = (0.5 * (low + high), low, high, jnp.zeros(2, low.dtype), jnp.zeros((), bool), jnp.zeros((), int))
    return tuple(lax.while_loop(unfinished, step, state)[3])


def implicit(f: Function, search: Callable[[], tuple[Array, Any]]) -> tuple[Array, Any]:
    """(root, rest) that `search` finds, the root unmoved and with the derivatives that f(root) = 0 implies."""
    still, parameters = jax.closure_convert(search)
    root, rest = still(*lax.stop_gradient(parameters))
    there = jnp.isfinite(root)
    return jnp.where(there, attach(f, jnp.where(there, root, 1), 0), root), rest
