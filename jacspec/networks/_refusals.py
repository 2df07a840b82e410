"""What cannot be taken apart, said before anything is computed: with the place in the user's code and the way out."""

import difflib
from collections.abc import Sequence
from typing import Any

import jax

from jacspec._ground import checks
from jacspec._ground.memory import free_bytes
from jacspec.networks._flow import Flow, inexact
from jacspec.networks._model import Traced
from jacspec.networks._program import Operation

CALLBACKS = {"pure_callback", "io_callback", "outside_call", "host_callback_call"}


def given(inputs: tuple, wrt: Any) -> None:
    """Raise TypeError or ValueError if `wrt` is neither a name nor the number of an input that holds an array."""
    if isinstance(wrt, str):
        return
    wrt = checks.integer("dissect", "wrt", wrt, 0, len(inputs) - 1, "It is the number of an input.")
    if not any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(inputs[wrt])):
        want, got = "an array, or a pytree with one", type(inputs[wrt]).__name__
        raise TypeError(checks.message("dissect", f"inputs[{wrt}]", "holds no array", got, want))


def reverse_only(operations: Sequence[Operation]) -> bool:
    """Whether a function among them brings the reverse mode of its derivative only (`jax.custom_vjp`)."""
    inside = (e.primitive.name for op in operations for body in op.bodies for e in body.eqns)
    return any(name.startswith("custom_vjp") for name in (*(op.name for op in operations), *inside))


def asked(trace: Traced, wrt: Any) -> list[int]:
    """The indices of the arrays that `wrt` means.

    Raises:
        ValueError: for a name that there is none of.
    """
    if isinstance(wrt, str):
        own = [n for n, owner in zip(trace.names, trace.owner, strict=True) if owner < 0]
        found = [i for i, n in enumerate(trace.names[: len(own)]) if n == wrt or n.startswith(wrt + ".")]
        if not found:
            near = difflib.get_close_matches(wrt, own, 3, 0.3) or own[:3]
            want = "a parameter" + (f" such as {', '.join(map(repr, near))}" if near else "; the model names none")
            raise ValueError(checks.message("dissect", "wrt", "is no parameter of the model", repr(wrt), want))
    else:
        found = [i for i, owner in enumerate(trace.owner) if owner == wrt]
    return found


def integers(found: list[int], trace: Traced, wrt: Any) -> None:
    """Raise TypeError for integers with which nothing is looked up."""
    if not found:
        argument = f"inputs[{wrt}]" if isinstance(wrt, int) else f"wrt={wrt!r}"
        own = [n for n, owner in zip(trace.names, trace.owner, strict=True) if owner < 0]
        hint = f"Integers have no derivative: give wrt the name of a parameter, such as {own[0]!r}." if own else ""
        hint = hint or "Integers have no derivative: give a floating input."
        raise TypeError(
            checks.message("dissect", argument, "is not floating", None, "floating numbers, or tokens", hint)
        )


def no_way(found: Flow, said: str) -> None:
    """Raise ValueError where the output does not depend on h_0 through floating numbers."""
    if found.ends:
        return
    program = found.program
    reached, last = set(found.sources), None
    for operation in program.operations:
        if any(a in reached for a in operation.read):
            if operation.name == "stop_gradient" or not any(inexact(program.avals[v]) for v in operation.outputs):
                last = operation
            else:
                reached |= {v for v in operation.outputs if inexact(program.avals[v])}
    how = "nothing is computed from it" if last is None else f"it ends in {last.name} at {last.where}"
    hint = "Give another wrt, or a model that returns floating numbers which depend on it."
    raise ValueError(checks.message("dissect", "wrt", f"has no way to the output: {how}", said, hint=hint))


def without_derivative(found: Flow) -> None:
    """Raise ValueError for a loop of unknown length or a call of the host on the way."""
    for step in range(len(found.steps)):
        operation = found.operation(step)
        inside = {operation.name} | {e.primitive.name for body in operation.bodies for e in body.eqns}
        own = operation.name.startswith("custom_")
        if "while" in inside and not own:
            text = f"holds a loop of unknown length at {operation.where}, which has no reverse mode"
            hint = "Use jax.lax.scan, or jax.lax.fori_loop with bounds that are numbers of Python."
            raise ValueError(checks.message("dissect", "model", text, hint=hint))
        if inside & CALLBACKS and not own:
            text = f"calls the host at {operation.where}, of which JAX knows no derivative"
            hint = "Give the function a derivative by jax.custom_jvp or jax.custom_vjp, or write it in jax.numpy."
            raise ValueError(checks.message("dissect", "model", text, hint=hint))


def memory(found: Flow, positions: list[int]) -> None:
    """Raise MemoryError where the states would take more than half of the free memory."""
    avals = found.program.avals
    taken = sum(avals[v].size * avals[v].dtype.itemsize for p in positions for v in found.frontiers[p])
    free = free_bytes()
    if taken > free / 2:
        got = f"{taken / 2**30:.1f} GiB for {len(positions)} states"
        hint = "Give fewer examples, or blocks=a predicate that is true less often."
        limit = f"at most half of the free {free / 2**30:.1f} GiB"
        raise MemoryError(checks.message("dissect", "inputs", "need too much memory", got, limit, hint))
