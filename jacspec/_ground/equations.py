"""What the equations of a traced program hold, alike in every version of JAX: the parts of loops, programs and constants.

How many operands of a scan are constants, carry and inputs is told by their shapes, not by the parameters of the equation,
which have other names in JAX 0.11: an input and what is stacked of an output have one axis more than in the body.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

Parts = tuple[list[Any], list[Any], list[Any]]


class Scan(NamedTuple):
    """A `jax.lax.scan`.

    Attributes:
        body: the program (constants, carry, x) -> (carry, y) of one iteration.
        fixed: number of operands that every iteration is given alike.
        carried: number of values that are carried.
        length: number of iterations.
        reverse: whether it goes from the last input to the first.
    """

    body: Any
    fixed: int
    carried: int
    length: int
    reverse: bool

    @property
    def order(self) -> range:
        """The indices of the inputs in the order of execution."""
        return range(self.length)[:: -1 if self.reverse else 1]

    def parts(self, operands: Sequence[Any]) -> Parts:
        """The constants, the first carry and the inputs."""
        return _parts(operands, self.fixed, self.carried)


class While(NamedTuple):
    """A `jax.lax.while_loop`.

    Attributes:
        test: the program (constants of its own, carry) -> bool, whether there is another iteration.
        body: the program (constants of its own, carry) -> carry of one iteration.
        asked: number of constants of `test`, the first operands.
        fixed: number of constants of `body`, which follow.
    """

    test: Any
    body: Any
    asked: int
    fixed: int

    def parts(self, operands: Sequence[Any]) -> Parts:
        """The constants of `test`, those of `body`, and the first carry."""
        return _parts(operands, self.asked, self.fixed)


def scan_of(equation: Any) -> Scan:
    """The scan that an equation stands for."""
    params, body = equation.params, equation.params["jaxpr"]
    stacked = sum(map(_has_another_axis, equation.invars, body.jaxpr.invars))
    carried = len(equation.outvars) - sum(map(_has_another_axis, equation.outvars, body.jaxpr.outvars))
    fixed = len(equation.invars) - carried - stacked
    return Scan(body, fixed, carried, params["length"], params["reverse"])


def while_of(equation: Any) -> While:
    """The loop of unknown length that an equation stands for."""
    params = equation.params
    return While(params["cond_jaxpr"], params["body_jaxpr"], params["cond_nconsts"], params["body_nconsts"])


def programs(params: Any) -> Iterator[Any]:
    """All programs among the parameters of equations, however deep; up to JAX 0.10 some have no `consts`."""
    for value in jax.tree.leaves(params):
        if isinstance(value, (ClosedJaxpr, Jaxpr)):
            yield value
            yield from programs([equation.params for equation in jaxpr_of(value).eqns])


def constants_within(params: Any) -> list[Any]:
    """The arrays that programs among the parameters of equations hold, however deep: what inner functions captured."""
    return [constant for program in programs(params) for constant in getattr(program, "consts", ())]


def jaxpr_of(program: Any) -> Any:
    """A program without its constants."""
    return getattr(program, "jaxpr", program)


def _has_another_axis(whole: Any, one: Any) -> bool:
    """Whether the value of a loop has one axis more than that of an iteration."""
    return getattr(whole.aval, "ndim", 0) > getattr(one.aval, "ndim", 0)


def _parts(operands: Sequence[Any], first: int, second: int) -> Parts:
    return [*operands[:first]], [*operands[first : first + second]], [*operands[first + second :]]
