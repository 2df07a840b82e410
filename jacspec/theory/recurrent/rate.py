"""The random rate network h' = W phi(h) + xi, W_ij ~ N(0, g^2/n), xi ~ N(0, v), as n -> infinity.

The state is Gaussian with variance q = g^2 <phi^2> + v. Step Jacobians W diag(phi') have the exponents of a product of
independent ones, of which the whole spectrum follows from the law of D^2 = phi'(h)^2: with m(y) = <y D^2 / (1 + y D^2)>,

    u = m(y),    lambda(u) = (1/2) ln(g^2 u / y),    0 < u < 1, the fraction of exponents above lambda,

which is (1/2) ln[g^2 (1 - u) / S(-u)] with S the S-transform of D^2 (m = -psi(-y)). Integrated by parts,

    L(u) = int_0^u lambda du = u (lambda(u) - 1/2) + (1/2) <ln(1 + y D^2)>,

so that the Kaplan-Yorke dimension (L = 0), the entropy (L where lambda = 0) and the mean exponent (L(1)) cost one root.
Where units saturate, ln D^2 falls steeply and y D^2 / (1 + y D^2) is a step in h: panels are set around it for every y. Between
two points at which ln D^2 turns there is at most one such step.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec import activations
from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.activations import Activation
from jacspec.theory import _domain, _quadrature, _roots
from jacspec.theory._quadrature import gaussian_mean
from jacspec.theory.mean_field._common import LARGEST
from jacspec.theory.mean_field.variance import fixed_point, second_moment

TOLERANCE = 1e-9
"""The error of q, <phi'^2> and the mean up to which they are called converged."""

MARGIN = 60.0
"""How far ln y is searched for beyond the least and the largest -ln D^2: u and 1 - u are e^-60 there, below any i / n."""

UNSURE = 1e-3
"""The error of lambda(u), estimated from two rules and relative to 1 + abs lambda, beyond which it is NaN."""

SMOOTH, STEEP = 12, 24
"""Panels on each side of h = 0 for the density and for each step of y D^2 / (1 + y D^2)."""


@pytree
class RateNetwork:
    """Mean field of a rate network; exponents in nats per step, n the number of units.

    Attributes:
        q: variance of the pre-activations, <h^2>; 0 where the network is silent, NaN where it diverges.
        slope_square: <phi'^2>.
        leading: lambda_1 = ln(g sqrt<phi'^2>).
        mean: mean exponent, ln g - 1/2 + <ln abs phi'>; -inf where phi' is exactly zero for some units.
        dimension: Kaplan-Yorke dimension / n; NaN where the quadrature may err by more than 1e-3 of it.
        entropy: sum of the positive exponents / n; NaN likewise.
        error: of the quadrature, the largest disagreement of two rules in q / (1 + q), <phi'^2> and the mean.
        converged: whether q exists and `error` is below 1e-9 (float32: sqrt eps).
    """

    q: Array
    slope_square: Array
    leading: Array
    mean: Array
    dimension: Array
    entropy: Array
    error: Array
    converged: Array


def rate_network(gain: Any, *, activation: str | Activation = "tanh", input_variance: Any = 0.0) -> RateNetwork:
    """Fixed point, leading and mean exponent, dimension and entropy of h' = W phi(h) + xi.

    q = g^2 <phi^2> + v,    lambda_1 = ln(g sqrt<phi'^2>),    mean = ln g - 1/2 + <ln abs phi'>,    <> over h ~ N(0, q).

    Args:
        gain: g > 0, the standard deviation of sqrt(n) W_ij; scalar.
        activation: phi, a name of the table or an `Activation`.
        input_variance: v >= 0, of independent Gaussian input at every step; scalar.

    Returns:
        A `RateNetwork` of the largest fixed point q.

    Raises:
        TypeError: for what is no real number, or an activation without a derivative.
        ValueError: for gain <= 0, input_variance < 0, or an unknown activation.

    Reference: H. Sompolinsky, A. Crisanti, H. J. Sommers, Phys. Rev. Lett. 61 (1988) 259; R. Engelken, F. Wolf,
    L. F. Abbott, Phys. Rev. Research 5 (2023) 043044 (arXiv 2006.02427).

    Example:
        >>> net = rate_network(3.0)
        >>> [round(float(v), 6) for v in (net.q, net.leading, net.mean)]
        [6.305391, 0.310249, -2.272805]
    """
    phi = activations.get(activation, function="theory.recurrent.rate_network")
    gain = _domain.positive("theory.recurrent.rate_network", "gain", gain)
    variance = _domain.nonnegative("theory.recurrent.rate_network", "input_variance", input_variance)
    return _network((gain, variance), phi)


def rate_spectrum(
    u: Any, gain: Any, *, activation: str | Activation = "tanh", input_variance: Any = 0.0, variance: Any = None
) -> Array:
    """Lyapunov spectrum lambda(u) of h' = W phi(h) + xi: the exponent that the fraction u of all exceeds.

    lambda(u) = (1/2) ln(g^2 u / y),    <y phi'^2 / (1 + y phi'^2)> = u

    Args:
        u: 0 < u < 1, (i - 1/2) / n for the i-th of n exponents; any shape.
        gain: g > 0; scalar.
        activation: phi, a name of the table or an `Activation`.
        input_variance: v >= 0, of independent Gaussian input at every step; scalar.
        variance: q > 0 of the pre-activations, where it is known and not the fixed point (it drifts, or common input drives
            all units); scalar. v then plays no part.

    Returns:
        Exponents of the shape of u, nats per step; -inf from the fraction of live units on (ReLU, hard tanh); NaN where
        the quadrature may err by more than 1e-3 (1 + abs lambda).

    Raises:
        TypeError: for what is no real number, or an activation without a derivative.
        ValueError: for u outside (0, 1), gain <= 0, input_variance < 0, variance <= 0, or an unknown activation.

    Reference: the law of products of free matrices, C. M. Newman, Commun. Math. Phys. 103 (1986) 121, for phi' = 1.

    Example:
        >>> [round(float(v), 4) for v in rate_spectrum([0.0025, 0.5025], 3.0)]
        [0.306, -1.4316]
    """
    name = "theory.recurrent.rate_spectrum"
    phi = activations.get(activation, function=name)
    u = _domain.within(name, "u", u, lambda v: (v > 0) & (v < 1), "0 < u < 1")
    gain = _domain.positive(name, "gain", gain)
    if variance is None:
        q, _ = _variance((gain, _domain.nonnegative(name, "input_variance", input_variance)), phi)
    else:
        q = _domain.positive(name, "variance", variance)
    return _spectrum(u, gain, q, phi)


@functools.partial(jax.jit, static_argnums=1)
def _variance(theta: Any, phi: Activation) -> tuple[Array, Array]:
    """The fixed point q and the error of its quadrature."""
    gain, variance = theta
    found, slope = fixed_point(phi, gain**2, variance, jnp.full_like(gain, LARGEST))
    # where every q is a fixed point, to rounding, it is the silent one
    eps = float(jnp.finfo(gain.dtype).eps)
    ratio = gain**2 * second_moment(phi, jnp.full_like(gain, LARGEST))[0] / LARGEST
    neutral = (variance == 0) & (jnp.abs(ratio - 1) <= 16 * eps)
    known = jnp.isfinite(found.value) & (found.value < LARGEST)
    # gain^2 was rounded, too
    rounding = 2 * eps * found.value / jnp.abs(1 - slope)
    error = (found.error + jnp.where(found.value > 0, rounding, 0)) / (1 + found.value)
    q, error = jnp.where(known, found.value, jnp.nan), jnp.where(known, error, jnp.inf)
    return jnp.where(neutral, 0, q), lax.stop_gradient(jnp.where(neutral, 0, error))


def _slopes(q: Array, phi: Activation):
    """Means over ln phi'^2: f -> <f(2 ln abs phi')>; in a silent network the limit q -> 0+, which kinks feel."""
    q = _lifted(q)
    return lambda f: gaussian_mean(lambda a: f(2 * phi.log_slope(a)), q, phi.kinks)


def _lifted(q: Array) -> Array:
    """q, held above zero: a silent network is the limit q -> 0+, which kinks feel."""
    tiny = float(jnp.finfo(q.dtype).tiny) ** 0.25
    return jnp.where(q > tiny, q, q + tiny)


class _Parts(NamedTuple):
    """Over live units: hit = <y D^2 / (1 + y D^2)> and its error, missed = <1 / (1 + y D^2)>, log = <ln(1 + y D^2)>."""

    hit: Array
    missed: Array
    log: Array
    error: Array


SIGHT = np.sinh(np.linspace(-6, 6, 6001))
"""Points, to abs h = 200, between which ln abs phi' is not expected to turn twice."""


def _turning_points(phi: Activation) -> list[float]:
    """The h other than 0 at which ln abs phi'(h) turns from rising to falling or back, zeros of phi' included, to 1e-9.

    None of a function that holds traced values, which cannot be looked at.
    """

    def log_slope(h):
        with jax.ensure_compile_time_eval():
            return phi.log_slope(jnp.asarray(h))

    log = log_slope(SIGHT)
    if not checks.is_concrete(log):
        return []
    log = np.maximum(np.asarray(log, float), -1e300)
    rise = np.diff(log)
    noise = 64 * float(jnp.finfo(jnp.result_type(float)).eps) * (1 + np.abs(log[1:]))
    sign = np.where(np.abs(rise) > noise, np.sign(rise), 0)
    turns = []
    for k in np.flatnonzero((sign[:-1] * sign[1:] < 0) & (SIGHT[1:-1] != 0)):
        low, high = SIGHT[k], SIGHT[k + 2]
        for _ in range(7):  # each narrows the interval by a factor of 20
            h = np.linspace(low, high, 41)
            best = int(np.argmax(sign[k] * np.asarray(log_slope(h), float)))
            low, high = h[max(best - 1, 0)], h[min(best + 1, 40)]
        turns.append(0.5 * (low + high))
    return turns


def _nodes(log_y: Array, q: Array, phi: Activation) -> tuple[Array, Array]:
    """Nodes and half widths of panels about 0, at kinks and turning points, and about every h with y phi'(h)^2 = 1."""
    log_y, q = lax.stop_gradient((log_y, q))
    scale, end = jnp.minimum(1, jnp.sqrt(q)), _quadrature.REACH * jnp.sqrt(q)
    share = jnp.linspace(0, 1, SMOOTH + 1, dtype=q.dtype)
    smooth = scale * jnp.sinh(jnp.arcsinh(end / scale) * share * (1 + _quadrature.CROWDING * (1 - share)))
    turning = _turning_points(phi)

    def side(sign):
        log = lambda h: log_y + 2 * phi.log_slope(sign * h)
        turns = jnp.asarray([0.0, *sorted(sign * turn for turn in turning if sign * turn > 0)], q.dtype)
        low = jnp.minimum(turns, end)  # of each piece on which log is monotone
        inner = log(low) > 0
        step = _roots.bisect(lambda h: (log(h) > 0) == inner, low, jnp.append(low[1:], end), 40)
        rate = jnp.abs(jax.jvp(log, (step,), (jnp.ones_like(step),))[1])
        width = jnp.clip(1 / jnp.where(rate > 0, rate, 1 / end), jnp.finfo(q.dtype).eps * end, end)[:, None]
        grid = jnp.arcsinh(end / width) * jnp.linspace(-1, 1, STEEP + 1, dtype=q.dtype)
        steps = (step[:, None] + width * jnp.sinh(grid)).ravel()
        kinks = jnp.asarray([sign * kink for kink in phi.kinks], q.dtype)
        return jnp.sort(jnp.clip(jnp.concatenate([smooth, steps, kinks, low]), 0, end))

    return _quadrature.panel_nodes(jnp.concatenate([-side(-1.0)[:0:-1], side(1.0)]))


def _parts(log_y: Array, q: Array, phi: Activation) -> _Parts:
    """The means at one y, ln y a scalar in nats, for h ~ N(0, q)."""
    q = _lifted(q)
    h, half = _nodes(log_y, q, phi)
    s = log_y + 2 * phi.log_slope(h)
    live = s > -jnp.inf
    s, density = jnp.where(live, s, 0), jnp.where(live, jnp.exp(-0.5 * h * h / q) / jnp.sqrt(2 * jnp.pi * q), 0)
    values = jnp.stack([jax.nn.sigmoid(s), jax.nn.sigmoid(-s), jax.nn.softplus(s)]) * density * half[:, None]
    kronrod, gauss = (values @ jnp.asarray(rule, q.dtype) for rule in (_quadrature.KRONROD, _quadrature.GAUSS))
    hit, missed, log = kronrod.sum(-1)
    return _Parts(hit, missed, log, _quadrature.disagreement(kronrod[0], gauss[0], kronrod[0]).sum())


def _bracket(q: Array, phi: Activation) -> tuple[Array, Array]:
    """Least and largest -ln D^2 of live units."""
    q = _lifted(q)
    log = 2 * phi.log_slope(_nodes(jnp.zeros_like(q), q, phi)[0])
    return lax.stop_gradient((-jnp.max(log), -jnp.min(jnp.where(log > -jnp.inf, log, jnp.inf))))


@functools.partial(jax.jit, static_argnums=1)
def _network(theta: Any, phi: Activation) -> RateNetwork:
    gain, _ = theta
    q, error = _variance(theta, phi)
    over = _slopes(q, phi)
    square, square_error = over(jnp.exp)
    live, live_error = over(lambda log: jnp.where(log == -jnp.inf, 0, log))
    dead, _ = over(lambda log: (log == -jnp.inf).astype(log.dtype))
    leading = jnp.log(gain) + 0.5 * jnp.log(square)
    mean = jnp.where(dead > 0, -jnp.inf, jnp.log(gain) - 0.5 + 0.5 * live)

    fraction = lambda log_y: _parts(log_y, q, phi).hit

    def exponent(log_y):
        return jnp.log(gain) + 0.5 * (jnp.log(fraction(log_y)) - log_y)

    def average(log_y):
        """L(u) / u: the mean of the exponents above lambda(u)."""
        parts = _parts(log_y, q, phi)
        return jnp.log(gain) + 0.5 * (jnp.log(parts.hit) - log_y) - 0.5 + 0.5 * parts.log / parts.hit

    low, high = _bracket(q, phi)
    low, high = low - MARGIN, high + MARGIN
    zero = _roots.bisect(lambda y: exponent(y) > 0, low, high)
    chaotic = leading > 0
    zero = _roots.attach(exponent, jnp.where(chaotic, zero, 0), where=chaotic)
    entropy = jnp.where(chaotic, fraction(zero) * average(zero), 0)
    crossing = _roots.bisect(lambda y: average(y) > 0, low, high)
    crossed = chaotic & (mean < 0)
    crossing = _roots.attach(average, jnp.where(crossed, crossing, 0), where=crossed)
    dimension = jnp.where(chaotic, jnp.where(mean < 0, fraction(crossing), 1.0), 0)
    sure = lambda log_y: (lambda parts: parts.error <= UNSURE * parts.hit)(_parts(log_y, q, phi))
    entropy = jnp.where(chaotic & ~sure(zero), jnp.nan, entropy)
    dimension = jnp.where(crossed & ~sure(crossing), jnp.nan, dimension)
    error = jnp.maximum(error, jnp.maximum(square_error, live_error / (1 + jnp.abs(live))))
    where_q_exists = lambda value: jnp.where(jnp.isnan(q), jnp.nan, value)
    return RateNetwork(
        q=q,
        slope_square=where_q_exists(square),
        leading=where_q_exists(leading),
        mean=where_q_exists(mean),
        dimension=where_q_exists(dimension),
        entropy=where_q_exists(entropy),
        error=where_q_exists(error),
        converged=where_q_exists(error) < max(TOLERANCE, float(jnp.finfo(q.dtype).eps) ** 0.5),
    )


@functools.partial(jax.jit, static_argnums=3)
def _spectrum(u: Array, gain: Array, q: Array, phi: Activation) -> Array:
    dead, _ = _slopes(q, phi)(lambda log: (log == -jnp.inf).astype(log.dtype))
    low, high = _bracket(q, phi)

    def exponent(u):
        inner = jnp.where(u < 1 - dead, u, (1 - dead) / 2)
        odds = jnp.log(inner) - jnp.log(1 - dead - inner)
        reach = jnp.abs(odds) + MARGIN

        def lack(log_y):
            parts = _parts(log_y, q, phi)
            return odds - (jnp.log(parts.hit) - jnp.log(parts.missed))

        log_y = _roots.falling_root(lack, low - reach, high + reach)
        value = jnp.log(gain) + 0.5 * (jnp.log(u) - log_y)
        parts, slope = jax.jvp(lambda y: _parts(y, q, phi), (lax.stop_gradient(log_y),), (jnp.ones_like(log_y),))
        sure = 0.5 * parts.error <= UNSURE * (1 + jnp.abs(value)) * slope.hit
        return jnp.where(u < 1 - dead, jnp.where(sure, value, jnp.nan), jnp.where(jnp.isnan(u + q), jnp.nan, -jnp.inf))

    return jax.vmap(exponent)(u.ravel()).reshape(u.shape)
