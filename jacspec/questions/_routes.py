"""The two routes through a chain that end in a spectrum: forward, and backward on the regrouped transposed chain.

Both carry a graded product, and beside it a witness: a random vector pushed (or pulled) by itself.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground.arithmetic import norms, rescale
from jacspec._ground.pytree import pytree
from jacspec._product import recursion
from jacspec._product.image import Zeros, given, guide, image, live_rows, near_one
from jacspec._product.slopes import knows_stops, shows_slopes, with_parts
from jacspec.chain import JacobianChain
from jacspec.operators import row_norms
from jacspec.typing import StepJacobian, in_turn, pieces


class RowPerturbation(NamedTuple):
    """Random changes of the rows of every step, of a size relative to their norms; dead columns stay."""

    size: Array
    key: Array


def without_basis(graded: recursion.Graded) -> recursion.Graded:
    """What the finish needs of a graded product: all but Q."""
    return graded._replace(Q=jnp.zeros((), graded.U.dtype))


def forward(chain: JacobianChain, horizons: tuple[int, ...], perturbation: RowPerturbation | None = None) -> Any:
    """J_t ... J_1 at each horizon: graded products stacked along a leading axis, or a list where widths change."""
    n, dtype = chain.shape[1], chain.dtype
    start = (recursion.identity(n, dtype), (guide(n, dtype), jnp.zeros((), dtype)))
    step = functools.partial(_forward_step, perturbation=perturbation)

    def record(carry):
        graded, (_, log) = carry
        return without_basis(graded), log

    return _walk(chain, horizons, start, step, record, reverse=False)


@jax.jit
@jax.checkpoint
def _forward_step(carry: Any, J: StepJacobian, t: Array, perturbation: RowPerturbation | None = None) -> Any:
    graded, (vector, log) = carry
    step, vector = image(J, graded.Q, jnp.isfinite(graded.logs.hi), vector)
    if perturbation is not None:
        alive = jnp.any(step.A != 0, axis=0)  # a dead column is exact, and may stand behind a large log
        noise = jax.random.normal(jax.random.fold_in(perturbation.key, t), step.A.shape, step.A.dtype)
        size = perturbation.size * jax.lax.stop_gradient(norms(step.A))[:, None]
        step = step._replace(A=step.A + size * jnp.where(alive, noise, 0))
    return recursion.extend(graded, step, t), _seen(vector, log + step.shift * math.log(2))


def _seen(vector: Array, log: Array) -> tuple[Array, Array]:
    """The witness, of norm 1, and its log norm."""
    vector, size = rescale(jax.lax.stop_gradient(vector))
    return vector, log + size[0]


@pytree
class _Regrouped:
    """M = J^T diag(scale)^-1 of an operator J, (m, n); rows that are zero by their scale (m,) are left out."""

    J: Any
    scale: Array | None

    @property
    def in_turn(self) -> tuple[Any, ...]:
        """The factors, the first to act first."""
        return self._transposed(in_turn(self.J))

    @property
    def pieces(self) -> tuple[Any, ...]:
        """The factors taken apart further."""
        return self._transposed(pieces(self.J))

    def _transposed(self, factors: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = reversed(factors)
        return _Regrouped(first, self.scale), *(_Regrouped(J, None) for J in others)

    @property
    def shows_slopes(self) -> bool:
        """Whether J shows its slopes."""
        return shows_slopes(self.J)

    @property
    def knows_stops(self) -> bool:
        """Whether it is known which numbers of J were stopped."""
        return knows_stops(self.J)

    def with_parts(self, most: int, change: Callable[[Array, int], Array]) -> "_Regrouped":
        """The same of J with its parts changed."""
        return _Regrouped(with_parts(self.J, most, change), self.scale)

    def _divided(self, V: Array) -> Array:
        if self.scale is None:
            return V
        live = (self.scale > 0)[:, None]
        return jnp.where(live, V / jnp.where(live, self.scale[:, None], 1), 0)

    def push(self, V: Array) -> Array:
        """J^T (V / scale)."""
        return self.J.pull(self._divided(V))

    def pull(self, U: Array) -> Array:
        """(J U) / scale."""
        return self._divided(self.J.push(U))


def backward(chain: JacobianChain, horizons: tuple[int, ...]) -> Any:
    """(J_T ... J_{t+1})^T at each horizon, regrouped so that strong scales stand on the left.

    With J_t = D_t M_t, D_t the norms of the rows, the transposed product is M_1^T D_1 ... M_T^T D_T. Each step of the
    recursion takes D_t (M_{t+1}^T Q), and a horizon ends with M_{t+1}^T.
    """
    m, dtype = chain.shape[0], chain.dtype
    identity = recursion.identity(m, dtype)
    start = (identity, given(identity.Q), (guide(m, dtype), jnp.zeros((), dtype)))
    return _walk(chain, horizons, start, _backward_step, _backward_record, reverse=True)


@jax.jit
@jax.checkpoint
def _backward_step(carry: Any, J: StepJacobian, t: Array) -> Any:
    graded, B, (vector, log) = carry
    for factor in reversed(in_turn(J)):
        vector, exponent = near_one(factor, "pull", vector, vector)
        log = log + exponent * math.log(2)
    m, dtype = B.A.shape[0], B.A.dtype
    scale = _row_scale(J, vector.shape[0], dtype)
    rows = B.zeros.rows & (scale > 0)
    zeros = Zeros(rows, jnp.minimum(B.zeros.rank, jnp.sum(rows)))
    B = B._replace(A=scale[:, None] * B.A, noise=scale * B.noise, stopped=scale * B.stopped, zeros=zeros)
    graded = recursion.extend(graded, B, t)
    B, _ = image(_Regrouped(J, scale), graded.Q, jnp.isfinite(graded.logs.hi), guide(m, dtype))
    return graded, B._replace(zeros=B.zeros.counted()), _seen(vector, log)


def _row_scale(J: StepJacobian, n: int, dtype: Any) -> Array:
    """The norms of the rows of J, beside the largest; zero for the rows that zeros of J make zero, and only for them."""
    scale = jnp.minimum(jax.lax.stop_gradient(row_norms(J).astype(dtype)), 1 / jnp.finfo(dtype).tiny)
    largest = jnp.max(jnp.where(jnp.isnan(scale), 0, scale), initial=0)
    scale = jnp.where(largest > 0, scale / jnp.where(largest > 0, largest, 1), 1)
    least = jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps
    return jnp.where(live_rows(J, n, dtype), jnp.maximum(scale, least), 0)


@jax.jit
def _backward_record(carry: Any) -> Any:
    graded, B, (_, log) = carry
    return without_basis(recursion.extend(graded, B)), log


def _walk(chain: JacobianChain, horizons: tuple[int, ...], start: Any, step: Any, record: Any, *, reverse: bool) -> Any:
    """Fold `step` over the chain and record the carry at each horizon."""
    times = jnp.arange(1, chain.length + 1)
    return chain.source.carries(step, start, horizons, record, reverse=reverse, xs=times)
