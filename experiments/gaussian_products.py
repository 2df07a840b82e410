"""Products of independent Gaussian matrices, the one random chain whose Lyapunov spectrum is known at every width.

The QR recursion of such a chain has independent R_ii, chi variables with n - i + 1 degrees of freedom over sqrt(n):
exponents, their variances and the whole law of a step are known exactly (`jacspec.theory.random_matrix`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
import jacspec as js
from experiments._known import known

CONFIG = {
    "seed": 0,
    "width": 8,
    "steps": 40_000,
    "large_width": 100,
    "large_steps": 2000,
    "widths": [2, 4, 16, 32],
    "widths_steps": 4000,
    "norm_steps": 20,
    "norm_draws": 4000,
}
FULL = {"steps": 400_000, "large_width": 300, "large_steps": 4000, "widths_steps": 20_000, "norm_draws": 40_000}
TINY = {
    "steps": 200,
    "large_width": 6,
    "large_steps": 20,
    "widths": [2, 4],
    "widths_steps": 50,
    "norm_steps": 3,
    "norm_draws": 30,
}
MAY_BE_NAN = ("standard_error",)
"""A record too short or too regular to tell its standard error."""

theory = js.theory.random_matrix


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part; names end in `_theory` where a formula gave the number."""
    parts = (finite, large, top, norms)
    arrays: dict[str, Any] = {}
    for done, part in enumerate(parts):
        progress(part.__name__, done, len(parts))
        found = part(config, jax.random.fold_in(jax.random.key(config["seed"]), done))
        arrays |= {f"{part.__name__}_{name}": np.asarray(value) for name, value in found.items()}
    progress("done", len(parts), len(parts))
    return arrays


def matrices(key: jax.Array, *shape: int) -> jax.Array:
    """Gaussian matrices of variance 1/n, shape (..., n, n)."""
    return jax.random.normal(key, shape) / np.sqrt(shape[-1])


def finite(config: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """All exponents at one small width, and the growth of every direction at every step."""
    Js = matrices(key, config["steps"], config["width"], config["width"])
    found = known(js.lyapunov_exponents(js.JacobianChain.from_matrices(Js)))
    mean, variance = theory.newman_exponents(config["width"])
    return {
        "exponents": found.exponents, "standard_error": found.standard_error, "history": found.history,
        "theory": mean, "variance_theory": variance, "log_det": np.linalg.slogdet(np.asarray(Js))[1].mean(),
    }  # fmt: skip


def large(config: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """All exponents at a large width, beside the triangular law."""
    n = config["large_width"]
    chain = js.JacobianChain.from_matrices(matrices(key, config["large_steps"], n, n))
    u = (np.arange(n) + 0.5) / n
    return {
        "exponents": known(js.lyapunov_exponents(chain)).exponents, "u": u, "theory": theory.triangular_exponents(u),
    }  # fmt: skip


def top(config: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """The largest exponent, width by width."""
    exponents = []
    for i, n in enumerate(config["widths"]):
        Js = matrices(jax.random.fold_in(key, i), config["widths_steps"], n, n)
        exponents.append(known(js.lyapunov_exponents(js.JacobianChain.from_matrices(Js), k=1)).exponents[0])
    mean, variance = np.array([[part[0] for part in theory.newman_exponents(n)] for n in config["widths"]]).T
    return {"exponents": exponents, "theory": mean, "variance_theory": variance}


def norms(config: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """ln ||J^T v|| of a finite product, for one fixed v and many products."""
    n, T = config["width"], config["norm_steps"]
    start = jnp.zeros(n).at[0].set(1)

    def measured(key):
        chain = js.JacobianChain.from_matrices(matrices(key, T, n, n))
        return js.log_gradient_norms(chain, start)[0]

    logs = jax.jit(jax.vmap(measured))(jax.random.split(key, config["norm_draws"]))
    mean, variance = theory.log_norm_growth(n, T)
    return {"log": logs, "theory": mean, "variance_theory": variance}


def main() -> None:
    """Run it alone: ``python -m experiments.gaussian_products``."""
    experiments.alone("gaussian_products")


if __name__ == "__main__":
    main()
