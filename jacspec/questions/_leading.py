"""The leading singular values by push and pull of thin blocks alone.

A locally optimal block search (Knyazev's LOBPCG, here for P^T P): the Rayleigh-Ritz space holds the current right
vectors, what one trip through the chain and back makes of them, and the previous ones. Every trip is orthogonalized at
every step, so vectors whose singular values differ by hundreds of nats do not collapse onto the first.

The values returned come from one more push; outside a trace it is by the program that is compiled already.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._ground import checks
from jacspec._ground.arithmetic import matmul
from jacspec._product import recursion
from jacspec._product.image import guide, image, near_one
from jacspec._product.orthogonal import qr
from jacspec.chain import JacobianChain
from jacspec.typing import StepJacobian, in_turn

TRIPS = 200
"""The largest number of trips through the chain and back."""

QUIET = 2
"""Trips in a row that must leave a value, and all before it, where they are."""

GUARD = 4
"""Vectors carried beside the k that are asked for."""


def leading(chain: JacobianChain, k: int, read: Callable[[recursion.Graded], tuple[Any, Array]]) -> tuple[Any, Array]:
    """What `read` finds in the product restricted to its leading right singular vectors, and which values converged, (k,).

    The vectors are held fixed under differentiation, which is exact to first order.

    Args:
        chain: P.
        k: how many values must have converged.
        read: gives of a graded product (m, b) its spectrum and its right singular vectors (b, m).
    """
    n, dtype = chain.shape[1], chain.dtype
    width = min(k + GUARD, chain.rank_bound)
    if 3 * width >= n:
        return read(push_block(chain, jnp.eye(n, dtype=dtype)))[0], jnp.ones(k, bool)
    fixed = jax.lax.stop_gradient(chain)

    def trip(state):
        S, previous, values, count, quiet, _ = state
        graded = push_block(fixed, S)
        found, right = read(graded)
        X, Y = _ritz(graded, S, found.log_singular_values, right, width)
        return _widened(X, pull_block(fixed, Y), previous, found.log_singular_values, values, count, quiet, k)

    start = np.linalg.qr(np.random.default_rng(n).standard_normal((n, 3 * width)))[0].astype(dtype)
    state = start, start[:, :width], np.full(k, np.inf, dtype), 0, np.zeros(k, int), True
    state = jax.tree.map(jnp.asarray, state)
    if all(map(checks.is_concrete, jax.tree.leaves(fixed))):
        while state[-1]:
            state = trip(state)
    else:
        state = jax.lax.while_loop(lambda state: state[-1], trip, state)
    S, _, _, _, quiet, _ = state
    return read(push_block(chain, jax.lax.stop_gradient(S)))[0], jax.lax.cummin(quiet) >= QUIET


@functools.partial(jax.jit, static_argnums=4)
def _ritz(graded: recursion.Graded, S: Array, values: Array, right: Array, width: int) -> tuple[Array, Array]:
    """The leading right and left singular vectors of P on the span of S, (n, width) and (m, width)."""
    V, values = right[:, :width], values[:width]
    return matmul(S, V), matmul(graded.Q, _left_vectors(graded, V, values))


@functools.partial(jax.jit, static_argnums=7)
def _widened(
    X: Array, back: Array, previous: Array, values: Array, old: Array, count: Array, quiet: Array, k: int
) -> tuple[Array, ...]:
    """The state after a trip: the next S, X, the values, the trips, for how many each value stood, and whether to go on."""
    S, _ = qr(jnp.concatenate([X, back, previous], axis=1))
    new = values[:k]
    same = (new == old) | jnp.isnan(new)  # a chain that is not finite has no values to settle
    moved = jnp.where(same, 0, jnp.abs(new - old) / jnp.maximum(jnp.abs(new), 1))
    quiet = jnp.where(moved <= 8 * jnp.finfo(X.dtype).eps, quiet + 1, 0)
    return S, X, new, count + 1, quiet, jnp.any(quiet < QUIET) & (count + 1 < TRIPS)


def push_block(chain: JacobianChain, X: Array) -> recursion.Graded:
    """P X for orthonormal columns X (n, b), as a graded product Q diag(e^l) U with U of shape (b, b)."""
    return chain.run(_push, X)


def _push(chain: JacobianChain, X: Array) -> recursion.Graded:
    times = jnp.arange(1, chain.length + 1)
    return chain.fold(lambda c, J, t: (_push_step(c, J, t), None), recursion.start(X), xs=times)[0]


@jax.jit
@jax.checkpoint
def _push_step(graded: recursion.Graded, J: StepJacobian, t: Array) -> recursion.Graded:
    A, _ = image(J, graded.Q, jnp.isfinite(graded.logs.hi), guide(graded.Q.shape[0], graded.Q.dtype))
    return recursion.extend(graded, A, t)


def pull_block(chain: JacobianChain, Y: Array) -> Array:
    """Orthonormal columns that span P^T Y."""
    return chain.run(_pull, Y)


def _pull(chain: JacobianChain, Y: Array) -> Array:
    return chain.fold(lambda Q, J, _: (_pull_step(Q, J), None), Y, reverse=True)[0]


@jax.jit
def _pull_step(Q: Array, J: StepJacobian) -> Array:
    for factor in reversed(in_turn(J)):
        Q, _ = near_one(factor, "pull", Q, guide(Q.shape[0], Q.dtype))
    return qr(Q)[0]


def _left_vectors(graded: recursion.Graded, V: Array, values: Array) -> Array:
    """The left singular vectors in the basis Q, diag(e^l) U V diag(e^-values), (k, width).

    V (n, width) holds right singular vectors of diag(e^l) U, `values` (width,) their log singular values. An entry is
    at most 1. Where l_i is far above a value, what e^(l_i - value) magnifies is rounding: it lies along the vectors of
    larger values, which are in the block too, and is cut to 1.
    """
    depth = graded.logs.hi[:, None] - values + graded.logs.lo[:, None]
    live = jnp.isfinite(graded.logs.hi)[:, None] & jnp.isfinite(values)
    most = -2 * jnp.log(jnp.finfo(V.dtype).eps)
    return jnp.where(live, jnp.clip(jnp.exp(jnp.minimum(depth, most)) * matmul(graded.U, V), -1, 1), 0)
