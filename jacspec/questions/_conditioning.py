"""How much a log singular value moves when the step Jacobians are rounded.

Reference: C. S. Kenney and A. J. Laub, SIAM J. Sci. Comput. 15 (1994) 36.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._product import recursion
from jacspec._product.finish import with_derivative
from jacspec.chain import JacobianChain, series
from jacspec.questions._routes import RowPerturbation, forward

PROBES = 4
"""Random directions of the conditioning estimate."""


def conditioning(chain: JacobianChain, values: Array, right: Array) -> Array:
    """Root of the sum, over all steps and rows, of (||row|| d log sigma / d row)^2, by a few random directions.

    A relative change eps in the norm of every row moves log sigma_i by at most about eps times this number.
    """
    keys = jax.random.split(jax.random.key(0), PROBES)
    moves = jnp.stack([chain.run(_moved, values, right, key) for key in keys])
    return jnp.pad(jnp.sqrt(jnp.mean(moves**2, axis=0)), (0, values.shape[0] - chain.rank_bound))


def _moved(chain: JacobianChain, values: Array, right: Array, key: Array) -> Array:
    """By how much the values move when all rows move at random, both relative."""

    def perturbed(s):
        records = forward(chain, (chain.length,), RowPerturbation(s, key))
        record, _ = series.entry(records, 0)
        logs, U, _ = recursion.largest_rows(record, chain.rank_bound)
        return with_derivative(logs, U, values[: chain.rank_bound], right)

    zero = jnp.zeros((), chain.dtype)
    return jax.jvp(perturbed, (zero,), (zero + 1,))[1]
