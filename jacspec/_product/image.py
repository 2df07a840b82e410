"""One step of a recursion: J Q, how far it can be trusted, and which zeros in it are zeros of J.

Rounding is measured and not presumed: J (Q h) and (J Q) h agree but for rounding, whatever happens inside J (a mean that
is removed, gates that cancel, a basis Q of a few columns). Zeros are followed from factor to factor by the pattern
of what is not zero, because a product of two small numbers can underflow where neither of them is zero.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec.operators import in_turn, matmul, norms, pieces

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
        combined: (m, PROBES), 2^-shift J (Q h): but for rounding A h.
        zeros: what zeros of J and Q alone make zero.
    """

    A: Array
    shift: Array
    noise: Array
    combined: Array
    zeros: "Zeros | Uncounted"


class Zeros(NamedTuple):
    """Which rows of a product are not zero by the zeros of its factors, (m,), and a bound on its rank."""

    rows: Array
    rank: Array

    def counted(self) -> "Zeros":
        """Itself."""
        return self

    def rank_if(self, asked: Array) -> Array:
        """The bound."""
        del asked
        return self.rank


class Uncounted(NamedTuple):
    """J Q before its zeros are followed from factor to factor, which costs four passes and is seldom asked."""

    J: Any
    Q: Array
    live: Array

    def counted(self) -> Zeros:
        """The zeros of J Q; columns of Q that are not `live` (k,) are zero."""
        J, Q, live = lax.stop_gradient(tuple(self))
        n, dtype = Q.shape[0], Q.dtype
        factors = pieces(J)
        rows, ranks = _pattern([factor.push for factor in factors], jnp.any(jnp.where(live, Q, 0) != 0, axis=1), dtype)
        back, more = _pattern([factor.pull for factor in reversed(factors)], jnp.ones(rows.shape[0], bool), dtype)
        onto = matmul(_patterned(back, dtype)[:, :1].T, Q)[0]
        ranks = [*ranks, *more, jnp.sum(live & (onto != 0)), jnp.asarray(n)]
        return Zeros(rows, jnp.min(jnp.stack(ranks)))

    def rank_if(self, asked: Array) -> Array:
        """The bound on the rank if it is `asked` for, else the width of Q."""
        return lax.cond(asked, lambda: self.counted().rank, lambda: jnp.asarray(self.Q.shape[1]))


def given(A: Array) -> Image:
    """A matrix as it stands: rounded once, its zeros exact."""
    rows, columns = jnp.any(A != 0, axis=1), jnp.any(A != 0, axis=0)
    noise = lax.stop_gradient(jnp.finfo(A.dtype).eps * norms(A))
    zeros = Zeros(rows, jnp.minimum(jnp.sum(rows), jnp.sum(columns)))
    return Image(A, jnp.zeros((), A.dtype), noise, combined(A), zeros)


def combined(Q: Array) -> Array:
    """Q h, for PROBES random h."""
    h = np.random.default_rng(Q.shape[1]).standard_normal((Q.shape[1], PROBES))
    return matmul(lax.stop_gradient(Q), jnp.asarray(h, Q.dtype))


def image(J: Any, Q: Array, live: Array, witness: Array, along: Array | None = None) -> tuple[Image, Array]:
    """J Q, and 2^-shift J w.

    Args:
        J: a step Jacobian, (m, n).
        Q: (n, k), orthonormal columns; zero where they stand for an exact zero, or `live` is False.
        live: (k,), False for columns that stand for an exact zero.
        witness: w, (n, 1), a random vector (`guide`) from which the size of J is read.
        along: Q h by another route, if Q itself is the image of an earlier basis; else `combined` (Q).

    Returns:
        The `Image`, and 2^-shift J w, (m, 1). Only A has a derivative.
    """
    dtype, k = Q.dtype, Q.shape[1]
    info = jnp.finfo(dtype)
    witness = jnp.where(jnp.any(witness != 0), witness, guide(Q.shape[0], dtype))
    along = combined(Q) if along is None else along
    A, shift, thin = Q, jnp.zeros((), dtype), jnp.concatenate([witness, along], axis=1)
    factors = in_turn(J)
    rows = jnp.any(jnp.where(live, lax.stop_gradient(Q), 0) != 0, axis=1)
    for i, factor in enumerate(factors):
        A, exponent = near_one(factor.push, A, thin[:, :1])
        thin, shift = factor.push(thin * jnp.exp2(-exponent)), shift + exponent
        if i + 1 < len(factors):  # what underflows here, another factor may magnify
            rows, _ = _pattern([piece.push for piece in pieces(factor)], rows, dtype)
            least = info.tiny / info.eps * np.random.default_rng(i).choice([-1, 1], thin.shape)
            thin = thin + jnp.where(rows[:, None], jnp.asarray(least, dtype), 0)

    noise = jnp.maximum(info.eps * norms(A), norms(thin[:, 1:] - combined(A)) / math.sqrt(PROBES * k))
    if k < Q.shape[0] and hasattr(J, "row_norms"):  # a few columns do not show the size of a row
        longest = jnp.max(norms(Q, axis=0), initial=0)
        noise = jnp.maximum(noise, info.eps * longest * J.row_norms() * jnp.exp2(-shift))
    shift, noise, thin = lax.stop_gradient((shift, noise, thin))
    return Image(A, shift, noise, thin[:, 1:], Uncounted(J, Q, live)), thin[:, :1]


def _pattern(maps: Sequence[Callable], live: Array, dtype: Any) -> tuple[Array, list[Array]]:
    """Where a generic vector that is zero where `live` is False is not zero after all maps, and how often after each."""
    counts = []
    for act in maps:
        live = _nonzero(act(_patterned(live, dtype)))
        counts.append(jnp.sum(live))
    return lax.stop_gradient(live), counts


def guide(n: int, dtype: Any) -> Array:
    """A random unit vector (n, 1) that no state is drawn to meet."""
    vector = np.random.default_rng(SEED).standard_normal((n, 1))
    return jnp.asarray(vector / np.linalg.norm(vector), dtype)


def live_rows(J: Any, n: int, dtype: Any) -> Array:
    """(m,), False for the rows of J, (m, n), that are zero because of zeros in its factors."""
    return _pattern([factor.push for factor in pieces(J)], jnp.ones(n, bool), dtype)[0]


def near_one(act: Callable[[Array], Array], V: Array, guide: Array) -> tuple[Array, Array]:
    """2^-exponent act(V) of a linear `act`, with the exponent of the size of act(guide): 0 if that is near one.

    Where act(guide) has left the dtype's range, the exponent is the largest that V and `act` can be expected to bear.
    """
    size = lax.stop_gradient(jnp.max(jnp.abs(act(guide))))
    size = jnp.where(jnp.isnan(size), jnp.inf, size)  # infinities of both signs
    most = jnp.finfo(V.dtype).maxexp - 30.0
    exponent = jnp.where(size == 0, -most, jnp.clip(jnp.round(jnp.log2(jnp.where(size > 0, size, 1))), -most, most))
    near = (size >= 1 / NEAR_ONE) & (size <= NEAR_ONE)
    exponent = jnp.where(near, 0, exponent)
    # before only where it would be lost after: the tangent of V may be as large as the reciprocal of J
    lost = (size < 2.0 ** (jnp.finfo(V.dtype).minexp + 4)) | (size == jnp.inf)
    before = jnp.where(lost, exponent, 0)
    return act(V * jnp.exp2(-before)) * jnp.exp2(before - exponent), exponent


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
