"""What the questions of this folder share: activations, moments near q = 0, one scalar root finder."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec import _checks, activations
from jacspec.activations import Activation
from jacspec.theory import _domain
from jacspec.theory._quadrature import PANELS, gaussian_mean

STEPS = 100
"""Most steps of the root finder; Newton takes five to ten, bisection of a double about sixty."""


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
    _checks.function("theory.mean_field.elementwise", "function", function, "an elementwise function")

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
        raise ValueError(_checks.message(name, argument, "is not a scalar", got, "a scalar", hint))
    return number


def compiled(function: Callable, statics: int = 1) -> Callable:
    """`function`, compiled once for each activation of the table (its first argument; `statics` arguments are static).

    Others are traced anew on every call: a function that a user brings may hold state, and is no key of a cache.
    """
    fast = jax.jit(function, static_argnums=tuple(range(statics)))

    def call(f, *args):
        return (fast if activations.TABLE.get(f.name) is f else function)(f, *args)

    return call


def floor(dtype: Any) -> float:
    """The variance that stands for 0+: moments there are the limit q -> 0 (half of phi'^2 from each side of a kink)."""
    return float(jnp.finfo(dtype).eps) ** 2


def moment(
    f: Callable[[Array], Array], q: Array, kinks: tuple[float, ...], panels: int = PANELS
) -> tuple[Array, Array]:
    """E f(a), a ~ N(0, q), in the limit from above at q = 0, and its error."""
    return gaussian_mean(f, q + floor(q.dtype), kinks, panels=panels)


def root(function: Callable, low: Array, high: Array, start: Array, tolerance: float) -> tuple[Array, Array]:
    """The root of a function that is positive at `low` and negative at `high`, by Newton's method kept in the bracket.

    The last step is not looked at again: Newton squares an error below the root of the tolerance.

    Args:
        function: x -> (value, slope); a value of 0 stops at once.
        low: scalar.
        high: scalar.
        start: scalar in between.
        tolerance: a value, or an error relative to max(1, abs x), that is rounding.

    Returns:
        (x, converged); no derivatives pass (see `implicit`).
    """

    def step(state):
        x, low, high, _, count = state
        value, slope = function(x)
        low, high = jnp.where(value > 0, x, low), jnp.where(value < 0, x, high)
        newton = x - value / jnp.where(slope == 0, jnp.nan, slope)
        here, size = jnp.abs(value) <= tolerance, jnp.maximum(1, jnp.abs(x))
        last = (jnp.abs(newton - x) <= 0.1 * tolerance**0.5 * size) & (newton >= low) & (newton <= high)
        following = jnp.where(last | (newton > low) & (newton < high), newton, 0.5 * (low + high))
        done = here | last | (high - low <= tolerance * size)
        following = jnp.where(jnp.isnan(value), jnp.nan, jnp.where(here, x, following))
        return following, low, high, done, count + 1

    unfinished = lambda state: ~state[3] & (state[4] < STEPS) & jnp.isfinite(state[0])
    state = (start, low, high, jnp.zeros((), bool), jnp.zeros((), int))
    x, _, _, done, _ = lax.while_loop(unfinished, step, state)
    return x, done


def implicit(
    function: Callable[[Array], Array], solve: Callable[[], tuple[Array, Array]], dtype: Any
) -> tuple[Array, Array]:
    """The root that `solve` finds, with the derivatives that function(x) = 0 implies, and whether it converged."""

    def solver(_, __):
        x, done = solve()
        return x, done.astype(dtype)  # a bool has no tangent

    tangent = lambda linear, y: y / linear(jnp.ones_like(y))
    x, done = lax.custom_root(function, jnp.zeros((), dtype), solver, tangent, has_aux=True)
    return x, done > 0
