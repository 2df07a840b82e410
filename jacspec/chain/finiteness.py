"""Which step of a chain is the first that is not finite, and what is said about it."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._ground.precision import floating
from jacspec.typing import State


def first_nonfinite(tree: Any) -> Array:
    """The first index along the leading axis with a NaN or Inf in any leaf, -1 if none."""
    return _first_entry(floating(tree))


@jax.jit
def _first_entry(leaves: tuple[Array, ...]) -> Array:
    marks = [~jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim))) for leaf in leaves]
    return _first(jnp.stack(marks).any(axis=0) if marks else jnp.zeros(0, bool))


def first_nonfinite_of(trees: Sequence[Any]) -> Array:
    """The index of the first tree with a NaN or Inf in any leaf, -1 if none."""
    return _first(jnp.asarray([_any_nonfinite(floating(tree)) for tree in trees], bool))


@jax.jit
def _any_nonfinite(leaves: tuple[Array, ...]) -> Array:
    return jnp.asarray([~jnp.isfinite(leaf).all() for leaf in leaves], bool).any()


@jax.jit
def _first(bad: Array) -> Array:
    """The index of the first True, -1 if none."""
    return jnp.where(bad.any(), jnp.argmax(bad), -1) if bad.shape[0] else jnp.asarray(-1)


@jax.jit
def earliest(*indices: Array) -> Array:
    """The smallest index, where -1 stands for none."""
    found = jnp.stack(indices)
    last = jnp.iinfo(found.dtype).max
    first = jnp.min(jnp.where(found < 0, last, found))
    return jnp.where(first == last, -1, first)


def given_nonfinite(parameters: Any, drivers: Any) -> Array:
    """The index t of the first step with a NaN or Inf in x_t or in its parameters, which all steps share (t = 1); -1 if none.

    A saturated unit hides them: tanh(inf) is a finite state with a slope of zero.
    """
    return _given(floating(parameters), floating(drivers))


@jax.jit
def _given(parameters: tuple[Array, ...], drivers: tuple[Array, ...]) -> Array:
    shared, first = first_nonfinite_of([parameters]), first_nonfinite(drivers)
    return earliest(jnp.where(shared < 0, -1, 1), jnp.where(first < 0, -1, first + 1))


def layers_nonfinite(layers: Sequence[Any]) -> Array:
    """The number (from 1) of the first layer that holds a NaN or Inf, -1 if none."""
    first = _first_layer([floating(layer) for layer in layers])
    return jnp.where(first < 0, -1, first + 1)


@jax.jit
def _first_layer(layers: list[tuple[Array, ...]]) -> Array:
    return first_nonfinite_of(layers)


def first_unsound(sound: Array | None) -> Array:
    """The number (from 1) of the first step Jacobian that is not finite, -1 if none is known."""
    first = jnp.asarray(-1) if sound is None else _first(~sound)
    return jnp.where(first < 0, -1, first + 1)


def warn_of_state(function: str, before: State, after: State, t: int) -> None:
    """Warn that h_t is the first state with a NaN or Inf: which leaf, by overflow or not, and what to do."""
    leaves = jax.tree_util.tree_leaves_with_path(after)
    path, leaf = next((path, leaf) for path, leaf in leaves if not np.isfinite(leaf).all())
    name = "h" + jax.tree_util.keystr(path)
    largest = max(float(np.max(np.abs(np.asarray(leaf)), initial=0)) for leaf in floating(before))
    how = f"{name} holds NaN" if np.isnan(leaf).any() else f"{name} overflowed {leaf.dtype}"
    text = (
        f"jacspec.{function}: the state is not finite at step {t}: {how}, after at most {largest:.1e} at step {t - 1}"
    )
    text += (
        f"; what depends on it is NaN. chain[:{t - 1}] ends before it. Rescale the state, or, where J does not depend "
    )
    warnings.warn(text + "on it, give the step Jacobians to JacobianChain.from_matrices.", stacklevel=4)


def warn_of_jacobian(function: str, t: int) -> None:
    """Warn that J_t is not finite between states that are."""
    text = f"jacspec.{function}: the Jacobian of step {t} is not finite, though the states are: a derivative there is "
    text += (
        "infinite or NaN, in forward or in reverse mode (sqrt, norm or log at 0, also behind jnp.where); what depends "
    )
    text += "on it is NaN. Guard the argument and not only the value: jnp.sqrt(jnp.where(h > 0, h, 1))."
    warnings.warn(text, stacklevel=4)
