"""Bifurcations of one unit, and the wall that they put into an error surface.

Pascanu's convention, x_t = w s(x_{t-1}) + b with the logistic s: for w > 4 there are three fixed points between two
folds, and the middle one, unstable, divides the starts. An error after T steps jumps where the start x_0 is that point:

    b = x_0 - w s(x_0),    w > 1 / s'(x_0),    dx_T/dx_0 = (w s'(x_0))^T on the wall.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import sigmoid as s

from jacspec._ground import checks
from jacspec.activations import TABLE
from jacspec.theory import _domain, _roots

ds = TABLE["sigmoid"].derivative
_SERIES = [2 * k / (2 * k + 1) for k in range(18, 0, -1)]
"""Coefficients of y / (1 - y^2) - artanh y in odd powers of y from y^3, highest first."""


class Folds(NamedTuple):
    """Saddle-node bifurcations: biases, the larger first, and states, (2, ...)."""

    bias: Array
    state: Array


class Wall(NamedTuple):
    """Where the error surface jumps.

    Attributes:
        bias: b on the wall.
        log_slope: ln(w s'(x_0)) > 0, nats per step by which the state's derivative grows there.
        error_below: the error at long times just below the wall (smaller b).
        error_above: just above.
    """

    bias: Array
    log_slope: Array
    error_below: Array
    error_above: Array


def sigmoid_folds(w: Array | float) -> Folds:
    """The two folds of x = w s(x) + b, where w s'(x) = 1: s = (1 -+ sqrt(1 - 4/w)) / 2, b = logit(s) - w s.

    Args:
        w: recurrent weight > 4, any shape.

    Returns:
        `Folds`; between the two biases there are three fixed points, outside there is one.

    Raises:
        TypeError: if w is no real number.
        ValueError: for w <= 4.

    Reference: K. Doya, IEEE Int. Symp. Circuits and Systems 1992; R. Pascanu et al., arXiv 1211.5063, figure 3.

    Example:
        >>> from jacspec.theory import scalar
        >>> [round(float(b), 6) for b in scalar.sigmoid_folds(5.0).bias]
        [-2.34439, -2.65561]
    """
    return _folds(_above_four("sigmoid_folds", w))


def sigmoid_fixed_points(w: Array | float, b: Array | float) -> Array:
    """The fixed points of x = w s(x) + b: lower (stable), middle (unstable), upper (stable).

    Args:
        w: recurrent weight > 4; up to there the fixed point is unique.
        b: bias.

    Returns:
        (3, ...), ascending; NaN for those that do not exist beyond a fold.

    Raises:
        TypeError: for what is no real number.
        ValueError: for w <= 4 or a bias that is not finite.

    Reference: R. Pascanu et al., arXiv 1211.5063, figure 3.

    Example:
        >>> from jacspec.theory import scalar
        >>> [round(float(x), 6) + 0.0 for x in scalar.sigmoid_fixed_points(5.0, -2.5)]
        [-1.776029, 0.0, 1.776029]
    """
    w = _above_four("sigmoid_fixed_points", w)
    b = _domain.within("theory.scalar.sigmoid_fixed_points", "b", b, jnp.isfinite, "a finite number")
    w, b = jnp.broadcast_arrays(w, b)
    return _fixed_points(w, b)


def wall(
    w: Array | float,
    *,
    start: Array | float = 0.5,
    target: Array | float = 0.7,
    offset: Array | float = 0.0,
    steps: int | None = None,
) -> Wall:
    """The wall of E = (s(x_T) - target)^2, x_t = w s(x_{t-1}) + b: b = x_0 - w s(x_0) for w > 1 / s'(x_0).

    x_0 is the unstable fixed point there, so that x_T goes to the lower fixed point below and to the upper one above.

    Args:
        w: recurrent weight > 1 / s'(start), 4.2552 for the start 0.5.
        start: x_0.
        target: what s(x_T) is compared with.
        offset: >= 0, distance in b from the wall at which the errors are taken.
        steps: T; None for T -> infinity.

    Returns:
        A `Wall`; its errors are NaN where `offset` leads beyond a fold, if T is infinite.

    Raises:
        TypeError: for what is no real number, or steps that are no integer.
        ValueError: for w <= 1 / s'(start), a negative offset, negative steps or numbers that are not finite.

    Reference: R. Pascanu et al., arXiv 1211.5063, eq. (8) and figure 6 (50 steps).

    Example:
        >>> from jacspec.theory import scalar
        >>> found = scalar.wall(6.0)
        >>> round(float(found.bias), 6), round(float(found.error_below), 5), round(float(found.error_above), 5)
        (-3.234756, 0.42166, 0.03738)
    """
    name = "theory.scalar.wall"
    x = _domain.within(name, "start", start, jnp.isfinite, "a finite number")
    target = _domain.within(name, "target", target, jnp.isfinite, "a finite number")
    offset = _domain.nonnegative(name, "offset", offset)
    inside = lambda w: (w * ds(x) > 1) & jnp.isfinite(w)
    w = _domain.within(name, "w", w, inside, "w > 1/s'(start), 4.2552 for the start 0.5")
    w, x, offset = jnp.broadcast_arrays(w, x, offset)
    bias = x - w * s(x)
    error = lambda x: (s(x) - target) ** 2
    if steps is None:
        lower, upper = _fixed_points(w, bias - offset)[0], _fixed_points(w, bias + offset)[2]
    else:
        steps = checks.integer(name, "steps", steps, 0)
        either = bias + jnp.stack([-offset, offset])
        lower, upper = _after(steps, w, either, jnp.stack([x, x]))
    return Wall(bias, jnp.log(w * ds(x)), error(lower), error(upper))


def latching_threshold(w: Array | float) -> Array:
    """The input that unlatches a_t = tanh(w a_{t-1} + h): h* = w y - artanh y, y = sqrt(1 - 1/w).

    For abs h < h* the unit keeps its sign for ever, beyond it flips.

    Args:
        w: recurrent weight > 1, any shape.

    Returns:
        h*, of relative precision eps also near w = 1, where it is (2/3) (w - 1)^(3/2).

    Raises:
        TypeError: if w is no real number.
        ValueError: for w <= 1.

    Reference: Y. Bengio, P. Simard, P. Frasconi, IEEE Trans. Neural Networks 5 (1994) 157.

    Example:
        >>> from jacspec.theory import scalar
        >>> [round(float(scalar.latching_threshold(w)), 7) for w in (1.25, 5.0)]
        [0.0778052, 3.0285005]
    """
    inside = lambda w: (w > 1) & jnp.isfinite(w)
    w = _domain.within("theory.scalar.latching_threshold", "w", w, inside, "w > 1")
    y = jnp.sqrt((w - 1) / w)
    small = jnp.minimum(y, 0.3)  # y / (1 - y^2) - artanh y, in powers of y
    series = jnp.polyval(jnp.asarray([*_SERIES, 0.0], y.dtype), small**2) * small
    return jnp.where(y < 0.3, series, w * y - jnp.log1p(y) - 0.5 * jnp.log(w))


@functools.partial(jax.jit, static_argnums=0)
def _after(steps, w, b, x):
    return lax.fori_loop(0, steps, lambda _, x: w * s(x) + b, x)


def _above_four(function, w):
    return _domain.within(f"theory.scalar.{function}", "w", w, lambda w: (w > 4) & jnp.isfinite(w), "w > 4")


def _folds(w):
    high = 0.5 * (1 + jnp.sqrt(1 - 4 / w))
    x = jnp.log(w * high * high)  # logit of the larger root; the product of both is 1 / w
    return Folds(jnp.stack([-x - 1 / high, x - w * high]), jnp.stack([-x, x]))


@jax.jit
def _fixed_points(w, b):
    """One root on each side of the folds' states and one between them, where x - w s(x) - b is monotone.

    Roots that do not exist are sought at b = -w / 2, where all three do, so that their derivatives are finite.
    """
    dtype = jnp.result_type(w, b)
    w, b = w.astype(dtype), b.astype(dtype)
    folds = _folds(w)
    left, right = folds.state
    below, above = b < folds.bias[0], b > folds.bias[1]

    def find(exists, ends, sign):
        c = jnp.where(exists, b, -w / 2)
        root = _roots.falling_root(lambda x: sign * (x - w * s(x) - c), *ends(c))
        return jnp.where(exists, root, jnp.nan)

    lower = find(below, lambda c: (jnp.minimum(c, left), left), -1)
    middle = find(below & above, lambda _: (left, right), 1)
    upper = find(above, lambda c: (right, jnp.maximum(c + w, right)), -1)
    return jnp.stack([lower, middle, upper])
