"""Gradients of parameters, taken apart by the time or the layer at which the parameters acted.

    dE/dtheta = sum_t (d+h_t/dtheta)^T dE/dh_t

where d+ is the immediate derivative, h_{t-1} held fixed (Pascanu, Mikolov & Bengio 2013, eq. 3-5).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks, precision
from jacspec._ground.pytree import pytree
from jacspec.chain import JacobianChain, jacobian_chain, layer_chain, programs, series, state_trees
from jacspec.chain.sources import FromStates
from jacspec.questions import _doubt
from jacspec.questions._doubt import Gradient
from jacspec.questions.gradients import carried, cotangents, shaped
from jacspec.typing import Driver, State, Step


@pytree
class LagTerms:
    """The summands of dE/dtheta by the time at which theta acted.

    Attributes:
        log_norms: (T,), entry i-1 belongs to time i: log norm of (d+h_i/dtheta)^T dE/dh_i, nats.
        by_parameter: the same for every leaf of the step, a pytree of (T,).
        terms: unit-scaled summands, the step's pytree with a leading axis T, or None if not asked for. That of
            time i is ``terms[i-1] * exp(log_norms[i-1])``.
        resolved: (T,), False where `log_norms` is an upper bound only, see `jacspec.questions.gradients.Adjoints`.
        resolved_by_parameter: the same of `by_parameter`; False for leaves that are not floating.
    """

    log_norms: Array
    by_parameter: Any
    terms: Any
    resolved: Array
    resolved_by_parameter: Any


class Resolved(NamedTuple):
    """Which norms of `ParameterGradients` are resolved: its fields, with a bool in the place of each number."""

    step: Any
    drivers: Any
    step_total: Array
    driver_totals: Array | None


@pytree
class ParameterGradients:
    """Log norms of the gradient of E with respect to parameters, nats.

    Attributes:
        step: a pytree like the step's parameters (summed over time): one number a leaf; for a list of layers, a list
            of such pytrees.
        drivers: a pytree like xs: (T,) numbers a leaf, one for every driver; NaN for leaves that are not floating.
        step_total: log norm over all parameters of the step; for a list of layers, one number a layer, (L,).
        driver_totals: (T,), log norm over all leaves of each driver; None without floating drivers.
        resolved: the same fields with a bool for each number, False where it is an upper bound only, see
            `jacspec.questions.gradients.Adjoints`; ``found.resolved.step_total``.
    """

    step: Any
    drivers: Any
    step_total: Array
    driver_totals: Array | None
    resolved: Resolved


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
        options: of `jacobian_chain` but for `store`.

    Returns:
        `LagTerms`.

    Raises:
        TypeError: as `jacobian_chain` and `adjoints`.
        ValueError: as `jacobian_chain` and `adjoints`, or if the step has no floating parameters.
    """
    name = "parameter_gradient_by_lag"
    checks.one_of(name, "terms", terms, (True, False))
    chain, last, earlier = _prepared(name, step, h0, xs, cotangent, options, needs_parameters=True)
    return _lag_terms(chain, last, earlier, terms)


def parameter_gradient_norms(
    step: Step | Sequence[Callable], h0: State, xs: Driver = None, cotangent: State = None, **options: Any
) -> ParameterGradients:
    """Log norms of dE/dtheta: over time summed, over depth for every layer, far beyond float range.

    Args:
        step: as in `jacobian_chain`, or a sequence of layers as in `layer_chain` (then h0 is the input, xs None).
        h0: first state, or the network's input.
        xs: drivers with leading axis T. Floating drivers get a gradient each: over depth they are the layers' weights.
        cotangent: as in `adjoints`.
        options: of `jacobian_chain` but for `store`, or of `layer_chain`.

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
            raise ValueError(checks.message(name, "xs", "goes with a step, not with layers", expected="None"))
        return _layer_gradients(name, step, h0, cotangent, options)
    return _summed(*_prepared(name, step, h0, xs, cotangent, options))


def _prepared(
    name: str, step: Step, h0: State, xs: Driver, cotangent: State, options: dict, *, needs_parameters: bool = False
) -> tuple[JacobianChain, Any, Any]:
    """The chain that keeps its states, and the cotangents."""
    checks.one_of(name, "store", options.get("store", False), ("auto", True, False))
    options = options | {"store": False}
    unchecked: dict[str, Any] = options | {"check": False}
    shapes = jax.eval_shape(lambda: jacobian_chain(step, h0, xs, **unchecked))
    given = cotangents(name, shapes, cotangent)
    if needs_parameters and not _split(_along(shapes).step)[0]:
        raise ValueError(checks.message(name, "step", "has no floating parameters", hint="Capture or hold arrays."))
    return jacobian_chain(step, h0, xs, **options), *given


def _along(chain: JacobianChain) -> FromStates:
    """Where the Jacobians of a chain come from that was made with ``store=False``."""
    return cast(FromStates, chain.source)


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


def _terms(f: Callable, leaves: list[Array], out: State, gradient: Gradient, t: Array | int) -> list[Gradient]:
    """(df/dleaf)^T g for every leaf, where f(leaves) has the shapes of `out`."""
    if not leaves:
        return []
    _, vjp = jax.vjp(f, leaves)
    dtype = gradient.units[0].dtype
    pull = lambda u: [leaf.ravel().astype(dtype) for leaf in vjp(shaped(out, u))[0]]
    return _doubt.through(gradient, [pull] * (1 + _doubt.COPIES), t, changed=False)


def _read(terms: Sequence[Gradient], dtype: Any) -> tuple[list[Array], list[Array], Array, Array]:
    """Log norm of each term and whether it is resolved, and the same of all together."""
    each = [_doubt.read(term) for term in terms]
    total, resolved = _doubt.read(*terms) if terms else (jnp.asarray(-jnp.inf, dtype), jnp.asarray(True))
    return [log for log, _ in each], [known for _, known in each], total, resolved


def _walked(chain: JacobianChain, last: Any, earlier: Any, f: Callable, carry: Any) -> tuple[Any, Any]:
    """``carry, out = f(carry, t, h_{t-1}, x_t, dE/dh_t)`` for t = 1..T, the outs stacked."""
    found = carried(chain, last, earlier, lambda gradient: gradient)
    given = (
        jnp.arange(1, chain.length + 1),
        _along(chain).before,
        _along(chain).drivers,
        jax.tree.map(lambda g: g[1:], found),
    )
    return jax.lax.scan(lambda carry, item: f(carry, *item), carry, given)


def _blanked(chain: JacobianChain, tree: Any) -> Any:
    """NaN for numbers and False for bools if the chain is not finite."""
    ok = chain.first_nonfinite < 0
    return jax.tree.map(lambda a: a & ok if a.dtype == bool else jnp.where(ok, a, jnp.nan), tree)


@functools.partial(jax.jit, static_argnums=3)
def _lag_terms(chain: JacobianChain, last: Any, earlier: Any, keep: bool) -> LagTerms:
    parameters, rebuild = _split(_along(chain).step)

    def body(carry, t, h, x, gradient):
        terms = _terms(lambda p: rebuild(p)(h, x), parameters, h, gradient, t)
        each, known, total, resolved = _read(terms, chain.dtype)
        largest = jnp.where(total == -jnp.inf, 0, total)  # all terms are exact zeros: so is each beside any number
        scales = [jnp.exp((term.logs.hi[0] - largest) + term.logs.lo[0]) for term in terms] if keep else []
        units = [term.units[0] * scale for term, scale in zip(terms, scales, strict=keep)]
        units = [unit.reshape(p.shape).astype(p.dtype) for unit, p in zip(units, parameters, strict=keep)]
        return carry, (each, known, total, resolved, units)

    _, found = _walked(chain, last, earlier, body, None)
    each, known, total, resolved, units = _blanked(chain, found)
    return LagTerms(total, rebuild(each, jnp.nan), rebuild(units) if keep else None, resolved, rebuild(known, False))


@jax.jit
def _summed(chain: JacobianChain, last: Any, earlier: Any) -> ParameterGradients:
    parameters, rebuild = _split(_along(chain).step)
    drivers, rebuild_drivers = _split(_along(chain).drivers)

    def body(totals, t, h, x, gradient):
        inputs, rebuild_x = _split(x)
        f = lambda leaves: rebuild(leaves[: len(parameters)])(h, rebuild_x(leaves[len(parameters) :]))
        terms = _terms(f, [*parameters, *inputs], h, gradient, t)
        mine, given = terms[: len(parameters)], terms[len(parameters) :]
        return [_doubt.added(a, b) for a, b in zip(totals, mine, strict=True)], _read(given, chain.dtype)

    # a scale for every leaf: one that acted long ago lies far below the others
    nothing = [_doubt.start(jnp.zeros(p.size, chain.dtype), jnp.zeros(p.size, bool)) for p in parameters]
    totals, by_driver = _walked(chain, last, earlier, body, nothing)
    each, known, total, resolved = _blanked(chain, _read(totals, chain.dtype))
    by_each, by_known, by_total, by_resolved = _blanked(chain, by_driver)
    return ParameterGradients(
        rebuild(each, jnp.nan), rebuild_drivers(by_each, jnp.nan), total, by_total if drivers else None,
        Resolved(rebuild(known, False), rebuild_drivers(by_known, False), resolved, by_resolved if drivers else None),
    )  # fmt: skip


def _layer_gradients(
    name: str, layers: Sequence[Callable], x: State, cotangent: State, options: dict
) -> ParameterGradients:
    if not layers:
        raise ValueError(checks.message(name, "step", "is an empty list of layers", expected="one layer or more"))
    layers, x = precision.widened(name, step=list(layers), h0=x)
    unchecked: dict[str, Any] = options | {"check": False}
    shapes = jax.eval_shape(lambda: layer_chain(layers, x, **unchecked))
    last, earlier = cotangents(name, shapes, cotangent)
    chain = layer_chain(layers, x, **options)
    found = carried(chain, last, earlier, lambda gradient: gradient)
    h = state_trees.checked_state(name, "h0", x)
    traced = programs.checked_layers(name, layers, h, analytic=False, check=False)
    steps, knowns, totals, resolved = [], [], [], []
    for i, program in enumerate(traced):
        parameters, rebuild = _split(program)
        gradient = series.entry(found, i + 1)
        out = program(h)
        terms = _terms(lambda p, h=h, rebuild=rebuild: rebuild(p)(h), parameters, out, gradient, i + 1)
        each, known, total, one = _blanked(chain, _read(terms, chain.dtype))
        steps.append(rebuild(each, jnp.nan))
        knowns.append(rebuild(known, False))
        totals.append(total)
        resolved.append(one)
        h = out
    total, one = jnp.stack(totals), jnp.stack(resolved)
    return ParameterGradients(steps, None, total, None, Resolved(knowns, None, one, None))
