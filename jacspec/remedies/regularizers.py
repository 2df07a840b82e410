"""Regularizers of gradients: Pascanu's Omega (every step keeps their norm) and gradient flossing (exponents near 0).

Both are differentiable scalars of a `JacobianChain`, to be added to the loss; over a batch, take the mean of a `vmap`.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jacspec._ground import checks
from jacspec._ground.arithmetic import norms
from jacspec.chain import JacobianChain, series
from jacspec.questions.exponents import lyapunov_exponents
from jacspec.questions.gradients import Adjoints, adjoints
from jacspec.typing import State, StepJacobian

WEIGHTS = ("W", "weights")
"""The fields of an operator that are weights; the others depend on the trajectory."""


def pascanu_omega(
    chain: JacobianChain,
    cotangent: State | Adjoints,
    *,
    form: str = "norm",
    threshold: float = 0.0,
    mean: bool = False,
    hold: bool = False,
) -> Array:
    """Pascanu's regularizer: every step keeps the norm of the gradient that passes it.

        Omega = sum_t (r_t - 1)^2,    r_t = ||J_t^T g_t|| / ||g_t||  ("norm")  or its square  ("squared"),

    with g_t = dE/dh_t. Only ``pull`` is asked of the chain. The published program is
    ``form="squared", threshold=1e-20, mean=True, hold=True``, with its mean taken over steps and examples together.

    Args:
        chain: a `JacobianChain` of T steps.
        cotangent: as in `jacspec.adjoints`, or the `Adjoints` themselves.
        form: ``"norm"`` (eq. 9) or ``"squared"``, the ratio of squared norms (eq. 10 and the published program).
        threshold: steps with ||g_t||^2 below it do not count, nor those with g_t = 0 exactly or not resolved.
        mean: divide by the number of steps that count.
        hold: differentiate the weights of J_t alone: the gradients g_t, the states and the slopes are constants (the
            "immediate" derivative of the paper). For steps whose Jacobian is made of weights, and `from_factors`.

    Returns:
        Scalar; 0 if no step counts, NaN if the chain is not finite.

    Raises:
        TypeError: if `chain` is no chain, `threshold` no number, or `hold` is asked of a chain without weights.
        ValueError: for an unknown form, a threshold that is negative or not finite, a cotangent that does not fit.

    Reference: R. Pascanu, T. Mikolov, Y. Bengio, arXiv 1211.5063, eq. (9) and (10).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> from jacspec import remedies
        >>> chain = js.JacobianChain.from_matrices(jnp.full((10, 1, 1), 0.5))
        >>> remedies.pascanu_omega(chain, jnp.ones(1)).item(), remedies.pascanu_omega(
        ...     chain, jnp.ones(1), form="squared", mean=True).item()
        (2.5, 0.5625)
    """
    name = "remedies.pascanu_omega"
    checks.instance(name, "chain", chain, JacobianChain, "Build one with jacspec.jacobian_chain.")
    checks.one_of(name, "form", form, ("norm", "squared"))
    for argument, value in (("mean", mean), ("hold", hold)):
        checks.one_of(name, argument, value, (True, False))
    least = checks.number(name, "threshold", threshold, "a finite threshold >= 0", lambda v: 0 <= v < math.inf)
    log_least = math.log(least) if isinstance(least, float) and least > 0 else jnp.log(least)  # beyond the dtype too

    gradients = cotangent if isinstance(cotangent, Adjoints) else adjoints(chain, cotangent)
    logs = gradients.log_norms[1:]
    if hold:
        gradients = lax.stop_gradient(gradients)
    counts = gradients.resolved[1:] & (logs > -jnp.inf) & (2 * logs >= log_least)

    def step(carry, J, g):
        return carry, norms((_weights_only(name, J) if hold else J).pull(g[:, None]), axis=0)[0]

    _, ratios = chain.source.fold(step, (), reverse=False, xs=_later(chain, gradients.directions))
    r = series.stacked(ratios)
    terms = ((r if form == "norm" else r**2) - 1) ** 2
    total = jnp.sum(jnp.where(counts, terms, 0))
    total = total / jnp.maximum(jnp.sum(counts), 1) if mean else total
    return jnp.where(chain.first_nonfinite < 0, total, jnp.nan)


def _later(chain: JacobianChain, directions: State) -> Any:
    """The directions at t = 1..T as vectors: (T, n), or a list where widths change."""
    return series.each(
        lambda g: ravel_pytree(g)[0].astype(chain.dtype), series.part(chain.source.series(directions), slice(1, None))
    )


def _weights_only(name: str, J: Any) -> StepJacobian:
    """The operator with everything but its weights held constant."""
    names = _array_fields(J)
    if not any(weight in names for weight in WEIGHTS):
        hint = "Use hold=False, or a step that brings a Jacobian diag(d) W, such as jacspec.cells.Elman."
        raise TypeError(checks.message(name, "hold", "finds no weights in the Jacobian", type(J).__name__, hint=hint))
    return dataclasses.replace(J, **{f: lax.stop_gradient(getattr(J, f)) for f in names if f not in WEIGHTS})


def _array_fields(J: Any) -> list[str]:
    """The names of the fields of a dataclass that are not static."""
    fields = dataclasses.fields(J) if dataclasses.is_dataclass(J) else ()
    return [field.name for field in fields if not field.metadata.get("static")]


def flossing(
    chain: JacobianChain, *, k: int, target: Array | float = 0.0, transient: int = 0, qr_every: int = 1
) -> Array:
    """Gradient flossing: the first k Lyapunov exponents are drawn to a target.

        loss = (1/k) sum_{i <= k} (lambda_i - target_i)^2

    Its gradient grows as exp(lambda_1 T) where the trajectory is chaotic: use short windows there.

    Args:
        chain: a `JacobianChain` of square steps.
        k: number of exponents, 1..n.
        target: nats per step, a number or (k,), for the exponents in descending order.
        transient: as in `jacspec.lyapunov_exponents`.
        qr_every: as in `jacspec.lyapunov_exponents`.

    Returns:
        Scalar, (nats per step)^2; inf if one of the exponents is -inf, NaN if one is not resolved.

    Raises:
        TypeError: as `jacspec.lyapunov_exponents`; for a target that is neither a number nor an array of them.
        ValueError: as `jacspec.lyapunov_exponents`; for a target that is not finite in the dtype of the chain, or not (k,).

    Reference: R. Engelken, Gradient flossing, NeurIPS 2023, arXiv 2312.17306.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> from jacspec import remedies
        >>> chain = js.JacobianChain.from_matrices(jnp.tile(jnp.diag(jnp.exp(jnp.array([0.1, -0.3]))), (9, 1, 1)))
        >>> round(remedies.flossing(chain, k=2).item(), 6)
        0.05
    """
    name, want = "remedies.flossing", f"a finite number or ({k},) of them"
    checks.instance(name, "chain", chain, JacobianChain, "Build one with jacspec.jacobian_chain.")
    if getattr(target, "ndim", 0) == 0:
        most = float(jnp.finfo(chain.dtype).max)
        target = checks.number(name, "target", target, want, lambda v: abs(v) <= most)
    elif jnp.shape(target) != (k,):
        raise ValueError(checks.message(name, "target", "does not fit", f"shape {jnp.shape(target)}", want))
    else:
        target = checks.array(name, "target", target).astype(chain.dtype)
        checks.finite(name, "target", target)
    found = lyapunov_exponents(chain, k=k, transient=transient, qr_every=qr_every)
    return jnp.mean(jnp.where(found.resolved, (found.exponents - target) ** 2, jnp.nan))
