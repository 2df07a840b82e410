"""Gradient descent on x^4: smoothness that grows with the gradient, and what clipping makes of it."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "smoothness_clipping"
CAPTION = """
Why clipping is faster (Zhang et al. 2020), on f(x) = x^4. (a) The curvature against the slope (circles) has no upper
bound, but it stays below L0 + L1 |f'| (lines) with L0 = 16 / L1^2: f is (16, 1)-smooth, and the line touches at x = 2.
(b) The rate from which gradient descent diverges, by bisection (circles), is 1 / (2 x_0^2) (line): no rate is right for
all starts. (c) Distance from the minimum, from x_0 = 5: rates just below and just above that threshold of 0.02, and the
rate 0.1 clipped by norm at 1, which goes at constant speed at first and then decays as 1 / sqrt(8 eta t) (line).
(d) Sensitivity of the iterate to the start, the log singular value of the product of the updates' Jacobians: on the
threshold x flips its sign for ever, and each update multiplies an error by -5 (line: t ln 5); a clipped update has
Jacobian 1. (e) Updates until |x| <= 0.1 with a quarter of the largest rate, and clipped at the rate 0.1; lines: the
time of the decay, quadratic in the start, and a linear approach before it. (f) 200 random starts, clipped: number of updates
with a clipped gradient, where there are any, against the start (line: (|x_0| - x_c) / (eta c), x_c = (c/4)^(1/3)).
"""

DARK, BLUE, RED = plotting.COLORS[:3]
LINE = {"linestyle": "-", "marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}
LEGEND = {"handlelength": 1.4, "labelspacing": 0.25, "borderaxespad": 0.2}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    panels = (smoothness, threshold, paths, sensitivity, race, starts)
    for letter, ax, panel in zip("abcdef", axes.flat, panels, strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def smoothness(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """|f''| against |f'|."""
    slope = np.geomspace(1e-4, 4e3, 200)
    for L1, color, stroke in zip(config["slopes"], (RED, DARK, BLUE), ("-.", "-", "--"), strict=True):
        label = f"$L_0={16 / L1**2:g}$, $L_1={L1:g}$"
        ax.plot(slope, 16 / L1**2 + L1 * slope, color=color, linestyle=stroke, marker="none", label=label, zorder=1)
    ax.plot(data["smoothness_slope"], data["smoothness_curvature"], color=DARK, marker="o", **MARK)
    ax.set(xscale="log", yscale="log", xlabel="slope $|f^{\\prime}|$", ylabel="curvature $|f^{\\prime\\prime}|$")
    ax.set(xlim=(1e-4, 4e3), ylim=(0.02, 1e5))
    ax.legend(loc="upper left", **LEGEND)


def threshold(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The largest rate against the start."""
    x = np.array(config["starts"])
    ax.plot(x, data["threshold_rate_theory"], color="0.5", label=r"$1/(2x_0^2)$", **LINE)
    ax.plot(x, data["threshold_rate"], color=DARK, marker="o", label="bisection", **MARK)
    ax.set(xscale="log", yscale="log", xlabel="start $x_0$", ylabel=r"largest rate $\eta$")
    ax.legend(loc="lower left", **LEGEND)


def paths(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """|x_t| of three descents."""
    x = data["paths_x"]
    t = np.arange(1, x.shape[1])
    shown = np.unique(np.geomspace(1, len(t), 22).astype(int))
    slow, fast = config["rates"]
    rate = config["clip_rate"]
    late = t[t > 100]
    ax.plot(late, 1 / np.sqrt(8 * rate * late), color="0.5", label=r"$1/\sqrt{8\eta t}$", **LINE)
    labels = (rf"$\eta={slow:g}$", rf"$\eta={fast:g}$", rf"$\eta={rate:g}$, clipped")
    for row, color, marker, label in zip(x, (DARK, RED, BLUE), "os^", labels, strict=True):
        inside = shown[row[shown] < 1e4]
        ax.plot(inside, row[inside], color=color, marker=marker, label=label, **MARK)
    ax.set(xscale="log", yscale="log", xlabel="update $t$", ylabel="distance $|x_t|$", ylim=(6e-3, 3e3))
    ax.legend(loc="upper right", **LEGEND)


def sensitivity(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """ln |dx_t/dx_0| on the threshold, below it, and clipped."""
    t = data["orbit_t"]
    ax.plot(t, t * np.log(5), color="0.5", label=r"$t\,\ln 5$", **LINE)
    labels = ("at the threshold", "a quarter of that rate", "clipped")
    for log, color, marker, label in zip(data["orbit_log"], (RED, DARK, BLUE), "so^", labels, strict=True):
        ax.plot(t, log, color=color, marker=marker, label=label, **MARK)
    ax.set(xlabel="update $t$", ylabel=r"$\ln\,|\partial x_t/\partial x_0|$ (nats)")
    ax.legend(loc="upper left", **LEGEND)


def race(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Updates that the goal takes."""
    x = config["races"]
    for k, (label, color, marker) in enumerate((("a quarter of the largest rate", DARK, "o"), ("clipped", BLUE, "^"))):
        ax.plot(x, data["race_updates_theory"][k], color=color, **LINE)
        ax.plot(x, data["race_updates"][k], color=color, marker=marker, label=label, **MARK)
    ax.set(xscale="log", yscale="log", xlabel="start $x_0$", ylabel=rf"updates to $|x|\leq{config['goal']:g}$")
    ax.set_xticks(x, [f"{v:g}" for v in x])
    ax.minorticks_off()
    ax.legend(loc="upper left", **LEGEND)


def starts(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """How long gradients are clipped."""
    inside = (config["clip_threshold"] / 4) ** (1 / 3)
    x = np.geomspace(1.001 * inside, config["draw_range"][1], 400)
    some = np.flatnonzero(data["draws_updates"])[::4]
    ax.plot(x, approach(x, config), color="0.5", label="closed form", **LINE)
    start, updates = np.abs(data["draws_start"][some]), data["draws_updates"][some]
    ax.plot(start, updates, color=BLUE, marker="^", label="random starts", **MARK)
    ax.set(xscale="log", yscale="log", xlabel="start $|x_0|$", ylabel="clipped updates")
    ax.legend(loc="upper left", **LEGEND)


def approach(x: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Updates whose gradient exceeds the threshold c: they shorten |x| by eta c each."""
    inside = (config["clip_threshold"] / 4) ** (1 / 3)
    return np.maximum(0, np.ceil((np.abs(x) - inside) / (config["clip_rate"] * config["clip_threshold"])))


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Rounding, or the next terms of the law of 1/x^2."""
    zhang = "Zhang et al. 2020, (L0, L1)-smoothness"
    one = config["slopes"].index(1.0)
    below, above, clipped = data["paths_x"]
    clips = approach(data["draws_start"], config)
    off = data["race_updates"] - data["race_updates_theory"]
    # where the clipping ends 1/x^2 is at least 1/x_c^2; it has grown by 8 eta an update since
    left = config["steps"] - clips
    inside = np.minimum(np.abs(data["draws_start"]), (config["clip_threshold"] / 4) ** (1 / 3))
    bound = 1 / np.sqrt(8 * config["clip_rate"] * np.maximum(left - 1, 0) + 1 / inside**2)
    rows = [
        ("x^4 with L1 = 1: the least L0", f"{zhang}; closed form 16 / L1^2", 16, 1e-9, data["smoothness_L0"][one], "equal"),
        ("x^4 with L1 = 1: where it is needed, |x|", "closed form 2 / L1", 2, 1e-9, data["smoothness_at"][one], "equal"),
        ("rate from which descent diverges, x_0 = 5", "closed form 1 / (2 x_0^2)", 0.02, 1e-12,
         data["threshold_rate"][config["starts"].index(5.0)], "equal"),
        ("the same for all starts: worst relative error", "closed form 1 / (2 x_0^2)", 0, 1e-12,
         np.abs(data["threshold_rate"] / data["threshold_rate_theory"] - 1).max(), "equal"),
        ("x_0 = 5, eta = 0.0199: |x| after 2000 updates", "closed form: 0.0199 < 0.02", 1, 0,
         below[-1], "at_most"),
        ("x_0 = 5, eta = 0.0201: |x| after 2000 updates (infinity is stored as 1e300)", "closed form: 0.0201 > 0.02", 1e6, 0,
         above[-1], "at_least"),
        # the orbit is unstable: its rounding, eps 5^t, is in the slope of the last step
        ("on the threshold: error of ln |dx_t/dx_0| = t ln 5, worst t", "derived: 1 - 12 eta x^2 = -5", 0, 1e-8,
         np.abs(data["orbit_log"][0] - data["orbit_t"] * np.log(5)).max(), "equal"),
        ("x_0 = 5, eta = 0.1, clipped at 1: |x| after 2000 updates", "law 1 / sqrt(8 eta t)", 0.025, 0.0005, clipped[-1],
         "equal"),
        # what the series leaves out is the first update, which takes 1/x_0^2 to 4/x_0^2, and rounding to whole updates
        ("worst error of the updates to |x| = 0.1, both laws", f"{zhang}: without clipping the rate is that of the start", 0, 2,
         off.flat[np.argmax(np.abs(off))], "equal"),
        ("random starts: clipped updates other than the closed form, or |x| in the end above its bound",
         "derived: |x| shrinks by eta c, then 1/x^2 grows by 8 eta", 0, 0,
         (data["draws_updates"] != clips).sum() + (data["draws_last"] > bound).sum(), "equal"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
