"""Derivatives in both modes against central differences of an equation in 400 digits.

A case is a function of one vector (parameters, state and inputs in a row) and the same equation in mpmath. `pytest -s`
prints a line of the table for each.
"""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jacspec import activations

DIGITS, STEP = 400, 100  # digits of a number, digits of the relative step of a difference
DTYPES = [jnp.float32, jnp.float64]
SECOND_SLOW = [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]
SCALES = {jnp.float32: (1e-36, 1e-20, 1.0, 1e20, 1e38), jnp.float64: (1e-300, 1e-160, 1e-20, 1.0, 1e20, 1e160, 1e300)}
LEAKY, LAMBDA, ALPHA = activations.LEAKY_SLOPE, activations.SELU_SCALE, activations.SELU_ALPHA


def elementwise(f):
    return np.vectorize(f, otypes=[object])


exp, log, sqrt, tanh = map(elementwise, (mp.exp, mp.log, mp.sqrt, mp.tanh))


def logistic(x):
    return 1 / (1 + exp(-x))


def norm(x):
    return mp.sqrt(sum(v * v for v in np.ravel(x)))


def truth(f, point):
    """The Jacobian of the equation f by central differences."""
    with mp.workdps(DIGITS):
        x = np.array([mp.mpf(float(v)) for v in point], object)
        step = max([abs(v) for v in x if v] or [mp.mpf(1)]) * mp.mpf(10) ** -STEP
        columns = []
        for i in range(x.size):
            d = np.array([step if i == j else mp.mpf(0) for j in range(x.size)], object)
            columns.append((np.ravel(f(x + d)) - np.ravel(f(x - d))) / (2 * step))
        return np.array(np.stack(columns, axis=1), float)


def spread(count):
    """Numbers in (-1, 1) of which no two are close: parts of multiples of the golden ratio."""
    return 2 * (np.arange(1, count + 1) * (np.sqrt(5) - 1) / 2 % 1) - 1


def both(f, points):
    """J by forward and by reverse mode at every point, in one program."""
    flat = lambda v: ravel_pytree(f(v))[0]
    return jax.jit(jax.vmap(lambda v: (jax.jacfwd(flat)(v), jax.jacrev(flat)(v))))(points)


def worst(got, want):
    """The largest error relative to the row, above what underflows."""
    info = jnp.finfo(got.dtype)
    floor, got = float(info.tiny) / float(info.eps), np.asarray(got, float)
    size = np.max(np.abs(want), axis=-1, keepdims=True)
    seen = (size < float(info.max) / 8) & np.isfinite(size)
    return float(np.max(np.where(seen, np.abs(got - want) / np.maximum(size, floor), 0), initial=0))


def checked(name, f, equation, points, dtype, roundings=64):
    """Both modes against the equation, within `roundings`; the line of the table."""
    points = jnp.asarray(np.stack(points), dtype)
    forward, reverse = both(f, points)
    want = np.stack([truth(equation, p) for p in np.asarray(points)])
    errors = worst(forward, want), worst(reverse, want)
    print(f"{name:28} {jnp.dtype(dtype).name} {len(points):3} points  JVP {errors[0]:.1e}  VJP {errors[1]:.1e}")
    assert np.isfinite(np.asarray(forward)).all()
    assert max(errors) <= roundings * float(jnp.finfo(dtype).eps), (name, errors, forward, reverse, want)
