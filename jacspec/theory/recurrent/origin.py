"""Shared weights at the silent state: eigenvalues fill a disc, and exponents are the logs of their moduli.

At the zero state of a network without input every step has the same Jacobian a I + (R / sigma) W, with eigenvalues
uniform in the disc of center a and radius R (circular law). The fraction u of exponents above ln s is the part of the
disc outside the circle of radius s about 0; the leading one is ln(a + R).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec.theory import _domain
from jacspec.theory.recurrent import _gates, _roots


def leaky_origin_spectrum(u: Any, gain: Any, leak: Any = 1.0) -> Array:
    """Lyapunov spectrum of h' = (1 - d) h + d W tanh(h) at h = 0, in units of the time constant.

    lambda = ln abs(1 - d + d mu) / d, mu uniform in the disc of radius g. d = 1: ln g + (1/2) ln(1 - u). d = 0, the flow
    h-dot = -h + W tanh(h): Re mu - 1, a semicircle of radius g about -1. Stable for g < 1.

    Args:
        u: 0 < u < 1, (i - 1/2) / n for the i-th of n exponents; any shape.
        gain: g > 0; scalar.
        leak: d, 0 <= d <= 1; scalar.

    Returns:
        Exponents of the shape of u, nats per time constant (per step for d = 1).

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range.

    Example:
        >>> [round(float(leaky_origin_spectrum(0.5, 0.9, d)), 4) for d in (1.0, 0.5, 0.0)]
        [-0.4519, -1.1424, -1.0]
    """
    name = "theory.leaky_origin_spectrum"
    gain = _domain.positive(name, "gain", gain)
    leak = _domain.within(name, "leak", leak, lambda v: (v >= 0) & (v <= 1), "0 <= leak <= 1")
    u = _fraction(name, u)
    flows = leak == 0
    d = jnp.where(flows, 1, leak)
    return jnp.where(flows, gain * _semicircle(u) - 1, _disc(u, (1 - d, d * gain)) / d)


def gru_origin_spectrum(u: Any, weight_variance: Any, *, reset_bias: Any = 0.0, keep_bias: Any = 0.0) -> Array:
    """Lyapunov spectrum of a GRU with shared weights at h = 0, without input: J = k I + (1 - k) r W_n.

    The leading exponent, u -> 0, is ln(k + (1 - k) r sigma_n), k = s(keep_bias), r = s(reset_bias): stability ends at
    sigma_n = 1 / r, whatever is kept.

    Args:
        u: 0 < u < 1; any shape.
        weight_variance: sigma_n^2 > 0, of the candidate's weights; scalar.
        reset_bias: bias of the reset gate.
        keep_bias: bias of the gate that keeps: that of z in Flax and cuDNN, minus that of z in Cho's form.

    Returns:
        Exponents of the shape of u, nats per step.

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range.

    Reference: K. Krishnamurthy, T. Can, D. J. Schwab, Phys. Rev. X 12 (2022) 011011, and arXiv 2002.00025, for gates
    and stability.

    Example:
        >>> round(float(gru_origin_spectrum(1e-9, 9.0, keep_bias=3.0)), 4)
        0.0234
    """
    name = "theory.gru_origin_spectrum"
    sigma = jnp.sqrt(_domain.positive(name, "weight_variance", weight_variance))
    keep, reset = _gates.finite(name, "keep_bias", keep_bias), _gates.finite(name, "reset_bias", reset_bias)
    radius = jax.nn.sigmoid(-keep) * jax.nn.sigmoid(reset) * sigma
    return _disc(_fraction(name, u), (jax.nn.sigmoid(keep), radius))


def lstm_origin_spectrum(
    u: Any, weight_variance: Any, *, input_bias: Any = 0.0, forget_bias: Any = 0.0, output_bias: Any = 0.0
) -> Array:
    """Lyapunov spectrum of an LSTM with shared weights at c = h = 0, without input: dc' = (f I + i o W_g) dc.

    These are n of the 2n exponents; h follows c, so the others are -inf. The leading one, u -> 0, is
    ln(f + i o sigma_g): stability ends at sigma_g = (1 - f) / (i o).

    Args:
        u: 0 < u < 1; any shape.
        weight_variance: sigma_g^2 > 0, of the candidate's weights; scalar.
        input_bias: bias of the input gate.
        forget_bias: bias of the forget gate.
        output_bias: bias of the output gate.

    Returns:
        Exponents of the shape of u, nats per step.

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range.

    Reference: T. Can, K. Krishnamurthy, D. J. Schwab, arXiv 2002.00025, for gates and stability.

    Example:
        >>> round(float(lstm_origin_spectrum(1e-9, 9.0)), 3)
        0.223
    """
    name = "theory.lstm_origin_spectrum"
    sigma = jnp.sqrt(_domain.positive(name, "weight_variance", weight_variance))
    biases = {"input_bias": input_bias, "forget_bias": forget_bias, "output_bias": output_bias}
    i, f, o = (jax.nn.sigmoid(_gates.finite(name, argument, value)) for argument, value in biases.items())
    return _disc(_fraction(name, u), (f, i * o * sigma))


def _fraction(name: str, u: Any) -> Array:
    return _domain.within(name, "u", u, lambda v: (v > 0) & (v < 1), "0 < u < 1")


def _lens(s: Array, center: Array, radius: Array) -> Array:
    """The part of the disc within the circle of radius s about 0, as a fraction of the disc."""
    contained, apart = s <= radius - center, s <= center - radius
    cut = ~contained & ~apart & (s < center + radius)
    a, s_cut = jnp.where(cut, center, 1), jnp.where(cut, s, radius)  # a triangle s, R, a with a = 1 would not close
    a = jnp.where(cut, a, radius)
    angle = lambda near, far: jnp.arccos(jnp.clip((a * a + near * near - far * far) / (2 * a * near), -1, 1))
    at_zero, at_center = angle(s_cut, radius), angle(radius, s_cut)
    area = s_cut**2 * (at_zero - jnp.sin(2 * at_zero) / 2) + radius**2 * (at_center - jnp.sin(2 * at_center) / 2)
    outside = jnp.where(apart, 0, jnp.where(contained, (s / radius) ** 2, 1))
    return jnp.where(cut, area / (jnp.pi * radius**2), outside)


@jax.jit
def _disc(u: Array, disc: Any) -> Array:
    """ln abs of the modulus that the fraction u of the disc (center, radius) exceeds."""
    residual = lambda s, theta: 1 - _lens(s, *theta[1]) - theta[0]
    low, high = lax.stop_gradient((jnp.maximum(disc[0] - disc[1], 0), disc[0] + disc[1]))
    fixed = lax.stop_gradient((u, disc))
    s = _roots.bisect(lambda s: residual(s, fixed), low + 0 * u, high + 0 * u, 60)
    return jnp.log(_roots.attach(residual, s, (u, disc)))


def _semicircle(u: Array) -> Array:
    """x with the fraction u of the semicircle law on [-1, 1] above it."""
    theta = _roots.bisect(
        # x = cos t: the fraction above is (t - sin(2 t) / 2) / pi
        lambda t: lax.stop_gradient(u) - (t - jnp.sin(2 * t) / 2) / jnp.pi, jnp.zeros_like(u), jnp.full_like(u, jnp.pi), 60
    )  # fmt: skip
    return jnp.cos(_roots.attach(lambda t, u: u - (t - jnp.sin(2 * t) / 2) / jnp.pi, theta, u))
