"""Layers against closed forms, at the edges of their numbers, and what normalization leaves unchanged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layer_checks import RNG, TOLERANCE, autodiff, check_jacobian, draw, error

from jacspec import initializers
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


@pytest.mark.parametrize(
    "size", [(1,), (3,), (2, 4), *(pytest.param(size, marks=pytest.mark.slow) for size in ((2,), (4,), (3, 3), (5, 2)))]
)
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


@pytest.mark.parametrize("kind", ["WeightNorm", "CosineNorm"])
def test_a_zero_row_has_no_direction_and_no_gradient(kind):
    V, h = jnp.asarray([[1.0, 2.0], [0.0, 0.0]]), jnp.asarray([3.0, 1.0])
    layer = {"WeightNorm": WeightNorm, "CosineNorm": CosineNorm}[kind]
    slope = jax.grad(lambda V: 10 * jnp.sum(jnp.tanh(layer(V)(h))))(V)
    assert jnp.abs(slope[0]).max() > 0
    assert not slope[1].any()
