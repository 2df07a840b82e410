"""Mean field of recurrent networks against published numbers, adaptive quadrature, closed forms and eigenvalues."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from jacspec.theory import recurrent

# g: q, <phi'^2>, lambda_1, mean exponent, to the digits they are printed with
TANH = {
    1.2: (0.249513, 0.717709, 0.0164763, -0.543100),
    1.5: (0.793354, 0.506366, 0.0652172, -0.714346),
    2.0: (2.121474, 0.340668, 0.1547242, -1.149023),
    3.0: (6.305391, 0.206651, 0.3102493, -2.272805),
    5.0: (20.699367, 0.116017, 0.5324279, -4.906771),
    10.0: (91.705131, 0.055449, 0.8564352, -12.160966),  # a fixed Gauss-Hermite rule says 1.00204
}


def adaptive(f, q):
    """E f(a), a ~ N(0, q), by scipy with break points where f and the density vary."""
    s = np.sqrt(q)
    density = lambda a: f(a) * np.exp(-a * a / (2 * q)) / np.sqrt(2 * np.pi * q)
    ends = np.unique([0, 1, 3, s, 3 * s, 12 * s])
    pieces = [quad(density, a, b, epsabs=1e-14, epsrel=1e-13)[0] for a, b in itertools.pairwise(ends) if a < 12 * s]
    return 2 * sum(pieces)


@pytest.mark.parametrize("gain", TANH)
def test_tanh_table_to_the_printed_digits(gain):
    net = recurrent.rate_network(gain)
    found = (net.q, net.slope_square, net.leading, net.mean)
    for value, printed, digits in zip(found, TANH[gain], (6, 6, 7, 6), strict=True):
        assert abs(float(value) - printed) < 0.51 * 10.0**-digits
    q = float(net.q)
    np.testing.assert_allclose(gain**2 * adaptive(lambda a: np.tanh(a) ** 2, q), q, rtol=1e-11)
    np.testing.assert_allclose(adaptive(lambda a: np.cosh(a) ** -4.0, q), net.slope_square, rtol=1e-11)
    assert bool(net.converged)
    assert net.error < 1e-11


def test_spectrum_dimension_and_entropy():
    u = jnp.array([0.0025, 0.1025, 0.2525, 0.5025, 0.7525])
    found = recurrent.rate_spectrum(u, 3.0)
    np.testing.assert_allclose(found, [0.3060, 0.1155, -0.2796, -1.4316, -3.5693], atol=5.1e-5)
    # dimension and entropy in closed form are the integrals of the spectrum that they stand for
    net = recurrent.rate_network(3.0)
    d = float(net.dimension)
    x, w = np.polynomial.legendre.leggauss(60)
    at = lambda end: np.asarray(recurrent.rate_spectrum(jnp.asarray(end * (x + 1) / 2), 3.0))
    assert abs(at(d) @ w * d / 2) < 1e-9
    zero = np.interp(0, found[::-1], u[::-1])
    for _ in range(5):
        value = float(recurrent.rate_spectrum(zero, 3.0))
        zero -= value / float(jax.grad(recurrent.rate_spectrum)(zero, 3.0))
    np.testing.assert_allclose(at(zero) @ w * zero / 2, net.entropy, rtol=1e-9)
    assert abs(d - 0.2877) < 1e-4  # from a grid of 200 points
    assert abs(float(net.entropy) - 0.0252) < 5.1e-5


def test_published_simulation_of_4096_units():
    for gain, lead, mean, dimension, entropy in ((3.0, 0.30958, -2.27390, 0.28717, 0.025106), (5.0, 0.53118, -4.90942, 0.24594, 0.038912)):  # fmt: skip
        net = recurrent.rate_network(gain)
        assert abs(float(net.leading) - lead) < 0.0032  # its split-half error
        assert abs(float(net.mean) - mean) < 0.0032
        assert abs(float(net.dimension) - dimension) < 3 / 4096 * 2
        assert abs(float(net.entropy) - entropy) < 3 * lead / 4096


def test_a_silent_network_has_the_circular_law():
    u = jnp.linspace(0.05, 0.95, 7)
    want = np.log(0.9) + 0.5 * np.log(1 - u)
    np.testing.assert_allclose(recurrent.rate_spectrum(u, 0.9), want, atol=1e-12)
    np.testing.assert_allclose(recurrent.leaky_origin_spectrum(u, 0.9), want, atol=1e-12)
    net = recurrent.rate_network(0.9)
    assert float(net.q) == float(net.dimension) == float(net.entropy) == 0
    np.testing.assert_allclose(net.mean, np.log(0.9) - 0.5, atol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("activation", "gain"), [("erf", 3.0), ("erf", 10.0), ("tanh", 40.0), ("tanh", 300.0)])
def test_spectrum_and_dimension_of_saturated_units(activation, gain, dtype):
    """<y D^2 / (1 + y D^2)> = u by the midpoint rule and Brent's method, and L(u) = 0 at the dimension."""
    net = recurrent.rate_network(dtype(gain), activation=activation, input_variance=dtype(0))
    z = (np.arange(400_000) + 0.5) / 40_000
    p, h = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum(), np.sqrt(float(net.q)) * z
    log = np.log(4 / np.pi) - 2 * h**2 if activation == "erf" else 2 * (np.log(4) - 2 * (h + np.log1p(np.exp(-2 * h))))
    root = lambda u: brentq(lambda y: expit(y + log) @ p - u, -50, 50 - log.min())
    want = [np.log(gain) + (np.log(u) - root(u)) / 2 for u in (1e-3, 0.5, 0.99)]
    found = recurrent.rate_spectrum(jnp.asarray([1e-3, 0.5, 0.99], dtype), dtype(gain), activation=activation)
    rtol = {jnp.float32: 2e-6, jnp.float64: 2e-9}[dtype]
    np.testing.assert_allclose(found, want, rtol=rtol)
    y = root(float(net.dimension))
    mean = (
        np.log(gain) + (np.log(float(net.dimension)) - y - 1 + np.logaddexp(0, y + log) @ p / float(net.dimension)) / 2
    )
    assert abs(mean) < 20 * rtol


@pytest.mark.slow
def test_spectrum_of_slopes_with_zeros():
    """GELU's slope has a zero and a minimum; where it is not NaN the spectrum agrees with the midpoint rule."""
    u = jnp.array([0.3, 0.7, 0.9, 0.99])
    q = float(recurrent.rate_network(1.3, activation="gelu", input_variance=1.0).q)
    z = (np.arange(400_000) + 0.5) / 20_000 - 10
    p, h = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum(), np.sqrt(q) * z
    log = 2 * np.log(np.abs(ndtr(h) + h * np.exp(-h * h / 2) / np.sqrt(2 * np.pi)))
    want = [np.log(1.3) + (np.log(v) - brentq(lambda y, v=v: expit(y + log) @ p - v, -50, 1000)) / 2 for v in u]
    found = np.asarray(recurrent.rate_spectrum(u, 1.3, activation="gelu", input_variance=1.0))
    known = np.isfinite(found)
    assert known[:2].all()
    np.testing.assert_allclose(found[known], np.array(want)[known], rtol=1e-3, atol=1e-3)


def test_any_activation_and_its_dead_units():
    relu = recurrent.rate_network(1.2, activation="relu")
    np.testing.assert_allclose(relu.leading, np.log(1.2 / np.sqrt(2)), atol=1e-13)
    assert np.isneginf(relu.mean)
    # Bernoulli slopes of probability 1/2: lambda(u) = 1/2 ln[g^2 (1/2 - u)]
    found = recurrent.rate_spectrum(jnp.array([0.2, 0.45, 0.6]), 1.2, activation="relu")
    np.testing.assert_allclose(found, [0.5 * np.log(1.44 * 0.3), 0.5 * np.log(1.44 * 0.05), -np.inf], atol=1e-12)
    explodes = recurrent.rate_network(2.0, activation="relu")
    assert np.isnan(explodes.q)
    assert not bool(explodes.converged)
    driven = recurrent.rate_network(3.0, input_variance=1.0)
    q = float(driven.q)
    np.testing.assert_allclose(9 * adaptive(lambda a: np.tanh(a) ** 2, q) + 1, q, rtol=1e-11)
    assert driven.leading < recurrent.rate_network(3.0).leading


@pytest.mark.slow
def test_derivatives_of_the_rate_network_are_those_of_the_fixed_point():
    fields = ("q", "leading", "mean", "dimension", "entropy")
    f = lambda g: jnp.stack([getattr(recurrent.rate_network(g), field) for field in fields])
    want = (f(3.0001) - f(2.9999)) / 0.0002
    np.testing.assert_allclose(jax.jit(jax.jacrev(f))(3.0), want, rtol=1e-6)
    gains = jnp.array([0.5, 1.5, 3.0])
    mapped = jax.jit(jax.vmap(lambda g: recurrent.rate_network(g).leading))(gains)
    np.testing.assert_allclose(mapped, [recurrent.rate_network(float(g)).leading for g in gains], rtol=1e-12)


# Shared weights at the silent state


def silent_exponents(center, radius, n, leak=1.0):
    W = np.random.default_rng(0).standard_normal((n, n)) / np.sqrt(n)
    return np.sort(np.log(np.abs(np.linalg.eigvals(center * np.eye(n) + radius * W))) / leak)[::-1]


@pytest.mark.slow
def test_origin_spectra_against_eigenvalues():
    n = 400
    u = (jnp.arange(n) + 0.5) / n
    keep, reset = expit(1.5), expit(0.5)
    cases = (
        (recurrent.leaky_origin_spectrum(u, 0.9, 0.3), silent_exponents(0.7, 0.27, n, 0.3)),
        (
            recurrent.gru_origin_spectrum(u, 4.0, keep_bias=1.5, reset_bias=0.5),
            silent_exponents(keep, (1 - keep) * reset * 2, n),
        ),
        (recurrent.lstm_origin_spectrum(u, 25.0, forget_bias=1.5), silent_exponents(keep, 0.25 * 5, n)),
    )
    for theory, measured in cases:
        fraction = np.interp(measured, theory[::-1], u[::-1])
        assert np.abs(fraction - u).max() < 0.04  # half of what independent points reach once in a hundred draws
    # and to the accuracy of 100,000 points drawn uniformly from the disc
    rng = np.random.default_rng(1)
    w = np.sqrt(rng.uniform(size=100_000)) * np.exp(2j * np.pi * rng.uniform(size=100_000))
    for (theory, _), center, radius, leak in zip(
        cases, (0.7, keep, keep), (0.27, (1 - keep) * reset * 2, 1.25), (0.3, 1, 1), strict=True
    ):
        fraction = [np.mean(np.log(np.abs(center + radius * w)) / leak > at) for at in theory[::20]]
        assert np.abs(np.asarray(fraction) - u[::20]).max() < 4 * 0.5 / np.sqrt(w.size)
    # the flow is the limit of short steps, its mean is -1, and the leading exponents are those at the rim
    flow = recurrent.leaky_origin_spectrum(u, 0.9, 0.0)
    np.testing.assert_allclose(recurrent.leaky_origin_spectrum(u, 0.9, 1e-5), flow, atol=2e-5)
    np.testing.assert_allclose(flow.mean(), -1, atol=1e-12)
    np.testing.assert_allclose(
        recurrent.gru_origin_spectrum(1e-12, 4.0, keep_bias=1.5), np.log(keep + (1 - keep)), atol=1e-7
    )
    grad = jax.grad(lambda s: recurrent.gru_origin_spectrum(0.3, s, keep_bias=1.5))(4.0)
    f = lambda s: float(recurrent.gru_origin_spectrum(0.3, s, keep_bias=1.5))
    np.testing.assert_allclose(grad, (f(4.001) - f(3.999)) / 0.002, rtol=1e-6)


def exponent_of_the_disc(u, center, radius):
    """ln s with the fraction u of the disc outside abs = s, in 70 digits: the area of a lens, halved by bisection."""
    u, center, radius = (mp.mpf(float(v)) if not isinstance(v, mp.mpf) else v for v in (u, center, radius))

    def outside(s):
        if s <= radius - center:
            return 1 - (s / radius) ** 2
        at_zero = mp.acos((center**2 + s**2 - radius**2) / (2 * center * s))
        at_center = mp.acos((center**2 + radius**2 - s**2) / (2 * center * radius))
        sector = lambda t: t - mp.sin(2 * t) / 2
        return 1 - (s**2 * sector(at_zero) + radius**2 * sector(at_center)) / (mp.pi * radius**2)

    low, high = abs(center - radius) if center > radius else mp.mpf(0), center + radius
    for _ in range(150):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle) > u else (low, middle)
    return mp.log(low)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("leak", [1e-9, 1e-4, 0.3, 0.9])
def test_leaky_origin_spectrum_keeps_its_digits_in_slow_units(leak, dtype):
    for u in (1e-9, 0.01, 0.5, 0.99):
        with mp.workdps(70):
            share, gain, d = (mp.mpf(float(dtype(v))) for v in (u, 0.9, leak))
            want = float(exponent_of_the_disc(share, 1 - d, d * gain) / d)
        found = recurrent.leaky_origin_spectrum(dtype(u), dtype(0.9), dtype(leak))
        np.testing.assert_allclose(found, want, rtol=50 * float(jnp.finfo(dtype).eps))


def test_gated_origin_spectra_keep_their_digits_in_slow_units():
    with mp.workdps(70):
        logistic = lambda v: 1 / (1 + mp.exp(-v))
        gru = float(exponent_of_the_disc(0.01, logistic(8), logistic(-8) / 2))
        lstm = float(exponent_of_the_disc(0.3, logistic(12), logistic(-9)))
    for dtype, rtol in ((jnp.float32, 2e-6), (jnp.float64, 1e-12)):
        found = recurrent.gru_origin_spectrum(dtype(0.01), dtype(1), keep_bias=dtype(8), reset_bias=dtype(0))
        np.testing.assert_allclose(found, gru, rtol=rtol)
        biases = {"forget_bias": dtype(12), "input_bias": dtype(-9), "output_bias": dtype(0)}
        np.testing.assert_allclose(recurrent.lstm_origin_spectrum(dtype(0.3), dtype(4), **biases), lstm, rtol=rtol)


# Linear units


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_sensitivity_of_a_linear_unit_is_its_sum(rho):
    l, lags = 0.8, np.arange(1, 400)
    correlation = rho ** np.abs(lags[:, None] - lags[None]) if rho else np.eye(lags.size)
    response, sensitivity = l ** (lags - 1.0), np.append(0, (lags[:-1]) * l ** (lags[:-1] - 1.0))
    np.testing.assert_allclose(recurrent.ar1_second_moment(l, rho), response @ correlation @ response, rtol=1e-12)
    np.testing.assert_allclose(recurrent.ar1_sensitivity(l, rho), sensitivity @ correlation @ sensitivity, rtol=1e-12)
    printed = {0.0: (10.256, 2052.63), 0.6: (37.448, None)}[rho]
    assert abs(float(recurrent.ar1_second_moment(0.95, rho)) - printed[0]) < 5.1e-4
    if printed[1]:
        assert abs(float(recurrent.ar1_sensitivity(0.95)) - printed[1]) < 5.1e-3


def test_lru_and_irnn():
    u = (np.arange(100_000) + 0.5) / 100_000
    modulus = np.exp(np.asarray(recurrent.lru_exponents(recurrent.lru_nu(u, 0.9, 0.99))))
    np.testing.assert_allclose(np.sort(modulus**2), 0.9**2 + (0.99**2 - 0.9**2) * u, rtol=1e-12)
    np.testing.assert_allclose(np.mean(1 / (1 - modulus**2)), recurrent.lru_gain(0.9, 0.99), rtol=1e-7)
    assert recurrent.irnn_exponents(jnp.array([2.0, 0.0, -1.0])).tolist() == [0.0, -np.inf, -np.inf]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_units_keep_their_digits_at_the_ends(dtype):
    def check(f, truth, first, second):
        with mp.workdps(60):
            pairs = [tuple(map(mp.mpf, map(float, pair))) for pair in zip(first, second, strict=True)]
            want = [float(truth(*pair)) for pair in pairs]
            slopes = [[float(mp.diff(truth, pair, order)) for pair in pairs] for order in ((1, 0), (0, 1))]
        eps = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(f(first, second), want, rtol=16 * eps)
        np.testing.assert_allclose(jax.vmap(jax.grad(f, (0, 1)))(first, second), slopes, rtol=64 * eps, atol=2 * eps)

    low = np.array([0, 0, 0.5, 0.9, 0.3, 1 - 5e-6, 0.2, 0], dtype)
    high = np.array([1e-4, 1e-9, 0.5 + 1e-6, 0.999, 0.43, 1 - 2e-6, 0.37, 0.3], dtype)
    gain = lambda a, b: mp.log((1 - a * a) / (1 - b * b)) / (b * b - a * a)
    check(recurrent.lru_gain, gain, low, high)
    assert recurrent.lru_gain(dtype(0), np.finfo(dtype).tiny) == 1
    l = np.array([0.99999, -0.99999, 0.9998, -0.9998, 0.4, -0.4, 0.999999], dtype)
    rho = np.array([0.9999, 0.9998, -0.9999, -0.99999, 0.6, 0.6, 0.0], dtype)
    check(recurrent.ar1_second_moment, lambda l, r: (1 + r * l) / ((1 - r * l) * (1 - l * l)), l, rho)
    white = lambda l: (1 + l * l) / (1 - l * l) ** 3
    square = lambda l, r: white(l) * (1 + r * l) / (1 - r * l) + 2 * r * l / ((1 - l * l) * (1 - r * l)) ** 2
    check(recurrent.ar1_sensitivity, square, l, rho)


# Outside the domain


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: recurrent.rate_network(0.0), "gain"),
        (lambda: recurrent.rate_network(2.0, input_variance=-1.0), "input_variance"),
        (lambda: recurrent.rate_network(2.0, activation="tahn"), "activation"),
        (lambda: recurrent.rate_spectrum(1.0, 2.0), "u"),
        (lambda: recurrent.gru(-1.0), "weight_variance"),
        (lambda: recurrent.gru(jnp.ones(4)), "weight_variance"),
        (lambda: recurrent.gru(1.0, form="after"), "form"),
        (lambda: recurrent.gru(1.0, form="reset_before", hidden_bias_variance=1.0), "hidden_bias_variance"),
        (lambda: recurrent.gru_critical(ratio=0.0), "ratio"),
        (lambda: recurrent.lstm(1.0, forget_bias=np.inf), "forget_bias"),
        (lambda: recurrent.lstm(1.0, bias_variance=jnp.ones(3)), "bias_variance"),
        (lambda: recurrent.minimal_rnn(0.0), "weight_variance"),
        (lambda: recurrent.leaky_origin_spectrum(0.5, 1.0, 1.5), "leak"),
        (lambda: recurrent.gru_origin_spectrum(0.0, 1.0), "u"),
        (lambda: recurrent.ar1_second_moment(1.0), "decay"),
        (lambda: recurrent.ar1_sensitivity(0.5, -1.0), "correlation"),
        (lambda: recurrent.lru_gain(0.9, 0.9), "r_max"),
        (lambda: recurrent.irnn_exponents(jnp.ones(2), -1.0), "scale"),
    ],
)
def test_values_outside_are_named(call, argument):
    with pytest.raises(ValueError, match=f"'{argument}'"):
        call()


def test_traced_values_outside_give_nan():
    outside = jax.jit(lambda g: (recurrent.rate_network(g), recurrent.gru(g)))
    for net in outside(-1.0):
        leaves = jax.tree.leaves(net)
        assert all(np.isnan(leaf) for leaf in leaves if leaf.dtype != bool)
        assert not bool(net.converged)
    curves = functools.partial(recurrent.leaky_origin_spectrum, 0.5)
    assert np.isnan(jax.jit(curves)(-1.0))
    assert np.isnan(jax.jit(recurrent.ar1_sensitivity)(1.5))


@pytest.mark.parametrize("excess", [1e-3, 1e-6, 1e-9])
def test_the_onset_of_the_rate_network(excess):
    """q = (g^2 - 1) / 2 + (17 / 12) (g^2 - 1)^2 + ... of tanh, which an iteration or a difference of q' and q does not resolve."""
    net = recurrent.rate_network(1 + excess)
    rise = (1 + excess) ** 2 - 1
    # g^2 (1 - 2 q + 17/3 q^2) = 1
    want = float(
        mp.findroot(lambda q: (1 + rise) * (1 - 2 * q + mp.mpf(17) / 3 * q**2 - mp.mpf(62) / 3 * q**3) - 1, rise / 2)
    )
    assert float(net.q) == pytest.approx(want, rel=1e-6 if excess < 1e-4 else 1e-5)
    assert abs(float(net.q) - want) <= float(net.error) * 2 + 100 * want**4 + 1e-15
    assert bool(net.converged)


@pytest.mark.parametrize(("name", "gain"), [("swish", 1.38), pytest.param("gelu", 1.35, marks=pytest.mark.slow)])
def test_spectrum_of_a_slope_with_zeros_and_several_branches(name, gain):
    """u = <y D^2 / (1 + y D^2)> by scipy, with breaks wherever y D^2 = 1: ln D^2 turns three times and has a cusp."""
    u = np.array([0.003, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
    found = np.asarray(recurrent.rate_spectrum(u, gain, activation=name, input_variance=0.1))
    assert np.isfinite(found).all()
    q = float(recurrent.rate_network(gain, activation=name, input_variance=0.1).q)
    density = lambda a: np.exp(-a * a / (2 * q)) / np.sqrt(2 * np.pi * q)
    squares = {
        "gelu": lambda a: (ndtr(a) + a * np.exp(-a * a / 2) / np.sqrt(2 * np.pi)) ** 2,
        "swish": lambda a: (expit(a) * (1 + a * expit(-a))) ** 2,
    }
    grid = np.linspace(-10, 10, 20001) * np.sqrt(q)
    for at, exponent in zip(u, found, strict=True):
        y = gain**2 * at * np.exp(-2 * exponent)
        hit = lambda a, y=y: (lambda s: s / (1 + s))(y * squares[name](a)) * density(a)
        sign = np.sign(np.log(y * squares[name](grid)))
        ends = np.array([grid[0], *grid[:-1][np.diff(sign) != 0], 0.0, grid[-1]])
        share = sum(quad(hit, a, b, epsabs=1e-13, limit=200)[0] for a, b in itertools.pairwise(np.unique(ends)))
        assert share == pytest.approx(at, abs=1e-7), (at, exponent)
