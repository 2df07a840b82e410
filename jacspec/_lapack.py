"""Factorizations whose batches cannot stall on the CPU.

jaxlib 0.10 spreads a batch of matrices over XLA's threads from within one of them, and waits there. As many batches at the
same time as there are threads (two on a small machine: two independent products in one program) wait for each other for
ever. So on the CPU the members of a batch are factored one after another, as jaxlib itself does from 0.11.2 on.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.operators import matmul


def one_at_a_time(f: Callable) -> Callable:
    """f of arrays, whose `vmap` is a loop on the CPU. It cannot be differentiated in reverse: what uses it says how."""

    @jax.custom_batching.custom_vmap
    def call(*args):
        return f(*args)

    @call.def_vmap
    def rule(size: int, batched: list[bool], *args: Array) -> tuple[Any, Any]:
        del size

        def loop(*args):
            def member(moving):
                rest = iter(moving)
                return call(*(next(rest) if b else a for a, b in zip(args, batched, strict=True)))

            return lax.map(member, tuple(a for a, b in zip(args, batched, strict=True) if b))

        together = jax.vmap(f, in_axes=tuple(0 if b else None for b in batched))
        out = lax.platform_dependent(*args, cpu=loop, default=together)
        return out, jax.tree.map(lambda _: True, out)

    return call


qr = one_at_a_time(lambda A: tuple(jnp.linalg.qr(A)))
"""Q and R of the thin factorization, (m, k) and (k, n)."""

triangle = one_at_a_time(lambda A: jnp.linalg.qr(A, mode="r"))
"""R alone."""

eigenvectors = one_at_a_time(lambda H: jnp.linalg.eigh(H, symmetrize_input=False)[1])
"""Of a symmetric H, the columns in the order of ascending eigenvalues."""

inverse = one_at_a_time(jnp.linalg.inv)
"""A^-1."""

_dense = one_at_a_time(jnp.linalg.solve)
from_right = one_at_a_time(lambda R, B: lax.linalg.triangular_solve(R, B, left_side=False, lower=False))
"""X with X R = B for R upper triangular."""

from_right_transposed = one_at_a_time(
    lambda R, B: lax.linalg.triangular_solve(R, B, left_side=False, lower=False, transpose_a=True)
)
"""X with X R^T = B for R upper triangular."""


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
