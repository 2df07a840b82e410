"""The Lyapunov spectrum of products of independent g W D at infinite width, from one S-transform.

The moduli of the eigenvalues of one bi-invariant factor fill a ring; the exponents of a product are the logs of its radii,

    lambda(u) = ln(g^2 (1 - u) / S(-u)) / 2  (W Gaussian),    ln(g^2 / S(-u)) / 2  (W orthogonal),

S the S-transform of the law of d^2 and u the share of exponents above. S(-u) = z (1 - u) / (-u) with psi(z) = -u, z < 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp

from jacspec._ground import checks
from jacspec.theory import _quadrature, _roots
from jacspec.theory.random_matrix._closed import ROOM, positive, share
from jacspec.theory.random_matrix.free import ENSEMBLES
from jacspec.theory.random_matrix.slopes import SquaredSlopes

UNSURE = 1e-3
"""The error of lambda(u), estimated from two rules and relative to 1 + abs lambda, beyond which it is NaN."""


def log_s_transform(slopes: SquaredSlopes, u: Any) -> Array:
    """ln S(-u) of the law of d^2: S(m) = (1 + m) / m z, E d^2 z / (1 - d^2 z) = m.

    Args:
        slopes: the distribution of d^2.
        u: -m in [0, 1], any shape.

    Returns:
        ln S(-u): -ln E d^2 at u = 0; inf from the share P(d != 0) on where units are dead, and ln E d^-2 at u = 1 else. NaN
        where `slopes` are nodes too far apart for it, as at some u of saturated units.

    Raises:
        ValueError: for u outside [0, 1].
        TypeError: if `slopes` is no `SquaredSlopes`.

    Reference: D. Voiculescu, J. Operator Theory 18 (1987) 223.

    Example:
        >>> from jacspec.theory.random_matrix import bernoulli_slopes
        >>> round(float(jnp.exp(log_s_transform(bernoulli_slopes(0.5), 0.25))), 6)  # (1 - u) / (p - u)
        3.0
    """
    checks.instance(ROOM + "log_s_transform", "slopes", slopes, SquaredSlopes, "Ask squared_slopes(activation, q).")
    return _log_s(slopes, share("log_s_transform", u))


@jax.jit
def _log_s(slopes: SquaredSlopes, u: Array) -> Array:
    live = slopes.logs > -jnp.inf
    p = jnp.where(live, slopes.probabilities, 0)
    log_x = jnp.where(live, slopes.logs, 0)
    alive = 1 - slopes.zero
    inside = (u > 0) & (u < jnp.minimum(alive, 1))
    inner = jnp.where(inside, u, alive / 2)
    log_odds = lambda part, rest: jnp.log(part) - jnp.log(rest)
    odds = log_odds(inner, alive - inner)

    # with z = -e^y: sum p / (1 + e^-(y + ln x)) = u, as log odds so that neither end loses its digits
    def shares(y):
        s = y[..., None] + log_x
        small = jnp.exp(-jnp.abs(s))
        large, small = 1 / (1 + small), small / (1 + small)  # 1 / (1 + e^-s) and 1 / (1 + e^s), or the other way round
        return jnp.where(s > 0, large, small), jnp.where(s > 0, small, large)

    lack = lambda y: odds - log_odds(*(jnp.sum(p * part, axis=-1) for part in shares(y)))

    smallest = jnp.min(jnp.where(live, log_x, jnp.inf))
    y = _roots.falling_root(lack, odds - jnp.max(slopes.logs) - 1, odds - smallest + 1)
    at_one = jnp.where(slopes.zero > 0, jnp.inf, logsumexp(-log_x, b=p))
    outside = jnp.where(u == 0, -jnp.log(slopes.moment(1)), jnp.where(u == 1, at_one, jnp.inf))
    value = jnp.where(inside, y + jnp.log1p(-inner) - jnp.log(inner), outside)
    if slopes.coarse is not None:
        hit, missed = shares(lax.stop_gradient(y))
        panels = lambda weights, part: (weights * part).reshape(*u.shape, -1, len(_quadrature.NODES)).sum(axis=-1)

        def relative_error(part):
            fine = panels(p, part)
            off = _quadrature.disagreement(fine, panels(slopes.coarse, part), fine)
            return off.sum(axis=-1) / fine.sum(axis=-1)

        # of the log odds, and of y by their slope, which is E hit missed / (E hit E missed)
        rate = jnp.sum(p * hit * missed, axis=-1) / (jnp.sum(p * hit, axis=-1) * jnp.sum(p * missed, axis=-1) / alive)
        doubt = (relative_error(hit) + relative_error(missed)) / rate + _unseen(lax.stop_gradient(y), p, log_x)
        value = jnp.where(inside & (doubt > UNSURE * (2 + jnp.abs(value))), jnp.nan, value)
    return jnp.where(jnp.isnan(u), jnp.nan, value)


def _unseen(y: Array, p: Array, log_x: Array) -> Array:
    """The error of y that two rules need not notice: a step of 1 / (1 + e^-s), s = y + ln x, that falls between two nodes.

    A sum over s in steps of d errs by up to 2 pi / sinh(2 pi^2 / d), the first harmonic in Poisson's formula. Of several
    steps each counts by its share of dE hit / dy, p / d.
    """
    over, gap = y[..., None] + log_x > 0, jnp.abs(jnp.diff(log_x))
    crossed = (over[..., 1:] != over[..., :-1]) & (gap > 0)
    gap = jnp.where(gap > 0, gap, 1)
    share = jnp.where(crossed, (p[1:] + p[:-1]) / gap, 0)
    missed = 2 * jnp.pi / jnp.sinh(jnp.minimum(2 * jnp.pi**2 / gap, 80))
    total = share.sum(axis=-1)
    return (share * missed).sum(axis=-1) / jnp.where(total > 0, total, 1)


def lyapunov_spectrum(u: Any, slopes: SquaredSlopes, *, gain: Any = 1.0, ensemble: str = "gaussian") -> Array:
    """Lyapunov exponents of a product of independent A_t = g W_t D_t, or of a chaotic network, at infinite width.

    lambda(u) = ln(g^2 (1 - u) / S(-u)) / 2 for W_ij ~ N(0, 1 / n),    ln(g^2 / S(-u)) / 2 for orthogonal W

    The recurrent network h' = g W f(h) has one W at all times; its spectrum agrees in the limit of large n.

    Args:
        u: share of the exponents above, (i - 1/2) / n, in [0, 1].
        slopes: the distribution of d^2, from `squared_slopes(activation, q)`.
        gain: g > 0.
        ensemble: ``"gaussian"`` or ``"orthogonal"``.

    Returns:
        lambda(u), nats per step; -inf for the share of dead units, u >= P(d != 0). `slopes` are a list of nodes: NaN where
        they are too far apart, as for saturated units, and the error may exceed 1e-3 (1 + abs lambda).
        `theory.recurrent.rate_spectrum` places its nodes for each u.

    Raises:
        ValueError: for u outside [0, 1], gain <= 0, an unknown ensemble.
        TypeError: if `slopes` is no `SquaredSlopes`.

    Reference: U. Haagerup, F. Larsen, J. Funct. Anal. 176 (2000) 331 (the single ring).

    Example:
        >>> from jacspec.theory.random_matrix import squared_slopes
        >>> slopes = squared_slopes("tanh", 6.305391)  # q of the chaotic tanh network at g = 3
        >>> [round(float(v), 4) for v in lyapunov_spectrum(jnp.array([0.0025, 0.5025]), slopes, gain=3.0)]
        [0.306, -1.4316]
    """
    name = "lyapunov_spectrum"
    checks.instance(ROOM + name, "slopes", slopes, SquaredSlopes, "Ask squared_slopes(activation, q).")
    checks.one_of(ROOM + name, "ensemble", ensemble, ENSEMBLES)
    u, gain = share(name, u), positive(name, "gain", gain)
    radius = jnp.log1p(-u) if ensemble == "gaussian" else 0.0
    return jnp.log(gain) + (radius - log_s_transform(slopes, u)) / 2
