"""What is no single cell: scans over cells, sequences of layers, and variables that belong to something else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jacspec as js
from jacspec.networks.flax import from_flax

I, H = 2, 3
FLOAT64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}
CELL = linen.GRUCell(H, param_dtype=jnp.float64)
SEQUENCE = jnp.asarray(np.random.default_rng(0).standard_normal((4, I)))
quiet = pytest.mark.filterwarnings("ignore:jacspec.from_flax")


def variables_of(module, *inputs):
    return module.init(jax.random.key(0), *inputs)


class Model(linen.Module):
    @linen.compact
    def __call__(self, xs):
        return linen.Dense(1)(linen.RNN(CELL)(xs))


def nnx_rnn():
    return nnx.RNN(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: (linen.RNN(CELL), {}), r"linen\.RNN, expected its \.cell, with variables\['params'\]\['cell'\]"),
        (
            lambda: (linen.Bidirectional(linen.RNN(CELL), linen.RNN(CELL)), {}),
            r"linen\.Bidirectional.*forward_rnn\.cell",
        ),
        (lambda: (nnx_rnn(), None), r"nnx\.RNN, expected its \.cell"),
        (lambda: (nnx.Bidirectional(nnx_rnn(), nnx_rnn()), None), r"nnx\.Bidirectional.*forward_rnn\.cell"),
    ],
)
def test_a_scan_over_a_cell_is_named_before_it_is_called(make, got):
    arguments = make()
    with pytest.raises(TypeError, match=rf"'module' is a scan over a cell; got {got}"):
        from_flax(*arguments)


def test_the_cell_of_an_rnn_wants_its_own_variables():
    whole = linen.RNN(CELL)
    variables = jax.tree.map(lambda a: a, whole.init(jax.random.key(0), SEQUENCE, initial_carry=jnp.zeros(H)))
    with pytest.raises(
        ValueError, match=r"'variables' are not those of the module; got parameters \['cell'\].*\['cell'\]"
    ):
        from_flax(whole.cell, variables)
    step = from_flax(whole.cell, variables["params"]["cell"])
    states = js.jacobian_chain(step, None, SEQUENCE).states
    np.testing.assert_allclose(states[1:], whole.apply(variables, SEQUENCE, initial_carry=jnp.zeros(H)), atol=1e-14)


@quiet
@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: whole_model(), r"'module' fails at h = float64\[3\], x = float64\[2\].*positional.*recurrent part"),
        (lambda: norm({}, use_running_average=True), r"'module'.*batch_stats.*own.*batch_stats"),
        (lambda: norm(STATISTICS), r"'module'.*use_running_average.*use_running_average=True"),
        (lambda: norm(STATISTICS, use_running_average=False), r"'module'.*batch_stats.*jacspec\.layers\.BatchNorm"),
        (lambda: one_layer(linen.Dropout(0.5, deterministic=False)), r"'module'.*dropout.*keys as drivers"),
        (lambda: one_layer(linen.Dense(2), {"kernel": jnp.ones((7, 2))}), r"'module'.*ScopeParamShapeError.*own"),
        (lambda: one_layer(linen.Dense(2)), r"'module'.*kernel.*own: .*variables\['params'\]\[name\]"),
        (lambda: js.jacobian_chain(CELL, jnp.zeros(H), SEQUENCE), r"'step'.*unbound.*from_flax\(module, variables\)"),
        (
            lambda: js.layer_chain(from_flax(nnx.Sequential(linear(3, 4), linear(5, 4))), jnp.ones(3)),
            r"(?s)'h' does not fit; got shape \(4,\), expected \(5,\).*layers\[1\]",
        ),
        (lambda: js.layer_chain([linear(3, 4), linear(5, 4)], jnp.ones(3)), r"'layers\[1\]' fails at h = float64\[4\]"),
        (lambda: js.layer_chain([nnx.Dropout(0.5)], jnp.ones(3)), r"'layers\[0\]'.*rngs.*deterministic=True"),
    ],
)
def test_what_flax_would_say_is_said_with_the_way_out(ask, words):
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        ask()
    assert str(caught.value).startswith("jacspec.")
    assert type(caught.value) in (TypeError, ValueError)


STATISTICS = {"batch_stats": {"mean": jnp.zeros(H), "var": jnp.ones(H)}}


def norm(statistics, **options):
    variables = {"params": {"scale": jnp.ones(H), "bias": jnp.zeros(H)}} | statistics
    return js.layer_chain([from_flax(linen.BatchNorm(**options), variables)], jnp.ones((5, H)))


def one_layer(module, params=None):
    return js.layer_chain([from_flax(module, {"params": params or {}})], jnp.ones(H))


def linear(n, m):
    return nnx.Linear(n, m, rngs=nnx.Rngs(0), **FLOAT64)


def whole_model():
    model = Model()
    return js.jacobian_chain(from_flax(model, {"params": {}}), jnp.zeros(H), SEQUENCE)


@pytest.mark.parametrize("form", ["variables", "bound", "nested"])
def test_a_linen_sequential_gives_its_layers(form):
    parts = [
        linen.Dense(4, param_dtype=jnp.float64),
        jnp.tanh,
        linen.LayerNorm(param_dtype=jnp.float64),
        lambda h: h[:2],
    ]
    net = linen.Sequential([linen.Sequential(parts[:2]), *parts[2:]] if form == "nested" else parts)
    x = jnp.asarray(np.random.default_rng(1).standard_normal(3))
    variables = variables_of(net, x)
    with pytest.warns(UserWarning, match=r"no analytic Jacobian for layer 0: "):
        layers = from_flax(net.bind(variables)) if form == "bound" else from_flax(net, variables)
    chain = js.layer_chain(layers, x)
    np.testing.assert_allclose(chain.states[-1], net.apply(variables, x), atol=1e-14)
    P = functools.reduce(lambda P, J: J @ P, chain.dense())
    np.testing.assert_allclose(P, jax.jacfwd(lambda x: net.apply(variables, x))(x), atol=1e-13)


@quiet
@pytest.mark.parametrize("between", ["pool", "module", "conv", "none"])
def test_a_norm_or_a_linear_acts_on_the_channels_of_whatever_reaches_it(between):
    rngs = nnx.Rngs(0)

    class Twice(nnx.Module):
        def __call__(self, h):
            return 2 * h

    pool = functools.partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
    head = [nnx.Conv(1, 3, (3, 3), rngs=rngs, **FLOAT64), jax.nn.relu]
    head += {"pool": [pool], "module": [Twice()], "none": [], "conv": [nnx.Conv(3, 3, (1, 1), rngs=rngs, **FLOAT64)]}[
        between
    ]
    eval_norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs, **FLOAT64)
    tail = [nnx.LayerNorm(3, rngs=rngs, **FLOAT64), linear(3, 2), jnp.tanh, nnx.RMSNorm(2, rngs=rngs, **FLOAT64)]
    net = nnx.Sequential(*head, eval_norm, *tail, jnp.ravel, linear(8 if between == "pool" else 32, 3))
    image = jnp.asarray(np.random.default_rng(2).standard_normal((4, 4, 1)))
    chain = js.layer_chain(from_flax(net), image)
    np.testing.assert_allclose(chain.states[-1], net(image), atol=1e-12)
    P = functools.reduce(lambda P, J: J @ P, chain.dense())
    np.testing.assert_allclose(P, jax.jacfwd(lambda x: net(x))(image).reshape(3, 16), atol=1e-12)


@quiet
def test_a_cell_knows_its_first_state():
    gelu = {"activation_fn": jax.nn.gelu}
    fallback = linen.LSTMCell(H, param_dtype=jnp.float64, **gelu)
    steps = [
        from_flax(nnx.GRUCell(I, H, rngs=nnx.Rngs(0), **FLOAT64)),
        from_flax(nnx.GRUCell(I, H, rngs=nnx.Rngs(0), **FLOAT64, **gelu)),
        from_flax(fallback, variables_of(fallback, (jnp.zeros(H),) * 2, jnp.zeros(I))),
    ]
    for step in steps:
        chain = js.jacobian_chain(step, None, SEQUENCE)
        assert all((leaf[0] == 0).all() and leaf.shape == (5, H) for leaf in jax.tree.leaves(chain.states))
    with pytest.raises(ValueError, match=r"'h0' is None and the step does not know it; got NNXStep.*jnp\.zeros"):
        js.jacobian_chain(from_flax(linear(H, H)), None, length=2)
