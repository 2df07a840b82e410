"""How a model reads the sequences of a task, and how the loss of what it says enters its states.

A recurrent network reads step by step. A deep one takes the whole sequence as one vector, a convolutional one as an
image or a line of pixels; they, and a recurrent one that is read at the end, answer once: at the last step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jacspec import _checks
from jacspec.chain import JacobianChain
from jacspec.models import Convolutional, Deep, Recurrent
from jacspec.tasks import Batch, Task
from jacspec.typing import State


def entry(model: nnx.Module, x: Array) -> Array:
    """One sequence (T, features) in the form in which the model takes it."""
    if isinstance(model, Deep):
        return x.reshape(-1)
    if isinstance(model, Convolutional) and model.axes == x.ndim:
        return x[..., None]
    return x


def outputs(model: Any, inputs: Array) -> Array:
    """What the model says to a batch (batch, T, features): (batch, S, outputs) for the last S steps, S = T or 1."""
    if isinstance(model, Recurrent):
        y = jax.vmap(lambda x: model(x))(inputs)
    else:
        y = model(jax.vmap(lambda x: entry(model, x))(inputs))
    return y if y.ndim == 3 else y[:, None]


def asked(batch: Batch, steps: int) -> Batch:
    """The last steps of a batch: all, or the one that a model answers at."""
    return jax.tree.map(lambda a: a[:, a.shape[1] - steps :], batch)


def loss(model: Any, task: Task, batch: Batch) -> Array:
    """The loss of the task over a batch."""
    y = outputs(model, batch.inputs)
    return task.loss(y, asked(batch, y.shape[1]))


def error_signal(task: Task, batch: Batch, y: Array) -> Array:
    """dE/dy of outputs y, (batch, S, outputs), of the loss of the task over the batch; of the same shape."""
    return jax.grad(lambda y: task.loss(y, asked(batch, y.shape[1])))(y)


def joint(model: Any) -> bool:
    """Whether the examples of a batch act on one another: BatchNorm in training mode."""
    return isinstance(model, Deep) and model.normalization == "batch" and not model.use_running_average


def chain(model: Any, inputs: Array, **options: Any) -> JacobianChain:
    """The chain of one sequence (T, features), or of a batch that is one state; its values are not checked."""
    one = lambda x: entry(model, x)
    return model.chain(jax.vmap(one)(inputs) if inputs.ndim == 3 else one(inputs), check=False, **options)


def cotangent(model: Any, states: State, y_bar: Array) -> State:
    """dE/dh_t at fixed other states, from dE/dy: what `jacspec.adjoints` takes.

    Args:
        model: of the package.
        states: of the chain.
        y_bar: (S, outputs) of one sequence, or (batch, S, outputs) where the batch is one state.

    Returns:
        For a recurrent network the immediate derivative at every state (leading axis T+1), zero where nothing is read;
        for one over depth, whose last state is the output, that at the end.
    """
    if not isinstance(model, Recurrent):
        return y_bar.ravel()
    read = readout(model)
    into = lambda h, y: jax.vjp(read, h)[1](y)[0]
    steps = jax.tree.leaves(states)[0].shape[0]
    every = jnp.zeros((steps, y_bar.shape[-1]), y_bar.dtype).at[steps - y_bar.shape[0] :].set(y_bar)
    return jax.vmap(into)(states, every)


def readout(model: Recurrent) -> Any:
    """h_t -> y_t of a recurrent network."""
    last, depth = model.steps()[-1], len(model.cells)
    show = getattr(last, "output", lambda h: h)
    W, b = model.head["W"][...], model.head["b"][...]
    return lambda h: W @ show(h if depth == 1 else h[-1]) + b


def known(values: Array, found: Any) -> Array:
    """Exponents or singular values of a spectrum, NaN where it says that they are not resolved or not converged."""
    return jnp.where(found.resolved & found.converged, values, jnp.nan)


def fits(name: str, model: Any, task: Task, batch: int) -> None:
    """Refuse a model that cannot read the sequences of a task or does not answer what it asks.

    Raises:
        TypeError: for a model that is none.
        ValueError: for features, outputs or steps that do not fit.
    """
    _checks.instance(name, "model", model, nnx.Module, "Take one of jacspec.models.")
    deep, flat = isinstance(model, Deep), task.length * task.features
    features = flat if deep else task.features
    given = getattr(model, "features", features)
    if given != features:
        want = f"features={features} of {task.name}"
        hint = (
            f"A deep network takes the {task.length} x {task.features} numbers of a sequence at once." if deep else ""
        )
        raise ValueError(_checks.message(name, "model", "does not fit the task", f"features={given}", want, hint))
    graph, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((batch, task.length, task.features), jnp.float32)
    try:
        y = jax.eval_shape(lambda s, x: outputs(nnx.merge(graph, s, copy=True), x), state, x)
    except (TypeError, ValueError) as error:
        error.add_note(f"jacspec.{name}: argument 'model' cannot read the sequences of {task.name}")
        raise
    T, n = task.length, task.outputs
    if y.shape not in ((batch, T, n), (batch, 1, n)):
        want = f"(batch, {T}, {n}) or (batch, {n}) of {task.name}"
        hint = f"Make the model with outputs={n}."
        raise ValueError(_checks.message(name, "model", "does not fit the task", f"outputs {y.shape}", want, hint))
    if y.shape[1] < T and bool(jnp.any(task.evaluation(jax.random.key(0), 1).weights[:, :-1] > 0)):
        hint = "Use a recurrent model with readout='every'."
        got, want = "one answer", f"an answer at every step that {task.name} asks for"
        raise ValueError(_checks.message(name, "model", "answers only at the end", got, want, hint))
