"""Matrix products at full precision, and norms and unit vectors that neither overflow nor underflow."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground.primitives import Primitive

FEW = 4
"""Up to this many columns, vector-matrix products are never slower than one product with A^T."""


def matmul(A: Array, B: Array) -> Array:
    """A B at the highest precision of the device."""
    return jnp.matmul(A, B, precision=lax.Precision.HIGHEST)


def transposed_matmul(A: Array, B: Array) -> Array:
    """A^T B for A (n, m) and B (n, k). Few columns go one by one: XLA on the CPU copies A to transpose it for more."""
    few = 0 < B.shape[1] <= FEW
    return jnp.stack([matmul(b, A) for b in B.T], axis=1) if few else matmul(A.T, B)


def smallest_factor(dtype) -> float:
    """tiny / eps, the smallest number that survives a product: factors of a Jacobian that are not zero stop there.

    In float16, whose range leaves no such room, tiny.
    """
    info = jnp.finfo(dtype)
    least = float(info.tiny) / float(info.eps)
    return least if least < float(info.eps) else float(info.tiny)


@Primitive
def _normalized(A: Array, *, axis: int, count: int, epsilon: float, defined: bool) -> tuple[Array, Array]:
    info, floor = jnp.finfo(A.dtype), math.sqrt(epsilon)
    top = jnp.max(jnp.abs(A), axis=axis, keepdims=True, initial=floor)
    safe = jnp.where(top == 0, 1, jnp.clip(top, info.tiny, 1 / info.tiny))  # their reciprocals are normal numbers
    A = A / safe
    square = jnp.sum(A**2, axis=axis, keepdims=True)
    square = square / count + (floor / safe) ** 2 if count != 1 or epsilon else square
    length = jnp.sqrt(square)
    unit = jnp.where(square == 0, 0 if defined else jnp.nan, A / jnp.where(square == 0, 1, length))
    return unit, jnp.squeeze(length * safe, axis)


@_normalized.defjvp
def _normalized_jvp(primals, tangents, *, axis, count, epsilon, defined):
    (A,), (dA,) = primals, tangents
    U, r = _normalized(A, axis=axis, count=count, epsilon=epsilon, defined=defined)
    dr = jnp.sum(U * dA, axis=axis) / count
    size, growth = (jnp.expand_dims(part, axis) for part in (r, dr))
    dU = (dA - U * growth) / jnp.where(size == 0, 1, size)
    return (U, r), (dU * jnp.where(size == 0, 0 if defined else jnp.nan, 1), dr)


def normalized(
    A: Array, axis: int, *, count: int = 1, epsilon: float = 0.0, defined: bool = False
) -> tuple[Array, Array]:
    """A / r and r, with r^2 = ||A||^2 / count + epsilon along `axis`, safe from overflow and underflow.

    So are their derivatives, dr = (A / r) . dA / count and d(A / r) = (dA - (A / r) dr) / r, where those of A / r by the
    rule of quotients divide by r^2. Where r is 0, A / r and both derivatives are NaN, or 0 if they are to be `defined`.
    """
    return _normalized(A, axis=axis, count=count, epsilon=epsilon, defined=defined)


def units(A: Array, axis: int = -1) -> tuple[Array, Array]:
    """A / ||A|| along `axis` (zero where A is) and the Euclidean norms; see `normalized`."""
    return normalized(A, axis, defined=True)


def norms(A: Array, axis: int = -1) -> Array:
    """Euclidean norms along `axis`, safe from overflow and underflow."""
    return units(A, axis)[1]


@jax.jit
def rescale(V: Array) -> tuple[Array, Array]:
    """Unit columns and the logs of their norms; a zero column stays zero, with -inf; NaN where a norm is not finite."""
    V, size = units(V, axis=0)
    live = (size > 0) & (size < jnp.inf)
    log = jnp.where(live, jnp.log(jnp.where(live, size, 1)), jnp.where(size == 0, -jnp.inf, jnp.nan))
    return jnp.where(jnp.isnan(log), jnp.nan, V), log
