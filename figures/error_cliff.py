"""The wall in the error surface of one recurrent unit, and descents that meet it."""

from typing import Any

import numpy as np
from scipy.special import expit

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "error_cliff"
CAPTION = """
The wall of Pascanu, Mikolov & Bengio (2013, figure 6): one unit x_t = w s(x_{t-1}) + b with the logistic s, x_0 = 0.5,
T = 50 steps, and the error E = (s(x_T) - 0.7)^2. (a) E over the weight and the bias; dashed: the wall
b = x_0 - w s(x_0), w > 4.26, on which x_0 is an unstable fixed point. (b) Across the wall E jumps between two limits
(lines: the errors of the lower and the upper stable fixed point), the more abruptly the larger w; the distance is on a
logarithmic scale to both sides. (c) The norm of the gradient with respect to (w, b) on the same sections. (d) On the
wall dx_T/dx_0 = (w s'(x_0))^T (line, circles), and the largest gradient near it (squares) grows alike. (e) Two descents
from one start (diamond), learning rate 0.1: without clipping (orange) the first step that sees the wall leaves the
picture; clipped by norm at 0.5 (blue) the descent goes down along the wall. (f) Error in 40 descents from random starts
above the wall, a line each (medians over 25 updates). Those without clipping are thrown to where the unit is saturated,
E = 0.09 or 0.49 (dotted), and no gradient is left to come back.
"""

DARK, BLUE, RED = plotting.COLORS[:3]
LINE = {"linestyle": "-", "marker": "none"}
MARK = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    for letter, ax, panel in zip("abcdef", axes.flat, (surface, across, steepness, growth, walks, errors), strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def wall(w: Any, config: dict[str, Any]) -> Any:
    """b = x_0 - w s(x_0)."""
    return config["start"] - w * expit(config["start"])


def surface(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """E over (w, b), with the wall."""
    mesh = ax.pcolormesh(data["surface_w"], data["surface_b"], data["surface_error"], cmap="cividis", rasterized=True)
    w = np.array([1 / (expit(config["start"]) * expit(-config["start"])), config["window"][1]])
    ax.plot(w, wall(w, config), color="white", linestyle=(0, (4, 3)), marker="none", linewidth=0.9)
    bar = ax.figure.colorbar(mesh, ax=ax, label="error $E$", pad=0.02, aspect=18)
    bar.ax.set_xlabel(" ")
    ax.set(xlabel="weight $w$", ylabel="bias $b$", xlim=config["window"][:2], ylim=config["window"][2:])


def across(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """E against the signed distance from the wall."""
    distance = data["section_distance"]
    for k, w in enumerate(config["slices"]):
        look = {"color": plotting.COLORS[k], "linewidth": 0.8, "zorder": 1}
        ax.plot([-1, 0], np.full(2, data["section_below_theory"][k]), **look, **LINE)
        ax.plot([0, 1], np.full(2, data["section_above_theory"][k]), **look, **LINE)
        E = data["section_error"][k]
        ax.plot(distance[k::3], E[k::3], color=plotting.COLORS[k], marker="os^"[k], label=f"$w={w:g}$", **MARK)
    ax.set(ylabel="error $E$", ylim=(-0.02, 0.52))
    both_sides(ax)
    ax.legend(loc="upper right", handlelength=1, labelspacing=0.2, borderaxespad=0)


def steepness(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln ||grad E|| against the signed distance from the wall."""
    for k, w in enumerate(config["slices"]):
        look = MARK | {"linestyle": "-", "linewidth": 0.7, "markersize": 2.4, "markevery": 2}
        ax.plot(
            data["section_distance"], data["section_log_gradient"][k], color=plotting.COLORS[k], marker="os^"[k],
            label=f"$w={w:g}$", **look,
        )  # fmt: skip
    ax.set(ylabel=r"$\ln\,\Vert\nabla E\Vert$ (nats)")
    both_sides(ax)
    ax.legend(loc="upper right", handlelength=1, labelspacing=0.2, borderaxespad=0)


def both_sides(ax: Any) -> None:
    """The distance from the wall, logarithmic to both sides."""
    ax.set_xscale("symlog", linthresh=1e-13, linscale=0.5)
    ax.set_xticks([-1, -1e-6, 0, 1e-6, 1], ["$-1$", "$-10^{-6}$", "$0$", "$10^{-6}$", "$1$"])
    ax.minorticks_off()
    ax.set_xlabel("distance in $b$ from the wall")


def growth(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln dx_T/dx_0 on the wall, and the largest gradient near it."""
    w = np.array(config["ridge"])
    ax.plot(w, data["ridge_amplified_theory"], color=DARK, label=r"$T\,\ln(w\,s^\prime(x_0))$", **LINE)
    label = r"$\ln\,\partial x_T/\partial x_0$ on the wall"
    ax.plot(w, data["ridge_amplified"], color=DARK, marker="o", label=label, **MARK)
    ax.plot(w, data["ridge_largest"], color=RED, marker="s", label=r"$\max_b\,\ln\Vert\nabla E\Vert$", **MARK)
    ax.set(xlabel="weight $w$", ylabel="log size (nats)", ylim=(0, 34))
    ax.legend(loc="upper left", handlelength=1.4, labelspacing=0.2, borderaxespad=0)


def walks(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The descents from the first start whose plain one leaves the window, that one up to where it does."""
    w, b, outside = data["descent_w"], data["descent_b"], left(data, config)
    k = int(np.argmax(outside[0].any(axis=-1)))
    stop = int(np.argmax(outside[0, k])) + 1
    line = np.array([4.2, 7.2])
    ax.plot(line, wall(line, config), color="0.5", linestyle=(0, (4, 3)), marker="none", label="wall")
    ax.plot(w[1, k], b[1, k], color=BLUE, linewidth=0.7, label="clipped", **LINE)
    ax.plot(w[0, k, :stop], b[0, k, :stop], color=RED, linewidth=1.3, label="not clipped", **LINE)
    ax.plot(w[0, k, :1], b[0, k, :1], color=DARK, marker="D", markersize=4, linestyle="none", zorder=4)
    ax.set(xlabel="weight $w$", ylabel="bias $b$", xlim=(4.1, 7.2), ylim=(-4.2, -1.2))
    ax.legend(loc="upper right", handlelength=1.4, labelspacing=0.2, borderaxespad=0)


def errors(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """E of all descents against the number of updates."""
    block = min(25, data["descent_error"].shape[-1] // 2)
    blocks = data["descent_error"].shape[-1] // block
    E = np.median(data["descent_error"][..., : block * blocks].reshape(2, -1, blocks, block), axis=-1)
    for value in (config["target"], 1 - config["target"]):
        ax.axhline(value**2, color="0.4", linestyle=":", marker="none", linewidth=0.9)
    for runs, color, label in zip(E, (RED, BLUE), ("not clipped", "clipped"), strict=True):
        lines = ax.plot(block * (np.arange(blocks) + 0.5), runs.T, color=color, linewidth=0.6, alpha=0.6, **LINE)
        lines[0].set_label(label)
    ax.set(yscale="log", xlabel="update", ylabel="error $E$", ylim=(1e-6, 1))
    ax.legend(loc="lower left", handlelength=1.4, labelspacing=0.2, borderaxespad=0)


def left(data: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    """Where a descent is outside the window, (2, starts, updates + 1)."""
    w0, w1, b0, b1 = config["window"]
    w, b = data["descent_w"], data["descent_b"]
    return (w < w0) | (w > w1) | (b < b0) | (b > b1)


def settled(w: np.ndarray, b: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """||grad E|| for T -> infinity at the fixed point x = w s(x) + b: 2 (s - y) s' / (1 - w s') times (s, 1)."""
    x = np.zeros(np.broadcast_shapes(w.shape, b.shape))
    for _ in range(200):
        x = w * expit(x) + b
    s = expit(x)
    return np.abs(2 * (s - config["target"]) * s * (1 - s) / (1 - w * s * (1 - s))) * np.hypot(s, 1)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Published numbers with their printed digits; derived ones with the rounding that the wall amplifies."""
    paper = "Pascanu et al. 2013, eq. (8) and figure 6"
    slice_ = config["slices"].index(6.0)
    below, above = (np.interp(d, data["section_distance"], data["section_error"][slice_]) for d in (-1e-4, 1e-4))
    six = config["ridge"].index(6.0)
    tame = data["surface_w"] <= 2  # where the start is forgotten to 2^-50 after 50 steps
    gradient = np.exp(data["surface_log_gradient"][:, tame])
    fixed = settled(data["surface_w"][tame], data["surface_b"][:, None], config)
    step = np.hypot(np.diff(data["descent_w"][1]), np.diff(data["descent_b"][1])).max()
    escaped = left(data, config).any(axis=-1).mean(axis=1)
    rows = [
        ("largest error over 0 <= w <= 8, -4 <= b <= 1", f"{paper}, recomputed", 0.465, 0.002, data["surface_error"].max(), "equal"),
        ("w = 6: error just below the wall (lower fixed point)", f"{paper}, recomputed", 0.4217, 0.002, below, "equal"),
        ("w = 6: error just above the wall (upper fixed point)", f"{paper}, recomputed", 0.0375, 0.002, above, "equal"),
        ("largest distance of the gradient's ridge from b = x_0 - w s(x_0), in widths (w s')^-T of the wall",
         "derived: x_0 is the unstable fixed point", 0, 1, np.abs(data["ridge_offset"] / data["ridge_width"]).max(), "equal"),
        # b is rounded, and the wall amplifies that: eps |b| (w s')^T / (w s' - 1)^2 = 1.4e-4 at w = 7
        ("ln dx_T/dx_0 on the wall: worst error of T ln(w s'(x_0)), nats", "derived: (w s'(x_0))^T", 0, 2e-4,
         np.abs(data["ridge_amplified"] - data["ridge_amplified_theory"]).max(), "equal"),
        ("w = 6: largest gradient across the wall", f"{paper}, recomputed with one digit", 2e7, 0.5e7,
         np.exp(data["ridge_largest"][six]), "equal"),
        ("w <= 2: worst error of ||grad E||", "implicit derivative of the fixed point", 0, 1e-12,
         np.abs(gradient - fixed).max(), "equal"),
        ("not clipped: share of the descents that leave the window", f"{paper}: solid and dashed lines", 0.4, 0, escaped[0],
         "at_least"),
        ("clipped: longest step, at most rate times threshold", "Pascanu et al. 2013, algorithm 1",
         config["rate"] * config["threshold"], 1e-12, step, "at_most"),
        ("clipped: largest error after the last update", f"{paper}: clipping stays near the wall", 0, 0.01,
         data["descent_error"][1, :, -1].max(), "at_most"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
