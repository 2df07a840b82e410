"""The graded QR recursion: P_t = J_t ... J_1 held as Q_t diag(e^{l_t}) U_t.

Q has orthonormal columns, l is a pair of logs, U has unit rows and is kept well conditioned. One step:

    A = J Q                                the caller's product, and what is known of it (`image.Image`)
    A Pi = Q' R                            columns sorted by l_j + log max_i abs(A_ij), rows by max_j abs(A_ij) e^{l_j}
    R diag(e^l) = diag(e^l'') N            l''_i the l of the first column in which row i of R is not zero
    diag(e^l'') N U = diag(e^l') U'        unit rows

The column sort lets the largest direction lead. The row sort keeps the rounding of a large row out of a small one
(a dead row leaves an exactly zero row of R); its keys are those of the graded matrix A diag(e^l), which is what is
being factored. (Keys ||A_i|| were tried: chains of Jordan blocks lost three digits.)

What can be trusted is measured on the way:

* An entry of R at the level of its own rounding (`orthogonal.rounding`) is noise. A row that is noise through and through, or
  in whose own column the noise outweighs what the row holds otherwise, has a singular value below what the precision can
  see: it is kept at that level and marked doubtful, and so are the rows made of it. Exact zeros are only those that
  the zeros of the steps account for.
* An error in U is magnified by the norm of U^-1. That norm is estimated: for a few random vectors c the solutions y of
  y U = c are carried along (a step makes y N^-1 of y), and their size tells. Where it grows (no column leads, as in a chain
  of smoothing steps), or where a row lost its own column, the product is turned (`_turned`): its rows are rotated among
  themselves until U is well conditioned again. The recursion starts from a random order of the columns, which makes that
  rare.

Origin: G. W. Stewart, On graded QR decompositions of products of matrices, ETNA 3 (1995) 39; the same
representation is the UDT of determinant quantum Monte Carlo (C. Bauer, arXiv:2003.05286). Row sort: A. J. Cox and
N. J. Higham, Stability of Householder QR factorization for weighted least squares problems, 1998. Turning: two QR in a
row, G. W. Stewart, The QLP approximation to the singular value decomposition, SIAM J. Sci. Comput. 20 (1999) 1336.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import lapack
from jacspec._ground.arithmetic import matmul
from jacspec._ground.primitives import Primitive
from jacspec._product import logs as lg
from jacspec._product.branch import when
from jacspec._product.image import Image, Uncounted, Zeros, given
from jacspec._product.orthogonal import (
    NOISE,
    descending,
    inverse_permutation,
    made_of,
    permuted,
    qr,
    rounding,
    row_sorted_qr,
)

COMBINATIONS = 4
"""Random vectors c by which the norm of U^-1 is estimated."""

WORST = 64.0
"""The norm of U^-1, in units of that of an orthogonal U, from which on the product is turned."""

AGAIN = 4.0
"""Where turning does not help, it is tried again when the norm has grown by so much."""


class Graded(NamedTuple):
    """P = Q diag(e^l) U with P of shape (m, n), k the narrowest width so far.

    Attributes:
        Q: (m, k), orthonormal columns.
        logs: l, k entries; -inf for an exact zero.
        U: (k, n), unit rows, zero where l = -inf.
        variance: (k,), squared relative rounding of each row: summed over the steps, at most 1.
        doubtful: (k,), rows whose value is made of noise: an upper bound as a rule.
        bad: index (from 1) of the first step with a NaN or Inf, -1 if none.
        combinations: (COMBINATIONS, k), the y of y U = c for random rows c.
        turned_at: the norm of U^-1 right after the product was last turned, 0 if it never was.
    """

    Q: Array
    logs: lg.Logs
    U: Array
    variance: Array
    doubtful: Array
    bad: Array
    combinations: Array
    turned_at: Array


def identity(n: int, dtype) -> Graded:
    """The empty product on n numbers, its columns in a random order."""
    order = np.random.default_rng(n).permutation(n)
    eye = jnp.eye(n, dtype=dtype)
    return start(eye[:, order])._replace(U=eye[order])


def start(Q: Array) -> Graded:
    """The product Q (n, k) of orthonormal columns."""
    k, dtype = Q.shape[1], Q.dtype
    none = jnp.zeros(k, bool)
    nothing = jnp.zeros(k, dtype)
    combinations, turned_at = _random(k, dtype), jnp.zeros((), dtype)
    return Graded(
        Q, lg.zeros(k, dtype), jnp.eye(k, dtype=dtype), nothing, none, jnp.asarray(-1), combinations, turned_at
    )


def largest_rows(graded: Graded, rank: int) -> tuple[lg.Logs, Array, Array]:
    """Logs, U and variance of the `rank` largest rows, descending; by the widths on the way there are no others."""
    order = jnp.argsort(-lax.stop_gradient(graded.logs.hi))[:rank]
    return graded.logs[order], graded.U[order], graded.variance[order]


def extend(state: Graded, step: Image | Array, index: Array | int = 0) -> Graded:
    """J P from P.

    Args:
        state: P.
        step: A = J Q, and what is known of it; a bare array (m', k) is taken as it stands.
        index: the number of J, recorded if A is not finite.
    """
    step = step if isinstance(step, Image) else given(step)
    finite = jnp.isfinite(step.noise).all()
    bad = jnp.where((state.bad < 0) & ~finite, index, state.bad)
    step = step._replace(A=jnp.where(finite, step.A, 0), noise=jnp.where(finite, step.noise, 0))
    logs = lg.add(state.logs, step.shift * math.log(2), jnp.isfinite(state.logs.hi))
    new, broken = _extended(state._replace(logs=logs, bad=bad), step)
    narrower = new.U.shape[0] < state.U.shape[0]
    far = _size(new.combinations) > jnp.maximum(WORST, AGAIN * new.turned_at)
    return _kept_well(far | broken | narrower, new)


class _Factored(NamedTuple):
    """A diag(e^l) = Q diag(e^l') N Pi^T with the columns in the order Pi.

    Attributes:
        order: (n,), Pi.
        Q: (m, k), orthonormal columns.
        R: (k, n), upper triangular, without its noise: A Pi = Q R.
        N: (k, n), R between the scales; row i is of the size of its first entry.
        logs: l', k entries.
        uncertain: (k,), relative rounding of each row.
        doubtful: (k,), rows that are noise.
        broken: whether a row that is not noise lost its own column.
    """

    order: Array
    Q: Array
    R: Array
    N: Array
    logs: lg.Logs
    uncertain: Array
    doubtful: Array
    broken: Array


def _factored(step: Image, logs: lg.Logs) -> _Factored:
    """A diag(e^l) of a step A (m, n) and n logs, columns and rows sorted, without the entries that are noise."""
    size = lax.stop_gradient(jnp.abs(step.A))  # (m, n)
    columns = jnp.max(size, axis=0, initial=0)  # (n,)
    weight = jnp.where(columns > 0, logs.hi + jnp.log(jnp.where(columns > 0, columns, 1)), -jnp.inf)  # (n,)
    order, _ = descending(weight)  # (n,)
    part = lg.sizes_beside(logs, order[0])  # (n,)
    tiny = jnp.finfo(size.dtype).tiny  # what underflows is not a zero row
    contribution = jnp.max(jnp.where((size > 0) & (part > 0), jnp.maximum(size * part, tiny), 0), axis=1)
    logs = logs[order]
    A = jnp.where(jnp.isfinite(logs.hi), permuted(step.A, order, axis=1), 0)  # (m, n)
    Q, R = row_sorted_qr(A, contribution)  # (m, k), (k, n)
    level, growth = rounding(Q, R, step.noise)  # (k,), (n,)
    R, first, hidden, doubtful, zero = _without_noise(R, logs.hi, level, growth, columns[order], step.zeros)
    own = jnp.arange(R.shape[0])
    entry = lax.stop_gradient(R[own, first])  # (k,)
    doubtful |= (entry != 0) & (jnp.abs(entry) <= made_of(Q, step.stopped))
    uncertain = jnp.where(zero | doubtful, 0, hidden / jnp.where(entry == 0, jnp.inf, jnp.abs(entry)))  # (k,)
    N, logs = lg.scale_columns(R, logs, first)  # (k, n), (k,)
    return _Factored(order, Q, R, N, logs, uncertain, doubtful, jnp.any((first != own) & ~zero))


def _without_noise(
    R: Array, logs: Array, level: Array, growth: Array, columns: Array, zeros: Zeros | Uncounted
) -> tuple[Array, ...]:
    """R without the entries that are noise, and what is left of each row.

    R_ij is noise if it is at most NOISE level_i growth_j (see `orthogonal.rounding`). Let j = first_i be the first column
    in which row i holds more. The row as a whole is noise if there is none, or if the noise on its diagonal outweighs that entry,
    level_i growth_i e^(l_i) NOISE >= abs(R_ij) e^(l_j).

    A product of rank r has k - r rows that are exactly zero. Zeros of the factors bound r, and R is smallest in its last
    rows: of the rows with nothing left, the last k - r are the zeros, and the others are noise.

    Returns:
        R (k, n); first (k,), i itself for a row of noise; the noise of R[i, first_i]; which rows are noise; which are zero.
    """
    k, n = R.shape
    size = lax.stop_gradient(jnp.abs(R))  # (k, n)
    index, own = jnp.arange(n), jnp.arange(k)
    noise = level[:, None] * growth  # (k, n)
    present = size > NOISE * noise
    first = jnp.min(jnp.where(present, index, n), axis=1)  # (k,)
    void = first == n  # (k,), rows with nothing left
    zero = void & (jnp.cumsum(void[::-1])[::-1] <= k - zeros.rank_if(jnp.any(void)))
    first = jnp.where(void, own, first)
    apart = jnp.exp(
        jnp.where(first > own, jnp.clip(logs[own] - logs[first], 0, lg.largest_exponent(R.dtype)), 0)
    )  # (k,)
    hidden = jnp.maximum(noise[own, own] * apart, noise[own, first])  # (k,)
    doubtful = (size[own, first] <= NOISE * hidden) & ~zero
    first = jnp.where(doubtful, own, first)
    # a row of noise gets the largest value that its noise could hide, yet no more than the largest entry of its column
    bound = jnp.maximum(NOISE * level, jnp.minimum(NOISE * noise[own, own], columns[:k]))  # (k,)
    cleaned = jnp.where(present, R, R - lax.stop_gradient(R))  # the value 0, with the derivative of R
    R = jnp.where(doubtful[:, None] & (index == own[:, None]), bound[:, None], cleaned)
    return R, first, hidden, doubtful, zero


def _extended(state: Graded, step: Image) -> tuple[Graded, Array]:
    """J P before it is turned, and whether a row has lost its own column."""
    new = _factored(step, state.logs)
    U, logs, length = lg.unit_rows(matmul(new.N, permuted(state.U, new.order)), new.logs)  # (k', n), (k',), (k',)
    N, length = lax.stop_gradient((new.N, jnp.where(length > 0, length, 1)))
    combinations = _combinations(permuted(state.combinations, new.order, axis=1), N) * length  # (COMBINATIONS, k')
    history = jnp.where(state.doubtful, 1, state.variance)[new.order]  # (k,)
    graded = Graded(new.Q, logs, U, new.uncertain**2, new.doubtful, state.bad, combinations, state.turned_at)
    return _marked(graded, (N / length[:, None]) ** 2, history), new.broken


def _marked(new: Graded, share: Array, history: Array) -> Graded:
    """The doubt of new rows: their own, that of the rows they are made of, by their share, and that of U as a whole."""
    eps = jnp.finfo(new.U.dtype).eps
    inherited = matmul(share, history)
    live = jnp.isfinite(new.logs.hi)
    variance = new.variance + inherited + (eps * _size(new.combinations)) ** 2
    return new._replace(
        variance=jnp.where(live, jnp.minimum(variance, 1), 0),
        doubtful=live & (new.doubtful | (inherited * NOISE**2 >= 1)),
    )


def _combinations(y: Array, N: Array) -> Array:
    """y' with y' N = y, for N (k', k) with k' <= k triangular; zero where a row of N is."""
    k = N.shape[0]
    lost = jnp.diagonal(N) == 0
    N = jnp.where(lost[:, None], jnp.eye(k, dtype=N.dtype), N[:, :k])
    return jnp.where(lost, 0, lapack.from_right(N, lax.stop_gradient(y[:, :k])))


def _size(combinations: Array) -> Array:
    """The root mean square of the singular values of U^-1, estimated; 1 for orthogonal rows. Infinite if it is not finite."""
    size = jnp.sqrt(jnp.mean(combinations**2))
    return jnp.where(jnp.isfinite(size), size, jnp.inf)


def _random(k: int, dtype) -> Array:
    """The combinations (COMBINATIONS, k) of rows that are orthonormal."""
    return jnp.asarray(np.random.default_rng(k).standard_normal((COMBINATIONS, k)), dtype)


def _kept_well(bent: Array, state: Graded) -> Graded:
    """The same product, turned if U is `bent`."""
    leaves, structure = jax.tree.flatten(state)
    kept = _turned_if(bent.astype(state.U.dtype), *_numbers(state))
    return jax.tree.unflatten(structure, [new.astype(old.dtype) for new, old in zip(kept, leaves, strict=True)])


@Primitive
def _turned_if(bent: Array, *numbers: Array) -> tuple[Array, ...]:
    """The numbers of a `Graded`, turned if it is `bent`.

    The derivative holds the rotation W of the rows fixed: with diag(e^l') U' = W^T diag(e^l) U and U' = S U,
    dQ' = dQ W, dl' = 0 and dU' = S (dU + diag(dl) U).
    """
    return tuple(when(bent != 0, lambda n: _numbers(_turned(_graded(n))[0]), lambda n: n, numbers))


@_turned_if.defjvp
def _turned_if_jvp(primals, tangents):
    (bent, *numbers), (_, *moves) = primals, tangents
    state, tangent = _graded(numbers), Graded(moves[0], lg.Logs(*moves[1:3]), *moves[3:])
    eye = lambda _: (jnp.eye(state.U.shape[0], dtype=state.U.dtype),) * 2
    W, S = when(bent != 0, lambda numbers: _turned(_graded(numbers))[1:], eye, lax.stop_gradient(tuple(numbers)))
    dlogs = jnp.where((bent != 0) & jnp.isfinite(state.logs.hi), tangent.logs.hi + tangent.logs.lo, 0)
    dU = matmul(S, tangent.U + dlogs[:, None] * state.U)
    logs = jax.tree.map(lambda d: jnp.where(bent != 0, 0, d), tangent.logs)
    moved = tangent._replace(Q=matmul(tangent.Q, W), U=dU, logs=logs)
    return _turned_if(bent, *numbers), tuple(jax.tree.leaves(moved))


def _graded(numbers: Sequence[Array]) -> Graded:
    """The inverse of `_numbers`."""
    Q, hi, lo, U, variance, doubtful, bad, *rest = numbers
    return Graded(Q, lg.Logs(hi, lo), U, variance, doubtful != 0, bad, *rest)


def _numbers(state: Graded) -> tuple[Array, ...]:
    """The leaves, flags and counts as numbers, too: a primitive has a tangent for every argument.

    In float32 an index of a step is exact up to 2^24.
    """
    return tuple(leaf.astype(state.U.dtype) for leaf in jax.tree.leaves(state))


def _turned(state: Graded) -> tuple[Graded, Array, Array]:
    """The same product with well-conditioned rows U', the rotation W of its rows, (k, k), and S with U' = S U.

    diag(e^l) U, its rows in descending order, is factored from the right, U^T diag(e^l) = Z diag(e^l') N, and what is left of it
    from the left, N^T diag(e^l') = W diag(e^l'') N', so that P = Q W diag(e^l'') N' Z^T.
    """
    k, n = state.U.shape
    X, Z = (state.U.T, None) if k == n else reversed(qr(state.U.T))

    def side(carry, _):
        X, logs = carry
        part = _factored(given(X), logs)
        N, logs, _ = lg.unit_rows(part.N, part.logs)
        return (N.T, logs), part._replace(N=N, logs=logs)

    _, parts = lax.scan(side, (X, state.logs), length=2)
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], parts) for i in (0, 1))
    U, logs, mixed = second.N, second.logs, second.N**2
    combinations = _combinations(_random(k, U.dtype), U)
    own = second.uncertain**2 + matmul(mixed, (first.uncertain**2)[second.order])
    doubtful = second.doubtful | (matmul(mixed, first.doubtful[second.order].astype(U.dtype)) * NOISE**2 >= 1)
    # with its rows in first.order U = R^T Z^T, and U' = N' Z^T: S = N' R^-T
    lost = jnp.diagonal(first.R) == 0
    R = jnp.where(lost[:, None], jnp.eye(k, dtype=U.dtype), first.R)
    back = inverse_permutation(first.order)
    S = lapack.from_right_transposed(R, permuted(U, inverse_permutation(second.order), axis=1))
    S = permuted(jnp.where(lost, 0, S), back, axis=1)
    W = permuted(second.Q, back)
    U = matmul(U, permuted(first.Q.T, second.order))
    U = U if Z is None else matmul(U, Z.T)
    history = jnp.where(state.doubtful, 1, state.variance)
    new = Graded(matmul(state.Q, W), logs, U, own, doubtful, state.bad, combinations, _size(combinations))
    return _marked(new, S**2, history), W, S
