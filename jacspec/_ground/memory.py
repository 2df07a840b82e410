"""How much memory there is, and the refusal of what does not fit."""

import os
from typing import Any

import jax

from jacspec._ground.messages import message


def free_bytes() -> float:
    """Free memory of the default device, or of the system where the device does not report it."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def affordable(function: str, argument: str, value: Any, numbers: int, noun: str) -> None:
    """Raise ValueError where so many float32 numbers exceed the memory of the machine: JAX would abort the process."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * numbers > memory:
        got = f"{value}: {noun} are {4 * numbers / 2**30:.3g} GiB"
        raise ValueError(
            message(function, argument, "does not fit into memory", got, f"at most {memory / 2**30:.3g} GiB")
        )
