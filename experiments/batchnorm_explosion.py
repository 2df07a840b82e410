"""Gradient norms over the depth of random networks: batch normalization, layer normalization, none, residual.

The state is the whole batch, (B, n), the drivers are the weights of the layers, and the gradient of a random cotangent
is followed from the output to the input by `log_gradient_norms`. Rates are of the squared norm, per layer.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
import jacspec as js
from jacspec import layers

CONFIG = {
    "seed": 0,
    "width": 400,
    "depth": 30,
    "skip": 4,
    "cases": [
        ["batch", "relu", 8, 14],
        ["batch", "relu", 16, 14],
        ["batch", "relu", 64, 3],
        ["batch", "relu", 256, 3],
        ["batch", "linear", 8, 14],
        ["batch", "tanh", 64, 3],
        ["layer", "relu", 16, 14],
        ["none", "relu", 16, 14],
        ["residual", "relu", 64, 3],
    ],
}
"""A case: normalization, activation, batch, draws."""
FULL = {"width": 1000, "cases": [[*case[:3], 4 * case[3]] for case in CONFIG["cases"]]}
TINY = {"width": 12, "depth": 12, "cases": [[a, b, min(B, 16), 2] for a, b, B, _ in CONFIG["cases"]]}

theory = js.theory.normalization


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """For case i: `norms_i`, ln ||dE/dh_l|| (draw, layer), `similarity_i`, the mean cosine of two examples behind phi."""
    arrays: dict[str, Any] = {}
    cases = config["cases"]
    found: list[list[Any]] = [[] for _ in cases]
    draws = max(case[3] for case in cases)
    for draw in range(draws):  # all cases see the same weights
        progress(f"draw {draw + 1}", draw, draws)
        key, n = jax.random.fold_in(jax.random.key(config["seed"]), draw), config["width"]
        Ws = jax.random.normal(key, (config["depth"], n, n)) / np.sqrt(n)
        for (kind, name, B, count), results in zip(cases, found, strict=True):
            if draw < count:
                h, v = jax.random.normal(jax.random.fold_in(key, B), (2, B, n))
                results.append(measured(kind, name, Ws, h, v))
    for i, results in enumerate(found):
        arrays[f"norms_{i}"], arrays[f"similarity_{i}"] = (np.stack(part) for part in zip(*results, strict=True))
    fine = np.geomspace(5, 400, 48)
    rates = {"relu": theory.batch_norm_rate_relu, "linear": theory.batch_norm_rate_linear}
    rates["tanh"] = functools.partial(theory.batch_norm_rate, "tanh")
    for name, rate in rates.items():
        arrays[f"curve_{name}"] = np.asarray(jax.vmap(rate)(jnp.asarray(fine)).rate)
    progress("done", draws, draws)
    return arrays | {
        "curve_batch": fine,
        "large_theory": np.asarray(theory.batch_norm_rate_limit("relu").rate),
        "rate_theory": np.array([float(expected(*case[:3], rates)) for case in cases]),
    }


def expected(kind: str, name: str, B: int, rates: dict[str, Any]) -> Any:
    """The rate of a case; 1 without normalization at the critical variance; a residual network has none."""
    if kind == "batch":
        return rates[name](B).rate
    return theory.layer_norm_rate(name).rate if kind == "layer" else 1.0


@functools.partial(jax.jit, static_argnums=(0, 1))
def measured(kind: str, name: str, Ws: jax.Array, h: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln ||dE/dh_l|| and the mean cosine of two examples at every layer, for inputs h and cotangent v (B, n)."""
    chain = js.jacobian_chain(step(kind, name), h, Ws, store=False, check=False)
    gram = chain.states @ jnp.swapaxes(chain.states, 1, 2)
    size = jnp.sqrt(jnp.diagonal(gram, axis1=1, axis2=2))
    cosine, B = gram / size[:, :, None] / size[:, None, :], len(h)
    return js.log_gradient_norms(chain, v), (cosine.sum(axis=(1, 2)) - B) / (B * (B - 1))


def step(kind: str, name: str) -> Any:
    """One layer of the whole batch."""
    phi = js.activations.get(name)
    normalize = layers.PerExample(layers.LayerNorm(epsilon=0.0)) if kind == "layer" else layers.BatchNorm(epsilon=0.0)

    def layer(h, W):
        if kind == "residual":  # variance 2/n after ReLU: every branch adds 1 to E h^2
            return h + np.sqrt(2.0) * phi(normalize(h)) @ W.T
        a = h @ W.T
        return phi(np.sqrt(2.0) * a if kind == "none" else normalize(a))

    return layer


def main() -> None:
    """Run it alone: ``python -m experiments.batchnorm_explosion``."""
    experiments.alone("batchnorm_explosion")


if __name__ == "__main__":
    main()
