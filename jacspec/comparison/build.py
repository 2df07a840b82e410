"""From a remedy and a task to what trains: the model, the optimizer, the regularizer, and the budget.

What a remedy leaves open is the same in every row: a tanh Elman network, or plain tanh layers over depth, with
independent Gaussian weights of variance 1/n_in and biases 0; gradient descent on `learning_rate`.

The budget of a row is the number of sequences that gradients are taken of, updates x batch:

- another batch size gets as many updates as make the same product;
- flossing before training takes a fifth of the updates;
- training without gradients counts a gradient as three forward passes, so that population x generations x sequences
  is three times the product.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax

from jacspec._ground import checks
from jacspec._ground.memory import affordable
from jacspec.comparison import inputs
from jacspec.comparison.remedy import Remedy, fits
from jacspec.remedies import flossing, pascanu_omega
from jacspec.remedies.evolution import FULL_COVARIANCE_BELOW
from jacspec.tasks import Batch, Task
from jacspec.training import reading

LAW = "gaussian"
"""Law of the initial weights where a remedy names none."""

POPULATION = 16
"""Candidates in a generation of training without gradients: few, so that the budget pays for many generations."""

SEARCH_BATCHES = 4
"""Batches in the fixed sample that training without gradients judges on: one batch alone would be learned by heart."""

DEEPEST = 10_000
"""Most layers that are taken: those of a recurrent stack are compiled one by one."""

FLOSSED_SHARE = 5
"""Flossing before training takes one update in so many."""

FLOSSED_STEPS = 55
"""Length of the window in which exponents are measured, as in the program of R. Engelken, arXiv 2312.17306."""

FLOSSED_SEQUENCES = 4
"""Sequences in an update of flossing; the published program takes one."""

FLOSSING_RATE = 1e-3
"""Learning rate of Adam, as in that program."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """One row, checked, with nothing compiled yet.

    Attributes:
        remedy: what is changed.
        task: the task as it is.
        arguments: of the model, `jacspec.models.Recurrent` or `Deep`.
        deep: True for `Deep`.
        learning_rate: of gradient descent.
        rule: "sgd" or "adam".
        updates: number of them, or of the generations of a search.
        batch: sequences an update, or sequences that a search judges on.
        flossed: updates of flossing before training.
        parameters: number of them.
    """

    remedy: Remedy
    task: Task
    arguments: dict[str, Any]
    deep: bool
    learning_rate: float
    rule: str
    updates: int
    batch: int
    flossed: int
    parameters: int

    @functools.cached_property
    def seen(self) -> Task:
        """The task with its inputs changed as the remedy says; to a deep network a sequence is one vector."""
        r, task = self.remedy, self.task
        task = inputs.reweighted(task) if r.reweight else task
        task = inputs.standardized(task, whole=self.deep) if r.standardize else task
        return inputs.whitened(task, whole=self.deep) if r.whiten else task

    def make(self, rngs: nnx.Rngs) -> Any:
        """The model at its start."""
        model = self.remedy.model(self.deep, rngs=rngs, **self.arguments)
        if self.flossed and self.remedy.flossing:
            _floss(model, self.seen, rngs.params(), self.remedy.flossing[1], self.flossed)
        return model

    def optimizer(self) -> optax.GradientTransformation:
        """Clipping first, then the direction, then weight decay that is neither clipped nor scaled by Adam."""
        steps = self.remedy.clipping()
        steps += [optax.scale_by_adam()] if self.rule == "adam" else []
        steps += [optax.add_decayed_weights(self.remedy.weight_decay)] if self.remedy.weight_decay else []
        return optax.chain(*steps, optax.scale_by_learning_rate(self.learning_rate))

    def regularizer(self) -> Callable[[Any, Batch], Array] | None:
        """(model, batch) -> what is added to the loss."""
        terms: list[Callable[[Any, Batch], Array]] = []
        if self.remedy.omega:
            form, weight = self.remedy.omega
            terms.append(lambda model, batch: weight * _omega(model, batch, self.seen, form))
        if self.remedy.flossing and self.remedy.flossing[0] != "before":
            k = self.remedy.flossing[1]
            terms.append(lambda model, batch: _flossing(model, batch.inputs, k))
        return (lambda model, batch: jnp.stack([term(model, batch) for term in terms]).sum()) if terms else None

    def fits_memory(self, seeds: int) -> None:
        """Raise ValueError where the parameters of all seeds, or the states of one update, exceed all memory."""
        a = self.arguments
        affordable("compare", "width", a["width"], seeds * self.parameters, f"the parameters of {seeds} seeds")
        states = a["depth"] * a["width"] * (1 if self.deep else self.task.length)
        numbers = seeds * self.batch * (self.task.length * self.task.features + states)
        affordable("compare", "batch", self.batch, numbers, f"the inputs and states of {seeds} seeds")

    @property
    def law(self) -> str:
        """The law of the initial recurrent weights, or of those over depth, in words."""
        given = self.arguments
        if given.get("cell") == "lru":
            return "ring 0..0.99"
        words = [given["initialization"]] + ([f"gain {given['gain']:g}"] if given["gain"] != 1 else [])
        words += [f"{name} {given[name]:g}" for name in ("forget_bias", "chrono") if given.get(name) is not None]
        return ", ".join(words)


def plan(
    remedy: Remedy,
    task: Task,
    *,
    width: int,
    depth: int | None,
    updates: int,
    batch: int,
    learning_rate: float,
    rule: str,
) -> Plan:
    """The row of a remedy; every error of its options comes from here, before anything is compiled.

    Args:
        remedy: the remedy.
        task: the task as it is.
        width: units a layer.
        depth: layers of a deep network that sees a whole sequence; None for a recurrent one.
        updates: of the budget.
        batch: of the budget.
        learning_rate: where the remedy has none.
        rule: "sgd" or "adam", where the remedy has none.

    Returns:
        A `Plan`.

    Raises:
        ValueError: for a remedy that contradicts the task, the depth or the size of the network.
    """
    fits(remedy, deep=depth is not None, batch=batch)
    last = inputs.due_last(task)
    if depth is not None and not last:
        want = "a task that is answered at its last step only"
        _refuse("depth", "is for one answer a sequence", task.name, want)
    if remedy.reweight and not inputs.has_shift(task):
        _refuse("remedy", "'reweight' finds no shift of inputs", task.name, "a task with stored sequences")
    if remedy.flossing and remedy.flossing[1] > width:
        _refuse("remedy", "'flossing' asks for more exponents than units", remedy.flossing[1], f"at most {width}")
    if (remedy.layers or 1) > DEEPEST:
        _refuse("remedy", "'layers' is out of range", remedy.layers, f"at most {DEEPEST}")
    arguments = _arguments(remedy, task, width, depth, last)
    shapes = nnx.eval_shape(lambda: remedy.model(depth is not None, rngs=nnx.Rngs(0), **arguments))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param)))
    if remedy.search == "cma_es" and parameters >= FULL_COVARIANCE_BELOW:
        want = f"fewer than {FULL_COVARIANCE_BELOW}; 'sep_cma_es', 'lm_ma_es' or a smaller width"
        _refuse("remedy", "'cma_es' keeps a full covariance", f"{parameters} parameters", want)
    if remedy.search == "lm_ma_es" and parameters < POPULATION:
        _refuse("remedy", "'lm_ma_es' is for many parameters", parameters, f"at least {POPULATION}")

    sequences, size = updates * batch, remedy.batch or batch
    count = max(1, sequences // size)
    if count > checks.INT32_MAX:
        _refuse("updates", "makes too many at this batch", f"{count} of {size} sequences", "at most 2**31 - 1")
    if remedy.search:
        size = SEARCH_BATCHES * size
        count = max(1, 3 * sequences // (POPULATION * size))
    flossed = count // FLOSSED_SHARE if remedy.flossing and remedy.flossing[0] != "during" else 0
    return Plan(
        remedy, task, arguments, depth is not None, remedy.lr or learning_rate, remedy.optimizer or rule,
        count - flossed, size, flossed, parameters,
    )  # fmt: skip


def _refuse(argument: str, problem: str, got: Any, expected: str) -> None:
    raise ValueError(checks.message("compare", argument, problem, got, expected))


def _arguments(remedy: Remedy, task: Task, width: int, depth: int | None, last: bool) -> dict[str, Any]:
    """The arguments of the model."""
    features = task.features if depth is None else task.length * task.features
    given: dict[str, Any] = {"features": features, "width": width, "outputs": task.outputs}
    given["activation"] = remedy.activation or "tanh"
    if remedy.cell != "lru":
        given |= {"initialization": remedy.init or LAW, "gain": 1.0 if remedy.gain is None else remedy.gain}
    if depth is None:
        given |= {"cell": remedy.cell or "elman", "depth": remedy.layers or 1, "readout": "last" if last else "every"}
        given |= {"forget_bias": remedy.forget_bias, "chrono": remedy.chrono}
        return given | ({} if remedy.rate is None else {"rate": remedy.rate})
    given |= {"depth": depth, "kind": "residual" if remedy.residual or remedy.skipinit else "plain"}
    given |= {"branch_scale": 0.0} if remedy.skipinit else {}
    if remedy.norm:
        given["normalization"], position = remedy.norm
        given["position"] = position
    return given


# Regularizers


def _omega(model: Any, batch: Batch, task: Task, form: str) -> Array:
    """The mean of Omega over steps and sequences, for the error signal of the task."""
    y = reading.outputs(model, batch.inputs)
    y_bar = reading.error_signal(task, batch, y)

    def of_sequence(x: Array, y_bar: Array) -> Array:
        chain = reading.chain(model, x)
        return pascanu_omega(chain, reading.cotangent(model, chain.states, y_bar), form=form, mean=True)

    return jnp.mean(jax.vmap(of_sequence)(batch.inputs, y_bar))


def _flossing(model: Any, sequences: Array, k: int) -> Array:
    """The mean squared exponent over the first steps of a few sequences."""
    steps = min(FLOSSED_STEPS, sequences.shape[1])
    of_sequence = lambda x: flossing(reading.chain(model, x), k=k, transient=steps // 5)
    return jnp.mean(jax.vmap(of_sequence)(sequences[:FLOSSED_SEQUENCES, :steps]))


def _floss(model: nnx.Module, task: Task, key: Array, k: int, updates: int) -> None:
    """Flossing alone, by Adam, before training; the parameters of `model` change."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    nnx.update(model, _flossed(graph, parameters, rest, task, key, k, updates))


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _flossed(graph: Any, parameters: Any, rest: Any, task: Task, key: Array, k: int, updates: int) -> Any:
    optimizer = optax.adam(FLOSSING_RATE)

    def loss(parameters: Any, x: Array) -> Array:
        return _flossing(nnx.merge(graph, parameters, rest, copy=True), x, k)

    def update(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        parameters, state = carry
        g = jax.grad(loss)(parameters, task.sample(key, FLOSSED_SEQUENCES).inputs)
        change, state = optimizer.update(g, state, parameters)
        return (optax.apply_updates(parameters, change), state), None

    start = (parameters, optimizer.init(parameters))
    return lax.scan(update, start, jax.random.split(key, updates))[0][0]
