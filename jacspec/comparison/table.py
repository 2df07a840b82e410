"""A comparison over its seeds: as numbers, as a table on the terminal, and as CSV and JSON."""

import csv
import dataclasses
import io
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jacspec._ground import checks, files
from jacspec._ground.jsonable import jsonable
from jacspec.comparison.rows import Row

if TYPE_CHECKING:
    from rich.table import Table


Z = 1.959963984540054
"""97.5 % quantile of the normal law: two-sided 95 %."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a success probability.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),    p = successes / n

    Args:
        successes: 0..trials.
        trials: n >= 1.

    Returns:
        The lower and the upper end, within [0, 1].

    Raises:
        TypeError: for what is no integer.
        ValueError: unless 0 <= successes <= trials and trials >= 1.

    Reference: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.

    Example:
        >>> from jacspec.comparison import wilson
        >>> [round(end, 4) for end in wilson(5, 5)]
        [0.5655, 1.0]
    """
    name = "comparison.wilson"
    trials = checks.integer(name, "trials", trials, 1, 2**53, "They hold the successes.")
    successes = checks.integer(name, "successes", successes, 0, trials)
    p, spread = successes / trials, Z * Z / trials
    middle = p + spread / 2
    half = math.sqrt(spread * (p * (1 - p) + spread / 4))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


@dataclasses.dataclass(frozen=True)
class Summary:
    """A row in one line: medians are over seeds, and NaN where there is nothing to take one of.

    Attributes:
        remedy: as it was written.
        law: of the initial weights.
        parameters: number of them.
        seeds: number of runs.
        solved: runs that solved the task.
        success_rate: solved / seeds.
        success_low: lower end of its 95 % confidence interval (Wilson).
        success_high: upper end.
        loss: median final loss on held-out sequences.
        loss_over_baseline: the same over the loss of the trivial predictor.
        wrong: median fraction of held-out sequences that are wrong.
        updates_to_success: median over the runs that solved the task.
        seconds: of the row, all seeds together.
        exponent_before: median leading exponent at the start, nats per step.
        exponent_after: the same at the end.
        slope_before: median of d log||dE/dh_t|| / dt at the start, nats per step; > 0: the gradient vanishes backward.
        slope_after: the same at the end.
        clip_rate: median share of updates that were clipped; NaN without clipping.
        unresolved: runs with an exponent or a slope that is not resolved; their medians are over the others.
        failures: how many runs exploded, with the first cause of each kind.
    """

    remedy: str
    law: str
    parameters: int
    seeds: int
    solved: int
    success_rate: float
    success_low: float
    success_high: float
    loss: float
    loss_over_baseline: float
    wrong: float
    updates_to_success: float
    seconds: float
    exponent_before: float
    exponent_after: float
    slope_before: float
    slope_after: float
    clip_rate: float
    unresolved: int
    failures: str


def summarize(row: "Row", baseline: float) -> Summary:
    """The line of a row; `baseline` is the loss of the trivial predictor."""
    solved = row.solved_at >= 0
    low, high = wilson(int(solved.sum()), len(solved))
    loss = median(row.loss, lost=math.inf)
    kinds = [kind for kind in row.failures.tolist() if kind]
    ends = row.exponents_before[:, 0], row.exponents_after[:, 0], row.slope_before, row.slope_after
    first = {kind: cause for kind, cause in zip(row.failures[::-1].tolist(), row.causes[::-1].tolist(), strict=True)}
    return Summary(
        remedy=row.remedy, law=row.law, parameters=row.parameters, seeds=len(solved), solved=int(solved.sum()),
        success_rate=float(solved.mean()), success_low=low, success_high=high,
        loss=loss, loss_over_baseline=loss / baseline, wrong=median(row.wrong, lost=1.0),
        updates_to_success=median(row.solved_at[solved]), seconds=row.seconds,
        exponent_before=median(row.exponents_before[:, 0]), exponent_after=median(row.exponents_after[:, 0]),
        slope_before=median(row.slope_before), slope_after=median(row.slope_after), clip_rate=median(row.clip_rate),
        unresolved=int(np.isnan(ends).any(axis=0).sum()),
        failures=" | ".join(f"{kinds.count(kind)} exploded, first: {first[kind]}" for kind in dict.fromkeys(kinds)),
    )  # fmt: skip


def median(values: Any, lost: float | None = None) -> float:
    """The median of what is not NaN; with `lost`, NaN counts as that value."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)] if lost is None else np.where(np.isnan(values), lost, values)
    return float(np.median(values)) if values.size else math.nan


# On the terminal

COLUMNS = (
    "remedy",
    "initial law",
    "solved (95 %)",
    "loss/base",
    "wrong",
    "updates",
    "exponent",
    "slope",
    "clipped",
    "s",
)


def line_texts(s: Summary) -> list[str]:
    """The texts of one line of the table; * stands beside medians that leave out runs whose value is not resolved."""
    mark = "*" * bool(s.unresolved)
    return [
        s.remedy, s.law, f"{s.solved}/{s.seeds} ({s.success_low:.2f}-{s.success_high:.2f})",
        _text(s.loss_over_baseline, ".3f"), _text(s.wrong, ".3f"), _text(s.updates_to_success, ".0f"),
        f"{_text(s.exponent_before, '+.2f')} > {_text(s.exponent_after, '+.2f')}{mark}",
        f"{_text(s.slope_before, '+.2f')} > {_text(s.slope_after, '+.2f')}{mark}",
        _text(s.clip_rate, ".2f"), f"{s.seconds:.0f}",
    ]  # fmt: skip


def _text(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


@dataclasses.dataclass(frozen=True)
class Terminal:
    """A comparison for the console of rich: one line a remedy, or two where the console is too narrow for one."""

    comparison: "Comparison"

    def __rich_console__(self, console: Any, options: Any) -> Any:
        wide = _rich_table(self.comparison, wide=True)
        fits = console.measure(wide, options=options.update(max_width=10**6)).minimum <= options.max_width
        yield wide if fits else _rich_table(self.comparison, wide=False)


def _rich_table(comparison: "Comparison", *, wide: bool) -> "Table":
    """The comparison as a table of rich; failures follow in the caption."""
    from rich.table import Table
    from rich.text import Text  # plain text: in a str, ":-1:" would be an emoji

    lines = comparison.summaries()
    shared = comparison.settings
    title = f"{comparison.task}: {shared['updates']} updates of {shared['batch']} sequences, {shared['seeds']} seeds"
    caption = [
        f"loss/base: median held-out loss over {comparison.baseline:.4g}, what the trivial predictor reaches.",
        "exponent, slope of ln|dE/dh_t|: nats per step, before > after training; a slope > 0 vanishes on its way back.",
        *["*: of the runs in which it is resolved."] * any(line.unresolved for line in lines),
        *(f"{line.remedy}: {line.failures}" for line in lines if line.failures),
    ]
    form: dict[str, Any] = {} if wide else {"box": None, "padding": (0, 1, 0, 0), "pad_edge": False}
    table = Table(title=Text(title), caption=Text("\n".join(caption)), caption_justify="left", **form)
    for name in COLUMNS:
        words = name in COLUMNS[:2]
        table.add_column(
            name if wide else name.replace(" ", "\n").replace("/", "/\n"), overflow="fold",
            justify="left" if words else "right", no_wrap=name != "initial law" if wide else not words,
        )  # fmt: skip
    for line in lines:
        texts = line_texts(line)
        if not wide:
            texts[2:] = [text.replace(" (", "\n").replace(" > ", "\n").rstrip(")") for text in texts[2:]]
        table.add_row(*map(Text, texts))
    return table


# In files


def write_csv(comparison: "Comparison", path: str | os.PathLike) -> Path:
    """One line a remedy, the columns of `Summary`; whole or not at all."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in dataclasses.fields(Summary)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(line) for line in comparison.summaries())
    return _write("comparison.write_csv", path, stream.getvalue())


def write_json(comparison: "Comparison", path: str | os.PathLike) -> Path:
    """Settings, summaries and every run; what is not finite is the text "nan", "inf" or "-inf"."""
    value = {
        "settings": comparison.settings,
        "task": comparison.task,
        "baseline": comparison.baseline,
        "chance": comparison.chance,
        "summaries": [dataclasses.asdict(line) for line in comparison.summaries()],
        "runs": [row.plain() for row in comparison.rows],
    }
    return _write("comparison.write_json", path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def _write(function: str, path: str | os.PathLike, text: str) -> Path:
    target = files.place(function, "path", path, "file")
    files.write((target, text.encode()))
    return target


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The rows of a comparison.

    Attributes:
        task: its name.
        baseline: loss of the trivial predictor.
        chance: fraction of sequences that it gets wrong.
        settings: width, depth, updates, batch, learning_rate, optimizer, seeds and first_seed, which all rows share.
        rows: in the order of the remedies.
    """

    task: str
    baseline: float
    chance: float
    settings: dict[str, Any]
    rows: tuple[Row, ...]

    def summaries(self) -> list[Summary]:
        """One line a remedy."""
        return [summarize(row, self.baseline) for row in self.rows]

    def table(self) -> Any:
        """The summaries, as an object that `rich.print` draws."""
        return Terminal(self)

    def write_csv(self, path: str | os.PathLike) -> Path:
        """Write `summaries` as CSV; the path. OSError where it cannot be written."""
        return write_csv(self, path)

    def write_json(self, path: str | os.PathLike) -> Path:
        """Write settings, summaries and all runs as JSON; the path. OSError where it cannot be written."""
        return write_json(self, path)
