"""A step that changes itself when it is called is refused, and one that only writes what nobody reads is not."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jacspec as js
from jacspec.networks.flax import NNXStep, from_flax

N, T = 3, 2
ONE = jnp.ones(N)
FLOAT64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}
pytestmark = pytest.mark.filterwarnings("ignore:jacspec.from_flax", "ignore:Using 'Module.sow", "ignore:scatter inputs")


class Module(nnx.Module):
    """h' = tanh(W h), and one more thing."""

    def __init__(self):
        self.linear = nnx.Linear(N, N, rngs=nnx.Rngs(0), **FLOAT64)
        self.memory = nnx.Variable(jnp.zeros(N))
        self.count = 0
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        self.norm = nnx.BatchNorm(N, rngs=nnx.Rngs(2), **FLOAT64)

    def __call__(self, h, x=None):
        return jnp.tanh(self.linear(h))


class Remembers(Module):
    def __call__(self, h, x=None):
        self.memory[...] = self.memory[...] + h
        return jnp.tanh(self.linear(h) + self.memory[...])


class RemembersSlowly(Module):
    def __call__(self, h, x=None):
        self.memory[...] = self.memory[...] + 1e-9 * h
        return jnp.tanh(self.linear(h) + self.memory[...])


class Counts(Module):
    def __call__(self, h, x=None):
        self.count += 1
        return jnp.tanh(self.linear(h) * self.count)


class CountsSlowly(Module):
    def __call__(self, h, x=None):
        self.count += 1
        return jnp.tanh(self.linear(h) * (1 + 1e-9 * self.count))


class Drops(Module):
    def __call__(self, h, x=None):
        return jnp.tanh(self.dropout(self.linear(h)))


class Follows(Module):
    """Normalizes by running statistics that it goes on to change."""

    def __call__(self, h, x=None):
        self.norm(h[None])
        return jnp.tanh((self.linear(h) - self.norm.mean[...]) / jnp.sqrt(self.norm.var[...] + 1))


class Iterates(Module):
    """One step of the power iteration at every call, as nnx.SpectralNorm does."""

    def __call__(self, h, x=None):
        u = self.linear.kernel[...] @ (self.memory[...] + 1)
        self.memory[...] = u / jnp.linalg.norm(u) - 1
        return jnp.tanh(self.linear(h) / jnp.linalg.norm(u))


class WritesStatistics(Module):
    def __call__(self, h, x=None):
        self.norm(jnp.stack([h, 2 * h]))
        self.count += 1
        self.sow(nnx.Intermediate, "seen", h)
        return jnp.tanh(self.linear(h))


class NormalizesInPlace(Module):
    def __init__(self):
        super().__init__()
        self.linear = nnx.WeightNorm(self.linear, rngs=nnx.Rngs(3), **FLOAT64)


CHANGING = [Remembers, RemembersSlowly, Counts, CountsSlowly, Drops, Follows, Iterates]
HARMLESS = [Module, WritesStatistics, NormalizesInPlace]
WAYS = {
    "from_flax": from_flax,
    "itself": lambda module: module,
    "in a function": lambda module: lambda h, x: module(h),
    "from_flax in a function": lambda module: (lambda step: lambda h, x: step(h, x))(from_flax(module)),
    "in a stack": lambda module: js.stack(from_flax(module)),
}


def start(way):
    return (ONE,) if way == "in a stack" else ONE


def called(module):
    """The trajectory that Flax itself takes, step by step and without a trace."""
    states = [ONE]
    for _ in range(T):
        states.append(module(states[-1]))
    return jnp.stack(states)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", CHANGING)
def test_what_changes_itself_is_refused_by_name(make, way):
    frozen = NNXStep(*nnx.split(make()), once=True)
    assert np.abs(called(make()) - js.jacobian_chain(frozen, ONE, length=T).states).max() > 1e-10  # why it is refused
    words = r"jacspec\.\w+: argument '(module|step|steps\[0\])' .*(changes itself|TraceContextError).*(eval|state)"
    with pytest.raises(ValueError, match=words):
        js.jacobian_chain(WAYS[way](make()), start(way), length=T)


@pytest.mark.parametrize("way", ["from_flax", "itself", "from_flax in a function", "in a stack"])
@pytest.mark.parametrize("make", HARMLESS)
def test_what_is_written_and_never_read_is_no_change(make, way):
    chain = js.jacobian_chain(WAYS[way](make()), start(way), length=T)
    states = chain.states[0] if way == "in a stack" else chain.states
    np.testing.assert_allclose(states, called(make()), atol=1e-11)
    want = jax.vmap(jax.jacfwd(lambda h: NNXStep(*nnx.split(make()))(h)))(states[:-1])
    np.testing.assert_allclose(chain.dense(), want, atol=1e-11)


def test_the_way_out_is_a_key_for_every_step():
    module = nnx.Dropout(0.5)
    step = lambda h, key: module(h, rngs=nnx.Rngs(dropout=key)) + 0.1
    keys = jax.random.split(jax.random.key(0), T)
    chain = js.jacobian_chain(step, jnp.ones(64), keys)
    masks = jax.vmap(jnp.diagonal)(chain.dense()) > 0
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(masks))
    h = jnp.ones(64)
    for key in keys:
        h = step(h, key)
    np.testing.assert_allclose(chain.states[-1], h, rtol=1e-14)


def test_a_layer_is_called_once_and_may_change():
    batch = jnp.asarray(np.random.default_rng(0).standard_normal((6, N)))
    make = lambda: [nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.BatchNorm(N, rngs=nnx.Rngs(1), **FLOAT64)]
    want = functools.reduce(lambda h, layer: layer(h), make(), batch)
    kept = make()
    for layers in (kept, from_flax(nnx.Sequential(*make()))):
        chain = js.layer_chain(layers, batch)
        np.testing.assert_allclose(chain.states[-1], want, atol=1e-12)
        J = jax.jacfwd(lambda h, layers=layers: functools.reduce(lambda h, f: nnx.clone(f)(h), make(), h))(batch)
        P = chain.dense()
        np.testing.assert_allclose(P[1] @ P[0], J.reshape(6 * N, 6 * N), atol=1e-12)
    assert kept[0].rngs.count[...] == 0  # the module itself is left alone
    twice = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    for layers in ([twice, jnp.tanh, twice], from_flax(nnx.Sequential(twice, jnp.tanh, twice))):
        with pytest.raises(ValueError, match=r"changes itself when it is called.*count"):
            js.layer_chain(layers, batch)


class Plain:
    """An object of the user's own."""

    def __init__(self):
        self.W, self.calls, self.log = 0.5 * jnp.eye(N), 0, []

    def grows(self, h, x):
        self.W = 1.1 * self.W
        return jnp.tanh(self.W @ h)

    def remembers(self, h, x):
        self.W = self.W + jnp.outer(h, h)
        return jnp.tanh(self.W @ h)

    def alternates(self, h, x):
        self.calls += 1
        return jnp.tanh(h) if self.calls % 2 else jnp.sin(h)

    def powers(self, h, x):
        self.calls += 1
        return h**self.calls

    def logs(self, h, x):
        self.log.append("called")
        self.calls += 1
        return jnp.tanh(self.W @ h)


@pytest.mark.parametrize("name", ["grows", "remembers", "alternates", "powers"])
def test_an_object_that_changes_is_refused(name):
    with pytest.raises(
        ValueError, match=r"'step' changes itself when it is called.*make what changes a part of the state"
    ):
        js.jacobian_chain(getattr(Plain(), name), ONE, length=T)


def test_buffers_of_numpy_that_change_are_seen():
    buffer = np.ones(N)

    def step(h, x):
        buffer[:] *= 0.9
        return jnp.tanh(h * buffer)

    with pytest.raises(ValueError, match="'step' changes itself"):
        js.jacobian_chain(step, ONE, length=T)


def test_functions_that_only_look_impure_are_steps():
    plain, W = Plain(), np.eye(N)
    cases = [
        plain.logs,
        functools.partial(lambda W, h, x: jnp.tanh(W @ h), W),
        jax.jit(lambda h, x: jnp.tanh(jnp.asarray(W) @ h)),
        lambda h, x: (jax.debug.callback(lambda _: None, h), jnp.tanh(h))[1],
        lambda h, x: jnp.tanh(h) + 0 * jax.random.normal(jax.random.key(0), (N,)),
        jax.checkpoint(lambda h, x: jnp.tanh(h)),
        lambda h, x: jax.lax.cond(h[0] > 0, jnp.tanh, jnp.tanh, h),
        lambda h, x: jax.lax.scan(lambda c, w: (jnp.tanh(w * c), None), h, jnp.ones((1, N)))[0],
    ]
    for step in cases:
        chain = js.jacobian_chain(step, ONE, length=T)
        assert np.isfinite(js.log_singular_values(chain)).all()
