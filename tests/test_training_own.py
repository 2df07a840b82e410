"""What a user brings to a training and what comes of it: models, probes, optimizers, the trace of an explosion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from users_models import (
    F64,
    ROWS,
    Chained,
    Read,
    Scalar,
    T,
    W,
    X,
    fit,
    known,
)

import jacspec as js
from jacspec import models, training
from jacspec.tasks import Batch


def test_one_step_on_unequal_weights_is_that_of_its_equations():
    found = fit(Scalar(), updates=1)
    w = np.ones((2, 1))
    error = X @ w - 1
    loss = np.sum(W * error[..., 0] ** 2) / W.sum()
    g = 2 * np.einsum("rt,rti,rto->io", W, X, error) / W.sum()
    np.testing.assert_allclose(found.model.w[...], w - 0.1 * g, rtol=1e-12)
    np.testing.assert_allclose(found.history["training_loss"][1], loss, rtol=1e-12)
    np.testing.assert_allclose(found.history["loss"][0], loss, rtol=1e-12)
    np.testing.assert_allclose(found.history["gradient_norm"][1], np.linalg.norm(g), rtol=1e-12)


def test_probes_of_a_users_model_are_those_of_the_same_network_of_the_package():
    own = Read()
    ours = models.Recurrent("elman", 2, 3, 1, dtype=F64, rngs=nnx.Rngs(0))
    cell, head = ours.cells[0], ours.head
    cell["W"][...], cell["U"][...] = own.cell.dense_h.kernel[...].T, own.cell.dense_i.kernel[...].T
    head["W"][...], head["b"][...] = own.out.kernel[...].T, own.out.bias[...]
    probes = [training.SpectrumProbe(3, quantity="both"), training.GradientProbe(known())]
    every = jax.jit(lambda model, batch: [probe(model, batch) for probe in probes])
    a, b = (every(model, known().sample(jax.random.key(0), ROWS)) for model in (own, ours))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10), a, b)
    history = fit(own, probes=probes[:2]).history
    assert history["lyapunov_exponents"].shape == (3, 3)
    assert history["log_gradient_norms"].shape == (3, T + 1)


STACKED = models.Recurrent("gru", 2, 3, 1, depth=2, dtype=F64, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("model", [Read(), pytest.param(STACKED, marks=pytest.mark.slow)])
def test_probes_serve_in_anyones_loop(model):
    inputs, targets = jnp.asarray(X), jnp.ones((ROWS, T, 1))
    batch = Batch(inputs, targets, jnp.ones((ROWS, T)))
    spectrum, squared = jax.jit(training.SpectrumProbe(2)), lambda y, t: jnp.mean((y - t) ** 2)
    same = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), a, b)
    same(spectrum(model, inputs), spectrum(model, batch))
    same(spectrum(model, X), spectrum(model, batch))
    same(spectrum(model, inputs[0]), spectrum(model, inputs[:1]))
    gradients = jax.jit(training.GradientProbe(loss=squared))(model, inputs, targets)
    same(gradients, jax.jit(training.GradientProbe(loss=lambda y: squared(y, targets)))(model, inputs))
    same(gradients, jax.jit(training.GradientProbe(known()))(model, batch))


def test_a_chain_of_other_outputs_than_the_models_gives_no_gradient():
    """Where the sizes fit by chance: the answer is marked, not made up."""

    class Other(Read):
        def read(self, h):
            return self.out(h) + 1

    class Last(Chained):  # one answer of as many numbers as the state has
        def __call__(self, x):
            return 2 * nnx.RNN(self.cell)(x)[:, -1]

    probe = training.GradientProbe(loss=jnp.sum)
    for model in (Other(), Last()):
        assert np.isnan(probe(model, jnp.asarray(X))["log_gradient_norms"]).all()


def test_a_deep_model_is_asked_on_vectors_and_on_sequences():
    model = models.Deep(2 * T, 4, 1, depth=3, dtype=F64, rngs=nnx.Rngs(0))
    vectors = jnp.asarray(X.reshape(ROWS, -1))
    probes = [training.SpectrumProbe(2, examples=1), training.GradientProbe(loss=jnp.sum)]
    every = jax.jit(lambda x: [probe(model, x) for probe in probes])
    jax.tree.map(np.testing.assert_array_equal, every(vectors), every(jnp.asarray(X)))
    alone = jax.jit(training.ActivityProbe())
    jax.tree.map(np.testing.assert_array_equal, alone(model, vectors[0]), alone(model, vectors[:1]))


def test_an_optimizer_that_asks_for_the_loss_function_is_given_it():
    optimizer = optax.lbfgs()
    loss = lambda w: known().loss(jnp.asarray(X) @ w, Batch(*known().data))
    w = jnp.ones((2, 1))
    state, losses = optimizer.init(w), []
    for _ in range(3):
        value, g = jax.value_and_grad(loss)(w)
        losses.append(value)
        updates, state = optimizer.update(g, state, w, value=value, grad=g, value_fn=loss)
        w = optax.apply_updates(w, updates)
    found = fit(Scalar(), optimizer=optax.lbfgs(), updates=3)
    np.testing.assert_allclose(found.model.w[...], w, rtol=1e-10)
    np.testing.assert_allclose(found.history["training_loss"][1:], losses, rtol=1e-10)


def test_numbers_serve_as_results():
    probe = lambda model, batch: {"float": 1.0, "int": 2, "bool": True, "array": jnp.arange(2)}
    found = fit(Scalar(), regularizer=lambda model, batch: 1.5, probes=[probe], updates=1)
    plain = fit(Scalar(), updates=1)
    np.testing.assert_allclose(found.history["training_loss"][1], plain.history["training_loss"][1] + 1.5)
    assert [found.history[name].tolist() for name in ("float", "int", "bool")] == [[1.0] * 2, [2] * 2, [True] * 2]
    assert found.history["array"].shape == (2, 2)


class Scheduled(nnx.Module):
    """Its losses are given, one an update."""

    def __init__(self, losses):
        self.w, self.done = nnx.Param(jnp.zeros(())), nnx.BatchStat(jnp.zeros((), int))
        self.roots = tuple(np.sqrt(losses).tolist())
        self.learns = True

    def eval(self):
        self.learns = False

    def __call__(self, x):
        y = jnp.asarray(self.roots)[self.done[...]]
        if self.learns:
            self.done[...] = self.done[...] + 1
        return jnp.full((*x.shape[:2], 1), 1 + y) + self.w[...]


@pytest.mark.parametrize(
    ("losses", "explodes"),
    [
        ([1.0, 1, 1, 9, 9.5, 20, 1], 5),  # ten times the median of all before, not of the last
        ([1.0, 9, 9.5, 9, 20, 50, 1], None),
        ([9.0] * 20 + [1.0] * 17 + [80.0, 1], 37),  # of the last 32: 15 of 9 and 17 of 1
        ([9.0] * 20 + [1.0] * 15 + [80.0, 1], None),  # 17 of 9 and 15 of 1
        ([0.01, 0.02, 0.9, 1.1, 1], 3),  # the baseline, .1, where it is larger
    ],
)
def test_a_jump_is_measured_by_the_median_of_the_last_32_losses_and_the_baseline(losses, explodes):
    task = dataclasses.replace(known(), baseline=0.1)
    found = fit(Scheduled(losses), task, optax.sgd(0.0), updates=len(losses) - 1, every=50, jump=10.0)
    assert (found.status, found.updates) == ("exploded", explodes) if explodes else ("finished", len(losses) - 1)


def test_it_is_solved_where_the_metric_equals_the_criterion():
    found = fit(Scalar(), success=1.0)
    assert (found.metric, found.status, found.solved_at) == (1.0, "solved", 0)


def test_a_threshold_below_the_dtype_still_counts_what_is_exactly_shut():
    """1 - 1e-10 is 1 and 1e-50 is 0 in float32: a gate that is 1 and a slope that is 0 are within both."""
    shut = models.Recurrent("lstm", 2, 3, 1, forget_bias=200.0, rngs=nnx.Rngs(0))
    found = training.ActivityProbe(gate=1e-10)(shut, jnp.asarray(X, jnp.float32))
    assert found["saturated_forget"].tolist() == [1.0]
    dead = models.Deep(2 * T, 3, 1, depth=1, activation="relu", gain=0.0, rngs=nnx.Rngs(0))
    assert training.ActivityProbe(slope=1e-50)(dead, jnp.asarray(X, jnp.float32))["saturated"].tolist() == [1.0]


def test_a_protocol_names_every_method_that_is_asked_for():
    for protocol, methods in {"Model": {"__call__"}, "ChainModel": {"chain"}, "ReadModel": {"read"}}.items():
        owner = getattr(training, protocol)
        assert methods <= vars(owner).keys()
        assert all(vars(owner)[name].__doc__ for name in methods)
    assert dataclasses.is_dataclass(training.SpectrumProbe)


class Elsewhere(Read):
    """A network whose chain is not that of its outputs, or fails, and which does not say what its states are."""

    fails = False

    def chain(self, inputs):
        if self.fails:
            raise RuntimeError("not today")
        return js.jacobian_chain(lambda h, x: 1e30 * h + 1, jnp.ones(3, inputs.dtype), inputs, check=False)


@pytest.mark.parametrize("fails", [False, True])
def test_an_explosion_is_not_traced_through_a_chain_that_nobody_vouches_for(fails):
    model = type("Model", (Elsewhere,), {"fails": fails})()
    found = fit(model, optimizer=optax.sgd(1e200), updates=9, every=1, jump=None, success=False)
    assert found.status == "exploded"
    assert found.trace.state_log_norms is None
    assert "state" not in found.trace.where


def test_a_trace_that_fails_does_not_cost_the_training():
    members = {"fails": True, "layer_states": lambda self, h: (h,)}
    found = fit(
        type("Model", (Elsewhere,), members)(), optimizer=optax.sgd(1e200), updates=9, every=1, jump=None, success=False
    )
    assert (found.status, found.trace.kind) == ("exploded", "unknown")
    assert "the trace did not succeed" in found.trace.where


def test_a_layer_called_hidden_chain_is_no_method():
    model = Chained()
    model.hidden_chain = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    probe = training.SpectrumProbe(1)
    inputs = jnp.ones((2, 3, 2))
    np.testing.assert_array_equal(*(next(iter(probe(m, inputs).values())) for m in (model, Chained())))
