"""A traced computation as one flat list of operations on numbered values, calls within calls written out.

`jit` and `remat` are entered. A function with a derivative of its own (`custom_jvp`, `custom_vjp`), a `cond` and a loop
stay whole: written out, their derivative would be another. A `scan` over stacked layers is depth, and is written out.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jacspec._ground.equations import jaxpr_of, programs, scan_of
from jacspec._ground.origin.lines import lines, place

ENTERED = {"pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_remat"}
"""Calls that are written out; the names differ between versions of JAX."""

WEIGHTED = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
"""Operations that apply a weight."""

HERE = __file__.rpartition("_program")[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A value that is written in the program."""

    value: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One operation.

    Attributes:
        name: of the primitive.
        equation: what JAX traced.
        inputs: numbers of values, or `Constant`.
        outputs: numbers of values.
        path: the calls it is written inside of, outermost first, and itself.
    """

    name: str
    equation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]
    path: tuple[Any, ...]

    @property
    def read(self) -> list[int]:
        """The numbers among the inputs."""
        return [a for a in self.inputs if not isinstance(a, Constant)]

    @property
    def bodies(self) -> list[Jaxpr]:
        """The programs that it holds."""
        return [*map(jaxpr_of, programs(self.equation.params))]

    @property
    def where(self) -> str:
        """``file:line (function)`` in the user's code."""
        return place(lines(self.path, HERE)) if self.path else ""

    def run(self, values: Sequence[Any]) -> list[Any]:
        """The results for values of the inputs."""
        primitive, got = self.equation.primitive, self.equation.primitive.get_bind_params(self.equation.params)
        functions, params = got if isinstance(got, tuple) else ((), got)
        out = primitive.bind(*functions, *values, **params)
        return list(out) if primitive.multiple_results else [out]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Operations in the order in which they are run.

    Attributes:
        operations: one after another.
        inputs: numbers of the arguments.
        outputs: numbers of the results, or `Constant`.
        avals: shape and dtype of every value, by number.
        captured: the value of every constant array that has a number.
        hoisted: values that are one layer of stacked parameters, with the number of the layer.
    """

    operations: list[Operation]
    inputs: list[int]
    outputs: list[Any]
    avals: dict[int, Any]
    captured: dict[int, Any]
    hoisted: dict[int, int]


def written_out(closed: ClosedJaxpr, wrt: Sequence[int] = ()) -> Program:
    """The program of a traced computation; a scan over layers is one whose arguments `wrt` meet stacked weights."""
    return _Writer(closed, set(wrt)).program


class _Writer:
    """Writes out a traced computation, and notes on the way which values depend on the arguments `wrt`."""

    def __init__(self, closed: ClosedJaxpr, wrt: set[int]):
        self.operations: list[Operation] = []
        self.avals: dict[int, Any] = {}
        self.captured: dict[int, Any] = {}
        self.hoisted: dict[int, int] = {}
        inputs = [self.new(v.aval) for v in closed.jaxpr.invars]
        self.dependent = {inputs[i] for i in wrt}
        outputs = self.write(closed.jaxpr, self.constants(closed), inputs, ())
        self.program = Program(self.operations, inputs, outputs, self.avals, self.captured, self.hoisted)

    def new(self, aval: Any) -> int:
        """The number of a new value."""
        number = len(self.avals)
        self.avals[number] = aval
        return number

    def constants(self, closed: Any) -> list[int]:
        """The numbers of the arrays that a computation holds."""
        numbers = []
        for v, value in zip(jaxpr_of(closed).constvars, getattr(closed, "consts", ()), strict=True):
            numbers.append(self.new(v.aval))
            self.captured[numbers[-1]] = value
        return numbers

    def write(self, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Any], path: tuple) -> list[Any]:
        """Write out a computation, and return what its results are called."""
        values = dict(zip(jaxpr.constvars, constants, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))
        read = lambda v: Constant(v.val) if isinstance(v, Literal) else values[v]
        for equation in jaxpr.eqns:
            given = [read(v) for v in equation.invars]
            values |= dict(zip(equation.outvars, self.equation(equation, given, (*path, equation)), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, equation: Any, given: list[Any], path: tuple) -> list[Any]:
        """Write out one equation, or what it calls, and return what its results are called."""
        name = equation.primitive.name
        if name in ENTERED:
            inner = next(_closed(equation.params))
            return self.write(jaxpr_of(inner), self.constants(inner), given, path)
        if name == "scan" and self.is_over_layers(equation, given):
            return self.layers(equation, given, path)
        outputs = [self.new(v.aval) for v in equation.outvars]
        self.operations.append(Operation(name, equation, tuple(given), tuple(outputs), path))
        if any(a in self.dependent for a in given if not isinstance(a, Constant)):
            self.dependent |= set(outputs)
        return outputs

    def is_over_layers(self, equation: Any, given: list[Any]) -> bool:
        """Whether what is carried meets weights that the scan takes one by one, from arrays that do not depend on it."""
        scan = scan_of(equation)
        free = [isinstance(a, Constant) or a not in self.dependent for a in scan.parts(given)[2]]
        _, moving, inputs = scan.parts(scan.body.jaxpr.invars)
        return _meet(scan.body.jaxpr, set(moving), {v for v, ok in zip(inputs, free, strict=True) if ok})

    def layers(self, equation: Any, given: list[Any], path: tuple) -> list[Any]:
        """A scan written out, layer after layer."""
        scan, kept = scan_of(equation), []
        constants, (shared, carry, stacks) = self.constants(scan.body), scan.parts(given)
        for i in scan.order:
            layer = [self.helper(lambda a, i=i: lax.index_in_dim(a, i, keepdims=False), [a], path)[0] for a in stacks]
            self.hoisted |= {a: i for a, of in zip(layer, stacks, strict=True) if of not in self.dependent}
            out = self.write(scan.body.jaxpr, constants, [*shared, *carry, *layer], path)
            carry = out[: scan.carried]
            kept.append(out[scan.carried :])
        kept = kept[::-1] if scan.reverse else kept
        stack = lambda *a: jax.numpy.stack(a)
        return [*carry, *(self.helper(stack, list(of), path)[0] for of in zip(*kept, strict=True))]

    def helper(self, f: Callable, given: list[Any], path: tuple) -> list[Any]:
        """Operations of our own, at the place of an equation."""
        avals = [jax.typeof(a.value) if isinstance(a, Constant) else self.avals[a] for a in given]
        traced = jax.make_jaxpr(f)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
        before = len(self.operations)
        out = self.write(traced.jaxpr, self.constants(traced), given, ())
        added = self.operations[before:]
        self.operations[before:] = [dataclasses.replace(operation, path=path) for operation in added]
        return out


def _meet(jaxpr: Jaxpr, moving: set, stacked: set) -> bool:
    """Whether an operation that applies a weight has one operand from each."""
    moving, stacked = set(moving), set(stacked)
    for equation in jaxpr.eqns:
        named = [v for v in equation.invars if not isinstance(v, Literal)]
        flows, stacks = any(v in moving for v in named), any(v in stacked for v in named)
        inner = next(_closed(equation.params), None) if equation.primitive.name in ENTERED else None
        if inner is not None:
            body = jaxpr_of(inner)
            pairs = [(v, of) for v, of in zip(body.invars, equation.invars, strict=True) if not isinstance(of, Literal)]
            if _meet(body, {v for v, of in pairs if of in moving}, {v for v, of in pairs if of in stacked}):
                return True
        elif flows and stacks and equation.primitive.name in WEIGHTED:
            return True
        if flows:
            moving |= set(equation.outvars)
        elif stacks:
            stacked |= set(equation.outvars)
    return False


def _closed(params: dict) -> Iterator[Any]:
    """The programs among the parameters of an equation."""
    return (value for value in params.values() if isinstance(value, (ClosedJaxpr, Jaxpr)))


def is_weighted(operation: Operation) -> bool:
    """Whether it, or a program that it holds, applies a weight or multiplies matrices."""
    inside = (equation.primitive.name for body in operation.bodies for equation in body.eqns)
    return operation.name in WEIGHTED or any(name in WEIGHTED for name in inside)
