"""How deep linear networks learn: one mode after the other, each on a curve that is known in closed form.

Gradient flow on |W_D ... W_1 - U S V^T|^2 / 2 from W_i = R_i a R_{i-1}^T (orthogonal R, R_0 = V, R_D = U) keeps the modes
apart, and the strength u = a^D of a mode of the target strength s obeys

    u' = D u^(2 - 2/D) (s - u),        D = 2:  u(t) = s e^(2st) / (e^(2st) - 1 + s/u_0)

(Saxe, McClelland & Ganguli 2014). The network's Jacobian is W_D ... W_1, so that u are its singular values.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.integrate import solve_ivp

import experiments
import jacspec as js
from experiments._known import known

CONFIG = {
    "seed": 0,
    "size": 16,
    "modes": [4.0, 3.0, 2.0, 1.0],
    "start": 1e-3,
    "time": 6.0,
    "rate": 2e-3,
    "snapshots": 61,
    "small": 1e-2,
    "hidden": 64,
    "seeds": 5,
    "depths": [2, 3, 5, 8, 12],
    "depth_start": 0.05,
    "depth_mode": 2.0,
    "depth_time": 9.0,
    "deep": 10,
    "deep_time": 12.0,
}
FULL = {"size": 32, "hidden": 256, "seeds": 20, "rate": 5e-4, "depths": [2, 3, 5, 8, 12, 20, 30]}
TINY = {
    "size": 4,
    "modes": [4.0, 2.0],
    "time": 0.4,
    "rate": 2e-2,
    "snapshots": 3,
    "hidden": 6,
    "seeds": 2,
    "depths": [2, 3],
    "depth_time": 1.0,
    "deep": 3,
    "deep_time": 1.0,
}


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part; names end in `_theory` where a formula or the ODE gave the number."""
    return experiments.in_parts((aligned, unaligned, depths, isometry), config, progress)


def network(weights: list[Array]) -> Array:
    """The map of a deep linear network, applied to the unit vectors: (W_D ... W_1)^T."""
    h = jnp.eye(weights[0].shape[1])
    for W in weights:
        h = jax.vmap(js.layers.Dense(W))(h)
    return h


@functools.partial(jax.jit, static_argnums=4)
def descend(weights: list[Array], target: Array, rate: Array, every: Array, count: int) -> list[Array]:
    """The weights after 0, every, 2 every ... updates of gradient descent, `count` times."""
    optimizer = optax.sgd(rate)
    loss = lambda weights: 0.5 * jnp.sum((network(weights) - target.T) ** 2)

    def update(_, carry):
        weights, state = carry
        step, state = optimizer.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, step), state

    def stage(carry, _):
        return jax.lax.fori_loop(0, every, update, carry), carry[0]

    return jax.lax.scan(stage, (weights, optimizer.init(weights)), length=count)[1]


def snapshots(
    weights: list[Any], target: Any, time: float, rate: float, count: int, finer: int = 1
) -> tuple[np.ndarray, list[Array]]:
    """Times and weights of gradient descent at `count` equal times from 0 to `time`; `finer` times as many updates."""
    every = max(1, round(time / rate / (count - 1)))
    path = descend(
        [jnp.asarray(W) for W in weights],
        jnp.asarray(target),
        jnp.asarray(rate / finer),
        jnp.asarray(every * finer),
        count,
    )
    return rate * every * np.arange(count), path


@jax.jit
@jax.vmap
def strengths(weights: list[Array], U: Array, V: Array) -> Array:
    """u_k . W_D ... W_1 v_k for the columns of U and V."""
    unit, log = js.JacobianChain.from_matrices(weights, check=False).push(V)
    return jnp.sum(U * unit, axis=0) * jnp.exp(log)


@jax.jit
@jax.vmap
def singular(weights: list[Array]) -> Array:
    """Log singular values of the network's Jacobian."""
    return known(js.spectrum(js.JacobianChain.from_matrices(jnp.stack(weights), check=False))).log_singular_values


def repeated(a: np.ndarray, count: int) -> Array:
    """One copy for each snapshot."""
    return jnp.broadcast_to(a, (count, *a.shape))


def orthogonal(random: np.random.Generator, n: int) -> np.ndarray:
    """Haar distributed."""
    Q, R = np.linalg.qr(random.normal(size=(n, n)))
    return Q * np.sign(np.diag(R))


def target(random: np.random.Generator, n: int, modes: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U S V^T of the given singular values and zeros, and the columns of U and V that belong to them."""
    U, V = (orthogonal(random, n)[:, : len(modes)] for _ in range(2))
    return U * np.array(modes) @ V.T, U, V


def mode(t: np.ndarray, s: float, start: float) -> np.ndarray:
    """u(t) of two layers."""
    return s / (1 + (s / start - 1) * np.exp(-2 * s * t))


def flow(t: np.ndarray, s: float, start: float, D: int) -> np.ndarray:
    """u(t) of D layers, by integrating ln u."""
    slope = lambda _, log_u: D * np.exp((1 - 2 / D) * log_u) * (s - np.exp(log_u))
    found = solve_ivp(slope, (0, t[-1]), [np.log(start)], "DOP853", t, rtol=1e-12, atol=1e-12)
    return np.exp(found.y[0])


def balanced(random: np.random.Generator, U: np.ndarray, V: np.ndarray, start: float, D: int) -> list[np.ndarray]:
    """D weights of which the k-th mode has the strength `start`, the same in every layer."""
    n, k = U.shape
    frames = [V, *(orthogonal(random, n)[:, :k] for _ in range(D - 1)), U]
    return [start ** (1 / D) * after @ before.T for before, after in itertools.pairwise(frames)]


def aligned(config: dict[str, Any]) -> dict[str, Any]:
    """Two layers from modes that are apart: strengths at the rate and at half of it, and the closed form."""
    random = np.random.default_rng(config["seed"])
    S, U, V = target(random, config["size"], config["modes"])
    weights, count = balanced(random, U, V, config["start"], 2), config["snapshots"]
    found = []
    for finer in (1, 2):
        t, path = snapshots(weights, S, config["time"], config["rate"], count, finer)
        found.append(strengths(path, repeated(U, count), repeated(V, count)))
    theory = np.stack([mode(t, s, config["start"]) for s in config["modes"]], axis=1)
    logs = singular(path)[:, : len(config["modes"])]
    curve = np.linspace(0, t[-1], 301)
    return {
        "t": t, "strength": np.stack(found), "strength_theory": theory, "log": logs,
        "curve": curve, "curve_theory": np.stack([mode(curve, s, config["start"]) for s in config["modes"]], axis=1),
    }  # fmt: skip


def unaligned(config: dict[str, Any]) -> dict[str, Any]:
    """Two layers from small random weights: a mode grows from the part of them that lies along it.

    While all is small, a = W_1 v and b = W_2^T u obey a' = s b, b' = s a: a mode of strength |a + b|^2 / 4 e^(2st).
    """
    n, h, count = config["size"], config["hidden"], config["snapshots"]
    found, theory = [], []
    for seed in range(config["seeds"]):
        random = np.random.default_rng((config["seed"], seed))
        S, U, V = target(random, n, config["modes"])
        W1, W2 = (config["small"] * random.normal(size=shape) / np.sqrt(h) for shape in ((h, n), (n, h)))
        t, path = snapshots([W1, W2], S, 1.5 * config["time"], config["rate"], count)
        found.append(strengths(path, repeated(U, count), repeated(V, count)))
        start = np.sum((W1 @ V + W2.T @ U) ** 2, axis=0) / 4
        theory.append(np.stack([mode(t, s, u) for s, u in zip(config["modes"], start, strict=True)], axis=1))
    return {"t": t, "strength": np.stack(found), "strength_theory": np.stack(theory)}


def depths(config: dict[str, Any]) -> dict[str, Any]:
    """One mode at several depths D, in units of time D t, at the rate / D and at half of it."""
    random = np.random.default_rng(config["seed"])
    s, start, count = config["depth_mode"], config["depth_start"], config["snapshots"]
    S, U, V = target(random, 4, [s])
    found, theory = [], []
    for D in config["depths"]:
        weights = balanced(random, U, V, start, D)
        runs = []
        for finer in (1, 2):
            t, path = snapshots(weights, S, config["depth_time"] / D, config["rate"] / D, count, finer)
            runs.append(strengths(path, repeated(U, count), repeated(V, count))[:, 0])
        found.append(np.stack(runs))
        theory.append(flow(t, s, start, D))
    return {"t": D * t, "strength": np.stack(found), "strength_theory": np.stack(theory)}


def isometry(config: dict[str, Any]) -> dict[str, Any]:
    """A deep network from orthogonal and from Gaussian weights of the same size: singular values, and the error left."""
    n, D, count = config["size"], config["deep"], config["snapshots"]
    logs, errors = [], []
    for law in ("orthogonal", "gaussian"):
        for seed in range(config["seeds"]):
            random = np.random.default_rng((config["seed"], 100 + seed))
            U, V = orthogonal(random, n), orthogonal(random, n)
            gaussian = law == "gaussian"
            weights = [random.normal(size=(n, n)) / np.sqrt(n) if gaussian else orthogonal(random, n) for _ in range(D)]
            # a determinant of the other sign could only be reached through 0, from where no gradient leads on
            U[:, 0] *= np.prod([np.sign(np.linalg.det(factor)) for factor in (*weights, U, V)])
            S = U * np.linspace(0.5, 2, n) @ V.T
            t, path = snapshots(weights, S, config["deep_time"] / D, 2 * config["rate"] / D, count)
            logs.append(singular(path))
            errors.append(0.5 * jnp.sum((jax.vmap(network)(path) - S.T) ** 2, axis=(1, 2)))
    shape = (2, config["seeds"], count)
    return {"t": D * t, "log": np.stack(logs).reshape(*shape, n), "error": np.stack(errors).reshape(shape)}


def main() -> None:
    """Run it alone: ``python -m experiments.saxe_dynamics``."""
    experiments.alone("saxe_dynamics")


if __name__ == "__main__":
    main()
