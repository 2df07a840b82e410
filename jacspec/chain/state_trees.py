"""States and drivers as they are given, checked; a complex state as its real and its imaginary part."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.typing import State


@pytree
class Parts:
    """A complex array as two real ones, so that n complex numbers are a state of 2n real ones, real parts first."""

    real: Array
    imag: Array


def _is_parts(leaf: Any) -> bool:
    return isinstance(leaf, Parts)


def split(tree: Any) -> Any:
    """Every complex leaf taken apart."""
    is_complex = lambda z: getattr(getattr(z, "dtype", None), "kind", "") == "c"
    return jax.tree.map(lambda z: Parts(z.real, z.imag) if is_complex(z) else z, tree)


def join(tree: Any) -> Any:
    """Every complex leaf put together again."""
    return jax.tree.map(lambda p: lax.complex(p.real, p.imag) if _is_parts(p) else p, tree, is_leaf=_is_parts)


def has_parts(tree: Any) -> bool:
    """Whether a complex leaf was taken apart in `tree`."""
    return any(map(_is_parts, jax.tree.leaves(tree, is_leaf=_is_parts)))


def split_like(out: Any, h: State) -> Any:
    """`split`, where a real leaf is taken for complex if that of `h` is: the state of a step stays what it was."""
    if jax.tree.structure(out) != jax.tree.structure(join(h)):
        return split(out)
    apart = lambda p, z: Parts(jnp.real(z), jnp.imag(z)) if _is_parts(p) else z
    return jax.tree.map(apart, h, out, is_leaf=_is_parts)


def shapes(tree: Any) -> Any:
    """The shapes and dtypes of arrays."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def size(h: State) -> int:
    """n, the number of reals in a state."""
    return sum(leaf.size for leaf in jax.tree.leaves(h))


def checked_state(function: str, argument: str, h0: State) -> State:
    """h0 as a pytree of floating JAX arrays, complex ones taken apart.

    Raises:
        TypeError: for leaves that are not floating or complex arrays.
        ValueError: for a state without a number in it, or sharded over explicit axes of a mesh.
    """
    h0 = split(h0)
    leaves = jax.tree_util.tree_leaves_with_path(h0)
    for path, leaf in leaves:
        checks.array(function, argument + jax.tree_util.keystr(path), leaf)
    if not sum(leaf.size for _, leaf in leaves):
        shapes = [leaf.shape for _, leaf in leaves]
        raise ValueError(checks.message(function, argument, "is empty", f"shapes {shapes}", "at least one number"))
    refuse_explicit_axes(function, argument, h0)
    return jax.tree.map(jnp.asarray, h0)


def checked_drivers(function: str, xs: Any, length: int | None) -> tuple[Any, int]:
    """The drivers as JAX arrays, and their number T.

    Raises:
        TypeError: for drivers that are not arrays, or a `length` that is no integer.
        ValueError: for leading axes that differ, or a `length` that is missing or contradicts them.
    """
    if length is not None:
        length = checks.integer(function, "length", length, 0)
    leaves = jax.tree_util.tree_leaves_with_path(xs)
    if not leaves:
        if length is None:
            text = checks.message(function, "xs", "is None and so is length", hint="Give drivers or length=T.")
            raise ValueError(text)
        return xs, length
    for path, leaf in leaves:
        name = "xs" + jax.tree_util.keystr(path)
        kind = getattr(getattr(leaf, "dtype", None), "kind", "")
        if not hasattr(leaf, "shape") or kind in tuple("OSUmM"):
            got = f"dtype {leaf.dtype}" if kind else type(leaf).__name__
            raise TypeError(checks.message(function, name, "must be a numeric array", got, "(T, ...)"))
        if leaf.ndim == 0:
            raise ValueError(checks.message(function, name, "has no leading axis", f"shape {leaf.shape}", "(T, ...)"))
        checks.warn_if_narrowed(function, name, leaf)
        steps = leaves[0][1].shape[0] if length is None else length
        if leaf.shape[0] != steps:
            raise ValueError(
                checks.message(function, name, "has the wrong length", f"shape {leaf.shape}", f"T={steps}")
            )
    refuse_explicit_axes(function, "xs", xs)
    return jax.tree.map(jnp.asarray, xs), leaves[0][1].shape[0]


def refuse_explicit_axes(function: str, argument: str, tree: Any) -> None:
    """Raise ValueError for arrays that are sharded over an axis of a mesh whose type is Explicit."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sharding = getattr(jax.typeof(leaf), "sharding", None)
        if sharding is not None and any(axis is not None for axis in sharding.spec):
            name, got = argument + jax.tree_util.keystr(path), f"axes {sharding.spec}"
            hint = "Make the mesh with axis_types=(jax.sharding.AxisType.Auto,)."
            problem = "is sharded over explicit axes of a mesh"
            raise ValueError(checks.message(function, name, problem, got, "Auto axes", hint))
