"""Gradients through a chain, in logs: where they vanish, where they explode, and which time or layer they come from.

With g_t = dE/dh_t and the immediate derivative dE_t/dh_t of a loss at step t,

    g_T = dE_T/dh_T,    g_{t-1} = dE_{t-1}/dh_{t-1} + J_t^T g_t,    dE/dtheta = sum_t (d+h_t/dtheta)^T g_t

(Pascanu, Mikolov & Bengio 2013, eq. 3-5). Every vector is kept as a unit array and the log of its norm, so that growth
and decay far beyond the range of floating point come out right.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.chain import JacobianChain, series
from jacspec.questions import _doubt
from jacspec.typing import State


@pytree
class Adjoints:
    """dE/dh_t for t = 0..T.

    Attributes:
        directions: unit-scaled gradients, the state's pytree with a leading axis T+1 (a list where widths change);
            zero where the gradient is exactly zero.
        log_norms: (T+1,), log of the Euclidean norm of dE/dh_t, nats; -inf for an exact zero.
        resolved: (T+1,), False where rounding may have changed the norm by more than 5e-3 of it in float32, 1e-7 in
            float64: it cancelled (behind a step that removes the mean, the gradient of a sum is zero), it underflowed,
            or a slope below the dtype's range was stopped short of zero (tanh' beyond a = 36 in float32, 336 in
            float64). The log norm is then an upper bound as a rule, and the direction is noise.
    """

    directions: State
    log_norms: Array
    resolved: Array

    @property
    def known_log_norms(self) -> Array:
        """The log norms, NaN where they are not resolved."""
        return jnp.where(self.resolved, self.log_norms, jnp.nan)


def adjoints(chain: JacobianChain, cotangent: State) -> Adjoints:
    """dE/dh_t at every t, backward through the chain.

    Args:
        chain: a `JacobianChain`.
        cotangent: dE/dh_T, (n,) or a pytree like the state, for a loss at the end; or with a leading axis T+1 (a list
            of T+1 where widths change) the immediate derivatives of a loss at every step.

    Returns:
        `Adjoints`: unit directions, log norms in nats, and which of them rounding left known. All NaN if the chain is
        not finite.

    Raises:
        TypeError: if `chain` is no chain, or the cotangent not floating.
        ValueError: for a cotangent that does not fit, or NaN or Inf in it.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> chain = js.JacobianChain.from_matrices(jnp.full((1000, 1, 1), 0.1))
        >>> js.adjoints(chain, jnp.ones(1)).log_norms[0].round().item()
        -2303.0
    """
    checks.instance("adjoints", "chain", chain, JacobianChain, "Build one with jacspec.jacobian_chain.")
    last, earlier = cotangents("adjoints", chain, cotangent)
    return chain.run(_adjoints, last, earlier)


def log_gradient_norms(chain: JacobianChain, cotangent: State) -> Array:
    """Log of the Euclidean norm of dE/dh_t, entry t, for t = 0..T: nats, far beyond float range.

    Args:
        chain: a `JacobianChain`.
        cotangent: as in `adjoints`.

    Returns:
        (T+1,), nats; -inf for an exact zero, NaN where the norm is not resolved. `adjoints` gives an upper bound there.

    Raises:
        TypeError: as `adjoints`.
        ValueError: as `adjoints`.
    """
    return adjoints(chain, cotangent).known_log_norms


def cotangents(name: str, chain: JacobianChain, cotangent: State) -> tuple[Any, Any]:
    """The cotangent at T and those at 0..T-1 (stacked or listed), or None for a loss at the end.

    Each is a vector in the dtype of the chain, and where it is not zero as it was given.
    """
    T, m = chain.length, chain.shape[0]
    expected = f"({m},) at the end, or a leading axis T+1 = {T + 1} for a loss at every step"
    leaves = jax.tree_util.tree_leaves_with_path(cotangent)
    if not leaves or not all(hasattr(leaf, "shape") for _, leaf in leaves):
        raise TypeError(checks.message(name, "cotangent", "must be an array", type(cotangent).__name__, expected))
    for path, leaf in leaves:
        checks.array(name, "cotangent" + jax.tree_util.keystr(path), leaf)
    checks.finite(name, "cotangent", cotangent)

    if _fits(cotangent, chain, T):
        return series.vector(cotangent, chain.dtype), None
    for every in series.readings(cotangent, T + 1):
        if _all_fit(series.forms(every), chain):
            flat = chain.source.series(series.vectors(every, chain.dtype))
            return series.entry(flat, -1), series.part(flat, slice(-1))
    got = f"shapes {[leaf.shape for _, leaf in leaves]}"
    raise ValueError(checks.message(name, "cotangent", "does not fit", got, expected))


def _fits(cotangent: State, chain: JacobianChain, t: int) -> bool:
    """Whether a cotangent is flat, or shaped like the state h_t."""
    widths = chain.source.widths
    shapes = [leaf.shape for leaf in jax.tree.leaves(cotangent)]
    if hasattr(cotangent, "shape") and shapes == [(widths[min(t, len(widths) - 1)],)]:
        return True
    state = chain.source.state_shape(t)
    own = [leaf.shape for leaf in jax.tree.leaves(state)]
    return state is not None and jax.tree.structure(cotangent) == jax.tree.structure(state) and shapes == own


def _all_fit(forms: Sequence[Any], chain: JacobianChain) -> bool:
    """Whether cotangents, whose forms are given one by one or one for all, fit the states h_0 ... h_T."""
    count = max(len(forms), len(chain.source.widths))
    return all(_fits(forms[min(t, len(forms) - 1)], chain, t) for t in range(count))


def carried(chain: JacobianChain, last: Any, earlier: Any, record: Callable) -> Any:
    """What `record` says of the gradient at t = 0..T (a `Gradient` of `_doubt`), as a series.

    `last` and `earlier` come from `cotangents`.
    """

    def step(gradient, J, given):
        immediate, t = given
        gradient = _doubt.pulled(gradient, J, t)
        if immediate is not None:
            gradient = _doubt.added(gradient, _doubt.start(*immediate))
        return gradient, record(gradient)

    end, times = _doubt.start(*last), jnp.arange(1, chain.length + 1)
    _, before = chain.source.fold(step, end, reverse=True, xs=series.zipped(earlier, times))
    return series.append(before, record(end))


def _adjoints(chain: JacobianChain, last: Any, earlier: Any) -> Adjoints:
    found = carried(chain, last, earlier, lambda gradient: (gradient.units[0], *_doubt.read(gradient)))
    vectors, *norms = series.unzipped(found)
    ok = chain.first_nonfinite < 0
    blank = lambda a: jnp.where(ok, a, jnp.nan)
    logs, resolved = map(series.stacked, norms)
    directions = jax.tree.map(blank, vectors)
    if chain.source.states is not None:
        directions = series.each(shaped, chain.source.states, directions)
    return Adjoints(series.plain(directions), blank(logs), resolved & ok)


def shaped(state: State, vector: Array) -> State:
    """A vector in the structure, shapes and dtypes of a state."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    flat, unravel = ravel_pytree(zeros)
    return unravel(vector.astype(flat.dtype))
