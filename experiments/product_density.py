"""Squared singular values of products of random matrices: Gaussian factors against Fuss-Catalan, orthogonal beside."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
import jacspec as js
from experiments._known import known
from jacspec import initializers

CONFIG = {"seed": 0, "width": 300, "draws": 12, "depths": [1, 2, 3, 5], "edge_widths": [60], "edge_draws": 60}
FULL = {"width": 1000, "draws": 40, "edge_widths": [125, 250, 500], "edge_draws": 100}
TINY = {"width": 10, "draws": 2, "edge_widths": [6], "edge_draws": 3}

theory = js.theory.random_matrix


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Log singular values (draw, depth, value) of J = W_L ... W_1, and the laws of L -> infinity width.

    The edge is measured at smaller widths too: finite n falls short of it by n^(-2/3).
    """
    depths, n, draws = config["depths"], config["width"], config["draws"]
    widths = [*config["edge_widths"], n]
    key, arrays = jax.random.key(config["seed"]), {}
    for done, width in enumerate(widths):
        progress(f"n = {width}", done, len(widths) + 1)
        count = draws if width == n else config["edge_draws"]
        gauss = lambda key, width=width: initializers.gaussian(key, (depths[-1], width, width), float)
        arrays[f"log_{done}"] = measured(gauss, jax.random.fold_in(key, done), count, depths)
    progress("orthogonal", len(widths), len(widths) + 1)
    haar = lambda key: jax.vmap(lambda k: initializers.orthogonal(k, n, float))(jax.random.split(key, depths[-1]))
    arrays["orthogonal"] = measured(haar, jax.random.fold_in(key, len(widths)), 2, depths)
    x = np.geomspace(1e-4, 1, 200)
    for L in depths:
        edge = float(theory.fuss_catalan_edge(L))
        arrays[f"curve_{L}"] = np.stack([edge * x, np.asarray(theory.fuss_catalan_density(edge * x, L))])
        values = np.exp(2 * arrays[f"log_{len(widths) - 1}"][:, depths.index(L)])
        arrays[f"cdf_{L}"] = np.asarray(theory.fuss_catalan_cdf(np.sort(values.ravel()), L))
    progress("done", len(widths) + 1, len(widths) + 1)
    return arrays | {
        "widths": np.array(widths),
        "edges": np.array([float(theory.fuss_catalan_edge(L)) for L in depths]),
        "moments": np.array([[float(theory.fuss_catalan_moment(k, L)) for k in (1, 2, 3)] for L in depths]),
    }


def measured(factors: Any, key: jax.Array, draws: int, depths: list[int]) -> np.ndarray:
    """Log singular values of W_L ... W_1 for every L of `depths` and every draw of the factors."""
    values = lambda Js: known(js.spectrum(js.JacobianChain.from_matrices(Js), at=depths)).log_singular_values
    return np.asarray(jnp.stack([values(factors(k)) for k in jax.random.split(key, draws)]))


def main() -> None:
    """Run it alone: ``python -m experiments.product_density``."""
    experiments.alone("product_density")


if __name__ == "__main__":
    main()
