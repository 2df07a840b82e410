"""Layers: the analytic step Jacobian against autodiff, Flax and closed forms; invariances; what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jacspec import activations, initializers, layer_chain, layers, log_singular_values
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

TOLERANCE = 1e-12
RNG = np.random.default_rng


def draw(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * RNG(seed + 17 * len(shape)).normal(size=shape))


def autodiff(layer, h):
    flat, unravel = ravel_pytree(h)
    return jax.jacfwd(lambda v: layer(unravel(v)).ravel())(flat)


def error(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.max(np.abs(a - b), initial=0))


def check_jacobian(layer, h, tolerance=TOLERANCE):
    """Dense against autodiff; push, pull and row_norms against dense. Returns the factors, and how far the bound is off."""
    m, n = jax.eval_shape(layer, h).size, h.size
    V, U = draw(n, 3, seed=5), draw(m, 2, seed=6)

    @jax.jit
    def ask(h):
        J = layer.jacobian(h)
        return autodiff(layer, h), J.dense(), J.push(V), J.pull(U), ops.row_norms(J), J.factors

    oracle, D, JV, JU, bound, factors = ask(h)
    oracle, D, JV, JU, bound, U, V = map(np.asarray, (oracle, D, JV, JU, bound, U, V))
    scale = max(1.0, np.abs(oracle).max())
    assert D.shape == (m, n)
    assert error(D, oracle) <= tolerance * scale
    assert error(JV, D @ V) <= tolerance * scale
    assert error(JU, D.T @ U) <= tolerance * scale
    assert abs(np.vdot(U, JV[:, :2]) - np.vdot(JU, V[:, :2])) <= tolerance * scale * m
    true = np.linalg.norm(D, axis=1)
    assert bound.shape == (m,)
    assert np.all(bound >= true * (1 - 1e-12)), (bound, true)
    assert factors
    assert all(isinstance(v, jax.Array) for v in factors.values())
    return factors, error(bound, true)


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


# Closed forms


def test_recorded_magnitudes_of_constant_inputs():
    J = BatchNorm().jacobian(jnp.ones((4, 1))).dense()
    assert float(J.max()) == pytest.approx(237.17, abs=0.005)
    assert float(J.max()) == pytest.approx(0.75 / np.sqrt(1e-5), rel=1e-13)
    J = LayerNorm().jacobian(jnp.full(3, 0.1)).dense()
    assert float(J.max()) == pytest.approx(666.67, abs=0.005)
    assert error(LayerNorm()(jnp.full(3, 0.1)), jnp.zeros(3)) == 0


def test_layer_norm_singular_values():
    n, eps = 9, 0.05
    h = draw(n)
    v = jnp.var(h)
    s = jnp.linalg.svdvals(LayerNorm(epsilon=eps).jacobian(h).dense())
    want = jnp.concatenate([jnp.full(n - 2, (v + eps) ** -0.5), jnp.array([eps / (v + eps) ** 1.5, 0.0])])
    assert error(s, jnp.sort(want)[::-1]) <= TOLERANCE


def test_one_unit_has_output_zero_and_jacobian_exactly_zero():
    layer, h = LayerNorm(), jnp.array([3.7])
    J = layer.jacobian(h)
    assert float(layer(h)[0]) == float(J.dense()[0, 0]) == float(J.row_norms()[0]) == 0


def test_batch_norm_couples_examples_in_training_only():
    h = draw(6, 2)
    at = jnp.arange(6)
    J = BatchNorm().jacobian(h).dense().reshape(6, 2, 6, 2)
    assert float(jnp.abs(J.at[at, :, at].set(0)).max()) > 0.1
    assert float(jnp.abs(J[:, 0, :, 1]).max()) == 0
    J = BatchNorm(mean=jnp.zeros(2), variance=jnp.ones(2), mode="eval").jacobian(h).dense().reshape(6, 2, 6, 2)
    assert float(jnp.abs(J.at[at, :, at].set(0)).max()) == 0


@pytest.mark.parametrize("mean", [0.0, 1e8, -1e12])
def test_a_large_mean_does_not_spoil_the_variance(mean):
    h = jnp.arange(8.0) + mean  # exact in float64
    near = LayerNorm().jacobian(jnp.arange(8.0))
    assert error(LayerNorm()(h), LayerNorm()(jnp.arange(8.0))) <= 1e-14
    assert error(LayerNorm().jacobian(h).dense(), near.dense()) <= 1e-14
    assert error(BatchNorm()(h[:, None]), BatchNorm()(jnp.arange(8.0)[:, None])) <= 1e-14


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_invariant_layers_survive_extreme_scales(scale):
    h, W = draw(6), draw(4, 6)
    for layer in (LayerNorm(epsilon=0.0), RMSNorm(epsilon=0.0), CosineNorm(W), CosineNorm(W, centered=True)):
        assert error(layer(scale * h), layer(h)) <= 1e-13
        J = layer.jacobian(scale * h).dense()
        assert error(J * scale, layer.jacobian(h).dense()) <= 1e-13
    assert error(WeightNorm(scale * W)(h), WeightNorm(W)(h)) <= 1e-13
    assert error(CosineNorm(scale * W)(h), CosineNorm(W)(h)) <= 1e-13


def test_saturated_slopes_are_tiny_and_not_zero():
    J = Dense(jnp.eye(2), activation="tanh").jacobian(jnp.array([50.0, 400.0]))
    assert bool(jnp.all(J.factors["slope"] > 0))
    assert float(J.factors["slope"][0]) == pytest.approx(4 * np.exp(-100), rel=1e-12)


def test_residual_at_scale_zero_is_the_identity():
    layer = Residual(Sequential(Dense(draw(5, 5)), LayerNorm()), scale=jnp.asarray(0.0))
    h = draw(5)
    assert error(layer(h), h) == 0
    assert error(layer.jacobian(h).dense(), jnp.eye(5)) == 0
    assert float(layer.jacobian(h).factors["branch scale"]) == 0
    assert len([leaf for leaf in jax.tree.leaves(layer) if leaf.ndim == 0]) == 1
    assert float(jnp.abs(jax.grad(lambda layer: layer(h).sum())(layer).scale)) > 0


def test_skipinit_branch_of_batch_norm_grows_linearly():
    """De & Smith: with normalized branches the variance after l blocks is l + 1, without it 2^l."""
    B, n, depth = 64, 128, 6
    rng = RNG(0)
    h = jnp.asarray(rng.normal(size=(B, n)))
    plain = normed = h
    for _ in range(depth):
        W = jnp.asarray(rng.normal(size=(n, n)) * np.sqrt(2 / n))
        relu = Sequential(Dense(jnp.eye(n), activation="relu"), Dense(W))
        plain = Residual(PerExample(relu))(plain)
        normed = Residual(Sequential(BatchNorm(), PerExample(relu)))(normed)
    assert float(jnp.mean(normed**2)) == pytest.approx(depth + 1, rel=0.1)
    assert float(jnp.mean(plain**2)) == pytest.approx(2**depth, rel=0.25)


def test_residual_and_sequential_pass_the_driver_on():
    branch = lambda h, x: jnp.tanh(h + x)
    layer, h, x = Residual(branch, 0.5), draw(3), draw(3, seed=1)
    assert error(layer(h, x), h + 0.5 * jnp.tanh(h + x)) <= 1e-15
    want = jnp.eye(3) + 0.5 * jnp.diag(1 / jnp.cosh(h + x) ** 2)
    assert error(layer.jacobian(h, x).dense(), want) <= 1e-14
    assert error(Sequential(layer, LayerNorm())(h, x), LayerNorm()(layer(h, x))) == 0


def test_zero_rows_and_zero_vectors():
    W = draw(3, 4).at[1].set(0)
    for layer in (WeightNorm(W, activation="tanh", b=draw(3)), CosineNorm(W, b=draw(3), activation="tanh")):
        h = draw(4)
        J = layer.jacobian(h)
        assert layer.zero_rows.tolist() == [False, True, False]
        assert float(layer(h)[1]) == pytest.approx(float(jnp.tanh(draw(3)[1])), abs=1e-15)
        assert float(jnp.abs(J.dense()[1]).max()) == float(J.row_norms()[1]) == 0
        assert error(autodiff(layer, h), J.dense()) <= TOLERANCE
    constant = CosineNorm(jnp.full((1, 3), 0.1), centered=True)
    assert constant.zero_rows.tolist() == [True]
    assert float(constant(draw(3))[0]) == 0
    nothing = jnp.zeros(4)
    assert bool(jnp.all(jnp.isnan(CosineNorm(W[:1])(nothing))))
    assert bool(jnp.all(jnp.isnan(CosineNorm(W[:1]).jacobian(nothing).dense())))
    check_jacobian(CosineNorm(W, epsilon=1e-2), nothing)
    assert error(CosineNorm(W, epsilon=1e-2)(nothing), jnp.zeros(3)) == 0
    check_jacobian(RMSNorm(), nothing)
    check_jacobian(LayerNorm(), nothing)
    check_jacobian(BatchNorm(), jnp.zeros((3, 2)))


@pytest.mark.parametrize("size", [(1,), (2,), (3,), (4,), (3, 3), (2, 4), (5, 2)])
def test_delta_orthogonal_convolution_is_an_isometry(size):
    space = (6, 5)[: len(size)]
    kernel = initializers.delta_orthogonal(jax.random.key(1), size, 3, 3, jnp.float64)
    J, rows = jax.jit(lambda J: (J.dense(), J.row_norms()))(Conv(kernel).jacobian(draw(*space, 3)))
    s = np.linalg.svd(J, compute_uv=False)
    assert error(s, np.ones_like(s)) <= 1e-14
    assert error(rows, np.ones_like(s)) <= 1e-14
    wide = initializers.delta_orthogonal(jax.random.key(1), size, 2, 5, jnp.float64)
    s = np.linalg.svd(Conv(wide).jacobian(draw(*space, 2)).dense(), compute_uv=False)
    assert error(s, np.ones_like(s)) <= 1e-14


def test_circular_convolution_is_a_sum_over_shifted_states():
    for k in range(1, 8):  # also wider than the state, where the kernel wraps onto itself
        kernel, h = draw(k, 2, 3), draw(5, 2, seed=3)
        want = sum(jnp.roll(h, (k - 1) // 2 - i, axis=0) @ kernel[i] for i in range(k))
        assert error(Conv(kernel)(h), want) <= 1e-13
        if k in (2, 5, 7):
            check_jacobian(Conv(kernel), h)


# Invariances of papers.md A15-A17, all with epsilon = 0


def dense(W, kind):
    plain, eps = PerExample(Dense(W)), 0.0
    return {
        "BN": lambda: Sequential(plain, BatchNorm(epsilon=eps)),
        "LN": lambda: Sequential(plain, PerExample(LayerNorm(epsilon=eps))),
        "WN": lambda: PerExample(WeightNorm(W)),
        "CN": lambda: PerExample(CosineNorm(W)),
        "CCN": lambda: PerExample(CosineNorm(W, centered=True)),
        "plain": lambda: plain,
    }[kind]()


@functools.cache
def output(kind):
    return jax.jit(lambda W, X: dense(W, kind)(X))


@functools.cache
def weight_gradient(kind):
    return jax.jit(jax.grad(lambda W, X, C: jnp.sum(jnp.sin(dense(W, kind)(X)) * C)))


@functools.cache
def data_jacobian(kind):
    return jax.jit(lambda W, X: dense(W, kind).jacobian(X).dense())


KINDS = ("BN", "LN", "WN", "CN", "CCN", "plain")
LAMBDA = 3.7
TRANSFORMATIONS = {
    "all W x lambda": (lambda W, X: (LAMBDA * W, X), "y y y y y n"),
    "one row of W x lambda": (lambda W, X: (W.at[1].multiply(LAMBDA), X), "y n y y y n"),
    "same vector added to every row of W": (lambda W, X: (W + draw(6, seed=8), X), "n y n n n n"),
    "constant added within each row": (lambda W, X: (W + draw(5, 1, seed=8), X), "n n n n y n"),
    "all data x lambda": (lambda W, X: (W, LAMBDA * X), "y y n y y n"),
    "one sample x lambda": (lambda W, X: (W, X.at[2].multiply(LAMBDA)), "n y n y y n"),
    "same vector added to all samples": (lambda W, X: (W, X + draw(6, seed=8)), "y n n n n n"),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_invariance_table(transformation):
    change, row = TRANSFORMATIONS[transformation]
    W, X = draw(5, 6), draw(8, 6, seed=1)
    for kind, mark in zip(KINDS, row.split(), strict=True):
        W2, X2 = change(W, X)
        moved = error(output(kind)(W2, X2), output(kind)(W, X))
        assert (moved <= 1e-13) if mark == "y" else (moved > 1e-2), (kind, moved)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 3.7, 1e3])
def test_scaling_the_weights_scales_their_gradient_by_the_inverse(kind, scale):
    W, X, C = draw(5, 6), draw(8, 6, seed=1), draw(8, 5, seed=2)
    g, g_scaled = (weight_gradient(kind)(c * W, X, C) for c in (1, scale))
    dx = lambda W: data_jacobian(kind)(W, X)
    law, same, inner = error(scale * g_scaled, g), error(dx(scale * W), dx(W)), float(abs(jnp.sum(W * g)))
    if kind == "plain":
        assert min(law, same, inner) > 1e-2
        return
    assert max(law, same, inner) <= TOLERANCE
    rows = float(jnp.abs(jnp.sum(W * g, axis=1)).max())
    assert rows > 1e-2 if kind == "LN" else rows <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_the_data_scales_the_jacobian_by_the_inverse(kind):
    W, X = draw(5, 6), draw(8, 6, seed=1)
    J, J_scaled = (data_jacobian(kind)(W, c * X) for c in (1, LAMBDA))
    if kind in ("WN", "plain"):
        assert error(J_scaled, J) <= TOLERANCE
    else:
        assert error(LAMBDA * J_scaled, J) <= TOLERANCE


def test_epsilon_breaks_scale_invariance_by_epsilon_over_variance():
    W, X, lam = draw(5, 6), draw(8, 6, seed=1), 2.0
    a = X @ W.T
    for eps in (1e-4, 1e-6):
        net = lambda W, eps=eps: Sequential(PerExample(Dense(W)), BatchNorm(epsilon=eps))
        ratio = net(lam * W)(X) / net(W)(X) - 1
        want = (eps / jnp.var(a, axis=0)) * (1 - lam**-2) / 2
        assert error(ratio / want, jnp.ones_like(a)) <= 10 * eps / float(jnp.var(a, axis=0).min())


# What is refused

W = draw(3, 4)
REFUSED = [
    (lambda: Dense([[1.0]]), TypeError, r"layers\.Dense.*'W'.*array.*list"),
    (lambda: Dense(None), TypeError, r"layers\.Dense.*'W'.*missing"),
    (lambda: Dense(draw(3)), ValueError, r"layers\.Dense.*'W'.*\(3,\).*2-D"),
    (lambda: Dense(jnp.ones((2, 2), int)), TypeError, r"layers\.Dense.*'W'.*floating.*int"),
    (lambda: Dense(jnp.ones((0, 2))), ValueError, r"layers\.Dense.*'W'.*empty"),
    (lambda: Dense(W, draw(4)), ValueError, r"layers\.Dense.*'b'.*\(4,\).*\(m,\)"),
    (lambda: Dense(W, activation="rellu"), ValueError, r"layers\.Dense.*'activation'.*Did you mean 'relu'"),
    (lambda: Dense(W, activation=jnp.tanh), TypeError, r"layers\.Dense.*'activation'.*derivative"),
    (lambda: Dense(W)(draw(2, 4)), ValueError, r"layers\.Dense.*'h' is a batch.*\(2, 4\).*jax\.vmap.*jacspec\.batched"),
    (lambda: Dense(W).jacobian(draw(2, 4)), ValueError, r"layers\.Dense.*'h' is a batch"),
    (lambda: Dense(W)(draw(3)), ValueError, r"layers\.Dense.*'h'.*\(3,\).*\(4,\)"),
    (lambda: Dense(W)(2.0), TypeError, r"layers\.Dense.*'h'.*float"),
    (lambda: Residual(3.0), TypeError, r"layers\.Residual.*'layer'.*callable"),
    (lambda: Residual(jnp.sin, draw(2)), ValueError, r"layers\.Residual.*'scale'.*rank"),
    (lambda: Residual(jnp.sin, jnp.asarray(1)), TypeError, r"layers\.Residual.*'scale'.*floating"),
    (lambda: Residual(jnp.sin, True), TypeError, r"layers\.Residual.*'scale'"),
    (lambda: Residual(jnp.sin, float("nan")), ValueError, r"layers\.Residual.*'scale'.*non-finite"),
    (lambda: Residual(Dense(W))(draw(4)), ValueError, r"layers\.Residual.*'layer'.*\(4,\) -> \(3,\)"),
    (lambda: Residual(Dense(W)).jacobian(draw(4)), ValueError, r"layers\.Residual.*changes the shape"),
    (lambda: Sequential(), ValueError, r"layers\.Sequential.*'layers' is empty"),
    (lambda: Sequential([Dense(W)]), TypeError, r"layers\.Sequential.*'layers\[0\]'.*list.*one by one"),
    (lambda: PerExample(1), TypeError, r"layers\.PerExample.*'layer'.*callable"),
    (lambda: PerExample(Dense(W))(draw(4)), ValueError, r"layers\.PerExample.*'h'.*batch.*\(4,\)"),
    (lambda: PerExample(Dense(W)).jacobian(3.0), ValueError, r"layers\.PerExample.*'h'.*batch.*float"),
    (lambda: BatchNorm(mode="evaluation"), ValueError, r"layers\.BatchNorm.*'mode'.*Did you mean 'eval'"),
    (lambda: BatchNorm(epsilon=-1.0), ValueError, r"layers\.BatchNorm.*'epsilon'.*-1.0.*>= 0"),
    (lambda: BatchNorm(epsilon="1e-5"), TypeError, r"layers\.BatchNorm.*'epsilon'.*number"),
    (lambda: BatchNorm(draw(3), draw(4)), ValueError, r"layers\.BatchNorm.*'bias'.*\(4,\)"),
    (lambda: BatchNorm(mode="eval"), ValueError, r"layers\.BatchNorm.*'mean' is needed"),
    (lambda: BatchNorm(mean=draw(3), mode="eval"), ValueError, r"layers\.BatchNorm.*'variance' is needed"),
    (lambda: BatchNorm(mean=draw(3).at[1].set(jnp.nan), variance=draw(3) ** 2, mode="eval"), ValueError,
     r"layers\.BatchNorm.*'mean' has non-finite.*\(1,\)"),
    (lambda: BatchNorm(mean=draw(3), variance=-jnp.ones(3), mode="eval"), ValueError, r"layers\.BatchNorm.*'variance'.*-1"),
    (lambda: BatchNorm(mean=draw(3), variance=jnp.zeros(3), mode="eval", epsilon=0), ValueError, r"BatchNorm.*'variance'"),
    (lambda: BatchNorm(draw(3))(draw(5, 4)), ValueError, r"layers\.BatchNorm.*'h'.*\(5, 4\).*\(B, 3\)"),
    (lambda: BatchNorm(mean=draw(3), variance=draw(3) ** 2, mode="eval")(draw(4)), ValueError, r"BatchNorm.*'h'.*\(3,\)"),
    (lambda: LayerNorm(draw(3, 1)), ValueError, r"layers\.LayerNorm.*'scale'.*1-D"),
    (lambda: LayerNorm(draw(3), draw(2)), ValueError, r"layers\.LayerNorm.*'bias'"),
    (lambda: LayerNorm(epsilon=float("inf")), ValueError, r"layers\.LayerNorm.*'epsilon'"),
    (lambda: LayerNorm()(draw(2, 4)), ValueError, r"layers\.LayerNorm.*'h' is a batch.*jax\.vmap.*batched"),
    (lambda: LayerNorm(draw(3))(draw(4)), ValueError, r"layers\.LayerNorm.*'h'.*\(4,\).*\(3,\)"),
    (lambda: LayerNorm()(jnp.zeros(0)), ValueError, r"layers\.LayerNorm.*'h'.*\(0,\)"),
    (lambda: RMSNorm(epsilon=None), TypeError, r"layers\.RMSNorm.*'epsilon'"),
    (lambda: RMSNorm()(draw(2, 4)), ValueError, r"layers\.RMSNorm.*'h' is a batch"),
    (lambda: WeightNorm(draw(3)), ValueError, r"layers\.WeightNorm.*'V'"),
    (lambda: WeightNorm(W, draw(4)), ValueError, r"layers\.WeightNorm.*'g'.*\(4,\)"),
    (lambda: WeightNorm(W)(draw(2, 4)), ValueError, r"layers\.WeightNorm.*'h' is a batch"),
    (lambda: CosineNorm(W, centered="yes"), ValueError, r"layers\.CosineNorm.*'centered'"),
    (lambda: CosineNorm(draw(3, 1), centered=True), ValueError, r"layers\.CosineNorm.*'W'.*n >= 2"),
    (lambda: CosineNorm(W)(draw(2, 4)), ValueError, r"layers\.CosineNorm.*'h' is a batch"),
    (lambda: Conv(draw(3, 3)), ValueError, r"layers\.Conv.*'kernel'.*\(3, 3\)"),
    (lambda: Conv(draw(3, 2, 3), draw(2)), ValueError, r"layers\.Conv.*'b'"),
    (lambda: Conv(draw(3, 2, 3), padding="circular"), ValueError, r"layers\.Conv.*'padding'.*'CIRCULAR'"),
    (lambda: Conv(draw(3, 2, 3), strides=0), ValueError, r"layers\.Conv.*'strides'"),
    (lambda: Conv(draw(3, 2, 3), strides=1.5), TypeError, r"layers\.Conv.*'strides'.*integer"),
    (lambda: Conv(draw(3, 2, 3), strides=(1, 1)), ValueError, r"layers\.Conv.*'strides'.*1 integers"),
    (lambda: Conv(draw(3, 2, 3))(draw(5, 3)), ValueError, r"layers\.Conv.*'h'.*\(5, 3\).*\(L, 2\)"),
    (lambda: Conv(draw(3, 2, 3))(draw(4, 5, 2)), ValueError, r"layers\.Conv.*'h' is a batch.*jax\.vmap"),
    (lambda: Conv(draw(3, 2, 3), padding="VALID")(draw(2, 2)), ValueError, r"layers\.Conv.*'h' is too small.*SAME"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "kind", "pattern"), REFUSED, ids=[pattern for *_, pattern in REFUSED])
def test_bad_input_is_refused(build, kind, pattern):
    with pytest.raises(kind, match=f"jacspec.{pattern}" if pattern.startswith("layers") else pattern):
        build()


@pytest.mark.parametrize("h", [draw(3), draw(1, 3)], ids=["example", "batch of one"])
def test_batch_norm_in_training_refuses_one_example(h):
    for ask in (BatchNorm(), BatchNorm().jacobian, lambda h: jax.vmap(BatchNorm())(h[None])):
        with pytest.raises(ValueError, match="BatchNorm") as caught:
            ask(h)
        assert "mode='eval'" in str(caught.value)
        assert "per-example Jacobian is undefined in train mode" in str(caught.value)


def test_every_layer_is_exported_with_a_jacobian():
    public = [name for name in vars(layers) if name[0].isupper()]
    assert len(public) == 10
    assert all(hasattr(getattr(layers, name), "jacobian") for name in public)
