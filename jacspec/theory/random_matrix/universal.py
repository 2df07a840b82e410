"""Universality classes of very deep networks: laws of J J^T that remember one number of the activation.

In w = m / (1 + m) the equations are explicit (s = sigma^2_JJT or c, a variance held fixed as L grows):

    Bernoulli   ln 1/lambda = ln w - s w,            M^-1 = (1 + m)/m exp(s m / (1 + m))
    smooth      ln 1/lambda = ln w - s m,            M^-1 = (1 + m)/m exp(s m)
    residual    ln 1/lambda = ln w - c (1 + 2 m),    M^-1 = (1 + m)/m exp(c (1 + 2 m))

Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1802.09979; W. Tarnowski, P. Warchol, S. Jastrzebski, J. Tabor,
M. Nowak, arXiv 1809.08848.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks
from jacspec._ground.pytree import pytree, static
from jacspec.theory import _domain
from jacspec.theory.random_matrix._spectral_law import Point, SpectralLaw, solve

BERNOULLI, SMOOTH, RESIDUAL = "bernoulli", "smooth", "residual"


@pytree
class Universal:
    """ln 1/lambda = ln w - h(w), h = s w (Bernoulli), s m (smooth), s (1 + 2 m) (residual), with m = w / (1 - w).

    Q = -ln m + int (1 + m) dh,    int (1 + m) dh = s ln(1 + m),  s (m + m^2 / 2),  2 s (m + m^2 / 2)
    """

    s: Array
    kind: str = static()

    def __call__(self, u: Array, theta: Array) -> Point:
        """The point at w = e^(u + i theta)."""
        r, s = jnp.exp(u), self.s
        w = r * jnp.exp(1j * theta)
        grown = 1 / (2 * r * jnp.sin(theta / 2) ** 2 - jnp.expm1(u) - 1j * r * jnp.sin(theta))  # 1 + m = 1 / (1 - w)
        m = grown - 1
        h = {BERNOULLI: s * w, SMOOTH: s * m, RESIDUAL: s * (1 + 2 * m)}[self.kind]
        twice = 2.0 if self.kind == RESIDUAL else 1.0
        heat = s * jnp.log(grown) if self.kind == BERNOULLI else twice * s * (m + m * m / 2)
        return Point(
            log_x=h.real - u,
            angle=theta - h.imag,
            density=grown.imag / jnp.pi,
            above=(theta + jnp.angle(grown) - heat.imag) / jnp.pi,  # the first two are arg m
        )

    def slope_on_axis(self, u: Array) -> Array:
        """1 - s w, or 1 - s w / (1 - w)^2 (twice that for the residual class)."""
        if self.kind == BERNOULLI:
            return 1 - self.s * jnp.exp(u)
        twice = 2.0 if self.kind == RESIDUAL else 1.0
        return 1 - twice * self.s / (2 * jnp.sinh(u / 2)) ** 2

    def ends(self) -> tuple[Array, Array, Array]:
        """All singularities are at w = 1."""
        return jnp.zeros_like(self.s), jnp.zeros_like(self.s), jnp.asarray(self.kind != BERNOULLI)

    def atoms(self) -> tuple[Array, Array, Array]:
        """Bernoulli: 1 - s at e^s."""
        none = jnp.zeros_like(self.s)
        return none, jnp.maximum(1 - self.s, 0) if self.kind == BERNOULLI else none, self.s


@functools.partial(jax.jit, static_argnums=(1, 2))
def _universal_law(s: Array, kind: str, points: int) -> SpectralLaw:
    return solve(Universal(s, kind), points, jnp.zeros_like(s))


def bernoulli_universality(variance: Any, *, points: int = 400) -> SpectralLaw:
    """The law of J J^T for ReLU-like activations, orthogonal weights and infinite depth at fixed variance.

    M^-1(m) = (1 + m)/m exp(s m / (1 + m)): the density ends at s e; an atom of mass 1 - s at e^s if s < 1. Mean 1.

    Args:
        variance: s = sigma^2_JJT > 0, the variance of the eigenvalues.
        points: points on the curve.

    Returns:
        A `SpectralLaw`.

    Raises:
        ValueError: for variance <= 0 or fewer than 8 points.
        TypeError: if `variance` is no real number.

    Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1802.09979.

    Example:
        >>> law = bernoulli_universality(0.25)
        >>> round(float(law.atom), 6), round(float(law.edges[1]), 6)
        (0.75, 0.67957)
    """
    return _checked("bernoulli_universality", "variance", variance, BERNOULLI, points)


def smooth_universality(variance: Any, *, points: int = 400) -> SpectralLaw:
    """The law of J J^T for smooth activations, orthogonal weights and infinite depth at fixed variance.

    M^-1(m) = (1 + m)/m exp(s m), with edges at m = (-1 +- sqrt(1 + 4 / s)) / 2. Mean 1.

    Args:
        variance: s = sigma^2_JJT > 0, the variance of the eigenvalues.
        points: points on the curve.

    Returns:
        A `SpectralLaw`.

    Raises:
        ValueError: for variance <= 0 or fewer than 8 points.
        TypeError: if `variance` is no real number.

    Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1802.09979.

    Example:
        >>> [round(float(edge), 4) for edge in smooth_universality(0.25).edges]
        [0.3213, 2.4238]
    """
    return _checked("smooth_universality", "variance", variance, SMOOTH, points)


def residual_law(strength: Any, *, points: int = 400) -> SpectralLaw:
    """The law of J J^T, J = prod_l (I + A_l), for many weak independent branches.

    z G - 1 = G exp(c (2 z G - 1)): mean e^c, m2 / m1^2 = 1 + 2 c, edges at m = (-1 +- sqrt(1 + 2 / c)) / 2, inverse to
    each other.

    Args:
        strength: c > 0, the sum over layers of the mean squared singular value of A_l.
        points: points on the curve.

    Returns:
        A `SpectralLaw`.

    Raises:
        ValueError: for strength <= 0 or fewer than 8 points.
        TypeError: if `strength` is no real number.

    Reference: W. Tarnowski, P. Warchol, S. Jastrzebski, J. Tabor, M. Nowak, arXiv 1809.08848.

    Example:
        >>> [round(float(edge), 4) for edge in residual_law(0.25).edges]
        [0.2362, 4.234]
    """
    return _checked("residual_law", "strength", strength, RESIDUAL, points)


def _checked(function: str, argument: str, value: Any, kind: str, points: int) -> SpectralLaw:
    name = f"theory.random_matrix.{function}"
    points = checks.integer(name, "points", points, 8)
    return _universal_law(_domain.positive(name, argument, value), kind, points)
