"""Very deep networks with orthogonal weights: the law of J J^T remembers one number and the class of the activation.

With L layers at q* such that s = L (mu_2 / mu_1^2 - 1) stays fixed, mu_k = E phi'(a)^(2k), a ~ N(0, q*), the law tends to the
Bernoulli class (slopes 0 or 1: hard tanh, shifted ReLU) or to the smooth class (tanh, erf, softplus shifted to 0).

The slopes of a network come from fresh pre-activations N(0, q*) at every layer, as theory has it, or from the forward pass of
one input, whose variance drifts at finite width. Either way they have their own s = sum_l (mu_2 / mu_1^2 - 1) and their own
mean eigenvalue prod_l sigma_w^2 mu_1, in units of which eigenvalues are given.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar
from scipy.special import ndtr

import experiments
import jacspec as js
from jacspec.theory import random_matrix

CONFIG = {
    "seed": 0,
    "classes": {"bernoulli": ["hard_tanh", "shifted_relu"], "smooth": ["tanh", "erf", "softplus"]},
    "forward": ["hard_tanh", "shifted_relu", "tanh", "erf"],
    "variances": [0.25, 0.5, 1.0, 3.0],
    "width": 160,
    "depth": 100,
    "draws": 2,
    "forward_draws": 1,
    "curve": [0.12, 5.0, 25],
    "limit_variance": 0.25,
    "limit_depths": [64, 256, 1024, 4096, 16384],
    "points": 120,
}
FULL = {"width": 500, "draws": 10, "forward_draws": 10}
TINY = {"classes": {"bernoulli": ["hard_tanh"], "smooth": ["tanh"]}, "forward": ["hard_tanh"], "variances": [0.25, 1.0],
        "width": 12, "depth": 6, "draws": 2, "forward_draws": 1, "curve": [0.2, 2.0, 3], "limit_depths": [64, 256],
        "points": 60}  # fmt: skip

ACTIVATIONS = {name: js.activations.get(name) for name in ("hard_tanh", "tanh", "erf")} | {
    "shifted_relu": js.activations.Activation(
        "shifted_relu",
        lambda a: jax.nn.relu(a + 0.5) - 0.5,
        lambda a: jnp.where(a > -0.5, 1.0, 0.0),
        lambda a: jnp.where(a > -0.5, 0.0, -jnp.inf),
        structural_zeros=True,
        kinks=(-0.5,),
    ),
    "softplus": dataclasses.replace(
        js.activations.get("softplus"), function=lambda a: jax.nn.softplus(a) - jax.nn.softplus(0.0)
    ),
}
LAWS = {"bernoulli": random_matrix.bernoulli_universality, "smooth": random_matrix.smooth_universality}
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
LOWEST, AT_ATOM = -60.0, 1e-8
"""ln of what stands for an eigenvalue zero (rounding is far above); how near to an atom ln lambda is in it."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Laws by class, finite depth against the limit; networks of both kinds of slopes, axes (draw, activation, variance)."""
    names = [name for group in config["classes"].values() for name in group]
    total = config["draws"] + 2
    progress("laws", 0, total)
    arrays = laws(config)
    progress("finite depth", 1, total)
    points = {(name, s): critical_point(name, s / config["depth"]) for name in names for s in config["variances"]}
    arrays |= finite_depth(config)
    fresh, forward = [], []
    for draw in range(config["draws"]):  # all activations and variances see the same weights
        progress(f"networks, draw {draw + 1}", 2 + draw, total)
        at_W, at_b = jax.random.split(jax.random.fold_in(jax.random.key(config["seed"]), draw))
        Ws = orthogonal(at_W, config["width"], config["depth"])
        normal = np.asarray(jax.random.normal(at_b, (config["depth"] + 1, config["width"])))
        measure = lambda name, s, slopes_of, Ws=Ws, normal=normal: measured(
            config, name, points[name, s], Ws, slopes_of(name, points[name, s], Ws, normal)
        )
        fresh.append([[measure(name, s, fresh_slopes) for s in config["variances"]] for name in names])
        if draw < config["forward_draws"]:
            forward.append(
                [[measure(name, s, forward_slopes) for s in config["variances"]] for name in config["forward"]]
            )
    for kind, found in (("fresh", fresh), ("forward", forward)):
        for key in found[0][0][0]:
            arrays[f"{kind}_{key}"] = np.array([[[one[key] for one in row] for row in draw] for draw in found])
    progress("done", total, total)
    return arrays


@functools.partial(jax.jit, static_argnums=0)
def value_and_slope(name: str, a: jax.Array) -> jax.Array:
    """phi(a) and phi'(a)."""
    return jnp.stack([ACTIVATIONS[name](a), ACTIVATIONS[name].derivative(a)])


def gaussian_values(name: str, q: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """phi, phi' and weights at the nodes of E f(a), a ~ N(0, q): Gauss-Legendre rules between the kinks."""
    end = 9 * np.sqrt(q)
    kinks = np.resize([*ACTIVATIONS[name].kinks, 0.0], 2)  # always two: one shape, one compilation
    breaks = np.sort(np.concatenate([end * np.array([-1, -0.4, 0, 0.4, 1]), np.clip(kinks, -end, end)]))
    half = np.diff(breaks)[:, None] / 2
    a = breaks[:-1, None] + half * (1 + NODES)
    weights = WEIGHTS * half * np.exp(-a * a / (2 * q)) / np.sqrt(2 * np.pi * q)
    return *np.asarray(value_and_slope(name, a)), weights


def relative_variance(name: str, q: float) -> float:
    """mu_2 / mu_1^2 - 1 of the squared slopes; exact where they are 0 or 1."""
    dead = {"hard_tanh": 2 * ndtr(-1 / np.sqrt(q)), "shifted_relu": ndtr(-0.5 / np.sqrt(q))}
    if name in dead:
        return float(dead[name] / (1 - dead[name]))
    _, slope, weights = gaussian_values(name, q)
    first = (slope**2 * weights).sum()
    return float(((slope**2 / first - 1) ** 2 * weights).sum())


def variance_of(name: str, excess: float) -> float:
    """q* with mu_2 / mu_1^2 - 1 = excess."""
    distance = lambda x: np.log(max(relative_variance(name, np.exp(x)), 1e-300) / excess)
    return float(np.exp(root_scalar(distance, bracket=(-12, 2), xtol=1e-12).root))


def critical_point(name: str, excess: float) -> tuple[float, float, float]:
    """q*, sigma_w^2 = 1 / mu_1 and sigma_b^2 = q* - sigma_w^2 E phi^2."""
    q = variance_of(name, excess)
    phi, slope, weights = gaussian_values(name, q)
    weight = 1 / (slope**2 * weights).sum()
    return q, float(weight), float(q - weight * (phi**2 * weights).sum())


@functools.partial(jax.jit, static_argnums=(1, 2))
def orthogonal(key: jax.Array, width: int, depth: int) -> jax.Array:
    """Haar matrices, (L, n, n)."""
    make = lambda key: js.initializers.orthogonal(key, width, jnp.float64)
    return jax.vmap(make)(jax.random.split(key, depth))


def fresh_slopes(name: str, point: tuple[float, float, float], _: jax.Array, normal: np.ndarray) -> np.ndarray:
    """phi'(a), a ~ N(0, q*), (L, n)."""
    return np.asarray(value_and_slope(name, np.sqrt(point[0]) * normal[1:]))[1]


def forward_slopes(name: str, point: tuple[float, float, float], Ws: jax.Array, normal: np.ndarray) -> np.ndarray:
    """phi'(a) along the forward pass of one input, whose norm gives q* at the first layer, (L, n)."""
    q, weight, bias = point
    h, *bs = normal
    h = h * np.sqrt(h.size * (q - bias) / weight) / np.linalg.norm(h)
    slopes = []
    for W, b in zip(np.asarray(Ws), bs, strict=True):
        h, slope = np.asarray(value_and_slope(name, np.sqrt(weight) * (W @ h) + np.sqrt(bias) * b))
        slopes.append(slope)
    return np.stack(slopes)


def measured(
    config: dict[str, Any], name: str, point: tuple[float, float, float], Ws: jax.Array, slopes: np.ndarray
) -> dict[str, Any]:
    """ln of the eigenvalues, descending; s, dead units over the width, ln of what meets none of them, distance to the law."""
    first, second = (slopes**2).mean(axis=1), (slopes**4).mean(axis=1)
    log_mean = np.log(point[1] * first).sum()
    values = np.linalg.svd(np.asarray(product(np.sqrt(point[1]) * slopes, Ws)), compute_uv=False)
    logs = 2 * np.log(np.maximum(values, np.exp(LOWEST))) - log_mean
    logs = np.where(logs > LOWEST, logs, LOWEST)
    s, log_atom = (second / first**2 - 1).sum(), len(first) * np.log(point[1]) - log_mean
    kind = next(kind for kind, group in config["classes"].items() if name in group)
    in_atom = (np.abs(logs - log_atom) < AT_ATOM) & (kind == "bernoulli")
    free, law = np.sort(logs[~in_atom]), LAWS[kind](s, points=config["points"])
    steps = np.arange(free.size + 1) / logs.size
    padded = np.append(free, np.full(in_atom.sum(), LOWEST))  # one shape, one compilation
    below = np.asarray(law.cdf(padded))[: free.size]
    ks = max(np.abs(below - steps[1:]).max(initial=0), np.abs(below - steps[:-1]).max(initial=0))
    return {"logs": logs, "s": s, "dead": (slopes == 0).mean(axis=1).sum(), "log_atom": log_atom,
            "share": in_atom.mean(), "ks": ks}  # fmt: skip


@jax.jit
def product(slopes: jax.Array, Ws: jax.Array) -> jax.Array:
    """D_L W_L ... D_1 W_1."""
    n = Ws.shape[-1]
    chain = js.jacobian_chain(lambda h, dW: dW[0] * (dW[1] @ h), jnp.zeros(n), (slopes, Ws), store=False, check=False)
    columns, log_scales = chain.push(jnp.eye(n))
    return columns * jnp.exp(log_scales)


def laws(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Curves of the laws at the fixed variances, their first two moments; edges along a curve in s."""
    low, high, count = config["curve"]
    curve = np.geomspace(low, high, count)
    out: dict[str, Any] = {"curve": curve}
    for kind, law_of in LAWS.items():
        found = [law_of(s, points=config["points"]) for s in config["variances"]]
        for part in ("log_x", "cumulative", "atom", "log_atom"):
            out[f"{kind}_{part}"] = np.stack([np.asarray(getattr(law, part)) for law in found])
        out[f"{kind}_moments"] = np.array([[law.moment(k) for k in (1, 2)] for law in found])
        ends = slice(None) if kind == "smooth" else slice(1, None)  # the Bernoulli law goes down to 0
        out[f"{kind}_ends"] = np.stack([np.asarray(law.log_edges)[ends] for law in found])
        on_curve = [law_of(s, points=config["points"]) for s in curve]
        out[f"{kind}_curve"] = np.stack([np.asarray(law.log_edges)[ends] for law in on_curve])
    return out


def at_depth(config: dict[str, Any], name: str, s: float, depth: float) -> Any:
    """The law of a network of finite depth."""
    _, slope, weights = gaussian_values(name, variance_of(name, s / depth))
    slopes = random_matrix.SquaredSlopes(jnp.asarray(slope**2).ravel(), jnp.asarray(weights).ravel())
    return random_matrix.jacobian_law(slopes, depth, ensemble="orthogonal", points=config["points"])


def finite_depth(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Smooth activations: ln of the upper edge by depth at fixed s; the laws at the depth of the networks, axes (activation, s)."""
    names, depths = config["classes"]["smooth"], [float(depth) for depth in config["limit_depths"]]
    edges = [
        [at_depth(config, name, config["limit_variance"], depth).log_edges[1] for depth in depths] for name in names
    ]
    found = [[at_depth(config, name, s, float(config["depth"])) for s in config["variances"]] for name in names]
    low, high, count = config["curve"]
    curve = [at_depth(config, names[0], s, float(config["depth"])) for s in np.geomspace(low, high, count)]
    ends = np.array([1, 2 * config["width"] - 1]) / (2 * config["width"])  # where the outermost of n eigenvalues are
    return {
        "limit_log_edge": np.array(edges),
        "finite_curve": np.array([np.interp(ends, law.cumulative, law.log_x) for law in curve]),
        "finite_log_x": np.array([[law.log_x for law in row] for row in found]),
        "finite_cumulative": np.array([[law.cumulative for law in row] for row in found]),
        "finite_ks": np.array([[distance(config, law, s) for law, s in zip(row, config["variances"], strict=True)]
                               for row in found]),
    }  # fmt: skip


def distance(config: dict[str, Any], law: Any, s: float) -> float:
    """Kolmogorov-Smirnov distance of a law to the limit of the smooth class."""
    universal = LAWS["smooth"](s, points=config["points"])
    return float(np.abs(np.asarray(universal.cdf(law.log_x)) - np.asarray(law.cumulative)).max())


def main() -> None:
    """Run it alone: ``python -m experiments.universality_classes``."""
    experiments.alone("universality_classes")


if __name__ == "__main__":
    main()
