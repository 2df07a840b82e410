"""Values along a chain, one an entry: a pytree with a leading axis, or a `Ragged` list where widths change.

What walks over a chain returns a series and takes one; with these functions no caller needs to know which of the two.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._ground import checks


@jax.tree_util.register_pytree_node_class
class Ragged(list):
    """The entries of a series whose shapes differ, oldest first."""

    def tree_flatten(self) -> tuple[list, None]:
        """The entries are the children."""
        return list(self), None

    @classmethod
    def tree_unflatten(cls, _: None, entries: Sequence[Any]) -> "Ragged":
        """The same of other entries."""
        return cls(entries)


def plain(series: Any) -> Any:
    """What a user gets of a series: a list in the place of `Ragged`."""
    return list(series) if isinstance(series, Ragged) else series


def entry(series: Any, t: int | slice) -> Any:
    """Entry t, counted from the end where it is negative."""
    return series[t] if isinstance(series, Ragged) else jax.tree.map(lambda a: a[t], series)


def part(series: Any, window: slice) -> Any:
    """The entries in a window."""
    return Ragged(series[window]) if isinstance(series, Ragged) else entry(series, window)


def append(series: Any, last: Any) -> Any:
    """The series with one entry more."""
    if isinstance(series, Ragged):
        return Ragged([*series, last])
    return jax.tree.map(lambda a, new: jnp.concatenate([a, new[None]]), series, last)


def zipped(*several: Any) -> Any:
    """One series whose entries are tuples; an array beside a `Ragged` series gives its slices."""
    if any(isinstance(series, Ragged) for series in several):
        return Ragged(zip(*several, strict=True))
    return several


def unzipped(series: Any) -> tuple[Any, ...]:
    """The several series that a series of tuples holds."""
    return tuple(map(Ragged, zip(*series, strict=True))) if isinstance(series, Ragged) else series


def stacked(series: Any) -> Any:
    """The series with a leading axis; the entries must agree in their shapes."""
    if isinstance(series, Ragged):
        return jax.tree.map(lambda *entries: jnp.stack(entries), *series)
    return series


def each(f: Callable[..., Any], *several: Any) -> Any:
    """f of the entries of one or several series, all at once where shapes agree."""
    if any(isinstance(series, Ragged) for series in several):
        return Ragged(map(f, *several))
    return jax.vmap(f)(*several)


def one_by_one(f: Callable[[Any, Any], Any], series: Any, constants: Sequence[Any], side_by_side: int) -> Any:
    """f(entry, constant) of every entry, one after another, or so many of equal shapes (and one constant) side by side."""
    if isinstance(series, Ragged):
        return Ragged(map(f, series, constants))
    count, one = len(constants), lambda item: f(item, constants[0])
    if count == 1:
        return jax.tree.map(lambda leaf: leaf[None], one(entry(series, 0)))
    return jax.lax.map(one, series, batch_size=min(side_by_side, count))


def readings(values: Any, count: int) -> Iterator[Any]:
    """What a user gives for `count` entries, as series: a list of entries, and arrays with that leading axis.

    A list may be both, where a state is a list of as many arrays: the caller takes the reading that fits its chain.
    """
    if type(values) in (list, Ragged) and len(values) == count:
        yield Ragged(values)
    if type(values) is not Ragged and all(leaf.shape[:1] == (count,) for leaf in jax.tree.leaves(values)):
        yield values


def forms(series: Any) -> list[Any]:
    """Shapes and dtypes of the entries: of every one, or of one for all that agree."""
    form = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
    if isinstance(series, Ragged):
        return [jax.tree.map(form, one) for one in series]
    return [jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), series)]


def vectors(series: Any, dtype: Any) -> Any:
    """`vector` of every entry."""
    if isinstance(series, Ragged):
        return Ragged(vector(one, dtype) for one in series)
    return vector(series, dtype, *jax.tree.leaves(series)[0].shape[:1])


def vector(tree: Any, dtype: Any, *leading: int) -> tuple[Array, Array]:
    """The leaves as one vector of a dtype, behind leading axes, and where it is not zero before it is cast."""
    leaves = [leaf.reshape(*leading, -1) for leaf in jax.tree.leaves(tree)]
    given = [leaf != 0 if not checks.is_concrete(leaf) else np.asarray(leaf) != 0 for leaf in leaves]
    joined = lambda parts, kind: jnp.concatenate(parts, axis=-1).astype(kind)
    return joined(leaves, dtype), joined(given, bool)
