"""The laws of random weights, once for initializers, cells, layers and models.

A weight W has shape (..., out, in), with gates or other copies on leading axes. Arguments are checked by who asks; draws are
made in float32 at least and then cast.
"""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks, lapack

INDEPENDENT = ("glorot", "he", "gaussian")
"""Names of the laws of independent weights."""
LAWS = ("orthogonal", "identity", *INDEPENDENT)
"""Names of the laws of a matrix."""
KERNELS = ("delta_orthogonal", "gaussian", "he")
"""Names of the laws of a convolution's kernel."""


def wide(dtype: Any) -> Any:
    """The dtype to draw in: `dtype`, or float32 for a narrower one."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def checked_dtype(function: str, dtype: Any) -> Any:
    """A floating dtype.

    Raises:
        TypeError: if it is none.
    """
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        kind = None
    if dtype is None or kind is None or not jnp.issubdtype(kind, jnp.floating):
        got = repr(dtype) if dtype is None or kind is None else kind
        raise TypeError(checks.message(function, "dtype", "must be floating", got, "for example jnp.float32"))
    return kind


def check_options(function: str, kind: type, options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that the class does not have: those of its fields whose default is a value, not None."""
    parameters = inspect.signature(kind).parameters.values()
    known = [p.name for p in parameters if p.default not in (None, p.empty)]
    for option in options:
        checks.one_of(function, "options", option, known)


def checked_gain(function: str, gain: Any, argument: str = "gain") -> float:
    """A finite number >= 0.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is negative or not finite.
    """
    return checks.plain_number(function, argument, gain, f"a finite {argument} >= 0", lambda gain: 0 <= gain < math.inf)


def orthogonal(key: Array, shape: tuple[int, ...], dtype: Any, gain: float = 1.0) -> Array:
    """Haar-distributed, every copy by itself: all singular values are `gain`."""
    *copies, out, fan_in = shape
    tall = (max(out, fan_in), min(out, fan_in))
    Q = jax.vmap(lapack.haar)(jax.random.normal(key, (math.prod(copies), *tall), wide(dtype)))
    Q = Q if out >= fan_in else Q.mT
    return (gain * Q).astype(dtype).reshape(shape)


def independent(
    key: Array, shape: tuple[int, ...], dtype: Any, deviation: float, distribution: str = "normal"
) -> Array:
    """Independent draws of mean 0 and the given standard deviation, "normal" or "uniform"."""
    if distribution == "normal":
        return (deviation * jax.random.normal(key, shape, wide(dtype))).astype(dtype)
    edge = math.sqrt(3) * deviation
    return jax.random.uniform(key, shape, wide(dtype), -edge, edge).astype(dtype)


def deviation(law: str, gain: float, out: int, fan_in: int) -> float:
    """Standard deviation of independent weights by one of `INDEPENDENT`."""
    if law == "gaussian":
        return gain / math.sqrt(fan_in)
    return gain * math.sqrt(2 / (fan_in if law == "he" else fan_in + out))


def draw(law: str, key: Array, shape: tuple[int, ...], dtype: Any, gain: float = 1.0) -> Array:
    """W by one of `LAWS`, every gate a draw of its own; every law is linear in its gain.

    The identity of a matrix that is not square is orthogonal.
    """
    return gain * _of_gain_one(law, key, shape, dtype)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))  # a model is made of many draws of few shapes
def _of_gain_one(law: str, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    *_, out, fan_in = shape
    if law == "identity" and out == fan_in:
        return jnp.broadcast_to(jnp.eye(out, dtype=dtype), shape)
    if law in ("orthogonal", "identity"):
        return orthogonal(key, shape, dtype)
    return independent(key, shape, dtype, deviation(law, 1.0, out, fan_in))


def noise(key: Array, n: int, dtype: Any, variance: float) -> Array:
    """(n,) independent normal numbers: the bias of mean-field theory."""
    return draw("gaussian", key, (n, 1), dtype, math.sqrt(variance))[:, 0]


def checked_kernel_size(function: str, value: Any) -> tuple[int, ...]:
    """The size of a kernel over one or two axes: (k,) or (k1, k2), or k for (k,).

    Raises:
        TypeError: for what is no integer.
        ValueError: for another number of axes, or a size below 1.
    """
    size = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(size) not in (1, 2):
        raise ValueError(checks.message(function, "kernel_size", "has the wrong length", size, "1 or 2 integers"))
    return tuple(checks.integer(function, "kernel_size", k, 1) for k in size)


def check_channels(function: str, argument: str, law: str, c_in: int, c_out: int) -> None:
    """Raise ValueError where a delta-orthogonal kernel has fewer channels out than in; `argument` is the name of c_out."""
    if law == "delta_orthogonal" and c_out < c_in:
        hint = "Fewer channels out than in cannot keep every direction."
        raise ValueError(
            checks.message(function, argument, "is out of range", c_out, f"{argument} >= {c_in}, the channels in", hint)
        )


def kernel(law: str, key: Array, size: tuple[int, ...], c_in: int, c_out: int, dtype: Any, gain: float = 1.0) -> Array:
    """K of a convolution, (*size, c_in, c_out), by one of `KERNELS`; fan-in is that of all taps.

    "delta_orthogonal" is zero but for an orthogonal matrix at the center, and needs c_out >= c_in.
    """
    if law == "delta_orthogonal":
        H = orthogonal(key, (c_out, c_in), dtype, gain).T
        return jnp.zeros((*size, c_in, c_out), H.dtype).at[tuple((k - 1) // 2 for k in size)].set(H)
    dense = draw(law, key, (c_out, math.prod(size) * c_in), dtype, gain)
    return jnp.moveaxis(dense.reshape(c_out, *size, c_in), 0, -1)
