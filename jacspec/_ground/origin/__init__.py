"""Which operation was the first to give a number that is not finite, and where in whose code it stands.

The function is traced and its program run again, equation by equation. From a result that is NaN, or else infinite, the
way leads back through values of that kind to the equation that made one of operands that hold none. Where this made NaN
of an infinity, the way goes on to what made the infinity. A constant, such as the -inf of a mask, is nobody's fault.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacspec._ground.origin.lines import lines, place
from jacspec._ground.origin.replay import KINDS, Found, Level, count, first, inexact

ENTRYWISE = {
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "convert_element_type",
    "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log",
    "log1p", "logistic", "max", "min", "mul", "neg", "pow", "rem", "rsqrt", "sin", "sinh", "sqrt", "square", "sub", "tan",
    "tanh",
}  # fmt: skip
"""Operations of which each number that comes out depends on one number of each operand."""

POLES = {"log", "log1p", "rsqrt", "atanh", "erf_inv", "digamma", "lgamma"}
"""Operations that are infinite at a finite number."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """The first operation that gave a number that is not finite.

    Attributes:
        operation: name of the JAX primitive or function; "argument" where an argument of the function was not finite itself.
        cause: "overflow", finite numbers beyond the dtype; "cast", the same by a change of dtype; "pole", such as 1/0 and
            log 0; "undefined", such as 0/0, 0 * inf and the root of -1; "constant", where the program itself holds it and
            nothing else is to blame; "argument".
        operands: (smallest, largest) number of each floating operand; of an entrywise operation the one at fault, twice.
        value: what came out: nan, inf or -inf.
        where: ``file:line (function)``, or "".
        loops: number of the iteration of every loop around it, outermost first; for a scan the index of its inputs.
        backward: whether it belongs to the way back of a derivative.
        then: the operation that made NaN of an infinity, or None.
    """

    operation: str
    cause: str
    operands: tuple[tuple[float, float], ...]
    value: float
    where: str
    loops: tuple[int, ...] = ()
    backward: bool = False
    then: "Origin | None" = None

    def __str__(self) -> str:
        if self.operation == "argument":
            return f"an argument holds {self.value}"
        number = lambda low, high: f"{low:.4g}" if low == high or low != low else f"[{low:.4g}, {high:.4g}]"
        text = f"{self.operation}({', '.join(itertools.starmap(number, self.operands))}) gives {self.value}"
        text += f" at {self.where}" if self.where else ""
        text += f", iteration {', '.join(map(str, self.loops))}" if self.loops else ""
        return text if self.then is None else f"{text}; then {self.then}"


def origin(f: Callable, *args: Any) -> Origin | None:
    """The first operation inside ``f(*args)`` to which a NaN or infinity of its result goes back.

    Loops, conditions and functions within functions are entered. NaN is traced before infinity. Ask it of ``jax.grad`` of
    a function for what happened on the way back.

    Args:
        f: any function that JAX can trace.
        *args: pytrees of concrete arrays.

    Returns:
        An `Origin`, or None if every number of the result is finite.
    """
    closed = jax.make_jaxpr(lambda *args: f(*args))(*args)  # a new function: nothing of an older trace is used
    top = Level(closed.jaxpr, [*closed.consts, *map(jnp.asarray, jax.tree.leaves(args))])
    for kind in KINDS:
        bad = [v for v in closed.jaxpr.outvars if top.has(v, kind)]
        if not bad:
            continue
        found = first([(top, v) for v in bad], kind, constants=True)
        if found is None:
            values = next(np.asarray(top.read(v)) for v in bad)
            return Origin("argument", "argument", (), float(np.real(values[_at(values, kind)])), "")
        made = _described(found, kind)
        infinite = [(found.level, v) for v in found.equation.invars if kind == "nan" and found.level.has(v, "inf")]
        before = first(infinite, "inf")
        return made if before is None else dataclasses.replace(_described(before, "inf"), then=made)
    return None


def _at(values: np.ndarray, kind: str) -> tuple[int, ...]:
    """The index of the first number of a kind."""
    return tuple(np.argwhere(np.asarray(KINDS[kind](values)))[0])


def _described(found: Found, kind: str) -> Origin:
    level, equation = found.level, found.equation
    path, out = (*level.path, equation), np.asarray(level.read(found.variable))
    name = equation.params.get("name", equation.primitive.name).strip("_")
    at = _at(out, kind)
    operands = [np.asarray(value) for value in map(level.read, equation.invars) if inexact(value)]
    if name in ENTRYWISE:
        operands = [a[at] if a.shape else a for a in operands]
    return Origin(
        name,
        _cause(name, operands, kind),
        tuple((float(np.real(a).min()), float(np.real(a).max())) for a in operands if a.size),
        float(np.real(out[at])),
        place(lines(path)),
        level.loops,
        any("transpose" in str(outer.source_info.name_stack) for outer in path),
    )


def _cause(name: str, operands: Sequence[np.ndarray], kind: str) -> str:
    if any(count(KINDS[kind](a)) for a in operands):
        return "constant"
    if kind == "nan":
        return "undefined"
    if name == "convert_element_type":
        return "cast"
    base = {"div": 1, "pow": 0, "integer_pow": 0}.get(name)
    return "pole" if name in POLES or (base is not None and count(operands[base] == 0)) else "overflow"
