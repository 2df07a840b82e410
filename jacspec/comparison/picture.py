"""The comparison as a figure: one line a remedy, four numbers with their spread over seeds."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jacspec import plotting
from jacspec.comparison.table import wilson

if TYPE_CHECKING:
    from jacspec.comparison.table import Comparison

BEFORE, AFTER = plotting.COLORS[1], plotting.COLORS[2]  # training
POINT = {"linestyle": "none", "markersize": 3.5}


def plot(comparison: "Comparison") -> Any:
    """Success, loss, leading exponent and gradient slope of every row.

    Args:
        comparison: what `compare` returned.

    Returns:
        A matplotlib figure, for `jacspec.plotting.save_figure` or ``savefig``. Small points are seeds, large ones
        medians; bars of the success rate are 95 % confidence intervals; blue is before and orange after training.
    """
    rows = comparison.rows
    with plotting.style():
        height = 1.1 + 0.2 * len(rows)  # inches
        fig, axes = plotting.figure("double", height / (6.75 / 4), 1, 4, sharey=True)
        y = np.arange(len(rows))
        _success(axes[0], comparison, y)
        _loss(axes[1], comparison, y)
        exponents = [(row.exponents_before[:, 0], row.exponents_after[:, 0]) for row in rows]
        slopes = [(row.slope_before, row.slope_after) for row in rows]
        _change(axes[2], exponents, y, "leading exponent\n(nats/step)")
        _change(axes[3], slopes, y, r"$d\,\ln\|dE/dh_t\|\,/\,dt$" + "\n(nats/step)")
        keys = [axes[2].plot([], [], "o", color=color, **POINT)[0] for color in (BEFORE, AFTER)]
        axes[2].legend(keys, ["before", "after"], loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
        axes[0].set_yticks(y, [row.remedy for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        for ax in axes:
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", color="0.92", linewidth=0.5)
            ax.set_axisbelow(True)
        shared = comparison.settings
        fig.suptitle(
            f"{comparison.task}: {shared['updates']} updates of "
            f"{shared['batch']} sequences, {shared['seeds']} seeds, width {shared['width']}", fontsize=8,
        )  # fmt: skip
    return fig


def _success(ax: Any, comparison: "Comparison", y: np.ndarray) -> None:
    seeds = comparison.settings["seeds"]
    counts = [int((row.solved_at >= 0).sum()) for row in comparison.rows]
    ends = np.array([wilson(count, seeds) for count in counts])
    ax.hlines(y, ends[:, 0], ends[:, 1], color="0.6", linewidth=1.2)
    ax.plot(np.array(counts) / seeds, y, "o", color=plotting.COLORS[0], **POINT)
    ax.set(xlim=(-0.05, 1.05), xlabel="solved\n(95 % interval)")


def _loss(ax: Any, comparison: "Comparison", y: np.ndarray) -> None:
    """Final loss over the baseline, on a log scale where it takes one; runs without a finite loss stand at the right edge."""
    values = np.stack([row.loss for row in comparison.rows]) / comparison.baseline
    finite = np.isfinite(values) & (values > 0)
    drawn = np.where(finite, values, np.nan)
    ax.axvline(1, color="0.6", linewidth=0.8, linestyle=":")
    _points(ax, drawn, y, plotting.COLORS[0])
    if finite.any() and np.nanmax(drawn) > 10 * np.nanmin(drawn):
        ax.set_xscale("log")
        ax.minorticks_off()
    lost = ~np.isfinite(values)
    heights = np.broadcast_to(y[:, None], values.shape)[lost]
    edge = ax.get_yaxis_transform()  # x in fractions of the axes, y in data
    ax.plot(np.full(heights.shape, 0.98), heights, ">", color=plotting.COLORS[0], transform=edge, **POINT)
    ax.set_xlabel("final loss\nover the baseline")


def _change(ax: Any, pairs: list[tuple[np.ndarray, np.ndarray]], y: np.ndarray, label: str) -> None:
    """From before to after training; what is not finite stands at the edge, what is not resolved (NaN) as a cross."""
    before, after = (np.stack(values) for values in zip(*pairs, strict=True))
    ax.axvline(0, color="0.6", linewidth=0.8, linestyle=":")
    for values, shift, color in ((before, -0.14, BEFORE), (after, 0.14, AFTER)):
        _points(ax, np.where(np.isfinite(values), values, np.nan), y + shift, color)
        edge = ax.get_yaxis_transform()
        for where, marker, x in (
            (np.isposinf(values), ">", 0.98), (np.isneginf(values), "<", 0.02), (np.isnan(values), "x", 0.06),
        ):  # fmt: skip
            heights = np.broadcast_to((y + shift)[:, None], values.shape)[where]
            ax.plot(np.full(heights.shape, x), heights, marker, color=color, transform=edge, **POINT)
    ax.set_xlabel(label)


def _points(ax: Any, values: np.ndarray, y: np.ndarray, color: str) -> None:
    """Seeds as small points, their median as a large one."""
    heights = np.broadcast_to(y[:, None], values.shape)
    ax.plot(values.ravel(), heights.ravel(), ".", color=color, alpha=0.45, markersize=2.5, markeredgewidth=0)
    middle = [np.median(v[np.isfinite(v)]) if np.isfinite(v).any() else np.nan for v in values]
    ax.plot(middle, y, "o", color=color, **POINT)
