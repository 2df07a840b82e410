"""Probes and readings against NumPy: dense Jacobians, their QR and SVD, gradients, slopes and gates written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import special

from jacspec import models, tasks, training
from jacspec.tasks import Batch, Task
from jacspec.training import reading

F64 = jnp.float64
ROWS, T, M = 3, 6, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, T, M))


def known(weights=None, outputs=1):
    w = np.zeros((ROWS, T)) if weights is None else weights
    w[:, -1] = 1
    data = Batch(jnp.asarray(X), jnp.asarray(RNG.normal(size=(ROWS, T, outputs))), jnp.asarray(w))
    draw = lambda data, key, count: jax.tree.map(lambda a: a[:count], data)
    return Task("known", T, M, outputs, "squared", 1.0, 1.0, draw, data=data), data


def recurrent(cell="elman", readout="last", **options):
    return models.Recurrent(cell, M, 4, 1, readout=readout, dtype=F64, **options, rngs=nnx.Rngs(0))


def deep(**options):
    return models.Deep(T * M, 4, 1, depth=3, dtype=F64, **options, rngs=nnx.Rngs(0))


def asked(probe, model, batch):
    return jax.jit(probe)(model, batch)


def elman_states(model):
    """Pre-activations and states of all rows, (T, rows, n) each."""
    W, U = (np.asarray(model.cells[0][name][...]) for name in "WU")
    h, a = [np.zeros((ROWS, 4))], []
    for t in range(T):
        a.append(h[-1] @ W.T + X[:, t] @ U.T)
        h.append(np.tanh(a[-1]))
    return W, np.asarray(a), np.asarray(h)


def deep_slopes(model, f, slope):
    h, out = X.reshape(ROWS, -1), []
    for block in model.blocks[:-1]:
        a = h @ np.asarray(block["W"][...]).T
        h = f(a)
        out.append(slope(a))
    return out


def test_spectra_over_time_are_those_of_dense_jacobians():
    model, (_, batch) = recurrent(gain=1.5), known()
    W, a, _ = elman_states(model)
    exponents, singular = [], []
    for row in range(2):
        J = (1 / np.cosh(a[:, row]) ** 2)[:, :, None] * W
        Q, logs = np.eye(4), 0
        for t in range(T):
            Q, R = np.linalg.qr(J[t] @ Q)
            logs = logs + np.log(np.abs(np.diag(R)))
        exponents.append(np.sort(logs / T)[::-1][:4])
        singular.append(np.log(np.linalg.svd(np.linalg.multi_dot(J[::-1]), compute_uv=False)))
    found = asked(training.SpectrumProbe(4, examples=2, quantity="both"), model, batch)
    np.testing.assert_allclose(found["lyapunov_exponents"], np.mean(exponents, axis=0), atol=1e-10)
    np.testing.assert_allclose(found["log_singular_values"], np.mean(singular, axis=0), atol=1e-8)


def test_the_spectrum_over_depth_leaves_out_both_ends():
    model, (_, batch) = deep(), known()
    slopes = deep_slopes(model, np.tanh, lambda a: 1 / np.cosh(a) ** 2)
    W = [np.asarray(block["W"][...]) for block in model.blocks]
    logs = [
        np.log(np.linalg.svd((slopes[2][row][:, None] * W[2]) @ (slopes[1][row][:, None] * W[1]), compute_uv=False)[:2])
        for row in range(ROWS)
    ]
    found = asked(training.SpectrumProbe(2, examples=ROWS), model, batch)
    assert list(found) == ["log_singular_values"]
    np.testing.assert_allclose(found["log_singular_values"], np.mean(logs, axis=0), atol=1e-10)


@pytest.mark.parametrize(("cell", "depth"), [("lstm", 2), pytest.param("lru", 1, marks=pytest.mark.slow)])
def test_gradient_norms_are_those_of_the_loss(cell, depth):
    """By autodiff: a number added to the state at every time, all of them zero."""
    weights = RNG.uniform(size=(ROWS, T))
    task, batch = known(weights)
    model = recurrent(cell, "every", depth=depth)
    step, start, read = model.step, model.initial_state(), model.read

    def loss(added):
        def outputs(x, added):
            h, ys = jax.tree.map(jnp.add, start, jax.tree.map(lambda d: d[0], added)), []
            for t in range(T):
                h = jax.tree.map(lambda h, d, t=t: h + d[t + 1], step(h, x[t]), added)
                ys.append(read(h))
            return jnp.stack(ys)

        return task.loss(jax.vmap(outputs)(batch.inputs, added), batch)

    zero = jax.tree.map(lambda h: jnp.zeros((ROWS, T + 1, *h.shape)), start)
    np.testing.assert_allclose(jax.jit(loss)(zero), reading.loss(model, task, batch), rtol=1e-12)
    g = jax.tree.leaves(jax.jit(jax.grad(loss))(zero))
    norms = np.sqrt(sum(np.sum(np.asarray(leaf) ** 2, axis=-1) for leaf in g))
    found = asked(training.GradientProbe(task, examples=2), model, batch)
    np.testing.assert_allclose(found["log_gradient_norms"], np.log(norms)[:2].mean(axis=0), atol=1e-10)


def test_gradient_norms_over_depth_end_at_the_input():
    task, batch = known()
    model = deep(activation="linear")
    found = asked(training.GradientProbe(task, examples=ROWS), model, batch)["log_gradient_norms"]
    W = [np.asarray(block["W"][...]) for block in model.blocks]
    h = X.reshape(ROWS, -1) @ np.linalg.multi_dot(W[::-1]).T
    g, logs = 2 / ROWS * (h - np.asarray(batch.targets[:, -1])), []
    for w in (np.eye(1), *W[::-1]):
        g = g @ w
        logs.insert(0, np.log(np.linalg.norm(g, axis=1)).mean())
    np.testing.assert_allclose(found, logs, atol=1e-12)


def test_saturated_and_dead_units_are_counted():
    model, (_, batch) = recurrent(gain=3.0, input_gain=3.0), known()
    _, a, _ = elman_states(model)
    slope = 1 / np.cosh(a) ** 2
    found = asked(training.ActivityProbe(slope=0.1, examples=ROWS), model, batch)
    assert 0.05 < (slope < 0.1).mean() < 0.95
    np.testing.assert_allclose(found["saturated"], [(slope < 0.1).mean()], rtol=1e-12)
    assert found["dead"].tolist() == [0]

    model = deep(activation="relu", bias_variance=0.0)
    for block, off in zip(model.blocks[:-1], (1, 2, 0), strict=True):
        block["b"][...] = jnp.where(jnp.arange(4) < off, -1e3, 0.0)
    found = asked(training.ActivityProbe(examples=ROWS), model, batch)
    h, alive = X.reshape(ROWS, -1), []
    for block in model.blocks[:-1]:
        a = h @ np.asarray(block["W"][...]).T + np.asarray(block["b"][...])
        h = np.maximum(a, 0)
        alive.append(a > 0)
    np.testing.assert_allclose(found["dead"], [(~on.any(axis=0)).mean() for on in alive], rtol=1e-12)
    np.testing.assert_allclose(found["saturated"], [(~on).mean() for on in alive], rtol=1e-12)
    assert found["dead"][0] >= 0.25


def test_units_that_batch_normalization_ties_together_are_counted_one_by_one():
    model, (_, batch) = deep(normalization="batch", activation="relu"), known()
    h, alive = X.reshape(ROWS, -1), []
    for block in model.blocks[:-1]:
        a = h @ np.asarray(block["W"][...]).T
        a = (a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + 1e-5)
        h = np.maximum(a, 0)
        alive.append(a > 0)
    found = asked(training.ActivityProbe(), model, batch)
    np.testing.assert_allclose(found["saturated"], [(~on).mean() for on in alive], rtol=1e-12)
    np.testing.assert_allclose(found["dead"], 0)


def test_gates_of_every_layer_are_averaged():
    model, (_, batch) = recurrent("lstm", depth=2, forget_bias=2.0), known()
    x, means, closed = X, [], []
    for p in model.cells:
        W, U, b = (np.asarray(p[name][...]) for name in "WUb")
        h, c, shown, forget = np.zeros((ROWS, 4)), np.zeros((ROWS, 4)), [], []
        for t in range(T):
            i, f, g, o = (h @ W[k].T + x[:, t] @ U[k].T + b[k] for k in range(4))
            c = special.expit(f) * c + special.expit(i) * np.tanh(g)
            h = special.expit(o) * np.tanh(c)
            shown.append(h)
            forget.append(special.expit(f))
        x = np.stack(shown, axis=1)
        means.append(np.mean(forget))
        closed.append(np.mean(np.asarray(forget) > 0.9))
    found = asked(training.ActivityProbe(gate=0.1, examples=ROWS), model, batch)
    np.testing.assert_allclose(found["gate_forget"], means, rtol=1e-12)
    np.testing.assert_allclose(found["saturated_forget"], closed, rtol=1e-12)
    assert sorted(found) == sorted(
        f"{kind}_{gate}" for kind in ("gate", "saturated") for gate in ("input", "forget", "output")
    )


def test_every_kind_of_model_reads_the_sequences_of_a_task():
    every = recurrent(readout="every")
    y = reading.outputs(every, jnp.asarray(X))
    np.testing.assert_allclose(reading.outputs(recurrent(), jnp.asarray(X)), y[:, -1:], rtol=1e-12)
    assert reading.outputs(deep(), jnp.asarray(X)).shape == (ROWS, 1, 1)
    image = models.Convolutional(1, 2, 3, depth=1, dtype=F64, rngs=nnx.Rngs(0))
    line = models.Convolutional(M, 2, 3, depth=1, kernel_size=(3,), dtype=F64, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(reading.outputs(image, jnp.asarray(X))[:, 0], image(jnp.asarray(X)[..., None]))
    np.testing.assert_array_equal(reading.outputs(line, jnp.asarray(X))[:, 0], line(jnp.asarray(X)))


def test_probes_are_asked_at_every_record():
    task, batch = known()
    model = deep(activation="relu")
    probe = training.ActivityProbe(examples=ROWS)
    options = {"updates": 2, "batch": ROWS, "every": 1, "held_out": ROWS, "success": False}
    own = lambda model, batch: {"corner": model.blocks[0]["W"][0, 0], "rows": jnp.asarray(len(batch.inputs))}
    found = training.fit(model, task, optax.sgd(0.1), probes=[probe, own], **options)
    assert found.history["saturated"].shape == (3, 3)
    np.testing.assert_allclose(found.history["saturated"][0], probe(model, batch)["saturated"], rtol=1e-12)
    np.testing.assert_allclose(found.history["saturated"][-1], probe(found.model, batch)["saturated"], rtol=1e-12)
    assert found.history["corner"][0] == model.blocks[0]["W"][0, 0] != found.history["corner"][1]
    assert found.history["rows"].tolist() == [ROWS] * 3


@pytest.mark.parametrize(
    ("make", "kind", "pattern"),
    [
        (lambda: training.SpectrumProbe(0), ValueError, "'k'"),
        (lambda: training.SpectrumProbe(quantity="lyapunov"), ValueError, "Did you mean 'lyapunov_exponents'"),
        (lambda: training.SpectrumProbe(2.0), TypeError, "'k'"),  # pyright: ignore[reportArgumentType]
        (lambda: training.GradientProbe("adding"), TypeError, "'task'"),  # pyright: ignore[reportArgumentType]
        (lambda: training.GradientProbe(tasks.delayed_copy(3, lag=1), examples=0), ValueError, "'examples'"),
        (lambda: training.ActivityProbe(gate=1.0), ValueError, "'gate'"),
    ],
)
def test_bad_probes_are_refused(make, kind, pattern):
    with pytest.raises(kind, match=pattern):
        make()
