"""Turning what the user calls a step into a pytree, and running it.

A step that is a pytree enters as one. Any other callable is traced anew on every call and the arrays it captures
become leaves, so that a weight changed between two calls changes the answer: no function is ever a cache key.
"""

import functools
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jacspec._ground import checks, precision
from jacspec._ground.calls import Trace, called, is_pytree, pure_output, refuse_impure, trace
from jacspec._ground.equations import constants_within
from jacspec._ground.pytree import pytree, static
from jacspec.chain.autodiff import probed
from jacspec.chain.sources import FromOperators, FromStates
from jacspec.chain.state_trees import has_parts, join, shapes, size, split, split_like
from jacspec.typing import Driver, State, Step, StepJacobian

STEP = "step(h, x) -> h"
INPUTS = {"input", "inputs", "inp", "x_t"}
STATES = {"hidden", "carry", "state", "states", "hx", "h_prev", "hidden_state", "prev_state", "h_t"}


@pytree
class TracedStep:
    """A traced step: the arrays it captures, then its own, as leaves; the computation as structure."""

    captured: list[Any]
    jaxpr: Any = static()
    tree: Any = static()

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state."""
        count = len(self.jaxpr.constvars)
        run = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, self.captured[:count]))
        out = run(*self.captured[count:], *jax.tree.leaves((h, x)))
        return jax.tree.unflatten(self.tree, out)


@pytree
class AnalyticProgram:
    """A traced step with its traced Jacobian."""

    step: TracedStep
    linear: TracedStep

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state."""
        return self.step(h, x)

    def jacobian(self, h: State, x: Driver = None) -> StepJacobian:
        """The operator that the step brings."""
        return self.linear(h, x)


def program_of(traced: Trace) -> TracedStep:
    """The computation of a trace as a pytree."""
    # a captured array may share its memory with a NumPy array that the user goes on to change
    captured = [jnp.array(c) if checks.is_concrete(c) else c for c in traced.closed.consts]
    return TracedStep(
        [*jax.block_until_ready(captured), *traced.leaves], traced.closed.jaxpr, jax.tree.structure(traced.out)
    )


def nested_constants(program: Any) -> list[Any]:
    """The arrays captured by functions that were jitted inside a traced step."""
    parts = [part.jaxpr for part in (program, getattr(program, "step", None)) if isinstance(part, TracedStep)]
    return constants_within([equation.params for jaxpr in parts for equation in jaxpr.eqns])


def prepared(function: str, step: Step, h0: State, x: Driver) -> tuple[Any, State]:
    """`step` as a pytree, and h0 in the dtypes that it returns, so that it can be iterated; `x` gives shapes.

    Raises:
        TypeError: if the step raises it, does not return a state of the structure and shapes of h0, or its dtype does
            not settle.
        ValueError: if the step raises anything else, changes itself when it is called, or takes the input first.
    """
    _refuse_input_first(function, step, h0, x)
    user = (lambda h, x: split_like(step(join(h), x), h)) if has_parts(h0) else step

    def tried(user: Callable, h: State, argument: str = "step", **options: Any) -> Trace:
        ask = lambda h, x: trace(user, h, x, **options)
        return called(function, argument, ask, shapes(h), x, form=STEP, way_out=lambda _: _other_order(step, h0, x))

    for _ in range(2):
        out = pure_output(user, h0, x)
        first = None if out is not None else tried(user, h0)
        iterable = _in_dtypes_of(function, h0, out if first is None else first.out)
        if iterable is h0:
            break
        h0 = iterable
    else:
        hint = "Fix the dtype of h0."
        raise TypeError(checks.message(function, "step", "returns another dtype every time", hint=hint))
    if first is None:
        return user, h0
    # traced again, to see whether it changes itself: called twice in one trace where it left something changed
    second = tried(user, h0, calls=2 if first.changed else 1)
    fresh = jax.tree.structure(user).unflatten if first.changed else None
    refuse_impure(function, "step", first, second, fresh, first.leaves, shapes(h0), x)
    if user is step and hasattr(step, "jacobian") and not is_pytree(step):
        linear = tried(step.jacobian, h0, "step.jacobian")  # type: ignore[attr-defined]
        return AnalyticProgram(program_of(second), program_of(linear)), h0
    return program_of(first if first.changed else second), h0


def _in_dtypes_of(function: str, h0: State, out: Any) -> State:
    """h0, in the dtypes of what the step returned where those are others."""
    want, have = jax.tree.structure(h0), jax.tree.structure(out)
    if want != have:
        hint = (
            "A step returns the next state alone; for a Flax cell use jacspec.from_flax or lambda h, x: cell(h, x)[0]."
        )
        raise TypeError(checks.message(function, "step", "changes the structure of the state", have, want, hint))
    pairs = list(zip(jax.tree_util.tree_leaves_with_path(h0), jax.tree.leaves(out), strict=True))
    for (path, old), new in pairs:
        name = "h0" + jax.tree_util.keystr(path)
        if old.shape != new.shape:
            hint = "Where widths change use jacspec.layer_chain."
            text = f"the step returns shape {new.shape}"
            raise TypeError(checks.message(function, name, "changes its shape", text, f"shape {old.shape}", hint))
        if not jnp.issubdtype(new.dtype, jnp.floating):
            hint = "Give a complex h0 for complex states." if jnp.issubdtype(new.dtype, jnp.complexfloating) else ""
            text = f"the step returns dtype {new.dtype}"
            raise TypeError(checks.message(function, name, "must stay floating", text, "a floating dtype", hint))
    if all(old.dtype == new.dtype for (_, old), new in pairs):
        return h0
    narrowed = [f"{o.dtype} to {n.dtype}" for (_, o), n in pairs if n.dtype.itemsize < o.dtype.itemsize]
    if narrowed:
        text = f"narrows the state from {narrowed[0]}: the chain is computed in the narrower dtype"
        warnings.warn(checks.message(function, "step", text), stacklevel=4)
    return jax.tree.map(lambda old, new: old.astype(new.dtype), h0, out)


def _refuse_input_first(function: str, step: Step, h0: State, x: Driver) -> None:
    """Raise where the names of the arguments say that the input comes first; warn where (x, h) may mean that."""
    try:
        parameters = list(inspect.signature(step).parameters.values())[:2]
    except (TypeError, ValueError):  # no signature to read
        return
    names = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    if len(names) < 2 or names[0] not in INPUTS | {"x"} or names[1] not in STATES | {"h"}:
        return
    got, want = f"the signature ({', '.join(names)})", f"{STEP}, the state first"
    text = checks.message(
        function, "step", "takes the input first", got, want, "Give lambda h, x: step(x, h), or rename its arguments."
    )
    if names != ("x", "h"):
        raise ValueError(text)
    if _alike(h0, x):  # x may be a state and h a step size
        warnings.warn(text, stacklevel=4)


def _alike(a: Any, b: Any) -> bool:
    """Whether two pytrees have the same structure and shapes."""
    trees = (jax.tree.leaves(a), jax.tree.leaves(b))
    return jax.tree.structure(a) == jax.tree.structure(b) and len({tuple(x.shape for x in t) for t in trees}) == 1


def _other_order(step: Step, h: State, x: Driver) -> str:
    """What to do where a step that failed runs with its arguments in the other order."""
    try:
        out = jax.eval_shape(lambda h, x: step(x, h), join(shapes(h)), x) if jax.tree.leaves(x) else None
    except Exception:
        return ""
    return "It runs as step(x, h): give lambda h, x: step(x, h)." if _alike(out, join(shapes(h))) else ""


def initial_state(function: str, step: Any, x: Driver) -> State:
    """The first state that the step itself knows.

    Raises:
        ValueError: if it knows none.
    """
    known = getattr(step, "initial_state", None)
    if known is None:
        got, hint = type(step).__name__, "Give the first state, such as jnp.zeros(n)."
        want = "a step with a method initial_state(x), as cells have"
        raise ValueError(checks.message(function, "h0", "is None and the step does not know it", got, want, hint))
    return called(function, "step", known, x, form="step.initial_state(x) -> h")


def linearized_along(
    function: str, source: FromStates, h: State, x: Driver, *, keep: bool
) -> FromStates | FromOperators:
    """The chain of an autodiff step with what is known of its Jacobians; matrices that are kept need no reverse mode."""
    ask = lambda reverse: called(
        function, "step", lambda *_: probed(source, keep=keep, reverse=reverse), h, x, form=STEP
    )
    try:
        return ask(True)
    except (TypeError, ValueError):
        if not keep:
            raise
    return ask(False)


def check_jacobian(function: str, argument: str, program: Any, h: State, x: Driver) -> None:
    """Raise TypeError or ValueError if ``program.jacobian(h, x)`` is no operator, or does not fit the state."""
    ask = lambda h, x: jax.eval_shape(functools.partial(_pushed, function, argument), program, h, x)
    out, want = called(function, argument, ask, shapes(h), x, form="step.jacobian(h, x)"), (size(h), 1)
    if out.shape != want:
        got = f"J v of shape {out.shape}"
        raise TypeError(checks.message(function, argument, "does not fit the state", got, f"shape {want}"))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pushed(function: str, argument: str, program: Any, h: State, x: Driver) -> Any:
    J = _checked_operator(function, argument, program.jacobian(h, x))
    return J.push(jnp.zeros((size(h), 1), jnp.result_type(*jax.tree.leaves(h))))


def own_jacobian(function: str, argument: str, layer: Any, h: State) -> StepJacobian:
    """The operator ``layer.jacobian(h)``."""
    return _checked_operator(
        function, argument, called(function, argument, layer.jacobian, h, form="layer.jacobian(h)")
    )


def _checked_operator(function: str, argument: str, J: Any) -> StepJacobian:
    """J if it is a step Jacobian; raises TypeError."""
    if not isinstance(J, StepJacobian):
        got = "an array" if hasattr(J, "shape") else type(J).__name__
        want, hint = "push, pull and dense", "Of a matrix J give jacspec.operators.Matrix(J)."
        raise TypeError(checks.message(function, argument, "has no step Jacobian", got, want, hint))
    return J


def checked_layers(function: str, layers: Sequence[Callable], h: State, analytic: bool, check: bool) -> list[Any]:
    """The layers as pytrees, each traced at the state that reaches it.

    Raises:
        TypeError: for what is not callable, or returns no state of floating arrays.
        ValueError: for a layer without a jacobian where `analytic` is asked for, one that changes itself and is called
            again, or NaN or Inf (with `check`).
    """
    programs: list[Any] = []
    owners = Counter(id(leaf) for layer in layers for leaf in jax.tree.leaves(layer))
    h = shapes(h)
    for i, layer in enumerate(layers):
        name = f"layers[{i}]"
        checks.function(function, name, layer, "layer(h) -> h")
        if analytic and not hasattr(layer, "jacobian"):
            got = type(layer).__name__
            raise ValueError(checks.message(function, name, "has no jacobian(h)", got, "an analytic layer"))
        program, h = _prepared_layer(function, name, layer, h, owners)
        programs.append(program)
        leaves = jax.tree.leaves(h)
        if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            got = f"dtypes {[str(leaf.dtype) for leaf in leaves]}"
            raise TypeError(checks.message(function, name, "must return a floating state", got, "layer(h) -> h"))
        precision.warn_if_narrow(function, name, h)
        if check:
            checks.finite(function, name, program)
            checks.finite(function, f"{name}.captured", nested_constants(program))
    return programs


def _prepared_layer(function: str, name: str, layer: Callable, h: State, owners: Counter) -> tuple[Any, State]:
    """One layer as a pytree, and the shapes of what it returns; complex states are taken apart around it."""

    def tried(user: Callable, **options: Any) -> Trace:
        return called(function, name, lambda h: trace(user, h, **options), h, form="layer(h) -> h")

    user = layer
    out = None if has_parts(h) else pure_output(layer, h)
    if out is not None and not any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(out)):
        return layer, out
    first = None if has_parts(h) else tried(layer)
    if first is None or any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(first.out)):
        user = lambda h: split(layer(join(h)))
        first = tried(user)
    if not first.changed:
        second = tried(user)
        refuse_impure(function, name, first, second)
        return program_of(second), second.out
    if any(owners[id(leaf)] > 1 for leaf in first.changed.values()):  # what it changes is read by a later layer
        refuse_impure(function, name, first, tried(user, calls=2), jax.tree.structure(user).unflatten, first.leaves, h)
    return program_of(first), first.out


def run(step: Any, h0: State, xs: Any, length: int) -> tuple[State, State]:
    """The trajectory: h_0 ... h_{T-1} with leading axis T, and h_T."""
    last, before = lax.scan(lambda h, x: (step(h, x), h), h0, xs, length=length)
    return before, last


run_jitted = functools.partial(jax.jit, static_argnames="length")(run)
