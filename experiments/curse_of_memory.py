"""The curse of memory: a linear unit that remembers well is violently sensitive to how well it remembers.

h_t = l h_{t-1} + x_t:    E h^2 = 1 / (1 - l^2),    E (dh/dl)^2 = (1 + l^2) / (1 - l^2)^3    for white input

(Zucchet & Orvieto 2024, eq. 5-6). All is measured on LRU cells, l = exp(-exp(nu) + i theta), by their parameter
gradients. The cure in them: with gamma = sqrt(1 - l^2) before the input E (d gamma h / dl)^2 = 1 / (1 - l^2)^2, and with
dl/dnu = l ln l the sensitivity to nu is (l ln l / (1 - l^2))^2, at most 1/4.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import experiments
import jacspec as js
from experiments._known import known
from jacspec.theory.recurrent import linear

CONFIG = {
    "seed": 0,
    "decays": [0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98],
    "correlations": [0.0, 0.6, 0.9],
    "modulus": 0.95,
    "phases": [0.005, 0.01, 0.02, 0.035, 0.06, 0.1, 0.2, 0.5, 1.2],
    "teacher": 0.95,
    "steps": 600,
    "draws": 2000,
    "block": 100,
}
FULL = {"draws": 50_000}
TINY = {"steps": 100, "draws": 8, "block": 4}


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part; names end in `_theory` where a formula gave the number."""
    return experiments.in_parts((plain, cured, turning), config, progress)


def noise(config: dict[str, Any], rho: float, stream: int) -> np.ndarray:
    """Gaussian inputs of unit variance with E x_t x_s = rho^|t - s|, (draws, steps, 1)."""
    random = np.random.default_rng((config["seed"], stream))
    x = random.normal(size=(config["draws"], config["steps"], 1))
    for t in range(1, config["steps"]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    return x


def lru(modulus: Any, phase: Any, *, normalized: bool) -> js.cells.LRU:
    """Units with one input of weight 1, with gamma of the cell or gamma = 1."""
    nu, theta = jnp.log(-jnp.log(jnp.asarray(modulus))), jnp.asarray(phase)
    B = jnp.stack([jnp.ones_like(nu), jnp.zeros_like(nu)])[:, :, None]
    return js.cells.LRU(nu, theta, B, None if normalized else jnp.ones_like(nu))


@jax.jit
def measured(cell: js.cells.LRU, x: Array) -> dict[str, Array]:
    """Re s_T, its derivatives by nu and theta, (draws, n), and the mean squares of the former by lag, (T, n).

    The units don't interact: the gradient of their sum holds the derivative of each.
    """
    n, T = cell.nu.shape[0], x.shape[-2]
    zero, one = jnp.zeros(n), jnp.ones(n)

    def single(x):
        last, _ = jax.lax.scan(lambda s, x: (cell(s, x), None), (zero, zero), x)
        by_time = known(js.parameter_gradient_by_lag(cell, (zero, zero), x, (one, zero), terms=True, check=False))
        scale = jnp.exp(by_time.log_norms)[:, None]
        by_nu = scale * by_time.terms.nu
        return last[0], by_nu.sum(axis=0), (scale * by_time.terms.theta).sum(axis=0), by_nu[::-1]

    def block(x):
        state, by_nu, by_theta, by_lag = jax.vmap(single)(x)
        return state, by_nu, by_theta, jnp.mean(by_lag**2, axis=0)

    state, by_nu, by_theta, by_lag = jax.lax.map(block, x)
    flat = lambda a: a.reshape(-1, n)
    return {
        "state": flat(state),
        "nu": flat(by_nu),
        "theta": flat(by_theta),
        "lag": by_lag.reshape(-1, T, n).mean(axis=0),
    }


def blocks(config: dict[str, Any], x: np.ndarray) -> Array:
    """The draws in blocks that fit in memory."""
    return jnp.asarray(x).reshape(-1, config["block"], *x.shape[1:])


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """Second moments of h and dh/dl for white and correlated inputs, (correlation, l); lags and a student's loss."""
    l, correlations = np.array(config["decays"]), config["correlations"]
    cell, by_l = lru(l, np.zeros(len(l)), normalized=False), l * np.log(l)
    seen, sums, teacher = [], [], config["decays"].index(config["teacher"])
    lag = np.arange(config["steps"])
    for k, rho in enumerate(correlations):
        x = noise(config, rho, k)
        found = measured(cell, blocks(config, x))
        slope = np.asarray(found["nu"]) / by_l
        seen.append((np.mean(found["state"] ** 2, axis=0), np.mean(slope**2, axis=0)))
        # dh_T/dl = sum_j j l^(j-1) x_{T-j}
        sums.append(
            np.abs(slope - x[:, ::-1, 0] @ (lag[:, None] * l ** np.maximum(lag - 1, 0)[:, None])).max(axis=0)
            / np.abs(slope).max(axis=0)
        )
        if k == 0:
            lags = np.asarray(found["lag"]) / by_l**2
            loss = np.mean((found["state"] - found["state"][:, [teacher]]) ** 2, axis=0)
    curve = np.linspace(0.45, 0.985, 300)
    grid = lambda law, l: np.stack([np.asarray(law(l, rho)) for rho in correlations])
    moment, sensitivity = linear.ar1_second_moment, linear.ar1_sensitivity
    return {
        "moment": [m for m, _ in seen], "moment_theory": grid(moment, l),
        "sensitivity": [s for _, s in seen], "sensitivity_theory": grid(sensitivity, l),
        "curve": curve, "curve_moment": grid(moment, curve), "curve_sensitivity": grid(sensitivity, curve),
        "sum_error": np.stack(sums), "lag": lags, "loss": loss,
    }  # fmt: skip


def cured(config: dict[str, Any]) -> dict[str, Any]:
    """The mean square of the derivative by l and by nu, with gamma = sqrt(1 - l^2) before the input."""
    l = np.array(config["decays"])
    x = blocks(config, noise(config, 0.0, 100))
    found = np.mean(measured(lru(l, np.zeros(len(l)), normalized=True), x)["nu"] ** 2, axis=0)
    return {"by_nu": found}


def turning(config: dict[str, Any]) -> dict[str, Any]:
    """The mean square of d Re s / d theta for several theta."""
    phases = np.array(config["phases"])
    cell = lru(np.full(len(phases), config["modulus"]), phases, normalized=False)
    return {"by_theta": np.mean(measured(cell, blocks(config, noise(config, 0.0, 200)))["theta"] ** 2, axis=0)}


def main() -> None:
    """Run it alone: ``python -m experiments.curse_of_memory``."""
    experiments.alone("curse_of_memory")


if __name__ == "__main__":
    main()
