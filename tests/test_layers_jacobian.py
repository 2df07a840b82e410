"""The analytic step Jacobian of every layer against autodiff, and layers against those of Flax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layer_checks import TOLERANCE, autodiff, check_jacobian, draw, error

from jacspec import activations, layer_chain, layers, log_singular_values
from jacspec import operators as ops
from jacspec.layers import (
    BatchNorm,
    Conv,
    CosineNorm,
    Dense,
    LayerNorm,
    PerExample,
    Residual,
    RMSNorm,
    Sequential,
    WeightNorm,
)

WEIGHTED = {
    "dense": lambda f: (Dense(draw(4, 6), draw(4), f), draw(6, seed=1)),
    "weight_norm": lambda f: (WeightNorm(draw(4, 6), draw(4, seed=2), draw(4), f), draw(6, seed=1)),
    "cosine_norm": lambda f: (CosineNorm(draw(4, 6), draw(4, seed=2), draw(4), f), draw(6, seed=1)),
    "cosine_epsilon": lambda f: (CosineNorm(draw(4, 6), None, None, f, epsilon=0.3), draw(6, seed=1)),
    "cosine_centered": lambda f: (CosineNorm(draw(4, 6), draw(4, seed=2), draw(4), f, centered=True), draw(6, seed=1)),
    "conv_2d": lambda f: (Conv(draw(3, 2, 2, 3), draw(3), f), draw(4, 3, 2, seed=1)),
    "conv_1d": lambda f: (Conv(draw(3, 2, 3), draw(3), f, "SAME", 2), draw(5, 2, seed=1)),
}


@pytest.mark.parametrize(
    ("case", "activation"),
    [
        pytest.param(case, name, marks=[] if case == "dense" or name in ("tanh", "relu") else pytest.mark.slow)
        for case in WEIGHTED
        for name in activations.TABLE
    ],
)
def test_analytic_jacobian_is_that_of_autodiff_for_every_activation(case, activation):
    layer, h = WEIGHTED[case](activation)
    factors, slack = check_jacobian(layer, h)
    assert slack <= 1e-6
    assert {"slope", "weight"} <= set(factors)


NORMS = {
    "batch_train": (BatchNorm(draw(3), draw(3, seed=1)), draw(5, 3)),
    "batch_train_plain": (BatchNorm(epsilon=0.0), draw(2, 3)),
    "batch_eval": (
        BatchNorm(draw(3), draw(3), mean=draw(3, seed=2), variance=draw(3) ** 2, mode="eval"),
        draw(3, seed=3),
    ),
    "batch_eval_2d": (BatchNorm(mean=draw(3), variance=draw(3) ** 2, mode="eval"), draw(4, 3)),
    "layer": (LayerNorm(draw(6), draw(6, seed=1)), draw(6, seed=2)),
    "layer_plain": (LayerNorm(epsilon=0.0), draw(6, seed=2)),
    "layer_two_units": (LayerNorm(epsilon=0.1), draw(2, seed=2)),
    "layer_one_unit": (LayerNorm(draw(1)), draw(1, seed=2)),
    "rms": (RMSNorm(draw(6)), draw(6, seed=2)),
    "rms_plain": (RMSNorm(epsilon=0.0), draw(6, seed=2)),
    "rms_one_unit": (RMSNorm(epsilon=0.5), draw(1, seed=2)),
}


@pytest.mark.parametrize("case", NORMS)
def test_normalization_jacobian_is_that_of_autodiff(case):
    factors, slack = check_jacobian(*NORMS[case])
    assert slack <= 1e-6
    assert "normalization gain" in factors


COMPOSED = {
    "residual": (Residual(Dense(draw(5, 5), draw(5), "tanh"), 0.3), draw(5)),
    "residual_array_scale": (Residual(WeightNorm(draw(5, 5)), jnp.asarray(-0.7)), draw(5)),
    "residual_of_function": (Residual(lambda h: jnp.sin(h) * h[0]), draw(5)),
    "residual_conv": (Residual(Conv(draw(3, 3, 2, 2), activation="tanh")), draw(4, 5, 2)),
    "residual_branch": (
        Residual(Sequential(LayerNorm(), Dense(draw(8, 5), activation="gelu"), Dense(draw(5, 8)))),
        draw(5),
    ),
    "sequential_one": (Sequential(RMSNorm()), draw(5)),
    "sequential_function": (Sequential(Dense(draw(3, 5)), jnp.tanh, Residual(jnp.sin)), draw(5)),
    "per_example": (PerExample(Dense(draw(4, 3), draw(4), "tanh")), draw(5, 3)),
    "per_example_conv": (PerExample(Conv(draw(3, 2, 4), padding="VALID")), draw(3, 5, 2)),
    "per_example_function": (PerExample(lambda h: jnp.cumsum(h**2)), draw(3, 4)),
    "batch_net": (
        Sequential(
            PerExample(Dense(draw(4, 3), activation="relu")), BatchNorm(draw(4), draw(4)), PerExample(LayerNorm())
        ),
        draw(6, 3),
    ),
    "batch_residual": (
        Residual(Sequential(BatchNorm(), PerExample(Dense(draw(3, 3), activation="relu"))), 0.5),
        draw(6, 3),
    ),
}


@pytest.mark.parametrize("case", COMPOSED)
def test_composed_jacobian_is_that_of_autodiff(case):
    check_jacobian(*COMPOSED[case])


@pytest.mark.parametrize("wrong", ["push", "pull", "dense", "row_norms"])
def test_check_jacobian_can_fail(wrong):
    class Wrong:
        def __init__(self, right):
            self.right = right

        def __getattr__(self, name):
            out = getattr(self.right, name)
            return (lambda *a: out(*a) * (1 - 1e-9)) if name == wrong else out

    class Layer(Dense):
        def jacobian(self, h, x=None):
            return Wrong(super().jacobian(h, x))

    with pytest.raises(AssertionError):
        check_jacobian(Layer(draw(4, 6)), draw(6))


TRANSFORMED = {
    **{name: NORMS[name] for name in ("batch_train", "batch_eval", "layer", "rms")},
    **{name: WEIGHTED[name]("tanh") for name in ("dense", "weight_norm", "cosine_centered", "conv_2d")},
    "batch_net": COMPOSED["batch_net"],
}


@pytest.mark.parametrize("case", TRANSFORMED)
def test_layers_are_pytrees_under_jit_vmap_and_in_float32(case):
    @jax.jit
    def ask(layer, h):
        J = layer.jacobian(h)
        return layer(h), J.dense(), ops.row_norms(J), J.push(jnp.eye(h.size, dtype=h.dtype))

    layer, h = TRANSFORMED[case]
    right = ask(layer, h)
    low, low_h = jax.tree.map(lambda a: a.astype(jnp.float32), (layer, h))
    if "batch" in case and "eval" not in case:
        narrow = ask(low, low_h)
    else:
        narrow = [out[0] for out in jax.jit(jax.vmap(ask, in_axes=(None, 0)))(low, jnp.stack([low_h, 2 * low_h]))]
    for a, b in zip(narrow, right, strict=True):
        assert a.dtype == jnp.float32
        assert error(a, b) <= 3e-5 * max(1, np.abs(b).max()) if b is not right[2] else error(a, b) <= 5e-3 * np.max(b)


@pytest.mark.parametrize("case", ["residual_of_function", "sequential_function", "per_example_function", "batch_net"])
def test_every_jacobian_is_a_pytree_of_arrays(case):
    """Also where a bare function is part of the layer: a chain keeps the operators and passes them to jit."""
    layer, h = COMPOSED[case]
    J = layer.jacobian(h)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(J))
    assert error(jax.jit(lambda J: J.push(jnp.eye(h.size)))(J), J.dense()) <= TOLERANCE


@pytest.mark.slow
def test_layer_chain_of_functions_and_layers():
    h = draw(4)
    net = [
        Dense(draw(6, 4)),
        LayerNorm(),
        Sequential(Dense(draw(5, 6)), jnp.tanh),
        Residual(jnp.sin),
        CosineNorm(draw(3, 5)),
    ]
    chain = layer_chain(net, h)
    product = functools.reduce(lambda P, J: J @ P, chain.dense())
    assert error(product, autodiff(Sequential(*net), h)) <= TOLERANCE
    assert error(log_singular_values(chain), np.log(np.linalg.svd(product, compute_uv=False))) <= 1e-10


def test_shared_weight_of_per_example_is_never_copied():
    """No array of the batch times the weights appears in a push; the weight factor has no batch axis."""
    layer, h = PerExample(Dense(draw(7, 5), activation="tanh")), draw(11, 5)
    text = str(jax.make_jaxpr(lambda h, V: layer.jacobian(h).push(V))(h, draw(55, 3)))
    assert "f64[11,7,5]" not in text
    assert layer.jacobian(h).factors["weight"].shape == (7, 5)
    assert layer.jacobian(h).factors["slope"].shape == (11, 7)


def test_jacobian_is_differentiable_with_finite_gradients():
    def total(layer, h):
        return jnp.sum(layer.jacobian(h).dense() ** 2)

    zero_row = draw(4, 6).at[1].set(0)
    cases = [
        (WeightNorm(zero_row), draw(6)), (CosineNorm(zero_row, centered=True), draw(6)), (LayerNorm(), draw(6)),
        (LayerNorm(), jnp.ones(6)), (RMSNorm(), jnp.zeros(6)), (BatchNorm(), jnp.ones((4, 2))), COMPOSED["batch_residual"],
    ]  # fmt: skip
    for layer, h in cases:
        grads = jax.jit(jax.grad(total, argnums=(0, 1)))(layer, h)
        assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads)), layer


def test_every_layer_is_exported_with_a_jacobian():
    public = [name for name in vars(layers) if name[0].isupper()]
    assert len(public) == 11
    assert all(hasattr(getattr(layers, name), "jacobian") for name in public)


# Flax as an oracle


def flax_params(module, **values):
    for name, value in values.items():
        setattr(module, name, nnx.Param(value))
    return module


def flax_cases():
    rngs, f64 = nnx.Rngs(0), {"param_dtype": jnp.float64, "dtype": jnp.float64}
    g, b, mu, v = draw(5), draw(5, seed=1), draw(5, seed=2), draw(5, seed=3) ** 2 + 0.1
    K, c = draw(5, 4), draw(4)
    yield "linear", flax_params(nnx.Linear(5, 4, rngs=rngs, **f64), kernel=K, bias=c), Dense(K.T, c), draw(5, seed=4)
    ln = nnx.LayerNorm(5, rngs=rngs, use_fast_variance=False, **f64)
    yield "layer_norm", flax_params(ln, scale=g, bias=b), LayerNorm(g, b), draw(5, seed=4)
    yield "rms_norm", flax_params(nnx.RMSNorm(5, rngs=rngs, **f64), scale=g), RMSNorm(g), draw(5, seed=4)
    bn = flax_params(nnx.BatchNorm(5, rngs=rngs, use_fast_variance=False, **f64), scale=g, bias=b)
    bn.mean, bn.var = nnx.BatchStat(mu), nnx.BatchStat(v)
    yield "batch_norm_train", bn, BatchNorm(g, b), draw(7, 5)
    ev = flax_params(nnx.BatchNorm(5, rngs=rngs, use_running_average=True, **f64), scale=g, bias=b)
    ev.mean, ev.var = nnx.BatchStat(mu), nnx.BatchStat(v)
    yield "batch_norm_eval", ev, BatchNorm(g, b, mean=mu, variance=v, mode="eval"), draw(7, 5)
    for padding in ("CIRCULAR", "SAME", "VALID"):
        for size, strides in (
            ((3, 3), (1, 1)),
            ((2, 4), (1, 1)),
            ((3, 2), (2, 1)),
            ((3,), (1,)),
            ((2,), (2,)),
            ((4,), (1,)),
        ):
            kernel, bias, h = draw(*size, 2, 3), draw(3), draw(*(5, 6)[: len(size)], 2)
            net = nnx.Conv(2, 3, size, strides=strides, padding=padding, rngs=rngs, **f64)
            name = f"conv_{padding}_{size}_{strides}"
            yield name, flax_params(net, kernel=kernel, bias=bias), Conv(kernel, bias, "linear", padding, strides), h


@pytest.mark.parametrize(("module", "layer", "h"), [pytest.param(*c, id=name) for name, *c in flax_cases()])
def test_output_and_jacobian_are_those_of_flax(module, layer, h):
    graph, state = nnx.split(module)
    flax = lambda h: nnx.merge(graph, state, copy=True)(h)
    ask = jax.jit(lambda h: (layer(h), flax(h), layer.jacobian(h).dense(), autodiff(flax, h)))
    ours, theirs, J, oracle = ask(h)
    assert error(ours, theirs) <= TOLERANCE
    assert error(J, oracle) <= TOLERANCE
