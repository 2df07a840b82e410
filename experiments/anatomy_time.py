"""One recurrent network from all sides, before and after it learns: tanh RNN, LSTM and GRU that recall a bit.

The input is Gaussian noise of `CHANNELS` channels; the sign of the first, `lag` steps ago, is asked for at every step.
Recurrent weights are Gaussian of variance g^2 / n, and U x_t has variance v, so that theory has no free parameter.
Measured on fresh sequences, for the loss at the last step: every log singular value of J_T ... J_1, the gradient by lag,
and what of a backward step is due to gates that keep, to slopes and gates, and to weights.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from threadpoolctl import threadpool_limits

import experiments
import jacspec as js
from experiments import _spectra
from experiments._known import known
from jacspec import initializers, tasks
from jacspec.theory import recurrent

CONFIG = {
    "seed": 0,
    "cells": ["tanh RNN", "LSTM", "GRU"],
    "width": 48,
    "gain": 1.0,
    "input_variance": 0.1,
    "length": 40,
    "lag": 8,
    "updates": 1500,
    "batch": 16,
    "learning_rate": 3e-3,
    "clip": 1.0,
    "examples": 64,
    "spectrum_examples": 6,
    "lags": [1, 2, 4, 8, 12, 16, 24, 32, 40],
}
FULL = {"width": 200, "updates": 3000, "learning_rate": 7e-4, "examples": 256, "spectrum_examples": 16}
TINY = {"width": 4, "length": 6, "lag": 2, "updates": 2, "batch": 2, "examples": 3, "spectrum_examples": 2,
        "lags": [1, 3, 6]}  # fmt: skip

CHANNELS = 8
GATES = {"tanh RNN": 1, "LSTM": 4, "GRU": 3}
PARTS = ("kept", "slopes", "weights", "total")


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Arrays by cell ("tanh_", "lstm_", "gru_") and quantity; the first axis is before and after training."""
    arrays: dict[str, Any] = {}
    with threadpool_limits(1):  # matrices this small are factored fastest by one thread
        for done, name in enumerate(config["cells"]):
            progress(name, done, len(config["cells"]))
            key = jax.random.fold_in(jax.random.key(config["seed"]), done)
            arrays |= {f"{name.split()[0].lower()}_{k}": np.asarray(v) for k, v in one_cell(config, name, key).items()}
    progress("done", len(config["cells"]), len(config["cells"]))
    return arrays


def one_cell(config: dict[str, Any], name: str, key: Any) -> dict[str, Any]:
    """Train one network, and look at it before and after."""
    at_model, at_data, at_test = jax.random.split(key, 3)
    initial = make(config, name, at_model)
    trained = train(
        initial, at_data, *(config[k] for k in ("length", "lag", "batch", "updates", "learning_rate", "clip"))
    )
    bits, answers = sequences(at_test, config["examples"], config["length"], config["lag"])
    rows = [measure(config, model, bits, answers) for model in (initial, trained)]
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]} | {"law": theory(config, name)}


def sequences(key: Any, count: int, length: int, lag: int) -> tuple[jax.Array, jax.Array]:
    """Inputs (count, T, m) and the bits asked for, (count, T)."""
    at_bits, at_noise = jax.random.split(key)
    drawn = tasks.delayed_copy(length, lag=lag, dtype=jnp.float64).sample(at_bits, count)
    noise = jax.random.normal(at_noise, (count, length, CHANNELS), jnp.float64)
    return noise.at[..., 0].set((2 * drawn.inputs[..., 0] - 1) * jnp.abs(noise[..., 0])), drawn.targets[..., 0]


def make(config: dict[str, Any], name: str, key: Any) -> dict[str, Any]:
    """A cell and its readout {"cell", "V", "c"}, all biases 0."""
    n, gates = config["width"], GATES[name]
    at_W, at_U, at_V = jax.random.split(key, 3)
    W = config["gain"] * initializers.gaussian(at_W, (gates, n, n), jnp.float64)
    U = np.sqrt(config["input_variance"]) * initializers.gaussian(at_U, (gates, n, CHANNELS), jnp.float64)
    b = jnp.zeros((gates, n))
    if gates == 1:
        cell = js.cells.Elman(W[0], U[0], b[0], activation="tanh")
    else:
        cell = (js.cells.LSTM if name == "LSTM" else js.cells.GRU)(W, U, b)
    return {"cell": cell, "V": initializers.gaussian(at_V, (1, n), jnp.float64)[0], "c": jnp.zeros(())}


def start(cell: Any) -> Any:
    """The state before the first input: zeros, (c, h) for an LSTM."""
    zero = jnp.zeros(cell.W.shape[-1])
    return (zero, zero) if isinstance(cell, js.cells.LSTM) else zero


def logit(model: dict[str, Any], state: Any) -> jax.Array:
    """That of b = 1, from h."""
    return model["V"] @ (state[1] if isinstance(state, tuple) else state) + model["c"]


def logits(model: dict[str, Any], bits: jax.Array) -> jax.Array:
    """(T,), of one sequence."""

    def step(state, x):
        state = model["cell"](state, x)
        return state, logit(model, state)

    return jax.lax.scan(step, start(model["cell"]), bits)[1]


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6, 7))
def train(model: Any, key: Any, length: int, lag: int, batch: int, updates: int, rate: float, clip: float) -> Any:
    """Adam after clipping by the global norm, on fresh sequences at every update."""
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate))

    def loss(model, key):
        bits, answers = sequences(key, batch, length, lag)
        errors = optax.sigmoid_binary_cross_entropy(jax.vmap(logits, in_axes=(None, 0))(model, bits), answers)
        return jnp.mean(errors[:, lag:])

    def update(carry, key):
        model, memory = carry
        change, memory = optimizer.update(jax.grad(loss)(model, key), memory, model)
        return (optax.apply_updates(model, change), memory), None

    return jax.lax.scan(update, (model, optimizer.init(model)), jax.random.split(key, updates))[0][0]


@jax.jit
def backward(model: dict[str, Any], bits: jax.Array, answer: jax.Array) -> dict[str, jax.Array]:
    """Of one sequence: ln ||dE_T/dh_t||, t = 0..T, the mean log gains of the parts of a backward step, and their error."""
    cell, h0 = model["cell"], start(model["cell"])
    chain = js.jacobian_chain(cell, h0, bits, check=False)
    of_last = lambda h: optax.sigmoid_binary_cross_entropy(logit(model, h), answer)
    cotangent = jax.grad(of_last)(jax.tree.map(lambda s: s[-1], chain.states))
    flat = lambda tree: jnp.concatenate(
        jax.tree.leaves(jax.tree.map(lambda a: a.reshape(a.shape[0], -1), tree)), axis=1
    )
    found = known(js.adjoints(chain, cotangent))
    before = jax.tree.map(lambda s: s[:-1], chain.states)
    gains, error = jax.vmap(functools.partial(attribution, cell))(before, bits, flat(found.directions)[1:])
    return {"norms": found.log_norms, "gains": jnp.mean(gains, axis=0), "parts_error": jnp.max(error)}


def attribution(cell: Any, h: Any, x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln ||.|| of the parts of J^T g = K g + W^T S g, in the order of `PARTS`, and the relative error of that sum.

    K is diagonal, what gates keep; S g are the gradients at the places where the recurrent weights enter: slopes and gates.
    """
    J = cell.jacobian(h, x)
    f, n = J.factors, cell.W.shape[-1]
    if isinstance(cell, js.cells.LSTM):
        to_h = g[n:]
        to_c = g[:n] + f["output gate"] * f["cell squashing"] * to_h
        kept = jnp.concatenate([f["forget gate"] * to_c, jnp.zeros(n)])
        inner = jnp.stack([f[k] * to_c for k in ("input", "forget", "candidate")] + [f["output"] * to_h])
    elif isinstance(cell, js.cells.GRU):
        kept, inner = f["kept"] * g, jnp.stack([f[k] * g for k in ("reset", "update", "candidate")])
    else:
        kept, inner = jnp.zeros(n), (f["slope"] * g)[None]
    through = jnp.einsum("kij,ki->j", cell.W.reshape(-1, n, n), inner)
    through = jnp.pad(through, (g.size - n, 0))
    total = J.pull(g[:, None])[:, 0]
    norm = lambda a: jnp.log(jnp.linalg.norm(a))
    gains = jnp.stack([norm(kept), norm(inner), norm(through) - norm(inner) + norm(g), norm(total)]) - norm(g)
    return gains, jnp.linalg.norm(kept + through - total) / jnp.linalg.norm(total)


def measure(config: dict[str, Any], model: Any, bits: jax.Array, answers: jax.Array) -> dict[str, np.ndarray]:
    """Everything the figure shows of one network at one time."""
    cell = model["cell"]
    found = jax.vmap(backward, in_axes=(None, 0, 0))(model, bits, answers[:, -1])
    few = bits[: config["spectrum_examples"]]
    Js = jax.jit(lambda cell: js.batched(js.JacobianChain.dense, cell, start(cell), few, in_axes=(None, 0)))(cell)
    right = (jax.vmap(logits, in_axes=(None, 0))(model, bits) > 0) == (answers > 0.5)
    spectra = _spectra.from_the_end(Js, tuple(config["lags"]))
    logs = np.asarray(known(spectra).log_singular_values)
    return (
        {k: np.asarray(v) for k, v in found.items()}
        | {
            "accuracy": np.asarray(jnp.mean(right[:, config["lag"] :])),
            "spectra": logs[:, -1],
            "largest": logs[..., 0],
            "isotropic": _spectra.isotropic(spectra),
        }
        | ({} if isinstance(cell, js.cells.GRU) else {"log_det": np.asarray(log_determinants(model, few))})
    )


@jax.jit
def log_determinants(model: dict[str, Any], bits: jax.Array) -> jax.Array:
    """ln abs det J_T ... J_1 from the factors; that of a GRU has no such form.

    tanh RNN: sum ln f'(a) + T ln abs det W.   LSTM: sum ln f + ln abs(tanh(c) o') + T ln abs det W_o.
    """
    cell = model["cell"]

    def one(x):
        states = js.jacobian_chain(cell, start(cell), x, check=False).states
        J = jax.vmap(cell.jacobian)(jax.tree.map(lambda s: s[:-1], states), x).factors
        if isinstance(cell, js.cells.LSTM):
            diagonals, weight = (J["forget gate"], J["output"]), cell.W[3]
        else:
            diagonals, weight = (J["slope"],), cell.W
        logs = sum(jnp.sum(jnp.log(jnp.abs(d))) for d in diagonals)
        return logs + len(x) * jnp.linalg.slogdet(weight)[1]

    return jax.vmap(one)(bits)


def theory(config: dict[str, Any], name: str) -> np.ndarray:
    """The Lyapunov spectrum at the start, at infinite width, at u = (i - 1/2) / n.

    tanh RNN: under the input. LSTM and GRU: at rest, with all gates half open, n exponents; the n others of the LSTM have
    no theory under input.
    """
    g, n = config["gain"], config["width"]
    u = (np.arange(n) + 0.5) / n
    if name == "tanh RNN":
        return np.asarray(recurrent.rate_spectrum(u, g, input_variance=config["input_variance"]))
    return np.asarray((recurrent.lstm_origin_spectrum if name == "LSTM" else recurrent.gru_origin_spectrum)(u, g**2))


def main() -> None:
    """Run it alone: ``python -m experiments.anatomy_time``."""
    experiments.alone("anatomy_time")


if __name__ == "__main__":
    main()
