"""Networks as they are, taken apart: the factors' product is the Jacobian of the whole, and they are what one would count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomies import F64, agrees, normal, pure
from flax import linen, nnx

import jacspec as js

pytestmark = pytest.mark.filterwarnings("ignore:scatter inputs:FutureWarning")  # BatchNorm keeps float32 statistics


class MLP(nnx.Module):
    def __init__(self, rngs, norm=False):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs, **F64) for _ in range(3)])
        self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs, **F64) for _ in range(3 if norm else 0)])
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.norm, self.head = norm, nnx.Linear(4, 2, rngs=rngs, **F64)

    def __call__(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.norms[i](x) if self.norm else x
            x = self.dropout(nnx.gelu(x))
        return self.head(x)


class Block(nnx.Module):
    def __init__(self, d, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(d, rngs=rngs, **F64), nnx.LayerNorm(d, rngs=rngs, **F64)
        linear = functools.partial(nnx.Linear, rngs=rngs, **F64)
        self.query, self.key, self.value, self.out = (linear(d, d) for _ in range(4))
        self.up, self.down = linear(d, 2 * d), linear(2 * d, d)

    def attention(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        return self.out(jax.nn.softmax(q @ k.swapaxes(-1, -2) / 2) @ v)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class LanguageModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 4, rngs=rngs, **F64)
        self.blocks = nnx.List([Block(4, rngs) for _ in range(2)])
        self.norm, self.head = nnx.LayerNorm(4, rngs=rngs, **F64), nnx.Linear(4, 11, rngs=rngs, **F64)

    def __call__(self, tokens):
        return self.of_embedded(self.embed(tokens))

    def of_embedded(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Residual(nnx.Module):
    def __init__(self, rngs):
        conv = functools.partial(nnx.Conv, 2, 2, (3, 3), rngs=rngs, **F64)
        self.convs, self.stem = nnx.List([conv() for _ in range(4)]), conv()
        self.norms = nnx.List([nnx.BatchNorm(2, rngs=rngs, **F64) for _ in range(4)])
        self.head = nnx.Linear(2, 3, rngs=rngs, **F64)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for i in (0, 2):
            y = nnx.relu(self.norms[i](self.convs[i](x)))
            x = nnx.relu(x + self.norms[i + 1](self.convs[i + 1](y)))
        return self.head(x.mean((1, 2)))


class UNet(nnx.Module):
    def __init__(self, rngs):
        conv = functools.partial(nnx.Conv, kernel_size=(3,), rngs=rngs, **F64)
        self.down1, self.down2, self.middle = conv(1, 2), conv(2, 2), conv(2, 2)
        self.up2, self.up1 = conv(4, 2), conv(4, 1)

    def __call__(self, x):
        pool = lambda h: nnx.avg_pool(h, (2,), (2,))
        a = nnx.tanh(self.down1(x))
        b = nnx.tanh(self.down2(pool(a)))
        h = nnx.tanh(self.middle(pool(b)))
        h = nnx.tanh(self.up2(jnp.concatenate([b, jnp.repeat(h, 2, 1)], -1)))
        return self.up1(jnp.concatenate([a, jnp.repeat(h, 2, 1)], -1))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = linen.tanh(linen.Dense(5, param_dtype=jnp.float64)(x))
        return linen.Dense(2, param_dtype=jnp.float64)(x)


def dense_net(x):
    W = normal(4, 4, 12)
    for w in W:
        x = jnp.concatenate([x, jax.nn.relu(w @ jnp.resize(x, 12))])
    return x


def unrolled_lstm(xs):
    W, U = normal(4, 12, 2), normal(4, 12, 3, seed=1)
    c = h = jnp.zeros(3)
    for x in xs:
        i, f, g, o = jnp.split(W[0] @ x + U[0] @ h, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h


def over_layers(x):
    return jax.lax.scan(lambda h, W: (h + jnp.tanh(W @ h), None), x, normal(5, 4, 4))[0]


NETS = {
    "mlp": (lambda: MLP(nnx.Rngs(0)), (3, 4), ["layers.0", "layers.1", "layers.2", "head"]),
    "mlp_batch_norm": (
        lambda: MLP(nnx.Rngs(0), norm=True),
        (3, 4),
        ["{layers.0,norms.0}", "{layers.1,norms.1}", "{layers.2,norms.2}", "head"],
    ),
    "resnet": (
        lambda: Residual(nnx.Rngs(0)),
        (2, 4, 4, 2),
        ["stem", "{convs.0,norms.0,convs.1,norms.1}", "{convs.2,norms.2,convs.3,norms.3}", "head"],
    ),
    "unet": (lambda: UNet(nnx.Rngs(0)), (1, 8, 1), ["down1", "down2", "middle", "up2", "up1"]),
    "dense_net": (lambda: dense_net, (4,), 4),
    "unrolled_lstm": (lambda: unrolled_lstm, (5, 2), 5),
    "over_layers": (lambda: over_layers, (4,), 5),
}


@pytest.mark.parametrize("name", NETS)
def test_product_is_the_whole_and_blocks_are_counted(name):
    make, shape, want = NETS[name]
    model, x = make(), normal(*shape)
    anatomy = js.dissect(model, x)
    agrees(anatomy, pure(model), x)
    got = [block.where for block in anatomy.blocks]
    assert (len(got) if isinstance(want, int) else got) == want


def test_language_model_begins_at_the_embedding():
    model, tokens = LanguageModel(nnx.Rngs(0)), jnp.array([3, 1, 4])
    anatomy = js.dissect(model, tokens)
    agrees(anatomy, model.of_embedded, model.embed(tokens))
    want = [f"blocks.{i}.{{{part}}}" for i in range(2) for part in ("norm1,query,key,value,out", "norm2,up,down")]
    assert [block.where for block in anatomy.blocks] == [*want, "{norm,head}"]
    assert "embedding of inputs[0]" in str(anatomy)


def test_linen():
    model, x = LinenNet(), normal(3)
    variables = model.init(jax.random.key(0), x)
    anatomy = js.dissect(model, x, variables=variables)
    agrees(anatomy, lambda x: model.apply(variables, x), x)
    assert [block.where for block in anatomy.blocks] == ["Dense_0", "Dense_1", "Dense_2"]


def test_recurrent_network_is_a_chain_over_time():
    rnn = nnx.RNN(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0), **F64))
    anatomy = js.dissect(rnn, normal(1, 6, 3))
    (chain,) = anatomy.times.values()
    assert (chain.length, chain.shape) == (6, (8, 8))
    step = js.from_flax(rnn.cell)
    own = js.jacobian_chain(step, (jnp.zeros(4), jnp.zeros(4)), normal(1, 6, 3)[0])
    np.testing.assert_allclose(js.log_singular_values(chain), js.log_singular_values(own), atol=1e-10)
