"""Gradient descent on x^4, whose curvature grows with its gradient: no rate fits all starts unless it is clipped.

smoothness  |f''| = 12 x^2 <= L0 + L1 |f'| with L0 = max (12 x^2 - 4 L1 |x|^3) = 16 / L1^2, reached at x = 2 / L1
threshold   x' = x - 4 eta x^3 diverges from |x_0| > 1/sqrt(2 eta), where x' = -x and dx'/dx = 1 - 12 eta x^2 = -5
decay       1/x^2 grows by 8 eta an update, late or with clipping: x_t ~ 1/sqrt(8 eta t)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import experiments
import jacspec as js
from experiments._known import known
from jacspec import remedies

CONFIG = {
    "seed": 0,
    "slopes": [0.5, 1.0, 2.0],
    "grid": [1e-2, 10.0, 30_001],
    "starts": [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0],
    "threshold_steps": 100,
    "start": 5.0,
    "rates": [0.0199, 0.0201],
    "steps": 2000,
    "clip_rate": 0.1,
    "clip_threshold": 1.0,
    "orbit_steps": 10,
    "races": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
    "goal": 0.1,
    "draws": 200,
    "draw_range": [0.1, 100.0],
}
FULL = {"draws": 10_000, "races": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]}
TINY = {
    "grid": [1e-2, 10.0, 11],
    "starts": [1.0, 5.0],
    "threshold_steps": 60,
    "steps": 60,
    "races": [1.0],
    "draws": 3,
    "draw_range": [0.1, 5.0],
}


NEVER = 1e300
"""A norm at which nothing is clipped."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part; names end in `_theory` where a formula gave the number."""
    return experiments.in_parts((smoothness, threshold, orbit, paths, race, draws), config, progress)


def f(x: Array) -> Array:
    """x^4."""
    return x**4


def smoothness(config: dict[str, Any]) -> dict[str, Any]:
    """The curvature against the slope, and the least L0 that each L1 asks for."""
    first, last, count = config["grid"]
    x = np.union1d(np.geomspace(first, last, int(count)), 2 / np.array(config["slopes"]))
    slope, curvature = (np.abs(jax.vmap(d)(jnp.asarray(x))) for d in (jax.grad(f), jax.grad(jax.grad(f))))
    excess = curvature - np.array(config["slopes"])[:, None] * slope
    shown = np.linspace(0, len(x) - 1, 25).astype(int)
    return {
        "slope": slope[shown], "curvature": curvature[shown],
        "L0": excess.max(axis=1), "at": x[excess.argmax(axis=1)],
    }  # fmt: skip


@functools.partial(jax.jit, static_argnums=2)
def plain(x: Array, rate: Array, steps: int) -> Array:
    """Whether gradient descent is farther out after `steps` updates than it was before."""
    move = lambda _, x: x - rate * jax.vmap(jax.grad(f))(x)
    return ~(jnp.abs(jax.lax.fori_loop(0, steps, move, x)) <= jnp.abs(x))


def threshold(config: dict[str, Any]) -> dict[str, Any]:
    """The rate from which gradient descent diverges, by bisection, for several starts."""
    x = jnp.asarray(config["starts"])
    low, high = jnp.full(len(x), 1e-8), jnp.full(len(x), 100.0)
    for _ in range(100):
        middle = jnp.sqrt(low * high)
        out = plain(x, middle, config["threshold_steps"])
        low, high = jnp.where(out, low, middle), jnp.where(out, middle, high)
    return {"rate": high, "rate_theory": 1 / (2 * np.array(config["starts"]) ** 2)}


def orbit(config: dict[str, Any]) -> dict[str, Any]:
    """ln |dx_t/dx_0| of the update as a recurrent network: on the threshold, below it, and while it is clipped."""
    T, start = config["orbit_steps"], jnp.full(1, config["start"])
    limit, norm = 1 / (2 * config["start"] ** 2), config["clip_threshold"]

    def update(norm, x, rate):
        clip = remedies.clip_by_global_norm(norm)
        return x - rate * clip.update(jax.vmap(jax.grad(f))(x), clip.init(x))[0]

    cases = ((NEVER, limit), (NEVER, 0.25 * limit), (norm, config["clip_rate"]))
    t = np.arange(T + 1)
    logs = []
    for bound, rate in cases:
        chain = js.jacobian_chain(functools.partial(update, bound), start, jnp.full(T, rate))
        logs.append(known(js.spectrum(chain, at=t)).log_singular_values[:, 0])
    return {"t": t, "log": np.stack(logs)}


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def descend(x: Array, rate: Array, norm: float, steps: int, goal: float) -> tuple[Array, Array]:
    """x_0 ... x_T of the optimizer from starts (m,), and the number of updates after which |x| <= goal for the first time."""

    def one(x, rate):
        optimizer = optax.chain(remedies.clip_by_global_norm(norm), optax.sgd(1.0))

        def update(carry, _):
            x, state, at = carry
            # the optimizer clips the gradient and has rate 1, so that the rate may be traced
            step, state = optimizer.update(jax.grad(f)(x), state)
            new = x + rate * step
            return (new, state, at + (jnp.abs(x) > goal)), x

        (_, _, at), path = jax.lax.scan(update, (x, optimizer.init(x), 0), length=steps + 1)
        return path, at

    return jax.vmap(one)(x, rate)


def paths(config: dict[str, Any]) -> dict[str, Any]:
    """|x_t| with rates on both sides of the threshold, and clipped with a rate far beyond it."""
    T, x = config["steps"], config["start"]
    slow, _ = descend(jnp.full(2, x), jnp.asarray(config["rates"]), NEVER, T, 0.0)
    clip, _ = descend(jnp.full(1, x), jnp.full(1, config["clip_rate"]), config["clip_threshold"], T, 0.0)
    found = np.abs(np.concatenate([slow, clip]))
    return {"x": np.where(found < NEVER, found, NEVER)}  # NaN and inf as well


def race(config: dict[str, Any]) -> dict[str, Any]:
    """Updates until |x| <= goal: plain descent at a quarter of its largest rate against clipping, and the laws of both.

    1/x^2 grows by 8 eta + 48 eta^2 x^2 + ... an update, so that the way from a to b takes (1/b^2 - 1/a^2) / (8 eta) -
    (3/4) ln(a^2/b^2) updates: from x_0, or from where the clipping ends, x_c = (c/4)^(1/3), (x_0 - x_c) / (eta c) later.
    """
    x, goal, rate = np.array(config["races"]), config["goal"], config["clip_rate"]
    free, norm = 1 / (8 * x**2), config["clip_threshold"]
    inside = (norm / 4) ** (1 / 3)
    late = lambda rate, start: (1 / goal**2 - 1 / start**2) / (8 * rate) - 1.5 * np.log(start / goal)
    expected = np.stack([late(free, x), (x - inside) / (rate * norm) + late(rate, inside)])
    steps = int(1.05 * expected.max() + 100)
    args = ((free, NEVER), (np.full(len(x), rate), norm))
    found = [descend(jnp.asarray(x), jnp.asarray(rates), norm, steps, goal)[1] for rates, norm in args]
    return {"updates": np.stack(found), "updates_theory": expected}


def draws(config: dict[str, Any]) -> dict[str, Any]:
    """Random starts, clipped: how long their gradients stay above the threshold, and where they are in the end."""
    random = np.random.default_rng(config["seed"])
    low, high = np.log(config["draw_range"])
    x = np.exp(random.uniform(low, high, config["draws"])) * random.choice([-1, 1], config["draws"])
    rate, norm = config["clip_rate"], config["clip_threshold"]
    inside = (norm / 4) ** (1 / 3)
    steps = config["steps"]
    path, updates = descend(jnp.asarray(x), jnp.full(len(x), rate), norm, steps, inside)
    return {"start": x, "updates": updates, "last": np.abs(path[:, -1])}


def main() -> None:
    """Run it alone: ``python -m experiments.smoothness_clipping``."""
    experiments.alone("smoothness_clipping")


if __name__ == "__main__":
    main()
