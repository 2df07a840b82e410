"""GRU and LSTM around their critical lines: largest exponents, with fresh and with shared weights, beside mean field.

With fresh weights the step draws new gates W_k, W_ij ~ N(0, s / n), and new input every time: a deep network of gated
layers, and the setting of the theory. With shared weights the same cells run as recurrent networks under white input.
Runs are in float32, which largest exponents do not notice. Every run has one weight variance s for all gates, one input variance v for all gates, and one bias for the gate that
keeps (the update gate of the GRU in the reset-after form, the forget gate of the LSTM).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

import experiments
import jacspec as js
from experiments._known import known
from jacspec.theory import recurrent

CONFIG = {
    "seed": 0,
    "size": 200,
    "biases": [0.0, 1.0, 2.0, 3.0],
    "inputs": [0.0, 1.0],
    "factors": [0.7, 0.9, 1.1, 1.4, 2.5],
    "fresh_steps": 200,
    "burn_in": 50,
    "shared_burn_in": 200,
    "shared_steps": 300,
    "shared_draws": 3,
    "silent_gain": 0.8,
    "line_biases": [-1.0, 0.5, 1.5, 2.5],
    "curve_points": 7,
}
FULL = {"size": 500, "fresh_steps": 1000, "shared_steps": 2000, "shared_draws": 8}
TINY = {
    "size": 10,
    "biases": [0.0, 2.0],
    "factors": [0.5, 3.0],
    "fresh_steps": 20,
    "burn_in": 5,
    "shared_burn_in": 5,
    "shared_steps": 20,
    "shared_draws": 2,
    "line_biases": [1.0],
    "curve_points": 2,
}
MAY_BE_NAN = ("fresh_error",)
"""A record too short or too regular to tell its standard error."""

GATES = {"gru": 3, "lstm": 4}
KEEPS = 1
INPUTS = 8
normal = functools.partial(jax.random.normal, dtype=jnp.float32)


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Arrays by cell; `fresh_*` have axes (bias, input, factor), `shared_*` (case, bias, draw)."""
    arrays: dict[str, Any] = {}
    parts = (lines, rates, shared)
    for done, (name, part) in enumerate((name, part) for name in GATES for part in parts):
        progress(f"{name.upper()}: {part.__name__}", done, len(GATES) * len(parts))
        arrays |= {f"{name}_{key}": np.asarray(value) for key, value in part(config, name, arrays).items()}
    progress("done", len(GATES) * len(parts), len(GATES) * len(parts))
    return arrays


def make(name: str, W: jax.Array, U: jax.Array, bias: jax.Array) -> Any:
    """The cell, all biases 0 but that of the gate that keeps."""
    b = jnp.zeros(W.shape[:2], W.dtype).at[KEEPS].set(bias)
    return js.cells.GRU(W, U, b) if name == "gru" else js.cells.LSTM(W, U, b)


def draw(key: jax.Array, name: str, n: int, s: Any, v: Any) -> tuple[jax.Array, jax.Array]:
    """Recurrent weights of variance s / n, and input weights for which U x has variance v if x is normal."""
    at_W, at_U = jax.random.split(key)
    W = jnp.sqrt(s / n) * normal(at_W, (GATES[name], n, n))
    return W, jnp.sqrt(v / INPUTS) * normal(at_U, (GATES[name], n, INPUTS))


def single(points: list[jax.Array]) -> list[jax.Array]:
    """The points in float32."""
    return [p.astype(jnp.float32) for p in points]


def start(name: str, n: int) -> Any:
    """A state far from silence."""
    h = normal(jax.random.key(1), (n,)) / 2
    return h if name == "gru" else (2 * h, h)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["s", "v", "bias"], meta_fields=["name", "size"])
@dataclasses.dataclass(frozen=True)
class Fresh:
    """A step that draws its weights and its input from the key that drives it."""

    s: Any
    v: Any
    bias: Any
    name: str
    size: int

    def drawn(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """The cell of this step and its input."""
        cell = make(self.name, *draw(key, self.name, self.size, self.s, self.v), self.bias)
        return cell, normal(jax.random.fold_in(key, 2), (INPUTS,))

    def __call__(self, h: Any, key: jax.Array) -> Any:
        """The next state."""
        cell, x = self.drawn(key)
        return cell(h, x)

    def jacobian(self, h: Any, key: jax.Array) -> Any:
        """That of the cell."""
        cell, x = self.drawn(key)
        return cell.jacobian(h, x)


def theory(name: str, s: Any, v: Any, bias: Any) -> recurrent.GatedMeanField:
    """Mean field of the cell at one point."""
    if name == "gru":
        return recurrent.gru(s, update_bias=bias, input_variance=v)
    return recurrent.lstm(s, forget_bias=bias, input_variance=v)


@functools.partial(jax.jit, static_argnums=0)
def critical(name: str, v: Any, biases: Any) -> recurrent.CriticalPoint:
    """The critical weight variances at every bias."""
    one = {
        "gru": lambda b: recurrent.gru_critical(update_bias=b, input_variance=v),
        "lstm": lambda b: recurrent.lstm_critical(forget_bias=b, input_variance=v),
    }[name]
    return jax.lax.map(one, biases)


def onset(name: str, biases: np.ndarray) -> np.ndarray:
    """Weight variance up to which the silent state is stable with shared weights, the other gates being at 1/2."""
    return np.full(biases.shape, 4.0) if name == "gru" else 16 * (1 - expit(biases)) ** 2


def lines(config: dict[str, Any], name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The critical lines; the biases that are run are among the points of the line."""
    del arrays
    biases = np.array(config["biases"])
    line = np.union1d(biases, config["line_biases"])
    silent, driven = (critical(name, v, jnp.asarray(line)) for v in config["inputs"])
    both = np.stack([silent.weight_variance, driven.weight_variance], axis=1)
    return {
        "line_biases": line,
        "line_fresh": both,
        "line_silent": silent.silent,
        "line_shared": onset(name, line),
        "critical": both[np.searchsorted(line, biases)],
        "continuous": np.stack([silent.continuous, driven.continuous], axis=1)[np.searchsorted(line, biases)],
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def fresh_exponents(name: str, n: int, burn_in: int, keys: jax.Array, s: jax.Array, v: jax.Array, bias: jax.Array):
    """Largest exponent and its standard error with fresh weights at many points, the draws being the same for all."""

    def one(s, v, bias):
        chain = js.jacobian_chain(Fresh(s, v, bias, name, n), start(name, n), keys, check=False, store=False)
        found = known(js.lyapunov_exponents(chain, k=1, transient=burn_in))
        return found.exponents[0], found.standard_error[0]

    return jax.vmap(one)(s, v, bias)


def rates(config: dict[str, Any], name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Exponents with fresh weights at multiples of the critical variance; theory there, and at two biases along curves."""
    biases, inputs, factors = (np.array(config[key]) for key in ("biases", "inputs", "factors"))
    line = arrays[f"{name}_critical"]
    steps = config["burn_in"] + config["fresh_steps"]
    keys = jax.random.split(jax.random.key(config["seed"]), steps)

    def grid(which, factors):
        s = line[which][:, :, None] * factors
        v, b = np.broadcast_to(inputs[:, None], s.shape), np.broadcast_to(biases[which, None, None], s.shape)
        return s.shape, [jnp.asarray(a.ravel()) for a in (s, v, b)]

    shape, points = grid(slice(None), factors)
    found, error = fresh_exponents(name, config["size"], config["burn_in"], keys, *single(points))
    mean_field = jax.jit(lambda *p: jax.lax.map(lambda q: theory(name, *q), p))
    there = mean_field(*points)
    fine = np.union1d(np.geomspace(factors.min(), factors.max(), config["curve_points"]), [0.999, 1.001])
    curve_shape, curve = grid([0, -1], fine)
    return {
        "fresh_exponent": found.reshape(shape),
        "fresh_error": error.reshape(shape),
        "fresh_theory": there.leading.reshape(shape),
        "fresh_quadrature": there.error.max(),
        "curve_factors": fine,
        "curve_theory": mean_field(*curve).leading.reshape(curve_shape),
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def shared_exponents(name: str, n: int, burn_in: int, steps: int, keys: jax.Array, s: Any, v: Any, bias: Any):
    """Largest exponents of recurrent networks with shared weights, one for every key and point."""

    def one(point):
        key, s, v, bias = point
        cell = make(name, *draw(key, name, n, s, v), bias)
        xs = normal(jax.random.fold_in(key, 3), (burn_in + steps, INPUTS))
        chain = js.jacobian_chain(cell, start(name, n), xs, check=False)
        return known(js.lyapunov_exponents(chain, k=1, transient=burn_in)).exponents[0]

    return jax.lax.map(one, (keys, s, v, bias))


def shared(config: dict[str, Any], name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Shared weights: silent below onset, and driven on the line of fresh weights and at the last factor above it."""
    biases, n = np.array(config["biases"]), config["size"]
    line = arrays[f"{name}_critical"]
    v = config["inputs"][1]
    cases = [
        (config["silent_gain"] ** 2 * onset(name, biases), 0.0),
        (line[:, 1], v),
        (config["factors"][-1] * line[:, 1], v),
    ]
    shape = (len(cases), biases.size, config["shared_draws"])
    s = np.broadcast_to(np.array([s for s, _ in cases])[:, :, None], shape)
    inputs = np.broadcast_to(np.array([v for _, v in cases])[:, None, None], shape)
    keys = jax.random.split(jax.random.key(config["seed"] + 1), shape[2])
    keys = jnp.tile(keys, shape[0] * shape[1])
    points = [jnp.asarray(a.ravel()) for a in (s, inputs, np.broadcast_to(biases[:, None], shape))]
    found = shared_exponents(name, n, config["shared_burn_in"], config["shared_steps"], keys, *single(points))
    origin = {
        "gru": lambda s, b: recurrent.gru_origin_spectrum(1e-12, s, keep_bias=b),
        "lstm": lambda s, b: recurrent.lstm_origin_spectrum(1e-12, s, forget_bias=b),
    }[name]
    fine = np.linspace(biases.min(), biases.max(), 4 * config["curve_points"])
    at = lambda b: jax.vmap(origin)(config["silent_gain"] ** 2 * jnp.asarray(onset(name, b)), jnp.asarray(b))
    return {
        "shared_exponent": found.reshape(shape),
        "silent_theory": at(biases),
        "silent_curve": at(fine),
        "silent_biases": fine,
    }


def main() -> None:
    """Run it alone: ``python -m experiments.gated_phase``."""
    experiments.alone("gated_phase")


if __name__ == "__main__":
    main()
