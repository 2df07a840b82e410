"""Step Jacobians: small linear operators with `push` (J V), `pull` (J^T U) and `dense` (J).

A large scale difference belongs on the left, row by row: diag(d) W is pushed as d * (W V) and never formed.
Every matrix product asks for the highest precision; TF32 would ruin a spectrum.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jacspec._primitives import Primitive
from jacspec._pytree import pytree, static
from jacspec.typing import StepJacobian

FEW = 4
"""Up to so many columns vectors times a matrix are never slower than the product with its transpose."""


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


def row_norms(J: StepJacobian) -> Array:
    """Euclidean norms of the rows of J, or the operator's own upper bound."""
    own = getattr(J, "row_norms", None)
    return norms(J.dense()) if own is None else own()


def in_turn(J: StepJacobian) -> tuple[StepJacobian, ...]:
    """The factors of J, the first to act first: J itself unless it is a composition."""
    return getattr(J, "in_turn", (J,))


def pieces(J: StepJacobian) -> tuple[StepJacobian, ...]:
    """The factors of J, each of which is zero where, and only where, one of its numbers is."""
    return tuple(piece for factor in in_turn(J) for piece in getattr(factor, "pieces", (factor,)))


@pytree
class Matrix:
    """J as an array of shape (m, n)."""

    matrix: Array

    @property
    def shows_slopes(self) -> bool:
        """False: an entry does not say which slopes it is made of (`jacspec._product.slopes`)."""
        return False

    def push(self, V: Array) -> Array:
        """J V."""
        return matmul(self.matrix, V)

    def pull(self, U: Array) -> Array:
        """J^T U."""
        return transposed_matmul(self.matrix, U)

    def dense(self) -> Array:
        """J."""
        return self.matrix

    def row_norms(self) -> Array:
        """Norms of the rows."""
        return norms(self.matrix)

    @property
    def factors(self) -> dict[str, Array]:
        """The matrix itself: nothing is known of what it is made of."""
        return {"matrix": self.matrix}


@pytree
class Given(Matrix):
    """A matrix (m, n) that was given: it has no slopes that could have been stopped short of zero.

    Attributes:
        knows_stops: (), whether its entries are what they are: no row is decided by numbers that count as zeros.
    """

    knows_stops: Array


@pytree
class Diagonal:
    """J = diag(d).

    Attributes:
        d: shape (n,).
        name: what it is made of.
    """

    d: Array
    name: str = static(default="kept")

    def push(self, V: Array) -> Array:
        """d * V."""
        return self.d[:, None] * V

    def pull(self, U: Array) -> Array:
        """d * U."""
        return self.d[:, None] * U

    def dense(self) -> Array:
        """diag(d)."""
        return jnp.diag(self.d)

    def row_norms(self) -> Array:
        """abs(d)."""
        return jnp.abs(self.d)

    @property
    def factors(self) -> dict[str, Array]:
        """The diagonal, by its name."""
        return {self.name: self.d}


@pytree
class Scaled:
    """J = diag(d) W: a slope for every row of a weight matrix.

    Attributes:
        d: slopes f'(a), shape (m,).
        W: weights, shape (m, n), shared by all steps of a recurrent network.
    """

    d: Array
    W: Array

    @property
    def pieces(self) -> tuple[Any, ...]:
        """W and diag(d), the first to act first."""
        return Matrix(self.W), Diagonal(self.d)

    def push(self, V: Array) -> Array:
        """d * (W V)."""
        return self.d[:, None] * matmul(self.W, V)

    def pull(self, U: Array) -> Array:
        """W^T (d * U)."""
        return transposed_matmul(self.W, self.d[:, None] * U)

    def dense(self) -> Array:
        """diag(d) W."""
        return self.d[:, None] * self.W

    def row_norms(self) -> Array:
        """abs(d_i) ||W_i||."""
        return jnp.abs(self.d) * norms(self.W)

    @property
    def factors(self) -> dict[str, Array]:
        """``slope`` d and ``weight`` W."""
        return {"slope": self.d, "weight": self.W}


@pytree
class GatedSum:
    """J = diag(carry) + sum_k diag(gains_k) W_k: what a gated cell keeps plus what its gates let through.

    One matrix product with the stacked weights serves all gates.

    Attributes:
        carry: shape (n,).
        gains: shape (K, n).
        weights: shape (K, n, n).
        names: the name of the carry and of the K gains.
    """

    carry: Array
    gains: Array
    weights: Array
    names: tuple[str, ...] = static()

    def push(self, V: Array) -> Array:
        """carry * V + sum_k gains_k * (W_k V)."""
        count, n, _ = self.weights.shape
        parts = matmul(self.weights.reshape(count * n, n), V).reshape(count, n, -1)
        return self.carry[:, None] * V + jnp.sum(self.gains[:, :, None] * parts, axis=0)

    def pull(self, U: Array) -> Array:
        """carry * U + sum_k W_k^T (gains_k * U)."""
        count, n, _ = self.weights.shape
        parts = (self.gains[:, :, None] * U).reshape(count * n, -1)
        return self.carry[:, None] * U + transposed_matmul(self.weights.reshape(count * n, n), parts)

    def dense(self) -> Array:
        """The sum, as an (n, n) array."""
        return jnp.diag(self.carry) + jnp.sum(self.gains[:, :, None] * self.weights, axis=0)

    def row_norms(self) -> Array:
        """abs(carry_i) + sum_k abs(gain_ki) ||W_ki||, an upper bound."""
        return jnp.abs(self.carry) + jnp.sum(jnp.abs(self.gains) * norms(self.weights), axis=0)

    @property
    def factors(self) -> dict[str, Array]:
        """The carry and each gain with its weight, by name."""
        carry, *gains = self.names
        out = {carry: self.carry}
        for k, name in enumerate(gains):
            out |= {name: self.gains[..., k, :], f"{name} weight": self.weights[..., k, :, :]}
        return out


@pytree
class Composed:
    """J = outer inner: one operator after another."""

    outer: Any
    inner: Any

    @property
    def in_turn(self) -> tuple[Any, ...]:
        """The factors, the first to act first."""
        return in_turn(self.inner) + in_turn(self.outer)

    def push(self, V: Array) -> Array:
        """outer (inner V)."""
        return self.outer.push(self.inner.push(V))

    def pull(self, U: Array) -> Array:
        """inner^T (outer^T U)."""
        return self.inner.pull(self.outer.pull(U))

    def dense(self) -> Array:
        """The product as a matrix."""
        return self.outer.push(self.inner.dense())

    def row_norms(self) -> Array:
        """||outer_i|| times the Frobenius norm of the inner one, an upper bound."""
        return row_norms(self.outer) * norms(row_norms(self.inner))

    @property
    def factors(self) -> dict[str, Array]:
        """The factors of both; a name that is taken gets a prime."""
        out = dict(self.inner.factors)
        for name, factor in self.outer.factors.items():
            while name in out:
                name += "'"
            out[name] = factor
        return out


@pytree
class Linearized:
    """The Jacobian of any step at (h, x), by automatic differentiation; the oracle of the analytic ones."""

    step: Any
    h: Any
    x: Any

    def _flat(self):
        flat, unravel = ravel_pytree(self.h)
        return (lambda v: ravel_pytree(self.step(unravel(v), self.x))[0]), flat

    def push(self, V: Array) -> Array:
        """J V by one linearization, mapped over the columns."""
        f, flat = self._flat()
        if V.dtype != flat.dtype:  # in low precision J is rounded, and V is not
            return Matrix(self.dense().astype(V.dtype)).push(V)
        _, jvp = jax.linearize(f, flat)
        return jax.vmap(jvp, in_axes=1, out_axes=1)(V)

    def pull(self, U: Array) -> Array:
        """J^T U by one linearization, mapped over the columns."""
        f, flat = self._flat()
        if U.dtype != flat.dtype:
            return Matrix(self.dense().astype(U.dtype)).pull(U)
        _, vjp = jax.vjp(f, flat)
        return jax.vmap(lambda u: vjp(u)[0], in_axes=1, out_axes=1)(U)

    def dense(self) -> Array:
        """J by forward or reverse mode, whichever has fewer columns to push."""
        f, flat = self._flat()
        m = jax.eval_shape(f, flat).shape[0]
        return (jax.jacfwd if m >= flat.size else jax.jacrev)(f)(flat)

    @property
    def factors(self) -> dict[str, Array]:
        """The matrix itself."""
        return {"matrix": self.dense()}
