"""Batch normalization makes gradients explode over depth: the rate against the batch, and what does not explode."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "batchnorm_explosion"
CAPTION = """
Gradients over the depth of random fully connected networks of 400 units without biases, measured at initialization
(marks) and predicted for infinite width (lines; Yang et al. 2019). Rates are of the squared norm ||dE/dh_l||^2 per
layer, from the output to the input; the first and last four layers are left out of the fits; bars: four standard errors
over the draws. (a) With batch normalization of the pre-activations gradients explode in every network, the faster the
smaller the batch B; no initial scale of the weights can change it. Dotted: pi/(pi-1), ReLU at large B. (b) The logs
of the squared norms, means over the draws, with straight lines of the predicted rates. (c) ReLU networks with BatchNorm, with
LayerNorm, with none (both at rate 1), and with BatchNorm on residual branches only (De & Smith 2020): the variance over
the batch grows as 1 + (1 - 1/pi) l, and gradients with a power of the depth, not exponentially; line: the product of
1 + 1/[1 + (1 - 1/pi) l]. (d) Mean cosine of the states of two examples behind BatchNorm and ReLU: the batch is driven
to J(-1/(B-1)) (line), whatever it was.
"""

MARK = {"linestyle": "none", "markersize": 3.6, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "linestyle": "-", "zorder": 2}
LOOKS = {"relu": (plotting.COLORS[0], "o"), "tanh": (plotting.COLORS[1], "s"), "linear": (plotting.COLORS[2], "^")}
NAMES = {"relu": "ReLU", "tanh": "tanh", "linear": "linear"}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Four panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.62, 2, 2)
    for letter, ax, panel in zip("abcd", axes.flat, (rates, depths, remedies, similarity), strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def find(config: dict[str, Any], kind: str, name: str) -> list[tuple[int, int]]:
    """Indices and batches of the cases of one kind."""
    return [(i, case[2]) for i, case in enumerate(config["cases"]) if case[:2] == [kind, name]]


def slopes(data: dict[str, np.ndarray], config: dict[str, Any], i: int) -> tuple[float, float]:
    """ln of the rate of case i, and its standard error over the draws."""
    skip = config["skip"]
    logs = 2 * data[f"norms_{i}"][:, skip : config["depth"] + 1 - skip]
    found = -np.polyfit(np.arange(logs.shape[1]), logs.T, 1)[0]
    return found.mean(), found.std(ddof=1) / np.sqrt(len(found))


def rates(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Rate against batch."""
    for name, (color, marker) in LOOKS.items():
        ax.plot(data["curve_batch"], data[f"curve_{name}"], color=color, **LINE)
        cases = find(config, "batch", name)
        log, error = np.array([slopes(data, config, i) for i, _ in cases]).T
        B = [batch for _, batch in cases]
        ax.errorbar(
            B, np.exp(log), 4 * error * np.exp(log), color=color, fmt=marker, label=NAMES[name], **MARK, elinewidth=0.8
        )
    ax.axhline(data["large_theory"], color="0.5", linestyle=":", linewidth=0.9, zorder=0)
    ax.set(
        xscale="log", xlabel="batch $B$ (examples)", ylabel=r"growth of $\Vert\partial E/\partial h_l\Vert^2$ per layer"
    )
    ax.set_ylim(0.97, 2.1)
    ax.set_xticks([8, 16, 64, 256], ["8", "16", "64", "256"])
    ax.minorticks_off()
    ax.legend(loc="upper right", title="BatchNorm and", handlelength=1.2)


def logs(data: dict[str, np.ndarray], i: int) -> np.ndarray:
    """Mean over draws of ln ||dE/dh_l||^2, from 0 at the output."""
    mean = 2 * data[f"norms_{i}"].mean(axis=0)
    return mean - mean[-1]


def depths(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Log squared norms of ReLU networks with BatchNorm, all batches."""
    layer = np.arange(config["depth"] + 1)
    for k, (i, B) in enumerate(find(config, "batch", "relu")):
        color, marker = plotting.COLORS[k], "os^D"[k]
        line(ax, layer, logs(data, i), np.log(data["rate_theory"][i]), color)
        ax.plot(layer[::2], logs(data, i)[::2], color=color, marker=marker, label=f"$B={B}$", **MARK)
    ax.set(xlabel="layer $l$", ylabel=r"$\ln\,\Vert\partial E/\partial h_l\Vert^2/\Vert\partial E/\partial h_L\Vert^2$")
    ax.legend(loc="upper right", handlelength=1.2)


def line(ax: Any, layer: np.ndarray, measured: np.ndarray, rate: float, color: str) -> None:
    """A line of the predicted slope through the middle of what was measured."""
    middle = len(layer) // 2
    ax.plot(layer, measured[middle] - rate * (layer - middle), color=color, **LINE)


def residual_growth(depth: int) -> np.ndarray:
    """ln of prod_{j >= l} 1 + 1/(1 + (1 - 1/pi) j) at l = 0 ... depth, large batch.

    Each branch adds W phi(z) of E phi'^2 = 1 and of variance over the batch 2 Var phi(z) = 1 - 1/pi.
    """
    growth = np.log1p(1 / (1 + (1 - 1 / np.pi) * np.arange(depth)))
    return np.append(np.cumsum(growth[::-1])[::-1], 0.0)


def remedies(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """BatchNorm beside what does not explode."""
    layer = np.arange(config["depth"] + 1)
    shown = (
        ("batch", "BatchNorm, $B=16$"),
        ("residual", "BatchNorm in branches"),
        ("layer", "LayerNorm"),
        ("none", "none"),
    )
    for k, (kind, label) in enumerate(shown):
        color, marker = plotting.COLORS[k], "os^D"[k]
        i = find(config, kind, "relu")[1 if kind == "batch" else 0][0]
        if kind == "residual":
            ax.plot(layer, residual_growth(config["depth"]), color=color, **LINE)
        else:
            line(ax, layer, logs(data, i), np.log(data["rate_theory"][i]), color)
        first = 1 if kind == "none" else 0
        ax.plot(layer[first::2], logs(data, i)[first::2], color=color, marker=marker, label=label, **MARK)
    ax.set(xlabel="layer $l$", ylabel=r"$\ln\,\Vert\partial E/\partial h_l\Vert^2/\Vert\partial E/\partial h_L\Vert^2$")
    ax.legend(loc="upper right", handlelength=1.2)


def fixed_similarity(B: Any) -> Any:
    """J(-1/(B-1)), J(c) = (sqrt(1-c^2) + (pi - arccos c) c)/pi."""
    c = -1 / (B - 1)
    return (np.sqrt(1 - c**2) + (np.pi - np.arccos(c)) * c) / np.pi


def similarity(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Mean cosine of two examples over depth."""
    layer = np.arange(config["depth"] + 1)
    for k, (i, B) in enumerate(find(config, "batch", "relu")):
        color, marker = plotting.COLORS[k], "os^D"[k]
        ax.axhline(fixed_similarity(B), color=color, linewidth=1.1, zorder=2)
        ax.plot(
            layer[::2], data[f"similarity_{i}"].mean(axis=0)[::2], color=color, marker=marker, label=f"$B={B}$", **MARK
        )
    ax.set(xlabel="layer $l$", ylabel="cosine of two examples")
    ax.legend(loc="lower right", handlelength=1.2, ncol=2)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """The rates, and the two that do not explode."""
    rate = {tuple(case[:3]): np.exp(slopes(data, config, i)[0]) for i, case in enumerate(config["cases"])}
    theory = {tuple(case[:3]): data["rate_theory"][i] for i, case in enumerate(config["cases"])}
    only = lambda kind, name, which=0: (kind, name, find(config, kind, name)[which][1])
    relu = find(config, "batch", "relu")
    large, small, slow = only("batch", "relu", -1), only("batch", "linear"), only("batch", "tanh", -1)
    growth = logs(data, find(config, "residual", "relu")[0][0])[0]
    rows = [
        (f"ReLU, BatchNorm, case {k + 1}: rate at B = {B}", "Yang et al. 2019, theorem 8",
         theory["batch", "relu", B], 0.02 * theory["batch", "relu", B], rate["batch", "relu", B])
        for k, (_, B) in enumerate(relu)
    ] + [
        ("ReLU, BatchNorm, largest batch: rate", "Yang et al. 2019: pi/(pi - 1) at B -> infinity",
         np.pi / (np.pi - 1), 0.015 * np.pi / (np.pi - 1), rate[large]),
        (f"linear, BatchNorm: rate at B = {small[2]}", "Yang et al. 2019: (B - 2)/(B - 3)",
         (small[2] - 2) / (small[2] - 3), 0.02 * (small[2] - 2) / (small[2] - 3), rate[small]),
        (f"tanh, BatchNorm: rate at B = {slow[2]}", "Yang et al. 2019, integrals on the sphere",
         theory[slow], 0.02 * theory[slow], rate[slow]),
        ("ReLU, LayerNorm: rate", "<phi'^2>/<phi^2> at unit variance: 1", 1, 0.02, rate[only("layer", "relu")]),
        (f"cosine of two examples at B = {relu[0][1]}", "Yang et al. 2019, theorem 5: J(-1/(B-1))",
         fixed_similarity(relu[0][1]), 0.01, data[f"similarity_{relu[0][0]}"][:, config["skip"] :].mean()),
        ("BatchNorm in residual branches: ln growth over the depth / predicted", "De & Smith 2020; Var relu = (1 - 1/pi)/2",
         1, 0.05, growth / residual_growth(config["depth"])[0]),
    ]  # fmt: skip
    return claims_of(NAME, rows)
