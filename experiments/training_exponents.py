"""Lyapunov exponents of an LSTM and a GRU while they learn to read digits: of the whole state, and of h alone.

Training is on single digits, row by row from the zero state. Exponents are those along a stream of held-out digits, one
read after another. The whole state of the LSTM is (c, h); "h alone" is dh_t/dh_{t-1} at fixed c_{t-1}, a block of the
step Jacobian. For the GRU both are the same matrix, found here on two paths: analytic, and by automatic differentiation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import experiments
import jacspec as js
from experiments._known import known
from jacspec import models, remedies, tasks

CONFIG = {
    "seed": 0,
    "cells": ["lstm", "gru"],
    "width": 20,
    "keep_bias": 1.0,
    "draws": 3,
    "batch": 64,
    "rate": 5e-3,
    "clip": 1.0,
    "block": 25,
    "records": [0, 25, 50, 100, 150, 200, 300, 400],
    "digits": 50,
    "burn_in": 80,
    "cotangents": 16,
}
FULL = {"width": 64, "draws": 5, "records": [0, 25, 50, 100, 200, 400, 700, 1000], "digits": 300}
TINY = {
    "width": 4,
    "draws": 2,
    "batch": 4,
    "block": 2,
    "records": [0, 2, 4],
    "digits": 5,
    "burn_in": 8,
    "cotangents": 2,
}
MAY_BE_NAN = ("standard_error",)
"""A record too short or too regular to tell its standard error."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """For each cell what `judge` finds, with leading axes (draw, record)."""
    arrays, task = {}, tasks.digits(order="row", dtype=jnp.float64)
    total = 2 * len(config["cells"])
    for i, cell in enumerate(config["cells"]):
        progress(f"training, {cell}", 2 * i, total)
        graph, networks = trained(config, cell, task)
        progress(f"spectra, {cell}", 2 * i + 1, total)
        of_all = jax.jit(lambda s, graph=graph: jax.lax.map(lambda p: judge(config, nnx.merge(graph, p), task), s))
        flat = jax.tree.map(lambda p: p.reshape(-1, *p.shape[2:]), networks)
        lead = config["draws"], len(config["records"])
        for name, found in of_all(flat).items():
            arrays[f"{cell}_{name}"] = np.asarray(found).reshape(lead + found.shape[1:])
    progress("done", total, total)
    return arrays


def trained(config: dict[str, Any], cell: str, task: tasks.Task) -> tuple[Any, Any]:
    """The structure of the networks and their parameters, with leading axes (draw, record)."""
    optimizer = optax.chain(remedies.clip_by_global_norm(config["clip"]), optax.adam(config["rate"]))
    blueprint = functools.partial(
        models.Recurrent, cell, task.features, config["width"], task.outputs,
        forget_bias=config["keep_bias"], dtype=jnp.float64,
    )  # fmt: skip
    graph = nnx.graphdef(nnx.eval_shape(lambda: blueprint(rngs=nnx.Rngs(0))))

    def loss(parameters: Any, key: jax.Array) -> jax.Array:
        batch = task.sample(key, config["batch"])
        return task.loss(jax.vmap(nnx.merge(graph, parameters))(batch.inputs), batch)

    def update(carry: Any, key: jax.Array) -> tuple[Any, None]:
        parameters, state = carry
        change, state = optimizer.update(jax.grad(loss)(parameters, key), state, parameters)
        return (optax.apply_updates(parameters, change), state), None

    def learn(carry: Any, keys: jax.Array) -> Any:
        return jax.lax.scan(update, carry, keys)[0]

    @jax.jit
    def start(key: jax.Array) -> Any:
        parameters = nnx.state(blueprint(rngs=nnx.Rngs(params=key)))
        return parameters, optimizer.init(parameters)

    of_draws = jax.jit(jax.vmap(learn, in_axes=(0, None)))
    key, last = jax.random.key(config["seed"]), config["records"][-1]
    carries = [start(jax.random.fold_in(key, draw)) for draw in range(config["draws"])]
    carry, keys = jax.tree.map(lambda *leaves: np.stack(leaves), *carries), jax.random.split(key, last)
    kept = [carry[0]]
    for done in range(0, last, config["block"]):
        carry = of_draws(carry, keys[done : done + config["block"]])
        kept += [carry[0]] if done + config["block"] in config["records"] else []
    return graph, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *kept)


def judge(config: dict[str, Any], model: models.Recurrent, task: tasks.Task) -> dict[str, jax.Array]:
    """Loss and errors on the digits held out, and the questions put to a stream of them.

    `sum_rule` is mean ln abs det J_t. For the LSTM, where h_t = o tanh(c_t), rows of (c, h) subtract to a triangle:
    det J_t = det W_o prod f tanh(c_t) o (1 - o), and nothing of the Jacobian is asked.
    """
    key, burn_in, skip = jax.random.key(config["seed"]), config["burn_in"], {"transient": config["burn_in"]}
    held_out = task.evaluation(key, task.held_out)
    outputs = jax.vmap(model)(held_out.inputs)
    xs = held_out.inputs[: config["digits"]].reshape(-1, task.features)
    chain, lstm = model.chain(xs, check=False), model.cell == "lstm"
    step: Any = model.step
    before = jax.tree.map(lambda h: h[:-1], chain.states)
    gates = jax.tree.map(lambda gate: gate[burn_in:], jax.vmap(step.gates)(before, xs))
    keep = jnp.log(gates["forget" if lstm else "update"])
    if lstm:
        block = jax.vmap(jax.jacobian(lambda h, c, x: step((c, h), x)[1]))(before[1], before[0], xs)
        o, tanh_c = gates["output"], jnp.tanh(chain.states[0][1 + burn_in :])
        logs = keep + jnp.log(jnp.abs(tanh_c)) + jnp.log(o) + jnp.log1p(-o)
        log_det = logs.sum(axis=1).mean() + jnp.linalg.slogdet(step.W[3])[1]
    else:
        block = jax.vmap(jax.jacobian(lambda h, x: step(h, x)))(before, xs)
        log_det = jnp.linalg.slogdet(block[burn_in:])[1].mean()
    whole = known(js.lyapunov_exponents(chain, **skip))
    alone = known(js.lyapunov_exponents(js.JacobianChain.from_matrices(block, check=False), **skip))
    v = jax.random.normal(jax.random.fold_in(key, 1), (config["cotangents"], config["width"]))
    v = jnp.pad(v, ((0, 0), (chain.shape[0] - config["width"], 0)))  # a loss reads h, the last part of the state
    return {
        "loss": task.loss(outputs, held_out),
        "wrong": task.wrong(outputs, held_out).mean(),
        "whole": whole.exponents,
        "alone": alone.exponents,
        "standard_error": whole.standard_error[0],
        "keep": jnp.sort(keep.mean(axis=0))[::-1],
        "sum_rule": log_det,
        "log_gradient_norms": jax.vmap(lambda v: js.log_gradient_norms(chain[burn_in:], v))(v).mean(axis=0),
    }


if __name__ == "__main__":
    experiments.alone("training_exponents")
