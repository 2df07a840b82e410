"""Where an explosion began.

The batch that exploded is run again on the last finite state, and the possible causes are looked at in their order: the
data, a parameter, a state on the way forward, a gradient on the way back, the derivative of something finite, the
regularizer, the mere size of the loss, the optimizer. The first operation that failed is found by running the program
again, equation by equation.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jacspec._ground.origin import Origin, origin
from jacspec.remedies.guard import all_finite
from jacspec.tasks import Batch, Task
from jacspec.training import _passes
from jacspec.training._loop import Program, State


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Where an explosion began, and how the norms grew before it. Updates, rows, steps and layers count from 0.

    Attributes:
        kind: "data", a number of the batch, as it is or in the dtype of the model; "parameter"; "forward", the network or
            its loss; "backward", a gradient beyond floating point; "derivative", the gradient of a finite loss where it
            has none (the root at 0, or what `jnp.where` hides from the loss and not from its derivative);
            "regularizer"; "jump"; "optimizer"; "unknown" if it does not happen again when the batch is run by itself.
        update: number of the update that was not done.
        where: the rest of the sentence.
        row: of the batch, or None.
        step: time step, the index of its input, or None.
        feature: of the input (or output of the target) at that step, or None.
        layer: index in ``model.cells`` or ``model.blocks``, or None.
        parameter: path of a variable of the model, or "".
        index: place in that variable, or None.
        state_log_norms: (S+1,), log of ||h_s|| of that row for s = 0..S times or layers, nats, NaN from where it is not
            finite; None where there are no states to look at.
        gradient_log_norms: (S+1,), log of ||dE/dh_s|| of that row, nats, in logs and so right where floating point
            overflows; NaN where it is not resolved. After a forward failure E has no value; then of d||h||/dh_s for the
            last finite state h.
        operation: the first that gave a number that is not finite, with its operands, its line of source and its `cause`
            ("overflow", "cast", "pole", "undefined"); None where there was none.
    """

    kind: str
    update: int
    where: str
    row: int | None = None
    step: int | None = None
    feature: int | None = None
    layer: int | None = None
    parameter: str = ""
    index: tuple[int, ...] | None = None
    state_log_norms: np.ndarray | None = None
    gradient_log_norms: np.ndarray | None = None
    operation: Origin | None = None

    def __str__(self) -> str:
        first = "" if self.operation is None else f"; {self.operation}"
        return f"update {self.update}, {self.kind}: {self.where}{first}{self._growth}"

    __repr__ = __str__

    @property
    def _growth(self) -> str:
        """How the norms grew, in words."""
        norms = {"||h||": self.state_log_norms, "||dE/dh||, backwards,": self.gradient_log_norms}
        if self.kind == "forward":
            norms = {"||h||": self.state_log_norms, "||dh/dh_s||, backwards,": self.gradient_log_norms}
        sentences = []
        for name, logs in norms.items():
            seen = np.zeros(0) if logs is None else logs[np.isfinite(logs)]
            if len(seen) > 1:
                first, last = (seen[0], seen[-1]) if name == "||h||" else (seen[-1], seen[0])
                sentences.append(f"log {name} went from {first:.3g} to {last:.3g} nats in {len(seen) - 1} steps")
        return "; " + ", ".join(sentences) if sentences else ""


def locate(program: Program, state: State, key: Array, task: Task) -> Trace:
    """Where the explosion began whose update was not applied to this state.

    Args:
        program: of the training.
        state: the last one, which is finite.
        key: of the seed.
        task: what was learned.

    Returns:
        A `Trace`.
    """
    u, batch = int(state.update), program.drawn(state.update, key, task)
    dtype = getattr(program.model(state), "dtype", None)
    found = _in_data(u, batch, dtype) or _in_variables(u, state)
    if found is not None:
        return found
    plain = program.without_regularizer()
    gradient = _gradient(plain, state, task)
    (loss, rest), g = gradient(batch)
    passes = _passes.Passes(program.model(state), task, batch)
    if not np.isfinite(loss):
        first = origin(lambda p, r, b: plain.loss(p, r, task, b)[0], state.parameters, state.rest, batch)
        return Trace("forward", u, operation=first, **passes.forward())
    if not all_finite(g):
        first = origin(jax.grad(lambda p, r, b: plain.loss(p, r, task, b)[0]), state.parameters, state.rest, batch)
        if first is None or (first.cause == "overflow" and first.backward):
            return Trace("backward", u, operation=first, **(passes.backward() or _of_gradient(g)))
        return Trace("derivative", u, operation=first, **_of_row(gradient, batch))
    if not all_finite(rest):
        first = origin(lambda p, r, b: plain.loss(p, r, task, b)[1], state.parameters, state.rest, batch)
        return Trace("forward", u, operation=first, **_named_first("the new value of {} is not finite", rest))
    if program.options.regularizer is not None:
        (whole, _), g = _gradient(program, state, task)(batch)
        if not np.isfinite(whole) or not all_finite(g):
            part = "its gradient" if np.isfinite(whole) else "it"
            loss_and_gradient = jax.value_and_grad(lambda p, r, b: program.loss(p, r, task, b)[0])
            first = origin(loss_and_gradient, state.parameters, state.rest, batch)
            text = f"the loss of the task and its gradient are finite, {part} is not"
            return Trace("regularizer", u, text, operation=first)
        loss = whole
    if program.jumped(state, task, loss):
        return Trace("jump", u, **passes.steepest(float(loss), float(program.reference(state, task))))
    if program.guarded_update(state, task, batch, loss, g)[1].report.rejected:
        first = origin(lambda state, loss, g: program.bare_update(state, task, batch, loss, g), state, loss, g)
        text = "the gradient is finite, what the optimizer makes of it is not"
        return Trace("optimizer", u, text, operation=first)
    return Trace("unknown", u, "the same batch is finite when it is run again by itself: it was a matter of rounding")


def _gradient(program: Program, state: State, task: Task) -> Any:
    """A function of a batch: loss and other variables, and the gradient."""
    gradient = jax.jit(jax.value_and_grad(program.loss, has_aux=True))
    return lambda batch: gradient(state.parameters, state.rest, task, batch)


def _of_row(gradient: Any, batch: Batch) -> dict[str, Any]:
    """The first row whose gradient is not finite when the whole batch is made of copies of it."""
    text = "the loss is finite, its gradient is not"
    for row in np.flatnonzero(np.asarray(batch.weights.sum(axis=1)) > 0):
        repeated = jax.tree.map(lambda a, row=row: jnp.broadcast_to(a[row], a.shape), batch)
        if not all_finite(gradient(repeated)[1]):
            return {"where": f"row {row}: {text}", "row": int(row)}
    return {"where": text}


def _first_nonfinite(array: Any) -> tuple[int, ...] | None:
    """The index of the first entry that is not finite."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return None
    bad = np.argwhere(~np.asarray(jnp.isfinite(array)))
    return tuple(int(i) for i in bad[0]) if len(bad) else None


def _in_data(u: int, batch: Batch, dtype: Any) -> Trace | None:
    """A number of the batch that is not finite, or an input that is not in the dtype of the model."""
    for name, values in zip(Batch._fields, batch, strict=True):
        text, at = "", _first_nonfinite(values)
        if at is None and name == "inputs" and dtype is not None:
            text, at = f", beyond {dtype}, the dtype of the model", _first_nonfinite(values.astype(dtype))
        if at is not None:
            row, step, *feature = at
            where = f"row {row}, step {step}" + (f", feature {feature[0]}" if feature else "") + f" of the {name}"
            return Trace(
                "data", u, f"{where} is {float(values[at])}{text}", row, step, feature[0] if feature else None, index=at
            )
    return None


def _in_variables(u: int, state: State) -> Trace | None:
    for path, value in (*_named(state.parameters), *_named(state.rest)):
        if (at := _first_nonfinite(value)) is not None:
            return Trace("parameter", u, f"{path}{list(at)} is {float(value[at])}", parameter=path, index=at)
    return None


def _of_gradient(g: Any) -> dict[str, Any]:
    """The first parameter whose gradient is not finite, though the gradients of all states are."""
    return _named_first("the sum that makes the gradient of {} overflows", g)


def _named_first(text: str, variables: Any) -> dict[str, Any]:
    """The first variable that is not finite, named in a sentence."""
    path, at = next((path, at) for path, value in _named(variables) if (at := _first_nonfinite(value)) is not None)
    return {"where": text.format(f"{path}{list(at)}"), "parameter": path, "index": at}


def _named(variables: Any) -> list[tuple[str, Array]]:
    """The arrays of an `nnx.State` by their paths in the model: ``cells[0].W``."""
    out = []
    for path, variable in nnx.to_flat_state(variables):
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
        out.append((name.removeprefix("."), variable[...]))
    return out
