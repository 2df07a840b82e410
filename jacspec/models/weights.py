"""Initial weights by the name of their law, and the checks that all models make."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jacspec import initializers
from jacspec._ground import checks, laws

CRITICAL = {"critical": "gaussian", "critical_orthogonal": "orthogonal"}
"""Laws whose gain is a multiple of sigma_w*, by the law that it is the gain of."""
LAWS = (*laws.LAWS, *CRITICAL)
"""Laws of a matrix."""


def draw(law: str, key: Array, shape: tuple[int, ...], dtype: Any, gain: float) -> Array:
    """W of shape (out, in) or (gates, out, in) by one of `LAWS`."""
    return laws.draw(CRITICAL.get(law, law), key, shape, dtype, gain)


def critical_gain(function: str, law: str, gain: float, activation: Any, **arguments: Any) -> float:
    """`gain` itself, or for a critical law `gain` times the root of the critical weight variance.

    Raises:
        ValueError: if there is no critical point.
    """
    if not law.startswith("critical"):
        return gain
    with jax.ensure_compile_time_eval():  # an initial value is a number, also where the model is made under jit
        found = initializers.critical(activation, **arguments)
        if not bool(found.converged):
            hint = "Give the scale yourself: initialization='gaussian', gain=..."
            name = getattr(activation, "name", activation)
            text = checks.message(function, "initialization", f"has no critical point for {name}", law, hint=hint)
            raise ValueError(text)
        return gain * math.sqrt(float(found.weight_variance))


def number(
    function: str, argument: str, value: Any, low: float = -math.inf, high: float = math.inf, dtype: Any = jnp.float64
) -> float:
    """A finite real number within [low, high], as a Python float.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not finite, in the dtype that it will have or before, or out of range.
    """
    expected = f"a finite number within [{low}, {high}]"
    inside = lambda value: low <= value <= high and math.isfinite(value)
    found = checks.plain_number(function, argument, value, expected, inside)
    if abs(found) > (most := float(jnp.finfo(dtype).max)):
        problem = f"leaves the range of {jnp.dtype(dtype)}"
        raise ValueError(checks.message(function, argument, problem, f"{found:.4g}", f"at most {most:.4g}"))
    return found


def finite(function: str, model: nnx.Module) -> None:
    """Refuse a model whose numbers left the range of their dtype while it was made.

    Raises:
        ValueError: naming the parameter.
    """
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = variable[...]
        if checks.is_concrete(value) and not bool(jnp.isfinite(value).all()):
            name = ".".join(map(str, path))
            hint = "Check gain, variances, biases and radii."
            text = checks.message(function, name, f"is not finite in {value.dtype}", hint=hint)
            raise ValueError(text)


def streams(function: str, rngs: Any) -> nnx.Rngs:
    """The random streams that a model is made from.

    Raises:
        TypeError: if they are no `nnx.Rngs`.
    """
    checks.instance(function, "rngs", rngs, nnx.Rngs, "Use rngs=flax.nnx.Rngs(seed).")
    return rngs


def inputs(function: str, value: Any, shape: tuple[int | None, ...], text: str, dtype: Any) -> Array:
    """Inputs of a shape (None: any length), in the dtype of the parameters; integers such as one-hot rows are allowed.

    Raises:
        TypeError: if they are no numeric array.
        ValueError: if their shape differs, or a number of theirs is finite and not in that dtype.
    """
    if not hasattr(value, "shape") or not checks.is_real(value):
        raise TypeError(checks.message(function, "inputs", "must be a numeric array", type(value).__name__, text))
    fits = len(value.shape) == len(shape) and all(s in (None, v) for s, v in zip(shape, value.shape, strict=True))
    if not fits:
        raise ValueError(checks.message(function, "inputs", "do not fit", f"shape {value.shape}", text))
    if (beyond := checks.overflow(value, dtype)) is not None:
        hint = "Scale the inputs, or make the model with a wider dtype."
        text = f"leave the range of {jnp.dtype(dtype)}"
        raise ValueError(checks.message(function, "inputs", text, beyond, hint=hint))
    return jnp.asarray(value, dtype)
