"""The bifurcations of one unit: folds, latch and wall."""

from typing import Any

import numpy as np
from scipy.special import expit

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "bifurcations"
CAPTION = """
Attractors of one unit, in theory (lines) and where the unit goes when it is run for 20,000 steps (marks). (a) Fixed
points of x' = 5 s(x) + b with the logistic s (Doya 1993; Pascanu, Mikolov & Bengio 2013, figure 3), stable (solid) and
unstable (dashed); states reached from below (circles) and from above (squares); diamonds: starts between the two
basins, found by bisection. (b) Lyapunov exponent along both branches, ln(w s'(x*)): zero at the folds b = -2.3444 and
-2.6556, which are the only biases at which this unit doesn't forget exponentially. (c) Exponent of a latched unit
a' = tanh(w a - u) (Bengio, Simard & Frasconi 1994) against the opposing input u over its threshold h*: a latch that is
safe has gradients that vanish. (d) The threshold, found by bisection; line: h*(w) = w y - artanh y, y = sqrt(1 - 1/w).
(e) Steps through the narrow passage that a fold leaves behind, against the distance from it in b or u; lines:
pi / sqrt(a delta), a half the second derivative of the map. (f) Error (s(x_T) - 0.7)^2 at the distance 0.0001 in b below
and above the wall b = 0.5 - w s(0.5); lines: its limits at the wall for long times.
"""

DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
LINE = {"linestyle": "-", "marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}
LOOKS = ((DARK, BLUE), "os", ("from below", "from above"))
LEGEND = {"handlelength": 1.4, "labelspacing": 0.25, "borderaxespad": 0.2}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    for letter, ax, panel in zip("abcdef", axes.flat, (states, rates, latched, latch, escapes, wall), strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def fixed_points(config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every x with the b that makes it a fixed point, and its slope w s'(x)."""
    x = np.linspace(-3.5, 3.5, 701)
    return x, x - config["weight"] * expit(x), config["weight"] * expit(x) * expit(-x)


def states(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Fixed points against the bias."""
    x, b, slope = fixed_points(config)
    for part, style in (
        (x < data["folds_state_theory"][0], "-"),
        (slope > 1, "--"),
        (x > -data["folds_state_theory"][0], "-"),
    ):
        ax.plot(b[part], x[part], color="0.5", linestyle=style, marker="none", zorder=1)
    for k, (state, color, marker, label) in enumerate(zip(data["branches_state"], *LOOKS, strict=True)):
        ax.plot(data["branches_b"][k::2], state[k::2], color=color, marker=marker, label=label, **MARK)
    ax.plot(data["basins_b"][::2], data["basins_start"][::2], color=RED, marker="D", label="boundary", **MARK)
    ax.set(xlabel="bias $b$", ylabel="state $x$", xlim=config["biases"][:2], ylim=(-3.2, 4.6))
    ax.legend(loc="upper left", **LEGEND)


def rates(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Exponents against the bias."""
    x, b, slope = fixed_points(config)
    for part in (x < data["folds_state_theory"][0], x > data["folds_state_theory"][1]):
        ax.plot(b[part], np.log(slope[part]), color="0.5", **LINE)
    for k, (rate, color, marker, label) in enumerate(zip(data["branches_exponent"], *LOOKS, strict=True)):
        ax.plot(data["branches_b"][k::2], rate[k::2], color=color, marker=marker, label=label, **MARK)
    for fold in data["folds_bias_theory"]:
        ax.axvline(fold, color="0.7", linestyle=":", marker="none", linewidth=0.8, zorder=0)
    ax.set(xlabel="bias $b$", ylabel=r"exponent $\lambda$ (nats/step)", xlim=config["biases"][:2], ylim=(-1.5, 0.05))
    ax.legend(loc="lower left", **LEGEND)


def latched(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Exponents of the latched unit against its input."""
    weights = np.array(config["latch_weights"])
    for w, color, marker in zip((1.25, 2.0, 5.0), (DARK, BLUE, RED), "os^", strict=True):
        v = np.linspace(np.arctanh(np.sqrt(1 - 1 / w)), w, 400)
        u = (w * np.tanh(v) - v) / (w * np.sqrt(1 - 1 / w) - np.arctanh(np.sqrt(1 - 1 / w)))
        ax.plot(u[u >= 0], np.log(w / np.cosh(v[u >= 0]) ** 2), color=color, **LINE)
        for rate in data["latch_exponent"][weights == w]:
            ax.plot(data["latch_fraction"], rate, color=color, marker=marker, label=f"$w={w:g}$", **MARK)
    ax.set(xlabel="opposing input over threshold, $u/h^*$", ylabel=r"exponent $\lambda$ (nats/step)", ylim=(-7.4, 0.2))
    ax.legend(loc="lower right", **LEGEND)


def latch(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Threshold against the weight."""
    ax.plot(data["latch_curve"], data["latch_curve_theory"], color="0.5", label="$h^*(w)$", **LINE)
    ax.plot(config["latch_weights"], data["latch_input"], color=DARK, marker="o", label="bisection", **MARK)
    ax.set(yscale="log", xlabel="weight $w$", ylabel="input that unlatches", ylim=(0.005, 8))
    ax.legend(loc="lower right", **LEGEND)


def escapes(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Time in the passage against the distance from the fold."""
    delta = data["escapes_delta"]
    for name, time, a, color, marker in zip(
        ("sigmoid", "tanh"), data["escapes_time"], data["escapes_curvature_theory"], (DARK, BLUE), "os", strict=True
    ):
        ax.plot(delta, np.pi / np.sqrt(a * delta), color=color, **LINE)
        ax.plot(delta, time, color=color, marker=marker, label=name, **MARK)
    ax.set(xscale="log", yscale="log", xlabel=r"distance $\delta$ beyond the fold", ylabel="passage (steps)")
    ax.legend(loc="lower left", **LEGEND)


def wall(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Errors on both sides."""
    for k, (label, color, marker) in enumerate((("below the wall", RED, "^"), ("above", GREEN, "D"))):
        ax.plot(data["wall_curve"], data["wall_curve_theory"][k], color=color, **LINE)
        ax.plot(data["wall_w"], data["wall_error"][k], color=color, marker=marker, label=label, **MARK)
    ax.set(xlabel="weight $w$", ylabel="error $E$", ylim=(-0.02, 0.56))
    ax.legend(loc="center right", **LEGEND)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Half of the last printed digit, and what T steps cannot tell from the fold: delta = pi^2 / (a T^2)."""
    blur = lambda a: np.pi**2 / (a * config["steps"] ** 2)
    at_fold, latches = (
        blur(data["escapes_curvature_theory"][0]),
        dict(zip(config["latch_weights"], data["latch_input"], strict=True)),
    )
    count = np.abs(data["attractors_count"] - np.array([1, 2, 1])).sum()
    law = data["escapes_time"][:, 0] * np.sqrt(data["escapes_curvature_theory"] * data["escapes_delta"][0]) / np.pi
    worst = lambda key: np.abs(data[key] - data[f"{key}_theory"]).max()
    doya, bengio = "Doya 1993; Pascanu et al. 2013, figure 3", "Bengio et al. 1994, closed form"
    rows = [
        ("w = 5: bias at which the lower branch ends", doya, -2.344390, 5e-7 + at_fold, data["folds_bias"][0]),
        ("w = 5: bias at which the upper branch ends", doya, -2.655610, 5e-7 + at_fold, data["folds_bias"][1]),
        ("w = 5, b = -2.3, -2.5, -2.7: attractors found are 1, 2, 1; miscounted", doya, 0, 0, count),
        ("w = 5: worst error of the exponents ln(w s'(x*)) along both branches, nats/step", "derived: slope at the fixed point",
         0, 1e-12, worst("branches_exponent")),
        # the last interval in h, halved, over the least s'(x) between the folds, s' = 1/w
        ("w = 5: worst distance of the basins' boundary from the unstable fixed point, in x", doya, 0,
         0.5 * config["weight"] * (config["points"] - 1.0) ** -config["rounds"], worst("basins_start")),
        ("w = 1.25: input that unlatches", bengio, 0.0778052, 5e-8 + blur(np.sqrt(1 - 1 / 1.25)), latches[1.25]),
        ("w = 5: input that unlatches", bengio, 3.0285005, 5e-8 + blur(np.sqrt(1 - 1 / 5)), latches[5.0]),
        ("worst error of the latched exponents ln(w(1 - a^2)), nats/step", "Bengio et al. 1994: latching means vanishing", 0,
         1e-12, worst("latch_exponent")),
        # the ends of the passage lie at finite distances D: 1/(a D) steps less at each, at most 8 in all
        (f"passage at delta = {data['escapes_delta'][0]:g} times sqrt(a delta)/pi, the worse of both units",
         "derived: normal form of a fold", 1, 8 * np.sqrt(0.2236 * data["escapes_delta"][0]) / np.pi, law[np.argmax(np.abs(law - 1))]),
        ("worst error of E at 0.0001 from the wall, both sides", "derived: fixed points beside the wall, figure 6 of Pascanu et al.",
         0, 1e-12, worst("wall_error")),
    ]  # fmt: skip
    return claims_of(NAME, rows)
