"""The table of activations: f, f', and log abs f' with its sign.

Derivatives are functions of the pre-activation a, so that a saturated unit gives the tiny number it has (sech^2 a) and
not a false zero (1 - h^2). Where f' is not zero in exact arithmetic it never underflows: it stops at the smallest
number that survives a product, tiny / eps of the dtype. A zero of the table is a structural zero: a dead ReLU, a clipped hard tanh. At a NaN or an overflowed pre-activation f' is NaN (relu'(NaN) is not a dead unit). Kinks:
relu'(0) = 0, leaky_relu'(0) = 1, hard_tanh'(+-1) = 1, and elu, selu take the left derivative at 0.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr

from jacspec._ground import checks
from jacspec._ground.arithmetic import smallest_factor
from jacspec._ground.primitives import Primitive

LEAKY_SLOPE = 0.01
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_HALF_LOG_PI = 0.5 * math.log(math.pi)


@dataclasses.dataclass(frozen=True)
class Activation:
    """An elementwise nonlinearity f.

    Attributes:
        name: the name in the table.
        function: a -> f(a), any shape.
        slope: a -> f'(a), from the pre-activation.
        log_slope: a -> log abs f'(a) in nats, -inf at a structural zero.
        structural_zeros: whether f' is exactly zero on an interval (then zeros of `slope` are kept).
        kinks: where f or one of its first two derivatives jumps.
    """

    name: str
    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    log_slope: Callable[[Array], Array]
    structural_zeros: bool = False
    kinks: tuple[float, ...] = ()

    def __call__(self, a: Array) -> Array:
        """f(a); automatic differentiation of it gives `derivative`."""
        return _applied(self, a)

    def derivative(self, a: Array) -> Array:
        """f'(a), elementwise; never a false zero, NaN where a is not finite."""
        return _without_false_zeros(self.slope(a), a, self.structural_zeros)

    def log_derivative(self, a: Array) -> tuple[Array, Array]:
        """(log abs f'(a) in nats, sign of f'(a)); -inf and 0 at a structural zero, NaN where a is not finite."""
        log = jnp.where(jnp.isfinite(a), self.log_slope(a), jnp.nan)
        if not self.structural_zeros:  # below the range of the dtype, and no zero
            log = jnp.where(log == -jnp.inf, jnp.finfo(log.dtype).min, log)
        return log, jnp.where(log == -jnp.inf, 0, jnp.sign(self.derivative(a)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _applied(entry: Activation, a: Array) -> Array:
    return entry.function(a)


@_applied.defjvp
def _applied_jvp(entry, primals, tangents):
    (a,), (da,) = primals, tangents
    return entry.function(a), entry.derivative(a) * da


@functools.partial(jax.jit, static_argnums=2)
def _without_false_zeros(d, a, structural_zeros):
    """The slope d at a: what underflowed stops short of zero, NaN where a is not finite."""
    if not structural_zeros:
        least = smallest_factor(d.dtype)
        d = jnp.where(jnp.isfinite(a) & (jnp.abs(d) < least), jnp.copysign(least, d), d)
    return jnp.where(jnp.isfinite(a), d, jnp.nan)


def _with_slope(function: Callable, slope: Callable) -> Primitive:
    """The function with f' = slope, both of one array."""
    f = Primitive(function)
    f.defjvp(lambda primals, tangents: (f(*primals), slope(*primals) * tangents[0]))
    return f


def _smooth_sech2(a):
    e = jnp.exp(-2 * jnp.abs(a))
    return 4 * e / (1 + e) ** 2


def _even_log_sech2(a):
    return 2 * (math.log(2) - jnp.abs(a) - jnp.log1p(jnp.exp(-2 * jnp.abs(a))))


# Written with abs(a) for accuracy, which has no second derivative at 0, or as 1 - y^2, which a saturated unit rounds to 0.
_tanh = _with_slope(jnp.tanh, lambda a: _sech2(a))
_sech2 = _with_slope(_smooth_sech2, lambda a: -2 * _tanh(a) * _sech2(a))
_log_sech2 = _with_slope(_even_log_sech2, lambda a: -2 * _tanh(a))
_logistic = _with_slope(jax.nn.sigmoid, lambda a: _logistic_slope(a))
_softplus = _with_slope(jax.nn.softplus, _logistic)


def _logistic_slope(a):
    return _sech2(a / 2) / 4


def _log_logistic_slope(a):
    return _log_sech2(a / 2) - 2 * math.log(2)


def _gaussian(a):
    return jnp.exp(-0.5 * a * a - _HALF_LOG_2PI)


def _gelu_bracket(left):
    """(Phi + a phi) / phi for a <= 0, without underflow; below -5 Phi / phi is Laplace's continued fraction."""
    x = jnp.where(left < -5, -left, 5)
    far = x
    for k in range(20, 0, -1):  # twenty terms leave a relative error of 3e-15 at 5
        far = x + k / far
    near = jnp.where(left < -5, -5, left)
    return left + jnp.where(left < -5, 1 / far, ndtr(near) / _gaussian(near))


def _gelu_curvature(a):
    a = jnp.clip(a, -40, 40)  # the Gaussian is 0 there, and the square within range
    return _gaussian(a) * (2 - a * a)


@functools.partial(_with_slope, slope=_gelu_curvature)
def _gelu_slope(a):
    finite = jnp.where(jnp.isinf(a), 0, a)
    low = _gaussian(a) * _gelu_bracket(jnp.minimum(finite, 0.0))  # underflows to -0: the sign stays
    return jnp.where(a < 0, low, ndtr(a) + finite * _gaussian(a))


def _log_gelu_slope(a):
    left = jnp.where(a < 0, a, 0)
    low = -0.5 * left * left - _HALF_LOG_2PI + jnp.log(jnp.abs(_gelu_bracket(left)))
    return jnp.where(a < 0, low, jnp.log(_gelu_slope(jnp.where(a < 0, 0, a))))


def _swish_bracket(a):
    return 1 + jnp.where(jnp.isinf(a), 0, a) * _logistic(-a)


def _step(low, high, inside):
    return lambda a: jnp.where(inside(a), high, low).astype(a.dtype)


def _log_of(slope):
    return lambda a: jnp.log(slope(a))


_leaky = _step(LEAKY_SLOPE, 1.0, lambda a: a >= 0)
_heaviside = _step(0.0, 1.0, lambda a: a > 0)
_inside_one = _step(0.0, 1.0, lambda a: jnp.abs(a) <= 1)


def _exponential_unit(scale, alpha):
    """f' and log f' of scale * (a if a > 0 else alpha (e^a - 1))."""

    def slope(a):
        return jnp.where(a > 0, scale, scale * alpha * jnp.exp(jnp.where(a > 0, 0, a)))

    def log_slope(a):
        return jnp.where(a > 0, math.log(scale), math.log(scale * alpha) + jnp.where(a > 0, 0, a))

    return slope, log_slope


def _keeps_slope(entry: Activation) -> Activation:
    """The entry with a function whose derivative is `Activation.derivative` in every nesting."""
    return dataclasses.replace(entry, function=_with_slope(entry.function, entry.derivative))


TABLE: dict[str, Activation] = {
    entry.name: _keeps_slope(entry)
    for entry in (
        Activation("linear", lambda a: a, jnp.ones_like, jnp.zeros_like),
        Activation("tanh", jnp.tanh, _sech2, _log_sech2),
        Activation("sigmoid", jax.nn.sigmoid, _logistic_slope, _log_logistic_slope),
        Activation("relu", jax.nn.relu, _heaviside, _log_of(_heaviside), True, (0.0,)),
        Activation("leaky_relu", lambda a: jax.nn.leaky_relu(a, LEAKY_SLOPE), _leaky, _log_of(_leaky), kinks=(0.0,)),
        Activation("elu", jax.nn.elu, *_exponential_unit(1.0, 1.0), kinks=(0.0,)),
        Activation("selu", jax.nn.selu, *_exponential_unit(SELU_SCALE, SELU_ALPHA), kinks=(0.0,)),
        Activation("gelu", lambda a: a * ndtr(a), _gelu_slope, _log_gelu_slope),
        Activation(
            "swish",
            jax.nn.silu,
            lambda a: _logistic(a) * _swish_bracket(a),
            lambda a: -_softplus(-a) + jnp.log(jnp.abs(_swish_bracket(a))),
        ),
        Activation("softplus", jax.nn.softplus, _logistic, lambda a: -_softplus(-a)),
        Activation("hard_tanh", jax.nn.hard_tanh, _inside_one, _log_of(_inside_one), True, (-1.0, 1.0)),
        Activation(
            "erf",
            jax.scipy.special.erf,
            lambda a: jnp.exp(math.log(2) - _HALF_LOG_PI - a * a),
            lambda a: math.log(2) - _HALF_LOG_PI - a * a,
        ),
    )
}


def get(activation: "str | Activation", *, function: str = "activations.get") -> Activation:
    """The entry of the table of that name; an `Activation` passes through.

    Raises:
        ValueError: for a name that is not in the table (the nearest is given).
        TypeError: for a bare function, which has no derivative here.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        text = checks.message(
            function, "activation", "has no derivative", type(activation).__name__, "a name of the table or an Activation",
            "Write Activation(name, function, slope, log_slope).",
        )  # fmt: skip
        raise TypeError(text)
    checks.one_of(function, "activation", activation, TABLE)
    return TABLE[activation]
