"""Initial weights by the name of their law, and the checks that all models make."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jacspec import cells, initializers
from jacspec._ground import checks

LAWS = ("orthogonal", "identity", "glorot", "he", "gaussian", "critical", "critical_orthogonal")
"""Laws of a matrix; the critical ones are Gaussian and orthogonal weights whose gain is a multiple of sigma_w* ."""


def draw(law: str, key: Array, shape: tuple[int, ...], dtype: Any, gain: float) -> Array:
    """W of shape (out, in) or (gates, out, in), every gate a draw of its own; every law is linear in its gain.

    The identity of a matrix that is not square is orthogonal.
    """
    return gain * _of_gain_one(law, key, shape, dtype)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))  # a model is made of many draws of few shapes
def _of_gain_one(law: str, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    *gates, out, fan_in = shape
    if law == "identity" and out == fan_in:
        return jnp.broadcast_to(initializers.identity(out, dtype), shape)
    if law in ("orthogonal", "identity", "critical_orthogonal"):
        return initializers.orthogonal(key, (out, fan_in), dtype, gates=gates[0] if gates else None)
    function = {"glorot": initializers.glorot, "he": initializers.he}.get(law, initializers.gaussian)
    return function(key, shape, dtype)


def noise(key: Array, n: int, dtype: Any, variance: float) -> Array:
    """(n,) independent normal numbers: the bias of mean-field theory."""
    return draw("gaussian", key, (n, 1), dtype, math.sqrt(variance))[:, 0]


def ring(
    name: str, rngs: nnx.Rngs, n: int, m: int, dtype: Any, gain: float, *, r_min: float = 0.0, r_max: float = 0.99
) -> dict[str, Array]:
    """Parameters of an LRU of n units and m inputs whose eigenvalues are uniform on a ring.

    abs(lambda)^2 is uniform on (r_min^2, r_max^2), as area is, and nu = log(-log(abs(lambda)^2) / 2).
    """
    r_min, r_max = number(name, "r_min", r_min, 0, 1), number(name, "r_max", r_max, 0, 1)
    if not r_min < r_max < 1:
        raise ValueError(checks.message(name, "r_max", "is out of range", r_max, f"r_min = {r_min} < r_max < 1"))
    low = max(r_min**2, float(jnp.finfo(dtype).tiny))
    square = jax.random.uniform(rngs.params(), (n,), dtype, low, r_max**2)
    nu = jnp.log(-jnp.log(square) / 2)
    theta = jax.random.uniform(rngs.params(), (n,), dtype, 0, 2 * jnp.pi)
    B = draw("gaussian", rngs.params(), (2, n, m), dtype, gain / 2**0.5)  # E abs(B_ij)^2 = gain^2 / m
    return {"nu": nu, "theta": theta, "B": B, "gamma": cells.LRU(nu, theta).normalization}


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


def floating(function: str, dtype: Any) -> Any:
    """A dtype for parameters.

    Raises:
        TypeError: if it is no dtype, or not floating.
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError as error:
        raise TypeError(checks.message(function, "dtype", "is no dtype", repr(dtype), "say jnp.float32")) from error
    if not jnp.issubdtype(found, jnp.floating):
        raise TypeError(checks.message(function, "dtype", "must be floating", found, "say jnp.float32"))
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
