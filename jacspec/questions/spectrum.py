"""Log singular values of the finite product J_T ... J_1, at any horizon, far beyond the range of floating point.

They are those of the product itself: invariant to transposition and to orthogonal factors. They are not Lyapunov
exponents, which are QR growth rates and agree with them only as T -> infinity (`jacspec.questions.exponents`).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._ground import checks, drawing, report
from jacspec._ground.pytree import pytree, shapes
from jacspec._product import recursion
from jacspec._product.finish import finish
from jacspec.chain import JacobianChain, series
from jacspec.chain.finiteness import earliest
from jacspec.questions._conditioning import conditioning
from jacspec.questions._leading import leading
from jacspec.questions._routes import backward, forward

SHORTFALL = 14.0
"""Nats by which the witness, a random vector pushed through the chain, may fall short of sigma_max / sqrt(n).

Its component along the first right singular vector is below e^-14 / sqrt(n) by chance once in a million."""

SAFETY = 10.0
"""Factor on the conditioning estimate: four probes fall short by more with a probability below 3e-4."""

APART = 1 / 3
"""Share of ln(1/eps) nats by which a value must exceed what rows of noise hold. Norms add in squares: they then change it by less
than eps^(2/3) of itself."""

UNCERTAIN = 1 / 16
"""Nats of `Spectrum.rounding` from which on a value is not resolved."""


@pytree
class Spectrum:
    """Log singular values of a product of step Jacobians, and what is known of their accuracy.

    All arrays have shape (n,), or (len(at), n) where a sequence of horizons was asked for; n is the smaller side of the
    product, or k. Scalars then have shape () or (len(at),).

    Attributes:
        log_singular_values: nats, descending; an exact zero is -inf.
        horizons: number of factors in each product.
        resolved: False where the precision cannot see the value, which is then an upper bound as a rule; False
            throughout where a vector pushed through the chain contradicts the largest value. With k also False from the
            first value on for which the search has not converged: these are lower bounds.
        rounding: estimate of the rounding of the recursion, nats, the measured condition of its factors included; blind
            to ill-conditioned data, and to roundings that repeat themselves from step to step.
        error: bound on the error in nats where ``verify=True`` paid for it, else NaN. The sum of: the conditioning
            of the value with respect to one rounding of every row of every factor, the disagreement with the
            transposed chain, sqrt(n) roundings a step, which add up where the steps repeat, and that of the value.
        converged: False if the finish did not converge or the chain is not finite.
        first_nonfinite: index of the first state or step Jacobian with a NaN or Inf, -1 if none; values are then NaN.
        complete: False where the leading k values only were asked for.
    """

    log_singular_values: Array
    horizons: Array
    resolved: Array
    rounding: Array
    error: Array
    converged: Array
    first_nonfinite: Array
    complete: Array

    @property
    def rank(self) -> Array:
        """The number of values that are resolved and not zero: the numerical rank at this dtype, -1 if not converged.

        A lower bound on the rank: what is not resolved, or lies beyond the leading k, may not be zero.
        """
        found = jnp.sum(self.resolved & (self.log_singular_values > -jnp.inf), axis=-1)
        return jnp.where(self.converged, found, -1)

    @property
    def rates(self) -> Array:
        """log sigma / t, nats per step. Finite-time rates of the product; not Lyapunov exponents.

        A rate is as much resolved as its value: `resolved` is the mark of both.
        """
        return self.log_singular_values / self.horizons[..., None]

    @property
    def log_condition_number(self) -> Array:
        """log(sigma_max / sigma_min), nats; +inf for a singular product.

        NaN if either is not resolved, if not converged, for the leading k values only, and for a product that is zero.
        """
        s = self.log_singular_values
        known = self.resolved[..., 0] & self.resolved[..., -1] & self.converged & self.complete
        return jnp.where(known & (s[..., 0] > -jnp.inf), s[..., 0] - s[..., -1], jnp.nan)

    def __repr__(self) -> str:
        if not report.readable(self):
            return shapes(self)
        many = "a product" if self.horizons.size == 1 else f"{self.horizons.size} products"
        of = f"of {many} of {report.span(self.horizons)} factors"
        error = "" if jnp.isnan(self.error).all() else f"errors at most {float(jnp.nanmax(self.error)):.1e}"
        return report.sentence(self, self.log_singular_values, "log singular values", "nats", of, error)

    def to_dict(self) -> dict[str, Any]:
        """Fields, `rank` and `log_condition_number` as lists, numbers and booleans; 'nan', 'inf', '-inf' as strings.

        Raises:
            TypeError: under a transformation of JAX, where there are no numbers yet.
        """
        return report.to_dict(self, "rank", "log_condition_number")

    def plot(self, ax: Any = None) -> Any:
        """Draw the values over their number, with `error`, gray and hollow where not resolved; the Matplotlib axes."""
        names = [f"t = {t}" for t in np.atleast_1d(self.horizons)]
        columns = self.log_singular_values, self.error, self.resolved
        return drawing.plot_values(ax, *columns, r"$\log\,\sigma_i$ (nats)", names)


def spectrum(
    chain: JacobianChain, *, at: Any = None, origin: str = "start", k: int | None = None, verify: bool = False
) -> Spectrum:
    """All log singular values of the product of step Jacobians.

    With P_t = J_t ... J_1 held as Q_t diag(e^{l_t}) U_t, l_t in logs, nothing overflows and small values keep their
    relative accuracy beside large ones.

    Args:
        chain: a `JacobianChain`.
        at: horizon t in 0..T, or a sequence of them; None for the whole product.
        origin: ``"start"`` for J_t ... J_1, ``"end"`` for J_T ... J_{t+1}.
        k: the leading k values only, by push and pull of blocks of vectors, without n x n matrices.
        verify: pay for `Spectrum.error` (about ten times the cost).

    Returns:
        A `Spectrum`, values in nats, descending, of shape (n,), or (len(at), n) for a sequence.

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
    checks.instance(name, "chain", chain, JacobianChain, "Build one with jacspec.jacobian_chain.")
    checks.one_of(name, "origin", origin, ("start", "end"))
    checks.one_of(name, "verify", verify, (True, False))
    T = chain.length
    if k is not None:
        k = checks.integer(name, "k", k, 1, chain.rank_bound)
    horizons = _horizons(at, T, origin)
    if verify and k is not None:
        raise ValueError(checks.message(name, "verify", "is not offered with k", f"k={k}", hint="Ask for all values."))

    result = _spectrum(chain, horizons, origin, k, verify)
    return result if np.ndim(at) else jax.tree.map(lambda leaf: leaf[0], result)


def log_singular_values(chain: JacobianChain, **options: Any) -> Array:
    """``spectrum(chain, **options).log_singular_values``: nats, descending.

    Upper bounds where a value is not resolved; the marks are in `spectrum`.
    """
    return spectrum(chain, **options).log_singular_values


def _horizons(at: Any, T: int, origin: str) -> tuple[int, ...]:
    if at is None:
        return (T if origin == "start" else 0,)
    several = isinstance(at, (list, tuple, range))
    if not several and not isinstance(at, int) and getattr(at, "ndim", 2) > 1:
        problem = "must be an integer or a sequence of integers"
        raise TypeError(checks.message("spectrum", "at", problem, repr(at), "t in 0..T"))
    if not checks.is_concrete(at):
        hint = "Close over the horizons, or make them static."
        raise TypeError(checks.message("spectrum", "at", "is traced", expected="concrete integers", hint=hint))
    times = list(at) if several else list(np.atleast_1d(at))
    if not times:
        raise ValueError(checks.message("spectrum", "at", "is empty", expected="at least one horizon t in 0..T"))
    return tuple(checks.integer("spectrum", "at", t, 0, T) for t in times)


def _spectrum(chain: JacobianChain, horizons: tuple[int, ...], origin: str, k: int | None, verify: bool) -> Spectrum:
    """Programs for the walk, for the reading and for the conditioning apart: chains of one width share the reading."""
    if k is not None:
        parts = [_leading(chain, origin, t, k) for t in horizons]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    records = _records(chain, horizons, origin)
    result, right = _values(chain, records, horizons, origin, vectors=verify and origin == "start")
    if not verify:
        return result
    bounds = []
    for i, t in enumerate(horizons):
        window = _window(chain, origin, t)
        own = result.log_singular_values[i], None if right is None else right[i]
        bounds.append(_bound(window, *own) if window.length else jnp.zeros_like(own[0]))
    error = jnp.maximum(jnp.stack(bounds), result.rounding)
    error = jnp.where(jnp.isnan(error), jnp.inf, error)  # a conditioning that overflows bounds nothing
    known = result.resolved & jnp.isfinite(result.log_singular_values)
    exact = result.resolved & (result.log_singular_values == -jnp.inf)
    error = jnp.where(known, error, jnp.where(exact, 0.0, jnp.inf))
    error = jnp.where(jnp.isnan(result.log_singular_values), jnp.nan, error)
    return dataclasses.replace(result, error=error)


def _records(chain: JacobianChain, horizons: tuple[int, ...], origin: str) -> Any:
    """The graded product and the witness at every horizon."""
    return chain.run(_walk, horizons=horizons, origin=origin)


def _walk(chain: JacobianChain, *, horizons: tuple[int, ...], origin: str) -> Any:
    return (forward if origin == "start" else backward)(chain, horizons)


def _values(
    chain: JacobianChain, records: Any, horizons: tuple[int, ...], origin: str, *, vectors: bool = False
) -> Any:
    """The spectrum at every horizon, leading axis len(horizons), and the right singular vectors if asked for."""
    T, start = chain.length, origin == "start"
    steps = jnp.asarray([t if start else T - t for t in horizons])
    # a state that is not finite spoils what comes after it, and the whole of a chain that is read from its end
    seen = jnp.asarray([t if start else T for t in horizons])
    first = jnp.where(chain.first_nonfinite <= seen, chain.first_nonfinite, -1)
    windows = [slice(0, t) if start else slice(t, T) for t in horizons]
    sizes = [chain.source.sizes(window) for window in windows]
    ranks, count = tuple(map(min, sizes)), max(min(one[0], one[-1]) for one in sizes)
    # equal steps share one program at every length, and so the chain itself is no argument of it
    found = chain.source.run(_read_all, series.zipped(records, steps, first), ranks=ranks, count=count, vectors=vectors)
    results, right = series.unzipped(found)
    return series.stacked(results), right


def _read_all(records: Any, *, ranks: tuple[int, ...], count: int, vectors: bool) -> Any:
    """`_read` of every record; those of equal shapes, which have one rank, are read side by side where they are small."""
    side_by_side = max(1, 2**16 // ranks[0] ** 2)
    return series.one_by_one(lambda item, rank: _read(*item, rank, count, vectors), records, ranks, side_by_side)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _read(record: Any, steps: Array, first: Array, rank: int, count: int, vectors: bool) -> Any:
    """The spectrum of one graded product, and its right singular vectors; values beyond `rank` are exact zeros."""
    graded, witness = record
    logs, U, variance = recursion.largest_rows(graded, rank)  # (rank,), (rank, n), (rank,)
    done = finish(logs, U)
    more = count - rank
    values = jnp.pad(done.log_singular_values, (0, more), constant_values=-jnp.inf)  # (count,)
    row_logs = jax.lax.stop_gradient(graded.logs.hi)  # (k,)
    largest = jnp.max(jnp.where(graded.doubtful, row_logs, -jnp.inf), initial=-jnp.inf)
    doubtful = jnp.maximum(jnp.sum(graded.doubtful), 1).astype(values.dtype)
    reach = largest + 0.5 * jnp.log(doubtful)  # bounds the norm of a product that consists of the doubtful rows
    exact = jnp.arange(count) >= jnp.sum(row_logs > -jnp.inf)  # (count,)
    cancelled = (values == -jnp.inf) & ~exact  # what rounding left of a row that is not zero
    smallest = jnp.min(jnp.where(values > -jnp.inf, values, jnp.inf))
    values = jnp.where(cancelled, jnp.minimum(jnp.where(reach > -jnp.inf, reach, jnp.inf), smallest), values)
    resolved = exact | (values > reach + APART * math.log(1 / jnp.finfo(values.dtype).eps)) & ~cancelled
    rounding = jnp.pad(jnp.sqrt(variance), (0, more))  # (count,)
    resolved &= rounding < UNCERTAIN
    lost = values[0] - witness > 0.5 * math.log(count) + SHORTFALL  # the recursion grew on rounding alone
    resolved &= ~(lost | (witness > values[0] + 1))
    bad = earliest(first, graded.bad)
    ok = bad < 0
    result = Spectrum(
        log_singular_values=jnp.where(ok, values, jnp.nan),
        horizons=steps,
        resolved=resolved & ok & done.converged,
        rounding=jnp.where(ok, rounding, jnp.nan),
        error=jnp.full_like(values, jnp.nan),
        converged=done.converged & ok,
        first_nonfinite=bad,
        complete=jnp.asarray(True),
    )
    return result, done.right if vectors else None


def _bound(chain: JacobianChain, values: Array, right: Array | None) -> Array:
    """A bound on the error of the values of one product.

    Their conditioning, the disagreement with the other route, the rounding of T steps and of the result. Equal steps round
    alike, both ways: at n = 8 to 256 by up to half of sqrt(n) eps each, in the same direction. The values come with their right
    singular vectors if they were found forwards.
    """
    chain, values, right = jax.lax.stop_gradient((chain, values, right))
    T, eps = chain.length, jnp.finfo(chain.dtype).eps
    drift = T * math.sqrt(max(chain.source.widths))
    other = ((T,), "start") if right is None else ((0,), "end")
    result, vectors = _values(chain, _records(chain, *other), *other, vectors=right is None)
    second = result.log_singular_values[0]
    both_dead = (values == -jnp.inf) & (second == -jnp.inf)
    gap = jnp.where(both_dead, 0, jnp.abs(values - second))
    forwards = (second, vectors[0]) if right is None else (values, right)
    size = jnp.where(jnp.isfinite(values), jnp.abs(values), 0)
    return gap + SAFETY * eps * conditioning(chain, *forwards) + eps * (drift + size)


def _leading(chain: JacobianChain, origin: str, t: int, k: int) -> Spectrum:
    """The leading k values of the product up to (or from) one horizon, with a leading axis of length 1."""
    window = _window(chain, origin, t)
    read = lambda graded: _read_block(graded, window.length, window.first_nonfinite, window.rank_bound)
    part, converged = leading(window, k, read)
    found = _counted(part, converged, chain.first_nonfinite, 0 if origin == "start" else t, k)
    return dataclasses.replace(found, complete=jnp.asarray([k >= min(window.shape)]))


@functools.partial(jax.jit, static_argnums=3)
def _read_block(graded: recursion.Graded, steps: int, first: Array, rank_bound: int) -> Any:
    """The spectrum of a product by push and pull and its right singular vectors; its first row is the only witness."""
    rank = min(rank_bound, graded.U.shape[0])
    return _read((graded, graded.logs.hi[0]), jnp.asarray(steps), first, rank, rank, True)


@functools.partial(jax.jit, static_argnums=4)
def _counted(part: Spectrum, converged: Array, first: Array, before: Array, k: int) -> Spectrum:
    """The first k values, with the steps counted from the start of the whole chain."""
    part = jax.tree.map(lambda leaf: leaf[:k] if leaf.ndim else leaf, part)
    # a NaN spoils the search, which then tells a wrong index: that of the chain, where it has one, is right
    own = jnp.where(part.first_nonfinite < 0, -1, part.first_nonfinite + before)
    first = jnp.where((own >= 0) & (first >= 0), first, own)
    resolved, converged = part.resolved & converged, part.converged & jnp.all(converged)
    found = dataclasses.replace(part, resolved=resolved, converged=converged, first_nonfinite=first)
    return jax.tree.map(lambda leaf: leaf[None], found)


def _window(chain: JacobianChain, origin: str, t: int) -> JacobianChain:
    start, stop = (0, t) if origin == "start" else (t, chain.length)
    return chain if (start, stop) == (0, chain.length) else chain[start:stop]
