"""Where an explosion began.

The batch that exploded is run again on the last finite state, and asked in the order of causes: is it the data, a
parameter, a state on the way forward, a gradient on the way back, the regularizer, nothing but size, or the optimizer?
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jacspec.remedies.guard import all_finite
from jacspec.tasks import Batch, Task
from jacspec.training import _passes
from jacspec.training._loop import Program, State


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Where it began, with how the norms grew before it. All numbers count from 0, as indices do.

    Attributes:
        kind: "data", "parameter", "forward", "backward", "regularizer", "jump" or "optimizer"; "unknown" if it does not
            happen again when the batch is run by itself.
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
            overflows; NaN where they are not resolved. After a forward failure E has no value; then of d||h||/dh_s for the last finite state h.
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

    def __str__(self) -> str:
        return f"update {self.update}, {self.kind}: {self.where}{self._growth}"

    __repr__ = __str__

    @property
    def _growth(self) -> str:
        """How the norms grew, in words."""
        norms = {"||h||": self.state_log_norms, "||dE/dh||, backwards,": self.gradient_log_norms}
        if self.kind == "forward":
            norms = {"||h||": self.state_log_norms, "||dh/dh_s||, backwards,": self.gradient_log_norms}
        said = []
        for name, logs in norms.items():
            seen = np.zeros(0) if logs is None else logs[np.isfinite(logs)]
            if len(seen) > 1:
                first, last = (seen[0], seen[-1]) if name == "||h||" else (seen[-1], seen[0])
                said.append(f"log {name} went from {first:.3g} to {last:.3g} nats in {len(seen) - 1} steps")
        return "; " + ", ".join(said) if said else ""


def locate(program: Program, state: State, key: Array, task: Task) -> Trace:
    """Where the update began that this state was not given.

    Args:
        program: of the training.
        state: that it ended with.
        key: of its seed.
        task: what was learned.

    Returns:
        A `Trace`.
    """
    u, batch = int(state.update), program.drawn(state.update, key, task)
    found = _in_data(u, batch) or _in_variables(u, state)
    if found is not None:
        return found
    plain = dataclasses.replace(program, regularizer=None)
    loss, g = _gradient(plain, state, task, batch)
    passes = _passes.Passes(program.model(state), task, batch)
    if not np.isfinite(loss):
        return Trace("forward", u, **passes.forward())
    if not all_finite(g):
        return Trace("backward", u, **(passes.backward() or _of_gradient(g)))
    if program.regularizer is not None:
        whole, g = _gradient(program, state, task, batch)
        if not np.isfinite(whole) or not all_finite(g):
            part = "its gradient" if np.isfinite(whole) else "it"
            return Trace("regularizer", u, f"the loss of the task and its gradient are finite, {part} is not")
        loss = whole
    if program.jumped(state, task, loss):
        return Trace("jump", u, **passes.steepest(float(loss), float(program.reference(state, task))))
    _, after = program.optimizer.update(g, state.optimizer, state.parameters, value=loss)
    if after.report.rejected:
        return Trace("optimizer", u, "the gradient is finite, what the optimizer makes of it is not")
    return Trace("unknown", u, "the same batch is finite when it is run again by itself: it was a matter of rounding")


def _gradient(program: Program, state: State, task: Task, batch: Batch) -> tuple[Array, Any]:
    gradient = jax.jit(jax.value_and_grad(program.loss, has_aux=True))
    (loss, _), g = gradient(state.parameters, state.rest, task, batch)
    return loss, g


def _first(array: Any) -> tuple[int, ...] | None:
    """The index of the first entry that is not finite."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return None
    bad = np.argwhere(~np.isfinite(np.asarray(array.astype(jnp.float64))))
    return tuple(int(i) for i in bad[0]) if len(bad) else None


def _in_data(u: int, batch: Batch) -> Trace | None:
    for name, values in zip(Batch._fields, batch, strict=True):
        if (at := _first(values)) is not None:
            row, step, *feature = at
            where = f"row {row}, step {step}" + (f", feature {feature[0]}" if feature else "") + f" of the {name}"
            return Trace(
                "data", u, f"{where} is {float(values[at])}", row, step, feature[0] if feature else None, index=at
            )
    return None


def _in_variables(u: int, state: State) -> Trace | None:
    for path, value in (*_named(state.parameters), *_named(state.rest)):
        if (at := _first(value)) is not None:
            return Trace("parameter", u, f"{path}{list(at)} is {float(value[at])}", parameter=path, index=at)
    return None


def _of_gradient(g: Any) -> dict[str, Any]:
    """The first parameter whose gradient is not finite, though the gradients of all states are."""
    path, at = next((path, at) for path, value in _named(g) if (at := _first(value)) is not None)
    return {"where": f"the sum that makes the gradient of {path}{list(at)} overflows", "parameter": path, "index": at}


def _named(variables: Any) -> list[tuple[str, Array]]:
    """The arrays of an `nnx.State` by their paths in the model: ``cells[0].W``."""
    out = []
    for path, variable in nnx.to_flat_state(variables):
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
        out.append((name.removeprefix("."), variable[...]))
    return out
