"""Training as a pure function of a state: many updates in one compiled loop, and what is measured between two loops.

A state stops changing when its status is no longer `RUNNING`. Under `jax.vmap` the loop of a batch of states goes on
until the last of them stops, and JAX holds the others still, so that many seeds are one program.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax

from jacspec._ground.precision import floating
from jacspec._ground.pytree import pytree
from jacspec.remedies.guard import RejectState, all_finite, reject_nonfinite
from jacspec.remedies.norm import parts_and_norm
from jacspec.remedies.report import ClipReport
from jacspec.tasks import Batch, Task
from jacspec.training import reading
from jacspec.training._options import Options

RUNNING, EXPLODED, SOLVED, STOPPED = range(4)

REMEMBERED = 32
"""Training losses whose median a jump is measured by: enough that one outlier does not move it."""

STREAM = 2**32 - 1
"""Folded into the key of the seed, so that no draw of `nnx.Rngs(seed)`, which folds in 0, 1, ..., makes the same key."""

TRAINING, HELD_OUT = range(2)
"""Folded in after it: which of the two kinds of batches is drawn."""


@pytree
class State:
    """All that changes in training.

    Attributes:
        parameters: what the optimizer moves, an `nnx.State`.
        rest: other variables of the model, such as running statistics.
        optimizer: the state of the guarded optimizer.
        update: updates done; the number of the next one, which decides its batch.
        status: `RUNNING`, `EXPLODED`, `SOLVED`, or `STOPPED` from outside.
        recent: the last finite training losses, NaN where there were fewer than `REMEMBERED`.
    """

    parameters: Any
    rest: Any
    optimizer: Any
    update: Array
    status: Array
    recent: Array


def stream(key: Array, kind: int) -> Array:
    """The key of the training batches or of the held-out ones."""
    return jax.random.fold_in(jax.random.fold_in(key, STREAM), kind)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What does not change in training.

    Attributes:
        graph: the structure of the model, without its variables.
        transformation: the optimizer, any Optax transformation.
        options: of `jacspec.training.fit`, checked.
    """

    graph: Any
    transformation: Any
    options: Options

    @functools.cached_property
    def optimizer(self) -> Any:
        """The transformation behind its guard."""
        return reject_nonfinite(self.transformation)

    def without_regularizer(self) -> "Program":
        """The same training with the loss of the task alone."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, regularizer=None))

    def model(self, state: State) -> Any:
        """The model with the variables of a state."""
        return self._merged(state.parameters, state.rest)

    def _merged(self, parameters: Any, rest: Any) -> Any:
        return nnx.merge(self.graph, parameters, rest, copy=True)

    def start(self, parameters: Any, rest: Any, key: Array, task: Task) -> State:
        """The state before the first update."""
        zero = jnp.zeros((), jnp.int32)
        out = jax.eval_shape(lambda: self.loss(parameters, rest, task, self.drawn(zero, key, task))[0])
        recent = jnp.full(REMEMBERED, jnp.nan, out.dtype)
        return State(parameters, rest, self.optimizer.init(parameters), zero, zero + RUNNING, recent)

    def drawn(self, update: Array, key: Array, task: Task) -> Batch:
        """The training batch of an update."""
        return task.sample(jax.random.fold_in(stream(key, TRAINING), update), self.options.batch)

    def loss(self, parameters: Any, rest: Any, task: Task, batch: Batch) -> tuple[Array, Any]:
        """What is minimized, and the other variables after the forward pass."""
        model = self._merged(parameters, rest)
        value = reading.loss(model, task, batch)
        rest = nnx.state(model, nnx.Not(nnx.Param))
        if self.options.regularizer is not None:
            value = value + jnp.asarray(self.options.regularizer(model, batch), value.dtype)
        return value, rest

    def reference(self, state: State, task: Task) -> Array:
        """The loss that a jump is compared with; NaN before the first update."""
        return jnp.maximum(jnp.nanmedian(state.recent), task.baseline)

    def jumped(self, state: State, task: Task, loss: Array) -> Array:
        """Whether a finite loss is an explosion; never while there is no reference, or a reference of 0."""
        reference = self.reference(state, task)
        return jnp.isfinite(loss) & (reference > 0) & (loss > self.options.jump * reference)

    def guarded_update(self, state: State, task: Task, batch: Batch, loss: Array, g: Any) -> tuple[Any, RejectState]:
        """The updates and the next state of the guarded optimizer."""
        return self.optimizer.update(g, state.optimizer, state.parameters, **self.extra(state, task, batch, loss, g))

    def bare_update(self, state: State, task: Task, batch: Batch, loss: Array, g: Any) -> tuple[Any, Any, list[Array]]:
        """Without the guard: updates, new parameters, and those numbers of the next state that are finite in this one."""
        old, inner = state.optimizer.inner, optax.with_extra_args_support(self.transformation)
        updates, new = inner.update(g, old, state.parameters, **self.extra(state, task, batch, loss, g))
        pairs = zip(floating(old), floating(new), strict=True)
        finite = [jnp.where(jnp.isfinite(a), b, 0) for a, b in pairs]
        return updates, optax.apply_updates(state.parameters, updates), finite

    def extra(self, state: State, task: Task, batch: Batch, loss: Array, g: Any) -> dict[str, Any]:
        """The extra arguments that some optimizers take beside the gradient."""
        return {"value": loss, "grad": g, "value_fn": lambda p: self.loss(p, state.rest, task, batch)[0]}

    def step(self, state: State, key: Array, task: Task) -> tuple[State, dict[str, Array]]:
        """The state after one update, or after a rejected one, and the numbers for the record."""
        batch = self.drawn(state.update, key, task)
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (loss, rest), g = gradient(state.parameters, state.rest, task, batch)
        finite = jnp.isfinite(loss) & all_finite(rest)
        masked = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), g)  # so that the guard rejects the update
        updates, optimizer = self.guarded_update(state, task, batch, loss, masked)
        report = optimizer.report

        jumped = self.jumped(state, task, loss)
        exploded = jumped | (report.consecutive > self.options.patience)
        accepted = ~(exploded | report.rejected)
        choose = lambda yes, new, old: jax.tree.map(lambda a, b: jnp.where(yes, a, b), new, old)
        after = State(
            choose(accepted, optax.apply_updates(state.parameters, updates), state.parameters),
            choose(accepted, rest, state.rest),
            choose(~jumped, optimizer, state.optimizer),
            state.update + ~exploded,
            jnp.where(exploded, EXPLODED, state.status),
            choose(jnp.isfinite(loss) & ~exploded, jnp.roll(state.recent, 1).at[0].set(loss), state.recent),
        )
        _, norm = parts_and_norm(jax.tree.leaves(g))
        clipped = [r.clipped for r in _reports(optimizer)]
        return after, {
            "updates": jnp.ones((), loss.dtype),
            "loss": loss,
            "norm": norm.value.astype(loss.dtype),
            "log_norm": norm.log.astype(loss.dtype),
            "clipped": jnp.stack(clipped).any().astype(loss.dtype) if clipped else jnp.full((), jnp.nan, loss.dtype),
        }

    def advance(self, state: State, key: Array, task: Task, stop: Array) -> tuple[State, dict[str, Array]]:
        """The state after `stop` updates in all, or where its status changes, and the means over these updates."""
        dtype = state.recent.dtype
        zero = jnp.zeros((), dtype)
        sums = {"updates": zero, "loss": zero, "norm": zero, "clipped": zero, "log_norm": zero - jnp.inf}

        def body(carry):
            state, sums = carry
            state, record = self.step(state, key, task)
            top = jnp.maximum(sums["log_norm"], record["log_norm"])
            return state, {name: sums[name] + record[name] for name in sums} | {"log_norm": top}

        unfinished = lambda carry: (carry[0].status == RUNNING) & (carry[0].update < stop)
        state, sums = lax.while_loop(unfinished, body, (state, sums))
        count = jnp.where(sums["updates"] > 0, sums["updates"], jnp.nan)
        return state, {
            "training_loss": sums["loss"] / count,
            "gradient_norm": sums["norm"] / count,
            "log_gradient_norm": jnp.where(sums["updates"] > 0, sums["log_norm"], jnp.nan),
            "clip_rate": sums["clipped"] / count,
        }

    def judge(self, parameters: Any, rest: Any, key: Array, task: Task) -> dict[str, Array]:
        """The held-out loss, the fraction of sequences wrong, and the results of the probes.

        The optimizer is no argument: trainings that differ in it share this compiled program.
        """
        held = task.evaluation(stream(key, HELD_OUT), self.options.held_out)
        model = self._merged(parameters, rest)
        model.eval()
        y = reading.outputs(model, held.inputs)
        answered = reading.last_steps(held, y.shape[1])
        record = {"loss": task.loss(y, answered)}
        record["metric"] = jnp.mean(task.wrong(y, answered), dtype=record["loss"].dtype)
        few = jax.tree.map(lambda a: a[: self.options.batch], held)
        for probe in self.options.probes:
            record |= jax.tree.map(jnp.asarray, probe(self._merged(parameters, rest), few))
        return record

    def settled(self, state: State, metric: Array) -> State:
        """The state, `SOLVED` where few enough held-out sequences are wrong."""
        solved = (state.status == RUNNING) & (metric <= self.options.success)
        return dataclasses.replace(state, status=jnp.where(solved, SOLVED, state.status))


def _reports(optimizer: RejectState) -> list[ClipReport]:
    """The reports of every clipping in an optimizer state."""
    is_report = lambda node: isinstance(node, ClipReport)
    return [node for node in jax.tree.leaves(optimizer, is_leaf=is_report) if is_report(node)]
