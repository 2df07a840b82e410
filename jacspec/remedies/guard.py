"""A guard around any optimizer: an update that is not finite is never applied, however many come in a row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jacspec._ground import checks
from jacspec.remedies.clipping import matching
from jacspec.remedies.report import ClipReport, RejectReport


class RejectState(NamedTuple):
    """The state of the guarded transformation, and the record of what was rejected."""

    inner: Any
    report: RejectReport


def reject_nonfinite(transformation: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Never apply what is not finite: the update becomes zero and the state of `transformation` stays.

    An update is rejected if a gradient that comes, an update that goes, a parameter it would lead to, or a number of
    the inner state that was finite before is NaN or Inf: a gradient of 1e25 gives Adam a finite update in float32 and
    an infinite second moment for good. There is no count after which it is applied after all; to stop a run, read
    `reject_report`. A `ClipReport` inside goes on recording what comes.

    Args:
        transformation: any Optax transformation, the whole chain as a rule.

    Returns:
        An Optax transformation.

    Raises:
        TypeError: if `transformation` is none.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from jacspec import remedies
        >>> optimizer = remedies.reject_nonfinite(optax.adam(0.1))
        >>> p = jnp.ones(2)
        >>> g, state = optimizer.update(jnp.array([jnp.nan, 1.0]), optimizer.init(p), p)
        >>> jnp.asarray(g).tolist(), remedies.reject_report(state).consecutive.item()
        ([0.0, 0.0], 1)
    """
    if not isinstance(transformation, optax.GradientTransformation):
        got, want = type(transformation).__name__, "an optax.GradientTransformation"
        raise TypeError(checks.message("remedies.reject_nonfinite", "transformation", "is none", got, want))
    inner = optax.with_extra_args_support(transformation)

    def init(params: Any) -> Any:
        zero = jnp.zeros((), jnp.int32)
        return RejectState(inner.init(params), RejectReport(jnp.zeros((), bool), zero, zero, zero))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        new, after = inner.update(updates, state.inner, params, **extra)
        moved = new if params is None else _new_parameters(params, new)
        ok = all_finite(updates) & all_finite(new) & all_finite(moved) & _stays_finite(state.inner, after)
        keep = lambda a, b: a if isinstance(a, ClipReport) else jnp.where(ok, a, b)
        report = RejectReport(
            rejected=~ok,
            consecutive=jnp.where(ok, 0, state.report.consecutive + 1),
            times_rejected=state.report.times_rejected + ~ok,
            updates=state.report.updates + 1,
        )
        new = jax.tree.map(lambda u: jnp.where(ok, u, jnp.zeros_like(u)), new)
        return new, RejectState(jax.tree.map(keep, after, state.inner, is_leaf=_is_report), report)

    return optax.GradientTransformationExtraArgs(init, update)


def _new_parameters(params: Any, updates: Any) -> list[Array]:
    """The parameters after the update, added before they are cast, as `optax.apply_updates` does, and in float8 too."""
    narrow = lambda x: jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 1
    wide = lambda x: x.astype(jnp.float32) if narrow(x) else x  # JAX promotes no float8
    leaves = matching("remedies.reject_nonfinite", params, updates)
    pairs = zip(leaves, map(jnp.asarray, jax.tree.leaves(updates)), strict=True)
    return [(wide(p) + wide(u)).astype(p.dtype) for p, u in pairs]


def all_finite(tree: Any) -> Array:
    """Whether every real or complex entry of a pytree is finite."""
    return jnp.stack([jnp.ones((), bool), *(jnp.isfinite(leaf).all() for leaf in _inexact(tree))]).all()


def _inexact(tree: Any) -> list[Any]:
    """The leaves that can be NaN or infinite: real and complex, of any precision, Python's own included."""
    leaves = [jnp.asarray(leaf) if isinstance(leaf, (float, complex)) else leaf for leaf in jax.tree.leaves(tree)]
    return [leaf for leaf in leaves if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _is_report(node: Any) -> bool:
    return isinstance(node, ClipReport)


def _stays_finite(before: Any, after: Any) -> Array:
    """Whether no number of the state, its reports aside, was finite before and is not after."""
    numbers = lambda tree: _inexact([s for s in jax.tree.leaves(tree, is_leaf=_is_report) if not _is_report(s)])
    lost = [jnp.any(jnp.isfinite(a) & ~jnp.isfinite(b)) for a, b in zip(numbers(before), numbers(after), strict=True)]
    return ~jnp.stack([jnp.zeros((), bool), *lost]).any()
