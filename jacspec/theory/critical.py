"""The critical scales of every architecture by one name, for `jacspec.initializers.critical`."""

import math
from typing import Any

import jax.numpy as jnp

from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.theory import _domain, mean_field, recurrent

OWN = {
    "plain": (),
    "residual": ("depth",),
    "tanh_rnn": ("input_variance",),
    "gru": ("input_variance", "gate_bias"),
    "lstm": ("input_variance", "gate_bias"),
}
"""The architectures and the arguments that only some of them have."""


@pytree
class CriticalScales:
    """Variances at which an architecture neither forgets nor amplifies, in the limit of large width.

    Attributes:
        weight_variance: sigma_w^2, for W_ij ~ N(0, sigma_w^2 / n_in): `initializers.gaussian` with its root as gain.
        bias_variance: sigma_b^2.
        q_star: variance of the pre-activations there; None for gated cells.
        branch_scale: factor of a residual branch; 1 elsewhere.
        converged: False (and NaN) where there is no such point, or it is no stable one.
    """

    weight_variance: Any
    bias_variance: Any
    q_star: Any
    branch_scale: Any
    converged: Any


def critical(
    activation: Any = "tanh",
    *,
    bias_variance: Any = 0.0,
    architecture: str = "plain",
    depth: int | None = None,
    input_variance: Any = None,
    gate_bias: Any = None,
) -> CriticalScales:
    """The scales on the critical line chi = 1, where the mean squared gradient neither vanishes nor explodes.

        "plain"            sigma_w^2 E phi'(a)^2 = 1, a ~ N(0, q*)
        "tanh_rnn"         the same, with sigma_b^2 plus the variance of the input driving every step
        "residual"         x' = x + s (W phi(x) + b), W plain critical, s = depth^(-1/2): (1 + s^2)^depth < e
        "gru", "lstm"      one variance for all weights, given the bias of the gate that keeps

    Args:
        activation: name in the table, an `Activation`, or a smooth elementwise function; gated cells have their own.
        bias_variance: sigma_b^2 >= 0.
        architecture: one of the five; "gru" is the reset-after form.
        depth: number of residual branches, >= 1.
        input_variance: >= 0, what the input adds to the variance of the pre-activations of a recurrent network.
        gate_bias: bias of the update (GRU) or forget gate (LSTM), both of which keep where they are open.

    Returns:
        The `CriticalScales`.

    Raises:
        TypeError: for a depth that is no integer.
        ValueError: for an unknown architecture, a value out of range, or an argument that the architecture lacks.

    Reference: S. Schoenholz et al., arXiv 1611.01232.

    Example:
        >>> import jacspec.initializers as init
        >>> round(float(init.critical("relu").weight_variance), 12)
        2.0
        >>> round(float(init.critical("tanh", bias_variance=0.05).weight_variance), 7)
        1.7609546
    """
    name = "initializers.critical"
    checks.one_of(name, "architecture", architecture, OWN)
    given = {"depth": depth, "input_variance": input_variance, "gate_bias": gate_bias}
    for argument, value in given.items():
        if value is not None and argument not in OWN[architecture]:
            text = checks.message(name, argument, f"does not belong to architecture {architecture!r}", value, "None")
            raise ValueError(text)
    sb2 = _domain.nonnegative(name, "bias_variance", bias_variance)
    drive = _domain.nonnegative(name, "input_variance", 0.0 if input_variance is None else input_variance)
    one = jnp.ones_like(sb2)
    if architecture in ("gru", "lstm"):
        if activation != "tanh":
            raise ValueError(checks.message(name, "activation", "is not that of a gated cell", activation, "'tanh'"))
        keep = 0.0 if gate_bias is None else gate_bias
        if architecture == "gru":
            found = recurrent.gru_critical(update_bias=keep, input_variance=drive, bias_variance=sb2)
        else:
            found = recurrent.lstm_critical(forget_bias=keep, input_variance=drive, bias_variance=sb2)
        return CriticalScales(found.weight_variance, sb2, None, one, jnp.isfinite(found.weight_variance))
    point = mean_field.critical_weight_variance(activation, bias_variance=sb2 + drive)
    scale = one
    if architecture == "residual":
        scale = one / math.sqrt(checks.integer(name, "depth", depth, 1))
    return CriticalScales(point.weight_variance, sb2, point.q_star, scale, point.converged)
