"""Many sequences of every synthetic task, drawn once, and what the tests ask of sequences."""

import functools
import math
from collections import Counter

import jax
import numpy as np

from jacspec import tasks

KEY = jax.random.key(7)
SIGMAS = 5  # of a frequency or a mean: one false alarm in 10^6
COUNT = 4096

SYNTHETIC = {
    "adding": {"length": 43},
    "adding, arjovsky": {"length": 21, "convention": "arjovsky"},
    "multiplication": {"length": 10},
    "temporal_order": {"length": 38},
    "temporal_order, 3": {"length": 19, "symbols": 3},
    "permutation": {"length": 12},
    "copy": {"length": 5},
    "memorization": {"length": 4},
    "memorization, 5": {"length": 3, "bits": 5},
    "delayed_copy": {"length": 12, "lag": 3},
    "delayed_xor": {"length": 12, "lag": 3},
}


@functools.cache
def built(name):
    return tasks.get(name.partition(",")[0], **SYNTHETIC[name])


@functools.cache
def drawn(name):
    """Inputs as (N, T, features), targets and weights of many sequences, as NumPy arrays."""
    return tasks.Batch(*map(np.asarray, built(name).evaluation(KEY, COUNT)))


def symbols_of(inputs):
    """The symbols of one-hot sequences."""
    assert set(np.unique(inputs)) == {0, 1}
    assert (inputs.sum(axis=-1) == 1).all()
    return inputs.argmax(axis=-1)


def assert_uniform(values, expected):
    """The values are the expected ones, equally often, within the standard deviation of a frequency."""
    expected = list(expected)
    p, N = 1 / len(expected), len(values)
    counts = Counter(np.asarray(values).tolist())
    assert set(counts) == set(expected)
    for value in expected:
        assert abs(counts[value] / N - p) <= SIGMAS * math.sqrt(p * (1 - p) / N)


def assert_answered_last(batch):
    assert (batch.weights[:, :-1] == 0).all()
    assert (batch.weights[:, -1] == 1).all()
