"""What a change of scale leaves as it was, and the law of what it changes.

A normalized layer y = f(N(W, X)) that does not see the scale of W has a Jacobian that does not see it either, but
dL/dW shrinks as 1/lambda (and <W, dL/dW> = 0, by Euler's theorem for homogeneous functions of degree 0). One that does
not see the scale of X has dL/dW unchanged and dy/dx shrunk by 1/lambda. With epsilon > 0, s^2 = sigma^2 + epsilon is
not homogeneous: N is multiplied by c = sqrt((1 + e) / (1 + e / lambda^2)), e = epsilon / sigma^2, which is
1 + (1 - lambda^-2) e / 2 to first order.
"""

import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.theory import _domain

NORMALIZATIONS = ("batch", "layer", "rms", "weight", "cosine", "centered_cosine", "plain")
"""BatchNorm over examples, LayerNorm and RMSNorm over units (all of W X), WeightNorm, CosineNorm (cosine and Pearson's
correlation of rows of W with examples), and W X itself."""

UNCHANGED: dict[str, frozenset[str]] = {
    "weights_scaled": frozenset({"batch", "layer", "rms", "weight", "cosine", "centered_cosine"}),
    "row_scaled": frozenset({"batch", "weight", "cosine", "centered_cosine"}),
    "vector_added_to_rows": frozenset({"layer"}),
    "constant_added_in_rows": frozenset({"centered_cosine"}),
    "data_scaled": frozenset({"batch", "layer", "rms", "cosine", "centered_cosine"}),
    "example_scaled": frozenset({"layer", "rms", "cosine", "centered_cosine"}),
    "vector_added_to_examples": frozenset({"batch"}),
}
"""Transformation -> normalizations whose output it leaves unchanged (epsilon = 0).

All weights, or one row of W (the weights of one unit), times lambda > 0; the same vector added to every row; within
each row a constant added; all data, or one example, times lambda > 0; the same vector added to all examples.
"""


@pytree
class Change:
    """Factors by which a transformation multiplies what a layer does, in nats; 0 is unchanged.

    With epsilon > 0 they hold for the part of a Jacobian or gradient orthogonal to the normalized vector. The part along
    it is of order epsilon / sigma^2 itself.

    Attributes:
        log_output: of the normalized pre-activation N(W, X).
        log_state_jacobian: of its Jacobian with respect to X.
        log_weight_gradient: of dL/dW for a given gradient with respect to N.
        deviation: leading relative deviation of all three from the law without epsilon, (1 - lambda^-2) epsilon /
            (2 sigma^2), and 0 where epsilon plays no part.
    """

    log_output: Array
    log_state_jacobian: Array
    log_weight_gradient: Array
    deviation: Array


def unchanged(normalization: str, transformation: str) -> bool:
    """Whether a transformation leaves the output of a normalization unchanged (epsilon = 0).

    Args:
        normalization: one of `NORMALIZATIONS`.
        transformation: a key of `UNCHANGED`.

    Returns:
        The entry of the table.

    Raises:
        ValueError: for unknown names.

    Reference: J. L. Ba, J. R. Kiros, G. E. Hinton, arXiv 1607.06450, table 1 (for batch, weight and layer).

    Example:
        >>> from jacspec.theory import normalization
        >>> normalization.unchanged("batch", "row_scaled"), normalization.unchanged("layer", "row_scaled")
        (True, False)
    """
    name = "theory.normalization.unchanged"
    checks.one_of(name, "normalization", normalization, NORMALIZATIONS)
    checks.one_of(name, "transformation", transformation, UNCHANGED)
    return normalization in UNCHANGED[transformation]


def weight_scaling(normalization: str, factor: Array | float, *, epsilon: Array | float = 0.0) -> Change:
    """W -> lambda W: N and dN/dX times c, dL/dW times c / lambda; times lambda, lambda and 1 without normalization.

    Args:
        normalization: one of `NORMALIZATIONS`.
        factor: lambda > 0.
        epsilon: epsilon / sigma^2 >= 0, relative to the variance (or squared norm) normalized before the change.

    Returns:
        A `Change`.

    Raises:
        TypeError: for parameters that are no numbers.
        ValueError: for an unknown normalization or parameters out of range.

    Example:
        >>> from jacspec.theory import normalization
        >>> round(float(normalization.weight_scaling("batch", 10.0).log_weight_gradient), 6)
        -2.302585
    """
    return _scaling("weight_scaling", "weights_scaled", normalization, factor, epsilon)


def data_scaling(normalization: str, factor: Array | float, *, epsilon: Array | float = 0.0) -> Change:
    """X -> lambda X: N and dL/dW times c, dN/dX times c / lambda; times lambda, lambda and 1 where X is not normalized.

    Args:
        normalization: one of `NORMALIZATIONS`.
        factor: lambda > 0.
        epsilon: epsilon / sigma^2 >= 0, relative to the variance (or squared norm) normalized before the change.

    Returns:
        A `Change`.

    Raises:
        TypeError: for parameters that are no numbers.
        ValueError: for an unknown normalization or parameters out of range.

    Example:
        >>> from jacspec.theory import normalization
        >>> change = normalization.data_scaling("weight", 10.0)
        >>> round(float(change.log_output), 6), round(float(change.log_state_jacobian), 6)
        (2.302585, 0.0)
    """
    change = _scaling("data_scaling", "data_scaled", normalization, factor, epsilon)
    return Change(change.log_output, change.log_weight_gradient, change.log_state_jacobian, change.deviation)


def _scaling(function, transformation, normalization, factor, epsilon):
    """The change under W -> lambda W; under X -> lambda X the two Jacobians change places, N being symmetric in them."""
    name = f"theory.normalization.{function}"
    checks.one_of(name, "normalization", normalization, NORMALIZATIONS)
    factor = _domain.positive(name, "factor", factor)
    epsilon = _domain.nonnegative(name, "epsilon", epsilon)
    factor, epsilon = jnp.broadcast_arrays(factor, epsilon)
    log = jnp.log(factor)
    if normalization not in UNCHANGED[transformation]:
        nothing = 0 * (log + epsilon)  # NaN where a parameter is
        return Change(log + nothing, log + nothing, nothing, nothing)
    correction = 0.5 * (jnp.log1p(epsilon) - jnp.log1p(epsilon / factor**2))
    return Change(correction, correction, correction - log, 0.5 * epsilon * (1 - factor**-2))
