"""Which of the user's sequences are held out, and whether they share a stretch of one series with those that are not."""

import warnings

import numpy as np

from jacspec._ground import checks

HELD_OUT = 0.1
"""Share of the sequences that is held out."""

BASE = np.uint64(0x9E3779B97F4A7C15)
"""Base of the polynomials modulo 2^64 by which stretches of steps are compared: 2^64 over the golden ratio, an odd number."""

SHARED = 0.5
"""If more than this share of the sequences is continued by another one, they count as windows of a series. Of independent
sequences of symbols at most exp(-1) / 2 = 0.18 find a unique continuation by chance."""


def held_out(name: str, split: str, arrays: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Which of `count` sequences are held out, (count,) bool.

    Args:
        name: the public function that is called, for messages.
        split: "shuffled", "time" or "group:<column>".
        arrays: of the file; the column (count,) is one of them.
        count: number of sequences.
    """
    kind, colon, column = split.partition(":") if isinstance(split, str) else (split, "", "")
    if not (kind == "group" and column):
        checks.one_of(name, "split", split, ("shuffled", "time", "group:<column>"))
    least = max(1, round(HELD_OUT * count))
    if not colon:
        order = np.arange(count)[::-1] if kind == "time" else np.random.default_rng(0).permutation(count)
        return np.isin(np.arange(count), order[:least])
    known = [key for key in arrays if key not in ("inputs", "targets", "weights")]
    if column not in known:
        want = f"group:<column> with a column of {known}" if known else f"an array of shape ({count},) in the file"
        raise ValueError(checks.message(name, "split", "names no column of the file", repr(column), want))
    labels = arrays[column]
    if labels.shape != (count,):
        got = f"{column} of shape {labels.shape}"
        raise ValueError(checks.message(name, "split", "needs a group for every sequence", got, f"({count},)"))
    groups, member = np.unique(labels, return_inverse=True)
    if len(groups) < 2:
        got = f"one group in {column}"
        raise ValueError(checks.message(name, "split", "cannot separate groups", got, "two or more"))
    order = np.random.default_rng(0).permutation(len(groups))
    enough = np.searchsorted(np.cumsum(np.bincount(member)[order]), least) + 1
    return np.isin(member, order[: min(enough, len(groups) - 1)])


def warn_where_shared(name: str, inputs: np.ndarray, test: np.ndarray) -> None:
    """Warn where held-out sequences are in the training part too, or overlap with windows that are.

    Args:
        name: the public function that is called, for messages.
        inputs: (N, T, features).
        test: (N,) bool, which are held out.
    """
    count = int((test & _shared(_digests(inputs), test)).sum())
    if count:
        problem = f"lets training see steps of {count} of the {int(test.sum())} held-out sequences"
        hint = (
            "They are windows of one series, or occur twice: what is learned by heart looks like foresight. Hold out the "
            "end with split='time', whole series with split='group:<column>', and leave the windows between them out."
        )
        warnings.warn(checks.message(name, "split", problem, hint=hint), stacklevel=4)


def _shared(steps: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Which sequences (N,) have a duplicate, or an overlapping window of the same series, on the other side.

    Window j continues window i after s steps if the first T - s steps of j are the last of i.
    """
    N, T = steps.shape
    head, tail = np.zeros((2, N), np.uint64)  # polynomials in BASE, modulo 2^64, of the first and the last steps
    power, stride, links = np.ones(1, np.uint64), T, []
    windows = np.isin(steps[:, 0], steps[:, 1:]).mean() > SHARED  # or none can continue another
    for length in range(1, T + 1):
        head += steps[:, length - 1] * power
        tail = steps[:, T - length] + tail * BASE
        power = power * BASE
        if windows and length < T:
            pairs = _continued(tail, head)
            if len(pairs[0]) > SHARED * N:
                stride, links = T - length, [*links, pairs]
    shared = np.isin(head, np.intersect1d(head[test], head[~test]))
    if links:  # the last pairs share the longest stretch: they are the most certain
        one, other = links[-1]
        links += _farther_pairs(one, other, N, (T - 1) // stride)
    for one, other in links:
        apart = test[one] != test[other]
        shared[one[apart]] = shared[other[apart]] = True
    return shared


def _farther_pairs(one: np.ndarray, other: np.ndarray, N: int, reach: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """From pairs of a window and the next one, of N, the pairs that are 2, 3, ... `reach` windows apart."""
    after = np.full(N + 1, N)  # N: there is none
    after[one] = other
    far, pairs = after, []
    for _ in range(2, reach + 1):
        far = after[far]
        found = np.nonzero(far < N)[0]
        pairs.append((found, far[found]))
    return pairs


def _continued(tail: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of different sequences in which the tail of the one is the head of the other and of no third."""
    ends, i, many = np.unique(tail, return_index=True, return_counts=True)
    starts, j, more = np.unique(head, return_index=True, return_counts=True)
    i, j = i[many == 1], j[more == 1]
    _, a, b = np.intersect1d(ends[many == 1], starts[more == 1], assume_unique=True, return_indices=True)
    different = i[a] != j[b]
    return i[a][different], j[b][different]


def _digests(inputs: np.ndarray) -> np.ndarray:
    """A number (N, T) for every step (N, T, features): equal for equal steps, and else different but by chance 2^-64."""
    bits = (inputs.astype(float) + 0.0).view(np.uint64)  # -0.0 is 0.0
    mixed = (bits ^ (bits >> np.uint64(32))) * BASE
    factors = np.random.default_rng(0).integers(0, 2**63, inputs.shape[2], np.uint64) * np.uint64(2) + np.uint64(1)
    return ((mixed ^ (mixed >> np.uint64(29))) * factors).sum(axis=2, dtype=np.uint64)
