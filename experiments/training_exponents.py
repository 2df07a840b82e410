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

import experiments
import jacspec as js
from experiments._known import known
from jacspec import models, remedies, tasks, training

CONFIG = {
    "seed": 0,
    "cells": ["lstm", "gru"],
    "width": 20,
    "keep_bias": 1.0,
    "draws": 3,
    "batch": 64,
    "rate": 5e-3,
    "clip": 1.0,
    "updates": 400,
    "every": 50,
    "digits": 50,
    "burn_in": 80,
    "cotangents": 16,
}
FULL = {"width": 64, "draws": 5, "updates": 1000, "every": 100, "digits": 300}
TINY = {
    "width": 4,
    "draws": 2,
    "batch": 4,
    "updates": 4,
    "every": 2,
    "digits": 5,
    "burn_in": 8,
    "cotangents": 2,
}
MEASURED = ("whole", "alone", "standard_error", "keep", "sum_rule", "log_gradient_norms")
"""What `judge` finds."""

MAY_BE_NAN = ("standard_error",)
"""A record too short or too regular to tell its standard error."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """For each cell what `judge` finds, its loss and errors on all digits held out, with leading axes (draw, record)."""
    arrays, task = {}, tasks.digits(order="row", dtype=jnp.float64)
    for done, cell in enumerate(config["cells"]):
        progress(f"training, {cell}", done, len(config["cells"]))
        histories = [fit.history for fit in trained(config, cell, task)]
        history = {name: np.stack([one[name] for one in histories]) for name in histories[0]}
        arrays |= {f"{cell}_{name}": history[name] for name in ("loss", *MEASURED)}
        arrays |= {f"{cell}_wrong": history["metric"], "records": history["update"][0]}
    progress("done", len(config["cells"]), len(config["cells"]))
    return arrays


def trained(config: dict[str, Any], cell: str, task: tasks.Task) -> list[training.Fit]:
    """A training for every draw, with what `judge` finds at every record."""
    return training.fit_seeds(
        lambda rngs: models.Recurrent(
            cell, task.features, config["width"], task.outputs, readout="last",
            forget_bias=config["keep_bias"], dtype=jnp.float64, rngs=rngs,
        ),
        task,
        optax.chain(remedies.clip_by_global_norm(config["clip"]), optax.adam(config["rate"])),
        seeds=range(config["seed"], config["seed"] + config["draws"]),
        updates=config["updates"],
        batch=config["batch"],
        every=config["every"],
        probes=[functools.partial(judge, config, task)],
        held_out=task.held_out,
        success=False,
    )  # fmt: skip


def judge(
    config: dict[str, Any], task: tasks.Task, model: models.Recurrent, _: tasks.Batch | None = None
) -> dict[str, jax.Array]:
    """The questions put to a stream of held-out digits: a probe of `jacspec.training`.

    `sum_rule` is mean ln abs det J_t. For the LSTM, where h_t = o tanh(c_t), rows of (c, h) subtract to a triangle:
    det J_t = det W_o prod f tanh(c_t) o (1 - o), and nothing of the Jacobian is asked.
    """
    key, burn_in, skip = jax.random.key(config["seed"]), config["burn_in"], {"transient": config["burn_in"]}
    xs = task.evaluation(key, config["digits"]).inputs.reshape(-1, task.features)
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
        "whole": whole.exponents,
        "alone": alone.exponents,
        "standard_error": whole.standard_error[0],
        "keep": jnp.sort(keep.mean(axis=0))[::-1],
        "sum_rule": log_det,
        "log_gradient_norms": jax.vmap(lambda v: js.log_gradient_norms(chain[burn_in:], v))(v).mean(axis=0),
    }


def main() -> None:
    """Run it alone: ``python -m experiments.training_exponents``."""
    experiments.alone("training_exponents")


if __name__ == "__main__":
    main()
