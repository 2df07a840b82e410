"""What cannot be taken apart, said before anything is computed: with the place in the user's code and the way out."""

import difflib
from typing import Any

from jacspec import _checks, _links
from jacspec.networks._flow import Flow, inexact
from jacspec.networks._model import Traced

CALLBACKS = {"pure_callback", "io_callback", "outside_call", "host_callback_call"}


def asked(trace: Traced, wrt: Any, inputs: int) -> list[int]:
    """The indices of the arrays that `wrt` means.

    Raises:
        TypeError: if it is neither a number nor a name, or the input holds no array.
        ValueError: for a number or a name that there is none of.
    """
    if isinstance(wrt, str):
        own = [n for n, owner in zip(trace.names, trace.owner, strict=True) if owner < 0]
        found = [i for i, n in enumerate(trace.names[: len(own)]) if n == wrt or n.startswith(wrt + ".")]
        if not found:
            near = difflib.get_close_matches(wrt, own, 3, 0.3) or own[:3]
            want = "a parameter" + (f" such as {', '.join(map(repr, near))}" if near else "; the model names none")
            raise ValueError(_checks.message("dissect", "wrt", "is no parameter of the model", repr(wrt), want))
    else:
        wrt = _checks.integer("dissect", "wrt", wrt, 0, inputs - 1, "It is the number of an input.")
        found = [i for i, owner in enumerate(trace.owner) if owner == wrt]
    if not found:
        want = "an array, or a pytree with one"
        raise TypeError(_checks.message("dissect", f"inputs[{wrt}]", "holds no array", expected=want))
    return found


def integers(found: list[int], trace: Traced, wrt: Any) -> None:
    """Raise TypeError for integers with which nothing is looked up."""
    if not found:
        argument = f"inputs[{wrt}]" if isinstance(wrt, int) else f"wrt={wrt!r}"
        own = [n for n, owner in zip(trace.names, trace.owner, strict=True) if owner < 0]
        hint = f"Integers have no derivative: give wrt the name of a parameter, such as {own[0]!r}." if own else ""
        hint = hint or "Integers have no derivative: give a floating input."
        raise TypeError(
            _checks.message("dissect", argument, "is not floating", None, "floating numbers, or tokens", hint)
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
    raise ValueError(_checks.message("dissect", "wrt", f"has no way to the output: {how}", said, hint=hint))


def without_derivative(found: Flow) -> None:
    """Raise ValueError for a loop of unknown length or a call of the host on the way."""
    for step in range(len(found.steps)):
        operation = found.operation(step)
        inside = {operation.name} | {e.primitive.name for body in operation.bodies for e in body.eqns}
        own = operation.name.startswith("custom_")
        if "while" in inside and not own:
            text = f"holds a loop of unknown length at {operation.where}, which has no reverse mode"
            hint = "Use jax.lax.scan, or jax.lax.fori_loop with bounds that are numbers of Python."
            raise ValueError(_checks.message("dissect", "model", text, hint=hint))
        if inside & CALLBACKS and not own:
            text = f"calls the host at {operation.where}, of which JAX knows no derivative"
            hint = "Give the function a derivative by jax.custom_jvp or jax.custom_vjp, or write it in jax.numpy."
            raise ValueError(_checks.message("dissect", "model", text, hint=hint))


def memory(found: Flow, positions: list[int]) -> None:
    """Raise MemoryError where the states would take more than half of the free memory."""
    avals = found.program.avals
    taken = sum(avals[v].size * avals[v].dtype.itemsize for p in positions for v in found.frontiers[p])
    free = _links.free_bytes()
    if taken > free / 2:
        got = f"{taken / 2**30:.1f} GiB for {len(positions)} states"
        hint = "Give fewer examples, or blocks=a predicate that is true less often."
        limit = f"at most half of the free {free / 2**30:.1f} GiB"
        raise MemoryError(_checks.message("dissect", "inputs", "need too much memory", got, limit, hint))
