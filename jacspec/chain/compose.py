"""Ways to build a chain out of several: layers into one step, a sequence into one state, a batch outside."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jacspec._ground import checks
from jacspec._ground.calls import called
from jacspec.chain import state_trees
from jacspec.chain.build import jacobian_chain
from jacspec.chain.chain import JacobianChain
from jacspec.typing import Driver, State, Step


def batched(
    question: Callable[[JacobianChain], Any],
    step: Step,
    h0: State,
    xs: Driver = None,
    *,
    in_axes: Any = 0,
    **options: Any,
) -> Any:
    """``question(jacobian_chain(step, h0, xs))`` for a batch of (h0, xs), the parameters of the step unbatched.

    Chain and question are mapped together, so a shared weight meets the whole batch in one matrix product.

    Args:
        question: a function of a chain, such as `log_singular_values`.
        step: as in `jacobian_chain`.
        h0: states with a leading batch axis.
        xs: drivers with axes (batch, T, ...), or None with ``length=T``.
        in_axes: as in `jax.vmap`, for (h0, xs); ``(None, 0)`` shares one initial state.
        options: passed to `jacobian_chain`.

    Returns:
        What `question` returns, with a leading batch axis on every leaf.

    Raises:
        TypeError: as `jacobian_chain` does.
        ValueError: as `jacobian_chain` does.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> cell = js.cells.Elman(jnp.eye(2))
        >>> js.batched(js.log_singular_values, cell, jnp.zeros((5, 2)), length=3).shape
        (5, 2)
    """
    name = "batched"
    checks.function(name, "question", question, "question(chain) -> answer")
    for argument, tree in (("h0", h0), ("xs", xs)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            where = argument + jax.tree_util.keystr(path)
            if not hasattr(leaf, "shape"):
                raise TypeError(checks.message(name, where, "must be an array", type(leaf).__name__, "(batch, ...)"))
            if in_axes == 0 and not leaf.shape:
                raise ValueError(checks.message(name, where, "has no batch axis", "shape ()", "(batch, ...)"))
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves((h0, xs))} if in_axes == 0 else set()
    if len(sizes) > 1:
        got, hint = f"sizes {sorted(sizes)}", "Use in_axes=(None, 0) to share one initial state."
        raise ValueError(checks.message(name, "xs", "and h0 differ in the batch axis", got, "one size", hint))
    if options.get("check", True):
        for argument, tree in (("step", step), ("h0", h0), ("xs", xs)):
            checks.finite(name, argument, tree)
    for argument, tree in (("h0", h0), ("xs", xs)):
        state_trees.refuse_explicit_axes(name, argument, tree)

    def one(h, x):
        chain = jacobian_chain(step, h, x, **options)
        return called(name, "question", lambda _: question(chain), chain.states, form="question(chain) -> answer")

    hint = "All batch axes have one size; in_axes=(None, 0) shares one initial state."
    form = "(h0, xs) with axes as in jax.vmap"
    return called(name, "in_axes", jax.vmap(one, in_axes=in_axes), h0, xs, form=form, way_out=lambda _: hint)


def stack(*steps: Step) -> Step:
    """Several recurrent layers as one step: a sweep through the depth at one time.

    The state is the tuple of layer states; layer l receives the new output of layer l-1 (its ``output(h)`` where a cell
    has that method, such as h of an LSTM's (c, h), else its whole state), the first layer receives x.

    A layer without memory may stand between them: anything called on one argument alone (every `jacspec.layers`, a
    Flax layer, ``jnp.tanh``). It acts on what the step below gives out and has no place in the state.

    Args:
        steps: the layers' steps, from the input up.

    Returns:
        A step on tuples of states, one for each step that has one. It knows its first state where all of them do
        (``h0=None`` of `jacobian_chain`).

    Raises:
        TypeError: if a step is not callable; on a call, for a state that is not a tuple of one state a recurrent step.
        ValueError: if there is no step.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> step = js.stack(js.cells.Elman(jnp.eye(2)), js.layers.LayerNorm(), lambda h, x: jnp.tanh(h + x))
        >>> [h.tolist() for h in step((jnp.zeros(2), jnp.zeros(2)), None)]
        [[0.0, 0.0], [0.0, 0.0]]
    """
    if not steps:
        raise ValueError(checks.message("stack", "steps", "is empty", "no step", "one step or more"))
    for i, step in enumerate(steps):
        checks.function("stack", f"steps[{i}]", step, "step(h, x) -> h")
    return _Sweep(steps)


class _Sweep:
    """The step of a stack."""

    def __init__(self, steps: tuple[Step, ...]):
        self.steps = steps

    def __call__(self, states: tuple, x: Driver = None) -> tuple:
        """The new states, lowest first."""
        recurrent = self._recurrent(states)
        waiting, new = iter(states), []
        for i, step in enumerate(self.steps):
            argument = f"steps[{i}]"
            if i in recurrent:
                new.append(called("stack", argument, step, next(waiting), x, form="step(h, x) -> h"))
                x = _output(step, new[-1])
            else:
                x = called("stack", argument, step, x, form="layer(x) -> x")
        return tuple(new)

    def _recurrent(self, states: Any) -> list[int]:
        """The numbers of the steps that have a state."""
        recurrent = [i for i, step in enumerate(self.steps) if not _is_layer(step)]
        if isinstance(states, tuple) and len(states) in (len(self.steps), len(recurrent)):
            return recurrent if len(states) == len(recurrent) else list(range(len(self.steps)))
        got = "an array" if hasattr(states, "shape") else type(states).__name__
        got = f"{len(states)} of them" if isinstance(states, tuple) else got
        want = f"a tuple of {len(recurrent)} states, one a step"
        layers = [f"steps[{i}]" for i in range(len(self.steps)) if i not in recurrent]
        hint = (
            f"{', '.join(layers)} {'is a layer' if len(layers) == 1 else 'are layers'} without a state."
            if layers
            else ""
        )
        raise TypeError(checks.message("stack", "states", "does not fit the steps", got, want, hint))

    @property
    def initial_state(self) -> Callable:
        """x -> the first states, if every step with a state knows its own; else an AttributeError."""
        known = [None if _is_layer(step) else step.initial_state for step in self.steps]  # type: ignore[attr-defined]

        def states(x: Driver = None) -> tuple:
            found = []
            for step, start in zip(self.steps, known, strict=True):
                if start is None:
                    x = jax.eval_shape(step, x)
                else:
                    found.append(start(x))
                    x = _output(step, found[-1])
            return tuple(found)

        return states


def _output(step: Step, state: State) -> Any:
    """What the step above receives."""
    return getattr(step, "output", lambda state: state)(state)


def _is_layer(step: Any) -> bool:
    """Whether a callable wants one argument and keeps no state."""
    if hasattr(step, "initial_state"):
        return False
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):  # no signature to read
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional) == 1 and not any(
        p.kind is p.VAR_POSITIONAL for p in parameters
    )


def over_time(step: Callable, initial: State | None = None) -> Step:
    """One recurrent layer acting on a whole sequence, as a step over depth.

    The state is the sequence (T, n) that enters a layer; the driver p is the layer's parameters.
    H'_t = step(H'_{t-1}, H_t, p).

    Args:
        step: callable (h, x, p) -> h.
        initial: the layer's state before the first time, shape (n,); zeros of the shape of one input if None.

    Returns:
        A step on sequences.

    Raises:
        TypeError: if `step` is not callable, or `initial` not floating; on a call, if the step does not return a state
            like `initial`.
        ValueError: for NaN or Inf in `initial`.
    """
    name, form = "over_time", "step(h, x, p) -> h"
    checks.function(name, "step", step, form)
    for path, leaf in jax.tree_util.tree_leaves_with_path(initial):
        checks.array(name, "initial" + jax.tree_util.keystr(path), leaf)
    checks.finite(name, "initial", initial)

    def layer(sequence: State, p: Driver) -> State:
        one = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), sequence)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), one) if initial is None else initial
        out = called(
            name, "step", functools.partial(jax.eval_shape, step), state_trees.shapes(start), one, p, form=form
        )
        trees = [(jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]) for tree in (start, out)]
        if trees[0] != trees[1]:
            got, hint = (
                f"shapes {trees[0][1]}",
                "Give initial, the state before the first time, as the step returns it.",
            )
            raise TypeError(checks.message(name, "initial", "does not fit the step", got, f"{trees[1][1]}", hint))
        start = jax.tree.map(lambda h, new: jnp.asarray(h, new.dtype), start, out)
        return lax.scan(lambda h, x: (step(h, x, p),) * 2, start, sequence)[1]

    return layer
