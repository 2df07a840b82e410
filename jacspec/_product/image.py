"""One step of a recursion: J Q, how far it can be trusted, and which zeros in it are zeros of J.

Rounding is measured and not presumed: J (Q h) and (J Q) h agree but for rounding, whatever happens inside J (a mean that
is removed, gates that cancel, a basis Q of a few columns). Zeros are followed from factor to factor by the pattern
of what is not zero, because a product of two small numbers can underflow where neither of them is zero.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec.operators import in_turn, matmul, norms

PROBES = 4
"""Random vectors by which the rounding of J Q is measured."""

SEED = 0x6A616373706563
"""Nobody else's: a state drawn with the seed of the guide would be the guide, and a norm annihilates its state."""

NEAR_ONE = 2.0**40
"""Steps whose size lies within 1 / NEAR_ONE ... NEAR_ONE are not rescaled."""


class Image(NamedTuple):
    """A = 2^-shift J Q.

    Attributes:
        A: (m, k).
        shift: a power of two, which keeps the entries of A near one where those of J are near the end of their range.
        noise: (m,), size of the rounding errors in the entries of each row of A.
        rows: (m,), False for the rows that are zero because of zeros of J and Q.
        rank: a bound on the rank of A from zeros of J and Q alone.
    """

    A: Array
    shift: Array
    noise: Array
    rows: Array
    rank: Array


def given(A: Array) -> Image:
    """A matrix as it stands: rounded once, its zeros exact."""
    rows, columns = jnp.any(A != 0, axis=1), jnp.any(A != 0, axis=0)
    noise = lax.stop_gradient(jnp.finfo(A.dtype).eps * norms(A))
    return Image(A, jnp.zeros((), A.dtype), noise, rows, jnp.minimum(jnp.sum(rows), jnp.sum(columns)))


def image(J: Any, Q: Array, live: Array, witness: Array) -> tuple[Image, Array]:
    """J Q, and 2^-shift J w.

    Args:
        J: a step Jacobian, (m, n).
        Q: (n, k), orthonormal columns.
        live: (k,), False for columns that stand for an exact zero.
        witness: w, (n, 1), a random vector (`guide`) from which the size of J is read.
    """
    dtype, k = Q.dtype, Q.shape[1]
    info = jnp.finfo(dtype)
    h = jnp.asarray(np.random.default_rng(k).standard_normal((k, PROBES)), dtype)
    A, shift, thin = (
        Q,
        jnp.zeros((), dtype),
        jnp.concatenate([witness, matmul(lax.stop_gradient(Q), h * live[:, None])], axis=1),
    )
    reached, ranks = jnp.any(thin[:, 1:] != 0, axis=1), [jnp.sum(live)]
    for factor in in_turn(J):
        A, exponent = near_one(factor.push, A, thin[:, :1])
        shift = shift + exponent
        block = factor.push(jnp.concatenate([thin * jnp.exp2(-exponent), _patterned(reached, dtype)], axis=1))
        thin, reached = block[:, :-2], _nonzero(block[:, -2:])
        ranks.append(jnp.sum(reached))
    back = jnp.ones(A.shape[0], bool)
    for factor in reversed(in_turn(J)):
        back = _nonzero(factor.pull(_patterned(back, dtype)))
        ranks.append(jnp.sum(back))
    onto = matmul(_patterned(back, dtype)[:, :1].T, lax.stop_gradient(Q))[0]
    ranks.append(jnp.sum(live & (onto != 0)))

    apart = norms(thin[:, 1:] - matmul(A, h * live[:, None])) / math.sqrt(PROBES * k)
    noise = jnp.maximum(info.eps * norms(A), apart)
    if k < Q.shape[0] and hasattr(J, "row_norms"):  # a few columns do not show the size of a row
        noise = jnp.maximum(noise, info.eps * J.row_norms() * jnp.exp2(-shift))
    rank = jnp.min(jnp.stack(ranks))
    return lax.stop_gradient(Image(A, shift, noise, reached, rank))._replace(A=A), lax.stop_gradient(thin[:, :1])


def guide(n: int, dtype: Any) -> Array:
    """A random unit vector (n, 1) that no state is drawn to meet."""
    vector = np.random.default_rng(SEED).standard_normal((n, 1))
    return jnp.asarray(vector / np.linalg.norm(vector), dtype)


def live_rows(J: Any, n: int, dtype: Any) -> Array:
    """(m,), False for the rows of J, (m, n), that are zero because of zeros in its factors."""
    live = jnp.ones(n, bool)
    for factor in in_turn(J):
        live = _nonzero(factor.push(_patterned(live, dtype)))
    return lax.stop_gradient(live)


def near_one(act: Callable[[Array], Array], V: Array, guide: Array) -> tuple[Array, Array]:
    """2^-exponent act(V) of a linear `act`, with the exponent of the size of act(guide): 0 if that is near one.

    Where act(guide) has left the dtype's range, the exponent is the largest that V and `act` can be expected to bear.
    """
    size = lax.stop_gradient(jnp.max(jnp.abs(act(guide))))
    most = jnp.finfo(V.dtype).maxexp - 30.0
    exponent = jnp.where(size == 0, -most, jnp.clip(jnp.round(jnp.log2(jnp.where(size > 0, size, 1))), -most, most))
    near = jnp.isnan(size) | ((size >= 1 / NEAR_ONE) & (size <= NEAR_ONE))
    exponent = jnp.where(near, 0, exponent)
    return act(V * jnp.exp2(-exponent)), exponent


def _patterned(live: Array, dtype: Any) -> Array:
    """A random vector that is zero where `live` (n,) is False, (n, 2): of size one, and near the end of the range."""
    rng = np.random.default_rng(0)
    v = rng.uniform(0.5, 1.0, live.shape[0]) * rng.choice([-1.0, 1.0], live.shape[0])
    v = jnp.where(live, jnp.asarray(v, dtype), 0)
    return jnp.stack([v, v * 2.0 ** (jnp.finfo(dtype).maxexp - 30)], axis=1)


def _nonzero(block: Array) -> Array:
    """The entries of a mapped pattern that are not zero: what underflows for a vector of size one may not for a large one."""
    small, large = block[:, 0], block[:, 1]
    return (small != 0) | (jnp.isfinite(large) & (large != 0))
