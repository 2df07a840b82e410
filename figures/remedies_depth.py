"""Remedies for deep networks of digits, compared."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "remedies_depth"
CAPTION = """
Deep networks learn the handwritten digits of scikit-learn by SGD: 60 layers of 64 units and 400 updates (full profile:
100, 100 and 1000), rate 0.02, batches of 50; the same batches and as many seeds for every row, nothing tuned for a row;
tanh units where nothing else is said. Gray: chance; outputs that are not finite are wrong, which puts networks that
explode at 0. (a) Held-out accuracy after training, all seeds. (b) Growth of the gradient from the last layer to the
first before training, ln of the ratio of its norms: negative where it vanishes, positive where it explodes. (c) 100 plain layers with orthogonal weights times a gain, accuracy of all seeds; dotted: the
edge of chaos, gain 1 for tanh and the square root of 2 for ReLU. tanh networks train around it. Plain ReLU networks of
this depth train at no gain within this budget, though their gradients keep their length at the edge: there all inputs
have become parallel. (d) BatchNorm before ReLU without residual connections against depth: squared gradients grow by
e^xi a layer (xi from theory at this batch), and beyond 16/xi layers (dotted) training fails.
"""

OPEN = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Two panels of rows, two of sweeps, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.95, 2, 2)
    rows(axes[0, 0], data["remedy_accuracy"], config["remedies"], "held-out accuracy")
    axes[0, 0].axvline(0.1, color="0.7", linewidth=0.6, zorder=0)
    axes[0, 0].set_xlim(0, 1.02)
    growth = data["remedy_log_norm"][..., 0] - data["remedy_log_norm"][..., -1]
    rows(
        axes[0, 1],
        growth,
        config["remedies"],
        r"$\ln(\Vert\partial E/\partial h_1\Vert/\Vert\partial E/\partial h_L\Vert)$",
    )
    axes[0, 1].axvline(0, color="0.7", linewidth=0.6, zorder=0)
    sweep(axes[1, 0], data, config)
    depths(axes[1, 1], data, config)
    for letter, ax in zip("abcd", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def rows(ax: Any, values: np.ndarray, names: list[str], label: str) -> None:
    """All seeds of every row."""
    for k, runs in enumerate(values):
        y = np.full(len(runs), len(values) - 1 - k) + np.linspace(0.15, -0.15, len(runs))
        ax.plot(runs, y, color=BLUE if k % 2 else DARK, marker="o", **OPEN)
    ax.set_yticks(range(len(names)), names[::-1])
    ax.tick_params(axis="y", which="minor", left=False)
    ax.set(xlabel=label, ylabel="network", ylim=(-0.6, len(names) - 0.4))


def sweep(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Accuracy against the gain."""
    for name, label, color, marker, edge in (("tanh", "tanh", DARK, "o", 1), ("relu", "ReLU", RED, "s", 2**0.5)):
        gains, runs = np.array(config[f"{name}_gains"]), data[f"{name}_accuracy"]
        ax.plot(gains, runs.mean(axis=1), color=color, marker="none", linewidth=0.8, zorder=1)
        for k in range(runs.shape[1]):
            ax.plot(gains, runs[:, k], color=color, marker=marker, label=None if k else label, **OPEN)
        ax.axvline(edge, color=color, linestyle=":", linewidth=0.8, zorder=0)
    ax.axhline(0.1, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlabel="gain of the weights", ylabel="held-out accuracy", ylim=(0, 1.02))
    ax.legend(loc="center right", handlelength=1)


def depths(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Accuracy against depth."""
    runs = data["norm_accuracy"]
    ax.plot(config["norm_depths"], runs.mean(axis=1), color=DARK, marker="none", linewidth=0.8, zorder=1)
    for k in range(runs.shape[1]):
        ax.plot(config["norm_depths"], runs[:, k], color=DARK, marker="o", **OPEN)
    ax.axvline(16 / data["norm_log_rate"], color=DARK, linestyle=":", linewidth=0.8, zorder=0)
    ax.axhline(0.1, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xscale="log", xlabel="layers", ylabel="held-out accuracy", ylim=(0, 1.02))
    ax.set_xticks(config["norm_depths"], [str(d) for d in config["norm_depths"]])
    ax.minorticks_off()


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """What trains, what does not, and the gradient that says so beforehand."""
    mean = dict(zip(config["remedies"], data["remedy_accuracy"].mean(axis=1), strict=True))
    log_norms = dict(zip(config["remedies"], data["remedy_log_norm"], strict=True))
    at = lambda name, gain: data[f"{name}_accuracy"][int(np.argmin(np.abs(np.array(config[f"{name}_gains"]) - gain)))]
    far = lambda name: max(data[f"{name}_accuracy"].mean(axis=1)[[0, -1]])
    runs = log_norms.get("BatchNorm before ReLU", log_norms[config["remedies"][0]])
    inner = np.arange(runs.shape[1])[min(4, runs.shape[1] // 4) : -min(4, runs.shape[1] // 4) or None]
    slope = -2 * np.polyfit(inner, runs.mean(axis=0)[inner], 1)[0]
    norms = data["relu_log_norm"].mean(axis=1)
    relu = (
        (norms[:, 0] - norms[:, -1])
        / (norms.shape[1] - 1)
        / np.log2(config["relu_gains"][-1] / config["relu_gains"][0])
    )
    get = lambda name: mean.get(name, np.nan)
    rows = [
        ("orthogonal tanh layers at gain 1 train", "Saxe et al. 2014; Pennington et al. 2017", 0.8, 0, get("plain, orthogonal"), "at_least"),
        ("residual ReLU layers train", "He et al. 2016", 0.8, 0, get("residual ReLU"), "at_least"),
        ("SkipInit trains without normalization", "De & Smith 2020", 0.8, 0, get("SkipInit ReLU"), "at_least"),
        ("BatchNorm without residual connections fails at this depth", "Yang et al. 2019", 0.5, 0, get("BatchNorm before ReLU"), "at_most"),
        ("BatchNorm with residual connections trains", "De & Smith 2020", 0.8, 0, get("residual, BatchNorm"), "at_least"),
        ("BatchNorm before ReLU: growth of the squared gradient a layer / theory, ln", "Yang et al. 2019, theorem 8", 1, 0.1,
         slope / data["norm_log_rate"], "equal"),
        ("BatchNorm: accuracy at the least depth minus that at the greatest", "trainable to about 16 / xi layers", 0.5, 0,
         data["norm_accuracy"].mean(axis=1)[0] - data["norm_accuracy"].mean(axis=1)[-1], "at_least"),
        ("100 tanh layers: accuracy at gain 1 minus the better end of the sweep", "Schoenholz et al. 2017", 0.3, 0,
         at("tanh", 1.0).mean() - far("tanh"), "at_least"),
        ("100 ReLU layers: ln of the gradient's growth from gain 1 to gain 2, a layer", "homogeneous: ln 2", np.log(2), 0.01,
         relu[-1] - relu[0], "equal"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
