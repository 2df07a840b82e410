"""Eigenvalues of J J^T in deep networks at a critical initialization: free probability against real forward passes.

The theory takes fresh pre-activations N(0, q*) at every layer. The networks here are real ones: an input with the norm
that gives q* at the first layer, and every D from the forward pass of the same weights.

In a finite network of ReLUs or hard tanhs the share of live units fluctuates by 1 / sqrt(n) from layer to layer, and the
smallest of them is the rank. That is larger than anything else that is finite about n, so these networks are also compared
with the law given the live units of every layer (`given_live_units`).
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, optimize, stats

import experiments
import jacspec as js
from jacspec.theory import random_matrix

CONFIG = {
    "seed": 0,
    "activations": ["linear", "relu", "hard_tanh", "tanh", "erf"],
    "bias_variance": 0.05,  # of hard_tanh, tanh and erf; linear and ReLU are critical without biases only
    "cases": [
        ["linear", "gaussian", 4], ["linear", "orthogonal", 4], ["hard_tanh", "gaussian", 4],
        ["hard_tanh", "orthogonal", 4], ["tanh", "gaussian", 4], ["tanh", "orthogonal", 4], ["erf", "gaussian", 4],
        ["erf", "orthogonal", 4], ["relu", "gaussian", 2], ["relu", "orthogonal", 2], ["tanh", "orthogonal", 16],
        ["hard_tanh", "orthogonal", 16],
    ],
    "width": 300,
    "draws": 4,
    "law_depths": [2, 4, 16, 64],
    "edge_width": 150,
    "edge_draws": 4,
    "edge_depths": [1, 2, 4, 8, 16, 32, 64],
    "histogram": [-8.0, 3.0, 44],
    "points": 400,
    "rank_draws": 20,
}  # fmt: skip
FULL = {"width": 1000, "draws": 10, "edge_width": 400}
TINY = {
    "activations": ["linear", "relu", "tanh"],
    "cases": [["linear", "gaussian", 2], ["linear", "orthogonal", 2], ["relu", "orthogonal", 2], ["tanh", "gaussian", 2]],
    "law_depths": [2], "width": 20, "draws": 2, "edge_width": 10, "edge_draws": 2, "edge_depths": [1, 2], "rank_draws": 4,
}  # fmt: skip

ENSEMBLES = ("gaussian", "orthogonal")
PIECEWISE = ("linear", "relu", "hard_tanh")
FLOOR, LOWEST = 1e-14, -30.0
"""Singular values below FLOOR times the largest are rounding; they, and lambda < e^LOWEST, count but have no place."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure: critical points, laws, the fixed cases, and the largest eigenvalue against depth."""
    names = config["activations"]
    total = len(config["cases"]) + config["edge_draws"] + 1
    progress("laws", 0, total)
    points = {name: critical_point(name, config["bias_variance"]) for name in names}
    arrays: dict[str, Any] = {"critical": [points[name] for name in names]}
    arrays |= laws(config, points)
    found = []
    for i, (name, ensemble, depth) in enumerate(config["cases"]):
        progress(f"{name}, {ensemble}, L = {depth}", 1 + i, total)
        found.append(case(config, i, points[name], name, ensemble, depth))
    arrays |= {f"case_{key}": np.stack([part[key] for part in found]) for key in found[0]}
    edges = []
    for draw in range(config["edge_draws"]):
        progress("edges", 1 + len(found) + draw, total)
        edges.append(largest(config, points, draw))
    arrays["edge_measured"] = np.stack(edges)
    progress("done", total, total)
    return {name: np.asarray(value) for name, value in arrays.items()}


def critical_point(name: str, bias_variance: float) -> tuple[float, float, float]:
    """(sigma_w^2, sigma_b^2, q*) with sigma_w^2 E f'^2 = 1 and q = sigma_w^2 E f^2 + sigma_b^2."""
    entry = js.activations.get(name)
    square = lambda f: jax.jit(lambda a: f(a) ** 2)
    value, slope = square(entry.function), square(entry.derivative)

    def mean(f, q):
        density = lambda a: float(f(a)) * np.exp(-a * a / (2 * q)) / np.sqrt(2 * np.pi * q)
        end = 9 * np.sqrt(q)
        inner = sorted({-end, 0.0, end, *(k for k in entry.kinks if abs(k) < end)})
        return sum(integrate.quad(density, a, b, epsabs=1e-12)[0] for a, b in itertools.pairwise(inner))

    if name in ("linear", "relu"):  # f(s a) = s f(a): critical without bias, at every q
        return 1 / mean(slope, 1.0), 0.0, 1.0
    excess = lambda q: q - mean(value, q) / mean(slope, q) - bias_variance
    q = optimize.root_scalar(excess, bracket=(1e-3, 3.0), xtol=1e-13).root
    return 1 / mean(slope, q), bias_variance, float(q)


def laws(config: dict[str, Any], points: dict[str, Any]) -> dict[str, Any]:
    """Every law of the figure: curves, edges, atoms, and how well mass and moments come out."""
    names, depths = config["activations"], config["edge_depths"]
    rows: dict[str, list] = {key: [] for key in ("log_x", "density", "log_edge", "atom", "error")}
    tops = np.zeros((len(names), len(ENSEMBLES), len(depths)))
    every = {name: random_matrix.squared_slopes(name, points[name][2]) for name in names}
    for where in np.ndindex(tops.shape):
        name, ensemble, depth = names[where[0]], ENSEMBLES[where[1]], depths[where[2]]
        slopes = every[name]
        if depth == 1 and ensemble == "orthogonal":  # the law of d^2 itself
            tops[where] = np.log(points[name][0] * slopes.values.max())
            continue
        law = law_of(points[name], slopes, ensemble, depth, config["points"])
        tops[where] = max(law.log_edges[1], law.log_atom if law.atom > 0 else -np.inf)
        if depth in config["law_depths"]:
            m1, m2 = random_matrix.jacobian_moments(
                slopes, float(depth), ensemble=ensemble, weight_variance=points[name][0]
            )
            errors = law.mass - 1, law.moment(1) / m1 - 1, law.moment(2) / m2 - 1
            values = law.log_x, law.density_of_log, law.log_edges[1], (law.log_atom, law.atom, law.zero), errors
            for key, value in zip(rows, values, strict=True):
                rows[key].append(np.asarray(value))
    shape = (len(names), len(ENSEMBLES), len(config["law_depths"]))
    arrays = {f"law_{key}": np.stack(value).reshape(*shape, *value[0].shape) for key, value in rows.items()}
    fuss = law_of(points["linear"], every["linear"], "gaussian", 4, config["points"])
    distance = np.abs(fuss.cumulative - random_matrix.fuss_catalan_cdf(fuss.x, 4)).max()
    return arrays | {"edge_theory": tops, "fuss_catalan_distance": distance}


def law_of(point: tuple[float, float, float], slopes: Any, ensemble: str, depth: int, points: int):
    """The law that theory gives at a critical point."""
    options = {"ensemble": ensemble, "weight_variance": point[0], "points": points}
    return random_matrix.jacobian_law(slopes, float(depth), **options)


def weights(key: jax.Array, ensemble: str, width: int, variance: float) -> jax.Array:
    """sqrt(s2) times a Haar matrix, or entries N(0, s2 / n)."""
    if ensemble == "orthogonal":
        return js.initializers.orthogonal(key, width, jnp.float64, gain=float(np.sqrt(variance)))
    return jax.random.normal(key, (width, width)) * np.sqrt(variance / width)


def singular_values(
    key: jax.Array, point: tuple[float, float, float], name: str, ensemble: str, width: int, depths: list[int]
):
    """ln of the singular values of J_L ... J_1 of one network for every L in `depths`, and the live units by layer."""
    variance, bias, q = point
    keys = jax.random.split(key, 2 * max(depths) + 1)
    h = jax.random.normal(keys[-1], (width,))
    h = h * jnp.sqrt(width * (q - bias) / variance) / jnp.linalg.norm(h)
    J = jnp.eye(width)
    logs, alive = [], []
    for depth in range(1, max(depths) + 1):
        b = jax.random.normal(keys[2 * depth - 1], (width,)) * np.sqrt(bias)
        layer = js.layers.Dense(weights(keys[2 * depth - 2], ensemble, width, variance), b, activation=name)
        step = layer.jacobian(h)
        J, h = step.push(J), layer(h)
        alive.append(int((step.d != 0).sum()))
        if depth in depths:
            values = np.linalg.svd(np.asarray(J), compute_uv=False)
            known = values > FLOOR * values[0]
            logs.append(np.where(known, np.log(np.where(known, values, 1)), -np.inf))
    return np.stack(logs), np.array(alive)


def given_live_units(p: np.ndarray, ensemble: str, variance: float, log_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(lambda > x) without the atom, and its total, of piecewise linear layers with live shares p (draws, L), by draw.

        lambda = (1 + m)/m prod_l s2 (p_l + m) / (1 + m)^c,    c = 1 for orthogonal weights and 0 for Gaussian ones
        P(lambda > x) = Im(ln m - sum_l (1 - p_l) ln(m + p_l) - (1 - c) L m) / pi

    m is followed from the negative axis, where it is real, to x - i 0 by Newton: another route than that of the package.
    """
    L, c, height = p.shape[1], float(ensemble == "orthogonal"), 1e-4
    p = p[:, None, :]

    def log_eigenvalue(m):
        value = (1 - c * L) * np.log(1 + m) - np.log(m) + np.log(m[..., None] + p).sum(axis=-1) + L * np.log(variance)
        return value, (1 - c * L) / (1 + m) - 1 / m + (1 / (m[..., None] + p)).sum(axis=-1)

    low, high = -np.broadcast_to(p.min(axis=-1), (len(p), log_x.size)), np.zeros((len(p), log_x.size))
    for _ in range(80):  # on the negative axis abs(lambda) falls from infinity at m = 0 to 0 at m = -min p
        m = (low + high) / 2
        above = log_eigenvalue(m + 0j)[0].real > log_x
        low, high = np.where(above, low, m), np.where(above, m, high)
    m = (low + high) / 2 + 0j
    for angle in np.geomspace(np.pi, height, 60):
        for _ in range(3):
            value, rate = log_eigenvalue(m)
            m = m - (value - log_x + 1j * angle) / rate
    live = ((1 - p) * np.log(m[..., None] + p)).sum(axis=-1)
    survival = (np.log(m) - live - (1 - c) * L * m).imag / np.pi
    atom = c * np.maximum(1 - (1 - p).sum(axis=-1), 0)
    log_atom = L * np.log(variance)
    survival -= atom * (0.5 + np.arctan((log_atom - log_x) / height) / np.pi)
    return survival, p.min(axis=-1)[:, 0] - atom[:, 0]


def distance(log_x: np.ndarray, count: int, x: np.ndarray, survival: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of `count` values, the largest of them in `log_x`, to a survival function on a grid."""
    expected, i = np.interp(np.sort(log_x)[::-1], x, survival), np.arange(log_x.size)
    return float(max(np.abs(i / count - expected).max(), np.abs((i + 1) / count - expected).max()))


def case(config: dict[str, Any], index: int, point: Any, name: str, ensemble: str, depth: int) -> dict[str, Any]:
    """One of the cases: distances of the continuous part, atom, rank with its law at finite n, a histogram of ln sigma.

    `ks`: distance to the law at p(q*); to the law given the live units of every layer of every network; how far apart these
    laws are for binomial live units, in the mean and with what deviation from network to network. All parts are normalized.
    """
    n, draws = config["width"], config["draws"]
    keys = jax.random.split(jax.random.key(config["seed"] + 1000 * index), draws)
    measured = [singular_values(key, point, name, ensemble, n, [depth]) for key in keys]
    logs = np.stack([values[0] for values, _ in measured])
    alive = np.stack([alive for _, alive in measured])
    ranks = alive.min(axis=1)
    law = law_of(point, random_matrix.squared_slopes(name, point[2]), ensemble, depth, config["points"])
    zero, atom, log_atom = float(law.zero), float(law.atom), float(law.log_atom)
    p, bernoulli = 1 - zero, name in PIECEWISE
    in_atom = (np.abs(2 * logs - log_atom) < 1e-8) & bernoulli & (ensemble == "orthogonal")
    free, count = 2 * logs[(2 * logs > LOWEST) & ~in_atom], int(ranks.sum()) - int(in_atom.sum())
    ks = count / ranks.sum(), 0.0, 0.0, 0.0
    if p - atom > 1e-9:  # else nothing may lie outside the atom
        top = float(law.log_edges[1])
        x = np.concatenate([np.asarray(law.log_x), [top, top + 1]])
        below = np.asarray(law.cumulative) - zero - np.where(law.log_x > log_atom, atom, 0)
        survival = 1 - np.append(below / (p - atom), [1.0, 1.0])
        ks = distance(free, count, x, survival), 0.0, 0.0, 0.0
        if zero > 0:
            known, x = (
                x,
                np.unique(np.concatenate([np.linspace(LOWEST, top, 100), np.linspace(top - 2, top + 0.5, 200)])),
            )
            part, mass = given_live_units(alive / n, ensemble, point[0], x)
            given = distance(free, count, x, part.sum(axis=0) / mass.sum())
            shares = np.random.default_rng(config["seed"]).binomial(n, p, (config["rank_draws"], depth)) / n
            part, mass = given_live_units(shares, ensemble, point[0], x)
            moved = (part - mass[:, None] * np.interp(x, known, survival)) / mass.mean()
            ks = ks[0], given, np.abs(moved.mean(axis=0)).max(), moved.std(axis=0).max()
    at_least = stats.binom.sf(np.arange(n), n, p) ** depth  # the generic rank: the smallest of L binomial numbers
    mean = at_least.sum()
    variance = ((2 * np.arange(n) + 1) * at_least).sum() - mean**2
    low, high, bins = config["histogram"]
    counts = np.histogram(logs[np.isfinite(logs) & ~in_atom], int(bins), (low, high))[0]
    return {
        "ks": ks,
        "atom": (atom, float(in_atom.mean()), 4 * np.sqrt(depth * p * (1 - p) / (n * draws))),
        "rank": (mean / n, ranks.mean() / n, 4 * np.sqrt(max(variance, 0.0) / draws) / n),
        "histogram": counts / logs.size * bins / (high - low),
        "spread": np.abs(logs[np.isfinite(logs)]).max(),
    }


def largest(config: dict[str, Any], points: dict[str, Any], draw: int) -> list[list[np.ndarray]]:
    """ln of the largest eigenvalue for every activation, ensemble and depth, in one network each."""
    keys = jax.random.split(jax.random.key(config["seed"] + 10**6 + draw), 2)
    return [
        [
            2 * singular_values(key, points[name], name, e, config["edge_width"], config["edge_depths"])[0][:, 0]
            for e, key in zip(ENSEMBLES, keys, strict=True)
        ]
        for name in config["activations"]
    ]


def main() -> None:
    """Run it alone: ``python -m experiments.jjt_density``."""
    experiments.alone("jjt_density")


if __name__ == "__main__":
    main()
