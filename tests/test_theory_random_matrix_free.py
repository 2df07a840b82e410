"""The law of J J^T: against algebra, printed numbers, an independent solver and simulated networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, lambertw

from jacspec.theory import random_matrix as rm
from jacspec.theory.random_matrix._spectral_law import _angle
from jacspec.theory.random_matrix.free import Product

HALF = rm.bernoulli_slopes(0.5)
CASES = [
    ("linear", 1.0, (2, 4, 16)), ("relu", 1.0, (2, 4, 16)), ("hard_tanh", 0.46, (2, 4, 16)), ("tanh", 0.57, (2, 16)),
    ("erf", 0.52, (4,)), ("selu", 1.0, (16,)), ("softplus", 1.0, (16,)), ("leaky_relu", 1.0, (2, 4, 16)),
]  # fmt: skip


def check_law(law, m1, m2, accuracy=1e-6):
    """Mass, moments, order and the distribution function of a law."""
    assert bool(law.converged)
    np.testing.assert_allclose(law.mass, 1, atol=accuracy)
    np.testing.assert_allclose([law.moment(1) / m1, law.moment(2) / m2], 1, atol=accuracy)
    assert (np.diff(law.log_x) > 0).all()
    # the closed form of the distribution function against the density summed up to half a cell
    summed = np.cumsum(law.weights) - np.asarray(law.weights) / 2 + law.zero
    summed = summed + np.where(law.log_x > law.log_atom, law.atom, 0)
    np.testing.assert_allclose(law.cumulative, summed, atol=2e-4)


@pytest.mark.parametrize("ensemble", ["gaussian", "orthogonal"])
@pytest.mark.parametrize(
    ("activation", "q", "depths"),
    [pytest.param(*case, marks=[] if case[0] in ("relu", "hard_tanh") else pytest.mark.slow) for case in CASES],
)
def test_mass_and_moments(activation, q, depths, ensemble):
    slopes = rm.squared_slopes(activation, q)
    if (activation, ensemble) == ("linear", "orthogonal"):
        law = rm.jacobian_law(slopes, 4, ensemble=ensemble)
        np.testing.assert_allclose([law.atom, law.log_atom, law.zero, law.mass], [1, 0, 0, 1], atol=1e-14)
        np.testing.assert_allclose(law.edges, 1, rtol=1e-14)
        assert law.weights.sum() == 0
        return
    for depth in depths:
        law = rm.jacobian_law(slopes, depth, ensemble=ensemble)
        check_law(law, *rm.jacobian_moments(slopes, depth, ensemble=ensemble))


@pytest.mark.parametrize("depth", [1, 2, 5, 64])
def test_linear_gaussian_networks_follow_fuss_catalan(depth):
    law = rm.jacobian_law(rm.bernoulli_slopes(1.0), depth)
    np.testing.assert_allclose(law.edges, [0, float(rm.fuss_catalan_edge(depth))], rtol=1e-12)
    log_x = np.asarray(law.log_x)
    shown = (log_x > -300) & (log_x < law.log_edges[1] - 1e-4)  # the angle loses 1 / (1 - x / edge) digits at the edge
    np.testing.assert_allclose(law.cumulative[shown], rm.fuss_catalan_cdf(law.x[shown], depth), atol=1e-11)
    np.testing.assert_allclose(law.density[shown], rm.fuss_catalan_density(law.x[shown], depth), rtol=1e-8)


@pytest.mark.parametrize(("p", "depth"), [(0.5, 2), (0.9, 5), (0.7, 20)])
def test_bernoulli_gaussian_edge_is_algebraic(p, depth):
    L = depth
    z = (-(L - 1) + np.sqrt((L - 1) ** 2 + 4 * L * p)) / (2 * L)
    edge = (1 + z) / z * ((z + p) / p) ** L
    law = rm.jacobian_law(rm.bernoulli_slopes(p), L)
    np.testing.assert_allclose(law.edges[1], edge, rtol=1e-8)
    np.testing.assert_allclose(law.zero, 1 - p, rtol=1e-14)
    np.testing.assert_allclose(rm.jacobian_moments(rm.bernoulli_slopes(p), L)[1], (L + p) / p, rtol=1e-12)


@pytest.mark.parametrize(("p", "depth"), [(0.5, 2), (0.5, 10), (0.9, 20), (0.9, 5), (0.99, 4)])
def test_bernoulli_orthogonal_edge_or_atom_is_algebraic(p, depth):
    L = depth
    law = rm.jacobian_law(rm.bernoulli_slopes(p), L, ensemble="orthogonal")
    np.testing.assert_allclose(law.edges[1], (1 - p) / p * L**L / (L - 1) ** (L - 1), rtol=1e-8)
    np.testing.assert_allclose(law.atom, max(0, 1 - L * (1 - p)), atol=1e-13)
    np.testing.assert_allclose(law.log_atom, -L * np.log(p), rtol=1e-13)
    check_law(law, 1, 1 + L * (1 - p) / p)


def test_two_projections_have_an_elementary_law():
    p = 0.3
    law = rm.jacobian_law(rm.bernoulli_slopes(p), 2, ensemble="orthogonal", weight_variance=1.0)
    edge = 4 * p * (1 - p)
    shown = law.x > 1e-6
    x = law.x[shown]
    np.testing.assert_allclose(law.density[shown], jnp.sqrt((edge - x) / x) / (2 * jnp.pi * (1 - x)), rtol=1e-9)


def test_one_gaussian_layer_of_relus_is_rectangular_marchenko_pastur():
    law = rm.jacobian_law(HALF, 1, weight_variance=1.0)
    np.testing.assert_allclose(law.edges, rm.marchenko_pastur_edges(0.5), rtol=1e-10)
    inner = 0.5 * rm.marchenko_pastur_density(law.x, 0.5)  # half of the rows are left
    np.testing.assert_allclose(law.density, inner, rtol=1e-9)


def test_printed_values():
    assert np.isclose(
        np.exp(rm.jacobian_law(rm.bernoulli_slopes(0.9), 5, ensemble="orthogonal").log_atom), 1.6935, atol=5e-5
    )
    edges = {(0.5, 4, "gaussian"): 21.86, (0.5, 4, "orthogonal"): 9.48, (0.9, 20, "orthogonal"): 5.89}
    for (p, L, ensemble), edge in edges.items():
        assert abs(float(rm.jacobian_law(rm.bernoulli_slopes(p), L, ensemble=ensemble).edges[1]) - edge) < 5e-3
    assert abs(float(rm.jacobian_law(HALF, 10, ensemble="orthogonal").edges[1]) - 25.81) < 5e-3


@pytest.mark.parametrize("ensemble", ["gaussian", "orthogonal"])
def test_tanh_against_a_root_continued_from_far_above_the_axis(ensemble):
    """An independent route: D^2 by the trapezoid rule over a, and Newton in w down to the axis from Im lambda = 100."""
    q, L, s2 = 0.57, 4, 1.76
    law = rm.jacobian_law(rm.squared_slopes("tanh", q), L, ensemble=ensemble, weight_variance=s2)
    a = np.linspace(-7, 7, 8001)
    density = np.exp(-a * a / (2 * q)) / np.sqrt(2 * np.pi * q) * (a[1] - a[0])

    def point(w):
        m = np.sum(w / (np.cosh(a) ** 4 - w) * density)
        each = s2 * m / ((1 + m) * w) * (1 + m if ensemble == "gaussian" else 1)
        return np.log((1 + m) / m) + L * np.log(each), m

    for i in np.searchsorted(law.cumulative, [0.02, 0.3, 0.9]):
        x = float(law.x[i])
        top = 100 * float(law.edges[1])
        mean = np.sum(density / np.cosh(a) ** 4)
        w = (s2 * mean) ** L / mean / (x - 1j * top)  # m ~ E x / lambda far above; Im lambda < 0 is Im w > 0
        for height in (*np.geomspace(top, 1e-4 * x, 80), 0.0):
            for _ in range(4):
                value = point(w)[0]
                rate = (point(w * (1 + 1e-6))[0] - point(w * (1 - 1e-6))[0]) / 2e-6  # d ln lambda / d ln w
                w = w * np.exp((np.log(x - 1j * height) - value) / rate)
        value, m = point(w)
        assert abs(np.exp(value) / x - 1) < 1e-8
        np.testing.assert_allclose(m.imag / np.pi, law.density_of_log[i], rtol=1e-6)


def test_each_ray_has_one_angle():
    """What the bisection rests on: Im phi / theta grows with theta."""
    theta, u = np.linspace(1e-3, np.pi - 1e-3, 300), jnp.log(jnp.array([0.3, 0.9, 1.1, 2.0, 30.0]))

    @jax.jit
    def angle_and_ratio(equation):
        found, _ = _angle(equation, u, jnp.asarray(1e-8))
        return found, equation(u, found).angle, equation(u[:, None] + 0 * theta, theta + 0 * u[:, None]).angle / theta

    for activation, q in (("relu", 1.0), ("leaky_relu", 1.0), ("swish", 1.0)):
        slopes = rm.squared_slopes(activation, q)
        for gaussian in (True, False):
            equation = Product(slopes, jnp.asarray(3.0), jnp.asarray(0.0), gaussian)
            found, height, ratio = angle_and_ratio(equation)
            assert (np.diff(ratio, axis=1) > -1e-9).all(), (activation, gaussian)
            on = np.asarray(found) > 1e-3
            assert np.abs(np.asarray(height)[on]).max() < 1e-12
            assert (np.asarray(ratio)[~on, 0] > 0).all()


@pytest.mark.slow
def test_distribution_function_between_the_points():
    law = rm.jacobian_law(HALF, 2, ensemble="orthogonal", weight_variance=1.0)
    log_x = jnp.linspace(-12, 0, 1001)
    np.testing.assert_allclose(law.cdf(log_x), (1 + rm.haar_block_cdf(jnp.exp(log_x), 2)) / 2, atol=2e-6)
    np.testing.assert_allclose(law.cdf(jnp.array([-jnp.inf, 9.0])), [0.5, 1], atol=1e-9)
    atomic = rm.jacobian_law(rm.bernoulli_slopes(0.9), 4, ensemble="orthogonal")
    np.testing.assert_allclose(atomic.cdf(atomic.log_atom + jnp.array([-1e-9, 0, 1e-9])), [0.4, 1, 1], atol=1e-7)
    linear = rm.jacobian_law(rm.bernoulli_slopes(1.0), 4, ensemble="orthogonal")
    np.testing.assert_allclose(linear.cdf(jnp.array([-1e-9, 0, 1e-9])), [0, 1, 1], atol=1e-12)


@pytest.mark.parametrize("ensemble", ["gaussian", pytest.param("orthogonal", marks=pytest.mark.slow)])
def test_simulated_layers(ensemble):
    """Fresh pre-activations; the tolerance is 1.5 / n for the rigid spectrum plus 4 / sqrt(n draws) of the slopes."""
    n, L, draws, q = 200, 3, 10, 0.57
    random = np.random.default_rng(0)
    slopes = rm.squared_slopes("tanh", q)
    law = rm.jacobian_law(slopes, L, ensemble=ensemble)
    scale = 1 / np.sqrt(float(slopes.moment(1)))
    values = []
    for _ in range(draws):
        J = np.eye(n)
        for _ in range(L):
            W = random.standard_normal((n, n)) / np.sqrt(n)
            W = np.linalg.qr(W)[0] if ensemble == "orthogonal" else W
            J = scale / np.cosh(random.normal(0, np.sqrt(q), n))[:, None] ** 2 * (W @ J)
        values.append(2 * np.log(np.linalg.svd(J, compute_uv=False)))
    log_x = np.sort(np.ravel(values))
    gap = lambda law: np.abs(np.asarray(law.cdf(log_x)) - (np.arange(log_x.size) + 0.5) / log_x.size).max()
    assert gap(law) < 1.5 / n + 0.5 / np.sqrt(n * draws)
    assert gap(rm.jacobian_law(HALF, L, ensemble=ensemble)) > 0.3  # it can tell


@pytest.mark.slow
def test_jit_vmap_and_derivatives():
    """Against the algebra of the Bernoulli class, p = erf(1 / sqrt(2 q)); and NaN where there is no law."""
    s2 = 1.7

    def numbers(q, depth):
        law = rm.jacobian_law(rm.squared_slopes("hard_tanh", q), depth, weight_variance=s2)
        return jnp.stack([law.log_edges[1], law.moment(1), law.moment(2), law.log_edges[0], law.density_of_log[9]])

    def closed(q, L):
        p = jax.scipy.special.erf(1 / jnp.sqrt(2 * q))
        z = (-(L - 1) + jnp.sqrt((L - 1) ** 2 + 4 * L * p)) / (2 * L)
        edge = jnp.log((1 + z) / z * (s2 * (z + p)) ** L)
        return jnp.stack([edge, (s2 * p) ** L, (s2 * p) ** (2 * L) * (L + p) / p])

    both = lambda f: jax.vmap(lambda q, depth: jnp.stack([f(q, depth), jax.jacrev(f)(q, depth)]))
    qs, depths = jnp.array([0.3, 0.9, 0.3]), jnp.array([3.0, 5.0, 0.5])
    found = jax.jit(both(numbers))(qs, depths)
    np.testing.assert_allclose(found[:2, :, :3], both(closed)(qs, depths)[:2], rtol=1e-8)
    assert np.isnan(found[2, 0]).all()


@pytest.mark.slow
def test_single_precision():
    """As accurate as `converged` promises: sqrt(eps)."""
    with jax.enable_x64(False):
        law = rm.jacobian_law(rm.bernoulli_slopes(0.5), 4)
        assert law.log_x.dtype == jnp.float32
        assert bool(law.converged)
        np.testing.assert_allclose([law.mass, law.moment(1), law.moment(2) / 9], 1, atol=3.5e-4)
        np.testing.assert_allclose(law.log_edges[1], 3.084578, rtol=1e-6)


def test_bad_input():
    no_slopes: Any = "tanh"
    with pytest.raises(ValueError, match="'depth'"):
        rm.jacobian_law(HALF, 0.5)
    with pytest.raises(ValueError, match="'weight_variance'"):
        rm.jacobian_law(HALF, 2, weight_variance=-1.0)
    with pytest.raises(ValueError, match="'ensemble'"):
        rm.jacobian_law(HALF, 2, ensemble="orthogonl")
    with pytest.raises(ValueError, match="'points'"):
        rm.jacobian_law(HALF, 2, points=3)
    with pytest.raises(TypeError, match="'slopes'"):
        rm.jacobian_law(no_slopes, 2)
    with pytest.raises(ValueError, match="'q'"):
        rm.squared_slopes("tanh", 0.0)
    with pytest.raises(ValueError, match="'p'"):
        rm.bernoulli_slopes(1.2)
    with pytest.raises(ValueError, match="'variance'"):
        rm.smooth_universality(0.0)


def test_a_law_that_is_not_resolved_says_so():
    assert not bool(rm.jacobian_law(rm.squared_slopes("tanh", 1.0), 1, ensemble="orthogonal").converged)
    assert not bool(rm.jacobian_law(rm.squared_slopes("leaky_relu", 1.0), 1).converged)


def test_piecewise_linear_activations_have_slopes_in_closed_form():
    for activation, values, alive in (
        ("relu", [0, 1], 0.5),
        ("hard_tanh", [0, 1], erf(1 / np.sqrt(1.4))),
        ("linear", [1], 1),
    ):
        slopes = rm.squared_slopes(activation, 0.7)
        np.testing.assert_array_equal(slopes.values, values)
        np.testing.assert_allclose(slopes.probabilities[-1], alive, rtol=1e-14)
    assert rm.squared_slopes("tanh", 0.7).values.size > 100
    numbers = jax.jit(lambda q: rm.squared_slopes("hard_tanh", q).moment(1))
    np.testing.assert_allclose(numbers(0.7), erf(1 / np.sqrt(1.4)), rtol=1e-14)


def test_slopes_of_smooth_activations():
    a = np.linspace(-16, 16, 40_001)
    density = np.exp(-a * a / 2) / np.sqrt(2 * np.pi) * (a[1] - a[0])
    slopes = rm.squared_slopes("tanh", 1.0)
    want = [np.sum(density / np.cosh(a) ** (4 * k)) for k in (1, 2, 3)]
    np.testing.assert_allclose([slopes.moment(k) for k in (1, 2, 3)], want, rtol=1e-12)
    assert slopes.error < 1e-10


def test_bernoulli_class_at_infinite_depth():
    for s in (0.25, 2.0):
        law = rm.bernoulli_universality(s)
        check_law(law, 1, 1 + s)
        np.testing.assert_allclose(law.edges, [0, s * np.e], rtol=1e-8)
        np.testing.assert_allclose([law.atom, law.log_atom], [max(0, 1 - s), s], rtol=1e-14)
        p = 1 / (1 + s / 4000)  # L (1 - p) / p = s
        deep = rm.jacobian_law(rm.bernoulli_slopes(p), 4000, ensemble="orthogonal")
        np.testing.assert_allclose(deep.edges[1], law.edges[1], rtol=1e-3)  # O(s / L)


def test_bernoulli_class_against_lambert_w():
    s = 2.0
    law = rm.bernoulli_universality(s)
    shown = np.asarray(law.x) > 1e-6
    x = np.asarray(law.x)[shown]
    u = -lambertw(-s / x + 0j) / s
    density = np.abs(((1 + u / (1 - u)) / x).imag) / np.pi
    np.testing.assert_allclose(law.density[shown], density, rtol=1e-7)


@pytest.mark.parametrize(("s", "low", "high"), [(0.25, 0.3213, 2.424), (2.0, 0.01744, 7.760)])
def test_smooth_class_at_infinite_depth(s, low, high):
    law = rm.smooth_universality(s)
    check_law(law, 1, 1 + s)
    m = (-1 + np.array([-1, 1]) * np.sqrt(1 + 4 / s)) / 2
    np.testing.assert_allclose(law.edges, (1 + m) / m * np.exp(s * m), rtol=1e-8)
    np.testing.assert_allclose(law.edges, [low, high], atol=5e-4)


@pytest.mark.parametrize(
    ("c", "low", "high"), [(0.25, 0.2362, 4.234), pytest.param(1.0, 0.0474, 21.09, marks=pytest.mark.slow)]
)
def test_residual_class(c, low, high):
    law = rm.residual_law(c)
    check_law(law, np.exp(c), np.exp(2 * c) * (1 + 2 * c))
    np.testing.assert_allclose(law.edges, [low, high], rtol=5e-4)
    np.testing.assert_allclose(law.edges[0] * law.edges[1], 1, rtol=1e-8)
    np.testing.assert_allclose(law.cdf(-law.log_x), 1 - law.cumulative, atol=1e-5)  # the law of 1 / lambda is the same
    if c == 0.25:  # printed for a density that was integrated to 0.9993
        np.testing.assert_allclose(law.cdf(jnp.log(jnp.array([0.5, 1.0, 2.0]))), [0.203, 0.504, 0.794], atol=5e-3)
