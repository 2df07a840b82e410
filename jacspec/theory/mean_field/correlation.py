"""E phi(u1) phi(u2) of two correlated pre-activations, by three routes.

u1, u2 ~ N(0, q) with correlation c. Every route returns the same four numbers (`Overlap`), and V - E phi phi without
cancellation, because near c = 1 nothing else can be resolved.

*Closed*: phi = a alpha + abs(a) beta (linear, ReLU, leaky ReLU) is the arc-cosine kernel.

*Series*, for smooth phi: E phi phi = sum_k a_k^2 c^k with the Hermite coefficients a_k = E phi(sqrt(q) z) He_k(z) / sqrt(k!)
(Mehler), one product with a constant matrix. What the terms leave out is known exactly at c = 1, in value (E phi^2) and in
slope (q E phi'^2), and enters as one term R c^m of that value and slope. All c^k being convex in k, the truth lies between
R c^m and R c^K, which bounds the error.

*Quadrature*, for kinks: panels in the frame s = (u1 + u2)/sqrt 2, d = (u1 - u2)/sqrt 2, where the Gaussian is a product, cut
where a kink meets the line d = 0 or another kink, and along d where u1 or u2 crosses a kink. Nodes stand still and the
density moves, so derivatives with respect to q and c are exact across kinks.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec import _checks
from jacspec.activations import LEAKY_SLOPE, Activation
from jacspec.theory._quadrature import GAUSS, KRONROD, REACH, disagreement, panel_nodes
from jacspec.theory.mean_field._common import compiled, floor
from jacspec.theory.mean_field.variance import second_moment, squared_slope

TERMS = 128
"""Terms of the series."""

SPACING, EXTENT = 0.1, 13.0
"""The trapezoid rule of the Hermite coefficients, in standard deviations: geometric convergence for smooth phi."""

METHODS = ("auto", "closed", "series", "quadrature")
SLOPES = {"linear": 1.0, "leaky_relu": LEAKY_SLOPE, "relu": 0.0}
"""Slope at a < 0 of what has the closed form; at a > 0 it is 1."""


class Overlap(NamedTuple):
    """What a route says of two pre-activations.

    Attributes:
        value: E phi(u1) phi(u2).
        slope: E phi'(u1) phi'(u2), its derivative with respect to the covariance q c.
        gap: E (phi(u1) - phi(u2))^2 / 2 = E phi^2 - value.
        error: bound or estimate of the absolute error of `value` and `gap`.
    """

    value: Array
    slope: Array
    gap: Array
    error: Array


def _overlap(f: Activation, how: str, q: Array, c: Array) -> Overlap:
    """The overlap at variance q > 0 and correlation c by a route that `checked_method` named."""
    if how == "closed":
        return _closed(SLOPES[f.name], q, c)
    if how == "quadrature":
        return _quadrature(f, q, c)
    return series(f, q, second_moment(f, q), squared_slope(f, q)[0]).at(c)


overlap = compiled(_overlap, 2)


def checked_method(function: str, f: Activation, method: str) -> str:
    """The route, ValueError for a name that is none or a closed form that does not exist."""
    name = f"theory.mean_field.{function}"
    _checks.one_of(name, "method", method, METHODS)
    if method == "closed" and f.name not in SLOPES:
        text = _checks.message(name, "method", f"has no closed form for {f.name!r}", expected=" or ".join(SLOPES))
        raise ValueError(text)
    if method != "auto":
        return method
    return "closed" if f.name in SLOPES else "quadrature" if f.kinks else "series"


def half_angle(c: Array) -> Array:
    """sqrt((1 - c)/2), with a finite derivative at c = 1."""
    gap = 0.5 * (1 - c)
    return jnp.where(gap > 0, jnp.sqrt(jnp.where(gap > 0, gap, 1)), 0)


def _closed(low: float, q: Array, c: Array) -> Overlap:
    """phi = alpha a + beta abs(a): E abs(u1 u2) = (2 q / pi) (sin t + (pi/2 - t) cos t), c = cos t."""
    alpha, beta = 0.5 * (1 + low), 0.5 * (1 - low)
    t = 2 * jnp.arcsin(half_angle(c))
    bend = (2 / math.pi) * (jnp.sin(t) - t * c)
    gap = q * (1 - c) * (alpha**2 + beta**2) - q * beta**2 * bend
    slope = alpha**2 + beta**2 * (1 - (2 / math.pi) * t)
    value = q * (alpha**2 * c + beta**2 * (c + bend))
    return Overlap(value, slope, gap, 4 * jnp.finfo(q.dtype).eps * q)


class Series(NamedTuple):
    """phi's Hermite series at one q.

    Attributes:
        powers: a_k^2, k = 0..TERMS - 1.
        rest: E phi^2 - sum a_k^2 >= 0.
        order: the exponent m of the term that stands for the rest.
        scale: q, for slopes.
        rounding: error of E phi^2 and of the coefficients.
    """

    powers: Array
    rest: Array
    order: Array
    scale: Array
    rounding: Array

    def at(self, c: Array) -> Overlap:
        """The overlap at correlation c."""
        size, sign = jnp.abs(c), jnp.where(c < 0, -1.0, 1.0)
        log = jnp.log(jnp.where(size > 0, size, 1))
        last = jnp.where(size > 0, jnp.exp(self.order * log), 0)
        k = jnp.arange(TERMS, dtype=c.dtype)
        value = jnp.polyval(self.powers[::-1], c, unroll=16)
        slope = jnp.polyval((k * self.powers)[:0:-1], c, unroll=16)
        rest = jnp.where(c < 0, 0, self.rest)  # its sign is not known there
        value, slope = value + rest * last, slope + rest * self.order * last / jnp.where(size > 0, size, 1) * sign
        error = self.rest * jnp.where(c < 0, size**TERMS, size**TERMS - last) + self.rounding
        return Overlap(value, slope / self.scale, (1 - c) * self.quotient(c), error)

    def quotient(self, c: Array) -> Array:
        """(E phi^2 - value) / (1 - c) = sum_k a_k^2 (1 + c + ... + c^(k-1)), increasing in c >= 0; q E phi'^2 at c = 1."""
        tails = jnp.cumsum(self.powers[:0:-1])[::-1]
        d = 1 - c
        inside = (d > 0) & (d < 1)
        bend = jnp.where(inside, -jnp.expm1(self.order * jnp.log1p(-jnp.where(inside, d, 0.5))), d > 0)
        last = jnp.where(d > 0, bend / jnp.where(d > 0, d, 1), self.order)
        return jnp.polyval(tails[::-1], c, unroll=16) + jnp.where(c < 0, 1 / jnp.where(d > 0, d, 1), last) * self.rest


def hermite(count: int, z: np.ndarray) -> np.ndarray:
    """He_k(z)/sqrt(k!) times the standard normal density, k = 0..count - 1, (count, nodes)."""
    rows = [np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)]
    rows.append(z * rows[0])
    for k in range(1, count - 1):
        rows.append((z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows[:count])


_Z = SPACING * np.arange(-round(EXTENT / SPACING), round(EXTENT / SPACING) + 1)
_HERMITE = SPACING * hermite(TERMS, _Z)


def series(f: Activation, q: Array, second: tuple[Array, Array], slope: Array) -> Series:
    """The Hermite series of a smooth phi at variance q > 0, given E phi^2, its error, and E phi'^2."""
    z, matrix = jnp.asarray(_Z, q.dtype), jnp.asarray(_HERMITE, q.dtype)
    values = f(jnp.sqrt(q) * z)
    powers = jnp.matmul(matrix, values, precision=lax.Precision.HIGHEST) ** 2
    total, error = second
    rounding = TERMS * jnp.finfo(q.dtype).eps * total
    rest = total - powers.sum()
    bend = q * slope - (jnp.arange(TERMS, dtype=q.dtype) * powers).sum()
    kept = rest > rounding
    order = jnp.maximum(bend / jnp.where(kept, rest, 1), TERMS)
    aliased = jnp.abs(matrix[0] @ values**2 - total)  # what the spacing does not see, of phi^2 rather than phi
    excess = error + rounding + jnp.maximum(-rest, 0) + aliased
    return Series(powers, jnp.where(kept, rest, 0), jnp.where(kept, order, TERMS), q, lax.stop_gradient(excess))


def _quadrature(f: Activation, q: Array, c: Array) -> Overlap:
    """Panels in s and, by symmetry, in d > 0."""
    same, other = (jnp.maximum(1 + sign * c, floor(q.dtype)) for sign in (1, -1))
    wide, narrow = (jnp.sqrt(lax.stop_gradient(q * part)) for part in (same, other))
    kinks = np.array(sorted(set(f.kinks) or {0.0})) * math.sqrt(2)
    crossings = np.unique([(i + j) / 2 for i in kinks for j in kinks])
    near = [jnp.asarray(kinks, q.dtype) + sign * REACH * narrow for sign in (-1, 1)]
    breaks = jnp.concatenate([jnp.asarray(crossings, q.dtype), *near])
    breaks = jnp.sort(jnp.clip(breaks, -REACH * wide, REACH * wide))
    s, half_s = panel_nodes(_edges(jnp.concatenate([-REACH * wide[None], breaks, REACH * wide[None]]), 6))
    s = s.ravel()
    inner = jnp.sort(jnp.minimum(jnp.abs(s[:, None] - jnp.asarray(kinks, q.dtype)), REACH * narrow), axis=1)
    ends = jnp.zeros_like(s)[:, None]
    d, half_d = panel_nodes(_edges(jnp.concatenate([ends, inner, ends + REACH * narrow], axis=1), 4))
    s = s[:, None, None]
    u1, u2 = (s + d) / math.sqrt(2), (s - d) / math.sqrt(2)
    spread = -0.5 * (s * s / (q * same) + d * d / (q * other))
    density = jnp.exp(spread) / (jnp.pi * q * jnp.sqrt(same * other)) * half_d[..., None]
    parts = 0.5 * jnp.stack([(g(u1) - g(u2)) ** 2 for g in (f, f.slope)]) * density
    rules = [jnp.asarray(rule, q.dtype) for rule in (KRONROD, GAUSS)]
    within = [(parts @ rule).sum(axis=-1).reshape(2, -1, KRONROD.size) * half_s[:, None] for rule in rules]
    sums = [[(part @ rule).sum(axis=-1) for part in within] for rule in rules]
    gap, bend = sums[0][0]
    error = disagreement(sums[0][0], sums[1][0], sums[0][0]) + disagreement(sums[0][0], sums[0][1], sums[0][0])
    (total, rough), (slope, _) = second_moment(f, q), squared_slope(f, q)
    rounding = 8 * jnp.finfo(q.dtype).eps * total
    return Overlap(total - gap, slope - bend, gap, lax.stop_gradient(error[0] + rough + rounding))


def _edges(breaks: Array, count: int) -> Array:
    """`count` panels between any two breaks, crowding at both."""
    share = np.sin(0.5 * np.pi * np.arange(count) / count) ** 2
    inner = breaks[..., :-1, None] + jnp.diff(breaks, axis=-1)[..., None] * jnp.asarray(share, breaks.dtype)
    return jnp.concatenate([inner.reshape(*breaks.shape[:-1], -1), breaks[..., -1:]], axis=-1)
