"""Where the step Jacobians of a chain come from, and how to walk over them.

Nothing of size T n^2 is kept unless it is given: `Along` recomputes J_t from (h_{t-1}, x_t) while it is asked, which
for an analytic step costs a matrix-vector product beside the matrix products of the question.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import checks
from jacspec._ground.memory import free_bytes
from jacspec._ground.precision import at_least_float32
from jacspec._ground.pytree import pytree, static
from jacspec.operators import Linearized, Matrix, Scaled
from jacspec.typing import State, StepJacobian

STORED_BYTES = 2**28
"""Up to this size the matrices of an autodiff chain are kept with ``store="auto"``."""


class _Scanned:
    """Steps of equal shape: one compiled body serves them all."""

    length: int
    widths: tuple[int, ...]
    sound: Array | None
    states: Any
    parts: Callable[[], Any]
    operator: Callable[[Any], StepJacobian]

    def fold(self, f: Callable, carry: Any, *, reverse: bool, xs: Any) -> tuple[Any, Any]:
        def body(carry, item):
            part, x = item
            return f(carry, self.operator(part), x)

        return lax.scan(body, carry, (self.parts(), xs), length=self.length, reverse=reverse)

    def state(self, t: int) -> Any:
        """h_t."""
        return jax.tree.map(lambda hs: hs[t], self.states)

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

    Attributes:
        sound: (T,), False where J_t is not finite; None for an analytic step, of which the questions find out.
    """

    step: Any
    before: Any
    last: Any
    drivers: Any
    sound: Array | None
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
        before, drivers, sound = (_cut(part, window) for part in (self.before, self.drivers, self.sound))
        return Along(self.step, before, last, drivers, sound, stop - window.start, self.size, self.analytic)

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
    sound: Array
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
        operators, sound = _cut(self.operators, window), _cut(self.sound, window)
        return Stored(operators, _cut(self.states, window, 1), sound, window.stop - window.start, self.widths)

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
    sound: Array
    states = None
    kept = "factors"

    def like(self, t: int) -> None:
        """No state is known."""

    def parts(self):
        return self.d

    def window(self, window: slice) -> "Shared":
        return Shared(self.d[window], self.W, self.sound[window])

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
    sound: Array
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

    def state(self, t: int) -> Any:
        """h_t."""
        return self.states[t]

    def window(self, window: slice) -> "Listed":
        states = None if self.states is None else self.states[window.start : window.stop + 1]
        widths = self.widths[window.start : window.stop + 1]
        return Listed(self.operators[window], states, self.sound[window], widths)

    def fold(self, f: Callable, carry: Any, *, reverse: bool, xs: Any) -> tuple[Any, list]:
        outs: list[Any] = [None] * self.length
        for t in reversed(range(self.length)) if reverse else range(self.length):
            x = xs[t] if isinstance(xs, list) else jax.tree.map(lambda x, t=t: x[t], xs)
            carry, outs[t] = f(carry, self.operators[t], x)
        return carry, outs


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
        raise MemoryError(checks.message(name, "store", "asks for too much", got, limit, hint))
    return True


@functools.partial(jax.jit, static_argnames=("keep", "reverse"))
def probed(links: Along, *, keep: bool, reverse: bool) -> Along | Stored:
    """The chain of an autodiff step with `sound`, its matrices kept (T n^2 numbers) or not.

    Forward and reverse mode are both asked (the latter only with `reverse`): they differ where a branch that is not
    taken has an infinite slope.
    """

    def look(carry, J, _):
        fixed = lax.stop_gradient(J)
        matrix = J.dense() if keep else None
        seen = fixed.push(_probe(J.h, links.size)) if matrix is None else lax.stop_gradient(matrix)
        pulled = fixed.pull(_probe(J.h, links.size)) if reverse else seen
        return carry, (matrix, jnp.isfinite(seen).all() & jnp.isfinite(pulled).all())

    _, (matrices, sound) = links.fold(look, (), reverse=False, xs=None)
    if keep:
        return Stored(Matrix(matrices), links.states, sound, links.length, (links.size,))
    return dataclasses.replace(links, sound=sound)


def linearized(layer: Any, h: State, m: int) -> tuple[Matrix, Array]:
    """The Jacobian (m, n) of a layer by automatic differentiation, and whether it is finite in both modes."""
    J, n = Linearized(layer, h, None), sum(leaf.size for leaf in jax.tree.leaves(h))
    fixed = lax.stop_gradient(J)
    try:
        pulled = fixed.pull(_probe(h, m))
    except (TypeError, ValueError):  # a loop of unknown length has no reverse mode
        pulled = jnp.zeros(())
        matrix = J.push(jnp.eye(n, dtype=jnp.result_type(*jax.tree.leaves(h))))
    else:
        matrix = J.dense()
    pushed = fixed.push(_probe(h, n)) if m < n else matrix  # else `dense` has pushed
    seen = [jnp.isfinite(lax.stop_gradient(a)).all() for a in (pulled, matrix, pushed)]
    return Matrix(matrix), jnp.stack(seen).all()


def _probe(h: State, n: int) -> Array:
    """A column (n, 1) without a zero, so that what it meets of a matrix shows every entry that is not finite."""
    column = np.random.default_rng(0).uniform(0.5, 1, (n, 1)) / n
    return jnp.asarray(column, jnp.result_type(*jax.tree.leaves(h)))


def of_operators(
    operators: list[StepJacobian], states: list[State] | None, sound: Array, widths: tuple[int, ...]
) -> Listed | Stored:
    """Equal operators stacked for a scan, different ones as a list."""
    different = [{_signature(tree) for tree in trees} for trees in (operators, states or [None])]
    if len(set(widths)) > 1 or any(len(kinds) != 1 for kinds in different):
        return Listed(tuple(operators), states, sound, widths)
    stacked = None if states is None else _stacked(states)
    return Stored(_stacked(operators), stacked, sound, len(operators), widths[:1])


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _signature(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
