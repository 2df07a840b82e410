"""The Jacobian chain: a step, a sequence of drivers, and the ordered step Jacobians J_1 ... J_T between them.

The product is J_T ... J_1, newest on the left. Over time the drivers are inputs and the parameters are shared; over
depth the drivers are the layers' parameters. Everything jacspec computes is a question put to a chain by one
primitive, `JacobianChain.fold`, which walks it in either direction with one step Jacobian in hand.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec import _checks, _links, _precision, _steps
from jacspec._links import Along, Listed, Shared, Stored, first_nonfinite, first_nonfinite_of, of_operators
from jacspec._pytree import pytree
from jacspec.operators import Linearized, Matrix, units
from jacspec.typing import Driver, State, Step


@pytree
class JacobianChain:
    """The step Jacobians J_1 ... J_T along a trajectory h_0 ... h_T; `J_t` maps changes of h_{t-1} to changes of h_t.

    Build one with `jacobian_chain`, `layer_chain`, `from_matrices` or `from_factors`.

    Attributes:
        links: where J_t comes from: a scan over equal steps, or a tuple of operators where widths change.
        first_nonfinite: index t of the first state h_t (or J_t) with a NaN or Inf, -1 if none.
    """

    links: Along | Stored | Shared | Listed
    first_nonfinite: Array

    @property
    def states(self) -> State:
        """h_0 ... h_T with a leading axis T+1 (a list where widths change); None if only matrices were given."""
        return self.links.states

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
        if self.links.like(0) is None:  # matrices without states: one that is not finite spoils no other
            return _with_matrices(cut)
        inside = (self.first_nonfinite >= 0) & (self.first_nonfinite <= stop)
        return JacobianChain(cut, jnp.where(inside, jnp.maximum(self.first_nonfinite - start, 0), -1))

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
        flat = v if hasattr(v, "ndim") else ravel_pytree(_steps.checked_state(name, "v", v))[0]
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

        Example:
            >>> import jax.numpy as jnp, jacspec as js
            >>> js.JacobianChain.from_matrices(2.0 * jnp.ones((3, 1, 1))).push(jnp.ones(1))[1].round(3).item()
            2.079
        """
        name = "JacobianChain.from_matrices"
        if hasattr(Js, "ndim"):
            Js = _checks.array(name, "jacobians", Js, 3, "(T, n, n)")
            if Js.shape[0] != 1 and Js.shape[1] != Js.shape[2]:
                shapes = f"shapes {Js.shape[1:]} and {Js.shape[1:]}"
                raise ValueError(_checks.message(name, "jacobians", "do not follow at steps 0 and 1", shapes, "(n, n)"))
        else:
            if not isinstance(Js, Iterable):
                got, want = type(Js).__name__, "(T, n, n) or a sequence of matrices"
                raise TypeError(_checks.message(name, "jacobians", "must be an array", got, want))
            Js = [_checks.array(name, f"jacobians[{t}]", J, 2, "(n_t, n_{t-1})") for t, J in enumerate(Js)]
            for t, (old, new) in enumerate(itertools.pairwise(Js)):
                if old.shape[0] != new.shape[1]:
                    got = f"shapes {old.shape} and {new.shape}"
                    text = f"do not follow at steps {t} and {t + 1}"
                    raise ValueError(_checks.message(name, "jacobians", text, got, f"(..., {old.shape[0]})"))
            if not Js:
                text = _checks.message(name, "jacobians", "is an empty list", hint="Give an array of shape (0, n, n).")
                raise ValueError(text)
        for shape in [J.shape for J in Js] if isinstance(Js, list) else [Js.shape[1:]]:
            if 0 in shape:
                raise ValueError(_checks.message(name, "jacobians", "is empty", f"shape {shape}", "n >= 1"))
        (Js,) = _precision.widened(name, jacobians=Js)
        if check:
            _checks.finite(name, "jacobians", Js)
        if isinstance(Js, list) or Js.shape[1] != Js.shape[2]:
            widths = (Js[0].shape[1], *(J.shape[0] for J in Js))
            return _with_matrices(of_operators([Matrix(J) for J in Js], None, widths))
        return _with_matrices(Stored(Matrix(Js), None, Js.shape[0], Js.shape[:0:-1]))

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
        """
        name = "JacobianChain.from_factors"
        d, W = _checks.array(name, "d", d, 2, "(T, n)"), _checks.array(name, "W", W, 2, "(n, n)")
        if W.shape[0] != W.shape[1]:
            raise ValueError(_checks.message(name, "W", "must be square", f"shape {W.shape}", "(n, n)"))
        if W.size == 0:
            raise ValueError(_checks.message(name, "W", "is empty", f"shape {W.shape}", "n >= 1"))
        if d.shape[1] != W.shape[0]:
            raise ValueError(_checks.message(name, "d", "does not fit W", f"shape {d.shape}", f"(T, {W.shape[0]})"))
        d, W = _precision.widened(name, d=d, W=W)
        for argument, value in (("d", d), ("W", W)) if check else ():
            _checks.finite(name, argument, value)
        return _with_matrices(Shared(d, W))


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
        step: any callable (h, x) -> h. With a method ``jacobian(h, x)`` (every `jacspec.cells`) it is analytic.
        h0: first state, a pytree of floating arrays. It takes the dtype that the step returns; half becomes float32.
        xs: drivers, a pytree with leading axis T, or None with `length`: the step then receives x = None.
        length: T.
        jacobian: ``"auto"`` (analytic where the step brings it), ``"analytic"`` or ``"autodiff"``.
        store: ``"auto"``, True or False. Analytic steps are never stored: they are recomputed from the states, O(T n)
            in all. Autodiff steps are kept as T n^2 numbers if True, or if ``"auto"`` and they take less than 256 MiB.
        check: look at the values of concrete arrays. Shapes and dtypes are always checked.

    Returns:
        A `JacobianChain`. A state that becomes NaN or Inf on the way is reported by ``.first_nonfinite`` (and a warning
        outside jit); later results are NaN, not a spectrum.

    Raises:
        TypeError: for a state or drivers that are not arrays, or a step that does not return a state like h0.
        ValueError: for unknown options, an analytic Jacobian that is missing, lengths that contradict one another,
            NaN or Inf in the arguments.
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
    h0 = _steps.checked_state(name, "h0", h0)
    xs, T = _steps.checked_drivers(name, xs, length)
    _checks.function(name, "step", step, "step(h, x) -> h")
    for argument, tree in (("step", step), ("h0", h0), ("xs", xs)) if check else ():
        _checks.finite(name, argument, tree)

    step, h0, xs = _precision.widened(name, step=step, h0=h0, xs=xs)
    x0 = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    h0 = _steps.settle(name, step, h0, x0)
    program = _steps.as_pytree(step, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), h0), x0)
    if check:
        _checks.finite(name, "step", program)
        _checks.finite(name, "step.captured", _steps.nested_constants(program))
    analytic = jacobian != "autodiff" and hasattr(step, "jacobian")
    if jacobian == "analytic" and not analytic:
        hint = "Give the step a method jacobian(h, x), or use jacobian='auto'."
        got = type(step).__name__
        raise ValueError(_checks.message(name, "jacobian", "is not there", got, "an analytic step", hint))

    given = (_links.given_nonfinite(program, xs),) if check else ()
    before, last = _steps.run_jitted(program, h0, xs, T)
    links = Along(program, before, last, xs, T, _steps.size(h0), analytic)
    if not analytic and _links.keeps_matrices(name, links, store):
        links = _links.stored(links)
    early, late = first_nonfinite(before), first_nonfinite_of([last])
    bad = jnp.where((early < 0) & (late >= 0), T, early)
    return _with_flag(links, bad, *given, warn=check)


def layer_chain(layers: Sequence[Callable], x: State, *, jacobian: str = "auto", check: bool = True) -> JacobianChain:
    """The Jacobian chain of a deep network: layers whose widths may change, applied to x one after another.

    Args:
        layers: callables ``layer(h) -> h``; those with a method ``jacobian(h)`` (every `jacspec.layers`) are analytic.
        x: the network's input, the first state: one example, or the whole batch where BatchNorm is in train mode.
        jacobian: ``"auto"``, ``"analytic"`` or ``"autodiff"``.
        check: look at the values of concrete arrays.

    Returns:
        A `JacobianChain` whose T is the number of layers. Equal layers are stacked and scanned, others kept as a list.

    Raises:
        TypeError: if `layers` is no sequence of callables, or x not floating.
        ValueError: for unknown options, an analytic Jacobian that is missing, NaN or Inf in the arguments.

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
    h = _steps.checked_state(name, "x", x)
    if check:
        _checks.finite(name, "x", h)
    layers, h = _precision.widened(name, layers=list(layers), x=h)
    programs = _steps.checked_layers(name, layers, h, jacobian == "analytic", check)
    given = (_links.layers_nonfinite(programs),) if check else ()
    states, operators = [h], []
    for layer in layers:
        analytic = jacobian != "autodiff" and hasattr(layer, "jacobian")
        operators.append(layer.jacobian(h) if analytic else Matrix(Linearized(_steps.Layer(layer), h, None).dense()))
        h = layer(h)
        states.append(h)
    widths = tuple(_steps.size(h) for h in states)
    return _with_flag(of_operators(operators, states, widths), first_nonfinite_of(states), *given, warn=check)


def _with_flag(links: Any, *bad: Array, warn: bool) -> JacobianChain:
    """The chain with the index of its first state, driver or parameter that is not finite."""
    first = _links.earliest(*bad)
    if warn and _checks.is_concrete(first) and first >= 0:
        warnings.warn(f"jacspec: the state is not finite at step {first}; what depends on it is NaN", stacklevel=3)
    return JacobianChain(links, first)


def _with_matrices(links: Any) -> JacobianChain:
    """The chain of given matrices, with the index (from 1) of the first that is not finite."""
    bad = first_nonfinite_of(links.operators) if isinstance(links, Listed) else first_nonfinite(links.parts())
    return JacobianChain(links, jnp.where(bad < 0, bad, bad + 1))
