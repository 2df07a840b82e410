"""The checks that public functions make of their arguments; every error has the form of `message`."""

import difflib
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jacspec._ground.messages import message as message

INT32_MAX = 2**31 - 1
"""What is counted on the device (updates, rows, generations) is an int32."""

REAL = (jnp.floating, jnp.integer, jnp.bool_)
"""Kinds of dtypes that hold real numbers."""


def is_real(value: Any) -> bool:
    """Whether `value` has a dtype of real numbers."""
    return any(jnp.issubdtype(getattr(value, "dtype", object), kind) for kind in REAL)


def one_of(function: str, argument: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise ValueError naming the nearest allowed value if `value` is not among them; 1 does not count as True."""
    allowed = tuple(allowed)
    if any(value is a or ((type(value) is type(a) or isinstance(value, str)) and value == a) for a in allowed):
        return
    names = [a for a in allowed if isinstance(a, str)]
    near = difflib.get_close_matches(value, names, 1, 0.4) if isinstance(value, str) else []
    hint = f"Did you mean {near[0]!r}?" if near else ""
    raise ValueError(message(function, argument, "is unknown", repr(value), " or ".join(map(repr, allowed)), hint))


def integer(function: str, argument: str, value: Any, low: int, high: int | None = None, note: str = "") -> int:
    """`value` as an int within low..high; TypeError for anything that is not an integer."""
    bounds = f"{argument} >= {low}" if high is None else f"{low}..{high}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(message(function, argument, "must be an integer", repr(value), bounds, note))
    if value < low or (high is not None and value > high):
        raise ValueError(message(function, argument, "is out of range", value, bounds, note))
    return int(value)


def key(function: str, value: Any) -> jax.Array:
    """The argument `key` if it is a single JAX key, typed or raw."""
    hint = "Make one with jax.random.key(seed)."
    typed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if not typed and not (isinstance(value, jax.Array) and value.dtype == jnp.uint32):
        got = f"dtype {value.dtype}" if isinstance(value, jax.Array) else type(value).__name__
        raise TypeError(message(function, "key", "is not a JAX key", got, "a key", hint))
    if value.shape != (() if typed else jax.random.PRNGKey(0).shape):
        hint = "Map over keys with jax.vmap."
        raise ValueError(message(function, "key", "is not a single key", f"shape {value.shape}", "one key", hint))
    return value


def number(function: str, argument: str, value: Any, expected: str, inside: Callable[[float], bool]) -> Any:
    """`value` as a float for which `inside` holds, or as it is where it is a scalar of JAX; a traced one passes.

    An integer beyond the range of a float counts as infinite.
    """
    of_python = isinstance(value, (int, float)) and not isinstance(value, bool)
    shape, kind = (
        getattr(value, "shape", ()),
        np.dtype((int if isinstance(value, int) else float) if of_python else object),
    )
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        kind = value.dtype
    if shape != () or not (jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)):
        got = f"shape {shape}" if shape else repr(value)
        raise TypeError(message(function, argument, "must be a number", got, expected))
    if not is_concrete(value):
        return value
    try:
        plain = float(value)
    except OverflowError:  # a huge integer of Python
        plain = math.inf if int(value) > 0 else -math.inf
    if not inside(plain):
        raise ValueError(message(function, argument, "is out of range", value, expected))
    return value if isinstance(value, jax.Array) else plain


def plain_number(
    function: str,
    argument: str,
    value: Any,
    expected: str = "a finite number",
    inside: Callable[[float], bool] = math.isfinite,
) -> float:
    """`value` as a Python float for which `inside` holds; one that JAX traces is refused."""
    if not is_concrete(value):
        raise TypeError(message(function, argument, "must be a number", "a traced value", expected))
    return float(number(function, argument, value, expected, inside))


def instance(function: str, argument: str, value: Any, kind: type, hint: str = "") -> None:
    """Raise TypeError if `value` is not of the class `kind`."""
    if not isinstance(value, kind):
        raise TypeError(message(function, argument, "is of the wrong type", type(value).__name__, kind.__name__, hint))


def function(name: str, argument: str, value: Any, form: str) -> None:
    """Raise TypeError if `value` cannot be called."""
    if not callable(value):
        raise TypeError(message(name, argument, "must be callable", type(value).__name__, form))


def is_concrete(value: Any) -> bool:
    """Whether the values of an array can be looked at (not a tracer)."""
    return not isinstance(value, Tracer)


def array(function: str, argument: str, value: Any, ndim: int | tuple[int, ...] | None = None, shape: str = ""):
    """`value` as a floating JAX array of the rank asked for; lists, integers and objects are refused."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        kind = type(value).__name__
        raise TypeError(message(function, argument, "must be an array", kind, shape or "a floating array"))
    if value.dtype == object:
        raise TypeError(message(function, argument, "must be numeric", "dtype object", "a floating dtype"))
    if not jnp.issubdtype(value.dtype, jnp.floating):
        hint = (
            "Use the real 2n x 2n form of a complex matrix." if jnp.issubdtype(value.dtype, jnp.complexfloating) else ""
        )
        raise TypeError(
            message(function, argument, "must be floating", f"dtype {value.dtype}", "a floating dtype", hint)
        )
    ranks = (ndim,) if isinstance(ndim, int) else ndim
    if ranks is not None and value.ndim not in ranks:
        want = " or ".join(f"{r}-D" for r in ranks) + (f" {shape}" if shape else "")
        raise ValueError(message(function, argument, "has the wrong rank", f"shape {value.shape}", want))
    warn_if_narrowed(function, argument, value)
    return jnp.asarray(value)


def shaped(function: str, argument: str, value: Any, shape: tuple[int | None, ...], expected: str):
    """`value` as a floating JAX array of a shape in which None stands for any length."""
    value = array(function, argument, value, len(shape), expected)
    if any(want not in (None, have) for want, have in zip(shape, value.shape, strict=True)):
        raise ValueError(message(function, argument, "has the wrong shape", f"shape {value.shape}", expected))
    return value


def warn_if_narrowed(function: str, argument: str, value: Any) -> None:
    """Warn (once a message, by Python's default filter) where 64-bit data would silently become 32-bit.

    Raises:
        ValueError: if a value lies beyond the range of 32 bits, where the cast would make it Inf or another integer.
    """
    dtype = getattr(value, "dtype", np.dtype(bool))
    if not isinstance(dtype, np.dtype) or dtype == jax.dtypes.canonicalize_dtype(dtype):
        return
    narrow, hint = jax.dtypes.canonicalize_dtype(dtype), "Set jax.config.update('jax_enable_x64', True) for 64 bits."
    parts = (np.real(value), np.imag(value)) if dtype.kind == "c" else (np.asarray(value),)
    size = np.max([np.abs(part) for part in parts], axis=0) if dtype.kind in "fc" else parts[0]
    info = jnp.finfo(narrow) if dtype.kind in "fc" else jnp.iinfo(narrow)
    outside = (np.isfinite(size) & (size > info.max)) | (size < info.min)
    if outside.any():
        got = f"{size[outside][0]:.8g} at index {tuple(int(i) for i in np.argwhere(outside)[0])}"
        problem = f"is beyond the range of {narrow}, in which it is computed while jax_enable_x64 is off"
        raise ValueError(message(function, argument, problem, got, f"at most {info.max:.3g}", hint))
    if dtype.kind not in "fc":
        return
    text = f"is {dtype} but jax_enable_x64 is off: {narrow} is used"
    flushed = np.stack([(part != 0) & (np.abs(part) < float(jnp.finfo(narrow).tiny)) for part in parts])
    if flushed.any():
        smallest = min(
            float(np.min(np.abs(part[lost]), initial=np.inf)) for part, lost in zip(parts, flushed, strict=True)
        )
        text += f", in which {int(flushed.sum())} of its values become zero, the smallest {smallest:.1e}"
    warnings.warn(message(function, argument, text, hint=hint), stacklevel=4)


def finite(function: str, argument: str, tree: Any) -> None:
    """Raise ValueError naming the leaf, the count and the first index of NaN or Inf in concrete arrays of `tree`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)  # a module may have a field of that name
        if not isinstance(dtype, np.dtype) or not is_concrete(leaf) or not jnp.issubdtype(dtype, jnp.floating):
            continue
        bad = ~np.isfinite(np.asarray(leaf.astype(jnp.float32) if leaf.dtype.itemsize < 4 else leaf))
        if bad.any():
            name = argument + jax.tree_util.keystr(path)
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            got = f"{int(bad.sum())} of {bad.size}, the first at index {first}"
            raise ValueError(message(function, name, "has non-finite values", got, "finite values"))


def overflow(value: Any, dtype: Any) -> float | None:
    """The first finite number of an array that a change of dtype makes infinite; None if there is none or it is traced."""
    if not is_concrete(value) or np.dtype(value.dtype).itemsize <= np.dtype(dtype).itemsize:
        return None
    before = np.asarray(value)
    with np.errstate(over="ignore"):
        lost = before[np.isfinite(before) & ~np.isfinite(before.astype(dtype))]
    return float(lost[0]) if lost.size else None
