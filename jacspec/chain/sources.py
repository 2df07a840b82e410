"""The four sources of step Jacobians: a step along its states, stacked operators, factors, a list.

Nothing of size T n^2 is kept unless it is given: `FromStates` computes J_t anew from (h_{t-1}, x_t) whenever it is asked,
which for an analytic step costs a matrix-vector product beside the matrix products of the question.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks
from jacspec._ground.precision import at_least_float32
from jacspec._ground.pytree import pytree, static
from jacspec.chain import series
from jacspec.chain.series import Ragged
from jacspec.chain.source import Scanned, Source, cut
from jacspec.operators import Linearized, Matrix, Scaled
from jacspec.typing import State, StepJacobian


@pytree
class FromStates(Scanned):
    """J_t of a step at (h_{t-1}, x_t), analytic or by automatic differentiation.

    Attributes:
        step: (h, x) -> h, a pytree.
        before: h_0 ... h_{T-1}, leading axis T; h_T lies apart, so that a walk over the steps copies nothing.
        last: h_T.
        drivers: x_1 ... x_T, leading axis T.
        sound: as in `Source`.
        length: T.
        size: n, the numbers in a state.
        analytic: whether the step brings its own Jacobian.
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
        """h_0 ... h_T, leading axis T+1."""
        return series.append(self.before, self.last)

    def state_shape(self, t: int) -> Any:
        """h_T: all have its shape."""
        del t
        return self.last

    def parts(self) -> Any:
        """The states and drivers that J_1 ... J_T are taken at."""
        return self.before, self.drivers

    def operator(self, part: Any) -> StepJacobian:
        """J at (h, x)."""
        h, x = part
        return self.step.jacobian(h, x) if self.analytic else Linearized(self.step, h, x)

    def window(self, window: slice) -> "FromStates":
        """The same step along a part of the trajectory."""
        stop = window.stop
        last = self.last if stop == self.length else jax.tree.map(lambda hs: hs[stop], self.before)
        before, drivers, sound = (cut(part, window) for part in (self.before, self.drivers, self.sound))
        return FromStates(self.step, before, last, drivers, sound, stop - window.start, self.size, self.analytic)

    @property
    def widths(self) -> tuple[int, ...]:
        """(n,)."""
        return (self.size,)

    @property
    def dtype(self) -> Any:
        """That of the state."""
        return at_least_float32(*jax.tree.leaves(self.last))


@pytree
class FromOperators(Scanned):
    """Operators of one kind and shape, stacked along a leading axis T.

    Attributes:
        operators: the stack.
        states: h_0 ... h_T, leading axis T+1, or None.
        sound: (T,), whether J_t is finite.
        length: T.
        widths: (n,).
    """

    operators: Any
    states: Any
    sound: Array
    length: int = static()
    widths: tuple[int, ...] = static()

    @property
    def kept(self) -> str:
        """What the stack consists of."""
        return "matrices" if isinstance(self.operators, Matrix) else "operators"

    def state_shape(self, t: int) -> Any:
        """Shapes of a state; None where none is known."""
        del t
        return None if self.states is None else series.forms(self.states)[0]

    def parts(self) -> Any:
        """The operators."""
        return self.operators

    def operator(self, part: Any) -> StepJacobian:
        """The part itself."""
        return part

    def window(self, window: slice) -> "FromOperators":
        """A part of the stack."""
        operators, sound = cut(self.operators, window), cut(self.sound, window)
        return FromOperators(operators, cut(self.states, window, 1), sound, window.stop - window.start, self.widths)

    @property
    def dtype(self) -> Any:
        """That of the operators."""
        return at_least_float32(*jax.tree.leaves(self.operators))


@pytree
class FromFactors(Scanned):
    """J_t = diag(d_t) W with one W for all steps.

    Attributes:
        d: slopes, (T, n).
        W: weight, (n, n).
        sound: (T,), whether J_t is finite.
    """

    d: Array
    W: Array
    sound: Array
    states = None
    kept = "factors"

    def state_shape(self, t: int) -> None:
        """No state is known."""

    def parts(self) -> Any:
        """The slopes."""
        return self.d

    def operator(self, part: Any) -> StepJacobian:
        """diag(d_t) W."""
        return Scaled(part, self.W)

    def window(self, window: slice) -> "FromFactors":
        """The same weight with a part of the slopes."""
        return FromFactors(self.d[window], self.W, self.sound[window])

    @property
    def length(self) -> int:
        """T."""
        return self.d.shape[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """(n,)."""
        return (self.W.shape[0],)

    @property
    def dtype(self) -> Any:
        """That of the factors."""
        return at_least_float32(self.d, self.W)


@pytree
class FromList(Source):
    """Operators of different shapes or kinds, oldest first: a Python loop, one compiled step for every shape.

    Attributes:
        operators: J_1 ... J_T.
        states: h_0 ... h_T, `Ragged`, or None.
        sound: (T,), whether J_t is finite.
        widths: the sizes of h_0 ... h_T.
    """

    operators: tuple[Any, ...]
    states: Any
    sound: Array
    widths: tuple[int, ...] = static()
    kept = "operators"

    @property
    def length(self) -> int:
        """T."""
        return len(self.operators)

    @property
    def dtype(self) -> Any:
        """That of the operators and states."""
        return at_least_float32(*jax.tree.leaves(self.operators), *jax.tree.leaves(self.states))

    def sizes(self, window: slice = slice(None)) -> tuple[int, ...]:
        """One number a state of the window."""
        start, stop, _ = window.indices(self.length)
        return self.widths[start : stop + 1]

    def state_shape(self, t: int) -> Any:
        """The state h_t; None where none is known."""
        return None if self.states is None else self.states[t]

    def window(self, window: slice) -> "FromList":
        """A part of the list."""
        states = None if self.states is None else Ragged(self.states[window.start : window.stop + 1])
        widths = self.widths[window.start : window.stop + 1]
        return FromList(self.operators[window], states, self.sound[window], widths)

    def fold(self, f: Callable, carry: Any, *, reverse: bool, xs: Any) -> tuple[Any, Ragged]:
        """A loop; `xs` has T entries: a list of them, or arrays with a leading axis T.

        Raises:
            ValueError: for another number of them.
        """
        xs = Ragged(xs) if type(xs) is list else xs
        counts = {len(xs)} if isinstance(xs, Ragged) else {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(xs)}
        if not counts <= {self.length, (self.length,)}:
            text = checks.message(
                "JacobianChain.fold", "xs", "does not fit", f"lengths {counts}", f"T={self.length} entries"
            )
            raise ValueError(text)
        outs = Ragged([None] * self.length)
        for t in reversed(range(self.length)) if reverse else range(self.length):
            carry, outs[t] = f(carry, self.operators[t], series.entry(xs, t))
        return carry, outs

    def carries(
        self, f: Callable, carry: Any, horizons: tuple[int, ...], read: Callable, *, reverse: bool, xs: Any
    ) -> Ragged:
        """The carries are kept on the way."""
        _, after = self.fold(lambda c, J, x: (f(c, J, x),) * 2, carry, reverse=reverse, xs=xs)
        carries = [*after, carry] if reverse else [carry, *after]
        return Ragged(read(carries[t]) for t in horizons)

    def run(self, question: Callable, *arguments: Any, **static_arguments: Any) -> Any:
        """Step by step: as a whole it would be compiled for every depth anew."""
        return question(*arguments, **static_arguments)

    def series(self, values: Any) -> Ragged:
        """As a list."""
        if type(values) is list and len(values) == self.length + 1:
            return Ragged(values)
        return values if isinstance(values, Ragged) else Ragged(series.entry(values, t) for t in range(self.length + 1))

    def square(self) -> FromOperators:
        """The matrices, stacked; the states, which may differ in form, are dropped."""
        matrices = Matrix(jnp.stack([J.dense() for J in self.operators]))
        return FromOperators(matrices, None, self.sound, self.length, self.widths[:1])


def of_operators(
    operators: list[StepJacobian], states: list[State] | None, sound: Array, widths: tuple[int, ...]
) -> FromList | FromOperators:
    """Equal operators stacked for a scan, different ones as a list."""
    different = [{_signature(tree) for tree in trees} for trees in (operators, states or [None])]
    if len(set(widths)) > 1 or any(len(kinds) != 1 for kinds in different):
        return FromList(tuple(operators), None if states is None else Ragged(states), sound, widths)
    stacked = None if states is None else series.stacked(Ragged(states))
    return FromOperators(series.stacked(Ragged(operators)), stacked, sound, len(operators), widths[:1])


def _signature(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
