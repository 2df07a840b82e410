"""Rows with a scale of their own: diag(e^l) N, where N has unit rows and l = hi + lo lives far beyond float range.

Only differences of logs that are <= 0 are ever exponentiated, so nothing overflows and what underflows is
smaller than one rounding of the row it belongs to. The pair keeps a sum over 10^5 steps right to the last digit in
float32: the error of each addition goes into ``lo`` (Knuth's two-sum).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground.arithmetic import units


class Logs(NamedTuple):
    """Natural logs ``hi + lo``, both of shape (n,); an exact zero is ``hi = -inf, lo = 0``."""

    hi: Array
    lo: Array

    def __getitem__(self, index):
        """The same pair of the entries at `index` (an index array or slice, not a position in the tuple)."""
        return Logs(self.hi[index], self.lo[index])


def zeros(n: int, dtype) -> Logs:
    """The logs of n ones."""
    return Logs(jnp.zeros(n, dtype), jnp.zeros(n, dtype))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum a + b and its rounding error, exactly (Knuth, TAOCP 2, 4.2.2, theorem B)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def add(logs: Logs, x: Array, live: Array) -> Logs:
    """``logs + x`` where `live`, -inf elsewhere."""
    hi, lo = jnp.where(live, logs.hi, 0), jnp.where(live, logs.lo, 0)
    hi, error = two_sum(hi, jnp.where(live, x, 0))
    hi, lo = two_sum(hi, lo + error)
    return Logs(jnp.where(live, hi, -jnp.inf), jnp.where(live, lo, 0))


def unit_rows(N: Array, logs: Logs) -> tuple[Array, Logs, Array]:
    """diag(e^l) N with unit rows, and their norms, which move into the logs; a zero row becomes an exact -inf."""
    U, norm = units(N)
    live = (norm > 0) & jnp.isfinite(logs.hi)
    logs = add(logs, jnp.log(jnp.where(live, norm, 1)), live)
    return jnp.where(live[:, None], U, 0), logs, lax.stop_gradient(jnp.where(live, norm, 0))


def normalize_rows(N: Array, logs: Logs) -> tuple[Array, Logs]:
    """`unit_rows` without the norms."""
    return unit_rows(N, logs)[:2]


def scale_columns(R: Array, logs: Logs, first: Array | None = None) -> tuple[Array, Logs]:
    """R diag(e^l) = diag(e^l') N, each row measured against the log of the first column it meets.

    R has shape (m, n), `logs` n entries, the result m. The difference of two logs is so taken before anything is rounded
    to their size. Columns come sorted by what they contribute: later ones may underflow beside the first, which is
    smaller than a rounding of the row. `first` (m,) names those columns where the caller knows them. An entry after the
    first that happens to be zero keeps its derivative.
    """
    columns, index = jnp.isfinite(logs.hi), jnp.arange(R.shape[1])
    if first is None:
        first = jnp.min(jnp.where(columns & (R != 0), index, index[-1]), axis=1)  # XLA's argmax takes twice as long
    hi = jnp.where(columns, logs.hi, 0)
    own = Logs(hi[first], logs.lo[first])
    ratio = (hi - own.hi[:, None]) + (logs.lo - own.lo[:, None])
    live = columns & (index >= first[:, None])
    return jnp.where(live, R * jnp.exp(jnp.minimum(ratio, largest_exponent(R.dtype))), 0), own


def sizes_beside(logs: Logs, leading: Array | int = 0) -> Array:
    """e^(l - l_leading), held off underflow: sizes beside one entry, the largest or nearly so; 0 where l = -inf."""
    live, bound = jnp.isfinite(logs.hi), largest_exponent(logs.hi.dtype)
    depth = jnp.where(live, logs.hi - logs.hi[leading], 0)
    return lax.stop_gradient(jnp.where(live, jnp.exp(jnp.clip(depth, -bound, bound)), 0))


def largest_exponent(dtype) -> float:
    """The largest exponent that does not overflow."""
    return math.log(float(jnp.finfo(dtype).max)) - 1
