"""What the gradient along the cell state of an LSTM is made of: the forget gate, the four terms, and the rest."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "lstm_anatomy"
CAPTION = """
The gradient along the cell state of an LSTM taken apart. Random cells (24 units, Gaussian recurrent weights of variance
gain^2/n, white input, 20 cells), after a burn-in; dc_t/dc_0 with h_0 = o_0 tanh(c_0) moving with c_0. (a) Root mean
square of dc_t/dc_0 at gain 1 and four forget biases, mean of the log over cells (bars: standard deviation): the full Jacobian
of (c, h) (marks), the product of the four terms that follow from holding every output gate fixed (solid; Weber 2017), and the
forget gates alone (dotted), which lose most of the gradient. (b) Relative error of both approximations at forget bias 1,
every cell (thin) and the median: the four terms are exact for one step (error 1e-16 at t = 1, not shown), their product
is not. (c) That error after 20 steps against the gain, every cell: what the four terms leave out is of second order in the
recurrent weights, what the forget gate leaves out of first order (lines of these powers through the smallest gain). (d) Rate
of growth over 20 steps against the forget bias: every cell, cells without recurrent weights (squares), and ln sigma(b) = -1/tau
(line). (e) One unit with input: both Lyapunov exponents, and their sum on the closed form, the mean of
ln |f tanh(c_t) o (1 - o) U_o| (line). (f) What the forget gate's weight is multiplied by in dc_t/dc_(t-1), at random states
(dots), and along c at f = 1/2, o = 1 (marks, every 40th value), on the bound |c (1 - tanh^2 c)| / 4 (line), whose maximum is
0.1119 (Su 2020). The gate table, of which a claim is made too, is drawn in the figure closed_forms.
"""

MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "zorder": 2}
DARK, BLUE, RED = plotting.COLORS[:3]
APPROXIMATIONS = (("four terms", BLUE, "s", "-", 2), ("forget gate alone", RED, "^", ":", 1))
"""Name, color, marker, stroke, and the order of what is left out in the recurrent weights."""
PUBLISHED_TAU = {0.0: 1.443, 1.0: 3.192, 2.0: 7.878, 5.0: 148.91}
SU = 0.4477432
"""Maximum of |c (1 - tanh^2 c)|, at c = 0.7717; Su says < 0.45."""


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    panels = (norms, errors, powers, rates, unit, secondary)
    for letter, ax, panel in zip("abcdef", axes.flat, panels, strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def norms(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln of the norms against the horizon, all biases."""
    runs = data["products_bias_norms"]
    t = np.arange(1, runs.shape[-1] + 1)
    every = slice(1, None, max(1, len(t) // 7))
    for k, bias in enumerate(config["biases"]):
        color, marker = plotting.COLORS[k], "os^D"[k]
        mean, spread = runs[k].mean(axis=0), runs[k, :, 0].std(axis=0, ddof=1)
        for kind, stroke in ((1, "-"), (2, ":")):
            ax.plot(t, mean[kind], color=color, linestyle=stroke, **LINE)
        ax.errorbar(t[every], mean[0, every], spread[every], color=color, marker=marker, elinewidth=0.7,
                    label=f"$b_f={bias:g}$", **MARK)  # fmt: skip
    for name, stroke in (("four terms", "-"), ("forget gate", ":")):
        ax.plot([], [], color="0.3", linestyle=stroke, marker="none", label=name)
    ax.set(xlabel="horizon $t$ (steps)", ylabel=r"$\ln\,\Vert\partial c_t/\partial c_0\Vert/\sqrt{n}$ (nats)")
    ax.legend(loc="lower left", handlelength=1.2, labelspacing=0.25, borderaxespad=0)


def errors(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Relative errors against the horizon."""
    runs = data["products_bias_errors"][config["biases"].index(config["bias"])]
    t = np.arange(2, runs.shape[-1] + 1)
    for k, (name, color, marker, _, _) in enumerate(APPROXIMATIONS):
        ax.plot(t, runs[:, k, 1:].T, color=color, linestyle="-", linewidth=0.3, alpha=0.5, **LINE)
        ax.plot(
            t, np.median(runs[:, k, 1:], axis=0), color=color, marker=marker, label=name, **(MARK | {"linestyle": "-"})
        )
    ax.set(yscale="log", xlabel="horizon $t$ (steps)", ylabel="relative error", ylim=(0.008, 3))
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.6), handlelength=1.6)


def powers(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Relative errors at the last horizon against the gain, with straight lines of the derived powers."""
    gains = np.asarray(config["gains"])
    for k, (name, color, marker, _, power) in enumerate(APPROXIMATIONS):
        found = data["products_gain_errors"][:, :, k, -1]
        start = np.exp(np.log(found[0]).mean())
        line = np.array([gains[0], min(gains[-1], gains[0] / start ** (1 / power))])
        ax.plot(line, start * (line / gains[0]) ** power, color="0.55", linestyle="-", **(LINE | {"zorder": 1}))
        ax.plot(gains, found, color=color, marker=marker, **(MARK | {"markersize": 2.2, "markeredgewidth": 0.5}))
        ax.plot([], [], color=color, marker=marker, label=f"{name}: power {power}", **MARK)
    ax.set(xscale="log", yscale="log", xlabel="gain of the recurrent weights", ylim=(None, 300),
           ylabel=f"relative error at $t={config['steps']}$")  # fmt: skip
    ax.legend(loc="upper left", handlelength=1, borderaxespad=0.1)


def rates(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Rates of decay against the forget bias."""
    b = np.asarray(config["biases"])
    line = np.linspace(b.min() - 0.4, b.max() + 0.4, 100)
    ax.plot(line, -np.log1p(np.exp(-line)), color="0.5", linestyle="-", label=r"$\ln\,\sigma(b_f)$", **LINE)
    ax.plot(b, -1 / data["time_constants_tau"], color=BLUE, marker="s", label="no recurrent weights", **MARK)
    found = data["products_bias_norms"][:, :, 0, -1] / config["steps"]
    ax.plot(b, found, color=DARK, marker="o", **(MARK | {"markersize": 2.2, "markeredgewidth": 0.5}))
    ax.plot([], [], color=DARK, marker="o", label=f"random cells, gain {config['gain']:g}", **MARK)
    ax.set(xlabel="forget bias $b_f$", ylabel=f"growth over {config['steps']} steps (nats/step)")
    ax.legend(loc="lower right", handlelength=1.2)


def unit(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Both exponents of one unit and their sum."""
    b, exponents = np.asarray(config["unit_biases"]), data["unit_exponents"]
    ax.plot(b, data["unit_log_det"], color="0.5", linestyle="-", label=r"$\langle\ln|\det J|\rangle$", **LINE)
    for k, values in enumerate((exponents.sum(axis=1), exponents[:, 0], exponents[:, 1])):
        label = (r"$\lambda_1+\lambda_2$", r"$\lambda_1$", r"$\lambda_2$")[k]
        ax.plot(b, values, color=plotting.COLORS[k], marker="os^"[k], label=label, **MARK)
    ax.set(xlabel="forget bias $b_f$", ylabel="exponents of one unit (nats/step)")
    ax.legend(loc="lower right", handlelength=1.2, labelspacing=0.25)


def secondary(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """The factor of the forget gate's weight."""
    c = np.linspace(0, 4, 201)
    ax.plot(c, envelope(c), color="0.4", linestyle="-", label=r"$|c\,(1-\tanh^2c)|/4$", **LINE)
    shown = np.abs(data["secondary_c"]) < 4
    ax.plot(np.abs(data["secondary_c"])[shown], np.abs(data["secondary_factor"])[shown], color=BLUE, marker=".",
            markersize=0.9, linestyle="none", rasterized=True, zorder=1, markeredgewidth=0)  # fmt: skip
    ax.plot([], [], color=BLUE, marker=".", linestyle="none", label="random states")
    every = slice(None, None, max(1, len(data["secondary_line"]) // 25))
    ax.plot(data["secondary_line"][every], data["secondary_top"][every], color=DARK, marker="o",
            label="$f=1/2$, $o=1$", **MARK)  # fmt: skip
    ax.set(xlabel="cell value $|c_{t-1}|$", ylabel=r"$|c\,f(1-f)\,o\,(1-\tanh^2c)|$", ylim=(-0.003, 0.125))
    ax.legend(loc="upper right", handlelength=1.2)


def envelope(c: np.ndarray) -> np.ndarray:
    """|c (1 - tanh^2 c)| / 4."""
    return np.abs(c) / np.cosh(c) ** 2 / 4


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Identities to rounding, and the orders of what is left out.

    An error a e^p (1 + r e) has the power p + r (e2 - e1) / ln(e2 / e1) between e1 and e2; the tolerance takes r = 5.
    """
    T, (low, high) = config["steps"], config["gains"][:2]
    tolerance = 5 * (high - low) / np.log(high / low)
    found = np.log(data["products_gain_errors"][:2, :, :, -1])
    four, forget = (found[1] - found[0]).mean(axis=0) / np.log(high / low)
    errors = data["products_bias_errors"][config["biases"].index(config["bias"]), :, :, -1]
    tau = [
        measured / PUBLISHED_TAU[b] - 1
        for b, measured in zip(config["biases"], data["time_constants_tau"], strict=True)
    ]
    excess = np.abs(data["secondary_factor"]) - envelope(data["secondary_c"])
    weber, su = "Weber 2017, four terms", "Su 2020 (Scientific Spaces 7888)"
    rows = [
        ("four terms: worst relative error of one step, output gate held", f"{weber}; complex steps in NumPy", 0, 1e-12,
         data["oracle_step"]),
        (f"full Jacobian: worst relative error of dc_t/dc_0, t = 1 to {T}", "derived: complex steps in NumPy", 0, 1e-11,
         data["oracle_full"]),
        (f"four terms: median relative error of their product after {T} steps", f"{weber}: not dc_T/dc_0", 0.05, 0,
         np.median(errors[:, 0]), "at_least"),
        ("four terms: power of the recurrent weights in what is left out", "derived: B_s diag(tanh(c) o') W_o", 2, tolerance,
         four),
        ("forget gate alone: power of the recurrent weights in what is left out", "derived: B_s D", 1, tolerance, forget),
        ("one unit: worst error of lambda_1 + lambda_2 = <ln|f tanh(c_t) o (1 - o) U_o|>", "derived: determinant", 0, 1e-12,
         np.abs(data["unit_exponents"].sum(axis=1) - data["unit_log_det"]).max()),
        ("time constants 1.443, 3.192, 7.878, 148.91 at forget bias 0, 1, 2, 5: worst relative error", "-1/ln sigma(b)", 0,
         0.0005 / 1.443, np.abs(tau).max()),
        ("gate table (keep, add, erase, overwrite): worst error of c_t and of dc_t/dc_{t-1}", "closed form", 0, 1e-12,
         max(data["gates_value_error"].max(), data["gates_slope_error"].max())),
        ("factor of U_f: largest excess over |c (1 - tanh^2 c)| / 4", f"{su} times f (1 - f) <= 1/4", 0, 1e-15, excess.max(),
         "at_most"),
        ("factor of U_f: its maximum, times 4", f"{su}: < 0.45; exactly 0.4477432", SU,
         curvature_error(data["secondary_line"]) + 5e-8, 4 * data["secondary_top"].max()),
    ]  # fmt: skip
    return claims_of(NAME, rows)


def curvature_error(line: np.ndarray) -> float:
    """How far below its maximum a function of second derivative -1.6 at most lies, half a grid step beside it.

    That of c / cosh^2 c at 0.7717 is -1.271; 1.6 leaves room for a coarse grid.
    """
    return 1.6 / 2 * ((line[1] - line[0]) / 2) ** 2
