"""Six sayings about remedies, each with a number."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "remedy_claims"
CAPTION = """
What is said of remedies, measured. (a) Distance from the start on Rosenbrock's function (4 dimensions): gradients as
they are (lines) and all multiplied by 0.001 (marks), which is what clipping a gradient of constant norm does. SGD slows
down accordingly; Adam does not notice. (b) Effective learning rate, eta over the squared length of the weights, of SGD
on a scale-invariant loss whose gradient is noise: three rates eta, a factor of 100 apart, become one (marks; lines: the
recursion of the mean squared length). (c) With weight decay lambda such weights turn by an equilibrium angle an update,
root mean square over 100 updates, from lengths 1 (filled) and 10 (open); lines: the square root of 2 eta lambda. (d)
Held-out digits that a network of 4 layers gets right, trained on shuffled batches and on batches of one class at a
time; all seeds. (e) Held-out digits against the scale s of one additional feature of noise, normalized as an example
(over its features) and as features (over examples); all seeds. (f) Squared gradient norms in a random ReLU network at
initialization, BatchNorm before (circles) and after (squares) the activation; line: the growth predicted for before, at
this batch. (g) Relative change of a layer's gradient and (h) its cosine with the old one when the layers below make
their update of SGD first: the internal covariate shift of Santurkar et al.; means over training and over seeds, bars:
the seeds' standard deviation.
"""

OPEN = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "zorder": 2}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Eight panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 1.0, 2, 4)
    panels = (clipping, forgetting, turning, batches, features, order, change, cosine)
    for letter, ax, panel in zip("abcdefgh", axes.flat, panels, strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def clipping(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """SGD and Adam with gradients and with a thousandth of them."""
    for name, color, marker in (("sgd", DARK, "o"), ("adam", RED, "s")):
        whole, small = data[f"clipping_{name}_path"]
        t = np.arange(len(whole))
        ax.plot(t[1:], whole[1:], color=color, label=name.upper() if name == "sgd" else "Adam", **LINE)
        ax.plot(t[10::30], small[10::30], color=color, marker=marker, **OPEN)
    ax.set(yscale="log", xlabel="update", ylabel="distance from the start", ylim=(1e-7, 30))
    ax.legend(loc="lower right")


def forgetting(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Effective rate against the number of updates."""
    for rate, found, theory, color, marker in zip(
        config["rates"], data["forgetting_effective"], data["forgetting_theory"], (DARK, BLUE, RED), "os^", strict=True
    ):
        t = np.unique(np.geomspace(1, len(found) - 1, 12).astype(int))
        ax.plot(np.arange(1, len(theory)), theory[1:], color=color, **LINE)
        ax.plot(t, found[t], color=color, marker=marker, label=rf"$\eta={rate:g}$", **OPEN)
    ax.set(
        xscale="log", yscale="log", xlabel="update", ylabel=r"effective rate $\eta/\Vert w\Vert^2$", ylim=(2e-5, 0.2)
    )
    ax.legend(loc="lower left", handlelength=1)


def turning(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Angle of an update against the number of updates."""
    updates = 100 * (np.arange(data["turning_angle"].shape[-1]) + 0.5)
    for decay, runs, theory, color in zip(
        config["decays"], data["turning_angle"], data["turning_theory"], (DARK, BLUE, RED), strict=True
    ):
        ax.axhline(theory, color=color, zorder=1)
        for run, face in zip(runs, (color, "white"), strict=True):
            label = rf"$\lambda={decay:g}$" if face == color else None
            ax.plot(updates[::4], run[::4], color=color, marker="o", label=label, **(OPEN | {"markerfacecolor": face}))
    ax.set(yscale="log", xlabel="update", ylabel="angle per update (rad)", ylim=(4e-3, 2))
    ax.legend(loc="upper right", handlelength=1)


def batches(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Accuracy for two normalizations and two orders of the data."""
    for i, (name, color, marker) in enumerate((("BatchNorm", DARK, "o"), ("LayerNorm", RED, "s"))):
        for j in range(2):
            runs = data["batches_accuracy"][i, j]
            x = j + 0.16 * (2 * i - 1) + np.linspace(-0.06, 0.06, len(runs))
            ax.plot(x, runs, color=color, marker=marker, label=name if not j else None, **OPEN)
    ax.axhline(0.1, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlim=(-0.5, 1.5), ylim=(0, 1.05), xlabel="batches", ylabel="held-out accuracy")
    ax.set_xticks([0, 1], ["shuffled", "one class"])
    ax.minorticks_off()
    ax.legend(loc="center left", handlelength=1)


def features(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Accuracy against the scale of the feature that says nothing."""
    for i, (name, color, marker) in enumerate((("example", RED, "s"), ("features", DARK, "o"))):
        runs = data["features_accuracy"][i]
        ax.plot(config["scales"], runs.mean(axis=1), color=color, **LINE)
        for k in range(runs.shape[1]):
            ax.plot(
                config["scales"], runs[:, k], color=color, marker=marker, label=None if k else f"over {name}", **OPEN
            )
    ax.axhline(0.1, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xscale="log", xlabel="scale $s$ of one feature", ylabel="held-out accuracy", ylim=(0, 1.05))
    ax.legend(loc="lower left", title="normalized", handlelength=1)


def order(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Gradient norms over depth."""
    norms = 2 * data["order_log_norm"].mean(axis=1)
    layers = np.arange(1, norms.shape[1] + 1)
    for i, (name, color, marker) in enumerate((("before", DARK, "o"), ("after", RED, "s"))):
        ax.plot(layers, norms[i] - norms[i].mean(), color=color, marker=marker, label=name, **OPEN)
    line = -np.log(data["order_theory"]) * layers
    ax.plot(layers, line - line.mean(), color="0.4", **LINE)
    ax.set(xlabel="layer", ylabel=r"$\ln\Vert\partial E/\partial h_l\Vert^2$ + const")
    ax.legend(loc="lower left")


def change(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Relative change of gradients, by layer."""
    by_layer(ax, data["shift_change"], r"$\Vert G-G'\Vert/\Vert G\Vert$")
    ax.set_ylim(0, None)
    ax.legend(loc="lower left", handlelength=1)


def cosine(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Cosine of gradients, by layer."""
    by_layer(ax, data["shift_cosine"], r"$\cos(G, G')$")
    ax.set_ylim(None, 1)


def by_layer(ax: Any, runs: np.ndarray, label: str) -> None:
    """Means over training, with the spread over seeds; axes (net, seed, time, layer)."""
    layers = np.arange(2, runs.shape[-1] + 2)
    for of_net, name, color, marker in zip(runs, ("plain", "BatchNorm"), (RED, DARK), "so", strict=True):
        means = of_net.mean(axis=1)
        ax.errorbar(layers, means.mean(axis=0), means.std(axis=0, ddof=1), color=color, fmt=marker, label=name, markersize=3.4,
                    markerfacecolor="white", elinewidth=0.8)  # fmt: skip
    ax.set(xlabel="layer", ylabel=label)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """One or two numbers for each saying."""
    angle = data["turning_angle"]
    settled = np.sqrt((angle[:, 0, angle.shape[-1] // 2 :] ** 2).mean(axis=-1)) / data["turning_theory"]
    effective = data["forgetting_effective"][:, -1]
    accuracy, scaled = data["batches_accuracy"].mean(axis=-1), data["features_accuracy"].mean(axis=-1)
    layers = np.arange(data["order_log_norm"].shape[-1])[4:-4]
    slopes = [-np.polyfit(layers, 2 * runs.mean(axis=0)[4:-4], 1)[0] for runs in data["order_log_norm"]]
    shift = data["shift_change"].mean(axis=(1, 2, 3))
    rows = [
        ("SGD clipped at every update, from SGD of rate eta c / ||g||: distance over path", "Pascanu et al. 2013, algorithm 1",
         0, 1e-12, data["clipping_difference"], "at_most"),
        ("Adam on gradients times 0.001, from Adam: distance over path", "Kingma & Ba 2015: invariant to the scale",
         0, 1e-6, data["clipping_adam"], "at_most"),
        ("effective rates of eta = 0.01 ... 1 after training, largest / smallest", "van Laarhoven 2017",
         1, 0.05, effective.max() / effective.min(), "equal"),
        ("angle of an update / sqrt(2 eta lambda), worst of three lambda", "Wan et al. 2021",
         1, 0.02, settled[np.argmax(np.abs(settled - 1))], "equal"),
        ("BatchNorm: accuracy lost to batches of one class", "Ioffe & Szegedy 2015 ask for shuffled batches",
         0.5, 0, accuracy[0, 0] - accuracy[0, 1], "at_least"),
        ("LayerNorm: accuracy lost to batches of one class", "Ba et al. 2016: examples apart",
         0, 0.1, accuracy[1, 0] - accuracy[1, 1], "at_most"),
        (f"normalized over an example: accuracy lost to a feature {config['scales'][-1]:g} times as large", "closed form of LayerNorm",
         0.5, 0, scaled[0, 0] - scaled[0, -1], "at_least"),
        ("BatchNorm before ReLU: measured explosion rate / theory at this batch", "Yang et al. 2019, theorem 8",
         1, 0.02, np.exp(slopes[0]) / data["order_theory"], "equal"),
        ("BatchNorm after ReLU: explosion rate / that of before", "<phi'^2> / Var phi in both orders, large batch",
         1, 0.03, np.exp(slopes[1] - slopes[0]), "equal"),
        ("shift of gradients does not go with BatchNorm: relative change, with it / without", "Ioffe & Szegedy 2015; measure of Santurkar et al. 2018",
         0.5, 0, shift[1] / shift[0], "at_least"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
