"""E phi^2 and E phi'^2 of every activation to thirty digits, by mpmath alone.

Below q = 1e-3 they are the series in sqrt(q) that the Taylor coefficients at 0 give. Above, Gauss-Legendre panels that do not
depend on q, a factor of 1.5 apart from 0.01 to 1e7, carry phi and phi', computed once.
"""

import functools
import itertools

import mpmath as mp
import numpy as np

from jacspec.activations import LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE

DIGITS, SMALL, ORDER, POINTS = 40, 1e-3, 40, 30

expit = lambda a: 1 / (1 + mp.exp(-a)) if a > 0 else mp.exp(a) / (1 + mp.exp(a))
exact = {
    "linear": (lambda a: a, lambda a: mp.mpf(1)),
    "tanh": (mp.tanh, lambda a: mp.sech(a) ** 2),
    "sigmoid": (expit, lambda a: expit(a) * expit(-a)),
    "relu": (lambda a: a if a > 0 else mp.mpf(0), lambda a: mp.mpf(a > 0)),
    "leaky_relu": (lambda a: a if a > 0 else a * mp.mpf(LEAKY_SLOPE), lambda a: mp.mpf(1 if a > 0 else LEAKY_SLOPE)),
    "elu": (lambda a: a if a > 0 else mp.expm1(a), lambda a: mp.mpf(1) if a > 0 else mp.exp(a)),
    "selu": (
        lambda a: SELU_SCALE * (a if a > 0 else SELU_ALPHA * mp.expm1(a)),
        lambda a: SELU_SCALE * (mp.mpf(1) if a > 0 else SELU_ALPHA * mp.exp(a)),
    ),
    "gelu": (lambda a: a * mp.ncdf(a), lambda a: mp.ncdf(a) + a * mp.npdf(a)),
    "swish": (lambda a: a * expit(a), lambda a: expit(a) * (1 + a * expit(-a))),
    "softplus": (lambda a: mp.log1p(mp.exp(-abs(a))) + max(a, mp.mpf(0)), expit),
    "hard_tanh": (lambda a: max(mp.mpf(-1), min(mp.mpf(1), a)), lambda a: mp.mpf(abs(a) <= 1)),
    "erf": (mp.erf, lambda a: 2 / mp.sqrt(mp.pi) * mp.exp(-a * a)),
}
"""phi and phi'."""

KINKED = {"relu", "leaky_relu", "elu", "selu"}


@functools.cache
def _taylor(name):
    """Coefficients of phi at 0 in powers of a, on the right and on the left."""
    f, _ = exact[name]
    with mp.workdps(DIGITS + 20):
        if name == "hard_tanh":
            return ([mp.mpf(0), mp.mpf(1)],) * 2
        if name not in KINKED:
            return (mp.taylor(f, 0, ORDER),) * 2
        right = [mp.mpf(0), f(mp.mpf(1))]
        if name in ("relu", "leaky_relu"):
            return right, [mp.mpf(0), -f(mp.mpf(-1))]
        scale = SELU_SCALE * mp.mpf(SELU_ALPHA) if name == "selu" else mp.mpf(1)
        return right, [mp.mpf(0)] + [scale / mp.factorial(k) for k in range(1, ORDER + 1)]


@functools.cache
def _half_moments():
    """E z^k over z > 0."""
    with mp.workdps(DIGITS + 20):
        return [
            mp.power(2, mp.mpf(k) / 2) * mp.gamma(mp.mpf(k + 1) / 2) / mp.sqrt(mp.pi) / 2 for k in range(2 * ORDER + 1)
        ]


@functools.cache
def _series(name):
    """The coefficients of E phi^2 and E phi'^2 in powers of sqrt(q), as far as they are complete."""
    out = []
    with mp.workdps(DIGITS + 20):
        for slope in (False, True):
            total = [mp.mpf(0)] * ORDER
            for side, c in zip((1, -1), _taylor(name), strict=True):
                c = [(k + 1) * v for k, v in enumerate(c[1:])] if slope else c
                for (i, u), (j, v) in itertools.product(enumerate(c), enumerate(c)):
                    if i + j < ORDER:
                        total[i + j] += u * v * side ** (i + j) * _half_moments()[i + j]
            out.append(total)
    return out


@functools.cache
def _nodes():
    """Nodes a > 0 and weights of all panels."""
    with mp.workdps(DIGITS):
        x, w = zip(*_legendre(POINTS), strict=True)
        edges = [mp.mpf(0)] + [mp.mpf("0.01") * mp.mpf("1.5") ** k for k in range(52)]
        edges = sorted({*edges, mp.mpf(1)})
        a = [(low + high) / 2 + (high - low) / 2 * t for low, high in itertools.pairwise(edges) for t in x]
        return a, [(high - low) / 2 * v for low, high in itertools.pairwise(edges) for v in w]


def _legendre(n):
    """Nodes and weights of Gauss-Legendre: Newton's method from the double ones."""
    for x in np.polynomial.legendre.leggauss(n)[0]:
        x = mp.mpf(x)
        for _ in range(3):
            p, q = mp.legendre(n, x), mp.legendre(n - 1, x)
            slope = n * (x * p - q) / (x * x - 1)
            x -= p / slope
        q = mp.legendre(n - 1, x)
        yield x, 2 * (1 - x * x) / (n * q) ** 2


@functools.cache
def _values(name):
    """phi(a)^2 + phi(-a)^2 and the same of phi' at the nodes."""
    with mp.workdps(DIGITS):
        return [[g(a) ** 2 + g(-a) ** 2 for a in _nodes()[0]] for g in exact[name]]


@functools.cache
def moments(name, q):
    """(E phi^2, E phi'^2) at a ~ N(0, q)."""
    with mp.workdps(DIGITS):
        q = mp.mpf(q)
        if q < SMALL:
            return tuple(mp.fsum(v * mp.sqrt(q) ** k for k, v in enumerate(c) if v) for c in _series(name))
        r = mp.sqrt(q)
        density = [
            w * mp.exp(-a * a / (2 * q)) / (r * mp.sqrt(2 * mp.pi)) if a < 15 * r else 0
            for a, w in zip(*_nodes(), strict=True)
        ]
        return tuple(mp.fsum(p * v for p, v in zip(density, values, strict=True) if p) for values in _values(name))
