"""The eigenvalue law of J J^T from an equation that is explicit in one complex parameter.

Free probability gives the law through an inverse, lambda = M^-1(m) with M(lambda) = E x / (lambda - x). Here both sides
are written in a parameter w = e^(u + i theta) of the upper half-plane in which nothing has to be inverted:

    ln 1/lambda = phi(w),    m = m(w),    Q(w) = int (1 + m) d ln lambda in closed form.

For every u at most one theta in (0, pi) makes lambda real, because Im phi / theta grows with theta, and lambda falls as u
grows. So the support is walked in u, each point by a bisection of its own: no branch to choose, no continuation, hard
edges included. On this curve

    density of ln lambda = Im m / pi,    P(x > lambda) = -Im Q / pi  (atoms included).

With u = left + delta sinh^2(K sin(t / 2)), delta the distance from the edge to the nearest singularity, the integrands
are smooth and even at both ends of t in (0, pi), so that the midpoint rule in t converges exponentially. Logs are the
primary type: an eigenvalue may be e^-2000. First derivatives are exact, by one Newton step of every angle.

Reference: S. Belinschi, H. Bercovici, Int. Math. Res. Not. 2005, 65; H.-W. Huang, P. Zhong, arXiv 1606.02809 (the curve is
a graph over u).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground.pytree import pytree
from jacspec.theory import _roots

HALVINGS = 36
"""Bisections of ln theta, to 1e-9 of theta: the two steps of `attach` that follow find all digits."""

FAR = 40.0
"""How far beyond the singularities u is followed: what is left of the mass falls as e^-u, and e^-40 = 4e-18."""


class Point(NamedTuple):
    """What an equation says at w = e^(u + i theta)."""

    log_x: Array
    """ln lambda, the real part of -phi."""
    angle: Array
    """Im phi: 0 on the curve, negative below it."""
    density: Array
    """Im m / pi."""
    above: Array
    """-Im Q / pi."""


class Equation(Protocol):
    """ln 1/lambda, m and Q as explicit functions of w."""

    def __call__(self, u: Array, theta: Array) -> Point:
        """The point at w = e^(u + i theta), 0 < theta < pi."""
        ...

    def slope_on_axis(self, u: Array) -> Array:
        """phi' at w = e^u, -inf where phi or m are not real. Positive off the support."""
        ...

    def ends(self) -> tuple[Array, Array, Array]:
        """u of the first and of the last singularity on the axis, and whether the law may end beyond the last one."""
        ...

    def atoms(self) -> tuple[Array, Array, Array]:
        """Mass at 0, mass and ln lambda of the one other atom there can be, at the first singularity."""
        ...


@pytree
class SpectralLaw:
    """The law of the eigenvalues lambda (squared singular values) of J J^T.

    Attributes:
        log_x: (points,), ln lambda along the continuous part, ascending, nats.
        density_of_log: (points,), density of ln lambda there: lambda rho(lambda), atoms apart.
        cumulative: (points,), P(x <= lambda) there, atoms included.
        weights: (points,), so that the continuous part of E f(x) is sum_i weights_i f(lambda_i).
        log_edges: (2,), ln of the lower and upper end of the continuous part; -inf for a hard edge at 0.
        log_atom: ln of the position of the atom that is not at 0, nats.
        atom: its mass, 0 if there is none.
        zero: mass at lambda = 0.
        error: abs(total mass - 1), and the error estimate of the quadrature behind the equation.
        converged: whether `error` is below 1e-6 (sqrt(eps) in lower precision).
    """

    log_x: Array
    density_of_log: Array
    cumulative: Array
    weights: Array
    log_edges: Array
    log_atom: Array
    atom: Array
    zero: Array
    error: Array
    converged: Array

    @property
    def x(self) -> Array:
        """(points,), lambda along the continuous part; underflows to 0 long after its logarithm has lost all mass."""
        return jnp.exp(self.log_x)

    @property
    def density(self) -> Array:
        """(points,), density rho(lambda) of the continuous part at `x`."""
        return self.density_of_log * jnp.exp(-self.log_x)

    @property
    def edges(self) -> Array:
        """(2,), lower and upper end of the continuous part."""
        return jnp.exp(self.log_edges)

    @property
    def mass(self) -> Array:
        """Total mass: the density integrated, and the atoms; 1 but for the error of the integral."""
        return jnp.sum(self.weights) + self.atom + self.zero

    def mean(self, f: Callable[[Array], Array]) -> Array:
        """E f(x) over the whole law, atoms included, for an f of the eigenvalue lambda."""
        zero = jnp.where(self.zero > 0, self.zero * f(jnp.zeros_like(self.zero)), 0)
        atom = jnp.where(self.atom > 0, self.atom * f(jnp.exp(self.log_atom)), 0)
        return jnp.sum(self.weights * f(self.x)) + atom + zero

    def moment(self, k: int) -> Array:
        """E x^k."""
        return self.mean(lambda x: x**k)

    def cdf(self, log_x: Any) -> Array:
        """P(x <= lambda) at ln lambda of any shape (-inf: the zeros), cubic between the points of the curve.

        The slope at the points is `density_of_log`, the ends are the edges: the error is of order 1e-6 for 400 points.
        """
        return _cdf(self, jnp.asarray(log_x, self.log_x.dtype))


@jax.jit
def _cdf(law: SpectralLaw, log_x: Array) -> Array:
    low, high = law.log_edges
    known = jnp.concatenate([jnp.stack([low]), law.log_x, jnp.stack([high])])
    known = known.at[0].set(jnp.where(jnp.isfinite(low), low, law.log_x[0] - 1))
    below = law.zero + jnp.where(law.log_atom < low, law.atom, 0)
    top = below + jnp.sum(law.weights)
    values = jnp.concatenate([jnp.stack([below]), law.cumulative, jnp.stack([top])])
    slopes = jnp.pad(law.density_of_log, 1)
    i = jnp.clip(jnp.searchsorted(known, log_x) - 1, 0, known.size - 2)
    gap = known[i + 1] - known[i]
    t = jnp.clip((log_x - known[i]) / jnp.where(gap > 0, gap, 1), 0, 1)
    rise = values[i + 1] - values[i]
    # Hermite: slopes limited to three times the secant keep it monotone (Fritsch and Carlson 1980)
    a, b = (jnp.minimum(gap * slopes[j], 3 * rise) for j in (i, i + 1))
    inside = values[i] + t * (a + t * (3 * rise - 2 * a - b + t * (a + b - 2 * rise)))
    outside = jnp.where(log_x < known[0], below, inside)
    value = jnp.where(log_x > high, top, outside)
    value = value + jnp.where((log_x >= law.log_atom) & (law.log_atom >= low), law.atom, 0)
    return jnp.where(jnp.isnan(log_x), jnp.nan, jnp.minimum(value, 1))


def solve(equation: Equation, points: int, quadrature_error: Array) -> SpectralLaw:
    """The law of an equation, on `points` points of its curve.

    Args:
        equation: an `Equation`.
        points: how many.
        quadrature_error: of the integrals in the equation, relative.
    """
    zero, atom, log_atom = equation.atoms()
    continuous = 1 - zero - atom
    eps = jnp.finfo(continuous.dtype).eps
    axis = jnp.sqrt(eps)  # the smallest angle that is looked for; it stands for the real axis
    u, step, edges, bounded = lax.stop_gradient(_curve(equation, points, atom, continuous, axis))
    theta, off = _angle(equation, u, axis)
    point, rate = jax.jvp(lambda theta: equation(u, theta), (theta,), (jnp.ones_like(theta),))
    # phi' = d angle / d theta + i d ln lambda / d theta, and -d ln lambda / du = |phi'|^2 / Re phi' where Im phi = 0
    fall = rate.angle + rate.log_x**2 / jnp.where(rate.angle > 0, rate.angle, jnp.inf)
    empty = continuous <= 100 * eps  # linear and orthogonal: nothing but the atom
    density = jnp.where(off | empty, 0, point.density)
    weights = density * fall * step
    high, low = equation(edges, jnp.full_like(edges, axis)).log_x  # phi' = 0 there: the edges have their derivatives
    low = jnp.where(bounded | jnp.isnan(high), low, -jnp.inf)
    error = jnp.maximum(jnp.abs(jnp.sum(weights) - continuous), quadrature_error)
    return SpectralLaw(
        log_x=jnp.where(empty, log_atom, point.log_x)[::-1],
        density_of_log=density[::-1],
        cumulative=jnp.where(empty, 1.0, 1 - point.above)[::-1],
        weights=weights[::-1],
        log_edges=jnp.where(empty, log_atom, jnp.stack([low, high])),
        log_atom=log_atom,
        atom=atom,
        zero=zero,
        error=error,
        converged=error < jnp.maximum(1e-6, axis),
    )


def _curve(
    equation: Equation, points: int, atom: Array, continuous: Array, axis: Array
) -> tuple[Array, Array, Array, Array]:
    """The points u and du of each, u at the upper and lower edge, and whether there is a lower one.

    The upper edge lies left of the first singularity, or right of it where an atom sits there; the lower one right of the
    last, if the curve does not go on for ever. Tails without weight are left out: a first walk sees where mass begins and
    ends.
    """
    first, last, bounded = equation.ends()
    off = lambda u: equation.slope_on_axis(u) > 0
    low = jnp.stack([jnp.where(atom > 0, first, first - FAR), last])
    left, right = _roots.bisect(lambda u: off(u) == jnp.array([True, False]), low, low + FAR)
    bounded = bounded & (right < last + FAR - 1)

    u, _ = _grid(left, right, first, max(points // 4, 8))
    above = equation(u, _angle(equation, u, axis)[0]).above - atom
    tolerance = 100 * jnp.finfo(above.dtype).eps
    stop = jnp.min(jnp.where(continuous - above < tolerance, u, right))
    begin = jnp.max(jnp.where((above < tolerance) & (u < stop), u, left))
    grid = _grid(begin, jnp.where(bounded, right, stop), first, points)
    return *grid, jnp.stack([left, right]), bounded


def _grid(left: Array, right: Array, first: Array, points: int) -> tuple[Array, Array]:
    """The points u, dense near the upper edge, and du of each."""
    span = right - left
    delta = jnp.clip(jnp.abs(left - first), 1e-4 * span, span)
    reach = jnp.arcsinh(jnp.sqrt(span / delta))
    t = (jnp.arange(points, dtype=left.dtype) + 0.5) * (jnp.pi / points)
    stretched = reach * jnp.sin(t / 2)
    step = delta * jnp.sinh(2 * stretched) * reach * jnp.cos(t / 2) / 2 * (jnp.pi / points)
    return left + delta * jnp.sinh(stretched) ** 2, step


def _angle(equation: Equation, u: Array, axis: Array) -> tuple[Array, Array]:
    """The theta in (axis, pi) at which lambda is real, and whether there is none: off the support it is 0 to rounding."""
    angle = lambda theta: equation(u, theta).angle
    least, most = jnp.full_like(u, jnp.log(axis)), jnp.full_like(u, np.log(np.pi))
    # the first halving, of an interval about ln axis, asks whether the point is on the support at all
    log_theta = _roots.bisect(lambda log: angle(jnp.exp(log)) < 0, 2 * least - most, most, HALVINGS)
    off = log_theta <= least + 1e-3
    theta = _roots.attach(angle, jnp.where(off, 1.0, jnp.exp(log_theta)), where=~off)
    return jnp.where(off, axis**4, theta), off
