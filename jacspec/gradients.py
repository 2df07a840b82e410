"""Gradients through a chain, in logs: where they vanish, where they explode, and which time or layer they come from.

With g_t = dE/dh_t and the immediate derivative dE_t/dh_t of a loss at step t,

    g_T = dE_T/dh_T,    g_{t-1} = dE_{t-1}/dh_{t-1} + J_t^T g_t,    dE/dtheta = sum_t (d+h_t/dtheta)^T g_t

(Pascanu, Mikolov & Bengio 2013, eq. 3-5). Every vector is kept as a unit array and the log of its norm, so that growth
and decay far beyond the range of floating point come out right.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec import _checks
from jacspec._links import Listed
from jacspec._pytree import pytree
from jacspec.chain import JacobianChain, rescale
from jacspec.typing import State


@pytree
class Adjoints:
    """dE/dh_t for t = 0..T.

    Attributes:
        directions: unit-scaled gradients, the state's pytree with a leading axis T+1 (a list where widths change);
            zero where the gradient is exactly zero.
        log_norms: (T+1,), log of the Euclidean norm of dE/dh_t, nats; -inf for an exact zero. An upper bound where a
            slope lies below the dtype's range and was stopped short of zero: tanh' beyond a = 36 in float32, 336 in
            float64.
    """

    directions: State
    log_norms: Array


def adjoints(chain: JacobianChain, cotangent: State) -> Adjoints:
    """dE/dh_t at every t, backward through the chain.

    Args:
        chain: a `JacobianChain`.
        cotangent: dE/dh_T, (n,) or a pytree like the state, for a loss at the end; or with a leading axis T+1 (a list
            of T+1 where widths change) the immediate derivatives of a loss at every step.

    Returns:
        `Adjoints`: unit directions and log norms in nats. All NaN if the chain is not finite.

    Raises:
        TypeError: if `chain` is no chain, or the cotangent not floating.
        ValueError: for a cotangent that does not fit, or NaN or Inf in it.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> chain = js.JacobianChain.from_matrices(jnp.full((1000, 1, 1), 0.1))
        >>> js.adjoints(chain, jnp.ones(1)).log_norms[0].round().item()
        -2303.0
    """
    _checks.instance("adjoints", "chain", chain, JacobianChain, "Build one with jacspec.jacobian_chain.")
    last, earlier = cotangents("adjoints", chain, cotangent)
    run = _adjoints if isinstance(chain.links, Listed) else adjoints_jitted
    return run(chain, last, earlier)


def log_gradient_norms(chain: JacobianChain, cotangent: State) -> Array:
    """Log of the Euclidean norm of dE/dh_t, entry t, for t = 0..T: nats, exact far beyond float range.

    Args:
        chain: a `JacobianChain`.
        cotangent: as in `adjoints`.

    Returns:
        (T+1,), nats.

    Raises:
        TypeError: as `adjoints`.
        ValueError: as `adjoints`.
    """
    return adjoints(chain, cotangent).log_norms


def cotangents(name: str, chain: JacobianChain, cotangent: State) -> tuple[Array, Any]:
    """The cotangent at T, flat, and those at 0..T-1 (stacked or listed), or None for a loss at the end."""
    T, m = chain.length, chain.shape[0]
    expected = f"({m},) at the end, or a leading axis T+1 = {T + 1} for a loss at every step"
    leaves = jax.tree_util.tree_leaves_with_path(cotangent)
    if not leaves or not all(hasattr(leaf, "shape") for _, leaf in leaves):
        raise TypeError(_checks.message(name, "cotangent", "must be an array", type(cotangent).__name__, expected))
    for path, leaf in leaves:
        _checks.array(name, "cotangent" + jax.tree_util.keystr(path), leaf)
    _checks.finite(name, "cotangent", cotangent)

    if _fits(cotangent, chain, T):
        return _flat(cotangent, chain.dtype), None
    if isinstance(cotangent, list) and len(cotangent) == T + 1:
        if all(_fits(c, chain, t) for t, c in enumerate(cotangent)):
            flat = [_flat(c, chain.dtype) for c in cotangent]
            listed = isinstance(chain.links, Listed)
            return flat[-1], flat[:-1] if listed else jnp.stack(flat)[:-1]
    elif not isinstance(chain.links, Listed) and all(leaf.shape[:1] == (T + 1,) for _, leaf in leaves):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), cotangent)
        if _fits(one, chain, T):
            every = jax.vmap(lambda c: _flat(c, chain.dtype))(jax.tree.map(jnp.asarray, cotangent))
            return every[-1], every[:-1]
    got = f"shapes {[leaf.shape for _, leaf in leaves]}"
    raise ValueError(_checks.message(name, "cotangent", "does not fit", got, expected))


def _fits(cotangent: State, chain: JacobianChain, t: int) -> bool:
    """Whether a cotangent is flat, or shaped like the state h_t."""
    widths = chain.links.widths
    shapes = [leaf.shape for leaf in jax.tree.leaves(cotangent)]
    if hasattr(cotangent, "shape") and shapes == [(widths[min(t, len(widths) - 1)],)]:
        return True
    state = chain.links.like(t)
    own = [leaf.shape for leaf in jax.tree.leaves(state)]
    return state is not None and jax.tree.structure(cotangent) == jax.tree.structure(state) and shapes == own


def _flat(cotangent: State, dtype) -> Array:
    """The cotangent as a vector."""
    return ravel_pytree(jax.tree.map(jnp.asarray, cotangent))[0].astype(dtype)


def add_scaled(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """The sum of two vectors, each a unit array and a log scale."""
    (u, log_u), (v, log_v) = a, b
    top = jnp.maximum(log_u, log_v)
    top = jnp.where(top == -jnp.inf, 0, top)
    sum_, log = rescale(u * jnp.exp(log_u - top) + v * jnp.exp(log_v - top))
    return sum_, top + log


def _adjoints(chain: JacobianChain, last: Array, earlier: Any) -> Adjoints:
    unit, log = rescale(last[:, None])

    def body(carry, J, immediate):
        pulled, grown = rescale(J.pull(carry[0]))
        new = (pulled, carry[1] + grown)
        if immediate is not None:
            new = add_scaled(new, rescale(immediate[:, None]))
        return new, (new[0][:, 0], new[1][0])

    _, (vectors, logs) = _unzip(chain.fold(body, (unit, log), reverse=True, xs=earlier))
    ok = chain.first_nonfinite < 0
    blank = lambda a: jnp.where(ok, a, jnp.nan)
    if isinstance(vectors, list):
        directions = [blank(v) for v in (*vectors, unit[:, 0])]
        if chain.states is not None:
            directions = [_shaped(chain.links.like(t), d) for t, d in enumerate(directions)]
        return Adjoints(directions, blank(jnp.stack([*logs, log[0]])))
    directions = blank(jnp.concatenate([vectors, unit[:, 0][None]]))
    state = chain.links.like(0)
    if state is not None:
        directions = jax.vmap(lambda d: _shaped(state, d))(directions)
    return Adjoints(directions, blank(jnp.concatenate([logs, log])))


adjoints_jitted = jax.jit(_adjoints)


def _unzip(folded: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
    carry, outs = folded
    if isinstance(outs, list):
        return carry, ([v for v, _ in outs], [log for _, log in outs])
    return carry, outs


def _shaped(state: State, vector: Array) -> State:
    """A vector in the structure, shapes and dtypes of a state."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    flat, unravel = ravel_pytree(zeros)
    return unravel(vector.astype(flat.dtype))
