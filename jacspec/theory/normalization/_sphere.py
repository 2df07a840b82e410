"""Averages over two examples of a normalized batch.

What batch normalization makes of one unit's Gaussian pre-activations is a point z of the sphere of radius sqrt(B) in
the B - 1 dimensions orthogonal to (1, ..., 1). Two of its coordinates have the correlation -1/(B-1). In polar
coordinates psi, alpha about their axis of symmetry they are

    z_1, z_2 = sin(psi) (sqrt((B-2)/2) cos(alpha) -+ sqrt(B/2) sin(alpha)),
    density (B-3) cos(psi)^(B-4) sin(psi) / (2 pi),    0 < psi < pi/2,    alpha on the circle,

smooth for every B >= 4, in contrast to the density in the plane, (1 - r^2)^((B-5)/2) r dr. Functions symmetric in
(z_1, z_2) need 0 < alpha < pi only. A kink z_1 = k or z_2 = k is a break in psi at given alpha; in alpha there are
breaks where such a line leaves the disk and where two of them cross. A line leaves with a square root, which the
substitution 3 u^2 - 2 u^3 makes analytic. Panels carry Gauss-Kronrod pairs: their disagreement is the error estimate.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jacspec.theory._quadrature import GAUSS, KRONROD, NODES, REACH

RADIAL = 8
"""Panels between two breaks in psi."""

ANGULAR = 4
"""Panels between two breaks in alpha."""


@functools.partial(jax.jit, static_argnums=1)
def two_units(batch: Array, kinks: tuple[float, ...]) -> tuple[Array, Array, Array, Array]:
    """Nodes z_1, z_2, Kronrod weights and Gauss weights (zero between) for means of symmetric functions of (z_1, z_2).

    Args:
        batch: B >= 4, scalar.
        kinks: points where the function of one coordinate, or a derivative of it, jumps.

    Returns:
        Four arrays of one dimension; the weights add up to 1.
    """
    even, odd = jnp.sqrt((batch - 2) / 2), jnp.sqrt(batch / 2)
    alpha, *outer = _panels(_angular_breaks(batch, kinks), ANGULAR, smooth=True)

    def ray(alpha):
        slopes = jnp.stack([even * jnp.cos(alpha) - odd * jnp.sin(alpha), even * jnp.cos(alpha) + odd * jnp.sin(alpha)])
        psi, *inner = _panels(_radial_breaks(batch, slopes, kinks), RADIAL)
        sine = jnp.sin(psi)
        square = jnp.minimum(sine**2, 1 - jnp.finfo(psi.dtype).eps)
        cosine_power = jnp.exp(0.5 * (batch - 4) * jnp.log1p(-square))  # cos^(B-4) loses digits for large B
        density = (batch - 3) / jnp.pi * cosine_power * sine
        return slopes[:, None] * sine, [density * weights for weights in inner]

    z, inner = jax.vmap(ray)(alpha)
    fine, coarse = (a[:, None] * b for a, b in zip(outer, inner, strict=True))
    return z[:, 0].ravel(), z[:, 1].ravel(), fine.ravel(), coarse.ravel()


def _panels(breaks: Array, count: int, smooth: bool = False) -> tuple[Array, Array, Array]:
    """Nodes, Kronrod and Gauss weights of `count` panels in every piece; `smooth` moves the nodes to the breaks."""
    share = (jnp.arange(count, dtype=breaks.dtype)[:, None] + 0.5 * (1 + jnp.asarray(NODES, breaks.dtype))) / count
    u, speed = (share**2 * (3 - 2 * share), 6 * share * (1 - share)) if smooth else (share, jnp.ones_like(share))
    length = jnp.diff(breaks)[:, None, None]
    x = breaks[:-1, None, None] + length * u
    fine, coarse = (length * speed / (2 * count) * jnp.asarray(rule, breaks.dtype) for rule in (KRONROD, GAUSS))
    return x.ravel(), fine.ravel(), coarse.ravel()


def _angular_breaks(batch, kinks):
    """0, pi, and where in between a line z_i = k touches the rim of the disk or meets a line z_j = k'."""
    half = jnp.arcsin(jnp.sqrt(batch / (2 * (batch - 1))))  # half the angle between the two coordinates
    found = []
    for kink in sorted({0.0, *kinks}):
        rim = kink / jnp.sqrt(batch - 1)
        inside = jnp.abs(rim) < 1
        touch = jnp.where(inside, jnp.arccos(jnp.where(inside, rim, 0)), 0)
        found += [jnp.abs(touch - half), jnp.pi - jnp.abs(jnp.pi - touch - half)]
    for first in kinks:
        found += [
            jnp.arctan2((second - first) * jnp.cos(half), (second + first) * jnp.sin(half))
            for second in kinks
            if second >= first and (first, second) != (0, 0)
        ]
    return jnp.sort(jnp.stack([jnp.zeros_like(half), *found, jnp.pi + jnp.zeros_like(half)]))


def _radial_breaks(batch, slopes, kinks):
    """0, the end of the integral, and where in between the ray crosses a line z_i = k."""
    whole = batch - 1 <= REACH**2
    end = jnp.where(whole, 0.5 * jnp.pi, jnp.arcsin(jnp.where(whole, 0, REACH / jnp.sqrt(batch - 1))))
    outer = [kink for kink in kinks if kink]
    if not outer:
        return jnp.stack([jnp.zeros_like(end), end])
    sines = jnp.stack([kink / jnp.where(slopes == 0, 1, slopes) for kink in outer])
    inside = (slopes != 0) & (sines > 0) & (sines < jnp.sin(end))
    crossings = jnp.where(inside, jnp.arcsin(jnp.where(inside, sines, 0)), end).ravel()
    return jnp.concatenate([jnp.zeros_like(end)[None], jnp.sort(crossings), end[None]])
