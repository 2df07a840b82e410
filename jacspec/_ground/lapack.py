"""Factorizations whose batches cannot stall on the CPU (see `jacspec._ground.primitives.one_at_a_time`)."""

import functools

import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground.arithmetic import matmul
from jacspec._ground.primitives import Primitive, one_at_a_time

factorization = functools.partial(Primitive, over=one_at_a_time)


@factorization
def triangle(A: Array) -> Array:
    """R of the thin factorization A = Q R alone."""
    return jnp.linalg.qr(A, mode="r")


@factorization
def haar(A: Array) -> Array:
    """Q of A = Q R with R_ii >= 0: of a Gaussian A distributed uniformly (Mezzadri 2007)."""
    Q, R = jnp.linalg.qr(A)
    return Q * jnp.where(jnp.diagonal(R) < 0, -1, 1)


@factorization
def eigenvectors(H: Array) -> Array:
    """Of a symmetric H, the columns in the order of ascending eigenvalues."""
    return jnp.linalg.eigh(H, symmetrize_input=False)[1]


@factorization
def inverse(A: Array) -> Array:
    """A^-1."""
    return jnp.linalg.inv(A)


@factorization
def _dense(A: Array, b: Array) -> Array:
    return jnp.linalg.solve(A, b)


@factorization
def from_right(R: Array, B: Array) -> Array:
    """X with X R = B for R upper triangular."""
    return lax.linalg.triangular_solve(R.T, B.T, left_side=True, lower=True).T  # R by rows is R^T by columns: no copy


@factorization
def from_right_transposed(R: Array, B: Array) -> Array:
    """X with X R^T = B for R upper triangular."""
    return lax.linalg.triangular_solve(R, B, left_side=False, lower=False, transpose_a=True)


def solve(A: Array, b: Array) -> Array:
    """x with A x = b, (n,), differentiable to every order."""
    fixed = lax.stop_gradient(A)
    return lax.custom_linear_solve(
        lambda x: matmul(A, x), b, lambda _, b: _dense(fixed, b), lambda _, b: _dense(fixed.T, b)
    )


def divide_right(B: Array, R: Array) -> Array:
    """X with X R = B for R upper triangular, differentiable to every order."""
    fixed = lax.stop_gradient(R)
    return lax.custom_linear_solve(
        lambda X: matmul(X, R), B, lambda _, B: from_right(fixed, B), lambda _, B: from_right_transposed(fixed, B)
    )
