"""The factors of a program as programs of their own; equal ones are one, compiled once.

A piece maps one frontier to the next. What it reads beside the frontier (parameters, masks, keys, indices) it is given
from outside, so that two blocks of one kind differ in nothing but numbers.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr

from jacspec._ground.calls import constant
from jacspec._ground.equations import constants_within
from jacspec.chain import autodiff
from jacspec.chain.programs import TracedStep
from jacspec.chain.state_trees import join, split
from jacspec.networks._flow import Flow
from jacspec.networks._program import Constant, Operation
from jacspec.operators import Linearized, Matrix


class Piece(NamedTuple):
    """Operations between two frontiers.

    Attributes:
        operations: those that are needed.
        given: the values it is given from outside.
        before: the frontier before it.
        after: the frontier behind it.
        beside: other values that it makes and a later piece reads, such as masks; they carry no derivative.
    """

    operations: list[Operation]
    given: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    beside: tuple[int, ...]


def pieces(flow: Flow, positions: Sequence[int], early: set[int]) -> list[Piece]:
    """The pieces between positions; the operations `early` (by index) have been run before."""
    operations = flow.program.operations
    bounds = [0, *(flow.steps[p - 1] + 1 for p in positions[1:-1]), len(operations)]
    frontiers = [flow.sources, *(flow.frontiers[p] for p in positions[1:-1]), flow.ends]
    needed: set[int] = set()
    found: list[Piece] = []
    for k in reversed(range(len(positions) - 1)):
        wanted, chosen = needed | set(frontiers[k + 1]), []
        inside = [i for i in range(bounds[k], bounds[k + 1]) if i not in early]
        for i in reversed(inside):
            if any(v in wanted for v in operations[i].outputs):
                chosen.append(operations[i])
                wanted |= set(operations[i].read)
        chosen.reverse()
        made = {v for operation in chosen for v in operation.outputs}
        read = dict.fromkeys(a for operation in chosen for a in operation.read)
        before = frontiers[k]
        given = tuple(a for a in read if a not in made and a not in before)
        beside = tuple(sorted(made & needed - set(frontiers[k + 1])))
        found.append(Piece(chosen, given, before, frontiers[k + 1], beside))
        needed = (needed | set(given)) - made
    return found[::-1]


def performed(operations: Sequence[Operation], values: dict[int, Any]) -> dict[int, Any]:
    """All values, after some operations."""
    values = dict(values)
    for operation in operations:
        read = [a.value if isinstance(a, Constant) else values[a] for a in operation.inputs]
        values |= dict(zip(operation.outputs, operation.run(read), strict=True))
    return values


class Compiler:
    """Steps for pieces, one program for equal ones.

    Args:
        avals: shapes and dtypes by the number of a value.
    """

    def __init__(self, avals: dict[int, Any]):
        self.avals, self.known = avals, {}

    def shapes(self, numbers: Sequence[int]) -> list[Any]:
        """The shapes and dtypes of values."""
        return [jax.ShapeDtypeStruct(self.avals[v].shape, self.avals[v].dtype) for v in numbers]

    def program(self, piece: Piece) -> tuple[Any, Any, Any]:
        """The map from (given, before) to `after`, that to `beside`, and the structure of a state behind it."""
        key = _key(piece, self.avals)
        if key not in self.known:
            given, before = self.shapes(piece.given), split(_state(self.shapes(piece.before)))
            start = dict.fromkeys(piece.given), dict.fromkeys(piece.before)

            def run(outputs: Sequence[int], given: list[Any], h: Any) -> list[Any]:
                values = dict(zip(start[0], given, strict=True))
                values |= dict(zip(piece.before, jax.tree.leaves(join(h)), strict=True))
                values = performed(piece.operations, values)
                return [values[v] for v in outputs]

            step = lambda given, h: split(_state(run(piece.after, given, h)))
            closed, out = jax.make_jaxpr(step, return_shape=True)(given, before)
            aside = jax.make_jaxpr(functools.partial(run, piece.beside))(given, before)
            self.known[key] = _lifted(closed), _lifted(aside), jax.tree.structure(out)
        return self.known[key]


def _lifted(closed: ClosedJaxpr) -> tuple[Jaxpr, list[Any]]:
    """A computation and the arrays it holds, apart: two with other arrays are one program."""
    return closed.jaxpr, list(closed.consts)


def _state(leaves: Sequence[Any]) -> Any:
    """One array by itself, several as a tuple."""
    return leaves[0] if len(leaves) == 1 else tuple(leaves)


def walked(flow: Flow, found: Sequence[Piece], values: dict[int, Any]) -> tuple[list[TracedStep], list[Any]]:
    """The pieces as steps, and the states h_0 ... h_L."""
    compiler, steps = Compiler(flow.program.avals), []
    states = [split(_state([values[v] for v in flow.sources]))]
    for piece in found:
        (step, constants), (aside, others), tree = compiler.program(piece)
        given = [values[v] for v in piece.given]
        steps.append(TracedStep([*constants, *given], step, tree))
        states.append(advanced(steps[-1], states[-1]))
        if piece.beside:
            beside = TracedStep([*others, *given], aside, jax.tree.structure([0] * len(piece.beside)))
            values = values | dict(zip(piece.beside, advanced(beside, states[-2]), strict=True))
        values = values | dict(zip(piece.after, jax.tree.leaves(join(states[-1])), strict=True))
    return steps, states


@jax.jit
def advanced(step: TracedStep, h: Any) -> Any:
    """The next state."""
    return step(h)


@functools.partial(jax.jit, static_argnums=(2, 3))
def linearized(step: TracedStep, h: Any, m: int, reverse: bool) -> tuple[Any, Array]:
    """The Jacobian of a step as a matrix (m, n), and whether it is finite; by reverse mode alone where there is no other."""
    if not reverse:
        return autodiff.jacobian_matrix(step, h, m)
    matrix = Linearized(step, h, None).pull(jnp.eye(m, dtype=jnp.result_type(*jax.tree.leaves(h)))).T
    return Matrix(matrix), jnp.isfinite(matrix).all()


def _key(piece: Piece, avals: dict[int, Any]) -> tuple:
    """What equal pieces have in common: operations, shapes, and how the values hang together."""
    local: dict[int, int] = {}
    number = lambda v: local.setdefault(v, len(local))
    ends = [tuple(number(v) for v in part) for part in (piece.given, piece.before)]
    said = []
    for operation in piece.operations:
        read = tuple(constant(np.asarray(a.value)) if isinstance(a, Constant) else number(a) for a in operation.inputs)
        made = tuple(number(v) for v in operation.outputs)
        said.append((operation.name, _params(operation), read, made))
    shapes = tuple(str(avals[v]) for v in local)
    return (*ends, tuple(map(number, piece.after)), tuple(map(number, piece.beside)), shapes, tuple(said))


def _params(operation: Operation) -> Any:
    """The parameters of an operation in words, and the constants within; one with a rule inside is equal to itself alone."""
    if operation.name.startswith("custom_"):
        return _rule(operation)
    if any(equation.primitive.name.startswith("custom_") for body in operation.bodies for equation in body.eqns):
        return id(operation.equation)
    params = operation.equation.params
    return str(sorted((k, str(v)) for k, v in params.items())), *map(constant, constants_within(params))


def _rule(operation: Operation) -> Any:
    """The derivative of a function that brings its own, written out."""
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in operation.equation.invars]
    if any(not np.issubdtype(s.dtype, np.inexact) for s in shapes):
        return id(operation.equation)
    if "jvp" in operation.name:
        traced = jax.make_jaxpr(lambda *a: jax.jvp(lambda *a: operation.run(a), a, a))(*shapes)
    else:
        traced = jax.make_jaxpr(lambda *a: jax.vjp(lambda *a: operation.run(a), *a)[1](operation.run(a)))(*shapes)
    return str(traced.jaxpr), *map(constant, constants_within(traced))
