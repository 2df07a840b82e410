"""LSTM with fresh weights: the cell's law through its characteristic function, chi as an eigenvalue.

The cell is a random recursion c' = f c + w, w = i g, with gates drawn anew at every step. Its law is not Gaussian, but
p(k) = <cos k c> obeys

    p(k) = <cos k w> <p(f k)>_f,

in which only smaller k appear. <tanh^2 c> and <sech^4 c> are integrals of p against k / sinh(pi k / 2), which needs p up
to k = 28 only and never a density. A perturbation carries the measure m(dc) = <dc^2; c> and the number <dh^2>, because
its size and the cell's are correlated; the measure moves by the same kind of equation. Step by step:
docs/gated_mean_field.md.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground import lapack
from jacspec.theory import _roots
from jacspec.theory.recurrent import _gates
from jacspec.theory.recurrent._gates import COARSE, FINE, ROUGH, CriticalPoint, GatedMeanField
from jacspec.theory.recurrent.gru import OCTAVES, critical_point

GATES = ("input", "forget", "candidate", "output")
LAST_K = 28.0
"""k / sinh(pi k / 2) is 1e-17 there."""

DEGREES = {FINE: 64, COARSE: 48, ROUGH: 18}
"""Terms of the interpolant in k, by the rule of the gates that it goes with."""

CELL_POINTS = {FINE: 97, COARSE: 81, ROUGH: 33}
"""Nodes over each gate's pre-activation, by the rule; the candidate has twice as many. Fewer than a GRU: they enter in pairs."""


def lstm(
    weight_variance: Any,
    *,
    input_bias: Any = 0.0,
    forget_bias: Any = 0.0,
    output_bias: Any = 0.0,
    input_variance: Any = 0.0,
    bias_variance: Any = 0.0,
) -> GatedMeanField:
    """Mean field of an LSTM whose weights are drawn anew at every step: <h^2>, <c^2>, chi and (1/2) ln chi.

    c' = f c + i g,    h' = o tanh(c'),    gates of pre-activation W h + x + b, W_ij ~ N(0, weight_variance / n).
    chi is the growth of the squared norm of a perturbation (dc, dh), correlations of dc with c included. Shared weights
    deviate where the forget gate keeps for long: `lstm_origin_spectrum`, docs/gated_mean_field.md.

    Args:
        weight_variance: > 0, one number or (4,): input, forget, candidate, output.
        input_bias: mean bias of the input gate.
        forget_bias: mean bias of the forget gate.
        output_bias: mean bias of the output gate.
        input_variance: >= 0, of U x, one number or (4,).
        bias_variance: >= 0, of the biases about their means, one number or (4,); it adds to the input's.

    Returns:
        A `GatedMeanField` at the largest fixed point.

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range.

    Reference: derived in docs/gated_mean_field.md, in the setting of D. Gilboa et al., arXiv 1901.08987.

    Example:
        >>> net = lstm(10.0, forget_bias=1.0)
        >>> round(float(net.second_moment), 4), round(float(net.chi), 4)
        (0.0148, 1.0478)
    """
    name = "theory.recurrent.lstm"
    theta = _parameters(name, input_bias, forget_bias, output_bias, input_variance, bias_variance)
    weights = _gates.per_gate(name, "weight_variance", weight_variance, GATES, positive=True)
    return _solve((weights, *theta))


def lstm_critical(
    *,
    input_bias: Any = 0.0,
    forget_bias: Any = 0.0,
    output_bias: Any = 0.0,
    input_variance: Any = 0.0,
    bias_variance: Any = 0.0,
    ratio: Any = 1.0,
) -> CriticalPoint:
    """The weight variance on the critical line chi = 1 of `lstm`, all gates in fixed proportion.

    Where nothing but h drives the candidate there is a silent state, c = h = 0, stable up to

        <1 - f^2> / (<i^2> <o^2>)    for the ratio 1 of the candidate

    (with shared weights and fixed biases up to (1 - f)^2 / (i o)^2).

    Args:
        input_bias: as in `lstm`.
        forget_bias: as in `lstm`.
        output_bias: as in `lstm`.
        input_variance: as in `lstm`.
        bias_variance: as in `lstm`.
        ratio: > 0, one number or (4,): the weight variance of the gates is the result times this.

    Returns:
        A `CriticalPoint`.

    Raises:
        TypeError: for what is no real number.
        ValueError: for parameters out of range.

    Example:
        >>> round(float(lstm_critical(forget_bias=1.0).weight_variance), 4)
        7.4489
    """
    name = "theory.recurrent.lstm_critical"
    theta = _parameters(name, input_bias, forget_bias, output_bias, input_variance, bias_variance)
    return _critical((_gates.per_gate(name, "ratio", ratio, GATES, positive=True), *theta))


def _parameters(name, input_bias, forget_bias, output_bias, input_variance, bias_variance):
    biases = {"input_bias": input_bias, "forget_bias": forget_bias, "output_bias": output_bias}
    noise = _gates.per_gate(name, "input_variance", input_variance, GATES)
    noise = noise + _gates.per_gate(name, "bias_variance", bias_variance, GATES)
    return (*(_gates.finite(name, argument, value) for argument, value in biases.items()), noise)


class _Grid(NamedTuple):
    """Nodes in k for even functions, k = s sinh(T x), x in [0, 1], as their Chebyshev series in x."""

    k: Array
    scale: Array
    end: Array
    integral: Array  # weights of the integral over k from 0 to LAST_K

    def pulled_back(self, f: Array, weights: Array) -> Array:
        """The matrix of p -> sum_m weights[., m] p(f_m k): (rows of weights, nodes, nodes)."""
        degree = self.k.shape[0] - 1
        x = jnp.arcsinh(f * self.k[:, None] / self.scale) / self.end
        angle = jnp.arccos(jnp.minimum(x, 1 - 16 * jnp.finfo(x.dtype).eps))
        basis = jnp.cos(2 * angle[..., None] * jnp.arange(degree + 1))
        return jnp.einsum("am,kmn->akn", weights, basis) @ _series(degree)[0].astype(self.k.dtype)


def _series(degree: int) -> tuple[Array, Array]:
    """From values at x_j = cos(pi j / 2N) to coefficients of T_2n, and the integral of the series over [0, 1]."""
    n = np.arange(degree + 1)
    inverse = np.linalg.inv(np.cos(np.pi * np.outer(n, n) / degree))
    return jnp.asarray(inverse), jnp.asarray((1 / (1 - 4.0 * n**2)) @ inverse)


def _grid(cell: Array, degree: int) -> _Grid:
    """A grid that is fine where p varies, on the scale 1 / sqrt(1 + <c^2>)."""
    scale = lax.stop_gradient(1 / jnp.sqrt(1 + cell))
    end = jnp.arcsinh(LAST_K / scale)
    x = jnp.asarray(np.cos(np.pi * np.arange(degree + 1) / (2 * degree)), cell.dtype).at[-1].set(0)
    k = scale * jnp.sinh(end * x)
    return _Grid(k, scale, end, _series(degree)[1].astype(cell.dtype) * end * scale * jnp.cosh(end * x))


def _step(q: Array, theta: Any, points: int, *, with_chi: bool = True) -> tuple[Array, Array, Array]:
    """(F(q), chi, <c^2>) at <h^2> = q; chi is 0 without `with_chi`."""
    weights, input_bias, forget_bias, output_bias, noise = theta
    v_i, v_f, v_g, v_o = weights * q + noise
    count = CELL_POINTS[points]
    i, f, o = (_gates.sigmoid(b, v, count) for b, v in ((input_bias, v_i), (forget_bias, v_f), (output_bias, v_o)))
    g = _gates.tanh(v_g, 2 * count - 1)
    cell = i.square * g.square / (1 - f.square)
    grid = _grid(cell, DEGREES[points])
    k = grid.k

    rows = jnp.stack([f.weights, f.weights * f.value**2, f.weights * f.slope**2])
    at_f, at_f_kept, at_f_moved = grid.pulled_back(f.value, rows)
    positive = slice(count - 1, None)  # g is odd
    w = i.value[:, None] * g.value[positive]
    mass = i.weights[:, None] * (2 * g.weights[positive]).at[0].divide(2)
    phase = k[:, None, None] * w
    cosine = jnp.cos(phase)
    over = lambda wave, factor: jnp.einsum("kig,ig->k", wave, mass * factor)
    even = over(cosine, 1.0)
    identity = jnp.eye(k.size, dtype=k.dtype)
    # p(k) = <cos k w> <p(f k)>, solved for 1 - p, which keeps its digits where the cell is small. The row at k = 0 is trivial
    missing = over(2 * jnp.sin(phase / 2) ** 2, 1.0).at[-1].set(0)
    gone = lapack.solve((identity - even[:, None] * at_f).at[-1].set(identity[-1]), missing)
    p = 1 - gone
    # sech^2 c = int_0^inf k / sinh(pi k / 2) cos(k c) dk,   6 sech^4 = 4 sech^2 - (sech^2)''
    sech2 = grid.integral * jnp.where(k > 0, k, 2 / np.pi) / jnp.where(k > 0, jnp.sinh(jnp.pi * k / 2), 1)
    tanh_square = sech2 @ gone
    output = o.square * tanh_square
    if not with_chi:
        return output, jnp.zeros_like(q), cell

    # t(k) = <c sin k c> / k and c2(k) = <c^2 cos k c>, by differentiating the equation of p
    kept = even[:, None] * at_f_kept
    odd, second = over(jnp.sinc(phase / jnp.pi), w**2), over(cosine, w**2)
    t = lapack.solve(identity - kept, odd * (at_f @ p))
    c2 = lapack.solve(identity - kept, second * (at_f @ p) - 2 * k**2 * odd * (at_f_kept @ t))
    # what dh^2 = 1 adds to the measure of dc^2
    through_w = weights[0] * (i.slope**2)[:, None] * g.value[positive] ** 2
    through_w = through_w + weights[2] * (i.value**2)[:, None] * g.slope[positive] ** 2
    source = weights[1] * even * (at_f_moved @ c2) + over(cosine, through_w) * (at_f @ p)

    direct = weights[3] * o.slope_square * tanh_square
    sech4 = o.square * sech2 * (4 + k**2) / 6

    def secular(chi):
        """1 = direct / chi + sech4 (chi - kept)^-1 source, decreasing in chi above <f^2>."""
        return direct / chi + sech4 @ lapack.solve(chi * identity - kept, source) - 1

    high = f.square + direct + o.square * source[-1]  # the trace of the two by two matrix with sech^4 <= 1
    return output, _roots.falling_root(secular, f.square, high + 1e-6, 48), cell


def _fixed_point(theta: Any, points: int, newton: int = 2) -> Array:
    at = lambda points: lambda q: _step(q, theta, points, with_chi=False)[0]
    return _roots.attach_fixed_point(at(points), _roots.largest_fixed_point(at(ROUGH), OCTAVES), newton)


@jax.jit
def _solve(theta: Any) -> GatedMeanField:
    q = _fixed_point(theta, FINE)
    return _gates.nan_if_outside(theta, _gates.result(q, lambda q, points: _step(q, theta, points)))


@jax.jit
def _critical(theta: Any) -> CriticalPoint:
    def chi(log, theta, points):
        ratio, *rest = theta
        theta = (jnp.exp(log) * ratio, *rest)
        return _step(_fixed_point(theta, points, 1), theta, points)[1]

    ratio, *biases, noise = theta
    i, f, o = (_gates.sigmoid(b, v, FINE) for b, v in zip(biases, noise[jnp.array([0, 1, 3])], strict=True))
    silent = (1 - f.square) / (i.square * o.square * ratio[2])
    return critical_point(chi, theta, jnp.where(noise[2] == 0, silent, jnp.inf), ROUGH)
