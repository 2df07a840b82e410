"""The gradient along the cell state of an LSTM taken apart: the forget gate, the four terms, and everything.

Along the cell state, with o_0 held and h_0 = o_0 tanh(c_0) moving with c_0,

    full          dc_t/dc_0 = [1 0] J_t ... J_1 [1; D_0],         J the Jacobian of (c, h),  D = diag(o tanh'(c))
    four terms    prod_s (diag(f_s) + B_s D_{s-1}),               B_s = dc_s/dh_{s-1}
    forget gate   prod_s diag(f_s)

The first leaves nothing out; the second holds every output gate fixed, so that it loses B_s diag(tanh(c) o') W_o, of second
order in the recurrent weights; the third loses B_s D_{s-1}, of first order.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
import jacspec as js
from experiments._known import known
from jacspec.theory import scalar

CONFIG = {
    "seed": 0,
    "width": 24,
    "inputs": 8,
    "steps": 20,
    "draws": 20,
    "gain": 1.0,
    "bias": 1.0,
    "gains": [0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0],
    "biases": [0.0, 1.0, 2.0, 5.0],
    "unit_biases": [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    "unit_weights": [1.0, -1.0, 2.0, 1.5],
    "unit_steps": 1000,
    "states": 4000,
}
FULL = {"width": 128, "draws": 50, "unit_steps": 20_000}
TINY = {"width": 4, "inputs": 2, "steps": 6, "draws": 3, "unit_steps": 10, "states": 50}


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part."""
    return experiments.in_parts((products, oracle, time_constants, unit, gates, secondary), config, progress)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def taken_apart(n: int, m: int, T: int, key: jax.Array, gain: float, bias: float) -> dict[str, jax.Array]:
    """dc_t/dc_0 of one cell after a burn-in of T steps, t = 1 ... T, by the three products, and the four terms of a step."""
    cell, xs = cell_and_drive(n, m, T, key, gain, bias)
    chain = js.jacobian_chain(cell, (jnp.zeros(n), jnp.zeros(n)), xs, check=False)
    c, h = chain.states
    output = jax.vmap(cell.gates)((c[:-1], h[:-1]), xs)["output"][T - 1 : -1]  # o_0 ... o_{T-1}
    before = (c[T:-1], h[T:-1])
    four = jax.vmap(lambda carry, x, o: cell.four_term(carry, x, previous_output_gate=o).dense())(
        before, xs[T:], output
    )
    forget = jax.vmap(lambda carry, x: cell.forget_only(carry, x).dense())(before, xs[T:])

    def further(P, J):
        P = jax.tree.map(jnp.matmul, J, P)
        return P, P

    one = jnp.eye(n)
    start = (jnp.concatenate([one, jnp.diag(output[0] / jnp.cosh(c[T]) ** 2)]), one, one)
    (full, by_four, by_forget) = jax.lax.scan(further, start, (chain[T:].dense(), four, forget))[1]
    return {"full": full[:, :n], "four": by_four, "forget": by_forget, "step": four}


def cell_and_drive(n: int, m: int, T: int, key: jax.Array, gain: Any, bias: Any) -> tuple[js.cells.LSTM, jax.Array]:
    """Gaussian weights of variance gain^2 / n and 1 / m, a forget bias, and white input of 2 T steps."""
    at_W, at_U, at_x = jax.random.split(key, 3)
    W = gain / np.sqrt(n) * jax.random.normal(at_W, (4, n, n))
    U = jax.random.normal(at_U, (4, n, m)) / np.sqrt(m)
    return js.cells.LSTM(W, U, jnp.zeros((4, n)).at[1].set(bias)), jax.random.normal(at_x, (2 * T, m))


def products(config: dict[str, Any]) -> dict[str, Any]:
    """Norms, axes (case, draw, kind, t), and relative errors, axes (case, draw, approximation, t), by bias and by gain."""
    cases = {
        "bias": [(config["gain"], b) for b in config["biases"]],
        "gain": [(g, config["bias"]) for g in config["gains"]],
    }
    arrays, size = {}, functools.partial(np.linalg.norm, axis=(-2, -1))
    for name, of_name in cases.items():
        norms, errors = [], []
        for (gain, bias), key in itertools.product(of_name, keys(config)):
            found = jax.tree.map(np.asarray, taken_apart(*sizes(config), key, gain, bias))
            full, *approximations = kinds = [found[kind] for kind in ("full", "four", "forget")]
            norms.append(np.log(size(np.stack(kinds)) / np.sqrt(config["width"])))
            errors.append([size(P - full) / size(full) for P in approximations])
        shape = (len(of_name), config["draws"])
        arrays |= {
            f"{name}_norms": np.reshape(norms, (*shape, 3, -1)),
            f"{name}_errors": np.reshape(errors, (*shape, 2, -1)),
        }
    return arrays


def sizes(config: dict[str, Any]) -> tuple[int, int, int]:
    """Units, inputs, steps."""
    return config["width"], config["inputs"], config["steps"]


def keys(config: dict[str, Any]) -> jax.Array:
    """One key a draw."""
    return jax.random.split(jax.random.key(config["seed"]), config["draws"])


def oracle(config: dict[str, Any]) -> dict[str, Any]:
    """Worst errors of the full product and of one step's four terms from complex steps, d = Im f(c + i e) / e, in NumPy."""
    n, m, T = sizes(config)
    tiny, worst = 1e-30, {"full": 0.0, "step": 0.0}
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    for key in keys(config):
        found = jax.tree.map(np.asarray, taken_apart(n, m, T, key, config["gain"], config["bias"]))
        cell, xs = cell_and_drive(n, m, T, key, config["gain"], config["bias"])
        W, U, b = (np.asarray(a) for a in (cell.W, cell.U, cell.b))

        def step(c, h, x, W=W, U=U, b=b):
            i, f, g, o = (h @ W[k].T + U[k] @ x + b[k] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return c, sigmoid(o) * np.tanh(c), sigmoid(o)

        def compare(kind, t, c, found=found):
            derivative = c.imag.T / tiny
            error = np.abs(found[kind][t] - derivative).max() / np.abs(derivative).max()
            worst[kind] = max(worst[kind], error)

        c = h = o = np.zeros(n)
        for x in np.asarray(xs[:T]):
            c, h, o = step(c, h, x)
        moved = c + 1j * tiny * np.eye(n)  # row j: dc_0 along unit j
        far, far_h = moved, o * np.tanh(moved)
        for t, x in enumerate(np.asarray(xs[T:])):
            moved = c + 1j * tiny * np.eye(n)
            compare("step", t, step(moved, o * np.tanh(moved), x)[0])
            far, far_h, _ = step(far, far_h, x)
            compare("full", t, far)
            c, h, o = step(c, h, x)
    return worst


def time_constants(config: dict[str, Any]) -> dict[str, Any]:
    """tau = -T / ln(dc_T/dc_0) of a unit without recurrent weights and input, one for each forget bias."""
    T = config["steps"]

    def one(bias):
        cell = js.cells.LSTM(jnp.zeros((4, 1, 1)), b=jnp.zeros((4, 1)).at[1].set(bias))
        chain = js.jacobian_chain(cell, (jnp.ones(1), jnp.zeros(1)), length=T, check=False)
        dc, scale = chain.push(jnp.array([1.0, 0.0]))
        return -T / (jnp.log(dc[0]) + scale)

    return {"tau": jax.jit(jax.vmap(one))(jnp.asarray(config["biases"]))}


def unit(config: dict[str, Any]) -> dict[str, Any]:
    """Both exponents of one driven unit for each forget bias, and the mean ln abs det of its steps from the closed form."""
    T, w = config["unit_steps"], jnp.asarray(config["unit_weights"])
    xs = jax.random.normal(jax.random.key(config["seed"] + 1), (T, 1))

    def one(bias):
        b = jnp.zeros(4).at[1].set(bias)
        cell = js.cells.LSTM(w[:, None, None], jnp.ones((4, 1, 1)), b[:, None])
        measured = known(js.lyapunov_exponents(js.jacobian_chain(cell, (jnp.zeros(1), jnp.zeros(1)), xs, check=False)))

        def closed_form(state, x):
            h, c = state
            step = scalar.lstm(h, c, tuple(w), tuple(x + b))
            return (step.h, step.c), step.log_determinant

        return measured.exponents, jax.lax.scan(closed_form, (0.0, 0.0), xs[:, 0])[1].mean()

    exponents, log_det = jax.jit(jax.vmap(one))(jnp.asarray(config["unit_biases"]))
    return {"exponents": exponents, "log_det": log_det}


def gates(config: dict[str, Any]) -> dict[str, Any]:
    """Cell values and their derivative at the corners of (input, forget), gate biases +-30, candidate tanh 1."""
    del config
    corners = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    old = np.linspace(-2, 2, 9)

    def new(corner, c):
        b = jnp.stack([60 * corner[0] - 30, 60 * corner[1] - 30, 1.0, 0.0])[:, None]
        cell, carry = js.cells.LSTM(jnp.zeros((4, 1, 1)), b=b), (c[None], jnp.zeros(1))
        return cell(carry)[0][0], cell.jacobian(carry).dense()[0, 0]

    value, slope = jax.vmap(jax.vmap(new, (None, 0)), (0, None))(jnp.asarray(corners), jnp.asarray(old))
    i, f = corners.T[:, :, None]
    return {"value_error": np.abs(value - (f * old + i * np.tanh(1.0))), "slope_error": np.abs(slope - f)}


def secondary(config: dict[str, Any]) -> dict[str, Any]:
    """What U_f is multiplied by in dc_t/dc_{t-1}, c f (1 - f) o (1 - tanh^2 c), from the operator.

    At random c, f and o, and at f = 1/2, o = 1 along c, where it is largest.
    """

    def factor(c, a_f, o):
        cell = js.cells.LSTM(jnp.zeros((4, 1, 1)).at[1].set(1.0), b=jnp.zeros((4, 1)).at[1].set(a_f - o * jnp.tanh(c)))
        carry = (c[None], (o * jnp.tanh(c))[None])
        four, forget = cell.four_term(carry, previous_output_gate=o[None]), cell.forget_only(carry)
        return (four.dense() - forget.dense())[0, 0]

    factor = jax.jit(jax.vmap(factor))
    rng, count = np.random.default_rng(config["seed"]), config["states"]
    c, a_f, o = rng.normal(0, 1.5, count), rng.normal(0, 1.5, count), rng.uniform(0, 1, count) ** 0.25
    line = np.linspace(0, 4, count)
    return {"c": c, "factor": factor(c, a_f, o), "line": line, "top": factor(line, 0 * line, 0 * line + 1)}


def main() -> None:
    """Run it alone: ``python -m experiments.lstm_anatomy``."""
    experiments.alone("lstm_anatomy")


if __name__ == "__main__":
    main()
