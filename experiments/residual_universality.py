"""Residual networks at initialization: one law for every activation, and what holds their variance.

spectra    x' = x + s V phi(W x) with linear, ReLU and tanh branches, s set so that c = sum_l s^2 <phi'^2> is the same:
           the singular values of J = prod_l (I + A_l) follow one law, whatever phi is
growth     x' = x + W relu(x) against x' = x + W relu(BatchNorm(x)) and SkipInit: variance and gradients over depth
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar

import experiments
import jacspec as js
from experiments._known import known
from jacspec.theory import mean_field, random_matrix

CONFIG = {
    "seed": 0,
    "activations": ["linear", "relu", "tanh"],
    "strengths": [0.1, 0.25, 0.5, 1.0],
    "width": 200,
    "depth": 100,
    "curve": 25,
    "growth_width": 400,
    "growth_depth": 10,
    "growth_batch": 64,
    "growth_draws": 16,
}
FULL = {"width": 600, "growth_width": 1500, "growth_draws": 40}
TINY = {"strengths": [0.25, 1.0], "width": 10, "depth": 4, "curve": 3, "growth_width": 12, "growth_depth": 3,
        "growth_batch": 8, "growth_draws": 2}  # fmt: skip


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Log singular values, axes (c, activation, index), with their law; variances and gradients, axes (form, draw, layer)."""
    c, names = config["strengths"], config["activations"]
    total = len(c) * len(names) + 2
    logs = np.empty((len(c), len(names), config["width"]))
    scales = np.empty(logs.shape[:2])
    for done, (i, j) in enumerate(np.ndindex(scales.shape)):
        progress(f"{names[j]}, c={c[i]:g}", done, total)
        key = jax.random.fold_in(jax.random.key(config["seed"]), done)
        scales[i, j] = branch_scale(names[j], c[i], config["depth"])
        logs[i, j] = log_singular_values(key, scales[i, j], j, tuple(names), config["width"], config["depth"])
    progress("law", total - 2, total)
    arrays = {"logs": logs, "scales": scales} | laws(config, logs)
    progress("variance", total - 1, total)
    arrays |= growth(config)
    progress("done", total, total)
    return arrays


def branch_scale(name: str, c: float, depth: int) -> float:
    """s with sum_l s^2 <phi'^2>_l = c at sigma_w = 1, from mean-field theory: <phi'^2> is 1, 1/2 or depends on the variance."""
    slope = {"linear": 1.0, "relu": 0.5}.get(name)
    if slope:
        return float(np.sqrt(c / depth / slope))

    def excess(s):
        grown = mean_field.residual_growth(name, depth, weight_variance=1.0, branch_scale=s, form="weights_last")
        return float(np.expm1(np.diff(grown.log_chi)).sum()) - c

    low = np.sqrt(c / depth)
    return float(root_scalar(excess, bracket=(low, 20 * low), xtol=1e-10).root)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def log_singular_values(key: jax.Array, s: float, which: int, names: tuple[str, ...], n: int, depth: int) -> jax.Array:
    """Those of one network with an input of variance 1; compiled once for all activations."""
    at_x, at_V, at_W = jax.random.split(key, 3)
    phis = [js.activations.get(name).function for name in names]
    V, W = (jax.random.normal(at, (depth, n, n)) / np.sqrt(n) for at in (at_V, at_W))
    layer = lambda x, VW: x + s * (VW[0] @ jax.lax.switch(which, phis, VW[1] @ x))
    x = jax.random.normal(at_x, (n,))
    return known(
        js.spectrum(js.jacobian_chain(layer, x / jnp.sqrt(jnp.mean(x**2)), (V, W), check=False))
    ).log_singular_values


def laws(config: dict[str, Any], logs: np.ndarray) -> dict[str, Any]:
    """Distribution and edges of ln sigma, the scale of their fluctuations, and the Kolmogorov-Smirnov distances.

    Where the density of ln lambda vanishes as kappa sqrt(edge - x) / pi, the largest of n eigenvalues lies
    (n kappa)^(-2/3) times a Tracy-Widom variable from the edge.
    """
    n, found = config["width"], []
    for c, of_c in zip(config["strengths"], logs, strict=True):
        law = random_matrix.residual_law(c)
        x, density, top = np.asarray(law.log_x), np.asarray(law.density_of_log), float(law.log_edges[1])
        near = (top - x < 0.02 * top) & (density > 0)
        # density / sqrt(distance) is a smooth function of the distance: its value at the edge
        kappa = np.pi * np.polyfit((top - x)[near], density[near] / np.sqrt((top - x)[near]), 1)[1]
        sorted_logs = np.sort(2 * of_c, axis=1)
        cdf = np.asarray(law.cdf(sorted_logs))
        steps = np.arange(n + 1) / n
        ks = np.maximum(np.abs(cdf - steps[1:]), np.abs(cdf - steps[:-1])).max(axis=1)
        found.append(
            {"log_x": x, "cumulative": law.cumulative, "log_edge": top, "edge_scale": (n * kappa) ** (-2 / 3), "ks": ks}
        )
    out = {f"law_{k}": np.stack([law[k] for law in found]) for k in found[0]}
    curve = np.geomspace(min(config["strengths"]) / 1.5, max(config["strengths"]) * 1.4, config["curve"])
    edges = [random_matrix.residual_law(c).log_edges for c in curve]
    return out | {"curve": curve, "curve_log_edges": np.stack(edges)}


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def grown(key: jax.Array, s: float, form: str, n: int, depth: int, batch: int) -> tuple[jax.Array, jax.Array]:
    """E x_l^2 and ln ||dE/dx_l||^2 - ln ||dE/dx_L||^2 of a batch, l = 0 ... L, with branches times s."""
    at_x, at_W, at_v = jax.random.split(key, 3)
    W = jax.random.normal(at_W, (depth, n, n)) * np.sqrt(2 / n)
    norm = js.layers.BatchNorm(epsilon=0.0)
    inner = norm if form == "normalized" else lambda x: x
    x, v = jax.random.normal(at_x, (batch, n)), jax.random.normal(at_v, (batch, n))
    chain = js.jacobian_chain(lambda x, W: x + s * jax.nn.relu(inner(x)) @ W.T, x, W, store=False, check=False)
    logs = 2 * js.log_gradient_norms(chain, v)
    return jnp.mean(chain.states**2, axis=(1, 2)), logs - logs[-1]


def growth(config: dict[str, Any]) -> dict[str, Any]:
    """Variance and gradients of three forms, with their theory."""
    n, depth, batch = config["growth_width"], config["growth_depth"], config["growth_batch"]
    keys = jax.random.split(jax.random.key(config["seed"] + 1), config["growth_draws"])
    forms = (("weights_last", 1.0), ("normalized", 1.0), ("weights_last", 0.0))  # the last is SkipInit
    few = max(1, batch // 8)  # a batch is needed where it is normalized
    runs = [
        [grown(key, s, form, n, depth, batch if form == "normalized" else few) for key in keys] for form, s in forms
    ]
    theory = [
        mean_field.residual_growth("relu", depth, weight_variance=2.0, form=form, branch_scale=s) for form, s in forms
    ]
    # What BatchNorm divides by grows by 2 Var relu(z) = 1 - 1/pi a layer, not by 2 E relu(z)^2 = 1: the mean of relu(z) moves
    # all examples alike. So chi = 1 + 2 E relu'^2 / (1 + (1 - 1/pi) l), up to 1 / batch.
    chi = np.log1p(1 / (1 + (1 - 1 / np.pi) * np.arange(depth)))
    gradients = [np.asarray(t.log_chi[-1] - t.log_chi) for t in theory]
    gradients[1] = np.append(np.cumsum(chi[::-1])[::-1], 0.0)
    return {
        "growth_variance": np.array([[v for v, _ in form] for form in runs]),
        "growth_gradient": np.array([[g for _, g in form] for form in runs]),
        "growth_theory_variance": np.stack([t.variance for t in theory]),
        "growth_theory_gradient": np.stack(gradients),
    }


def main() -> None:
    """Run it alone: ``python -m experiments.residual_universality``."""
    experiments.alone("residual_universality")


if __name__ == "__main__":
    main()
