"""Unmodified networks, one line of user code each: the product is the whole, and the blocks are what one would count."""

import functools

import jax
import jax.numpy as jnp
import pytest
from anatomies import F64, agrees, normal, pure, s5, with_scan
from flax import linen, nnx

import jacspec as js


def rngs():
    return nnx.Rngs(0)


class PostNorm(nnx.Module):
    def __init__(self):
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs(), decode=False, **F64)
        self.up, self.down = nnx.Linear(4, 8, rngs=rngs(), **F64), nnx.Linear(8, 4, rngs=rngs(), **F64)
        self.norm1, self.norm2 = nnx.LayerNorm(4, rngs=rngs(), **F64), nnx.LayerNorm(4, rngs=rngs(), **F64)

    def __call__(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(nnx.relu(self.up(x))))


class Mixer(nnx.Module):
    def __init__(self):
        linear = functools.partial(nnx.Linear, rngs=rngs(), **F64)
        self.tokens, self.channels = nnx.List([linear(3, 5), linear(5, 3)]), nnx.List([linear(4, 6), linear(6, 4)])

    def __call__(self, x):
        x = x + self.tokens[1](nnx.gelu(self.tokens[0](x.T))).T
        return x + self.channels[1](nnx.gelu(self.channels[0](x)))


class Pooled(nnx.Module):
    def __init__(self):
        self.a, self.b = (nnx.Conv(c, 3, (3, 3), rngs=rngs(), **F64) for c in (1, 3))
        self.head = nnx.Linear(12, 2, rngs=rngs(), **F64)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.a(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.b(x)), (2, 2), (2, 2))
        return self.head(x.reshape(x.shape[0], -1))


class Generator(nnx.Module):
    def __init__(self):
        self.fc = nnx.Linear(3, 8, rngs=rngs(), **F64)
        self.up1, self.up2 = (nnx.ConvTranspose(2, c, (4, 4), (2, 2), rngs=rngs(), **F64) for c in (2, 1))

    def __call__(self, z):
        x = nnx.relu(self.fc(z)).reshape(1, 2, 2, 2)
        return jnp.tanh(self.up2(nnx.relu(self.up1(x))))


class Stacked(nnx.Module):
    def __init__(self):
        self.a, self.b = (nnx.RNN(nnx.GRUCell(n, 4, rngs=rngs(), **F64)) for n in (3, 4))
        self.head = nnx.Linear(4, 2, rngs=rngs(), **F64)

    def __call__(self, x):
        return self.head(self.b(self.a(x))[:, -1])


class Mamba(nnx.Module):
    def __init__(self):
        linear = functools.partial(nnx.Linear, rngs=rngs(), **F64)
        self.norm = nnx.RMSNorm(4, rngs=rngs(), **F64)
        self.into, self.project, self.delta, self.out = linear(4, 16), linear(8, 5), linear(1, 8), linear(8, 4)

    def __call__(self, u):
        x, z = jnp.split(self.into(self.norm(u)), 2, -1)
        x = nnx.silu(x)
        d, b, c = jnp.split(self.project(x), [1, 3], -1)
        d = jax.nn.softplus(self.delta(d))
        A = -jnp.arange(1.0, 3.0)

        def step(h, now):
            d, b, c, x = now
            h = jnp.exp(d[:, None] * A) * h + d[:, None] * b * x[:, None]
            return h, h @ c

        y = jax.lax.scan(step, jnp.zeros((8, 2)), (d, b, c, x))[1] + 0.5 * x
        return u + self.out(y * nnx.silu(z))


class LinenRNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.RNN(linen.LSTMCell(4, param_dtype=jnp.float64), name="memory")(x)
        return linen.Dense(2, param_dtype=jnp.float64)(x)


def sequential():
    linear = functools.partial(nnx.Linear, rngs=rngs(), **F64)
    return nnx.Sequential(linear(4, 6), nnx.relu, linear(6, 2), nnx.relu, linear(2, 6), nnx.relu, linear(6, 4))


def with_cond(x):
    W = normal(4, 4)
    return jax.lax.cond(x.sum() > 0, lambda x: jnp.tanh(W @ x), lambda x: W.T @ x, jnp.tanh(W @ x))


def runge_kutta(x):
    W = normal(4, 4)
    f = lambda x: W @ jnp.tanh(W @ x)
    k1 = f(x)
    k2 = f(x + 0.05 * k1)
    k3 = f(x + 0.05 * k2)
    k4 = f(x + 0.1 * k3)
    return x + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def equilibrium(z):
    W, u = normal(4, 4) / 4, normal(4, seed=2)
    for _ in range(3):
        z = jnp.tanh(W @ z + u)
    return z


def rematerialized(x):
    W = normal(4, 4)
    return jax.checkpoint(lambda x: jnp.tanh(W @ jax.jit(lambda x: jnp.tanh(W @ x))(x)))(x)


def rnn(cell):
    return lambda: nnx.RNN(cell(3, 4, rngs=rngs(), **F64))


def bidirectional():
    return nnx.Bidirectional(rnn(nnx.GRUCell)(), rnn(nnx.GRUCell)(), rngs=rngs())


LSTM = "{hf,hg,hi,ho,if_,ig,ii,io}"
# name: model, shape of the input, blocks, chains over time with their lengths
NETS = {
    "sequential": (sequential, (3, 4), ["layers.0", "layers.2", "layers.4", "layers.6"], {}),
    "post_norm": (PostNorm, (3, 4), 2, {}),
    "mixer": (Mixer, (3, 4), ["tokens.{0,1}", "channels.{0,1}"], {}),
    "pooled": (Pooled, (1, 8, 8, 1), ["a", "b", "head"], {}),
    "generator": (Generator, (1, 3), ["fc", "up1", "up2"], {}),
    "simple_cell": (rnn(nnx.SimpleCell), (1, 5, 3), 1, {"cell.{dense_h,dense_i}": 5}),
    "lstm": (rnn(nnx.LSTMCell), (1, 5, 3), 1, {"cell." + LSTM: 5}),
    "optimized_lstm": (rnn(nnx.OptimizedLSTMCell), (1, 5, 3), 1, {"cell.{dense_h,dense_i}": 5}),
    "gru": (rnn(nnx.GRUCell), (1, 5, 3), 1, {"cell.{dense_h,dense_i}": 5}),
    "bidirectional": (
        bidirectional,
        (1, 5, 3),
        1,
        {"forward_rnn.cell.{dense_h,dense_i}": 5, "backward_rnn.cell.{dense_h,dense_i}": 5},
    ),
    "stacked": (Stacked, (1, 5, 3), 3, {"a.cell.{dense_h,dense_i}": 5, "b.cell.{dense_h,dense_i}": 5}),
    "mamba": (Mamba, (5, 4), ["{norm,into,project,delta,out}"], None),
    "scan": (lambda: with_scan, (4,), 1, None),
    "cond": (lambda: with_cond, (4,), 2, {}),
    "s5": (lambda: s5, (8, 4), 1, None),
    "runge_kutta": (lambda: runge_kutta, (4,), 1, {}),
    "equilibrium": (lambda: equilibrium, (4,), 3, {}),
    "rematerialized": (lambda: rematerialized, (4,), 2, {}),
}


SLOW = {"simple_cell", "optimized_lstm", "mixer", "generator", "rematerialized", "pooled"}
"""Another one is dissected by the same rules among the quick ones."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETS]
)
def test_network(name):
    make, shape, blocks, times = NETS[name]
    model, x = make(), normal(*shape)
    anatomy = js.dissect(model, x)
    agrees(anatomy, pure(model), x, 1e-6 if name == "post_norm" else 1e-12)  # Flax attends in float32
    got = [block.where for block in anatomy.blocks]
    assert (len(got) if isinstance(blocks, int) else got) == blocks
    if times is not None:
        assert {name: chain.length for name, chain in anatomy.times.items()} == times


def test_linen_recurrent_network():
    model, x = LinenRNN(), normal(1, 5, 3)
    variables = model.init(jax.random.key(0), x)
    anatomy = js.dissect(model, x, variables=variables)
    agrees(anatomy, lambda x: model.apply(variables, x), x)
    assert [chain.length for chain in anatomy.times.values()] == [5]
    assert len(anatomy.blocks) == 2


def test_equinox():
    eqx = pytest.importorskip("equinox")
    model, x = eqx.nn.MLP(4, 3, 8, 3, key=jax.random.key(0), dtype=jnp.float64), normal(4)
    anatomy = js.dissect(model, x)
    agrees(anatomy, model, x)
    assert [block.where for block in anatomy.blocks] == ["layers.0", "layers.1", "layers.2", "layers.3"]


class Layered(linen.Module):
    @linen.compact
    def __call__(self, x):
        class Layer(linen.Module):
            @linen.compact
            def __call__(self, x, _):
                return x + linen.Dense(4, param_dtype=jnp.float64)(linen.tanh(x)), None

        scan = linen.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan(name="layers")(x, None)[0]


def test_scan_over_layers_is_depth():
    model = Layered()
    variables = model.init(jax.random.key(0), normal(4))
    anatomy = js.dissect(model, normal(4), variables=variables)
    agrees(anatomy, lambda x: model.apply(variables, x), normal(4))
    assert [block.where for block in anatomy.blocks] == [f"layers.Dense_0[{i}]" for i in range(3)]
    assert len(anatomy.times) == 0
