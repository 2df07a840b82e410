"""Long-memory tasks with one answer, due at the last step, generated on the device from a key as they were published.

Each task is a function that draws one sequence and its answer; `jax.vmap` over keys draws a batch. Ranges of positions
are half open, [a, b) = a, ..., b - 1, and fractions of a length are rounded down.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random

from jacspec._ground import checks
from jacspec.tasks._task import Batch, Draw, Task, at_least, at_the_end, precision

TOLERANCE = 0.04
"""Largest squared error of a sequence that is not wrong (adding, multiplication)."""


def adding(length: int = 100, *, convention: str = "pascanu", dtype: Any = jnp.float32) -> Task:
    """Two of many numbers are marked: give their mean ("pascanu") or their sum ("arjovsky").

    pascanu: l in [L, 1.1 L) steps, channels (mark, x), marks in [0, l/10) and [l/10, l/2), target (x_0 + x_1) / 2.
    arjovsky: L steps, channels (x, mark), one mark in each half, target x_0 + x_1. x is uniform on [0, 1).

    As published, the sequences of a pascanu batch share one l (those of `evaluation` do not). Zeros on the left fill
    them up to the longest, so the answer is always due at the last step and every lag is as published. A sequence is
    wrong if its squared error exceeds 0.04 (pascanu; arjovsky publishes no such rule, the same one is used).

    Args:
        length: L, at least 10 ("pascanu") or 2 ("arjovsky").
        convention: "pascanu" or "arjovsky".
        dtype: of inputs, targets and weights.

    Returns:
        A task with baseline Var = 1/24 and chance 0.36, or 1/6 and 0.64.

    Raises:
        TypeError: if `length` is no integer, or `dtype` no floating dtype.
        ValueError: if it is too short, or for an unknown convention.

    Reference: R. Pascanu, T. Mikolov, Y. Bengio, arXiv 1211.5063, and their code; M. Arjovsky, A. Shah, Y. Bengio,
    arXiv 1511.06464, and theirs.

    Example:
        >>> import jax, jacspec.tasks as tasks
        >>> task = tasks.adding(50)
        >>> task
        Task(adding, pascanu, L=50: (54, 2) -> 1, squared, baseline=0.0416667, chance=0.36, success=0.01)
        >>> task.sample(jax.random.key(0), 20).inputs.shape
        (20, 54, 2)
    """
    checks.one_of("tasks.adding", "convention", convention, ("pascanu", "arjovsky"))
    dtype = precision("adding", dtype)
    if convention == "pascanu":
        return _two_marked("adding, pascanu", length, lambda a, b: (a + b) / 2, 1 / 24, 0.36, dtype)
    length = at_least("adding", length, 2, "a mark in each half")

    def draw_one(key: Array) -> tuple[Array, Array]:
        k_mark, k_x = random.split(key)
        half = length // 2
        marked = random.randint(k_mark, (2,), jnp.array([0, half]), jnp.array([half, 2 * half]))
        x = random.uniform(k_x, (length,), dtype)
        return jnp.stack([x, jnp.zeros_like(x).at[marked].set(1)], axis=1), x[marked].sum()[None]

    name, draw = f"adding, arjovsky, T={length}", _batches_of(draw_one, length, dtype)
    return Task(name, length, 2, 1, "squared", 1 / 6, 0.64, draw, tolerance=TOLERANCE)


def multiplication(length: int = 100, *, dtype: Any = jnp.float32) -> Task:
    """Two of many numbers are marked: give their product.

    Inputs, padding and rule as in `adding` by Pascanu; target x_0 x_1. The trivial predictor answers 1/4 and is wrong with
    probability P(x_0 x_1 < 0.05) + P(x_0 x_1 > 0.45), where P(x_0 x_1 < p) = p (1 - ln p).

    Args:
        length: L, at least 10; sequences have l in [L, 1.1 L) steps.
        dtype: of inputs, targets and weights.

    Returns:
        A task with baseline Var = 7/144 and chance 0.390.

    Raises:
        TypeError: if `length` is no integer, or `dtype` no floating dtype.
        ValueError: if it is too short.

    Reference: R. Pascanu, T. Mikolov, Y. Bengio, arXiv 1211.5063, and their code.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.multiplication(50)
        Task(multiplication, L=50: (54, 2) -> 1, squared, baseline=0.0486111, chance=0.3905, success=0.01)
    """
    below = lambda p: p * (1 - math.log(p))
    reach = math.sqrt(TOLERANCE)
    chance = below(0.25 - reach) + 1 - below(0.25 + reach)
    return _two_marked("multiplication", length, lambda a, b: a * b, 7 / 144, chance, dtype)


def _two_marked(name: str, length: int, target: Any, baseline: float, chance: float, dtype: Any) -> Task:
    task = name.partition(",")[0]
    L, dtype = at_least(task, length, 10, "a mark in the first tenth"), precision(task, dtype)
    T = L + L // 10 - 1  # the longest l

    def draw_one(key: Array, l: Array) -> tuple[Array, Array]:
        k_mark, k_x = random.split(key)
        tenth, start = l // 10, T - l
        marked = start + random.randint(k_mark, (2,), jnp.stack([0, tenth]), jnp.stack([tenth, tenth + 4 * l // 10]))
        x = jnp.where(jnp.arange(T) >= start, random.uniform(k_x, (T,), dtype), 0)
        return jnp.stack([jnp.zeros_like(x).at[marked].set(1), x], axis=1), target(*x[marked])[None]

    def draw(data: Any, key: Array, count: int) -> Batch:
        length_key, key = random.split(key)
        l = random.randint(length_key, (), L, T + 1)
        return _batches_of(lambda k: draw_one(k, l), T, dtype)(data, key, count)

    def each_its_length(data: Any, key: Array, count: int) -> Batch:
        batches_of_one = jax.vmap(lambda k: draw(data, k, 1))(random.split(key, count))
        return jax.tree.map(lambda a: a[:, 0], batches_of_one)

    rule = {"tolerance": TOLERANCE, "draw_held_out": each_its_length}
    return Task(f"{name}, L={L}", T, 2, 1, "squared", baseline, chance, draw, **rule)


def temporal_order(length: int = 100, *, symbols: int = 2, dtype: Any = jnp.float32) -> Task:
    """A or B is shown at two (three) hidden times among the distractors c, d, e, f: in which order did they come?

    Slots of L/10 steps start at L/10 and L/2 (L/10, 3L/10 and 3L/5); class v_0 + 2 v_1 (+ 4 v_2), with A = 0, B = 1;
    6 one-hot channels. The docstring of the published code names another first slot than its code uses: this is the code.

    Args:
        length: L steps, at least 10.
        symbols: 2 or 3 slots.
        dtype: of inputs and weights.

    Returns:
        A task with baseline ln 4 or ln 8 nats; chance 3/4 or 7/8.

    Raises:
        TypeError: if `length` is no integer, or `dtype` no floating dtype.
        ValueError: if it is too short, or for another number of symbols.

    Reference: S. Hochreiter, J. Schmidhuber, Neural Computation 9 (1997) 1735; R. Pascanu, T. Mikolov, Y. Bengio,
    arXiv 1211.5063, and their code.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.temporal_order(50)
        Task(temporal_order, 2 symbols, L=50: (50, 6) -> 4, cross_entropy, baseline=1.38629, chance=0.75, success=0.01)
    """
    checks.one_of("tasks.temporal_order", "symbols", symbols, (2, 3))
    L, dtype = at_least("temporal_order", length, 10, "one step in each slot"), precision("temporal_order", dtype)
    starts = jnp.array({2: (L // 10, 5 * L // 10), 3: (L // 10, 3 * L // 10, 6 * L // 10)}[symbols])
    classes = 2**symbols

    def draw_one(key: Array) -> tuple[Array, Array]:
        k_place, k_symbol = random.split(key)
        places = starts + random.randint(k_place, (symbols,), 0, L // 10)
        sequence = random.randint(k_symbol, (L,), 2, 6)
        values = sequence[places] % 2  # of a uniform distractor: a fair bit
        sequence = sequence.at[places].set(values)
        return jax.nn.one_hot(sequence, 6, dtype=dtype), jnp.sum(values << jnp.arange(symbols))

    name, draw = f"temporal_order, {symbols} symbols, L={L}", _batches_of(draw_one, L, dtype)
    return Task(name, L, 6, classes, "cross_entropy", math.log(classes), 1 - 1 / classes, draw)


def permutation(length: int = 100, *, dtype: Any = jnp.float32) -> Task:
    """Random permutation: the last of L + 1 symbols equals the first, 0 or 1; the rest are drawn from 98 others.

    The L inputs are all symbols but the last, which is to be predicted: 100 one-hot channels, 100 classes.

    Args:
        length: L steps, at least 2.
        dtype: of inputs and weights.

    Returns:
        A task with baseline ln 2 nats (the pair is known, the symbol is not) and chance 1/2.

    Raises:
        TypeError: if `length` is no integer, or `dtype` no floating dtype.
        ValueError: if it is too short.

    Reference: S. Hochreiter, J. Schmidhuber, Neural Computation 9 (1997) 1735; R. Pascanu, T. Mikolov, Y. Bengio,
    arXiv 1211.5063, and their code.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.permutation(30)
        Task(permutation, L=30: (30, 100) -> 100, cross_entropy, baseline=0.693147, chance=0.5, success=0.01)
    """
    L, dtype = at_least("permutation", length, 2, "the symbol and one distractor"), precision("permutation", dtype)

    def draw_one(key: Array) -> tuple[Array, Array]:
        sequence = random.randint(key, (L,), 2, 100)
        value = sequence[0] % 2  # of a uniform distractor: a fair bit
        sequence = sequence.at[0].set(value)
        return jax.nn.one_hot(sequence, 100, dtype=dtype), value

    name, draw = f"permutation, L={L}", _batches_of(draw_one, L, dtype)
    return Task(name, L, 100, 100, "cross_entropy", math.log(2), 0.5, draw)


def _batches_of(draw_one: Callable[[Array], tuple[Array, Array]], length: int, dtype: Any) -> Draw:
    """A draw of batches from `draw_one(key)`: a sequence and its answer, due at the last step."""

    def draw(data: Any, key: Array, count: int) -> Batch:
        del data
        inputs, targets = jax.vmap(draw_one)(random.split(key, count))
        return Batch(inputs, *at_the_end(targets, length, dtype))

    return draw
