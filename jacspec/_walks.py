"""The two routes through a chain that end in a spectrum: forward, and backward on the regrouped transposed chain.

Both carry a graded product, and beside it a witness: a random vector pushed (or pulled) by itself.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._links import Listed
from jacspec._product import recursion
from jacspec.chain import JacobianChain, rescale
from jacspec.operators import norms, row_norms
from jacspec.typing import StepJacobian

WITNESS_SEED = 0x6A616373706563
"""Nobody else's: a state drawn with the seed of the witness would be the witness, and a norm annihilates its state."""


class Wobble(NamedTuple):
    """Random changes of the rows of every step, of a size relative to their norms."""

    size: Array
    key: Array


def without_basis(graded: recursion.Graded) -> recursion.Graded:
    """What the finish needs of a graded product: all but Q."""
    return graded._replace(Q=jnp.zeros((), graded.U.dtype))


def forward(chain: JacobianChain, horizons: tuple[int, ...], wobble: Wobble | None = None) -> Any:
    """J_t ... J_1 at each horizon: graded products stacked along a leading axis, or a list where widths change."""
    n, dtype = chain.shape[1], chain.dtype
    start = (recursion.identity(n, dtype), _witness(n, dtype))
    step = functools.partial(_forward_step, wobble=wobble)

    def record(carry):
        graded, (_, log) = carry
        return without_basis(graded), log

    return _walk(chain, horizons, start, step, record, reverse=False)


@jax.jit
@jax.checkpoint
def _forward_step(carry: Any, J: StepJacobian, t: Array, wobble: Wobble | None = None) -> Any:
    graded, witness = carry
    A = J.push(graded.Q)
    rank = _live_columns(J, A.shape[0], A.dtype)
    if wobble is not None:
        noise = jax.random.normal(jax.random.fold_in(wobble.key, t), A.shape, A.dtype)
        A = A + wobble.size * jax.lax.stop_gradient(norms(A))[:, None] * noise
    return recursion.extend(graded, A, t, rank=rank), _seen(J.push, witness)


def _witness(n: int, dtype: Any) -> tuple[Array, Array]:
    """A random unit vector that travels beside the recursion and knows nothing of it, and its log norm."""
    vector = np.random.default_rng(WITNESS_SEED).standard_normal((n, 1))
    return jnp.asarray(vector / np.linalg.norm(vector), dtype), jnp.zeros((), dtype)


def _seen(apply: Any, witness: tuple[Array, Array]) -> tuple[Array, Array]:
    """The witness after one more step."""
    vector, log = witness
    vector, grown = rescale(jax.lax.stop_gradient(apply(vector)))
    return vector, log + grown[0]


def _live_columns(J: Any, m: int, dtype: Any) -> Array:
    """The number of columns of J that are not exactly zero: a zero column meets any vector with an exact zero."""
    probe = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.0, (m, 1)), dtype)
    return jnp.sum(jax.lax.stop_gradient(J.pull(probe)) != 0)


def backward(chain: JacobianChain, horizons: tuple[int, ...]) -> Any:
    """(J_T ... J_{t+1})^T at each horizon, regrouped so that strong scales stand on the left.

    With J_t = D_t M_t, D_t the norms of the rows, the transposed product is M_1^T D_1 ... M_T^T D_T. Each step of the
    recursion takes D_t (M_{t+1}^T Q), and a horizon ends with M_{t+1}^T.
    """
    m, dtype = chain.shape[0], chain.dtype
    start = (recursion.identity(m, dtype), jnp.eye(m, dtype=dtype), _witness(m, dtype))
    return _walk(chain, horizons, start, _backward_step, _backward_record, reverse=True)


@jax.jit
@jax.checkpoint
def _backward_step(carry: Any, J: StepJacobian, t: Array) -> Any:
    graded, B, witness = carry
    scale = jax.lax.stop_gradient(row_norms(J).astype(B.dtype))
    top = jnp.max(scale, initial=0)
    scale = scale / jnp.where(
        top > 0, top, 1
    )  # sizes beside the largest: a small change of Q must survive the division
    graded = recursion.extend(graded, scale[:, None] * B, t)
    live = scale > 0
    B = J.pull(jnp.where(live[:, None], graded.Q / jnp.where(live, scale, 1)[:, None], 0))
    return graded, B, _seen(J.pull, witness)


@jax.jit
def _backward_record(carry: Any) -> Any:
    graded, B, (_, log) = carry
    return without_basis(recursion.extend(graded, B)), log


def _walk(chain: JacobianChain, horizons: tuple[int, ...], start: Any, step: Any, record: Any, *, reverse: bool) -> Any:
    """Fold `step` over the chain and record the carry at each horizon."""
    T = chain.length
    times = jnp.arange(1, T + 1)
    if isinstance(chain.links, Listed):
        _, after = chain.fold(lambda c, J, t: (step(c, J, t),) * 2, start, reverse=reverse, xs=times)
        carries = [*after, start] if reverse else [start, *after]
        return [record(carries[t]) for t in horizons]
    if horizons == ((0,) if reverse else (T,)):
        carry, _ = chain.fold(lambda c, J, t: (step(c, J, t), None), start, reverse=reverse, xs=times)
        return jax.tree.map(lambda leaf: leaf[None], record(carry))

    distinct = sorted(set(horizons))
    slot_of = {t: i for i, t in enumerate(distinct)}
    reached = range(T) if reverse else range(1, T + 1)
    slots = jnp.asarray([slot_of.get(t, len(distinct)) for t in reached], int).reshape(T)
    kept = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(distinct), *leaf.shape)), start)

    def body(carry, J, x):
        state, kept = carry
        state = step(state, J, x[0])
        return (state, jax.tree.map(lambda all_, one: all_.at[x[1]].set(one, mode="drop"), kept, state)), None

    (_, kept), _ = chain.fold(body, (start, kept), reverse=reverse, xs=(times, slots))
    chosen = jnp.asarray([slot_of[t] for t in horizons])
    return jax.lax.map(record, jax.tree.map(lambda leaf: leaf[chosen], kept))
