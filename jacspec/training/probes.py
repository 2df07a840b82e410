"""Probes: what `jacspec.training.fit` measures of a model while it learns.

A probe is any callable ``probe(model, batch) -> dict of arrays``. Those below take a few sequences of the batch and
return means over them, measured on the chain of the model as it stands. They also serve in any other training loop:
``probe(model, inputs)`` on a plain array of examples. `jacspec.training.protocols` says what they need.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks
from jacspec.chain import JacobianChain
from jacspec.questions.exponents import lyapunov_exponents
from jacspec.questions.gradients import log_gradient_norms
from jacspec.questions.spectrum import spectrum
from jacspec.tasks import Batch, Task
from jacspec.training import reading
from jacspec.training._user_code import output_shapes

QUANTITIES = ("lyapunov_exponents", "log_singular_values")


def _hidden_chain(model: Any, inputs: Array) -> JacobianChain:
    """The chain; a model that has a method ``hidden_chain`` leaves out its first layer and its readout."""
    chain = reading.chain(model, inputs)
    return model.hidden_chain(chain) if reading.has_method(model, "hidden_chain") else chain


def _inputs(name: str, model: Any, batch: Any) -> Array:
    """The examples of a batch, or of a plain array; one alone is a batch of one.

    Raises:
        TypeError: for what is no array of real numbers.
        ValueError: for no example at all.
    """
    form = "a Batch, or an array (batch, T, features)"
    inputs = getattr(batch, "inputs", batch)
    if not checks.is_real(inputs):
        got = f"dtype {inputs.dtype}" if hasattr(inputs, "dtype") else type(inputs).__name__
        raise TypeError(checks.message(name, "inputs", "are no array of numbers", got, form))
    inputs = jnp.asarray(inputs)
    inputs = inputs[None] if inputs.ndim == 1 + reading.over_time(model) else inputs
    if inputs.ndim < 2 or not len(inputs):
        raise ValueError(checks.message(name, "inputs", "hold no examples", f"shape {inputs.shape}", form))
    return inputs


def _each(model: Any, inputs: Array, examples: int) -> tuple[Any, Array]:
    """A map over examples, and the examples: the first few, or the whole batch as one where they act on one another."""
    if reading.joint(model):
        return (lambda f: lambda *a: jax.tree.map(lambda out: out[None], f(*a))), inputs
    return jax.vmap, inputs[:examples]


@dataclasses.dataclass(frozen=True)
class SpectrumProbe:
    """The leading k Lyapunov exponents or log singular values of the chain, means over examples.

    Over time they are those of the hidden state from the zero state on; over depth those between the first hidden layer
    and the last. With BatchNorm in training mode the state is the whole batch. For a model of one's own: of its whole chain,
    or what its ``hidden_chain`` leaves of it; over time if it has ``read``. NaN where a value is not resolved for one of the
    examples.

    Args:
        k: how many.
        examples: sequences to average over.
        quantity: "lyapunov_exponents" (nats per step), "log_singular_values" (nats), "both", or "auto": exponents over
            time, singular values over depth, where there is no limit of many steps.
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
            checks.integer(name, argument, getattr(self, argument), low)
        checks.one_of(name, "quantity", self.quantity, ("auto", *QUANTITIES, "both"))

    def __call__(self, model: Any, inputs: Batch | Array) -> dict[str, Array]:
        """The means by their names, (k,) each.

        Args:
            model: with a ``chain``: of `jacspec.models`, or a `jacspec.training.ChainModel`.
            inputs: a `jacspec.tasks.Batch`, or an array of examples (batch, T, features), or for a deep model
                (batch, features).
        """
        each, few = _each(model, _inputs("training.SpectrumProbe", model, inputs), self.examples)
        automatic = (QUANTITIES[not reading.over_time(model)],)
        quantities = {"auto": automatic, "both": QUANTITIES}.get(self.quantity, (self.quantity,))

        def of_example(inputs: Array) -> dict[str, Array]:
            chain = _hidden_chain(model, inputs)
            out = {}
            if "lyapunov_exponents" in quantities:
                found = lyapunov_exponents(chain, k=self.k, transient=self.transient)
                out["lyapunov_exponents"] = reading.resolved_or_nan(found.exponents, found)
            if "log_singular_values" in quantities:
                found = spectrum(chain, k=self.k)
                out["log_singular_values"] = reading.resolved_or_nan(found.log_singular_values, found)
            return out

        return jax.tree.map(lambda a: a.mean(axis=0), each(of_example)(few))


@dataclasses.dataclass(frozen=True)
class GradientProbe:
    """``log_gradient_norms``: log of ||dE/dh_s|| for s = 0..S, nats, means over examples of the logs.

    E is the loss over the batch, of the task or given as a function. NaN where the outputs that the states of the chain
    lead to are not those of the model. Over time S = T, and T - s is the lag behind the last step; over depth h_S
    is the output and h_0 the input. -inf where a gradient is exactly zero for an example, NaN where
    its norm is not resolved for one (see `jacspec.questions.gradients.Adjoints`).

    Args:
        task: whose loss it is.
        examples: sequences to average over.
        loss: in place of a task, ``loss(outputs) -> scalar`` of the outputs for the whole batch; or
            ``loss(outputs, targets)``. In `fit` its outputs are (batch, S, outputs), and `targets` is the `Batch` of
            these S steps, as in `jacspec.tasks.Task.loss`.

    Raises:
        TypeError: if neither or both of `task` and `loss` are given, or `examples` is no integer.
        ValueError: for examples < 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from jacspec import models, training
        >>> model = models.Recurrent("elman", 2, 4, 1, rngs=nnx.Rngs(0))
        >>> probe = training.GradientProbe(loss=lambda outputs: jnp.mean(outputs**2))
        >>> probe(model, jnp.ones((3, 10, 2)))["log_gradient_norms"].shape
        (11,)
    """

    task: Task | None = None
    examples: int = 4
    loss: Callable | None = None

    def __post_init__(self):
        """Check the arguments."""
        name = "training.GradientProbe"
        if (self.task is None) == (self.loss is None):
            hint = "Use GradientProbe(task), or GradientProbe(loss=lambda outputs: ...)."
            got = "neither" if self.task is None else "both"
            raise TypeError(checks.message(name, "loss", "or a task says whose gradient it is", got, "one", hint))
        if self.task is not None:
            checks.instance(name, "task", self.task, Task, "Take one of jacspec.tasks, or loss=f(outputs).")
        else:
            checks.function(name, "loss", self.loss, "loss(outputs) -> scalar")
        checks.integer(name, "examples", self.examples, 1)

    def __call__(self, model: Any, inputs: Batch | Array, targets: Any = None) -> dict[str, Array]:
        """The mean, by its name.

        Args:
            model: with a ``chain``, and over time ``read``: of `jacspec.models`, or a `jacspec.training.ChainModel`.
            inputs: as in `SpectrumProbe`.
            targets: what `loss` is given as its second argument, where `inputs` is an array.
        """
        examples = _inputs("training.GradientProbe", model, inputs)
        each, few = _each(model, examples, self.examples)
        y, y_bar = self._outputs_and_errors(model, examples, inputs, targets)

        def of_example(inputs: Array, y: Array, y_bar: Array) -> Array:
            chain = reading.chain(model, inputs)
            agree = reading.agrees("training.GradientProbe", model, chain.state_series, y)
            norms = log_gradient_norms(chain, reading.cotangent(model, chain.states, y_bar))
            return jnp.where(agree, norms, jnp.nan)

        return {"log_gradient_norms": each(of_example)(few, y[: len(few)], y_bar[: len(few)]).mean(axis=0)}

    def _outputs_and_errors(self, model: Any, examples: Array, inputs: Any, targets: Any) -> tuple[Array, Array]:
        """y and dE/dy, (batch, S, outputs) each."""
        name, form = "training.GradientProbe", "loss(outputs) -> scalar, or loss(outputs, targets)"
        if isinstance(inputs, Batch):
            y = reading.outputs(model, examples)
            targets = reading.last_steps(inputs, y.shape[1])
        else:
            y = reading.answers(model, examples)
        if self.task is not None and not isinstance(inputs, Batch):
            hint = "Ask with a Batch of the task, or make the probe with loss=f(outputs)."
            raise TypeError(checks.message(name, "inputs", "have no targets", "an array", "a Batch", hint))
        loss: Any = self.loss if self.task is None else self.task.loss
        f = (lambda y: loss(y, targets)) if targets is not None and reading.accepts(loss, y, targets) else loss
        if (out := output_shapes(name, "loss", form, f, y)).shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
            got = f"{out.dtype} of shape {out.shape}"
            raise TypeError(checks.message(name, "loss", "is no real number", got, form))
        with_steps = lambda a: a if a.ndim == 3 else a[:, None]
        return with_steps(y), with_steps(jax.grad(f)(y))


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
        checks.integer(name, "examples", self.examples, 1)
        for argument in ("slope", "gate"):
            expected = f"0 < {argument} < 1"
            number = checks.plain_number(name, argument, getattr(self, argument), expected, lambda value: 0 < value < 1)
            object.__setattr__(self, argument, number)

    def __call__(self, model: Any, inputs: Batch | Array) -> dict[str, Array]:
        """The numbers by their names, (layers,) each.

        Args:
            model: with a method ``activity``, see `jacspec.training.ActiveModel`.
            inputs: as in `SpectrumProbe`.
        """
        name = "training.ActivityProbe"
        if not callable(getattr(model, "activity", None)):
            want = "a method activity(inputs), as those of jacspec.models have"
            hint = "Only the model knows the slopes and gates of its layers by name."
            raise TypeError(checks.message(name, "model", "has no activity", type(model).__name__, want, hint))
        each, few = _each(model, _inputs(name, model, inputs), self.examples)
        layers = each(lambda x: model.activity(reading.chain_input(model, x)))(few)
        out: dict[str, list[Array]] = {}
        for layer in layers:
            for name, a in layer.items():
                if name == "slope":
                    units = a.reshape(-1, a.shape[-1])
                    numbers = {"saturated": _below(jnp.abs(a), self.slope), "dead": (units == 0).all(axis=0)}
                else:
                    closed = _below(jnp.minimum(a, 1 - a), self.gate)
                    numbers = {f"gate_{name}": a, f"saturated_{name}": closed}
                for key, value in numbers.items():
                    out.setdefault(key, []).append(jnp.mean(value, dtype=a.dtype))
        return {name: jnp.stack(values) for name, values in out.items()}


def _below(a: Array, limit: float) -> Array:
    """a < limit for a >= 0 and limit > 0, also where the limit rounds to 0 in the dtype."""
    return (a < limit) | (a == 0)
