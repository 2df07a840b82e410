"""One matrix: rectangular Gaussian (Marchenko-Pastur), and a square block of a larger orthogonal one."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jacspec.theory.random_matrix._closed import at_least, positive

_LOG1P = [(-1) ** (k - 1) / k for k in range(18, 1, -1)]
"""Coefficients of (ln(1 + z) - z) / z^2, highest power first: 0.1^17 is below a rounding."""


def marchenko_pastur_edges(aspect: Any) -> tuple[Array, Array]:
    """Ends (1 -+ sqrt c)^2 of the continuous part of the law of W W^T, W_ij ~ N(0, 1 / columns).

    Args:
        aspect: c = rows / columns > 0. For c > 1 an atom 1 - 1/c lies at 0.

    Returns:
        (lower, upper).

    Raises:
        ValueError: for aspect <= 0.

    Reference: V. A. Marchenko, L. A. Pastur, Math. USSR Sb. 1 (1967) 457.

    Example:
        >>> [float(edge) for edge in marchenko_pastur_edges(0.25)]
        [0.25, 2.25]
    """
    root = jnp.sqrt(positive("marchenko_pastur_edges", "aspect", aspect))
    return (1 - root) ** 2, (1 + root) ** 2


def marchenko_pastur_density(x: Any, aspect: Any) -> Array:
    """Density sqrt((b - x)(x - a)) / (2 pi c x) of the eigenvalues of W W^T, W_ij ~ N(0, 1 / columns); the atom apart.

    Args:
        x: eigenvalue, any shape.
        aspect: c = rows / columns > 0.

    Returns:
        rho(x), with integral min(1, 1/c).

    Raises:
        ValueError: for aspect <= 0.

    Reference: V. A. Marchenko, L. A. Pastur, Math. USSR Sb. 1 (1967) 457.

    Example:
        >>> round(float(marchenko_pastur_density(1.0, 1.0)), 6)
        0.275664
    """
    x, c = jnp.asarray(x, float), positive("marchenko_pastur_density", "aspect", aspect)
    low, high = marchenko_pastur_edges(c)
    inside = (x > low) & (x < high)
    square = jnp.where(inside, (high - x) * (x - low), 1)
    value = jnp.sqrt(square) / (2 * jnp.pi * c * jnp.where(inside, x, 1))
    return jnp.where(inside, value, jnp.where(jnp.isnan(x + c), jnp.nan, 0))


def marchenko_pastur_cdf(x: Any, aspect: Any) -> Array:
    """P(eigenvalue <= x) of W W^T, W_ij ~ N(0, 1 / columns), with the atom max(0, 1 - 1/c) at 0.

    With x = 1 + c + 2 sqrt(c) cos t and q = sqrt(min(c, 1/c)):
    P(> x) = (t - q sin t + (1 - q^2) h) / (pi max(c, 1)),    h = Im (ln(1 + z) - z) / q^2,    z = q e^(i t)

    Args:
        x: eigenvalue, any shape.
        aspect: c = rows / columns > 0.

    Returns:
        The share of eigenvalues up to x.

    Raises:
        ValueError: for aspect <= 0.

    Reference: V. A. Marchenko, L. A. Pastur, Math. USSR Sb. 1 (1967) 457 (the density that is integrated).

    Example:
        >>> round(float(marchenko_pastur_cdf(0.0, 4.0)), 6)
        0.75
    """
    x, c = jnp.asarray(x, float), positive("marchenko_pastur_cdf", "aspect", aspect)
    low, high = marchenko_pastur_edges(c)
    inside = (x > low) & (x < high)
    safe = jnp.where(inside, x, 1 + c)
    t = 2 * jnp.arctan2(jnp.sqrt(high - safe), jnp.sqrt(safe - low))
    q = jnp.sqrt(jnp.minimum(c, 1 / c))
    above = (t - q * jnp.sin(t) + (1 - q) * (1 + q) * _log_remainder(q, t)) / (jnp.pi * jnp.maximum(c, 1))
    atom = jnp.maximum(1 - 1 / c, 0)
    outside = jnp.where(jnp.isnan(x + c), jnp.nan, jnp.where(x < 0, 0, jnp.where(x < high, atom, 1)))
    return jnp.where(inside, jnp.clip(1 - above, atom, 1), outside)


def _log_remainder(q: Array, t: Array) -> Array:
    """Im (ln(1 + z) - z) / q^2 of z = q e^(i t), by its powers for small q."""
    small, large = jnp.minimum(q, 0.1), jnp.maximum(q, 0.1)
    series = jnp.polyval(jnp.asarray(_LOG1P, t.dtype), small * jnp.exp(1j * t)) * jnp.exp(2j * t)
    angle = jnp.arctan2(large * jnp.sin(t), 1 + large * jnp.cos(t))
    return jnp.where(q < 0.1, series.imag, (angle - large * jnp.sin(t)) / large**2)


def haar_block_edge(blocks: Any) -> Array:
    """The largest eigenvalue 4 (1/k)(1 - 1/k) of B B^T, B a square block of k stacked in one orthogonal matrix.

    Args:
        blocks: k >= 2: B is (n, n), the orthogonal columns have length k n.

    Returns:
        The edge; the smallest eigenvalue is 0 and the mean 1/k.

    Raises:
        ValueError: for blocks < 2.

    Reference: B. Collins, Probab. Theory Relat. Fields 133 (2005) 315 (products of random projections).

    Example:
        >>> round(float(jnp.sqrt(haar_block_edge(4))), 6)
        0.866025
    """
    k = at_least("haar_block_edge", "blocks", blocks, 2)
    return 4 * (k - 1) / k**2


def haar_block_density(x: Any, blocks: Any) -> Array:
    """Density k sqrt((b - x) / x) / (2 pi (1 - x)) of the eigenvalues of B B^T, B one of k blocks, b the edge.

    Args:
        x: eigenvalue, any shape.
        blocks: k >= 2.

    Returns:
        rho(x), 0 off the support.

    Raises:
        ValueError: for blocks < 2.

    Reference: B. Collins, Probab. Theory Relat. Fields 133 (2005) 315.

    Example:
        >>> round(float(haar_block_density(0.5, 2)), 6)  # the arcsine law, 2 / pi
        0.63662
    """
    x, k = jnp.asarray(x, float), at_least("haar_block_density", "blocks", blocks, 2)
    edge = haar_block_edge(k)
    inside = (x > 0) & (x < edge)
    safe = jnp.where(inside, x, edge / 2)
    value = k * jnp.sqrt((edge - safe) / safe) / (2 * jnp.pi * (1 - safe))
    return jnp.where(inside, value, jnp.where(jnp.isnan(x + k), jnp.nan, 0))


def haar_block_cdf(x: Any, blocks: Any) -> Array:
    """P(eigenvalue <= x) = (k / pi)(t - a arctan(a tan t)), x = b sin(t)^2, a = 1 - 2/k, b the edge.

    = (2 t + (k - 2) arctan((2/k) sin t cos t / (1 - (2/k) sin(t)^2))) / pi, where nothing cancels.

    Args:
        x: eigenvalue, any shape.
        blocks: k >= 2.

    Returns:
        The share of eigenvalues up to x.

    Raises:
        ValueError: for blocks < 2.

    Reference: B. Collins, Probab. Theory Relat. Fields 133 (2005) 315 (the density that is integrated).

    Example:
        >>> round(float(haar_block_cdf(0.5, 2)), 6)
        0.5
    """
    x, k = jnp.asarray(x, float), at_least("haar_block_cdf", "blocks", blocks, 2)
    edge = haar_block_edge(k)
    inside = (x > 0) & (x < edge)
    share = jnp.where(inside, x / edge, 0.5)  # sin(t)^2
    sine, cosine = jnp.sqrt(share), jnp.sqrt(1 - share)
    lag = jnp.arctan2(2 / k * sine * cosine, 1 - 2 / k * share)
    value = (2 * jnp.arctan2(sine, cosine) + (k - 2) * lag) / jnp.pi
    outside = jnp.where(jnp.isnan(x + k), jnp.nan, jnp.where(x < edge, 0.0, 1.0))
    return jnp.where(inside, jnp.minimum(value, 1), outside)
