"""What a clipping transformation did to the last update, and how often: a record inside the optimizer state."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks
from jacspec._ground.pytree import pytree

R = TypeVar("R")


@pytree
class ClipReport:
    """The last update seen by one clipping transformation, and the counts so far.

    Attributes:
        norm_before: Euclidean norm of the whole update as it came; inf if it is finite but beyond the dtype.
        norm_after: the same of what was passed on; measured, not inferred.
        log_norm_before: its natural log, right beyond the range of the dtype; NaN if an entry is not finite.
        log_norm_after: the same of what was passed on.
        clipped: whether any entry was changed.
        finite: whether every entry that came was finite.
        updates: updates seen so far.
        times_clipped: updates clipped so far.
        times_nonfinite: updates with a NaN or Inf so far.
    """

    norm_before: Array
    norm_after: Array
    log_norm_before: Array
    log_norm_after: Array
    clipped: Array
    finite: Array
    updates: Array
    times_clipped: Array
    times_nonfinite: Array

    @property
    def rate(self) -> Array:
        """Fraction of the updates that were clipped; NaN before the first."""
        return jnp.where(self.updates > 0, self.times_clipped / jnp.maximum(self.updates, 1), jnp.nan)


@pytree
class RejectReport:
    """What `reject_nonfinite` did.

    Attributes:
        rejected: whether the last update was rejected.
        consecutive: updates rejected in a row, up to the last; 0 after one that was applied.
        times_rejected: updates rejected so far.
        updates: updates seen so far.
    """

    rejected: Array
    consecutive: Array
    times_rejected: Array
    updates: Array


def no_clip_report(dtype: Any) -> ClipReport:
    """The report before the first update."""
    unknown, no, zero = jnp.full((), jnp.nan, dtype), jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    return ClipReport(unknown, unknown, unknown, unknown, no, ~no, zero, zero, zero)


def clip_report(opt_state: Any) -> Any:
    """The report of the clipping in an optimizer state, however deeply it is nested.

    Args:
        opt_state: the state of any Optax transformation that contains a clipping of this package.

    Returns:
        The `ClipReport`, or a tuple of them in the order of the chain if several transformations clip.

    Raises:
        ValueError: if no transformation in it clips.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from jacspec import remedies
        >>> optimizer = optax.chain(remedies.clip_by_global_norm(1.0), optax.sgd(0.1))
        >>> g = jnp.array([3.0, 4.0])
        >>> _, state = optimizer.update(g, optimizer.init(g))
        >>> report = remedies.clip_report(state)
        >>> report.norm_before.item(), round(report.norm_after.item(), 6), report.clipped.item()
        (5.0, 1.0, True)
    """
    return _found("remedies.clip_report", opt_state, ClipReport, "a clipping of jacspec.remedies")


def reject_report(opt_state: Any) -> Any:
    """The report of `reject_nonfinite` in an optimizer state; as `clip_report`.

    Args:
        opt_state: the state of any Optax transformation that contains `reject_nonfinite`.

    Returns:
        The `RejectReport`, or a tuple of them if there are several.

    Raises:
        ValueError: if there is none.
    """
    return _found("remedies.reject_report", opt_state, RejectReport, "jacspec.remedies.reject_nonfinite")


def _found(name: str, opt_state: Any, kind: type[R], source: str) -> Any:
    is_report = lambda node: isinstance(node, kind)
    reports = tuple(filter(is_report, jax.tree.leaves(opt_state, is_leaf=is_report)))
    if not reports:
        got = type(opt_state).__name__
        raise ValueError(checks.message(name, "opt_state", f"holds no {kind.__name__}", got, f"a state of {source}"))
    return reports[0] if len(reports) == 1 else reports
