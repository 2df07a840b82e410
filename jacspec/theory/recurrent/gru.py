"""GRU and minimalRNN with fresh weights: <h^2> and chi close exactly, because what a unit keeps is drawn anew each step.

With k the gate that keeps (z, or 1 - z in Cho's form), h' = k h + (1 - k) n, and with independent gates and an even law
of the candidate n,

    <h^2> = <(1 - k)^2> <n^2> / (1 - <k^2>),
    chi   = <k^2> + s_z <z'^2> (<h^2> + <n^2>) + <(1 - k)^2> <(dn / dh)^2>,

s_z the weight variance of the update gate, and the last factor the mean square of what n passes on. It is the one place
where the two forms differ. Step by step: docs/gated_mean_field.md.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground import checks
from jacspec.theory import _domain, _roots
from jacspec.theory.recurrent import _gates
from jacspec.theory.recurrent._gates import COARSE, FINE, ROUGH, TOLERANCE, CriticalPoint, GatedMeanField

GATES = ("reset", "update", "candidate")
FORMS = ("reset_after", "reset_before")
OCTAVES = range(1, -38, -2)
"""log2 <h^2> of the search for a fixed point: <h^2> < 1, and what is below 2^-36 is called silent."""

GATE_POINTS = {FINE: 257, COARSE: 193, ROUGH: 65}
CANDIDATE_POINTS = {FINE: 449, COARSE: 353, ROUGH: 129}
"""Nodes over a gate's and over the candidate's pre-activation, by the rule: tanh is twice as steep as the logistic."""


def gru(
    weight_variance: Any,
    *,
    reset_bias: Any = 0.0,
    update_bias: Any = 0.0,
    input_variance: Any = 0.0,
    bias_variance: Any = 0.0,
    hidden_bias_variance: Any = 0.0,
    form: str = "reset_after",
) -> GatedMeanField:
    """Mean field of a GRU whose weights are drawn anew at every step (or layer): <h^2>, chi and (1/2) ln chi.

    reset_after (Flax, cuDNN):  n = tanh(x_n + r (W_n h + b_hn)),   h' = (1 - z) n + z h
    reset_before (Cho):         n = tanh(x_n + W_n (r h)),          h' = (1 - z) h + z n
    with gates of pre-activation W h + x + b, W_ij ~ N(0, weight_variance / n), x ~ N(0, input_variance) at every step.
    Shared weights deviate where a gate keeps for long: `gru_origin_spectrum` has the silent network exactly, and
    docs/gated_mean_field.md the rest.

    Args:
        weight_variance: > 0, one number or (3,): reset, update, candidate.
        reset_bias: mean bias of the reset gate.
        update_bias: mean bias of the update gate (which keeps in ``"reset_after"`` and replaces in ``"reset_before"``).
        input_variance: >= 0, of U x, one number or (3,).
        bias_variance: >= 0, of the biases about their means, one number or (3,); it adds to the input's.
        hidden_bias_variance: >= 0, of b_hn inside the reset product; ``"reset_after"`` only.
        form: ``"reset_after"`` or ``"reset_before"``.

    Returns:
        A `GatedMeanField` at the largest fixed point.

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range, an unknown form, or a hidden bias with ``"reset_before"``.

    Reference: derived in docs/gated_mean_field.md, in the setting of D. Gilboa et al., arXiv 1901.08987, and M. Chen,
    J. Pennington, S. S. Schoenholz, arXiv 1806.05394.

    Example:
        >>> net = gru(16.0)
        >>> round(float(net.second_moment), 4), round(float(net.chi), 4)
        (0.1163, 1.4291)
    """
    name = "theory.recurrent.gru"
    theta = _parameters(name, reset_bias, update_bias, input_variance, bias_variance, hidden_bias_variance, form)
    weights = _gates.per_gate(name, "weight_variance", weight_variance, GATES, positive=True)
    return _solve((weights, *theta), form)


def gru_critical(
    *,
    reset_bias: Any = 0.0,
    update_bias: Any = 0.0,
    input_variance: Any = 0.0,
    bias_variance: Any = 0.0,
    hidden_bias_variance: Any = 0.0,
    form: str = "reset_after",
    ratio: Any = 1.0,
) -> CriticalPoint:
    """The weight variance on the critical line chi = 1 of `gru`, all gates in fixed proportion.

    Where nothing but h drives the candidate there is a silent state, h = 0, stable up to

        <1 - k^2> / (<(1 - k)^2> <r^2>)    for the ratio 1 of the candidate, k the gate that keeps, r the reset gate

    (with shared weights up to 1 / <r^2>, whatever k is). An active state exists before that, and perturbations of it grow.

    Args:
        reset_bias: as in `gru`.
        update_bias: as in `gru`.
        input_variance: as in `gru`.
        bias_variance: as in `gru`.
        hidden_bias_variance: as in `gru`.
        form: as in `gru`.
        ratio: > 0, one number or (3,): the weight variance of the gates is the result times this.

    Returns:
        A `CriticalPoint`.

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range, an unknown form, or a hidden bias with ``"reset_before"``.

    Example:
        >>> line = gru_critical(update_bias=1.0)
        >>> round(float(line.weight_variance), 1), round(float(line.silent), 1), bool(line.continuous)
        (22.1, 25.7, False)
    """
    name = "theory.recurrent.gru_critical"
    theta = _parameters(name, reset_bias, update_bias, input_variance, bias_variance, hidden_bias_variance, form)
    ratio = _gates.per_gate(name, "ratio", ratio, GATES, positive=True)
    return _critical((ratio, *theta), form)


def _parameters(name, reset_bias, update_bias, input_variance, bias_variance, hidden_bias_variance, form):
    checks.one_of(name, "form", form, FORMS)
    biases = _gates.finite(name, "reset_bias", reset_bias), _gates.finite(name, "update_bias", update_bias)
    noise = _gates.per_gate(name, "input_variance", input_variance, GATES)
    noise = noise + _gates.per_gate(name, "bias_variance", bias_variance, GATES)
    hidden = _domain.nonnegative(name, "hidden_bias_variance", hidden_bias_variance)
    if form == "reset_before" and (not checks.is_concrete(hidden) or bool((hidden > 0).any())):
        text = checks.message(
            name, "hidden_bias_variance", "is of the form 'reset_after'", expected="0 with 'reset_before'",
            hint="Add it to the candidate's bias_variance, which is the same there.",
        )  # fmt: skip
        raise ValueError(text)
    return (*biases, noise, hidden)


def _step(q: Array, theta: Any, form: str, points: int) -> tuple[Array, Array]:
    """(F(q), chi) at <h^2> = q."""
    weights, reset_bias, update_bias, noise, hidden = theta
    v_r, v_z, _ = weights * q + noise
    r, z = (_gates.sigmoid(b, v, GATE_POINTS[points]) for b, v in ((reset_bias, v_r), (update_bias, v_z)))
    count = CANDIDATE_POINTS[points]
    opened, closed = z.square, z.mean((1 - z.value) ** 2)
    keep, replace = (opened, closed) if form == "reset_after" else (closed, opened)
    if form == "reset_before":
        # the candidate's pre-activation W_n (r h): a perturbation of r h is r dh + h r' W_r dh
        n = _gates.tanh(weights[2] * r.square * q + noise[2], count)
        new = n.square
        passed = weights[2] * n.slope_square * (r.square + weights[0] * q * r.slope_square)
    else:
        # given r, a = x_n + r u is Gaussian of variance s, and u = W_n h + b_hn given a has mean r U a / s
        U = weights[2] * q + hidden
        s = noise[2] + r.value**2 * U
        n = jax.vmap(lambda s: _gates.tanh(s, count))(s)
        at, w = _gates.rule(count, q.dtype)
        new = r.mean(n.value**2 @ w)
        u_square = U + (r.value**2 * U * U / jnp.where(s > 0, s, 1))[:, None] * (at**2 - 1)
        by_candidate, by_reset = n.slope**2 @ w, (n.slope**2 * u_square) @ w
        passed = weights[2] * r.mean(r.value**2 * by_candidate) + weights[0] * r.mean(r.slope**2 * by_reset)
    chi = keep + weights[1] * z.slope_square * (q + new) + replace * passed
    return replace * new / (1 - keep), chi


def _fixed_point(theta: Any, form: str, points: int, newton: int) -> Array:
    at = lambda points: lambda q: _step(q, theta, form, points)[0]
    return _roots.attach_fixed_point(at(points), _roots.largest_fixed_point(at(ROUGH), OCTAVES), newton)


@functools.partial(jax.jit, static_argnums=1)
def _solve(theta: Any, form: str) -> GatedMeanField:
    q = _fixed_point(theta, form, FINE, 2)
    return _gates.nan_if_outside(theta, _gates.result(q, lambda q, points: _step(q, theta, form, points)))


@functools.partial(jax.jit, static_argnums=1)
def _critical(theta: Any, form: str) -> CriticalPoint:
    def chi(log, theta, points):
        ratio, *rest = theta
        theta = (jnp.exp(log) * ratio, *rest)
        return _step(_fixed_point(theta, form, points, 1), theta, form, points)[1]

    ratio, reset_bias, update_bias, noise, hidden = theta
    r, z = _gates.sigmoid(reset_bias, noise[0], FINE), _gates.sigmoid(update_bias, noise[1], FINE)
    opened, closed = z.square, z.mean((1 - z.value) ** 2)
    keep, replace = (opened, closed) if form == "reset_after" else (closed, opened)
    silent = jnp.where(noise[2] + hidden == 0, (1 - keep) / (replace * ratio[2] * r.square), jnp.inf)
    return critical_point(chi, theta, silent, ROUGH)


def critical_point(chi: Callable[[Array, Any, int], Array], theta: Any, silent: Array, search: int) -> CriticalPoint:
    """Where chi(log, theta, points) passes 1 from below, exp(log) between 1e-3 and 1e6, first by the rule `search`."""
    low, high = jnp.log(jnp.asarray([1e-3, 1e6], theta[0].dtype))
    near = _roots.bisect(lambda log: chi(log, theta, search) < 1, low, high, 22)
    smooth = _roots.attach(lambda log: chi(log, theta, FINE) - 1, near)
    continuous = jnp.abs(chi(*lax.stop_gradient((smooth, theta)), FINE) - 1) < TOLERANCE
    log = jnp.where(continuous, smooth, near)
    inside = (near > low + 1e-3) & (near < high - 1e-3)
    found = CriticalPoint(jnp.exp(log), silent, continuous)
    return _gates.nan_if_outside((theta, jnp.where(inside, 0.0, jnp.nan)), found)


def minimal_rnn(
    weight_variance: Any, *, update_bias: Any = 0.0, candidate_variance: Any = 0.0, input_variance: Any = 0.0
) -> GatedMeanField:
    """Mean field of the minimalRNN h' = u h + (1 - u) z, u = s(W h + x + b), with fresh weights and white z.

    <h^2> = <(1 - u)^2> <z^2> / (1 - <u^2>),    chi = <u^2> + weight_variance <u'^2> (<h^2> + <z^2>)

    Args:
        weight_variance: > 0, of W; scalar.
        update_bias: mean b of the gate's bias (the gate u keeps).
        candidate_variance: <z^2> >= 0, of the embedded input z, independent from step to step, of mean 0.
        input_variance: >= 0, what V z and a random bias add to the variance of the gate's pre-activation.

    Returns:
        A `GatedMeanField`.

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range.

    Reference: M. Chen, J. Pennington, S. S. Schoenholz, arXiv 1806.05394.

    Example:
        >>> net = minimal_rnn(4.0, candidate_variance=0.5, input_variance=1.0)
        >>> round(float(net.second_moment), 4), round(float(net.chi), 4)
        (0.232, 0.4266)
    """
    name = "theory.recurrent.minimal_rnn"
    theta = (
        _domain.positive(name, "weight_variance", weight_variance),
        _gates.finite(name, "update_bias", update_bias),
        _domain.nonnegative(name, "candidate_variance", candidate_variance),
        _domain.nonnegative(name, "input_variance", input_variance),
    )
    return _minimal(theta)


@jax.jit
def _minimal(theta: Any) -> GatedMeanField:
    def step(q, theta, points):
        weight, bias, z, noise = theta
        u = _gates.sigmoid(bias, weight * q + noise, points)
        chi = u.square + weight * u.slope_square * (q + z)
        return u.mean((1 - u.value) ** 2) * z / (1 - u.square), chi

    # z may be of any size: in units of <z^2>, where the fixed point is below 1
    scale = lax.stop_gradient(jnp.where(theta[2] > 0, theta[2], 1))
    found = _roots.largest_fixed_point(lambda q: step(q * scale, theta, COARSE)[0] / scale, range(1, -60, -2))
    q = _roots.attach_fixed_point(lambda q: step(q, theta, FINE)[0], found * scale)
    return _gates.nan_if_outside(theta, _gates.result(q, lambda q, points: step(q, theta, points)))
