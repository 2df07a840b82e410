"""Arrays in a safetensors file: 8 bytes with the length of a JSON header, the header, and the numbers one after another."""

import json
import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacspec._ground import checks

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
LONGEST = 100_000_000
"""Bytes that the format allows a header."""


class Damaged(Exception):
    """Why the bytes are no safetensors file."""


def read(function: str, argument: str, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays by name, as views of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its name has another ending, or it is damaged.

    Reference: the section "Format" of the README of github.com/huggingface/safetensors.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        hint = "Of a file of torch.load give what it loads, the state dict."
        raise ValueError(
            checks.message(function, argument, "is no safetensors file", repr(str(path)), "*.safetensors", hint)
        )
    if not file.is_file():
        raise FileNotFoundError(checks.message(function, argument, "names no file that is there", repr(str(path))))
    try:
        return _arrays(np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8))
    except (OSError, Damaged) as error:
        raise ValueError(checks.message(function, argument, f"cannot be read: {error}", repr(str(path)))) from error


def _ask(holds: bool, text: str) -> None:
    if not holds:
        raise Damaged(text)


def _arrays(data: np.ndarray) -> dict[str, np.ndarray]:
    _ask(data.size >= 8, "it has less than 8 bytes")
    length, rest = int.from_bytes(data[:8].tobytes(), "little"), data.size - 8
    _ask(length <= min(LONGEST, rest), f"its header would have {length} bytes, of {rest} there are")
    try:
        header = json.loads(data[8 : 8 + length].tobytes().decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is not JSON ({type(error).__name__})") from error  # noqa: EM102, TRY003
    _ask(isinstance(header, dict), "its header is no table of names")
    header.pop("__metadata__", None)
    data, end = data[8 + length :], 0
    found = {name: _array(name, entry, data) for name, entry in header.items()}
    for name, (start, stop) in sorted(((k, e["data_offsets"]) for k, e in header.items()), key=lambda pair: pair[1]):
        _ask(start == end, f"{name!r} begins at byte {start}, where the one before ends at {end}")
        end = stop
    _ask(end == data.size, f"{data.size} bytes follow the header, its arrays have {end}")
    return found


def _array(name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    fields = ("dtype", "shape", "data_offsets")
    _ask(isinstance(entry, dict) and sorted(entry) == sorted(fields), f"{name!r} must have just {', '.join(fields)}")
    dtype, shape, offsets = (entry[field] for field in fields)
    _ask(
        isinstance(dtype, str) and dtype in DTYPES, f"{name!r} has the dtype {dtype!r}, not one of {', '.join(DTYPES)}"
    )
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        natural = isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)
        _ask(natural, f"{name!r} has the {what} {numbers!r}, not natural numbers")
    inside = len(offsets) == 2 and offsets[0] <= offsets[1] <= data.size
    _ask(inside, f"{name!r} lies at {offsets}, of {data.size} bytes there are")
    size, needed = offsets[1] - offsets[0], math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    _ask(size == needed, f"{name!r} has {size} bytes, {dtype} of shape {tuple(shape)} needs {needed}")
    return data[slice(*offsets)].view(DTYPES[dtype]).reshape(shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ."""
    found = dict(pairs)
    _ask(len(found) == len(pairs), "a name occurs twice in its header")
    return found
