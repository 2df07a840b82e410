"""Log singular values of the finite product J_T ... J_1, at any horizon, far beyond the range of floating point.

They are those of the product itself: invariant to transposition and to orthogonal factors. They are not Lyapunov
exponents, which are QR growth rates and agree with them only as T -> infinity (`jacspec.lyapunov`).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec import _checks
from jacspec._leading import leading_values
from jacspec._links import Listed
from jacspec._product import recursion
from jacspec._product.finish import finish
from jacspec._pytree import pytree
from jacspec._walks import backward, forward
from jacspec.chain import JacobianChain
from jacspec.operators import norms

PROBES = 4
"""Random directions of the conditioning estimate."""

WITNESS = 14.0
"""Nats by which a random vector may fall short of sigma_max / sqrt(n): it does so by chance once in a million."""

SAFETY = 10.0
"""Factor on the conditioning estimate: four probes fall short by more with a probability below 3e-4."""


@pytree
class Spectrum:
    """Log singular values of a product of step Jacobians, and what is known of their accuracy.

    All arrays have shape (n,), or (len(at), n) where horizons were asked for; n is the smaller side of the product, or
    k. Scalars then have shape () or (len(at),).

    Attributes:
        log_singular_values: nats, descending; an exact zero is -inf.
        horizons: number of factors in each product.
        resolved: False where the precision cannot see the value, which is then an upper bound; False throughout where
            a vector pushed through the chain contradicts the largest value.
        rounding: local estimate of the rounding, nats; blind to ill-conditioned data.
        error: bound on the error in nats where ``verify=True`` paid for it, else NaN. The largest of: the conditioning
            of the value with respect to one rounding of every row of every factor, the disagreement with the
            transposed chain, and the drift of T additions.
        converged: False if the finish did not converge or the chain is not finite.
        first_nonfinite: index of the first state or step Jacobian with a NaN or Inf, -1 if none; values are then NaN.
    """

    log_singular_values: Array
    horizons: Array
    resolved: Array
    rounding: Array
    error: Array
    converged: Array
    first_nonfinite: Array

    @property
    def rank(self) -> Array:
        """The number of values that are resolved and not zero: the numerical rank at this dtype."""
        return jnp.sum(self.resolved & (self.log_singular_values > -jnp.inf), axis=-1)

    @property
    def rates(self) -> Array:
        """log sigma / t, nats per step. Finite-time rates of the product; not Lyapunov exponents."""
        return self.log_singular_values / self.horizons[..., None]

    @property
    def log_condition_number(self) -> Array:
        """log(sigma_max / sigma_min), nats; +inf for a singular product."""
        s = self.log_singular_values
        return jnp.where(s[..., 0] == -jnp.inf, jnp.nan, s[..., 0] - s[..., -1])


def spectrum(
    chain: JacobianChain, *, at: Any = None, origin: str = "start", k: int | None = None, verify: bool = False
) -> Spectrum:
    """All log singular values of the product of step Jacobians.

    With P_t = J_t ... J_1 held as Q_t diag(e^{l_t}) U_t, l_t in logs, nothing overflows and small values keep their
    relative accuracy beside large ones.

    Args:
        chain: a `JacobianChain`.
        at: horizons t in 0..T (integers); None for the whole product.
        origin: ``"start"`` for J_t ... J_1, ``"end"`` for J_T ... J_{t+1}.
        k: the leading k values only, by push and pull of blocks of vectors, without n x n matrices.
        verify: pay for `Spectrum.error` (about ten times the cost).

    Returns:
        A `Spectrum`, values in nats, descending, of shape (n,), or (len(at), n).

    Raises:
        TypeError: if `chain` is no chain or options are of the wrong type.
        ValueError: for options out of range.

    Reference: G. W. Stewart, ETNA 3 (1995) 39 (graded QR); Z. Drmac and K. Veselic, SIAM J. Matrix Anal. Appl. 29
    (2008) 1322 (Jacobi); C. S. Kenney and A. J. Laub, SIAM J. Sci. Comput. 15 (1994) 36 (conditioning by probes).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> Js = jnp.tile(jnp.diag(jnp.array([1.0, 1e-3])), (200, 1, 1))
        >>> js.spectrum(js.JacobianChain.from_matrices(Js)).log_singular_values.round().tolist()
        [0.0, -1382.0]
    """
    name = "spectrum"
    _checks.instance(name, "chain", chain, JacobianChain, "Build one with jacspec.jacobian_chain.")
    _checks.one_of(name, "origin", origin, ("start", "end"))
    _checks.one_of(name, "verify", verify, (True, False))
    T = chain.length
    if k is not None:
        k = _checks.integer(name, "k", k, 1, chain.rank_bound)
    horizons = _horizons(at, T, origin)
    if verify and k is not None:
        raise ValueError(_checks.message(name, "verify", "is not offered with k", f"k={k}", hint="Ask for all values."))

    run = _spectrum if isinstance(chain.links, Listed) else _spectrum_jitted
    result = run(chain, horizons, origin, k, verify)
    return result if at is not None else jax.tree.map(lambda leaf: leaf[0], result)


def log_singular_values(chain: JacobianChain, **options: Any) -> Array:
    """``spectrum(chain, **options).log_singular_values``: nats, descending."""
    return spectrum(chain, **options).log_singular_values


def _horizons(at: Any, T: int, origin: str) -> tuple[int, ...]:
    if at is None:
        return (T if origin == "start" else 0,)
    if not isinstance(at, (list, tuple, range)) and getattr(at, "ndim", 0) != 1:
        raise TypeError(_checks.message("spectrum", "at", "must be a sequence of integers", repr(at), "t in 0..T"))
    if not _checks.is_concrete(at):
        hint = "Close over the horizons, or make them static."
        raise TypeError(_checks.message("spectrum", "at", "is traced", expected="concrete integers", hint=hint))
    if len(at) == 0:
        raise ValueError(_checks.message("spectrum", "at", "is empty", expected="at least one horizon t in 0..T"))
    return tuple(_checks.integer("spectrum", "at", t, 0, T) for t in (np.asarray(at) if hasattr(at, "ndim") else at))


def _spectrum(chain: JacobianChain, horizons: tuple[int, ...], origin: str, k: int | None, verify: bool) -> Spectrum:
    if k is not None:
        parts = [_leading(chain, t, origin, k) for t in horizons]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    result = _values(chain, horizons, origin)
    if verify:
        windows = [chain[:t] if origin == "start" else chain[t:] for t in horizons]
        bounds = [_bound(window, result.log_singular_values[i], origin) for i, window in enumerate(windows)]
        error = jnp.maximum(jnp.stack(bounds), result.rounding)
        known = result.resolved & jnp.isfinite(result.log_singular_values)
        exact = result.resolved & (result.log_singular_values == -jnp.inf)
        error = jnp.where(known, error, jnp.where(exact, 0.0, jnp.inf))
        error = jnp.where(jnp.isnan(result.log_singular_values), jnp.nan, error)
        result = Spectrum(**(_fields(result) | {"error": error}))
    return result


_spectrum_jitted = functools.partial(jax.jit, static_argnames=("horizons", "origin", "k", "verify"))(_spectrum)


def _fields(result: Spectrum) -> dict[str, Array]:
    return {name: getattr(result, name) for name in Spectrum.__dataclass_fields__}


def _values(chain: JacobianChain, horizons: tuple[int, ...], origin: str) -> Spectrum:
    """The spectrum at every horizon, leading axis len(horizons)."""
    records = (forward if origin == "start" else backward)(chain, horizons)
    windows = [chain[:t] if origin == "start" else chain[t:] for t in horizons]
    count = max(min(window.shape) for window in windows)
    times = jnp.asarray(horizons)
    if isinstance(records, list):
        parts = [
            _read(chain, origin, window.rank_bound, count, (record, t))
            for window, record, t in zip(windows, records, times, strict=True)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    read = functools.partial(_read, chain, origin, chain.rank_bound, count)
    batch = max(1, 2**16 // chain.rank_bound**2)
    return jax.lax.map(read, (records, times), batch_size=min(batch, len(horizons)))


def _finished(graded: recursion.Graded, rank: int, count: int) -> tuple[Array, Array, Array]:
    """Log singular values of a graded product, its rounding in the same order, and whether the finish converged.

    The rank is at most `rank`, the narrowest width on the way; the rest of `count` values are exact zeros.
    """
    order = jnp.argsort(-jax.lax.stop_gradient(graded.logs.hi))[:rank]
    done = finish(graded.logs[order], graded.U[order])
    more = max(0, count - rank)
    values = jnp.pad(done.log_singular_values, (0, more), constant_values=-jnp.inf)
    return values, jnp.pad(jnp.sqrt(graded.rounding[order]), (0, more)), done.converged


def _read(
    chain: JacobianChain, origin: str, rank: int, count: int, item: tuple[tuple[recursion.Graded, Array], Array]
) -> Spectrum:
    """The spectrum of one graded product."""
    (graded, witness), t = item
    values, rounding, converged = _finished(graded, rank, count)
    doubtful = jnp.max(jnp.where(graded.doubtful, graded.logs.hi, -jnp.inf), initial=-jnp.inf)
    resolved = (values > doubtful) | (values == -jnp.inf)
    lost = values[0] - witness > 0.5 * math.log(count) + WITNESS  # the recursion grew on rounding alone
    resolved &= ~(lost | (witness > values[0] + 1))

    horizon = t if origin == "start" else chain.length - t
    state_bad = chain.first_nonfinite
    reached = (state_bad >= 0) & ((state_bad <= t) if origin == "start" else True)
    bad = jnp.where(reached & ((graded.bad < 0) | (state_bad < graded.bad)), state_bad, graded.bad)
    ok = bad < 0
    blank = jnp.full_like(values, jnp.nan)
    return Spectrum(
        log_singular_values=jnp.where(ok, values, jnp.nan),
        horizons=horizon,
        resolved=resolved & ok,
        rounding=jnp.where(ok, rounding, jnp.nan),
        error=blank,
        converged=converged & ok,
        first_nonfinite=bad,
    )


def _bound(chain: JacobianChain, values: Array, origin: str) -> Array:
    """A bound on the error of the values of one product: conditioning, disagreement with the other route, drift."""
    T, eps = chain.length, jnp.finfo(chain.dtype).eps
    if T == 0:
        return jnp.zeros_like(values)
    other = ((0,), "end") if origin == "start" else ((T,), "start")
    second = _values(chain, *other).log_singular_values[0]
    both_dead = (values == -jnp.inf) & (second == -jnp.inf)
    gap = jnp.where(both_dead, 0, jnp.abs(values - second))
    return jnp.maximum(jnp.maximum(gap, SAFETY * eps * _conditioning(chain)), eps * T / 4)


def _conditioning(chain: JacobianChain) -> Array:
    """Root of the sum, over all steps and rows, of (||row|| d log sigma / d row)^2, by a few random directions.

    A relative change eps in the norm of every row moves log sigma_i by at most about eps times this number.
    """

    def moved(key):
        def values(s):
            def wobble(A, t):
                noise = jax.random.normal(jax.random.fold_in(key, t), A.shape, A.dtype)
                return A + s * jax.lax.stop_gradient(norms(A))[:, None] * noise

            records = forward(chain, (chain.length,), wobble)
            record, _ = records[0] if isinstance(records, list) else jax.tree.map(lambda leaf: leaf[0], records)
            return _finished(record, chain.rank_bound, min(chain.shape))[0]

        zero = jnp.zeros((), chain.dtype)
        return jax.jvp(values, (zero,), (zero + 1,))[1]

    moves = jax.lax.map(moved, jax.random.split(jax.random.key(0), PROBES))
    return jnp.sqrt(jnp.mean(moves**2, axis=0))


def _leading(chain: JacobianChain, t: int, origin: str, k: int) -> Spectrum:
    """The leading k values of the product up to (or from) one horizon."""
    window = chain[:t] if origin == "start" else chain[t:]
    graded, converged = leading_values(window, k)
    rank = min(window.rank_bound, graded.U.shape[0])
    part = _read(window, "start", rank, rank, ((graded, graded.logs.hi[0]), jnp.asarray(window.length)))
    fields = jax.tree.map(lambda leaf: leaf[:k] if leaf.ndim else leaf, _fields(part))
    # a NaN spoils the search itself: where the chain knows its first one, that is the index to tell
    own = jnp.where(part.first_nonfinite < 0, -1, part.first_nonfinite + (0 if origin == "start" else t))
    first = jnp.where((own >= 0) & (chain.first_nonfinite >= 0), chain.first_nonfinite, own)
    return Spectrum(**(fields | {"converged": part.converged & converged, "first_nonfinite": first}))
