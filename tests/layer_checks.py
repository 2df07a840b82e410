"""What the tests of the layers measure with: seeded draws, autodiff, and the check of a step Jacobian against it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jacspec import operators as ops

TOLERANCE = 1e-12
RNG = np.random.default_rng


def draw(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * RNG(seed + 17 * len(shape)).normal(size=shape))


def autodiff(layer, h):
    flat, unravel = ravel_pytree(h)
    return jax.jacfwd(lambda v: layer(unravel(v)).ravel())(flat)


def error(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.max(np.abs(a - b), initial=0))


def check_jacobian(layer, h, tolerance=TOLERANCE):
    """Dense against autodiff; push, pull and row_norms against dense. Returns the factors, and how far the bound is off."""
    m, n = jax.eval_shape(layer, h).size, h.size
    V, U = draw(n, 3, seed=5), draw(m, 2, seed=6)

    @jax.jit
    def ask(h):
        J = layer.jacobian(h)
        return autodiff(layer, h), J.dense(), J.push(V), J.pull(U), ops.row_norms(J), J.factors

    oracle, D, JV, JU, bound, factors = ask(h)
    oracle, D, JV, JU, bound, U, V = map(np.asarray, (oracle, D, JV, JU, bound, U, V))
    scale = max(1.0, np.abs(oracle).max())
    assert D.shape == (m, n)
    assert error(D, oracle) <= tolerance * scale
    assert error(JV, D @ V) <= tolerance * scale
    assert error(JU, D.T @ U) <= tolerance * scale
    assert abs(np.vdot(U, JV[:, :2]) - np.vdot(JU, V[:, :2])) <= tolerance * scale * m
    true = np.linalg.norm(D, axis=1)
    assert bound.shape == (m,)
    assert np.all(bound >= true * (1 - 1e-12)), (bound, true)
    assert factors
    assert all(isinstance(v, jax.Array) for v in factors.values())
    return factors, error(bound, true)
