"""Probes: what `jacspec.training.fit` asks of the model while it learns.

A probe is any callable ``probe(model, batch) -> dict of arrays``. Those below take a few sequences of the batch and
answer with means over them; all of their questions are put to the chain of the model as it stands.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec import _checks
from jacspec.chain import JacobianChain
from jacspec.gradients import log_gradient_norms
from jacspec.lyapunov import lyapunov_exponents
from jacspec.models import Recurrent
from jacspec.spectrum import spectrum
from jacspec.tasks import Batch, Task
from jacspec.training import reading

QUANTITIES = ("lyapunov_exponents", "log_singular_values")


def _inner(model: Any, inputs: Array) -> JacobianChain:
    """The chain without its first layer and its readout, where it goes over depth."""
    chain = reading.chain(model, inputs)
    return chain if isinstance(model, Recurrent) else chain[1:-1]


def _each(model: Any, batch: Batch, examples: int) -> tuple[Any, Batch]:
    """A map over sequences, and the sequences: a few, or all as one where they act on one another."""
    if reading.joint(model):
        return (lambda f: lambda *a: jax.tree.map(lambda out: out[None], f(*a))), batch
    return jax.vmap, jax.tree.map(lambda a: a[:examples], batch)


@dataclasses.dataclass(frozen=True)
class SpectrumProbe:
    """The leading k Lyapunov exponents or log singular values of the chain, means over examples.

    Over time they are those of the hidden state from the zero state on; over depth those between the first hidden layer
    and the last. With BatchNorm in training mode the state is the whole batch. NaN where a value is not resolved for one of
    the examples.

    Args:
        k: how many.
        examples: sequences to average over.
        quantity: "lyapunov_exponents" (nats per step), "log_singular_values" (nats), "both", or "auto": exponents over
            time, singular values over depth, where the exponents have no limit to be of.
        transient: steps to leave out of the exponents.

    Raises:
        TypeError: for numbers that are no integers.
        ValueError: for numbers out of range, or an unknown quantity.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from jacspec import models, tasks, training
        >>> task = tasks.temporal_order(10)
        >>> model = models.Recurrent("elman", task.features, 4, task.outputs, readout="last", rngs=nnx.Rngs(0))
        >>> found = training.fit(model, task, optax.sgd(0.1), updates=5, every=5, probes=[training.SpectrumProbe(2)])
        >>> found.history["lyapunov_exponents"].shape
        (2, 2)
    """

    k: int = 4
    examples: int = 4
    quantity: str = "auto"
    transient: int = 0

    def __post_init__(self):
        """Check the arguments."""
        name = "training.SpectrumProbe"
        for argument, low in (("k", 1), ("examples", 1), ("transient", 0)):
            _checks.integer(name, argument, getattr(self, argument), low)
        _checks.one_of(name, "quantity", self.quantity, ("auto", *QUANTITIES, "both"))

    def __call__(self, model: Any, batch: Batch) -> dict[str, Array]:
        """The means by their names, (k,) each."""
        each, few = _each(model, batch, self.examples)
        automatic = (QUANTITIES[not isinstance(model, Recurrent)],)
        asked = {"auto": automatic, "both": QUANTITIES}.get(self.quantity, (self.quantity,))

        def ask(inputs: Array) -> dict[str, Array]:
            chain = _inner(model, inputs)
            out = {}
            if "lyapunov_exponents" in asked:
                found = lyapunov_exponents(chain, k=self.k, transient=self.transient)
                out["lyapunov_exponents"] = reading.known(found.exponents, found)
            if "log_singular_values" in asked:
                found = spectrum(chain, k=self.k)
                out["log_singular_values"] = reading.known(found.log_singular_values, found)
            return out

        return jax.tree.map(lambda a: a.mean(axis=0), each(ask)(few.inputs))


@dataclasses.dataclass(frozen=True)
class GradientProbe:
    """``log_gradient_norms``: log of ||dE/dh_s|| for s = 0..S, nats, means over examples of the logs.

    E is the loss of the task over the batch. Over time S = T, and T - s is the lag behind the last step; over depth h_S
    is the output and h_0 the input. -inf where a gradient is exactly zero for an example, NaN where its norm is not
    resolved for one (see `jacspec.gradients.Adjoints`).

    Args:
        task: whose loss it is.
        examples: sequences to average over.

    Raises:
        TypeError: if `task` is none, or `examples` no integer.
        ValueError: for examples < 1.
    """

    task: Task
    examples: int = 4

    def __post_init__(self):
        """Check the arguments."""
        name = "training.GradientProbe"
        _checks.instance(name, "task", self.task, Task, "Take one of jacspec.tasks.")
        _checks.integer(name, "examples", self.examples, 1)

    def __call__(self, model: Any, batch: Batch) -> dict[str, Array]:
        """The mean, by its name."""
        each, few = _each(model, batch, self.examples)
        y = reading.outputs(model, batch.inputs)
        y_bar = reading.error_signal(self.task, batch, y)

        def ask(inputs: Array, y_bar: Array) -> Array:
            chain = reading.chain(model, inputs)
            return log_gradient_norms(chain, reading.cotangent(model, chain.states, y_bar))

        return {"log_gradient_norms": each(ask)(few.inputs, y_bar[: len(few.inputs)]).mean(axis=0)}


@dataclasses.dataclass(frozen=True)
class ActivityProbe:
    """Saturated and dead units, and how far the gates are open: one number a layer.

    ``saturated``: fraction of the slopes f'(a), over units, steps and examples, with abs(f'(a)) < `slope`; ``dead``:
    fraction of the units whose slope is exactly 0 at all steps of all examples. Gated cells have no single slope; they
    give for each gate ``gate_<name>``, its mean, and ``saturated_<name>``, the fraction of its values within `gate` of 0
    or 1.

    Args:
        slope: below it a unit is saturated.
        gate: that near to 0 or 1 a gate is saturated.
        examples: sequences to look at.

    Raises:
        TypeError: if `examples` is no integer.
        ValueError: for numbers out of range.
    """

    slope: float = 0.05
    gate: float = 0.05
    examples: int = 8

    def __post_init__(self):
        """Check the numbers."""
        name = "training.ActivityProbe"
        _checks.integer(name, "examples", self.examples, 1)
        for argument in ("slope", "gate"):
            value = getattr(self, argument)
            if not 0 < value < 1:
                raise ValueError(_checks.message(name, argument, "is out of range", value, f"0 < {argument} < 1"))

    def __call__(self, model: Any, batch: Batch) -> dict[str, Array]:
        """The numbers by their names, (layers,) each."""
        each, few = _each(model, batch, self.examples)
        layers = each(lambda x: _over_time(model, x) if isinstance(model, Recurrent) else _over_depth(model, x))(
            few.inputs
        )
        out: dict[str, list[Array]] = {}
        for layer in layers:
            for name, a in layer.items():
                if name == "slope":
                    units = a.reshape(-1, a.shape[-1])
                    numbers = {"saturated": jnp.abs(a) < self.slope, "dead": (units == 0).all(axis=0)}
                else:
                    closed = (a < self.gate) | (a > 1 - self.gate)
                    numbers = {f"gate_{name}": a, f"saturated_{name}": closed}
                for key, value in numbers.items():
                    out.setdefault(key, []).append(jnp.mean(value, dtype=model.dtype))
        return {name: jnp.stack(values) for name, values in out.items()}


def _over_time(model: Recurrent, x: Array) -> list[dict[str, Array]]:
    """For every layer its slopes or its gates, (T, n)."""
    states = reading.chain(model, x, store=False).states
    layers = states if len(model.cells) > 1 else (states,)
    out = []
    for step, hs in zip(model.steps(), layers, strict=True):
        before, after = (jax.tree.map(lambda h: h[:-1], hs), jax.tree.map(lambda h: h[1:], hs))
        cell: Any = step
        if hasattr(cell, "gates"):
            seen = jax.vmap(cell.gates)(before, x)
            out.append({name: a for name, a in seen.items() if name != "candidate"})
        else:
            out.append(_slopes(jax.vmap(lambda h, x, cell=cell: cell.jacobian(h, x).factors)(before, x)))
        x = jax.vmap(getattr(cell, "output", lambda h: h))(after)
    return out


def _over_depth(model: Any, inputs: Array) -> list[dict[str, Array]]:
    """For every layer with an activation its slopes, (..., n)."""
    hidden = reading.chain(model, inputs)[:-1]
    _, found = hidden.fold(lambda carry, J, _: (carry, _slopes(J.factors)), ())
    if not isinstance(found, list):
        found = [jax.tree.map(lambda a, l=l: a[l], found) for l in range(hidden.length)]
    shape = (len(inputs), -1) if reading.joint(model) else ()
    return [{"slope": layer["slope"].reshape(shape or layer["slope"].shape)} for layer in found if layer]


def _slopes(factors: dict[str, Array]) -> dict[str, Array]:
    """The slope among the factors of a Jacobian, if it has one; that of a linear part beside it is 1."""
    found = [a for name, a in factors.items() if name.split()[-1].rstrip("'") == "slope"]
    return {"slope": math.prod(found[1:], start=found[0].reshape(found[-1].shape))} if found else {}
