"""Products of plain Gaussian matrices, W_ij ~ N(0, s2 / n): exponents at finite n, and laws at n -> infinity.

Finite n: R_ii of the QR recursion are independent chi variables, so exponents and variances are digammas (Newman). For
n -> infinity they fill lambda(u) = ln(1 - u) / 2, the triangular law of e^lambda; the squared singular values of L
factors follow Fuss-Catalan, those of a rectangular factor Marchenko-Pastur, eigenvalues of M factors a power of the radius.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln, polygamma

from jacspec._ground import checks
from jacspec.theory import _roots
from jacspec.theory.random_matrix._closed import ROOM, at_least, positive, share

FIELDS = {"real": 0.5, "complex": 1.0}

SHIFT = 12
"""Steps of Gamma(x + 1) = x Gamma(x) before Stirling's series, so that it begins at 14 or beyond."""

_STIRLING = [1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12]
"""Coefficients of x ln Gamma(x) beyond its logarithms, in 1 / x^2, highest power first: 691 / (360360 x^11) is a rounding at 13."""


def newman_exponents(width: int, *, weight_variance: Any = 1.0, field: str = "real") -> tuple[Array, Array]:
    """Lyapunov exponents of a product of n x n Gaussian matrices, and the variances of their one-step growths.

    lambda_i = (ln(2 s2 / n) + psi((n - i + 1) / 2)) / 2,  Var = psi'((n - i + 1) / 2) / 4              (real)
    lambda_i = (ln(s2 / n) + psi(n - i + 1)) / 2,          Var = psi'(n - i + 1) / 4                    (complex)

    The growths ln R_ii of the QR recursion are independent in time and direction: SE = sqrt(Var / T) after T steps.

    Args:
        width: n >= 1.
        weight_variance: s2 > 0; entries have E abs(W_ij)^2 = s2 / n.
        field: ``"real"`` or ``"complex"``.

    Returns:
        (exponents, variances), both (n,), nats per step (squared), exponents descending.

    Raises:
        ValueError: for width < 1, weight_variance <= 0, an unknown field.
        TypeError: if width is no integer, or weight_variance no real number.

    Reference: C. M. Newman, Commun. Math. Phys. 103 (1986) 121; G. Akemann, Z. Burda, M. Kieburg, arXiv 1406.0803.

    Example:
        >>> exponents, variances = newman_exponents(8)
        >>> [round(float(v), 6) for v in exponents[jnp.array([0, 7])]]
        [-0.065088, -1.674902]
    """
    n = checks.integer(ROOM + "newman_exponents", "width", width, 1)
    checks.one_of(ROOM + "newman_exponents", "field", field, FIELDS)
    s2 = positive("newman_exponents", "weight_variance", weight_variance)
    half = FIELDS[field]
    k = half * jnp.arange(n, 0, -1, dtype=s2.dtype)  # R_ii^2 is a Gamma(k) variable times s2 / (half n)
    return (jnp.log(s2 / (half * n)) + digamma(k)) / 2, polygamma(1, k) / 4


def log_norm_growth(width: int, steps: Any, *, weight_variance: Any = 1.0) -> tuple[Array, Array]:
    """Mean and variance of ln abs(W_T ... W_1 v), abs(v) = 1, for real Gaussian matrices: exact at every n and T.

    E = T (ln(2 s2 / n) + psi(n / 2)) / 2,    Var = T psi'(n / 2) / 4

    Args:
        width: n >= 1.
        steps: T >= 0, any shape.
        weight_variance: s2 > 0.

    Returns:
        (mean, variance), nats and nats squared.

    Raises:
        ValueError: for width < 1, steps < 0 or weight_variance <= 0.
        TypeError: if width is no integer.

    Reference: C. M. Newman, Commun. Math. Phys. 103 (1986) 121.

    Example:
        >>> mean, variance = log_norm_growth(8, 100)
        >>> round(float(mean), 4), round(float(variance), 4)
        (-6.5088, 7.0956)
    """
    steps = at_least("log_norm_growth", "steps", steps, 0)
    exponents, variances = newman_exponents(width, weight_variance=weight_variance)
    return steps * exponents[0], steps * variances[0]


def triangular_exponents(u: Any, *, weight_variance: Any = 1.0) -> Array:
    """The exponents at n -> infinity: lambda(u) = ln(s2 (1 - u)) / 2, so that e^lambda / sqrt(s2) has the CDF s^2.

    Args:
        u: share of the exponents above, (i - 1/2) / n, in [0, 1].
        weight_variance: s2 > 0.

    Returns:
        lambda(u), nats per step; -inf at u = 1.

    Raises:
        ValueError: for u outside [0, 1] or weight_variance <= 0.

    Reference: C. M. Newman, Commun. Math. Phys. 103 (1986) 121; M. Isopi, C. M. Newman, ibid. 143 (1992) 591.

    Example:
        >>> round(float(triangular_exponents(0.75)), 6)
        -0.693147
    """
    u = share("triangular_exponents", u)
    return (jnp.log(positive("triangular_exponents", "weight_variance", weight_variance)) + jnp.log1p(-u)) / 2


def ginibre_product_cdf(radius: Any, factors: Any) -> Array:
    """P(abs(z) <= r) for the eigenvalues z of a product of M Gaussian matrices: min(r, 1)^(2 / M).

    The density in the plane is r^(2 / M - 2) / (pi M).

    Args:
        radius: r >= 0, in units of s2^(M / 2).
        factors: M >= 1.

    Returns:
        The share of eigenvalues in the disk.

    Raises:
        ValueError: for radius < 0 or factors < 1.

    Reference: Z. Burda, R. A. Janik, B. Waclaw, Phys. Rev. E 81 (2010) 041132.

    Example:
        >>> round(float(ginibre_product_cdf(0.125, 3)), 6)
        0.25
    """
    radius = at_least("ginibre_product_cdf", "radius", radius, 0)
    factors = at_least("ginibre_product_cdf", "factors", factors, 1)
    return jnp.minimum(radius, 1) ** (2 / factors)


def fuss_catalan_moment(k: Any, depth: Any) -> Array:
    """E x^k of the eigenvalues of J J^T, J a product of L Gaussian matrices: binom((L + 1) k, k) / (L k + 1).

    Args:
        k: order >= 0.
        depth: L >= 1.

    Returns:
        The moment (s2 = 1), with a relative error of some eps (1 + k ln(L k)), what a rounding of its logarithm makes.

    Raises:
        ValueError: for k < 0 or depth < 1.

    Reference: K. A. Penson, K. Zyczkowski, Phys. Rev. E 83 (2011) 061118.

    Example:
        >>> [round(float(fuss_catalan_moment(k, 2)), 6) for k in (1, 2, 3)]
        [1.0, 3.0, 12.0]
    """
    k, L = at_least("fuss_catalan_moment", "k", k, 0), at_least("fuss_catalan_moment", "depth", depth, 1)
    # Gamma((L + 1) k + 1) / (Gamma(L k + 2) Gamma(k + 1)): the first two never apart, they may be larger than the moment by far
    return jnp.exp(_log_gamma_ratio(L * k + 2, k - 1) - gammaln(k + 1))


def _log_gamma_ratio(x: Array, d: Array) -> Array:
    """ln Gamma(x + d) - ln Gamma(x) for x >= 2, d >= -1, by Stirling's series above x + SHIFT."""
    x, d = jnp.broadcast_arrays(x, d)
    steps = jnp.arange(SHIFT, dtype=x.dtype)
    below = jnp.log1p(d[..., None] / (x[..., None] + steps)).sum(axis=-1)
    x = x + SHIFT
    rest = lambda x: jnp.polyval(jnp.asarray(_STIRLING, x.dtype), 1 / x**2) / x
    # (x + d - 1/2) ln(x + d) - (x - 1/2) ln x - d
    return (x - 0.5) * jnp.log1p(d / x) + d * (jnp.log(x + d) - 1) + rest(x + d) - rest(x) - below


def fuss_catalan_edge(depth: Any) -> Array:
    """The largest eigenvalue (L + 1)^(L + 1) / L^L of J J^T; the smallest is 0.

    Args:
        depth: L >= 1.

    Returns:
        The edge (s2 = 1).

    Raises:
        ValueError: for depth < 1.

    Reference: K. A. Penson, K. Zyczkowski, Phys. Rev. E 83 (2011) 061118.

    Example:
        >>> float(fuss_catalan_edge(2))
        6.75
    """
    L = at_least("fuss_catalan_edge", "depth", depth, 1)
    return (L + 1) * jnp.exp(L * jnp.log1p(1 / L))


def fuss_catalan_density(x: Any, depth: Any) -> Array:
    """Density of the eigenvalues of J J^T, J a product of L Gaussian matrices.

    x = sin((L+1) t)^(L+1) / (sin t sin(L t)^L),  rho = sin(t)^2 sin(L t)^(L-1) / (pi sin((L+1) t)^L),  0 < t < pi/(L+1)

    Args:
        x: eigenvalue, any shape.
        depth: L >= 1.

    Returns:
        rho(x), 0 off the support (s2 = 1).

    Raises:
        ValueError: for depth < 1.

    Reference: K. A. Penson, K. Zyczkowski, Phys. Rev. E 83 (2011) 061118.

    Example:
        >>> round(float(fuss_catalan_density(1.0, 1)), 6)  # Marchenko-Pastur, sqrt(3) / (2 pi)
        0.275664
    """
    x = jnp.asarray(x, float)
    L = at_least("fuss_catalan_density", "depth", depth, 1)
    inside = (x > 0) & (x < fuss_catalan_edge(L))
    t, rest = _fuss_catalan_angle(jnp.where(inside, x, 1), L)
    lower, _, log_ratio = _fuss_catalan_sines(t, rest, L)
    log = 2 * jnp.log(jnp.sin(t)) - jnp.log(lower) - L * log_ratio
    return jnp.where(inside, jnp.exp(log) / jnp.pi, jnp.where(jnp.isnan(x + L), jnp.nan, 0))


def fuss_catalan_cdf(x: Any, depth: Any) -> Array:
    """P(eigenvalue <= x) = (s + L sin t sin s / sin(L t)) / pi, s = pi - (L + 1) t, with t as in the density.

    Args:
        x: eigenvalue, any shape.
        depth: L >= 1.

    Returns:
        The share of eigenvalues up to x (s2 = 1).

    Raises:
        ValueError: for depth < 1.

    Reference: K. A. Penson, K. Zyczkowski, Phys. Rev. E 83 (2011) 061118 (the density that is integrated).

    Example:
        >>> round(float(fuss_catalan_cdf(1.0, 1)), 6)  # 1/3 + sqrt(3) / (2 pi)
        0.608998
    """
    x = jnp.asarray(x, float)
    L = at_least("fuss_catalan_cdf", "depth", depth, 1)
    edge = fuss_catalan_edge(L)
    t, rest = _fuss_catalan_angle(jnp.where((x > 0) & (x < edge), x, 1), L)
    lower, upper, _ = _fuss_catalan_sines(t, rest, L)
    value = ((L + 1) * rest + L * jnp.sin(t) * upper / lower) / jnp.pi
    outside = jnp.where(jnp.isnan(x + L), jnp.nan, jnp.where(x > 0, 1.0, 0.0))
    return jnp.where((x > 0) & (x < edge), value, outside)


@jax.jit
def _fuss_catalan_angle(x: Array, L: Array) -> tuple[Array, Array]:
    """t and pi/(L+1) - t, found in y = ln of their ratio, which keeps the digits of both; x grows with y."""
    parts = lambda y: (jnp.pi / (L + 1) / (1 + jnp.exp(y)), jnp.pi / (L + 1) / (1 + jnp.exp(-y)))

    def lack(y):
        t, rest = parts(y)
        _, upper, log_ratio = _fuss_catalan_sines(t, rest, L)
        return jnp.log(x) - jnp.log(upper) + jnp.log(jnp.sin(t)) - L * log_ratio

    far = jnp.broadcast_to(80.0, jnp.broadcast_shapes(x.shape, L.shape)).astype(x.dtype)
    return parts(_roots.falling_root(lack, -700 * jnp.ones_like(far), far))


def _fuss_catalan_sines(t: Array, rest: Array, L: Array) -> tuple[Array, Array, Array]:
    """sin(L t), sin((L + 1) t) and the log of their ratio, sin((L + 1) t) / sin(L t) = cos t + sin t cot(L t).

    Of L t and (L + 1) t or of what they lack of pi, whichever is known to its digits; the ratio is 1 + O(1 / L).
    """
    near = t < rest
    lower, upper = jnp.where(near, L * t, (L + 1) * rest + t), (L + 1) * jnp.where(near, t, rest)
    more = jnp.sin(t) * jnp.cos(lower) / jnp.where(near, jnp.sin(lower), -jnp.sin(lower)) - 2 * jnp.sin(t / 2) ** 2
    lower, upper = jnp.sin(lower), jnp.sin(upper)
    close = more > -0.5
    return lower, upper, jnp.where(close, jnp.log1p(jnp.where(close, more, 0)), jnp.log(upper) - jnp.log(lower))
