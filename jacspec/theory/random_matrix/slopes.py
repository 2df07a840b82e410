"""The distribution of the squared slope f'(a)^2 of a unit, a ~ N(0, q): all that free probability asks of an activation.

It is a list of values and probabilities: the slopes of an activation that is piecewise linear (ReLU: 0 and 1), and the
nodes of a quadrature over a for the others, on the same path.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr

from jacspec import activations
from jacspec._ground.pytree import pytree
from jacspec.theory import _domain, _quadrature

PANELS, REACH, EVEN = 80, 8.5, 3.0
"""Panels of the quadrature over a from -REACH to REACH standard deviations, nearly even up to EVEN of them (or of 1)."""


@pytree
class SquaredSlopes:
    """The distribution of the squared slope d^2 = f'(a)^2 of a unit.

    Attributes:
        values: (k,), >= 0.
        probabilities: (k,), they add up to 1.
        error: estimated error of the mean.
        log_values: (k,), ln d^2 of slopes whose square underflows; None for the logs of `values`. Only -inf is dead.
        coarse: (k,), the probabilities by a Gauss rule on half of the nodes, panel after panel of a Gauss-Kronrod pair: how
            far an expectation changes with it is what its error may be. None for values that are no quadrature.
    """

    values: Array
    probabilities: Array
    error: Array | float = 0.0
    log_values: Array | None = None
    coarse: Array | None = None

    @property
    def logs(self) -> Array:
        """ln d^2, -inf for dead units."""
        if self.log_values is not None:
            return self.log_values
        return jnp.where(self.values > 0, jnp.log(jnp.where(self.values > 0, self.values, 1)), -jnp.inf)

    def moment(self, k: int) -> Array:
        """mu_k = E d^(2k)."""
        return jnp.sum(self.probabilities * self.values**k)

    @property
    def zero(self) -> Array:
        """P(d = 0): the dead units."""
        return jnp.sum(jnp.where(self.logs == -jnp.inf, self.probabilities, 0))

    @property
    def largest(self) -> tuple[Array, Array]:
        """The largest value, and its probability."""
        top = jnp.max(self.values)
        return top, jnp.sum(jnp.where(self.values == top, self.probabilities, 0))


def squared_slopes(activation: str | activations.Activation, q: Any = 1.0) -> SquaredSlopes:
    """The distribution of f'(a)^2 for a ~ N(0, q).

    Args:
        activation: a name of `jacspec.activations.TABLE` or an `Activation`.
        q: variance of the pre-activations, > 0.

    Returns:
        `SquaredSlopes`: the slopes of the pieces of a piecewise linear function, or the nodes of a Gauss-Kronrod rule.

    Raises:
        ValueError: for an unknown activation or q <= 0.
        TypeError: for a function without derivative, or q no real number.

    Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1802.09979.

    Example:
        >>> slopes = squared_slopes("hard_tanh", 1.0)
        >>> round(float(slopes.moment(1)), 6)  # erf(1 / sqrt(2 q))
        0.682689
    """
    name = "theory.random_matrix.squared_slopes"
    entry = activations.get(activation, function=name)
    q = _domain.positive(name, "q", q)
    pieces = _constant_pieces(entry)
    if pieces is not None:
        below = ndtr(jnp.asarray(entry.kinks, q.dtype) / jnp.sqrt(q))
        below = jnp.concatenate([jnp.zeros(1, q.dtype), below, jnp.ones(1, q.dtype)])
        values, which = np.unique(pieces, return_inverse=True)
        probabilities = jnp.zeros(len(values), q.dtype).at[which].add(jnp.diff(below))
        return SquaredSlopes(jnp.asarray(values, q.dtype), probabilities, jnp.zeros_like(q))
    a, half = _quadrature.panel_nodes(_edges(jax.lax.stop_gradient(q), entry.kinks))
    share = half[:, None] * jnp.exp(-0.5 * a * a / q) / jnp.sqrt(2 * jnp.pi * q)
    values, logs, probabilities = entry.derivative(a) ** 2, 2 * entry.log_slope(a), share * _quadrature.KRONROD
    coarse = share * _quadrature.GAUSS
    error = jnp.abs(jnp.sum((probabilities - coarse) * values))
    probabilities, coarse = ((weights / jnp.sum(probabilities)).ravel() for weights in (probabilities, coarse))
    return SquaredSlopes(values.ravel(), probabilities, error, logs.ravel(), coarse)


def _edges(q: Array, kinks: tuple[float, ...]) -> Array:
    """Edges of the panels: even, as in deep networks w comes close to poles that lie all along the axis; and the kinks."""
    end = REACH * jnp.sqrt(q)
    scale = EVEN * jnp.minimum(1.0, jnp.sqrt(q))
    t = jnp.arcsinh(end / scale)
    edges = scale * jnp.sinh(t * jnp.linspace(-1, 1, PANELS + 1, dtype=q.dtype))
    for kink in kinks:  # the nearest edge moves there
        kink = jnp.clip(kink, -end, end)
        edges = edges.at[jnp.argmin(jnp.abs(edges - kink))].set(kink)
    return edges


def _constant_pieces(entry: activations.Activation) -> np.ndarray | None:
    """f'^2 between the kinks if it is constant there (piecewise linear f), else None."""
    ends = np.array([-np.inf, *entry.kinks, np.inf])
    inner = np.linspace(0.01, 0.99, 33)
    low, high = np.arctan(ends[:-1]), np.arctan(ends[1:])
    with jax.ensure_compile_time_eval():
        a = jnp.asarray(np.tan(low[:, None] + (high - low)[:, None] * inner))
        values = np.asarray(entry.derivative(a)) ** 2
    return values[:, 0] if (values == values[:, :1]).all() else None


def bernoulli_slopes(p: Any) -> SquaredSlopes:
    """d^2 = 1 with probability p, else 0: linear (p = 1), ReLU (1/2), hard tanh (erf(1 / sqrt(2 q))).

    Args:
        p: probability that a unit is alive, in (0, 1].

    Returns:
        `SquaredSlopes`.

    Raises:
        ValueError: for p outside (0, 1].
        TypeError: if p is no real number.

    Reference: J. Pennington, S. Schoenholz, S. Ganguli, arXiv 1802.09979.

    Example:
        >>> float(bernoulli_slopes(0.25).moment(2))
        0.25
    """
    expected = "0 < p <= 1"
    p = _domain.within("theory.random_matrix.bernoulli_slopes", "p", p, lambda v: (v > 0) & (v <= 1), expected)
    return SquaredSlopes(jnp.array([0.0, 1.0], p.dtype), jnp.stack([1 - p, p]), jnp.zeros((), p.dtype))
