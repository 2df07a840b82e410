"""Singular values of deep networks at initialization, by free probability, for any activation.

A layer is J = D W with D = diag f'(a) of independent pre-activations a ~ N(0, q) and W Gaussian or orthogonal. The law of
J_L ... J_1 (J_L ... J_1)^T is free multiplicative convolution: with psi(w) = E d^2 w / (1 - d^2 w) and S-transforms,

    M^-1(m) = (1 + m)/m prod_l 1 / (S_WW S_DD),   S_WW = 1/(s2 (1 + m)) or 1/s2,   S_DD(m) = (1 + m)/m psi^-1(m).

In the parameter w = psi^-1(m) no inverse is left: D^2 enters by its values and probabilities alone.

Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1711.04735 and 1802.09979.
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
from jacspec.theory.random_matrix.slopes import SquaredSlopes

ENSEMBLES = ("gaussian", "orthogonal")

TAIL = 1e-9
"""A smallest d^2 of less probability than this is the end of a quadrature and no end of the support."""


@pytree
class Product:
    """The equation of L equal layers in w = psi^-1(m); d^2 are scaled by the largest.

    phi = L ln w - (L - 1) ln(m / (1 + m)) - c L ln(1 + m) - L ln s2, c = 1 for Gaussian weights and 0 for orthogonal ones
    Q = (L - 1) ln m + c L m - L ln w + L E ln(1 - d^2 w)

    In real numbers, so that nothing cancels: with d^2 e^u = pi / (1 - pi), k = cos(theta / 2), s = sin(theta / 2) and

        z = (1 - 2 pi) k + i s    one has    1 - d^2 w = e^(i theta / 2) conj(z) / (1 - pi),
        1 + m = e^(-i theta / 2) S_0,    m = e^(i theta / 2) S_1,    S_0 = E (1 - pi) z / |z|^2,    S_1 = E pi z / |z|^2.
    """

    slopes: SquaredSlopes
    depth: Array
    log_variance: Array
    gaussian: bool = static()

    def _shares(self, u: Array) -> tuple[Array, Array, Array]:
        """Probabilities of d^2 > 0, and pi and 1 - pi of each at every u, (..., k)."""
        alive = self.slopes.logs > -jnp.inf
        v = u[..., None] + jnp.where(alive, self.slopes.logs, 0)
        small = jnp.exp(-jnp.abs(v))
        large, small = 1 / (1 + small), small / (1 + small)
        pi, rest = jnp.where(v > 0, large, small), jnp.where(v > 0, small, large)
        return jnp.where(alive, self.slopes.probabilities, 0), pi, rest

    def __call__(self, u: Array, theta: Array) -> Point:
        """The point at w = e^(u + i theta)."""
        L, c, zero = self.depth, float(self.gaussian), self.slopes.zero
        p, pi, rest = self._shares(u)
        k, s = jnp.cos(theta / 2), jnp.sin(theta / 2)
        real, imaginary = (rest - pi) * k[..., None], s[..., None]
        weight = p / (real**2 + imaginary**2)
        mean = lambda f: jnp.sum(weight * f, axis=-1)
        re0, im0 = mean(rest * real) + zero * k, s * (mean(rest) + zero)
        re1, im1 = mean(pi * real), s * mean(pi)
        arg0, arg1 = jnp.arctan2(im0, re0), jnp.arctan2(im1, re1)
        log0, log1 = jnp.log(re0**2 + im0**2) / 2, jnp.log(re1**2 + im1**2) / 2
        m = mean(pi * rest) * jnp.sin(theta)  # its imaginary part
        arg_z = jnp.sum(p * jnp.arctan2(imaginary, real), axis=-1) + zero * theta / 2
        return Point(
            log_x=L * (self.log_variance - u) + (L - 1) * (log1 - log0) + c * L * log0,
            angle=theta * (1 + c * L / 2) - (L - 1) * (arg1 - arg0) - c * L * arg0,
            density=m / jnp.pi,
            above=(theta / 2 - (L - 1) * arg1 - c * L * m + L * arg_z) / jnp.pi,
        )

    def slope_on_axis(self, u: Array) -> Array:
        """L - w m' ((L - 1) / m + c L) / (1 + m) at w = e^u; -inf where a logarithm in phi is complex."""
        L = self.depth
        p, pi, rest = self._shares(u)
        z = rest - pi
        m, one_plus = jnp.sum(p * pi / z, axis=-1), jnp.sum(p * rest / z, axis=-1) + self.slopes.zero
        rate = jnp.sum(p * pi * rest / z**2, axis=-1)
        real = ((m / one_plus > 0) | (L == 1)) & ((one_plus > 0) | (not self.gaussian))
        return jnp.where(real, L - rate * ((L - 1) / m + float(self.gaussian) * L) / one_plus, -jnp.inf)

    def ends(self) -> tuple[Array, Array, Array]:
        """-ln of the largest and of the smallest d^2 other than 0, unless that is but the last node of a tail."""
        log_x, p = self.slopes.logs, self.slopes.probabilities
        smallest = jnp.min(jnp.where((log_x > -jnp.inf) & (p > 0), log_x, jnp.inf))
        weight = jnp.max(jnp.where(log_x == smallest, p, 0))
        return -jnp.max(log_x), -smallest, weight > TAIL

    def atoms(self) -> tuple[Array, Array, Array]:
        """P(d = 0) at 0; orthogonal weights keep 1 - L (1 - P(d^2 = v)) at (s2 v)^L, v the largest value."""
        value, probability = self.slopes.largest
        atom = jnp.zeros_like(probability) if self.gaussian else 1 - self.depth * (1 - probability)
        rounding = 8 * jnp.finfo(atom.dtype).eps * self.depth
        return self.slopes.zero, jnp.where(atom > rounding, atom, 0), self.depth * (self.log_variance + jnp.log(value))


def jacobian_law(
    slopes: SquaredSlopes,
    depth: Any,
    *,
    ensemble: str = "gaussian",
    weight_variance: Any = None,
    points: int = 400,
) -> SpectralLaw:
    """The eigenvalue law of J J^T, J = D_L W_L ... D_1 W_1, in the limit of infinite width.

    M^-1(m) = (1 + m)/m prod_l 1 / (S_WW(m) S_DD(m))

    Args:
        slopes: the distribution of d^2, from `squared_slopes` or `bernoulli_slopes`.
        depth: L >= 1; real values are free convolution powers. Orthogonal weights at L = 1 give the law of d^2 itself,
            which has a density only as far as `slopes` is no list of atoms: there `converged` is False.
        ensemble: ``"gaussian"`` (variance s2 / n) or ``"orthogonal"`` (sqrt(s2) times Haar).
        weight_variance: s2 > 0; None for the critical 1 / E d^2.
        points: points on the curve.

    Returns:
        A `SpectralLaw`: density, distribution function, edges, atoms, and what is known of its error.

    Raises:
        ValueError: for an unknown ensemble, depth < 1, weight_variance <= 0, fewer than 8 points.
        TypeError: if `slopes` is no `SquaredSlopes`.

    Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1711.04735.

    Example:
        >>> from jacspec.theory.random_matrix import squared_slopes
        >>> law = jacobian_law(squared_slopes("tanh", 0.5), 4, ensemble="orthogonal")
        >>> round(float(law.mass), 6), round(float(law.moment(1)), 6), bool(law.converged)
        (1.0, 1.0, True)
    """
    name = "theory.random_matrix.jacobian_law"
    checks.instance(name, "slopes", slopes, SquaredSlopes, "Ask squared_slopes(activation, q).")
    checks.one_of(name, "ensemble", ensemble, ENSEMBLES)
    points = checks.integer(name, "points", points, 8)
    depth = _domain.within(name, "depth", depth, lambda v: (v >= 1) & jnp.isfinite(v), "depth >= 1")
    variance = 1 / slopes.moment(1) if weight_variance is None else weight_variance
    variance = _domain.positive(name, "weight_variance", variance)
    return _product_law(slopes, depth, variance, ensemble == "gaussian", points)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _product_law(slopes: SquaredSlopes, depth: Array, variance: Array, gaussian: bool, points: int) -> SpectralLaw:
    top = jax.lax.stop_gradient(jnp.max(slopes.values))  # w in units of 1 / max d^2
    scaled = SquaredSlopes(slopes.values / top, slopes.probabilities, slopes.error / top, slopes.logs - jnp.log(top))
    equation = Product(scaled, depth, jnp.log(variance * top), gaussian)
    return solve(equation, points, depth * jnp.abs(scaled.error) / scaled.moment(1))


def jacobian_moments(
    slopes: SquaredSlopes, depth: Any, *, ensemble: str = "gaussian", weight_variance: Any = None
) -> tuple[Array, Array]:
    """The first two moments of the eigenvalues of J J^T.

    m1 = (s2 mu1)^L,    m2 / m1^2 = 1 + L (mu2 / mu1^2 - 1 - s1),    s1 = -1 (Gaussian), 0 (orthogonal)

    Args:
        slopes: the distribution of d^2.
        depth: L >= 1.
        ensemble: ``"gaussian"`` or ``"orthogonal"``.
        weight_variance: s2 > 0; None for the critical 1 / E d^2.

    Returns:
        (m1, m2).

    Raises:
        ValueError: for an unknown ensemble, depth < 1 or weight_variance <= 0.
        TypeError: if `slopes` is no `SquaredSlopes`.

    Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1802.09979.

    Example:
        >>> from jacspec.theory.random_matrix import bernoulli_slopes
        >>> m1, m2 = jacobian_moments(bernoulli_slopes(0.5), 4)
        >>> float(m1), float(m2)  # (L + p) / p
        (1.0, 9.0)
    """
    name = "theory.random_matrix.jacobian_moments"
    checks.instance(name, "slopes", slopes, SquaredSlopes, "Ask squared_slopes(activation, q).")
    checks.one_of(name, "ensemble", ensemble, ENSEMBLES)
    depth = _domain.within(name, "depth", depth, lambda v: (v >= 1) & jnp.isfinite(v), "depth >= 1")
    mu1 = slopes.moment(1)
    # 1 at criticality, where a rounding of s2 mu1 is not to be raised to the power L
    mean = 1.0 if weight_variance is None else _domain.positive(name, "weight_variance", weight_variance) * mu1
    m1 = jnp.exp(depth * jnp.log(mean))
    spread = jnp.sum(slopes.probabilities * (slopes.values / mu1 - 1) ** 2) + (1 if ensemble == "gaussian" else 0)
    return m1, m1**2 * (1 + depth * spread)
