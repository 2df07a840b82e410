"""Mean field of recurrent networks against published numbers, adaptive quadrature, closed forms and simulation in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

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


# Gated cells


class Fresh:
    """W v for a fresh W, applied to several vectors at once: one explicit matrix."""

    def __init__(self, seed, n):
        self.rng, self.n = np.random.default_rng(seed), n

    def __call__(self, variance, *vectors):
        W = self.rng.standard_normal((self.n, self.n), dtype=np.float32) * np.float32(np.sqrt(variance / self.n))
        return (W @ np.stack(vectors, axis=1).astype(np.float32)).T.astype(float)

    def noise(self, variance):
        return np.sqrt(variance) * self.rng.standard_normal(self.n)


class Gram(Fresh):
    """The same in law: (W v_1, W v_2) has rows with the Gram matrix of the vectors as covariance. No matrix."""

    def __call__(self, variance, *vectors):
        V = np.stack(vectors, axis=1)
        return (np.sqrt(variance / self.n) * self.rng.standard_normal(V.shape) @ np.linalg.qr(V, mode="r")).T


def logistic(a, da):
    return expit(a), expit(a) * expit(-a) * da


def simulate_gru(
    fresh, steps, weights, r_bias=0.0, z_bias=0.0, noise=(0, 0, 0), hidden=0.0, form="reset_after", burn=40
):
    """Growth of the squared norm of a tangent vector per step, and <h^2>: written out, not through the package."""
    h, d = fresh.noise(0.25), fresh.noise(1)
    total, size = 0.0, []
    for t in range(burn + steps):
        a, da = fresh(weights[0], h, d)
        r, dr = logistic(a + fresh.noise(noise[0]) + r_bias, da)
        a, da = fresh(weights[1], h, d)
        z, dz = logistic(a + fresh.noise(noise[1]) + z_bias, da)
        if form == "reset_after":
            u, du = fresh(weights[2], h, d)
            u = u + fresh.noise(hidden)
            n = np.tanh(fresh.noise(noise[2]) + r * u)
            dn = (1 - n**2) * (r * du + dr * u)
            h, d = z * h + (1 - z) * n, z * d + dz * (h - n) + (1 - z) * dn
        else:
            u, du = fresh(weights[2], r * h, r * d + dr * h)
            n = np.tanh(fresh.noise(noise[2]) + u)
            dn = (1 - n**2) * du
            h, d = (1 - z) * h + z * n, (1 - z) * d + dz * (n - h) + z * dn
        norm = np.linalg.norm(d)
        d /= norm
        if t >= burn:
            total += 2 * np.log(norm)
            size.append(np.mean(h * h))
    return np.exp(total / steps), np.mean(size)


def simulate_lstm(fresh, steps, weights, biases=(0, 0, 0), noise=(0, 0, 0, 0), burn=60):
    """The same for the (c, h) of an LSTM, with <h^2> and <c^2>."""
    h, c, dh, dc = fresh.noise(0.25), fresh.noise(1), fresh.noise(1), fresh.noise(1)
    total, size, cell = 0.0, [], []
    for t in range(burn + steps):
        a = [
            fresh(w, h, dh) + np.stack([fresh.noise(v), np.zeros(fresh.n)]) for w, v in zip(weights, noise, strict=True)
        ]
        (i, di), (f, df), (o, do) = (logistic(a[k][0] + b, a[k][1]) for k, b in zip((0, 1, 3), biases, strict=True))
        g = np.tanh(a[2][0])
        dg = (1 - g**2) * a[2][1]
        c, dc = f * c + i * g, f * dc + df * c + di * g + i * dg
        s = np.tanh(c)
        h, dh = o * s, do * s + o * (1 - s**2) * dc
        norm = np.hypot(np.linalg.norm(dc), np.linalg.norm(dh))
        dc, dh = dc / norm, dh / norm
        if t >= burn:
            total += 2 * np.log(norm)
            size.append(np.mean(h * h))
            cell.append(np.mean(c * c))
    return np.exp(total / steps), np.mean(size), np.mean(cell)


GRUS = {
    "after, chaotic": ((16.0, 16.0, 16.0), {}),
    "after, keeps, driven": ((4.0, 8.0, 12.0), {"r_bias": 1.0, "z_bias": 2.0, "noise": (1, 0.5, 0.2), "hidden": 0.3}),
    "before, chaotic": ((20.0, 10.0, 20.0), {"form": "reset_before"}),
    "before, driven": ((6.0, 6.0, 6.0), {"z_bias": -1.0, "noise": (0.5, 1, 0.5), "form": "reset_before"}),
}
LSTMS = {
    "chaotic": ((25.0,) * 4, {}),
    "keeps": ((12.0,) * 4, {"biases": (0, 1, 0)}),
    "keeps long, driven": ((4.0,) * 4, {"biases": (0, 3, 0), "noise": (1, 1, 1, 1)}),
    "uneven": ((1.0, 30.0, 4.0, 9.0), {"biases": (-1, 2, 1), "noise": (0.1, 2, 0.5, 1)}),
}
# 60 steps of 1000 units: the rate scatters by about sqrt(6 / (1000 * 60)) = 1 %; 20,000 units and 200 steps: 0.15 %
SIZES = {"matrix": (Fresh, 1000, 60, 0.03), "law": (Gram, 20_000, 200, 0.006)}


def gru_theory(weights, r_bias=0.0, z_bias=0.0, noise=(0, 0, 0), hidden=0.0, form="reset_after"):
    options = {"reset_bias": r_bias, "update_bias": z_bias, "hidden_bias_variance": hidden, "form": form}
    return recurrent.gru(jnp.array(weights), input_variance=jnp.array(noise, float), **options)


def lstm_theory(weights, biases=(0, 0, 0), noise=(0, 0, 0, 0)):
    options = dict(zip(("input_bias", "forget_bias", "output_bias"), map(float, biases), strict=True))
    return recurrent.lstm(jnp.array(weights), input_variance=jnp.array(noise, float), **options)


MATRIX = functools.partial(pytest.param, "matrix", marks=pytest.mark.slow)


def of_law(cases, *quick):
    """All cases by the law of large numbers; those that are not named as quick are slow tests."""
    return [pytest.param("law", case, marks=[] if case in quick else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("kind", "case"), [MATRIX("after, chaotic"), *of_law(GRUS, "after, keeps, driven", "before, driven")]
)
def test_gru_with_fresh_weights(kind, case):
    (weights, options), (Source, n, steps, tolerance) = GRUS[case], SIZES[kind]
    chi, size = simulate_gru(Source(0, n), steps, weights, **options)
    net = gru_theory(weights, **options)
    assert bool(net.converged)
    np.testing.assert_allclose(chi, net.chi, rtol=tolerance)
    np.testing.assert_allclose(size, net.second_moment, rtol=2 * tolerance)
    np.testing.assert_allclose(net.leading, 0.5 * np.log(net.chi), rtol=1e-14)


@pytest.mark.parametrize(("kind", "case"), [MATRIX("keeps long, driven"), *of_law(LSTMS, "uneven")])
def test_lstm_with_fresh_weights(kind, case):
    (weights, options), (Source, n, steps, tolerance) = LSTMS[case], SIZES[kind]
    chi, size, cell = simulate_lstm(Source(0, n), steps, weights, **options)
    net = lstm_theory(weights, **options)
    assert bool(net.converged)
    np.testing.assert_allclose(chi, net.chi, rtol=tolerance)
    np.testing.assert_allclose(size, net.second_moment, rtol=2 * tolerance)
    np.testing.assert_allclose(cell, net.cell_second_moment, rtol=2 * tolerance)


def test_lstm_law_against_many_cells():
    """c' = f c + i g from independent gates: the output's second moment is the theory's fixed point."""
    rng, n = np.random.default_rng(1), 200_000
    weights, noise = 4.0, 1.0
    net = lstm_theory((weights,) * 4, (0, 3, 0), (noise,) * 4)
    s = np.sqrt(weights * float(net.second_moment) + noise)
    c = np.zeros(n)
    for _ in range(120):  # <f^2>^120 < 1e-8
        c = expit(3 + s * rng.standard_normal(n)) * c + expit(s * rng.standard_normal(n)) * np.tanh(
            s * rng.standard_normal(n)
        )
    h2 = (expit(s * rng.standard_normal(n)) * np.tanh(c)) ** 2
    for found, want in ((c**2, net.cell_second_moment), (h2, net.second_moment)):
        assert abs(found.mean() - float(want)) < 4 * found.std() / np.sqrt(n)


def test_minimal_rnn_with_fresh_weights():
    fresh, weight, bias, z2, noise = Gram(0, 20_000), 6.0, 0.5, 0.8, 0.3
    h, d = fresh.noise(1), fresh.noise(1)
    total = 0.0
    for t in range(240):
        z, (a, da) = fresh.noise(z2), fresh(weight, h, d)
        u, du = logistic(a + fresh.noise(noise) + bias, da)
        h, d = u * h + (1 - u) * z, u * d + du * (h - z)
        norm = np.linalg.norm(d)
        d /= norm
        total += 2 * np.log(norm) * (t >= 40)
    net = recurrent.minimal_rnn(weight, update_bias=bias, candidate_variance=z2, input_variance=noise)
    np.testing.assert_allclose(np.exp(total / 200), net.chi, rtol=0.006)
    np.testing.assert_allclose(np.mean(h * h), net.second_moment, rtol=0.03)
    assert net.error < 1e-12


def test_silent_gated_networks_in_closed_form():
    k, r = expit(1.0), expit(0.5)
    net = recurrent.gru(3.0, update_bias=1.0, reset_bias=0.5)
    assert float(net.second_moment) == 0
    np.testing.assert_allclose(net.chi, k**2 + (1 - k) ** 2 * r**2 * 3, rtol=1e-12)
    line = recurrent.gru_critical(update_bias=1.0, reset_bias=0.5)
    np.testing.assert_allclose(line.silent, (1 + k) / ((1 - k) * r**2), rtol=1e-12)
    # an active state, on one side of the line only, appears before the silent one is unstable
    line = recurrent.gru_critical(update_bias=1.0)
    assert not bool(line.continuous)
    assert line.weight_variance < 0.9 * line.silent
    below, above = (recurrent.gru(x * line.weight_variance, update_bias=1.0) for x in (0.9995, 1.0005))
    assert float(below.second_moment) == 0
    assert below.chi < 0.95
    assert above.second_moment > 0.03
    assert above.chi > 1.1
    i, f, o = expit(-0.5), expit(1.0), expit(0.3)
    net = lstm_theory((2.0,) * 4, (-0.5, 1.0, 0.3))
    assert float(net.second_moment) == 0
    np.testing.assert_allclose(net.chi, f**2 + (i * o) ** 2 * 2, rtol=1e-12)


def test_the_critical_line_of_the_gru():
    line = recurrent.gru_critical(input_variance=1.0, update_bias=1.0)
    assert bool(line.continuous)
    np.testing.assert_allclose(
        recurrent.gru(line.weight_variance, input_variance=1.0, update_bias=1.0).chi, 1, atol=1e-9
    )


@pytest.mark.slow
def test_derivatives_of_the_gru_and_of_its_critical_line():
    f = lambda b: recurrent.gru_critical(input_variance=1.0, update_bias=b).weight_variance
    np.testing.assert_allclose(jax.grad(f)(1.0), (f(1.001) - f(0.999)) / 0.002, rtol=1e-5)
    f = lambda s: recurrent.gru(s, update_bias=0.5, input_variance=0.3).chi
    np.testing.assert_allclose(jax.grad(f)(9.0), (f(9.001) - f(8.999)) / 0.002, rtol=1e-6)


@pytest.mark.slow
def test_the_critical_line_of_the_lstm():
    line = recurrent.lstm_critical(input_variance=1.0, forget_bias=1.0)
    assert bool(line.continuous)
    np.testing.assert_allclose(
        recurrent.lstm(line.weight_variance, input_variance=1.0, forget_bias=1.0).chi, 1, atol=1e-8
    )
    f = lambda b: recurrent.lstm(16.0, forget_bias=b).chi
    np.testing.assert_allclose(jax.grad(f)(0.3), (f(0.301) - f(0.299)) / 0.002, rtol=1e-5)
    silent = recurrent.lstm_critical(forget_bias=1.0)  # here the active state grows out of the silent one
    np.testing.assert_allclose(silent.weight_variance, silent.silent, rtol=1e-6)


# Shared weights at the silent state


def silent_exponents(center, radius, n, leak=1.0):
    W = np.random.default_rng(0).standard_normal((n, n)) / np.sqrt(n)
    return np.sort(np.log(np.abs(np.linalg.eigvals(center * np.eye(n) + radius * W))) / leak)[::-1]


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
