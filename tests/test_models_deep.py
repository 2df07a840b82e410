"""Deep and convolutional networks: equations, chains, initial laws, one program; and the gradients of all models."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_models import draw, filled, values
from flax import nnx
from jax.flatten_util import ravel_pytree
from scipy import ndimage

import jacspec as js
from jacspec.models import Convolutional, Deep, Recurrent, weights

F64 = jnp.float64


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
    [("plain", "batch", "before", 2), ("residual", "rms", "before", 1),
     *(pytest.param(*case, marks=pytest.mark.slow) for case in (("residual", "batch", "after", 2), ("plain", "weight", "before", 2)))],
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


@pytest.mark.slow
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


def test_one_call_moves_the_running_statistics_by_the_share_that_does_not_stay():
    model = Deep(3, 5, 2, depth=1, normalization="batch", momentum=0.75, dtype=F64, rngs=nnx.Rngs(0))
    inputs = 1 + 2 * draw(4, 3)
    model(jnp.asarray(inputs))
    p = values(model.blocks[0])
    a = inputs @ p["W"].T + p["b"]
    np.testing.assert_allclose(p["mean"], 0.25 * a.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(p["variance"], 0.75 + 0.25 * a.var(axis=0), rtol=1e-12)


def test_initial_biases_have_their_variance_and_each_layer_its_own():
    first, second, head = (values(p) for p in Deep(
        400, (400, 400), 400, bias_variance=0.09, initialization="gaussian", gain=1.5, dtype=F64, rngs=nnx.Rngs(0)
    ).blocks)  # fmt: skip
    for p in (first, second):
        assert np.mean(p["b"] ** 2) == pytest.approx(0.09, rel=5 * math.sqrt(2 / 400))
        assert np.mean(p["W"] ** 2) == pytest.approx(2.25 / 400, rel=5 * math.sqrt(2 / p["W"].size))
    draws = [first["b"], second["b"], *(p["W"][0] / np.std(p["W"]) for p in (first, second, head))]
    for i, a in enumerate(draws):
        assert all(abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(400) for b in draws[:i])


def test_a_critical_gain_is_the_root_of_the_critical_weight_variance(monkeypatch):
    found = types.SimpleNamespace(weight_variance=4.0, converged=True)
    monkeypatch.setattr(weights.initializers, "critical", lambda activation, **arguments: found)
    assert weights.critical_gain("models.Deep", "critical", 1.2, "tanh") == 2.4


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


@pytest.mark.slow
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


@pytest.mark.slow
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


# gradients


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
