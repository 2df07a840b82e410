"""The page of a network seen from all sides, before and after training: a column is a network, a row is a side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jacspec import plotting

LOOKS = {
    "before training": {"color": plotting.COLORS[1], "marker": "o", "markerfacecolor": "white"},
    "after training": {"color": plotting.COLORS[2], "marker": "s", "markerfacecolor": plotting.COLORS[2]},
}
THEORY = {"color": "black", "marker": "none", "linewidth": 0.9, "zorder": 4}
GUIDE = {"color": "0.6", "linestyle": ":", "linewidth": 0.8, "marker": "none", "zorder": 0}


class Column(NamedTuple):
    """What is shown of one network; arrays have a leading axis (before, after) unless said otherwise.

    Attributes:
        title: its name.
        spectra: (2, samples, n), log singular values of the product, nats.
        law: (m,), theory of the m largest before training, no leading axis.
        norms: (2, samples, T + 1), log norms of the gradient at t = 0 .. T.
        isotropic: (2, samples, lags), what the spectrum predicts for a gradient in no special direction.
        slope: of ln gradient by lag in theory, nats per step, a number.
        gains: (2, samples, parts), mean log gains of the parts of a backward step; -inf for parts it does not have.
    """

    title: str
    spectra: np.ndarray
    law: np.ndarray
    norms: np.ndarray
    isotropic: np.ndarray
    slope: float
    gains: np.ndarray


def page(
    columns: Sequence[Column], lags: Sequence[int], parts: Sequence[str], labels: dict[str, str], lag: int | None = None
) -> Any:
    """Nine panels: spectra, gradients by lag and the parts of a backward step.

    Args:
        columns: the networks.
        lags: where `isotropic` is known.
        parts: names of the last axis of `gains`.
        labels: of the axes: "spectrum", "lag", "gradient", "gain", and "absent" for a part that a network lacks.
        lag: that the task asks for, to be marked.
    """
    fig, axes = plotting.figure("double", 0.86, 3, len(columns))
    for row in axes[1:]:
        for ax in row[1:]:
            ax.sharey(row[0])
    for (top, middle, bottom), column in zip(axes.T, columns, strict=True):
        top.set_title(column.title)
        _spectrum(top, column)
        _gradient(middle, column, np.array(lags))
        _parts(bottom, column, parts, labels["absent"])
        middle.set_xlabel(labels["lag"])
        if lag is not None:
            middle.axvline(lag, **GUIDE)
    for row, name in zip(axes, ("spectrum", "gradient", "gain"), strict=True):
        for ax in row:
            ax.set_ylabel(labels[name] if ax is row[0] else " ")
    for letter, ax in zip("abcdefghijkl", axes.flat, strict=False):
        plotting.panel_label(ax, letter)
    _legend(fig, axes[2, 0], lag)
    return fig


def by_lag(norms: np.ndarray) -> np.ndarray:
    """ln of the gradient relative to its start at t = T, by lag: (samples, T + 1)."""
    return (norms - norms[:, -1:])[:, ::-1]


def _spectrum(ax: Any, column: Column) -> None:
    n, m = column.spectra.shape[-1], column.law.size
    for look, spectra in zip(LOOKS.values(), column.spectra, strict=True):
        every = slice(None, None, max(1, n // 24))
        middle = np.median(spectra, axis=0)[every]
        seen = np.isfinite(middle)  # what is below rounding is not drawn: the captions say so
        ax.plot(((np.arange(n) + 0.5) / n)[every][seen], middle[seen], linestyle="none", markersize=3, mew=0.7, **look)
    ax.plot((np.arange(m) + 0.5) / n, column.law, linestyle="-", **THEORY)
    ax.set_xlabel("share of larger ones, $i/n$" if m == n else "share of larger ones, $i/2n$")


def _gradient(ax: Any, column: Column, lags: np.ndarray) -> None:
    for look, norms, isotropic in zip(LOOKS.values(), column.norms, column.isotropic, strict=True):
        low, middle, high = np.quantile(by_lag(norms), (0.25, 0.5, 0.75), axis=0)
        ax.fill_between(np.arange(middle.size), low, high, color=look["color"], alpha=0.15, lw=0)
        ax.plot(lags, middle[lags], linestyle="none", markersize=3, mew=0.7, **look)
        ax.plot(lags, np.median(isotropic, axis=0), color=look["color"], linestyle="-", marker="none", linewidth=0.8)
    ax.plot(lags, lags * column.slope, linestyle="--", **THEORY)


def _parts(ax: Any, column: Column, parts: Sequence[str], absent: str) -> None:
    has = np.isfinite(column.gains).all(axis=(0, 1))
    for shift, look, gains in zip((-0.12, 0.12), LOOKS.values(), column.gains, strict=True):
        low, middle, high = np.quantile(gains[:, has], (0.25, 0.5, 0.75), axis=0)
        spread = (middle - low, high - middle)
        at = np.flatnonzero(has) + shift
        ax.errorbar(at, middle, spread, linestyle="none", markersize=4, elinewidth=0.8, mew=0.7, **look)
    for missing in np.flatnonzero(~has):
        ax.text(missing, 0.08, absent, ha="center", va="bottom", color="0.4", fontsize=7, rotation=90)
    ax.axhline(0, **GUIDE)
    ax.set_xticks(range(len(parts)), parts)
    ax.set(xlim=(-0.5, len(parts) - 0.5), xlabel="part of the step")


def _legend(fig: Any, ax: Any, lag: int | None) -> None:
    handles = [ax.plot([], [], linestyle="none", label=name, **look)[0] for name, look in LOOKS.items()]
    lines = [("0.4", "-", "prediction of the spectrum"), ("black", "-", "theory, before: spectrum"),
             ("black", "--", "theory, before: gradient")]  # fmt: skip
    lines += [] if lag is None else [("0.6", ":", "lag asked for")]
    handles += [ax.plot([], [], color=c, linestyle=l, marker="none", label=text)[0] for c, l, text in lines]
    fig.legend(handles=handles, loc="outside upper center", ncols=3)
