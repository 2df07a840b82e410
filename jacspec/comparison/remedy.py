"""A remedy: what is changed about a network or its training, as a value that is read from text and composes.

    clip=norm:1                      one change
    lstm,forget_bias=1,clip=norm:1   several; two that contradict each other are refused by name
    none                             no change

Everything a remedy does not name stays as the comparison has it, the same for every row.
"""

import dataclasses
import functools
import sys
from typing import Any

import optax

from jacspec import results
from jacspec._ground import checks
from jacspec.comparison import _words
from jacspec.comparison._words import refused
from jacspec.comparison._words import vocabulary as vocabulary
from jacspec.models import Deep, Recurrent
from jacspec.models.recurrent import FAMILIES


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Options of a network and of its training; None, False or () is what every row has in common.

    Attributes:
        text: as it was written.
        cell: recurrent cell.
        layers: number of stacked cells.
        rate: of the leaky cell, in (0, 1].
        activation: name in the table.
        init: law of the weights.
        gain: factor of that law.
        forget_bias: of the gate that keeps the state.
        chrono: T_max of chrono initialization, steps.
        residual: residual layers.
        skipinit: residual layers whose branches start at 0.
        norm: normalization, and its position "before" or "after" the activation.
        whiten: inputs are decorrelated, with unit variance.
        standardize: every input feature gets mean 0 and variance 1.
        reweight: training sequences are weighted as the held-out ones would be.
        clip: names of clipping transformations with their numbers, in the order in which they act.
        weight_decay: decoupled from the gradient and not clipped, per unit of learning rate.
        optimizer: "sgd" or "adam".
        lr: learning rate.
        batch: sequences an update.
        omega: form and weight of Pascanu's regularizer.
        flossing: "before", "during" or "both", and the number k of exponents.
        search: gradient-free algorithm.

    Example:
        >>> from jacspec.comparison import Remedy
        >>> remedy = Remedy.parse("lstm,forget_bias=1") + Remedy.parse("clip=norm:1")
        >>> remedy.cell, remedy.forget_bias, remedy.clip, str(remedy)
        ('lstm', 1.0, (('norm', (1.0,)),), 'lstm,forget_bias=1,clip=norm:1')
    """

    text: str = dataclasses.field(default="none", compare=False)
    cell: str | None = None
    layers: int | None = None
    rate: float | None = None
    activation: str | None = None
    init: str | None = None
    gain: float | None = None
    forget_bias: float | None = None
    chrono: float | None = None
    residual: bool = False
    skipinit: bool = False
    norm: tuple[str, str] | None = None
    whiten: bool = False
    standardize: bool = False
    reweight: bool = False
    clip: tuple[tuple[str, tuple[float, ...]], ...] = ()
    weight_decay: float | None = None
    optimizer: str | None = None
    lr: float | None = None
    batch: int | None = None
    omega: tuple[str, float] | None = None
    flossing: tuple[str, int] | None = None
    search: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Remedy":
        """The remedy that a text such as ``"lstm,forget_bias=1"`` names.

        Args:
            text: words of `vocabulary`, separated by commas.

        Returns:
            A `Remedy`.

        Raises:
            TypeError: if it is no text.
            ValueError: for an unknown word (the nearest is given), a number out of range, or words that contradict
                each other.
        """
        checks.instance(_words.NAME, "text", text, str, "Write for example 'clip=norm:1'.")
        words = [word.strip() for word in text.split(",")]
        found: dict[str, Any] = {}
        for word in words if words != ["none"] else ():
            field, value = _words.read(word)
            if field == "clip":
                value = (*found.get("clip", ()), value)
            elif field in found:
                got = " and ".join(w for w in words if _words.read(w)[0] == field)
                raise refused(text, f"sets '{field}' twice", got)
            found[field] = value
        remedy = cls(text=",".join(words), **found)
        _consistent(remedy)
        return remedy

    def __add__(self, other: "Remedy") -> "Remedy":
        """Both; clipping transformations act in this order."""
        for r in (self, other):
            if type(r) is not Remedy:
                hint = "Give the words to its own clipping() or model()."
                raise TypeError(
                    checks.message("compare", "remedy", "has code of its own and no words", r.text, "words", hint)
                )
        texts = [r.text for r in (self, other) if r.text != "none"]
        return Remedy.parse(",".join(texts) or "none")

    def __str__(self) -> str:
        return self.text

    def given(self) -> dict[str, Any]:
        """The fields that it changes, as JSON values."""
        left_open = lambda value: value is None or value is False or value == ()  # 0 is a value, though 0 == False
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if name != "text" and not left_open(value)}

    def model(self, deep: bool, **arguments: Any) -> Any:
        """The model at its start, from the arguments of `jacspec.models.Deep` or `Recurrent`; a subclass may make its own."""
        return (Deep if deep else Recurrent)(**arguments)

    def own_code(self) -> str:
        """The classes below `Remedy` that a remedy is made of, and the hashes of their files when they were first seen; else ''.

        They are a part of what a stored row is known by. What those files import is not.

        Raises:
            ValueError: for a class that is not written in a file, or inside a function, whose variables no hash sees.
        """
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, Remedy) and kind is not Remedy]
        return "".join(f" {kind.__qualname__} {_hash_of_file(kind)}" for kind in kinds)

    def clipping(self) -> list[optax.GradientTransformation]:
        """The clipping transformations, in order."""
        return [_words.CLIPS[name][0](*numbers) for name, numbers in self.clip]


@functools.cache
def _hash_of_file(kind: type) -> str:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or "<locals>" in kind.__qualname__:
        got, want = f"{kind.__qualname__} of {kind.__module__}", "a class at the top of a file"
        hint = "Rows are stored under the hash of their code; write the class into a file, or give no store."
        raise ValueError(checks.message("compare", "remedies", "has code of its own", got, want, hint))
    return results.code_hash(file)


# What cannot go together

RECURRENT_ONLY = ("cell", "layers", "rate", "forget_bias", "chrono", "omega", "flossing")
DEPTH_ONLY = ("residual", "skipinit", "norm")
GRADIENT_ONLY = ("clip", "weight_decay", "optimizer", "lr", "omega", "flossing")


def _consistent(r: Remedy) -> None:
    """Raise for words that contradict each other, whatever the task."""
    given = r.given()
    first = lambda names: next((name for name in names if name in given), None)
    over_time, over_depth, gradients = first(RECURRENT_ONLY), first(DEPTH_ONLY), first(GRADIENT_ONLY)
    if over_time and over_depth:
        raise refused(
            r.text, "contradicts itself", f"'{over_time}' is for recurrent networks, '{over_depth}' for deep ones"
        )
    if r.search and gradients:
        raise refused(r.text, "contradicts itself", f"'{gradients}' acts on gradients, and '{r.search}' has none")
    if r.whiten and r.standardize:
        raise refused(r.text, "contradicts itself", "'whiten' and 'standardize'", "one of them")
    cell = r.cell or "elman"
    family = FAMILIES[cell]
    for name in ("forget_bias", "chrono"):
        if name in given and family.keeps is None:
            gated = ", ".join(c for c, f in FAMILIES.items() if f.keeps is not None)
            raise refused(
                r.text, "contradicts itself", f"'{name}' sets a gate, and '{cell}' has none", f"one of {gated}"
            )
    if r.chrono is not None and r.forget_bias is not None:
        raise refused(r.text, "contradicts itself", "'chrono' and 'forget_bias' set the same bias", "one of them")
    if r.rate is not None and (cell != "leaky_elman" or r.rate > 1):
        raise refused(
            r.text,
            "sets no rate that the cell has",
            f"rate={r.rate:g} with '{cell}'",
            "leaky_elman and a rate in (0, 1]",
        )
    if cell == "lru" and (r.init or r.gain is not None):
        raise refused(r.text, "contradicts itself", "'lru' has a law of its own", "no 'init' and no 'gain'")
    law = r.init or ""
    if law.startswith("critical") and over_time and not _has_critical_point(law, cell, r):
        want = "elman, lstm without chrono, or gru without chrono (critical_orthogonal: elman)"
        raise refused(r.text, "contradicts itself", f"'{law}' is not known for '{cell}' here", want)


def _has_critical_point(law: str, cell: str, r: Remedy) -> bool:
    """Whether theory knows the edge of chaos of the cell, and of this law."""
    known = FAMILIES[cell].critical is not None and r.chrono is None
    return known and (law == "critical" or cell == "elman")


def _written(remedy: Remedy, name: str) -> str:
    """The word that sets a field, as it was written, and the field where the word does not name it."""
    words = [word for word in remedy.text.split(",") if word != "none" and _words.read(word)[0] == name]
    word = words[0] if words else name
    return f"'{word}'" if word.partition("=")[0] == name else f"'{word}', which sets '{name}'"


def fits(remedy: Remedy, *, deep: bool, batch: int) -> None:
    """Raise ValueError if a remedy changes what this kind of network does not have.

    Args:
        remedy: the remedy.
        deep: whether the network is one over depth; else it is recurrent.
        batch: sequences an update, where the remedy does not set it.
    """
    given, kind = remedy.given(), "deep" if deep else "recurrent"
    for name in RECURRENT_ONLY if deep else DEPTH_ONLY:
        if name in given:
            hint = "" if deep else "Give a depth for a deep network of the whole sequence."
            raise refused(remedy.text, f"is not for a {kind} network", _written(remedy, name), hint=hint)
    if remedy.norm and remedy.norm[0] == "batch" and (remedy.batch or batch) < 2:
        raise refused(remedy.text, "needs a batch of two", f"batch={remedy.batch or batch}", "batch >= 2")
