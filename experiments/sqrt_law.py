"""Gradients that grow or fall more slowly than exponentially with depth.

residual   x' = x + tanh(W x): the variance grows as l, the squared gradient as exp(a sqrt l)
critical   h' = W phi(h) on the critical line without a fixed point: squared Jacobians fall as 1/l (tanh), not at all (ReLU)

What is measured is the squared gradient norm E ||dE/dx_l||^2 over random directions at the output and over networks.
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
    "residual_width": 200,
    "residual_depth": 400,
    "residual_draws": 6,
    "critical_width": 400,
    "critical_depth": 50,
    "critical_draws": 24,
    "directions": 8,
    "far": 4000,
    "power_from": 1000,
    "power_to": 2000,
}
FULL = {"residual_width": 500, "residual_depth": 1000, "critical_width": 1000, "critical_depth": 100, "far": 100_000}
TINY = {"residual_width": 10, "residual_depth": 12, "residual_draws": 2, "critical_width": 10, "critical_depth": 6,
        "critical_draws": 2, "directions": 3}  # fmt: skip

NETWORKS = ("residual", "tanh", "relu")


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """For every network `_variance` (draw, layer) and `_log_chi` (draw, layer), with their theory."""
    arrays: dict[str, Any] = {}
    for done, name in enumerate(NETWORKS):
        progress(name, done, len(NETWORKS) + 1)
        kind = "residual" if name == "residual" else "critical"
        n, depth, draws = (config[f"{kind}_{key}"] for key in ("width", "depth", "draws"))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config["seed"]), done), draws)
        found = [grown(key, name, n, depth, config["directions"]) for key in keys]
        arrays |= {
            f"{name}_variance": np.stack([v for v, _ in found]),
            f"{name}_log_chi": np.stack([g for _, g in found]),
        }
    progress("theory", len(NETWORKS), len(NETWORKS) + 1)
    arrays |= theory(config)
    progress("done", len(NETWORKS) + 1, len(NETWORKS) + 1)
    return arrays


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def grown(key: jax.Array, name: str, n: int, depth: int, directions: int) -> tuple[jax.Array, jax.Array]:
    """E x_l^2 of one network, and ln of ||dE/dx_0||^2 / ||dE/dx_l||^2, squares averaged over directions, l = 0 ... L."""
    at_x, at_W, at_v = jax.random.split(key, 3)
    W = jax.random.normal(at_W, (depth, n, n)) * np.sqrt((2.0 if name == "relu" else 1.0) / n)
    layer = {
        "residual": lambda x, W: x + jnp.tanh(W @ x),
        "tanh": lambda x, W: W @ jnp.tanh(x),
        "relu": lambda x, W: W @ jax.nn.relu(x),
    }[name]
    x = jax.random.normal(at_x, (n,))
    chain = js.jacobian_chain(layer, x / jnp.sqrt(jnp.mean(x**2)), W, store=False, check=False)
    v = jax.random.normal(at_v, (directions, n))
    squares = jax.nn.logsumexp(2 * jax.vmap(lambda v: js.log_gradient_norms(chain, v))(v), axis=0)
    return jnp.mean(chain.states**2, axis=1), squares[0] - squares


def theory(config: dict[str, Any]) -> dict[str, Any]:
    """The recursions at the depths that were run and far beyond, and the two asymptotic laws."""
    depth, low, high = config["critical_depth"], config["power_from"], config["power_to"]
    far = mean_field.residual_growth("tanh", config["far"], weight_variance=1.0)
    power = {}
    for name, variance in (("tanh", 1.0), ("relu", 2.0), ("erf", np.pi / 4)):  # erf'(0)^2 = 4/pi
        logs = mean_field.partial_jacobians(name, high, weight_variance=variance).log_chi
        power[f"theory_{name}_log_chi"] = logs[: depth + 1]
        power[f"theory_{name}_power"] = (logs[high] - logs[low]) / np.log(high / low)
        power[f"theory_{name}_exponent"] = mean_field.partial_jacobian_exponent(name)
    return power | {
        "theory_residual_variance": far.variance,
        "theory_residual_log_chi": far.log_chi,
        "theory_sqrt_rate": mean_field.residual_sqrt_rate("tanh", weight_variance=1.0),
    }


def main() -> None:
    """Run it alone: ``python -m experiments.sqrt_law``."""
    experiments.alone("sqrt_law")


if __name__ == "__main__":
    main()
