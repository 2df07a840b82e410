"""Step Jacobians that a user gives, checked."""

import itertools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jacspec import _checks, _precision
from jacspec._links import Listed, Shared, Stored, of_operators
from jacspec._slopes import has_normal_rows
from jacspec.operators import Given


def matrices(name: str, Js: Any, check: bool) -> Stored | Listed:
    """The links of an array (T, n, n) or of a sequence of matrices."""
    if hasattr(Js, "ndim"):
        Js = _checks.array(name, "jacobians", Js, 3, "(T, n, n)")
        if Js.shape[0] != 1 and Js.shape[1] != Js.shape[2]:
            shapes = f"shapes {Js.shape[1:]} and {Js.shape[1:]}"
            raise ValueError(_checks.message(name, "jacobians", "do not follow at steps 0 and 1", shapes, "(n, n)"))
    else:
        if not isinstance(Js, Iterable):
            got, want = type(Js).__name__, "(T, n, n) or a sequence of matrices"
            raise TypeError(_checks.message(name, "jacobians", "must be an array", got, want))
        Js = [_checks.array(name, f"jacobians[{t}]", J, 2, "(n_t, n_{t-1})") for t, J in enumerate(Js)]
        for t, (old, new) in enumerate(itertools.pairwise(Js)):
            if old.shape[0] != new.shape[1]:
                got = f"shapes {old.shape} and {new.shape}"
                text = f"do not follow at steps {t} and {t + 1}"
                raise ValueError(_checks.message(name, "jacobians", text, got, f"(..., {old.shape[0]})"))
        if not Js:
            text = _checks.message(name, "jacobians", "is an empty list", hint="Give an array of shape (0, n, n).")
            raise ValueError(text)
    for shape in [J.shape for J in Js] if isinstance(Js, list) else [Js.shape[1:]]:
        if 0 in shape:
            raise ValueError(_checks.message(name, "jacobians", "is empty", f"shape {shape}", "n >= 1"))
    (Js,) = _precision.widened(name, jacobians=Js)
    if check:
        _checks.finite(name, "jacobians", Js)
        _checks.warn_if_flushed(name, "jacobians", Js)
    if isinstance(Js, list) or Js.shape[1] != Js.shape[2]:
        widths = (Js[0].shape[1], *(J.shape[0] for J in Js))
        sound = jnp.stack([jnp.isfinite(J).all() for J in Js])
        return of_operators([Given(J, has_normal_rows(J)) for J in Js], None, sound, widths)
    sound = jnp.isfinite(Js).all(axis=(1, 2))
    return Stored(Given(Js, has_normal_rows(Js)), None, sound, Js.shape[0], Js.shape[:0:-1])


def factors(name: str, d: Any, W: Any, check: bool) -> Shared:
    """The links of J_t = diag(d_t) W."""
    d, W = _checks.array(name, "d", d, 2, "(T, n)"), _checks.array(name, "W", W, 2, "(n, n)")
    if W.shape[0] != W.shape[1]:
        raise ValueError(_checks.message(name, "W", "must be square", f"shape {W.shape}", "(n, n)"))
    if W.size == 0:
        raise ValueError(_checks.message(name, "W", "is empty", f"shape {W.shape}", "n >= 1"))
    if d.shape[1] != W.shape[0]:
        raise ValueError(_checks.message(name, "d", "does not fit W", f"shape {d.shape}", f"(T, {W.shape[0]})"))
    d, W = _precision.widened(name, d=d, W=W)
    if check:
        _checks.finite(name, "d", d)
        _checks.finite(name, "W", W)
        _checks.warn_if_flushed(name, "d", d[..., None])
        _checks.warn_if_flushed(name, "W", W)
    return Shared(d, W, jnp.isfinite(d).all(axis=1) & jnp.isfinite(W).all())
