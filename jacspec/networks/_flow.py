"""Which values of a program carry the derivative, and the frontier between any two operations.

A value is carried if it depends on the argument through floating numbers and the output depends on it likewise. Before
operation p the *frontier* is the set of carried values that exist and are still needed. Every frontier is a state: the
derivative of the output is that with respect to the frontier times that of the frontier. A frontier of one array is a
cut vertex of the dataflow graph: the residual stream after a branch, the activation after a layer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jacspec.networks._program import Constant, Operation, Program

STOPS = {"stop_gradient"}
"""Operations that end a derivative."""


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """The carried values of a program, and its frontiers.

    Attributes:
        program: the program.
        sources: the values at which the derivative begins.
        ends: the outputs that depend on them, in order.
        steps: indices of the operations that make a carried value, in order.
        frontiers: the carried values that are alive before each of the steps, and after the last of them.
        carried: all of them.
    """

    program: Program
    sources: tuple[int, ...]
    ends: tuple[int, ...]
    steps: list[int]
    frontiers: list[tuple[int, ...]]
    carried: frozenset[int]

    def operation(self, step: int) -> Operation:
        """The operation of a step."""
        return self.program.operations[self.steps[step]]

    def numbers(self, position: int) -> int:
        """How many numbers the frontier before a step holds."""
        return sum(self.program.avals[v].size for v in self.frontiers[position])


def inexact(aval: Any) -> bool:
    """Whether a value is floating or complex."""
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def reached(program: Program, sources: Sequence[int]) -> set[int]:
    """The values that depend on the sources through floating numbers."""
    live = set(sources)
    for operation in program.operations:
        if operation.name not in STOPS and any(a in live for a in operation.read):
            live |= {v for v in operation.outputs if inexact(program.avals[v])}
    return live


def flow(program: Program, sources: Sequence[int]) -> Flow:
    """The carried values from `sources` on; without one where no output depends on them."""
    live = reached(program, sources)
    ends = tuple(v for v in program.outputs if not isinstance(v, Constant) and v in live)
    needed = set(ends)
    for operation in reversed(program.operations):
        if operation.name not in STOPS and any(v in needed for v in operation.outputs):
            needed |= {a for a in operation.read if a in live}
    made = [i for i, op in enumerate(program.operations) if any(v in needed for v in op.outputs)]
    steps = [i for i in made if any(a in needed for a in program.operations[i].read)]
    last = {v: len(steps) for v in ends}
    for p, i in enumerate(steps):
        for a in program.operations[i].read:
            if a in needed and a not in ends:
                last[a] = p
    alive = [v for v in dict.fromkeys(sources) if v in needed]
    frontiers = [tuple(alive)]
    for p, i in enumerate(steps):
        alive = [v for v in alive if last[v] > p] + [v for v in program.operations[i].outputs if v in needed]
        frontiers.append(tuple(alive))
    return Flow(program, tuple(sources), ends, steps, frontiers, frozenset(needed))
