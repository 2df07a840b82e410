"""The one style of every figure: column widths, colors that survive color blindness and gray print, exact files.

Nothing here touches global state: figures are made without pyplot, and `style` restores what it changed. Values that a
logarithm cannot show (-inf, inf, NaN) are marked at the edge of the axes, never dropped.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jacspec._ground import files
from jacspec._ground.drawing import UNRESOLVED
from jacspec._ground.messages import message

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {"single": 3.25, "double": 6.75}
"""Column widths in inches."""

COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The Okabe-Ito colors without yellow, dark ones first; the cycle pairs each with its own marker and stroke."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (3, 1, 1, 1)))
_EDGE = 0.025  # where in the axes, as a fraction of their height, a value off the scale is marked


def _settings() -> Any:
    from cycler import cycler

    return {
        "font.family": "serif",
        "font.serif": ["STIXGeneral", "DejaVu Serif"],
        "mathtext.fontset": "stix",
        "text.usetex": False,
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLORS, linestyle=_LINES, marker=_MARKERS),
        "lines.linewidth": 1.1,
        "lines.markersize": 3,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "xtick.direction": "in",
        "ytick.direction": "in",
        "savefig.dpi": 300,
        "pdf.fonttype": 42,
        "svg.hashsalt": "jacspec",
    }


@contextmanager
def style() -> Iterator[None]:
    """The style of the figures, for the length of a ``with`` block.

    Example:
        >>> with style():
        ...     fig, ax = figure()
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's own matplotlibrc says
        mpl.rcParams.update(_settings())
        yield


def figure(
    width: str = "single", aspect: float = 0.72, rows: int = 1, columns: int = 1, **options: Any
) -> tuple["Figure", Any]:
    """A figure as wide as a column, and its axes.

    What is drawn later takes its sizes from the settings of that moment: draw inside `style`, as the runner does.

    Args:
        width: ``"single"`` (3.25 in) or ``"double"`` (6.75 in).
        aspect: Height over width of one panel, > 0.
        rows: Rows of panels.
        columns: Columns of panels.
        **options: For `matplotlib.figure.Figure.subplots`, as ``sharex=True``.

    Returns:
        The figure, and one axes or an array of them.

    Raises:
        ValueError: An unknown width, or an aspect or grid that leaves no room.
    """
    if width not in WIDTHS:
        raise ValueError(message("plotting.figure", "width", "is unknown", repr(width), " or ".join(map(repr, WIDTHS))))
    if not 0 < aspect < np.inf:
        raise ValueError(message("plotting.figure", "aspect", "is no ratio", repr(aspect), "height / width > 0"))
    for name, count in (("rows", rows), ("columns", columns)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(message("plotting.figure", name, "is no count", repr(count), "an integer >= 1"))
    from matplotlib.figure import Figure

    with style():
        inches = WIDTHS[width]
        fig = Figure(figsize=(inches, inches / columns * aspect * rows), layout="constrained")
        return fig, fig.subplots(rows, columns, **options)


def panel_label(ax: "Axes", label: str) -> None:
    """Put a bold `label`, as ``"a"``, above the upper left corner of `ax`."""
    text = {"fontweight": "bold", "fontfamily": "serif", "fontsize": 9, "ha": "left", "va": "bottom"}
    ax.annotate(f"({label})", (0, 1), xytext=(-2, 3), xycoords="axes fraction", textcoords="offset points", **text)


def plot_log(ax: "Axes", x: Any, y: Any, *args: Any, resolved: Any = None, **options: Any) -> int:
    """Draw logarithms `y` against `x`, with every value off the scale marked at the edge of the axes.

    A -inf (an exact zero) is a hollow triangle at the floor, an inf one at the ceiling, a NaN a cross at the floor. The
    curve has about a dozen markers, and one on every point without a finite neighbor.

    Args:
        ax: Where to draw.
        x: Positions, shape (m,), finite.
        y: Logarithms, shape (m,), any unit.
        *args: For `ax.plot`, as a format string.
        resolved: Which values are, shape (m,), or None for all. One that is not is an upper bound: the curve leaves it out,
            and a hollow gray circle marks it.
        **options: For `ax.plot`.

    Returns:
        How many values are off the scale.

    Raises:
        ValueError: `x` and `y` are not vectors of one length, or `x` is not finite.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            message("plotting.plot_log", "y", "does not fit x", repr((x.shape, y.shape)), "two vectors of one length")
        )
    if not np.isfinite(x).all():
        got = repr(int((~np.isfinite(x)).sum()))
        raise ValueError(message("plotting.plot_log", "x", "has non-finite values", got, "finite positions"))
    known = np.broadcast_to(True if resolved is None else np.asarray(resolved, bool), y.shape)
    finite = np.isfinite(y) & known
    neighbors = np.append(False, finite[:-1]) | np.append(finite[1:], False)[: len(y)]
    spaced = np.arange(len(y)) % max(1, len(y) // 12) == 0
    options.setdefault("markevery", np.flatnonzero(spaced | ~neighbors).tolist())  # no stroke reaches a lone point
    (line,) = ax.plot(x, np.where(finite, y, np.nan), *args, **options)
    bounds = np.isfinite(y) & ~known
    if bounds.any():
        ax.plot(x[bounds], y[bounds], label="_unresolved", **UNRESOLVED)
    edge = ax.get_xaxis_transform()  # x in data, y in fractions of the axes
    marks = ((np.isneginf(y), "v", _EDGE), (np.isposinf(y), "^", 1 - _EDGE), (np.isnan(y), "x", _EDGE))
    for where, marker, height in marks:
        if where.any():
            look = {"color": line.get_color(), "marker": marker, "markersize": 4, "markerfacecolor": "none"}
            look |= {"transform": edge, "linestyle": "none", "markevery": 1, "clip_on": False}
            ax.plot(x[where], np.full(int(where.sum()), height), label="_off_scale", **look)
    return int((~np.isfinite(y)).sum())


def save_figure(fig: "Figure", name: str, folder: str | os.PathLike = "figures/out") -> tuple[Path, Path]:
    """Write `fig` as a PDF and as a PNG of 300 dots per inch; the same figure gives the same bytes.

    Args:
        fig: What `figure` made.
        name: File name without suffix.
        folder: Where the files go.

    Returns:
        The paths of the PDF and the PNG.

    Raises:
        ValueError: An unsafe name.
        OSError: The files could not be written; those that were there before are intact.
    """
    metadata = {
        "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }
    saved, layout = [], fig.get_layout_engine()
    with style():
        if layout is not None:  # once for both files
            layout.execute(fig)
            fig.set_layout_engine("none")
        for kind, without in metadata.items():
            path = files.resolve("plotting.save_figure", name, folder, f".{kind}", "name")
            content = io.BytesIO()
            fig.savefig(content, format=kind, dpi=300, metadata=without)
            saved.append((path, content.getvalue()))
        if layout is not None:
            fig.set_layout_engine(layout)
    files.write(*saved)
    return saved[0][0], saved[1][0]


def save_caption(name: str, text: str, folder: str | os.PathLike = "figures/out") -> Path:
    """Write the caption of the figure `name` beside it as `<name>.txt`, one paragraph a line, and return its path."""
    path = files.resolve("plotting.save_caption", name, folder, ".txt", "name")
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
    files.write((path, ("\n\n".join(paragraphs) + "\n").encode()))
    return path
