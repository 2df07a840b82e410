"""Residual networks at initialization: one spectral law for all activations, and the growth that BatchNorm tames."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "residual_universality"
CAPTION = """
Residual networks x' = x + s V phi(W x) of 100 layers at initialization (200 units, Gaussian weights V, W of variance 1/n), with
linear, ReLU and tanh branches. The branch scale s is set by mean-field theory so that c, the sum over layers of the mean
squared singular values of the branch Jacobians, is the same. (a) Distribution of the log singular values of J, the product of
all I + A_l, at three c: one network each (marks, every 18th value) on the law z G - 1 = G exp(c (2 z G - 1)) of Tarnowski et
al. (lines). (b) First moment of the squared singular values against e^c, and (c) their relative variance m2 / m1^2 - 1
against 2 c. (d) Largest and smallest singular value: edges of the law (lines; the two are inverse to each other) and one
network each; dotted: where the mean of the largest lies at this width (Tracy-Widom). (e) Variance of the state of a ReLU
network, E x^2, without normalization (2^l), with BatchNorm on the branch (l + 1) and with branches times 0 (SkipInit):
theory (lines), mean of 16 networks with their standard deviation (marks). (f) Their squared gradient norms, from the
output to layer l: 2^(L-l), the product of
1 + 1 / (1 + (1 - 1/pi) k) over k = l ... L - 1 (BatchNorm divides by the variance over the batch, which grows more slowly than
E x^2), and 1.
"""

MARK = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "linestyle": "-", "zorder": 1}
DARK, BLUE, RED = plotting.COLORS[:3]
LOOKS = tuple(zip((DARK, BLUE, RED), "os^", strict=True))
NAMES = {"linear": "linear", "relu": "ReLU", "tanh": "tanh"}
TRACY_WIDOM = -1.2065335745820
"""Mean of the Tracy-Widom law of real matrices; its deviation is 1.2680."""


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    panels = (distribution, first_moment, spread, edges, variance, gradient)
    for letter, ax, panel in zip("abcdef", axes.flat, panels, strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def distribution(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Sorted log singular values on the law, at the smallest, a middle and the largest c."""
    n = data["logs"].shape[-1]
    for shown, i in enumerate(sorted({0, len(config["strengths"]) // 2, len(config["strengths"]) - 1})):
        x = data["law_log_x"][i] / 2
        ax.plot(x, data["law_cumulative"][i], color=("0.75", "0.55", "0.3")[shown], **LINE,
                label=f"$c={config['strengths'][i]:g}$")  # fmt: skip
        for j, (name, (color, marker)) in enumerate(zip(config["activations"], LOOKS, strict=True)):
            ranks = np.arange(n)[:: max(1, n // 11)] + 2 * j
            ranks = ranks[ranks < n]
            ax.plot(data["logs"][i, j, ranks], 1 - (ranks + 0.5) / n, color=color, marker=marker,
                    label=None if shown else NAMES[name], **(MARK | {"markersize": 2.6}))  # fmt: skip
    ax.set(xlabel=r"$\ln\,\sigma$ (nats)", ylabel="share of singular values below", ylim=(-0.02, 1.04))
    ax.legend(loc="upper left", handlelength=1, borderaxespad=0, labelspacing=0.25)


def first_moment(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln m1 = c."""
    on_line(ax, data, config, np.log(moments(data)[0]), data["curve"], r"$\ln\,m_1$ (nats)")


def spread(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """m2 / m1^2 - 1 = 2 c."""
    on_line(ax, data, config, moments(data)[1], 2 * data["curve"], r"$m_2/m_1^2-1$")


def on_line(
    ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], found: np.ndarray, line: np.ndarray, label: str
) -> None:
    """One number of every network against c."""
    ax.plot(data["curve"], line, color="0.55", label="theory", **LINE)
    for j, (name, (color, marker)) in enumerate(zip(config["activations"], LOOKS, strict=True)):
        ax.plot(config["strengths"], found[:, j], color=color, marker=marker, label=NAMES[name], **MARK)
    ax.set(xscale="log", yscale="log", xlabel="strength of the branches $c$", ylabel=label)
    ax.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    strengths(ax)
    ax.legend(loc="upper left", handlelength=1)


def edges(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Largest and smallest singular value."""
    for k in range(2):
        ax.plot(
            data["curve"],
            data["curve_log_edges"][:, k] / 2,
            color="0.55",
            label=None if k else "edges of the law",
            **LINE,
        )
    c = np.asarray(config["strengths"])
    for sign in (1, -1):
        label = f"mean at $n={config['width']}$" if sign > 0 else None
        ax.plot(c, sign * finite_edge(data) / 2, color="0.3", linestyle=":", marker="none", label=label)
    for j, (color, marker) in enumerate(LOOKS[: len(config["activations"])]):
        for k in (0, -1):
            ax.plot(c, data["logs"][:, j, k], color=color, marker=marker, **MARK)
    ax.set(
        xscale="log", xlabel="strength of the branches $c$", ylabel=r"$\ln\,\sigma_{\max}$, $\ln\,\sigma_{\min}$ (nats)"
    )
    strengths(ax)
    ax.legend(loc="upper left", handlelength=1.6)


def strengths(ax: Any) -> None:
    """Plain numbers on the axis of c."""
    ax.set_xticks([0.1, 0.3, 1], ["0.1", "0.3", "1"])
    ax.minorticks_off()


def variance(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """E x^2 by layer."""
    by_layer(ax, np.log(data["growth_variance"]), np.log(data["growth_theory_variance"]))
    ax.set(xlabel="layer $l$", ylabel=r"$\ln\,\mathrm{E}\,x_l^2$ (nats)")
    ax.legend(loc="upper left", handlelength=1)


def gradient(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Squared gradient norms by layer."""
    by_layer(ax, data["growth_gradient"], data["growth_theory_gradient"])
    ax.set(xlabel="layer $l$", ylabel=r"$\ln(\|\partial E/\partial x_l\|^2/\|\partial E/\partial x_L\|^2)$ (nats)")
    ax.legend(loc="upper right", handlelength=1)


def by_layer(ax: Any, runs: np.ndarray, theory: np.ndarray) -> None:
    """Means of logs with the spread over networks, and theory."""
    layers = np.arange(theory.shape[1])
    for of_form, line, name, (color, marker) in zip(
        runs, theory, ("plain", "BatchNorm", "SkipInit"), LOOKS, strict=True
    ):
        ax.plot(layers, line, color=color, **LINE)
        ax.errorbar(layers, of_form.mean(axis=0), of_form.std(axis=0, ddof=1), color=color, marker=marker, label=name,
                    elinewidth=0.7, **MARK)  # fmt: skip
    ax.set_xticks(layers[:: max(1, len(layers) // 5)])


def moments(data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """m1 and m2 / m1^2 - 1 of the squared singular values, axes (c, activation)."""
    first, second = np.exp(2 * data["logs"]).mean(axis=-1), np.exp(4 * data["logs"]).mean(axis=-1)
    return first, second / first**2 - 1


def finite_edge(data: dict[str, np.ndarray]) -> np.ndarray:
    """Mean of the largest ln lambda at this width, for every c."""
    return data["law_log_edge"] + TRACY_WIDOM * data["law_edge_scale"]


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Edges: Tracy-Widom fluctuations, four standard errors; SkipInit: rounding of ten norms; the rest about four."""
    c, n, depth = np.asarray(config["strengths"])[:, None], config["width"], config["depth"]
    first, second = moments(data)
    # one layer changes ln tr J J^T by 2 tr(J^T A J) / tr J J^T, of variance 4 (m2 / m1^2) dc / n^2; (1 + c / L)^L falls short
    # of e^c by c^2 / 2 L
    allowed = 4.5 * 2 * np.sqrt(c + c**2) / n + c**2 / (2 * depth)
    two = second / (2 * c)
    ends = np.exp(2 * (data["logs"][..., 0] + data["logs"][..., -1]).mean())
    top = np.exp((2 * data["logs"][..., 0] - finite_edge(data)[:, None]).mean())
    grown = data["growth_variance"].mean(axis=1)[:, -1] / data["growth_theory_variance"][:, -1]
    slope = data["growth_gradient"].mean(axis=1)[:, 0] / np.maximum(data["growth_theory_gradient"][:, 0], 1e-300)
    L, size = config["growth_depth"], f"{first.size} networks"
    tarnowski, de = "Tarnowski et al. 2019", "De & Smith 2020"
    rows = [
        (f"ln m1 = c: worst deviation of {size} (linear, ReLU, tanh) in units of 4.5 standard deviations and c^2 / 2 depth",
         tarnowski, 0, 1, np.max(np.abs(np.log(first) - c) / allowed)),
        (f"m1 / e^c, geometric mean of {size}", tarnowski, 1, 0.02, np.exp((np.log(first) - c).mean())),
        (f"(m2 / m1^2 - 1) / 2c, mean of {size}", tarnowski, 1, 0.1, two.mean()),
        (f"lambda_max over the edge of the law, corrected to n = {n} (Tracy-Widom), geometric mean of {size}",
         tarnowski, 1, 0.06, top),
        (f"lambda_max lambda_min, geometric mean of {size}", tarnowski, 1,
         4 * 1.268 * np.sqrt(2 * (data["law_edge_scale"] ** 2).mean() / first.size), ends),
        (f"Kolmogorov-Smirnov distance to the law, largest of {size}", tarnowski, 0, 0.03, data["law_ks"].max()),
        (f"ReLU without normalization: E x_L^2 / 2^L, L = {L}", de, 1, 0.15, grown[0]),
        (f"BatchNorm on the branch: E x_L^2 / (L + 1), L = {L}", de, 1, 0.05, grown[1]),
        (f"BatchNorm on the branch: ln squared gradient ratio over layers / theory, L = {L}",
         "variance over the batch grows by 1 - 1/pi a layer", 1, 0.04, slope[1]),
        ("SkipInit at initialization: largest change of variance or ln gradient", de, 0, 1e-14,
         max(np.ptp(data["growth_variance"][2], axis=1).max(), np.abs(data["growth_gradient"][2]).max())),
    ]  # fmt: skip
    return claims_of(NAME, rows)
