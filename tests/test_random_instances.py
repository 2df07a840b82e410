"""Random cells and layers, `init`: shapes, laws, the gate that keeps, keys, and what is refused."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacspec import cells, layers

KEY = jax.random.key(0)
CELLS = ("Elman", "LeakyElman", "LSTM", "GRU", "MGU", "MinimalRNN", "LRU")
GATED = {"LSTM": 4, "GRU": 3, "MGU": 2}
KEEPING = ("LSTM", "GRU", "MGU", "MinimalRNN")
LAYERS = ("Dense", "WeightNorm", "CosineNorm", "Conv")
MANY = 5.0
"""Standard errors that a mean may be off by; the keys are fixed, and beyond five there is one draw in two million."""


def made(name, *args, key=KEY, **options):
    return getattr(cells if name in CELLS else layers, name).init(key, *args, **{"dtype": jnp.float64} | options)


def is_variance(values, variance):
    """The mean square of N independent normal numbers of mean 0, within its standard error variance sqrt(2 / N)."""
    assert abs(float(jnp.mean(values**2)) - variance) <= MANY * variance * math.sqrt(2 / values.size)
    assert abs(float(jnp.mean(values))) <= MANY * math.sqrt(variance / values.size)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float16])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_has_the_shapes_of_its_docstring_and_is_a_step(name, dtype):
    cell = made(name, 3, 4, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(cell) if leaf.ndim} == {jnp.dtype(dtype)}
    lead = (GATED[name],) if name in GATED else ()
    if name == "LRU":
        expected = {"nu": (4,), "theta": (4,), "B": (2, 4, 3), "gamma": (4,)}
    else:
        expected = {"W": (*lead, 4, 4), "U": (*lead, 4, 3), "b": (*lead, 4)}
        expected |= {"V": (4, 4), "c": (4,)} if name == "MinimalRNN" else {}
    assert {field: getattr(cell, field).shape for field in expected} == expected
    alone = made(name, 0, 4, dtype=dtype)
    for one, x in ((cell, jnp.ones(3, dtype)), (alone, None)):
        assert one.jacobian(one(one.initial_state(x), x), x).dense().dtype == dtype


@pytest.mark.parametrize("name", [name for name in CELLS if name != "LRU"])
def test_weights_of_a_cell_follow_their_laws(name):
    n, m = 40, 60
    cell = made(name, m, n, gain=1.3, input_gain=0.7)
    copies = cell.W.reshape(-1, n, n)
    for W in copies:
        assert float(jnp.abs(W.T @ W / 1.3**2 - jnp.eye(n)).max()) <= 10 * n * jnp.finfo(W.dtype).eps
        is_variance(W.ravel() / 1.3 * math.sqrt(n), 1)
    for a, b in itertools.pairwise(copies):  # gates are independent: the mean product of n^2 numbers
        assert abs(float(jnp.mean(a * b)) * n / 1.3**2) <= MANY / n
    is_variance(cell.U, 0.7**2 / m)
    if name == "MinimalRNN":
        is_variance(cell.V, 0.7**2 / n)
        assert not cell.c.any()
    assert not cell.b.any()
    is_variance(made(name, m, n, initialization="gaussian", gain=2.0).W, 4 / n)
    is_variance(made(name, m, n, initialization="he").W, 2 / n)
    is_variance(made(name, m, n, initialization="glorot").W, 1 / n)
    identity = made(name, m, n, initialization="identity", gain=0.5).W
    assert jnp.array_equal(identity, jnp.broadcast_to(0.5 * jnp.eye(n), identity.shape))


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in KEEPING), ("GRU", {"form": "reset_before"}), ("MGU", {"reset_gate": False})]
)  # fmt: skip
def test_the_forget_bias_is_that_of_the_gate_that_keeps(name, options):
    """Without weights the zero state decays by sigma(bias) a step, whatever the form of the cell."""
    cell = made(name, 2, 3, gain=0.0, input_gain=0.0, forget_bias=2.0, **options)
    x = jnp.ones(2)
    J = cell.jacobian(cell.initial_state(x), x).dense()[:3, :3]  # of an LSTM the cell state's
    np.testing.assert_allclose(J, jnp.eye(3) / (1 + math.exp(-2)), rtol=1e-14, atol=0)


def test_eigenvalues_of_an_lru_are_uniform_on_its_ring():
    n, m, low, high = 2000, 50, 0.5, 0.95
    cell = made("LRU", m, n, r_min=low, r_max=high, input_gain=0.7)
    area = np.asarray(cell.modulus) ** 2
    assert ((area > low**2) & (area < high**2)).all()
    for values, a, b in ((area, low**2, high**2), (np.asarray(cell.theta), 0, 2 * np.pi)):
        unit = (values - a) / (b - a)  # uniform on (0, 1): mean 1/2, variance 1/12; of the square 1/3 and 4/45
        assert abs(unit.mean() - 1 / 2) <= MANY * math.sqrt(1 / 12 / n)
        assert abs((unit**2).mean() - 1 / 3) <= MANY * math.sqrt(4 / 45 / n)
    is_variance(cell.B, 0.7**2 / 2 / m)
    np.testing.assert_allclose(cell.gamma, np.sqrt(1 - area), rtol=1e-12)


@pytest.mark.parametrize("name", ["Dense", "WeightNorm", "CosineNorm"])
def test_weights_of_a_layer_follow_their_laws(name):
    layer = made(name, 200, 100, gain=1.5, bias_variance=0.04, activation="tanh")
    V = layer.V if name == "WeightNorm" else layer.W
    assert V.shape == (100, 200)
    assert layer.activation == "tanh"
    is_variance(V, 1.5**2 / 200)
    is_variance(layer.b, 0.04)
    if name == "WeightNorm":
        np.testing.assert_allclose(layer.W, V, rtol=1e-14)
    if name == "CosineNorm":
        assert (layer.g == 1).all()
    assert not made(name, 3, 4).b.any()
    tall = made(name, 5, 9, initialization="orthogonal", gain=2.0)
    tall = tall.V if name == "WeightNorm" else tall.W
    np.testing.assert_allclose(jnp.linalg.svdvals(tall), 2.0, rtol=1e-13)


def test_kernels_follow_their_laws():
    kernel = made("Conv", 16, 32, (3, 5), gain=1.5).kernel
    assert kernel.shape == (3, 5, 16, 32)
    is_variance(kernel, 1.5**2 / (15 * 16))
    is_variance(made("Conv", 16, 32, 3, initialization="he").kernel, 2 / (3 * 16))
    layer = made("Conv", 2, 3, (3, 3), initialization="delta_orthogonal", gain=0.5, strides=1, padding="CIRCULAR")
    J = layer.jacobian(jnp.ones((4, 4, 2))).dense()
    np.testing.assert_allclose(jnp.linalg.svdvals(J), 0.5, rtol=1e-13)


SIZED = [*((name, 3, 4) for name in CELLS), *((name, 3, 4) for name in LAYERS)]


@pytest.mark.parametrize("case", SIZED, ids=lambda case: case[0])
def test_a_key_says_everything_is_used_once_and_may_be_mapped(case):
    name, *sizes = case
    random = lambda tree: [
        leaf for leaf in jax.tree.leaves(tree) if leaf.size > 1 and bool((leaf != leaf.ravel()[0]).any())
    ]
    one, again, other = made(name, *sizes), made(name, *sizes), made(name, *sizes, key=jax.random.key(1))
    assert random(one)
    for a, b, c in zip(random(one), random(again), random(other), strict=True):
        assert jnp.array_equal(a, b)
        assert not jnp.array_equal(a, c)
    keys = jnp.stack([KEY, jax.random.key(1)])
    both = jax.jit(jax.vmap(lambda key: made(name, *sizes, key=key)))(keys)
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-13, atol=1e-15)
    extra = {"bias_variance": 1.0} if name in LAYERS else {}
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: made(name, *sizes, key=key, **extra))(jax.random.clone(KEY))


@pytest.mark.parametrize("case", SIZED, ids=lambda case: case[0])
@pytest.mark.parametrize(
    ("change", "kind", "pattern"),
    [
        ({"key": 0}, TypeError, r"'key' is not a JAX key; got int.*jax\.random\.key\(seed\)"),
        ({"key": jax.random.split(KEY)}, ValueError, r"'key' is not a single key; got shape \(2,\)"),
        ({"inputs": 2.0}, TypeError, r"'inputs' must be an integer; got 2\.0"),
        ({"inputs": -1}, ValueError, r"'inputs' is out of range; got -1"),
        ({"units": 0}, ValueError, r"'units' is out of range; got 0"),
        ({"units": True}, TypeError, r"'units' must be an integer; got True"),
        ({"dtype": int}, TypeError, r"'dtype' must be floating"),
        ({"dtype": None}, TypeError, r"'dtype' must be floating; got None"),
    ],
)
def test_wrong_arguments_are_named(case, change, kind, pattern):
    name, *sizes = case
    arguments = {"key": KEY, "inputs": sizes[0], "units": sizes[1], "dtype": jnp.float32} | change
    room = "cells" if name in CELLS else "layers"
    with pytest.raises(kind, match=rf"^jacspec\.{room}\.{name}\.init: argument {pattern}"):
        getattr(cells if name in CELLS else layers, name).init(**arguments)


@pytest.mark.parametrize(
    ("build", "kind", "pattern"),
    [
        (lambda: made("GRU", 3, 4, initialization="orthogonl"), ValueError, r"GRU\.init.*mean 'orthogonal'"),
        (lambda: made("GRU", 3, 4, gat="relu"), ValueError, r"GRU\.init: argument 'options'.*got 'gat'.*mean 'gate'"),
        (lambda: made("GRU", 3, 4, W=jnp.ones((3, 4, 4))), ValueError, r"'options' is unknown; got 'W'"),
        (lambda: made("MinimalRNN", 3, 4, V=jnp.ones((4, 4))), ValueError, r"'options' is unknown; got 'V'"),
        (lambda: made("GRU", 3, 4, form="reset_befor"), ValueError, r"'form'.*mean 'reset_before'"),
        (lambda: made("LeakyElman", 3, 4, rate=1.5), ValueError, r"'rate' is out of range"),
        (lambda: made("Elman", 3, 4, forget_bias=1.0), ValueError, r"'forget_bias' needs a gate that keeps"),
        (lambda: made("LSTM", 3, 4, forget_bias=math.nan), ValueError, r"'forget_bias' is out of range; got nan"),
        (lambda: made("LSTM", 3, 4, gain=-1), ValueError, r"'gain' is out of range"),
        (lambda: made("LSTM", 3, 4, input_gain=math.inf), ValueError, r"'input_gain' is out of range"),
        (lambda: made("LSTM", 3, 4, gain="2"), TypeError, r"'gain' must be a number"),
        (lambda: made("LSTM", 3, 4, gain=1e39, dtype=jnp.float32), ValueError, r"LSTM\.init: argument 'W'.*non-finite"),
        (lambda: made("LSTM", 3, 4, forget_bias=7e4, dtype=jnp.float16), ValueError, r"argument 'b'.*non-finite"),
        (lambda: made("MinimalRNN", 0, 4, input_gain=1e39, dtype=jnp.float32), ValueError, r"argument 'V'.*non-finite"),
        (lambda: made("LRU", 3, 4, r_max=1.0), ValueError, r"LRU\.init: argument 'r_max' is out of range; got 1\.0"),
        (lambda: made("LRU", 3, 4, r_min=-0.1), ValueError, r"'r_min' is out of range"),
        (lambda: made("LRU", 3, 4, input_gain=1e39, dtype=jnp.float32), ValueError, r"argument 'B'.*non-finite"),
        (lambda: made("Dense", 3, 4, bias_variance=-1.0), ValueError, r"Dense\.init: argument 'bias_variance'"),
        (lambda: made("Dense", 0, 4), ValueError, r"'inputs' is out of range; got 0"),
        (lambda: made("Dense", 3, 4, activation="rleu"), ValueError, r"mean 'relu'"),
        (lambda: made("Conv", 3, 4, (3, 3, 3)), ValueError, r"'kernel_size' has the wrong length"),
        (lambda: made("Conv", 3, 4, 1.5), TypeError, r"'kernel_size' must be an integer"),
        (lambda: made("Conv", 3, 4, initialization="orthogonal"), ValueError, r"mean 'delta_orthogonal'"),
        (lambda: made("Conv", 4, 3, initialization="delta_orthogonal"), ValueError, r"'units' is out of range; got 3"),
        (lambda: made("CosineNorm", 1, 3, centered=True), ValueError, r"CosineNorm"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(build, kind, pattern):
    with pytest.raises(kind, match=pattern):
        build()
