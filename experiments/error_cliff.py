"""The wall in the error surface of one sigmoid unit, and descents that meet it with and without clipping by norm.

x_t = w s(x_{t-1}) + b from x_0 = 1/2, E = (s(x_T) - 0.7)^2. With h = s(x) that is an Elman cell of one unit. On the
line b = x_0 - w s(x_0) the start is an unstable fixed point for w > 1/s'(x_0): dx_T/dx_0 = (w s'(x_0))^T.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.special import expit

import experiments
import jacspec as js
from experiments._known import known
from jacspec import remedies

CONFIG = {
    "seed": 0,
    "steps": 50,
    "start": 0.5,
    "target": 0.7,
    "window": [0.0, 8.0, -4.0, 1.0],
    "grid": [161, 201],
    "ridge": [4.6, 5.0, 5.5, 6.0, 6.5, 7.0],
    "ridge_points": 801,
    "batch": 2048,
    "slices": [5.0, 6.0, 7.0],
    "slice_points": 142,
    "starts": 40,
    "updates": 1000,
    "rate": 0.1,
    "threshold": 0.5,
}
FULL = {"grid": [641, 801], "starts": 400, "updates": 4000}
TINY = {"batch": 64, "grid": [9, 11], "ridge_points": 41, "slice_points": 14, "starts": 4, "updates": 20}

NEGLIGIBLE = -300.0
"""A gradient below e^-300 changes no digit of a parameter, also where it is not resolved: behind a jump the unit is saturated."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part; names end in `_theory` where a formula gave the number."""
    return experiments.in_parts((surface, ridge, section, descent), config, progress)


def unit(w: Array, b: Array) -> js.cells.Elman:
    """h' = s(w h + b)."""
    return js.cells.Elman(w[None, None], b=b[None], activation="sigmoid")


def loss(config: dict[str, Any], w: Array, b: Array) -> tuple[Array, Array, js.JacobianChain]:
    """E, dE/dh_T and the chain of the unit."""
    h0 = jnp.full(1, expit(config["start"]))
    chain = js.jacobian_chain(unit(w, b), h0, length=config["steps"], check=False)
    miss = chain.states[-1] - config["target"]
    return miss[0] ** 2, 2 * miss, chain


@functools.cache
def program(steps: int, start: float, target: float) -> Any:
    """E, ln ||dE/d(w, b)|| and ln |dx_T/dx_0| at many points, compiled."""
    config = {"steps": steps, "start": start, "target": target}

    def one(w, b):
        E, cotangent, chain = loss(config, w, b)
        first, last = chain.states[0], chain.states[-1]
        options = {"cotangent": cotangent, "length": steps, "check": False}
        gradient = known(js.parameter_gradient_norms(unit(w, b), first, **options)).step_total
        # h_t = s(x_t), so that dx_T/dx_0 = s'(x_0) / s'(x_T) dh_T/dh_0
        slope = lambda h: jnp.log(h[0] * (1 - h[0]))
        amplified = js.log_gradient_norms(chain, jnp.ones(1))[0] + slope(first) - slope(last)
        return E, gradient, amplified

    return jax.jit(jax.vmap(one))


def measured(config: dict[str, Any], w: Any, b: Any) -> tuple[np.ndarray, ...]:
    """E, ln ||dE/d(w, b)|| and ln |dx_T/dx_0| at points (w, b), as arrays like w; one program for any number."""
    w, b = np.broadcast_arrays(w, b)
    points = np.stack([w.ravel(), b.ravel()])
    points = np.pad(points, ((0, 0), (0, -w.size % config["batch"])), mode="edge")
    run = program(config["steps"], config["start"], config["target"])
    found = [run(*part) for part in np.split(points, points.shape[1] // config["batch"], axis=1)]
    return tuple(np.concatenate(values)[: w.size].reshape(w.shape) for values in zip(*found, strict=True))


def surface(config: dict[str, Any]) -> dict[str, Any]:
    """E and its gradient on a grid of the published window, as (b, w)."""
    w0, w1, b0, b1 = config["window"]
    w, b = np.linspace(w0, w1, config["grid"][0]), np.linspace(b0, b1, config["grid"][1])
    E, gradient, _ = measured(config, w, b[:, None])
    return {"w": w, "b": b, "error": E, "log_gradient": gradient}


def ridge(config: dict[str, Any]) -> dict[str, Any]:
    """Where along b the gradient is largest, and the amplification on the wall, for several w."""
    w = np.asarray(config["ridge"])
    theory = js.theory.scalar.wall(w, start=config["start"], target=config["target"])
    # as the state leaves the wall like (b - b*) (w s')^t, the wall is (w s')^-T wide: look 40 widths to each side
    width = np.exp(-config["steps"] * np.asarray(theory.log_slope))
    offsets = 40 * width[:, None] * np.linspace(-1, 1, config["ridge_points"])
    at = np.asarray(theory.bias)[:, None] + offsets
    _, gradient, _ = measured(config, w[:, None], at)
    _, _, amplified = measured(config, w, np.asarray(theory.bias))
    top = gradient.argmax(axis=1)
    return {
        "offset": np.take_along_axis(offsets, top[:, None], 1)[:, 0], "width": width,
        "largest": gradient.max(axis=1), "amplified": amplified, "amplified_theory": -np.log(width),
    }  # fmt: skip


def section(config: dict[str, Any]) -> dict[str, Any]:
    """E and its gradient against the distance from the wall, (w, distance), and the limits of E for long times."""
    w = np.asarray(config["slices"])
    distance = np.geomspace(1e-13, 1, config["slice_points"] // 2)
    distance = np.concatenate([-distance[::-1], distance])
    theory = js.theory.scalar.wall(w, start=config["start"], target=config["target"])
    E, gradient, _ = measured(config, w[:, None], np.asarray(theory.bias)[:, None] + distance)
    return {
        "distance": distance, "error": E, "log_gradient": gradient,
        "below_theory": theory.error_below, "above_theory": theory.error_above,
    }  # fmt: skip


def descent(config: dict[str, Any]) -> dict[str, Any]:
    """Gradient descent from starts above the wall, plain and clipped: (2, starts, updates + 1) points (w, b)."""
    random = np.random.default_rng(config["seed"])
    w = random.uniform(5.5, 7.0, config["starts"])
    wall = js.theory.scalar.wall(w, start=config["start"], target=config["target"]).bias
    b = np.asarray(wall) + random.uniform(0.05, 1.0, config["starts"])
    sgd = optax.sgd(config["rate"])
    optimizers = (sgd, optax.chain(remedies.clip_by_global_norm(config["threshold"]), sgd))

    def gradient(params):
        E, cotangent, chain = loss(config, params["w"], params["b"])
        by_time = js.parameter_gradient_by_lag(
            unit(**params), chain.states[0], None, cotangent, length=config["steps"], terms=True, check=False
        )
        counts = by_time.resolved | (by_time.log_norms < NEGLIGIBLE)
        logs = jnp.where(counts, by_time.log_norms, jnp.nan)
        total = lambda terms: jnp.sum(jnp.exp(logs) * terms.reshape(config["steps"]))
        return E, {"w": total(by_time.terms.W), "b": total(by_time.terms.b)}

    def descend(optimizer, params):
        def update(carry, _):
            params, state = carry
            E, g = gradient(params)
            step, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, step), state), (params["w"], params["b"], E)

        return jax.lax.scan(update, (params, optimizer.init(params)), length=config["updates"] + 1)[1]

    starts = {"w": jnp.asarray(w), "b": jnp.asarray(b)}
    paths = [jax.jit(jax.vmap(functools.partial(descend, optimizer)))(starts) for optimizer in optimizers]
    w, b, error = (np.stack(values) for values in zip(*paths, strict=True))
    return {"w": w, "b": b, "error": error}


def main() -> None:
    """Run it alone: ``python -m experiments.error_cliff``."""
    experiments.alone("error_cliff")


if __name__ == "__main__":
    main()
