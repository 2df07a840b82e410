"""Scalar networks and two small matrices whose gradients are known in closed form, measured with jacspec.

Everything measured goes through the package (`jacobian_chain` and a question put to it); everything expected is a
formula in NumPy that knows nothing of cells or chains. Logs are natural, so rates are nats per step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, gammaln, logsumexp

import experiments
import jacspec as js
from experiments._known import known

CONFIG = {
    "seed": 0,
    "linear_weights": [1.01, 0.99],
    "linear_steps": 365,
    "sigmoid_steps": 20,
    "sigmoid_draws": 2000,
    "tanh_weights": [0.5, 1.0, 1.5, 2.0],
    "tanh_curve": [0.3, 0.4, 0.6, 0.7, 0.8, 1.2, 1.3, 1.4, 1.6, 1.7, 1.8, 1.9, 2.2, 2.4, 2.6],
    "tanh_steps": 2000,
    "critical_steps": 100_000,
    "critical_start": 1.0,
    "forget_biases": [0.0, 1.0, 2.0, 5.0],
    "gate_steps": 150,
    "closed_gate": 30.0,
    "latch_weights": [1.25, 1.5, 2.0, 3.0, 4.0, 5.0],
    "latch_factors": [0.5, 0.75, 0.999, 1.001, 1.333, 2.0],
    "latch_steps": 5000,
    "transient_size": 50,
    "transient_diagonal": 0.9,
    "transient_above": 5.0,
    "transient_steps": 3000,
    "shears": 20,
}
FULL = {"sigmoid_draws": 100_000, "critical_steps": 1_000_000}
TINY = {
    "sigmoid_draws": 20,
    "tanh_curve": [0.5, 2.2],
    "critical_steps": 1000,
    "transient_size": 6,
    "transient_steps": 60,
}

SCALAR = jnp.zeros(1)


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a panel; names end in `_theory` where a formula gave the number."""
    return experiments.in_parts(
        (linear, sigmoid, tanh_rates, critical, gate_bias, gate_table, latching, transient, shears), config, progress
    )


def linear(config: dict[str, Any]) -> dict[str, Any]:
    """h' = w h: ln abs dh_t/dh_0 = t ln w."""
    T, w = config["linear_steps"], np.array(config["linear_weights"])

    def measured(weight):
        cell = js.cells.Elman(weight[None, None], activation="linear")
        norms = js.log_gradient_norms(js.jacobian_chain(cell, SCALAR, length=T, check=False), jnp.ones(1))
        return norms[::-1]  # J is the same at every step: dh_T/dh_{T-t} = dh_t/dh_0

    t = np.arange(T + 1)
    return {"t": t, "log": jax.vmap(measured)(jnp.asarray(w)), "theory": t * np.log(w)[:, None]}


def sigmoid(config: dict[str, Any]) -> dict[str, Any]:
    """abs dh_T/dh_0 <= (abs U / 4)^T, reached where the bias -U/2 holds the state 1/2 at pre-activation 0."""
    T = config["sigmoid_steps"]

    def measured(U, b, h0):
        cell = js.cells.Elman(U[None, None], b=b[None], activation="sigmoid")
        chain = js.jacobian_chain(cell, h0[None], length=T, check=False)
        return js.log_gradient_norms(chain, jnp.ones(1))[0]

    random = np.random.default_rng(config["seed"])
    U = random.uniform(-8, 8, config["sigmoid_draws"])
    b, h0 = random.normal(0, 2, U.size), random.uniform(0, 1, U.size)
    held = np.array([0.25, 0.5, 1.0, 2.0, 3.0, 6.0])
    logs = jax.vmap(measured)(*map(jnp.asarray, (U, b, h0)))
    at_most = jax.vmap(measured)(jnp.asarray(held), jnp.asarray(-held / 2), jnp.full(held.size, 0.5))
    return {"steps": T, "weights": U, "log": logs, "held_weights": held, "held_log": at_most}


def tanh_exponent(U: float) -> float:
    """The exponent of h' = tanh(U h): ln U up to U = 1, then ln(U (1 - h*^2)) at h* = tanh(U h*)."""
    if U <= 1:
        return float(np.log(U))
    fixed = brentq(lambda a: a - U * np.tanh(a), 1e-9 + np.sqrt(max(0.0, U - 1)) / 10, U, xtol=1e-15, rtol=1e-15)
    return float(np.log(U) - 2 * np.log(np.cosh(fixed)))


def tanh_rates(config: dict[str, Any]) -> dict[str, Any]:
    """Exponents of h' = tanh(U h), after a transient in which the state reaches its fixed point."""
    T = config["tanh_steps"]

    def measured(U):
        chain = js.jacobian_chain(js.cells.Elman(U[None, None]), jnp.ones(1), length=2 * T, check=False)
        return known(js.lyapunov_exponents(chain, transient=T)).exponents[0]

    named, others = np.array(config["tanh_weights"]), np.array(config["tanh_curve"])
    curve = np.union1d(np.linspace(0.25, 2.7, 99), [1.0])
    return {
        "named": named,
        "named_measured": jax.vmap(measured)(jnp.asarray(named)),
        "named_theory": [tanh_exponent(U) for U in named],
        "others": others,
        "others_measured": jax.vmap(measured)(jnp.asarray(others)),
        "curve": curve,
        "curve_theory": [tanh_exponent(U) for U in curve],
    }


def critical(config: dict[str, Any]) -> dict[str, Any]:
    """tanh at U = 1: abs dh_t/dh_0 ~ t^(-3/2), and for comparison U below and above with the same start."""
    T = config["critical_steps"]
    times = np.unique(np.geomspace(1, T, 41).round().astype(int))
    chain = js.jacobian_chain(js.cells.Elman(jnp.ones((1, 1))), jnp.full(1, config["critical_start"]), length=T)
    logs = np.asarray(known(js.spectrum(chain, at=times)).log_singular_values[:, 0])
    late = times >= T // 10
    slope = np.polyfit(np.log(times[late]), logs[late], 1)[0]
    return {"t": times, "log": logs, "slope": slope, "slope_theory": -1.5}


def zero_lstm(biases: Any) -> js.cells.LSTM:
    """An LSTM of one unit without recurrent weights, with the biases of the gates i, f, g, o."""
    return js.cells.LSTM(jnp.zeros((4, 1, 1)), b=jnp.asarray(biases)[:, None])


def gate_bias(config: dict[str, Any]) -> dict[str, Any]:
    """Without recurrent weights dc_t/dc_0 = sigma(b)^t = exp(-t / tau), tau = -1 / ln sigma(b)."""
    T, biases = config["gate_steps"], np.array(config["forget_biases"])
    times = np.arange(1, T + 1)

    def measured(b):
        cell = zero_lstm(jnp.stack([jnp.zeros(()), b, jnp.ones(()), jnp.zeros(())]))
        chain = js.jacobian_chain(cell, (jnp.ones(1), jnp.zeros(1)), length=T, check=False)
        cotangent = jnp.zeros((T + 1, 1)).at[T].set(1)
        return js.log_gradient_norms(chain, (cotangent, 0 * cotangent))[::-1]

    logs = jax.vmap(measured)(jnp.asarray(biases))[:, 1:]
    return {
        "biases": biases,
        "t": times,
        "log": logs,
        "tau": -T / logs[:, -1],
        "tau_theory": -1 / np.log(expit(biases)),
    }


def gate_table(config: dict[str, Any]) -> dict[str, Any]:
    """(i, f) = (0, 1) keep, (1, 1) add, (0, 0) erase, (1, 0) overwrite: c' = c, c + g, 0, g."""
    big, before = config["closed_gate"], np.linspace(-1.5, 1.5, 13)
    after, bound = [], []
    g = np.tanh(0.6)
    for i, f in ((0, 1), (1, 1), (0, 0), (1, 0)):
        cell = zero_lstm([(2 * i - 1) * big, (2 * f - 1) * big, 0.6, 0.0])
        step = lambda c, cell=cell: js.jacobian_chain(cell, (c[None], SCALAR), length=1, check=False).states[0][1, 0]
        after.append(jax.vmap(step)(jnp.asarray(before)))
        bound.append(f * before + i * g)
    return {"before": before, "after": np.stack(after), "theory": np.stack(bound)}


def latch_threshold(w: Any) -> Any:
    """The constant input that just fails to flip a = tanh(w a - h): h* = w sqrt(1 - 1/w) - artanh sqrt(1 - 1/w)."""
    root = np.sqrt(1 - 1 / np.asarray(w, float))
    return w * root - np.arctanh(root)


def latching(config: dict[str, Any]) -> dict[str, Any]:
    """Whether a latched state a > 0 survives the constant input -factor h*, and the gradient across that time."""
    w, factors = np.array(config["latch_weights"]), np.array(config["latch_factors"])

    def measured(w, h):
        cell = js.cells.Elman(w[None, None], b=-h[None])
        chain = js.jacobian_chain(cell, jnp.ones(1), length=config["latch_steps"], check=False)
        return chain.states[-1, 0] > 0

    inputs = latch_threshold(w)[:, None] * factors
    holds = jax.vmap(jax.vmap(measured, (None, 0)))(jnp.asarray(w), jnp.asarray(inputs))
    curve = np.linspace(1, 5.4, 200)
    return {
        "weights": w, "factors": factors, "inputs": inputs, "holds": holds,
        "threshold": latch_threshold(w), "curve": curve, "curve_theory": latch_threshold(curve),
    }  # fmt: skip


def transient_logs(times: np.ndarray, n: int, diagonal: float, above: float) -> np.ndarray:
    """ln ||W^t|| for W = diagonal I + above N / (1 - N), N the shift: W^t is a Toeplitz matrix of positive binomials.

    The coefficient of N^k in (d + a N / (1 - N))^t is sum_j C(t, j) d^(t-j) a^j C(k-1, j-1), added up in logs.
    """
    choose = lambda a, b: gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1)
    out = []
    for t in times:
        row = [t * np.log(diagonal)]
        for k in range(1, n):
            j = np.arange(1, min(k, t) + 1)
            row.append(logsumexp(choose(t, j) + (t - j) * np.log(diagonal) + j * np.log(above) + choose(k - 1, j - 1)))
        top = max(row)
        W = sum(np.exp(value - top) * np.eye(n, k=k) for k, value in enumerate(row))
        out.append(top + np.log(np.linalg.norm(W, 2)))
    return np.array(out)


def transient(config: dict[str, Any]) -> dict[str, Any]:
    """A linear network whose eigenvalues are all 0.9 and whose gradients explode for a thousand steps first."""
    n, d, a = config["transient_size"], config["transient_diagonal"], config["transient_above"]
    T = config["transient_steps"]
    W = d * np.eye(n) + a * np.triu(np.ones((n, n)), 1)
    times = np.unique([1, 2, 5, 10, 20, 50, *np.linspace(0, T, 16).astype(int)[1:]])
    times = times[times <= T]
    chain = js.jacobian_chain(js.cells.Elman(jnp.asarray(W), activation="linear"), jnp.zeros(n), length=T)
    # by vectors: full QR would mix the rows of a triangle whose small entries this growth hangs on
    logs = known(js.spectrum(chain, at=times, k=1)).log_singular_values[:, 0]
    curve = np.unique(np.geomspace(1, T, 120).round().astype(int))
    return {
        "t": times, "log": logs, "theory": transient_logs(times, n, d, a),
        "curve": curve, "curve_theory": transient_logs(curve, n, d, a), "rho": d,
    }  # fmt: skip


def shears(config: dict[str, Any]) -> dict[str, Any]:
    """[[1, 1], [0, 1]]^t: log singular values +-arsinh(t / 2), while the QR recursion reads off (0, 0)."""
    T = config["shears"]
    chain = js.JacobianChain.from_matrices(jnp.tile(jnp.array([[1.0, 1.0], [0.0, 1.0]]), (T, 1, 1)))
    t = np.arange(T + 1)
    return {
        "t": t, "log": known(js.spectrum(chain, at=t)).log_singular_values, "theory": np.arcsinh(t / 2),
        "qr": known(js.lyapunov_exponents(chain)).exponents * T,
    }  # fmt: skip


def main() -> None:
    """Run it alone: ``python -m experiments.closed_forms``."""
    experiments.alone("closed_forms")


if __name__ == "__main__":
    main()
