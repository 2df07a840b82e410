"""Any JAX function is already a chain: from the model that one has to its factors, without a word from the user."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jacspec._ground import checks, precision
from jacspec._ground.calls import called
from jacspec.chain import JacobianChain, autodiff, finiteness, state_trees
from jacspec.chain.build import flagged
from jacspec.chain.sources import of_operators
from jacspec.networks import _refusals
from jacspec.networks._choice import Chooser, single
from jacspec.networks._flow import Flow, flow, inexact
from jacspec.networks._model import Traced, traced
from jacspec.networks._pieces import Piece, linearized, performed, pieces, walked
from jacspec.networks._program import Program, written_out
from jacspec.networks._times import Times, associative, chain_of, scans, without_step
from jacspec.networks._wide import Wide
from jacspec.networks.anatomy import Anatomy, Block, common


def dissect(
    model: Any,
    *inputs: Any,
    wrt: int | str = 0,
    blocks: str | Callable[[Block], bool] = "auto",
    variables: Any = None,
    **options: Any,
) -> Anatomy:
    """The chains inside of any network, as it is: over depth between its frontiers, over time along its scans.

    Between two operations the values that depend on the input and are still needed are a state h_l; the Jacobian of the
    whole is J_L ... J_1 of the maps between them.

    Args:
        model: any function that JAX can trace, a Flax module (NNX, or Linen with `variables`) or a method of an NNX one,
            an Equinox module. It is called once, on a copy: a running mean or a random stream stays as it was.
        inputs: what it is called on; arrays may be anywhere in them, the rest is kept as it is.
        wrt: what h_0 is: the number of an input (of integer tokens, their embeddings), or the name of a parameter of the
            model, ``"embed.embedding"``.
        blocks: ``"auto"``: one factor a weight layer with its activation, or a residual branch; ``"all"``: at every
            frontier of one array; or a predicate: True for the `Block` at whose end a factor is to end.
        variables: of a Linen module.
        options: keyword arguments of the call, such as ``train=False`` or ``rngs={"dropout": key}``.

    Returns:
        `Anatomy`. The product of ``.depth.dense()`` equals the Jacobian of the whole.

    Raises:
        TypeError: for what cannot be called, an input or an output without floating numbers, or a TypeError in the model.
        ValueError: for an unknown `wrt` or `blocks`, no way from `wrt` to the output, an operation on it without a
            derivative, NaN or Inf in the arguments, or any other exception in the model.
        MemoryError: if the states would take more than half of the free memory.

    Example:
        >>> import jax, jax.numpy as jnp, jacspec as js
        >>> Ws = jax.random.normal(jax.random.key(0), (3, 4, 4))
        >>> def net(x):
        ...     for W in Ws:
        ...         x = jnp.tanh(W @ x)
        ...     return x
        >>> js.dissect(net, jnp.ones(4)).depth.length
        3
    """
    name = "dissect"
    if not callable(blocks):
        checks.one_of(name, "blocks", blocks, ("auto", "all"))
    _refusals.given(inputs, wrt)
    for number, tree in enumerate(inputs):
        checks.finite(name, f"inputs[{number}]", tree)
    trace = traced(model, inputs, variables, options)
    checks.finite(name, "model", dict(zip(trace.names, trace.arrays, strict=True)))
    leaves = _refusals.asked(trace, wrt)
    program = written_out(trace.closed, leaves)
    checks.finite(name, "model.captured", list(program.captured.values()))
    values = {v: jnp.asarray(a) for v, a in zip(program.inputs, trace.arrays, strict=True)} | program.captured
    starts, said = _sources(program, trace, leaves, wrt)
    found = flow(program, starts)
    _refusals.no_way(found, said)
    _refusals.without_derivative(found)

    names = _names(program, trace)
    positions = _positions(found, names, blocks)
    early = _early(program, [*program.hoisted, *(set(starts) - set(program.inputs))])
    values = jax.jit(lambda given: performed([program.operations[i] for i in sorted(early)], given))(values)
    cut = pieces(found, positions, early)
    described = tuple(
        _block(found, names, a, b, piece) for (a, b), piece in zip(itertools.pairwise(positions), cut, strict=True)
    )
    _refusals.memory(found, positions)

    steps, states = called(name, "model", lambda *_: walked(found, cut, values), *inputs, form="model(*inputs)")
    for block, h in zip(described, states[1:], strict=True):
        precision.warn_if_narrow(name, f"model, block {block.where}", h)
    timed: dict[str, Callable[[], JacobianChain]] = {}
    for scan in scans(program):
        make = functools.partial(chain_of, program, values, scan)
        _add(timed, common(tuple(sorted(names(scan)))) or scan.where, make)
    for where in associative(program):
        _add(timed, where, functools.partial(without_step, where))
    return Anatomy(
        _depth(steps, states, described, [_refusals.reverse_only(piece.operations) for piece in cut]),
        described,
        Times(timed),
        said,
    )


def _sources(program: Program, trace: Traced, leaves: list[int], wrt: Any) -> tuple[list[int], str]:
    """Where the derivative begins, and what that is in words; integers are followed to what is looked up with them."""
    arguments = [program.inputs[i] for i in leaves]
    said = f"inputs[{wrt}]" if isinstance(wrt, int) else f"parameter {wrt}"
    if any(inexact(program.avals[v]) for v in arguments):
        return [v for v in arguments if inexact(program.avals[v])], said
    dependent, found = set(arguments), []
    for operation in program.operations:
        if any(a in dependent for a in operation.read):
            if (
                operation.name == "gather"
                and operation.inputs[0] not in dependent
                and inexact(program.avals[operation.outputs[0]])
            ):
                found.append(operation.outputs[0])
            else:
                dependent |= set(operation.outputs)
    _refusals.integers(found, trace, wrt)
    return found, f"the embedding of {said}"


def _names(program: Program, trace: Traced) -> Callable:
    """A function that names the model's arrays which an operation reads, directly or through operations on them alone."""
    own = [p for p in zip(program.inputs, trace.names, trace.owner, strict=True) if p[2] < 0]
    named = {v: {n} for v, n, _ in own if inexact(program.avals[v])}
    other = {v for v, o in zip(program.inputs, trace.owner, strict=True) if o >= 0}
    for operation in program.operations:
        if not any(a in other for a in operation.read):
            names = set().union(*(named.get(a, set()) for a in operation.read))
            named |= dict.fromkeys(operation.outputs, names)
        else:
            other |= set(operation.outputs)
    return lambda operation: set().union(*(named.get(a, set()) for a in operation.read))


def _positions(found: Flow, names: Callable, blocks: Any) -> list[int]:
    """The positions between factors, both ends included."""
    if not found.steps:  # the input itself is given out
        return [0, 0]
    chosen = Chooser(found, lambda step: names(found.operation(step))).positions()
    if blocks == "auto":
        return chosen
    every = sorted({*single(found), *chosen})
    if blocks == "all":
        return every
    cut = pieces(found, every, set())
    ends = zip(every, every[1:], cut, strict=False)
    return [0, *(b for a, b, piece in ends if b != every[-1] and blocks(_block(found, names, a, b, piece))), every[-1]]


def _early(program: Program, wanted: list[int]) -> set[int]:
    """The operations (by index) that some values take."""
    needed, found = set(wanted), set()
    for i in reversed(range(len(program.operations))):
        if any(v in needed for v in program.operations[i].outputs):
            found.add(i)
            needed |= set(program.operations[i].read)
    return found if wanted else set()


def _block(found: Flow, names: Callable, start: int, stop: int, piece: Piece) -> Block:
    """What lies between two positions."""
    steps = [found.operation(p) for p in range(start, stop)]
    read = dict.fromkeys(n for operation in piece.operations for n in sorted(names(operation)))
    shapes = tuple(tuple(found.program.avals[v].shape) for v in piece.after)
    line = next((operation.where for operation in reversed(steps) if operation.where), "")
    layers = {found.program.hoisted[v] for v in piece.given if v in found.program.hoisted}
    return Block(
        (common(tuple(read)) or line) + (f"[{layers.pop()}]" if len(layers) == 1 else ""),
        line,
        shapes[0] if len(shapes) == 1 else shapes,
        tuple(operation.name for operation in steps),
        tuple(read),
        len(piece.after),
    )


def _add(named: dict[str, Any], name: str, value: Any) -> None:
    """Put a value under a name, or where that is taken under the name with a number."""
    count = 2
    key = name
    while key in named:
        key, count = f"{name} #{count}", count + 1
    named[key] = value


def _depth(steps: list, states: list, described: tuple[Block, ...], reverse: list[bool]) -> JacobianChain:
    """The chain of the pieces, its matrices kept where they fit."""
    widths = tuple(map(state_trees.size, states))
    itemsize = max(leaf.dtype.itemsize for h in states for leaf in jax.tree.leaves(h))
    numbers = sum(m * n for n, m in itertools.pairwise(widths))
    operators: list[Any]
    if numbers * itemsize <= autodiff.STORED_BYTES:
        asked = []
        for step, h, m, block, only in zip(steps, states[:-1], widths[1:], described, reverse, strict=True):
            ask = lambda h, step=step, m=m, only=only: linearized(step, h, m, only)
            asked.append(called("dissect", f"model, block {block.where}", ask, h, form="model(*inputs)"))
        operators, sound = [J for J, _ in asked], jnp.stack([ok for _, ok in asked])
    else:
        operators = [Wide(*part) for part in zip(steps, states[:-1], reverse, strict=True)]
        probe = lambda J, h: jnp.isfinite(
            J.pull(jnp.ones((state_trees.size(h), 1), jnp.result_type(*jax.tree.leaves(h))))
        )
        sound = jnp.stack([probe(J, h).all() for J, h in zip(operators, states[1:], strict=True)])
    source = of_operators(operators, states, sound, widths)
    return flagged("dissect", source, jnp.asarray(-1), finiteness.first_nonfinite_of(states), warn=True)
