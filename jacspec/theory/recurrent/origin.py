"""Shared weights at the silent state: eigenvalues fill a disc, and exponents are the logs of their moduli.

At the zero state of a network without input every step has the same Jacobian a I + (R / sigma) W, with eigenvalues
uniform in the disc of center a and radius R (circular law). The fraction u of exponents above ln s is the part of the
disc outside the circle of radius s about 0; the leading one is ln(a + R).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground.primitives import Primitive
from jacspec.theory import _domain, _roots
from jacspec.theory.recurrent import _gates


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
    name = "theory.recurrent.leaky_origin_spectrum"
    gain = _domain.positive(name, "gain", gain)
    leak = _domain.within(name, "leak", leak, lambda v: (v >= 0) & (v <= 1), "0 <= leak <= 1")
    u = _fraction(name, u)
    flows = leak == 0
    d = jnp.where(flows, 1, leak)
    return jnp.where(flows, gain * _semicircle(u) - 1, _disc(u, d, d * gain) / d)


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
    name = "theory.recurrent.gru_origin_spectrum"
    sigma = jnp.sqrt(_domain.positive(name, "weight_variance", weight_variance))
    keep, reset = _gates.finite(name, "keep_bias", keep_bias), _gates.finite(name, "reset_bias", reset_bias)
    radius = jax.nn.sigmoid(-keep) * jax.nn.sigmoid(reset) * sigma
    return _disc(_fraction(name, u), jax.nn.sigmoid(-keep), radius)


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
    name = "theory.recurrent.lstm_origin_spectrum"
    sigma = jnp.sqrt(_domain.positive(name, "weight_variance", weight_variance))
    biases = {"input_bias": input_bias, "forget_bias": forget_bias, "output_bias": output_bias}
    i, f, o = (_gates.finite(name, argument, value) for argument, value in biases.items())
    return _disc(_fraction(name, u), jax.nn.sigmoid(-f), jax.nn.sigmoid(i) * jax.nn.sigmoid(o) * sigma)


def _fraction(name: str, u: Any) -> Array:
    return _domain.within(name, "u", u, lambda v: (v > 0) & (v < 1), "0 < u < 1")


def _cubic(v: Array) -> Array:
    """(v - sin v) / v^3."""
    series = jnp.ones_like(v)
    for k in range(18, 3, -2):  # 1 - v^2 / (4 5) (1 - v^2 / (6 7) (...))
        series = 1 - v * v / (k * (k + 1)) * series
    small = v < 1
    large = jnp.where(small, 1, v)
    return jnp.where(small, series / 6, (large - jnp.sin(large)) / large**3)


@Primitive
def _outside(z: Array, c: Array) -> Array:
    """The part of the unit disc outside the circle of radius c + z about -c; the two cut at x = z - (1 - z^2) / (2 c).

    What a chord cuts off, at the half angle t seen from the center, is r^2 (2 t - sin 2 t) / 2.
    """
    at_zero, at_center = _angles(z, c)
    return (
        4 / jnp.pi * (at_center**3 * _cubic(2 * at_center) - (at_zero * (c + z)) ** 2 * at_zero * _cubic(2 * at_zero))
    )


@_outside.defjvp
def _(point, tangents):
    (z, c), (dz, dc) = point, tangents
    t = _angles(z, c)[0]
    arc = -2 / jnp.pi * (c + z) * t
    return _outside(z, c), arc * (dz + t**2 * _cubic(t) * dc)


def _angles(z: Array, c: Array) -> tuple[Array, Array]:
    """Half the angles at which the two points where the circles meet are seen from -c and from 0."""
    right, left = (1 - z) * (1 + (1 + z) / (2 * c)), (1 + z) * (1 - (1 - z) / (2 * c))  # 1 - x, 1 + x
    y = jnp.sqrt(jnp.maximum(right, 0) * jnp.maximum(left, 0))
    x = jnp.where(left < right, left - 1, 1 - right)
    return jnp.arctan2(y, c + x), jnp.arctan2(y, x)


@jax.jit
def _disc(u: Array, loss: Array, radius: Array) -> Array:
    """ln abs of the modulus that the fraction u of the disc of center a = 1 - loss exceeds.

    It is a + R z, with z the position in the disc: to the accuracy of R, however small it is beside a.
    """
    center = 1 - loss
    c = jnp.minimum(center / radius, jnp.finfo(u.dtype).eps ** -2.0) + 0 * u
    contained = jnp.sqrt(1 - u) <= 1 - c
    safe = jnp.where(contained, 1, c)
    z = _roots.falling_root(lambda z: _outside(z, safe) - u, jnp.maximum(-1, 1 - 2 * safe), jnp.ones_like(u))
    rise = radius * z - loss
    near = jnp.abs(rise) < 0.5
    cut = jnp.where(near, jnp.log1p(jnp.where(near, rise, 0)), jnp.log(jnp.where(near, 1, 1 + rise)))
    return jnp.where(contained, jnp.log(radius) + jnp.log1p(-u) / 2, cut)


def _semicircle(u: Array) -> Array:
    """x with the fraction u of the semicircle law on [-1, 1] above it."""
    below = lambda t: u - (t - jnp.sin(2 * t) / 2) / jnp.pi  # x = cos t: the fraction above is (t - sin(2 t) / 2) / pi
    return jnp.cos(_roots.falling_root(below, jnp.zeros_like(u), jnp.full_like(u, jnp.pi)))
