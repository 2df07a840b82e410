"""A traced program run again, equation by equation, with all values kept, and the way back through it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from jacspec._ground.equations import jaxpr_of, scan_of, while_of

KINDS: dict[str, Callable] = {"nan": jnp.isnan, "inf": jnp.isinf}

Place = tuple["Level", Any]
"""A variable of a program, and the run of it in which it has its value."""


class Found(NamedTuple):
    """An equation, and which of its results is meant."""

    order: tuple[int, ...]
    level: "Level"
    equation: Any
    variable: Any


class Level:
    """One run of a program.

    Args:
        jaxpr: the program.
        values: of its constants and its arguments.
        order: where it stands in the order of execution.
        loops: number of the iteration of every loop around it.
        path: the equations that it is inside of, outermost first.
        outside: of (the number of a constant or argument, a kind): where its numbers of this kind come from.
    """

    def __init__(
        self,
        jaxpr: Any,
        values: Sequence[Any],
        order: tuple[int, ...] = (),
        loops: tuple[int, ...] = (),
        path: tuple[Any, ...] = (),
        outside: Callable[[int, str], list[Place]] | None = None,
    ):
        self.jaxpr, self.order, self.loops, self.path, self._outside = jaxpr, order, loops, path, outside
        self._inputs = [*jaxpr.constvars, *jaxpr.invars]
        self._values = dict(zip(self._inputs, values, strict=True))
        self._kinds: dict[Any, set[str]] = {}
        self._within: dict[int, Any] = {}
        self._maker: dict[Any, int] = {}
        for position, equation in enumerate(jaxpr.eqns):
            out = _performed(jaxpr, equation, [*map(self.read, equation.invars)])
            self._values |= dict(zip(equation.outvars, out, strict=True))
            self._maker |= dict.fromkeys(equation.outvars, position)

    def read(self, variable: Any) -> Any:
        """Its value."""
        return variable.val if isinstance(variable, Literal) else self._values[variable]

    def has(self, variable: Any, kind: str) -> bool:
        """Whether a number in it is of the kind; one that is written in the program is meant and does not count."""
        if isinstance(variable, Literal):
            return False
        if variable not in self._kinds:
            self._kinds[variable] = {name for name in KINDS if holds(self.read(variable), name)}
        return kind in self._kinds[variable]

    def outside(self, variable: Any, kind: str) -> list[Place]:
        """Where a constant or argument has its numbers of a kind from."""
        return [] if self._outside is None else self._outside(self._inputs.index(variable), kind)

    def made(self, variable: Any) -> Found | None:
        """The equation that a value comes from; None for a constant or argument."""
        position = self._maker.get(variable)
        return (
            position if position is None else Found((*self.order, position), self, self.jaxpr.eqns[position], variable)
        )

    def within(self, found: Found, kind: str) -> list[Place]:
        """The same value inside an equation that is a program itself; nothing for any other."""
        position, equation = found.order[-1], found.equation
        if position not in self._within:
            self._within[position] = _entered(self, found.order, equation)
        program = self._within[position]
        return [] if program is None else program.inside(equation.outvars.index(found.variable), kind)


def first(places: Sequence[Place], kind: str, constants: bool = False) -> Found | None:
    """The earliest equation on the way to some values that made one of a kind of operands without.

    With `constants`, where there is none, the earliest that was given one by a constant of the program.
    """
    waiting, seen = [*places], set()
    made: list[Found] = []
    given: list[Found] = []
    passed: list[Found] = []  # their operands are of the kind already: entered only where nothing else is found
    while waiting or (passed and not made):
        if not waiting:
            here = passed.pop(passed.index(min(passed, key=lambda found: found.order)))
            waiting += here.level.within(here, kind)
            continue
        level, variable = waiting.pop()
        if (level, variable) in seen:
            continue
        seen.add((level, variable))
        here = level.made(variable)
        if here is None:
            waiting += level.outside(variable, kind)
        elif operands := [(level, v) for v in here.equation.invars if level.has(v, kind)]:
            waiting += operands
            passed.append(here)
        elif any(holds(level.read(v), kind) for v in here.equation.invars):
            given.append(here)
        else:
            within = level.within(here, kind)
            waiting += within
            made += [] if within else [here]
    return min(made or (given if constants else []), key=lambda found: found.order, default=None)


def inexact(value: Any) -> bool:
    """Whether its numbers are floating or complex."""
    return jnp.issubdtype(value.dtype if hasattr(value, "dtype") else type(value), jnp.inexact)


def holds(value: Any, kind: str) -> bool:
    """Whether a number in it is of the kind."""
    return inexact(value) and count(KINDS[kind](value)) > 0


def count(flags: Any) -> int:
    """How many are true."""
    return int(jnp.sum(flags))


def _performed(jaxpr: Any, equation: Any, values: Sequence[Any]) -> list[Any]:
    """The results of one equation."""
    named = {v: value for v, value in zip(equation.invars, values, strict=True) if not isinstance(v, Literal)}
    ends = {"constvars": [], "invars": [*named], "outvars": equation.outvars}
    alone = jaxpr.replace(**ends, eqns=[equation], effects=equation.effects)
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*named.values())


def _entered(level: Level, order: tuple[int, ...], equation: Any) -> Any:
    """The program that an equation stands for, where there is one, with its values."""
    name, params, operands = equation.primitive.name, equation.params, equation.invars
    if name == "scan":
        return _Scan(level, order, equation)
    if name == "while":
        return _While(level, order, equation)
    if name == "cond":
        return _Call(level, order, equation, params["branches"][int(level.read(operands[0]))], operands[1:])
    body = next((p for p in params.values() if _stands_for(p, equation)), None)
    return None if body is None else _Call(level, order, equation, body, operands)


def _stands_for(value: Any, equation: Any) -> bool:
    """Whether a parameter of an equation is a program of the same arguments and results."""
    jaxpr = jaxpr_of(value)
    if not isinstance(jaxpr, Jaxpr) or len(jaxpr.constvars) > len(getattr(value, "consts", ())):
        return False
    shapes = lambda variables: [getattr(v.aval, "shape", None) for v in variables]
    ends = ((jaxpr.invars, equation.invars), (jaxpr.outvars, equation.outvars))
    return all(shapes(a) == shapes(b) for a, b in ends)


class _Call:
    """A function within a function."""

    def __init__(self, level: Level, order: tuple[int, ...], equation: Any, body: Any, operands: Sequence[Any]):
        self.level, self.operands, self.constants = level, operands, getattr(body, "consts", [])
        self.jaxpr = jaxpr_of(body)
        values, path = [*self.constants, *map(level.read, operands)], (*level.path, equation)
        self.inner = Level(self.jaxpr, values, order, level.loops, path, self._before)

    def inside(self, number: int, kind: str) -> list[Place]:
        """A result."""
        place = (self.inner, self.jaxpr.outvars[number])
        return [place] if self.inner.has(place[1], kind) else []

    def _before(self, number: int, kind: str) -> list[Place]:
        if number < len(self.constants):
            return []
        variable = self.operands[number - len(self.constants)]
        return [(self.level, variable)] if self.level.has(variable, kind) else []


class _Loop:
    """A loop, of which single iterations are run again; they are counted in the order of execution."""

    body: Any
    fixed: int  # operands that every iteration is given alike
    skipped: int  # operands before those of an iteration

    def __init__(self, level: Level, order: tuple[int, ...], equation: Any):
        self.level, self.order, self.equation = level, order, equation
        self._levels: dict[int, Level] = {}

    def inside(self, number: int, kind: str, end: int | None = None) -> list[Place]:
        """A result, in the iteration in which it first is of the kind; of those before `end`."""
        raise NotImplementedError

    def run(self, *values: Any) -> list[Any]:
        """One iteration."""
        return jaxpr_as_fun(self.body)(*values)

    def at(self, iteration: int, name: int, values: Sequence[Any]) -> Level:
        """The run of an iteration, which the user knows by its `name`."""
        if iteration not in self._levels:
            constants = self.body.consts
            before = lambda number, kind: self._before(iteration, number - len(constants), kind)
            inside = (*self.order, iteration), (*self.level.loops, name), (*self.level.path, self.equation)
            self._levels[iteration] = Level(self.body.jaxpr, [*constants, *values], *inside, before)
        return self._levels[iteration]

    def _before(self, iteration: int, number: int, kind: str) -> list[Place]:
        """The operand of the whole loop, or else the iteration before that carried it."""
        if number < 0:
            return []
        variable = self.equation.invars[self.skipped + number]
        if self.level.has(variable, kind):
            return [(self.level, variable)]
        return self.inside(number - self.fixed, kind, iteration) if number >= self.fixed else []


class _Scan(_Loop):
    def __init__(self, level: Level, order: tuple[int, ...], equation: Any):
        super().__init__(level, order, equation)
        scan = scan_of(equation)
        self.body, self.skipped, self.fixed, self.names = scan.body, 0, scan.fixed, scan.order
        self.constants, self.start, self.inputs = scan.parts([*map(level.read, equation.invars)])

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            out = self.run(*self.constants, *carry, *x)
            return out[: scan.carried], out

        options = {"length": scan.length, "reverse": scan.reverse}
        out = jax.jit(lambda *a: lax.scan(step, *a, **options)[1])(self.start, self.inputs)
        self.out = [jnp.flip(a, 0) for a in out] if scan.reverse else out  # in the order of execution

    def inside(self, number: int, kind: str, end: int | None = None) -> list[Place]:
        history = self.out[number][:end]
        bad = np.asarray(KINDS[kind](history)) if inexact(history) and len(history) else np.zeros(1)
        bad = bad.reshape(len(bad), -1).any(axis=1)
        if not bad.any():
            return []
        i = int(np.argmax(bad))
        carry = [a[i - 1] for a in self.out[: len(self.start)]] if i else self.start
        values = [*self.constants, *carry, *(a[self.names[i]] for a in self.inputs)]
        return [(self.at(i, self.names[i], values), self.body.jaxpr.outvars[number])]


class _While(_Loop):
    def __init__(self, level: Level, order: tuple[int, ...], equation: Any):
        super().__init__(level, order, equation)
        loop = while_of(equation)
        self.test, self.body, self.skipped, self.fixed = loop
        self.asked, self.constants, self.start = loop.parts([*map(level.read, equation.invars)])

    def inside(self, number: int, kind: str, end: int | None = None) -> list[Place]:
        if not inexact(self.start[number]):
            return []
        bad = lambda carry: KINDS[kind](carry[number]).any()
        test = lambda carry: jaxpr_as_fun(self.test)(*self.asked, *carry)[0]
        going = lambda s: test(s[0]) & ((s[2] == 0) | ~bad(s[0]))
        step = lambda s: (self.run(*self.constants, *s[0]), s[0], s[2] + 1)
        start = (self.start, self.start, jnp.zeros((), jnp.int32))
        after, carry, done = jax.jit(lambda s: lax.while_loop(going, step, s))(start)
        i = int(done) - 1
        if i < 0 or not bad(after) or (end is not None and i >= end):
            return []
        return [(self.at(i, i, [*self.constants, *carry]), self.body.jaxpr.outvars[number])]
