"""How a model reads the sequences of a task, and how the loss of its outputs depends on its states.

A recurrent network reads step by step. A deep one takes the whole sequence as one vector, a convolutional one as an
image or a line of pixels; they, and a recurrent one that is read at the end, answer once: at the last step.
`jacspec.training.protocols` says what is asked of a model of the user's.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks
from jacspec.chain import JacobianChain, series
from jacspec.tasks import Batch, Task
from jacspec.training._user_code import reported_as
from jacspec.typing import State

UNCHECKED = {"check": False}
"""Option of a chain: one that is not finite is no error here, an explosion is what a trace looks at."""


def answers(model: Any, inputs: Array) -> Array:
    """The outputs for a batch (batch, T, features), of the shape that the model gives them."""
    return getattr(model, "answers", model)(inputs)


def outputs(model: Any, inputs: Array) -> Array:
    """The outputs for a batch (batch, T, features), of shape (batch, S, outputs): for the last S steps, S = T or 1."""
    y = answers(model, inputs)
    return y if y.ndim == 3 else y[:, None]


def last_steps(batch: Batch, steps: int) -> Batch:
    """The last `steps` of a batch: those that a model answers at."""
    return jax.tree.map(lambda a: a[:, a.shape[1] - steps :], batch)


def loss(model: Any, task: Task, batch: Batch) -> Array:
    """The loss of the task over a batch."""
    y = outputs(model, batch.inputs)
    return task.loss(y, last_steps(batch, y.shape[1]))


def error_signal(task: Task, batch: Batch, y: Array) -> Array:
    """dE/dy of outputs y, (batch, S, outputs), of the loss of the task over the batch; of the same shape."""
    return jax.grad(lambda y: task.loss(y, last_steps(batch, y.shape[1])))(y)


def joint(model: Any) -> bool:
    """Whether the examples of a batch act on one another: BatchNorm in training mode."""
    return getattr(model, "joint", False) is True


def over_time(model: Any) -> bool:
    """Whether the chain of a model goes over time: its outputs are read from the states on the way."""
    return callable(getattr(model, "read", None))


def has_method(model: Any, name: str) -> bool:
    """Whether the class of a model has this method; an attribute of that name, such as a layer, is none."""
    return callable(getattr(type(model), name, None))


def accepts(f: Callable, *arguments: Any, **named: Any) -> bool:
    """Whether a function accepts these arguments; True where it has no signature that tells."""
    try:
        inspect.signature(f).bind(*arguments, **named)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def chain_input(model: Any, inputs: Array) -> Array:
    """One sequence (T, features), or a batch that is one state, in the form in which the model's chain takes it."""
    entry = getattr(model, "entry", lambda x: x)
    return jax.vmap(entry)(inputs) if joint(model) else entry(inputs)


def chain(model: Any, inputs: Array, **options: Any) -> JacobianChain:
    """The chain of one sequence (T, features), or of a batch that is one state; its values are not checked.

    Raises:
        TypeError: for a model without a method ``chain`` that returns one.
    """
    name, form = "training", "a method chain(inputs) -> JacobianChain of one sequence (T, features)"
    make = getattr(model, "chain", None)
    if not callable(make):
        hint = "Return jacspec.jacobian_chain(step, h0, inputs), or jacspec.layer_chain(layers, inputs)."
        raise TypeError(checks.message(name, "model", "has no Jacobian chain", type(model).__name__, form, hint))
    x = chain_input(model, inputs)
    with reported_as(name, "model", f"{form}, here of shape {x.shape}"):
        found = make(x, **{k: v for k, v in (UNCHECKED | options).items() if accepts(make, x, **{k: v})})
    if not isinstance(found, JacobianChain):
        got = f"{type(found).__name__} from {type(model).__name__}.chain"
        raise TypeError(checks.message(name, "model", "returns no Jacobian chain", got, form))
    return found


def agrees(name: str, model: Any, states: State, y: Array) -> Array:
    """Whether the states of a chain lead to the outputs of the model, within half of the digits.

    Args:
        name: the public function that is called, for messages.
        model: with a ``chain``.
        states: of the chain.
        y: (S, outputs) of one sequence, or (batch, S, outputs) where the batch is one state.

    Raises:
        TypeError: if the chain ends with another number of outputs.
    """
    if over_time(model):
        found = jax.vmap(model.read)(jax.tree.map(lambda a: a[a.shape[0] - y.shape[0] :], states))
    else:
        found = series.entry(states, -1)
    found = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])
    if found.size != y.size:
        hint = "Over time the model needs a method read(h) -> outputs, (outputs,)."
        got, want = f"{found.size} numbers at the end of the chain", f"the {y.size} outputs"
        raise TypeError(checks.message(name, "model", "has a chain that does not end in its outputs", got, want, hint))
    tolerance = float(jnp.finfo(y.dtype).eps) ** 0.5
    return jnp.allclose(found, y.ravel(), rtol=tolerance, atol=tolerance * jnp.max(jnp.abs(y)))


def cotangent(model: Any, states: State, y_bar: Array) -> State:
    """dE/dh_t at fixed other states, from dE/dy: what `jacspec.adjoints` takes.

    Args:
        model: with a ``chain``.
        states: of the chain.
        y_bar: (S, outputs) of one sequence, or (batch, S, outputs) where the batch is one state.

    Returns:
        Over time the immediate derivative at every state (leading axis T+1), zero where nothing is read; over depth,
        where the last state is the output, that at the end.
    """
    if not over_time(model):
        return y_bar.ravel()
    into = lambda h, y: jax.vjp(model.read, h)[1](y)[0]
    steps = jax.tree.leaves(states)[0].shape[0]
    every = jnp.zeros((steps, y_bar.shape[-1]), y_bar.dtype).at[steps - y_bar.shape[0] :].set(y_bar)
    return jax.vmap(into)(states, every)


def resolved_or_nan(values: Array, found: Any) -> Array:
    """Exponents or singular values of a result, NaN where it does not call them resolved and converged."""
    return jnp.where(found.resolved & found.converged, values, jnp.nan)
