"""Gradient flossing of a tanh network: exponents and singular values before, during and after, on inputs never seen.

h_t = tanh(W h_{t-1} + U x_t) with W_ij ~ N(0, g^2/n), U_i ~ N(0, s^2) and one input x_t ~ N(0, 1), independent in time.
Adam moves W alone, downhill on mean_{i <= k} lambda_i^2 over short windows, each with new inputs.
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
from jacspec import remedies, theory

CONFIG = {
    "seed": 0,
    "size": 80,
    "gain": 1.0,
    "input": 0.3,
    "flossed": [1, 16, 32],
    "window": 75,
    "transient": 10,
    "qr_every": 5,
    "rate": 2e-3,
    "clip": 1.0,
    "block": 10,
    "records": [0, 10, 20, 40, 60, 80, 120, 160],
    "judged": 300,
    "tracked": 32,
    "burn_in": 100,
    "horizons": [50, 100, 200, 300, 400, 500],
    "theory_steps": 1000,
    "theory_points": 16,
}
FULL = {"window": 150, "records": [0, 10, 20, 50, 100, 150, 200, 300, 400, 500], "judged": 2000}
TINY = {
    "size": 8,
    "flossed": [3],
    "window": 10,
    "transient": 3,
    "block": 2,
    "records": [0, 2, 4],
    "judged": 20,
    "tracked": 5,
    "burn_in": 5,
    "horizons": [5, 30],
    "theory_steps": 20,
    "theory_points": 6,
}
MAY_BE_NAN = ("standard_error",)
"""A record too short or too regular to tell its standard error."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """`during` (k, record, i): exponents on fresh inputs; the rest has an axis (before, after k_1, after k_2, ...)."""
    n, ks, total = config["size"], config["flossed"], 2 * len(config["flossed"]) + 2
    key = jax.random.key(config["seed"])
    W = config["gain"] / np.sqrt(n) * jax.random.normal(jax.random.fold_in(key, 0), (n, n))
    U = config["input"] * jax.random.normal(jax.random.fold_in(key, 1), (n, 1))
    network, fresh, unseen = js.cells.Elman(W, U), jax.random.fold_in(key, 2), jax.random.fold_in(key, 3)
    after, during = [], []
    for done, k in enumerate(ks):
        progress(f"flossing {k} exponents", done, total)
        cell, history = flossed(config, network, k, fresh, unseen)
        after.append(cell)
        during.append(history)
    found, whole = [], (config["burn_in"], tuple(config["horizons"]))
    for done, cell in enumerate((network, *after)):
        progress("spectra", len(ks) + done, total)
        found.append(jax.tree.map(np.asarray, judged(cell, jax.random.fold_in(key, 4), *whole)))
    progress("mean field", total - 1, total)
    arrays = {name: np.stack([one[name] for one in found]) for name in found[0]}
    arrays |= mean_field(config) | {"during": np.stack(during)}
    progress("done", total, total)
    return arrays


def chain(cell: js.cells.Elman, key: jax.Array, steps: int) -> js.JacobianChain:
    """The chain of `steps` steps from h = 0 on with inputs drawn from `key`."""
    return js.jacobian_chain(cell, jnp.zeros(len(cell.W)), jax.random.normal(key, (steps, 1)), check=False)


def flossed(
    config: dict[str, Any], network: js.cells.Elman, k: int, fresh: jax.Array, unseen: jax.Array
) -> tuple[js.cells.Elman, np.ndarray]:
    """The network after the last update, and the exponents on `unseen` inputs at every record."""
    optimizer = optax.chain(
        remedies.clip_by_global_norm(config["clip"]),
        optax.adam(optax.cosine_decay_schedule(config["rate"], config["records"][-1])),
    )
    options = {"transient": config["transient"], "qr_every": config["qr_every"]}

    def loss(W: jax.Array, key: jax.Array) -> jax.Array:
        window = chain(js.cells.Elman(W, network.U), key, config["transient"] + config["window"])
        return remedies.flossing(window, k=k, **options)

    def update(carry: Any, key: jax.Array) -> tuple[Any, None]:
        W, state = carry
        change, state = optimizer.update(jax.grad(loss)(W, key), state, W)
        return (optax.apply_updates(W, change), state), None

    descend = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys)[0])
    keys, block = jax.random.split(fresh, config["records"][-1]), config["block"]
    carry, history = (network.W, optimizer.init(network.W)), []
    for done in range(0, config["records"][-1] + 1, block):
        cell = js.cells.Elman(carry[0], network.U)
        if done in config["records"]:
            history.append(np.asarray(leading(cell, unseen, config["judged"], config["burn_in"], config["tracked"])))
        if done < config["records"][-1]:
            carry = descend(carry, keys[done : done + block])
    return js.cells.Elman(carry[0], network.U), np.stack(history)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def leading(cell: js.cells.Elman, key: jax.Array, steps: int, transient: int, k: int) -> jax.Array:
    """The first k exponents on one long sequence."""
    return known(js.lyapunov_exponents(chain(cell, key, transient + steps), k=k, transient=transient)).exponents


@functools.partial(jax.jit, static_argnums=(2, 3))
def judged(cell: js.cells.Elman, key: jax.Array, burn_in: int, horizons: tuple[int, ...]) -> dict[str, jax.Array]:
    """Exponents, singular values at the horizons and gradient norms of random cotangents, all over the same steps.

    `sum_exponents` and `sum_log_det` are the two sides of sum_i lambda_i = mean_t ln abs det J_t.
    """
    inputs = jax.random.normal(key, (burn_in + horizons[-1], 1))
    whole = js.jacobian_chain(cell, jnp.zeros(len(cell.W)), inputs, check=False)
    steps, exponents = whole[burn_in:], known(js.lyapunov_exponents(whole, transient=burn_in))
    a = jax.vmap(cell.preactivation)(steps.states[:-1], inputs[burn_in:])
    cotangents = jax.random.normal(jax.random.fold_in(key, 1), (16, len(cell.W)))
    return {
        "exponents": exponents.exponents,
        "standard_error": exponents.standard_error,
        "sum_exponents": exponents.exponents.sum(),
        "sum_log_det": -2 * jnp.log(jnp.cosh(a)).sum(axis=1).mean() + jnp.linalg.slogdet(cell.W)[1],
        "log_singular_values": known(js.spectrum(steps, at=horizons)).log_singular_values,
        "log_gradient_norms": jax.vmap(lambda v: js.log_gradient_norms(steps, v))(cotangents),
    }


def mean_field(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The spectrum at initialization as n -> infinity.

    Given the inputs, the pre-activations are N(0, q_t) over the units, q_t = g^2 <tanh^2>_{q_{t-1}} + s^2 x_t^2, and the
    factors diag(f'(a_t)) W are free of one another: lambda(u) is the mean over time of the spectra at the q_t.
    """
    gain, points, steps = config["gain"], config["theory_points"], config["theory_steps"]
    inputs = jnp.asarray(np.random.default_rng(config["seed"]).standard_normal(steps))

    def step(q, x):
        own = theory.mean_field.variance_map(
            "tanh", q, weight_variance=gain**2, bias_variance=(config["input"] * x) ** 2
        )
        return own, own

    _, q = jax.lax.scan(step, jnp.zeros(()), inputs)
    typical = jnp.quantile(q, (jnp.arange(points) + 0.5) / points)
    u = (jnp.arange(config["size"]) + 0.5) / config["size"]
    spectra = jax.vmap(lambda q: theory.recurrent.rate_spectrum(u, gain, variance=q))(typical)
    return {"mean_field": np.asarray(spectra.mean(axis=0))}


def main() -> None:
    """Run it alone: ``python -m experiments.flossing``."""
    experiments.alone("flossing")


if __name__ == "__main__":
    main()
