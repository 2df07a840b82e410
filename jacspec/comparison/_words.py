"""The words that a remedy is made of: what each one sets, how its value is written, and what it may be."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from jacspec import activations, remedies
from jacspec._ground import checks
from jacspec.models import deep, recurrent
from jacspec.models.weights import LAWS

NAME = "comparison.Remedy"

SEARCHES = {"es": "open_es", "cma_es": "cma_es", "sep_cma_es": "sep_cma_es", "lm_ma_es": "lm_ma_es"}
SEARCHES |= {"ga": "simple_ga", "pso": "pso"}
"""Training without gradients, by the names of `jacspec.remedies.evolve`."""

SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""A row trains in float32, in which other numbers become 0 or infinite."""
ALIASES = {"xavier": "glorot"}


def read(word: str) -> tuple[str, Any]:
    """The field that a word sets, and its value."""
    key, equals, value = (part.strip() for part in word.partition("="))
    if not equals:
        if key in FLAGS:
            return FLAGS[key]
        if key in VALUES:
            raise refused(word, "lacks its value", word, VALUES[key].form)
    elif key in VALUES:
        return key, VALUES[key].read(word, value)
    elif key in FLAGS:
        raise refused(word, "takes no value", word, key)
    near = difflib.get_close_matches(key, [*FLAGS, *VALUES, "none"], 1, 0.4)
    if key == "none":
        raise refused(word, "stands alone", word, "'none' or other words")
    hint = f"Did you mean {near[0]!r}?" if near else ""
    raise refused(word, "is unknown", repr(key), ", ".join(vocabulary()), hint)


def refused(argument: str, problem: str, got: str, expected: str = "", hint: str = "") -> ValueError:
    """The error of a remedy."""
    return ValueError(checks.message(NAME, argument, problem, got, expected, hint))


def _number(word: str, value: str, low: float = -math.inf, *, whole: bool = False) -> Any:
    """A finite number above `low` that float32 can hold, or a whole number from `low` on."""
    want = f"a whole number >= {low:g} and < 2**31" if whole else "a finite number"
    want += f" > {low:g}" * (not whole and math.isfinite(low))
    try:
        number = int(value) if whole else float(value)
    except ValueError as error:
        raise refused(word, "has no number where one belongs", repr(value), want) from error
    if (
        number < low
        or (number == low and not whole)
        or not (number <= checks.INT32_MAX if whole else math.isfinite(number))
    ):
        raise refused(word, "is out of range", value, want)
    if not whole and number and not SMALLEST <= abs(number) <= LARGEST:
        raise refused(word, "leaves the range of float32", value, f"{want} of a size in {SMALLEST:.3g}..{LARGEST:.3g}")
    return number


def _name(word: str, value: str, allowed: Any) -> str:
    value = ALIASES.get(value, value)
    checks.one_of(NAME, word, value, allowed)
    return value


CLIPS: dict[str, tuple[Callable[..., optax.GradientTransformation], int, int]] = {
    "value": (lambda a, b=None: remedies.clip_by_value(a if b is None else b, None if b is None else a), 1, 2),
    "norm": (remedies.clip_by_global_norm, 1, 1),
    "leaf": (remedies.clip_by_leaf_norm, 1, 1),
    "agc": (functools.partial(remedies.adaptive_clip, axis=-1), 0, 1),  # weights are (..., out, in)
    "zclip": (remedies.zclip, 0, 1),
    "autoclip": (remedies.autoclip, 0, 1),
}
"""Each clipping: what makes it, and how few and how many numbers it takes; `value` takes (upper) or (lower, upper)."""


def _clip(word: str, value: str) -> tuple[str, tuple[float, ...]]:
    kind, *rest = value.split(":")
    _name(word, kind, CLIPS)
    make, fewest, most = CLIPS[kind]
    if not fewest <= len(rest) <= most:
        want = f"{fewest} to {most}" if fewest < most else f"{fewest}"
        raise refused(word, "takes another count of numbers", f"{len(rest)}", want)
    numbers = []
    for text in rest:
        try:
            numbers.append(float(text))
        except ValueError as error:
            raise refused(word, "has no number where one belongs", repr(text), "for example clip=norm:1") from error
    clip = make(*numbers)  # checks their range
    if not all(map(math.isfinite, numbers)):
        raise refused(word, "is out of range", value, "finite numbers; no 'clip' for no clipping")
    clip.init(np.zeros(1, np.float32))  # checks that float32 can hold them
    return kind, tuple(numbers)


def _norm(word: str, value: str) -> tuple[str, str]:
    kind, _, position = value.partition(":")
    _name(word, kind, (*deep.OF_STATES, *deep.OF_WEIGHTS))
    _name(word, position or "before", ("before", "after"))
    if position and kind in deep.OF_WEIGHTS:
        raise refused(word, "has a position, and normalizes weights", repr(position), f"norm={kind}")
    return kind, position or "before"


def _omega(word: str, value: str) -> tuple[str, float]:
    form, colon, weight = value.partition(":")
    _name(word, form, ("norm", "squared"))
    return form, _number(word, weight, 0) if colon else 1.0


def _flossing(word: str, value: str) -> tuple[str, int]:
    when, colon, k = value.rpartition(":")
    return _name(word, when if colon else "both", ("before", "during", "both")), _number(word, k, 1, whole=True)


@dataclasses.dataclass(frozen=True)
class Value:
    """How the text after ``key=`` is written and read."""

    form: str
    read: Callable[[str, str], Any]


_positive = lambda word, value: _number(word, value, 0)
_count = lambda word, value: _number(word, value, 1, whole=True)

VALUES: dict[str, Value] = {
    "layers": Value("layers=2", _count),
    "rate": Value("rate=0.1", _positive),
    "activation": Value("activation=relu", lambda w, v: _name(w, v, activations.TABLE)),
    "init": Value("init=orthogonal", lambda w, v: _name(w, v, LAWS)),
    "gain": Value("gain=1.2", _positive),
    "forget_bias": Value("forget_bias=1", _number),
    "chrono": Value("chrono=50", lambda w, v: _number(w, v, 2)),
    "norm": Value("norm=batch:before", _norm),
    "clip": Value("clip=norm:1", _clip),
    "weight_decay": Value("weight_decay=1e-4", _positive),
    "optimizer": Value("optimizer=adam", lambda w, v: _name(w, v, ("sgd", "adam"))),
    "lr": Value("lr=0.01", _positive),
    "batch": Value("batch=64", _count),
    "omega": Value("omega=norm:0.01", _omega),
    "flossing": Value("flossing=16", _flossing),
}

FLAGS: dict[str, tuple[str, Any]] = {
    **{cell: ("cell", cell) for cell in recurrent.FAMILIES},
    **{word: (word, True) for word in ("residual", "skipinit", "whiten", "standardize", "reweight")},
    **{word: ("search", algorithm) for word, algorithm in SEARCHES.items()},
}


def vocabulary() -> list[str]:
    """Every word that a remedy can be made of, with an example of its value."""
    return ["none", *FLAGS, *(value.form for value in VALUES.values())]
