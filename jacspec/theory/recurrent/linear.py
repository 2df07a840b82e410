"""Closed forms of linear recurrences: what a unit's decay does to its size, to its gradient, and to how long it remembers."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jacspec.theory import _domain

_LOG1P = [(-1) ** k / (k + 1) for k in range(15, -1, -1)]


def lru_exponents(nu: Any) -> Array:
    """Exponents ln abs lambda = -exp(nu) of a linear recurrent unit, lambda = exp(-exp(nu) + i theta).

    Args:
        nu: log of minus the log modulus, any shape.

    Returns:
        Exponents of the shape of nu, nats per step; each counts twice (real and imaginary part).

    Raises:
        TypeError: for what is no real number.
        ValueError: for NaN.

    Reference: A. Orvieto et al., arXiv 2303.06349.

    Example:
        >>> round(float(lru_exponents(-2.0)), 6)
        -0.135335
    """
    return -jnp.exp(_domain.within("theory.recurrent.lru_exponents", "nu", nu, lambda v: ~jnp.isnan(v), "no NaN"))


def lru_nu(u: Any, r_min: Any = 0.0, r_max: Any = 1.0) -> Array:
    """nu = ln(-(1/2) ln(u (r_max^2 - r_min^2) + r_min^2)): u uniform gives lambda uniform on a ring.

    Args:
        u: 0 < u < 1, any shape.
        r_min: inner radius >= 0.
        r_max: outer radius, r_min < r_max <= 1.

    Returns:
        nu of the shape of u.

    Raises:
        TypeError: for what is no real number.
        ValueError: outside these ranges.

    Reference: A. Orvieto et al., arXiv 2303.06349.

    Example:
        >>> round(float(lru_nu(0.5, 0.9, 0.999)), 6)
        -2.986521
    """
    name = "theory.recurrent.lru_nu"
    u = _domain.within(name, "u", u, lambda v: (v > 0) & (v < 1), "0 < u < 1")
    low, high = _ring(name, r_min, r_max, closed=True)
    return jnp.log(-0.5 * jnp.log(u * (high - low) * (high + low) + low**2))


def lru_gain(r_min: Any, r_max: Any) -> Array:
    """Mean gain <1 / (1 - abs(lambda)^2)> of a ring of units under white input of variance 1, without normalization.

    ln((1 - r_min^2) / (1 - r_max^2)) / (r_max^2 - r_min^2) = ln(1 + z) / (z (1 - r_max^2)),
    z = (r_max^2 - r_min^2) / (1 - r_max^2)

    Args:
        r_min: inner radius >= 0.
        r_max: outer radius, r_min < r_max < 1.

    Returns:
        <abs(s)^2>, the state's mean square.

    Raises:
        TypeError: for what is no real number.
        ValueError: outside these ranges.

    Reference: A. Orvieto et al., arXiv 2303.06349.

    Example:
        >>> round(float(lru_gain(0.9, 0.99)), 4)
        13.2646
    """
    low, high = _ring("theory.recurrent.lru_gain", r_min, r_max, closed=False)
    room = (1 - high) * (1 + high)
    z = (high - low) * (high + low) / room
    small, large = jnp.minimum(z, 0.1), jnp.maximum(z, 0.1)  # ln(1 + z) / z in powers of z, and as it is
    return jnp.where(z < 0.1, jnp.polyval(jnp.asarray(_LOG1P, z.dtype), small), jnp.log1p(large) / large) / room


def _ring(name: str, r_min: Any, r_max: Any, *, closed: bool) -> tuple[Array, Array]:
    low = _domain.within(name, "r_min", r_min, lambda v: (v >= 0) & (v < 1), "0 <= r_min < 1")
    upper = (lambda v: (v > low) & (v <= 1)) if closed else (lambda v: (v > low) & (v < 1))
    high = _domain.within(name, "r_max", r_max, upper, f"r_min < r_max {'<=' if closed else '<'} 1")
    return low, high


def ar1_second_moment(decay: Any, correlation: Any = 0.0) -> Array:
    """E h^2 of h' = l h + x under input with E x_t x_s = rho^abs(t - s).

    (1 + rho l) / ((1 - rho l) (1 - l^2))

    Args:
        decay: l, abs(l) < 1.
        correlation: rho, abs(rho) < 1; 0 is white input.

    Returns:
        E h^2.

    Raises:
        TypeError: for what is no real number.
        ValueError: outside these ranges.

    Reference: N. Zucchet, A. Orvieto, arXiv 2405.21064, eq. (5).

    Example:
        >>> round(float(ar1_second_moment(0.95, 0.6)), 3)
        37.448
    """
    l, rho = _decays("theory.recurrent.ar1_second_moment", decay, correlation)
    below, above = (1 - rho) + rho * (1 - l), (1 + rho) - rho * (1 - l)  # 1 -+ rho l
    return above / (below * (1 - l) * (1 + l))


def ar1_sensitivity(decay: Any, correlation: Any = 0.0) -> Array:
    """E (dh/dl)^2 of h' = l h + x: the curse of memory, cubic in 1 / (1 - l) where h itself is linear.

    With dh_t/dl = sum_j j l^(j-1) x_{t-j}, A = (1 + l^2) / (1 - l^2)^3 and B = 1 / (1 - l^2)^2:
    A (1 + rho l) / (1 - rho l) + 2 B rho l / (1 - rho l)^2
    = (((1 - l)^2 + 2 l (1 + rho)) (1 - l^2) + l^2 (1 + l^2) (1 - rho^2)) / ((1 - rho l)^2 (1 - l^2)^3)

    Args:
        decay: l, abs(l) < 1.
        correlation: rho, abs(rho) < 1; 0 is white input, where A remains.

    Returns:
        E (dh/dl)^2.

    Raises:
        TypeError: for what is no real number.
        ValueError: outside these ranges.

    Reference: N. Zucchet, A. Orvieto, arXiv 2405.21064, eq. (6), for white input.

    Example:
        >>> round(float(ar1_sensitivity(0.95)), 2)
        2052.63
    """
    l, rho = _decays("theory.recurrent.ar1_sensitivity", decay, correlation)
    room = (1 - l) * (1 + l)
    total = ((1 - l) ** 2 + 2 * l * (1 + rho)) * room + l**2 * (1 + l**2) * (1 - rho) * (1 + rho)
    return total * (1 / room) ** 3 * (1 / ((1 - rho) + rho * (1 - l))) ** 2


def _decays(name: str, decay: Any, correlation: Any) -> tuple[Array, Array]:
    """abs(l), and rho with the sign of l: only l^2 and rho l count, and no term of theirs changes its sign."""
    inside = lambda v: jnp.abs(v) < 1
    l = _domain.within(name, "decay", decay, inside, "-1 < decay < 1")
    rho = _domain.within(name, "correlation", correlation, inside, "-1 < correlation < 1")
    return jnp.where(l < 0, -l, l), jnp.where(l < 0, -rho, rho)


def irnn_exponents(h: Any, scale: Any = 1.0) -> Array:
    """Log singular values of one step of a ReLU network with W = scale I and no bias: J = scale diag(1[h > 0]).

    Units that are active in every step keep ln(scale), 0 for the identity: nothing vanishes and nothing explodes until
    training moves W. Units that are silent once are gone.

    Args:
        h: the state after the step, any shape.
        scale: > 0.

    Returns:
        ln(scale) where h > 0, -inf elsewhere, nats.

    Raises:
        TypeError: for what is no real number.
        ValueError: for scale <= 0 or NaN in h.

    Reference: Q. V. Le, N. Jaitly, G. E. Hinton, arXiv 1504.00941.

    Example:
        >>> irnn_exponents([0.3, 0.0]).tolist()
        [0.0, -inf]
    """
    h = _domain.within("theory.recurrent.irnn_exponents", "h", h, lambda v: ~jnp.isnan(v), "no NaN")
    scale = _domain.positive("theory.recurrent.irnn_exponents", "scale", scale)
    return jnp.where(jnp.isnan(h), jnp.nan, jnp.where(h > 0, jnp.log(scale), -jnp.inf))
