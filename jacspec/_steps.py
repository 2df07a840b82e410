"""Turning what the user calls a step into a pytree, and running it.

A step that is a pytree enters as one. Any other callable is traced anew on every call and the arrays it captures
become leaves, so that a weight changed between two calls changes the answer: no function is ever a cache key.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.flatten_util import ravel_pytree

from jacspec import _checks, _precision
from jacspec._pytree import pytree, static
from jacspec.typing import Driver, State, Step


@pytree
class Program:
    """A traced step: captured arrays as leaves, the computation as structure."""

    captured: list[Array]
    jaxpr: Any = static()
    tree: Any = static()

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state."""
        out = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, self.captured))(*jax.tree.leaves((h, x)))
        return jax.tree.unflatten(self.tree, out)


def is_pytree(step: Any) -> bool:
    """Whether JAX knows how to take `step` apart, down to arrays and numbers."""
    return not jax.tree_util.all_leaves([step]) and not any(map(callable, jax.tree.leaves(step)))


def as_pytree(step: Step, h: State, x: Driver) -> Any:
    """`step` as a pytree; h and x give the shapes it is traced at."""
    if is_pytree(step):
        return step
    closed, out = jax.make_jaxpr(lambda h, x: step(h, x), return_shape=True)(h, x)
    # a captured array may share its memory with a NumPy array that the user goes on to change
    captured = [jnp.array(c) if _checks.is_concrete(c) else c for c in closed.consts]
    return Program(jax.block_until_ready(captured), closed.jaxpr, jax.tree.structure(out))


class Layer:
    """A layer as a step that ignores its driver."""

    def __init__(self, layer: Callable):
        self.layer = layer

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state."""
        del x
        return self.layer(h)


def nested_constants(program: Any) -> list[Any]:
    """The arrays captured by functions that were jitted inside a traced step."""
    found, waiting = [], [program.jaxpr] if isinstance(program, Program) else []
    while waiting:
        for value in jax.tree.leaves([equation.params for equation in waiting.pop().eqns]):
            if isinstance(value, ClosedJaxpr):
                found += value.consts
                waiting.append(value.jaxpr)
    return found


def checked_layers(function: str, layers: Sequence[Callable], h: State, analytic: bool, check: bool) -> list[Any]:
    """The layers as pytrees, each traced at the state that reaches it.

    Raises:
        TypeError: for what is not callable, or returns no state of floating arrays.
        ValueError: for a layer without a jacobian where `analytic` is asked for, or NaN or Inf (with `check`).
    """
    programs = []
    h = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), h)
    for i, layer in enumerate(layers):
        name = f"layers[{i}]"
        _checks.function(function, name, layer, "layer(h) -> h")
        if analytic and not hasattr(layer, "jacobian"):
            got = type(layer).__name__
            raise ValueError(_checks.message(function, name, "has no jacobian(h)", got, "an analytic layer"))
        try:
            out = jax.eval_shape(lambda h, layer=layer: layer(h), h)
            programs.append(layer if is_pytree(layer) else as_pytree(Layer(layer), h, None))
        except (TypeError, ValueError) as error:
            error.add_note(f"jacspec.{function}: in {name}")
            raise
        leaves = jax.tree.leaves(out)
        if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            got = f"dtypes {[str(leaf.dtype) for leaf in leaves]}"
            raise TypeError(_checks.message(function, name, "must return a floating state", got, "layer(h) -> h"))
        _precision.warn_if_narrow(function, name, out)
        if check:
            _checks.finite(function, name, programs[-1])
            _checks.finite(function, f"{name}.captured", nested_constants(programs[-1]))
        h = out
    return programs


def checked_state(function: str, argument: str, h0: State) -> State:
    """h0 as a pytree of floating JAX arrays.

    Raises:
        TypeError: for leaves that are not floating arrays.
        ValueError: for a state without a number in it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(h0)
    for path, leaf in leaves:
        _checks.array(function, argument + jax.tree_util.keystr(path), leaf)
    if not sum(leaf.size for _, leaf in leaves):
        shapes = [leaf.shape for _, leaf in leaves]
        raise ValueError(_checks.message(function, argument, "is empty", f"shapes {shapes}", "at least one number"))
    return jax.tree.map(jnp.asarray, h0)


def checked_drivers(function: str, xs: Any, length: int | None) -> tuple[Any, int]:
    """The drivers as JAX arrays, and their number T.

    Raises:
        TypeError: for drivers that are not arrays, or a `length` that is no integer.
        ValueError: for leading axes that differ, or a `length` that is missing or contradicts them.
    """
    if length is not None:
        length = _checks.integer(function, "length", length, 0)
    leaves = jax.tree_util.tree_leaves_with_path(xs)
    if not leaves:
        if length is None:
            text = _checks.message(function, "xs", "is None and so is length", hint="Give drivers or length=T.")
            raise ValueError(text)
        return xs, length
    for path, leaf in leaves:
        name = "xs" + jax.tree_util.keystr(path)
        kind = getattr(getattr(leaf, "dtype", None), "kind", "")
        if not hasattr(leaf, "shape") or kind in tuple("OSUmM"):
            got = f"dtype {leaf.dtype}" if kind else type(leaf).__name__
            raise TypeError(_checks.message(function, name, "must be a numeric array", got, "(T, ...)"))
        if leaf.ndim == 0:
            raise ValueError(_checks.message(function, name, "has no leading axis", f"shape {leaf.shape}", "(T, ...)"))
        _checks.warn_if_narrowed(function, name, leaf)
        steps = leaves[0][1].shape[0] if length is None else length
        if leaf.shape[0] != steps:
            raise ValueError(
                _checks.message(function, name, "has the wrong length", f"shape {leaf.shape}", f"T={steps}")
            )
    return jax.tree.map(jnp.asarray, xs), leaves[0][1].shape[0]


def settle(function: str, step: Any, h0: State, x: Driver) -> State:
    """h0 in the dtypes that the step returns, so that it can be iterated.

    Raises:
        TypeError: if the step does not return a state of the structure and shapes of h0, or its dtype does not settle.
    """
    for _ in range(2):
        out = jax.eval_shape(lambda h, x: step(h, x), h0, x)
        want, have = jax.tree.structure(h0), jax.tree.structure(out)
        if want != have:
            hint = "A step returns the next state alone; for a Flax cell use jacspec.from_flax or lambda h, x: cell(h, x)[0]."
            raise TypeError(_checks.message(function, "step", "changes the structure of the state", have, want, hint))
        pairs = zip(jax.tree_util.tree_leaves_with_path(h0), jax.tree.leaves(out), strict=True)
        for (path, old), new in pairs:
            if old.shape != new.shape:
                name = "h0" + jax.tree_util.keystr(path)
                hint = "Where widths change use jacspec.layer_chain."
                text = f"the step returns shape {new.shape}"
                raise TypeError(_checks.message(function, name, "changes its shape", text, f"shape {old.shape}", hint))
        for (path, _), new in zip(jax.tree_util.tree_leaves_with_path(h0), jax.tree.leaves(out), strict=True):
            if not jnp.issubdtype(new.dtype, jnp.floating):
                name = "h0" + jax.tree_util.keystr(path)
                text = f"the step returns dtype {new.dtype}"
                raise TypeError(_checks.message(function, name, "must stay floating", text, "a floating dtype"))
        if all(o.dtype == n.dtype for o, n in zip(jax.tree.leaves(h0), jax.tree.leaves(out), strict=True)):
            return h0
        narrowed = [
            f"{o.dtype} to {n.dtype}"
            for o, n in zip(jax.tree.leaves(h0), jax.tree.leaves(out), strict=True)
            if n.dtype.itemsize < o.dtype.itemsize
        ]
        if narrowed:
            text = f"narrows the state from {narrowed[0]}: the chain is computed in the narrower dtype"
            warnings.warn(_checks.message(function, "step", text), stacklevel=3)
        h0 = jax.tree.map(lambda old, new: old.astype(new.dtype), h0, out)
    raise TypeError(_checks.message(function, "step", "returns another dtype every time", hint="Fix the dtype of h0."))


def run(step: Any, h0: State, xs: Any, length: int) -> tuple[State, State]:
    """The trajectory: h_0 ... h_{T-1} with leading axis T, and h_T."""
    last, before = lax.scan(lambda h, x: (step(h, x), h), h0, xs, length=length)
    return before, last


run_jitted = functools.partial(jax.jit, static_argnames="length")(run)


def size(h: State) -> int:
    """n, the number of reals in a state."""
    return sum(leaf.size for leaf in jax.tree.leaves(h))


def flatten(h: State) -> Array:
    """The state as a vector of n numbers."""
    return ravel_pytree(h)[0]
