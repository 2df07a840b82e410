"""E phi(u1) phi(u2) of two correlated pre-activations, by three routes.

u1, u2 ~ N(0, q) with correlation c. Every route returns the same four numbers (`Overlap`), and V - E phi phi without
cancellation, because near c = 1 nothing else can be resolved.

*Closed*: phi = a alpha + abs(a) beta (linear, ReLU, leaky ReLU) is the arc-cosine kernel.

*Series*, for smooth phi: E phi phi = sum_k a_k^2 c^k with the Hermite coefficients a_k = E phi(sqrt(q) z) He_k(z) / sqrt(k!)
(Mehler), one product with a constant matrix. What the terms leave out is known exactly at c = 1, in value (E phi^2) and in
slope (q E phi'^2), and enters as one term R c^m of that value and slope. All c^k being convex in k, the truth lies between
R c^m and R c^K, which bounds the error.

*Quadrature*, for kinks and for large q: panels in the frame s = (u1 + u2)/sqrt 2, d = (u1 - u2)/sqrt 2, where the Gaussian is
a product, cut where a kink (or 0) meets the line d = 0 or another kink, and along d where u1 or u2 crosses a kink, and graded
towards these cuts, from the scale of phi to that of the density. Nodes stand still and the density moves, so derivatives with
respect to q are exact across kinks. With respect to c as well; at c = -+1 they are Price's, d/dc E phi phi = q E phi' phi' and
d2/dc2 E phi phi = q^2 E phi'' phi'', which is infinite where phi' jumps at a kink of u1 and of u2 at once.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import checks
from jacspec._ground.primitives import Primitive
from jacspec.activations import LEAKY_SLOPE, Activation
from jacspec.theory._quadrature import CROWDING, GAUSS, KRONROD, REACH, disagreement, gaussian_mean, panel_nodes
from jacspec.theory.mean_field._common import compiled
from jacspec.theory.mean_field.moments import ROUNDING
from jacspec.theory.mean_field.variance import second_moment, squared_slope

TERMS = 128
"""Terms of the series. What they leave out is bounded; where that is too much, `method="auto"` takes the quadrature."""

SPACING, EXTENT = 0.0125, 13.0
"""The trapezoid rule of the Hermite coefficients, in standard deviations: geometric convergence for smooth phi. What twice the
spacing changes is taken for its error: for tanh 1e-10 at q = 300."""

GRADED = 14
"""Panels of the quadrature on either side of a cut, nearly as many as `gaussian_mean` has on either side of 0."""

METHODS = ("auto", "closed", "series", "quadrature")
_BENT = [(-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) for k in range(8, 0, -1)]
"""Coefficients of sin t - t cos t in odd powers of t from t^3, highest first."""

SLOPES = {"linear": 1.0, "leaky_relu": LEAKY_SLOPE, "relu": 0.0}
"""Slope at a < 0 of what has the closed form; at a > 0 it is 1."""


class Overlap(NamedTuple):
    """What a route says of two pre-activations.

    Attributes:
        value: E phi(u1) phi(u2).
        slope: E phi'(u1) phi'(u2), its derivative with respect to the covariance q c.
        gap: E (phi(u1) - phi(u2))^2 / 2 = E phi^2 - value.
        error: bound or estimate of the absolute error of `value`.
        slope_error: of `slope`.
        gap_error: of `gap`.
    """

    value: Array
    slope: Array
    gap: Array
    error: Array
    slope_error: Array
    gap_error: Array


def _overlap(f: Activation, how: str, q: Array, c: Array) -> Overlap:
    """The overlap at variance q > 0 and correlation c by a route that `checked_method` named."""
    if how == "closed":
        return _closed(SLOPES[f.name], q, c)
    if how == "quadrature":
        return _quadrature(f, q, c)
    return series(f, q, second_moment(f, q), squared_slope(f, q)).at(c)


overlap = compiled(_overlap, 2)


def checked_method(function: str, f: Activation, method: str) -> str:
    """The route, ValueError for a name that is none or a closed form that does not exist."""
    name = f"theory.mean_field.{function}"
    checks.one_of(name, "method", method, METHODS)
    if method == "closed" and f.name not in SLOPES:
        text = checks.message(name, "method", f"has no closed form for {f.name!r}", expected=" or ".join(SLOPES))
        raise ValueError(text)
    if method != "auto":
        return method
    return "closed" if f.name in SLOPES else "quadrature" if f.kinks else "series"


def _closed(low: float, q: Array, c: Array) -> Overlap:
    """phi = alpha a + beta abs(a): E abs(u1 u2) = (2 q / pi) (sin t + (pi/2 - t) cos t), c = cos t."""
    alpha, beta, eps = 0.5 * (1 + low), 0.5 * (1 - low), jnp.finfo(q.dtype).eps
    # of a linear phi neither is a part: their derivatives at c = -+1 are infinite
    t, bend = (_angle(c), (2 / math.pi) * _bent(c)) if beta else (jnp.zeros_like(c), jnp.zeros_like(c))
    gap = q * (1 - c) * (alpha**2 + beta**2) - q * beta**2 * bend
    slope = alpha**2 + beta**2 * (1 - (2 / math.pi) * t)
    value = q * (alpha**2 * c + beta**2 * (c + bend))
    error = 4 * eps * q * jnp.ones_like(c)
    # near c = 1 bend is (4/3 pi) sqrt 2 (1 - c)^(3/2), and keeps its digits
    return Overlap(value, slope, gap, error, error / q, error * (1 - c))


def _angle(c: Array) -> Array:
    """arccos c, to its digits at both ends; its derivative there is infinite."""
    return 2 * jnp.arctan2(jnp.sqrt(1 - c), jnp.sqrt(1 + c))


@Primitive
def _bent(c: Array) -> Array:
    """sin t - t cos t at c = cos t, whose derivative -t is finite at both ends; in powers of t where it cancels."""
    t = _angle(c)
    small = jnp.minimum(t, 0.5)
    series = small**3 * jnp.polyval(jnp.asarray(_BENT, t.dtype), small**2)
    return jnp.where(t < 0.5, series, jnp.sqrt((1 - c) * (1 + c)) - t * c)


@_bent.defjvp
def _(primals, tangents):
    (c,), (dc,) = primals, tangents
    return _bent(c), -_angle(c) * dc


class Series(NamedTuple):
    """phi's Hermite series at one q.

    Attributes:
        powers: a_k^2, k = 0..TERMS - 1.
        rest: E phi^2 - sum a_k^2 >= 0.
        order: the exponent m of the term that stands for the rest.
        scale: q, for slopes.
        rounding: error of E phi^2 and of the coefficients.
        bend: q E phi'^2 - sum k a_k^2, what the slopes lack at c = 1.
        slope_rounding: error of E phi'^2 and of the coefficients.
    """

    powers: Array
    rest: Array
    order: Array
    scale: Array
    rounding: Array
    bend: Array
    slope_rounding: Array

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
        short = self.rest * jnp.where(c < 0, size**TERMS, size**TERMS - last)
        slope_error = self.bend * size ** (TERMS - 1) / self.scale + self.slope_rounding
        gap = (1 - c) * self.quotient(c)
        rounding = self.rounding * jnp.minimum(1, TERMS * (1 - c))
        return Overlap(value, slope / self.scale, gap, short + self.rounding, slope_error, short + rounding)

    def quotient(self, c: Array) -> Array:
        """(E phi^2 - value) / (1 - c) = sum_k a_k^2 (1 + c + ... + c^(k-1)), increasing in c >= 0; q E phi'^2 at c = 1."""
        tails = jnp.cumsum(self.powers[:0:-1])[::-1]
        d = 1 - c
        inside = (d > 0) & (d < 1)
        bend = jnp.where(inside, -jnp.expm1(self.order * jnp.log1p(-jnp.where(inside, d, 0.5))), d > 0)
        last = jnp.where(d > 0, bend / jnp.where(d > 0, d, 1), self.order * (1 - 0.5 * (self.order - 1) * d))
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


def series(f: Activation, q: Array, second: tuple[Array, Array], slope: tuple[Array, Array]) -> Series:
    """The Hermite series of a smooth phi at variance q > 0, given E phi^2 and E phi'^2 with their errors."""
    z, matrix = jnp.asarray(_Z, q.dtype), jnp.asarray(_HERMITE, q.dtype)
    values = f(jnp.sqrt(q) * z)
    powers, coarse = (
        (step * jnp.matmul(matrix[:, ::step], values[::step], precision=lax.Precision.HIGHEST)) ** 2 for step in (1, 2)
    )
    (total, error), (steep, steep_error) = second, slope
    rounding = ROUNDING * jnp.finfo(q.dtype).eps * total
    rest = total - powers.sum()
    bend = q * steep - (jnp.arange(TERMS, dtype=q.dtype) * powers).sum()
    kept = rest > rounding
    order = jnp.maximum(bend / jnp.where(kept, rest, 1), TERMS)
    excess = error + rounding + jnp.maximum(-rest, 0) + jnp.abs(powers - coarse).sum()
    return Series(
        powers, jnp.where(kept, rest, 0), jnp.where(kept, order, TERMS), q, lax.stop_gradient(excess),
        lax.stop_gradient(jnp.abs(bend)), lax.stop_gradient(steep_error + TERMS * excess / q),
    )  # fmt: skip


def _quadrature(f: Activation, q: Array, c: Array) -> Overlap:
    """Panels in s and, by symmetry, in d > 0, one panel of s after the other."""
    least = 0.25 * float(jnp.finfo(q.dtype).eps)  # no 1 - abs c but 0 is below
    same, other = (jnp.maximum(1 + sign * c, least) for sign in (1, -1))
    wide, narrow = (jnp.sqrt(lax.stop_gradient(q * part)) for part in (same, other))
    kinks = np.array(sorted(set(f.kinks) or {0.0})) * math.sqrt(2)
    crossings = np.unique([(i + j) / 2 for i in kinks for j in kinks])
    cuts = jnp.clip(jnp.asarray(crossings, q.dtype), -REACH * wide, REACH * wide)
    rules = [jnp.asarray(rule, q.dtype) for rule in (KRONROD, GAUSS)]

    @jax.checkpoint
    def panel(s, half):
        """Sums over one panel of s, (Kronrod in s and d; Gauss in s; Gauss in d), of the gaps of phi and of phi'."""
        cuts = jnp.sort(jnp.minimum(jnp.abs(s[:, None] - jnp.asarray(kinks, q.dtype)), REACH * narrow), axis=1)
        d, half_d = panel_nodes(_graded(jnp.zeros_like(s), cuts, REACH * narrow + 0 * s, jnp.ones_like(q)))
        s = s[:, None, None]
        u1, u2 = (s + d) / math.sqrt(2), (s - d) / math.sqrt(2)
        spread = -0.5 * (s * s / (q * same) + d * d / (q * other))
        density = jnp.exp(spread) / (jnp.pi * q * jnp.sqrt(same * other)) * half_d[..., None]
        parts = 0.5 * jnp.stack([(g(u1) - g(u2)) ** 2 for g in (f, f.slope)]) * density
        fine, coarse = ((parts @ rule).sum(axis=-1) * half for rule in rules)
        return jnp.stack([fine @ rules[0], fine @ rules[1], coarse @ rules[0]])

    scale = jnp.minimum(1, narrow) if f.kinks else jnp.ones_like(q)  # what d smooths of a kink
    s, half = panel_nodes(_graded(-REACH * wide, cuts, REACH * wide, scale))
    sums = lax.map(lambda part: panel(*part), (s, half))
    off = sum(disagreement(sums[:, 0], sums[:, k], sums[:, 0]).sum(axis=0) for k in (1, 2))
    between = lambda a: 0.5 * jnp.stack([(g(a) - g(-a)) ** 2 for g in (f, f.slope)])
    opposite, rough = gaussian_mean(between, q, (*f.kinks, *(-kink for kink in f.kinks)))  # c = -1
    pick = lambda inside, at_one, at_minus: jnp.where(c >= 1, at_one, jnp.where(c <= -1, at_minus, inside))
    (gap, bend), off = pick(sums[:, 0].sum(axis=0), 0, opposite), pick(off, 0, rough)
    (total, total_error), (steep, steep_error) = second_moment(f, q), squared_slope(f, q)
    eps = ROUNDING * jnp.finfo(q.dtype).eps
    slope = steep - bend
    end = jnp.abs(c) >= 1
    along = jnp.where(
        end, q * slope * (c - lax.stop_gradient(c)) + _second_order(f, q, c, end), 0
    )  # 0, with its derivatives
    gap_error = off[0] + eps * (jnp.sqrt(gap * total) + gap + eps * total)
    slope_error = off[1] + steep_error + eps * steep
    errors = lax.stop_gradient((gap_error + total_error + eps * total, slope_error, gap_error))
    return Overlap(total - gap + along, slope, gap - along, *errors)


def _second_order(f: Activation, q: Array, c: Array, end: Array) -> Array:
    """What E phi(u1) phi(u2) has beyond its tangent at the ends c = s, s = -+1: 0 there, for the sake of its derivatives.

        (q x)^2 E phi''(a) phi''(s a) / 2 + q sum_k J_k J_sk e^(-k^2 / 2q) x^(3/2) sqrt 2 / (3 pi),    x = 1 - s c

    J_k is the jump of phi' at a kink k, and the sum the integral of Price's q J_k J_sk p(k, s k) over the covariance.
    """
    sign, x = jnp.where(c < 0, -1, 1), jnp.where(end, 1 - jnp.abs(c), 1)
    curvature = lambda a: jax.jvp(f.slope, (a,), (jnp.ones_like(a),))[1]
    both = (*f.kinks, *(-kink for kink in f.kinks))
    smooth, _ = gaussian_mean(lambda a: curvature(a) * curvature(sign * a), q, both)
    value = 0.5 * (q * x) ** 2 * smooth
    beside = lambda k, side: f.slope(jnp.nextafter(jnp.asarray(k, q.dtype), jnp.asarray(side * jnp.inf, q.dtype)))
    jump = lambda k: beside(k, 1) - beside(k, -1)
    for k in f.kinks:
        size = jump(k) * jump(sign * k) * jnp.exp(-0.5 * k * k / q)
        sharp = jnp.abs(size) > float(jnp.finfo(q.dtype).eps) ** 0.5
        value = value + jnp.where(sharp, q * size * jnp.where(sharp, x, 1) ** 1.5 * math.sqrt(2) / (3 * math.pi), 0)
    return value


def _graded(low: Array, cuts: Array, high: Array, scale: Array) -> Array:
    """Edges of panels from `low` to `high`, fine on `scale` at the sorted `cuts` (..., k), as those of `gaussian_mean` at 0."""
    between = 0.5 * (cuts[..., 1:] + cuts[..., :-1])
    share = np.arange(1, GRADED + 1) / GRADED
    share = jnp.asarray(share * (1 + CROWDING * (1 - share)), cuts.dtype)
    left = jnp.concatenate([low[..., None], between], axis=-1) - cuts
    right = jnp.concatenate([between, high[..., None]], axis=-1) - cuts
    away = lambda end: cuts[..., None] + scale * jnp.sinh(jnp.arcsinh(end / scale)[..., None] * share)
    edges = jnp.concatenate([away(left)[..., ::-1], cuts[..., None], away(right)], axis=-1)
    # two neighbours share the point between them
    return jnp.concatenate([edges[..., :-1, :-1].reshape(*edges.shape[:-2], -1), edges[..., -1, :]], axis=-1)
