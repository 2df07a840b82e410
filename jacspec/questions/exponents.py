"""Lyapunov exponents: the growth rates of the QR recursion, the limit T -> infinity.

    J_t Q_{t-1} = Q_t R_t,    lambda_i = (1/T) sum_t log abs (R_t)_ii

They are rates of a trajectory, not log singular values of a finite product (`jacspec.spectrum`): at finite T the two
differ by O(1) nats in the sum. Exponents of the product J_T ... J_1 and of its adjoint agree as T -> infinity.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import checks, drawing, report
from jacspec._ground.arithmetic import norms
from jacspec._ground.pytree import pytree, shapes
from jacspec._product.image import combined, guide, image
from jacspec._product.orthogonal import NOISE, inverse_permutation, made_of, permuted, rounding, row_sorted_qr
from jacspec.chain import JacobianChain
from jacspec.chain.finiteness import earliest
from jacspec.questions._long_run import standard_error

RESOLVED = 0.8
"""Share of log(1/eps) that two directions may drift apart between two QR before the lower one drowns."""

UNCERTAIN = 0.25
"""Nats per step, eps^UNCERTAIN, that rounding may change an exponent by at most while it counts as resolved."""


@pytree
class LyapunovSpectrum:
    """Lyapunov exponents of a chain and the record they were taken from.

    Attributes:
        exponents: (k,), nats per step, descending; -inf for a direction that is killed exactly.
        history: (blocks, k), log growth of each direction over each block, nats.
        steps: (blocks,), number of steps in each block (`qr_every`; the last may be shorter).
        standard_error: (k,), nats per step, of the exponent as a mean over this record: two of them hold about 95 %.
            From the spectrum of the history at frequency zero, and from its two ends where that vanishes. NaN where
            the record cannot tell: fewer than 64 blocks, not finite, constant, too slow for its length, a transient,
            periodic or nearly so.
        resolved: (k,), False below the precision floor, (lambda_1 - lambda_i) qr_every >= 0.8 log(1/eps), or where
            an entry of R was noise or so small that it may be a slope stopped short of underflow.
        converged: False if the chain is not finite.
        first_nonfinite: index of the first state or step Jacobian with a NaN or Inf, -1 if none; values are then NaN.
        complete: False where the leading k exponents only were asked for.
    """

    exponents: Array
    history: Array
    steps: Array
    standard_error: Array
    resolved: Array
    converged: Array
    first_nonfinite: Array
    complete: Array

    @property
    def kaplan_yorke_dimension(self) -> Array:
        """D = j + (lambda_1 + ... + lambda_j) / abs(lambda_{j+1}), j the last with a sum >= 0 (Kaplan & Yorke 1979).

        0 if lambda_1 < 0; n if the sum of all n exponents is >= 0; NaN if k < n exponents do not reach the crossing, or
        if one of the first j + 1 is not resolved.
        """
        lam = self.exponents
        k = lam.shape[-1]
        sums = jnp.cumsum(jnp.where(lam == -jnp.inf, -jnp.finfo(lam.dtype).max / (k + 1), lam), axis=-1)
        j = jnp.sum(jnp.cumprod(sums >= 0, axis=-1), axis=-1)
        following = jnp.take_along_axis(lam, jnp.minimum(j, k - 1)[..., None], axis=-1)[..., 0]
        total = jnp.take_along_axis(sums, jnp.maximum(j - 1, 0)[..., None], axis=-1)[..., 0]
        inside = j + jnp.where(j > 0, total, 0) / jnp.where(following < 0, -following, jnp.inf)
        value = jnp.where(j == k, jnp.where(self.complete, float(k), jnp.nan), inside)
        known = jnp.all(self.resolved | (jnp.arange(k) > j[..., None]), axis=-1)
        return jnp.where(known, value, jnp.nan)

    @property
    def entropy_rate(self) -> Array:
        """Sum of the positive exponents, nats per step: the Kolmogorov-Sinai entropy where Pesin's formula holds.

        NaN if a positive exponent is not resolved, or if all of the leading k < n are positive. Exponents that are not
        resolved are upper bounds: where they are negative they take no part.
        """
        lam = self.exponents
        known = jnp.all(self.resolved | (lam <= 0), axis=-1) & (self.complete | (lam[..., -1] <= 0))
        return jnp.where(known, jnp.sum(jnp.maximum(lam, 0), axis=-1), jnp.nan)

    def __repr__(self) -> str:
        if not report.readable(self):
            return shapes(self)
        chains = self.exponents.size // self.exponents.shape[-1]
        over = f"over {report.span(self.steps.sum(axis=-1))} steps"
        of = over if chains == 1 else f"of {chains} chains {over}"
        error = self.standard_error.max()
        told = "standard error not known for all" if jnp.isnan(error) else f"standard errors at most {float(error):.1e}"
        return report.sentence(self, self.exponents, "exponents", "nats/step", of, told)

    def to_dict(self) -> dict[str, Any]:
        """Fields, `kaplan_yorke_dimension` and `entropy_rate` as plain Python; 'nan', 'inf', '-inf' as strings.

        Raises:
            TypeError: under a transformation of JAX, where there are no numbers yet.
        """
        return report.to_dict(self, "kaplan_yorke_dimension", "entropy_rate")

    def plot(self, ax: Any = None) -> Any:
        """Draw the exponents by index with error bars, gray and hollow where not resolved; returns the Matplotlib axes."""
        unit = r"$\lambda_i$ (nats per step)"
        return drawing.plot_values(ax, self.exponents, self.standard_error, self.resolved, unit)


def lyapunov_exponents(
    chain: JacobianChain, *, k: int | None = None, qr_every: int = 1, transient: int = 0
) -> LyapunovSpectrum:
    """Lyapunov exponents of a chain, by QR.

    Args:
        chain: a `JacobianChain` of square steps.
        k: the leading k exponents; all n if None.
        qr_every: steps between two orthogonalizations. More than one costs accuracy: see `LyapunovSpectrum.resolved`.
        transient: first steps that align the directions (with QR) and are not counted. The transient of the *state*
            is another matter: start the chain on the attractor.

    Returns:
        A `LyapunovSpectrum`, nats per step.

    Raises:
        TypeError: if `chain` is no chain or an option no integer.
        ValueError: for T = 0, `transient` >= T, options out of range, or a chain whose width changes.

    Reference: G. Benettin et al., Meccanica 15 (1980) 9; K. Geist, U. Parlitz, W. Lauterborn, Prog. Theor. Phys. 83
    (1990) 875.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> chain = js.JacobianChain.from_matrices(jnp.tile(jnp.diag(jnp.array([0.5, 2.0])), (300, 1, 1)))
        >>> [round(float(v), 3) for v in js.lyapunov_exponents(chain, transient=100).exponents]
        [0.693, -0.693]
    """
    name = "lyapunov_exponents"
    checks.instance(name, "chain", chain, JacobianChain, "Build one with jacspec.jacobian_chain.")
    T = chain.length
    if T == 0:
        raise ValueError(checks.message(name, "chain", "has no exponent: T=0", expected="T >= 1"))
    if len(set(chain.source.widths)) > 1:
        hint = "The finite product has log singular values: jacspec.spectrum."
        raise ValueError(checks.message(name, "chain", "changes its width", expected="square steps", hint=hint))
    chain = dataclasses.replace(chain, source=chain.source.square())
    n = chain.shape[1]
    k = n if k is None else checks.integer(name, "k", k, 1, n, f"n={n} directions.")
    qr_every = checks.integer(name, "qr_every", qr_every, 1, T)
    transient = checks.integer(name, "transient", transient, 0, T - 1, f"The chain has T={T} steps.")
    return _exponents(chain, k, qr_every, transient)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _exponents(chain: JacobianChain, k: int, qr_every: int, transient: int) -> LyapunovSpectrum:
    T, n, dtype = chain.length, chain.shape[1], chain.dtype

    def orthogonalize(state, step, log):
        doubtful, uncertain, place = state
        # a direction that has died is a column of zeros: it goes last, so that it takes no row of R from a live one
        alive = jnp.any(step.A != 0, axis=0)  # (k,)
        count = jnp.cumsum(alive)
        moved = jnp.where(alive, count, count[-1] + jnp.arange(1, k + 1) - count) - 1
        order = inverse_permutation(moved)
        doubtful, uncertain, place = doubtful[order], uncertain[order], moved[place]
        Q, R = row_sorted_qr(permuted(step.A, order, axis=1), lax.stop_gradient(norms(step.A)))  # (n, k), (k, k)
        level, growth = rounding(Q, R, step.noise)  # (k,), (k,)
        diagonal, noise = jnp.abs(jnp.diagonal(R)), level * growth  # (k,), (k,)
        # zeros of the steps leave the rest dead, whatever QR makes of them
        alive = jnp.arange(k) < step.zeros.rank_if(jnp.any(diagonal <= NOISE * noise))
        diagonal = jnp.where(diagonal > 0, diagonal, level)  # what cancels to zero is noise
        grown = jnp.where(alive, jnp.log(jnp.where(alive, diagonal, 1)) + log, -jnp.inf)  # (k,), nats
        share = lax.stop_gradient(jnp.minimum(noise / diagonal, 1))  # (k,)
        doubtful = doubtful | (alive & ((NOISE * share >= 1) | (diagonal <= made_of(Q, step.stopped))))
        return jnp.where(alive, Q, 0), (doubtful, uncertain + jnp.where(alive, share, 0), place), grown[place]

    @jax.checkpoint
    def step(carry, J, t):
        V, along, log, state, bad = carry
        new, _ = image(J, V, jnp.any(V != 0, axis=0), guide(n, dtype), along)
        log = log + new.shift * math.log(2)
        bad = jnp.where((bad < 0) & ~jnp.isfinite(new.noise).all(), t, bad)
        if qr_every == 1:
            V, state, growth = orthogonalize(state, new, log)
            return (V, combined(V), jnp.zeros((), dtype), state, bad), growth
        due = ((t - transient) % qr_every == 0) | (t == T)
        skip = lambda state, step, _: (step.A, state, jnp.zeros(k, dtype))
        V, state, growth = lax.cond(due, orthogonalize, skip, state, new, log)
        along = jnp.where(due, combined(V), new.combined)
        return (V, along, jnp.where(due, 0, log), state, bad), growth

    nothing = jnp.zeros((), dtype)
    state = jnp.zeros(k, bool), jnp.zeros(k, dtype), jnp.arange(k)
    V = jnp.eye(n, k, dtype=dtype)
    start = (V, combined(V), nothing, state, jnp.asarray(-1))
    (_, _, _, (doubtful, uncertain, place), bad), growth = chain.fold(step, start, xs=jnp.arange(1, T + 1))
    doubtful = doubtful | (uncertain >= T * jnp.finfo(dtype).eps ** UNCERTAIN)

    ends = np.unique([*range(transient + qr_every, T + 1, qr_every), T])
    steps = jnp.asarray(np.diff(ends, prepend=transient), dtype)
    history = growth[ends - 1] if qr_every > 1 else growth[transient:]
    exponents = _total(history) / (T - transient)
    order = jnp.argsort(-lax.stop_gradient(exponents))
    exponents, history, doubtful = exponents[order], history[:, order], doubtful[place[order]]

    gap = jnp.where(exponents == -jnp.inf, 0, exponents[0] - exponents)
    resolved = (gap * qr_every < RESOLVED * -jnp.log(jnp.finfo(dtype).eps)) & ~doubtful
    bad = earliest(bad, chain.first_nonfinite)
    ok = bad < 0
    return LyapunovSpectrum(
        exponents=jnp.where(ok, exponents, jnp.nan),
        history=jnp.where(ok, history, jnp.nan),
        steps=steps,
        standard_error=jnp.where(ok, standard_error(history, steps), jnp.nan),
        resolved=resolved & ok,
        converged=ok,
        first_nonfinite=bad,
        complete=jnp.asarray(k == n),
    )


def _total(history: Array) -> Array:
    """Column sums in two stages, so that a long float32 record does not drift."""
    blocks, k = history.shape
    side = max(1, int(np.sqrt(blocks)))
    whole = blocks // side * side
    return history[:whole].reshape(-1, side, k).sum(axis=1).sum(axis=0) + history[whole:].sum(axis=0)
