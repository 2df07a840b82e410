"""The graded QR recursion: P_t = J_t ... J_1 held as Q_t diag(e^{l_t}) U_t.

Q has orthonormal columns, l is a pair of logs, U has unit rows and stays well conditioned. One step:

    A = J Q                                the caller's push
    A Pi = Q' R                            columns sorted by l_j + log max_i abs(A_ij), rows by max_j abs(A_ij) e^{l_j}
    R diag(e^l) = diag(e^l'') N            l'' the l of the first column that a row meets
    diag(e^l'') N U = diag(e^l') U'        unit rows

The column sort lets the largest direction lead. The row sort keeps rows of very different size from wetting each other
(a dead row leaves an exactly zero row of R); its keys are those of the graded matrix A diag(e^l), which is what is
being factored: sorted by ||A_i||, a chain of Jordan blocks loses three digits.

An entry of R at the level of its own rounding, v_i = eps sum_j abs(Q_ji) ||A_j||, is noise; a row that is noise through
and through has a singular value below what the precision can see: it is kept at that level, an upper bound, and marked
doubtful.

Origin: G. W. Stewart, On graded QR decompositions of products of matrices, ETNA 3 (1995) 39; the same
representation is the UDT of determinant quantum Monte Carlo (C. Bauer, arXiv:2003.05286). Row sort: A. J. Cox and
N. J. Higham, Stability of Householder QR factorization for weighted least squares problems, 1998.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jacspec._product import logs as lg
from jacspec._product.orthogonal import NOISE, descending, in_range, permuted, row_rounding, row_sorted_qr, stopped
from jacspec.operators import matmul, norms


class Graded(NamedTuple):
    """P = Q diag(e^l) U with P of shape (m, n), k the narrowest width so far.

    Attributes:
        Q: (m, k), orthonormal columns.
        logs: l, k entries; -inf for an exact zero.
        U: (k, n), unit rows, zero where l = -inf.
        rounding: (k,), sum over steps of the squared relative rounding of each row.
        doubtful: (k,), rows whose value is an upper bound.
        bad: index (from 1) of the first step with a NaN or Inf or out of range, -1 if none.
    """

    Q: Array
    logs: lg.Logs
    U: Array
    rounding: Array
    doubtful: Array
    bad: Array


def identity(n: int, dtype) -> Graded:
    """The empty product on n numbers."""
    eye = jnp.eye(n, dtype=dtype)
    return Graded(eye, lg.zeros(n, dtype), eye, jnp.zeros(n, dtype), jnp.zeros(n, bool), jnp.asarray(-1))


def extend(state: Graded, A: Array, step: Array | int = 0, *, rank: Array | int | None = None) -> Graded:
    """J P from P, given A = J Q.

    Args:
        state: P.
        A: (m', k).
        step: the number of J, recorded if A is not finite.
        rank: a bound on the rank of J from its exactly zero columns; rows of noise beyond it are exact zeros. (Zero
            rows need no help.)
    """
    size = lax.stop_gradient(jnp.abs(A))
    rows, columns = norms(size), jnp.max(size, axis=0, initial=0)
    finite = in_range(rows)
    bad = jnp.where((state.bad < 0) & ~finite, step, state.bad)
    A, rows, columns = (jnp.where(finite, part, 0) for part in (A, rows, columns))

    weight = jnp.where(columns > 0, state.logs.hi + jnp.log(jnp.where(columns > 0, columns, 1)), -jnp.inf)
    order, _ = descending(weight)
    logs, rounding, doubtful = state.logs[order], state.rounding[order], state.doubtful[order]
    contribution = jnp.max(size * lg.relative(state.logs, order[0]), axis=1)
    A = jnp.where(jnp.isfinite(logs.hi), permuted(A, order, axis=1), 0)
    Q, R = row_sorted_qr(A, contribution)
    R, first, doubted, noise = _without_noise(Q, R, rows)
    m = R.shape[0]
    entry = R[jnp.arange(m), first]  # 0 for a zero row
    if rank is not None:
        excess = jnp.sum(entry != 0) - rank
        dead = doubted & (jnp.cumsum(doubted[::-1])[::-1] <= excess)
        R, entry, doubted = jnp.where(dead[:, None], 0, R), jnp.where(dead, 0, entry), doubted & ~dead
    doubted = doubted | stopped(entry)
    N, logs = lg.scale_columns(R, logs, first)
    U, logs = lg.normalize_rows(matmul(N, permuted(state.U, order)), logs)
    diagonal = lax.stop_gradient(jnp.abs(jnp.diagonal(R)))
    relative = jnp.where(diagonal > 0, noise / jnp.where(diagonal > 0, diagonal, 1), 0)
    return Graded(Q, logs, U, rounding[:m] + relative**2, doubtful[:m] | doubted, bad)


def _without_noise(Q: Array, R: Array, rows: Array) -> tuple[Array, Array, Array, Array]:
    """R with its noise set to zero, the first column left of each row, which rows were nothing but noise, its levels."""
    m, n = R.shape
    noise = row_rounding(Q, rows)
    level = NOISE * noise[:, None]
    size = lax.stop_gradient(jnp.abs(R))
    index = jnp.arange(n)
    first = jnp.min(jnp.where(size > level, index, jnp.where(size > 0, n, n + 1)), axis=1)
    doubted = first == n
    own = jnp.eye(m, n, dtype=bool)
    R = jnp.where(doubted[:, None] & own, level, jnp.where(size > level, R, 0))
    return R, jnp.where(first < n, first, index[:m]), doubted, noise
