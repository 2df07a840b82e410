"""Where the step Jacobians of a chain come from, and how to walk over them.

Nothing of size T n^2 is kept unless it is given: `Along` recomputes J_t from (h_{t-1}, x_t) while it is asked, which
for an analytic step costs a matrix-vector product beside the matrix products of the question.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec import _checks
from jacspec._pytree import pytree, static
from jacspec.operators import Linearized, Matrix, Scaled
from jacspec.typing import State, StepJacobian

STORED_BYTES = 2**28
"""Up to this size the matrices of an autodiff chain are kept with ``store="auto"``."""


class _Scanned:
    """Steps of equal shape: one compiled body serves them all."""

    length: int
    widths: tuple[int, ...]
    parts: Callable[[], Any]
    operator: Callable[[Any], StepJacobian]

    def fold(self, f: Callable, carry: Any, *, reverse: bool, xs: Any) -> tuple[Any, Any]:
        def body(carry, item):
            part, x = item
            return f(carry, self.operator(part), x)

        return lax.scan(body, carry, (self.parts(), xs), length=self.length, reverse=reverse)

    @property
    def shape(self) -> tuple[int, int]:
        return self.widths[-1], self.widths[0]


def _cut(tree: Any, window: slice, more: int = 0) -> Any:
    """A window of the leading axis of every leaf, with `more` entries after its end."""
    return jax.tree.map(lambda leaf: leaf[window.start : window.stop + more], tree)


@pytree
class Along(_Scanned):
    """J_t of `step` at (h_{t-1}, x_t), analytic or by automatic differentiation.

    The states lie as h_0 ... h_{T-1} and h_T apart, so that a walk over the steps copies nothing.
    """

    step: Any
    before: Any
    last: Any
    drivers: Any
    length: int = static()
    size: int = static()
    analytic: bool = static()
    kept = "states"

    @property
    def states(self) -> State:
        return jax.tree.map(lambda hs, h: jnp.concatenate([hs, h[None]]), self.before, self.last)

    def like(self, t: int) -> Any:
        """Something of the structure and shapes of h_t; None where no state is known."""
        del t
        return self.last

    def parts(self):
        return self.before, self.drivers

    def window(self, window: slice) -> "Along":
        stop = window.stop
        last = self.last if stop == self.length else jax.tree.map(lambda hs: hs[stop], self.before)
        before, drivers = _cut(self.before, window), _cut(self.drivers, window)
        return Along(self.step, before, last, drivers, stop - window.start, self.size, self.analytic)

    def operator(self, part) -> StepJacobian:
        h, x = part
        return self.step.jacobian(h, x) if self.analytic else Linearized(self.step, h, x)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def dtype(self):
        return at_least_float32(*jax.tree.leaves(self.last))


@pytree
class Stored(_Scanned):
    """Operators stacked along a leading axis T."""

    operators: Any
    states: Any
    length: int = static()
    widths: tuple[int, ...] = static()
    kept = "matrices"

    def like(self, t: int) -> Any:
        """Shapes of a state; None where none is known."""
        del t
        return jax.tree.map(lambda hs: jax.ShapeDtypeStruct(hs.shape[1:], hs.dtype), self.states)

    def parts(self):
        return self.operators

    def window(self, window: slice) -> "Stored":
        states = _cut(self.states, window, 1)
        return Stored(_cut(self.operators, window), states, window.stop - window.start, self.widths)

    def operator(self, part) -> StepJacobian:
        return part

    @property
    def dtype(self):
        return at_least_float32(*jax.tree.leaves(self.operators))


@pytree
class Shared(_Scanned):
    """J_t = diag(d_t) W with one W for all steps."""

    d: Array
    W: Array
    states = None
    kept = "factors"

    def like(self, t: int) -> None:
        """No state is known."""

    def parts(self):
        return self.d

    def window(self, window: slice) -> "Shared":
        return Shared(self.d[window], self.W)

    def operator(self, part) -> StepJacobian:
        return Scaled(part, self.W)

    @property
    def length(self) -> int:
        return self.d.shape[0]

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.W.shape[0],)

    @property
    def dtype(self):
        return at_least_float32(self.d, self.W)


@pytree
class Listed:
    """Operators of different shapes, oldest first: a Python loop, one compiled step for every shape."""

    operators: tuple[Any, ...]
    states: Any
    widths: tuple[int, ...] = static()
    kept = "operators"

    @property
    def length(self) -> int:
        return len(self.operators)

    @property
    def shape(self) -> tuple[int, int]:
        return self.widths[-1], self.widths[0]

    @property
    def dtype(self):
        return at_least_float32(*jax.tree.leaves(self.operators), *jax.tree.leaves(self.states))

    def like(self, t: int) -> Any:
        """The state h_t; None where none is known."""
        return None if self.states is None else self.states[t]

    def window(self, window: slice) -> "Listed":
        states = None if self.states is None else self.states[window.start : window.stop + 1]
        return Listed(self.operators[window], states, self.widths[window.start : window.stop + 1])

    def fold(self, f: Callable, carry: Any, *, reverse: bool, xs: Any) -> tuple[Any, list]:
        outs: list[Any] = [None] * self.length
        for t in reversed(range(self.length)) if reverse else range(self.length):
            x = xs[t] if isinstance(xs, list) else jax.tree.map(lambda x, t=t: x[t], xs)
            carry, outs[t] = f(carry, self.operators[t], x)
        return carry, outs


def at_least_float32(*leaves: Any):
    """The promoted dtype of the floating leaves, float32 at least."""
    wide = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize >= 4]
    return jnp.result_type(jnp.float32, *wide)  # JAX promotes no float8


def floating(tree: Any) -> tuple[Array, ...]:
    """The floating leaves of a pytree."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return tuple(leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))


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
    """The number of the first step that is given a NaN or Inf, -1 if none: 1 for shared parameters, t for x_t.

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


def keeps_matrices(name: str, links: Along, store: str | bool) -> bool:
    """Whether the matrices of an autodiff chain are kept, by an estimate of their size."""
    if store is False:
        return False
    count = links.length * links.size**2 * jnp.dtype(links.dtype).itemsize
    if store == "auto":
        return count <= STORED_BYTES
    free = free_bytes()
    if count > free / 2:
        got = f"{count / 2**30:.1f} GiB for T={links.length}, n={links.size}"
        hint = "Use store=False, or give the step an analytic jacobian."
        limit = f"at most half of the free {free / 2**30:.1f} GiB"
        raise MemoryError(_checks.message(name, "store", "asks for too much", got, limit, hint))
    return True


@jax.jit
def stored(links: Along) -> Stored:
    """The step Jacobians of a chain as matrices, T n^2 numbers."""
    _, matrices = links.fold(lambda carry, J, _: (carry, J.dense()), (), reverse=False, xs=None)
    return Stored(Matrix(matrices), links.states, links.length, (links.size,))


def of_operators(operators: list[StepJacobian], states: list[State] | None, widths: tuple[int, ...]) -> Listed | Stored:
    """Equal operators stacked for a scan, different ones as a list."""
    different = [{_signature(tree) for tree in trees} for trees in (operators, states or [None])]
    if len(set(widths)) > 1 or any(len(kinds) != 1 for kinds in different):
        return Listed(tuple(operators), states, widths)
    stacked = None if states is None else _stacked(states)
    return Stored(_stacked(operators), stacked, len(operators), widths[:1])


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _signature(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))


def free_bytes() -> float:
    """Free memory of the default device, from the system where the device does not say."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
