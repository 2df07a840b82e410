"""What a chain asks of the place where its step Jacobians come from, and the scan that answers for equal steps."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.chain import series
from jacspec.typing import StepJacobian


class Source(abc.ABC):
    """What a chain asks of the place where its T step Jacobians come from.

    Attributes:
        length: T.
        widths: the sizes of the states h_0 ... h_T, or one number where all are equal.
        states: h_0 ... h_T, a series of T+1 entries; None where only Jacobians are known.
        sound: (T,), False where J_t is not finite; None for an analytic step, of which the questions find out.
        kept: what lies in memory: ``"states"``, ``"matrices"``, ``"factors"`` or ``"operators"``.
    """

    length: int
    widths: tuple[int, ...]
    states: Any
    sound: Array | None
    kept: str

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """The dtype in which questions are answered, float32 at least."""

    @abc.abstractmethod
    def sizes(self, window: slice = slice(None)) -> tuple[int, ...]:
        """The sizes of the states before, between and after the steps of a window, or one number where all are equal."""

    @abc.abstractmethod
    def state_shape(self, t: int) -> Any:
        """Something with the structure and the shapes of h_t; None where no state is known."""

    @abc.abstractmethod
    def window(self, window: slice) -> "Source":
        """The source of the steps in a slice with 0 <= start <= stop <= T."""

    @abc.abstractmethod
    def fold(self, f: Callable, carry: Any, *, reverse: bool, xs: Any) -> tuple[Any, Any]:
        """``carry, out = f(carry, J_t, x_t)`` in turn; the last carry, and the outs as a series."""

    @abc.abstractmethod
    def carries(
        self, f: Callable, carry: Any, horizons: tuple[int, ...], read: Callable, *, reverse: bool, xs: Any
    ) -> Any:
        """What `read` says of the carry at each horizon, a series; ``carry = f(carry, J_t, x_t)``."""

    @abc.abstractmethod
    def run(self, question: Callable, *arguments: Any, **static_arguments: Any) -> Any:
        """``question(*arguments, **static_arguments)``, compiled as a whole where one body serves all steps."""

    @abc.abstractmethod
    def series(self, values: Any) -> Any:
        """A series of any form in the form that this chain has."""

    @abc.abstractmethod
    def square(self) -> "Source":
        """The same steps as a scan; they must be square."""


class Scanned(Source):
    """Steps of equal shape: one compiled body serves them all."""

    @abc.abstractmethod
    def parts(self) -> Any:
        """What the operators J_t are made of, each leaf with a leading axis T."""

    @abc.abstractmethod
    def operator(self, part: Any) -> StepJacobian:
        """J_t, from its entry of `parts`."""

    def sizes(self, window: slice = slice(None)) -> tuple[int, ...]:
        """The one size."""
        del window
        return self.widths

    def fold(self, f: Callable, carry: Any, *, reverse: bool, xs: Any) -> tuple[Any, Any]:
        """A scan."""

        def body(carry, item):
            part, x = item
            return f(carry, self.operator(part), x)

        return lax.scan(body, carry, (self.parts(), xs), length=self.length, reverse=reverse)

    def carries(
        self, f: Callable, carry: Any, horizons: tuple[int, ...], read: Callable, *, reverse: bool, xs: Any
    ) -> Any:
        """The carries are written into a slot for each horizon while the scan goes on."""
        if horizons == ((0,) if reverse else (self.length,)):
            carry, _ = self.fold(lambda c, J, x: (f(c, J, x), None), carry, reverse=reverse, xs=xs)
            return jax.tree.map(lambda leaf: leaf[None], read(carry))
        distinct = sorted(set(horizons))
        slot_of = {t: i for i, t in enumerate(distinct)}
        reached = range(self.length) if reverse else range(1, self.length + 1)
        slots = jnp.asarray([slot_of.get(t, len(distinct)) for t in reached], int).reshape(self.length)
        kept = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(distinct), *leaf.shape)), carry)

        def body(both, J, item):
            (carry, kept), (x, slot) = both, item
            carry = f(carry, J, x)
            return (carry, jax.tree.map(lambda all_, one: all_.at[slot].set(one, mode="drop"), kept, carry)), None

        (_, kept), _ = self.fold(body, (carry, kept), reverse=reverse, xs=(xs, slots))
        chosen = jnp.asarray([slot_of[t] for t in horizons])
        return lax.map(read, jax.tree.map(lambda leaf: leaf[chosen], kept))

    def run(self, question: Callable, *arguments: Any, **static_arguments: Any) -> Any:
        """In one program."""
        return _compiled(question, tuple(static_arguments))(*arguments, **static_arguments)

    def series(self, values: Any) -> Any:
        """With a leading axis."""
        return series.stacked(values)

    def square(self) -> "Source":
        """Itself."""
        return self


@functools.cache
def _compiled(question: Callable, static_names: tuple[str, ...]) -> Callable:
    return jax.jit(question, static_argnames=static_names)


def cut(tree: Any, window: slice, more: int = 0) -> Any:
    """A window of the leading axis of every leaf, with `more` entries after its end."""
    return jax.tree.map(lambda leaf: leaf[window.start : window.stop + more], tree)
