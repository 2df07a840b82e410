"""One row of a comparison: all seeds of one remedy, trained as one program, measured before and after."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

from jacspec.comparison.build import Plan
from jacspec.comparison.measure import Measure
from jacspec.comparison.search import search
from jacspec.training import fit_seeds

RECORDS = 20
"""How often a run is judged on held-out sequences."""

HELD_OUT = 1000
"""Sequences that it is judged on, where the task does not have fewer: the fraction wrong is known to 0.016."""


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """All seeds of one remedy; arrays have one entry, or one row, a seed.

    Attributes:
        remedy: as it was written.
        law: of the initial weights.
        parameters: number of them.
        seconds: wall time of all seeds together.
        status: "finished", "solved", "exploded" or "stopped".
        failures: kind of an explosion, "data", "forward", ... of `jacspec.training.Trace`, or "".
        causes: the sentence that says where it began, or "".
        solved_at: update at which the success criterion held, -1 if it never did.
        updates: updates done.
        loss: final loss on held-out sequences; after an explosion that of the last finite model.
        wrong: fraction of held-out sequences wrong.
        rejected: updates that were not finite and not applied.
        clip_rate: share of updates that were clipped; NaN without clipping.
        exponents_before: (seeds, k), leading, nats per step.
        exponents_after: the same after training.
        slope_before: of log||dE/dh_t|| against t, nats per step.
        slope_after: the same after training.
        record_update: (records,), updates done at each record.
        record_loss: (seeds, records), held-out loss; NaN after the end of a run.
        record_wrong: (seeds, records).
    """

    remedy: str
    law: str
    parameters: int
    seconds: float
    status: np.ndarray
    failures: np.ndarray
    causes: np.ndarray
    solved_at: np.ndarray
    updates: np.ndarray
    loss: np.ndarray
    wrong: np.ndarray
    rejected: np.ndarray
    clip_rate: np.ndarray
    exponents_before: np.ndarray
    exponents_after: np.ndarray
    slope_before: np.ndarray
    slope_after: np.ndarray
    record_update: np.ndarray
    record_loss: np.ndarray
    record_wrong: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """What is measured, by name; wall time is not."""
        return {name: getattr(self, name) for name in MEASURED}

    def plain(self) -> dict[str, Any]:
        """As numbers, strings and lists."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


MEASURED = [field.name for field in dataclasses.fields(Row) if field.type is np.ndarray]
"""The names of what is stored."""


def train(plan: Plan, seeds: range) -> Row:
    """Train all seeds of a plan."""
    begun = time.perf_counter()
    judged = min(plan.task.held_out or HELD_OUT, HELD_OUT)
    measured = (_without_gradients if plan.remedy.search else _by_gradients)(plan, seeds, judged)
    return Row(str(plan.remedy), plan.law, plan.parameters, time.perf_counter() - begun, **measured)


def _by_gradients(plan: Plan, seeds: range, held_out: int) -> dict[str, np.ndarray]:
    """The arrays of a `Row` that `jacspec.training.fit` trains."""
    fits = fit_seeds(
        plan.make, plan.seen, plan.optimizer(), seeds=seeds, updates=plan.updates, batch=plan.batch, held_out=held_out,
        every=-(-plan.updates // RECORDS), probes=[Measure(plan.seen)], regularizer=plan.regularizer(),
    )  # fmt: skip
    longest = max((fit.history["update"] for fit in fits), key=len)
    padded = lambda values: np.pad(np.asarray(values, float), (0, len(longest) - len(values)), constant_values=np.nan)
    every = lambda name: np.stack([padded(fit.history[name]) for fit in fits])
    first = lambda name: np.stack([fit.history[name][0] for fit in fits])
    last = lambda name: np.stack([fit.history[name][-1] for fit in fits])
    return {
        "status": np.array([fit.status for fit in fits]),
        "failures": np.array([fit.trace.kind if fit.trace else "" for fit in fits]),
        "causes": np.array([str(fit.trace) if fit.trace else "" for fit in fits]),
        "solved_at": np.array([-1 if fit.solved_at is None else fit.solved_at for fit in fits]),
        "updates": np.array([fit.updates for fit in fits]),
        "loss": last("loss"),
        "wrong": last("metric"),
        "rejected": last("rejected"),
        "clip_rate": np.array([_clip_rate(fit.history) for fit in fits]),
        "exponents_before": first("exponents"),
        "exponents_after": last("exponents"),
        "slope_before": first("slope"),
        "slope_after": last("slope"),
        "record_update": longest,
        "record_loss": every("loss"),
        "record_wrong": every("metric"),
    }


def _clip_rate(history: dict[str, np.ndarray]) -> float:
    """The share of all updates that were clipped, from that between two records."""
    counts, rates = np.diff(history["update"]), history["clip_rate"][1:]
    done = counts > 0
    return float(np.average(rates[done], weights=counts[done])) if done.any() else np.nan


def _without_gradients(plan: Plan, seeds: range, held_out: int) -> dict[str, np.ndarray]:
    """The arrays of a `Row` that `jacspec.remedies.evolve` trains; it is judged at the start and at the end."""
    found = search(plan, seeds, held_out)
    batch = plan.seen.evaluation(jax.random.key(2**32 - 2), plan.batch)  # the same for all seeds
    measure = nnx.jit(Measure(plan.seen))
    before, after = ([measure(model, batch) for model in models] for models in (found.start, found.found))
    gathered = lambda measured, name: np.stack([np.asarray(m[name]) for m in measured])
    solved = found.wrong <= plan.task.success
    return {
        "status": np.where(solved, "solved", "finished"),
        "failures": np.full(len(seeds), ""),
        "causes": np.full(len(seeds), ""),
        "solved_at": np.where(solved, plan.updates, -1),
        "updates": np.full(len(seeds), plan.updates),
        "loss": found.loss,
        "wrong": found.wrong,
        "rejected": np.zeros(len(seeds), int),
        "clip_rate": np.full(len(seeds), np.nan),
        "exponents_before": gathered(before, "exponents"),
        "exponents_after": gathered(after, "exponents"),
        "slope_before": gathered(before, "slope"),
        "slope_after": gathered(after, "slope"),
        "record_update": np.array([0, plan.updates]),
        "record_loss": np.stack([found.first_loss, found.loss], axis=1),
        "record_wrong": np.stack([found.first_wrong, found.wrong], axis=1),
    }
