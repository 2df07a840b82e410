"""Transient growth in stable networks: theory and measurement."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "nonnormal_transients"
CAPTION = """
A spectral radius below 1 says little about gradients over finite times. The network h' = tanh(W h) with W = d I + a N,
N the shift of n = 20 units, d = 0.5: all eigenvalues are 0.5 (dotted: t ln d). (a) ln ||W^t|| at the origin for three
couplings a (marks), and from binomial Toeplitz matrices (lines). (b) a = 1.6: log norms of the gradient t steps before
Gaussian cotangents (gray: all 200 draws), the root of their mean square (circles) and ||W^t||_F (line); dashed: a
gradient along the first singular vector. (c) All log singular values over t at several times, a = 1.6, and their
limits, the exponents (crosses), which the QR recursion finds at once. (d) The largest ln ||W^t|| (circles)
between the bounds of the Kreiss matrix theorem, ln K and ln(e n K) (lines). (e) The transient of (a), a = 1.6, from
starts of several sizes eps along the last unit: large ones saturate, and what was to explode vanishes. (f) Powers of
Gaussian matrices, variance g^2/n, g = 0.9, n = 100: largest log singular value, 16 draws (circles), and the edge
t ln g + ln((t+1)^(t+1) / t^t) / 2 of the law of products (line); dotted: t ln g, the spectral radius.
"""

DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
LINE = {"linestyle": "-", "marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
DOTTED = {"linestyle": ":", "marker": "none", "zorder": 1, "color": "0.4"}
LEGEND = {"handlelength": 1.2, "labelspacing": 0.2, "borderaxespad": 0.2, "handletextpad": 0.5}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    for letter, ax, panel in zip(
        "abcdef", axes.flat, (growth, gradients, spectra, peaks, starts, ginibre), strict=True
    ):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def at(config: dict[str, Any], coupling: float) -> int:
    """The place of a coupling in the sweep."""
    return config["sweep"].index(coupling)


def growth(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln ||W^t|| against t."""
    for k, a in enumerate(config["couplings"]):
        ax.plot(data["growth_curve"], data["growth_curve_theory"][k], color=plotting.COLORS[k], **LINE)
        found = data["growth_log"][at(config, a), :, 0]
        ax.plot(config["times"], found, color=plotting.COLORS[k], marker="os^"[k], label=f"$a={a:g}$", **MARK)
    ax.plot(data["growth_curve"], data["growth_curve"] * np.log(config["diagonal"]), **DOTTED)
    ax.set(xscale="log", xlabel="time $t$ (steps)", ylabel=r"$\ln\,\Vert W^t\Vert$ (nats)", ylim=(-60, 27))
    ax.legend(loc="lower left", **LEGEND)


def gradients(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Log gradient norms against the time back."""
    logs = data["gradients_log"]
    t = np.arange(1, logs.shape[1])
    ax.plot(t, logs[:, 1:].T, color="0.75", linewidth=0.4, rasterized=True, **LINE)
    ax.plot(t, data["gradients_root_theory"], color=DARK, label=r"$\ln\,\Vert W^t\Vert_F$", **(LINE | {"zorder": 4}))
    ax.plot(
        t,
        data["gradients_norm_theory"],
        color=RED,
        linestyle="--",
        marker="none",
        label=r"$\ln\,\Vert W^t\Vert$",
        zorder=2,
    )
    shown = np.unique(np.geomspace(1, t[-1], 14).astype(int))
    root = 0.5 * np.log(np.mean(np.exp(2 * logs[:, shown]), axis=0))
    ax.plot(shown, root, color=DARK, marker="o", label="root mean square", **(MARK | {"zorder": 5}))
    label = r"$\ln\,\Vert\partial E/\partial h_{T-t}\Vert$ (nats)"
    ax.set(xscale="log", xlabel="time back $t$ (steps)", ylabel=label, ylim=(-30, 27))
    ax.legend(loc="lower left", **LEGEND)


def spectra(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Rates ln sigma_i / t at several times, and the exponents."""
    k = at(config, config["couplings"][-1])
    i = np.arange(1, data["growth_log"].shape[-1] + 1)
    for j, t in enumerate((5, 25, 200)):
        if t in config["times"]:
            rates = data["growth_log"][k, config["times"].index(t)] / t
            ax.plot(
                i,
                rates,
                color=plotting.COLORS[j],
                marker="os^D"[j],
                label=f"$t={t}$",
                linewidth=0.6,
                **(MARK | {"linestyle": "-"}),
            )
    ax.plot(
        i,
        data["growth_exponents"][k],
        color="0.3",
        marker="x",
        linestyle="none",
        markersize=3.5,
        label=r"$\lambda_i$",
        zorder=4,
    )
    ax.set(xlabel="index $i$", ylabel=r"$\ln\sigma_i\,/\,t$ (nats/step)")
    ax.legend(loc="lower left", **LEGEND)


def peaks(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The largest growth between its bounds."""
    a, K = np.array(config["sweep"]), data["growth_kreiss_theory"]
    ax.plot(a, K, color=BLUE, linestyle="-", marker="none", label=r"$\ln K$")
    ax.plot(a, K + 1 + np.log(config["size"]), color=BLUE, linestyle="--", marker="none", label=r"$\ln(e\,n\,K)$")
    ax.plot(a, highest(data), color=DARK, marker="o", label=r"$\max_t\,\ln\Vert W^t\Vert$", **MARK)
    ax.set(xlabel="coupling $a$", ylabel="log growth (nats)")
    ax.legend(loc="upper left", **LEGEND)


def highest(data: dict[str, np.ndarray]) -> np.ndarray:
    """max over t >= 0 of ln ||W^t||, W^0 = 1 included."""
    return np.maximum(0, data["growth_log"][:, :, 0].max(axis=1))


def starts(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln sigma_1 from starts of several sizes."""
    ax.plot(data["growth_curve"], data["growth_curve_theory"][-1], color="0.5", label="origin", **LINE)
    labels = [f"$\\epsilon=10^{{{round(np.log10(a))}}}$" for a in config["amplitudes"]]
    for log, label, color, marker in zip(data["growth_saturated"], labels, (DARK, BLUE, RED), "os^", strict=True):
        ax.plot(config["times"], log, color=color, marker=marker, label=label, **MARK)
    ax.set(xscale="log", xlabel="time $t$ (steps)", ylabel=r"$\ln\sigma_1$ (nats)", ylim=(-42, 27))
    ax.legend(loc="lower left", **LEGEND)


def ginibre(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Largest singular values of powers of Gaussian matrices."""
    t = np.array(config["ginibre_times"])
    ax.plot(t, data["ginibre_edge_theory"], color="0.5", label="edge of products", **LINE)
    ax.plot(t, t * np.log(config["ginibre_gain"]), **DOTTED)
    for draw, log in enumerate(data["ginibre_log"][:, :, 0]):
        ax.plot(t, log, color=DARK, marker="o", label=None if draw else "all draws", **MARK)
    ax.set(xlabel="power $t$", ylabel=r"$\ln\sigma_1(W^t)$ (nats)", ylim=(-0.8, 1.25))
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.3), **LEGEND)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Rounding, bounds that are theorems, and 4.5 or more standard errors for what is random."""
    n, d, t, sweep = config["size"], config["diagonal"], np.array(config["times"]), np.array(config["sweep"])
    norms, K, peak = data["growth_log"][:, :, 0], data["growth_kreiss_theory"], highest(data)
    radius = d + sweep * np.cos(np.pi / (n + 1))
    steep = at(config, config["couplings"][-1])
    found = np.mean(np.exp(2 * (data["gradients_log"][:, 1:] - data["gradients_root_theory"])), axis=0)
    # the mean of |W^t' v|^2 is |W^t|_F^2, its variance 2 |W^t W^t'|_F^2 over the number of draws
    se = np.sqrt(2 / config["draws"]) * np.exp(data["gradients_fourth_theory"] - 2 * data["gradients_root_theory"])
    powers = np.array(config["ginibre_times"]) <= 2  # the larger ones fluctuate too much
    square = np.exp(2 * data["ginibre_log"][:, powers])
    edge = square[:, :, 0].mean(axis=0) / np.exp(2 * data["ginibre_edge_theory"][powers])
    moment = (
        (square**2).mean(axis=(0, 2)) / square.mean(axis=(0, 2)) ** 2 / (np.array(config["ginibre_times"])[powers] + 1)
    )
    far = lambda ratio: ratio[np.argmax(np.abs(ratio - 1))]
    rows = [
        ("ln ||W^t||, all couplings and times: worst error, nats", "closed form: binomial Toeplitz matrix", 0, 1e-9,
         np.abs(norms - data["growth_norm_theory"]).max(), "equal"),
        ("exponents, all couplings: worst distance from ln d, nats/step", "closed form: W is triangular", 0, 1e-12,
         np.abs(data["growth_exponents"] - np.log(d)).max(), "equal"),
        ("largest excess of ln ||W^t|| over t ln r + ln 2, r the numerical radius, nats",
         "Berger 1965, power inequality; r = d + a cos(pi/(n+1))", 0, 1e-12, (norms - t * np.log(radius)[:, None]).max() - np.log(2),
         "at_most"),
        ("least of max_t ln ||W^t|| over Kreiss' ln K, nats", "Kreiss matrix theorem, lower bound", 0, 1e-12, (peak - K).min(), "at_least"),
        ("largest of max_t ln ||W^t|| over ln(e n K), nats", "Spijker 1991: the upper bound e n K", 0, 1e-12,
         (peak - K - 1 - np.log(n)).max(), "at_most"),
        # the next order is leak times ||A||^2 / 2, and ||A|| < 1 - d + a
        ("ln sigma_1 of one leaky step over the leak: error of the numerical abscissa, 1/time constant",
         "derived: d - 1 + a cos(pi/(n+1))", 0, config["leaks"][0] * (1 - d + config["couplings"][-1]) ** 2,
         data["growth_rate"][0] - data["growth_rate_theory"], "equal"),
        ("mean square of the gradients over ||W^t||_F^2, all times: largest deviation in standard errors",
         "derived: Gaussian cotangents", 0, 5, np.abs((found - 1) / se).max(), "at_most"),
        # the state stays below eps e^peak, and each of the 200 steps loses less than n times its square
        ("tanh network from a start of 1e-15: worst distance from the linear transient, nats", "derived: third order of tanh", 0,
         200 * n * (config["amplitudes"][0] * np.exp(peak[steep])) ** 2, np.abs(data["growth_saturated"][0] - norms[steep]).max(), "equal"),
        ("Gaussian W and W^2: sigma_1^2 over the edge (t+1)^(t+1)/t^t g^2t, the worst",
         "Fuss-Catalan; Alexeev, Goetze & Tikhomirov 2010", 1, 0.2, far(edge), "equal"),
        ("Gaussian W and W^2: second moment over t + 1, the worst", "Fuss-Catalan: m2 / m1^2 = t + 1", 1, 0.1,
         far(moment), "equal"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
