"""Extensive chaos: Lyapunov spectra of random rate networks against their size, their gain and their input.

flow   dx/dt = -x + J tanh(x) + xi(t),  <xi_i(s) xi_j(t)> = 2 sigma^2 delta_ij delta(s - t),  J_ij ~ N(0, g^2/n), J_ii = 0:
       a Runge-Kutta step of the drift and a kick sigma sqrt(2 dt) z, orthogonalized once a time constant
map    x' = J tanh(x), run as h' = tanh(J h), which has the same exponents

Exponents are in nats per time constant, a step of the map.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import root_scalar
from threadpoolctl import threadpool_limits

import experiments
import jacspec as js
from experiments._known import known
from jacspec.theory import recurrent

CONFIG = {
    "seed": 0,
    "gain": 3.0,
    "sizes": [100, 200, 400],
    "directions": [100, 26, 36],
    "size_draws": [3, 3, 3],
    "whole_gains": [1.5, 5.0],
    "sweep_size": 200,
    "sweep_directions": 26,
    "sweep_gains": [1.5, 2.0, 3.0, 5.0, 7.0],
    "sweep_draws": 1,
    "noise": [0.0, 1.0],
    "dt": 0.2,
    "burn_in": 40,
    "align": 10,
    "time": 100,
    "map_size": 200,
    "map_directions": 64,
    "map_gains": [2.0, 3.0, 5.0, 8.0, 30.0],
    "map_draws": 2,
    "map_time": 250,
    "theory_gains": 14,
}
FULL = {
    "sizes": [200, 400, 800],
    "directions": [200, 80, 120],
    "sweep_size": 400,
    "sweep_directions": 80,
    "sweep_draws": 6,
    "time": 1000,
    "map_size": 1000,
    "map_directions": 320,
    "map_time": 2000,
}
TINY = {
    "sizes": [8, 12],
    "directions": [8, 6],
    "size_draws": [2, 2],
    "sweep_size": 12,
    "sweep_directions": 6,
    "sweep_gains": [3.0, 5.0],
    "burn_in": 4,
    "align": 2,
    "time": 20,
    "map_size": 12,
    "map_directions": 8,
    "map_gains": [3.0, 5.0, 8.0, 30.0],
    "map_time": 10,
    "theory_gains": 3,
}
MAY_BE_NAN = ("map_exponents", "map_entropy", "map_positive")
"""A saturated map contracts some directions beyond the precision; what is known is stored beside it, as ``map_resolved``."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """`size_<n>_*`, axes (draw, ...); `whole_*`, (gain, ...); `sweep_*`, (noise, gain, draw, ...); `map_*`, (gain, draw, ...)."""
    groups = plan(config)
    total, done, arrays = sum(np.size(calls) for calls in groups.values()) + 1, 0, {}
    with threadpool_limits(1):  # LAPACK gains little from a second thread at these sizes
        for name, calls in groups.items():
            found = []
            for call in calls.flat:
                progress(name, done, total)
                found.append(jax.tree.map(np.asarray, call()))
                done += 1
            for field in found[0]:
                values = np.stack([one[field] for one in found])
                arrays[f"{name}_{field}"] = values.reshape(calls.shape + values.shape[1:])
    progress("theory", done, total)
    arrays |= theory(config)
    progress("done", total, total)
    return arrays


def plan(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The runs of every group, as calls."""
    call = functools.partial
    sizes = list(zip(config["sizes"], config["directions"], config["size_draws"], strict=True))
    groups: dict[str, Any] = {
        f"size_{n}": [call(flow, config, n, k, config["gain"], 0.0, draw) for draw in range(draws)]
        for n, k, draws in sizes
    }
    n, k, _ = sizes[0]
    groups["whole"] = [call(flow, config, n, k, g, 0.0, 0) for g in config["whole_gains"]]
    n, k, draws = (config[f"sweep_{name}"] for name in ("size", "directions", "draws"))
    groups["sweep"] = [
        [[call(flow, config, n, k, g, sigma, 100 + draw) for draw in range(draws)] for g in config["sweep_gains"]]
        for sigma in config["noise"]
    ]
    groups["map"] = [
        [call(iterated, config, g, draw) for draw in range(config["map_draws"])] for g in config["map_gains"]
    ]
    return {name: np.array(calls, dtype=object) for name, calls in groups.items()}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["J", "dt", "sigma"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Flow:
    """One time step: Runge-Kutta of fourth order for -x + J tanh(x), then the kick."""

    J: Any
    dt: Any
    sigma: Any

    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """x(t + dt), driven by z ~ N(0, 1)."""
        drift = lambda x: self.J @ jnp.tanh(x) - x
        a = drift(x)
        b = drift(x + self.dt / 2 * a)
        c = drift(x + self.dt / 2 * b)
        d = drift(x + self.dt * c)
        return x + self.dt / 6 * (a + 2 * b + 2 * c + d) + self.sigma * jnp.sqrt(2 * self.dt) * z


def flow(config: dict[str, Any], n: int, k: int, g: float, sigma: float, draw: int) -> dict[str, jax.Array]:
    """The leading k exponents of one network in continuous time."""
    J, start, rng = network(config, n, g, draw)
    np.fill_diagonal(J, 0)
    per_time = round(1 / config["dt"])
    spans = per_time * config["burn_in"], per_time * config["align"], per_time * config["time"]
    step = Flow(J, np.asarray(config["dt"]), np.asarray(sigma))
    return measured(step, start, rng.standard_normal((sum(spans), n)), k, per_time, *spans)


def iterated(config: dict[str, Any], g: float, draw: int) -> dict[str, jax.Array]:
    """The leading exponents of one network in discrete time."""
    J, start, _ = network(config, config["map_size"], g, draw)
    spans = config["burn_in"], config["align"], config["map_time"]
    return measured(js.cells.Elman(jnp.asarray(J)), start, None, config["map_directions"], 1, *spans)


def network(config: dict[str, Any], n: int, g: float, draw: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """J, a first state and the generator for the noise; the same draw of J / g at every g."""
    rng = np.random.default_rng([config["seed"], n, draw])
    return g / np.sqrt(n) * rng.standard_normal((n, n)), rng.standard_normal(n), rng


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def measured(
    step: Any, start: Any, xs: Any, k: int, per_time: int, burn: int, align: int, count: int
) -> dict[str, Any]:
    """The leading k exponents after the burn-in, in nats each `per_time` steps, what follows from them, and mean slopes of tanh."""
    chain = js.jacobian_chain(step, start, xs, length=burn + align + count, store=False, check=False)
    found = known(js.lyapunov_exponents(chain[burn:], k=k, qr_every=per_time, transient=align))
    states = chain.states[burn + align :]
    slopes = 1 - (jnp.tanh(states) if isinstance(step, Flow) else states) ** 2
    return {
        "exponents": found.exponents * per_time,
        "dimension": found.kaplan_yorke_dimension / len(start),
        "entropy": found.entropy_rate * per_time / len(start),
        "positive": jnp.where(found.resolved.all(), jnp.sum(found.exponents > 0) / len(start), jnp.nan),
        "resolved": found.resolved,
        "slope": slopes.mean(),
        "slope_square": (slopes**2).mean(),
    }


def theory(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """lambda_1 of the flow, axes (noise, gain); dimension and entropy of the map along a curve; the same at the runs' gains."""
    gains = np.geomspace(1.05, max(config["sweep_gains"]), config["theory_gains"])
    curve = np.geomspace(1.05, max(config["map_gains"]), 3 * config["theory_gains"])
    network = jax.vmap(recurrent.rate_network)(jnp.asarray(curve))
    leading: Callable[[Any], np.ndarray] = lambda at: np.array(
        [[flow_exponent(g, s) for g in at] for s in config["noise"]]
    )
    return {
        "theory_gains": gains,
        "theory_leading": leading(gains),
        "sweep_theory": leading(config["sweep_gains"]),
        "theory_map_gains": curve,
        "theory_map_dimension": np.asarray(network.dimension),
        "theory_map_entropy": np.asarray(network.entropy),
    }


def gaussian() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of E f(z), z ~ N(0, 1): the trapezoid rule, geometric for what is smooth over a step of 0.01."""
    z = np.linspace(-10, 10, 2001)
    weight = np.exp(-(z**2) / 2)
    return z, weight / weight.sum()


def flow_exponent(g: float, sigma: float, *, points: int = 300, grid: int = 3000) -> float:
    """lambda_1 = -1 + sqrt(1 - E_0) of the flow, n -> infinity.

    The autocorrelation D(tau) of x rolls down D'' = D - g^2 C(D) with D'(0+) = -sigma^2, C(D) = E tanh(x) tanh(y) for x, y
    of variance q = D(0) and covariance D; by the energy, q^2 = 2 g^2 Var(ln cosh x) + sigma^4. E_0 is the lowest level of
    -d^2/dtau^2 + 1 - g^2 C'(D(tau)). Sompolinsky, Crisanti & Sommers 1988; with noise, Schuecker, Goedeke & Helias 2018.
    """
    z, weight = gaussian()
    log_cosh = lambda q: np.logaddexp(np.sqrt(q) * z, -np.sqrt(q) * z)
    energy = lambda q: 2 * g**2 * (weight @ (log_cosh(q) - weight @ log_cosh(q)) ** 2) + sigma**4 - q**2
    q = root_scalar(energy, bracket=(sigma**2 / 2 or 1e-4, 3 * g**2 + 2 * sigma**2)).root
    t = np.linspace(0, 5, points)
    D = q / np.cosh(t) ** 2
    slope = covariance_slope(q, D)
    # all integrals over D from 0 up, with dD = -2 D tanh(t) dt
    down = lambda f, end: end + (whole := CubicSpline(t, -2 * f * D * np.tanh(t)).antiderivative())(t) - whole(t[-1])
    C = down(slope, slope[-1] * D[-1])
    kinetic = down(D - g**2 * C, (1 - g**2 * slope[-1]) * D[-1] ** 2 / 2)  # D'^2 / 2
    pace = np.empty(points)  # dtau / dt
    pace[1:] = 2 * (D * np.tanh(t))[1:] / np.sqrt(2 * kinetic[1:])
    pace[0] = 0 if sigma else np.sqrt(2 * q / (g**2 * C[0] - q))
    tau = CubicSpline(t, pace).antiderivative()(t)
    well = CubicSpline(tau, 1 - g**2 * slope)
    levels = []
    for count in (grid, 2 * grid):  # even states on the half line, errors of second order in h
        h = tau[-1] / count
        diagonal = 2 / h**2 + well((np.arange(count) + 0.5) * h)
        diagonal[0] -= 1 / h**2
        off = np.full(count - 1, -1 / h**2)
        levels.append(eigh_tridiagonal(diagonal, off, eigvals_only=True, select="i", select_range=(0, 0))[0])
    return float(np.sqrt(1 - (4 * levels[1] - levels[0]) / 3) - 1)


def covariance_slope(q: float, D: np.ndarray) -> np.ndarray:
    """C'(D) = E tanh'(x) tanh'(y) = E_w (E_v tanh'(sqrt(D) w + sqrt(q - D) v))^2, both means by Fourier transform."""
    h = 0.15  # tanh' has no frequency above pi / h to double precision
    half = int(np.ceil((8 * np.sqrt(q) + 12) / h))
    x, k2 = np.arange(-half, half) * h, (2 * np.pi * np.fft.fftfreq(2 * half, h)) ** 2
    inner = np.fft.ifft(np.fft.fft(1 / np.cosh(x) ** 2) * np.exp(-np.outer(q - D, k2) / 2)).real
    return np.fft.ifft(np.fft.fft(inner**2) * np.exp(-np.outer(D, k2) / 2)).real[:, half]


def main() -> None:
    """Run it alone: ``python -m experiments.extensive_chaos``."""
    experiments.alone("extensive_chaos")


if __name__ == "__main__":
    main()
