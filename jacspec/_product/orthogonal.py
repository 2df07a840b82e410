"""Orthogonalization: A = Q R with a derivative that survives rank loss.

The one place to change when a faster factorization is wanted: everything else calls `qr` or `row_sorted_qr`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import lapack
from jacspec._ground.arithmetic import matmul, norms

NOISE = 4.0
"""Entries of R below NOISE times their rounding are taken as noise."""

PROBES = 8
"""Random rows by which the growth of rounding in R is measured."""


@lapack.factorization
def qr(A: Array) -> tuple[Array, Array]:
    """A = Q R for A of shape (m, n): Q (m, k) with orthonormal columns, R (k, n) upper triangular, k = min(m, n).

    The derivative is that of the thin factorization, dR = triu(Q^T dA - W R), dQ = Q W + (I - Q Q^T) dA R1^-1, with R1
    the leading k x k block, W = L - L^T and L the strictly lower part of Q^T dA R1^-1. A dead column
    (R_ii zero or noise) moves nothing: the direction of Q that belongs to it is arbitrary, so its tangent is zero.
    """
    Q, R = jnp.linalg.qr(A)
    return Q, R


@qr.defjvp
def _qr_jvp(primals, tangents):
    (A,), (dA,) = primals, tangents
    Q, R = qr(A)
    k = R.shape[0]
    level, growth = rounding(Q, R, jnp.finfo(A.dtype).eps * norms(A))
    dead = jnp.abs(jnp.diagonal(R)) <= NOISE * level * growth[:k]
    R1 = jnp.where(dead[:, None], jnp.eye(k, dtype=R.dtype), R[:, :k])
    X = jnp.where(dead, 0, lapack.divide_right(dA[:, :k], R1))
    C = matmul(Q.T, X)
    L = jnp.tril(C, -1)
    W = L - L.T
    dQ = matmul(Q, W)
    if Q.shape[0] > k:
        dQ = dQ + (X - matmul(Q, C))
    dR = jnp.triu(matmul(Q.T, dA) - matmul(W, R))
    return (Q, R), (dQ, dR)


def row_sorted_qr(A: Array, size: Array) -> tuple[Array, Array]:
    """A = Q R, factored with the rows in descending order of `size` (m,): rows of very different size stay apart.

    Householder QR is then stable row by row (A. J. Cox, N. J. Higham, 1998).
    """
    order, place = descending(size)
    Q, R = qr(permuted(A, order))
    return permuted(Q, place), R


def rounding(Q: Array, R: Array, noise: Array) -> tuple[Array, Array]:
    """What is uncertain in R = Q^T A where each entry of row j of A is so by noise_j: R_ij by level_i growth_j.

    To first order a change E of A changes R_ij by Q_i^T E x_j, with x_j = R_jj R^-1 e_j what column j takes of the
    columns before it: level_i = sum_j abs(Q_ji) noise_j, and growth_j = ||x_j|| >= 1, which is large where an earlier pivot
    is small. It is estimated by the rows of X with X R = G for a few random rows G. A pivot that is noise is
    left out (taken as 1): its column lies in the span of those before it.

    Args:
        Q: (m, k).
        R: (k, n).
        noise: (m,), in the units of A.

    Returns:
        level (k,), in the units of A, and growth (n,).

    Reference: G. W. Stewart, On the perturbation of LU, Cholesky and QR factorizations, SIAM J. Matrix Anal. Appl. 14
    (1993) 1141.
    """
    Q, R, noise = lax.stop_gradient((Q, R, noise))
    k, n = R.shape
    level = matmul(jnp.abs(Q).T, noise + Q.shape[0] * jnp.finfo(Q.dtype).tiny)
    G = jnp.asarray(np.random.default_rng(n).standard_normal((PROBES, n)), R.dtype)
    dead = jnp.abs(jnp.diagonal(R)) <= NOISE * level
    pivots = jnp.where(dead[:, None], jnp.eye(k, dtype=R.dtype), R[:, :k])
    X = lapack.from_right(pivots, G[:, :k])
    taken = jnp.concatenate([X * jnp.diagonal(pivots), G[:, k:] - matmul(X, R[:, k:])], axis=1)
    growth = norms(taken, axis=0) / math.sqrt(PROBES)
    return level, jnp.maximum(jnp.where(jnp.isnan(growth), jnp.inf, growth), 1)


def made_of(Q: Array, rows: Array) -> Array:
    """NOISE times how much of an entry in each row of R = Q^T A may come from parts of A of size `rows` (m,): (k,)."""
    return NOISE * matmul(jnp.abs(lax.stop_gradient(Q)).T, rows)


def permuted(A: Array, order: Array, axis: int = 0) -> Array:
    """A[order], or A[:, order]; half the time of indexing, which looks whether each index is in range."""
    return jnp.take(A, order, axis=axis, mode="clip")


def descending(size: Array) -> tuple[Array, Array]:
    """The order of descending `size` (n,), equal entries as they come and NaN as -inf, and its inverse.

    Sizes count as equal where they agree but for the last log2(n) bits, whose place in the key the index takes: XLA sorts
    one array of integers in a fraction of the time of a key and its index.
    """
    size = lax.stop_gradient(size)
    width = jnp.int64 if size.dtype.itemsize == 8 else jnp.int32
    bits = lax.bitcast_convert_type(jnp.where(jnp.isnan(size), -jnp.inf, size), width)
    ascending = jnp.where(bits < 0, bits ^ jnp.iinfo(width).max, bits)  # as integers they are ordered like the floats
    low = (1 << (max(size.size, 1) - 1).bit_length()) - 1
    order = lax.sort((~ascending & ~low) | jnp.arange(size.size, dtype=width)) & low
    return order, inverse_permutation(order)


def inverse_permutation(order: Array) -> Array:
    """The inverse of a permutation; half the time of a second sort."""
    return jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype), unique_indices=True)
