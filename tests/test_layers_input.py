"""What the layers say when they are given something wrong."""

import jax
import jax.numpy as jnp
import pytest
from layer_checks import draw

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
    (lambda: Residual(jnp.sin, float("nan")), ValueError, r"layers\.Residual.*'scale' is out of range; got nan"),
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
