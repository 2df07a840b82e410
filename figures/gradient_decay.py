"""How the gradient of a real loss decays with the lag, against the bound and the spectrum of the product."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "gradient_decay"
CAPTION = """
Decay of the gradient of the cross-entropy in recurrent networks that read scikit-learn's digits, row by row (T = 8) or
pixel by pixel (T = 64); 32 units, orthogonal recurrent weights (each gate by itself), linear readout of h_T. b_f: initial
forget bias. (a)-(d) ln ||dE/dh_t|| relative to the last step against the lag T - t, before and after training
(800 updates of 64 digits, Adam at 0.005, gradient clipped to global norm 1; accuracy on the 450 held-out digits in the
order tanh, ReLU, sigmoid, LSTM b_f = 0, 1, 3, GRU):
median over held-out digits, bands: quartiles; for gated cells h_t is the full state. Gray dotted: the bound
lag * ln(gamma sigma_max(W)) of the tanh (gamma = 1) and sigmoid (gamma = 1/4) networks, which training pushes out of the
panel. Triangles: exact zeros, ReLU units at rest on the empty first pixels. (e) Trained networks, pixel by pixel: the
gradient (marks, as in the legend above) beside the largest log singular value of the product J_T ... J_{t+1} (lines; medians
over the same digits) and the bound (dotted): the gradient falls at the rate of the product, below it by the overlap of
dE/dh_T with its leading direction, and the bound says little. (f) The summands of dE/dW by the lag T - i of the time i at
which W acted, relative to the largest, medians; at the last lag h_0 = 0 and the summand is exactly zero (triangle).
Networks that learned to read pixels have learned to keep their gradient; the sigmoid network has not.
"""

STATES = ("initial", "trained")
SHOWN = ("tanh", "sigmoid", "LSTM 0", "LSTM 3")  # in the panel of the spectra
BOUND = {"color": "0.5", "linestyle": ":", "marker": "none", "zorder": 1}
EDGE = {"marker": "none", "linewidth": 0.9, "zorder": 1}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.62, 3, 2)
    for row, task in enumerate(("row", "pixel")):
        for state in (0, 1):
            decay(axes[row, state], data, config, task, state)
    envelope(axes[2, 0], data, config)
    summands(axes[2, 1], data, config)
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    named = [(label(name), look(k)) for k, name in enumerate(config["cells"])]
    handles = [axes[0, 0].plot([], [], label=text, **options)[0] for text, options in (*named, ("bound", BOUND))]
    fig.legend(handles=handles, loc="outside upper center", ncols=4, columnspacing=1.6)
    return fig, claims(data, config)


def look(k: int) -> dict[str, Any]:
    """How the k-th cell is drawn, everywhere."""
    color, marker = plotting.COLORS[k % 7], "os^DvPX"[k % 7]
    face = "white" if k % 2 else color
    return {
        "color": color,
        "marker": marker,
        "markerfacecolor": face,
        "linestyle": "-",
        "linewidth": 0.8,
        "markersize": 3,
    }


def label(name: str) -> str:
    """The name of a cell in a legend: "LSTM 3" has forget bias 3."""
    kind, _, bias = name.partition(" ")
    return {"relu": "ReLU"}.get(kind, kind) + (f", $b_f={bias}$" if bias else "")


def quantiles(values: np.ndarray) -> np.ndarray:
    """Quartiles and median over the first axis; "lower", so that -inf needs no arithmetic."""
    return np.quantile(values, (0.25, 0.5, 0.75), axis=0, method="lower")


def relative(norms: np.ndarray) -> np.ndarray:
    """Log norms (digits, lags) minus that of lag 0."""
    return norms - norms[:, :1]


def room(ax: Any, curves: np.ndarray) -> None:
    """Limits that show the curves (a bound may leave the panel), with place for words below them."""
    seen = curves[np.isfinite(curves)]
    span = max(1.0, seen.max() - seen.min())
    ax.set_ylim(seen.min() - 0.35 * span, seen.max() + 0.25 * span)


def decay(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], task: str, state: int) -> None:
    """The gradient against the lag, every cell."""
    labels = []
    for k, name in enumerate(config["cells"]):
        low, middle, high = quantiles(relative(data[f"{task}_norms"][k, state]))
        lags, floor = np.arange(middle.size), middle[np.isfinite(middle)].min() - 5
        ax.fill_between(lags, np.maximum(low, floor), np.maximum(high, floor), color=look(k)["color"], alpha=0.15, lw=0)
        every = np.arange(k, middle.size, 7) if middle.size > 20 else slice(None)
        plotting.plot_log(ax, lags, middle, markevery=every if isinstance(every, slice) else every.tolist(), **look(k))
        labels.append(f"{100 * data[f'{task}_accuracy'][k, 1]:.0f}")
        if name in ("tanh", "sigmoid"):
            ax.plot(lags, lags * data[f"{task}_bound"][k, state], **BOUND)
    ax.set(xlabel="lag $T-t$ (steps)", ylabel=r"$\ln\,\|\partial E/\partial h_t\|$, relative (nats)")
    room(ax, np.stack([quantiles(relative(norms[state]))[1] for norms in data[f"{task}_norms"]]))
    text = f"{task} by {task}, {STATES[state]}" + ("\naccuracy (%): " + ", ".join(labels) if state else "")
    ax.text(0.03, 0.04, text, transform=ax.transAxes, va="bottom", fontsize=7)


def envelope(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The gradient between the extreme singular values of the product, and the bound above it."""
    lags = np.array(config["pixel_lags"])
    curves = []
    for name in (name for name in SHOWN if name in config["cells"]):
        k = config["cells"].index(name)
        few = data["pixel_largest"].shape[2]
        norms = quantiles(relative(data["pixel_norms"][k, 1][:few])[:, lags])[1]
        largest = quantiles(data["pixel_largest"][k, 1])[1]
        curves.append(np.stack([norms, largest]))
        ax.plot(lags, largest, color=look(k)["color"], linestyle="-", **EDGE)
        ax.plot(lags, norms, **(look(k) | {"linestyle": "none"}))
        ax.plot(lags, lags * data["pixel_bound"][k, 1], color=look(k)["color"], linestyle=":", **EDGE)
    for stroke, label in (("-", r"$\ln\sigma_1$ of the product"), (":", r"bound, lag $\ln\gamma\sigma_{\max}(W)$")):
        ax.plot([], [], color="0.3", linestyle=stroke, marker="none", label=label)
    room(ax, np.stack(curves))
    ax.set(xlabel="lag $T-t$ (steps)", ylabel="log gain over the lag (nats)")
    ax.legend(loc="lower left", title="pixel by pixel, trained", alignment="left")


def summands(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The summands of dE/dW by lag."""
    for k in range(len(config["cells"])):
        terms = data["pixel_terms"][k, 1]
        middle = quantiles(terms - terms.max(axis=1, keepdims=True))[1]
        lags = np.arange(middle.size)
        plotting.plot_log(ax, lags, middle, markevery=np.arange(k, middle.size, 7).tolist(), **look(k))
    ax.set(xlabel="lag $T-i$ (steps)", ylabel=r"$\ln$ summand of $\partial E/\partial W$, relative (nats)")
    ax.text(0.03, 0.04, "pixel by pixel, trained", transform=ax.transAxes, va="bottom", fontsize=7)


def drift(data: dict[str, np.ndarray], config: dict[str, Any]) -> float:
    """Largest distance (over cells and states) of the median slope from that of ln sigma_1, from lag T/2 to T, pixels."""
    lags = config["pixel_lags"]
    half, last = lags.index(lags[-1] // 2), len(lags) - 1
    few = data["pixel_largest"].shape[2]
    worst = 0.0
    for k in range(len(config["cells"])):
        for state in (0, 1):
            largest = data["pixel_largest"][k, state]
            norms = data["pixel_norms"][k, state][:few]
            ends = np.stack([norms[:, lags[last]], norms[:, lags[half]], largest[:, last], largest[:, half]], axis=1)
            a, b, c, d = ends[np.isfinite(ends).all(axis=1)].T
            gap = float(np.median((a - b) - (c - d))) if a.size else 0.0  # no gradient is left to have a slope
            worst = max(worst, abs(gap) / (lags[last] - lags[half]))
    return worst


def outside(data: dict[str, np.ndarray], config: dict[str, Any]) -> float:
    """How far any gradient leaves the interval of log singular values of its product, nats; negative: inside."""
    norms = data["pixel_norms"][:, :, : data["pixel_largest"].shape[2]]
    gain = (norms - norms[..., :1])[..., config["pixel_lags"]]
    largest, smallest = data["pixel_largest"], data["pixel_smallest"]
    alive, full = np.isfinite(gain), np.isfinite(gain) & np.isfinite(smallest)
    return max((gain[alive] - largest[alive]).max(), (smallest[full] - gain[full]).max(initial=-np.inf))


def excess(data: dict[str, np.ndarray]) -> tuple[float, int]:
    """The largest excess over lag ln(gamma sigma_max), over every Elman network, digit and lag > 0; and their number."""
    worst, count = -np.inf, 0
    for task in ("row", "pixel"):
        norms, bound = data[f"{task}_norms"], data[f"{task}_bound"]
        over = (norms - norms[..., :1]) - np.arange(norms.shape[-1]) * bound[..., None, None]
        over = over[np.isfinite(bound)][..., 1:]
        worst, count = max(worst, over.max()), count + over.size
    return worst, count


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Each tolerance is rounding, or said in the claim."""
    cells = config["cells"]
    worst, count = excess(data)
    rows = [
        (f"Elman: ln gradient never above lag ln(gamma sigma_max), {count} samples: largest excess, nats",
         "Pascanu et al. 2013, eq. 7", 0, 1e-10, worst, "at_most"),
        ("pixels: every gradient lies between ln sigma_n and ln sigma_1 of its product: farthest outside, nats", "exact", 0, 1e-9,
         outside(data, config), "at_most"),
        ("pixels, lag T/2 to T: median slope less that of ln sigma_1, nats per step (tolerance: factor 2 in overlap)",
         "spectrum of the product", 0, np.log(2) / (config["pixel_lags"][-1] / 2), drift(data, config), "at_most"),
        ("summands of dE/dtheta by lag add up to jax.grad: worst relative error", "exact", 0, 1e-10,
         data["pixel_sum_error"].max(), "at_most"),
    ]  # fmt: skip
    if {"LSTM 0", "LSTM 3"} <= set(cells):
        for state in (0, 1):
            decays = [
                np.median(relative(data["pixel_norms"][cells.index(name), state])[:, -1])
                for name in ("LSTM 3", "LSTM 0")
            ]
            rows.append((f"LSTM, pixels, {STATES[state]}: ln gradient over all lags, forget bias 3 less bias 0, nats",
                         "slower decay", 0, 0, decays[0] - decays[1], "at_least"))  # fmt: skip
    for name in ("tanh", "LSTM 1", "GRU"):
        if name in cells:
            accuracy = data["row_accuracy"][cells.index(name), 1]
            rows.append(
                (f"row by row: held-out accuracy of the trained {name}", "stated", 0.9, 0, accuracy, "at_least")
            )
    return claims_of(NAME, rows)
