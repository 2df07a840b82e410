"""Moments of phi(a) and phi'(a), a ~ N(0, q), each with the error it may have, from q = 0 on.

Criticality is a question of small differences: of q' - q, of sigma_w^2 E phi'^2 - 1. They are computed as such. With
psi = phi - phi(0), s the slope of phi at 0 (on either side of a kink there) and r = E s^2,

    E phi^2  = phi(0)^2 + 2 phi(0) E psi + q (r + bend),     bend  = E [psi^2 - s^2 a^2] / q
    E phi'^2 = r + lift,                                     lift  = E [phi'^2 - s^2]
    E phi'^2 - E psi^2 / q = twist,                          twist = E (phi' - psi / a)^2      (by parts)

Up to sqrt(q) = reach they are series in sqrt(q), from a polynomial that fits phi' about 0 to rounding, so that they keep their
digits however small they are. Above, they are integrals of these very integrands.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._ground import checks
from jacspec.activations import Activation
from jacspec.theory._quadrature import REACH, gaussian_mean

ROUNDING = 16
"""Roundings of an integral over some hundred nodes, relative to the integral of the absolute value."""

WIDTHS = tuple(0.5 / 8**k for k in range(4))
"""Half widths of the intervals about 0 on which phi' is fitted: the widest on which a polynomial suffices counts."""

SMOOTH, SIDED = 18, 11
"""Degrees of the polynomial through 0, and of the two that meet at a kink there."""

FIT = 32
"""Roundings by which a fit may miss phi'."""

PROBES = np.geomspace(1e-3, 1e3, 13)
"""Points, as far as the next kink, that decide whether phi is a multiple of a on either side of 0."""


class Expansion(NamedTuple):
    """phi about 0. Each of `mean` / w, `bend`, `lift` and `twist` is a series in t = sqrt(q) / w.

    Attributes:
        value: phi(0).
        slopes: (2,), of phi at 0+ and 0-.
        gain: r, the mean of their squares.
        exact: whether sigma_w^2 r is free of rounding: r a power of two.
        width: w, the half width of the interval of the fit.
        terms: (4, n), coefficients of t, t^2, ...
        sizes: (4, n), the absolute values that they are sums of.
        doubts: (4, n), bounds of their errors.
        reach: the sqrt(q) up to which the series hold, a tenth of where the fit ends; inf for a multiple of a on either
            side.
    """

    value: Array
    slopes: Array
    gain: Array
    exact: Array
    width: Array
    terms: Array
    sizes: Array
    doubts: Array
    reach: Array


class Moments(NamedTuple):
    """The moments at one q, named as at the top of this file (`mean` is E psi), and bounds of their absolute errors."""

    square: Array
    slope: Array
    mean: Array
    bend: Array
    lift: Array
    twist: Array
    square_error: Array
    slope_error: Array
    mean_error: Array
    bend_error: Array
    lift_error: Array
    twist_error: Array


def expansion(f: Activation, dtype: Any) -> Expansion:
    """The `Expansion` of phi, found in the widest precision at hand and given in `dtype`.

    A function that holds traced values cannot be looked at: its series have the reach 0.
    """
    wide = jnp.result_type(float)
    kinked, room = 0.0 in f.kinks, min((abs(kink) for kink in f.kinks if kink), default=np.inf)
    x = _fit(SIDED if kinked else SMOOTH, kinked)[0]
    near = np.concatenate([[float(jnp.finfo(wide).tiny) ** 0.5 if kinked else 0.0], *(width * x for width in WIDTHS)])
    probes = PROBES[room > PROBES]
    with jax.ensure_compile_time_eval():
        slope = f.slope(jnp.asarray([near, -near], wide))
        value = f.function(jnp.asarray([[0, *probes], [0, *-probes]], wide))
    if checks.is_concrete(slope) and checks.is_concrete(value):
        found = _expansion(
            np.asarray(slope, float), np.asarray(value, float), probes, room, kinked, float(jnp.finfo(wide).eps)
        )
        return Expansion(*(jnp.asarray(v, None if isinstance(v, bool) else dtype) for v in found))
    none = jnp.zeros((4, 1), dtype)
    slopes = slope[:, 0].astype(dtype)
    return Expansion(
        value[0, 0].astype(dtype), slopes, jnp.mean(slopes**2), jnp.zeros((), bool), jnp.ones((), dtype),
        none, none, none, jnp.zeros((), dtype),
    )  # fmt: skip


def _expansion(
    slope: np.ndarray, value: np.ndarray, probes: np.ndarray, room: float, kinked: bool, eps: float
) -> tuple[Any, ...]:
    """The fields of the `Expansion`, from phi' at 0+-, and at the points of the fits on either side, and phi at 0 and at the probes."""
    degree = SIDED if kinked else SMOOTH
    _, series, basis, powers = _fit(degree, kinked)
    slopes, size, order = slope[:, 0], np.max(np.abs(slope)), np.arange(1, degree + 2)
    gain = np.mean(slopes**2)
    line = slopes[:, None] * np.stack([probes, -probes])
    if value[0, 0] == 0 and (np.abs(value[:, 1:] - line) <= 4 * eps * np.abs(line)).all():
        width, reach, rows, errors = 1.0, room / REACH, np.zeros((2, degree)), np.zeros(degree)
    else:
        width, reach, rows, errors = WIDTHS[-1], 0.0, np.zeros((2, degree)), np.zeros(degree)
        for scale, values in zip(WIDTHS, np.split(slope[:, 1:], len(WIDTHS), axis=1), strict=True):
            terms = values @ series.T
            missed = np.max(np.abs(terms @ basis - values)) + eps * size
            if missed <= FIT * eps * size and scale < room:
                errors = 2 * missed * np.abs(powers).sum(axis=0)[1:]
                rows = (terms @ powers)[:, 1:]
                rows = np.where(np.abs(rows) < 0.5 * errors, 0, rows)  # what may be 0 is
                width, reach = scale, scale / REACH
                break
    # psi / w in powers of x / w, x = abs a: on the left dpsi/dx = -phi'(-x); a smooth phi' was fitted in a itself
    rows = np.concatenate([slopes[:, None], rows], axis=1) / order
    rows[1] = -rows[1] if kinked else -rows[0] * (-1.0) ** (order - 1)
    rows, errors = np.pad(rows, ((0, 0), (1, 0))), np.pad(errors / order[1:], (2, 0))

    n, power = np.arange(degree + 2), np.arange(2 * degree + 3)
    moment = np.array([2 ** (k / 2) * math.gamma((k + 1) / 2) / math.sqrt(math.pi) for k in power])  # E abs(z)^k
    lower = np.pad(moment[:-2], (2, 0))
    same = (power % 2 == 0) | kinked  # odd powers cancel between the sides of a smooth phi
    largest = np.max(np.abs(rows), axis=0)

    def square(factor, moment):
        """Of E (sum_n factor_n c_n x^n)^2 / x^2 from x^3 on."""
        (right, left), top, off = rows * factor, largest * np.abs(factor), errors * np.abs(factor)
        kept = 0.5 * (np.convolve(right, right) + np.convolve(left, left))
        return [(part * moment)[3:] for part in (kept, same * np.convolve(top, top), 2 * same * np.convolve(top, off))]

    pad = lambda part: np.pad(part * moment[: n.size], (0, power.size - 2 - n.size))[1:]
    mean = [pad(part) for part in (0.5 * rows.sum(axis=0), same[: n.size] * largest, same[: n.size] * errors)]
    parts = [mean, square(np.ones(n.size), moment), square(n, lower), square(n - 1, lower)]
    series = np.stack(parts, axis=1)
    used = np.flatnonzero(series.any(axis=(0, 1)))[-1:]  # the others would overflow, where the reach is inf
    terms, sizes, doubts = series[..., : max([0, *used]) + 1]
    dyadic = (slopes * 1024 == np.round(slopes * 1024)).all() and math.frexp(gain)[0] == 0.5
    return (value[0, 0], slopes, gain, bool(dyadic), width, terms, sizes, doubts, reach)


def _fit(degree: int, kinked: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chebyshev points in (-1, 1), or in (0, 1), and matrices to go from values there to a polynomial.

    They lead to a Chebyshev series, and have its terms at the points and in powers.
    """
    count, domain = degree + 1, [0, 1] if kinked else [-1, 1]
    t = np.cos(np.pi * (np.arange(2 * count) + 0.5) / (2 * count))
    basis = np.polynomial.chebyshev.chebvander(t, degree).T
    series = basis / count  # discrete orthogonality
    series[0] /= 2
    terms = [np.polynomial.Chebyshev.basis(j, domain=domain) for j in range(count)]
    powers = [term.convert(kind=np.polynomial.Polynomial).coef for term in terms]
    return (
        0.5 * (1 + t) if kinked else t,
        series,
        basis,
        np.stack([np.pad(row, (0, count - row.size)) for row in powers]),
    )


def moments(f: Activation, near: Expansion, q: Array) -> Moments:
    """The moments at q >= 0, scalar; at q = 0 the limit from above."""
    small, least = (jnp.sqrt(q) <= near.reach) | (q == 0), float(jnp.finfo(q.dtype).tiny)
    series = _series(near, jnp.where(small, q + jnp.where(q == 0, least, 0), least))
    integral = _integral(f, near, jnp.where(small, 1, q))
    return Moments(*(jnp.where(q >= 0, jnp.where(small, a, b), jnp.nan) for a, b in zip(series, integral, strict=True)))


def _series(near: Expansion, q: Array) -> Moments:
    t, eps = jnp.sqrt(q) / near.width, float(jnp.finfo(q.dtype).eps)
    powers = t ** jnp.arange(1, near.terms.shape[1] + 1, dtype=q.dtype)
    mean, bend, lift, twist = (near.terms * powers).sum(axis=1)
    off, *errors = ((near.doubts + ROUNDING * eps * near.sizes) * powers).sum(axis=1)
    tail = jnp.exp(-0.5 * (REACH * near.reach) ** 2 / q) * (near.gain + near.value**2 / q)
    bend_error, lift_error, twist_error = (error + tail for error in errors)
    mean, mean_error = near.width * mean, near.width * off
    square, slope = near.value**2 + 2 * near.value * mean + q * (near.gain + bend), near.gain + lift
    square_error = 2 * jnp.abs(near.value) * mean_error + q * bend_error + 8 * eps * square
    return Moments(
        square, slope, mean, bend, lift, twist,
        square_error, lift_error + 8 * eps * slope, mean_error, bend_error, lift_error, twist_error,
    )  # fmt: skip


def _integral(f: Activation, near: Expansion, q: Array) -> Moments:
    def parts(a):
        s = jnp.where(a > 0, near.slopes[0], near.slopes[1])
        psi, slope = f(a) - near.value, f.slope(a)
        line = jnp.where(a == 0, s, psi / jnp.where(a == 0, 1, a))
        bend, lift, twist = (psi - s * a) * (psi + s * a), (slope - s) * (slope + s), (slope - line) ** 2
        return jnp.stack([f(a) ** 2, slope**2, psi, bend, lift, twist, jnp.abs(psi)])

    (square, slope, mean, bend, lift, twist, size), off = gaussian_mean(parts, q, f.kinks)
    rounding = ROUNDING * float(jnp.finfo(q.dtype).eps)
    noise = rounding * jnp.sqrt(slope + square / q)
    return Moments(
        square, slope, mean, bend / q, lift, twist,
        off[0] + rounding * square, off[1] + rounding * slope, off[2] + rounding * (size + jnp.abs(near.value)),
        off[3] / q + rounding * (square / q + near.gain), off[4] + rounding * (slope + near.gain),
        off[5] + rounding * twist + noise * (2 * jnp.sqrt(twist) + noise),
    )  # fmt: skip
