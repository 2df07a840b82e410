"""Singular-value densities of products of random matrices against the Fuss-Catalan laws."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "product_density"
CAPTION = """
Eigenvalues x of J J^T, the squared singular values of J = W_L ... W_1, for L = 1, 2, 3, 5 factors of 300 x 300 with
entries of variance 1/n, 12 draws (marks), and the Fuss-Catalan laws of infinite width (lines; Penson & Zyczkowski
2011; L = 1 is Marchenko-Pastur). (a) Density of ln x: depth alone, at unit mean square, spreads gradients over orders
of magnitude. (b) Distribution minus law; its largest deviation is the Kolmogorov-Smirnov distance, gray: 0.01. (c) Close
to 0 the distribution function rises as x^(1/(L+1)): ever more directions vanish. (d) Moments over the Fuss-Catalan
numbers binom((L+1)k, k)/(Lk+1), means over the draws with their standard errors. (e) Largest eigenvalue over the edge
(L+1)^(L+1)/L^L: finite width falls short by a multiple of n^(-2/3) (means and
standard errors at n = 300 and, 60 draws, n = 60; dotted: extrapolation to infinite width; gray: the mean for L = 1 by
the Tracy-Widom law with the constants of Johnstone 2001). (f) Singular
values of one product, in order: five Gaussian factors beside five orthogonal ones, which keep every length exactly.
"""

MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "linestyle": "-", "zorder": 2}
TRACY_WIDOM = -1.2065336, 1.2680340
"""Mean and standard deviation of the Tracy-Widom law of real matrices (beta = 1)."""


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.8, 2, 3)
    for letter, ax, panel in zip("abcdef", axes.flat, (density, residual, small, moments, edges, order), strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def eigenvalues(data: dict[str, np.ndarray], which: int) -> np.ndarray:
    """x at the width of this number, axes (depth, draw, value), descending."""
    return np.exp(2 * np.moveaxis(data[f"log_{which}"], 0, 1))


def looks(config: dict[str, Any]) -> Any:
    """Index, depth, color and marker of every curve."""
    return [(i, L, plotting.COLORS[i], "os^D"[i]) for i, L in enumerate(config["depths"])]


def density(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """x rho(x) against x, which is the density of ln x."""
    bins = np.linspace(np.log(2e-4), np.log(16), 24)
    middle = np.exp((bins[1:] + bins[:-1]) / 2)
    for i, L, color, marker in looks(config):
        log = np.log(eigenvalues(data, len(data["widths"]) - 1)[i].ravel())
        counts = np.histogram(log, bins)[0]
        x, rho = data[f"curve_{L}"]
        ax.plot(x, x * rho, color=color, **LINE)
        seen = counts > 0
        ax.plot(
            middle[seen],
            (counts / log.size / np.diff(bins))[seen],
            color=color,
            marker=marker,
            label=f"$L={L}$",
            **MARK,
        )
    ax.set(xscale="log", xlabel="eigenvalue $x$ of $JJ^T$", ylabel=r"density of $\ln x$ (1/nat)", xlim=(2e-4, 20))
    ax.legend(loc="upper left", handlelength=1)


def deviation(data: dict[str, np.ndarray], i: int, L: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted eigenvalues, and the empirical distribution just after and just before each of them minus the law."""
    x = np.sort(eigenvalues(data, len(data["widths"]) - 1)[i].ravel())
    rank = np.arange(1, x.size + 1)
    return x, rank / x.size - data[f"cdf_{L}"], (rank - 1) / x.size - data[f"cdf_{L}"]


def residual(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """F_n - F against F."""
    for i, L, color, marker in looks(config):
        _, above, _ = deviation(data, i, L)
        every = max(1, above.size // 40)
        ax.plot(data[f"cdf_{L}"][::every], above[::every], color=color, marker=marker, label=f"$L={L}$",
                **MARK | {"markersize": 2.4})  # fmt: skip
    for bound in (-0.01, 0.01):
        ax.axhline(bound, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="law $F(x)$", ylabel="$F_n(x)-F(x)$", ylim=(-0.013, 0.018))
    ax.legend(loc="upper center", ncol=4, handlelength=0.6, columnspacing=0.8, handletextpad=0.3)


def small(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The distribution functions at the hard edge, doubly logarithmic."""
    for i, L, color, marker in looks(config):
        x, above, _ = deviation(data, i, L)
        law, empirical = data[f"cdf_{L}"], above + data[f"cdf_{L}"]
        shown = np.unique(np.searchsorted(empirical, np.geomspace(1 / config["width"], 0.99, 12)))
        ax.plot(x, law, color=color, **LINE)
        ax.plot(x[shown], empirical[shown], color=color, marker=marker, label=f"$1/{L + 1}$", **MARK)
    ax.set(xscale="log", yscale="log", xlim=(1e-11, 60), xlabel="eigenvalue $x$", ylabel="share of eigenvalues $F(x)$")
    ax.set_ylim(2.5e-3, 1.5)
    ax.legend(loc="lower right", title="slope", handlelength=1, borderaxespad=0.2)


def moments(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Measured over expected moments."""
    x = eigenvalues(data, len(data["widths"]) - 1)
    for i, L, color, marker in looks(config):
        ratio = np.stack([(x[i] ** k).mean(axis=-1) for k in (1, 2, 3)]) / data["moments"][i][:, None]
        error = ratio.std(axis=1, ddof=1) / np.sqrt(ratio.shape[1])
        ax.errorbar(np.arange(1, 4) + 0.1 * (i - 1.5), ratio.mean(axis=1), error, color=color, fmt=marker, label=f"$L={L}$",
                    **MARK, elinewidth=0.8)  # fmt: skip
    ax.axhline(1, color="0.5", linewidth=0.8, zorder=0)
    ax.set(xlabel="order $k$ of the moment", ylabel="moment / Fuss-Catalan number", xlim=(0.5, 3.5))
    ax.set_xticks([1, 2, 3])
    ax.minorticks_off()
    ax.legend(loc="upper left", ncol=2, handlelength=0.8, columnspacing=1)


def johnstone(n: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of the largest eigenvalue for L = 1 by the Tracy-Widom law."""
    low, high = np.sqrt(n - 1), np.sqrt(n)
    center, scale = (low + high) ** 2 / n, (low + high) * (1 / low + 1 / high) ** (1 / 3) / n
    return center + TRACY_WIDOM[0] * scale, TRACY_WIDOM[1] * scale


def edges(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Largest eigenvalue over the edge against n^(-2/3)."""
    widths, found = data["widths"], largest(data)
    fine = np.linspace(0, widths[0] ** (-2 / 3) * 1.1, 50)
    for i, L, color, marker in looks(config):
        at = widths ** (-2 / 3)
        ax.plot(fine, np.polyval(np.polyfit(at, found[0, :, i], 1), fine), color=color, **LINE | {"linestyle": ":"})
        ax.errorbar(
            at, found[0, :, i], found[1, :, i], color=color, fmt=marker, label=f"$L={L}$", **MARK, elinewidth=0.8
        )
    mean, _ = johnstone(np.maximum(fine, 1e-6) ** -1.5)
    ax.plot(fine, mean / 4, color="0.5", label="Tracy-Widom", **LINE)
    ax.set(xlabel="$n^{-2/3}$", ylabel="largest eigenvalue / edge", ylim=(0.62, 1.06))
    ax.legend(loc="lower left", handlelength=1, ncol=2, columnspacing=1)


def largest(data: dict[str, np.ndarray]) -> np.ndarray:
    """Largest eigenvalue over the edge: mean and standard error, axes (2, width, depth)."""
    parts = [eigenvalues(data, which)[:, :, 0] / data["edges"][:, None] for which in range(len(data["widths"]))]
    return np.array([[p.mean(axis=1) for p in parts], [p.std(axis=1, ddof=1) / np.sqrt(p.shape[1]) for p in parts]])


def order(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """All singular values of one product."""
    n = config["width"]
    share = (np.arange(n) + 0.5) / n
    shown = slice(None, None, max(1, n // 20))
    gauss, haar = data[f"log_{len(data['widths']) - 1}"][0, -1], data["orthogonal"][0, -1]
    L, law = config["depths"][-1], data[f"cdf_{config['depths'][-1]}"]
    x = np.sort(eigenvalues(data, len(data["widths"]) - 1)[-1].ravel())
    ax.plot(1 - law, 0.5 * np.log(x), color=plotting.COLORS[3], **LINE)
    ax.plot(share[shown], gauss[shown], color=plotting.COLORS[3], marker="D", label="Gaussian", **MARK)
    ax.plot(share[shown], haar[shown], color=plotting.COLORS[2], marker="v", label="orthogonal", **MARK)
    ax.set(xlabel="share of larger singular values", ylabel=rf"$\ln\,s_i$ at $L={L}$ (nats)", ylim=(-9, 3))
    ax.legend(loc="lower left", handlelength=1)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Distances, moments, edges and isometry."""
    n, draws = config["width"], config["draws"]
    x = eigenvalues(data, len(data["widths"]) - 1)
    ratio = np.stack([(x**k).mean(axis=(1, 2)) for k in (1, 2, 3)], axis=-1) / data["moments"]
    farthest = lambda values: values[np.argmax(np.abs(values - 1))]
    mean, spread = johnstone(n)
    rows = [
        (f"L = {L}: Kolmogorov-Smirnov distance to the law", "Penson & Zyczkowski 2011",
         0, 0.01, max(np.abs(part).max() for part in deviation(data, i, L)[1:]), "at_most")
        for i, L in enumerate(config["depths"])
    ] + [
        ("mean of x over Fuss-Catalan number, worst L", "Penson & Zyczkowski 2011: 1", 1, 0.02, farthest(ratio[:, 0]), "equal"),
        ("mean of x^2 over Fuss-Catalan number, worst of L = 1, 2", "Penson & Zyczkowski 2011: L + 1",
         1, 0.03, farthest(ratio[:2, 1]), "equal"),
        ("mean of x^2 over Fuss-Catalan number, worst of L = 3, 5", "Penson & Zyczkowski 2011: L + 1",
         1, 0.06, farthest(ratio[2:, 1]), "equal"),
        ("largest eigenvalue over edge, extrapolated, worst L", "Penson & Zyczkowski 2011: (L+1)^(L+1)/L^L",
         1, 0.1, farthest(np.polyfit(data["widths"] ** (-2 / 3), largest(data)[0], 1)[1]), "equal"),
        ("L = 1: mean of the largest eigenvalue", "Johnstone 2001, Tracy-Widom (beta = 1)",
         mean, 4 * spread / np.sqrt(draws), x[0, :, 0].mean(), "equal"),
        ("orthogonal factors: largest abs(s - 1)", "Saxe et al. 2014: dynamical isometry",
         0, 1e-10, np.abs(np.expm1(data["orthogonal"])).max(), "at_most"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
