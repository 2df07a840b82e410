"""Chains of steps and of layers, from what a user calls."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks, precision
from jacspec._ground.calls import called
from jacspec.chain import autodiff, finiteness, programs, series, state_trees
from jacspec.chain.chain import JacobianChain
from jacspec.chain.finiteness import first_nonfinite, first_nonfinite_of
from jacspec.chain.sources import FromStates, of_operators
from jacspec.typing import Driver, State, Step


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
        h0: first state, a pytree of floating or complex arrays, or None where the step knows its
            own (``step.initial_state(x)``, as cells do). It takes the dtype that the step returns; half becomes float32. A
            complex leaf counts as two real ones (`real` and `imag`, in this order): n complex numbers have 2n singular values, vectors pushed
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
    checks.one_of(name, "jacobian", jacobian, ("auto", "analytic", "autodiff"))
    checks.one_of(name, "store", store, ("auto", True, False))
    checks.one_of(name, "check", check, (True, False))
    checks.function(name, "step", step, programs.STEP)
    xs, T = state_trees.checked_drivers(name, xs, length)
    x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    h0 = state_trees.checked_state(name, "h0", programs.initial_state(name, step, x) if h0 is None else h0)
    if check:
        for argument, tree in (("step", step), ("h0", h0), ("xs", xs)):
            checks.finite(name, argument, tree)
    step, h0, xs = precision.widened(name, step=step, h0=h0, xs=xs)
    x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    program, h0 = programs.prepared(name, step, h0, x)
    if check:
        checks.finite(name, "step", program)
        checks.finite(name, "step.captured", programs.nested_constants(program))
    analytic = jacobian != "autodiff" and hasattr(program, "jacobian")
    if jacobian == "analytic" and not analytic:
        hint = "Give the step a method jacobian(h, x), or use jacobian='auto'."
        got = type(step).__name__
        raise ValueError(checks.message(name, "jacobian", "is not there", got, "an analytic step", hint))

    given = finiteness.given_nonfinite(program, xs) if check else jnp.asarray(-1)
    source = FromStates(program, None, h0, xs, None, T, state_trees.size(h0), analytic)
    keep = not analytic and autodiff.keeps_matrices(name, source, store)
    if analytic:
        programs.check_jacobian(name, "step.jacobian", program, h0, x)
    run = lambda *_: programs.run_jitted(program, h0, xs, T)
    before, last = called(name, "step", run, h0, x, form=programs.STEP)
    source = dataclasses.replace(source, before=before, last=last)
    source = source if analytic else programs.linearized_along(name, source, h0, x, keep=keep)
    early, late = first_nonfinite(before), first_nonfinite_of([last])
    return flagged(name, source, given, jnp.where((early < 0) & (late >= 0), T, early), warn=check)


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
    checks.one_of(name, "jacobian", jacobian, ("auto", "analytic", "autodiff"))
    if not isinstance(layers, Sequence):
        raise TypeError(checks.message(name, "layers", "must be a sequence of callables", type(layers).__name__))
    h = state_trees.checked_state(name, "x", x)
    if check:
        checks.finite(name, "x", h)
    layers, h = precision.widened(name, layers=list(layers), x=h)
    traced = programs.checked_layers(name, layers, h, jacobian == "analytic", check)
    given = finiteness.layers_nonfinite(traced) if check else jnp.asarray(-1)
    states, operators, sound = [h], [], []
    for i, (layer, program) in enumerate(zip(layers, traced, strict=True)):
        h, new = states[-1], program(states[-1])
        if jacobian != "autodiff" and hasattr(layer, "jacobian") and not state_trees.has_parts((h, new)):
            J, ok = programs.own_jacobian(name, f"layers[{i}]", layer, h), jnp.asarray(True)
        else:
            m = state_trees.size(new)
            ask = lambda h, program=program, m=m: autodiff.jacobian_matrix(program, h, m)
            J, ok = called(name, f"layers[{i}]", ask, h, form="layer(h) -> h")
        operators.append(J)
        sound.append(ok)
        states.append(new)
    widths = tuple(state_trees.size(h) for h in states)
    source = of_operators(operators, states, jnp.stack(sound) if sound else jnp.ones(0, bool), widths)
    return flagged(name, source, given, first_nonfinite_of(states), warn=check)


def flagged(name: str, source: Any, given: Array, bad: Array, *, warn: bool) -> JacobianChain:
    """The chain with the index of its first state, driver or parameter that is not finite, and a warning of it."""
    chain = JacobianChain(source, finiteness.earliest(given, bad))
    first = chain.first_nonfinite
    if warn and checks.is_concrete(first) and first >= 0:
        t = int(first)
        if bad == first:
            before, h = (series.entry(source.states, s) for s in (t - 1, t))
            finiteness.warn_of_state(name, before, h, t)
        else:
            finiteness.warn_of_jacobian(name, t)
    return chain
