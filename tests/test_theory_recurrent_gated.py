"""Mean field of gated cells against simulation in NumPy, closed forms and their critical lines."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.special import expit

from jacspec.theory import recurrent


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


@pytest.mark.slow
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


Z, P = np.polynomial.hermite_e.hermegauss(60)
P = P / P.sum()


def mean(f, variance):
    """E f(a), a ~ N(0, variance), by Gauss and Hermite; f along the last axis."""
    return f(np.sqrt(variance) * Z) @ P


def sigmoid_slope(a):
    return expit(a) * expit(-a)


def gru_by_hand(weights, noise, r_bias, z_bias, hidden, form):
    """<h^2> and chi from the equations at the head of the module, each gate with variances of its own."""
    (w_r, w_z, w_n), (x_r, x_z, x_n) = weights, noise

    def step(q):
        z, r = np.sqrt(w_z * q + x_z) * Z + z_bias, np.sqrt(w_r * q + x_r) * Z + r_bias
        opened, closed = expit(z) ** 2 @ P, expit(-z) ** 2 @ P
        keep, replace = (opened, closed) if form == "reset_after" else (closed, opened)
        if form == "reset_before":
            v = w_n * (expit(r) ** 2 @ P) * q + x_n
            new, steep = mean(lambda a: np.tanh(a) ** 2, v), mean(lambda a: np.cosh(a) ** -4.0, v)
            passed = w_n * steep * (expit(r) ** 2 @ P + w_r * q * (sigmoid_slope(r) ** 2 @ P))
        else:
            x, u = np.sqrt(x_n) * Z[:, None], np.sqrt(w_n * q + hidden) * Z  # the parts of the candidate, drawn apart
            a = x + expit(r)[:, None, None] * u
            new = ((np.tanh(a) ** 2 @ P) @ P) @ P
            steep = np.cosh(a) ** -4.0
            passed = w_n * (expit(r) ** 2 * ((steep @ P) @ P) @ P)
            passed += w_r * (sigmoid_slope(r) ** 2 * ((steep * u**2 @ P) @ P) @ P)
        moved = sigmoid_slope(z) ** 2 @ P
        return replace * new / (1 - keep), keep + w_z * moved * (q + new) + replace * passed

    q = 0.1
    for _ in range(100):
        q = step(q)[0]
    return q, step(q)[1]


@pytest.mark.parametrize("form", ["reset_after", "reset_before"])
def test_every_gate_of_the_gru_has_its_own_variances(form):
    """No two variances are equal, and each moves the answer far beyond the tolerance."""
    weights, noise, hidden = (2.0, 5.0, 1.2), (0.7, 0.25, 0.4), 0.3 if form == "reset_after" else 0.0

    def both(weights, noise):
        net = gru_theory(weights, 0.5, -0.4, noise, hidden, form)
        return np.array([net.second_moment, net.chi]), np.array(gru_by_hand(weights, noise, 0.5, -0.4, hidden, form))

    found, want = both(weights, noise)
    np.testing.assert_allclose(found, want, rtol=1e-8)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for which in (weights, noise):
            swapped = list(which)
            swapped[first] = which[second]
            other = gru_by_hand(
                *((swapped, noise) if which is weights else (weights, swapped)), 0.5, -0.4, hidden, form
            )
            assert np.abs(np.array(other) / want - 1).max() > 1e-4  # the test can tell


def lstm_by_hand(weights, noise, biases):
    """<h^2>, <c^2> and chi where the candidate is small: tanh c = c, and dc is not correlated with c."""
    (w_i, w_f, w_g, w_o), (x_i, x_f, x_g, x_o) = weights, noise
    q = 0.0
    for _ in range(60):
        i, f, o = (np.sqrt(w * q + x) * Z + b for w, x, b in zip((w_i, w_f, w_o), (x_i, x_f, x_o), biases, strict=True))
        g2, i2, f2, o2 = mean(lambda a: np.tanh(a) ** 2, w_g * q + x_g), *(expit(a) ** 2 @ P for a in (i, f, o))
        c2 = i2 * g2 / (1 - f2)
        q = o2 * c2
    slopes = [sigmoid_slope(a) ** 2 @ P for a in (i, f, o)]
    by_h = w_g * i2 * mean(lambda a: np.cosh(a) ** -4.0, w_g * q + x_g) + w_i * slopes[0] * g2 + w_f * slopes[1] * c2
    step = np.array([[f2, by_h], [o2 * f2, o2 * by_h + w_o * slopes[2] * c2]])  # of (dc^2, dh^2)
    return np.array([q, c2, np.abs(np.linalg.eigvals(step)).max()])


def test_every_gate_of_the_lstm_has_its_own_variances():
    """What doubling one variance changes, gate by gate, for a candidate of order 1e-3: to that order."""
    weights, noise, biases = (3.0, 5.0, 1.5, 8.0), (0.6, 0.3, 1e-6, 0.9), (0.2, 0.7, -0.3)

    def both(weights, noise):
        net = lstm_theory(weights, biases, noise)
        return np.array([net.second_moment, net.cell_second_moment, net.chi]), lstm_by_hand(weights, noise, biases)

    found, want = both(weights, noise)
    np.testing.assert_allclose(found, want, rtol=1e-4)
    for gate in range(4):
        double = lambda values, gate=gate: tuple(v * (2 if k == gate else 1) for k, v in enumerate(values))
        # through h^2 a weight moves chi by 1e-6 of it; an input by much more, and that of the candidate by what is left out
        for changed, room in (((double(weights), noise), 1e-9), ((weights, double(noise)), 1e-6)):
            after, expected = both(*changed)
            np.testing.assert_allclose((after - found) / found, (expected - want) / want, rtol=0.02, atol=room)


def test_the_error_of_a_fixed_point_holds_where_it_is_nearly_double():
    """Beside the fold at which the active state of a GRU appears, roundings of F(q) are carried to q by 1 / abs(1 - F')."""
    line = recurrent.gru_critical(update_bias=-2.0, form="reset_before")
    assert not bool(line.continuous)
    z = [mp.mpf(k) / 16 for k in range(-160, 161)]
    weights = [mp.exp(-x * x / 2) for x in z]
    mean = lambda f: sum(w * f(x) for w, x in zip(weights, z, strict=True)) / sum(weights)
    logistic = lambda a: 1 / (1 + mp.exp(-a))

    def image(v, q):
        s = mp.sqrt(v * q)
        r_square = mean(lambda x: logistic(s * x) ** 2)
        k = [logistic(s * x - 2) for x in z]  # the gate that replaces
        average = lambda f: sum(w * f(g) for w, g in zip(weights, k, strict=True)) / sum(weights)
        new = mean(lambda x: mp.tanh(s * mp.sqrt(r_square) * x) ** 2)
        return average(lambda g: g**2) * new / (1 - average(lambda g: (1 - g) ** 2))

    for more in (1e-3, 1e-2):
        v = float(line.weight_variance) * (1 + more)
        found = recurrent.gru(v, update_bias=-2.0, form="reset_before")
        q = float(found.second_moment)
        true = mp.findroot(lambda q, v=v: image(mp.mpf(v), q) / q - 1, (q * (1 - 1e-6), q * (1 + 1e-6)))
        slope = mp.diff(lambda q, v=v: image(mp.mpf(v), q), true)
        assert abs(float(q - true)) <= float(found.error), (more, float(q - true), float(slope))
        assert found.error >= 2**-50 * q / abs(1 - float(slope))  # no less than what a rounding of F makes
        assert found.error < 1e-9
