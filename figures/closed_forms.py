"""Closed forms of scalar networks and of two non-normal matrices, and what jacspec measures."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "closed_forms"
CAPTION = """
Closed forms (lines) and what jacspec measures on the same networks (marks); logs are natural. (a) Linear unit
h' = w h: t ln w. (b) Sigmoid unit over 20 steps: the rate per step never exceeds ln(|U|/4) (line; gray: random U, bias
and start), and reaches it where the bias holds the pre-activation at 0 (squares). (c) Lyapunov exponent of
h' = tanh(U h): ln U up to U = 1, ln[U(1 - h*^2)] with h* = tanh(U h*) beyond; only U = 1 does not forget
exponentially. (d) There the gradient falls as t^(-3/2). (e) Forget-gate bias b of an LSTM without recurrent weights:
the cell forgets as exp(-t/tau), tau = -1/ln sigma(b). (f) The four corners of the LSTM's gate table, gate biases +-30:
new against old cell value. (g) Latching (Bengio, Simard & Frasconi 1994): a' = tanh(w a - h) keeps its sign below
h*(w) = w sqrt(1-1/w) - artanh sqrt(1-1/w) (line); marks are runs at 0.5, 0.75 and 0.999 h* (filled: kept) and at
1.001, 1.333 and 2 h* (open: flipped). (h) W = 0.9 I with 5 everywhere above the diagonal, n = 50: every eigenvalue is
0.9 (dotted: t ln 0.9), yet ||W^t|| first grows to e^190, and only then turns to the rate of the eigenvalues.
(i) Shears [[1, 1], [0, 1]]^t: log singular values +-arsinh(t/2), while the QR recursion of Lyapunov exponents
correctly gives 0 for both (crosses): the two spectra are different questions.
"""

LINE = {"linestyle": "-", "marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.2, "zorder": 3, "markerfacecolor": "white"}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Nine panels, and the claims behind them."""
    del config
    fig, axes = plotting.figure("double", 0.86, 3, 3)
    panels = (linear, sigmoid, tanh_rates, critical, gate_bias, gate_table, latching, transient, shears)
    for letter, ax, panel in zip("abcdefghi", axes.flat, panels, strict=True):
        panel(ax, data)
        plotting.panel_label(ax, letter)
    return fig, claims(data)


def linear(ax: Any, data: dict[str, np.ndarray]) -> None:
    """t ln w."""
    t = data["linear_t"]
    every = slice(None, None, max(1, len(t) // 8))
    for log, theory, color, marker, label in zip(
        data["linear_log"], data["linear_theory"], (DARK, BLUE), "os", ("w = 1.01", "w = 0.99"), strict=True
    ):
        ax.plot(t, theory, color=color, **LINE)
        ax.plot(t[every], log[every], color=color, marker=marker, label=f"${label}$", **MARK)
    ax.set(xlabel="time $t$ (steps)", ylabel=r"$\ln\,|\partial h_t/\partial h_0|$ (nats)")
    ax.legend(loc="upper left")


def sigmoid(ax: Any, data: dict[str, np.ndarray]) -> None:
    """The rate per step of every draw under the bound ln(|U|/4)."""
    T = data["sigmoid_steps"]
    U = np.geomspace(0.2, 8, 100)
    ax.plot(np.abs(data["sigmoid_weights"]), data["sigmoid_log"] / T, ".", color="0.6", markersize=1.2, rasterized=True)
    ax.plot(U, np.log(U / 4), color=DARK, label=r"bound $\ln(|U|/4)$", **LINE)
    ax.plot(
        data["sigmoid_held_weights"],
        data["sigmoid_held_log"] / T,
        color=BLUE,
        marker="s",
        label="held at $a=0$",
        **MARK,
    )
    ax.set(xscale="log", xlim=(0.2, 9), ylim=(-6, 2.4), xlabel="weight $|U|$", ylabel="rate (nats/step)")
    ax.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
    ax.minorticks_off()
    ax.legend(loc="upper left", borderaxespad=0.2)


def tanh_rates(ax: Any, data: dict[str, np.ndarray]) -> None:
    """The exponent against U, with its cusp at 1."""
    ax.plot(data["tanh_rates_curve"], data["tanh_rates_curve_theory"], color=DARK, label="closed form", **LINE)
    ax.plot(data["tanh_rates_others"], data["tanh_rates_others_measured"], color=DARK, marker="o", **MARK)
    look = MARK | {"markerfacecolor": RED, "markersize": 4}
    label = "$U$ = 0.5, 1, 1.5, 2"
    ax.plot(data["tanh_rates_named"], data["tanh_rates_named_measured"], color=RED, marker="D", label=label, **look)
    ax.set(xlabel="weight $U$", ylabel=r"exponent $\lambda$ (nats/step)", ylim=(-3.1, 0.2))
    ax.legend(loc="lower left")


def critical(ax: Any, data: dict[str, np.ndarray]) -> None:
    """The power law at U = 1."""
    t, log = data["critical_t"], data["critical_log"]
    ax.plot(t[::4], log[::4], color=DARK, marker="o", label="$U=1$", **MARK)
    ax.plot(t, log[-1] - 1.5 * np.log(t / t[-1]), color=BLUE, label="slope $-3/2$", **LINE)
    ax.set_yticks([-15, -10, -5, 0])
    ax.set(xscale="log", xlabel="time $t$ (steps)", ylabel=r"$\ln\,|\partial h_t/\partial h_0|$ (nats)")
    ax.legend(loc="lower left")


def gate_bias(ax: Any, data: dict[str, np.ndarray]) -> None:
    """ln dc_t/dc_0 = -t / tau."""
    t = data["gate_bias_t"]
    for k, (b, log, tau) in enumerate(
        zip(data["gate_bias_biases"], data["gate_bias_log"], data["gate_bias_tau_theory"], strict=True)
    ):
        color, marker = plotting.COLORS[k % 4], "os^D"[k % 4]
        shown = np.unique(np.geomspace(1, len(t), 9).round().astype(int)) - 1
        ax.plot(t, -t / tau, color=color, **LINE)
        ax.plot(t[shown], log[shown], color=color, marker=marker, label=rf"$b={b:g}$, $\tau={tau:.4g}$", **MARK)
    ax.set(xscale="log", ylim=(-8, 6), xlabel="time $t$ (steps)", ylabel=r"$\ln\,\partial c_t/\partial c_0$ (nats)")
    ax.set_yticks([-8, -6, -4, -2, 0])
    ax.legend(loc="upper left", handlelength=1, labelspacing=0.25, borderaxespad=0)


def gate_table(ax: Any, data: dict[str, np.ndarray]) -> None:
    """c' against c at the four corners of (i, f)."""
    names = ("keep (0, 1)", "add (1, 1)", "erase (0, 0)", "overwrite (1, 0)")
    before = data["gate_table_before"]
    for k, (name, after, theory) in enumerate(
        zip(names, data["gate_table_after"], data["gate_table_theory"], strict=True)
    ):
        ax.plot(before, theory, color=plotting.COLORS[k], **LINE)
        ax.plot(before[::2], after[::2], color=plotting.COLORS[k], marker="os^D"[k], label=name, **MARK)
    ax.set(xlabel="cell value $c_{t-1}$", ylabel="cell value $c_t$", ylim=(-1.7, 4.2))
    ax.legend(loc="upper left", title="$(i, f)$", handlelength=1, labelspacing=0.25)


def latching(ax: Any, data: dict[str, np.ndarray]) -> None:
    """The threshold, and runs on either side of it."""
    ax.plot(data["latching_curve"], data["latching_curve_theory"], color=DARK, label="threshold $h^*(w)$", **LINE)
    w, inputs = np.broadcast_arrays(data["latching_weights"][:, None], data["latching_inputs"])
    for held, marker, face, label in ((True, "v", BLUE, "kept"), (False, "^", "white", "flipped")):
        where = data["latching_holds"] == held
        look = MARK | {"markerfacecolor": face}
        ax.plot(w[where], inputs[where], color=BLUE if held else RED, marker=marker, label=label, **look)
    ax.set(xlabel="weight $w$", ylabel="opposing input $h$", yscale="log", ylim=(0.01, 10))
    ax.legend(loc="lower right")


def transient(ax: Any, data: dict[str, np.ndarray]) -> None:
    """ln ||W^t||: growth first, the long-run rate last."""
    t, curve = data["transient_t"], data["transient_curve"]
    rate = np.log(data["transient_rho"])
    ax.plot(curve, data["transient_curve_theory"], color=DARK, label="closed form", **LINE)
    ax.plot(t, data["transient_log"], color=DARK, marker="o", **MARK)
    ax.plot(curve, curve * rate, color=BLUE, linestyle=":", marker="none", label=r"$t\,\ln\rho(W)$")
    ax.set(xlabel="time $t$ (steps)", ylabel=r"$\ln\,\|W^t\|$ (nats)")
    ax.legend(loc="lower left")


def shears(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Log singular values of a product of shears, and its two exponents."""
    t = data["shears_t"]
    for k, sign in enumerate((1, -1)):
        ax.plot(
            t,
            sign * data["shears_theory"],
            color=DARK,
            label=r"$\pm\,\mathrm{arsinh}(t/2)$" if k == 0 else None,
            **LINE,
        )
        ax.plot(
            t[::2],
            data["shears_log"][::2, k],
            color=DARK,
            marker="o",
            label=r"$\ln\sigma_i$" if k == 0 else None,
            **MARK,
        )
    ax.plot(np.full(2, t[-1]), data["shears_qr"], color=RED, marker="x", markersize=5, linestyle="none", clip_on=False,
            label=r"QR: $t\lambda_1, t\lambda_2$")  # fmt: skip
    ax.set(xlabel="time $t$ (steps)", ylabel=r"log scale (nats)", ylim=(-3.4, 3.4))
    ax.legend(loc="center", bbox_to_anchor=(0.6, 0.5), labelspacing=0.25, borderaxespad=0)


def claims(data: dict[str, np.ndarray]) -> list[Claim]:
    """Tolerances: 1e-12 or 1e-10 is rounding of sums of at most 1e5 logs; otherwise half of the last printed digit."""
    rounding, T = 1e-12, int(data["sigmoid_steps"])
    excess = data["sigmoid_log"] - T * np.log(np.abs(data["sigmoid_weights"]) / 4)
    held = float(data["sigmoid_held_log"][data["sigmoid_held_weights"] == 1][0])
    unequal = data["latching_holds"] != (data["latching_factors"] < 1)
    named = dict(zip(data["tanh_rates_named"].tolist(), data["tanh_rates_named_measured"], strict=True))
    tau = data["gate_bias_tau"] / data["gate_bias_tau_theory"] - 1
    rows = [
        ("1.01^365 = 37.783434 and 0.99^365 = 0.025518: worst error of the log, nats", "closed form", 0, rounding,
         np.max(np.abs(data["linear_log"] - data["linear_theory"])), "equal"),
        ("sigmoid, U = 1, a = 0: ln 0.25^20 (= 9.094947e-13), nats", "closed form", T * np.log(0.25), rounding, held,
         "equal"),
        ("sigmoid: largest excess of the log over ln (|U|/4)^20, nats", "closed form", 0, rounding, excess.max(),
         "at_most"),
        ("tanh, U = 1.5 and 2: exponents -0.93061020 and -1.79352851: worst error", "closed form", 0, 5e-9,
         max(abs(named.get(1.5, np.nan) + 0.93061020), abs(named.get(2.0, np.nan) + 1.79352851)), "equal"),
        ("tanh, U = 1: slope of ln dh_t/dh_0 against ln t over the last decade", "closed form", -1.5, 0.01,
         data["critical_slope"], "equal"),
        ("LSTM time constants -1/ln sigma(b), b = 0, 1, 2, 5: worst relative error", "closed form", 0, rounding,
         np.max(np.abs(tau)), "equal"),
        ("LSTM gate table (keep, add, erase, overwrite): worst error of the new cell value", "closed form", 0, 1e-12,
         np.max(np.abs(data["gate_table_after"] - data["gate_table_theory"])), "equal"),
        ("latching: runs on the wrong side of h*(w), down to 0.999 h* and 1.001 h*", "Bengio et al. 1994, closed form", 0,
         0, unequal.sum(), "equal"),
        ("rho(W) = 0.9, n = 50: worst error of ln ||W^t||, t = 1 to 3000 (||W^5|| = 3.6e9), nats",
         "closed form (binomial Toeplitz matrix)", 0, 1e-9,
         np.max(np.abs(data["transient_log"] - data["transient_theory"])), "equal"),
        ("20 shears: ln sigma_1 of the product (the QR growth is 0), nats", "closed form arsinh 10", np.arcsinh(10), 1e-10,
         data["shears_log"][-1, 0] + np.abs(data["shears_qr"]).max(), "equal"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
