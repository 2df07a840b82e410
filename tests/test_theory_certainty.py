"""No number of the mean-field theory is farther from the truth than it says: q from 1e-24 to 1e10, both precisions, by mpmath."""

import functools
import itertools
import math

import gaussian_truth
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy import special
from scipy.integrate import quad

from jacspec import activations
from jacspec.theory import mean_field as mf
from jacspec.theory.mean_field import variance

DTYPES = (jnp.float32, jnp.float64)
QUICK = [("tanh", jnp.float32), ("elu", jnp.float64), ("gelu", jnp.float32)]
ALL = [(name, dtype) for name in activations.TABLE for dtype in DTYPES]
CASES = [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in ALL]
GRID = np.geomspace(1e-26, 1e12, 77)
WORST: dict[tuple[str, str], float] = {}


def record(what, dtype, ratio):
    """The worst error in units of the stated one, for `-s`; the check itself."""
    key = what, dtype.__name__
    WORST[key] = max(WORST.get(key, 0.0), float(ratio))
    assert ratio <= 1, (what, dtype.__name__, float(ratio))


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    for (what, dtype), ratio in sorted(WORST.items()):
        print(f"\nworst error / stated error: {what:28s}{dtype:9s}{ratio:.3g}", end="")


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(gaussian_truth.DIGITS):
        yield


def variances(seed, count, low=-24.0, high=10.0):
    return 10 ** np.random.default_rng(seed).uniform(low, high, count)


def networks(name, dtype, count):
    """Variances that have their fixed point near q, for q of all sizes, up to critical ones, and a q to start from."""
    rng, out = np.random.default_rng(0), []
    for q in variances(1, count):
        square = gaussian_truth.moments(name, float(q))[0]
        share = rng.choice([1.0, 0.9, 0.5, 1e-3, 1 - 1e-3, 1 - 1e-6, 1 - 1e-10])
        w = dtype(float(share * q / square))
        b = dtype(max(float(q - mp.mpf(float(w)) * square), 0.0))
        b = b if b >= jnp.finfo(dtype).tiny else dtype(0)  # what is smaller is flushed to 0
        out.append((w, b, dtype(q * 10 ** rng.uniform(-2, 2))))
    return tuple(jnp.stack(column) for column in zip(*out, strict=True))


def root_ratio(residual, value, error):
    """The distance of the root of `residual` from `value`, over `error`: inf unless the root is enclosed."""
    value, error = mp.mpf(value), mp.mpf(error)
    if error == 0:
        return 0 if abs(residual(value)) < mp.mpf("1e-30") * value else math.inf
    low, high = residual(value - error if error < value else value * mp.mpf("1e-30")), residual(value + error)
    return abs(residual(value) * 2 / (high - low)) if low * high <= 0 else math.inf


def rows(*columns):
    """Columns of arrays as rows of floats."""
    return zip(*([float(v) for v in column] for column in columns), strict=True)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_fixed_points(name, dtype):
    w, b, start = networks(name, dtype, 80)
    ask = lambda w, b, q: mf.variance_fixed_point(name, weight_variance=w, bias_variance=b, q=q)
    found = jax.jit(jax.vmap(ask))(w, b, start)
    for w_, b_, value, error, converged in rows(w, b, *found):
        residual = functools.partial(lambda q, w, b: w * gaussian_truth.moments(name, q)[0] + b - q, w=w_, b=b_)
        if converged and value == 0:
            assert b_ == 0
            assert residual(mp.mpf(error) + mp.mpf("1e-40")) < 0
        elif converged:
            record("fixed point", dtype, root_ratio(residual, value, error))
    assert found.converged.sum() > 0.3 * w.size  # at criticality the others are decided by a rounding


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_moments(name, dtype):
    f, q = activations.TABLE[name], jnp.asarray(variances(2, 40), dtype)
    parts = jax.jit(jax.vmap(lambda q: (variance.second_moment(f, q), variance.squared_slope(f, q))))(q)
    for k, what in enumerate(("E phi^2", "E phi'^2")):
        for q_, value, error in rows(q, *parts[k]):
            want = gaussian_truth.moments(name, q_)[k]
            record(what, dtype, abs(value - want) / error)
            assert error <= max(1e-6, 100 * float(jnp.finfo(dtype).eps)) * want


@functools.cache
def scanned(name):
    return [(q, *gaussian_truth.moments(name, float(q))) for q in GRID]


def crosses(residual, points, counts=lambda point: True):
    """Whether `residual` changes its sign between two `points` that count, by more than a rounding of single precision."""
    seen = [(residual(*point) > 0, counts(point)) for point in points if abs(residual(*point)) > 1e-6 * point[0]]
    return any(u[0] != v[0] and u[1] and v[1] for u, v in itertools.pairwise(seen))


def attracts(name, q):
    """dq'/dq <= 1 on the line, by a difference in forty digits."""
    h = mp.mpf("1e-10")
    up, down = (gaussian_truth.moments(name, q * (1 + s * h))[0] for s in (1, -1))
    return (up - down) / (2 * q * h) <= gaussian_truth.moments(name, q)[1]


def on_the_line(name, dtype, what, residual, variance, found, q, error):
    """q is the root of `residual` to `error`, and so is `found` the `variance` there."""
    of = lambda q: residual(q, *gaussian_truth.moments(name, q))
    at = lambda q: variance(q, *gaussian_truth.moments(name, q))
    record(f"{what}, q*", dtype, root_ratio(of, q, error * q))
    high, low = q * (1 + error), q * (1 - error)
    exact = at(q) - of(q) * (at(high) - at(low)) / (of(high) - of(low))
    record(what, dtype, abs(found / exact - 1) / error)
    assert attracts(name, q)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_critical_weight_variances(name, dtype):
    biases = jnp.asarray(np.append(variances(3, 24, -24, 4), 0), dtype)
    found = jax.jit(jax.vmap(lambda b: mf.critical_weight_variance(name, bias_variance=b)))(biases)
    for b, w, _, q, converged, error in rows(biases, *found):
        residual = functools.partial(lambda q, square, slope, b: mp.mpf(q) * slope - square - b * slope, b=b)
        if math.isnan(w):
            assert not converged
            assert not crosses(residual, scanned(name))
        elif q > 0 and converged:
            on_the_line(name, dtype, "critical weights", residual, lambda q, square, slope: 1 / slope, w, q, error)
            assert not crosses(residual, [point for point in scanned(name) if point[0] < 0.3 * q])
    assert (found.q_star[-1] == 0) == (float(activations.TABLE[name](jnp.zeros(()))) == 0)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_critical_bias_variances(name, dtype):
    slopes = [float(1 / gaussian_truth.moments(name, float(q))[1]) for q in variances(4, 20)]
    weights = jnp.asarray([*slopes, *np.geomspace(1e-3, 1e3, 6)], dtype)
    found = jax.jit(jax.vmap(lambda w: mf.critical_bias_variance(name, weight_variance=w)))(weights)
    for w, _, b, q, converged, error in rows(weights, *found):
        residual = functools.partial(lambda q, square, slope, w: q * (w * slope - 1), w=w)
        bias = functools.partial(lambda q, square, slope, w: q - w * square, w=w)
        if math.isnan(b):
            assert not converged
            assert not crosses(residual, scanned(name), lambda point, bias=bias: bias(*point) >= 0)
        elif q > 0 and converged:
            on_the_line(name, dtype, "critical biases", residual, bias, b, q, error)


DOUBLE = {
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "elu": lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))),
    "selu": lambda a: activations.SELU_SCALE * np.where(a > 0, a, activations.SELU_ALPHA * np.expm1(np.minimum(a, 0))),
    "gelu": lambda a: a * special.ndtr(a),
    "swish": lambda a: a * special.expit(a),
    "softplus": lambda a: np.logaddexp(0, a),
    "hard_tanh": lambda a: np.clip(a, -1, 1),
}
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
GRADES = np.concatenate([[0.0], 0.25 * 1.6 ** np.arange(34)])


def gaussian_rule(middle, scale, kinks):
    """Nodes and probabilities (m, nodes) of N(middle, scale^2), middle (m,): panels graded about the kinks and in the density."""
    middle = np.atleast_1d(middle)[:, None]
    graded = np.concatenate([k + sign * GRADES for k in kinks for sign in (1, -1)])
    edges = np.concatenate(
        [np.broadcast_to(graded, (len(middle), graded.size)), middle + scale * np.linspace(-12, 12, 25)], axis=1
    )
    edges = np.sort(np.clip(edges, middle - 12 * scale, middle + 12 * scale), axis=1)
    half = np.diff(edges, axis=1)[..., None] / 2
    a = edges[:, :-1, None] + half + half * NODES
    p = half * WEIGHTS * np.exp(-0.5 * ((a - middle[..., None]) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    return a.reshape(len(middle), -1), p.reshape(len(middle), -1)


def overlap(name, q, c):
    """E phi(u1) phi(u2): in closed form, or in double precision from the part x that is common, given which both are free."""
    q, c = mp.mpf(float(q)), mp.mpf(float(c))
    if name == "erf":
        return 2 / mp.pi * mp.asin(2 * q * c / (1 + 2 * q))
    if name in ("linear", "relu", "leaky_relu"):
        low = {"linear": 1, "relu": 0, "leaky_relu": mp.mpf(activations.LEAKY_SLOPE)}[name]
        kernel = lambda t: q * (mp.sin(t) + (mp.pi - t) * mp.cos(t)) / (2 * mp.pi)
        return (1 + low**2) * kernel(mp.acos(c)) - 2 * low * kernel(mp.pi - mp.acos(c))
    common, own = (float(mp.sqrt(part)) for part in (q * abs(c), q * (1 - abs(c))))
    kinks = activations.TABLE[name].kinks or (0.0,)
    if common == 0:
        a, weights = gaussian_rule(0.0, own, kinks)
        return float((DOUBLE[name](a) * weights).sum()) ** 2
    x, p = gaussian_rule(0.0, common, kinks)
    if own == 0:
        return float((DOUBLE[name](x) * DOUBLE[name](x if c > 0 else -x) * p).sum())

    def mean(x):
        a, weights = gaussian_rule(x, own, kinks)
        return (DOUBLE[name](a) * weights).sum(axis=1)

    x, p = x[0][p[0] > 1e-40], p[0][p[0] > 1e-40]
    return float((p * mean(x) * mean(x if c >= 0 else -x)).sum())


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_correlation_maps(name, dtype):
    """To what the docstring says, or NaN; of the oracle 1e-12 of the second moment is to be doubted."""
    rng, count = np.random.default_rng(5), 24
    special_ones = rng.choice([-1.0, 1.0, 0.0, 0.999, -0.999], count)
    c = jnp.asarray(np.where(rng.random(count) < 0.3, special_ones, rng.uniform(-1, 1, count)), dtype)
    q = jnp.asarray(variances(6, count), dtype)
    ask = functools.partial(mf.correlation_map, name, weight_variance=dtype(1.5), bias_variance=dtype(0))
    found = np.asarray([ask(*pair) for pair in zip(c, q, strict=True)])
    room = max(1e-8, float(jnp.finfo(dtype).eps) ** (2 / 3))
    for c_, q_, value in rows(c, q, found):
        if not math.isnan(value):
            want = overlap(name, q_, c_) / gaussian_truth.moments(name, q_)[0]
            record("correlation map", dtype, max(0, abs(value - want) - 1e-12) / room)
    assert np.isnan(found).sum() <= 2


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.float64])
def test_phases_of_erf(dtype):
    """c* and chi of the chaotic phase from the arcsine, where everything is in closed form."""
    rng, count = np.random.default_rng(7), 40
    w = jnp.asarray(math.pi / 4 * (1 + 10 ** rng.uniform(-1.5, 2, count)), dtype)
    b = jnp.asarray(np.where(rng.random(count) < 0.3, 0, 10 ** rng.uniform(-12, 1, count)), dtype)
    found = jax.jit(jax.vmap(lambda w, b: mf.phase("erf", weight_variance=w, bias_variance=b)))(w, b)

    def distance(w, b, q, chi_1, c, chi_c):
        w, b, one = mp.mpf(w), mp.mpf(b), mp.mpf(1)
        image = lambda q, c: w * 2 / mp.pi * mp.asin(2 * q * c / (1 + 2 * q)) + b
        slope = lambda q, c: w * 4 / mp.pi / ((1 + 2 * q) * mp.sqrt(1 - (2 * q * c / (1 + 2 * q)) ** 2))
        q_ = mp.exp(mp.findroot(lambda x: image(mp.exp(x), 1) / mp.exp(x) - 1, mp.log(q)))
        steepness = lambda c: (q_ - image(q_, c)) / (q_ * (1 - c)) - 1
        c_ = mp.findroot(steepness, (c - mp.mpf("1e-3"), c), solver="secant") if slope(q_, 1) > 1 else one
        return abs(q / q_ - 1) + abs(chi_1 / slope(q_, 1) - 1) + abs(c - c_) + abs(chi_c / slope(q_, c_) - 1)

    for w_, b_, q, chi_1, _, c, chi_c, _, error, converged in rows(w, b, *found):
        if converged:
            record("phase", dtype, distance(w_, b_, q, chi_1, c, chi_c) / error)
    assert found.converged.sum() > 0.8 * count


@pytest.mark.slow
def test_a_phase_by_quadrature_at_large_q():
    found = mf.phase("erf", weight_variance=1e4, method="quadrature")
    want = 1e4 * 4 / math.pi / (1 + 2 * float(found.q_star))  # c* = 0
    assert float(found.chi_c) == pytest.approx(want, rel=float(found.error) + 1e-15)
    assert bool(found.converged)


def test_where_there_is_no_critical_point():
    for name in ("linear", "relu", "leaky_relu"):
        for b in (1e-24, 1e-8, 1.0, 1e6):
            found = mf.critical_weight_variance(name, bias_variance=b)
            assert math.isnan(float(found.weight_variance))
            assert not bool(found.converged)
    assert not bool(mf.critical_weight_variance("gelu").converged)  # q = 0+ repels: to second order


def test_both_ways_along_a_line_that_rises_again():
    """E phi'^2 of GELU and swish grows before it falls: the line is found from either coordinate."""
    for name in ("gelu", "swish"):
        there = mf.critical_weight_variance(name, bias_variance=0.5)
        back = mf.critical_bias_variance(name, weight_variance=there.weight_variance)
        w, b, q = (float(v) for v in (there.weight_variance, back.bias_variance, back.q_star))
        assert q <= float(there.q_star) * (1 + 1e-9)
        square, slope = gaussian_truth.moments(name, q)
        assert float(w * slope) == pytest.approx(1, rel=1e-9)
        assert float(q - w * square) == pytest.approx(b, rel=1e-9)


@pytest.mark.parametrize("q", [0.0, 1e-30, 1e-18])
def test_derivatives_at_no_variance(q):
    """d/dq E g(a) = g''(0) / 2: nothing is lost to the constant and the odd part of g."""
    for name, of_map, of_chi in (
        ("tanh", 1, -2),
        ("sigmoid", 0.0625, -0.03125),
        ("gelu", 0.25, 2 / math.pi),
        ("linear", 1, 0),
    ):
        pairs = (mf.variance_map, of_map), (mf.chi, of_chi)
        for function, want in pairs:
            ask = functools.partial(lambda q, f, name: f(name, q, weight_variance=1.0), f=function, name=name)
            for mode in (jax.jacfwd, jax.jacrev):
                assert float(mode(ask)(q)) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("c", [-1.0, 1.0])
def test_derivatives_of_the_correlation_map_at_its_ends(c):
    """dc'/dc = q E phi'(u) phi'(c u) / E phi^2: sign(c) for odd functions of slope 1, 0 or 1 for ReLU."""
    low = activations.LEAKY_SLOPE
    wants = {"linear": 1.0, "relu": float(c > 0), "leaky_relu": 1.0 if c > 0 else 2 * low / (1 + low**2)}
    for name, want in wants.items():
        ask = functools.partial(lambda c, name: mf.correlation_map(name, c, 1.7, weight_variance=1.5), name=name)
        for mode in (jax.jacfwd, jax.jacrev):
            assert float(mode(ask)(c)) == pytest.approx(want, abs=1e-14)
    q = 1.7
    ask = lambda c: mf.correlation_map("erf", c, q, weight_variance=1.5)
    want = 2 * q / (1 + 2 * q) / math.sqrt(1 - (2 * q / (1 + 2 * q)) ** 2) / math.asin(2 * q / (1 + 2 * q))
    assert float(jax.grad(ask)(c)) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("c", [-1.0, 1.0])
@pytest.mark.parametrize("method", ["closed", "series", pytest.param("quadrature", marks=pytest.mark.slow)])
def test_second_derivatives_of_the_correlation_map_at_its_ends(c, method):
    """q^2 E phi''(u) phi''(c u) / E phi^2, infinite where phi' jumps at u and at c u, in all nestings and all routes."""
    q, k = 1.7, 2 * 1.7 / (1 + 2 * 1.7)
    of_erf = k**3 * c / (1 - k**2) ** 1.5 / math.asin(k)
    below = lambda f: quad(lambda a: f(a) * math.exp(-a * a / (2 * q)) / math.sqrt(2 * math.pi * q), -12, 0)[0]
    curved = q**2 * below(lambda a: math.exp(2 * a)) if c > 0 else 0.0
    of_elu = curved / (q / 2 + below(lambda a: math.expm1(a) ** 2))
    wants = {
        "closed": {"linear": 0.0, "relu": math.inf, "leaky_relu": math.inf},
        "series": {"linear": 0.0, "erf": of_erf},
        "quadrature": {"linear": 0.0, "erf": of_erf, "elu": of_elu, "hard_tanh": c * math.inf},
    }
    nestings = list(itertools.product((jax.jacfwd, jax.jacrev), repeat=2))
    for name, want in wants[method].items():
        ask = functools.partial(
            lambda c, name: mf.correlation_map(name, c, q, weight_variance=1.5, method=method), name=name
        )
        for outer, inner in nestings if method == "closed" else nestings[1::2]:
            assert float(jax.jit(outer(inner(ask)))(c)) == pytest.approx(want, rel=1e-9, abs=1e-12), (
                name,
                outer,
                inner,
            )
