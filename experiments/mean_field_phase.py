"""The order-to-chaos plane of tanh networks, and what chains of finite networks say of it.

Theory is `jacspec.theory.mean_field`. Everything measured goes through the package's chains: a network of fresh weights
W_ij ~ N(0, sigma_w^2/n), b_i ~ N(0, sigma_b^2), a step a -> W phi(a) + b over depth, two inputs that start with
correlation `start_correlation`, both at variance q*, and the chain of the first of them. Networks of different sigma_w
share their standard normal draws.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
import jacspec as js
from jacspec.theory import mean_field

CONFIG = {
    "seed": 0,
    "activation": "tanh",
    "grid": 120,
    "weight_range": [0.5, 4.0],
    "bias_range": [0.0, 0.5],
    "scan_bias": 0.05,
    "scan_range": [0.5, 4.0],
    "scan": 141,
    "published": [1.0, 1.6, 1.8, 2.0, 3.0, 4.0],
    "line": [0.01, 0.1, 0.25, 0.5, 1.0, 1.5],
    "line_bias": [1.258e-6, 8.3228e-4, 8.12515e-3, 0.0380412, 0.1509646, 0.3140687],
    "weights": [1.0, 1.4, 1.7609546, 2.0, 3.0, 4.0],
    "width": 1000,
    "networks": 10,
    "depth": 25,
    "skip": 4,
    "directions": 8,
    "start_correlation": 0.6,
}
FULL = {"grid": 400, "networks": 40, "depth": 40}
TINY = {"grid": 6, "scan": 9, "published": [1.0, 3.0], "weights": [1.0, 3.0], "width": 12, "networks": 2, "depth": 10}

QUANTITIES = ("q_star", "chi_1", "xi_q", "c_star", "chi_c", "xi_c", "error", "converged")


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Arrays named `plane_*`, `scan_*`, `published_*`, `critical_*`, `line_*` (theory), `net_*` (both)."""
    total = 2 + config["networks"]
    progress("theory: plane", 0, total)
    arrays = points(config)
    progress("theory: lines", 1, total)
    arrays |= lines(config)
    q_star, rows = arrays["net_q_star"], []
    for done in range(config["networks"]):
        progress(f"networks of draw {done}", 2 + done, total)
        rows.append(networks(config, q_star, done))
    squares, correlations = (np.stack(v, axis=1) for v in zip(*rows, strict=True))
    skip, depth = config["skip"], config["depth"]
    arrays |= {
        "net_log_squares": squares,
        "net_rates": (squares[..., depth - skip] - squares[..., skip]) / (depth - 2 * skip),
        "net_correlations": correlations,
        "net_map": iterated_map(config, q_star),
    }
    progress("done", total, total)
    return arrays


def points(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every number of `mean_field.phase` on the plane, axes (bias, weight variance), and along its cut at `scan_bias`."""
    weights, biases = (np.linspace(*config[name], config["grid"]) for name in ("weight_range", "bias_range"))
    sets = {
        "plane": np.meshgrid(weights, biases),
        "scan": (np.linspace(*config["scan_range"], config["scan"]), config["scan_bias"]),
        "published": (np.array(config["published"]), config["scan_bias"]),
        "net": (np.array(config["weights"]), config["scan_bias"]),
    }
    flat = [np.broadcast_arrays(w, b) for w, b in sets.values()]
    w, b = (jnp.asarray(np.concatenate([pair[k].ravel() for pair in flat])) for k in (0, 1))
    ask = lambda w, b: mean_field.phase(config["activation"], weight_variance=w, bias_variance=b)
    found = jax.jit(lambda w, b: jax.lax.map(lambda p: ask(*p), (w, b), batch_size=256))(w, b)
    arrays = {f"{name}_weights": np.asarray(w) for name, (w, _) in sets.items()}
    arrays |= {"plane_weights": weights, "plane_biases": biases}
    ends = np.cumsum([pair[0].size for pair in flat])[:-1]
    for quantity in QUANTITIES:
        parts = np.split(np.asarray(getattr(found, quantity)), ends)
        arrays |= {
            f"{name}_{quantity}": v.reshape(pair[0].shape) for name, v, pair in zip(sets, parts, flat, strict=True)
        }
    return arrays


def lines(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The critical line, at the bias variance of the scan, and at the published ones."""
    top, count = config["bias_range"][1], 60
    biases = np.concatenate([top * np.linspace(0, 1, count) ** 2, [config["scan_bias"]], config["line_bias"]])
    ask = lambda b: mean_field.critical_weight_variance(config["activation"], bias_variance=b)
    found = jax.jit(jax.vmap(ask))(jnp.asarray(biases))
    weights, q = np.asarray(found.weight_variance), np.asarray(found.q_star)
    return {
        "critical_biases": biases[:count],
        "critical_weights": weights[:count],
        "critical_at_scan": weights[count],
        "line_weights": weights[count + 1 :],
        "line_q": q[count + 1 :],
    }


def networks(config: dict[str, Any], q_star: np.ndarray, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """One draw at every sigma_w^2: log squared gradients by layers back from the output, and correlations by layer."""
    n, depth, k, c = config["width"], config["depth"], config["directions"], config["start_correlation"]
    random = np.random.default_rng([config["seed"], draw])
    normal = lambda *shape: jnp.asarray(random.standard_normal(shape))
    drivers = normal(depth, n, n), normal(depth, n)
    first, other, cotangents = normal(n), normal(n), normal(k, n)
    inputs = first, c * first + np.sqrt(1 - c * c) * other
    rows = [
        one_network(config["activation"], w, config["scan_bias"], drivers, [np.sqrt(q) * h for h in inputs], cotangents)
        for w, q in zip(config["weights"], q_star, strict=True)
    ]
    squares, correlations = (np.stack(v) for v in zip(*rows, strict=True))
    return squares, correlations


@functools.partial(jax.jit, static_argnames="activation")
def one_network(activation: str, w: Any, b: Any, drivers: Any, inputs: Any, cotangents: Any) -> tuple[Any, Any]:
    """ln of the mean squared norm of dE/da_l over the cotangents, l = T..0, relative to T; correlations l = 0..T."""
    phi, n = js.activations.get(activation), cotangents.shape[1]

    def layer(a, driver):
        W, bias = driver
        return jnp.sqrt(w / n) * (W @ phi(a)) + jnp.sqrt(b) * bias

    chain, other = (js.jacobian_chain(layer, h, drivers, store=False, check=False) for h in inputs)
    logs = jax.vmap(lambda u: js.log_gradient_norms(chain, u))(cotangents)
    squares = jax.nn.logsumexp(2 * logs, axis=0)[::-1]
    lengths = [jnp.linalg.norm(states, axis=1) for states in (chain.states, other.states)]
    return squares - squares[0], jnp.sum(chain.states * other.states, axis=1) / (lengths[0] * lengths[1])


def iterated_map(config: dict[str, Any], q_star: np.ndarray) -> np.ndarray:
    """The correlation map from the start, (weights, depth + 1)."""

    def ask(c, w, q):
        return mean_field.correlation_map(
            config["activation"], c, q, weight_variance=w, bias_variance=config["scan_bias"]
        )

    step, weights = jax.jit(jax.vmap(ask)), jnp.asarray(config["weights"])
    rows = [jnp.full(weights.size, config["start_correlation"])]
    for _ in range(config["depth"]):
        rows.append(step(rows[-1], weights, jnp.asarray(q_star)))
    return np.stack(rows, axis=1)


def main() -> None:
    """Run it alone: ``python -m experiments.mean_field_phase``."""
    experiments.alone("mean_field_phase")


if __name__ == "__main__":
    main()
