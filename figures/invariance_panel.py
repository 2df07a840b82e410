"""Normalization and invariance: what seven layers do not see, and what that does to the gradients."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "invariance_panel"
CAPTION = """
A layer y = N(W, X) with BatchNorm (BN), LayerNorm (LN), RMSNorm (RMS), WeightNorm (WN), cosine normalization (CN),
centered cosine normalization (CCN) or none (W X), 20 units, 16 inputs, 24 examples, epsilon = 0, under seven changes
of the weights or of the data (rows; w_i is a row of W, x_b an example, v a vector, c_i a constant for row i; lambda =
3). Fill: predicted; marks: measured. (a) The output, as in table 1 of Ba et al. (2016), extended. (b), (c) The
gradients of a loss with respect to X and to W, the gradient at the output held fixed: where the output stays, so does
the gradient, but that with respect to what was multiplied by lambda is divided by lambda. WeightNorm and W X are
linear in X, and W X in W: such gradients stay although the output does not. (d) Norm of the weight gradient when all
weights are multiplied by lambda, over six decades: 1 / lambda behind every normalization (one mark in seven each).
(e) The same for the data: WeightNorm does not see their scale in the gradient. (f) With epsilon > 0 the law is broken
by an amount that depends on epsilon / sigma^2 alone (lambda = 10; gradients orthogonal to the normalized vector):
every unit (BN, weights scaled) or example (LN, CN, data scaled) has a variance of its own. Line: ln sqrt((1 + e) / (1
+ e / lambda^2)), e = epsilon / sigma^2; dotted: (1 - 1 / lambda^2) e / 2.
"""

BA_TABLE = {
    "batch": {"weights_scaled", "row_scaled", "data_scaled", "vector_added_to_examples"},
    "weight": {"weights_scaled", "row_scaled"},
    "layer": {"weights_scaled", "vector_added_to_rows", "data_scaled", "example_scaled"},
}
"""Ba, Kiros & Hinton 2016, table 1: what does not change the output."""
BA_COLUMNS = ("weights_scaled", "vector_added_to_rows", "row_scaled", "data_scaled", "vector_added_to_examples",
              "example_scaled")  # fmt: skip

SAME, INVERSE, OTHER = range(3)
SHORT = {"batch": "BN", "layer": "LN", "rms": "RMS", "weight": "WN", "cosine": "CN", "centered_cosine": "CCN",
         "plain": "$WX$"}  # fmt: skip
CHANGES = {
    "weights_scaled": r"$W\to\lambda W$",
    "row_scaled": r"$w_1\to\lambda w_1$",
    "vector_added_to_rows": r"$w_i\to w_i+v$",
    "constant_added_in_rows": r"$w_i\to w_i+c_i$",
    "data_scaled": r"$X\to\lambda X$",
    "example_scaled": r"$x_1\to\lambda x_1$",
    "vector_added_to_examples": r"$x_b\to x_b+v$",
}
QUANTITIES = ("output", r"$\partial L/\partial X$", r"$\partial L/\partial W$")
FILLS = ("white", "#A9CCE8", "0.82")
WORDS = ("unchanged", r"divided by $\lambda$", "changed")
MARKERS = ("o", "v", "x")
MARK = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "linestyle": "-", "color": "0.55", "zorder": 1}
LOOKS = dict(zip(SHORT, zip(plotting.COLORS, "os^DvPX", strict=True), strict=True))


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Three tables, three laws, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.88, 2, 3)
    for k, ax in enumerate(axes[0]):
        table(ax, data, config, k)
    fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncol=3, handletextpad=0.1)
    scaling(axes[1, 0], data, config, "weight_norms", "W")
    scaling(axes[1, 1], data, config, "input_norms", "X")
    epsilon(axes[1, 2], data, config)
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def table(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], k: int) -> None:
    """What happens to a quantity: the prediction as fill, the measurement as a mark."""
    from matplotlib.colors import ListedColormap

    predicted, found = data["predicted"][:, :, k].T, data["classes"][:, :, k].T
    ax.imshow(predicted, cmap=ListedColormap(FILLS), vmin=SAME, vmax=OTHER, aspect="auto")
    for what, marker in enumerate(MARKERS):
        rows, columns = np.nonzero(found == what)
        style = MARK | {"markersize": 3.6, "color": plotting.COLORS[what and 1] if what < OTHER else "0.35"}
        ax.plot(columns, rows, marker=marker, label=WORDS[what], **style)
    ax.set_xticks(range(len(config["normalizations"])), [SHORT[name] for name in config["normalizations"]])
    ax.set_yticks(range(len(config["transformations"])), [CHANGES[name] for name in config["transformations"]])
    ax.tick_params(length=0, labelsize=6.5)
    for edge in np.arange(-0.5, max(predicted.shape)):
        ax.axhline(edge, color="0.6", linewidth=0.4, marker="none", linestyle="-")
        ax.axvline(edge, color="0.6", linewidth=0.4, marker="none", linestyle="-")
    ax.set_title(QUANTITIES[k], pad=4)
    ax.set(xlabel="normalization", ylabel="change")
    if k:
        ax.yaxis.label.set_visible(False)
        ax.set_yticks([])


def scaling(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], key: str, what: str) -> None:
    """Norms of a gradient against lambda, in units of that at 1; every normalization has its own points."""
    factors, names = data["factors"], config["normalizations"]
    ax.plot(factors, 1 / factors, **LINE)
    ax.plot(factors, np.ones_like(factors), **LINE)
    for i, (name, values) in enumerate(zip(names, data[key], strict=True)):
        color, marker = LOOKS[name]
        shown = slice(i, None, len(names))
        ax.plot(factors[shown], values[shown] / values[len(factors) // 2], color=color, marker=marker,
                label=SHORT[name], **MARK)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=rf"$\lambda$, $\;{what}\to\lambda {what}$",
           ylabel=rf"$\Vert\partial L/\partial {what}\Vert$, 1 at $\lambda=1$")  # fmt: skip
    ax.legend(loc="lower left", handlelength=0.8, labelspacing=0.2, borderaxespad=0, ncol=2, columnspacing=0.8)


def epsilon(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The deviation from 1 / lambda against epsilon / sigma^2."""
    factor = config["epsilon_factor"]
    low, high = (config["epsilon"] * 10.0**-power for power in reversed(config["variance_decades"]))
    e = np.geomspace(low, high, 200)
    ax.plot(e, 0.5 * (np.log1p(e) - np.log1p(e / factor**2)), **LINE)
    ax.plot(e, 0.5 * (1 - factor**-2) * e, **(LINE | {"linestyle": ":"}))
    for k, name in enumerate(("batch", "layer", "cosine")):
        color, marker = LOOKS[name]
        x, log_ratio, _ = data[f"epsilon_{name}"][:, k::2]
        ax.plot(x, log_ratio + np.log(factor), color=color, marker=marker, label=SHORT[name], **MARK)
    ax.set(xscale="log", yscale="log", xlabel=r"$\varepsilon/\sigma^2$",
           ylabel=r"deviation from $1/\lambda$ (nats)")  # fmt: skip
    ax.legend(loc="lower right", handlelength=0.8)


def slopes(data: dict[str, np.ndarray], key: str) -> np.ndarray:
    """d ln norm / d ln lambda of every normalization."""
    return np.polyfit(np.log(data["factors"]), np.log(data[key]).T, 1)[0]


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Exact laws, at rounding; the slope of the law in epsilon is off by less than epsilon / sigma^2."""
    kinds, changes = config["normalizations"], config["transformations"]
    classes, predicted = data["classes"], data["predicted"]
    agree = sum(
        (classes[kinds.index(kind), changes.index(name), 0] == SAME) == (name in unchanged)
        for kind, unchanged in BA_TABLE.items()
        for name in BA_COLUMNS
    )
    by_weights, by_data = slopes(data, "weight_norms"), slopes(data, "input_norms")
    normalized = [i for i, kind in enumerate(kinds) if kind != "plain"]
    sees_data = [kinds.index(kind) for kind in ("weight", "plain")]
    others = [i for i in range(len(kinds)) if i not in sees_data]
    rows = [kinds.index(kind) for kind in ("batch", "weight", "cosine", "centered_cosine")]
    examples = [kinds.index(kind) for kind in ("layer", "rms", "cosine", "centered_cosine")]
    with_epsilon = [data[f"epsilon_{kind}"] for kind in ("batch", "layer", "cosine")]
    small = np.concatenate([part[:, part[0] <= 1e-3] for part in with_epsilon], axis=1)
    deviation = small[1] + np.log(config["epsilon_factor"])
    ioffe, ba = "Ioffe & Szegedy 2015, section 3.3", "Ba, Kiros & Hinton 2016, table 1"
    salimans = "Salimans & Kingma 2016: the gradient of v is orthogonal to w"
    return claims_of(NAME, [
        ("BatchNorm, WeightNorm, LayerNorm: entries of the table of invariances that come out as printed", ba, 18, 0, agree),
        (f"outputs and gradients that stay, shrink as 1/lambda or change as predicted, of {predicted.size}",
         "chain rule and table 1 of Ba et al. 2016, extended", predicted.size, 0, (classes == predicted).sum()),
        ("BatchNorm: slope of ln |dL/dW| against ln lambda over six decades, W -> lambda W", ioffe, -1, 1e-9,
         by_weights[kinds.index("batch")]),
        ("BatchNorm: relative change of dL/dX, W -> 3 W", ioffe, 0, 1e-11,
         data["change"][kinds.index("batch"), changes.index("weights_scaled"), 1]),
        ("all six normalizations: |slope + 1| of ln |dL/dW|, largest; |slope| without",
         "homogeneity of degree 0; 1", 0, 1e-9,
         max(np.abs(by_weights[normalized] + 1).max(), abs(by_weights[kinds.index("plain")]))),
        ("X -> lambda X: |slope + 1| of ln |dL/dX|, largest; |slope| with WeightNorm and without",
         "homogeneity of degree 0; linear in X", 0, 1e-9,
         max(np.abs(by_data[others] + 1).max(), np.abs(by_data[sees_data]).max())),
        ("w_i . dL/dw_i of every unit over the sum of all |W dL/dW|: BatchNorm, WeightNorm, CosineNorm", salimans, 0, 1e-13,
         data["radial"][rows, 1, 1].max()),
        ("x_b . dL/dx_b of every example over the sum of all |X dL/dX|: LayerNorm, RMSNorm, CosineNorm; BatchNorm: their sum",
         "Euler: homogeneity of degree 0 in X", 0, 1e-13,
         max(data["radial"][examples, 0, 1].max(), data["radial"][kinds.index("batch"), 0, 0])),
        ("epsilon > 0: ln gradient ratio, largest distance from -ln lambda + ln sqrt((1 + e) / (1 + e / lambda^2))",
         "s^2 = sigma^2 + epsilon", 0, 1e-12, max(np.abs(part[1] - part[2]).max() for part in with_epsilon)),
        ("epsilon / sigma^2 <= 1e-3: power of the deviation from 1/lambda in epsilon / sigma^2", "first order in epsilon",
         1, 1e-3, np.polyfit(np.log(small[0]), np.log(deviation), 1)[0]),
    ])  # fmt: skip
