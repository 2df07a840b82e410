"""Recurrent models against their equations in NumPy, their chains against autodiff, and their initial laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_models import draw, filled, values
from flax import nnx
from jax.flatten_util import ravel_pytree
from scipy import special

from jacspec.models import Recurrent

F64 = jnp.float64
sigmoid = special.expit


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
