"""The factors that a person would choose: one a weight layer with its activation, or a residual branch.

Read in order, the frontiers fall into units. Between two frontiers of one new array (beside those that are only held for
later) lies a *unit*; one in which at most one weight follows another is kept whole, and so is one that ends in a sum, a
residual branch, unless it holds two sums of its own. A longer one, the inside of a U-Net, is taken apart with what is
held beside it. Units without weights join a neighbour: the one before, but the one after behind a residual branch.
"""

import dataclasses
import itertools
from collections.abc import Callable

from jacspec.networks._flow import Flow
from jacspec.networks._program import WEIGHTED, is_weighted

SUMS = {"add", "add_any", "sub"}


@dataclasses.dataclass(frozen=True)
class Unit:
    """Steps start..stop-1.

    Attributes:
        start: position of the frontier before it.
        stop: position of the frontier after it.
        kind: "weight", "branch" or "glue".
    """

    start: int
    stop: int
    kind: str


def single(flow: Flow) -> list[int]:
    """The positions at which the frontier is one array, and both ends."""
    last = len(flow.steps)
    return [p for p, f in enumerate(flow.frontiers) if p in (0, last) or len(f) == 1]


class Chooser:
    """The choice for one flow; `names` gives the parameters that a step reads."""

    def __init__(self, flow: Flow, names: Callable[[int], set[str]]):
        self.flow, self.names = flow, names
        self.weights = [self._is_weight(p) for p in range(len(flow.steps))]

    def positions(self) -> list[int]:
        """The positions between factors, both ends included."""
        last = len(self.flow.steps)
        units = self.units(0, last, frozenset())
        places, waiting, before, post = [0], [], None, False
        for unit in units:
            if unit.kind == "glue":
                waiting.append(unit)
                continue
            if before is not None:
                places.append(self.between(before, waiting, unit))
                post |= before.kind == unit.kind == "branch" and bool(self.read(waiting))
            before, waiting = unit, []
        if before is not None and before.kind == "branch" and not post and not self.belong(waiting, before):
            places.append(next((u.start for u in waiting if not self.is_activation(u)), last))
        return sorted({*places, last})

    def read(self, units: list[Unit]) -> set[str]:
        """The parameters that units read."""
        return set().union(*(self.names(p) for u in units for p in range(u.start, u.stop)))

    def belong(self, glue: list[Unit], branch: Unit) -> bool:
        """Whether what stands behind a branch, a norm say, has no parameters, or has them in the module of the branch."""
        homes = {tuple(name.split(".")[:-2]) for name in self.read(glue)}
        home = homes.pop() if len(homes) == 1 else ()
        inside = all(tuple(name.split("."))[: len(home)] == home for name in self.read([branch]))
        return not self.read(glue) or (bool(home) and inside)

    def units(self, start: int, stop: int, held: frozenset) -> list[Unit]:
        """The units between two positions, where the values `held` are there all along."""
        frontiers = self.flow.frontiers
        if stop - start == 1:
            return [Unit(start, stop, "weight" if self.weights[start] else "glue")]
        cuts = [p for p in range(start + 1, stop) if len(set(frontiers[p]) - held) == 1]
        if cuts:
            ends = [start, *cuts, stop]
            return [u for a, b in itertools.pairwise(ends) for u in self.units(a, b, held)]
        depth, joins = self.depth(start, stop), self.flow.operation(stop - 1)
        operands = {a for a in joins.read if a in self.flow.carried}
        if depth and joins.name in SUMS and len(operands) > 1 and len(self.inner(start, stop, held)) < 2:
            return [Unit(start, stop, "branch")]
        if depth <= 1:
            return [Unit(start, stop, "weight" if depth else "glue")]
        more = held | set(frontiers[start])
        if any(len(set(frontiers[p]) - more) == 1 for p in range(start + 1, stop)):
            return self.units(start, stop, more)
        return self.levels(start, stop)

    def inner(self, start: int, stop: int, held: frozenset) -> set[int]:
        """Where, between two positions, branches with weights of their own end in a sum or a concatenation."""
        more = held | set(self.flow.frontiers[start])
        cuts = [p for p in range(start + 1, stop) if len(set(self.flow.frontiers[p]) - more) == 1]
        ends = [start, *cuts, stop]
        found: set[int] = set()
        for a, b in itertools.pairwise(ends) if cuts else []:
            if b - a > 1 and self.depth(a, b):
                name = self.flow.operation(b - 1).name
                found |= {b} if name in SUMS | {"concatenate"} and b != stop else set()
                found |= self.inner(a, b, more) - {stop}
        return found

    def levels(self, start: int, stop: int) -> list[Unit]:
        """One unit for each weight that follows another, apart where the frontier is smallest."""
        begins, reached = [], 0
        for p, depth in enumerate(self.depths(start, stop), start):
            if depth > reached:
                begins.append(p)
                reached = depth
        size = lambda p: (len(self.flow.frontiers[p]), self.flow.numbers(p), -p)
        ends = [start, *(min(range(a + 1, b + 1), key=size) for a, b in itertools.pairwise(begins)), stop]
        return [Unit(a, b, "weight") for a, b in itertools.pairwise(ends)]

    def depths(self, start: int, stop: int) -> list[int]:
        """How many weights lie one behind another on the way to each step, counted from `start`."""
        depth: dict[int, int] = {}
        found = []
        for p in range(start, stop):
            operation = self.flow.operation(p)
            before = max((depth.get(a, 0) for a in operation.read), default=0) + self.weights[p]
            depth |= dict.fromkeys(operation.outputs, before)
            found.append(before)
        return found

    def depth(self, start: int, stop: int) -> int:
        """How many weights lie one behind another."""
        return max(self.depths(start, stop), default=0)

    def _is_weight(self, step: int) -> bool:
        """Whether a step applies a weight: of its operands one at most is carried."""
        operation = self.flow.operation(step)
        carried = [a in self.flow.carried and a not in self.flow.sources for a in operation.read]
        return is_weighted(operation) and (operation.name not in WEIGHTED or sum(carried) < 2)

    def is_activation(self, unit: Unit) -> bool:
        """Whether it acts on every number by itself and has no parameters."""
        avals, steps = self.flow.program.avals, range(unit.start, unit.stop)
        shapes = {
            avals[v].shape for p in steps for v in (*self.flow.operation(p).outputs, *self.flow.frontiers[p][-1:])
        }
        return len(shapes) == 1 and not any(self.names(p) for p in steps)

    def between(self, before: Unit, glue: list[Unit], after: Unit) -> int:
        """The position between two units that are no glue."""
        ends = [before.stop, *(u.stop for u in glue)]
        if after.kind == "branch":
            return ends[-1]
        if before.kind == "branch":
            return next((u.start for u in glue if not self.is_activation(u)), ends[-1])
        return min(ends, key=lambda p: (len(self.flow.frontiers[p]), self.flow.numbers(p), -p))
