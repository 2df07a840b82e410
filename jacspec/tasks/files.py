"""The user's own data as a task."""

import hashlib
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from jacspec import _checks
from jacspec.tasks._stored import frequencies, stored
from jacspec.tasks._task import Batch, Task
from jacspec.tasks.real import text

NAME = "tasks.from_file"
HELD_OUT = 0.1


class Sequences(NamedTuple):
    """A `Batch` of NumPy arrays."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def from_file(path: str | os.PathLike, *, length: int | None = None, dtype: Any = jnp.float32) -> Task:
    """A task from the user's own arrays (.npz) or text (.txt).

    An npz holds `inputs` (N, T, features) and `targets`. Integers are classes, 0, 1, ...: (N,), due at the last step, or
    (N, T), due at every step. Floating numbers are regressed on: (N, outputs), due at the last step, or (N, T, outputs).
    `weights` (N, T), if there, replace the steps asked for. A tenth of the sequences, chosen by a fixed shuffle, is held
    out. The trivial predictor knows the class frequencies or the mean target of the training part; a sequence of numbers
    is wrong if its squared error exceeds the mean of that predictor's. Inputs are used as they are: scale them yourself.

    A text is a character language model: see `text`.

    Args:
        path: a file that ends in .npz or .txt. Pickled objects are refused.
        length: characters of a window of text, 100 if None; an npz brings its own.
        dtype: of inputs, floating targets and weights.

    Returns:
        A task named after the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another kind of file, a file that cannot be read without unpickling, missing arrays, wrong shapes
            or dtypes, values that are not finite, negative classes or weights, or a length given for arrays.

    Example:
        >>> import numpy as np, tempfile, jacspec.tasks as tasks
        >>> path = tempfile.mkdtemp() + "/sines.npz"
        >>> np.savez(path, inputs=np.sin(np.arange(200.0)).reshape(20, 10, 1), targets=np.arange(20) % 2)
        >>> tasks.from_file(path)
        Task(sines.npz: (10, 1) -> 2, cross_entropy, baseline=0.693147, chance=0.5, success=0.01)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _checks.one_of(NAME, "the ending of path", suffix, (".npz", ".txt"))
    if not path.is_file():
        problem = f"jacspec.{NAME}: there is no file {path}."
        raise FileNotFoundError(problem)
    if suffix == ".txt":
        return text(100 if length is None else length, path=path, dtype=dtype)
    if length is not None:
        raise ValueError(_checks.message(NAME, "length", "is that of the arrays", length, "None for an npz"))
    return _from_arrays(path, dtype)


def _from_arrays(path: Path, dtype: Any) -> Task:
    content = path.read_bytes()
    arrays = _checked(_arrays(path.name, content))
    order = np.random.default_rng(0).permutation(len(arrays.inputs))
    split = max(1, round(HELD_OUT * len(order)))
    train, test = (Sequences(*(a[np.sort(rows)] for a in arrays)) for rows in (order[split:], order[:split]))
    if arrays.targets.dtype.kind == "i":
        outputs, kind, rule = int(arrays.targets.max()) + 1, "cross_entropy", {}
        known = frequencies(train.targets.ravel(), outputs, train.weights.ravel())
        baseline = float(np.average(-np.log(known)[test.targets], weights=test.weights))
        chance = np.any((test.targets != known.argmax()) & (test.weights > 0), axis=1).mean()
    else:
        outputs, kind = arrays.targets.shape[2], "squared"
        mean = np.average(train.targets, axis=(0, 1), weights=train.weights)
        errors = np.mean((test.targets - mean) ** 2, axis=2)
        baseline = float(np.average(errors, weights=test.weights))
        chance, rule = np.mean(np.average(errors, axis=1, weights=test.weights) > baseline), {"tolerance": baseline}
    kinds = (dtype, jnp.int32 if kind == "cross_entropy" else dtype, dtype)
    learned, held_out = (Batch(*map(jnp.asarray, part, kinds)) for part in (train, test))
    digest = hashlib.sha256(content).hexdigest()
    return stored(path.name, learned, held_out, outputs, kind, baseline, float(chance), sha256=digest, **rule)


def _arrays(file: str, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz, none of which is unpickled."""
    hint = "Write it with numpy.savez(path, inputs=..., targets=...); arrays of objects (pickles) are refused."
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError(_checks.message(NAME, "path", "cannot be read", f"{file}: no zip archive", "an npz", hint))
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        got = f"{file}: {error}"
        raise ValueError(_checks.message(NAME, "path", "cannot be read", got, "an npz", hint)) from error


def _checked(arrays: dict[str, np.ndarray]) -> Sequences:
    """Inputs (N, T, features), targets (N, T) or (N, T, outputs) and weights (N, T)."""
    for name in ("inputs", "targets"):
        if name not in arrays:
            _refuse(name, "is missing", f"the arrays {sorted(arrays)}", "inputs and targets")
    for name, array in arrays.items():
        if name in Sequences._fields and array.dtype.kind not in "biuf":
            _refuse(name, "is not numeric", f"dtype {array.dtype}", "real numbers")
    inputs, targets = arrays["inputs"], arrays["targets"]
    if inputs.ndim != 3 or len(inputs) < 2 or 0 in inputs.shape:
        hint = "Two sequences at least: one is held out." if inputs.ndim == 3 else "Numbers need a last axis of 1."
        _refuse("inputs", "has the wrong shape", f"shape {inputs.shape}", "(N, T, features)", hint)
    N, T, _ = inputs.shape
    classes = targets.dtype.kind != "f"
    step = () if classes else targets.shape[-1:]
    expected = f"({N},) or ({N}, {T}) classes" if classes else f"({N}, outputs) or ({N}, {T}, outputs) numbers"
    if targets.shape not in ((N, *step), (N, T, *step)) or 0 in targets.shape:
        _refuse("targets", "has the wrong shape", f"{targets.dtype} of shape {targets.shape}", expected)
    if classes and targets.astype(int).min() < 0:
        _refuse("targets", "has a negative class", int(targets.min()), "0, 1, ...")
    weights = np.ones((N, T))
    if targets.ndim == 1 + len(step):
        targets = np.repeat(targets[:, None], T, axis=1)
        weights = np.repeat(np.arange(T)[None] == T - 1, N, axis=0).astype(float)
    if "weights" in arrays:
        weights = arrays["weights"].astype(float)
        if weights.shape != (N, T) or not (weights >= 0).all() or not (weights > 0).any(axis=1).all():
            expected = f"({N}, {T}), none negative, one positive in each sequence"
            _refuse("weights", "is of no use", f"shape {weights.shape}", expected)
    for name, array in (("inputs", inputs), ("targets", targets), ("weights", weights)):
        _checks.finite(NAME, name, array)
    return Sequences(inputs, targets.astype(int if classes else float), weights)


def _refuse(array: str, problem: str, got: Any, expected: str, hint: str = "") -> NoReturn:
    raise ValueError(_checks.message(NAME, array, problem, got, expected, hint))
