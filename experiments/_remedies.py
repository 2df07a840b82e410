"""Comparisons of remedies as arrays for a figure."""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jacspec.comparison import compare


def compared(task: str, remedies: Sequence[str], say: Callable[[str], None], **options: Any) -> dict[str, np.ndarray]:
    """The rows of a comparison as arrays (row, seed, ...), with the names of the remedies.

    Rows whose programs are equal, as those that differ in the initial law alone, are compiled once.
    """
    with tempfile.TemporaryDirectory() as folder:
        before = jax.config.values["jax_compilation_cache_dir"]
        jax.config.update("jax_compilation_cache_dir", folder)
        try:
            found = compare(task, remedies, progress=say, **options)
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
    gather = lambda name: np.stack([np.asarray(getattr(row, name)) for row in found.rows])
    return {
        "remedy": np.array([row.remedy for row in found.rows]),
        "law": np.array([row.law for row in found.rows]),
        "baseline": np.array(found.baseline),
        "chance": np.array(found.chance),
        **{name: gather(name) for name in ("loss", "wrong", "solved_at", "clip_rate", "slope_before", "slope_after")},
        "exploded": gather("status") == "exploded",
        "exponent_before": gather("exponents_before")[..., 0],
        "exponent_after": gather("exponents_after")[..., 0],
    }
