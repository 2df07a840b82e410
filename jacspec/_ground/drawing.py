"""Values as marks with error bars; gray and hollow where they are not resolved."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


UNRESOLVED = {"color": "0.6", "marker": "o", "markersize": 2, "markerfacecolor": "none", "linestyle": "none"}
"""The look of an upper bound."""


FLOOR = 0.02
"""Height, as a fraction of the axes, at which a value off the scale is marked."""


def plot_values(
    ax: "Axes | None", values: Any, error: Any, resolved: Any, unit: str, names: Iterable[str] = ()
) -> "Axes":
    """Draw values over their number 1 ... n, one color for each row.

    Args:
        ax: where to draw; None for a new figure.
        values: (n,) or (rows, n), descending; -inf is a triangle, NaN a cross at the floor of the axes.
        error: of their shape; drawn where it is finite.
        resolved: of their shape; where it is False a mark is gray and hollow.
        unit: label of the values.
        names: of the rows, for a legend.

    Returns:
        The axes.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(layout="constrained").subplots()
    values, error, resolved = (np.atleast_2d(np.asarray(a)) for a in (values, error, resolved))
    labels = dict(enumerate(names))
    for i, row in enumerate(zip(values.astype(float), error.astype(float), resolved, strict=True)):
        marks(ax, np.arange(1, values.shape[-1] + 1), *row, f"C{i}", labels.get(i))
    ax.set(xlabel="$i$", ylabel=unit)
    if labels:
        ax.legend()
    return ax


def marks(
    ax: "Axes", at: np.ndarray, values: np.ndarray, error: Any, resolved: np.ndarray, color: str, label: str | None
) -> None:
    """Dots with error bars, gray and hollow where a value is not resolved, and at the floor what is off the scale."""
    error, resolved = (np.broadcast_to(a, values.shape) for a in (error, resolved))
    finite = np.isfinite(values)
    sure, doubtful = finite & resolved, finite & ~resolved
    barred = sure & np.isfinite(error)
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 2}
    if barred.any():
        bars = {"linestyle": "none", "marker": "none", "linewidth": 0.7}
        ax.errorbar(at[barred], values[barred], error[barred], color=color, **bars)
    ax.plot(at[sure], values[sure], color=color, label=label, **look)
    if doubtful.any():
        ax.plot(at[doubtful], values[doubtful], label="_not resolved", **UNRESOLVED)
    look |= {"markersize": 3, "markerfacecolor": "none", "clip_on": False, "transform": ax.get_xaxis_transform()}
    for off, marker in ((values == -np.inf, "v"), (np.isnan(values), "x")):
        if off.any():
            look["marker"] = marker
            ax.plot(at[off], np.full(off.sum(), FLOOR), color=color, **look)
