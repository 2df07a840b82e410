"""The whole Lyapunov spectrum of random tanh networks, autonomous and driven, beside mean-field theory.

The autonomous network h_t = W tanh(h_{t-1}), W_ij ~ N(0, g^2/n), is run as the cell a_t -> tanh(W a): with
h = W a the two are one system in two gauges, J_t = diag(f'(W a_{t-1})) W, and have the same exponents. The driven one
is h_t = tanh(W h_{t-1} + sigma x_t) with x_t ~ N(0, 1), independent over units and steps.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import experiments
import jacspec as js
from experiments._known import known
from jacspec.theory import recurrent

CONFIG = {
    "seed": 0,
    "gains": [1.5, 3.0, 5.0],
    "inputs": [0.0, 1.0],
    "size": 200,
    "steps": 800,
    "large_size": 300,
    "large_gain": 3.0,
    "large_seeds": 4,
    "large_steps": 1000,
    "burn_in": 300,
    "transient": 100,
    "curve_gains": [0.6, 0.8, 0.9, 1.1, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0],
    "curve_steps": 1000,
    "curve_seeds": 3,
    "theory_points": 200,
    "theory_gains": 36,
}
FULL = {"size": 1000, "steps": 2000, "large_size": 1000, "large_steps": 4000, "curve_steps": 10_000}
TINY = {
    "size": 12,
    "steps": 40,
    "large_size": 16,
    "large_steps": 40,
    "large_seeds": 2,
    "burn_in": 20,
    "transient": 10,
    "curve_gains": [0.8, 2.0],
    "curve_steps": 30,
    "curve_seeds": 2,
    "theory_points": 20,
    "theory_gains": 4,
}
MAY_BE_NAN = ("standard_error",)
"""A record too short or too regular to tell its standard error."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Spectra, their standard errors and their theory; `small_*` have axes (gain, input, ...), `large_*` (seed, ...)."""
    small = list(itertools.product(config["gains"], config["inputs"]))
    tasks = [("large", config["large_gain"], 0.0, seed) for seed in range(config["large_seeds"])]
    tasks += [("small", g, sigma, 1000) for g, sigma in small]
    results = []
    # LAPACK gains little from a second thread at these sizes, and loses much where it must wait for one
    with threadpool_limits(1):
        for done, (kind, g, sigma, seed) in enumerate(tasks):
            prefix = "large_" if kind == "large" else ""
            n, steps = config[prefix + "size"], config[prefix + "steps"]
            progress(f"spectrum n={n}, g={g:g}", done, len(tasks) + 1)
            results.append(whole_spectrum(config, n, steps, g, sigma, seed))
        progress("leading exponents", len(tasks), len(tasks) + 1)
        curves = leading_curve(config)
    progress("done", len(tasks) + 1, len(tasks) + 1)
    shape = (len(config["gains"]), len(config["inputs"]))
    arrays = {f"large_{k}": np.stack([r[k] for r in results[: config["large_seeds"]]]) for k in results[0]}
    stacked = {k: np.stack([r[k] for r in results[config["large_seeds"] :]]) for k in results[0]}
    arrays |= {f"small_{k}": v.reshape(shape + v.shape[1:]) for k, v in stacked.items()}
    return arrays | curves | theory(config)


def attractor_chain(config: dict[str, Any], cell: js.cells.Elman, noise: Any, key: Any, steps: int) -> js.JacobianChain:
    """The chain of `steps` steps that follow the burn-in; `noise`, (burn-in + steps, n), drives a cell with U."""
    n, total = cell.W.shape[0], config["burn_in"] + steps
    xs = None if cell.U is None else noise
    h0 = jax.random.normal(key, (n,))
    return js.jacobian_chain(cell, h0, xs, length=total, check=False)[config["burn_in"] :]


def draw(config: dict[str, Any], n: int, g: float, sigma: float, seed: int, steps: int) -> tuple[Any, Any, Any]:
    """A cell, its noise (None where nothing drives it) and a key for the first state."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config["seed"]), seed), 3)
    W = g / np.sqrt(n) * jax.random.normal(keys[0], (n, n))
    noise = jax.random.normal(keys[1], (config["burn_in"] + steps, n)) if sigma else None
    return js.cells.Elman(W, sigma * jnp.eye(n) if sigma else None), noise, keys[2]


def whole_spectrum(config: dict[str, Any], n: int, steps: int, g: float, sigma: float, seed: int) -> dict[str, Any]:
    """All n exponents of one network, and both sides of the sum rule over the same steps."""
    total, skip = config["transient"] + steps, config["burn_in"] + config["transient"]
    cell, noise, key = draw(config, n, g, sigma, seed, total)
    chain = attractor_chain(config, cell, noise, key, total)
    found = known(js.lyapunov_exponents(chain, transient=config["transient"]))
    before = chain.states[config["transient"] : -1]
    a = jax.vmap(cell.preactivation)(before, *([] if noise is None else [noise[skip:]]))
    log_slopes = -2 * (jnp.abs(a) + jnp.log1p(jnp.exp(-2 * jnp.abs(a))) - np.log(2))
    return {
        "exponents": np.asarray(found.exponents),
        "standard_error": np.asarray(found.standard_error),
        "resolved": np.asarray(found.resolved),
        "dimension": np.asarray(found.kaplan_yorke_dimension),
        "entropy": np.asarray(found.entropy_rate),
        "sum": np.asarray(found.exponents.sum()),
        "sum_rule": np.asarray(log_slopes.mean(axis=0).sum() + jnp.linalg.slogdet(cell.W)[1]),
    }


def leading_curve(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """lambda_1 against the gain, axes (input, gain, seed): the same draws of W / g at every gain."""
    n, steps, gains = config["size"], config["transient"] + config["curve_steps"], jnp.asarray(config["curve_gains"])

    def leading(sigma, seed):
        unit, noise, key = draw(config, n, 1.0, sigma, 2000 + seed, steps)

        def at(g):
            chain = attractor_chain(config, js.cells.Elman(g * unit.W, unit.U), noise, key, steps)
            return known(js.lyapunov_exponents(chain, k=1, transient=config["transient"])).exponents[0]

        return jax.vmap(at)(gains)

    runs = [[leading(sigma, seed) for seed in range(config["curve_seeds"])] for sigma in config["inputs"]]
    return {"curve_gains": np.asarray(gains), "curve_leading": np.swapaxes(np.array(runs), 1, 2)}


def theory(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Mean-field values at the gains that were run, axes (gain, input), and along a curve of gains."""
    points = config["theory_points"]
    u = (jnp.arange(points) + 0.5) / points
    fine = np.union1d(np.geomspace(0.5, 10, config["theory_gains"]), [1.0])
    variances = jnp.asarray(config["inputs"]) ** 2
    network = lambda g, v: recurrent.rate_network(g, input_variance=v)
    spectrum = lambda g, v: recurrent.rate_spectrum(u, g, input_variance=v)

    def table(question, gains):
        each = jax.vmap(jax.vmap(question, (None, 0)), (0, None))
        return each(jnp.asarray(gains, float), variances)

    def fields(found, *names):
        if not found.converged.all():
            msg = f"mean field is not known to its digits at {int((~found.converged).sum())} points"
            raise experiments.DoubtfulResult(msg)
        return {name: np.asarray(getattr(found, name)) for name in names}

    names = "leading", "dimension", "entropy"
    gains = [*config["gains"], config["large_gain"]]
    of_runs = fields(table(network, gains), *names, "mean") | {"spectrum": np.asarray(table(spectrum, gains))}
    found = {f"theory_{name}": a[:-1] for name, a in of_runs.items()}
    found |= {f"large_theory_{name}": a[-1, 0] for name, a in of_runs.items()}
    found |= {f"fine_{name}": a for name, a in fields(table(network, fine), *names).items()}
    return found | {"theory_u": np.asarray(u), "fine_gains": fine}


def main() -> None:
    """Run it alone: ``python -m experiments.lyapunov_tanh_rnn``."""
    experiments.alone("lyapunov_tanh_rnn")


if __name__ == "__main__":
    main()
