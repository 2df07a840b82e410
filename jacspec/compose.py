"""Ways to build a chain out of several: layers into one step, a sequence into one state, a batch outside."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jacspec import _checks
from jacspec.chain import JacobianChain, jacobian_chain
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
    _checks.function(name, "question", question, "chain -> answer")
    for argument, tree in (("h0", h0), ("xs", xs)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            where = argument + jax.tree_util.keystr(path)
            if not hasattr(leaf, "shape"):
                raise TypeError(_checks.message(name, where, "must be an array", type(leaf).__name__, "(batch, ...)"))
            if in_axes == 0 and not leaf.shape:
                raise ValueError(_checks.message(name, where, "has no batch axis", "shape ()", "(batch, ...)"))
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves((h0, xs))} if in_axes == 0 else set()
    if len(sizes) > 1:
        got, hint = f"sizes {sorted(sizes)}", "Use in_axes=(None, 0) to share one initial state."
        raise ValueError(_checks.message(name, "xs", "and h0 differ in the batch axis", got, "one size", hint))
    if options.get("check", True):
        for argument, tree in (("step", step), ("h0", h0), ("xs", xs)):
            _checks.finite(name, argument, tree)
    return jax.vmap(lambda h, x: question(jacobian_chain(step, h, x, **options)), in_axes=in_axes)(h0, xs)


def stack(*steps: Step) -> Step:
    """Several recurrent layers as one step: a sweep through the depth at one time.

    The state is the tuple of layer states; layer l receives the new output of layer l-1 (its ``output(h)`` where a cell
    has that method, such as h of an LSTM's (c, h), else its whole state), the first layer receives x.

    Args:
        steps: the layers' steps, from the input up.

    Returns:
        A step on tuples of states.

    Raises:
        TypeError: if a step is not callable; on a call, for a state that is not a tuple of one state a step.
        ValueError: if there is no step.
    """
    if not steps:
        raise ValueError(_checks.message("stack", "steps", "is empty", "no step", "one step or more"))
    for i, step in enumerate(steps):
        _checks.function("stack", f"steps[{i}]", step, "step(h, x) -> h")

    def sweep(states: tuple, x: Driver) -> tuple:
        if not isinstance(states, tuple) or len(states) != len(steps):
            got = f"{len(states)} of them" if isinstance(states, tuple) else type(states).__name__
            want = f"a tuple of {len(steps)} states, one a step"
            raise TypeError(_checks.message("stack", "states", "does not fit the steps", got, want))
        new = []
        for step, h in zip(steps, states, strict=True):
            new.append(step(h, x))
            x = getattr(step, "output", lambda state: state)(new[-1])
        return tuple(new)

    return sweep


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
        TypeError: if `step` is not callable, or `initial` not floating.
        ValueError: for NaN or Inf in `initial`.
    """
    _checks.function("over_time", "step", step, "step(h, x, p) -> h")
    for path, leaf in jax.tree_util.tree_leaves_with_path(initial):
        _checks.array("over_time", "initial" + jax.tree_util.keystr(path), leaf)
    _checks.finite("over_time", "initial", initial)

    def layer(sequence: State, p: Driver) -> State:
        start = jax.tree.map(lambda s: jnp.zeros_like(s[0]), sequence) if initial is None else initial
        return lax.scan(lambda h, x: (step(h, x, p),) * 2, start, sequence)[1]

    return layer
