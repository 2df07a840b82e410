"""What `dissect` finds: the chain over depth, what each factor of it is, and the chains over time."""

import dataclasses
from collections.abc import Mapping

from jacspec.chain import JacobianChain


@dataclasses.dataclass(frozen=True)
class Block:
    """One factor of a network.

    Attributes:
        where: the module path of its parameters, or else ``file:line (function)``.
        line: ``file:line (function)`` in the code of the model where its last operation stands.
        state_shape: of the state behind it, a tuple of shapes where that is several arrays.
        operations: names of its operations that carry the derivative, in order.
        parameters: names of the parameters that it reads.
        frontier: how many arrays the state behind it holds.
    """

    where: str
    line: str
    state_shape: tuple
    operations: tuple[str, ...]
    parameters: tuple[str, ...]
    frontier: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Anatomy:
    """A network as chains.

    Attributes:
        depth: the chain over its frontiers: h_0 is `wrt`, h_L the output.
        blocks: one entry a factor of `depth`.
        times: the chain over time of every scan, by name, made when it is looked at.
        wrt: what h_0 is.
    """

    depth: JacobianChain
    blocks: tuple[Block, ...]
    times: Mapping[str, JacobianChain]
    wrt: str

    def __str__(self) -> str:
        rows = [("", "where", "state", "arrays", "operations", "line")]
        for number, block in enumerate(self.blocks, 1):
            kinds = list(dict.fromkeys(name for name in block.operations if name not in _PLAIN))
            shown = ", ".join(kinds[:3]) + (", ..." if len(kinds) > 3 else "")
            shape = " ".join(map(str, block.state_shape)) if block.frontier > 1 else str(block.state_shape)
            rows.append((str(number), block.where, shape, str(block.frontier), shown, block.line))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        over = [f"over time: {name}" for name in self.times]
        return "\n".join([f"{len(self.blocks)} blocks from {self.wrt}", *table, *over])

    __repr__ = __str__


_PLAIN = {"reshape", "broadcast_in_dim", "convert_element_type", "squeeze", "transpose", "mul", "neg", "copy"}
"""Operations that say little of a block."""


def common(names: tuple[str, ...]) -> str:
    """The module that holds parameters: their longest common path, with the parts below it where it is short.

    Example:
        >>> common(("blocks.0.norm.scale", "blocks.0.linear.kernel", "blocks.0.linear.bias"))
        'blocks.0.{norm,linear}'
    """
    paths = [name.split(".") for name in names]
    if not paths:
        return ""
    modules = [path[:-1] or path for path in paths]
    shared = []
    for parts in zip(*modules, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    rests = [path[len(shared) :] for path in modules if len(path) > len(shared)]
    below = list(dict.fromkeys(".".join(rest[: 2 if rest[1:2] and rest[1].isdigit() else 1]) for rest in rests))
    stem = ".".join(shared)
    if not below:
        return stem
    if len(below) == 1:
        return ".".join([*shared, below[0]])
    return (stem + "." if stem else "") + "{" + ",".join(below) + "}"
