"""Finite width: gradients of random networks that neither vanish nor explode in the mean do so in nearly every network.

one layer     ||J^T v||^2 for one fresh layer of n units, linear or ReLU
deep          ln ||dE/dh||^2 and ln ||h||^2 over depth, for architectures whose sum of 1 / width is the same
convolution   10,000 linear layers: delta-orthogonal kernels beside independent Gaussian weights

The cotangent v is uniform on the sphere. Then ||J^T v||^2 has the law of ||J u||^2, a product of independent factors, one a
layer: with weights N(0, 1 / (p n_in)) each is a sum of n_out terms xi g^2 / (p n_in), g normal, xi = 1 with probability p
(1 without activation, 1/2 for ReLU) and 0 otherwise.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
import jacspec as js
from jacspec.theory import random_matrix

CONFIG = {
    "seed": 0,
    "one_layer": [4, 10, 25, 64],
    "one_layer_weights": 4_000_000,
    "networks": [["relu", [32], 16, 4000], ["relu", [64], 32, 600], ["relu", [32, 128], 13, 600],
                 ["linear", [32], 16, 4000]],
    "channels": 4,
    "space": 3,
    "kernel": 3,
    "layers": 10_000,
    "spectrum_layers": 20,
    "dense_networks": 4,
}  # fmt: skip
"""A network: activation, widths that are repeated, how often, draws."""
FULL = {
    "one_layer_weights": 100_000_000,
    "networks": [[name, widths, periods, 8 * draws] for name, widths, periods, draws in CONFIG["networks"]],
    "dense_networks": 10,
}
TINY = {"one_layer": [4, 8], "one_layer_weights": 1000, "channels": 2, "layers": 20, "spectrum_layers": 3,
        "networks": [["relu", [24], 3, 4], ["relu", [24, 30], 2, 4], ["linear", [24], 3, 4]]}  # fmt: skip

ALIVE = {"linear": 1.0, "relu": 0.5}
"""p, the share of units whose derivative is 1 (otherwise 0)."""
AT_ONCE = 4_000_000
"""Weights in memory, about."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Squared norms of one layer, axes (width, activation; mean, second moment, draws); logs of network i, axes (draw, period)."""
    total = len(config["one_layer"]) + len(config["networks"]) + 1
    random, arrays, rows = np.random.default_rng(config["seed"]), {}, []
    for i, n in enumerate(config["one_layer"]):
        progress(f"one layer of {n}", i, total)
        draws = config["one_layer_weights"] // n**2
        squares = [np.exp(of_networks(random, name, [n], 1, draws)[0][:, 1]) for name in ALIVE]
        rows.append([[s.mean(), (s**2).mean(), s.size] for s in squares])
    arrays["one_layer"] = np.array(rows)
    for i, (name, widths, periods, draws) in enumerate(config["networks"]):
        progress(f"{name}, width {widths}", len(config["one_layer"]) + i, total)
        arrays[f"gradient_{i}"], arrays[f"forward_{i}"] = of_networks(random, name, widths, periods, draws)
    progress("convolutions", total - 1, total)
    arrays |= convolutions(config, random)
    progress("done", total, total)
    return arrays


def of_networks(
    random: np.random.Generator, name: str, widths: list[int], periods: int, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """ln ||dE/dh||^2 by distance from the output, and ln ||h||^2 from the input, 0 at the start; axes (draw, period)."""
    p, found = ALIVE[name], []
    size = min(draws, max(1, AT_ONCE // (periods * max(widths) ** 2)))
    shapes = list(zip(widths, (widths[-1], *widths[:-1]), strict=True))
    for _ in range(-(-draws // size)):
        Ws = [random.standard_normal((size, periods, *shape)) / np.sqrt(p * shape[1]) for shape in shapes]
        h, v = random.standard_normal((2, size, widths[-1]))
        found.append(of_network(2 * (1 - p), h, v, Ws))
    backward, forward = (np.concatenate(part)[:draws] for part in zip(*found, strict=True))
    return backward, forward


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
def of_network(damping: float, h: jax.Array, v: jax.Array, Ws: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The same for one network: f(a) = a, less damping times a where a < 0."""

    def step(h, Ws):
        for W in Ws:
            a = W @ h
            h = jnp.where(a > 0, a, (1 - damping) * a)
        return h

    chain = js.jacobian_chain(step, h, Ws, store=False, check=False)
    backward, forward = js.log_gradient_norms(chain, v)[::-1], jnp.log(jnp.linalg.norm(chain.states, axis=1))
    return 2 * (backward - backward[0]), 2 * (forward - forward[0])


def convolutions(config: dict[str, Any], random: np.random.Generator) -> dict[str, np.ndarray]:
    """ln ||dE/dh|| by distance from the output, through linear layers, and ln of the singular values of a few."""
    c, size, layers = config["channels"], config["space"], config["layers"]
    v = random.standard_normal((size, size, c))
    keys = jax.random.split(jax.random.key(config["seed"]), layers)
    unitary, matrices = delta_orthogonal(keys, v, config["kernel"], config["spectrum_layers"])
    n, shown = v.size, distances(config)
    steps = np.asarray(unitary)[::-1]
    dense = []
    for _ in range(config["dense_networks"]):
        Ws = random.standard_normal((layers, n, n)) / np.sqrt(n)
        dense.append(np.asarray(of_matrices(Ws, v.ravel()))[::-1])
    mean, variance = random_matrix.log_norm_growth(n, shown)
    return {
        "distance": shown,
        "delta_orthogonal": (steps - steps[0])[shown],
        "delta_orthogonal_largest": np.abs(steps - steps[0]).max(),
        "delta_orthogonal_spectrum": np.log(np.linalg.svd(matrices, compute_uv=False)),
        "dense": np.stack([logs - logs[0] for logs in dense])[:, shown],
        "dense_mean": np.asarray(mean),
        "dense_variance": np.asarray(variance),
    }


def distances(config: dict[str, Any]) -> np.ndarray:
    """Layers from the output that are shown."""
    return np.unique(np.linspace(0, config["layers"], 101).astype(int))


@functools.partial(jax.jit, static_argnums=(2, 3))
def delta_orthogonal(keys: jax.Array, v: jax.Array, size: int, few: int) -> tuple[jax.Array, jax.Array]:
    """Through circular convolutions with delta-orthogonal kernels: ln of the gradient norms; the last few Jacobians."""
    c = v.shape[-1]
    kernels = jax.vmap(lambda key: js.initializers.delta_orthogonal(key, (size, size), c, c, jnp.float64))(keys)
    step = lambda h, kernel: js.layers.Conv(kernel)(h)
    chain = js.jacobian_chain(step, v, kernels, store=False, check=False)
    return js.log_gradient_norms(chain, v), jnp.asarray(chain[-few:].dense())


@jax.jit
def of_matrices(Ws: jax.Array, v: jax.Array) -> jax.Array:
    """ln of the gradient norms through W_L ... W_1."""
    return js.log_gradient_norms(js.JacobianChain.from_matrices(Ws), v)


def main() -> None:
    """Run it alone: ``python -m experiments.width_fluctuations``."""
    experiments.alone("width_fluctuations")


if __name__ == "__main__":
    main()
