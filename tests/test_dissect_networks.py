"""Unmodified networks, one line of user code each: the product is the whole, and the blocks are what one would count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jacspec as js

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def rngs():
    return nnx.Rngs(0)


def pure(model):
    """An NNX module as a function whose arrays are traced, so that it may change itself."""
    if not isinstance(model, nnx.Module):
        return model
    graph, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)
    run = jax.jit(lambda own, x: nnx.merge(graph, jax.tree.unflatten(tree, own), copy=True)(x))
    return lambda x: run(leaves, x)


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


def with_scan(x):
    W = normal(4, 4)
    return jax.lax.scan(lambda h, u: (jnp.tanh(W @ h + u), None), x, normal(6, 4, seed=1))[0]


def with_cond(x):
    W = normal(4, 4)
    return jax.lax.cond(x.sum() > 0, lambda x: jnp.tanh(W @ x), lambda x: W.T @ x, jnp.tanh(W @ x))


def s5(x):
    B, lam = normal(4, 4) + 1j * normal(4, 4, seed=1), jnp.exp(1j * normal(4) - 0.1)
    u, a = x @ B, jnp.broadcast_to(lam, x.shape)
    y = jax.lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, u))[1]
    return x + jnp.tanh((y @ B).real)


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


def check(anatomy, f, x, rtol=1e-12):
    P = functools.reduce(lambda P, J: np.asarray(J) @ P, anatomy.depth.dense(), np.eye(x.size))
    want = np.concatenate([np.asarray(a).reshape(-1, x.size) for a in jax.tree.leaves(jax.jacrev(f)(x))])
    np.testing.assert_allclose(P, want, atol=rtol * np.abs(want).max(), rtol=0)


SLOW = {"simple_cell", "optimized_lstm", "mixer", "generator", "rematerialized", "pooled"}
"""Another one is dissected by the same rules among the quick ones."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETS]
)
def test_network(name):
    make, shape, blocks, times = NETS[name]
    model, x = make(), normal(*shape)
    anatomy = js.dissect(model, x)
    check(anatomy, pure(model), x, 1e-6 if name == "post_norm" else 1e-12)  # Flax attends in float32
    got = [block.where for block in anatomy.blocks]
    assert (len(got) if isinstance(blocks, int) else got) == blocks
    if times is not None:
        assert {name: chain.length for name, chain in anatomy.times.items()} == times


def test_linen_recurrent_network():
    model, x = LinenRNN(), normal(1, 5, 3)
    variables = model.init(jax.random.key(0), x)
    anatomy = js.dissect(model, x, variables=variables)
    check(anatomy, lambda x: model.apply(variables, x), x)
    assert [chain.length for chain in anatomy.times.values()] == [5]
    assert len(anatomy.blocks) == 2


def test_equinox():
    eqx = pytest.importorskip("equinox")
    model, x = eqx.nn.MLP(4, 3, 8, 3, key=jax.random.key(0), dtype=jnp.float64), normal(4)
    anatomy = js.dissect(model, x)
    check(anatomy, model, x)
    assert [block.where for block in anatomy.blocks] == ["layers.0", "layers.1", "layers.2", "layers.3"]


def test_any_argument_and_several_outputs():
    W = {"a": normal(4, 4), "b": normal(4)}
    net = lambda W, x: (jnp.tanh(W["a"] @ jnp.tanh(W["a"] @ x + W["b"])), W["b"] * 2)
    flat, unravel = jax.flatten_util.ravel_pytree(W)
    anatomy = js.dissect(net, W, normal(4))
    check(anatomy, lambda flat: net(unravel(flat), normal(4)), flat)
    assert anatomy.depth.shape == (8, 20)


def test_reverse_mode_alone():
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (3 * g * jnp.cos(x),))
    W = normal(4, 4)
    f = lambda x: sine(W @ sine(W @ x))
    anatomy = js.dissect(f, normal(4))
    check(anatomy, f, normal(4))
    assert anatomy.depth.length == 2


def test_two_rules_behind_one_function_are_two_programs():
    def with_slope(slope):
        @jax.custom_jvp
        def f(x):
            return jnp.sin(x)

        f.defjvp(lambda x, t: (jnp.sin(x[0]), slope * t[0]))
        return f

    W, one, two = normal(4, 4), with_slope(1.0), with_slope(2.0)
    f = lambda x: two(W @ one(W @ x))
    check(js.dissect(f, normal(4)), f, normal(4))


def test_steps_taken_from_a_scan_are_those_of_the_scan():
    W, us = normal(4, 4), normal(6, 4, seed=1)
    (chain,) = js.dissect(with_scan, normal(4)).times.values()
    own = js.jacobian_chain(lambda h, u: jnp.tanh(W @ h + u), normal(4), us)
    np.testing.assert_allclose(np.asarray(chain.dense()), np.asarray(own.dense()), atol=1e-14)


def test_counter_becomes_a_driver():
    W = normal(4, 4)
    step = lambda c, _: ((jnp.tanh(W @ c[0]) * jnp.cos(c[1]), c[1] + 1), None)
    f = lambda x: jax.lax.scan(step, (x, 0), None, length=5)[0][0]
    (chain,) = js.dissect(f, normal(4)).times.values()
    P = functools.reduce(lambda P, J: np.asarray(J) @ P, chain.dense(), np.eye(4))
    np.testing.assert_allclose(P, jax.jacrev(f)(normal(4)), atol=1e-14)


REFUSED = {
    "while": (lambda x: jax.lax.while_loop(lambda s: s.sum() < 10, lambda s: s * 2, jnp.abs(x)), ValueError, "loop of"),
    "callback": (lambda x: jax.pure_callback(np.sin, x, x), ValueError, "calls the host"),
    "argmax": (lambda x: jnp.argmax(2 * x), ValueError, "ends in argmax"),
    "stopped": (lambda x: jax.lax.stop_gradient(2 * x), ValueError, "ends in stop_gradient"),
    "constant": (lambda x: jnp.ones(3), ValueError, "nothing is computed"),
    "no function": (3, TypeError, "callable"),
    "python if": (lambda x: x if x.sum() > 0 else -x, TypeError, "jnp.where"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as told:
        js.dissect(model, normal(4))
    assert str(told.value).startswith("jacspec.dissect: ")
    if name in ("while", "callback", "argmax", "stopped"):
        assert "test_dissect_networks.py:" in str(told.value)


@pytest.mark.parametrize(
    ("inputs", "options", "kind", "words"),
    [
        (("text",), {}, TypeError, "holds no array"),
        ((jnp.arange(3),), {}, TypeError, "is not floating"),
        ((jnp.array([jnp.nan]),), {}, ValueError, "non-finite"),
        ((jnp.ones(3),), {"wrt": 2}, ValueError, "out of range"),
        ((jnp.ones(3),), {"wrt": "kernel"}, ValueError, "no parameter"),
        ((jnp.ones(3),), {"blocks": "some"}, ValueError, "unknown"),
        ((jnp.ones(3),), {"variables": {}}, ValueError, "Linen"),
    ],
)
def test_wrong_arguments(inputs, options, kind, words):
    with pytest.raises(kind, match=words):
        js.dissect(lambda x: x * 2, *inputs, **options)


def test_associative_scan_has_no_step():
    anatomy = js.dissect(s5, normal(8, 4))
    (name,) = anatomy.times
    with pytest.raises(ValueError, match=r"Write it as jax\.lax\.scan"):
        anatomy.times[name]


def test_wide_states_are_pushed_and_pulled(monkeypatch):
    f = lambda x: jnp.tanh(normal(4, 4) @ jnp.tanh(normal(4, 4, seed=1) @ x))
    kept = js.dissect(f, normal(4)).depth
    monkeypatch.setattr("jacspec._links.STORED_BYTES", 0)
    wide = js.dissect(f, normal(4)).depth
    for J, K in zip(wide.dense(), kept.dense(), strict=True):
        np.testing.assert_allclose(J, K, atol=1e-14)
    np.testing.assert_allclose(js.log_singular_values(wide), js.log_singular_values(kept), atol=1e-12)


def test_cuts_that_are_asked_for():
    f = lambda x: jnp.tanh(normal(4, 4) @ jnp.tanh(normal(4, 4, seed=1) @ x))
    every = js.dissect(f, normal(4), blocks="all")
    assert [block.operations for block in every.blocks] == [("dot_general",), ("tanh",)] * 2
    some = js.dissect(f, normal(4), blocks=lambda block: block.operations[-1] == "dot_general")
    assert [block.operations for block in some.blocks] == [("dot_general",), ("tanh", "dot_general"), ("tanh",)]
    for anatomy in (every, some):
        check(anatomy, f, normal(4))


def test_an_input_that_is_given_out():
    anatomy = js.dissect(lambda x: (x, x), normal(3))
    check(anatomy, lambda x: (x, x), normal(3))


def test_two_rules_inside_of_two_scans():
    def with_slope(slope):
        @jax.custom_jvp
        def f(x):
            return jnp.sin(x)

        f.defjvp(lambda x, t: (jnp.sin(x[0]), slope * t[0]))
        return f

    W, one, two = normal(4, 4), with_slope(1.0), with_slope(2.0)
    run = lambda f, x: jax.lax.scan(lambda h, _: (f(W @ h), None), x, None, length=2)[0]
    f = lambda x: run(two, run(one, x))
    check(js.dissect(f, normal(4)), f, normal(4))


def test_half_precision_is_told():
    W = normal(4, 4).astype(jnp.bfloat16)
    with pytest.warns(UserWarning, match="bfloat16"):
        js.dissect(lambda x: W @ x, normal(4).astype(jnp.bfloat16))


def test_gradient_norms_where_widths_change():
    A, B = normal(5, 4), normal(3, 5, seed=1)
    chain = js.dissect(lambda x: jnp.tanh(B @ jnp.tanh(A @ x)), normal(4)).depth
    got = js.log_gradient_norms(chain, jnp.ones(3))
    want = jax.grad(lambda x: jnp.tanh(B @ jnp.tanh(A @ x)).sum())(normal(4))
    np.testing.assert_allclose(got[0], jnp.log(jnp.linalg.norm(want)), atol=1e-12)


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
    check(anatomy, lambda x: model.apply(variables, x), normal(4))
    assert [block.where for block in anatomy.blocks] == [f"layers.Dense_0[{i}]" for i in range(3)]
    assert len(anatomy.times) == 0


def test_shared_weight_as_the_argument():
    def net(W, x):
        for _ in range(4):
            x = jnp.tanh(W @ x)
        return x

    anatomy = js.dissect(net, normal(4, 4), normal(4))
    check(anatomy, lambda W: net(W, normal(4)), normal(4, 4))
    assert [block.frontier for block in anatomy.blocks] == [2, 2, 2, 1]


@pytest.mark.parametrize("budget", [None, 0])
def test_a_slope_that_is_not_finite_is_told(monkeypatch, budget):
    if budget is not None:
        monkeypatch.setattr("jacspec._links.STORED_BYTES", budget)
    with pytest.warns(UserWarning, match="Jacobian of step 1 is not finite"):
        chain = js.dissect(lambda x: jnp.sqrt(x), jnp.array([0.0, 1.0])).depth
    assert chain.first_nonfinite == 1


@pytest.mark.slow
def test_deep_network_compiles_as_fast_as_a_block():
    import time

    block = lambda W, x: x + jnp.tanh(jax.nn.softmax(x @ W[0] @ x.T) @ x @ W[1])
    W = normal(24, 2, 32, 32) / 6

    def net(x):
        for w in W:
            x = block(w, x)
        return x

    start = time.process_time()
    chain = js.dissect(net, normal(16, 32)).depth
    norms = js.log_gradient_norms(chain, jnp.ones(512))
    assert time.process_time() - start < 20
    want = jax.grad(lambda x: net(x).sum())(normal(16, 32))
    np.testing.assert_allclose(norms[0], jnp.log(jnp.linalg.norm(want)), atol=1e-10)
