"""Models against their equations in NumPy, their chains against autodiff, their initial laws, and what is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from scipy import ndimage, special

import jacspec as js
from jacspec.models import Convolutional, Deep, Recurrent

F64 = jnp.float64
sigmoid = special.expit


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def filled(make, seed=1):
    """The model that `make` makes, with other numbers: no bias is zero, no scale one. (Nothing is drawn or compiled.)"""
    graph, parameters, statistics = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    rng = np.random.default_rng(seed)
    fill = lambda draws: lambda a: jnp.asarray(draws(a.shape), a.dtype)
    parameters = jax.tree.map(fill(lambda shape: 0.1 + 0.6 * rng.standard_normal(shape)), parameters)
    return nnx.merge(graph, parameters, jax.tree.map(fill(lambda shape: rng.uniform(0.3, 1, shape)), statistics))


def values(held):
    return {key: np.asarray(value[...]) for key, value in held.items()}


# the equations of the cells, in NumPy: (parameters, state, input) -> (state, what is shown)


def elman(p, h, x):
    h = np.tanh(p["W"] @ h + p["U"] @ x + p["b"])
    return h, h


def leaky_elman(p, h, x):
    h = 0.7 * h + 0.3 * elman(p, h, x)[0]
    return h, h


def lstm(p, state, x):
    c, h = state
    i, f, g, o = p["W"] @ h + p["U"] @ x + p["b"]
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (c, h), h


def gru(p, h, x):
    (r, z, u), (ar, az, an) = p["W"] @ h, p["U"] @ x + p["b"]
    n = np.tanh(an + sigmoid(r + ar) * u)
    h = (1 - sigmoid(z + az)) * n + sigmoid(z + az) * h
    return h, h


def mgu(p, h, x):
    (f, u), (af, an) = p["W"] @ h, p["U"] @ x + p["b"]
    f = sigmoid(f + af)
    h = (1 - f) * np.tanh(an + f * u) + f * h
    return h, h


def minimal_rnn(p, h, x):
    z = np.tanh(p["U"] @ x + p["c"])
    u = sigmoid(p["W"] @ h + p["V"] @ z + p["b"])
    h = u * h + (1 - u) * z
    return h, h


def lru(p, state, x):
    s = np.exp(-np.exp(p["nu"]) + 1j * p["theta"]) * (state[0] + 1j * state[1])
    s = s + p["gamma"] * ((p["B"][0] + 1j * p["B"][1]) @ x)
    return (s.real, s.imag), np.tanh(np.concatenate([s.real, s.imag]))


CELLS = {f.__name__: f for f in (elman, leaky_elman, lstm, gru, mgu, minimal_rnn, lru)}
OPTIONS = {"leaky_elman": {"rate": 0.3}}


@functools.cache
def two_layers(name):
    """A stack of two of every cell, three features in, two units a layer."""
    options = OPTIONS.get(name, {})
    return filled(lambda: Recurrent(name, 3, 2, 2, depth=2, embedding=4, dtype=F64, rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize("name", CELLS)
def test_a_stack_is_its_equations(name):
    model, inputs = two_layers(name), draw(5, 3)
    zero = np.zeros(2)
    states = [(zero, zero) if name in ("lstm", "lru") else zero] * 2
    want = []
    for x in inputs:
        x = np.asarray(model.embedding[...]) @ x
        for l, p in enumerate(model.cells):
            states[l], x = CELLS[name](values(p), states[l], x)
        want.append(values(model.head)["W"] @ x + values(model.head)["b"])
    np.testing.assert_allclose(model(jnp.asarray(inputs)), want, atol=1e-14)


@pytest.mark.parametrize(("name", "depth"), [("elman", 1), ("lstm", 1), ("gru", 2), ("lru", 2)])
def test_the_chain_is_the_derivative_of_the_state_map(name, depth):
    make = lambda: Recurrent(name, 3, 2, 2, depth=depth, dtype=F64, rngs=nnx.Rngs(0))
    model = filled(make)
    inputs = jnp.asarray(draw(4, 3))
    chain = model.chain(inputs)
    flat, unravel = ravel_pytree(model.initial_state())

    def final(v):
        step = model.step
        return ravel_pytree(functools.reduce(step, inputs, unravel(v)))[0]

    product = functools.reduce(lambda P, J: J @ P, np.asarray(chain.dense()))
    np.testing.assert_allclose(product, jax.jit(jax.jacfwd(final))(flat), atol=1e-14)
    assert hasattr(model.step, "jacobian") == (depth == 1)
    if name == "elman":  # no stale weights
        nnx.update(model, nnx.state(filled(make, seed=2)))
        assert not np.allclose(model.chain(inputs).states, chain.states)


def test_the_last_output_is_the_last_of_every():
    make = lambda readout: filled(lambda: Recurrent("gru", 3, 2, 2, readout=readout, dtype=F64, rngs=nnx.Rngs(3)))
    inputs = jnp.asarray(draw(6, 3))
    np.testing.assert_allclose(make("last")(inputs), make("every")(inputs)[-1], atol=1e-15)
    batch = jnp.asarray(draw(2, 6, 3))
    np.testing.assert_allclose(jax.vmap(make("last"))(batch)[1], make("last")(batch[1]), atol=1e-15)


def loss_of(model, inputs):
    return jnp.sum(jnp.sin(model(inputs)))


GRADED = {
    "lstm": (lambda: Recurrent("lstm", 3, 2, 2, depth=2, embedding=3, dtype=F64, rngs=nnx.Rngs(0)), (4, 3)),
    "batch": (lambda: Deep(3, 5, 2, depth=4, normalization="batch", dtype=F64, rngs=nnx.Rngs(0)), (5, 3)),
    "residual": (
        lambda: Deep(3, 5, 2, depth=4, kind="residual", normalization="layer", dtype=F64, rngs=nnx.Rngs(0)),
        (5, 3),
    ),
    "convolution": (lambda: Convolutional(1, 2, 2, depth=3, dtype=F64, rngs=nnx.Rngs(0)), (2, 3, 4, 1)),
}


@pytest.mark.parametrize("name", GRADED)
def test_gradients_are_those_of_differences_and_of_the_functional_form(name):
    make, shape = GRADED[name]
    model, inputs = filled(make), jnp.asarray(draw(*shape))
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    loss = jax.jit(jax.value_and_grad(lambda p: loss_of(nnx.merge(graph, p, rest, copy=True), inputs)))
    (flat, unravel), gradient = ravel_pytree(parameters), ravel_pytree(loss(parameters)[1])[0]
    if name in ("lstm", "batch"):
        found = nnx.jit(nnx.grad(loss_of))(model, inputs)
        np.testing.assert_allclose(ravel_pytree(found)[0], gradient, atol=1e-13)
    assert np.isfinite(gradient).all()
    assert np.count_nonzero(gradient) > 0.9 * gradient.size
    direction = jnp.asarray(draw(flat.size, seed=4)) / math.sqrt(flat.size)
    step = 1e-5  # central difference: truncation step^2, rounding eps / step, both about 1e-10
    ahead, behind = (loss(unravel(flat + sign * step * direction))[0] for sign in (1, -1))
    np.testing.assert_allclose((ahead - behind) / (2 * step), gradient @ direction, rtol=1e-6, atol=1e-8)


def test_initial_laws_of_recurrent_weights():
    make = lambda cell, **options: values(Recurrent(cell, 3, 64, 2, dtype=F64, rngs=nnx.Rngs(0), **options).cells[0])
    for cell in ("lstm", "gru"):
        W = make(cell)["W"]
        np.testing.assert_allclose(np.linalg.svd(W, compute_uv=False), 1, atol=1e-13)
        assert np.abs(W[0] - W[1]).max() > 0.1
    np.testing.assert_array_equal(make("lstm", initialization="identity", gain=0.5)["W"], [0.5 * np.eye(64)] * 4)
    laws = {"gaussian": 1 / 64, "glorot": 1 / 64, "he": 2 / 64, "critical": 1 / 64}
    for law, variance in laws.items():
        W = make("elman", initialization=law, gain=1.5)["W"]
        assert np.mean(W**2) == pytest.approx(2.25 * variance, rel=5 * math.sqrt(2 / W.size))
    W = make("elman", initialization="critical_orthogonal", gain=0.8)["W"]  # sigma_w* = 1 for tanh
    np.testing.assert_allclose(np.linalg.svd(W, compute_uv=False), 0.8, atol=1e-8)
    U = make("elman", input_gain=0.1)["U"]
    assert np.mean(U**2) == pytest.approx(0.01 / 3, rel=5 * math.sqrt(2 / U.size))


def test_biases_of_the_gate_that_keeps():
    make = functools.partial(Recurrent, features=3, width=200, outputs=2, initialization="identity", dtype=F64)
    make = lambda cell, make=make, **options: values(make(cell, rngs=nnx.Rngs(0), **options).cells[0])
    for cell, row, gates in (("lstm", 1, 4), ("gru", 1, 3), ("mgu", 0, 2)):
        want = np.zeros((gates, 200))
        want[row] = 1.5
        np.testing.assert_array_equal(make(cell, forget_bias=1.5)["b"], want)
    np.testing.assert_array_equal(make("gru", forget_bias=1.5, form="reset_before")["b"][1], -1.5)
    np.testing.assert_array_equal(make("minimal_rnn", forget_bias=1.5)["b"], 1.5)
    assert not make("lstm")["b"].any()
    i, f, g, o = make("lstm", chrono=50)["b"]
    assert 0 <= f.min() < 0.5 < 3.5 < f.max() <= math.log(49)
    np.testing.assert_array_equal(i, -f)
    assert not np.any([g, o])
    r, z, n = make("gru", chrono=50)["b"]
    assert 0 <= z.min() < 0.5 < 3.5 < z.max() <= math.log(49)
    assert not np.any([r, n])


def test_an_open_gate_keeps_its_state():
    """The sign of the forget bias, seen from outside: with it large, the state of every gated cell stands still."""
    for cell, options in (("gru", {}), ("gru", {"form": "reset_before"}), ("mgu", {}), ("minimal_rnn", {})):
        model = Recurrent(cell, 3, 2, 2, forget_bias=40.0, dtype=F64, rngs=nnx.Rngs(0), **options)
        h = jnp.asarray([0.3, -0.9])
        np.testing.assert_allclose(model.step(h, jnp.ones(3)), h, atol=1e-15)


def test_the_ring_of_the_lru():
    p = values(Recurrent("lru", 3, 5000, 1, r_min=0.4, r_max=0.9, dtype=F64, rngs=nnx.Rngs(0)).cells[0])
    modulus = np.exp(-np.exp(p["nu"]))
    assert 0.4 <= modulus.min() < 0.41 < 0.89 < modulus.max() <= 0.9
    np.testing.assert_allclose(p["gamma"], np.sqrt(1 - modulus**2), rtol=1e-12)
    square, error = (0.16 + 0.81) / 2, (0.81 - 0.16) / math.sqrt(12 * 5000)
    assert np.mean(modulus**2) == pytest.approx(square, abs=5 * error)
    assert abs(np.mean(np.exp(1j * p["theta"]))) < 5 / math.sqrt(5000)
    assert np.mean(np.sum(p["B"] ** 2, axis=0)) == pytest.approx(1 / 3, rel=5 / math.sqrt(15000))
    gain = np.mean(np.log(p["gamma"] ** -2.0))  # mean of -ln(1 - u), u uniform on (r_min^2, r_max^2)
    want = ((1 - 0.81) * math.log(1 - 0.81) - (1 - 0.16) * math.log(1 - 0.16)) / (0.81 - 0.16) + 1
    assert gain == pytest.approx(want, abs=0.03)


COUNTS = {
    "elman": 2 * 2 + 2 * 3 + 2,
    "lstm": 4 * (2 * 2 + 2 * 3 + 2),
    "gru": 3 * (2 * 2 + 2 * 3 + 2),
    "mgu": 2 * (2 * 2 + 2 * 3 + 2),
    "minimal_rnn": 2 * 2 * 2 + 2 * 3 + 2 * 2,
    "lru": 2 + 2 + 2 * 2 * 3 + 2,
}


@pytest.mark.parametrize("cell", COUNTS)
def test_parameters_are_counted(cell):
    state = nnx.state(nnx.eval_shape(lambda: Recurrent(cell, 3, 2, 2, rngs=nnx.Rngs(0))))
    shown = 4 if cell == "lru" else 2
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == COUNTS[cell] + 2 * shown + 2


def test_the_seed_decides():
    make = lambda seed: nnx.state(Recurrent("minimal_rnn", 3, 2, 2, dtype=F64, rngs=nnx.Rngs(seed)))
    first, again, other = (ravel_pytree(make(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_parameters_are_float32_and_so_is_all_that_follows():
    model = Recurrent("elman", 3, 2, 2, rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype(jnp.float32)}
    assert model(jnp.ones((5, 3), F64)).dtype == jnp.float32
    assert model.chain(jnp.eye(3, dtype=jnp.int32)).dtype == jnp.float32  # tokens as one-hot rows


# deep networks


def standardized(a, axis, epsilon):
    return (a - a.mean(axis=axis, keepdims=True)) / np.sqrt(a.var(axis=axis, keepdims=True) + epsilon)


def normalized(p, a, kind, training):
    if kind == "batch" and training:
        return p["scale"] * standardized(a, 0, 1e-5) + p["bias"]
    if kind == "batch":
        return p["scale"] * (a - p["mean"]) / np.sqrt(p["variance"] + 1e-5) + p["bias"]
    if kind == "layer":
        return p["scale"] * standardized(a, 1, 1e-6) + p["bias"]
    return p["scale"] * a / np.sqrt(np.mean(a**2, axis=1, keepdims=True) + 1e-6)


def affine(p, h, kind):
    W, g, b = p["W"], p.get("g"), p["b"]
    if g is None:
        return h @ W.T + b
    if kind == "centered_cosine":
        W, h = W - W.mean(axis=1, keepdims=True), h - h.mean(axis=1, keepdims=True)
    W = g[:, None] * W / np.linalg.norm(W, axis=1, keepdims=True)
    return (h if kind == "weight" else h / np.sqrt((h**2).sum(axis=1, keepdims=True) + 1e-6)) @ W.T + b


def network(model, h):
    """The whole network in NumPy, on a batch."""
    kind = model.normalization
    norm = lambda p, a: normalized(p, a, kind, not model.use_running_average) if "scale" in p else a
    g = lambda p, a: norm(p, np.tanh(a)) if model.position == "after" else np.tanh(norm(p, a))
    first, *hidden, head = map(values, model.blocks)
    if model.kind == "residual":
        h = affine(first, h, kind)
        for p in hidden:
            h = h + p["alpha"] * affine(p, g(p, h), kind)
        return g(head, h) @ head["W"].T + head["b"]
    for p in (first, *hidden):
        h = g(p, affine(p, h, kind))
    return h @ head["W"].T + head["b"]


NORMALIZED = [(None, "before")]
NORMALIZED += [(kind, position) for kind in ("batch", "layer", "rms") for position in ("before", "after")]
NORMALIZED += [(kind, "before") for kind in ("weight", "cosine", "centered_cosine")]


@functools.cache
def four_layers(kind, normalization, position):
    make = functools.partial(Deep, 3, 5, 2, depth=4, kind=kind, normalization=normalization, position=position)
    return filled(lambda: make(dtype=F64, rngs=nnx.Rngs(0)))


DEEP = [("plain", *row) for row in NORMALIZED]
DEEP += [("residual", None, "before"), ("residual", "batch", "after"), ("residual", "rms", "before")]
DEEP += [("residual", "weight", "before")]


def applied(layers, h):
    return functools.reduce(lambda h, layer: layer(h), layers, h)


@pytest.mark.parametrize(("kind", "normalization", "position"), DEEP)
def test_a_deep_network_is_its_equations(kind, normalization, position):
    model, inputs = four_layers(kind, normalization, position), draw(6, 3)
    want = network(model, inputs)
    single = normalization != "batch"

    @nnx.jit
    def ask(model, x):
        one = applied(model.layers(x[0]), x[0]) if single else None
        return model(x), applied(model.layers(x), x), one

    whole, composed, one = ask(model, jnp.asarray(inputs))
    np.testing.assert_allclose(whole, want, atol=1e-12)
    np.testing.assert_allclose(composed, want, atol=1e-12)
    if single:
        np.testing.assert_allclose(one, want[0], atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "normalization", "position", "rank"),
    [("plain", "batch", "before", 2), ("residual", "batch", "after", 2), ("residual", "rms", "before", 1),
     ("plain", "weight", "before", 2)],
)  # fmt: skip
def test_the_chain_is_the_derivative_over_depth(kind, normalization, position, rank):
    model = four_layers(kind, normalization, position)
    inputs = jnp.asarray(draw(*(4, 3)[-rank:]))
    layers = model.layers(inputs)
    assert all(hasattr(layer, "jacobian") for layer in layers)
    chain = model.chain(inputs)
    assert chain.length == 5
    product = functools.reduce(lambda P, J: np.asarray(J) @ P, chain.dense(), np.eye(inputs.size))
    whole = jax.jit(jax.jacfwd(lambda v: applied(layers, v.reshape(inputs.shape)).ravel()))
    np.testing.assert_allclose(product, whole(inputs.ravel()), atol=1e-12)
    across = product.reshape(4, 2, 4, 3)[0, :, 1] if rank == 2 else np.zeros(1)
    assert (np.abs(across).max() > 1e-3) == (normalization == "batch")  # BatchNorm couples the examples of a batch


def test_running_statistics_are_those_of_the_batch_and_rule_in_evaluation():
    make = functools.partial(Deep, 3, 5, 2, depth=4, normalization="batch", momentum=0.75, dtype=F64)
    model = filled(lambda: make(rngs=nnx.Rngs(0)))
    inputs, old = 1 + 2 * draw(8, 3), [values(p) for p in model.blocks]
    nnx.jit(lambda m, x: m(x))(model, jnp.asarray(inputs))
    h = inputs
    for block, p in zip(list(model.blocks)[:-1], old, strict=False):
        a = affine(p, h, "batch")
        np.testing.assert_allclose(block["mean"][...], 0.75 * p["mean"] + 0.25 * a.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(block["variance"][...], 0.75 * p["variance"] + 0.25 * a.var(axis=0), rtol=1e-12)
        h = np.tanh(normalized(p, a, "batch", True))
    before = nnx.state(model, nnx.BatchStat)
    model.layers(jnp.asarray(inputs))
    model.chain(jnp.asarray(inputs))
    model.eval()
    np.testing.assert_allclose(model(jnp.asarray(inputs[:1])), network(model, inputs[:1]), atol=1e-13)
    after = nnx.state(model, nnx.BatchStat)
    np.testing.assert_array_equal(ravel_pytree(before)[0], ravel_pytree(after)[0])
    assert model.chain(jnp.asarray(inputs[0])).shape == (2, 3)
    model.train()
    with pytest.raises(ValueError, match="whole batch"):
        model.chain(jnp.asarray(inputs[0]))
    with pytest.raises(ValueError, match="B >= 2"):
        model(jnp.asarray(inputs[:1]))


def test_skip_init_starts_as_the_identity():
    make = functools.partial(Deep, 3, 5, 2, depth=5, kind="residual", dtype=F64)
    J = make(branch_scale=0.0, rngs=nnx.Rngs(0)).chain(jnp.asarray(draw(3)))[1:-1]
    np.testing.assert_array_equal(np.asarray(J.dense()), [np.eye(5)] * 4)
    alphas = [float(p["alpha"][...]) for p in list(make(rngs=nnx.Rngs(0)).blocks)[1:-1]]
    assert alphas == [0.5] * 4


def test_weight_normalization_starts_as_the_plain_network():
    make = lambda normalization: Deep(
        3, 5, 2, depth=3, normalization=normalization, initialization="gaussian", dtype=F64, rngs=nnx.Rngs(5)
    )
    inputs = jnp.asarray(draw(4, 3))
    np.testing.assert_allclose(make("weight")(inputs), make(None)(inputs), atol=1e-14)


def test_initial_laws_of_deep_weights():
    make = lambda **options: Deep(50, (200, 100), 10, dtype=F64, rngs=nnx.Rngs(0), **options).blocks
    # the critical line of tanh passes through sigma_w^2 = 1.7609546 at sigma_b^2 = 0.05
    first, second, head = (values(p) for p in make(initialization="critical", bias_variance=0.05))
    for p, n in ((first, 50), (second, 200)):
        assert np.mean(p["W"] ** 2) == pytest.approx(1.7609546 / n, rel=5 * math.sqrt(2 / p["W"].size))
        assert np.mean(p["b"] ** 2) == pytest.approx(0.05, rel=5 * math.sqrt(2 / p["b"].size))
    assert head["W"].shape == (10, 100)
    assert not head["b"].any()
    first, second, _ = (values(p) for p in make(initialization="orthogonal", gain=1.3))
    for p in (first, second):
        np.testing.assert_allclose(np.linalg.svd(p["W"], compute_uv=False), 1.3, atol=1e-13)
    _, square, _ = (
        values(p) for p in Deep(3, 5, 2, depth=2, initialization="identity", dtype=F64, rngs=nnx.Rngs(0)).blocks
    )
    np.testing.assert_array_equal(square["W"], np.eye(5))


def primitives(jaxpr):
    """Names of all primitives of a program, those of inner programs counted once."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


@pytest.mark.parametrize("options", [{}, {"kind": "residual", "normalization": "batch"}])
def test_fifty_layers_are_one_program(options):
    """A scan over the equal blocks: three matrix products whatever the depth."""
    model = filled(lambda: Deep(3, 5, 2, depth=50, dtype=F64, rngs=nnx.Rngs(0), **options))
    graph, state = nnx.split(model)
    forward = lambda state, x: nnx.merge(graph, state, copy=True)(x)
    names = list(primitives(jax.make_jaxpr(forward)(state, jnp.ones((4, 3))).jaxpr))
    assert names.count("scan") == 1
    assert names.count("dot_general") <= (3 if not options else 4)  # a residual branch is written twice
    inputs = draw(4, 3)
    np.testing.assert_allclose(jax.jit(forward)(state, jnp.asarray(inputs)), network(model, inputs), atol=1e-9)


def test_many_seeds_at_once_and_a_round_trip():
    model = Deep(3, 5, 2, depth=4, dtype=F64, rngs=nnx.Rngs(7))
    inputs = jnp.asarray(draw(4, 3))
    np.testing.assert_array_equal(nnx.merge(*nnx.split(model))(inputs), model(inputs))

    def outputs(key):
        made = Deep(3, 5, 2, depth=4, initialization="critical", dtype=F64, rngs=nnx.Rngs(key))
        return made(inputs)

    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.jit(jax.vmap(outputs))(keys)
    np.testing.assert_allclose(both[1], outputs(keys[1]), atol=1e-14)
    assert np.abs(both[0] - both[1]).max() > 1e-3


# convolutions


def wrapped(image, kernel):
    """The circular correlation of (H, W, in) with (k1, k2, in, out)."""
    origin = [(k - 1) // 2 - k // 2 for k in kernel.shape[:2]]
    one = lambda i, o: ndimage.correlate(image[..., i], kernel[:, :, i, o], mode="wrap", origin=origin)
    channels = range(kernel.shape[2])
    return np.stack([sum(one(i, o) for i in channels) for o in range(kernel.shape[3])], axis=-1)


def test_a_convolutional_network_is_its_equations():
    model = filled(lambda: Convolutional(2, 3, 4, depth=2, kernel_size=(3, 2), dtype=F64, rngs=nnx.Rngs(0)))
    inputs = draw(2, 4, 5, 2)
    h = inputs
    for p in map(values, list(model.blocks)[:-1]):
        h = np.tanh(np.stack([wrapped(image, p["kernel"]) for image in h]) + p["b"])
    head = values(model.blocks[-1])
    want = h.mean(axis=(1, 2)) @ head["W"].T + head["b"]
    np.testing.assert_allclose(model(jnp.asarray(inputs)), want, atol=1e-14)
    chain = model.chain(jnp.asarray(inputs[0]))
    product = functools.reduce(lambda P, J: np.asarray(J) @ P, chain.dense(), np.eye(40))
    oracle = jax.jit(jax.jacrev(lambda v: model(v.reshape(1, 4, 5, 2))[0]))(jnp.asarray(inputs[0]).ravel())
    np.testing.assert_allclose(product, oracle, atol=1e-14)


@pytest.mark.slow
def test_delta_orthogonal_kernels_keep_every_direction():
    make = lambda **options: Convolutional(
        1, 4, 2, depth=4, activation="linear", dtype=F64, rngs=nnx.Rngs(0), **options
    )
    inputs = jnp.asarray(draw(3, 3, 1))
    logs = js.log_singular_values(make(gain=1.2).chain(inputs)[1:-1])
    np.testing.assert_allclose(logs, 3 * math.log(1.2), atol=1e-12)
    assert np.ptp(js.log_singular_values(make(initialization="gaussian").chain(inputs)[1:-1])) > 1
    kernel = values(Convolutional(8, 64, 2, depth=1, initialization="he", rngs=nnx.Rngs(0)).blocks[0])["kernel"]
    assert np.mean(kernel**2) == pytest.approx(2 / (9 * 8), rel=5 * math.sqrt(2 / kernel.size))


# what is refused


def recurrent(cell="lstm", **options):
    return Recurrent(
        **{"cell": cell, "features": 3, "width": 2, "outputs": 2, "dtype": F64, "rngs": nnx.Rngs(0)} | options
    )


def deep(**options):
    return Deep(**{"features": 3, "width": 5, "outputs": 2, "depth": 2, "dtype": F64, "rngs": nnx.Rngs(0)} | options)


@pytest.mark.parametrize(
    ("build", "kind", "pattern"),
    [
        (lambda: recurrent("lsmt"), ValueError, r"'cell' is unknown; got 'lsmt'.*mean 'lstm'"),
        (lambda: recurrent(activation="tahn"), ValueError, r"models.Recurrent.*'activation'.*mean 'tanh'"),
        (lambda: recurrent(initialization="orthogonl"), ValueError, r"'initialization'.*mean 'orthogonal'"),
        (lambda: recurrent(readout="lst"), ValueError, r"'readout'.*mean 'last'"),
        (lambda: recurrent(depth=0), ValueError, r"'depth' is out of range; got 0"),
        (lambda: recurrent(width=2.0), TypeError, r"'width' must be an integer"),
        (lambda: recurrent(rngs=0), TypeError, r"'rngs' is of the wrong type.*nnx\.Rngs\(seed\)"),
        (lambda: recurrent(gain="1"), TypeError, r"'gain' must be a number"),
        (lambda: recurrent(rate=0.5), ValueError, r"an option of 'lstm'.*'rate'"),
        (lambda: recurrent("gru", form="reset_befor"), ValueError, r"'form'.*mean 'reset_before'"),
        (lambda: recurrent("leaky_elman", rate=1.5), ValueError, r"'rate' is out of range"),
        (lambda: recurrent("elman", forget_bias=1.0), ValueError, r"'forget_bias' needs a gate.*'elman' has none"),
        (lambda: recurrent(forget_bias=1.0, chrono=10), ValueError, r"'chrono' and forget_bias set the same bias"),
        (lambda: recurrent(forget_bias=math.nan), ValueError, r"'forget_bias' is out of range; got nan"),
        (lambda: recurrent(chrono=2), ValueError, r"'t_max' is out of range"),
        (lambda: recurrent("mgu", initialization="critical"), ValueError, r"'initialization' is not known.*'mgu'"),
        (lambda: recurrent("lru", initialization="orthogonal"), ValueError, r"'initialization' is not for 'lru'"),
        (lambda: recurrent("lru", gain=2.0), ValueError, r"'gain' is not for 'lru'; got 2.0"),
        (lambda: recurrent("lru", chrono=9), ValueError, r"'chrono' needs a gate.*'lru' has none"),
        (lambda: recurrent("lru", r_max=1.0), ValueError, r"'r_max' is out of range; got 1.0"),
        (lambda: recurrent()(jnp.ones((2, 4, 3))), ValueError, r"shape \(2, 4, 3\).*jax\.vmap"),
        (lambda: recurrent()([[1.0, 2.0, 3.0]]), TypeError, r"'inputs' must be a numeric array; got list"),
        (lambda: deep(kind="residal"), ValueError, r"'kind'.*mean 'residual'"),
        (lambda: deep(normalization="bacth"), ValueError, r"'normalization'.*mean 'batch'"),
        (lambda: deep(position="after"), ValueError, r"'position' is of no meaning here; got None"),
        (lambda: deep(position="after", normalization="weight"), ValueError, r"'position' is of no meaning here"),
        (lambda: deep(branch_scale=0.0), ValueError, r"'branch_scale' needs kind='residual'"),
        (lambda: deep(kind="residual", width=(3, 4), depth=None), ValueError, r"'width' changes along residual"),
        (lambda: deep(width=(3, 4)), ValueError, r"'width' is a sequence.*replaces depth"),
        (lambda: deep(depth=None), ValueError, r"'depth' is missing"),
        (
            lambda: deep(initialization="critical", activation="relu", bias_variance=0.3),
            ValueError,
            r"no critical point for relu",
        ),
        (lambda: deep(bias_variance=-1.0), ValueError, r"'bias_variance' is out of range; got -1.0"),
        (lambda: deep()(jnp.ones(3)), ValueError, r"'inputs' do not fit; got shape \(3,\), expected \(batch, 3\)"),
        (
            lambda: Convolutional(3, 2, 1, depth=1, rngs=nnx.Rngs(0)),
            ValueError,
            r"'c_out' is out of range; got 2.*c_in = 3",
        ),
        (
            lambda: Convolutional(1, 2, 1, depth=1, rngs=nnx.Rngs(0)).chain(jnp.ones((2, 4, 4, 1))),
            ValueError,
            r"'inputs' do not fit.*\(H, W, 1\)",
        ),
    ],
)
def test_bad_input_is_refused(build, kind, pattern):
    with pytest.raises(kind, match=pattern):
        build()
