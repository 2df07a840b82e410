"""The singular values of a graded matrix diag(e^l) U, each one to high relative accuracy.

The method is one-sided: the rows of diag(e^l) U are rotated among themselves until they are orthogonal. Their norms are
then the singular values and their directions the right singular vectors. Nothing is ever exponentiated but differences
of logs. A rotation W of the rows of diag(e^l) U acts on the unit rows U as S = diag(e^-l) W diag(e^l), and S is
applied with errors that are small against each row by itself. That is all that high relative accuracy needs: the
result is exact for rows changed by a few roundings, so log sigma moves by a few roundings times the condition of U.

How W is found is free, for the last word is a measurement: the largest cosine between two rows. Three ways are used,
each a handful of large matrix products where the textbook has n rounds of small ones:

* *all at once*, when the Jacobi angles of all pairs are small together: they are the entries of one antisymmetric
  generator, and its Cayley transform is orthogonal whatever the angles are. Convergence is quadratic;
* *in blocks*, when they are not: rows within a few nats of each other are diagonalized together by LAPACK, block by
  block, in one call. Blocks start elsewhere each time, so a tight cluster soon lies at the top of one, where it is
  resolved to the last digit;
* *pair by pair*, the textbook's way, which converges from everywhere: for what resists the other two.

References: Drmac & Veselic, "New fast and accurate Jacobi SVD algorithm" I, SIAM J. Matrix Anal. 29(4), 2008 (LQ passes
first, the stopping rule); Demmel & Veselic, "Jacobi's method is more accurate than QR", same journal, 13(4), 1992.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground import lapack
from jacspec._ground.arithmetic import matmul
from jacspec._ground.primitives import Primitive
from jacspec._product.logs import Logs, normalize_rows, scale_columns, sizes_beside
from jacspec._product.orthogonal import row_sorted_qr

MAX_STEPS = 40
"""Rotations of the whole matrix at most: two to seven are normal."""

PAIRWISE_FROM = 16
"""The step from which on rows are rotated pair by pair only, the one method that is proved to converge."""

PAIRWISE_EVERY = 4
"""Before that, every so many steps a sweep pair by pair breaks a cycle of the blocks."""

SMALL = 1.0
"""Largest row sum of the generator K for which all pairs are rotated at once: the series of (I - K/2)^-1 then converges."""

SINGULAR = -0.75
"""M^-1 with an entry of eps^SINGULAR or more keeps less than a quarter of the digits: M counts as singular."""

BLOCK_HEIGHT = -2 / 9
"""Height h of a block in units of ln(eps): it leaves cosines of eps e^(2h) = eps^(5/9), which one step of quadratic convergence
brings below eps."""


class Finished(NamedTuple):
    """Singular values and right singular vectors of diag(e^l) U, and how they were reached.

    Attributes:
        log_singular_values: (m,), natural logs, descending; -inf for exact zeros. NaN where the input had a NaN.
        right: (n, m), right singular vectors as columns, zero where the singular value is.
        sweeps: rotations of the whole matrix, scalar int.
        largest_cosine: largest abs cosine left between two rows, measured on the rows returned; scalar.
        converged: ``largest_cosine <= 4 eps sqrt(max(m, 4))``, scalar bool.
    """

    log_singular_values: Array
    right: Array
    sweeps: Array
    largest_cosine: Array
    converged: Array


def finish(logs: Logs, U: Array) -> Finished:
    """The singular value decomposition diag(e^l) U = X diag(sigma) V^T, in logs.

    Differentiable once, forwards and in reverse, through the values alone: with M = U V,

        d log sigma_i = sum_j (M^-1)_ij M_ji dl_j + (M^-1 dU V)_ii,

    in which no difference of singular values is divided by. A second derivative would need those: it raises NotImplementedError
    in every nesting.

    Args:
        logs: m log scales in any order; -inf marks a zero row.
        U: (m, n) with m <= n, unit rows; rows of zero scale are ignored.
    """
    m, n = U.shape
    if m > n:
        message = (
            f"finish: U has shape {U.shape}; it needs at most as many rows as columns (finish the transposed chain)"
        )
        raise ValueError(message)
    done = jax.tree.map(lax.stop_gradient, _solve(*lax.stop_gradient((logs, U))))
    return done._replace(log_singular_values=with_derivative(logs, U, done.log_singular_values, done.right))


def with_derivative(logs: Logs, U: Array, values: Array, right: Array) -> Array:
    """`values` and `right` were computed from `logs` and `U`: the values, with their derivative."""
    return _value(logs.hi, logs.lo, U, values, right)


@Primitive
def _value(hi: Array, lo: Array, U: Array, values: Array, right: Array) -> Array:  # noqa: ARG001
    return jnp.array(values)


@_value.defjvp
def _value_jvp(primals, tangents):
    hi, lo, U, values, right = primals
    dhi, dlo, dU, _, _ = tangents
    hi, lo, U = map(_first_order, (hi, lo, U))
    # Rows and values of zero scale become rows and columns of the identity. Live ones come first on both sides.
    order = jnp.argsort(-hi)
    live, kept = jnp.isfinite(hi[order]), jnp.isfinite(values) & jnp.any(right != 0, axis=0)
    dl = jnp.where(live, (dhi + dlo)[order], 0)
    dU = jnp.where(live[:, None], dU[order], 0)
    V = jnp.where(kept, right, 0)
    M = jnp.where(live[:, None], matmul(U[order], V), 0)
    inverse = _inverse(M + jnp.diag(jnp.where(kept, 0, 1).astype(M.dtype)))
    inverse = jnp.where(kept[:, None] & live, inverse, 0)
    return values, matmul(inverse * M.T, dl) + jnp.sum(inverse * matmul(dU, V).T, axis=1)


def _inverse(M: Array) -> Array:
    """M^-1 of M (m, m), or where M is singular (M^T M + eps)^-1 M^T, in which parallel rows of noise disturb no others."""
    eps, eye = float(jnp.finfo(M.dtype).eps), jnp.eye(M.shape[0], dtype=M.dtype)
    inverse = lapack.inverse(M)
    damped = matmul(lapack.inverse(matmul(M.T, M) + eps * eye), M.T)
    return jnp.where(jnp.max(jnp.abs(inverse), initial=0) < eps**SINGULAR, inverse, damped)


@Primitive
def _first_order(x: Array) -> Array:
    """The identity, where a derivative has been taken already."""
    return jnp.array(x)


@_first_order.defjvp
def _first_order_jvp(primals, tangents):
    del primals, tangents
    message = (
        "jacspec: log singular values have no second derivative here (a Hessian, a gradient of a gradient), only first "
        "ones. Exponents and gradient norms have all; or take differences of first derivatives."
    )
    raise NotImplementedError(message)


@jax.jit
def _solve(logs: Logs, U: Array) -> Finished:
    m, n = U.shape
    dtype = U.dtype
    if m == 0:
        zero = jnp.zeros((), dtype)
        return Finished(jnp.zeros(0, dtype), jnp.zeros((n, 0), dtype), jnp.zeros((), int), zero, jnp.array(True))
    valid = jnp.all(logs.hi < jnp.inf) & jnp.all(jnp.isfinite(logs.lo)) & jnp.all(jnp.isfinite(U))
    tolerance = 4 * float(jnp.finfo(dtype).eps) * max(m, 4) ** 0.5
    U = jnp.where(jnp.isfinite(logs.hi)[:, None], U, 0)

    # Two LQ passes, U = L Q^T and then the same for (diag(e^l) L)^T. Each damps the coupling of two rows by e^-gap.
    # Columns in the order of their size in diag(e^l) U keep the rounding of large ones out of small ones.
    logs, U = _sort(logs, U)
    Q, R = row_sorted_qr(U.T, jnp.max(jnp.abs(U) * sizes_beside(logs)[:, None], axis=0))  # (n, m), (m, m)
    N, logs = normalize_rows(*scale_columns(R, logs))  # (m, m), (m,)
    order = jnp.argsort(-logs.hi)
    N, logs = normalize_rows(*scale_columns(lapack.triangle(N[order].T), logs[order]))

    rows = _orthogonalize(logs, N, tolerance)
    right = matmul(Q[:, order], rows.U.T)  # (n, m)
    return Finished(
        jnp.where(valid, rows.logs.hi + rows.logs.lo, jnp.nan),
        right,
        rows.step,
        jnp.where(valid, rows.largest_cosine, jnp.nan),
        valid & (rows.largest_cosine <= tolerance),
    )


class _Rows(NamedTuple):
    """Rows in descending order of size, and what is known of their coupling."""

    step: Array
    logs: Logs
    U: Array
    cosines: Array  # (m, m), U U^T
    generator: Array  # (m, m), see _measure
    size: Array  # largest row sum of abs(generator)
    largest_cosine: Array  # of two different rows, its absolute value


def _sort(logs: Logs, U: Array) -> tuple[Logs, Array]:
    order = jnp.argsort(-logs.hi)
    return logs[order], U[order]


def _differences(logs: Logs) -> Array:
    """(m, m) matrix l_j - l_i, 0 where either is -inf."""
    live = jnp.isfinite(logs.hi)
    hi = jnp.where(live, logs.hi, 0)
    difference = (hi - hi[:, None]) + (logs.lo - logs.lo[:, None])
    return jnp.where(live & live[:, None], difference, 0)


def _tangent(cosine: Array, gap: Array) -> tuple[Array, Array]:
    """The rotation that makes rows a and b orthogonal, sizes e^-gap = |b| / |a| <= 1.

    On unit rows it reads A <- c (A + e^(-2 gap) tau B), B <- c (B - tau A); its angle has the tangent e^-gap tau.
    """
    ratio = jnp.exp(-gap)
    contrast = 1 - ratio**2
    denominator = contrast + jnp.sqrt(contrast**2 + (2 * ratio * cosine) ** 2)
    rotates = denominator > 0
    return jnp.where(rotates, 2 * cosine / jnp.where(rotates, denominator, 1), 0), ratio


def _measure(step: Array, logs: Logs, U: Array, tolerance: float) -> _Rows:
    """Sort the rows and find their cosines and the generator of all Jacobi rotations.

    The generator is K = diag(e^-l) A diag(e^l) with A antisymmetric, A_ij = 2 tan(theta_ij / 2): the Cayley transform
    (I - A/2)^-1 (I + A/2) then rotates a single pair by exactly theta_ij. Pairs within the tolerance stay.
    """
    logs, U = _sort(logs, U)
    m = U.shape[0]
    cosines = matmul(U, U.T)  # (m, m)
    between = jnp.where(jnp.eye(m, dtype=bool), 0, cosines)
    difference = _differences(logs)  # (m, m)
    tau, ratio = _tangent(jnp.where(jnp.abs(between) > tolerance, between, 0), jnp.abs(difference))
    half = 2 * tau / (1 + jnp.sqrt(1 + (ratio * tau) ** 2))
    upper = jnp.arange(m)[:, None] < jnp.arange(m)
    K = jnp.where(upper, ratio**2 * half, -half)  # (m, m)
    return _Rows(step, logs, U, cosines, K, jnp.max(jnp.sum(jnp.abs(K), axis=1)), jnp.max(jnp.abs(between)))


def _orthogonalize(logs: Logs, U: Array, tolerance: float) -> _Rows:
    """Rotate until no cosine exceeds the tolerance.

    A method is chosen by a loop of at most one turn, not by a branch, because under vmap a branch is run for every
    member of the batch, a loop only while one of them wants it. The first round only measures.
    """

    def body(rows):
        measured = rows.step >= 0
        resists = (rows.step >= PAIRWISE_FROM) | (
            (rows.step % PAIRWISE_EVERY == PAIRWISE_EVERY - 1) & (rows.size >= SMALL)
        )
        small = rows.size < SMALL
        choices = ((_all_at_once, small & ~resists), (_in_blocks, ~small & ~resists), (_pair_by_pair, resists))
        for method, chosen in choices:
            rows = _applied_if(chosen & measured, method, rows)
        return _measure(rows.step + 1, rows.logs, rows.U, tolerance)

    far, square = jnp.full((), jnp.inf, U.dtype), jnp.zeros(U.shape[:1] * 2, U.dtype)
    start = _Rows(jnp.full((), -1), logs, U, square, square, far, far)
    return lax.while_loop(lambda rows: (rows.largest_cosine > tolerance) & (rows.step < MAX_STEPS), body, start)


def _applied_if(chosen: Array, method: Callable[[_Rows], tuple[Logs, Array]], rows: _Rows) -> _Rows:
    """The rows after one application of `method` if `chosen`. They are carried: XLA hoists what a loop only reads."""

    def turn(state):
        logs, U = method(state[1])
        return jnp.array(False), state[1]._replace(logs=logs, U=U)

    return lax.while_loop(lambda state: state[0], turn, (chosen, rows))[1]


def _normalized(rows: _Rows, U: Array) -> tuple[Logs, Array]:
    """`U` with unit rows in place of the old one, unless the step failed."""
    new, logs = normalize_rows(U, rows.logs)
    ok = jnp.all(jnp.isfinite(U))
    return jax.tree.map(lambda new, old: jnp.where(ok, new, old), (logs, new), (rows.logs, rows.U))


def _all_at_once(rows: _Rows) -> tuple[Logs, Array]:
    """U <- (I - K/2)^-1 (I + K/2) U = U + (I - A)^-1 K U, A = K/2, by (I - A)^-1 = ... (I + A^4) (I + A^2) (I + A).

    The bound on the norm of A is clipped because, under vmap, this also runs for members that do not want it.
    """
    K, U = rows.generator, rows.U

    def square(state):
        bound, A, X = state
        A = matmul(A, A)
        return bound**2, A, X + matmul(A, X)

    X = matmul(K, U)
    state = jnp.minimum(rows.size, SMALL) / 2, K / 2, X + matmul(K / 2, X)
    *_, X = lax.while_loop(lambda state: state[0] ** 2 > jnp.finfo(U.dtype).eps, square, state)
    return _normalized(rows, U + X)


def _in_blocks(rows: _Rows) -> tuple[Logs, Array]:
    """Diagonalize H = diag(e^l) U U^T diag(e^l) on blocks of rows a few nats high.

    Each block is scaled to norm 1 and shifted by an even number of its own, which keeps the eigenvalues of all blocks
    apart and in order within a single call. A block of height h leaves cosines of about eps e^(2h).
    """
    logs, U = rows.logs, rows.U
    m, dtype = U.shape[0], U.dtype
    height = BLOCK_HEIGHT * jnp.log(jnp.finfo(dtype).eps)  # 8 nats in float64
    offset = (rows.step * 0.618034) % 1  # golden section: never twice the same
    depth = _differences(logs)[:, 0]  # l_0 - l_i
    level = jnp.where(jnp.isfinite(logs.hi), jnp.floor(depth / height + offset), jnp.inf)  # (m,), the block of each row
    starts = jnp.concatenate([jnp.zeros(1, bool), level[1:] != level[:-1]])
    block = jnp.cumsum(starts)
    first = lax.cummax(jnp.where(starts, jnp.arange(m), 0))
    same = block == block[:, None]  # (m, m)

    scale = jnp.exp(depth[first] - depth)
    H = jnp.where(same, rows.cosines * scale * scale[:, None], 0)  # (m, m)
    norm = jnp.max(jnp.where(same, jnp.sum(jnp.abs(H), axis=1), 0), axis=1)
    H = H / jnp.where(norm > 0, norm, 1)[:, None] + jnp.diag(2 * (block[-1] - block).astype(dtype))
    W = jnp.where(same, lapack.eigenvectors(H)[:, ::-1].T, 0)
    # W is orthogonal to eps, but diag(e^-l) W diag(e^l) needs it relative to e^-|l_i - l_j|: one step of Newton-Schulz.
    W = W + matmul(jnp.eye(m, dtype=dtype) - matmul(W, W.T), W) / 2
    S = W * jnp.exp(jnp.where(same, depth[:, None] - depth, 0))
    return _normalized(rows, matmul(S, U))


def _pair_by_pair(rows: _Rows) -> tuple[Logs, Array]:
    """One sweep of disjoint rotations: round r rotates rows i and j with i + j = r modulo m."""
    m = rows.U.shape[0]
    index = jnp.arange(m)

    def one_round(r, state):
        logs, U = state
        partner = (r - index) % m
        mine = jnp.where(jnp.isfinite(logs.hi), logs.hi, 0)
        gap = (mine[partner] - mine) + (logs.lo[partner] - logs.lo)  # positive where the partner is larger
        alive = jnp.isfinite(logs.hi) & jnp.isfinite(logs.hi[partner]) & (partner != index)
        cosine = jnp.where(alive, jnp.sum(U * U[partner], axis=1), 0)
        tau, ratio = _tangent(cosine, jnp.where(alive, jnp.abs(gap), 0))
        larger = (gap < 0) | ((gap == 0) & (index < partner))
        weight = jnp.where(larger, ratio**2 * tau, -tau)
        U = (U + weight[:, None] * U[partner]) / jnp.sqrt(1 + (ratio * tau) ** 2)[:, None]
        U, logs = normalize_rows(U, logs)
        return logs, U

    return lax.fori_loop(0, m, one_round, (rows.logs, rows.U))
