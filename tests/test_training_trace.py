"""Explosions planted where they are known to begin, and found there: data, weights, both passes, and mere size."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jacspec import models, training
from jacspec.tasks import Batch, Task

F64 = jnp.float64
ROWS, T = 4, 5
HUGE = np.log(10.0) * 120
X = np.random.default_rng(0).normal(size=(ROWS, T, 2))


def _first_rows(data, key, count):
    return jax.tree.map(lambda a: a[:count], Batch(*data))


def known(**planted):
    """A task whose every batch is its first rows, with NaN at the places given."""
    w = np.zeros((ROWS, T))
    w[:, -1] = 1
    data = {"inputs": X.copy(), "targets": np.ones((ROWS, T, 1)), "weights": w}
    for name, at in planted.items():
        data[name][at] = np.nan
    return Task("known", T, 2, 1, "squared", 1.0, 1.0, _first_rows, data=tuple(map(jnp.asarray, data.values())))


def recurrent(rngs, depth=2):
    return models.Recurrent("elman", 2, 3, 1, depth=depth, activation="linear", readout="last", dtype=F64, rngs=rngs)


def deep(rngs):
    return models.Deep(2 * T, 3, 1, depth=4, activation="linear", dtype=F64, rngs=rngs)


def of_size(matrix, size):
    matrix[...] = size * jnp.eye(3, dtype=F64)


def silent(block, name):
    block[name][...] = jnp.zeros_like(block[name][...])


def planted_recurrent(seeds):
    """Every seed another fault: none, a NaN, a state that grows by 1e120 a step, a gradient that does."""
    models_by_seed = {seed: recurrent(nnx.Rngs(seed)) for seed in seeds}
    models_by_seed[1].cells[1]["U"][...] = models_by_seed[1].cells[1]["U"][...].at[2, 1].set(jnp.nan)
    for seed in (2, 3):
        of_size(models_by_seed[seed].cells[1]["W"], 1e120)
    silent(models_by_seed[3].cells[1], "U")
    return models_by_seed


def planted_deep(seeds):
    models_by_seed = {seed: deep(nnx.Rngs(seed)) for seed in seeds}
    models_by_seed[1].blocks[2]["b"][...] = models_by_seed[1].blocks[2]["b"][...].at[1].set(jnp.nan)
    for seed in (2, 3):
        for block in models_by_seed[seed].blocks[1:4]:
            of_size(block["W"], 1e120)
    silent(models_by_seed[3].blocks[0], "W")
    return models_by_seed


def trained(planted, task=None, optimizer=None, **options):
    """All seeds in one program."""
    waiting = iter(planted.values())
    options = {"updates": 4, "batch": ROWS, "every": 2, "held_out": ROWS, "success": False} | options
    return training.fit_seeds(
        lambda rngs: next(waiting), task or known(), optimizer or optax.sgd(1e-3), seeds=list(planted), **options
    )


def log_norms(rows):
    return np.log([np.linalg.norm(row) for row in rows])


def test_faults_of_a_recurrent_network_are_found_where_they_were_planted():
    planted = planted_recurrent(range(4))
    clean, weight, forward, backward = trained(planted)
    assert [one.status for one in (clean, weight, forward, backward)] == ["finished"] + 3 * ["exploded"]
    assert (clean.updates, weight.updates, clean.trace) == (4, 0, None)
    assert clean.history["update"].tolist() == [0, 2, 4]
    assert weight.history["update"].tolist() == [0, 0]  # before the first dispatch, and after it

    found = weight.trace
    assert (found.kind, found.parameter, found.index) == ("parameter", "cells[1].U", (2, 1))
    assert str(found) == "update 0, parameter: cells[1].U[2, 1] is nan"

    # h_t = W h_{t-1} + ..., with W = 1e120 in the upper layer: the state goes 1, 1e120, 1e240, and then is infinite
    found = forward.trace
    assert (found.kind, found.row, found.step, found.layer) == ("forward", 0, 3, 1)
    np.testing.assert_allclose(np.diff(found.state_log_norms)[2:3], HUGE, rtol=1e-12)  # h_1 is half the lower layer
    assert np.isnan(found.state_log_norms[4:]).all()
    np.testing.assert_allclose(np.diff(found.gradient_log_norms)[1:], -HUGE, rtol=1e-12)
    assert "row 0, step 3, layer 1" in str(found)
    assert "log ||h|| went from" in str(found)

    # nothing comes in, so that h = 0, and the gradient grows by 1e120 a step on the way back: h_5, h_4, h_3 are finite
    found = backward.trace
    assert (found.kind, found.row, found.step, found.layer) == ("backward", 0, 2, 1)
    np.testing.assert_allclose(np.diff(found.gradient_log_norms), -HUGE, rtol=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(backward.model)))


@pytest.mark.slow
def test_faults_of_a_deep_network_are_found_where_they_were_planted():
    clean, weight, forward, backward = trained(planted_deep(range(4)))
    assert [one.status for one in (clean, weight, forward, backward)] == ["finished"] + 3 * ["exploded"]
    found = weight.trace
    assert (found.kind, found.parameter, found.index) == ("parameter", "blocks[2].b", (1,))

    # blocks 1, 2 and 3 multiply by 1e120: the state is infinite after block 3, the gradient on the way back after block 1
    found = forward.trace
    assert (found.kind, found.row, found.step, found.layer) == ("forward", 0, None, 3)
    np.testing.assert_allclose(np.diff(found.state_log_norms)[1:3], HUGE, rtol=1e-12)
    assert np.isnan(found.state_log_norms[4:]).all()
    found = backward.trace
    assert (found.kind, found.row, found.step, found.layer) == ("backward", 0, None, 1)
    np.testing.assert_allclose(np.diff(found.gradient_log_norms)[1:4], -HUGE, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "name", "at"),
    [
        (recurrent, "inputs", (2, 3, 1)),
        *(
            pytest.param(deep, *spoilt, marks=pytest.mark.slow)
            for spoilt in (("inputs", (1, 0, 0)), ("targets", (3, 4, 0)))
        ),
    ],
)
def test_a_spoilt_number_of_the_data_is_named(make, name, at):
    (found,) = trained({0: make(nnx.Rngs(0))}, known(**{name: at}), updates=2)
    assert (found.status, found.updates) == ("exploded", 0)
    trace = found.trace
    assert (trace.kind, trace.row, trace.step, trace.feature) == ("data", *at)
    row, step, feature = at
    assert str(trace) == f"update 0, data: row {row}, step {step}, feature {feature} of the {name} is nan"


def test_a_jump_is_traced_to_where_the_gradient_grows_most():
    (found,) = trained({0: recurrent(nnx.Rngs(0), depth=1)}, optimizer=optax.sgd(3.0), updates=9)
    assert (found.status, found.trace.kind) == ("exploded", "jump")
    assert found.updates == found.trace.update >= 1
    assert np.isfinite(found.loss)

    cell, head = found.model.cells[0], found.model.head
    W, U, b, C, c = (np.asarray(p[...]) for p in (cell["W"], cell["U"], cell["b"], head["W"], head["b"]))
    hs = [np.zeros((ROWS, 3))]
    for t in range(T):
        hs.append(hs[-1] @ W.T + X[:, t] @ U.T + b)
    error = hs[-1] @ C.T + c - 1
    row = int(np.argmax(error[:, 0] ** 2))
    g = [2 / ROWS * error[row] @ C]
    for _ in range(T):
        g.insert(0, g[0] @ W)
    logs = log_norms(g)
    np.testing.assert_allclose(found.trace.gradient_log_norms, logs, rtol=1e-12)
    np.testing.assert_allclose(found.trace.state_log_norms[1:], log_norms([h[row] for h in hs[1:]]), rtol=1e-12)
    assert (found.trace.row, found.trace.step) == (row, int(np.argmax(logs[:-1] - logs[1:])))
    assert np.mean(error**2) > 100 * 1.0  # the task's baseline


class Own(nnx.Module):
    """A user's own module: f(inputs, w)."""

    def __init__(self, f):
        self.w, self.f = nnx.Param(jnp.ones(2, F64)), f

    def __call__(self, x):
        return self.f(x, self.w[...])


class Moving(Own):
    """One with a running statistic."""

    def __init__(self, f):
        super().__init__(f)
        self.seen = nnx.BatchStat(jnp.ones((), F64))

    def __call__(self, x):
        self.seen[...] = self.seen[...] * 1e300 * 1e300
        return super().__call__(x)


def grows(x, w):
    def step(h, x):
        h = 1e120 * h + x @ w  # here
        return h, h

    hs = jax.lax.scan(step, jnp.zeros(len(x)), jnp.swapaxes(x, 0, 1))[1]
    return jnp.swapaxes(hs, 0, 1)[..., None]


def grows_backwards(x, w):
    return sine(x, w) + jnp.sin(1e200 * jnp.sin(1e200 * (w[0] - w[1])))  # here


def sine(x, w):
    return jnp.sin(x @ w)[..., None]


def root(x, w):
    return jnp.sqrt(jnp.abs(x @ w))[..., None]  # here


def hidden(x, w):
    y = x @ w
    return jnp.where(y > 3, jnp.sqrt(y - 3), 0.0)[..., None]  # here


def undefined(x, w):
    y = x @ w
    return (y / jnp.abs(y))[..., None]  # here


def single(x, w):
    return (x.astype(jnp.float32) @ w.astype(jnp.float32))[..., None]  # here


def of_rows(data):
    """The task of these inputs."""
    w = np.zeros((ROWS, T))
    w[:, -1] = 1
    given = tuple(map(jnp.asarray, (data, np.ones((ROWS, T, 1)), w)))
    return Task("given", T, 2, 1, "squared", 1.0, 1.0, _first_rows, data=given)


SILENT = X.copy()
SILENT[2, -1] = 0
CALM = np.abs(X) + 3
CALM[1] *= -1
OWN = {
    # name: (model, data, options, kind, row, operation, cause, function of the line)
    "overflow of a state": (Own(grows), X, {}, "forward", 0, "mul", "overflow", grows),
    "overflow of a gradient": (Own(grows_backwards), X, {}, "backward", None, "mul", "overflow", grows_backwards),
    "a derivative that does not exist": (Own(root), SILENT, {}, "derivative", 2, "div", "pole", root),
    "what where hides": (Own(hidden), CALM, {}, "derivative", 1, "sqrt", "undefined", hidden),
    "0/0 on the way forward": (Own(undefined), SILENT, {}, "forward", 2, "div", "undefined", undefined),
    "a cast inside": (Own(single), X * 1e39, {}, "forward", None, "convert_element_type", "cast", single),
    "a statistic": (Moving(sine), X, {}, "forward", None, "mul", "overflow", Moving.__call__),
    "regularizer": (Own(sine), X, {"regularizer": lambda m, b: jnp.log(m.w[...].sum() - 2)}, "regularizer", None, "log", "pole", None),
    "its derivative": (Own(sine), X, {"regularizer": lambda m, b: jnp.sqrt(m.w[...].sum() - 2)}, "regularizer", None, "div", "pole", None),
    "optimizer": (Own(sine), X, {"optimizer": optax.chain(optax.scale(1e200), optax.scale(1e200))}, "optimizer", None, "mul", "overflow", None),
    "its constant": (Own(sine), X, {"optimizer": optax.scale(np.inf)}, "optimizer", None, "mul", "constant", None),
    "its state": (Own(lambda x, w: sine(1e170 * x, w - 1)), X, {"optimizer": optax.adam(1e-3), "jump": None}, "optimizer", None, "integer_pow", "overflow", None),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_the_trace_of_a_users_module_names_cause_and_line(name):
    model, data, options, kind, row, operation, cause, source = OWN[name]
    (found,) = trained({0: model}, of_rows(data), **options, updates=2)
    trace = found.trace
    assert (found.status, found.updates, trace.kind) == ("exploded", 0, kind), trace
    assert (trace.operation.operation, trace.operation.cause) == (operation, cause), trace
    if row is not None:
        assert trace.row == row
    if source is not None:
        lines, start = inspect.getsourcelines(source)
        here = [start + i for i, text in enumerate(lines) if "# here" in text] or [start + 1]
        assert any(f"test_training_trace.py:{line} (" in trace.operation.where for line in here), trace
    assert str(trace.operation) in str(trace)


def test_inputs_that_the_dtype_of_the_model_does_not_hold_are_data():
    """Found before the first update where the first batch holds one; else where it comes."""

    def late(data, key, count):
        batch = _first_rows(data, key, count)
        return batch._replace(inputs=batch.inputs.at[1, 2, 0].mul(jnp.where(jax.random.uniform(key) > 0.9, 1e39, 1)))

    task = dataclasses.replace(of_rows(np.abs(X)), draw=late, draw_held_out=_first_rows)
    model = models.Recurrent("elman", 2, 3, 1, readout="last", activation="linear", rngs=nnx.Rngs(0))
    (found,) = trained({0: model}, task, updates=60)
    assert found.updates > 0
    assert (found.trace.kind, found.trace.row, found.trace.step, found.trace.feature) == ("data", 1, 2, 0)
    assert str(found.trace).endswith("beyond float32, the dtype of the model")
    assert "e+3" in str(found.trace)


def test_a_loss_of_zero_is_no_reference_for_a_jump():
    """Where the median of the losses and the baseline are 0, nothing is to be compared with."""
    task = dataclasses.replace(of_rows(X), baseline=0.0)
    exact = jax.tree.map(jnp.copy, task.data)
    task = dataclasses.replace(task, data=(exact[0], jnp.zeros_like(exact[1]), exact[2]))
    (found,) = trained(
        {0: Own(lambda x, w: (x @ (w - 1))[..., None])}, task, optimizer=optax.noisy_sgd(1e-9, key=0), updates=3
    )
    assert (found.status, found.updates) == ("finished", 3)
    assert found.loss > 0


def test_the_row_that_fails_first_is_named():
    """h_t = 1e120 h_{t-1} + U x_t fails three steps after the first input that is not 0."""
    data = np.zeros((ROWS, T, 2))
    for row, start in enumerate((2, 1, 0, 2)):
        data[row, start] = 1
    model = recurrent(nnx.Rngs(0), depth=1)
    of_size(model.cells[0]["W"], 1e120)
    (found,) = trained({0: model}, of_rows(data), updates=2)
    assert (found.trace.kind, found.trace.row, found.trace.step, found.trace.layer) == ("forward", 2, 3, 0)
    assert found.trace.operation.cause == "overflow"
    assert found.trace.operation.loops == (3,)
