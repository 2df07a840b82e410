"""What a change of the weights or of the data leaves as it was: seven normalizations N(W, X), output and both gradients.

The loss is <G, N(W, X)> with a fixed G. Its gradient with respect to X goes through the Jacobians of the layers, that with
respect to W through a chain whose state is W. If N(T W, X) = N(W, X), the chain rule gives T^T dL/dW(T W) = dL/dW(W): a
scale lambda turns up as 1 / lambda in the gradient, a shift does not turn up at all.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments
import jacspec as js
from experiments._known import known
from jacspec import layers
from jacspec.theory import normalization as theory

CONFIG = {
    "seed": 0,
    "normalizations": ["batch", "layer", "rms", "weight", "cosine", "centered_cosine", "plain"],
    "transformations": ["weights_scaled", "row_scaled", "vector_added_to_rows", "constant_added_in_rows", "data_scaled",
                        "example_scaled", "vector_added_to_examples"],
    "batch": 24,
    "inputs": 16,
    "units": 20,
    "factor": 3.0,
    "decades": 3,
    "steps": 42,
    "epsilon": 1e-3,
    "epsilon_factor": 10.0,
    "variance_decades": [-4, 4],
}  # fmt: skip
FULL = {"batch": 96, "inputs": 64, "units": 80, "steps": 84}
TINY = {"batch": 6, "inputs": 4, "units": 5, "steps": 7}

SAME, INVERSE, OTHER = range(3)
"""What happens to a quantity: nothing; 1 / lambda in place of lambda = 1; something else."""
NOTHING = 1e-11
"""A relative change below it is rounding: some 1e3 roundings of condition numbers up to 1e2."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The table, axes (normalization, transformation, quantity); norms, axes (normalization, lambda); the law in epsilon."""
    kinds, changes = config["normalizations"], config["transformations"]
    factors = np.logspace(-config["decades"], config["decades"], config["steps"] + 1)
    random = np.random.default_rng(config["seed"])
    W = random.standard_normal((config["units"], config["inputs"]))
    X = 0.5 + random.standard_normal((config["batch"], config["inputs"]))  # a mean to subtract
    G = random.standard_normal((config["batch"], config["units"]))
    shift, constants = random.standard_normal(config["inputs"]), random.standard_normal((config["units"], 1))
    change, classes = np.empty((len(kinds), len(changes), 3)), np.empty((len(kinds), len(changes), 3), int)
    rows: dict[str, list[Any]] = {key: [] for key in ("weight_norms", "input_norms", "radial")}
    for i, kind in enumerate(kinds):
        progress(kind, i, len(kinds) + 1)
        before = answers(kind, 0.0, W, X, G)
        for j, name in enumerate(changes):
            after = answers(kind, 0.0, *transformed(name, W, X, config["factor"], shift, constants), G)
            change[i, j], classes[i, j] = compared(name, before, after, config["factor"])
        rows["radial"].append([radial(X, before[1]), radial(W, before[2])])
        norm = np.linalg.norm
        rows["weight_norms"].append([norm(answers(kind, 0.0, f * W, X, G)[2]) for f in factors])
        rows["input_norms"].append([norm(answers(kind, 0.0, W, f * X, G)[1]) for f in factors])
    progress("epsilon", len(kinds), len(kinds) + 1)
    arrays = {name: np.array(value) for name, value in rows.items()} | {"factors": factors}
    arrays |= {"change": change, "classes": classes, "predicted": predictions(config)} | with_epsilon(config, W, X, G)
    progress("done", len(kinds) + 1, len(kinds) + 1)
    return arrays


def network(kind: str, epsilon: float, W: jax.Array) -> list[Any]:
    """N(W, .) as layers on a batch (B, n)."""
    dense = layers.PerExample(layers.Dense(W))
    if kind == "plain":
        return [dense]
    if kind == "weight":
        return [layers.PerExample(layers.WeightNorm(W))]
    if kind in ("cosine", "centered_cosine"):
        return [layers.PerExample(layers.CosineNorm(W, centered=kind == "centered_cosine", epsilon=epsilon))]
    if kind == "batch":
        return [dense, layers.BatchNorm(epsilon=epsilon)]
    return [dense, layers.PerExample({"layer": layers.LayerNorm, "rms": layers.RMSNorm}[kind](epsilon=epsilon))]


def answers(kind: str, epsilon: float, W: np.ndarray, X: np.ndarray, G: np.ndarray) -> list[np.ndarray]:
    """N(W, X), dL/dX and dL/dW."""
    return [np.asarray(answer) for answer in compiled_answers(kind, epsilon, W, X, G)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def compiled_answers(kind: str, epsilon: float, W: jax.Array, X: jax.Array, G: jax.Array) -> tuple[jax.Array, ...]:
    """The same, inside JAX."""
    chain = js.layer_chain(network(kind, epsilon, W), X, check=False)
    found = known(js.adjoints(chain, G))
    _, pull = jax.vjp(lambda W: layers.Sequential(*network(kind, epsilon, W))(X), W)
    return chain.states[-1], found.directions[0] * jnp.exp(found.log_norms[0]), *pull(G)


def transformed(
    name: str, W: np.ndarray, X: np.ndarray, factor: float, shift: np.ndarray, constants: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """W and X after the transformation."""
    return {
        "weights_scaled": (factor * W, X),
        "row_scaled": (first_times(factor, W), X),
        "vector_added_to_rows": (W + shift, X),
        "constant_added_in_rows": (W + constants, X),
        "data_scaled": (W, factor * X),
        "example_scaled": (W, first_times(factor, X)),
        "vector_added_to_examples": (W, X + shift),
    }[name]


def first_times(factor: float, A: np.ndarray) -> np.ndarray:
    """A with its first row times a factor."""
    return np.concatenate([factor * A[:1], A[1:]])


def radial(A: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """A . dL/dA, of all entries and of every row (the largest), over the sum of all moduli: 0 by Euler if A has no scale."""
    along = A * gradient
    return np.array([abs(along.sum()), np.abs(along.sum(axis=1)).max()]) / np.abs(along).sum()


def moved(name: str) -> int:
    """Which gradient belongs to what is transformed: 1, with respect to X, or 2, with respect to W."""
    return 1 if name in ("data_scaled", "example_scaled", "vector_added_to_examples") else 2


def compared(name: str, before: Any, after: Any, factor: float) -> tuple[list[float], list[int]]:
    """Relative changes of output and gradients, and what they are."""
    distance = lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b))
    changes = [distance(new, old) for new, old in zip(after, before, strict=True)]
    classes = [SAME if change < NOTHING else OTHER for change in changes]
    i = moved(name)
    pulled = factor * after[i] if name in ("weights_scaled", "data_scaled") else first_times(factor, after[i])
    if "scaled" in name and distance(pulled, before[i]) < NOTHING:
        classes[i] = INVERSE
    return changes, classes


def predictions(config: dict[str, Any]) -> np.ndarray:
    """What the chain rule makes of the table of outputs; W X itself and WeightNorm are linear in what they do not normalize."""
    linear = {("plain", 1), ("plain", 2), ("weight", 1)}
    found = np.full((len(config["normalizations"]), len(config["transformations"]), 3), OTHER)
    for i, kind in enumerate(config["normalizations"]):
        for j, name in enumerate(config["transformations"]):
            if theory.unchanged(kind, name):
                found[i, j] = SAME
                found[i, j, moved(name)] = INVERSE if "scaled" in name else SAME
            elif (kind, moved(name)) in linear:
                found[i, j, moved(name)] = SAME
    return found


def with_epsilon(config: dict[str, Any], W: np.ndarray, X: np.ndarray, G: np.ndarray) -> dict[str, np.ndarray]:
    """epsilon / sigma^2, ln of the ratio of gradients after and before a scale lambda, and theory's, for three layers.

    Every unit (BatchNorm, lambda W) or example (the others, lambda X) has a sigma^2 of its own. G is orthogonal to N there:
    the part of the gradient along N is of order epsilon / sigma^2 itself.
    """
    epsilon, factor = config["epsilon"], config["epsilon_factor"]
    first, last = config["variance_decades"]
    arrays = {}
    for kind in ("batch", "layer", "cosine"):
        axis = 0 if kind == "batch" else 1  # over which N is normalized
        square = (X**2).sum(axis=1) if kind == "cosine" else np.var(X @ W.T, axis=axis)
        variance = np.logspace(first, last, square.size)
        scale = np.sqrt(variance / square)[:, None]
        W0, X0 = (scale * W, X) if kind == "batch" else (W, scale * X)
        N, *_ = answers(kind, epsilon, W0, X0, G)
        across = G - N * (N * G).sum(axis=axis, keepdims=True) / (N * N).sum(axis=axis, keepdims=True)
        W1, X1 = (factor * W0, X0) if kind == "batch" else (W0, factor * X0)
        which = 2 if kind == "batch" else 1
        before, after = (answers(kind, epsilon, *at, across)[which] for at in ((W0, X0), (W1, X1)))
        ratio = np.log(np.linalg.norm(after, axis=1) / np.linalg.norm(before, axis=1))
        relative = epsilon / variance
        expected = (
            theory.weight_scaling(kind, factor, epsilon=relative).log_weight_gradient
            if kind == "batch"
            else theory.data_scaling(kind, factor, epsilon=relative).log_state_jacobian
        )
        arrays[f"epsilon_{kind}"] = np.stack([relative, ratio, np.asarray(expected)])
    return arrays


def main() -> None:
    """Run it alone: ``python -m experiments.invariance_panel``."""
    experiments.alone("invariance_panel")


if __name__ == "__main__":
    main()
