"""The order-to-chaos plane of tanh networks, its depth scales, and finite networks beside them."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "mean_field_phase"
CAPTION = """
Random tanh networks a' = W tanh(a) + b, W_ij ~ N(0, sigma_w^2/n), b_i ~ N(0, sigma_b^2), in the limit of large width
(curves and maps) and at n = 1000 (marks; 10 draws of fresh weights and biases, 25 layers; the draws are shared between values of
sigma_w). (a) chi_1, the factor per layer
of the mean squared gradient; the line chi_1 = 1 divides order (gradients vanish) from chaos (they explode). (b) Depth scale
xi_c of correlations, which diverges on the line, and (c) xi_q of variances, which does not (layers; both on logarithmic
colors). (d) A cut at sigma_b^2 = 0.05: q*, chi_1 and c*, the fixed-point correlation of two inputs, which leaves 1 where
chi_1 passes 1 (dotted). (e) xi_c and xi_q on the same cut; marks: values computed
beforehand by adaptive quadrature. A network is trainable down to a few xi_c.
(f) Log of the mean squared gradient, layer by layer back from the output, against l ln chi_1 (lines); bands: the range of
the draws. (g) chi_1 measured from the slopes of (f), relative to theory: marks are single draws, bars the mean and its
standard error; a gray band marks 2 %. (h) Correlation of two inputs that start at 0.6 against the iterated correlation
map: marks are means of the draws, bars their standard deviations. (i) Its distance from c*, which falls
as exp(-l/xi_c) (marks: finite networks, which leave the curve at their own noise, about 1/sqrt(n)).
Poole et al. 2016, Schoenholz et al. 2017.
"""

LINE = {"marker": "none", "linestyle": "-"}
MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
MARKERS = "os^DvPX"
# sigma_w^2: q*, xi_q, c*, chi_1, xi_c of tanh at sigma_b^2 = 0.05, as printed (5 digits)
PUBLISHED = {
    1.0: (0.19359, 1.748, 1.0, 0.75903, 3.627),
    1.6: (0.47425, 1.621, 1.0, 0.96369, 27.04),
    1.8: (0.59413, 1.498, 0.95041, 1.00822, 125.8),
    2.0: (0.72176, 1.388, 0.74408, 1.04767, 25.21),
    3.0: (1.42801, 1.041, 0.29932, 1.20893, 9.051),
    4.0: (2.19549, 0.873, 0.16507, 1.34240, 6.980),
}
CRITICAL = 1.7609546
LINE_WEIGHTS = (1.01971, 1.177569, 1.393962, 1.687975, 2.153303, 2.532482)


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Nine panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.9, 3, 3)
    maps(fig, axes[0], data)
    cut(axes[1, 0], data, config)
    scales(axes[1, 1], data, config)
    gradients(axes[1, 2], data)
    rates(axes[2, 0], data)
    overlaps(axes[2, 1], data)
    decay(axes[2, 2], data)
    shown = [axes[1, 2].plot([], [], label=f"{w:.3g}", **look(k))[0] for k, w in enumerate(data["net_weights"])]
    fig.legend(
        handles=shown, loc="outside lower center", ncols=len(shown), title=r"$\sigma_w^2$ of the networks in (f)-(i)"
    )
    for letter, ax in zip("abcdefghi", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def look(k: int) -> dict[str, Any]:
    """How the networks of the k-th weight variance are drawn, everywhere."""
    return MARK | {"color": plotting.COLORS[k % 7], "marker": MARKERS[k % 7]}


def maps(fig: Any, axes: Any, data: dict[str, np.ndarray]) -> None:
    """chi_1, xi_c and xi_q over the plane."""
    from matplotlib.colors import LogNorm, TwoSlopeNorm

    chi = data["plane_chi_1"]
    room = 1e-3  # on either side of 1, whatever the range
    xi_c = np.where(np.isfinite(data["plane_xi_c"]), data["plane_xi_c"], np.inf)
    panels = (
        (
            chi,
            "RdBu_r",
            TwoSlopeNorm(1, min(chi.min(), 1 - room), max(chi.max(), 1 + room)),
            r"$\chi_1$",
            "neither",
            None,
            "per layer",
        ),
        (np.minimum(xi_c, 1e3), "viridis", LogNorm(1, 1e3), r"$\xi_c$", "max", (1, 10, 100, 1000), "layers"),
        (np.clip(data["plane_xi_q"], 0.5, 5), "viridis", LogNorm(0.5, 5), r"$\xi_q$", "max", (0.5, 1, 2, 5), "layers"),
    )
    for ax, (values, colors, norm, label, extend, ticks, unit) in zip(axes, panels, strict=True):
        mesh = ax.pcolormesh(
            data["plane_weights"],
            data["plane_biases"],
            values,
            cmap=colors,
            norm=norm,
            rasterized=True,
            shading="gouraud",
        )
        dark = colors != "viridis"
        ax.plot(data["critical_weights"], data["critical_biases"], color="black" if dark else "white", **LINE)
        bar = fig.colorbar(mesh, ax=ax, label=label, extend=extend, pad=0.02, aspect=18)
        bar.ax.set_xlabel(unit, fontsize=7)
        if ticks:
            bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            bar.minorticks_off()
        ax.set(xlabel=r"weight variance $\sigma_w^2$", ylabel=r"bias variance $\sigma_b^2$")
        ax.set(xlim=data["plane_weights"][[0, -1]], ylim=data["plane_biases"][[0, -1]])
    axes[0].text(0.7, 0.43, "order", fontsize=8)
    axes[0].text(3.0, 0.05, "chaos", fontsize=8)


def cut(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """q*, chi_1 and c* against sigma_w^2."""
    names = (("q_star", "$q^*$", 0), ("chi_1", r"$\chi_1$", 1), ("c_star", "$c^*$", 2))
    for name, label, k in names:
        look = {"color": plotting.COLORS[k], "linestyle": ("-", "--", "-.")[k], "marker": "none"}
        ax.plot(data["scan_weights"], data[f"scan_{name}"], label=label, **look)
    ax.axvline(data["critical_at_scan"], color="0.6", linestyle=":", linewidth=0.8)
    ax.set(xlabel=r"weight variance $\sigma_w^2$", ylabel=rf"value at $\sigma_b^2={config['scan_bias']:g}$")
    ax.legend(loc="upper left", handlelength=1.6, borderaxespad=0)


def scales(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The two depth scales on the cut, with the published points."""
    for name, label, k in (("xi_c", r"$\xi_c$", 1), ("xi_q", r"$\xi_q$", 2)):
        color = plotting.COLORS[k]
        ax.plot(data["scan_weights"], data[f"scan_{name}"], color=color, label=label, **LINE)
        printed = [PUBLISHED[w][4 if name == "xi_c" else 1] for w in PUBLISHED]
        ax.plot(list(PUBLISHED), printed, color=color, marker="os"[k - 1], **MARK)
    ax.axvline(data["critical_at_scan"], color="0.6", linestyle=":", linewidth=0.8)
    ax.set(yscale="log", xlabel=r"weight variance $\sigma_w^2$", ylabel="depth scale (layers)", ylim=(0.5, 1e3))
    ax.legend(loc="upper right", title=rf"$\sigma_b^2={config['scan_bias']:g}$")


def gradients(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Log squared gradients of every set of networks."""
    for k, (squares, chi) in enumerate(zip(data["net_log_squares"], data["net_chi_1"], strict=True)):
        color, layers = look(k)["color"], np.arange(squares.shape[1])
        ax.fill_between(layers, squares.min(axis=0), squares.max(axis=0), color=color, alpha=0.2, lw=0)
        ax.plot(layers, layers * np.log(chi), color=color, **LINE)
        ax.plot(layers[::5], squares.mean(axis=0)[::5], **look(k))
    ax.set(xlabel="layers back from the output", ylabel=r"$\ln\,\|\partial E/\partial a\|^2$, relative (nats)")


def rates(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Measured chi_1 over theory."""
    ax.axhspan(0.98, 1.02, color="0.9", zorder=0)
    ax.axhline(1, color="0.4", linewidth=0.8)
    for k, (w, rate, chi) in enumerate(zip(data["net_weights"], data["net_rates"], data["net_chi_1"], strict=True)):
        ratio = np.exp(rate) / chi
        ax.plot(np.full(ratio.size, w), ratio, ".", color=look(k)["color"], alpha=0.4, markersize=3, markeredgewidth=0)
        ax.errorbar(w, ratio.mean(), ratio.std(ddof=1) / np.sqrt(ratio.size), elinewidth=0.8, **look(k))
    ax.set(xlabel=r"weight variance $\sigma_w^2$", ylabel=r"$\chi_1$, measured / theory", ylim=(0.955, 1.045))


def overlaps(ax: Any, data: dict[str, np.ndarray]) -> None:
    """The correlation of two inputs through depth."""
    for k, (c, theory) in enumerate(zip(data["net_correlations"], data["net_map"], strict=True)):
        layers = np.arange(theory.size)
        ax.plot(layers, theory, color=look(k)["color"], **LINE)
        ax.errorbar(layers[::5], c.mean(axis=0)[::5], c.std(axis=0)[::5], elinewidth=0.8, **look(k))
    ax.set(xlabel="layer $l$", ylabel="correlation of two inputs $c_l$", ylim=(0, 1.05))


def decay(ax: Any, data: dict[str, np.ndarray]) -> None:
    """abs(c_l - c*): exponential at late layers."""
    for k, (c, theory, end) in enumerate(
        zip(data["net_correlations"], data["net_map"], data["net_c_star"], strict=True)
    ):
        layers = np.arange(theory.size)
        ax.plot(layers, np.abs(theory - end), color=look(k)["color"], **LINE)
        ax.plot(layers[::3], np.abs(c.mean(axis=0) - end)[::3], **look(k))
    ax.set(yscale="log", xlabel="layer $l$", ylabel="$|c_l-c^*|$", ylim=(5e-4, 1))


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Tolerances: half a unit of the last printed digit (5e-4 of a number of four digits), or what was fixed beforehand."""
    measured = np.exp(data["net_rates"]).mean(axis=1) / data["net_chi_1"] - 1
    table = np.stack([data[f"published_{name}"] for name in ("q_star", "xi_q", "c_star", "chi_1", "xi_c")], axis=1)
    printed = np.array([PUBLISHED[w] for w in data["published_weights"].tolist()])
    c = data["net_correlations"][..., 1:]
    error = c.std(axis=1, ddof=1) / np.sqrt(c.shape[1])
    score = np.abs(c.mean(axis=1) - data["net_map"][:, 1:]) / error
    rows = [
        (f"critical sigma_w^2 at sigma_b^2 = {config['scan_bias']:g}", "quadrature, verified", CRITICAL, 5e-8,
         data["critical_at_scan"]),
        ("critical sigma_w^2 at q* = .01 to 1.5: worst error", "quadrature, verified", 0, 1e-5,
         np.abs(data["line_weights"] - LINE_WEIGHTS).max()),
        ("q*, chi_1, c* of the published scan: worst error", "Poole et al. 2016, quadrature", 0, 1e-5,
         np.abs(table - printed)[:, [0, 2, 3]].max()),
        ("xi_q, xi_c of the published scan: worst relative error", "Schoenholz et al. 2017, quadrature", 0, 5e-4,
         np.abs(table / printed - 1)[:, [1, 4]].max()),
        ("every point of the plane converged: share", "mean field", 1, 0, data["plane_converged"].mean()),
        (f"measured chi_1, n = {config['width']}, {config['networks']} nets: worst relative error of the means",
         "mean field", 0, 0.02, np.abs(measured).max()),
        ("correlation of two inputs, all layers: worst distance of the means from the map, in standard errors over draws",
         "mean field", 0, 4, score.max()),
    ]  # fmt: skip
    return claims_of(NAME, rows)
