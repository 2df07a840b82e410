"""The graded QR recursion: P_t = J_t ... J_1 held as Q_t diag(e^{l_t}) U_t.

Q has orthonormal columns, l is a pair of logs, U has unit rows and stays well conditioned. One step:

    A = J Q                                the caller's push
    A Pi = Q' R                            columns sorted by l_j + log max_i abs(A_ij), rows by max_j abs(A_ij) e^{l_j}
    R diag(e^l) = diag(e^l'') N            l'' the l of the first column that a row meets
    diag(e^l'') N U = diag(e^l') U'        unit rows

The column sort lets the largest direction lead. The row sort keeps rows of very different size from wetting each other
(a dead row leaves an exactly zero row of R); its keys are those of the graded matrix A diag(e^l), which is what is
being factored: sorted by ||A_i||, a chain of Jordan blocks loses three digits.

An entry of R at the level of its own rounding, v_i = eps sum_j abs(Q_ji) ||A_j||, is noise. A row that is noise through
and through, or in whose own column the noise outweighs what the row holds otherwise, has a singular value below what the
precision can see: it is kept at that level and marked doubtful, and so are the rows made of it. Exact zeros are only
those that the zero rows and columns of A account for.

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
        doubtful: (k,), rows whose value is made of noise: an upper bound as a rule.
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
        rank: a bound on the rank of J from its exactly zero columns. (Zero rows and columns of A need no help.)
    """
    size = lax.stop_gradient(jnp.abs(A))
    rows, columns = norms(size), jnp.max(size, axis=0, initial=0)
    finite = in_range(rows)
    bad = jnp.where((state.bad < 0) & ~finite, step, state.bad)
    A, rows, columns = (jnp.where(finite, part, 0) for part in (A, rows, columns))

    weight = jnp.where(columns > 0, state.logs.hi + jnp.log(jnp.where(columns > 0, columns, 1)), -jnp.inf)
    order, _ = descending(weight)
    logs, rounding, doubtful = state.logs[order], state.rounding[order], state.doubtful[order]
    part = lg.relative(state.logs, order[0])
    tiny = jnp.finfo(A.dtype).tiny  # what underflows is not a zero row
    contribution = jnp.max(jnp.where((size > 0) & (part > 0), jnp.maximum(size * part, tiny), 0), axis=1)
    A = jnp.where(jnp.isfinite(logs.hi), permuted(A, order, axis=1), 0)
    Q, R = row_sorted_qr(A, contribution)
    bound = jnp.minimum(jnp.sum(contribution > 0), jnp.sum(weight > -jnp.inf))
    bound = bound if rank is None else jnp.minimum(bound, rank)
    R, first, doubted, relative = _without_noise(Q, R, logs.hi, rows, bound)
    doubted = doubted | stopped(R[jnp.arange(R.shape[0]), first]) | doubtful[first]
    N, logs = lg.scale_columns(R, logs, first)
    U, logs = lg.normalize_rows(matmul(N, permuted(state.U, order)), logs)
    return Graded(Q, logs, U, rounding[first] + relative**2, doubted, bad)


def _without_noise(Q: Array, R: Array, logs: Array, rows: Array, rank: Array) -> tuple[Array, Array, Array, Array]:
    """R with its noise set to zero, the first column left of each row, which rows are noise, their relative rounding.

    A row is noise, too, where what its own column may hide outweighs the first entry left, v_i e^(l_i) > abs(R_ij) e^(l_j).
    No more than `rank` rows can be other than zero: the last ones with nothing left are exact zeros.
    """
    k, n = R.shape
    noise = row_rounding(Q, rows)
    size = lax.stop_gradient(jnp.abs(R))
    index, own = jnp.arange(n), jnp.arange(k)
    level = NOISE * noise[:, None]
    first = jnp.min(jnp.where(size > level, index, n), axis=1)
    void = first == n
    zero = void & (jnp.cumsum(void[::-1])[::-1] <= k - rank)
    first = jnp.where(void, own, first)
    entry = size[own, first]
    hidden = noise * jnp.exp(jnp.where(first > own, jnp.clip(logs[own] - logs[first], 0, lg.most(R.dtype)), 0))
    doubted = (entry <= NOISE * hidden) & ~zero
    R = jnp.where(doubted[:, None] & (index == own[:, None]), level, jnp.where(size > level, R, 0))
    relative = jnp.where(doubted, 1 / NOISE, hidden / jnp.where(zero, jnp.inf, entry))
    return R, jnp.where(doubted, own, first), doubted, relative
