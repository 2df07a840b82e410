"""One step of a recursion: J Q, how far it can be trusted, and which zeros in it are zeros of J.

Rounding is measured and not presumed: J (Q h) and (J Q) h agree but for rounding, whatever happens inside J (a mean that
is removed, gates that cancel, a basis Q of a few columns). Zeros are followed from factor to factor by the pattern
of what is not zero, because a product of two small numbers can underflow where neither of them is zero.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jacspec._ground.arithmetic import matmul, norms, smallest_factor
from jacspec._product.branch import when
from jacspec._product.slopes import SLOPES_PER_UNIT, STOPPED, knows_stops, may_be_stopped, shows_slopes, with_parts
from jacspec.typing import in_turn, pieces

PROBES = 4
"""Random vectors by which the rounding of J Q is measured."""

SEED = 0x6A616373706563
"""Of the guide, and of nothing a user would draw: the Jacobian of a normalization sends the state itself to zero, and so it
would the guide if both came from one seed."""

NEAR_ONE = 2.0**40
"""Steps whose size lies within 1 / NEAR_ONE ... NEAR_ONE are not rescaled."""


class Image(NamedTuple):
    """A = 2^-shift J Q.

    Attributes:
        A: (m, k).
        shift: exponent of two, which keeps the entries of A near one where those of J are near the end of their range.
        noise: (m,), size of the rounding errors in the entries of each row of A.
        combined: (m, PROBES), 2^-shift J (Q h): but for rounding A h.
        stopped: (m,), how much of each row of A may be made of slopes that were stopped short of zero.
        zeros: what zeros of J and Q alone make zero.
    """

    A: Array
    shift: Array
    noise: Array
    combined: Array
    stopped: Array
    zeros: "Zeros | Uncounted"


class Zeros(NamedTuple):
    """Which rows of a product are not zero by the zeros of its factors, (m,), and a bound on its rank."""

    rows: Array
    rank: Array

    def counted(self) -> "Zeros":
        """Itself."""
        return self

    def rank_if(self, asked: Array) -> Array:
        """The bound on the rank, which is there already."""
        del asked
        return self.rank


class Uncounted(NamedTuple):
    """J (m, n) and Q (n, k) before the zeros of J Q are counted, which takes a push and a pull more and is seldom asked."""

    J: Any
    Q: Array

    def counted(self) -> Zeros:
        """The zeros of J Q, followed from factor to factor."""
        J, Q = jax.tree.map(lax.stop_gradient, tuple(self))
        factors = pieces(J)
        rows, ranks = _pattern([factor.push for factor in factors], jnp.any(Q != 0, axis=1), Q.dtype)
        back, more = _pattern([factor.pull for factor in reversed(factors)], jnp.ones(rows.shape[0], bool), Q.dtype)
        onto = matmul(_patterned(back, Q.dtype)[:, :1].T, Q)[0]
        return Zeros(rows, jnp.min(jnp.stack([*ranks, *more, jnp.sum(onto != 0)])))

    def rank_if(self, asked: Array) -> Array:
        """The bound on the rank if it is `asked` for, a boolean; else k, which bounds it, too."""
        return lax.cond(asked, lambda: self.counted().rank, lambda: jnp.asarray(self.Q.shape[1]))


class Scale(NamedTuple):
    """What keeps a product near one: A = 2^-exponent J V.

    Attributes:
        exponent: 0 where the product is near one anyway.
        before: the part of it that V takes, because the product would overflow.
        small: whether terms of the product would underflow.
    """

    exponent: Array
    before: Array
    small: Array


def given(A: Array) -> Image:
    """A matrix as it stands: rounded once, its zeros exact."""
    rows, columns = jnp.any(A != 0, axis=1), jnp.any(A != 0, axis=0)
    noise = lax.stop_gradient(jnp.finfo(A.dtype).eps * norms(A))
    zeros = Zeros(rows, jnp.minimum(jnp.sum(rows), jnp.sum(columns)))
    nothing = jnp.zeros((), A.dtype)
    return Image(A, nothing, noise, combined(A), jnp.zeros_like(noise), zeros)


def combined(Q: Array) -> Array:
    """Q h, for PROBES random h."""
    h = np.random.default_rng(Q.shape[1]).standard_normal((Q.shape[1], PROBES))
    return matmul(lax.stop_gradient(Q), jnp.asarray(h, Q.dtype))


def image(J: Any, Q: Array, live: Array, witness: Array, along: Array | None = None) -> tuple[Image, Array]:
    """J Q, and 2^-shift J w.

    Args:
        J: a step Jacobian, (m, n).
        Q: (n, k), orthonormal columns.
        live: (k,), False for columns that stand for an exact zero.
        witness: w, (n, 1), a vector that has come through the chain by itself, or a `guide`.
        along: Q h by another route, if Q itself is the image of an earlier basis; else `combined` (Q).

    Returns:
        The `Image`, and 2^-shift J w, (m, 1). Only A has a derivative.
    """
    dtype, k = Q.dtype, Q.shape[1]
    info = jnp.finfo(dtype)
    witness = jnp.where(jnp.any(witness != 0), witness, guide(Q.shape[0], dtype))
    Q = jnp.where(live, Q, 0)  # what J makes of a dead column says nothing of the size of the product
    along = combined(Q) if along is None else along
    A, shift, thin = Q, jnp.zeros((), dtype), jnp.concatenate([witness, along], axis=1)
    factors, scales = in_turn(J), []
    rows = jnp.any(lax.stop_gradient(Q) != 0, axis=1)
    for i, factor in enumerate(factors):
        scale = _scale(factor.push(thin[:, 1:2]))
        A, shift = _scaled(factor, "push", A, scale), shift + scale.exponent
        # the thin vectors differ in size from the one that was looked at
        scale = scale._replace(before=jnp.maximum(scale.exponent, 0))
        thin = _scaled(factor, "push", thin, scale)
        scales.append(scale)
        if i + 1 < len(factors):  # a loss to underflow shows as noise: the next factor may magnify it
            rows, _ = _pattern([piece.push for piece in pieces(factor)], rows, dtype)
            least = smallest_factor(dtype) * np.random.default_rng(i).choice([-1, 1], thin.shape)
            thin = thin + jnp.where(rows[:, None], jnp.asarray(least, dtype), 0)

    noise = jnp.maximum(info.eps * norms(A), norms(thin[:, 1:] - combined(A)) / math.sqrt(PROBES * k))
    if k < Q.shape[0] and hasattr(J, "row_norms"):  # a few columns do not show the size of a row
        longest = jnp.max(norms(Q, axis=0), initial=0)
        noise = jnp.maximum(noise, info.eps * longest * J.row_norms() * jnp.exp2(-shift))
    stopped = norms(_made_of_stopped(factors, along, scales)) / math.sqrt(PROBES)
    known = jnp.stack([jnp.asarray(knows_stops(factor)) for factor in factors]).all()
    stopped = jnp.where(known, stopped, jnp.maximum(stopped, STOPPED * smallest_factor(dtype) * jnp.exp2(-shift)))
    shift, noise, stopped, thin = lax.stop_gradient((shift, noise, stopped, thin))
    return Image(A, shift, noise, thin[:, 1:], stopped, Uncounted(J, Q)), thin[:, :1]


def _made_of_stopped(factors: Sequence[Any], along: Array, scales: list[Scale]) -> Array:
    """How much of J V, V = `along` (n, PROBES), is made of slopes that may have been stopped short of zero: (m, PROBES).

    It is what J V loses if they are zero. The `scales` are those of the factors of J.
    """
    factors, along = lax.stop_gradient((tuple(factors), along))
    most, seen = SLOPES_PER_UNIT * along.shape[0], []

    def without(part: Array, _: int) -> Array:
        stopped = may_be_stopped(part)
        seen.append(jnp.any(stopped))
        return jnp.where(stopped, 0, part)

    others = [with_parts(factor, most, without) if shows_slopes(factor) else factor for factor in factors]

    def image_by(factors: Sequence[Any]) -> Array:
        V = along
        for factor, scale in zip(factors, scales, strict=True):
            V = _scaled(factor, "push", V, scale)
        return V

    shape = jax.eval_shape(image_by, factors)
    nothing = jnp.zeros(shape.shape, shape.dtype)
    if not seen:
        return nothing
    return lax.cond(jnp.any(jnp.stack(seen)), lambda: image_by(factors) - image_by(others), lambda: nothing)


def _pattern(maps: Sequence[Callable], live: Array, dtype: Any) -> tuple[Array, list[Array]]:
    """Where a generic vector that is zero where `live` is False is not zero after all maps, and how often after each."""
    counts = []
    for act in maps:
        live = _nonzero(act(_patterned(live, dtype)))
        counts.append(jnp.sum(live))
    return lax.stop_gradient(live), counts


def guide(n: int, dtype: Any) -> Array:
    """A random unit vector (n, 1) that no state is drawn to meet."""
    vector = np.random.default_rng(SEED).standard_normal((n, 1))
    return jnp.asarray(vector / np.linalg.norm(vector), dtype)


def live_rows(J: Any, n: int, dtype: Any) -> Array:
    """(m,), False for the rows of J, (m, n), that are zero because of zeros in its factors."""
    return _pattern([factor.push for factor in pieces(J)], jnp.ones(n, bool), dtype)[0]


def near_one(J: Any, verb: str, V: Array, guide: Array) -> tuple[Array, Array]:
    """2^-exponent J V, or J^T V if the verb is "pull", and the exponent, which is that of the size of J guide."""
    scale = _scale(getattr(J, verb)(guide))
    return _scaled(J, verb, V, scale), scale.exponent


def _scale(seen: Array) -> Scale:
    """The scale of a product of which a column is `seen`.

    Where that has left the dtype's range, the exponent is the largest that V and J can be expected to bear.
    """
    info = jnp.finfo(seen.dtype)
    size = lax.stop_gradient(jnp.max(jnp.abs(seen)))
    size = jnp.where(jnp.isnan(size), jnp.inf, size)  # infinities of both signs
    most = info.maxexp - 30.0
    exponent = jnp.where(size == 0, -most, jnp.clip(jnp.round(jnp.log2(jnp.where(size > 0, size, 1))), -most, most))
    near = (size >= 1 / NEAR_ONE) & (size <= NEAR_ONE)
    exponent = jnp.where(near, 0, exponent)
    small = size < 2.0 ** (info.minexp + 4 + info.nmant)
    return Scale(exponent, jnp.where(size == jnp.inf, exponent, 0), small)


def _scaled(J: Any, verb: str, V: Array, scale: Scale) -> Array:
    """2^-exponent J V.

    Where terms of J V underflow, V is scaled first. Derivatives take the unscaled way: a change of V may
    be as large as 1 / abs(J), and would overflow if it were scaled.
    """
    exponent, before, small = scale
    A = getattr(J, verb)(V * jnp.exp2(-before)) * jnp.exp2(before - exponent)

    def raised(moved: tuple[Any, ...]) -> Array:
        J, V, _, exponent = moved
        return getattr(J, verb)(V * jnp.exp2(-exponent))

    right = when(small, raised, lambda moved: moved[2], jax.tree.map(lax.stop_gradient, (J, V, A, exponent)))
    return jnp.where(small, A + lax.stop_gradient(right - A), A)


def _patterned(live: Array, dtype: Any) -> Array:
    """A random vector that is zero where `live` (n,) is False, (n, 2): of size one, and near the end of the range."""
    rng = np.random.default_rng(0)
    v = rng.uniform(0.5, 1.0, live.shape[0]) * rng.choice([-1.0, 1.0], live.shape[0])
    v = jnp.where(live, jnp.asarray(v, dtype), 0)
    return jnp.stack([v, v * 2.0 ** (jnp.finfo(dtype).maxexp - 30)], axis=1)


def _nonzero(block: Array) -> Array:
    """The entries of a mapped pattern that are not zero: what underflows for a vector of size one may not for a large one."""
    small, large = block[:, 0], block[:, 1]
    return (small != 0) | (jnp.isfinite(large) & (large != 0))
