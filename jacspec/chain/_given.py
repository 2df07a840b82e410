"""Step Jacobians that a user gives, checked."""

import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jacspec._ground import checks, precision
from jacspec._product.slopes import lost
from jacspec.chain.sources import FromFactors, FromList, FromOperators, of_operators
from jacspec.operators import Given


def matrices(name: str, Js: Any, check: bool) -> FromOperators | FromList:
    """The source of an array (T, n, n) or of a sequence of matrices."""
    if hasattr(Js, "ndim"):
        Js = checks.array(name, "jacobians", Js, 3, "(T, n, n)")
        if Js.shape[0] != 1 and Js.shape[1] != Js.shape[2]:
            shapes = f"shapes {Js.shape[1:]} and {Js.shape[1:]}"
            raise ValueError(checks.message(name, "jacobians", "do not follow at steps 0 and 1", shapes, "(n, n)"))
    else:
        if not isinstance(Js, Iterable):
            got, want = type(Js).__name__, "(T, n, n) or a sequence of matrices"
            raise TypeError(checks.message(name, "jacobians", "must be an array", got, want))
        Js = [checks.array(name, f"jacobians[{t}]", J, 2, "(n_t, n_{t-1})") for t, J in enumerate(Js)]
        for t, (old, new) in enumerate(itertools.pairwise(Js)):
            if old.shape[0] != new.shape[1]:
                got = f"shapes {old.shape} and {new.shape}"
                text = f"do not follow at steps {t} and {t + 1}"
                raise ValueError(checks.message(name, "jacobians", text, got, f"(..., {old.shape[0]})"))
        if not Js:
            text = checks.message(name, "jacobians", "is an empty list", hint="Give an array of shape (0, n, n).")
            raise ValueError(text)
    for shape in [J.shape for J in Js] if isinstance(Js, list) else [Js.shape[1:]]:
        if 0 in shape:
            raise ValueError(checks.message(name, "jacobians", "is empty", f"shape {shape}", "n >= 1"))
    (Js,) = precision.widened(name, jacobians=Js)
    if check:
        checks.finite(name, "jacobians", Js)
    zeros: Any = jax.tree.map(lost, Js)
    if check:
        _warn_of_zeros(name, "jacobians", Js, zeros)
    if isinstance(Js, list) or Js.shape[1] != Js.shape[2]:
        widths = (Js[0].shape[1], *(J.shape[0] for J in Js))
        sound = jnp.stack([jnp.isfinite(J).all() for J in Js])
        return of_operators([Given(J, ~jnp.any(z)) for J, z in zip(Js, zeros, strict=True)], None, sound, widths)
    sound = jnp.isfinite(Js).all(axis=(1, 2))
    return FromOperators(Given(Js, ~jnp.any(zeros, axis=(1, 2))), None, sound, Js.shape[0], Js.shape[:0:-1])


def factors(name: str, d: Any, W: Any, check: bool) -> FromFactors:
    """The source of J_t = diag(d_t) W."""
    d, W = checks.array(name, "d", d, 2, "(T, n)"), checks.array(name, "W", W, 2, "(n, n)")
    if W.shape[0] != W.shape[1]:
        raise ValueError(checks.message(name, "W", "must be square", f"shape {W.shape}", "(n, n)"))
    if W.size == 0:
        raise ValueError(checks.message(name, "W", "is empty", f"shape {W.shape}", "n >= 1"))
    if d.shape[1] != W.shape[0]:
        raise ValueError(checks.message(name, "d", "does not fit W", f"shape {d.shape}", f"(T, {W.shape[0]})"))
    d, W = precision.widened(name, d=d, W=W)
    if check:
        checks.finite(name, "d", d)
        checks.finite(name, "W", W)
        _warn_of_zeros(name, "d", d, lost(d[..., None]))
        _warn_of_zeros(name, "W", W, lost(W))
    return FromFactors(d, W, jnp.isfinite(d).all(axis=1) & jnp.isfinite(W).all())


def _warn_of_zeros(name: str, argument: str, given: Any, zeros: Any) -> None:
    """Warn of numbers that XLA takes as zeros where they decide a row; `zeros` tells which (`lost`)."""
    leaves = jax.tree.leaves(zeros)
    if not all(map(checks.is_concrete, leaves)):
        return
    count, size = sum(int(z.sum()) for z in leaves), sum(z.size for z in leaves)
    if count:
        least = jnp.finfo(jax.tree.leaves(given)[0].dtype).tiny
        text = f"has {count} of {size} numbers below {least:.1e}, the smallest normal one: they count as zeros"
        hint = "Multiply all by 2**k, and subtract T k ln 2 from the logs of a product of T steps. Or use float64."
        warnings.warn(checks.message(name, argument, text, hint=hint), stacklevel=4)
