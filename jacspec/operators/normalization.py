"""Step Jacobians of normalizations: projections beside a gain or a weight; and `centered`."""

import math

import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground.arithmetic import matmul, norms, transposed_matmul
from jacspec._ground.primitives import Primitive
from jacspec._ground.pytree import pytree, static


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
