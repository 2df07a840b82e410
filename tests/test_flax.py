"""Every Flax layout: the analytic step against the Flax module itself, and what happens to everything else."""

import functools
import subprocess
import sys
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.flatten_util import ravel_pytree

from jacspec import cells, layers
from jacspec.networks.flax import LinenStep, NNXStep, from_flax
from jacspec.networks.flax._layers import AlongLastAxis

I, H = 3, 5


def randomize(tree, rng):
    """The same tree with random numbers, biases included."""
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) / np.sqrt(a.shape[0]), a.dtype), tree)


def nnx_module(make, rng, **options):
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64} | options
    module = make(I, H, rngs=nnx.Rngs(0), **options)
    nnx.update(module, randomize(nnx.state(module, nnx.Param), rng))
    return module


def linen_module(make, rng, **options):
    module = make(H, param_dtype=jnp.float64, **options)
    lstm = make in (linen.LSTMCell, linen.OptimizedLSTMCell)
    carry = (jnp.zeros(H), jnp.zeros(H)) if lstm else jnp.zeros(H)
    return module, randomize(module.init(jax.random.key(0), carry, jnp.zeros(I)), rng)


NNX = {
    "simple": (nnx.SimpleCell, {}, cells.Elman),
    "simple residual": (nnx.SimpleCell, {"residual": True}, cells.Elman),
    "simple relu": (nnx.SimpleCell, {"activation_fn": jax.nn.relu}, cells.Elman),
    "simple exact gelu": (
        nnx.SimpleCell,
        {"activation_fn": functools.partial(jax.nn.gelu, approximate=False)},
        cells.Elman,
    ),
    "lstm": (nnx.LSTMCell, {}, cells.LSTM),
    "lstm, other functions": (nnx.LSTMCell, {"gate_fn": jax.nn.softplus, "activation_fn": jax.nn.silu}, cells.LSTM),
    "optimized lstm": (nnx.OptimizedLSTMCell, {}, cells.LSTM),
    "gru": (nnx.GRUCell, {}, cells.GRU),
    "gru, other functions": (nnx.GRUCell, {"gate_fn": jax.nn.hard_tanh, "activation_fn": jax.nn.elu}, cells.GRU),
}
LINEN = {
    "simple": (linen.SimpleCell, {}, cells.Elman),
    "simple residual": (linen.SimpleCell, {"residual": True}, cells.Elman),
    "lstm": (linen.LSTMCell, {}, cells.LSTM),
    "optimized lstm": (linen.OptimizedLSTMCell, {}, cells.LSTM),
    "gru": (linen.GRUCell, {}, cells.GRU),
    "mgu": (linen.MGUCell, {}, cells.MGU),
    "mgu without reset": (linen.MGUCell, {"reset_gate": False}, cells.MGU),
    "mgu, other functions": (linen.MGUCell, {"activation_fn": linen.relu, "gate_fn": linen.tanh}, cells.MGU),
}


@jax.jit
def answers(step, carry, x):
    return ravel_pytree(step(carry, x))[0], step.jacobian(carry, x).dense()


def assert_same_step(step, reference, rng, tolerance=1e-12):
    """Next state and Jacobian of `step` against the module called as Flax calls it."""
    for _ in range(2):
        x = jnp.asarray(rng.normal(size=I))
        h = jnp.asarray(rng.normal(size=H))
        carry = (jnp.asarray(rng.normal(size=H)), h) if isinstance(step, cells.LSTM) else h
        flat, unravel = ravel_pytree(carry)
        flow = jax.jit(lambda v, x=x, unravel=unravel: ravel_pytree(reference(unravel(v), x)[0])[0])
        got, J = answers(step, carry, x)
        assert np.max(np.abs(got - flow(flat))) <= tolerance
        assert np.max(np.abs(J - jax.jacfwd(flow)(flat))) <= tolerance


@pytest.mark.parametrize("name", NNX)
def test_nnx_cell(name):
    make, options, kind = NNX[name]
    rng = np.random.default_rng(0)
    module = nnx_module(make, rng, **options)
    step = from_flax(module)
    assert type(step) is kind
    assert_same_step(step, lambda carry, x: module(carry, x), rng)


@pytest.mark.parametrize("form", ["full", "params", "frozen", "bound"])
@pytest.mark.parametrize("name", LINEN)
def test_linen_cell(name, form):
    make, options, kind = LINEN[name]
    rng = np.random.default_rng(1)
    module, variables = linen_module(make, rng, **options)
    step = {
        "full": lambda: from_flax(module, variables),
        "params": lambda: from_flax(module, variables["params"]),
        "frozen": lambda: from_flax(module, flax.core.freeze(variables)),
        "bound": lambda: from_flax(module.bind(variables)),
    }[form]()
    assert type(step) is kind
    if form == "full":
        assert_same_step(step, lambda carry, x: module.apply(variables, carry, x), rng)


def test_gru_with_the_bias_of_pull_request_5595():
    """nnx.GRUCell with a bias b_hn, in the fused Linear (as it runs today) or beside it (as the request writes it)."""
    rng = np.random.default_rng(2)
    linen_cell, variables = linen_module(linen.GRUCell, rng)
    p = variables["params"]
    join = lambda side, leaf: jnp.concatenate([p[side + g][leaf] for g in "rzn"], axis=-1)
    module = nnx_module(nnx.GRUCell, rng)
    module.dense_i.kernel[...], module.dense_i.bias[...] = join("i", "kernel"), join("i", "bias")
    module.dense_h.kernel[...] = join("h", "kernel")
    module.dense_h.use_bias = True
    module.dense_h.bias = nnx.Param(jnp.concatenate([jnp.zeros(2 * H), p["hn"]["bias"]]))
    assert_same_step(from_flax(module), lambda carry, x: module(carry, x), rng)
    assert_same_step(from_flax(module), lambda carry, x: linen_cell.apply(variables, carry, x), rng)
    module.dense_h.bias, module.hn_bias = None, nnx.Param(jnp.asarray(p["hn"]["bias"]))
    assert_same_step(from_flax(module), lambda carry, x: linen_cell.apply(variables, carry, x), rng)


@pytest.mark.parametrize("make", [nnx.SimpleCell, nnx.GRUCell, nnx.OptimizedLSTMCell])
def test_weights_are_those_of_the_moment_of_the_call(make):
    rng = np.random.default_rng(3)
    module = nnx_module(make, rng)
    for activation in (module.activation_fn, lambda a: jnp.tanh(a)):  # analytic, then automatic differentiation
        module.activation_fn = activation
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, h = jnp.ones(I), jnp.ones(H)
            carry = (h, h) if make is nnx.OptimizedLSTMCell else h
            old = from_flax(module)
            before = ravel_pytree(old(carry, x))[0]
            module.dense_h.kernel[...] = 0.5 * module.dense_h.kernel[...]
            after = ravel_pytree(from_flax(module)(carry, x))[0]
        want = ravel_pytree(module(carry, x)[0])[0]
        np.testing.assert_allclose(after, want, atol=1e-14)
        assert np.max(np.abs(after - before)) > 1e-3
        np.testing.assert_array_equal(ravel_pytree(old(carry, x))[0], before)  # a snapshot


def test_dtype_of_parameters_and_of_the_module():
    rng = np.random.default_rng(4)
    single = nnx_module(nnx.GRUCell, rng, dtype=None, param_dtype=jnp.float32)
    assert from_flax(single).W.dtype == jnp.float32
    assert from_flax(nnx_module(nnx.GRUCell, rng, dtype=None)).W.dtype == jnp.float64
    assert from_flax(nnx_module(nnx.GRUCell, rng, param_dtype=jnp.float32)).W.dtype == jnp.float64
    module = nnx.SimpleCell(I, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match="SimpleCell computes in its dtype, float32, less than its parameters"):
        step = from_flax(module)
    h, x = jnp.ones(H, jnp.float32), jnp.ones(I, jnp.float32)
    assert step(h, x).dtype == module(h, x)[0].dtype == jnp.float32
    np.testing.assert_allclose(step(h, x), module(h, x)[0], rtol=8 * np.finfo(np.float32).eps)


class Halving(nnx.GRUCell):
    def __call__(self, carry, inputs):
        h, _ = super().__call__(carry, inputs)
        return 0.5 * h, h


def fallbacks():
    rng = np.random.default_rng(5)
    swapped = nnx_module(nnx.LSTMCell, rng)
    swapped.hi = nnx.WeightNorm(swapped.hi, rngs=nnx.Rngs(0))
    own, variables = linen_module(linen.GRUCell, rng, activation_fn=jax.nn.gelu)
    surplus = nnx_module(nnx.GRUCell, rng)
    surplus.dense_h.extra = nnx.Param(jnp.ones(2))
    return {
        "activation": (nnx_module(nnx.GRUCell, rng, activation_fn=jax.nn.gelu), None, "activation_fn 'gelu'"),
        "gate": (nnx_module(nnx.LSTMCell, rng, gate_fn=lambda a: a), None, "gate_fn '<lambda>'"),
        "subclass": (nnx_module(Halving, rng), None, "Halving has no analytic.*not a cell of the list"),
        "part": (swapped, None, "'hi' is a WeightNorm"),
        "parameters": (surplus, None, "parameters are"),
        "linen": (own, variables, "activation_fn 'gelu'"),
    }


@pytest.mark.parametrize("case", ["activation", "gate", "subclass", "part", "parameters", "linen"])
def test_anything_else_is_a_step_for_autodiff_and_says_so(case):
    module, variables, words = fallbacks()[case]
    with pytest.warns(UserWarning, match=f"{words}.*automatic differentiation"):
        step = from_flax(module, variables)
    assert isinstance(step, LinenStep if case == "linen" else NNXStep)
    assert jax.tree.leaves(step)
    lstm = case in ("gate", "part")
    h, x = jnp.linspace(-1, 1, H), jnp.ones(I)
    carry = (h, h) if lstm else h
    want = (module(carry, x) if variables is None else module.apply(variables, carry, x))[0]
    got = jax.jit(lambda step, carry, x: step(carry, x))(step, carry, x)
    assert jax.tree.structure(got) == jax.tree.structure(carry)
    np.testing.assert_allclose(ravel_pytree(got)[0], ravel_pytree(want)[0], atol=1e-13)
    flat, unravel = ravel_pytree(carry)
    J = jax.jacfwd(lambda v: ravel_pytree(step(unravel(v), x))[0])(flat)
    assert np.all(np.isfinite(J))


@pytest.mark.filterwarnings("ignore:jacspec.from_flax")
def test_a_module_that_returns_the_state_alone():
    step = from_flax(nnx.Linear(H, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))
    assert step(jnp.ones(H)).shape == (H,)
    step = NNXStep(*nnx.split(nnx.Sequential(lambda h: {"y": h})))
    with pytest.raises(TypeError, match="'module' does not return the next state"):
        step(jnp.ones(H))


def widen_statistics(module):
    """Flax keeps float32 statistics whatever `param_dtype` is, and warns when float64 ones are stored in them."""
    nnx.update(module, jax.tree.map(lambda a: a.astype(jnp.float64), nnx.state(module, nnx.BatchStat)))


def test_train_mode_statistics_do_not_leak():
    module = nnx.BatchNorm(H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    widen_statistics(module)
    with pytest.warns(UserWarning, match="BatchNorm"):
        step = from_flax(module)
    batch = jnp.asarray(np.random.default_rng(6).normal(size=(4, H)))
    J = jax.jit(jax.jacfwd(step))(batch)
    want = layers.BatchNorm(jnp.ones(H)).jacobian(batch).dense()
    assert np.max(np.abs(J.reshape(4 * H, 4 * H) - want)) < 1e-12


def test_sequential_gives_the_layers():
    rngs, float64 = nnx.Rngs(0), {"param_dtype": jnp.float64}
    net = nnx.Sequential(
        nnx.Linear(I, 7, rngs=rngs, **float64), jnp.tanh,
        nnx.Sequential(nnx.LayerNorm(7, rngs=rngs, **float64), jax.nn.relu),
        nnx.RMSNorm(7, rngs=rngs, **float64), nnx.Linear(7, 4, use_bias=False, rngs=rngs, **float64),
        nnx.BatchNorm(4, use_running_average=True, rngs=rngs, **float64), jax.nn.gelu, nnx.Dropout(0.5, deterministic=True),
    )  # fmt: skip
    nnx.update(net, randomize(nnx.state(net, nnx.Param), np.random.default_rng(7)))
    with pytest.warns(UserWarning, match=r"layer 6: gelu, 7: Dropout: automatic"):
        parts = from_flax(net)
    names = ["Dense", "LayerNorm", "Elementwise", "RMSNorm", "Dense", "BatchNorm", "function", "NNXStep"]
    assert [type(p).__name__ for p in parts][:6] == names[:6]
    assert len(parts) == 8
    h = x = jnp.asarray(np.random.default_rng(8).normal(size=I))
    J = jnp.eye(I)
    for part in parts:
        own = part.jacobian(h).dense() if hasattr(part, "jacobian") else jax.jacfwd(part)(h)
        h, J = part(h), own @ J
    np.testing.assert_allclose(h, net(x), atol=1e-12)
    np.testing.assert_allclose(J, jax.jacfwd(lambda v: net(v))(x), atol=1e-12)


def test_a_layer_with_a_product_of_its_own_keeps_it():
    twice = {
        "dot_general": lambda *args, **options: 2 * jax.lax.dot_general(*args, **options),
        "conv_general_dilated": lambda *args, **options: 2 * jax.lax.conv_general_dilated(*args, **options),
    }
    linear = nnx.Linear(I, H, rngs=nnx.Rngs(0), dot_general=twice["dot_general"])
    conv = nnx.Conv(I, H, (3,), rngs=nnx.Rngs(0), conv_general_dilated=twice["conv_general_dilated"])
    for module, x in ((linear, jnp.ones(I)), (conv, jnp.ones((5, I)))):
        with pytest.warns(UserWarning, match="no analytic Jacobian for layer 0"):
            (layer,) = from_flax(nnx.Sequential(module))
        np.testing.assert_allclose(layer(x), module(x), rtol=1e-6)


@pytest.mark.slow
def test_sequential_with_batch_norm_in_training_and_with_convolutions():
    rngs, float64 = nnx.Rngs(0), {"param_dtype": jnp.float64}
    net = nnx.Sequential(nnx.Linear(I, H, rngs=rngs, **float64), nnx.BatchNorm(H, rngs=rngs, **float64), jnp.tanh)
    widen_statistics(net)
    batch = jnp.asarray(np.random.default_rng(9).normal(size=(4, I)))
    h, J = batch, jnp.eye(4 * I)
    for part in from_flax(net):
        h, J = part(h), part.jacobian(h).dense() @ J
    np.testing.assert_allclose(h, nnx.clone(net)(batch), atol=1e-12)
    want = jax.jacfwd(lambda b: nnx.clone(net)(b))(batch).reshape(4 * H, 4 * I)
    np.testing.assert_allclose(J, want, atol=1e-12)
    conv = nnx.Sequential(
        nnx.Conv(2, 3, (3, 3), rngs=rngs, **float64), jax.nn.relu, nnx.LayerNorm(3, rngs=rngs, **float64),
        nnx.Conv(3, 2, (3, 3), strides=2, padding="VALID", rngs=rngs, **float64), jnp.ravel,
        nnx.Linear(8, 4, rngs=rngs, **float64),
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"for layer 3: ravel"):
        parts = from_flax(conv)
    assert [isinstance(p, k) for p, k in zip(parts, (layers.Conv, AlongLastAxis, layers.Conv), strict=False)] == [
        True
    ] * 3
    image = jnp.asarray(np.random.default_rng(10).normal(size=(6, 6, 2)))
    h = functools.reduce(lambda h, part: part(h), parts, image)
    np.testing.assert_allclose(h, conv(image), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: from_flax(jnp.tanh), TypeError, "'module' is no Flax module"),
        (lambda: from_flax(linen.GRUCell(3)), TypeError, r"'variables' is missing.*\{'params': ...\}"),
        (lambda: from_flax(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)), {}), ValueError, "'variables' belong to Linen"),
        (lambda: from_flax(nnx.RNN(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)))), TypeError, r"'module'.*nnx.RNN.*its .cell"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_importing_jacspec_does_not_import_flax():
    code = "import sys, jacspec; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
