"""What the tests of `dissect` share: networks in float64, and the one check of every anatomy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def pure(model):
    """An NNX module as a function whose arrays are traced, so that it may change itself; anything else as it is."""
    if not isinstance(model, nnx.Module):
        return model
    graph, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)
    run = jax.jit(lambda own, x: nnx.merge(graph, jax.tree.unflatten(tree, own), copy=True)(x))
    return lambda x: run(leaves, x)


def agrees(anatomy, f, x, rtol=1e-12):
    """The product of the factors is the Jacobian of f at x."""
    product = functools.reduce(lambda P, J: np.asarray(J) @ P, anatomy.depth.dense(), np.eye(x.size))
    want = np.concatenate([np.asarray(a).reshape(-1, x.size) for a in jax.tree.leaves(jax.jacrev(f)(x))])
    np.testing.assert_allclose(product, want, atol=rtol * np.abs(want).max(), rtol=0)


def with_scan(x):
    W = normal(4, 4)
    return jax.lax.scan(lambda h, u: (jnp.tanh(W @ h + u), None), x, normal(6, 4, seed=1))[0]


def s5(x):
    B, lam = normal(4, 4) + 1j * normal(4, 4, seed=1), jnp.exp(1j * normal(4) - 0.1)
    u, a = x @ B, jnp.broadcast_to(lam, x.shape)
    y = jax.lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, u))[1]
    return x + jnp.tanh((y @ B).real)
