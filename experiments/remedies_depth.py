"""Which remedies train a deep network of digits, at the same data, budget, seeds and learning rate.

The equal layers of `jacspec.models.Deep` are stacked, the network is a scan over them, and gradient descent acts on them as
they are. A batch is one state, which is what BatchNorm needs; held-out digits are judged in one batch of their own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import experiments
import jacspec as js
from experiments import _depth
from jacspec import models

REMEDIES = {
    "plain, Glorot": {"initialization": "glorot"},
    "plain, orthogonal": {"initialization": "orthogonal"},
    "plain ReLU, Glorot": {"activation": "relu", "initialization": "glorot"},
    "plain ReLU, He": {"activation": "relu", "initialization": "he"},
    "BatchNorm before ReLU": {"activation": "relu", "initialization": "he", "normalization": "batch"},
    "BatchNorm after ReLU": {
        "activation": "relu",
        "initialization": "he",
        "normalization": "batch",
        "position": "after",
    },
    "LayerNorm, ReLU": {"activation": "relu", "initialization": "he", "normalization": "layer"},
    "RMSNorm, ReLU": {"activation": "relu", "initialization": "he", "normalization": "rms"},
    "WeightNorm": {"initialization": "orthogonal", "normalization": "weight"},
    "CosineNorm": {"initialization": "orthogonal", "normalization": "cosine"},
    "residual ReLU": {"kind": "residual", "activation": "relu", "initialization": "he"},
    "SkipInit ReLU": {"kind": "residual", "activation": "relu", "initialization": "he", "branch_scale": 0.0},
    "residual, BatchNorm": {"kind": "residual", "activation": "relu", "initialization": "he", "normalization": "batch"},
}
CONFIG = {
    "seed": 0,
    "remedies": list(REMEDIES),
    "depth": 60,
    "width": 64,
    "batch": 50,
    "learning_rate": 0.02,
    "updates": 400,
    "seeds": 3,
    "sweep_depth": 100,
    "tanh_gains": [0.8, 0.95, 1.0, 1.05, 1.5],
    "relu_gains": [1.0, 1.35, 1.4142135623730951, 1.5, 2.0],
    "sweep_seeds": 2,
    "norm_depths": [10, 20, 40, 80],
}
FULL = {"updates": 1000, "seeds": 5, "depth": 100, "width": 100, "sweep_seeds": 3}
TINY = {"remedies": ["plain, orthogonal", "residual, BatchNorm"], "depth": 4, "width": 6, "batch": 6, "updates": 3,
        "seeds": 2, "sweep_depth": 4, "tanh_gains": [1.0, 1.5], "relu_gains": [1.0, 1.5], "norm_depths": [3, 4]}  # fmt: skip
MAY_BE_NAN = ("remedy_log_norm",)
"""The gradient of a network that diverged, or one that cancelled."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Accuracies and log gradient norms: of the remedies, over gains of 100 layers, over depths with BatchNorm."""
    remedies, depths = config["remedies"], config["norm_depths"]
    total = len(remedies) + 2 + len(depths)
    rows = []
    for done, name in enumerate(remedies):
        progress(name, done, total)
        rows.append(train([(REMEDIES[name], s) for s in range(config["seeds"])], config["depth"], config))
    arrays = {f"remedy_{key}": np.stack([row[key] for row in rows]) for key in rows[0]}
    for done, activation in enumerate(("tanh", "relu")):
        progress(f"gains of {activation}", len(remedies) + done, total)
        gains, seeds = config[f"{activation}_gains"], config["sweep_seeds"]
        own = [
            ({"activation": activation, "initialization": "orthogonal", "gain": g}, s)
            for g in gains
            for s in range(seeds)
        ]
        found = train(own, config["sweep_depth"], config)
        arrays |= {f"{activation}_{key}": v.reshape(len(gains), seeds, *v.shape[1:]) for key, v in found.items()}
    found = []
    for done, depth in enumerate(depths):
        progress(f"BatchNorm, {depth} layers", len(remedies) + 2 + done, total)
        own = REMEDIES["BatchNorm before ReLU"]
        found.append(train([(own, s) for s in range(config["seeds"])], depth, config)["accuracy"])
    progress("done", total, total)
    rate = js.theory.normalization.batch_norm_rate_relu(config["batch"])
    return arrays | {"norm_accuracy": np.stack(found), "norm_log_rate": np.asarray(rate.log_rate)}


def train(rows: list[tuple[dict[str, Any], int]], depth: int, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Networks of equal shapes, trained as one program: (options, number of the draw) of each.

    Returns:
        Held-out ``accuracy`` after training, (networks,); ``log_norm``, (networks, depth): log ||dE/dh_l|| before it.
    """
    (x, y), held = _depth.digits()
    nets, picks = [], []
    for options, k in rows:
        seed = 1000 * config["seed"] + k
        model = models.Deep(64, config["width"], 10, depth=depth, rngs=nnx.Rngs(seed), **options)
        nets.append(_depth.stacked(model, x[: config["batch"]]))
        rng = np.random.default_rng(1000 + seed)
        picks.append(rng.integers(len(x), size=(config["updates"], config["batch"])))
    nets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    one = functools.partial(descend, rate=config["learning_rate"], data=(x, y), held=held)
    accuracy, log_norm = jax.jit(jax.vmap(one))(nets, jnp.asarray(np.stack(picks)))
    return {"accuracy": np.asarray(accuracy), "log_norm": np.asarray(log_norm)}


def descend(net: Any, picks: jax.Array, *, rate: float, data: Any, held: Any) -> tuple[jax.Array, jax.Array]:
    """Held-out accuracy after SGD on the batches `picks`, and log ||dE/dh_l|| at the start, l = 1..L."""
    x, y = data
    first, hidden, head = net
    chain = js.jacobian_chain(js.layers.LayerStep(), first(x[picks[0]]), hidden, check=False)
    of_top = lambda h: _depth.loss(head(h), y[picks[0]])
    log_norm = js.log_gradient_norms(chain, jax.grad(of_top)(chain.states[-1]))

    def update(net, rows):
        gradient = jax.grad(lambda net: _depth.loss(_depth.outputs(net, x[rows]), y[rows]))(net)
        return jax.tree.map(lambda p, g: p - rate * g, net, gradient), None

    net, _ = jax.lax.scan(update, net, picks)
    logits = _depth.outputs(net, held[0])
    right = (jnp.argmax(logits, axis=1) == held[1]) & jnp.isfinite(logits).all(axis=1)
    return jnp.mean(right), log_norm


def main() -> None:
    """Run it alone: ``python -m experiments.remedies_depth``."""
    experiments.alone("remedies_depth")


if __name__ == "__main__":
    main()
