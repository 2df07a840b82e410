"""Comparisons of remedies as arrays for a figure."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jacspec.comparison import compare


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Equal programs share their compilation, through a folder that lasts as long as this context."""
    before = jax.config.values["jax_compilation_cache_dir"]
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            compilation_cache.reset_cache()


def compared(task: str, remedies: Sequence[str], say: Callable[[str], None], **options: Any) -> dict[str, np.ndarray]:
    """The rows of a comparison as arrays (row, seed, ...), with the names of the remedies.

    Rows whose programs are equal, as those that differ in the initial law alone, are compiled once.
    """
    with compiled_once():
        found = compare(task, remedies, progress=say, **options)
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
