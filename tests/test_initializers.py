"""Initial values: exact orthogonality, variances, ranges, dtypes, and what is refused."""

import math

import jax
import jax.numpy as jnp
import pytest

from jacspec import initializers as init

KEY = jax.random.key(0)
F64 = jnp.float64


def gap(W, gain=1.0):
    """Largest deviation of a singular value from the gain."""
    return float(jnp.max(jnp.abs(jnp.linalg.svdvals(W) - gain)))


@pytest.mark.parametrize("shape", [1, 5, (5, 5), (7, 3), (3, 7)])
def test_orthogonal_has_equal_singular_values(shape):
    W = init.orthogonal(KEY, shape, F64, gain=1.3)
    assert W.shape == (shape if isinstance(shape, tuple) else (shape, shape))
    assert W.dtype == F64
    assert gap(W, 1.3) <= 1e-14


def test_every_gate_is_orthogonal_and_different():
    W = init.orthogonal(KEY, 16, F64, gates=4)
    assert W.shape == (4, 16, 16)
    assert gap(W) <= 1e-14
    assert float(jnp.abs(W[0] - W[1]).max()) > 0.1
    fused = init.orthogonal(KEY, (64, 16), F64).reshape(4, 16, 16)  # the trap: mean squared singular value 1 / gates
    assert float(jnp.mean(jnp.linalg.svdvals(fused) ** 2)) == pytest.approx(0.25, abs=1e-12)


def test_orthogonal_is_haar():
    """E tr Q = 0 and E (tr Q)^2 = 1; QR without its signs gives a biased trace."""
    keys = jax.random.split(KEY, 4000)
    trace = jax.vmap(lambda key: jnp.trace(init.orthogonal(key, 3, F64)))(keys)
    assert abs(float(trace.mean())) < 4 / math.sqrt(4000)
    assert float((trace**2).mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 4000))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_dtypes_are_drawn_in_float32_and_cast(dtype):
    W = init.orthogonal(KEY, 8, dtype)
    assert W.dtype == dtype
    assert gap(W.astype(jnp.float32)) <= 8 * float(jnp.finfo(dtype).eps)
    assert bool(jnp.all(init.orthogonal(KEY, 8, jnp.float32).astype(dtype) == W))
    for out in (init.he(KEY, (4, 4), dtype), init.gaussian(KEY, (4, 4), dtype), init.identity(2, dtype, scale=0.5),
                init.delta_orthogonal(KEY, 3, 2, 2, dtype), *init.chrono(KEY, 3, 10, dtype)):  # fmt: skip
        assert out.dtype == dtype


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize(("function", "variance"), [(init.glorot, 2 / (400 + 200)), (init.he, 2 / 200)])
def test_variances_of_glorot_and_he(function, variance, distribution):
    W = function(KEY, (2, 400, 200), F64, gain=0.7, distribution=distribution)
    count = W.size
    assert float(jnp.mean(W**2)) == pytest.approx(0.49 * variance, rel=5 * math.sqrt(2 / count))
    assert abs(float(W.mean())) <= 5 * math.sqrt(0.49 * variance / count)
    if distribution == "uniform":
        assert float(jnp.abs(W).max()) <= 0.7 * math.sqrt(3 * variance)


def test_gaussian_has_variance_gain_squared_over_fan_in():
    W = init.gaussian(KEY, (300, 100), F64, gain=3.0)
    assert float(jnp.mean(W**2)) == pytest.approx(9 / 100, rel=5 * math.sqrt(2 / W.size))


def test_identity_is_exact():
    assert init.identity(3, F64, scale=-0.5).tolist() == (-0.5 * jnp.eye(3)).tolist()


def test_chrono_biases_give_memories_up_to_t_max():
    forget, enter = init.chrono(KEY, 20000, 100, F64)
    assert bool(jnp.all(enter == -forget))
    assert 0 <= float(forget.min()) < 0.1
    assert math.log(98) < float(forget.max()) <= math.log(99)
    assert float(jnp.exp(forget).mean()) == pytest.approx(50, abs=5 * 98 / math.sqrt(12 * 20000))


@pytest.mark.parametrize(("size", "at"), [(3, (1,)), (4, (1,)), ((3, 3), (1, 1)), ((2, 5), (0, 2))])
def test_delta_orthogonal_is_zero_off_center(size, at):
    K = init.delta_orthogonal(KEY, size, 2, 3, F64, gain=2.0)
    assert K.shape == ((size,) if isinstance(size, int) else size) + (2, 3)
    assert gap(K[at], 2.0) <= 1e-14
    assert float(jnp.abs(K.at[at].set(0)).max()) == 0


def test_same_key_same_draw_also_under_jit_and_raw_keys():
    W = init.gaussian(KEY, (3, 3), F64)
    assert float(jnp.abs(jax.jit(lambda key: init.gaussian(key, (3, 3), F64))(KEY) - W).max()) <= 1e-15
    assert bool(jnp.all(init.gaussian(KEY, (3, 3), F64) == W))
    assert init.orthogonal(jax.random.PRNGKey(0), 2, F64).shape == (2, 2)


REFUSED = [
    (lambda gain: init.orthogonal(KEY, 3, F64, gain=gain), "orthogonal"),
    (lambda gain: init.gaussian(KEY, (3, 3), F64, gain=gain), "gaussian"),
    (lambda gain: init.glorot(KEY, (3, 3), F64, gain=gain), "glorot"),
    (lambda gain: init.he(KEY, (3, 3), F64, gain=gain), "he"),
    (lambda gain: init.delta_orthogonal(KEY, 3, 2, 2, F64, gain=gain), "delta_orthogonal"),
]


@pytest.mark.parametrize("gain", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize(("build", "name"), REFUSED)
def test_bad_gain_is_refused(build, name, gain):
    with pytest.raises(ValueError, match=rf"jacspec\.initializers\.{name}: argument 'gain'"):
        build(gain)


@pytest.mark.parametrize(
    ("build", "kind", "pattern"),
    [
        (lambda: init.he(0, (3, 3), F64), TypeError, r"'key' is not a JAX key; got int.*jax\.random\.key"),
        (lambda: init.he(jnp.ones(2), (3, 3), F64), TypeError, r"'key' is not a JAX key.*float64"),
        (lambda: init.he(jnp.zeros(3, jnp.uint32), (3, 3), F64), ValueError, r"'key' is not a single key.*\(3,\)"),
        (lambda: init.he(jax.random.split(KEY), (3, 3), F64), ValueError, r"'key' is not a single key.*\(2,\)"),
        (lambda: init.he(KEY, 3, F64), TypeError, r"'shape' must be a tuple; got 3"),
        (lambda: init.he(KEY, (3,), F64), ValueError, r"'shape' has the wrong length; got \(3,\)"),
        (lambda: init.he(KEY, (3, 0), F64), ValueError, r"'shape' is out of range; got 0"),
        (lambda: init.he(KEY, (3, 2.0), F64), TypeError, r"'shape' must be an integer; got 2.0"),
        (lambda: init.he(KEY, (3, 3), int), TypeError, r"'dtype' must be floating"),
        (lambda: init.he(KEY, (3, 3), None), TypeError, r"'dtype' must be floating"),
        (lambda: init.he(KEY, (3, 3), "float46"), TypeError, r"'dtype' must be floating; got 'float46'"),
        (lambda: init.he(KEY, (3, 3), F64, distribution="unifrom"), ValueError, r"'distribution'.*mean 'uniform'"),
        (lambda: init.he(KEY, (3, 3), F64, gain="2"), TypeError, r"'gain' must be a number"),
        (lambda: init.orthogonal(KEY, (2, 3, 4), F64), ValueError, r"'shape' has the wrong length"),
        (lambda: init.orthogonal(KEY, 3, F64, gates=0), ValueError, r"'gates' is out of range"),
        (lambda: init.identity(0, F64), ValueError, r"'n' is out of range"),
        (lambda: init.identity(2, F64, scale=math.nan), ValueError, r"'scale' is out of range; got nan"),
        (
            lambda: init.chrono(KEY, 3, 2, F64),
            ValueError,
            r"'t_max' is out of range; got 2, expected a finite t_max > 2",
        ),
        (lambda: init.chrono(KEY, 3, math.inf, F64), ValueError, r"'t_max' is out of range; got inf"),
        (lambda: init.delta_orthogonal(KEY, 0, 2, 2, F64), ValueError, r"'kernel_size' is out of range"),
        (lambda: init.delta_orthogonal(KEY, (1, 1, 1), 2, 2, F64), ValueError, r"'kernel_size' has the wrong length"),
        (
            lambda: init.delta_orthogonal(KEY, 3, 4, 2, F64),
            ValueError,
            r"'c_out' is out of range; got 2, expected c_out >= 4",
        ),
    ],
)
def test_bad_input_is_refused(build, kind, pattern):
    with pytest.raises(kind, match=pattern):
        build()
