"""Derivatives of gated cells with one unit, written out, and the time constants of their gates.

s is the logistic function. `weights` are recurrent weights of the gates, `inputs` what inputs and biases add to the
gates' pre-activations a = w h + input. Slopes are functions of a, never of the saturated output.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid as s

from jacspec._ground import checks
from jacspec.activations import TABLE
from jacspec.theory import _domain
from jacspec.theory.scalar.tanh import TANH_PEAK

ds, dtanh = TABLE["sigmoid"].derivative, TABLE["tanh"].derivative

Numbers = Sequence[Array | float] | Array


class Step(NamedTuple):
    """The next state h' and dh'/dh."""

    state: Array
    derivative: Array


class LSTMStep(NamedTuple):
    """The next h and c, the Jacobian d(h', c')/d(h, c), (..., 2, 2), and log abs of its determinant."""

    h: Array
    c: Array
    jacobian: Array
    log_determinant: Array


def gate_time_constant(bias: Array | float) -> Array:
    """tau = -1 / ln s(b): the time in which a forget (keep) gate held at s(b) lets memory decay by e.

    Args:
        bias: pre-activation b of the gate, any shape.

    Returns:
        Steps.

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> [round(float(scalar.gate_time_constant(b)), 3) for b in (0, 1, 2, 5)]
        [1.443, 3.192, 7.878, 148.913]
    """
    b = _domain.within("theory.scalar.gate_time_constant", "bias", bias, jnp.isfinite, "a finite number")
    return 1 / jax.nn.softplus(-b)


def gate_bias(time_constant: Array | float) -> Array:
    """b = -ln(e^(1/tau) - 1) = -1/tau - ln(1 - e^(-1/tau)), the inverse of `gate_time_constant`: about ln tau for long memories.

    Args:
        time_constant: tau > 0, steps, any shape.

    Returns:
        Pre-activation of the gate.

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is not positive and finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.gate_bias(100.0)), 4)
        4.6002
    """
    rate = 1 / _domain.positive("theory.scalar.gate_bias", "time_constant", time_constant)
    return -rate - jnp.log(-jnp.expm1(-rate))


def leaky_time_constant(leak: Array | float) -> Array:
    """tau = -1 / ln(1 - a) of h' = (1 - a) h + ...

    Args:
        leak: a in (0, 1), any shape.

    Returns:
        Steps.

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is outside (0, 1).

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.leaky_time_constant(0.1)), 4)
        9.4912
    """
    inside = lambda a: (a > 0) & (a < 1)
    return -1 / jnp.log1p(-_domain.within("theory.scalar.leaky_time_constant", "leak", leak, inside, "0 < leak < 1"))


def gru_reset_before(h: Array | float, weights: Numbers, inputs: Numbers) -> Step:
    """Cho's GRU, in which 1 - z keeps: h' = (1 - z) h + z n, n = tanh(w_n r h + input).

    dh'/dh = (1 - z) + (n - h) z (1 - z) w_z + z (1 - n^2) w_n r (1 + (1 - r) h w_r)

    Args:
        h: state.
        weights: w_r, w_z, w_n.
        inputs: of r, z, n.

    Returns:
        The next state and the derivative.

    Raises:
        TypeError: for what is no real number.
        ValueError: for numbers that are not finite, or not three of them.

    Reference: K. Cho et al., arXiv 1406.1078.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.gru_reset_before(0.5, (1.0, 1.0, 1.0), (0.0, -30.0, 0.0)).derivative), 9)
        1.0
    """
    h, (wr, wz, wn), (xr, xz, xn) = _numbers("gru_reset_before", h, weights, inputs, 3)
    ar, az = wr * h + xr, wz * h + xz
    r, z = s(ar), s(az)
    an = wn * r * h + xn
    n = jnp.tanh(an)
    derivative = s(-az) + (n - h) * ds(az) * wz + z * dtanh(an) * wn * r * (1 + s(-ar) * h * wr)
    return Step(s(-az) * h + z * n, derivative)


def gru_reset_after(h: Array | float, weights: Numbers, inputs: Numbers, bias: Array | float = 0.0) -> Step:
    """The GRU of Flax, PyTorch and cuDNN, in which z keeps: h' = (1 - z) n + z h, n = tanh(r (w_n h + b) + input).

    dh'/dh = z + (h - n) z (1 - z) w_z + (1 - z) (1 - n^2) (r w_n + (w_n h + b) r (1 - r) w_r)

    Args:
        h: state.
        weights: w_r, w_z, w_n.
        inputs: of r, z, n.
        bias: b, inside the reset gate's reach.

    Returns:
        The next state and the derivative.

    Raises:
        TypeError: for what is no real number.
        ValueError: for numbers that are not finite, or not three of them.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.gru_reset_after(0.5, (1.0, 1.0, 1.0), (0.0, 30.0, 0.0)).derivative), 9)
        1.0
    """
    h, (wr, wz, wn), (xr, xz, xn) = _numbers("gru_reset_after", h, weights, inputs, 3)
    b = _domain.within("theory.scalar.gru_reset_after", "bias", bias, jnp.isfinite, "a finite number")
    ar, az, u = wr * h + xr, wz * h + xz, wn * h + b
    r, z = s(ar), s(az)
    an = r * u + xn
    n = jnp.tanh(an)
    derivative = z + (h - n) * ds(az) * wz + s(-az) * dtanh(an) * (r * wn + u * ds(ar) * wr)
    return Step(s(-az) * n + z * h, derivative)


def lstm(h: Array | float, c: Array | float, weights: Numbers, inputs: Numbers) -> LSTMStep:
    """c' = f c + i g, h' = o tanh c', and the Jacobian in the order (h, c).

    [[o tanh'(c') A + tanh(c') o (1 - o) w_o, o tanh'(c') f], [A, f]],
    A = c f (1 - f) w_f + g i (1 - i) w_i + i (1 - g^2) w_g,    det = f tanh(c') o (1 - o) w_o

    Args:
        h: hidden state.
        c: cell state.
        weights: w_i, w_f, w_g, w_o.
        inputs: of i, f, g, o.

    Returns:
        An `LSTMStep`; its mean log determinant over time is the sum of the two Lyapunov exponents.

    Raises:
        TypeError: for what is no real number.
        ValueError: for numbers that are not finite, or not four of them.

    Reference: S. Hochreiter, J. Schmidhuber, Neural Computation 9 (1997) 1735; F. A. Gers et al., Neural Computation 12
        (2000) 2451 (forget gate).

    Example:
        >>> from jacspec.theory import scalar
        >>> step = scalar.lstm(0.1, 0.5, (1.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 0.0))
        >>> round(float(step.log_determinant), 6)
        -2.584473
    """
    h, w, x = _numbers("lstm", h, weights, inputs, 4)
    c = _domain.within("theory.scalar.lstm", "c", c, jnp.isfinite, "a finite number")
    a = [gate * h + drive for gate, drive in zip(w, x, strict=True)]
    f, o = s(a[1]), s(a[3])
    forward = f * c + s(a[0]) * jnp.tanh(a[2])
    A = _through_h(c, w[:3], a[:3]).sum(axis=0)
    out = o * dtanh(forward)
    rows = (out * A + jnp.tanh(forward) * ds(a[3]) * w[3], out * f), (A, f)
    jacobian = jnp.stack([jnp.stack(jnp.broadcast_arrays(*row), axis=-1) for row in rows], axis=-2)
    log_ds = TABLE["sigmoid"].log_derivative(a[3])[0]
    log_det = jax.nn.log_sigmoid(a[1]) + jnp.log(jnp.abs(jnp.tanh(forward))) + log_ds + jnp.log(jnp.abs(w[3]))
    return LSTMStep(o * jnp.tanh(forward), forward, jacobian, log_det)


def lstm_four_terms(c: Array | float, output: Array | float, weights: Numbers, inputs: Numbers) -> Array:
    """The four terms of dc'/dc with the previous output gate held fixed, h = o tanh c.

    f + (c f (1 - f) w_f + g i (1 - i) w_i + i (1 - g^2) w_g) o (1 - tanh^2 c). Exact for one step; products of it are not
    dc_T/dc_0, because o depends on the state before.

    Args:
        c: previous cell state.
        output: previous output gate o in [0, 1].
        weights: w_i, w_f, w_g.
        inputs: of i, f, g.

    Returns:
        (4, ...): the terms of the forget gate alone, w_f, w_i and w_g.

    Raises:
        TypeError: for what is no real number.
        ValueError: for numbers that are not finite, not three of them, or an output gate outside [0, 1].

    Example:
        >>> from jacspec.theory import scalar
        >>> terms = scalar.lstm_four_terms(0.5, 0.5, (0.0, 0.0, 0.0), (0.0, 1.0, 0.0))
        >>> [round(float(term), 4) for term in terms]
        [0.7311, 0.0, 0.0, 0.0]
    """
    name = "theory.scalar.lstm_four_terms"
    o = _domain.within(name, "output", output, lambda o: (o >= 0) & (o <= 1), "0 <= output <= 1")
    c, w, x = _numbers("lstm_four_terms", c, weights, inputs, 3, "c")
    a = [gate * o * jnp.tanh(c) + drive for gate, drive in zip(w, x, strict=True)]
    through = _through_h(c, w, a) * o * dtanh(c)
    return jnp.stack(jnp.broadcast_arrays(s(a[1]), through[1], through[0], through[2]))


def lstm_secondary_bound(w: Array | float) -> Array:
    """abs(c f (1 - f) o (1 - tanh^2 c) w_f) <= 0.4477 / 4 abs w_f = 0.112 abs w_f: the forget gate's second term.

    Args:
        w: w_f, any shape.

    Returns:
        The bound.

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is not finite.

    Example:
        >>> from jacspec.theory import scalar
        >>> round(float(scalar.lstm_secondary_bound(1.0)), 6)
        0.111936
    """
    w = _domain.within("theory.scalar.lstm_secondary_bound", "w", w, jnp.isfinite, "a finite number")
    return 0.25 * TANH_PEAK * jnp.abs(w)


def _through_h(c, w, a):
    """dc'/dh by the gates i, f, g, (3, ...)."""
    i, g = s(a[0]), jnp.tanh(a[2])
    return jnp.stack(jnp.broadcast_arrays(g * ds(a[0]) * w[0], c * ds(a[1]) * w[1], i * dtanh(a[2]) * w[2]))


def _numbers(function, state, weights, inputs, count, argument="h"):
    """The state, and the weights and inputs of `count` gates."""
    name = f"theory.scalar.{function}"
    finite = lambda key, value: _domain.within(name, key, value, jnp.isfinite, "a finite number")
    for key, value in (("weights", weights), ("inputs", inputs)):
        if len(value) != count:
            raise ValueError(checks.message(name, key, "has the wrong length", len(value), f"{count} gates"))
    return finite(argument, state), [finite("weights", w) for w in weights], [finite("inputs", x) for x in inputs]
