"""Mean field against printed numbers, closed forms, mpmath, SciPy and simulation."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy import integrate, special

from jacspec import activations
from jacspec.theory import mean_field as mf
from jacspec.theory.mean_field import correlation

# sigma_w^2: q*, xi_q, c*, chi_1, xi_c of tanh at sigma_b^2 = 0.05, and one unit of the last digit of each
PLANE = {
    1.0: (0.19359, 1.748, 1, 0.75903, 3.627),
    1.6: (0.47425, 1.621, 1, 0.96369, 27.04),
    1.8: (0.59413, 1.498, 0.95041, 1.00822, 125.8),
    2.0: (0.72176, 1.388, 0.74408, 1.04767, 25.21),
    3.0: (1.42801, 1.041, 0.29932, 1.20893, 9.051),
    4.0: (2.19549, 0.873, 0.16507, 1.34240, 6.980),
}
DIGITS = {1.6: 1e-2, 1.8: 1e-1, 2.0: 1e-2}
# q*: sigma_w^2, sigma_b^2 on the critical line of tanh, and one unit of their last digits
LINE = {
    0.01: (1.01971, 1.258e-6, 1e-5, 1e-9),
    0.1: (1.177569, 8.3228e-4, 1e-6, 1e-8),
    0.25: (1.393962, 8.12515e-3, 1e-6, 1e-8),
    0.5: (1.687975, 0.0380412, 1e-6, 1e-7),
    1.0: (2.153303, 0.1509646, 1e-6, 1e-7),
    1.5: (2.532482, 0.3140687, 1e-6, 1e-7),
}


@pytest.fixture(scope="module")
def plane():
    weights = jnp.asarray(list(PLANE))
    return jax.jit(jax.vmap(lambda w: mf.phase("tanh", weight_variance=w, bias_variance=0.05)))(weights)


def test_the_published_scan_to_its_digits(plane):
    assert bool(plane.converged.all())
    assert float(plane.error.max()) < 1e-11
    for k, (w, (q, xi_q, c, chi, xi_c)) in enumerate(PLANE.items()):
        found = [float(v[k]) for v in (plane.q_star, plane.xi_q, plane.c_star, plane.chi_1, plane.xi_c)]
        for value, want, unit in zip(
            found, (q, xi_q, c, chi, xi_c), (1e-5, 1e-3, 1e-5, 1e-5, DIGITS.get(w, 1e-3)), strict=True
        ):
            assert abs(value - want) <= 0.6 * unit, (w, value, want)


def test_the_scan_against_adaptive_quadrature(plane):
    """The fixed points and both slopes by SciPy, none of whose nodes are ours."""
    with mp.workdps(20):
        for k in (1, 4):
            q, w = float(plane.q_star[k]), list(PLANE)[k]
            mean = lambda f, q=q: float(mp.quad(lambda z: f(mp.sqrt(q) * z) * mp.npdf(z), [-12, -4, -1, 0, 1, 4, 12]))
            assert w * mean(lambda a: mp.tanh(a) ** 2) + 0.05 == pytest.approx(q, abs=1e-12)
            slope = mean(lambda a: mp.sech(a) ** 4 - 2 * mp.tanh(a) ** 2 * mp.sech(a) ** 2)
            assert -1 / math.log(w * slope) == pytest.approx(float(plane.xi_q[k]), rel=1e-10)
    q, c, w = float(plane.q_star[4]), float(plane.c_star[4]), 3.0

    def overlap(f):
        inner = lambda y, x: (
            f(math.sqrt(q) * x)
            * f(math.sqrt(q) * (c * x + math.sqrt(1 - c * c) * y))
            * math.exp(-0.5 * (x * x + y * y))
        )
        return integrate.dblquad(inner, -9, 9, -9, 9, epsabs=1e-9, epsrel=1e-9)[0] / (2 * math.pi)

    assert (w * overlap(math.tanh) + 0.05) / q == pytest.approx(c, abs=1e-8)
    assert -1 / math.log(w * overlap(lambda a: math.cosh(a) ** -2)) == pytest.approx(float(plane.xi_c[4]), rel=1e-6)


def test_the_critical_line_both_ways():
    weights, biases = (np.array(v) for v in zip(*((w, b) for w, b, *_ in LINE.values()), strict=True))
    by_bias = jax.jit(jax.vmap(lambda b: mf.critical_weight_variance("tanh", bias_variance=b)))
    by_weight = jax.jit(jax.vmap(lambda w: mf.critical_bias_variance("tanh", weight_variance=w)))
    step = 1e-4
    above, below = (np.asarray(by_weight(jnp.asarray(weights + s)).bias_variance) for s in (step, -step))
    slopes = 2 * step / (above - below)  # d sigma_w^2 / d sigma_b^2 along the line
    forth, back = by_bias(jnp.asarray(biases)), by_weight(jnp.asarray(weights))
    assert bool((forth.converged & back.converged).all())
    for k, (q, (w, b, unit_w, unit_b)) in enumerate(LINE.items()):  # what is printed of one coordinate moves the other
        assert abs(float(forth.weight_variance[k]) - w) <= 0.6 * unit_w + 0.5 * unit_b * slopes[k]
        assert abs(float(forth.q_star[k]) / q - 1) < 1e-5
        assert abs(float(back.bias_variance[k]) - b) <= 0.6 * unit_b + 0.5 * unit_w / slopes[k]
    ask = lambda b: mf.critical_weight_variance("tanh", bias_variance=b)
    found, slope = jax.jit(lambda b: (ask(b), jax.grad(lambda b: ask(b).weight_variance)(b)))(0.05)
    assert float(found.weight_variance) == pytest.approx(1.7609546, abs=5e-8)
    assert float(found.q_star) == pytest.approx(0.5700479, abs=5e-8)
    there = by_weight(found.weight_variance + jnp.asarray([0, step, -step, 0, 0, 0])).bias_variance
    assert float(there[0]) == pytest.approx(0.05, abs=1e-12)
    assert float(slope) == pytest.approx(2 * step / float(there[1] - there[2]), rel=1e-6)  # of the difference


def test_activations_with_closed_forms():
    selu_alpha, selu_scale = activations.SELU_ALPHA, activations.SELU_SCALE
    want = selu_scale**2 * (0.5 + selu_alpha**2 * math.e**2 * special.ndtr(-2))
    assert float(mf.chi("selu", 1.0, weight_variance=1.0)) == pytest.approx(want, abs=1e-13)
    assert want == pytest.approx(1.0715750, abs=5e-8)
    assert float(mf.variance_map("selu", 1.0, weight_variance=1.0)) == pytest.approx(1, abs=1e-13)
    q = 3.7
    assert float(mf.chi("erf", q, weight_variance=1.0)) == pytest.approx(
        4 / (math.pi * math.sqrt(1 + 4 * q)), rel=1e-13
    )
    want = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
    assert float(mf.variance_map("erf", q, weight_variance=1.0)) == pytest.approx(want, rel=1e-13)
    assert float(mf.chi("hard_tanh", q, weight_variance=1.0)) == pytest.approx(
        math.erf(1 / math.sqrt(2 * q)), rel=1e-13
    )
    assert float(mf.variance_fixed_point("relu", weight_variance=1.0, bias_variance=0.3).value) == pytest.approx(
        0.6, rel=1e-14
    )
    square = mf.elementwise(lambda a: jnp.where(a > 0.5, a, 0.5), kinks=(0.5,))
    assert float(mf.chi(square, 1.0, weight_variance=1.0)) == pytest.approx(special.ndtr(-0.5), rel=1e-13)


def test_criticality_is_special_cased():
    for w in (0.3, 1.0):
        found = mf.phase("tanh", weight_variance=w)
        assert float(found.q_star) == 0
        assert float(found.chi_1) == pytest.approx(w, abs=1e-15)
        assert bool(found.converged)
    assert math.isinf(float(found.xi_c))
    for excess in (1e-3, 1e-6):  # q = (sw2 - 1)/2 + O(2) from q' = sw2 (q - 2 q^2 + 17/3 q^3)
        q = float(mf.variance_fixed_point("tanh", weight_variance=1 + excess).value)
        assert q == pytest.approx(excess / 2, rel=2 * excess)
    q = float(mf.variance_fixed_point("tanh", weight_variance=1.0, bias_variance=1e-10).value)  # 2 q^2 = sb2
    assert q == pytest.approx(math.sqrt(0.5e-10), rel=1e-4)
    relu = mf.phase("relu", weight_variance=2.0, q=0.7)
    assert (float(relu.q_star), float(relu.chi_1)) == pytest.approx((0.7, 1), abs=1e-14)
    lost = mf.phase("relu", weight_variance=2.5)
    assert not bool(lost.converged)
    assert math.isinf(float(lost.q_star))


@pytest.mark.parametrize("c", [-0.9, 0.0, 0.3, 0.9, 0.999, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("q", [0.01, 3.0])
def test_routes_to_the_overlap_agree(q, c):
    q, c = jnp.asarray(q), jnp.asarray(c)
    x, size = 2 * float(q) * float(c) / (1 + 2 * float(q)), float(q)
    whole = 2 * size / (1 + 2 * size)
    sine = math.sqrt(1 - x * x)
    want = {
        "value": 2 / math.pi * math.asin(x),
        "slope": 4 / math.pi / ((1 + 2 * size) * sine),
        "gap": 2 / math.pi * (math.asin(whole) - math.asin(x)),
    }
    for how, room in (("series", 1e-13), ("quadrature", 2e-12)):
        found = correlation.overlap(activations.TABLE["erf"], how, q, c)
        for name, value in want.items():
            assert float(getattr(found, name)) == pytest.approx(value, abs=room), (how, name)
        assert abs(float(found.value) - want["value"]) <= float(found.error) + 1e-15
    for name in ("relu", "leaky_relu"):
        closed, found = (correlation.overlap(activations.TABLE[name], how, q, c) for how in ("closed", "quadrature"))
        for field in ("value", "gap"):
            assert float(getattr(found, field)) == pytest.approx(
                float(getattr(closed, field)), abs=2e-14 * max(1, size)
            )
        assert float(found.slope) == pytest.approx(float(closed.slope), abs=1e-12)


def test_relu_kernel_in_mpmath():
    for c in (-0.5, 0.2, 0.99):
        t = mp.acos(c)
        want = (mp.sin(t) + (mp.pi - t) * mp.cos(t)) / mp.pi
        assert float(mf.correlation_map("relu", c, 1.7, weight_variance=2.0)) == pytest.approx(float(want), abs=1e-14)


def test_the_bound_of_the_series_holds_where_it_is_short():
    """erf at q = 20 and 50: 128 terms do not reach, and say so."""
    for q in (20.0, 50.0):
        for c in (0.5, 0.97, 0.999, 1 - 1e-6):
            found = correlation.overlap(activations.TABLE["erf"], "series", jnp.asarray(q), jnp.asarray(c))
            want = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
            assert abs(float(found.value) - want) <= float(found.error) + 1e-15
    assert float(found.error) < 1e-6  # near c = 1 the term that stands for the rest is exact


def test_kinked_activations_are_solved_by_quadrature():
    """hard tanh: c* of E phi phi by SciPy with the conditional mean in closed form."""
    found = mf.phase("hard_tanh", weight_variance=2.0, bias_variance=0.05)
    q, c = float(found.q_star), float(found.c_star)
    s = math.sqrt(q * (1 - c * c))

    def conditional(m):  # E clip(m + s z, -1, 1)
        low, high = (-1 - m) / s, (1 - m) / s
        inside = special.ndtr(high) - special.ndtr(low)
        edge = (math.exp(-0.5 * low * low) - math.exp(-0.5 * high * high)) / math.sqrt(2 * math.pi)
        return -special.ndtr(low) + special.ndtr(-high) + m * inside + s * edge

    integrand = lambda u: (
        np.clip(u, -1, 1) * conditional(c * u) * math.exp(-0.5 * u * u / q) / math.sqrt(2 * math.pi * q)
    )
    overlap = integrate.quad(integrand, -12, 12, points=(-1, 0, 1), epsabs=1e-13, epsrel=1e-13)[0]
    assert (2 * overlap + 0.05) / q == pytest.approx(c, abs=1e-11)
    window = lambda u: (special.ndtr((1 - c * u) / s) - special.ndtr((-1 - c * u) / s)) * math.exp(-0.5 * u * u / q)
    slope = integrate.quad(window, -1, 1, epsabs=1e-13)[0] / math.sqrt(2 * math.pi * q)
    assert float(found.chi_c) == pytest.approx(2 * slope, abs=1e-11)


@pytest.mark.slow
def test_gradients_of_everything():
    """In the ordered and the chaotic phase, and where two inputs decorrelate wholly (sigma_b = 0, c* = 0)."""
    ask = lambda w, b: jnp.stack(mf.phase("tanh", weight_variance=w, bias_variance=b)[:6])
    w, b = jnp.asarray([1.2, 3.0, 3.0]), jnp.asarray([0.05, 0.05, 0.0])
    found = jax.jit(jax.vmap(jax.jacrev(ask, (0, 1))))(w, b)
    values, step = jax.jit(jax.vmap(ask)), 1e-4  # error of the difference: step^2 f'''/6, and f''' of xi_c is about 1e3
    by_w = (values(w + step, b) - values(w - step, b)) / (2 * step)
    by_b = (values(w, b + step) - values(w, b - step)) / (2 * step)  # NaN at sigma_b^2 < 0
    np.testing.assert_allclose(found[0], by_w, rtol=3e-5, atol=1e-9)
    np.testing.assert_allclose(found[1][:2], by_b[:2], rtol=3e-5, atol=1e-9)
    assert np.isfinite(found[1]).all()
    assert np.isnan(by_b[2]).all()


def test_rates_with_normalization():
    erf = (4 / (math.pi * math.sqrt(5))) / (2 / math.pi * math.asin(2 / 3))
    for name, want, unit in (("relu", 1, 1e-13), ("tanh", 1.17781, 5e-6), ("erf", erf, 1e-13), ("gelu", 1.07203, 5e-6)):
        for w in (0.5, 4.0):
            assert float(mf.normalized_chi(name, weight_variance=w)) == pytest.approx(want, abs=unit)
    assert float(mf.normalized_chi("relu", weight_variance=2.0, bias_variance=1.0, scale=3.0)) == pytest.approx(
        0.9, rel=1e-13
    )


def test_growth_with_normalization_in_a_finite_network():
    """tanh after LayerNorm: 40 layers of width 300, the rate within its scatter of a few per cent."""
    rng, n = np.random.default_rng(1), 300
    a, V, logs = rng.standard_normal(n), rng.standard_normal((n, 20)), []
    for _ in range(40):
        z, sd = (a - a.mean()) / a.std(), a.std()
        V = (V - V.mean(axis=0) - z[:, None] * (z @ V)[None] / n) / sd
        W = 1.7 * rng.standard_normal((n, n)) / np.sqrt(n)
        V = W @ ((1 - np.tanh(z) ** 2)[:, None] * V)
        a = W @ np.tanh(z)
        logs.append(np.log(np.mean(V**2)))
    assert (logs[-1] - logs[4]) / 35 == pytest.approx(math.log(1.17781), abs=0.02)


def test_residual_networks():
    grown = mf.residual_growth("tanh", 4000, weight_variance=1.0)
    assert float(grown.log_chi[-1]) / math.sqrt(4000) == pytest.approx(1.0803, abs=5e-5)
    a = float(mf.residual_sqrt_rate("tanh", weight_variance=1.0))
    assert a == pytest.approx(8 / 3 / math.sqrt(2 * math.pi), rel=1e-13)
    assert float(mf.residual_sqrt_rate("tanh", weight_variance=4.0, branch_scale=0.3)) == pytest.approx(
        0.6 * a, rel=1e-13
    )
    rise = float(grown.log_chi[4000] - grown.log_chi[2000]) / (math.sqrt(4000) - math.sqrt(2000))
    correction = 0.5 * 2 / math.sqrt(2 * math.pi) * math.log(2) / (math.sqrt(4000) - math.sqrt(2000))
    assert a < rise < a * (1 + correction)  # from p_l = l - 4 sqrt(l / 2 pi) + ..., E sech^2 ~ 2 / sqrt(2 pi p)
    relu = {
        form: mf.residual_growth("relu", 10, weight_variance=2.0, form=form) for form in ("weights_last", "normalized")
    }
    np.testing.assert_allclose(relu["weights_last"].variance, 2.0 ** np.arange(11), rtol=1e-13)
    np.testing.assert_allclose(relu["normalized"].variance, np.arange(1, 12), rtol=1e-13)
    np.testing.assert_allclose(relu["normalized"].log_chi, np.log(np.arange(1, 12)), atol=1e-13)
    assert float(mf.residual_growth("tanh", 3, weight_variance=2.0, branch_scale=0.0).log_chi[-1]) == 0
    assert math.isnan(float(mf.residual_sqrt_rate("relu", weight_variance=1.0)))


def test_residual_growth_counts_the_mean_of_the_activation():
    """x' = x + sigmoid(W x + b): simulated variance after 12 layers of width 1000."""
    rng, n = np.random.default_rng(2), 1000
    x = rng.standard_normal(n)
    x /= np.sqrt(np.mean(x**2))
    for _ in range(12):
        x = x + special.expit(rng.standard_normal((n, n)) @ x / np.sqrt(n))
    found = mf.residual_growth("sigmoid", 12, weight_variance=1.0).variance[-1]
    assert float(found) == pytest.approx(np.mean(x**2), rel=0.05)  # the mean, 6, has standard error 0.06
    assert float(found) > 36


def test_partial_jacobians_at_criticality():
    grown = mf.partial_jacobians("tanh", 2000, weight_variance=1.0)
    assert float(grown.log_chi[2000] - grown.log_chi[1000]) / math.log(2) == pytest.approx(-1.0012, abs=5e-5)
    assert float(2 * 2000 * grown.variance[2000]) == pytest.approx(1.0013, abs=5e-5)
    for name, want in (("tanh", -1), ("erf", -1), ("relu", 0), ("leaky_relu", 0), ("linear", 0)):
        assert float(mf.partial_jacobian_exponent(name)) == want
    assert math.isnan(float(mf.partial_jacobian_exponent("sigmoid")))
    bent = lambda a: jnp.tanh(a) + 0.3 * jnp.tanh(a) ** 2  # phi2 = 0.6: (0.36 - 2)/(2 - 0.27)
    deep = mf.partial_jacobians(bent, 4000, weight_variance=1.0)
    slope = float(deep.log_chi[4000] - deep.log_chi[2000]) / math.log(2)
    assert float(mf.partial_jacobian_exponent(bent)) == pytest.approx(-1.64 / 1.73, rel=1e-12)
    assert slope == pytest.approx(-1.64 / 1.73, rel=3e-3)


REFUSED = [
    (lambda: mf.phase("tanh", weight_variance=0.0), "weight_variance"),
    (lambda: mf.phase("tanh", weight_variance=1.0, bias_variance=-1.0), "bias_variance"),
    (lambda: mf.chi("tanh", -1.0, weight_variance=1.0), "q"),
    (lambda: mf.correlation_map("tanh", 1.5, 1.0, weight_variance=1.0), "c"),
    (lambda: mf.correlation_map("tanh", 0.5, 1.0, weight_variance=1.0, method="closed"), "method"),
    (lambda: mf.phase("tanh", weight_variance=jnp.ones(3)), "weight_variance"),
    (lambda: mf.residual_growth("tanh", 0, weight_variance=1.0), "depth"),
    (lambda: mf.residual_growth("tanh", 3, weight_variance=1.0, form="last"), "form"),
    (lambda: mf.variance_fixed_point("tahn", weight_variance=1.0), "activation"),
]


@pytest.mark.parametrize(("build", "argument"), REFUSED)
def test_bad_input_is_refused(build, argument):
    with pytest.raises(ValueError, match=rf"argument '{argument}'"):
        build()


def test_bad_input_is_nan_under_jit():
    ask = lambda w, b: mf.phase("tanh", weight_variance=w, bias_variance=b)
    found = jax.jit(jax.vmap(ask))(jnp.asarray([-1.0, 1.0]), jnp.asarray([0.05, -1.0]))
    assert all(np.isnan(v).all() for v in found[:6])
    assert not found.converged.any()


@pytest.mark.parametrize(("q", "bias"), [(1e-14, 3e-13), (1e-7, 1e-7), (1e-7, 4e-6), (1e-30, 4e-6)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_first_variance_below_the_bracket(q, bias, dtype):
    weights, bias, q = dtype(0.5), dtype(bias), dtype(q)
    found = mf.variance_fixed_point("linear", weight_variance=weights, bias_variance=bias, q=q)
    assert float(found.value) == pytest.approx(2 * float(bias), rel=8 * float(jnp.finfo(dtype).eps))
    assert found.converged


@pytest.mark.slow
def test_float32():
    found = mf.phase("tanh", weight_variance=jnp.float32(3), bias_variance=jnp.float32(0.05), q=jnp.float32(1))
    assert found.q_star.dtype == jnp.float32
    assert float(found.xi_c) == pytest.approx(9.0514557, rel=1e-4)
