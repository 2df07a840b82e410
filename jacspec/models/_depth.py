"""Blocks one after another, equal ones in one scan.

A network of L equal blocks compiles as one block does: their parameters are stacked and are the drivers of a scan.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec import layers

Statistics = list[tuple[Array, Array]]
"""Mean and variance over the batch of what enters each `BatchNorm`, (n,) each."""


def compose(blocks: Sequence[Any], h: Array) -> tuple[Array, list[Statistics]]:
    """F_L(... F_1(h)), and the statistics of every block."""
    found: list[Statistics] = []
    for _, run in itertools.groupby(blocks, key=_structure):
        equal = list(run)
        if len(equal) == 1:
            h, seen = _observed(equal[0], h)
            found.append(seen)
            continue
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *equal)
        h, seen = lax.scan(lambda h, block: _observed(block, h), h, stacked)
        found += [jax.tree.map(lambda a, i=i: a[i], seen) for i in range(len(equal))]
    return h, found


def _structure(block: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """The structure and the shapes that blocks must share to run in one scan."""
    leaves, structure = jax.tree.flatten(block)
    return structure, [leaf.shape for leaf in leaves]


def _observed(block: Any, h: Array) -> tuple[Array, Statistics]:
    """block(h), and the statistics of what enters each `BatchNorm` on the way."""
    if isinstance(block, layers.Sequential):
        found: Statistics = []
        for layer in block.layers:
            h, seen = _observed(layer, h)
            found += seen
        return h, found
    if isinstance(block, layers.Residual):
        return block(h), _observed(block.layer, h)[1]  # the branch is written twice and compiled once
    return block(h), [(h.mean(axis=0), h.var(axis=0))] if isinstance(block, layers.BatchNorm) else []
