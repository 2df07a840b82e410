"""Remedies for recurrent networks, compared."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "remedies_time"
CAPTION = """
Fifteen remedies for networks over time at the same data, budget and seeds: 50 units, plain SGD at rate 0.1 on batches of
20, 1000 updates of sequences of 20 steps (full profile: 8000 of 50 steps), five seeds; every row differs from "none" (tanh
units, Gaussian weights of variance 1/n, nothing clipped) by what its name says, and nothing is tuned for a row. A row
without gradients (CMA-ES) gets as many forward passes as the others, a gradient counted as three. (a) Temporal order and
(b) the adding problem: held-out loss in units of the trivial predictor's, all seeds; dotted: the predictor that has seen
no input; filled: solved on the way by the rule of the task; crosses: explosions (at 20 if larger). (c) Temporal order: how fast the
gradient decays on its way back, the slope of ln of its norm against time, before (open) and after (filled) training,
mean of the seeds; zero is a gradient that arrives whole. (d) Digits pixel by pixel (64 steps), held-out accuracy after
600 updates (full profile: 3000), all seeds; gray: chance; networks that explode stand at 0. Rows that fail are shown as
they are. Without clipping, rounding decides: the same seeds, compiled in another way, were solved by other unclipped rows.
"""

OPEN = {"linestyle": "none", "markersize": 3.4, "zorder": 3}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
EDGE = 20.0
"""Larger losses are drawn here."""


def draw(data: dict[str, np.ndarray], _: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Four panels of rows, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.95, 2, 2)
    losses(axes[0, 0], data, "temporal_order")
    losses(axes[0, 1], data, "adding")
    slopes(axes[1, 0], data)
    digits(axes[1, 1], data)
    for letter, ax in zip("abcd", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data)


def names(ax: Any, data: dict[str, np.ndarray], task: str) -> np.ndarray:
    """The names of the rows on the axis, and their heights."""
    found = data[f"{task}_remedy"]
    heights = np.arange(len(found))[::-1]
    ax.set_yticks(heights, [name.replace(",", ", ") for name in found])
    ax.tick_params(axis="y", which="minor", left=False)
    ax.set(ylabel="remedy", ylim=(-0.6, len(found) - 0.4))
    return heights


def losses(ax: Any, data: dict[str, np.ndarray], task: str) -> None:
    """Loss over that of the trivial predictor."""
    heights = names(ax, data, task)
    loss = data[f"{task}_loss"] / data[f"{task}_baseline"]
    for k, y in enumerate(heights):
        color = BLUE if k % 2 else DARK
        for seed, value in enumerate(loss[k]):
            solved, exploded = data[f"{task}_solved_at"][k, seed] >= 0, data[f"{task}_exploded"][k, seed]
            marker = "x" if exploded else "o"
            height = y + 0.15 - 0.3 * seed / max(1, len(loss[k]) - 1)
            value = min(value, EDGE) if np.isfinite(value) else EDGE
            ax.plot(value, height, color=color, marker=marker, markerfacecolor=color if solved else "white", **OPEN)
    ax.axvline(1, color=DARK, linestyle=":", linewidth=0.8, zorder=0)
    title = task.replace("_", " ")
    low = min(0.01, 0.7 * loss[np.isfinite(loss)].min(initial=1))
    ax.set(xscale="log", xlim=(low, 1.5 * EDGE), xlabel=f"{title}: loss / loss of the trivial predictor")


def slopes(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Decay of the gradient before and after training."""
    heights = names(ax, data, "temporal_order")
    for when, color, face in (("before", RED, "white"), ("after", DARK, DARK)):
        values = data[f"temporal_order_slope_{when}"]
        means = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in values])
        ax.plot(means, heights, color=color, marker="o", markerfacecolor=face, label=f"{when} training", **OPEN)
    ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlabel=r"slope of $\ln\Vert\partial E/\partial h_t\Vert$ (nats/step)")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.12), handlelength=1)


def digits(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Accuracy of digits by pixels."""
    heights = names(ax, data, "digits")
    for k, y in enumerate(heights):
        runs = 1 - data["digits_wrong"][k]
        spread = np.linspace(0.12, -0.12, len(runs))
        ax.plot(runs, y + spread, color=BLUE if k % 2 else DARK, marker="o", markerfacecolor="white", **OPEN)
    ax.axvline(1 - data["digits_chance"], color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlabel="digits by pixels: held-out accuracy", xlim=(0, 1.02))


def claims(data: dict[str, np.ndarray]) -> list[Claim]:
    """What clipping does at the same settings, what gates do, and what the gradient said before training."""
    order = {name: k for k, name in enumerate(data["temporal_order_remedy"])}
    at = lambda task, key, name: np.mean(data[f"{task}_{key}"][order[name]]) if name in order else np.nan
    rate = lambda name: np.mean(data["temporal_order_solved_at"][order[name]] >= 0) if name in order else np.nan
    slope = data["temporal_order_slope_before"][0] + data["temporal_order_exponent_before"][0]
    clip, gated, relu = "clip=norm:1", "lstm,forget_bias=1", "init=identity,activation=relu"
    rows = [
        ("temporal order: success rate with clipping by norm", "Pascanu et al. 2013", 0.8, 0, rate(clip), "at_least"),
        ("temporal order: the same minus that without any remedy, same settings", "Pascanu et al. 2013", 0, 0,
         rate(clip) - rate("none"), "at_least"),
        ("temporal order: success rate of the LSTM with forget bias 1", "Hochreiter & Schmidhuber 1997", 0.8, 0, rate(gated), "at_least"),
        ("temporal order: success rate without gradients at as many passes: no help", "an honest row", 0.2, 0,
         rate("sep_cma_es"), "at_most"),
        ("adding: share of runs that explode without any remedy", "Pascanu et al. 2013", 0.2, 0, at("adding", "exploded", "none"), "at_least"),
        ("adding: share of runs that explode with clipping by norm", "Pascanu et al. 2013", 0, 0, at("adding", "exploded", clip), "at_most"),
        ("adding: share of identity-initialized ReLU networks that explode unclipped", "Le et al. 2015 clip them", 0.8, 0,
         at("adding", "exploded", relu), "at_least"),
        ("adding: least median loss of all remedies / trivial predictor", "variance of the answer, 1/6", 0.9, 0,
         np.nanmin(np.median(data["adding_loss"], axis=1)) / data["adding_baseline"], "at_most"),
        ("before training: decay of the gradient plus the leading exponent, no remedy", "their difference is O(1/T)", 0, 0.05,
         np.mean(slope), "equal"),
        ("the LSTM's gradient decays more slowly before training: ratio of slopes to no remedy", "forget gate near 1", 0.7, 0,
         at("temporal_order", "slope_before", gated) / at("temporal_order", "slope_before", "none"), "at_most"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
