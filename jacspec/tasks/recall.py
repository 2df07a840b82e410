"""Long-memory tasks whose answer is a whole sequence, step by step, generated on the device from a key as published.

A sequence is wrong if any answer that is due is wrong. This is the published rule of `memorization`; the other papers show
curves of the loss or the accuracy, which is one minus the mean of `Task.step_errors` over the steps with an answer.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random

from jacspec._ground import checks
from jacspec.tasks._task import Batch, Draw, Task, at_least, precision

RECALLED = 10
"""Symbols of the copy task."""


def copy(length: int = 100, *, dtype: Any = jnp.float32) -> Task:
    """Copy memory: 10 symbols, T - 1 blanks, a marker, 10 blanks in; T + 10 blanks and the 10 symbols out.

    Symbols 1..8 are uniform, 0 is the blank and 9 the marker: 10 one-hot channels, 9 classes, and an answer is due
    at all T + 20 steps.

    Args:
        length: T, steps from the last symbol to the first answer, at least 1; sequences have T + 20 steps.
        dtype: of inputs and weights.

    Returns:
        A task with baseline 10 ln 8 / (T + 20) nats a step; chance 1 - 8^-10.

    Raises:
        TypeError: if `length` is no integer, or `dtype` no floating dtype.
        ValueError: if it is too short.

    Reference: S. Hochreiter, J. Schmidhuber, Neural Computation 9 (1997) 1735; M. Arjovsky, A. Shah, Y. Bengio,
    arXiv 1511.06464, and their code.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.copy(100)
        Task(copy, T=100: (120, 10) -> 9, cross_entropy, baseline=0.173287, chance=1, success=0.01)
    """
    T, n, dtype = at_least("copy", length, 1, "the marker"), RECALLED, precision("copy", dtype)
    steps = T + 2 * n

    def draw(data: Any, key: Array, count: int) -> Batch:
        del data
        symbols = random.randint(key, (count, n), 1, 9)
        blank = jnp.zeros((count, steps), symbols.dtype)
        inputs = jax.nn.one_hot(blank.at[:, :n].set(symbols).at[:, n + T - 1].set(9), 10, dtype=dtype)
        return Batch(inputs, blank.at[:, -n:].set(symbols), jnp.ones((count, steps), dtype))

    baseline, chance = n * math.log(8) / steps, 1 - 8.0**-n
    return Task(f"copy, T={T}", steps, 10, 9, "cross_entropy", baseline, chance, draw)


def memorization(length: int = 100, *, bits: int = 20, dtype: Any = jnp.float32) -> Task:
    """Noiseless memorization: n symbols, then blanks until a cue, after which they are due again.

    bits=20: n = 10 of v = 5 values (23.2 bits); bits=5: n = 5 of v = 2 values, whose 32 patterns all occur before
    one is repeated, in every batch. Input channels are the v values, the blank and the cue, which comes *with* the first
    answer (in `copy` it comes one step before). Outputs: the v values and the blank, at all T + 2 n steps.

    Args:
        length: T, steps from the last symbol to the first answer, at least 1; sequences have T + 20 or T + 10 steps.
        bits: 20 or 5.
        dtype: of inputs and weights.

    Returns:
        A task with baseline n ln v / (T + 2 n) nats a step; chance 1 - v^-n.

    Raises:
        TypeError: if `length` is no integer, or `dtype` no floating dtype.
        ValueError: if it is too short, or for another number of bits.

    Reference: J. Martens, I. Sutskever, ICML 2011; R. Pascanu, T. Mikolov, Y. Bengio, arXiv 1211.5063, and their code.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.memorization(50, bits=5)
        Task(memorization, 5 bits, T=50: (60, 4) -> 3, cross_entropy, baseline=0.0577623, chance=0.9688, success=0.01)
    """
    checks.one_of("tasks.memorization", "bits", bits, (5, 20))
    T = at_least("memorization", length, 1, "a step between the symbols and the answer")
    dtype, (n, values) = precision("memorization", dtype), {20: (10, 5), 5: (5, 2)}[bits]
    steps, patterns = T + 2 * n, values**n

    def draw(data: Any, key: Array, count: int) -> Batch:
        del data
        if bits == 5:
            which = random.permutation(key, patterns)[jnp.arange(count) % patterns]
        else:
            which = random.randint(key, (count,), 0, patterns)
        symbols = which[:, None] // values ** jnp.arange(n) % values
        blank = jnp.full((count, steps), values, symbols.dtype)
        inputs = jax.nn.one_hot(blank.at[:, :n].set(symbols).at[:, n + T].set(values + 1), values + 2, dtype=dtype)
        return Batch(inputs, blank.at[:, -n:].set(symbols), jnp.ones((count, steps), dtype))

    name, baseline = f"memorization, {bits} bits, T={T}", n * math.log(values) / steps
    return Task(name, steps, values + 2, values + 1, "cross_entropy", baseline, 1 - 1 / patterns, draw)


def delayed_copy(length: int = 300, *, lag: int = 10, dtype: Any = jnp.float32) -> Task:
    """Random bits s are the inputs, and the targets some steps later: y_t = s_{t - lag}.

    Due from the first step whose answer has been seen, t = lag (counted from 0). One channel, one logit.

    Args:
        length: steps, more than `lag`.
        lag: at least 1.
        dtype: of inputs, targets and weights.

    Returns:
        A task with baseline ln 2 nats a step (accuracy 1/2); chance 1 - 2^-(length - lag).

    Raises:
        TypeError: if an argument is no integer.
        ValueError: if `length` is too short or `lag` < 1.

    Reference: R. Engelken, Gradient flossing, arXiv 2312.17306, and the code.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.delayed_copy(15, lag=10)
        Task(delayed_copy, lag=10, T=15: (15, 1) -> 1, logistic, baseline=0.693147, chance=0.9688, success=0.01)
    """
    lag = checks.integer("tasks.delayed_copy", "lag", lag, 1)
    T = at_least("delayed_copy", length, lag + 1, "one answer after the lag")
    draw = _bits(T, lag, lambda s: jnp.roll(s, lag, axis=1), precision("delayed_copy", dtype))
    name, chance = f"delayed_copy, lag={lag}, T={T}", 1 - 0.5 ** (T - lag)
    return Task(name, T, 1, 1, "logistic", math.log(2), chance, draw)


def delayed_xor(
    length: int = 300, *, lag: int | None = None, span: int | None = None, dtype: Any = jnp.float32
) -> Task:
    """The exclusive or of two earlier inputs, which are random bits s: y_t = abs(s_{t - lag} - s_{t - span}), span = 2 lag.

    Codes of the same author call now the lag and now the span "the delay": a factor of 2. Give one of them by name.
    Due from t = span (counted from 0). One channel, one logit.

    Args:
        length: steps, more than the span.
        lag: steps back to the nearer bit, at least 1; 10 if neither is given.
        span: steps back to the farther bit, even.
        dtype: of inputs, targets and weights.

    Returns:
        A task with baseline ln 2 nats a step (accuracy 1/2); chance 1 - 2^-(length - span).

    Raises:
        TypeError: if an argument is no integer.
        ValueError: if `length` is too short, `lag` < 1, the span is odd, or the two disagree.

    Reference: R. Engelken, Gradient flossing, arXiv 2312.17306, and the code.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.delayed_xor(25, span=20)
        Task(delayed_xor, lag=10, span=20, T=25: (25, 1) -> 1, logistic, baseline=0.693147, chance=0.9688, success=0.01)
    """
    name = "tasks.delayed_xor"
    if span is None:
        lag = checks.integer(name, "lag", 10 if lag is None else lag, 1)
        span = 2 * lag
    span = checks.integer(name, "span", span, 2)
    if span % 2 or lag not in (None, span // 2):
        hint = "The nearer bit lies half way."
        raise ValueError(checks.message(name, "span", "is not twice the lag", f"span={span}, lag={lag}", "", hint))
    near = span // 2
    T = at_least("delayed_xor", length, span + 1, "one answer after the span")
    exclusive_or = lambda s: jnp.abs(jnp.roll(s, near, axis=1) - jnp.roll(s, span, axis=1))
    draw = _bits(T, span, exclusive_or, precision("delayed_xor", dtype))
    name, chance = f"delayed_xor, lag={near}, span={span}, T={T}", 1 - 0.5 ** (T - span)
    return Task(name, T, 1, 1, "logistic", math.log(2), chance, draw)


def _bits(length: int, first: int, target: Any, dtype: Any) -> Draw:
    """A draw of random bits (count, length), whose `target(bits)` is due from step `first` on."""

    def draw(data: Any, key: Array, count: int) -> Batch:
        del data
        s = random.bernoulli(key, 0.5, (count, length)).astype(dtype)
        weights = jnp.broadcast_to((jnp.arange(length) >= first).astype(dtype), s.shape)
        return Batch(s[..., None], target(s)[..., None], weights)

    return draw
