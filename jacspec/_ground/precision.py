"""Models in half precision are computed in float32, from their numbers as they are rounded."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks


def widened(function: str, **arguments: Any) -> tuple[Any, ...]:
    """The pytrees with their floating leaves in float32 at least; a warning names those that were in less."""
    narrow = []
    for name, tree in arguments.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if _is_narrow(leaf):
                narrow.append((name + jax.tree_util.keystr(path), leaf.dtype.name))
    if not narrow:
        return tuple(arguments.values())
    name, dtype = narrow[0]
    more = f" (and {len(narrow) - 1} more)" if len(narrow) > 1 else ""
    text = f"is in {dtype}{more}: the chain is computed in float32 from the rounded numbers"
    warnings.warn(checks.message(function, name, text), stacklevel=3)
    widen = lambda leaf: leaf.astype(jnp.float32) if _is_narrow(leaf) else leaf
    return tuple(jax.tree.map(widen, tree) for tree in arguments.values())


def warn_if_narrow(function: str, argument: str, state: Any) -> None:
    """Warn where a layer casts to half precision itself, which cannot be undone from outside."""
    narrow = [leaf.dtype.name for leaf in jax.tree.leaves(state) if _is_narrow(leaf)]
    if narrow:
        text = f"casts its state to {narrow[0]}: it and its Jacobian are rounded there"
        warnings.warn(checks.message(function, argument, text), stacklevel=4)


def _is_narrow(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4


def at_least_float32(*leaves: Any):
    """The promoted dtype of the floating leaves, float32 at least."""
    wide = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize >= 4]
    return jnp.result_type(jnp.float32, *wide)  # JAX promotes no float8


def floating(tree: Any) -> tuple[Array, ...]:
    """The floating leaves of a pytree."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return tuple(leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))
