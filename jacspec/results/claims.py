"""Claims: the published or derived numbers that the figures reproduce, and the table of them."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jacspec._ground import files
from jacspec._ground.files import broken
from jacspec._ground.jsonable import jsonable
from jacspec._ground.messages import message

_message = functools.partial(message, "results.Claim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A published or derived number that a figure reproduces, and whether it does.

    `kind` says what is claimed: ``"equal"``: |measured - expected| <= tolerance; ``"at_most"``: measured <= expected +
    tolerance; ``"at_least"``: measured >= expected - tolerance. NaN holds nowhere; equal infinities are equal.

    Example:
        >>> Claim(figure="decay", claim="rate", source="theory", expected=0.5, tolerance=0.01, measured=0.502).holds
        True
    """

    figure: str
    claim: str
    source: str
    expected: float
    tolerance: float
    measured: float
    kind: Literal["equal", "at_most", "at_least"] = "equal"
    holds: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for name in ("figure", "claim", "source"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(_message(name, "is no text", repr(value), "words"))
        for name in ("expected", "tolerance", "measured"):
            object.__setattr__(self, name, _as_float(name, getattr(self, name)))
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(_message("tolerance", "is no tolerance", repr(self.tolerance), "a finite number >= 0"))
        if math.isnan(self.expected):
            raise ValueError(_message("expected", "says nothing", repr(self.expected), "a number"))
        if not isinstance(self.kind, str) or self.kind not in ("equal", "at_most", "at_least"):
            raise ValueError(_message("kind", "is unknown", repr(self.kind), "'equal', 'at_most' or 'at_least'"))
        m, e, tolerance = self.measured, self.expected, self.tolerance
        holds = {
            "equal": m == e or abs(m - e) <= tolerance,
            "at_most": m <= e + tolerance,
            "at_least": m >= e - tolerance,
        }
        object.__setattr__(self, "holds", holds[self.kind])


def _as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(_message(name, "is no number", repr(value), "a real number")) from error


def claims_of(figure: str, rows: Iterable[Sequence[Any]]) -> list[Claim]:
    """The claims of a figure from rows (claim, source, expected, tolerance, measured) and perhaps the kind."""
    names = ("claim", "source", "expected", "tolerance", "measured", "kind")
    rows = _as_list("claims_of", "rows", rows)
    for row in rows:
        if not isinstance(row, Sequence) or isinstance(row, str) or not len(names) - 1 <= len(row) <= len(names):
            raise ValueError(
                message("results.claims_of", "rows", "has a row that is no claim", repr(row), ", ".join(names))
            )
    return [Claim(figure=figure, **dict(zip(names, row, strict=False))) for row in rows]


def write_claims(
    claims: Sequence[Claim], folder: str | os.PathLike, *, replace: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Write `claims.json` and `claims.md` in `folder`; the claims of other figures in them are kept.

    Args:
        claims: The claims of the figures just drawn.
        folder: Where the two files lie.
        replace: Further figures whose old claims are dropped although they bring no new ones (say, because they failed).

    Returns:
        Every claim in the files, as dictionaries, ordered by figure.

    Raises:
        ResultError: The `claims.json` that is there is not one.
        TypeError: What is no `Claim`, or no folder.
    """
    claims, replace = _as_list("write_claims", "claims", claims), _as_list("write_claims", "replace", replace)
    for claim in claims:
        if not isinstance(claim, Claim):
            raise TypeError(message("results.write_claims", "claims", "holds what is no Claim", repr(claim), "Claims"))
    path = files.place("results.write_claims", "folder", folder) / "claims.json"
    gone = [c.figure for c in claims] + replace
    rows = [row for row in _old_claims(path) if row["figure"] not in gone]
    rows += [jsonable(dataclasses.asdict(claim)) for claim in claims]
    rows.sort(key=lambda row: row["figure"])  # stable: within a figure, the order in which it claims
    text = json.dumps(rows, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    files.write((path, text.encode()), (path.with_suffix(".md"), claims_table(rows).encode()))
    return rows


def claims_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The claims as a Markdown table under a line that counts those that hold."""
    rows = _as_list("claims_table", "rows", rows)
    if not all(isinstance(row, Mapping) and row.keys() == _field_names() and _is_claim(row) for row in rows):
        raise ValueError(
            message("results.claims_table", "rows", "has a row that is no claim", repr(rows), "claims as dicts")
        )
    sign = {"equal": "", "at_most": "≤ ", "at_least": "≥ "}
    table = [["figure", "claim", "source", "expected", "tolerance", "measured", "holds"]]
    for r in rows:
        words = [str(r[k]).replace("|", "\\|").replace("\n", " ") for k in ("figure", "claim", "source")]
        numbers = [sign[r["kind"]] + _text(r["expected"]), _text(r["tolerance"]), _text(r["measured"])]
        table.append([*words, *numbers, "yes" if r["holds"] else "**no**"])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"{sum(bool(r['holds']) for r in rows)} of {len(rows)} claims hold.", "", *lines]) + "\n"


def _old_claims(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise broken(path, f"not JSON ({error})") from error
    names = _field_names()
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and row.keys() == names and _is_claim(row) for row in rows
    ):
        raise broken(path, f"not a list of claims with the fields {sorted(names)}. Delete it and draw all figures")
    return rows


def _field_names() -> set[str]:
    return {field.name for field in dataclasses.fields(Claim)}


def _as_list(function: str, argument: str, values: Any) -> list[Any]:
    try:
        return list(values)
    except TypeError as error:
        got = type(values).__name__
        raise TypeError(message(f"results.{function}", argument, "is no list", repr(got), "a list")) from error


def _is_claim(row: Mapping[str, Any]) -> bool:
    """Whether the fields of a row are what `write_claims` writes."""
    words = all(isinstance(row[name], str) for name in ("figure", "claim", "source"))
    numbers = (row[name] for name in ("expected", "tolerance", "measured"))
    fine = all(type(v) in (int, float) or v in ("nan", "inf", "-inf") for v in numbers)
    return words and fine and row["kind"] in ("equal", "at_most", "at_least") and isinstance(row["holds"], bool)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
