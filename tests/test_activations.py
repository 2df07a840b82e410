"""The table of activations against mpmath, and what it does at kinks, zeros, NaN and wrong names."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jacspec import activations

TABLE = activations.TABLE
ALPHA, SCALE = mp.mpf("1.6732632423543772848170429916717"), mp.mpf("1.0507009873554804934193349852946")
GRID = np.arange(-80, 80.25, 0.25)


def logistic(a):
    return 1 / (1 + mp.exp(-a))


def ncdf(a):
    return mp.erfc(-a / mp.sqrt(2)) / 2


FUNCTIONS = {
    "linear": lambda a: a,
    "tanh": mp.tanh,
    "sigmoid": logistic,
    "relu": lambda a: max(a, mp.mpf(0)),
    "leaky_relu": lambda a: a if a > 0 else a / 100,
    "elu": lambda a: a if a > 0 else mp.expm1(a),
    "selu": lambda a: SCALE * (a if a > 0 else ALPHA * mp.expm1(a)),
    "gelu": lambda a: a * ncdf(a),
    "swish": lambda a: a * logistic(a),
    "softplus": lambda a: mp.log1p(mp.exp(a)),
    "hard_tanh": lambda a: max(mp.mpf(-1), min(a, mp.mpf(1))),
    "erf": mp.erf,
}
# Closed forms, because a difference quotient of tanh at 80 needs 140 digits; compared with mp.diff where it is good.
SLOPES = {
    "linear": lambda _: mp.mpf(1),
    "tanh": lambda a: mp.sech(a) ** 2,
    "sigmoid": lambda a: 1 / (2 * mp.cosh(a / 2)) ** 2,
    "relu": lambda a: mp.mpf(a > 0),
    "leaky_relu": lambda a: mp.mpf(1) if a >= 0 else mp.mpf(1) / 100,
    "elu": lambda a: mp.mpf(1) if a > 0 else mp.exp(a),
    "selu": lambda a: SCALE if a > 0 else SCALE * ALPHA * mp.exp(a),
    "gelu": lambda a: ncdf(a) + a * mp.npdf(a),
    "swish": lambda a: logistic(a) * (1 + a * logistic(-a)),
    "softplus": logistic,
    "hard_tanh": lambda a: mp.mpf(abs(a) <= 1),
    "erf": lambda a: 2 / mp.sqrt(mp.pi) * mp.exp(-a * a),
}


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(60):
        yield


def exact(table, name, grid=GRID):
    return [table[name](mp.mpf(float(a))) for a in grid]


def test_every_entry_has_an_oracle():
    assert set(TABLE) == set(FUNCTIONS) == set(SLOPES)


@pytest.mark.parametrize("name", TABLE)
def test_closed_form_of_the_oracle_is_the_derivative(name):
    for a in (-4.3, -1.7, -0.6, 0.4, 0.9, 2.5, 4.1):
        assert mp.almosteq(SLOPES[name](mp.mpf(a)), mp.diff(FUNCTIONS[name], mp.mpf(a)), 1e-25, 1e-25)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", TABLE)
def test_function(name, dtype):
    eps = np.finfo(dtype).eps
    got = np.asarray(TABLE[name](jnp.asarray(GRID, dtype)), np.float64)
    want = np.array([float(v) for v in exact(FUNCTIONS, name)])
    assert got.dtype == np.float64
    assert np.all(np.abs(got - want) <= 16 * eps * np.maximum(1, np.abs(want)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", TABLE)
def test_derivative_and_its_log(name, dtype):
    """Relative error of f' and absolute error of log f', up to the floor.

    A rounded exponent a^2 / 2 costs eps a^2; where f' crosses zero (gelu, swish, abs a < 2) its terms are of order 0.25
    and that is what the error is relative to.
    """
    eps, floor = np.finfo(dtype).eps, float(np.finfo(dtype).tiny) / float(np.finfo(dtype).eps)
    a = jnp.asarray(GRID, dtype)
    slope = np.asarray(TABLE[name].derivative(a), np.float64)
    log, sign = (np.asarray(v, np.float64) for v in TABLE[name].log_derivative(a))
    assert TABLE[name].derivative(a).dtype == dtype
    for x, want, s, el, sg in zip(GRID, exact(SLOPES, name), slope, log, sign, strict=True):
        if want == 0:
            assert (s, el, sg) == (0, -np.inf, 0)
            continue
        size = max(abs(want), mp.mpf(0.25) if abs(x) < 2 and name in ("gelu", "swish") else 0)
        assert sg == mp.sign(want)
        if abs(want) > 2 * floor:
            assert abs(s - want) <= eps * (16 + 4 * x * x) * size
        else:
            assert np.sign(s) == mp.sign(want)
            assert abs(s) >= floor
        exact_log = mp.log(abs(want))
        assert abs(el - exact_log) <= eps * (16 * size / abs(want) + 4 * abs(exact_log))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", TABLE)
def test_zeros_are_structural_only(name, dtype):
    a = jnp.asarray(np.concatenate([GRID, 1e4 * GRID]), dtype)  # where f' underflows by far
    zero = np.asarray(TABLE[name].derivative(a)) == 0
    assert zero.any() == TABLE[name].structural_zeros
    log, sign = TABLE[name].log_derivative(a)
    assert np.array_equal(zero, np.isneginf(np.asarray(log)))
    negative = a < (-0.75179 if name == "gelu" else -1.27846 if name == "swish" else -np.inf)
    assert np.array_equal(sign, jnp.where(zero, 0, jnp.where(negative, -1, 1)))


@pytest.mark.parametrize("name", TABLE)
def test_nan_stays_nan(name):
    a = jnp.array([jnp.nan, 0.5])
    log, sign = TABLE[name].log_derivative(a)
    for value in (TABLE[name].derivative(a), log, sign):
        assert np.isnan(value).tolist() == [True, False]


def test_kinks():
    zero, one = jnp.zeros(()), jnp.ones(())
    assert float(TABLE["relu"].derivative(zero)) == 0
    assert float(TABLE["leaky_relu"].derivative(zero)) == 1
    assert float(TABLE["elu"].derivative(zero)) == 1
    assert float(TABLE["selu"].derivative(zero)) == pytest.approx(1.7580993408473766, rel=1e-15)
    assert [float(TABLE["hard_tanh"].derivative(s * one)) for s in (-1, 1)] == [1, 1]


@pytest.mark.parametrize("name", TABLE)
def test_agrees_with_autodiff_also_at_kinks(name):
    a = jnp.array([-1.0, -0.3, 0.0, 0.3, 1.0])
    own = jax.vmap(jax.grad(TABLE[name].function))(a)
    np.testing.assert_allclose(TABLE[name].derivative(a), own, rtol=1e-14, atol=1e-15)


def test_autodiff_has_the_false_zeros_that_the_table_avoids():
    assert float(jax.grad(jnp.tanh)(30.0)) == 0
    for derivative in (TABLE["tanh"].derivative, jax.grad(TABLE["tanh"])):
        assert float(derivative(jnp.asarray(30.0))) == pytest.approx(4 * np.exp(-60.0), rel=1e-13)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"argument 'activation'.*'rellu'.*Did you mean 'relu'"):
        activations.get("rellu")
    with pytest.raises(ValueError, match=r"'activation' is unknown"):
        activations.get("os.system")


def test_a_bare_function_is_refused():
    with pytest.raises(TypeError, match=r"'activation' has no derivative.*Activation\(name"):
        activations.get(lambda a: a)


def test_own_activation_passes_through():
    own = activations.Activation("cube", lambda a: a**3, lambda a: 3 * a**2, lambda a: jnp.log(3 * a**2), True)
    assert activations.get(own) is own
