"""The leading singular values by push and pull of thin blocks alone.

A locally optimal block search (Knyazev's LOBPCG, here for P^T P): the Rayleigh-Ritz space holds the current right
vectors, what one trip through the chain and back makes of them, and the previous ones. Every trip is orthogonalized at
every step, so vectors whose singular values differ by hundreds of nats do not collapse onto the first.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._product import recursion
from jacspec._product.finish import finish
from jacspec._product.image import guide, image, near_one
from jacspec._product.orthogonal import qr
from jacspec.chain import JacobianChain
from jacspec.operators import in_turn, matmul, norms

TRIPS = 200
"""The largest number of trips through the chain and back."""

GUARD = 4
"""Vectors carried beside the k that are asked for."""


def leading_values(chain: JacobianChain, k: int) -> tuple[recursion.Graded, Array]:
    """The product restricted to its k leading right singular vectors, and whether the search converged.

    The vectors are held fixed under differentiation, which is exact to first order.
    """
    n, dtype = chain.shape[1], chain.dtype
    width = min(k + GUARD, *chain.shape)
    if 3 * width >= n:
        return push_block(chain, jnp.eye(n, dtype=dtype)), jnp.asarray(True)
    fixed = jax.lax.stop_gradient(chain)
    start, _ = qr(jax.random.normal(jax.random.key(0), (n, 3 * width), dtype))
    tolerance = 8 * jnp.finfo(dtype).eps

    def trip(state):
        S, previous, old, count, _ = state
        graded = push_block(fixed, S)
        done = finish(graded.logs, graded.U)
        V, values = done.right[:, :width], done.log_singular_values[:width]
        X = matmul(S, V)
        back = pull_block(fixed, matmul(graded.Q, _left_vectors(graded, V, values)))
        directions = _off(jnp.concatenate([back, previous], axis=1), X)
        S, _ = qr(jnp.concatenate([X, directions], axis=1))
        new = values[:k]
        moved = jnp.max(jnp.where(new == old, 0, jnp.abs(new - old) / jnp.maximum(jnp.abs(new), 1)))
        return S, X, new, count + 1, moved

    def going(state):
        *_, count, moved = state
        return (count < TRIPS) & ~(moved <= tolerance)

    first = (start, start[:, :width], jnp.full(k, jnp.inf, dtype), 0, jnp.asarray(jnp.inf, dtype))
    _, X, _, _, moved = jax.lax.while_loop(going, trip, first)
    return push_block(chain, jax.lax.stop_gradient(X)), moved <= tolerance


def push_block(chain: JacobianChain, X: Array) -> recursion.Graded:
    """P X for orthonormal columns X (n, b), as a graded product Q diag(e^l) U with U of shape (b, b)."""
    start = recursion.start(X)

    @jax.checkpoint
    def step(graded, J, t):
        A, _ = image(J, graded.Q, jnp.isfinite(graded.logs.hi), guide(graded.Q.shape[0], X.dtype))
        return recursion.extend(graded, A, t)

    graded, _ = chain.fold(lambda c, J, t: (step(c, J, t), None), start, xs=jnp.arange(1, chain.length + 1))
    return graded


def pull_block(chain: JacobianChain, Y: Array) -> Array:
    """Orthonormal columns that span P^T Y."""

    def step(Q, J, _):
        for factor in reversed(in_turn(J)):
            Q, _ = near_one(factor.pull, Q, guide(Q.shape[0], Q.dtype))
        return qr(Q)[0], None

    return chain.fold(step, Y, reverse=True)[0]


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


def _off(V: Array, X: Array) -> Array:
    """Unit columns of V without their part in the span of X."""
    for _ in range(2):
        V = V - matmul(X, matmul(X.T, V))
        size = norms(V, axis=0)
        V = V / jnp.where(size > 0, size, 1)
    return V
