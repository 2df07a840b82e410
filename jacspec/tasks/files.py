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

from jacspec._ground import checks
from jacspec.tasks._split import held_out, warn_where_shared
from jacspec.tasks._stored import frequencies, stored
from jacspec.tasks._task import Batch, Task, precision
from jacspec.tasks.real import text

NAME = "tasks.from_file"


class Sequences(NamedTuple):
    """A `Batch` of NumPy arrays."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def from_file(
    path: str | os.PathLike, *, length: int | None = None, split: str | None = None, dtype: Any = jnp.float32
) -> Task:
    """A task from the user's own arrays (.npz) or text (.txt).

    An npz holds `inputs` (N, T, features) and `targets`. Integers are labels of classes: (N,), due at the last step, or
    (N, T), due at every step; the classes are the labels that occur, in ascending order (`Task.labels`). Floating numbers
    are regressed on: (N, outputs), due at the last step, or (N, T, outputs). `weights` (N, T), if there, say
    how much each step counts. The trivial predictor knows the class frequencies or the mean target of the training part; a
    sequence of numbers is wrong if its squared error exceeds the mean of that predictor's. Inputs are used as they are:
    scale them yourself.

    A tenth of the sequences is held out, as `split` says: ``"shuffled"``, chosen by a fixed shuffle; ``"time"``, the last
    ones of the file; ``"group:<column>"``, whole groups, where the file holds a group for every sequence, (N,) numbers or
    strings, under the name `<column>`. A warning says how many held-out sequences share steps with the training part,
    because they occur twice or because they are overlapping windows of one series.

    A text is a character language model whose end is held out: see `text`.

    Args:
        path: a file that ends in .npz or .txt. Pickled objects are refused.
        length: characters of a window of text, 100 if None; an npz brings its own.
        split: of an npz, "shuffled" if None; of a text "time".
        dtype: of inputs, floating targets and weights.

    Returns:
        A task named after the file.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `path` is no path, or `dtype` no floating dtype.
        ValueError: for another kind of file, a file that cannot be read without unpickling, missing arrays, wrong shapes
            or dtypes, an unknown split or one with a side that is empty, values that are not finite or not after the cast
            to `dtype`, targets that never differ, negative labels or weights, or a length given for arrays.

    Example:
        >>> import numpy as np, tempfile, jacspec.tasks as tasks
        >>> path = tempfile.mkdtemp() + "/sines.npz"
        >>> np.savez(path, inputs=np.sin(np.arange(200.0)).reshape(20, 10, 1), targets=2020 + np.arange(20) % 2)
        >>> task = tasks.from_file(path)
        >>> task, task.labels
        (Task(sines.npz: (10, 1) -> 2, cross_entropy, baseline=0.693147, chance=0.5, success=0.01), (2020, 2021))
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            checks.message(NAME, "path", "is no path", type(path).__name__, "a file ending in .npz or .txt")
        )
    path, dtype = Path(path), precision("from_file", dtype)
    suffix = path.suffix.lower()
    checks.one_of(NAME, "the ending of path", suffix, (".npz", ".txt"))
    if not path.is_file():
        problem = f"jacspec.{NAME}: there is no file {path}."
        raise FileNotFoundError(problem)
    if suffix == ".txt":
        checks.one_of(NAME, "split", split, (None, "time"))
        return text(100 if length is None else length, path=path, dtype=dtype)
    if length is not None:
        raise ValueError(checks.message(NAME, "length", "is that of the arrays", length, "None for an npz"))
    return _from_arrays(path, "shuffled" if split is None else split, dtype)


def _from_arrays(path: Path, split: str, dtype: Any) -> Task:
    content = path.read_bytes()
    found = _arrays(path.name, content)
    arrays, labels = _checked(found, dtype)
    held = held_out(NAME, split, found, len(arrays.inputs))
    warn_where_shared(NAME, found["inputs"], held)
    train, test = (Sequences(*(a[rows] for a in arrays)) for rows in (~held, held))
    weights = [part.weights.astype(float) for part in (train, test)]
    if labels:
        kind, outputs, rule = "cross_entropy", len(labels), {"labels": labels}
        known = frequencies(train.targets.ravel(), outputs, weights[0].ravel())
        baseline = float(np.average(-np.log(known)[test.targets], weights=weights[1]))
        chance = np.any((test.targets != known.argmax()) & (test.weights > 0), axis=1).mean()
    else:
        kind, outputs = "squared", arrays.targets.shape[2]
        mean = np.average(train.targets.astype(float), axis=(0, 1), weights=weights[0])
        errors = np.mean((test.targets.astype(float) - mean) ** 2, axis=2)
        baseline = float(np.average(errors, weights=weights[1]))
        chance, rule = np.mean(np.average(errors, axis=1, weights=weights[1]) > baseline), {"tolerance": baseline}
        _squares(baseline, float(np.square(arrays.targets.astype(float)).max()), dtype)
    learned, judged = (Batch(*map(jnp.asarray, part)) for part in (train, test))
    digest = hashlib.sha256(content).hexdigest()
    return stored(path.name, learned, judged, outputs, kind, baseline, float(chance), sha256=digest, **rule)


def _arrays(file: str, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz, none of which is unpickled."""
    hint = "Write it with numpy.savez(path, inputs=..., targets=...); arrays of objects (pickles) are refused."
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError(checks.message(NAME, "path", "cannot be read", f"{file}: no zip archive", "an npz", hint))
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        got = f"{file}: {error}"
        raise ValueError(checks.message(NAME, "path", "cannot be read", got, "an npz", hint)) from error


def _checked(arrays: dict[str, np.ndarray], dtype: Any) -> tuple[Sequences, tuple[Any, ...]]:
    """Inputs (N, T, features), targets (N, T) or (N, T, outputs), weights (N, T), and the labels of classes."""
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
    weights = np.ones((N, T))
    if targets.ndim == 1 + len(step):
        targets = np.repeat(targets[:, None], T, axis=1)
        weights = np.repeat(np.arange(T)[None] == T - 1, N, axis=0).astype(float)
    if "weights" in arrays:
        weights = arrays["weights"].astype(float)
        if weights.shape != (N, T) or not (weights >= 0).all() or not (weights > 0).any(axis=1).all():
            expected = f"({N}, {T}), none negative, one positive in each sequence"
            _refuse("weights", "is of no use", f"shape {weights.shape}", expected)
    inputs, weights = _cast("inputs", inputs, dtype), _cast("weights", weights, dtype)
    if not np.isfinite(weights.sum(dtype=_wide(dtype))) or not (weights > 0).any(axis=1).all():
        _refuse("weights", f"leaves the range of {dtype}", f"up to {arrays['weights'].max():g}", "weights near 1")
    due = targets[weights > 0]
    if (due == due[0]).all():
        problem, got = "never differs: there is nothing to learn", f"{due[0].tolist()} everywhere"
        _refuse("targets", problem, got, "two values or more")
    if not classes:
        return Sequences(inputs, _cast("targets", targets, dtype), weights), ()
    if due.min() < 0:
        _refuse("targets", "has a negative class", int(due.min()), "0, 1, ...")
    labels = np.unique(due)
    numbers = np.minimum(np.searchsorted(labels, targets), len(labels) - 1).astype(np.int32)
    return Sequences(inputs, numbers, weights), tuple(labels.tolist())


def _cast(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array in `dtype`; refused where it is not finite, or no longer."""
    checks.finite(NAME, name, array)
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    beyond = ~np.isfinite(cast.astype(float))
    if beyond.any():
        got = f"{np.abs(array[beyond]).max():g} at index {tuple(map(int, np.argwhere(beyond)[0]))}"
        hint = "Scale the data, or ask for a wider dtype (float64 needs jax_enable_x64)."
        _refuse(name, f"leaves the range of {dtype}", got, f"at most {float(jnp.finfo(dtype).max):.4g}", hint)
    return cast


def _squares(baseline: float, largest: float, dtype: Any) -> None:
    """Refuse targets whose squared errors are 0 or infinite where they are computed: they could not be compared."""
    info = jnp.finfo(_wide(dtype))
    if baseline < float(info.tiny) or largest > float(info.max):
        got = f"a mean squared error of {baseline:g} and squares up to {largest:g}"
        hint = "Scale the targets to be of order 1."
        _refuse("targets", f"has squares that leave the range of {info.dtype}", got, "both within it", hint)


def _wide(dtype: Any) -> Any:
    """What losses are computed in."""
    return np.promote_types(dtype, np.float32)


def _refuse(array: str, problem: str, got: Any, expected: str, hint: str = "") -> NoReturn:
    raise ValueError(checks.message(NAME, array, problem, got, expected, hint))
