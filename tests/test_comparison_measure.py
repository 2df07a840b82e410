"""The measures of a comparison against backpropagation by hand in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jacspec import models, tasks
from jacspec.comparison.measure import LEADING, Measure, slope


def test_the_slope_of_a_line():
    t = jnp.arange(7.0)
    np.testing.assert_allclose(slope(3 - 0.25 * t), -0.25, rtol=1e-14)
    assert slope((3 - t).at[0].set(-jnp.inf)) == jnp.inf
    assert jnp.isnan(slope((3 - t).at[0].set(jnp.nan).at[1].set(-jnp.inf)))


def log_norm_slope(gs):
    logs = np.log([np.linalg.norm(g) for g in gs])
    return np.polyfit(np.arange(len(logs)), logs, 1)[0]


def leading(Js, k):
    Q, logs = np.eye(len(Js[0]), k), []
    for J in Js:
        Q, R = np.linalg.qr(J @ Q)
        logs.append(np.log(np.abs(np.diag(R))))
    return np.sort(np.mean(logs[len(Js) // 5 :], axis=0))[::-1]


def softmax_error(y, target):
    p = np.exp(y - y.max())
    return p / p.sum() - np.eye(len(y))[target]


def check_by_hand(found, passes, C):
    """`found` against the mean over sequences, each given as the last state, the step Jacobians, and the class."""
    exponents, slopes = [], []
    for h, Js, target in passes:
        gs = [C.T @ softmax_error(C @ h, target)]
        for J in Js[::-1]:
            gs.append(J.T @ gs[-1])
        exponents.append(leading(Js, LEADING))
        slopes.append(log_norm_slope(gs[::-1]))
    np.testing.assert_allclose(found["slope"], np.mean(slopes), rtol=1e-10)
    np.testing.assert_allclose(found["exponents"], np.mean(exponents, axis=0), rtol=1e-8)


def test_measures_over_time_are_those_of_backpropagation_by_hand():
    task = tasks.temporal_order(12, dtype=jnp.float64)
    model = models.Recurrent("elman", 6, 5, 4, initialization="gaussian", readout="last", dtype=float, rngs=nnx.Rngs(0))
    batch = task.evaluation(jax.random.key(0), 3)
    W, U = (np.asarray(model.cells[0][name][...]) for name in "WU")
    passes = []
    for x, target in zip(np.asarray(batch.inputs), np.asarray(batch.targets)[:, -1], strict=True):
        h, Js = np.zeros(5), []
        for drive in x:
            h = np.tanh(W @ h + U @ drive)
            Js.append((1 - h**2)[:, None] * W)
        passes.append((h, Js, target))
    check_by_hand(nnx.jit(Measure(task))(model, batch), passes, np.asarray(model.head["W"][...]))


@pytest.mark.slow
def test_measures_over_depth_are_those_of_backpropagation_by_hand():
    task = tasks.digits(dtype=float)
    model = models.Deep(64, 6, 10, depth=9, initialization="gaussian", dtype=float, rngs=nnx.Rngs(0))
    batch = task.evaluation(jax.random.key(0), 3)
    *Ws, C = (np.asarray(block["W"][...]) for block in model.blocks)
    passes = []
    for x, target in zip(np.asarray(batch.inputs), np.asarray(batch.targets)[:, -1], strict=True):
        h, Js = x.ravel(), []
        for W in Ws:
            h = np.tanh(W @ h)
            Js.append((1 - h**2)[:, None] * W)
        passes.append((h, Js[1:], target))  # between the hidden layers
    check_by_hand(nnx.jit(Measure(task))(model, batch), passes, C)


@pytest.mark.slow
def test_measures_of_batch_norm_see_the_whole_batch():
    task = tasks.digits(dtype=float)
    model = models.Deep(64, 4, 10, depth=5, normalization="batch", dtype=float, rngs=nnx.Rngs(0))
    batch = task.evaluation(jax.random.key(0), 6)
    found = nnx.jit(Measure(task))(model, batch)
    first, *hidden, head = model.layers(batch.inputs.reshape(6, 64))

    def loss(shifts):
        h = first(batch.inputs.reshape(6, 64)) + shifts[0]
        for layer, shift in zip(hidden, shifts[1:], strict=True):
            h = layer(h) + shift
        return task.loss(head(h)[:, None], jax.tree.map(lambda a: a[:, -1:], batch))

    gs = jax.grad(loss)(jnp.zeros((5, 6, 4)))
    np.testing.assert_allclose(found["slope"], log_norm_slope(gs), rtol=1e-10)
