"""Closed forms of Gaussian, rectangular and orthogonal matrices against quadrature, mpmath, print and simulation."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import stats

from jacspec.theory import random_matrix as rm


@pytest.mark.parametrize(("field", "half"), [("real", 0.5), ("complex", 1.0)])
def test_newman_exponents_and_variances_are_digammas(field, half):
    exponents, variances = rm.newman_exponents(5, weight_variance=1.7, field=field)
    with mpmath.workdps(30):
        k = [half * (5 - i) for i in range(5)]
        want = [(mpmath.log(1.7 / (half * 5)) + mpmath.psi(0, c)) / 2 for c in k]
        spread = [mpmath.psi(1, c) / 4 for c in k]
    np.testing.assert_allclose(exponents, [float(v) for v in want], rtol=1e-13)
    np.testing.assert_allclose(variances, [float(v) for v in spread], rtol=1e-13)


@pytest.mark.parametrize("field", ["real", "complex"])
def test_newman_exponents_against_simulated_qr_growths(field):
    n, T = 4, 20_000
    random = np.random.default_rng(0)
    W = random.standard_normal((T, n, n)) / np.sqrt(n)
    if field == "complex":
        W = (W + 1j * random.standard_normal((T, n, n)) / np.sqrt(n)) / np.sqrt(2)
    Q, growth = np.eye(n), []
    for A in W:
        Q, R = np.linalg.qr(A @ Q)
        growth.append(np.log(np.abs(np.diag(R))))
    growth = np.array(growth)
    exponents, variances = rm.newman_exponents(n, field=field)
    z = (growth.mean(0) - exponents) / np.sqrt(variances / T)
    assert np.abs(z).max() < 4
    np.testing.assert_allclose(growth.var(0) / variances, 1, atol=0.1)  # kurtosis 6 at most: 4 sd = 4 sqrt(7 / T)


def test_printed_newman_values():
    exponents, _ = rm.newman_exponents(8)
    np.testing.assert_allclose(exponents[jnp.array([0, 7])], [-0.0650884, -1.6749022], atol=6e-8)


def test_log_norm_growth_is_exact_at_finite_size_and_time():
    n, T, draws = 3, 5, 40_000
    W = np.random.default_rng(1).standard_normal((draws, T, n, n)) * np.sqrt(0.8 / n)
    v = np.tile(np.eye(n)[0], (draws, 1))
    for t in range(T):
        v = np.einsum("dij,dj->di", W[:, t], v)
    logs = np.log(np.linalg.norm(v, axis=1))
    mean, variance = rm.log_norm_growth(n, T, weight_variance=0.8)
    assert abs(logs.mean() - mean) < 4 * np.sqrt(variance / draws)
    assert abs(logs.var() / variance - 1) < 0.05  # 4 sqrt((kurtosis - 1) / draws), kurtosis below 4


def test_triangular_law_is_the_limit_of_newman():
    n = 2000
    exponents, _ = rm.newman_exponents(n, weight_variance=2.0)
    u = (np.arange(n) + 0.5) / n
    gap = np.asarray(exponents - rm.triangular_exponents(u, weight_variance=2.0))
    assert np.abs(gap[: n // 2]).max() < 2 / n  # psi(k) = ln k - 1 / (2 k) + ...
    sigma = jnp.exp(rm.triangular_exponents(u))
    np.testing.assert_allclose(1 - u, sigma**2, rtol=1e-12)
    assert rm.triangular_exponents(1.0) == -jnp.inf


def test_eigenvalues_of_a_product_of_three_fill_the_disk():
    n = 300
    W = np.random.default_rng(2).standard_normal((3, n, n)) / np.sqrt(n)
    r = np.sort(np.abs(np.linalg.eigvals(W[0] @ W[1] @ W[2])))
    gap = np.abs(rm.ginibre_product_cdf(r, 3) - (np.arange(n) + 0.5) / n).max()
    assert gap < 0.03  # rigid but for the edge layer of width n^-1/2
    assert rm.ginibre_product_cdf(2.0, 3) == 1


@pytest.mark.parametrize(("depth", "edge"), [(1, 4.0), (2, 6.75), (3, 256 / 27), (4, 3125 / 256), (5, 46656 / 3125)])
def test_fuss_catalan(depth, edge):
    np.testing.assert_allclose(rm.fuss_catalan_edge(depth), edge, rtol=1e-14)
    # in s = x^(1 / (L + 1)) the density has no pole at 0; in r = sqrt(edge - x) no root at the edge
    nodes, weights = np.polynomial.legendre.leggauss(60)
    nodes, weights = (nodes + 1) / 2, weights / 2
    s, r = nodes * 0.5 ** (1 / (depth + 1)), nodes * np.sqrt(edge - 0.5)
    x = np.concatenate([s ** (depth + 1), edge - r * r])
    w = np.concatenate([
        weights * 0.5 ** (1 / (depth + 1)) * (depth + 1) * s**depth, weights * np.sqrt(edge - 0.5) * 2 * r
    ])  # fmt: skip
    w = w * np.asarray(rm.fuss_catalan_density(x, depth))
    for k in (0, 1, 2):
        np.testing.assert_allclose(np.sum(w * x**k), rm.fuss_catalan_moment(k, depth), rtol=1e-10)
    np.testing.assert_allclose(np.sum(w[:60]), rm.fuss_catalan_cdf(0.5, depth), rtol=1e-10)
    for k in range(6):
        want = mpmath.binomial((depth + 1) * k, k) / (depth * k + 1)
        np.testing.assert_allclose(rm.fuss_catalan_moment(k, depth), float(want), rtol=1e-12)
    outside = jnp.asarray([-1.0, edge + 1])
    assert rm.fuss_catalan_density(outside, depth).tolist() == [0, 0]
    assert rm.fuss_catalan_cdf(outside, depth).tolist() == [0, 1]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(("x", "depth"), [(89.0885679841842, 34), (9.28554110254266, 3), (1e-6, 40), (50.0, 1000)])
def test_fuss_catalan_near_the_edge_and_at_great_depth(x, depth, x64):
    with jax.enable_x64(x64), mpmath.workdps(50):
        x = jnp.asarray(x)
        eps = float(jnp.finfo(x.dtype).eps)
        L, sin = mpmath.mpf(depth), mpmath.sin
        log = lambda t: (L + 1) * mpmath.log(sin((L + 1) * t)) - mpmath.log(sin(t)) - L * mpmath.log(sin(L * t))
        ends = [mpmath.pi / (L + 1) * share for share in (mpmath.mpf("1e-20"), 1 - mpmath.mpf("1e-20"))]
        t = mpmath.findroot(lambda t: log(t) - mpmath.log(mpmath.mpf(float(x))), ends, solver="anderson", maxsteps=400)
        s = (L + 1) * t
        density = sin(t) ** 2 * sin(L * t) ** (L - 1) / (mpmath.pi * sin(s) ** L)
        below = (mpmath.pi - s + L * sin(t) * sin(s) / sin(L * t)) / mpmath.pi
        edge = (L + 1) ** (L + 1) / L**L
        # an ulp of x moves the density by near / 2 of its own, and so does every term of the angle
        near = float(x) / float(edge - float(x))
        rtol = (50 * depth + 5 * near) * eps
        np.testing.assert_allclose(rm.fuss_catalan_density(x, depth), float(density), rtol=rtol)
        np.testing.assert_allclose(rm.fuss_catalan_cdf(x, depth), float(below), rtol=50 * eps)
        np.testing.assert_allclose(rm.fuss_catalan_edge(depth), float(edge), rtol=4 * eps)
        np.testing.assert_allclose(rm.fuss_catalan_edge(1e6), 2718283.187599846, rtol=4 * eps)


def test_fuss_catalan_at_depth_one_is_marchenko_pastur_at_aspect_one():
    x = jnp.asarray([1e-6, 0.1, 1.0, 3.0, 3.9])
    np.testing.assert_allclose(rm.fuss_catalan_density(x, 1), rm.marchenko_pastur_density(x, 1.0), rtol=1e-11)
    np.testing.assert_allclose(rm.fuss_catalan_cdf(x, 1), rm.marchenko_pastur_cdf(x, 1.0), rtol=1e-11)


def test_the_density_is_the_derivative_of_the_distribution_function():
    laws = (
        (rm.fuss_catalan_cdf, rm.fuss_catalan_density, 3.0, 2.2),
        (rm.marchenko_pastur_cdf, rm.marchenko_pastur_density, 2.5, 1.3),
        (rm.haar_block_cdf, rm.haar_block_density, 3.0, 0.4),
    )
    for cdf, density, parameter, x in laws:
        np.testing.assert_allclose(jax.grad(cdf)(x, parameter), density(x, parameter), rtol=1e-10)


@pytest.mark.parametrize("aspect", [0.3, 1.0, 2.5])
def test_marchenko_pastur(aspect):
    low, high = map(float, rm.marchenko_pastur_edges(aspect))
    assert np.allclose([low, high], [(1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2])
    atom = max(0.0, 1 - 1 / aspect)
    # Chebyshev nodes of the second kind: exact for polynomials against sqrt((b - x)(x - a))
    t = np.arange(1, 2001) * np.pi / 2001
    x = (low + high) / 2 + (high - low) / 2 * np.cos(t)
    w = np.pi / 2001 * (high - low) / 2 * np.sin(t)
    for k, want in enumerate((1 - atom, 1.0, 1 + aspect)):
        exact = 1e-3 if aspect == 1.0 and k == 0 else 1e-10  # 1 / x at the hard edge converges as 1 / points
        np.testing.assert_allclose(np.sum(w * x**k * rm.marchenko_pastur_density(x, aspect)), want, atol=exact)
    middle = (low + high) / 2
    nodes, weights = np.polynomial.legendre.leggauss(40)
    r = (nodes + 1) / 2 * np.sqrt(high - middle)  # x = b - r^2 takes the root at the edge away
    mass = np.sum(weights * r * rm.marchenko_pastur_density(high - r * r, aspect)) * np.sqrt(high - middle)
    np.testing.assert_allclose(1 - rm.marchenko_pastur_cdf(middle, aspect), mass, atol=1e-11)
    below, above = rm.marchenko_pastur_cdf(jnp.array([low - 1e-9, high + 1]), aspect)
    np.testing.assert_allclose([below if low > 1e-9 else atom, above], [atom, 1], atol=1e-12)


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_haar_block(blocks):
    edge = float(rm.haar_block_edge(blocks))
    np.testing.assert_allclose(np.sqrt(edge), {2: 1.0, 3: np.sqrt(8 / 9), 4: np.sqrt(3 / 4)}[blocks], rtol=1e-14)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t = (nodes + 1) * np.pi / 4  # x = b sin^2 t is smooth at both ends
    x = edge * np.sin(t) ** 2
    w = weights * np.pi / 4 * edge * np.sin(2 * t) * np.asarray(rm.haar_block_density(x, blocks))
    np.testing.assert_allclose([w.sum(), np.sum(w * x)], [1, 1 / blocks], atol=1e-10)
    n = 150
    A = np.random.default_rng(blocks).standard_normal((2, blocks * n, n))
    s = np.linalg.svd(np.linalg.qr(A)[0][:, :n], compute_uv=False).ravel() ** 2
    assert stats.kstest(s, lambda x: np.asarray(rm.haar_block_cdf(x, blocks))).statistic < 0.02  # rigid: O(1 / n)


@pytest.mark.parametrize("x64", [False, True])
def test_distribution_functions_of_narrow_and_wide_matrices(x64):
    shares = np.linspace(0.02, 0.98, 7)
    with jax.enable_x64(x64), mpmath.workdps(40):
        eps = float(jnp.finfo(jnp.asarray(0.0).dtype).eps)
        for c in (1e-9, 1e-6, 4e-3, 9.9e-3, 1.1e-2, 0.3, 0.999, 1.0, 1.7, 150.0, 1e6):
            c = mpmath.mpf(float(jnp.asarray(c)))
            root = mpmath.sqrt(c)
            low, high = (float(end) for end in ((1 - root) ** 2, (1 + root) ** 2))
            x = np.asarray(jnp.asarray(low + (high - low) * shares), float)
            t = [mpmath.acos(min(1, max(-1, (float(v) - 1 - c) / (2 * root)))) for v in x]
            inner = [abs(1 - c) * mpmath.atan(abs(1 - root) / (1 + root) * mpmath.tan(v / 2)) for v in t]
            above = [(1 + c) * v - 2 * root * mpmath.sin(v) - 2 * w for v, w in zip(t, inner, strict=True)]
            want = [float(1 - v / (2 * mpmath.pi * c)) for v in above]
            found = rm.marchenko_pastur_cdf(jnp.asarray(x), float(c))
            np.testing.assert_allclose(found, want, rtol=0, atol=4 * eps * (1 + high / (high - low)))
            ends = rm.marchenko_pastur_cdf(jnp.asarray([-1.0, 0.0, low / 2, 2 * high, np.inf]), float(c))
            atom = float(max(0, 1 - 1 / jnp.asarray(float(c))))
            np.testing.assert_array_equal(ends, [0, atom, atom, 1, 1])
        for k in (2.0, 3.0, 1e3, 1e6):
            edge = 4 * (mpmath.mpf(k) - 1) / k**2
            x = np.asarray(jnp.asarray(float(edge) * shares), float)
            t = [mpmath.asin(mpmath.sqrt(v / edge)) for v in x]
            a = 1 - 2 / mpmath.mpf(k)
            want = [float(k / mpmath.pi * (v - a * mpmath.atan(a * mpmath.tan(v)))) for v in t]
            np.testing.assert_allclose(rm.haar_block_cdf(x, k), want, rtol=32 * eps)
            ends = rm.haar_block_cdf(jnp.asarray([-1.0, 0.0, 1.5 * float(edge), np.inf]), k)
            np.testing.assert_array_equal(ends, [0, 0, 1, 1])
    outside = jax.vmap(jax.grad(rm.marchenko_pastur_cdf), (0, None))(jnp.array([0.1, 3.0]), 0.3)
    np.testing.assert_array_equal(outside, [0, 0])  # not NaN


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rm.newman_exponents(0), "width"),
        (lambda: rm.newman_exponents(3, weight_variance=-1.0), "weight_variance"),
        (lambda: rm.newman_exponents(3, field="quaternion"), "field"),
        (lambda: rm.log_norm_growth(3, -1), "steps"),
        (lambda: rm.triangular_exponents(1.5), "u"),
        (lambda: rm.ginibre_product_cdf(-1.0, 2), "radius"),
        (lambda: rm.ginibre_product_cdf(0.5, 0.5), "factors"),
        (lambda: rm.fuss_catalan_edge(0), "depth"),
        (lambda: rm.fuss_catalan_density(1.0, 0.5), "depth"),
        (lambda: rm.fuss_catalan_cdf(1.0, jnp.nan), "depth"),
        (lambda: rm.fuss_catalan_moment(-1, 2), "k"),
        (lambda: rm.marchenko_pastur_cdf(1.0, 0.0), "aspect"),
        (lambda: rm.haar_block_cdf(0.5, 1), "blocks"),
    ],
)
def test_parameters_outside_the_domain_are_named(call, name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        call()


def test_under_jit_a_parameter_outside_its_domain_gives_nan():
    for f in (rm.fuss_catalan_density, rm.fuss_catalan_cdf, rm.marchenko_pastur_density, rm.marchenko_pastur_cdf,
              rm.haar_block_density, rm.haar_block_cdf):  # fmt: skip
        assert np.isnan(jax.jit(f)(0.3, -1.0)), f
        assert np.isfinite(jax.jit(f)(0.3, 2.0)), f


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_moments_of_fuss_catalan_at_any_depth(dtype):
    """Against mpmath: relative error of a few roundings of the logarithm, also where the gamma functions are huge."""
    eps = float(jnp.finfo(dtype).eps)
    with mpmath.workdps(60):
        for k, depth in itertools.product((0, 0.5, 1, 2, 3, 5, 10, 40), (1, 1.5, 3, 10, 1000, 1e5, 1e12)):
            order, L = mpmath.mpf(float(dtype(k))), mpmath.mpf(float(dtype(depth)))
            want = mpmath.gamma((L + 1) * order + 1) / mpmath.gamma(L * order + 2) / mpmath.gamma(order + 1)
            if want < mpmath.mpf(float(jnp.finfo(dtype).max)):
                found = float(rm.fuss_catalan_moment(dtype(k), dtype(depth)))
                assert abs(found / want - 1) <= 8 * eps * (1 + order * mpmath.log(max(L * order, 1)))


def test_derivatives_of_the_moments_of_fuss_catalan():
    by_k, by_depth = jax.grad(rm.fuss_catalan_moment, (0, 1))(3.0, 1e5)
    with mpmath.workdps(40):
        moment = lambda k, L: mpmath.gamma((L + 1) * k + 1) / mpmath.gamma(L * k + 2) / mpmath.gamma(k + 1)
        assert float(by_k) == pytest.approx(float(mpmath.diff(lambda k: moment(k, mpmath.mpf(1e5)), 3)), rel=1e-12)
        assert float(by_depth) == pytest.approx(float(mpmath.diff(lambda L: moment(mpmath.mpf(3), L), 1e5)), rel=1e-12)


def test_moments_of_critical_products_do_not_drift_with_depth():
    """m1 = 1 and m2 = 1 + L / p to rounding: nothing is raised to the power L."""
    m1, m2 = rm.jacobian_moments(rm.bernoulli_slopes(0.3), 1e12)
    assert float(m1) == 1
    assert float(m2) == pytest.approx(1 + 1e12 / 0.3, rel=1e-15)
    _, m2 = rm.jacobian_moments(
        rm.SquaredSlopes(jnp.array([1.0, 1 + 1e-9]), jnp.array([0.5, 0.5])), 1e12, ensemble="orthogonal"
    )
    assert float(m2) == pytest.approx(1 + 1e12 * 0.25e-18, rel=1e-13)


def test_the_law_of_fuss_catalan_at_large_depth():
    """Density and distribution on the curve of t, in mpmath."""
    depth = 100_000
    with mpmath.workdps(40):
        for share in (0.1, 0.5, 0.9, 0.97):
            t = mpmath.pi / (depth + 1) * share
            lower, upper = mpmath.sin(depth * t), mpmath.sin((depth + 1) * t)
            x = float(
                mpmath.exp((depth + 1) * mpmath.log(upper) - mpmath.log(mpmath.sin(t)) - depth * mpmath.log(lower))
            )
            density = (
                mpmath.sin(t) ** 2 * mpmath.exp((depth - 1) * mpmath.log(lower) - depth * mpmath.log(upper)) / mpmath.pi
            )
            s = mpmath.pi - (depth + 1) * t
            below = (s + depth * mpmath.sin(t) * mpmath.sin(s) / lower) / mpmath.pi
            assert float(rm.fuss_catalan_density(x, depth)) == pytest.approx(float(density), rel=1e-9)
            assert float(rm.fuss_catalan_cdf(x, depth)) == pytest.approx(float(below), abs=1e-12)
