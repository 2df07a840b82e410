"""Rates at which normalized networks multiply the squared gradient norm, per layer, at initialization.

BatchNorm at infinite width and batch size B (derivation: docs/batchnorm.md), z on the sphere of `_sphere`:

    rate = (E[phi'(z_1)^2 (B - 1 - z_1^2)] + E[phi'(z_1) phi'(z_2) (1 + z_1 z_2)])
           / ((B - 3) (E phi(z_1)^2 - E phi(z_1) phi(z_2)))

LayerNorm and RMSNorm: rate = E phi'(z)^2 / E phi(z)^2 with z ~ N(0, 1). Neither knows the scale of the weights.
"""

import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.activations import Activation
from jacspec.theory import _domain
from jacspec.theory._quadrature import gaussian_mean
from jacspec.theory.normalization._sphere import two_units

TOLERANCE = 1e-6
"""Estimated error of a quadrature (in nats for rates) beyond which it has not converged."""

ROUNDING = 16
"""Roundings of the ratio of two sums whose terms have one sign, and of its logarithm."""


@pytree
class GradientRate:
    """Growth of the squared gradient norm per layer, from the output to the input; a half of it for the norm.

    Attributes:
        log_rate: nats per layer, positive where gradients explode.
        error: estimated error of the quadrature, nats, and 16 roundings, which are all that a closed form has.
        converged: whether `error` is below 1e-6 (or a hundred roundings, if that is more).
    """

    log_rate: Array
    error: Array
    converged: Array

    @property
    def rate(self) -> Array:
        """The factor per layer."""
        return jnp.exp(self.log_rate)

    @property
    def depth(self) -> Array:
        """xi = 1 / abs(log rate), layers in which the squared norm changes by e; inf at criticality."""
        return 1 / jnp.abs(self.log_rate)


@pytree
class BatchStatistics:
    """The batch behind batch normalization and activation, at the fixed point that is the same for all examples.

    Attributes:
        variance: q* = E phi(z_1)^2.
        correlation: c* = E phi(z_1) phi(z_2) / q*.
        error: estimated error of the quadrature of both.
        converged: whether `error` is below 1e-6 (or a hundred roundings, if that is more).
    """

    variance: Array
    correlation: Array
    error: Array
    converged: Array


def batch_norm_rate(activation: str | Activation, batch: Array | float) -> GradientRate:
    """BatchNorm before any activation, at finite batch size B, by quadrature.

    rate = (E[phi'_1^2 (B - 1 - z_1^2)] + E[phi'_1 phi'_2 (1 + z_1 z_2)]) / ((B - 3) (E phi_1^2 - E phi_1 phi_2))

    Infinite width, epsilon = 0, scale 1 and shift 0; weights and biases drop out. It explodes for every activation.

    Args:
        activation: a name of the table or an `Activation`.
        batch: B >= 4, examples.

    Returns:
        A `GradientRate`.

    Raises:
        TypeError: for an activation without derivative or a batch that is no number.
        ValueError: for B < 4 (the mean of 1/variance diverges at B = 3), an array of them, or an unknown activation.

    Reference: G. Yang et al., A mean field theory of batch normalization, arXiv 1902.08129 (the setting).

    Example:
        >>> from jacspec.theory import normalization
        >>> round(float(normalization.batch_norm_rate("tanh", 8).rate), 6)
        1.358548
    """
    phi, B, z1, z2, *rules = _two_examples("batch_norm_rate", activation, batch)
    f1, f2, d1, d2 = phi(z1), phi(z2), phi.derivative(z1), phi.derivative(z2)
    own = 0.5 * (d1**2 * (B - 1 - z1**2) + d2**2 * (B - 1 - z2**2))
    through = own + d1 * d2 * (1 + z1 * z2)
    spread = 0.5 * (f1 - f2) ** 2
    value, other = (jnp.log(_mean(w, through) / ((B - 3) * _mean(w, spread))) for w in rules)
    return _rate(value, jnp.abs(value - other))


def batch_norm_statistics(activation: str | Activation, batch: Array | float) -> BatchStatistics:
    """Variance and correlation of activated examples behind BatchNorm: q* = E phi_1^2, c* = E phi_1 phi_2 / q*.

    Args:
        activation: a name of the table or an `Activation`.
        batch: B >= 4, examples.

    Returns:
        `BatchStatistics`.

    Raises:
        TypeError: for an activation without derivative or a batch that is no number.
        ValueError: for B < 4, an array of them, or an unknown activation.

    Reference: G. Yang et al., arXiv 1902.08129.

    Example:
        >>> from jacspec.theory import normalization
        >>> found = normalization.batch_norm_statistics("relu", 8)
        >>> round(float(found.variance), 6), round(float(found.correlation), 6)
        (0.5, 0.250135)
    """
    phi, _, z1, z2, *rules = _two_examples("batch_norm_statistics", activation, batch)
    f1, f2 = phi(z1), phi(z2)
    (q, p), (coarse_q, coarse_p) = ((_mean(w, 0.5 * (f1**2 + f2**2)), _mean(w, f1 * f2)) for w in rules)
    error = jnp.maximum(jnp.abs(q - coarse_q), jnp.abs(p - coarse_p) / q)
    return BatchStatistics(q, p / q, error, _converged(q, error))


def batch_norm_rate_relu(batch: Array | float) -> GradientRate:
    """BatchNorm before ReLU: rate = (B - 2 + J(c) + J'(c)) / ((B - 3) (1 - J(c))) at c = -1/(B-1).

    J(c) = (sqrt(1 - c^2) + (pi - arccos c) c) / pi. The limit of large batches is pi / (pi - 1) = 1.4669.

    Args:
        batch: B > 3, examples, any shape.

    Returns:
        A `GradientRate`.

    Raises:
        TypeError: if it is no number.
        ValueError: for B <= 3.

    Reference: G. Yang et al., arXiv 1902.08129, theorem 8 (rearranged).

    Example:
        >>> from jacspec.theory import normalization
        >>> round(float(normalization.batch_norm_rate_relu(8).rate), 4)
        1.7882
    """
    B = _more_than_three("batch_norm_rate_relu", batch)
    c = -1 / (B - 1)
    slope = 1 - jnp.arccos(c) / jnp.pi
    kernel = jnp.sqrt(1 - c * c) / jnp.pi + slope * c
    return _exact(jnp.log((B - 2 + kernel + slope) / ((B - 3) * (1 - kernel))))


def batch_norm_rate_linear(batch: Array | float) -> GradientRate:
    """BatchNorm without activation: rate = (B - 2) / (B - 3).

    Args:
        batch: B > 3, examples, any shape.

    Returns:
        A `GradientRate`.

    Raises:
        TypeError: if it is no number.
        ValueError: for B <= 3.

    Reference: G. Yang et al., arXiv 1902.08129.

    Example:
        >>> from jacspec.theory import normalization
        >>> round(float(normalization.batch_norm_rate_linear(8).rate), 12)
        1.2
    """
    return _exact(jnp.log1p(1 / (_more_than_three("batch_norm_rate_linear", batch) - 3)))


def batch_norm_rate_limit(activation: str | Activation) -> GradientRate:
    """BatchNorm before any activation as the batch grows: rate = E phi'(z)^2 / Var phi(z), z ~ N(0, 1).

    At least 1 by the Gaussian Poincare inequality, with equality for linear functions only.

    Args:
        activation: a name of the table or an `Activation`.

    Returns:
        A `GradientRate`.

    Raises:
        TypeError: for an activation without derivative.
        ValueError: for an unknown activation.

    Example:
        >>> from jacspec.theory import normalization
        >>> round(float(normalization.batch_norm_rate_limit("relu").rate), 7)
        1.4669422
    """
    phi = activations.get(activation, function="theory.normalization.batch_norm_rate_limit")
    mean, loose = gaussian_mean(phi, jnp.ones(()), phi.kinks)
    spread, error = gaussian_mean(lambda a: (phi(a) - mean) ** 2, jnp.ones(()), phi.kinks)
    return _ratio(phi, spread, error + 2 * jnp.sqrt(spread) * loose)


def layer_norm_rate(
    activation: str | Activation, *, weight_variance: Array | float = 1.0, bias_variance: Array | float = 0.0
) -> GradientRate:
    """LayerNorm or RMSNorm of the pre-activations: rate = sw2 E phi'(z)^2 / (sw2 E phi(z)^2 + sb2), z ~ N(0, 1).

    Without biases the scale of the weights drops out. At infinite width the mean over units is 0 and the two agree.

    Args:
        activation: a name of the table or an `Activation`.
        weight_variance: sw2 > 0, times 1/fan_in the variance of a weight.
        bias_variance: sb2 >= 0, of the biases added before normalization.

    Returns:
        A `GradientRate`.

    Raises:
        TypeError: for an activation without derivative or parameters that are no numbers.
        ValueError: for an unknown activation or parameters out of range.

    Reference: S. S. Schoenholz et al., arXiv 1611.01232 (chi_1, here at q = 1).

    Example:
        >>> from jacspec.theory import normalization
        >>> round(float(normalization.layer_norm_rate("tanh").rate), 5)
        1.17781
    """
    name = "theory.normalization.layer_norm_rate"
    phi = activations.get(activation, function=name)
    noise = _domain.nonnegative(name, "bias_variance", bias_variance)
    noise = noise / _domain.positive(name, "weight_variance", weight_variance)
    square, error = gaussian_mean(lambda a: phi(a) ** 2, jnp.ones(()), phi.kinks)
    return _ratio(phi, square + noise, error)


def layer_norm_log_singular_values(width: int, variance: Array | float, epsilon: Array | float = 0.0) -> Array:
    """LayerNorm's own Jacobian: singular values (v + eps)^(-1/2), n - 2 times, eps (v + eps)^(-3/2), and 0.

    Args:
        width: n >= 2, units.
        variance: v >= 0 of the units of one example; v + eps > 0.
        epsilon: eps >= 0.

    Returns:
        (n,), nats, descending; -inf for exact zeros.

    Raises:
        TypeError: for a width that is no integer or parameters that are no numbers.
        ValueError: for parameters out of range.

    Example:
        >>> from jacspec.theory import normalization
        >>> [round(float(v), 4) for v in normalization.layer_norm_log_singular_values(4, 4.0)]
        [-0.6931, -0.6931, -inf, -inf]
    """
    name = "theory.normalization.layer_norm_log_singular_values"
    width = checks.integer(name, "width", width, 2)
    eps = _domain.nonnegative(name, "epsilon", epsilon)
    total = eps + _domain.nonnegative(name, "variance", variance)
    total = _domain.positive(name, "variance + epsilon", total)
    along = jnp.log(eps) - 1.5 * jnp.log(total)
    return jnp.stack([*[-0.5 * jnp.log(total)] * (width - 2), along, jnp.full_like(along, -jnp.inf)])


def _more_than_three(function, batch):
    inside = lambda B: (B > 3) & jnp.isfinite(B)
    return _domain.within(f"theory.normalization.{function}", "batch", batch, inside, "batch > 3")


def _two_examples(function, activation, batch):
    """The activation, B, and the quadrature over two examples."""
    name = f"theory.normalization.{function}"
    phi = activations.get(activation, function=name)
    B = _domain.within(name, "batch", batch, lambda B: (B >= 4) & jnp.isfinite(B), "batch >= 4")
    if B.ndim:
        hint = "Map over batch sizes with jax.vmap."
        raise ValueError(checks.message(name, "batch", "is not a scalar", f"shape {B.shape}", "a number", hint))
    return phi, B, *two_units(B, phi.kinks)


def _mean(weights, values):
    return jnp.sum(weights * values)


def _converged(value, error):
    return jnp.isfinite(value) & (error <= jnp.maximum(TOLERANCE, 100 * jnp.finfo(value.dtype).eps))


def _rate(log_rate, error):
    error = error + ROUNDING * jnp.finfo(log_rate.dtype).eps
    return GradientRate(log_rate, error, _converged(log_rate, error))


def _exact(log_rate):
    return _rate(log_rate, jnp.zeros_like(log_rate))


def _ratio(phi, below, error):
    """E phi'(z)^2 / below, z ~ N(0, 1)."""
    slope, loose = gaussian_mean(lambda a: phi.derivative(a) ** 2, jnp.ones(()), phi.kinks)
    return _rate(jnp.log(slope / below), loose / slope + error / below)
