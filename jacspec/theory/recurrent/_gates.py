"""Gates with Gaussian pre-activations: nodes for their expectations, and what the functions of gated cells ask of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec import activations
from jacspec._ground import checks
from jacspec._ground.pytree import pytree
from jacspec.theory import _domain

REACH = 9.0
"""Standard deviations that the trapezoid rule covers: the density beyond is 1e-18."""

FINE, COARSE, ROUGH = 193, 129, 33
"""Nodes of the answer, of the rule that it is compared with, and of searches that Newton steps follow."""

TOLERANCE = 1e-7
"""The error up to which a mean field is called converged, and chi equal to 1."""

ROUNDING = 16
"""Roundings of F(q) and of chi, which are ratios and sums of positive means."""


@pytree
class GatedMeanField:
    """The stationary state of a gated network with fresh weights, and what it does to a perturbation.

    Attributes:
        second_moment: <h^2> of the state (LSTM: of the output h); 0 where the network is silent.
        cell_second_moment: <c^2>, LSTM only, otherwise None.
        chi: growth of the squared norm of a perturbation per step; 1 is the critical line.
        leading: (1/2) ln chi, the leading Lyapunov exponent, nats per step.
        error: absolute, the larger of those of chi and of the fixed point: what a coarser quadrature changes of
            F(q) and of chi, the former carried to q = F(q) by 1 / abs(1 - dF/dq).
        converged: whether `error` is below 1e-7 (float32: sqrt eps).
    """

    second_moment: Array
    cell_second_moment: Array | None
    chi: Array
    leading: Array
    error: Array
    converged: Array


@pytree
class CriticalPoint:
    """Where perturbations begin to grow as the weights do.

    Attributes:
        weight_variance: the smallest at which chi of the largest fixed point is above 1, times `ratio` for every gate;
            NaN if there is none between 1e-3 and 1e6.
        silent: where the silent state h = 0 loses its stability; inf where the candidate is driven and h is never 0.
        continuous: whether chi passes through 1, found to 1e-7. False where it jumps past 1 because an active state
            appears beside the silent one, which stays stable up to `silent`: `weight_variance` is then right to 1e-4
            of it and has no derivative.
    """

    weight_variance: Array
    silent: Array
    continuous: Array


class Gate(NamedTuple):
    """A gate at the nodes of a rule: its values, its slopes and the weights of the mean."""

    value: Array
    slope: Array
    weights: Array

    def mean(self, f: Array) -> Array:
        """<f>, f given at the nodes along the last axis."""
        return f @ self.weights

    @property
    def square(self) -> Array:
        """<gate^2>."""
        return self.mean(self.value**2)

    @property
    def slope_square(self) -> Array:
        """<gate'^2>."""
        return self.mean(self.slope**2)


def rule(points: int, dtype: Any) -> tuple[Array, Array]:
    """Nodes z and weights of the mean over N(0, 1): the trapezoid rule of step d = 18 / (points - 1).

    For f(b + s z), f analytic in a strip of half-width w, it errs by exp(-2 pi w / (s d)): with the fine rule and
    w = pi / 2 (tanh) 1e-16 at s = 2.9, 1e-9 at s = 5.
    """
    z = np.linspace(-REACH, REACH, points)
    weights = np.exp(-(z**2) / 2)
    return jnp.asarray(z, dtype), jnp.asarray(weights / weights.sum(), dtype)


def deviation(variance: Array) -> Array:
    """The standard deviation, with a finite derivative at 0: means, even and analytic in it, are off by 64 eps there."""
    return jnp.sqrt(variance + 64 * jnp.finfo(variance.dtype).eps)


def sigmoid(bias: Array, variance: Array, points: int) -> Gate:
    """The logistic gate with pre-activation N(bias, variance)."""
    z, weights = rule(points, variance.dtype)
    return _gate("sigmoid", bias + deviation(variance) * z, weights)


def tanh(variance: Array, points: int) -> Gate:
    """The candidate tanh with pre-activation N(0, variance)."""
    z, weights = rule(points, variance.dtype)
    return _gate("tanh", deviation(variance) * z, weights)


def _gate(name: str, a: Array, weights: Array) -> Gate:
    f = activations.TABLE[name]
    return Gate(f.function(a), f.slope(a), weights)


def result(q: Array, step: Callable[[Array, int], tuple[Array, ...]]) -> GatedMeanField:
    """The answer from (F(q), chi, and <c^2> of an LSTM), by two rules, at the fixed point q = F(q)."""
    coarse = step(q, COARSE)
    (image, chi, *cell), (slope, rate, *_) = jax.jvp(lambda q: step(q, FINE), (q,), (jnp.ones_like(q),))
    eps = float(jnp.finfo(q.dtype).eps)
    off = jnp.maximum(jnp.abs(image - coarse[0]), jnp.abs(image - q)) + ROUNDING * eps * image
    off = off / jnp.abs(1 - slope)
    chi_off = jnp.abs(chi - coarse[1]) + jnp.abs(rate) * off + ROUNDING * eps * chi
    error = lax.stop_gradient(jnp.maximum(off, chi_off))
    bound = max(TOLERANCE, eps**0.5)
    return GatedMeanField(q, cell[0] if cell else None, chi, 0.5 * jnp.log(chi), error, error < bound)


def finite(function: str, argument: str, value: Any) -> Array:
    """A bias: any finite number."""
    return _domain.within(function, argument, value, jnp.isfinite, "a finite number")


def per_gate(function: str, argument: str, value: Any, gates: tuple[str, ...], *, positive: bool = False) -> Array:
    """A variance for every gate, (gates,), from one number or one for each.

    Raises:
        TypeError: for what is no real number.
        ValueError: for a negative or, if so asked, zero variance, or another shape.
    """
    value = (_domain.positive if positive else _domain.nonnegative)(function, argument, value)
    if value.shape not in ((), (len(gates),)):
        expected = f"one number or one for each of {', '.join(gates)}"
        raise ValueError(checks.message(function, argument, "has the wrong shape", f"shape {value.shape}", expected))
    return jnp.broadcast_to(value, (len(gates),))


def nan_if_outside(parameters: Any, value: Any) -> Any:
    """`value`, NaN (and not converged) where a parameter is NaN: what a traced parameter outside its range becomes."""
    bad = jnp.isnan(sum(jnp.sum(p) for p in jax.tree.leaves(parameters)))
    hide = lambda x: x & ~bad if x.dtype == bool else jnp.where(bad, jnp.nan, x)
    return jax.tree.map(hide, value)
