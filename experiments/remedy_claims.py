"""Six things that are said about remedies, each put to a small test with a number.

clipping    clipping by norm is a smaller learning rate under SGD, and under Adam it is nothing at all
forgetting  weights in front of a normalization forget the learning rate: ||w||^2 grows until the rate fits
turning     with weight decay they turn by sqrt(2 eta lambda) an update, whatever their length
batches     BatchNorm needs shuffled batches: one class a batch, and the running statistics fit no batch
features    LayerNorm over features of unequal scale sees but the largest
order       BatchNorm before or after the activation: the same explosion rate at initialization
shift       the gradient of a layer before and after the layers below have moved, with and without BatchNorm
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import experiments
import jacspec as js
from jacspec import models, remedies, tasks

CONFIG = {
    "seed": 0,
    "clip_steps": 200,
    "clip_factor": 1e-3,
    "invariant_width": 100,
    "rates": [0.01, 0.1, 1.0],
    "forget_steps": 3000,
    "turn_steps": 6000,
    "turn_rate": 0.1,
    "decays": [3e-3, 1e-2, 3e-2],
    "width": 64,
    "depth": 4,
    "batch": 50,
    "updates": 600,
    "seeds": 3,
    "scales": [1.0, 10.0, 100.0, 1000.0],
    "order_width": 300,
    "order_batch": 64,
    "order_depth": 24,
    "order_draws": 2,
    "shift_depth": 8,
    "shift_updates": 200,
    "shift_every": 20,
    "shift_rate": 0.05,
}
FULL = {"updates": 3000, "seeds": 10, "order_width": 800, "order_draws": 8, "shift_updates": 1000, "turn_steps": 30_000}
TINY = {
    "clip_steps": 40,
    "forget_steps": 50,
    "turn_steps": 400,
    "width": 8,
    "depth": 2,
    "batch": 10,
    "updates": 20,
    "seeds": 2,
    "scales": [1.0, 1000.0],
    "order_width": 12,
    "order_batch": 8,
    "order_depth": 12,
    "order_draws": 1,
    "shift_depth": 3,
    "shift_updates": 20,
    "shift_every": 10,
}


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """The arrays of the figure, one group a part."""
    return experiments.in_parts((clipping, forgetting, turning, batches, features, order, shift), config, progress)


def descend(optimizer: optax.GradientTransformation, loss: Any, w: jax.Array, inputs: Any) -> jax.Array:
    """The weights after every update of w, (T + 1, ...); `inputs` has leading axis T."""

    def update(carry, x):
        w, state = carry
        step, state = optimizer.update(jax.grad(loss)(w, x), state, w)
        w = optax.apply_updates(w, step)
        return (w, state), w

    return jnp.concatenate([w[None], jax.lax.scan(update, (w, optimizer.init(w)), inputs)[1]])


def clipping(config: dict[str, Any]) -> dict[str, Any]:
    """Rosenbrock's valley from a steep wall: clipped every time, against the rate that this amounts to."""
    T, s = config["clip_steps"], config["clip_factor"]

    def loss(w, scale):
        return scale * jnp.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)

    start = jnp.full(4, -1.5)
    ones, small = jnp.ones(T), jnp.full(T, s)
    # a threshold below every gradient on the way: the update is eta c g / ||g||
    rate, threshold = 0.1, 0.01
    clipped = descend(optax.chain(remedies.clip_by_global_norm(threshold), optax.sgd(rate)), loss, start, ones)
    norms = jax.vmap(lambda w: jnp.linalg.norm(jax.grad(loss)(w, 1.0)))(clipped[:-1])
    slower = descend(optax.sgd(1.0), lambda w, eta: loss(w, eta), start, rate * threshold / norms)
    travelled = lambda path: jnp.linalg.norm(path[-1] - path[0])
    adam = [descend(optax.adam(0.01), loss, start, scale) for scale in (ones, small)]
    sgd = [descend(optax.sgd(1e-6), loss, start, scale) for scale in (ones, small)]
    return {
        "least_norm": norms.min() / threshold,
        "difference": jnp.max(jnp.abs(clipped - slower)) / travelled(clipped),
        "adam": jnp.max(jnp.abs(adam[0] - adam[1])) / travelled(adam[0]),
        "sgd": travelled(sgd[1]) / travelled(sgd[0]),
        "adam_path": jnp.stack([jnp.linalg.norm(path - start, axis=1) for path in adam]),
        "sgd_path": jnp.stack([jnp.linalg.norm(path - start, axis=1) for path in sgd]),
    }


def invariant(w: jax.Array, x: jax.Array) -> jax.Array:
    """A loss that does not know the length of w, of noise alone: its gradient is as random as its data."""
    return jnp.mean(x @ w) / jnp.linalg.norm(w) * np.sqrt(w.size)


def forgetting(config: dict[str, Any]) -> dict[str, Any]:
    """eta / ||w||^2 under SGD without decay, for learning rates that differ a hundredfold, and its closed form."""
    n, T, rates = config["invariant_width"], config["forget_steps"], config["rates"]
    w = jnp.ones(n) / np.sqrt(n)
    x = jax.random.normal(jax.random.key(config["seed"]), (T, 1, n)) / np.sqrt(n)
    found, theory = [], []
    for rate in rates:
        path = descend(optax.sgd(rate), invariant, w, x)
        square = jnp.sum(path**2, axis=1)
        found.append(rate / square)

        # ||w'||^2 = ||w||^2 + eta^2 G / ||w||^2, G = E ||g||^2 at ||w|| = 1: n - 1 directions of variance 1
        def longer(q, _, rate=rate):
            q = q + rate**2 * (n - 1) / q
            return q, q

        grown = jax.lax.scan(longer, jnp.asarray(1.0), None, length=T)[1]
        theory.append(rate / jnp.concatenate([jnp.ones(1), grown]))
    return {"effective": jnp.stack(found), "theory": jnp.stack(theory)}


def turning(config: dict[str, Any]) -> dict[str, Any]:
    """The angle of an update in equilibrium, against sqrt(2 eta lambda), from two lengths at the start."""
    n, T, rate = config["invariant_width"], config["turn_steps"], config["turn_rate"]
    x = jax.random.normal(jax.random.key(config["seed"] + 1), (T, 1, n)) / np.sqrt(n)
    angles, block = [], 100
    for decay in config["decays"]:
        optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))
        for length in (1.0, 10.0):
            path = descend(optimizer, invariant, length * jnp.ones(n) / np.sqrt(n), x)
            unit = path / jnp.linalg.norm(path, axis=1, keepdims=True)
            square = (2 * jnp.arcsin(jnp.linalg.norm(unit[1:] - unit[:-1], axis=1) / 2)) ** 2
            angles.append(jnp.sqrt(square.reshape(-1, block).mean(axis=1)))
    found = jnp.stack(angles).reshape(len(config["decays"]), 2, T // block)
    return {"angle": found, "theory": jnp.sqrt(2 * rate * jnp.asarray(config["decays"]))}


@functools.cache
def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Pixels and classes of the digits, for training and held out."""
    task = tasks.digits()
    held = task.evaluation(jax.random.key(0), task.held_out)
    train = task.data["train"]
    flat = lambda batch: (np.asarray(batch.inputs).reshape(len(batch.inputs), -1), np.asarray(batch.targets)[:, -1])
    return flat(train), flat(held)


@functools.partial(jax.jit, static_argnums=(0, 4))
def trained(graph: Any, state: Any, x: jax.Array, y: jax.Array, rate: float) -> Any:
    """The state of a model after Adam on batches x (updates, batch, features) of classes y."""
    optimizer = optax.adam(rate)
    split, params, rest = nnx.split(nnx.merge(graph, state), nnx.Param, ...)

    def loss(params, rest, x, y):
        model = nnx.merge(split, params, rest, copy=True)
        value = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))
        return value, nnx.split(model, nnx.Param, ...)[2]

    def update(carry, batch):
        params, rest, memory = carry
        gradient, rest = jax.grad(loss, has_aux=True)(params, rest, *batch)
        step, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, step), rest, memory), None

    (params, rest, _), _ = jax.lax.scan(update, (params, rest, optimizer.init(params)), (x, y))
    return nnx.state(nnx.merge(split, params, rest))


def accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the held-out digits that a model in evaluation mode gets right."""
    model.eval()
    return float(jnp.mean(jnp.argmax(model(jnp.asarray(x)), axis=1) == y))


def train(model: Any, x: np.ndarray, y: np.ndarray, picks: np.ndarray, rate: float = 1e-3) -> Any:
    """The model trained on the batches `picks` (updates, batch) of rows."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, trained(graph, state, jnp.asarray(x)[picks], jnp.asarray(y)[picks], rate))


def batches(config: dict[str, Any]) -> dict[str, Any]:
    """BatchNorm and LayerNorm on shuffled batches, and on batches of one class at a time."""
    (x, y), (tx, ty) = digits()
    T, B = config["updates"], config["batch"]
    found = np.empty((2, 2, config["seeds"]))
    for seed in range(config["seeds"]):
        rng = np.random.default_rng(config["seed"] + seed)
        shuffled = rng.integers(len(x), size=(T, B))
        of_class = [np.flatnonzero(y == c) for c in range(10)]
        pure = np.stack([rng.choice(of_class[c], B) for c in rng.integers(10, size=T)])
        for i, kind in enumerate(("batch", "layer")):
            for j, picks in enumerate((shuffled, pure)):
                rngs = nnx.Rngs(seed)
                model = models.Deep(
                    64, config["width"], 10, depth=config["depth"], normalization=kind, activation="relu",
                    initialization="he", rngs=rngs,
                )  # fmt: skip
                found[i, j, seed] = accuracy(train(model, x, y, picks), tx, ty)
    return {"accuracy": found}


def features(config: dict[str, Any]) -> dict[str, Any]:
    """Digits beside one feature of noise, s times as large, normalized as an example or as features."""
    (x, y), (tx, ty) = digits()
    T, B = config["updates"], config["batch"]
    found = np.empty((2, len(config["scales"]), config["seeds"]))
    for seed in range(config["seeds"]):
        rng = np.random.default_rng(config["seed"] + 100 + seed)
        picks, noise, held = rng.integers(len(x), size=(T, B)), rng.normal(size=len(x)), rng.normal(size=len(tx))
        for j, s in enumerate(config["scales"]):
            wide, test = np.column_stack([x, s * noise]), np.column_stack([tx, s * held])
            mean, spread = wide.mean(axis=0), wide.std(axis=0) + 1e-2
            example = lambda a: (a - a.mean(axis=1, keepdims=True)) / a.std(axis=1, keepdims=True)
            feature = lambda a, mean=mean, spread=spread: (a - mean) / spread
            for i, normalize in enumerate((example, feature)):
                model = models.Deep(
                    65, config["width"], 10, depth=2, activation="relu", initialization="he", rngs=nnx.Rngs(seed)
                )
                low = lambda a, normalize=normalize: normalize(a).astype(np.float32)
                found[i, j, seed] = accuracy(train(model, low(wide), y, picks), low(test), ty)
    return {"accuracy": found}


def order(config: dict[str, Any]) -> dict[str, Any]:
    """Growth of log ||dE/dh_l||^2 a layer from the output to the input, BatchNorm before and after ReLU."""
    n, B, L = config["order_width"], config["order_batch"], config["order_depth"]
    logs = np.empty((2, config["order_draws"], L - 1))
    for draw in range(config["order_draws"]):
        at_x, at_v = jax.random.split(jax.random.key(config["seed"] + draw))
        x, v = jax.random.normal(at_x, (B, n)), jax.random.normal(at_v, (B, n))
        for i, position in enumerate(("before", "after")):
            model = models.Deep(
                n, n, 1, depth=L, normalization="batch", position=position, activation="relu", initialization="he",
                dtype=jnp.float64, rngs=nnx.Rngs(draw),
            )  # fmt: skip
            chain = model.chain(x)[1:-1]
            logs[i, draw] = np.asarray(js.log_gradient_norms(chain, v))[: L - 1]
    return {"log_norm": logs, "theory": np.asarray(js.theory.normalization.batch_norm_rate_relu(B).rate)}


def shift(config: dict[str, Any]) -> dict[str, Any]:
    """||G - G'|| / ||G|| of a layer: G its gradient, G' the same after all layers below have made their update."""
    (x, y), _ = digits()
    L, T, every, B = config["shift_depth"], config["shift_updates"], config["shift_every"], config["batch"]
    found = np.empty((2, config["seeds"], T // every, L - 1))  # the first hidden layer has nothing below
    angle = np.empty_like(found)
    for seed in range(config["seeds"]):
        rng = np.random.default_rng(config["seed"] + seed)
        picks = rng.integers(len(x), size=(T, B))
        for i, kind in enumerate((None, "batch")):
            model = models.Deep(
                64, config["width"], 10, depth=L, normalization=kind, activation="relu", initialization="he",
                rngs=nnx.Rngs(seed),
            )  # fmt: skip
            graph, params, rest = nnx.split(model, nnx.Param, ...)
            change, cosine = shifts(
                graph, every, params, rest, jnp.asarray(x)[picks], jnp.asarray(y)[picks], config["shift_rate"]
            )
            found[i, seed], angle[i, seed] = np.asarray(change), np.asarray(cosine)
    return {"change": found, "cosine": angle}


@functools.partial(jax.jit, static_argnums=(0, 1))
def shifts(
    graph: Any, every: int, params: Any, rest: Any, x: jax.Array, y: jax.Array, rate: float
) -> tuple[jax.Array, jax.Array]:
    """The two measures at every `every`-th update of SGD, (T / every, L), for batches x, y (T, batch, ...)."""

    def gradient(params, x, y):
        model = lambda p: nnx.merge(graph, p, rest, copy=True)
        loss = lambda p: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(p)(x), y))
        return jax.grad(loss)(params)

    weight = lambda tree, l: jnp.stack([block["W"][...] for block in list(tree["blocks"].values())[1:-1]])[l]

    def measure(params, x, y):
        G = gradient(params, x, y)
        moved = jax.tree.map(lambda p, g: p - rate * g, params, G)

        def of_layer(l):
            choose = lambda k: functools.partial(jnp.where, k <= l)
            blocks = {k: jax.tree.map(choose(k), moved["blocks"][k], block) for k, block in params["blocks"].items()}
            mixed = jax.tree.map(lambda p: p, params)
            mixed["blocks"] = blocks
            a, b = weight(G, l), weight(gradient(mixed, x, y), l)
            size = jnp.linalg.norm(a)
            return jnp.linalg.norm(a - b) / size, jnp.vdot(a, b) / size / jnp.linalg.norm(b)

        return jax.lax.map(of_layer, jnp.arange(len(params["blocks"]) - 2))

    def stage(params, batches):
        seen = measure(params, batches[0][0], batches[1][0])
        update = lambda p, batch: (jax.tree.map(lambda p, g: p - rate * g, p, gradient(p, *batch)), None)
        return jax.lax.scan(update, params, batches)[0], seen

    cut = lambda a: a.reshape(-1, every, *a.shape[1:])
    return jax.lax.scan(stage, params, (cut(x), cut(y)))[1]


def main() -> None:
    """Run it alone: ``python -m experiments.remedy_claims``."""
    experiments.alone("remedy_claims")


if __name__ == "__main__":
    main()
