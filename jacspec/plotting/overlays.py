"""Measured spectra and their theory on one pair of axes, honest about finite n.

A law is anything with the attributes of `jacspec.theory.random_matrix.SpectralLaw`, NumPy or JAX; nothing here needs JAX.
Axes are in ln sigma, half of ln lambda. What a finite matrix cannot show is drawn as such: the band below the upper edge in
which theory expects less than one eigenvalue, the values that are exactly zero or too small to have a place, and the
standard error of every bar over the draws. Values that a result does not call resolved are gray and hollow.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jacspec._ground.drawing import UNRESOLVED, marks
from jacspec._ground.messages import message

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAME = 1e-6
"""Eigenvalues nearer to an atom than this, in ln lambda, are in it: rounding."""

BAND = {"color": "0.85", "linewidth": 0, "zorder": 0}


class Overlay(NamedTuple):
    """How far what was drawn is from its theory.

    Attributes:
        distance: Kolmogorov-Smirnov distance, atoms included; NaN without a law or where a value is not resolved.
        zeros: share of exact zeros.
        theory_zeros: that of the theory; NaN without a law.
        outside: number of finite values outside the axes.
    """

    distance: float
    zeros: float
    theory_zeros: float
    outside: int


def plot_spectrum(
    ax: "Axes", log_singular_values: Any, law: Any = None, *, bins: int = 40,
    limits: tuple[float, float] | None = None, color: str = "#0072B2", label: str | None = None,
) -> Overlay:  # fmt: skip
    """Draw a measured spectrum as a histogram of ln sigma, and the law of J J^T over it.

    The density of ln sigma is 2 lambda rho(lambda), ln lambda = 2 ln sigma. Bars are shares of all values, zeros included,
    so that bars and curve have the same mass. An atom is a stem with, above it, its measured mass and that of theory in
    parentheses; it has no bar. Gray band: less than one eigenvalue of n is expected there. Dotted: the edges. Hollow gray
    bars: with the values that are not resolved.

    Args:
        ax: where to draw.
        log_singular_values: ln sigma, (n,) or (draws, n), nats; -inf for exact zeros. Or a `Spectrum`.
        law: density, edges and atoms: a `SpectralLaw`; None for the bars alone.
        bins: number of bars within the limits.
        limits: of ln sigma; None for the range that holds all but a thousandth of the values.
        color: of bars and marks; theory is black.
        label: of the bars in a legend.

    Returns:
        An `Overlay`.

    Raises:
        ValueError: for values of the wrong rank, NaN or inf among them, a `Spectrum` at different horizons, or bins < 1.
    """
    horizons = np.unique(np.asarray(getattr(log_singular_values, "horizons", 0)))
    if horizons.size > 1:
        argument, got, hint = "log_singular_values", repr(horizons.tolist()), "Draw one at a time."
        raise ValueError(message("plotting.plot_spectrum", argument, "mixes horizons", got, "one horizon", hint))
    resolved = np.asarray(getattr(log_singular_values, "resolved", True))
    log_singular_values = getattr(log_singular_values, "log_singular_values", log_singular_values)
    values = _measured("plot_spectrum", "log_singular_values", log_singular_values)
    resolved = np.broadcast_to(resolved, values.shape)
    if not isinstance(bins, int) or bins < 1:
        raise ValueError(message("plotting.plot_spectrum", "bins", "is no count", repr(bins), "an integer >= 1"))
    log_atom, atom, zero, lower, upper = 0.0, 0.0, np.nan, np.inf, -np.inf
    if law is not None:
        log_atom, atom, zero = (float(v) for v in (law.log_atom, law.atom, law.zero))
        lower, upper = (float(v) / 2 for v in law.log_edges)
    finite = np.isfinite(values)
    in_atom = finite & (np.abs(2 * values - log_atom) < SAME) & (atom > 0)
    free = finite & ~in_atom
    if limits is None:
        shown = values[finite] if finite.any() else np.zeros(1)
        top = max(shown.max(), upper if atom < 1 else log_atom / 2)
        limits = float(np.quantile(shown, 1e-3)) - 0.1, float(top) + 0.1
    if free.any():
        edges = np.linspace(*limits, bins + 1)
        _bars(ax, values, free & resolved, edges, color, label)
        if not resolved[free].all():
            doubtful = _shares(values, free & ~resolved, edges).mean(axis=0) > 0
            heights = np.where(doubtful, _shares(values, free, edges).mean(axis=0), np.nan)
            ax.stairs(heights, edges, color=UNRESOLVED["color"], label="_not resolved")
    if law is not None and atom < 1 - 1e-9:
        log_sigma, density = np.asarray(law.log_x) / 2, 2 * np.asarray(law.density_of_log)
        ax.plot(log_sigma, density, color="black", linestyle="-", marker="none")
        less_than_one = 1 - 1 / values.shape[1] - (atom if log_atom / 2 > upper else 0)
        ax.axvspan(np.interp(less_than_one, law.cumulative, law.log_x) / 2, upper, **BAND)
        for edge in (lower, upper):
            if limits[0] <= edge <= limits[1]:
                ax.axvline(edge, color="black", linestyle=":", linewidth=0.7, marker="none")
    if atom > 0:
        axes = ax.get_xaxis_transform()
        ax.plot([log_atom / 2] * 2, [0, 1], color="black", linestyle="-", marker="none", transform=axes)
        place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 6}
        ax.annotate(f"{in_atom.mean():.3f} ({atom:.3f})", (log_atom / 2, 1), xycoords=axes, **place)
    ax.set_xlim(*limits)
    ax.set_ylim(bottom=0)
    outside = int((free & ((values < limits[0]) | (values > limits[1]))).sum())
    distance = np.nan if law is None or not resolved.all() else _distance(values, law)
    return Overlay(float(distance), float(np.isneginf(values).mean()), zero, outside)


def _shares(values: np.ndarray, chosen: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(draws, bins): the histograms of the chosen values, as densities of all."""
    counts = [np.histogram(v[keep], edges)[0] for v, keep in zip(values, chosen, strict=True)]
    return np.stack(counts) / values.shape[1] / (edges[1] - edges[0])


def _bars(ax: "Axes", values: np.ndarray, free: np.ndarray, edges: np.ndarray, color: str, label: str | None) -> None:
    """The mean histogram of the draws, as shares of all values, and its standard error."""
    heights = _shares(values, free, edges)
    ax.stairs(heights.mean(axis=0), edges, fill=True, color=color, alpha=0.3, label=label)
    if len(heights) > 1:
        error = heights.std(axis=0, ddof=1) / np.sqrt(len(heights))
        look = {"color": color, "linestyle": "none", "marker": "none", "linewidth": 0.7}
        ax.errorbar((edges[1:] + edges[:-1]) / 2, heights.mean(axis=0), error, **look)


def plot_exponents(
    ax: "Axes", exponents: Any, u: Any = None, theory: Any = None, *, standard_error: Any = None, resolved: Any = None,
    color: str = "#0072B2", label: str | None = None,
) -> float:  # fmt: skip
    """Draw Lyapunov exponents at (i - 1/2) / n, and the curve lambda(u) of the limit of infinite n.

    Args:
        ax: where to draw.
        exponents: all n, descending, nats per step; -inf is a triangle at the floor of the axes. Or a
            `LyapunovSpectrum`: its standard errors are drawn, and what it does not call resolved is gray and hollow.
        u: (m,), ascending in [0, 1]; None for the exponents alone.
        theory: (m,), lambda(u).
        standard_error: (n,), or None for that of a `LyapunovSpectrum`.
        resolved: (n,), or None for that of a `LyapunovSpectrum`, or all.
        color: of the marks; theory is black.
        label: of the marks in a legend.

    Returns:
        The largest deviation of a finite exponent that is resolved from the curve, where the curve is finite; nats per
        step. NaN where there is none.

    Raises:
        ValueError: for shapes that do not fit, NaN or inf, or a `LyapunovSpectrum` of the leading exponents only.
    """
    if not np.all(getattr(exponents, "complete", True)):
        k, hint = exponents.exponents.shape[-1], "Its own .plot() draws them by number."
        raise ValueError(message("plotting.plot_exponents", "exponents", "is not complete", repr(k), "all n", hint))
    resolved = np.asarray(getattr(exponents, "resolved", True) if resolved is None else resolved, bool)
    if standard_error is None:
        standard_error = getattr(exponents, "standard_error", np.nan)
    values = _measured("plot_exponents", "exponents", getattr(exponents, "exponents", exponents))
    if values.shape[0] != 1:
        raise ValueError(
            message("plotting.plot_exponents", "exponents", "has the wrong shape", repr(values.shape), "(n,)")
        )
    u, theory = (np.zeros(0) if curve is None else np.asarray(curve, float) for curve in (u, theory))
    if u.ndim != 1 or u.shape != theory.shape or not (np.diff(u) > 0).all():
        raise ValueError(message("plotting.plot_exponents", "theory", "does not fit u", repr((u.shape, theory.shape)), "two ascending vectors of one length"))  # fmt: skip
    values = values[0]
    n = values.size
    at = (np.arange(n) + 0.5) / n
    marks(ax, at, values, standard_error, resolved, color, label)
    known = np.isfinite(theory)
    if known.any():
        ax.plot(u[known], theory[known], color="black", linestyle="-", marker="none", zorder=3)
    compared = np.isfinite(values) & resolved
    compared &= (at >= u[known].min(initial=np.inf)) & (at <= u[known].max(initial=-np.inf))
    if not compared.any():
        return float("nan")
    return float(np.abs(values[compared] - np.interp(at[compared], u[known], theory[known])).max())


def _measured(function: str, argument: str, values: Any) -> np.ndarray:
    """(draws, n) of numbers and -inf."""
    values = np.asarray(values, float)
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            message(f"plotting.{function}", argument, "has the wrong shape", repr(values.shape), "(n,) or (draws, n)")
        )
    if (np.isnan(values) | (values == np.inf)).any():
        expected = "numbers, and -inf for exact zeros"
        raise ValueError(message(f"plotting.{function}", argument, "has NaN or inf", expected=expected))
    return values


def _distance(values: np.ndarray, law: Any) -> float:
    """Kolmogorov-Smirnov distance to the law, atoms included; a tie counts once, at its upper side."""
    zero, atom, log_atom = (float(v) for v in (law.zero, law.atom, law.log_atom))
    log_x = np.where(np.abs(2 * values - log_atom) < SAME, log_atom, 2 * values)
    x, count = np.unique(log_x, return_counts=True)
    after = np.cumsum(count) / values.size
    points = np.asarray(law.log_x)
    free = np.asarray(law.cumulative) - np.where(points >= log_atom, atom, 0)
    continuous = np.interp(x, points, free, left=zero, right=1 - atom)
    below = np.where(np.isneginf(x), 0, continuous + np.where(x > log_atom, atom, 0))
    upto = np.where(np.isneginf(x), zero, continuous + np.where(x >= log_atom, atom, 0))
    before = np.concatenate([[0.0], after[:-1]])
    return float(max(np.abs(after - upto).max(), np.abs(before - below).max()))
