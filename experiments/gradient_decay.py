"""How the gradient of a real loss decays with the lag in recurrent networks that read handwritten digits.

scikit-learn's digits, 8 x 8 pixels, enter row by row (T = 8 steps of 8 numbers) or pixel by pixel (T = 64 steps of
one). A linear readout of the last state and the cross-entropy give dE/dh_T on held-out digits; from there jacspec takes
the gradient back through time, before and after training with Adam and clipping by the global norm.

A model is {"cell": a jacspec cell, "V": (10, n), "c": (10,)}, with logits V h_T + c. Recurrent weights are orthogonal
(each gate by itself), input weights and readout normal of variance 1 / n_in, biases 0 but for the LSTM's forget bias.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import experiments
import jacspec as js
from experiments import _spectra
from experiments._known import known
from jacspec import initializers

CONFIG = {
    "seed": 0,
    "cells": ["tanh", "relu", "sigmoid", "LSTM 0", "LSTM 1", "LSTM 3", "GRU"],
    "units": 32,
    "train_digits": 1347,
    "batch": 64,
    "learning_rate": 5e-3,
    "clip": 1.0,
    "row_updates": 800,
    "pixel_updates": 800,
    "examples": 64,
    "spectrum_examples": 64,
    "pixel_lags": [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64],
}
FULL = {"row_updates": 3000, "pixel_updates": 10_000, "examples": 256, "spectrum_examples": 128}
TINY = {
    "cells": ["tanh", "LSTM 0", "LSTM 3"],
    "units": 4,
    "batch": 4,
    "row_updates": 2,
    "pixel_updates": 2,
    "examples": 3,
    "spectrum_examples": 2,
    "pixel_lags": [1, 32, 64],
}
MAY_BE_NAN = ("_bound", "_smallest")
"""Gated cells have no such bound; the smallest values may lie below the precision."""

STATES = ("initial", "trained")
MAX_SLOPE = {"linear": 1.0, "tanh": 1.0, "relu": 1.0, "sigmoid": 0.25}


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Arrays named `row_*` and `pixel_*`, with axes (cell, state: initial or trained, ...)."""
    tasks = [(task, name) for task in ("row", "pixel") for name in config["cells"]]
    data = {task: digits(config, task) for task in ("row", "pixel")}
    rows = {}
    with threadpool_limits(1):  # matrices this small are factored fastest by one thread
        for done, (task, name) in enumerate(tasks):
            progress(f"{task} by {task}: {name}", done, len(tasks))
            rows[task, name] = one_cell(config, task, name, data[task])
    progress("done", len(tasks), len(tasks))
    return {
        f"{task}_{key}": np.stack([rows[task, name][key] for name in config["cells"]])
        for task in ("row", "pixel")
        for key in rows[task, config["cells"][0]]
    }


def digits(config: dict[str, Any], task: str) -> tuple[jax.Array, ...]:
    """Training and held-out sequences (count, T, m) in [0, 1] and their labels, by one fixed split."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(config["seed"]).permutation(len(labels))
    xs = jnp.asarray(images[order] / 16).reshape(len(labels), *((8, 8) if task == "row" else (64, 1)))
    ys, split = jnp.asarray(labels[order]), config["train_digits"]
    return xs[:split], ys[:split], xs[split:], ys[split:]


def make(name: str, n: int, m: int, key: Any) -> dict[str, Any]:
    """A model by the name of its cell; "LSTM 3" is an LSTM of forget bias 3."""
    keys = jax.random.split(key, 3)
    kind, _, bias = name.partition(" ")
    gates = {"LSTM": 4, "GRU": 3}.get(kind)
    lead = () if gates is None else (gates,)
    W = initializers.orthogonal(keys[0], n, jnp.float64, gates=gates)
    U = initializers.gaussian(keys[1], (*lead, n, m), jnp.float64)
    b = jnp.zeros((*lead, n))
    if kind == "LSTM":
        cell = js.cells.LSTM(W, U, b.at[1].set(float(bias)))
    else:
        cell = js.cells.GRU(W, U, b) if kind == "GRU" else js.cells.Elman(W, U, b, activation=kind)
    return {"cell": cell, "V": initializers.gaussian(keys[2], (10, n), jnp.float64), "c": jnp.zeros(10)}


def start(cell: Any) -> Any:
    """The state before the first input: zeros, (c, h) for an LSTM."""
    zero = jnp.zeros(cell.W.shape[-1])
    return (zero, zero) if isinstance(cell, js.cells.LSTM) else zero


def logits(model: dict[str, Any], state: Any) -> jax.Array:
    """V h + c."""
    return model["V"] @ (state[1] if isinstance(state, tuple) else state) + model["c"]


def loss_at(model: dict[str, Any], state: Any, label: Any) -> jax.Array:
    """Cross-entropy of the readout of one state, nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(model, state), label)


def last_state(model: dict[str, Any], xs: jax.Array) -> Any:
    """h_T of one sequence."""
    return jax.lax.scan(lambda h, x: (model["cell"](h, x), None), start(model["cell"]), xs)[0]


def mean_loss(model: dict[str, Any], xs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy over sequences."""
    return jnp.mean(jax.vmap(lambda x, y: loss_at(model, last_state(model, x), y))(xs, labels))


@jax.jit
def accuracy(model: dict[str, Any], xs: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of sequences whose largest logit is that of the label."""
    return jnp.mean(jax.vmap(lambda x: jnp.argmax(logits(model, last_state(model, x))))(xs) == labels)


@functools.partial(jax.jit, static_argnames=("rate", "clip"))
def train(model: Any, xs: jax.Array, labels: jax.Array, batches: jax.Array, rate: float, clip: float) -> Any:
    """One update of Adam, after clipping by the global norm, for every row of `batches`."""
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate))

    def update(carry, batch):
        model, memory = carry
        gradient = jax.grad(mean_loss)(model, xs[batch], labels[batch])
        change, memory = optimizer.update(gradient, memory, model)
        return (optax.apply_updates(model, change), memory), None

    return jax.lax.scan(update, (model, optimizer.init(model)), batches)[0][0]


@jax.jit
def gradients(model: dict[str, Any], xs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of one digit: log norms of dE/dh_t, t = 0..T, and of the summands of dE/dW by the time that W acted, 1..T."""
    cell, h0 = model["cell"], start(model["cell"])

    def one(x, y):
        chain = js.jacobian_chain(cell, h0, x, check=False)
        cotangent = jax.grad(loss_at, argnums=1)(model, jax.tree.map(lambda s: s[-1], chain.states), y)
        by_lag = known(js.parameter_gradient_by_lag(cell, h0, x, cotangent, check=False))
        return js.log_gradient_norms(chain, cotangent), by_lag.by_parameter.W

    return jax.vmap(one)(xs, labels)


@jax.jit
def sum_error(model: dict[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
    """Relative difference between the sum of the summands by lag and jax.grad of the loss, over all parameters."""
    cell, h0 = model["cell"], start(model["cell"])
    cotangent = jax.grad(loss_at, argnums=1)(model, last_state(model, x), y)
    parts = known(js.parameter_gradient_by_lag(cell, h0, x, cotangent, terms=True, check=False))
    total = jax.tree.map(lambda term: jnp.einsum("t...,t->...", term, jnp.exp(parts.log_norms)), parts.terms)
    exact = jax.grad(lambda cell: loss_at(model, last_state(model | {"cell": cell}, x), y))(cell)
    return optax.tree.norm(jax.tree.map(jnp.subtract, total, exact)) / optax.tree.norm(exact)


def step_bound(cell: Any) -> float:
    """ln(gamma sigma_max(W)), which no Elman step exceeds; NaN for gated cells, which have no such bound."""
    if not isinstance(cell, js.cells.Elman):
        return np.nan
    return float(np.log(MAX_SLOPE[cell.f.name]) + np.log(np.linalg.norm(np.asarray(cell.W), 2)))


def one_cell(config: dict[str, Any], task: str, name: str, data: tuple[jax.Array, ...]) -> dict[str, np.ndarray]:
    """Train one model and measure it before and after; arrays with a leading axis (initial, trained)."""
    train_x, train_y, test_x, test_y = data
    key, batch_key = jax.random.split(jax.random.key(config["seed"]))
    initial = make(name, config["units"], train_x.shape[-1], key)
    shape = (config[f"{task}_updates"], config["batch"])
    batches = jax.random.randint(batch_key, shape, 0, train_x.shape[0])
    trained = train(initial, train_x, train_y, batches, config["learning_rate"], config["clip"])
    rows = [measure(config, task, model, test_x, test_y) for model in (initial, trained)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def measure(config: dict[str, Any], task: str, model: Any, xs: jax.Array, ys: jax.Array) -> dict[str, np.ndarray]:
    """Everything the figure shows of one model, by lag; the spectra for pixels only."""
    many = slice(config["examples"])
    norms, terms = (np.asarray(a)[:, ::-1] for a in gradients(model, xs[many], ys[many]))
    found = {
        "accuracy": np.asarray(accuracy(model, xs, ys)),
        "norms": norms,
        "terms": terms,
        "bound": np.asarray(step_bound(model["cell"])),
    }
    if task == "row":
        return found
    cell, few = model["cell"], xs[: config["spectrum_examples"]]
    Js = js.batched(js.JacobianChain.dense, cell, start(cell), few, in_axes=(None, 0))
    spectra = _spectra.from_the_end(Js, tuple(config["pixel_lags"]))
    values = np.asarray(known(spectra).log_singular_values)
    return found | {
        "largest": values[..., 0],
        "smallest": values[..., -1],
        "sum_error": np.asarray(sum_error(model, xs[0], ys[0])),
    }


def main() -> None:
    """Run it alone: ``python -m experiments.gradient_decay``."""
    experiments.alone("gradient_decay")


if __name__ == "__main__":
    main()
