"""The Jacobian chain: a step, a sequence of drivers, and the ordered step Jacobians J_1 ... J_T between them.

The product is J_T ... J_1, newest on the left. Over time the drivers are inputs and the parameters are shared; over
depth the drivers are the layers' parameters. Everything jacspec computes is a question put to a chain by one
primitive, `JacobianChain.fold`, which walks it in either direction with one step Jacobian in hand.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec import _checks, _finite, _given, _links, _precision, _states, _steps
from jacspec._calls import called
from jacspec._finite import first_nonfinite, first_nonfinite_of
from jacspec._links import Along, Listed, Shared, Stored, of_operators
from jacspec._pytree import pytree
from jacspec.operators import units
from jacspec.typing import Driver, State, Step


@pytree
class JacobianChain:
    """The step Jacobians J_1 ... J_T along a trajectory h_0 ... h_T; `J_t` maps changes of h_{t-1} to changes of h_t.

    Build one with `jacobian_chain`, `layer_chain`, `from_matrices` or `from_factors`.

    Attributes:
        links: where J_t comes from: a scan over equal steps, or a tuple of operators where widths change.
        bad: index t of the first state h_t, driver or parameter with a NaN or Inf, -1 if none.
    """

    links: Along | Stored | Shared | Listed
    bad: Array

    @property
    def first_nonfinite(self) -> Array:
        """Index t of the first state h_t or step Jacobian J_t with a NaN or Inf, -1 if none.

        The Jacobians of analytic steps are looked at by the questions.
        """
        return _finite.earliest(self.bad, _finite.first_unsound(self.links.sound))

    @property
    def states(self) -> State:
        """h_0 ... h_T with a leading axis T+1 (a list where widths change); None if only matrices were given."""
        return _states.join(self.links.states)

    @property
    def store(self) -> str:
        """What is kept in memory: ``"states"``, ``"matrices"``, ``"factors"`` or ``"operators"``."""
        return self.links.kept

    @property
    def length(self) -> int:
        """T, the number of step Jacobians."""
        return self.links.length

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the product: the sizes of the last and of the first state."""
        return self.links.shape

    @property
    def rank_bound(self) -> int:
        """The narrowest width, and so the number of singular values that are not zero by shape."""
        return min(self.links.widths)

    @property
    def dtype(self):
        """The dtype in which questions are answered: that of the chain, float32 at least."""
        return self.links.dtype

    def __len__(self) -> int:
        """T."""
        return self.length

    def __getitem__(self, window: slice) -> "JacobianChain":
        """The chain of steps t in a contiguous slice: ``chain[s:t]`` has the product J_t ... J_{s+1}.

        Raises:
            TypeError: for an index that is not a slice of step 1.
        """
        if not isinstance(window, slice) or window.step not in (None, 1):
            raise TypeError(_checks.message("JacobianChain", "index", "must be a slice without a step", repr(window)))
        for end in (window.start, window.stop):
            if end is not None and not hasattr(end, "__index__"):
                raise TypeError(_checks.message("JacobianChain", "index", "must be an integer", repr(end), "0..T"))
        start, stop, _ = window.indices(self.length)
        cut = self.links.window(slice(start, max(start, stop)))
        inside = (self.bad >= 0) & (self.bad <= stop)
        return JacobianChain(cut, jnp.where(inside, jnp.maximum(self.bad - start, 0), -1))

    def fold(self, f: Callable, carry: Any, *, reverse: bool = False, xs: Any = None) -> tuple[Any, Any]:
        """Walk the chain: ``carry, out = f(carry, J_t, x_t)`` for t = 1..T, or T..1 with `reverse`.

        Args:
            f: receives the carry, the step Jacobian and the t-th slice of `xs`.
            carry: the first carry; its shapes may change from step to step only where the chain's do.
            reverse: walk from the newest step to the oldest.
            xs: a pytree with leading axis T, in the order of time.

        Returns:
            The last carry and the outs in the order of time, stacked (a list where widths change).
        """
        return self.links.fold(f, carry, reverse=reverse, xs=xs)

    def dense(self) -> Array | list[Array]:
        """The step Jacobians as an array (T, n, n), oldest first; a list where widths change."""
        return self.fold(lambda carry, J, _: (carry, J.dense()), ())[1]

    def push(self, v: State) -> tuple[Array, Array]:
        """J_T ... J_1 v, as a unit-scaled array and its log scale.

        Args:
            v: (n,), or (n, k) for k vectors, or a pytree like h_0.

        Returns:
            (array of shape (m,) or (m, k) with unit columns, log of their Euclidean norms in nats; -inf for zero).
        """
        return self._through("push", v, self.shape[1])

    def pull(self, u: State) -> tuple[Array, Array]:
        """(J_T ... J_1)^T u, as a unit-scaled array and its log scale; the arguments mirror those of `push`."""
        return self._through("pull", u, self.shape[0])

    def _through(self, verb: str, v: State, n: int) -> tuple[Array, Array]:
        name = f"JacobianChain.{verb}"
        state = self.links.like(0 if verb == "push" else self.length)
        if not hasattr(v, "ndim") and state is not None:
            want, have = jax.tree.structure(state), jax.tree.structure(v)
            if want != have:
                raise TypeError(_checks.message(name, "v", "is no array and no state", have, want))
        flat = v if hasattr(v, "ndim") else ravel_pytree(_states.checked_state(name, "v", v))[0]
        flat = _checks.array(name, "v", flat, (1, 2), "(n,) or (n, k)")
        if flat.shape[0] != n:
            raise ValueError(_checks.message(name, "v", "does not fit", f"shape {flat.shape}", f"({n}, ...)"))
        _checks.finite(name, "v", flat)
        V = (flat if flat.ndim == 2 else flat[:, None]).astype(self.dtype)

        def body(carry, J, _):
            V, log = rescale(getattr(J, verb)(carry[0]))
            return (V, carry[1] + log), None

        (V, log), _ = self.fold(body, rescale(V), reverse=verb == "pull")
        ok = self.first_nonfinite < 0
        V, log = jnp.where(ok, V, jnp.nan), jnp.where(ok, log, jnp.nan)
        return (V, log) if flat.ndim == 2 else (V[:, 0], log[0])

    @staticmethod
    def from_matrices(Js: Any, *, check: bool = True) -> "JacobianChain":
        """The chain of given step Jacobians.

        Args:
            Js: (T, n, n), or a sequence of matrices (n_t, n_{t-1}), oldest first.
            check: look at the values of concrete arrays.

        Raises:
            TypeError: for arrays that are not floating.
            ValueError: for shapes that do not follow on one another, or NaN or Inf.

        Warns:
            UserWarning: where a row consists of numbers near the smallest normal one, and those below it count as zeros.

        Example:
            >>> import jax.numpy as jnp, jacspec as js
            >>> js.JacobianChain.from_matrices(2.0 * jnp.ones((3, 1, 1))).push(jnp.ones(1))[1].round(3).item()
            2.079
        """
        return JacobianChain(_given.matrices("JacobianChain.from_matrices", Js, check), jnp.asarray(-1))

    @staticmethod
    def from_factors(d: Array, W: Array, *, check: bool = True) -> "JacobianChain":
        """The chain of J_t = diag(d_t) W, never formed.

        Args:
            d: slopes, (T, n).
            W: shared weight, (n, n).
            check: look at the values of concrete arrays.

        Raises:
            TypeError: for arrays that are not floating.
            ValueError: for shapes that do not fit, or NaN or Inf.

        Warns:
            UserWarning: as `from_matrices`.
        """
        return JacobianChain(_given.factors("JacobianChain.from_factors", d, W, check), jnp.asarray(-1))


@jax.jit
def rescale(V: Array) -> tuple[Array, Array]:
    """Unit columns and the logs of their norms; a zero column stays zero, with -inf; NaN where a norm is not finite."""
    V, size = units(V, axis=0)
    live = (size > 0) & (size < jnp.inf)
    log = jnp.where(live, jnp.log(jnp.where(live, size, 1)), jnp.where(size == 0, -jnp.inf, jnp.nan))
    return jnp.where(jnp.isnan(log), jnp.nan, V), log


def jacobian_chain(
    step: Step,
    h0: State,
    xs: Driver = None,
    *,
    length: int | None = None,
    jacobian: str = "auto",
    store: str | bool = "auto",
    check: bool = True,
) -> JacobianChain:
    """The Jacobian chain of a step along the trajectory h_t = step(h_{t-1}, x_t).

    Args:
        step: any callable (h, x) -> h, a function of its arguments alone: called twice it does the same. With a method
            ``jacobian(h, x)`` (every `jacspec.cells`) it is analytic.
        h0: first state, a pytree of floating or complex arrays, or None where the step knows its zero state
            (``step.initial_state(x)``, as cells do). It takes the dtype that the step returns; half becomes float32. A complex leaf counts as
            two real ones (`real` and `imag`, in this order): n complex numbers have 2n singular values, vectors pushed
            or pulled have 2n entries, and ``states`` are complex again.
        xs: drivers, a pytree with leading axis T, or None with `length`: the step then receives x = None.
        length: T.
        jacobian: ``"auto"`` (analytic where the step brings it), ``"analytic"`` or ``"autodiff"``.
        store: ``"auto"``, True or False. Analytic steps are never stored: they are recomputed from the states, O(T n)
            in all. Autodiff steps are kept as T n^2 numbers if True, or if ``"auto"`` and they take less than 256 MiB.
        check: look at the values of concrete arrays. Shapes and dtypes are always checked.

    Returns:
        A `JacobianChain`. A state that becomes NaN or Inf on the way, or a Jacobian of an autodiff step that is not
        finite in forward or in reverse mode, is reported by ``.first_nonfinite`` (and a warning outside jit); later
        results are NaN, not a spectrum.

    Raises:
        TypeError: for a state or drivers that are not arrays, a step that does not return a state like h0, or one that
            raises a TypeError.
        ValueError: for unknown options, an analytic Jacobian that is missing, lengths that contradict one another,
            NaN or Inf in the arguments; a step that changes itself when it is called, takes the input first, or raises
            any other exception (which is the cause of this one).
        MemoryError: if `store` is True and the matrices would take more than half of the free memory.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> chain = js.jacobian_chain(lambda h, x: jnp.tanh(0.9 * h), jnp.zeros(1), length=50)
        >>> bool(abs(js.log_singular_values(chain)[0] - 50 * jnp.log(0.9)) < 1e-5)
        True
    """
    name = "jacobian_chain"
    _checks.one_of(name, "jacobian", jacobian, ("auto", "analytic", "autodiff"))
    _checks.one_of(name, "store", store, ("auto", True, False))
    _checks.one_of(name, "check", check, (True, False))
    _checks.function(name, "step", step, _steps.STEP)
    xs, T = _states.checked_drivers(name, xs, length)
    x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    h0 = _states.checked_state(name, "h0", _steps.initial_state(name, step, x) if h0 is None else h0)
    if check:
        for argument, tree in (("step", step), ("h0", h0), ("xs", xs)):
            _checks.finite(name, argument, tree)
    step, h0, xs = _precision.widened(name, step=step, h0=h0, xs=xs)
    x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    program, h0 = _steps.prepared(name, step, h0, x)
    if check:
        _checks.finite(name, "step", program)
        _checks.finite(name, "step.captured", _steps.nested_constants(program))
    analytic = jacobian != "autodiff" and hasattr(program, "jacobian")
    if jacobian == "analytic" and not analytic:
        hint = "Give the step a method jacobian(h, x), or use jacobian='auto'."
        got = type(step).__name__
        raise ValueError(_checks.message(name, "jacobian", "is not there", got, "an analytic step", hint))

    given = _finite.given_nonfinite(program, xs) if check else jnp.asarray(-1)
    links = Along(program, None, h0, xs, None, T, _states.size(h0), analytic)
    keep = not analytic and _links.keeps_matrices(name, links, store)
    if analytic:
        _steps.check_jacobian(name, "step.jacobian", program, h0, x)
    run = lambda *_: _steps.run_jitted(program, h0, xs, T)
    before, last = called(name, "step", run, h0, x, form=_steps.STEP)
    links = dataclasses.replace(links, before=before, last=last)
    links = links if analytic else _steps.linearized_along(name, links, h0, x, keep=keep)
    early, late = first_nonfinite(before), first_nonfinite_of([last])
    return flagged(name, links, given, jnp.where((early < 0) & (late >= 0), T, early), warn=check)


def layer_chain(layers: Sequence[Callable], x: State, *, jacobian: str = "auto", check: bool = True) -> JacobianChain:
    """The Jacobian chain of a deep network: layers whose widths may change, applied to x one after another.

    Args:
        layers: callables ``layer(h) -> h``; those with a method ``jacobian(h)`` (every `jacspec.layers`) are analytic.
            Each is called once: an `nnx` module may write statistics or draw a mask, and is itself left as it was.
        x: the network's input, the first state: one example, or the whole batch where BatchNorm is in train mode.
            Complex states count as in `jacobian_chain`.
        jacobian: ``"auto"``, ``"analytic"`` or ``"autodiff"``.
        check: look at the values of concrete arrays.

    Returns:
        A `JacobianChain` whose T is the number of layers. Equal layers are stacked and scanned, others kept as a list.

    Raises:
        TypeError: if `layers` is no sequence of callables, x not floating or complex, or a layer raises it.
        ValueError: for unknown options, an analytic Jacobian that is missing, NaN or Inf in the arguments, a layer that
            changes itself and occurs again, or that raises any other exception (which is the cause of this one).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layers = [js.layers.Dense(jnp.ones((3, 2))), js.layers.Dense(jnp.ones((1, 3)))]
        >>> js.log_singular_values(js.layer_chain(layers, jnp.ones(2))).shape
        (1,)
    """
    name = "layer_chain"
    _checks.one_of(name, "jacobian", jacobian, ("auto", "analytic", "autodiff"))
    if not isinstance(layers, Sequence):
        raise TypeError(_checks.message(name, "layers", "must be a sequence of callables", type(layers).__name__))
    h = _states.checked_state(name, "x", x)
    if check:
        _checks.finite(name, "x", h)
    layers, h = _precision.widened(name, layers=list(layers), x=h)
    programs = _steps.checked_layers(name, layers, h, jacobian == "analytic", check)
    given = _finite.layers_nonfinite(programs) if check else jnp.asarray(-1)
    states, operators, sound = [h], [], []
    for i, (layer, program) in enumerate(zip(layers, programs, strict=True)):
        h, new = states[-1], program(states[-1])
        if jacobian != "autodiff" and hasattr(layer, "jacobian") and not _states.has_parts((h, new)):
            J, ok = _steps.own_jacobian(name, f"layers[{i}]", layer, h), jnp.asarray(True)
        else:
            m = _states.size(new)
            ask = lambda h, program=program, m=m: _links.linearized(program, h, m)
            J, ok = called(name, f"layers[{i}]", ask, h, form="layer(h) -> h")
        operators.append(J)
        sound.append(ok)
        states.append(new)
    widths = tuple(_states.size(h) for h in states)
    links = of_operators(operators, states, jnp.stack(sound) if sound else jnp.ones(0, bool), widths)
    return flagged(name, links, given, first_nonfinite_of(states), warn=check)


def flagged(name: str, links: Any, given: Array, bad: Array, *, warn: bool) -> JacobianChain:
    """The chain with the index of its first state, driver or parameter that is not finite, and a warning of it."""
    chain = JacobianChain(links, _finite.earliest(given, bad))
    first = chain.first_nonfinite
    if warn and _checks.is_concrete(first) and first >= 0:
        t = int(first)
        if bad == first:
            _finite.warn_of_state(name, links.state(t - 1), links.state(t), t)
        else:
            _finite.warn_of_jacobian(name, t)
    return chain
