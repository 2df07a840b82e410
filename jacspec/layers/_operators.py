"""Step Jacobians that only layers have: a diagonal, and projections beside a gain or a weight (see `operators`)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jacspec._primitives import Primitive
from jacspec._pytree import pytree, static
from jacspec.operators import Matrix, matmul, norms, transposed_matmul


def call(layer: Any, h: Array, x: Any = None) -> Array:
    """layer(h), or layer(h, x) for a layer that is also driven from outside."""
    return layer(h) if x is None else layer(h, x)


@pytree
class Linear:
    """J of any callable by automatic differentiation: one linearization, whose residuals are the leaves.

    `operators.Linearized` would carry the callable itself, and a bare function is no leaf that JAX can take.

    Attributes:
        jvp: v -> J v, on flat vectors of n numbers.
        n: the width of the state.
        dtype: that of the state.
    """

    jvp: Any
    n: int = static()
    dtype: Any = static()

    def push(self, V: Array) -> Array:
        """J V, column by column."""
        if V.dtype != self.dtype:  # in low precision J is rounded, and V is not
            return Matrix(self.dense().astype(V.dtype)).push(V)
        return jax.vmap(self.jvp, in_axes=1, out_axes=1)(V)

    def pull(self, U: Array) -> Array:
        """J^T U, column by column."""
        if U.dtype != self.dtype:
            return Matrix(self.dense().astype(U.dtype)).pull(U)
        transpose = jax.linear_transpose(self.jvp, jax.ShapeDtypeStruct((self.n,), self.dtype))
        return jax.vmap(lambda u: transpose(u)[0], in_axes=1, out_axes=1)(U)

    def dense(self) -> Array:
        """J."""
        return self.push(jnp.eye(self.n, dtype=self.dtype))

    @property
    def factors(self) -> dict[str, Array]:
        """The matrix itself: nothing is known of what it is made of."""
        return {"matrix": self.dense()}


def linearize(layer: Any, h: Array, x: Any = None) -> Linear:
    """The Jacobian of any callable at (h, x)."""
    flat, unravel = ravel_pytree(h)
    _, jvp = jax.linearize(lambda v: ravel_pytree(call(layer, unravel(v), x))[0], flat)
    return Linear(jvp, flat.size, flat.dtype)


def jacobian(layer: Any, h: Array, x: Any = None) -> Any:
    """The layer's own step Jacobian, or for a callable without one that of automatic differentiation."""
    own = getattr(layer, "jacobian", None)
    if own is None:
        return linearize(layer, h, x)
    return own(h) if x is None else own(h, x)


@Primitive
def _centered(A: Array, *, axis: int) -> Array:
    # halved so often that no sum overflows: exact above 1, and what it costs below is nothing beside an entry above 1
    halved = jnp.where(jnp.max(jnp.abs(A), axis=axis, keepdims=True) > 1, 0.5 ** (2 * A.shape[axis]).bit_length(), 1)
    A = A * halved
    A = A - lax.slice_in_dim(A, 0, 1, axis=axis)
    return (A - jnp.mean(A, axis=axis, keepdims=True)) / halved


@_centered.defjvp
def _centered_jvp(primals, tangents, *, axis):
    (A,), (dA,) = primals, tangents
    return _centered(A, axis=axis), dA - jnp.mean(dA, axis=axis, keepdims=True)


def centered(A: Array, axis: int) -> Array:
    """A minus its mean along `axis`; the first entry goes first, so that a constant gives exact zeros."""
    return _centered(A, axis=axis)


def _projected_norm(square: Array, overlap: Array, rho: Array, n: int) -> Array:
    """||(I - u u^T) w|| from ||w||^2, w.u and ||u||^2 <= 1, with room for the rounding of the difference."""
    room = 4 * n * jnp.finfo(square.dtype).eps * square
    square = jnp.maximum(square - (2 - rho) * overlap**2, 0) + room
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)


@pytree
class Standardized:
    """J = diag(gain) (I - 1 1^T / B - z z^T / B) along the first axis of a (B, n) state, for each column by itself.

    The state is flattened row-major. Without `centering` the term 1 1^T / B is absent.

    Attributes:
        gain: gamma / s, shape (B, n) or one that broadcasts to it.
        unit: the normalized state z, shape (B, n).
        centering: whether the mean was subtracted.
    """

    gain: Array
    unit: Array
    centering: bool = static()

    def _project(self, V):
        if self.centering:
            V = V - jnp.mean(V, axis=0)
        return V - self.unit[:, :, None] * jnp.mean(self.unit[:, :, None] * V, axis=0)

    def push(self, V: Array) -> Array:
        """gain * (V - mean V - z mean(z V)), shape (B n, k)."""
        return (self.gain[:, :, None] * self._project(V.reshape(*self.unit.shape, -1))).reshape(V.shape)

    def pull(self, U: Array) -> Array:
        """The same, with the gain first: the projection is symmetric."""
        return self._project(self.gain[:, :, None] * U.reshape(*self.unit.shape, -1)).reshape(U.shape)

    def dense(self) -> Array:
        """J, (B n, B n)."""
        return self.push(jnp.eye(self.unit.size, dtype=self.unit.dtype))

    def row_norms(self) -> Array:
        """abs(gain) sqrt(1 - 1/B - (2 - mean z^2) z^2 / B): exact but for room for rounding under the root."""
        B = self.unit.shape[0]
        square = jnp.full_like(self.unit, 1 - 1 / B if self.centering else 1)
        rho = jnp.mean(self.unit**2, axis=0)
        return (jnp.abs(self.gain) * _projected_norm(square, self.unit / math.sqrt(B), rho, B)).ravel()

    @property
    def factors(self) -> dict[str, Array]:
        """``normalization gain`` gamma / s and ``normalized state`` z, each without axes of length 1."""
        return {"normalization gain": jnp.squeeze(self.gain), "normalized state": jnp.squeeze(self.unit)}


@pytree
class Projected:
    """J = diag(slope * gain) W (I - u u^T) C: normalized weights on a normalized state.

    Attributes:
        slope: f'(a), shape (m,).
        gain: shape (m,).
        weight: W with rows of norm 1 (or 0), shape (m, n).
        direction: u, shape (n,), or None for no projection.
        centering: whether C = I - 1 1^T / n (else C = I).
    """

    slope: Array
    gain: Array
    weight: Array
    direction: Array | None = None
    centering: bool = static(default=False)

    def _project(self, V):
        if self.centering:
            V = V - jnp.mean(V, axis=0)
        return V if self.direction is None else V - self.direction[:, None] * matmul(self.direction, V)

    def push(self, V: Array) -> Array:
        """slope * gain * (W (C V - u u^T C V))."""
        return (self.slope * self.gain)[:, None] * matmul(self.weight, self._project(V))

    def pull(self, U: Array) -> Array:
        """The projection of W^T (slope * gain * U)."""
        return self._project(transposed_matmul(self.weight, (self.slope * self.gain)[:, None] * U))

    def dense(self) -> Array:
        """J, (m, n)."""
        return (self.slope * self.gain)[:, None] * self._project(self.weight.T).T

    def row_norms(self) -> Array:
        """abs(slope gain) times the norm of each projected row of W: exact but for room for rounding."""
        length = norms(self.weight)
        if self.direction is not None:
            overlap, rho = matmul(self.weight, self.direction), jnp.sum(self.direction**2)
            length = _projected_norm(length**2, overlap, rho, self.weight.shape[-1])
        return jnp.abs(self.slope * self.gain) * length

    @property
    def factors(self) -> dict[str, Array]:
        """``slope``, ``normalization gain`` and ``weight`` (normalized); ``normalized state`` where there is one."""
        out = {"slope": self.slope, "normalization gain": self.gain, "weight": self.weight}
        return out if self.direction is None else out | {"normalized state": self.direction}
