"""Real tasks that ship inside ordinary packages: handwritten digits, sunspots, and the text of Python's own manual.

Nothing is downloaded. Part of the data is held out for `Task.evaluation`; the split is fixed and stated. There is no
published rule for these data at these sizes: `success` and `tolerance` refer to a simple model named in each docstring.
"""

import hashlib
import importlib
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from jacspec._ground import checks
from jacspec.tasks._stored import any_order, frequencies, stored
from jacspec.tasks._task import Batch, Task, at_least, at_the_end, precision

FOLDS = 5
FIRST_TEST_YEAR = 1921  # of A. S. Weigend et al.; see `sunspots`
TRAINED_ON = 0.9  # the share of a text


def digits(*, order: str = "row", fold: int = 0, seed: int = 0, dtype: Any = jnp.float32) -> Task:
    """The 1797 handwritten digits of scikit-learn, 8 by 8 pixels, read row by row or pixel by pixel.

    Held out is every fifth digit of each class, from number `fold` on. The data set is small: report all five folds, and
    compare with nothing measured on sequential MNIST. `success` is logistic regression on all pixels at once: 0.031.

    Args:
        order: "row" (8 steps of 8 pixels), "pixel" (64 steps of one) or "permuted" (pixels in a fixed random order).
        fold: 0..4.
        seed: of the order "permuted".
        dtype: of inputs and weights.

    Returns:
        A task of 10 classes; inputs are in [0, 1]; the class is due at the last step. The trivial predictor knows how
        frequent the classes are: about ln 10 nats.

    Raises:
        ImportError: if scikit-learn is not installed.
        TypeError: if `fold` or `seed` is no integer.
        ValueError: for an unknown order, or a fold out of range.

    Reference: E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, UCI (1998); order of the pixels:
    Q. V. Le, N. Jaitly, G. E. Hinton, arXiv 1504.00941.

    Example:
        >>> import jacspec.tasks as tasks
        >>> tasks.digits(order="pixel")
        Task(digits, pixel, fold 0: (64, 1) -> 10, cross_entropy, baseline=2.30246, chance=0.8984, success=0.031)
    """
    name = "tasks.digits"
    checks.one_of(name, "order", order, ("row", "pixel", "permuted"))
    fold = checks.integer(name, "fold", fold, 0, FOLDS - 1)
    seed, dtype = checks.integer(name, "seed", seed, 0, 2**32 - 1), precision("digits", dtype)
    source = _package(name, "sklearn.datasets", "scikit-learn").load_digits()
    images, classes = np.asarray(source.data), np.asarray(source.target)
    number = np.empty(len(classes), int)  # of a digit within its class
    for c in range(10):
        number[classes == c] = np.arange(np.sum(classes == c))
    held = number % FOLDS == fold
    pixels = np.random.default_rng(seed).permutation(64) if order == "permuted" else np.arange(64)
    inputs = (images[:, pixels] / 16).reshape(len(images), *((8, 8) if order == "row" else (64, 1)))
    train, test = (_due_at_the_end(inputs[rows], classes[rows], dtype) for rows in (~held, held))
    known = frequencies(classes[~held], 10)
    return stored(
        f"digits, {order}, fold {fold}", train, test, 10, "cross_entropy",
        baseline=float(-np.mean(np.log(known)[classes[held]])), chance=float(np.mean(classes[held] != known.argmax())),
        success=0.031, sha256=_hash(images, classes),
    )  # fmt: skip


def sunspots(length: int = 22, *, dtype: Any = jnp.float32) -> Task:
    """Yearly sunspot numbers, 1700 to 2008: the next year from the last `length` years.

    Training targets end in 1920; the 88 years from 1921 on are held out. Numbers are standardized by the mean and the
    standard deviation of the years to 1920: a loss times scale^2 is in squared sunspots. The trivial predictor is
    persistence, next year like this one (926 on the held-out years). A year is wrong if its squared error exceeds that
    mean; `success` is 0.08, what Gaussian errors of an AR(9) model (mean square 304) would give.

    Args:
        length: years that are seen, 1..220; the default is two solar cycles.
        dtype: of inputs, targets and weights.

    Returns:
        A regression task.

    Raises:
        ImportError: if statsmodels is not installed.
        TypeError: if `length` is no integer.
        ValueError: if it is out of range.

    Reference: the series of the NOAA in statsmodels; A. S. Weigend, B. A. Huberman, D. E. Rumelhart, Int. J. Neural
    Systems 1 (1990) 193 (the split).

    Example:
        >>> import jacspec.tasks as tasks
        >>> task = tasks.sunspots()
        >>> task.held_out, round(task.baseline * task.scale**2)
        (88, 926)
    """
    name = "tasks.sunspots"
    T, dtype = at_least("sunspots", length, 1, "the year before"), precision("sunspots", dtype)
    table = _package(name, "statsmodels.datasets.sunspots", "statsmodels").load_pandas().data
    years, numbers = (table[column].to_numpy(float) for column in ("YEAR", "SUNACTIVITY"))
    split = int(np.searchsorted(years, FIRST_TEST_YEAR))
    checks.integer(name, "length", T, 1, split - 1, f"Training has {split} years.")
    center, scale = numbers[:split].mean(), numbers[:split].std()
    windows = np.lib.stride_tricks.sliding_window_view((numbers - center) / scale, T + 1)
    past, target = windows[:, :-1, None], windows[:, -1:]
    train, test = (
        _due_at_the_end(past[rows], target[rows], dtype) for rows in (slice(split - T), slice(split - T, None))
    )
    persistence = (windows[split - T :, -1] - windows[split - T :, -2]) ** 2
    baseline = float(persistence.mean())
    chance = float(np.mean(persistence > baseline))
    return stored(
        f"sunspots, T={T}", train, test, 1, "squared", baseline, chance,
        success=0.08, tolerance=baseline, scale=float(scale), sha256=_hash(years, numbers),
    )  # fmt: skip


def text(length: int = 100, *, path: str | os.PathLike | None = None, dtype: Any = jnp.float32) -> Task:
    """The next character of a text, at every step: Python's own manual (`pydoc_data.topics`), or the file at `path`.

    The last tenth of the text is held out, cut into windows that don't overlap; training windows start anywhere in the
    rest. One one-hot channel and one class per character. The trivial predictor knows the frequencies of the characters
    (unigrams); a window is wrong if it takes more nats a character than the bigram model takes on the held-out text, and
    half the windows right is success. Both models count on the training part and add 1/2 to each count.

    Python's text changes with its version; `Task.sha256` identifies it.

    Args:
        length: characters of a window, at least 1.
        path: a file in UTF-8.
        dtype: of inputs and weights.

    Returns:
        A task; `baseline` and `tolerance` are the unigram's and the bigram's nats per character (4.67 and 3.35 bits for
        Python 3.11).

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `length` is no integer, or `dtype` no floating dtype.
        ValueError: if it is too short, too long for the text, or the file is not UTF-8 or a single character.

    Reference: R. Krichevsky, V. Trofimov, IEEE Trans. Inf. Theory 27 (1981) 199 (the added 1/2).

    Example:
        >>> import jax, jacspec.tasks as tasks
        >>> task = tasks.text(50)
        >>> task.sample(jax.random.key(0), 2).targets.shape, 3 < task.baseline < 4  # nats a character
        ((2, 50), True)
    """
    name = "tasks.text"
    T, dtype = at_least("text", length, 1, "a character"), precision("text", dtype)
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise TypeError(checks.message(name, "path", "is no path", type(path).__name__, "a file in UTF-8"))
    source = _topics() if path is None else _read(Path(path))
    characters, ids = np.unique(np.frombuffer(source.encode("utf-32-le"), np.uint32), return_inverse=True)
    V, split = len(characters), int(TRAINED_ON * len(ids))
    train, test = ids[:split], ids[split:]
    windows = (len(test) - 1) // T
    if windows < 1 or split <= T:
        hint = "A window and the character after it must fit into the last tenth, which is held out."
        short = f"{len(ids)} characters"
        raise ValueError(checks.message(name, "length", "is too long for the text", f"{T} of {short}", "", hint))
    if V == 1:
        got = f"{len(ids)} times {source[0]!r}"
        raise ValueError(checks.message(name, "path", "never differs: there is nothing to learn", got, "a text"))

    unigram = -np.log(frequencies(train, V))[test]
    pairs = frequencies(train[:-1] * V + train[1:], V * V).reshape(V, V)
    tolerance = -np.mean(np.log(pairs / pairs.sum(axis=1, keepdims=True))[test[:-1], test[1:]])
    chance = np.mean(unigram[1 : windows * T + 1].reshape(windows, T).mean(axis=1) > tolerance)

    def cut(ids: Array, starts: Array) -> Batch:
        window = ids[starts[:, None] + jnp.arange(T + 1)]
        return Batch(jax.nn.one_hot(window[:, :-1], V, dtype=dtype), window[:, 1:], jnp.ones((len(starts), T), dtype))

    def draw(data: Any, key: Array, count: int) -> Batch:
        return cut(data["train"], random.randint(key, (count,), 0, split - T))

    def draw_held_out(data: Any, key: Array, count: int) -> Batch:
        return cut(data["held_out"], T * any_order(key, windows, count))

    return Task(
        f"text, T={T}", T, V, V, "cross_entropy", float(unigram.mean()), float(chance), draw,
        success=0.5, tolerance=float(tolerance), held_out=windows, draw_held_out=draw_held_out,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        data={"train": jnp.asarray(train, jnp.int32), "held_out": jnp.asarray(test, jnp.int32)},
    )  # fmt: skip


def _topics() -> str:
    return "".join(importlib.import_module("pydoc_data.topics").topics.values())


def _read(path: Path) -> str:
    if not path.is_file():
        text = f"jacspec.tasks.text: there is no file {path}."
        raise FileNotFoundError(text)
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        got = f"{path.name}, byte {error.start}"
        raise ValueError(checks.message("tasks.text", "path", "is not a text", got, "UTF-8")) from error


def _due_at_the_end(inputs: np.ndarray, targets: np.ndarray, dtype: Any) -> Batch:
    kind = jnp.int32 if targets.dtype.kind in "iu" else dtype
    return Batch(jnp.asarray(inputs, dtype), *at_the_end(jnp.asarray(targets, kind), inputs.shape[1], dtype))


def _hash(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def _package(function: str, module: str, package: str) -> Any:
    """An optional package, or an error that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        text = f"jacspec.{function}: {package} is not installed. pip install 'jacspec[data]' brings it."
        raise ImportError(text) from error
