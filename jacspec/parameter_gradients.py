"""Gradients of parameters, taken apart by the time or the layer at which the parameters acted.

    dE/dtheta = sum_t (d+h_t/dtheta)^T dE/dh_t

where d+ is the immediate derivative, h_{t-1} held fixed (Pascanu, Mikolov & Bengio 2013, eq. 3-5).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec import _checks, _precision, _states, _steps
from jacspec._links import Along
from jacspec._pytree import pytree
from jacspec.chain import jacobian_chain, layer_chain, rescale
from jacspec.gradients import Adjoints, add_scaled, adjoints, adjoints_jitted, cotangents
from jacspec.typing import Driver, State, Step


@pytree
class LagTerms:
    """The summands of dE/dtheta by the time at which theta acted.

    Attributes:
        log_norms: (T,), entry i-1 belongs to time i: log norm of (d+h_i/dtheta)^T dE/dh_i, nats.
        by_parameter: the same for every leaf of the step, a pytree of (T,).
        terms: unit-scaled summands, the step's pytree with a leading axis T, or None if not asked for. Summand i is
            ``terms[i] * exp(log_norms[i])``.
    """

    log_norms: Array
    by_parameter: Any
    terms: Any


@pytree
class ParameterGradients:
    """Log norms of the gradient of E with respect to parameters, nats.

    Attributes:
        step: a pytree like the step's parameters (summed over time): one number a leaf; for a list of layers, a list
            of such pytrees.
        drivers: a pytree like xs: (T,) numbers a leaf, one for every driver; NaN for leaves that are not floating.
        step_total: log norm over all parameters of the step; for a list of layers, one number a layer, (L,).
        driver_totals: (T,), log norm over all leaves of each driver; None without floating drivers.
    """

    step: Any
    drivers: Any
    step_total: Array
    driver_totals: Array | None


def parameter_gradient_by_lag(
    step: Step, h0: State, xs: Driver, cotangent: State, *, terms: bool = False, **options: Any
) -> LagTerms:
    """The summands of dE/dtheta by the time i at which the step's parameters theta acted.

    dE/dtheta = sum_i (d+h_i/dtheta)^T dE/dh_i, where d+ holds h_{i-1} fixed. Their sum is the autodiff gradient.

    Args:
        step: as in `jacobian_chain`; its floating leaves (or captured arrays) are theta.
        h0: first state.
        xs: drivers with leading axis T, or None with ``length=T``.
        cotangent: as in `adjoints`.
        terms: also return the unit-scaled summands (memory: T times the parameters).
        options: passed to `jacobian_chain`.

    Returns:
        `LagTerms`.

    Raises:
        TypeError: as `jacobian_chain` and `adjoints`.
        ValueError: as `jacobian_chain` and `adjoints`, or if the step has no floating parameters.
    """
    name = "parameter_gradient_by_lag"
    _checks.one_of(name, "terms", terms, (True, False))
    program, states, drivers, found = _prepared(name, step, h0, xs, cotangent, options, needs_parameters=True)
    return _lag_terms(program, states, drivers, found, terms)


def parameter_gradient_norms(
    step: Step | Sequence[Callable], h0: State, xs: Driver = None, cotangent: State = None, **options: Any
) -> ParameterGradients:
    """Log norms of dE/dtheta: over time summed, over depth for every layer, far beyond float range.

    Args:
        step: as in `jacobian_chain`, or a sequence of layers as in `layer_chain` (then h0 is the input, xs None).
        h0: first state, or the network's input.
        xs: drivers with leading axis T. Floating drivers get a gradient each: over depth they are the layers' weights.
        cotangent: as in `adjoints`.
        options: passed to `jacobian_chain`.

    Returns:
        `ParameterGradients`.

    Raises:
        TypeError: as `jacobian_chain` and `adjoints`.
        ValueError: as `jacobian_chain` and `adjoints`.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layers = [js.layers.Dense(0.01 * jnp.eye(2))] * 300
        >>> found = js.parameter_gradient_norms(layers, jnp.ones(2), cotangent=jnp.ones(2))
        >>> found.step_total.shape
        (300,)
    """
    name = "parameter_gradient_norms"
    if isinstance(step, Sequence):
        if xs is not None:
            raise ValueError(_checks.message(name, "xs", "goes with a step, not with layers", expected="None"))
        return _layer_gradients(name, step, h0, cotangent, options)
    program, states, drivers, found = _prepared(name, step, h0, xs, cotangent, options)
    return _summed(program, states, drivers, found)


def _prepared(
    name: str, step: Step, h0: State, xs: Driver, cotangent: State, options: dict, *, needs_parameters: bool = False
):
    """The step as a pytree, its trajectory, its drivers, and the adjoints at the states it produced."""
    _checks.one_of(name, "store", options.get("store", False), ("auto", True, False))
    options = options | {"store": False}
    unchecked: dict[str, Any] = options | {"check": False}
    shapes = jax.eval_shape(lambda: jacobian_chain(step, h0, xs, **unchecked))
    last, earlier = cotangents(name, shapes, cotangent)
    if needs_parameters and not _split(shapes.links.step)[0]:
        raise ValueError(_checks.message(name, "step", "has no floating parameters", hint="Capture or hold arrays."))
    chain = jacobian_chain(step, h0, xs, **options)
    links = chain.links
    assert isinstance(links, Along)  # what store=False makes
    return links.step, links.before, links.drivers, adjoints_jitted(chain, last, earlier)


def _split(tree: Any) -> tuple[list[Array], Callable]:
    """The floating leaves, and how to put the tree together again."""
    leaves, structure = jax.tree.flatten(tree)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]

    def rebuild(values, blank=None):
        out = list(leaves) if blank is None else [blank] * len(leaves)
        for i, value in zip(floating, values, strict=True):
            out[i] = value
        return jax.tree.unflatten(structure, out)

    return [leaves[i] for i in floating], rebuild


def _log_norms(leaves: Sequence[Array]) -> tuple[list[Array], Array]:
    """Log norms of the leaves, and of all of them together."""
    each = [rescale(leaf.reshape(-1, 1))[1][0] for leaf in leaves]
    return each, _together(each)


def _together(logs: Sequence[Array]) -> Array:
    """log sqrt(sum_i e^(2 l_i))."""
    if not logs:
        return jnp.asarray(-jnp.inf)
    stacked = jnp.stack(logs)
    top = jnp.max(stacked)
    safe = jnp.where(top == -jnp.inf, 0, top)
    return safe + 0.5 * jnp.log(jnp.sum(jnp.exp(2 * (stacked - safe))))


def _slices(before: State, found: Adjoints):
    return before, jax.tree.map(lambda d: d[1:], found.directions), found.log_norms[1:]


@functools.partial(jax.jit, static_argnums=4)
def _lag_terms(program: Any, states: State, drivers: Driver, found: Adjoints, keep: bool) -> LagTerms:
    parameters, rebuild = _split(program)

    def body(carry, item):
        (h, direction, log), x = item
        _, vjp = jax.vjp(lambda p: rebuild(p)(h, x), parameters)
        (term,) = vjp(direction)
        each, total = _log_norms(term)
        unit = [leaf / jnp.exp(jnp.where(total == -jnp.inf, 0, total)) for leaf in term] if keep else None
        return carry, ([log + one for one in each], log + total, unit)

    _, (each, totals, units) = jax.lax.scan(body, None, (_slices(states, found), drivers))
    return LagTerms(totals, rebuild(each, jnp.nan), rebuild(units) if keep else None)


@jax.jit
def _summed(program: Any, states: State, drivers: Driver, found: Adjoints) -> ParameterGradients:
    parameters, rebuild = _split(program)
    dtype = found.log_norms.dtype

    def body(totals, item):
        (h, direction, log), x = item
        inputs, rebuild_x = _split(x)
        _, vjp = jax.vjp(lambda p, v: rebuild(p)(h, rebuild_x(v)), parameters, inputs)
        by_parameter, by_driver = vjp(direction)
        new = []
        for leaf, total in zip(by_parameter, totals, strict=True):
            unit, grown = rescale(leaf.astype(dtype).reshape(-1, 1))
            new.append(add_scaled(total, (unit, log + grown)))
        each, driver_total = _log_norms(by_driver)
        return new, ([log + one for one in each], log + driver_total)

    # a scale for every leaf: one that acted long ago lies far below the others
    start = [(jnp.zeros((p.size, 1), dtype), jnp.full(1, -jnp.inf, dtype)) for p in parameters]
    totals, (each, driver_totals) = jax.lax.scan(body, start, (_slices(states, found), drivers))
    parts = [log[0] for _, log in totals]
    _, rebuild_drivers = _split(drivers)
    floating = bool(each)
    return ParameterGradients(
        rebuild(parts, jnp.nan),
        rebuild_drivers(each, jnp.nan),
        _together(parts).astype(dtype),
        driver_totals if floating else None,
    )


def _layer_gradients(
    name: str, layers: Sequence[Callable], x: State, cotangent: State, options: dict
) -> ParameterGradients:
    if not layers:
        raise ValueError(_checks.message(name, "step", "is an empty list of layers", expected="one layer or more"))
    layers, x = _precision.widened(name, step=list(layers), h0=x)
    unchecked: dict[str, Any] = options | {"check": False}
    shapes = jax.eval_shape(lambda: layer_chain(layers, x, **unchecked))
    cotangents(name, shapes, cotangent)
    chain = layer_chain(layers, x, **options)
    found = adjoints(chain, cotangent)
    inputs = [_states.checked_state(name, "h0", x)]
    programs = _steps.checked_layers(name, layers, inputs[0], analytic=False, check=False)
    for program in programs:
        inputs.append(program(inputs[-1]))
    directions = found.directions
    each, totals = [], []
    for i, program in enumerate(programs):
        parameters, rebuild = _split(program)
        direction = (
            directions[i + 1] if isinstance(directions, list) else jax.tree.map(lambda d, i=i: d[i + 1], directions)
        )
        call = (lambda p, h=inputs[i], r=rebuild: r(p)(h)) if parameters else None
        term = jax.vjp(call, parameters)[1](direction)[0] if call else []
        parts, total = _log_norms(term)
        each.append(rebuild([part + found.log_norms[i + 1] for part in parts], jnp.nan))
        totals.append(total + found.log_norms[i + 1])
    return ParameterGradients(each, None, jnp.stack(totals), None)
