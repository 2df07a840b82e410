"""What the questions of this folder share: activations, checks of their arguments, and the proof of a root."""

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec import activations
from jacspec._ground import checks
from jacspec.activations import Activation
from jacspec.theory import _domain

LARGEST = 1e18
"""A variance beyond which an iteration is taken to diverge."""

RUNGS = 12
"""Distances from a root, a factor of four apart, at which it is enclosed."""


def elementwise(function: Callable[[Array], Array], *, kinks: tuple[float, ...] = ()) -> Activation:
    """Any elementwise function as an activation, with its derivative by automatic differentiation.

    Args:
        function: a -> phi(a), any shape.
        kinks: points where phi or one of its first two derivatives jumps.

    Returns:
        An `Activation` that every function of this folder takes.

    Raises:
        TypeError: for what cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec.theory import mean_field
        >>> swish = mean_field.elementwise(lambda a: a / (1 + jnp.exp(-a)))
        >>> found, table = (mean_field.chi(f, 1.0, weight_variance=2.0) for f in (swish, "swish"))
        >>> bool(abs(found - table) < 1e-12)
        True
    """
    checks.function("theory.mean_field.elementwise", "function", function, "an elementwise function")

    def slope(a):
        return jax.jvp(function, (a,), (jnp.ones_like(a),))[1]

    return Activation("function", function, slope, lambda a: jnp.log(jnp.abs(slope(a))), kinks=tuple(kinks))


def resolve(function: str, activation: Any) -> Activation:
    """The entry of the table of that name, an `Activation` as it is, any other callable as a smooth function."""
    if isinstance(activation, (str, Activation)) or not callable(activation):
        return activations.get(activation, function=f"theory.mean_field.{function}")
    return elementwise(cast(Callable[[Array], Array], activation))


def scalar(function: str, argument: str, value: Any, *, positive: bool = False) -> Array:
    """A finite scalar >= 0 (> 0): ValueError where it can be seen to be none, NaN under jit."""
    check = _domain.positive if positive else _domain.nonnegative
    number = check(f"theory.mean_field.{function}", argument, value)
    if number.ndim:
        got, hint = f"shape {number.shape}", "Map the function over arrays with jax.vmap."
        name = f"theory.mean_field.{function}"
        raise ValueError(checks.message(name, argument, "is not a scalar", got, "a scalar", hint))
    return number


def compiled(function: Callable, statics: int = 1) -> Callable:
    """`function`, compiled once for each activation of the table (its first argument; `statics` arguments are static).

    Others are traced anew on every call: a function that a user brings may hold state, and is no key of a cache.
    """
    fast = jax.jit(function, static_argnums=tuple(range(statics)))

    def call(f, *args):
        return (fast if activations.TABLE.get(f.name) is f else function)(f, *args)

    return call


def log_grid(dtype: Any) -> Array:
    """ln q from tiny^(3/4) to LARGEST: in steps of 1 from 1e-35 on, of 16 below, where everything is a power of q."""
    least, most = 0.75 * math.log(jnp.finfo(dtype).tiny), math.log(LARGEST)
    fine = np.append(np.arange(max(least, -80.0), most), most)
    coarse = np.linspace(least, fine[0], math.ceil((fine[0] - least) / 16) + 1)[:-1]
    return jnp.asarray(np.concatenate([coarse, fine]), dtype)


def enclosed(function: Callable[[Array], tuple[Array, Array]], q: Array, h: Array, closed: Array) -> Array:
    """The error of a root q > 0, proved by the signs on either side.

    Args:
        function: q -> (value, bound of its error), positive below the root and negative above.
        q: the root.
        h: where to begin.
        closed: whether 0 may stand for the lower side.

    Returns:
        h q with the least h, of a factor of four each, at which `function` has, by more than its bound, the two signs at
        q / (1 + h) and q (1 + h): the root is in between. inf if there is none.
    """
    h = h * 4.0 ** jnp.arange(RUNGS, dtype=q.dtype)
    value, bound = jax.vmap(function)(jnp.concatenate([q / (1 + h), q * (1 + h)]))
    positive, negative = value[:RUNGS] > bound[:RUNGS], value[RUNGS:] < -bound[RUNGS:]
    error = jnp.where(positive, h * q, jnp.where(closed, jnp.maximum(h, 1) * q, jnp.inf))
    return jnp.min(jnp.where(negative, error, jnp.inf))
