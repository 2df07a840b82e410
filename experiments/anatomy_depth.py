"""One deep network from all sides, before and after it learns: plain, residual and layer-normalized, on digits.

tanh networks of equal layers, Gaussian weights. Measured on held-out digits, over the hidden layers of equal width: every
log singular value of their product, the gradient by depth, and what of a backward step is due to the identity, to slopes,
to normalization and to weights.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from threadpoolctl import threadpool_limits

import experiments
import jacspec as js
from experiments import _depth, _spectra
from experiments._known import known
from jacspec import models
from jacspec.theory import mean_field, random_matrix

CONFIG = {
    "seed": 0,
    "forms": ["plain", "residual", "normalized"],
    "width": 100,
    "depth": 25,
    "bias_variance": 0.05,
    "updates": 600,
    "batch": 50,
    "learning_rate": 1e-3,
    "examples": 64,
    "spectrum_examples": 6,
    "lags": [1, 2, 4, 8, 12, 16, 20, 24],
}
FULL = {"width": 200, "updates": 2000, "learning_rate": 5e-4, "examples": 256, "spectrum_examples": 16}
TINY = {"width": 6, "depth": 4, "updates": 2, "batch": 3, "examples": 3, "spectrum_examples": 2, "lags": [1, 2, 3]}
MAY_BE_NAN = ("normalized_spectra",)
"""LayerNorm removes the mean: that singular value is rounding."""

PARTS = ("kept", "slopes", "normalization", "weights", "total")


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Arrays by form and quantity ("plain_spectra"); the first axis is before and after training."""
    arrays: dict[str, Any] = {}
    with threadpool_limits(1):  # matrices this small are factored fastest by one thread
        for done, form in enumerate(config["forms"]):
            progress(form, done, len(config["forms"]))
            arrays |= {f"{form}_{k}": np.asarray(v) for k, v in one_form(config, form).items()}
    progress("done", len(config["forms"]), len(config["forms"]))
    return arrays


def one_form(config: dict[str, Any], form: str) -> dict[str, Any]:
    """Train one network, and look at it before and after."""
    options = {
        "plain": {"bias_variance": config["bias_variance"]},
        "residual": {"kind": "residual"},
        "normalized": {"normalization": "layer"},
    }[form]
    (x, y), (held_x, held_y) = (
        tuple(jnp.asarray(a, a.dtype if a.ndim == 1 else float) for a in d) for d in _depth.digits()
    )
    model = models.Deep(x.shape[1], config["width"], 10, depth=config["depth"], initialization="gaussian",
                        dtype=jnp.float64, rngs=nnx.Rngs(config["seed"]), **options)  # fmt: skip
    initial = _depth.stacked(model, x[0])
    shape = (config["updates"], config["batch"])
    picks = np.random.default_rng(config["seed"]).integers(len(x), size=shape)
    trained = train(initial, x[jnp.asarray(picks)], y[jnp.asarray(picks)], config["learning_rate"])
    rows = [measure(config, net, held_x, held_y) for net in (initial, trained)]
    start = float(jnp.mean(jax.vmap(initial[0])(held_x) ** 2))
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]} | theory(config, form, start)


@functools.partial(jax.jit, static_argnums=3)
def train(net: Any, xs: jax.Array, ys: jax.Array, rate: float) -> Any:
    """One update of Adam for every batch of (xs, ys)."""
    optimizer = optax.adam(rate)

    def update(carry, batch):
        net, memory = carry
        loss = lambda net: _depth.loss(jax.vmap(functools.partial(_depth.outputs, net))(batch[0]), batch[1])
        change, memory = optimizer.update(jax.grad(loss)(net), memory, net)
        return (optax.apply_updates(net, change), memory), None

    return jax.lax.scan(update, (net, optimizer.init(net)), (xs, ys))[0][0]


@jax.jit
def backward(net: Any, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """Of one digit: ln ||dE/dh_l||, the mean log gains of the parts of a backward step, and the error of their sum."""
    first, hidden, head = net
    chain = js.jacobian_chain(js.layers.LayerStep(), first(x), hidden, check=False)
    found = known(js.adjoints(chain, jax.grad(lambda h: _depth.loss(head(h), y))(chain.states[-1])))
    gains, error = jax.vmap(attribution)(hidden, chain.states[:-1], found.directions[1:])
    return {"norms": found.log_norms, "gains": jnp.mean(gains, axis=0), "parts_error": jnp.max(error)}


def attribution(layer: Any, h: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln ||.|| of the parts of J^T g in the order of `PARTS`, -inf for what the layer lacks, and their relative error.

    Going back through a branch, every factor changes the norm; their log gains add up to that of the branch.
    """
    J, residual = layer.jacobian(h), isinstance(layer, js.layers.Residual)
    branch, inner = (layer.layer, layer.scale * g) if residual else (layer, g)
    pulls = []
    for part in branch.layers if isinstance(branch, js.layers.Sequential) else (branch,):
        own = part.jacobian(h)
        factors = own.factors
        if "weight" in factors:
            pulls.append(("weights", lambda g, W=factors["weight"]: W.T @ g))
            pulls.append(("slopes", lambda g, d=factors["slope"]: d * g))
        else:
            name = "slopes" if "slope" in factors else "normalization"
            pulls.append((name, lambda g, own=own: own.pull(g[:, None])[:, 0]))
        h = part(h)
    norm = lambda a: jnp.log(jnp.linalg.norm(a))
    logs = {name: jnp.zeros(()) for name, _ in pulls}
    logs["weights"] = norm(inner) - norm(g)  # the scale of the branch is one of its weights
    for name, pull in reversed(pulls):
        outer, inner = inner, pull(inner)
        logs[name] += norm(inner) - norm(outer)
    exact = J.pull(g[:, None])[:, 0]
    logs |= {"total": norm(exact) - norm(g)} | ({"kept": jnp.zeros(())} if residual else {})
    error = jnp.linalg.norm(inner + residual * g - exact) / jnp.linalg.norm(exact)
    return jnp.stack([logs.get(name, jnp.asarray(-jnp.inf)) for name in PARTS]), error


@jax.jit
def matrices(net: Any, xs: jax.Array) -> jax.Array:
    """The Jacobians of the hidden layers, (digit, layer, n, n)."""
    first, hidden, _ = net
    return jax.vmap(lambda x: js.jacobian_chain(js.layers.LayerStep(), first(x), hidden, check=False).dense())(xs)


def measure(config: dict[str, Any], net: Any, xs: jax.Array, ys: jax.Array) -> dict[str, np.ndarray]:
    """Everything the figure shows of one network at one time."""
    many, few = slice(config["examples"]), slice(config["spectrum_examples"])
    found = jax.vmap(backward, in_axes=(None, 0, 0))(net, xs[many], ys[many])
    spectra = _spectra.from_the_end(matrices(net, xs[few]), tuple(config["lags"]))
    logs = np.asarray(known(spectra).log_singular_values)
    predicted = jnp.argmax(jax.jit(jax.vmap(_depth.outputs, in_axes=(None, 0)))(net, xs), axis=1)
    return {k: np.asarray(v) for k, v in found.items()} | {
        "accuracy": np.asarray(jnp.mean(predicted == ys)),
        "spectra": logs[:, -1],
        "largest": logs[..., 0],
        "isotropic": _spectra.isotropic(spectra),
    }


def theory(config: dict[str, Any], form: str, start: float) -> dict[str, np.ndarray]:
    """At infinite width, before training: ln sigma at the shares (i - 1/2) / n from above, and (1/2) ln E sigma^2.

    Args:
        config: of the experiment.
        form: of the network.
        start: mean square of the first hidden state, where the residual network begins.
    """
    L, n = config["depth"] - 1, config["width"]
    if form == "residual":
        scale = 1 / np.sqrt(L)
        grown = mean_field.residual_growth(
            "tanh", L, weight_variance=1.0, branch_scale=scale, variance=start, form="weights_last"
        )
        strength = float(jnp.sum(jnp.expm1(jnp.diff(grown.log_chi))))
        law, growth = random_matrix.residual_law(strength), strength / 2
    else:
        if form == "plain":
            q = mean_field.variance_fixed_point(
                "tanh", weight_variance=1.0, bias_variance=config["bias_variance"]
            ).value
            variance = 1.0
        else:
            q, variance = 1.0, 1 / mean_field.variance_map("tanh", 1.0, weight_variance=1.0)
        slopes = random_matrix.squared_slopes("tanh", q)
        law = random_matrix.jacobian_law(slopes, L, weight_variance=variance)
        growth = L * np.log(float(variance * slopes.moment(1))) / 2
    share = (np.arange(n) + 0.5) / n
    return {
        "law": np.interp(1 - share, np.asarray(law.cumulative), np.asarray(law.log_x)) / 2,
        "growth": np.asarray(growth),
    }


def main() -> None:
    """Run it alone: ``python -m experiments.anatomy_depth``."""
    experiments.alone("anatomy_depth")


if __name__ == "__main__":
    main()
