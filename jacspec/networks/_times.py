"""The chain over time of every scan: its body is the step, its first carry the state, what it scans over the drivers.

A carry that is not floating (a counter, a key) has no derivative: its values along the way become drivers.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import jaxpr_as_fun

from jacspec._ground import checks
from jacspec._ground.equations import scan_of
from jacspec._ground.origin.lines import lines, place
from jacspec.chain import JacobianChain, jacobian_chain
from jacspec.networks._flow import inexact
from jacspec.networks._pieces import performed
from jacspec.networks._program import HERE, Constant, Operation, Program


class Times(Mapping[str, JacobianChain]):
    """The chains over time by name, each made when it is first asked for.

    Args:
        makers: for every name the function that makes the chain, or says why there is none.
    """

    def __init__(self, makers: Mapping[str, Callable[[], JacobianChain]]):
        self._makers = makers
        self._made: dict[str, JacobianChain] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __getitem__(self, name: str) -> JacobianChain:
        if name not in self._makers:
            checks.one_of("Anatomy.times", "name", name, self._makers)
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __repr__(self) -> str:
        return f"Times({', '.join(self._makers)})"


def scans(program: Program) -> list[Operation]:
    """The scans that carry a floating state, in order."""
    has_state = lambda op: any(inexact(v.aval) for v in op.equation.outvars[: scan_of(op.equation).carried])
    return [op for op in program.operations if op.name == "scan" and has_state(op)]


def associative(program: Program) -> list[str]:
    """The places of associative scans, which have no step."""
    found = {}
    for operation in program.operations:
        trace = operation.equation.source_info.traceback
        frames = trace.frames if trace is not None else ()
        at = next((i for i, frame in enumerate(frames) if frame.function_name == "associative_scan"), None)
        if at is not None:
            outside = {(f.file_name, f.line_num, f.function_name) for f in frames[at:]}
            found[place([f for f in lines(operation.path, HERE) if tuple(f) in outside])] = None
    return list(found)


def without_step(where: str) -> NoReturn:
    """Raise ValueError for the associative scan at a place."""
    problem = f"is an associative scan at {where}, which has no step"
    hint = "Write it as jax.lax.scan(lambda h, x: (a * h + x, ...), h0, xs): that is the step."
    raise ValueError(checks.message("Anatomy.times", "name", problem, hint=hint))


def chain_of(program: Program, values: dict[int, Any], scan: Operation) -> JacobianChain:
    """The chain over time of a scan, from the values of the program that are known, by number."""
    wanted, chosen = set(scan.read), []
    for operation in reversed(program.operations[: program.operations.index(scan)]):
        if any(v in wanted for v in operation.outputs):
            chosen.append(operation)
            wanted |= set(operation.read)
    operands = [a for a in scan.inputs if not isinstance(a, Constant)]
    compute = jax.jit(lambda given: [performed(chosen[::-1], given)[a] for a in operands])
    got = dict(zip(operands, compute({v: a for v, a in values.items() if v in wanted}), strict=True))
    given = [jnp.asarray(a.value) if isinstance(a, Constant) else got[a] for a in scan.inputs]

    loop = scan_of(scan.equation)
    carried, length, body = loop.carried, loop.length, jaxpr_as_fun(loop.body)
    constants, start, xs = loop.parts(given)
    xs = [jnp.flip(x, 0) for x in xs] if loop.reverse else xs
    moving = [inexact(jax.typeof(c)) for c in start]
    split = lambda carry, kind: [c for c, m in zip(carry, moving, strict=True) if m is kind]

    def joined(h: list, rest: list) -> list[Any]:
        parts = {True: iter(h), False: iter(rest)}
        return [next(parts[m]) for m in moving]

    def step(h: Any, x: Any) -> Any:
        carry = joined(list(h) if isinstance(h, tuple) else [h], x[0])
        new = split(body(*constants, *carry, *x[1])[:carried], True)
        return tuple(new) if len(new) > 1 else new[0]

    rest: list[Any] = []
    if not all(moving):
        follow = lambda carry, x: (body(*constants, *carry, *x)[:carried], split(carry, False))
        rest = lax.scan(follow, start, xs, length=length)[1]
    h0 = split(start, True)
    return jacobian_chain(step, tuple(h0) if len(h0) > 1 else h0[0], (rest, xs), length=length)
