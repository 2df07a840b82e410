"""The forward and the backward pass of a batch over the states of a model, row by row, and where they first fail.

The backward pass is that of `jacspec.adjoints`: in logs, so that it goes on where floating point has overflowed and
says at which step that was.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec._ground.arithmetic import norms
from jacspec.chain import JacobianChain, series
from jacspec.questions.gradients import Adjoints, adjoints
from jacspec.remedies.norm import norm
from jacspec.tasks import Batch, Task
from jacspec.training import reading


class Passes:
    """A model and a batch; each pass is one compiled program for all rows.

    Args:
        model: any; where it does not say what the states of its chain are, by ``layer_states`` over time or ``hidden_chain``
            over depth, only its outputs are looked at.
        task: for its loss.
        batch: of finite numbers.
    """

    def __init__(self, model: Any, task: Task, batch: Batch):
        self.model, self.batch = model, batch
        self.over_time, self.joint = reading.over_time(model), reading.joint(model)
        self.has_chain = reading.has_method(model, "layer_states" if self.over_time else "hidden_chain")
        graph, variables = nnx.split(model)
        run = jax.jit(lambda v, x: reading.outputs(nnx.merge(graph, v, copy=True), x))
        self.y = run(variables, batch.inputs)
        self.y_bar = reading.error_signal(task, batch, self.y)
        answered = reading.last_steps(batch, self.y.shape[1])
        self.losses = jnp.sum(answered.weights * task.step_losses(self.y, answered), axis=1)

    def _chain(self, inputs: Array) -> JacobianChain:
        return reading.chain(self.model, inputs, **({"store": False} if self.over_time else {}))

    def _rows(self, f: Any, *arguments: Array) -> Any:
        """f of every row; of the whole batch, as the only row, where it is one state."""
        lift = lambda *a: jax.tree.map(lambda out: out[None], f(*a))
        return jax.jit(lift if self.joint else jax.vmap(f))(*arguments)

    def forward(self) -> dict[str, Any]:
        """The first state that is not finite, or else the first output, or else the loss."""
        if self.has_chain:
            look = lambda chain: (chain.state_series, chain.first_nonfinite)
            states, first = self._rows(lambda x: look(self._chain(x)), self.batch.inputs)
            if (failed := np.asarray(first) > 0).any():
                row = int(np.argmin(np.where(failed, first, np.inf)))
                return self._failed(row, int(first[row]), _row(states, row))
        bad = np.argwhere(~np.isfinite(np.asarray(self.y)))
        if not len(bad):
            row = int(np.argmax(~np.isfinite(np.asarray(self.losses))))
            return {"where": f"row {row}: the outputs are finite, their loss is not", "row": row}
        row, step = int(bad[0][0]), int(bad[0][1]) + self.batch.inputs.shape[1] - self.y.shape[1]
        of = "the readout of finite states" if self.has_chain else "the output"
        return {"where": f"row {row}, step {step}: {of} is not finite", "row": row, "step": step}

    def _failed(self, row: int, s: int, states: Any) -> dict[str, Any]:
        """The row whose state h_s is the first that is not finite, and the gradient of the last that is."""
        h, before = series.entry(states, s), np.zeros(1)
        if s > 1:
            chain = self._chain(self.batch.inputs if self.joint else self.batch.inputs[row])
            before = np.asarray(adjoints(chain[: s - 1], _unit(series.entry(states, s - 1))).known_log_norms)
        if self.joint:
            row = int(np.argmin(np.isfinite(np.asarray(h)).reshape(len(h), -1).all(axis=1)))
        place = {"step": s - 1, "layer": self._first_layer(h)} if self.over_time else {"layer": s - 1}
        where = f"row {row}, {_words(place)}: the state is the first that is not finite"
        return {"where": where, "row": row, **place, **_grown(states, before)}

    def _backward(self) -> tuple[Any, Adjoints]:
        """The states and their gradients as series, for every row."""

        def of_row(x: Array, y_bar: Array) -> tuple[Any, Adjoints]:
            chain = self._chain(x)
            found = adjoints(chain, reading.cotangent(self.model, chain.states, y_bar))
            return chain.state_series, dataclasses.replace(found, directions=chain.source.series(found.directions))

        return self._rows(of_row, self.batch.inputs, self.y_bar)

    def backward(self) -> dict[str, Any] | None:
        """The state whose gradient is the first, from the end, beyond floating point; None if there is none."""
        if not self.has_chain:
            return None
        states, found = self._backward()
        sizes = np.stack([_largest(_row(found.directions, row)) for row in range(len(found.log_norms))])
        over = sizes + np.asarray(found.known_log_norms) > self._limit
        if not over.any():
            return None
        last = np.where(over, np.arange(over.shape[1]), -1).max(axis=1)
        row = int(np.argmax(last))
        s, logs = int(last[row]), np.asarray(found.known_log_norms[row])
        place: dict[str, Any] = {("step" if self.over_time else "layer"): min(s, len(logs) - 2)}
        if self.over_time:
            place["layer"] = self._last_layer(series.entry(_row(found.directions, row), s), float(logs[s]))
        of = "the batch" if self.joint else f"row {row}"
        where = f"{of}, {_words(place)}: the gradient that leaves it, backwards, is the first beyond floating point"
        return {"where": where, "row": None if self.joint else row, **place, **_grown(_row(states, row), logs)}

    def steepest(self, loss: float, reference: float) -> dict[str, Any]:
        """Where the gradient of the row with the largest loss grows most in one step."""
        row = int(np.argmax(np.asarray(self.losses)))
        text = f"the loss {loss:.4g} is {loss / reference:.3g} times what it was ({reference:.3g})"
        if not self.has_chain:
            return {"where": f"row {row}: {text}", "row": row}
        states, found = self._backward()
        which = 0 if self.joint else row
        logs = np.asarray(found.known_log_norms[which])
        with np.errstate(invalid="ignore"):
            growth = logs[:-1] - logs[1:]
        growth = np.where(np.isfinite(growth), growth, -np.inf)
        at = int(np.argmax(growth))
        if not np.isfinite(growth[at]):
            return {"where": f"row {row}: {text}", "row": row}
        place = {"step" if self.over_time else "layer": at}
        where = f"{text}; row {row}: the gradient grows most, {growth[at]:.3g} nats, through {_words(place)}"
        return {"where": where, "row": row, **place, **_grown(_row(states, which), logs)}

    @property
    def _limit(self) -> float:
        return float(np.log(float(jnp.finfo(self.y.dtype).max)))

    def _layers(self, h: Any) -> tuple[Any, ...]:
        """The states of the layers, lowest first."""
        return self.model.layer_states(h)

    def _first_layer(self, h: Any) -> int:
        """The lowest layer of a stack whose state is not finite."""
        return next(l for l, part in enumerate(self._layers(h)) if not all(map(_finite, jax.tree.leaves(part))))

    def _last_layer(self, g: Any, log: float) -> int:
        """The highest layer of a stack whose gradient is beyond floating point: the first on the way back."""
        sizes = [max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(part)) for part in self._layers(g)]
        return max(l for l, size in enumerate(sizes) if size > 0 and np.log(size) + log > self._limit)


def _words(place: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in place.items())


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda a: a[row], tree)


def _finite(a: Array) -> bool:
    return bool(jnp.isfinite(a).all())


def _unit(h: Any) -> Any:
    """A state in the direction of h, of norm 1; if h is zero, with equal entries."""
    flat, unravel = ravel_pytree(h)
    size = float(norms(flat))
    return unravel(flat / size if size > 0 else jnp.ones_like(flat) / len(flat) ** 0.5)


def _flat(states: Any) -> list[Array]:
    """States h_0 ... h_S as vectors; gradients likewise."""
    return list(series.each(lambda h: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(h)]), states))


def _largest(directions: Any) -> np.ndarray:
    """Log of the largest entry of each."""
    with np.errstate(divide="ignore"):
        return np.log([float(jnp.max(jnp.abs(d))) for d in _flat(directions)])


def _grown(states: Any, gradients: Any) -> dict[str, np.ndarray]:
    """The log norms of the states, NaN where they are not finite, and those of the gradients."""
    sizes = [float(norm([h]).log) for h in _flat(states)]
    return {"state_log_norms": np.asarray(sizes), "gradient_log_norms": np.asarray(gradients)}
