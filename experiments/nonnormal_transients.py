"""Stable networks whose gradients explode first: transient growth of non-normal weights, and what bounds it.

W = d I + a N with the shift N: every eigenvalue is d < 1, and W^t is the Toeplitz matrix of the binomials
C(t, k) d^(t-k) a^k. Its numerical radius is d + a cos(pi / (n + 1)).

Kreiss      K <= max_t ||W^t|| <= e n K with K = sup over |z| > 1 of (|z| - 1) ||(z - W)^-1||
numerical   ||W^t|| <= 2 r(W)^t
Ginibre     powers of a Gaussian matrix have the singular values of products: edge g^(2t) (t + 1)^(t+1) / t^t
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln, xlogy

import experiments
import jacspec as js
from experiments._known import known

CONFIG = {
    "seed": 0,
    "size": 20,
    "diagonal": 0.5,
    "couplings": [0.4, 0.8, 1.6],
    "times": [1, 2, 3, 5, 8, 12, 18, 25, 35, 50, 70, 100, 140, 200],
    "draws": 200,
    "sweep": [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0],
    "leaks": [1e-4, 1e-3, 1e-2, 1e-1],
    "amplitudes": [1e-15, 1e-3, 1.0],
    "ginibre_size": 100,
    "ginibre_gain": 0.9,
    "ginibre_times": [1, 2, 3, 4, 6],
    "ginibre_draws": 16,
}
FULL = {"draws": 2000, "ginibre_size": 400, "ginibre_draws": 20}
TINY = {
    "size": 4,
    "couplings": [0.4, 1.6],
    "times": [1, 2, 5, 20],
    "draws": 5,
    "sweep": [0.4, 1.6],
    "ginibre_size": 6,
    "ginibre_times": [1, 2],
    "ginibre_draws": 2,
}
MAY_BE_NAN = ("growth_log",)
"""The smallest of twenty values at the strongest coupling, which is not drawn; the claims read the largest."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part; names end in `_theory` where a formula gave the number."""
    return experiments.in_parts((growth, gradients, ginibre), config, progress)


def matrix(config: dict[str, Any], coupling: float) -> np.ndarray:
    """W = d I + a N."""
    n = config["size"]
    return config["diagonal"] * np.eye(n) + coupling * np.eye(n, k=1)


def log_power(config: dict[str, Any], coupling: float, t: int) -> tuple[np.ndarray, float]:
    """W^t as a matrix over e^(its second value), from binomials in logs."""
    k = np.arange(min(config["size"] - 1, t) + 1)
    row = gammaln(t + 1) - gammaln(k + 1) - gammaln(t - k + 1) + xlogy(t - k, config["diagonal"]) + xlogy(k, coupling)
    return sum(np.exp(v - row.max()) * np.eye(config["size"], k=i) for i, v in enumerate(row)), row.max()


def log_norms(config: dict[str, Any], coupling: float, times: Any) -> np.ndarray:
    """ln of the spectral norm, and of the Frobenius norms of W^t and of W^t W^tT, (3, times)."""
    found = []
    for t in times:
        W, log = log_power(config, coupling, int(t))
        found.append((
            log + np.log(np.linalg.norm(W, 2)), log + np.log(np.linalg.norm(W)),
            2 * log + np.log(np.linalg.norm(W @ W.T)),
        ))  # fmt: skip
    return np.array(found).T


def linear(W: Any) -> js.cells.Elman:
    """h' = W h."""
    return js.cells.Elman(jnp.asarray(W), activation="linear")


def measured(config: dict[str, Any], W: Any, h0: Any, leak: Any) -> tuple[np.ndarray, np.ndarray]:
    """ln sigma_i(t) and the exponents of tanh networks (1 - alpha) h + alpha tanh(W h); at h = 0 they are linear."""
    times = tuple(config["times"])

    @jax.jit
    @jax.vmap
    def one(W, h0, leak):
        chain = js.jacobian_chain(js.cells.LeakyElman(W, rate=leak), h0, length=times[-1], check=False)
        return known(js.spectrum(chain, at=times)).log_singular_values, known(js.lyapunov_exponents(chain)).exponents

    logs, exponents = one(*(jnp.asarray(a) for a in (W, h0, leak)))
    return np.asarray(logs), np.asarray(exponents)


def growth(config: dict[str, Any]) -> dict[str, Any]:
    """Three series of one network: couplings at the origin, starts of several sizes, and leaks.

    Kreiss: with e^(ik theta) W is similar to d I + a e^(i theta) N, so that the resolvent depends on |z - d| alone and
    is largest where z is real, K = max over x > 1 of (x - 1) ||((x - d) I - a N)^-1||; for x -> infinity that is 1.

    Leaks: ln ||1 + alpha A|| = alpha w + O(alpha^2) with w the largest eigenvalue of (A + A^T) / 2, A = W - 1. It is
    d - 1 + a cos(pi / (n + 1)), as N + N^T has the eigenvalues 2 cos(k pi / (n + 1)).
    """
    n, times, sweep, amplitudes, leaks = (config[k] for k in ("size", "times", "sweep", "amplitudes", "leaks"))
    last = config["couplings"][-1]
    couplings = [*sweep, *[last] * (len(amplitudes) + len(leaks))]
    h0 = np.zeros((len(couplings), n))
    h0[len(sweep) : len(sweep) + len(amplitudes), -1] = amplitudes  # at the end from where the shift carries them far
    leak = np.ones(len(couplings))
    leak[-len(leaks) :] = leaks
    logs, exponents = measured(config, np.stack([matrix(config, a) for a in couplings]), h0, leak)
    linear, saturated, slow = np.split(logs, [len(sweep), -len(leaks)])

    curve = np.unique(np.geomspace(1, times[-1], 80).round().astype(int))
    theory = lambda times, couplings: [log_norms(config, a, times)[0] for a in couplings]
    x = 1 + np.geomspace(1e-4, 10, 400)
    shift = x[:, None, None] * np.eye(n)
    resolvents = [np.linalg.norm(np.linalg.inv(shift - matrix(config, a)), 2, axis=(1, 2)) for a in sweep]
    return {
        "log": linear, "norm_theory": theory(times, sweep), "exponents": exponents[: len(sweep)],
        "curve": curve, "curve_theory": theory(curve, config["couplings"]),
        "kreiss_theory": np.log(np.maximum(1, np.max((x - 1) * np.stack(resolvents), axis=1))),
        "saturated": saturated[..., 0],
        "rate": slow[:, 0, 0] / np.array(leaks),
        "rate_theory": config["diagonal"] - 1 + last * np.cos(np.pi / (n + 1)),
    }  # fmt: skip


def gradients(config: dict[str, Any]) -> dict[str, Any]:
    """ln ||dE/dh_{T-t}|| for Gaussian dE/dh_T, with the root of their mean square, ||W^t||_F."""
    W, T = matrix(config, config["couplings"][-1]), config["times"][-1]
    chain = js.jacobian_chain(linear(W), jnp.zeros(config["size"]), length=T, check=False)
    cotangents = np.random.default_rng(config["seed"]).normal(size=(config["draws"], config["size"]))
    logs = jax.vmap(lambda v: js.log_gradient_norms(chain, v))(jnp.asarray(cotangents))[:, ::-1]
    norm, frobenius, fourth = log_norms(config, config["couplings"][-1], range(1, T + 1))
    return {"log": logs, "norm_theory": norm, "root_theory": frobenius, "fourth_theory": fourth}


def ginibre(config: dict[str, Any]) -> dict[str, Any]:
    """Log singular values of the powers of Gaussian matrices of variance g^2 / n, (draw, t, n)."""
    n, times, random = config["ginibre_size"], tuple(config["ginibre_times"]), np.random.default_rng(config["seed"] + 1)

    @jax.jit
    def measured(W):
        chain = js.jacobian_chain(linear(W), jnp.zeros(n), length=times[-1], check=False)
        return known(js.spectrum(chain, at=times)).log_singular_values

    draws = [random.normal(size=(n, n)) * config["ginibre_gain"] / np.sqrt(n) for _ in range(config["ginibre_draws"])]
    t = np.array(times)
    edge = t * np.log(config["ginibre_gain"]) + 0.5 * ((t + 1) * np.log(t + 1) - xlogy(t, t))
    return {"log": np.stack([measured(jnp.asarray(W)) for W in draws]), "edge_theory": edge}


def main() -> None:
    """Run it alone: ``python -m experiments.nonnormal_transients``."""
    experiments.alone("nonnormal_transients")


if __name__ == "__main__":
    main()
