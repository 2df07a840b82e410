"""One unit's closed forms against mpmath, published numbers and plain iteration."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jacspec.theory import scalar

EPS = np.finfo(float).eps
sigmoid = lambda x: 1 / (1 + np.exp(-x))


@pytest.fixture(autouse=True)
def _digits():
    with mp.workdps(50):
        yield


def logistic(x):
    return 1 / (1 + mp.exp(-x))


def argument(w):
    """The a > 0 with a = w tanh a, to 50 digits."""
    return mp.findroot(lambda a: a - w * mp.tanh(a), min(mp.sqrt(3 * (w - 1)), w))


def test_powers():
    assert float(jnp.exp(365 * scalar.linear_exponent(1.01))) == pytest.approx(37.783434, abs=5e-7)
    assert float(jnp.exp(365 * scalar.linear_exponent(0.99))) == pytest.approx(0.025518, abs=5e-7)
    assert float(scalar.linear_exponent(0.0)) == -np.inf
    assert float(jnp.exp(scalar.log_power(0.25, 20))) == pytest.approx(2.0**-40, rel=1e-13)
    assert float(scalar.sigmoid_log_bound(-3.0, 7)) == pytest.approx(7 * np.log(0.75), rel=1e-14)
    assert scalar.log_power(jnp.array([0.0, 0.0]), jnp.array([0, 2])).tolist() == [0, -np.inf]


def test_the_sigmoid_bound_holds_and_is_reached():
    rng = np.random.default_rng(0)
    w, b, h = rng.uniform(-8, 8, 500), rng.normal(0, 2, 500), rng.uniform(0, 1, 500)
    w[0], b[0], h[0] = 3.0, -1.5, 0.5  # rests at pre-activation 0
    log = np.zeros(500)
    for _ in range(20):
        a = w * h + b
        h = sigmoid(a)
        log += np.log(np.abs(w) * sigmoid(a) * sigmoid(-a))
    gap = np.asarray(scalar.sigmoid_log_bound(w, 20)) - log
    assert (gap > -1e-12).all()
    assert abs(gap[0]) < 1e-12


def test_derivatives_of_a_power():
    x, w = 0.7, -1.3
    for t in range(5):
        found = scalar.linear_weight_derivatives(x, w, t)
        want = [x * w**t, x * t * w ** (t - 1), x * t * (t - 1) * w ** (t - 2)]
        np.testing.assert_allclose(np.exp(np.asarray(found)), np.abs(want), rtol=1e-13)


def test_relu_lives_or_dies():
    found = scalar.relu_exponent(
        jnp.array([0.5, 2.0, 0.5, -0.5, -0.5, 0.0]), jnp.array([1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    )
    np.testing.assert_array_equal(found, [np.log(0.5), np.log(2.0), *[-np.inf] * 4])
    slope = jax.grad(scalar.relu_exponent)(-0.5, 1.0)
    assert float(slope) == 0  # not NaN


def test_leaky_and_residual():
    assert float(scalar.leaky_exponent(0.25, 3.0, 0.5)) == pytest.approx(np.log(1.125), rel=1e-14)
    found = scalar.residual_exponent(jnp.array([1e-12, 2.0, 1.0]), jnp.array([1.0, -3.0, -1.0]))
    np.testing.assert_allclose(found, [np.log1p(1e-12), np.log(5), -np.inf], rtol=1e-14)
    step = 1 - 0.25 + 0.25 * 0.8
    assert float(scalar.leaky_exponent(0.25, 0.8)) == pytest.approx(np.log(step), rel=1e-14)
    assert float(scalar.leaky_time_constant(0.25)) == pytest.approx(-1 / np.log(0.75), rel=1e-14)


@pytest.mark.parametrize(
    ("w", "h", "exponent"),
    [(1.5, 0.85855964, -0.93061020), (2.0, 0.95750402, -1.79352851), (5.0, 0.99990912, -7.00344982)],
)
def test_tanh_reference_values(w, h, exponent):
    assert float(scalar.tanh_fixed_point(w)) == pytest.approx(h, abs=5e-9)
    assert float(scalar.tanh_exponent(w)) == pytest.approx(exponent, abs=5e-9)
    assert float(scalar.tanh_exponent(-w)) == float(scalar.tanh_exponent(w))


def test_tanh_to_machine_precision_also_near_the_critical_point():
    U = np.array([1 + EPS, 1 + 1e-12, 1 + 1e-6, 1.01, 1.2, 1.3, 2.0, 4.9, 5.1, 7.0, 30.0, 800.0])
    a = [argument(mp.mpf(u)) for u in U]
    fixed = [float(mp.tanh(x)) for x in a]
    exponent = [float(mp.log(mp.mpf(u)) - 2 * mp.log(mp.cosh(x))) for u, x in zip(U, a, strict=True)]
    np.testing.assert_allclose(scalar.tanh_fixed_point(U), fixed, rtol=4 * EPS)
    np.testing.assert_allclose(scalar.tanh_exponent(U), exponent, rtol=8 * EPS)
    assert scalar.tanh_fixed_point(jnp.array([0.5, 1.0, -1.0])).tolist() == [0, 0, 0]
    np.testing.assert_allclose(scalar.tanh_exponent(jnp.array([0.5, 0.9, 1.0])), np.log([0.5, 0.9, 1.0]), atol=EPS)


def test_tanh_exponents_are_what_iteration_gives():
    for w in (0.8, -0.8, 1.4, -1.4):
        h, log = 0.3, []
        for _ in range(2000):
            a = w * h
            h = np.tanh(a)
            log.append(np.log(abs(w)) - 2 * np.log(np.cosh(a)))
        assert np.mean(log[1000:]) == pytest.approx(float(scalar.tanh_exponent(w)), abs=1e-12)


def test_the_critical_tanh_decays_algebraically():
    h0 = 0.5
    h, log, state, sensitivity = h0, 0.0, {}, {}
    for t in range(1, 100_001):
        log -= 2 * np.log(np.cosh(h))
        h = np.tanh(h)
        state[t], sensitivity[t] = h, log
    late = scalar.tanh_critical_decay(h0, jnp.array([1e4, 1e5]))
    for k, t in enumerate((10_000, 100_000)):
        drift = state[t] ** 2 * (np.log(h0 / state[t]) / 5 + h0**2 / 30)  # the stated accuracy
        assert abs(state[t] ** 2 / float(late.state[k]) ** 2 - 1) < drift
        assert abs(sensitivity[t] - float(late.log_sensitivity[k])) < h0**2 / 10 + h0**4 / 30 + 1.5 * drift
        assert state[t] == pytest.approx(np.sqrt(1.5 / t), rel=0.75 / (t * h0**2) + drift)
    slope = (sensitivity[100_000] - sensitivity[10_000]) / np.log(10)
    assert slope == pytest.approx(-1.5, abs=0.001)
    found = float(late.log_sensitivity[1] - late.log_sensitivity[0]) / np.log(10)
    assert found == pytest.approx(slope, abs=0.001)


def test_su_bounds():
    c = mp.findroot(lambda c: 1 - 2 * c * mp.tanh(c), 0.77)
    assert float(c) == pytest.approx(0.7717, abs=5e-5)
    peak = float(c * mp.sech(c) ** 2)
    assert abs(scalar.TANH_PEAK - peak) < 1e-15
    assert peak == pytest.approx(0.4477432, abs=5e-8)
    U, h = np.linspace(-40, 40, 80_001), 0.13
    top = np.max(np.abs(U / np.cosh(U * h) ** 2))
    assert 0 <= float(scalar.tanh_slope_bound(h)) - top < 1e-6
    c, f = np.meshgrid(np.linspace(-3, 3, 601), np.linspace(0, 1, 101))
    assert 0 <= float(scalar.lstm_secondary_bound(-2.0)) - np.max(2 * c * f * (1 - f) / np.cosh(c) ** 2) < 1e-4


def test_gate_time_constants():
    b = jnp.array([0.0, 1.0, 2.0, 5.0])
    tau = scalar.gate_time_constant(b)
    np.testing.assert_allclose(tau, [1.443, 3.192, 7.878, 148.91], atol=5e-3)
    np.testing.assert_allclose(tau, -1 / np.log(sigmoid(np.asarray(b))), rtol=1e-13)
    np.testing.assert_allclose(scalar.gate_bias(tau), b, atol=1e-13)
    assert float(jnp.exp(-100 / tau[1])) == pytest.approx(2.5e-14, abs=5e-16)
    assert float(scalar.gate_time_constant(50.0)) == pytest.approx(np.exp(50), rel=1e-13)  # where 1 - sigmoid is lost


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bias_of_short_and_long_memories(dtype):
    tau = np.array([1e-30, 1e-3, 1e-2, 0.3, 2.0, 1e4, 1e15], dtype)
    bias = lambda t: -1 / t - mp.log(-mp.expm1(-1 / t))
    want = [float(bias(mp.mpf(float(t)))) for t in tau]
    slopes = [float(mp.expm1(-1 / mp.mpf(float(t))) ** -1 * -1 / mp.mpf(float(t)) ** 2) for t in tau[1:]]
    np.testing.assert_allclose(scalar.gate_bias(tau), want, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(jax.vmap(jax.grad(scalar.gate_bias))(tau[1:]), slopes, rtol=8 * np.finfo(dtype).eps)


WEIGHTS, INPUTS = (1.3, -0.7, 2.1, 0.9), (0.2, 0.6, -0.4, -1.1)


def test_gru_before_and_after():
    def before(h):
        r, z = (logistic(WEIGHTS[k] * h + INPUTS[k]) for k in (0, 1))
        return (1 - z) * h + z * mp.tanh(WEIGHTS[2] * r * h + INPUTS[2])

    def after(h):
        r, z = (logistic(WEIGHTS[k] * h + INPUTS[k]) for k in (0, 1))
        return (1 - z) * mp.tanh(r * (WEIGHTS[2] * h + 0.3) + INPUTS[2]) + z * h

    theirs = functools.partial(scalar.gru_reset_after, bias=0.3)
    for truth, found in ((before, scalar.gru_reset_before), (after, theirs)):
        for h in (-0.8, 0.35):
            state, slope = found(h, WEIGHTS[:3], INPUTS[:3])
            assert float(state) == pytest.approx(float(truth(mp.mpf(h))), rel=1e-14)
            assert float(slope) == pytest.approx(float(mp.diff(truth, h)), rel=1e-13)


def lstm(h, c):
    i, f, o = (logistic(WEIGHTS[k] * h + INPUTS[k]) for k in (0, 1, 3))
    c = f * c + i * mp.tanh(WEIGHTS[2] * h + INPUTS[2])
    return o * mp.tanh(c), c


def test_lstm_jacobian_and_its_determinant():
    h, c = mp.mpf("0.3"), mp.mpf("-0.8")
    found = scalar.lstm(0.3, -0.8, WEIGHTS, INPUTS)
    np.testing.assert_allclose([found.h, found.c], [float(v) for v in lstm(h, c)], rtol=1e-14)
    truth = [[float(mp.diff(lambda *s, k=k: lstm(*s)[k], (h, c), order)) for order in ((1, 0), (0, 1))] for k in (0, 1)]
    np.testing.assert_allclose(found.jacobian, truth, rtol=1e-13)
    assert float(found.log_determinant) == pytest.approx(np.linalg.slogdet(found.jacobian)[1], abs=1e-13)
    many = scalar.lstm(jnp.linspace(-1, 1, 5), jnp.linspace(2, -3, 5), WEIGHTS, INPUTS)
    np.testing.assert_allclose(many.log_determinant, np.linalg.slogdet(many.jacobian)[1], atol=1e-13)


def test_four_terms_are_exact_for_one_step_with_the_output_gate_held():
    o = mp.mpf("0.7")
    truth = mp.diff(lambda c: lstm(o * mp.tanh(c), c)[1], mp.mpf("-0.8"))
    terms = scalar.lstm_four_terms(-0.8, 0.7, WEIGHTS[:3], INPUTS[:3])
    assert float(terms.sum()) == pytest.approx(float(truth), rel=1e-13)
    forget = sigmoid(WEIGHTS[1] * 0.7 * np.tanh(-0.8) + INPUTS[1])
    assert float(terms[0]) == pytest.approx(forget, rel=1e-14)
    assert abs(float(terms[1])) <= float(scalar.lstm_secondary_bound(WEIGHTS[1]))


def test_latching():
    np.testing.assert_allclose(scalar.latching_threshold(jnp.array([1.25, 5.0])), [0.0778052, 3.0285005], atol=5e-8)
    W = np.array([1 + 1e-12, 1 + 1e-6, 1.05, 1.09, 1.11, 3.0, 1e4])
    y = [mp.sqrt(1 - 1 / mp.mpf(w)) for w in W]
    truth = [float(mp.mpf(w) * v - mp.atanh(v)) for w, v in zip(W, y, strict=True)]
    np.testing.assert_allclose(scalar.latching_threshold(W), truth, rtol=8 * EPS)
    for w in (1.25, 2.0, 5.0):
        for factor, holds in ((0.999, True), (1.001, False)):
            a, h = 1.0, factor * float(scalar.latching_threshold(w))
            for _ in range(5000):
                a = np.tanh(w * a - h)
            assert (a > 0) == holds


def test_doya_folds_and_fixed_points():
    folds = scalar.sigmoid_folds(5.0)
    np.testing.assert_allclose(folds.bias, [-2.344390, -2.655610], atol=5e-7)
    np.testing.assert_allclose(folds.state, [-0.962424, 0.962424], atol=5e-7)
    assert [int(np.isfinite(scalar.sigmoid_fixed_points(5.0, b)).sum()) for b in (-2.3, -2.5, -2.7)] == [1, 3, 1]
    w, b = 7.0, -3.2
    x = np.asarray(scalar.sigmoid_fixed_points(w, b))
    np.testing.assert_allclose(x - w * sigmoid(x) - b, 0, atol=16 * EPS)
    grid = np.linspace(-6, 6, 100_001)
    sign = np.diff(np.sign(grid - w * sigmoid(grid) - b)) != 0
    np.testing.assert_allclose(x, grid[1:][sign], atol=1.2e-4)
    near = float(scalar.sigmoid_folds(w).bias[0]) - 1e-9
    assert np.isfinite(scalar.sigmoid_fixed_points(w, near)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fixed_points_that_round_to_the_end_of_their_bracket(dtype):
    w, b = np.array([[41.0, 46.0, 26.0, 300.0], [-4.1, -4.6, -5.2, -2.0]], dtype)
    root = lambda w, b: mp.findroot(lambda x: x - w * logistic(x) - b, w + b)
    upper = [float(root(*map(mp.mpf, map(float, pair)))) for pair in zip(w, b, strict=True)]
    np.testing.assert_allclose(scalar.sigmoid_fixed_points(w, b)[2], upper, rtol=4 * np.finfo(dtype).eps)
    slope = jax.vmap(jax.grad(lambda w, b: scalar.sigmoid_fixed_points(w, b)[2], (0, 1)))(w, b)
    np.testing.assert_allclose(slope, np.ones((2, 4)), rtol=1e-6)
    lower = scalar.sigmoid_fixed_points(w, -b - w)[0]  # x -> -x maps b to -b - w
    np.testing.assert_allclose(lower, [-x for x in upper], rtol=4 * np.finfo(dtype).eps)
    start = np.array([-1.7657278607792226, -1.578018881719082], dtype)
    found = scalar.wall(np.array([168.50948379971234, 199.7895381360981], dtype), start=start, target=dtype(0.3))
    np.testing.assert_allclose(found.error_above, 0.49, rtol=1e-6)


def pascanu(w, b, steps=50, x=0.5):
    for _ in range(steps):
        x = w * sigmoid(x) + b
    return (sigmoid(x) - 0.7) ** 2


def test_the_wall():
    w = jnp.array([5.0, 6.0, 7.0])
    found = scalar.wall(w)
    np.testing.assert_allclose(found.bias, 0.5 - 0.6224593 * np.asarray(w), atol=4e-7)
    np.testing.assert_allclose(50 * found.log_slope, np.log([3.18e3, 2.89e7, 6.4e10]), atol=0.01)
    w = np.array([6.0, 5.0])
    near, limit = scalar.wall(w, offset=1e-3, steps=50), scalar.wall(w, offset=1e-3)
    np.testing.assert_allclose(near.error_below, [0.42174, 0.34165], atol=5e-6)
    np.testing.assert_allclose(near.error_above, [0.03746, 0.01005], atol=5e-6)
    np.testing.assert_allclose(near.error_below, pascanu(w, near.bias - 1e-3), rtol=1e-9)
    np.testing.assert_allclose(limit.error_below, pascanu(w, limit.bias - 1e-3, 2000), rtol=1e-12)
    np.testing.assert_allclose(limit.error_above, pascanu(w, limit.bias + 1e-3, 2000), rtol=1e-12)
    # the jump of the error between the two sides of the wall, as it is met along b
    b = float(scalar.wall(6.0).bias) + np.linspace(-1e-4, 1e-4, 2001)
    steepest = np.argmax(np.abs(np.diff(pascanu(6.0, b))))
    assert abs(b[steepest] - float(scalar.wall(6.0).bias)) <= 2e-7


def test_roots_have_derivatives():
    w = 1.7
    a = lambda w: argument(mp.mpf(w))
    exponent = lambda w: mp.log(w) - 2 * mp.log(mp.cosh(a(w)))
    find = jax.jit(
        lambda w: (jax.grad(scalar.tanh_fixed_point)(w), *jax.value_and_grad(jax.grad(scalar.tanh_exponent))(w))
    )
    amplitude, slope, curvature = map(float, find(w))
    assert amplitude == pytest.approx(float(mp.diff(lambda w: mp.tanh(a(w)), w)), rel=1e-12)
    assert slope == pytest.approx(float(mp.diff(exponent, w)), rel=1e-12)
    assert curvature == pytest.approx(float(mp.diff(exponent, w, 2)), rel=1e-10)
    assert float(find(0.5)[1]) == 2
    x = lambda b: mp.findroot(lambda x: x - 5 * logistic(x) - b, -1.8)
    slope = jax.jit(jax.grad(lambda b: scalar.sigmoid_fixed_points(5.0, b)[0]))(-2.5)
    assert float(slope) == pytest.approx(float(mp.diff(x, -2.5)), rel=1e-12)


def test_jit_and_vmap_give_the_same():
    W = jnp.array([4.3, 8.0])
    found = jax.jit(jax.vmap(lambda w: (scalar.tanh_exponent(w), scalar.wall(w))))(W)
    want = scalar.tanh_exponent(W), scalar.wall(W)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), found, want)


OUTSIDE = [
    (scalar.linear_exponent, (np.nan,), "w"),
    (scalar.log_power, (0.5, -1), "depth"),
    (scalar.linear_weight_derivatives, (1.0, 2.0, -1), "steps"),
    (scalar.linear_weight_derivatives, (1.0, 1e30, 1.5), "steps"),
    (scalar.linear_weight_derivatives, (1.0, 2.0, np.inf), "steps"),
    (scalar.sigmoid_log_bound, (np.inf, 3), "w"),
    (scalar.relu_exponent, (1.0, np.nan), "h"),
    (scalar.leaky_exponent, (1.5, 1.0), "leak"),
    (scalar.leaky_time_constant, (0.0,), "leak"),
    (scalar.residual_exponent, (np.nan, 1.0), "scale"),
    (scalar.tanh_fixed_point, (np.inf,), "w"),
    (scalar.tanh_exponent, (np.nan,), "w"),
    (scalar.tanh_critical_decay, (0.5, -1), "steps"),
    (scalar.tanh_slope_bound, (0.0,), "h"),
    (scalar.gate_time_constant, (np.inf,), "bias"),
    (scalar.gate_bias, (0.0,), "time_constant"),
    (scalar.lstm_secondary_bound, (np.nan,), "w"),
    (scalar.sigmoid_folds, (4.0,), "w"),
    (scalar.sigmoid_fixed_points, (3.9, 0.0), "w"),
    (scalar.wall, (4.25,), "w"),
    (scalar.latching_threshold, (1.0,), "w"),
]


@pytest.mark.parametrize(("function", "bad", "name"), OUTSIDE)
def test_outside_the_domain(function, bad, name):
    with pytest.raises(ValueError, match=rf"theory\.scalar\.{function.__name__}: argument '{name}'"):
        function(*bad)
    for leaf in jax.tree.leaves(jax.jit(function)(*bad)):
        assert np.isnan(leaf).all()  # never a plausible number


def test_gates_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="'weights' has the wrong length; got 2, expected 3 gates"):
        scalar.gru_reset_before(0.0, (1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="'inputs'"):
        scalar.lstm(0.0, 0.0, (1.0,) * 4, (np.nan, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="'output'"):
        scalar.lstm_four_terms(0.0, 1.1, (1.0,) * 3, (0.0,) * 3)
    with pytest.raises(TypeError, match="must be a number"):
        scalar.tanh_exponent("w")
    with pytest.raises(ValueError, match="'steps' is out of range"):
        scalar.wall(6.0, steps=-1)
    assert np.isnan(jax.jit(lambda h: scalar.gru_reset_after(h, (1.0,) * 3, (0.0,) * 3).derivative)(np.nan))
