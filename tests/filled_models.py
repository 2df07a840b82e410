"""Models with other numbers than their initial ones, and their numbers as NumPy arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def filled(make, seed=1):
    """The model that `make` makes, with other numbers: no bias is zero, no scale one. (Nothing is drawn or compiled.)"""
    graph, parameters, statistics = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    rng = np.random.default_rng(seed)
    fill = lambda draws: lambda a: jnp.asarray(draws(a.shape), a.dtype)
    parameters = jax.tree.map(fill(lambda shape: 0.1 + 0.6 * rng.standard_normal(shape)), parameters)
    return nnx.merge(graph, parameters, jax.tree.map(fill(lambda shape: rng.uniform(0.3, 1, shape)), statistics))


def values(held):
    return {key: np.asarray(value[...]) for key, value in held.items()}
