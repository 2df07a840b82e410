"""Rates of normalized networks against closed forms, other quadratures and simulated networks; invariances as measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.special import erf, expit, gammaln, ndtr, roots_gegenbauer

from jacspec.activations import TABLE, Activation
from jacspec.theory import normalization

bell = lambda a: np.exp(-0.5 * a * a) / np.sqrt(2 * np.pi)
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772

# f and f' in NumPy, apart from the table of the package
FUNCTIONS = {
    "linear": (lambda a: a, np.ones_like),
    "tanh": (np.tanh, lambda a: np.cosh(a) ** -2.0),
    "sigmoid": (expit, lambda a: expit(a) * expit(-a)),
    "relu": (lambda a: np.maximum(a, 0), lambda a: 1.0 * (a > 0)),
    "selu": (
        lambda a: SCALE * np.where(a > 0, a, ALPHA * np.expm1(np.minimum(a, 0))),
        lambda a: SCALE * np.where(a > 0, 1, ALPHA * np.exp(np.minimum(a, 0))),
    ),
    "gelu": (lambda a: a * ndtr(a), lambda a: ndtr(a) + a * bell(a)),
    "swish": (lambda a: a * expit(a), lambda a: expit(a) * (1 + a * expit(-a))),
    "softplus": (lambda a: np.logaddexp(0, a), expit),
    "hard_tanh": (lambda a: np.clip(a, -1, 1), lambda a: 1.0 * (np.abs(a) <= 1)),
    "erf": (erf, lambda a: 2 / np.sqrt(np.pi) * np.exp(-a * a)),
}


def assembled(B, square, product, slopes, through):
    """The rate from E f^2, E f1 f2, E f'^2 (B - 1 - z^2) and E f1' f2' (1 + z1 z2)."""
    return (slopes + through) / ((B - 3) * (square - product))


@pytest.mark.parametrize("batch", [4, 5, 8, 100, 1e5])
def test_closed_forms_of_relu_and_linear(batch):
    for name, exact in (("relu", normalization.batch_norm_rate_relu), ("linear", normalization.batch_norm_rate_linear)):
        found = normalization.batch_norm_rate(name, batch)
        assert abs(float(found.log_rate - exact(batch).log_rate)) < 1e-13
        assert bool(found.converged)
    assert float(normalization.batch_norm_rate_linear(batch).rate) == pytest.approx(
        (batch - 2) / (batch - 3), rel=1e-14
    )


def test_published_values():
    relu = normalization.batch_norm_rate_relu(jnp.array([8, 256, 1e12])).rate
    np.testing.assert_allclose(relu, [1.7882, 1.4732, np.pi / (np.pi - 1)], atol=5e-5)
    assert float(normalization.batch_norm_rate_limit("relu").rate) == pytest.approx(np.pi / (np.pi - 1), rel=1e-13)
    assert float(normalization.batch_norm_rate_limit("tanh").rate) == pytest.approx(1.1778, abs=5e-5)
    assert float(normalization.batch_norm_rate_limit("linear").log_rate) == pytest.approx(0, abs=1e-14)
    assert 16 * float(normalization.batch_norm_rate_limit("relu").depth) == pytest.approx(41.8, abs=0.05)
    found = normalization.batch_norm_statistics("relu", 8)
    c = -1 / 7
    J = (np.sqrt(1 - c * c) + (np.pi - np.arccos(c)) * c) / np.pi
    np.testing.assert_allclose([found.variance, found.correlation], [0.5, J], rtol=1e-13)


def funk_hecke(name, B, degree=200):
    """The four means by Gegenbauer's polynomials: E f(z1) g(z2) = sum_l f_l g_l P_l(-1/(B-1)), P_l(1) = 1."""
    dimension = B - 1
    f, d = FUNCTIONS[name]
    t, w = roots_gegenbauer(degree, (dimension - 2) / 2)
    w = w / w.sum()
    z, rho = np.sqrt(dimension) * t, -1 / dimension
    # P_l by the three-term recurrence; the dimension of the space of harmonics is 1 / E P_l^2
    polynomials, values = [np.ones_like(t), t], [1.0, rho]
    for l in range(1, degree - 1):
        a, b = (2 * l + dimension - 2) / (l + dimension - 2), l / (l + dimension - 2)
        polynomials.append(a * t * polynomials[l] - b * polynomials[l - 1])
        values.append(a * rho * values[l] - b * values[l - 1])
    P, P_rho = np.array(polynomials), np.array(values)
    size = np.sum(w * P**2, axis=1)
    product = lambda u: np.sum(np.sum(w * u * P, axis=1) ** 2 / size * P_rho)
    through = product(d(z)) + product(z * d(z))
    return assembled(B, np.sum(w * f(z) ** 2), product(f(z)), np.sum(w * d(z) ** 2 * (B - 1 - z * z)), through)


@pytest.mark.parametrize(("name", "batch"), [("tanh", 4), ("tanh", 8), ("gelu", 12), ("sigmoid", 64), ("erf", 300)])
def test_smooth_activations_against_gegenbauer_series(name, batch):
    found = normalization.batch_norm_rate(name, batch)
    assert float(found.rate) == pytest.approx(funk_hecke(name, batch), rel=1e-11)
    assert bool(found.converged)
    assert float(found.error) < 1e-6


def test_hard_tanh_against_nested_adaptive_quadrature():
    B = 6
    f, d = FUNCTIONS["hard_tanh"]
    k, rho = B - 1, -1 / (B - 1)

    def density(t, dimension):
        return (
            np.exp(gammaln(dimension / 2) - gammaln((dimension - 1) / 2))
            / np.sqrt(np.pi)
            * (1 - t * t) ** ((dimension - 3) / 2)
        )

    def one(u):
        edge = 1 / np.sqrt(k)
        return integrate.quad(lambda t: u(np.sqrt(k) * t) * density(t, k), -1, 1, points=[-edge, edge], epsabs=1e-13)[0]

    def two(u):
        def given(t):
            side = np.sqrt((1 - rho * rho) * (1 - t * t))
            breaks = [s for s in ((edge / np.sqrt(k) - rho * t) / side for edge in (-1, 1)) if abs(s) < 1]
            inner = lambda s: u(np.sqrt(k) * (rho * t + side * s)) * density(s, k - 1)
            return integrate.quad(inner, -1, 1, points=breaks or None, epsabs=1e-12)[0]

        corners = [np.cos(np.arccos(sign / np.sqrt(k)) - np.arccos(rho)) for sign in (-1, 1)]
        corners += [np.cos(np.arccos(sign / np.sqrt(k)) + np.arccos(rho)) for sign in (-1, 1)]
        points = sorted({-1 / np.sqrt(k), 1 / np.sqrt(k), *corners})
        outer = lambda t: u(np.sqrt(k) * t) * given(t) * density(t, k)
        return integrate.quad(outer, -1, 1, points=points, epsabs=1e-10, limit=100)[0]

    want = assembled(
        B,
        one(lambda z: f(z) ** 2),
        two(f),
        one(lambda z: d(z) ** 2 * (B - 1 - z * z)),
        two(d) + two(lambda z: z * d(z)),
    )
    found = normalization.batch_norm_rate("hard_tanh", B)
    assert float(found.rate) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("name", ["tanh", "gelu", "elu", pytest.param("hard_tanh", marks=pytest.mark.slow)])
def test_large_batches_come_to_their_limit_as_one_over_the_batch(name):
    limit = normalization.batch_norm_rate_limit(name)
    gaps = [B * float(normalization.batch_norm_rate(name, B).log_rate - limit.log_rate) for B in (1e3, 1e4, 1e5)]
    assert gaps[0] > 0
    assert abs(gaps[2] / gaps[1] - 1) < 0.1 * abs(gaps[1] / gaps[0] - 1) + 1e-6
    assert bool(limit.converged)


@pytest.mark.slow
def test_rates_of_every_activation_explode_and_have_converged():
    for name in TABLE:
        found = normalization.batch_norm_rate(name, 4)
        assert float(found.log_rate) > 0
        assert bool(found.converged)


def test_a_quadrature_that_fails_says_so():
    wild = Activation("wild", lambda a: jnp.sin(3000 * a), lambda a: 3000 * jnp.cos(3000 * a), lambda a: a)
    assert not normalization.batch_norm_rate(wild, 8).converged
    assert not normalization.batch_norm_statistics(wild, 8).converged
    assert not normalization.layer_norm_rate(wild).converged
    table = TABLE["hard_tanh"]
    unannounced = Activation("kinks unannounced", table.function, table.slope, table.log_slope, True)
    found = normalization.batch_norm_rate(unannounced, 8)
    assert not found.converged
    assert abs(float(found.log_rate - normalization.batch_norm_rate("hard_tanh", 8).log_rate)) < float(found.error)


@pytest.mark.slow
def test_jit_vmap_and_grad_in_the_batch():
    rate = lambda B: normalization.batch_norm_rate("hard_tanh", B).log_rate
    step = 1e-3
    batch = jnp.array([9 - step, 9.0, 9 + step])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(rate)))(batch)
    np.testing.assert_allclose(values[1], rate(9.0), rtol=1e-12)
    # the central difference is off by step^2 f''' / 6, 2e-7 of it
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / (2 * step), rtol=1e-6)


def test_layer_norm_rates():
    want = {
        "relu": 1.0,
        "tanh": 1.17781,
        "erf": 4 / (np.pi * np.sqrt(5)) / (2 / np.pi * np.arcsin(2 / 3)),
        "gelu": 1.07203,
    }
    for name, value in want.items():
        found = normalization.layer_norm_rate(name)
        assert float(found.rate) == pytest.approx(value, abs=5e-6)
        assert bool(found.converged)
    assert float(normalization.layer_norm_rate("erf").rate) == pytest.approx(want["erf"], rel=1e-12)
    assert float(normalization.layer_norm_rate("tanh", weight_variance=7.0).rate) == pytest.approx(1.17781, abs=5e-6)
    noisy = normalization.layer_norm_rate("linear", weight_variance=2.0, bias_variance=0.5)
    assert float(noisy.log_rate) == pytest.approx(np.log(0.8), abs=1e-13)


def test_layer_norm_singular_values():
    x = np.random.default_rng(0).standard_normal(6)
    layer = lambda x: (x - x.mean()) / jnp.sqrt(jnp.var(x) + 0.1)
    sizes = np.linalg.svd(jax.jacfwd(layer)(jnp.asarray(x)), compute_uv=False)
    found = np.asarray(normalization.layer_norm_log_singular_values(6, np.var(x), 0.1))
    np.testing.assert_allclose(np.exp(found), sizes, atol=1e-14)
    assert found[-1] == -np.inf


def simulated(name, B, seed, depth, width=800, skip=4):
    """Log growth of the squared gradient norm per layer, away from both ends of a network with batch normalization."""
    f, d = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    x, tape, logs = rng.standard_normal((B, width)), [], []
    for _ in range(depth):
        W = rng.standard_normal((width, width), dtype=np.float32) / np.float32(np.sqrt(width))
        a = x.astype(np.float32) @ W
        s = a.std(axis=0)
        z = (a - a.mean(axis=0)) / s
        tape.append((W, z, s))
        x = f(z)
    g = rng.standard_normal((B, width))
    for W, z, s in reversed(tape):
        g = g * d(z)
        g = (g - g.mean(axis=0) - z * (g * z).mean(axis=0)) / s
        g = g.astype(np.float32) @ W.T
        logs.append(np.log(np.sum(g.astype(float) ** 2)))
    return (logs[depth - 1 - skip] - logs[skip - 1]) / (depth - 2 * skip)


@pytest.mark.parametrize(("name", "batch"), [("tanh", 32), ("swish", 16)])
def test_a_simulated_network(name, batch):
    logs = [simulated(name, batch, seed, depth=20) for seed in range(2)]
    found = float(normalization.batch_norm_rate(name, batch).log_rate)
    assert abs(np.mean(logs) - found) < 0.02
    assert abs(np.mean(logs) - float(normalization.batch_norm_rate(name, 5).log_rate)) > 0.1  # the test can tell


PAIRS = [
    ("tanh", 8),
    ("tanh", 64),
    ("erf", 8),
    ("hard_tanh", 8),
    ("gelu", 12),
    ("relu", 8),
    ("relu", 64),
    ("linear", 8),
]
PAIRS += [("selu", 16), ("swish", 16), ("softplus", 8), ("sigmoid", 32)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch"), PAIRS)
def test_simulated_networks(name, batch):
    logs = [simulated(name, batch, seed, depth=30) for seed in range(6)]
    assert abs(np.mean(logs) - float(normalization.batch_norm_rate(name, batch).log_rate)) < 0.02


# Invariances: rows of X are examples, rows of W units; each normalization in NumPy or JAX alike

unit = lambda A, eps=0.0: A / jnp.sqrt(jnp.sum(A * A, axis=1, keepdims=True) + eps)
centered = lambda A: A - jnp.mean(A, axis=1, keepdims=True)
root = lambda A, axis, eps: A / jnp.sqrt(jnp.mean(A * A, axis=axis, keepdims=True) + eps)

NORMS = {
    "batch": lambda X, W, eps=0.0: root(X @ W.T - jnp.mean(X @ W.T, axis=0), 0, eps),
    "layer": lambda X, W, eps=0.0: root(centered(X @ W.T), 1, eps),
    "rms": lambda X, W, eps=0.0: root(X @ W.T, 1, eps),
    "weight": lambda X, W, eps=0.0: X @ unit(W, eps).T,
    "cosine": lambda X, W, eps=0.0: unit(X) @ unit(W, eps).T,
    "centered_cosine": lambda X, W, eps=0.0: unit(centered(X)) @ unit(centered(W), eps).T,
    "plain": lambda X, W, eps=0.0: X @ W.T,
}
RNG = np.random.default_rng(1)
X, W, G = (jnp.asarray(RNG.standard_normal(shape)) for shape in ((5, 6), (4, 6), (5, 4)))
v, constants = RNG.standard_normal(6), RNG.standard_normal((4, 1))
TRANSFORMED = {
    "weights_scaled": (X, 3 * W),
    "row_scaled": (X, W.at[1].multiply(3)),
    "vector_added_to_rows": (X, W + v),
    "constant_added_in_rows": (X, W + constants),
    "data_scaled": (3 * X, W),
    "example_scaled": (X.at[1].multiply(3), W),
    "vector_added_to_examples": (X + v, W),
}


@pytest.mark.parametrize("name", normalization.NORMALIZATIONS)
def test_the_table_of_invariances_is_what_happens(name):
    assert set(TRANSFORMED) == set(normalization.UNCHANGED)
    norm = NORMS[name]
    for transformation, (other_X, other_W) in TRANSFORMED.items():
        change = float(jnp.max(jnp.abs(norm(other_X, other_W) - norm(X, W))))
        assert (change < 1e-13) == normalization.unchanged(name, transformation), transformation
        assert change < 1e-13 or change > 1e-2  # no close call


def measured(norm, X, W, eps):
    """Output, d output / d X applied to a gradient G, dL/dW."""
    to_X, to_W = jax.grad(lambda X, W: jnp.sum(G * norm(X, W, eps)), argnums=(0, 1))(X, W)
    return norm(X, W, eps), to_X, to_W


@pytest.mark.parametrize("name", normalization.NORMALIZATIONS)
@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_the_law_of_scales(name, factor):
    norm, base = NORMS[name], measured(NORMS[name], X, W, 0.0)
    for predict, after in (
        (normalization.weight_scaling, measured(norm, X, factor * W, 0.0)),
        (normalization.data_scaling, measured(norm, factor * X, W, 0.0)),
    ):
        change = predict(name, factor)
        assert float(change.deviation) == 0
        logs = (change.log_output, change.log_state_jacobian, change.log_weight_gradient)
        for log, old, new in zip(logs, base, after, strict=True):
            scale = float(jnp.max(jnp.abs(new)))
            np.testing.assert_allclose(new, np.exp(float(log)) * old, atol=1e-12 * scale)
    flat = float(jnp.sum(W * base[2]))
    assert (abs(flat) < 1e-13) == normalization.unchanged(name, "weights_scaled")  # Euler: <W, dL/dW> = 0


@pytest.mark.parametrize("name", ["batch", "layer", "rms", "weight", "cosine"])
def test_epsilon_breaks_the_law_as_predicted(name):
    # one unit or one example, so that there is one variance; pre-activations or weights of that variance
    norm, factor, eps = NORMS[name], 0.2, 1e-6
    if name == "batch":
        x, w = X, W[:1]
        variance = jnp.var(x @ w.T)
    elif name in ("layer", "rms"):
        x, w = X[:1], W
        variance = jnp.var(x @ w.T) if name == "layer" else jnp.mean((x @ w.T) ** 2)
    else:
        x, w = X, W[:1]
        variance = jnp.sum(w**2)
    change = normalization.weight_scaling(name, factor, epsilon=eps / variance)
    ratio = norm(x, factor * w, eps) / norm(x, w, eps)
    np.testing.assert_allclose(np.log(ratio), float(change.log_output), atol=1e-13)
    ideal = normalization.weight_scaling(name, factor)
    off = float(change.log_output - ideal.log_output)
    assert off == pytest.approx(float(change.deviation), rel=2 * eps / float(variance) / factor**2)
    assert abs(off) > 1e-7
    for field in ("log_state_jacobian", "log_weight_gradient"):
        assert float(getattr(change, field) - getattr(ideal, field)) == pytest.approx(off, rel=1e-6)


def test_epsilon_and_the_gradient_orthogonal_to_the_state():
    eps, factor = 1e-3, 0.1
    x, w = X[:, :], W[:1]
    z = NORMS["batch"](x, w)
    g = RNG.standard_normal((5, 1))
    g = jnp.asarray(g - g.mean() - z * (g * z).mean())  # no part along z
    slope = lambda w: jax.grad(lambda w: jnp.sum(g * NORMS["batch"](x, w, eps)))(w)
    change = normalization.weight_scaling("batch", factor, epsilon=eps / jnp.var(x @ w.T))
    np.testing.assert_allclose(slope(factor * w), np.exp(float(change.log_weight_gradient)) * slope(w), rtol=1e-10)


OUTSIDE = [
    (normalization.batch_norm_rate_linear, (3,), "batch"),
    (normalization.batch_norm_rate_relu, (3,), "batch"),
    (lambda B: normalization.batch_norm_rate("tanh", B), (3,), "batch"),
    (lambda B: normalization.batch_norm_statistics("tanh", B), (np.inf,), "batch"),
    (lambda q: normalization.layer_norm_rate("tanh", weight_variance=q), (0.0,), "weight_variance"),
    (lambda q: normalization.layer_norm_rate("tanh", bias_variance=q), (-1.0,), "bias_variance"),
    (lambda v: normalization.layer_norm_log_singular_values(3, v), (0.0,), "variance"),
    (lambda f: normalization.weight_scaling("batch", f), (0.0,), "factor"),
    (lambda f: normalization.data_scaling("plain", f), (-2.0,), "factor"),
    (lambda e: normalization.weight_scaling("plain", 2.0, epsilon=e), (-1.0,), "epsilon"),
]


@pytest.mark.parametrize(("function", "bad", "name"), OUTSIDE)
def test_outside_the_domain(function, bad, name):
    with pytest.raises(ValueError, match=rf"theory\.normalization\.\w+: argument '{name}"):
        function(*bad)
    leaves = jax.tree.leaves(jax.jit(function)(*bad))
    values = [leaf for leaf in leaves if leaf.dtype != bool]
    assert any(np.isnan(value).any() for value in values)
    assert not any(leaf.any() for leaf in leaves if leaf.dtype == bool)  # not converged


def test_names_and_shapes_are_checked():
    with pytest.raises(ValueError, match="'batch' is not a scalar"):
        normalization.batch_norm_rate("tanh", jnp.array([8, 16]))
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        normalization.batch_norm_rate("rellu", 8)
    with pytest.raises(TypeError, match="has no derivative"):
        normalization.batch_norm_rate(jnp.tanh, 8)
    with pytest.raises(ValueError, match="'normalization' is unknown"):
        normalization.unchanged("batch_norm", "data_scaled")
    with pytest.raises(ValueError, match="'transformation' is unknown"):
        normalization.unchanged("batch", "data")
    with pytest.raises(ValueError, match="'normalization' is unknown"):
        normalization.weight_scaling("none", 2.0)


@pytest.mark.parametrize("batch", [4.0, 9.0, 1e3, 1e9])
def test_errors_of_rates_hold_roundings(batch):
    """Closed forms and quadratures in single precision differ from those in double precision by no more than they say."""
    of = lambda name: lambda B: normalization.batch_norm_rate(name, B)
    for ask in (normalization.batch_norm_rate_relu, normalization.batch_norm_rate_linear, of("relu"), of("tanh")):
        single, double = ask(jnp.float32(batch)), ask(jnp.float64(batch))
        assert single.log_rate.dtype == jnp.float32
        assert abs(float(single.log_rate) - float(double.log_rate)) <= float(single.error) + float(double.error)
    exact, found = normalization.batch_norm_rate_relu(batch), normalization.batch_norm_rate("relu", batch)
    assert abs(float(exact.log_rate) - float(found.log_rate)) <= float(exact.error) + float(found.error)
