"""Where the attractors of one unit appear and vanish: the folds of a sigmoid unit, and the latch of a tanh unit.

sigmoid   h' = s(w h + b), x = logit h: two folds in b for w > 4, three fixed points between them
tanh      a' = tanh(w a - u): latched at a > 0 up to the input u = h*(w), where that fixed point meets the unstable one
wall      b = x_0 - w s(x_0): the start x_0 is the unstable fixed point, and the error of a task jumps

Just beyond a fold x' = x + a x^2 + delta has no fixed point but a narrow passage, pi / sqrt(a delta) steps long.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

import experiments
import jacspec as js
from experiments._known import known
from jacspec.theory import scalar

CONFIG = {
    "seed": 0,
    "weight": 5.0,
    "biases": [-2.9, -2.1, 41],
    "steps": 20_000,
    "named_biases": [-2.3, -2.5, -2.7],
    "starts": 32,
    "points": 17,
    "rounds": 7,
    "boundaries": 15,
    "latch_weights": [1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0],
    "exponent_steps": 200,
    "escape_distances": [1e-6, 1e-1, 11],
    "wall_weights": [4.3, 8.0, 20],
    "wall_offset": 1e-4,
    "start": 0.5,
    "target": 0.7,
}
FULL = {"biases": [-2.9, -2.1, 161], "starts": 1000, "boundaries": 60, "escape_distances": [1e-6, 1e-1, 31]}
TINY = {
    "biases": [-2.9, -2.1, 5],
    "steps": 400,
    "starts": 4,
    "points": 5,
    "rounds": 2,
    "boundaries": 3,
    "latch_weights": [1.25, 5.0],
    "exponent_steps": 20,
    "escape_distances": [1e-3, 1e-1, 3],
    "wall_weights": [5.0, 8.0, 3],
}


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part; names end in `_theory` where a formula gave the number."""
    return experiments.in_parts((branches, folds, attractors, basins, latch, escapes, wall), config, progress)


@functools.partial(jax.jit, static_argnums=(0, 4))
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, None))
def orbit(activation: str, w: Any, b: Any, h0: Any, steps: int) -> tuple[jax.Array, jax.Array]:
    """h_T, and the first t at which h_t lies on the other side of h_mid = f(0) than h_0 (T + 1: never)."""
    cell = js.cells.Elman(w[None, None], b=b[None], activation=activation)
    states = js.jacobian_chain(cell, h0[None], length=steps, check=False).states[:, 0]
    crossed = (states > cell.f(0.0)) != (h0 > cell.f(0.0))
    return states[-1], jnp.where(crossed.any(), jnp.argmax(crossed), steps + 1)


def settle(activation: str, w: Any, b: Any, h0: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """`orbit` for arrays of any shape."""
    w, b, h0 = np.broadcast_arrays(w, b, h0)
    found = orbit(activation, *(jnp.asarray(a.ravel(), float) for a in (w, b, h0)), steps)
    last, crossing = (np.asarray(a).reshape(w.shape) for a in found)
    return last, crossing


def between(low: Any, high: Any, above: Any, config: dict[str, Any]) -> np.ndarray:
    """The place in each interval (m,) where `above`, false at low and true at high, turns; `points` tries a round."""
    low, high = np.array(low, float), np.array(high, float)
    rows = np.arange(len(low))
    for _ in range(config["rounds"]):
        tries = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, config["points"])
        first = np.clip(above(tries).argmax(axis=1), 1, None)
        low, high = tries[rows, first - 1], tries[rows, first]
    return 0.5 * (low + high)


@functools.partial(jax.jit, static_argnums=(0, 4))
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, None))
def exponent(activation: str, w: Any, b: Any, h: Any, steps: int) -> jax.Array:
    """The Lyapunov exponent from the state h on, nats per step."""
    cell = js.cells.Elman(w[None, None], b=b[None], activation=activation)
    return known(js.lyapunov_exponents(js.jacobian_chain(cell, h[None], length=steps, check=False))).exponents[0]


def branches(config: dict[str, Any]) -> dict[str, Any]:
    """States reached from below and from above, with their exponents, against the bias."""
    w, b = config["weight"], np.linspace(*config["biases"])
    h, _ = settle("sigmoid", w, b, np.array([[0.0], [1.0]]), config["steps"])
    rates = [
        exponent("sigmoid", jnp.full(len(b), w), jnp.asarray(b), jnp.asarray(row), config["exponent_steps"])
        for row in h
    ]
    lower, _, upper = np.asarray(scalar.sigmoid_fixed_points(w, b))
    lower, upper = np.where(np.isnan(lower), upper, lower), np.where(np.isnan(upper), lower, upper)
    x = np.stack([lower, upper])  # beyond a fold both starts lead to the one that is left
    return {
        "b": b, "state": logit(h), "state_theory": x,
        "exponent": np.stack(rates), "exponent_theory": np.log(w * expit(x) * expit(-x)),
    }  # fmt: skip


def folds(config: dict[str, Any]) -> dict[str, Any]:
    """The biases beyond which the lower and the upper branch are gone."""
    theory = scalar.sigmoid_folds(config["weight"])
    starts = np.array([[0.0], [1.0]])  # each far on its own branch

    def gone(b):
        signed = np.array([[1.0], [-1.0]]) * b  # the lower branch goes where b grows, the upper where it falls
        return settle("sigmoid", config["weight"], signed, starts, config["steps"])[1] <= config["steps"]

    found = between([-2.5, 2.5], [-2.1, 2.9], gone, config) * np.array([1, -1])
    return {"bias": found, "bias_theory": theory.bias, "state_theory": theory.state}


def attractors(config: dict[str, Any]) -> dict[str, Any]:
    """How many attractors random starts lead to."""
    starts = np.random.default_rng(config["seed"]).uniform(0, 1, config["starts"])
    starts[:2] = 0.001, 0.999
    h, _ = settle("sigmoid", config["weight"], np.array(config["named_biases"])[:, None], starts, config["steps"])
    return {"count": [len(np.unique(row.round(3))) for row in h]}


def basins(config: dict[str, Any]) -> dict[str, Any]:
    """The start between the basins of the two branches: the unstable fixed point."""
    lower, upper = np.asarray(scalar.sigmoid_folds(config["weight"]).bias)[::-1]
    b = np.linspace(lower, upper, config["boundaries"] + 2)[1:-1]
    unstable = np.asarray(scalar.sigmoid_fixed_points(config["weight"], b))[1]

    def above(h):
        return settle("sigmoid", config["weight"], b[:, None], h, config["steps"] // 10)[0] > expit(unstable)[:, None]

    found = between(np.zeros(len(b)), np.ones(len(b)), above, config)
    return {"b": b, "start": logit(found), "start_theory": unstable}


def latch(config: dict[str, Any]) -> dict[str, Any]:
    """The input that unlatches a' = tanh(w a - u), and the exponent of the latched unit on the way there."""
    w = np.array(config["latch_weights"])
    theory = np.asarray(scalar.latching_threshold(w))
    flips = lambda u: settle("tanh", w[:, None], -u, 1.0, config["steps"])[1] <= config["steps"]
    found = between(0.5 * theory, 1.5 * theory, flips, config)
    fraction = np.linspace(0, 0.95, 11)
    inputs = theory[:, None] * fraction
    a, _ = settle("tanh", w[:, None], -inputs, 1.0, config["steps"])
    ravel = lambda x: jnp.asarray(np.broadcast_to(x, a.shape).ravel())
    rates = exponent("tanh", ravel(w[:, None]), ravel(-inputs), ravel(a), config["exponent_steps"])
    # the latched fixed point: v + u = w tanh v beyond the fold at v = artanh sqrt(1 - 1/w); u + v <= w
    left = lambda v, w, u: w * np.tanh(v) - v - u
    roots = [
        [brentq(left, np.arctanh(np.sqrt(1 - 1 / w_)), w_, args=(w_, u), xtol=1e-14) for u in row]
        for w_, row in zip(w, inputs, strict=True)
    ]
    curve = np.linspace(1.001, 5.3, 200)
    return {
        "input": found, "input_theory": theory, "curve": curve, "curve_theory": scalar.latching_threshold(curve),
        "fraction": fraction, "exponent": np.asarray(rates).reshape(a.shape),
        "exponent_theory": np.log(w[:, None] / np.cosh(roots) ** 2),
    }  # fmt: skip


def escapes(config: dict[str, Any]) -> dict[str, Any]:
    """Steps through the passage at the distance delta beyond the fold of either unit, and pi / sqrt(a delta)."""
    first, last, count = config["escape_distances"]
    delta = np.geomspace(first, last, int(count))
    w = config["weight"]
    fold, threshold = float(scalar.sigmoid_folds(w).bias[0]), float(scalar.latching_threshold(w))
    sigmoid = settle("sigmoid", w, fold + delta, 0.0, config["steps"])[1]
    tanh = settle("tanh", w, -threshold - delta, 1.0, config["steps"])[1]
    # a = w f'' / 2 where w f' = 1: |1 - 2 s| / 2 for the sigmoid, tanh = sqrt(1 - 1/w) for tanh
    curvature = np.array([0.5 * np.sqrt(1 - 4 / w), np.sqrt(1 - 1 / w)])
    return {"delta": delta, "time": np.stack([sigmoid, tanh]), "curvature_theory": curvature}


def wall(config: dict[str, Any]) -> dict[str, Any]:
    """The error of Pascanu's task on both sides of the wall, and how a state leaves it."""
    first, last, count = config["wall_weights"]
    w, offset = np.linspace(first, last, int(count)), config["wall_offset"]
    options = {"start": config["start"], "target": config["target"]}
    theory = scalar.wall(w, offset=offset, **options)
    h0 = expit(config["start"])
    sides = np.asarray(theory.bias) + offset * np.array([[-1.0], [1.0]])
    h, _ = settle("sigmoid", w, sides, h0, config["steps"])
    curve = np.linspace(first, last, 200)
    limits = scalar.wall(curve, **options)
    return {
        "w": w, "error": (h - config["target"]) ** 2, "error_theory": [theory.error_below, theory.error_above],
        "curve": curve, "curve_theory": [limits.error_below, limits.error_above],
    }  # fmt: skip


def main() -> None:
    """Run it alone: ``python -m experiments.bifurcations``."""
    experiments.alone("bifurcations")


if __name__ == "__main__":
    main()
