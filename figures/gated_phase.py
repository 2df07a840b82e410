"""GRU and LSTM around their critical lines."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "gated_phase"
CAPTION = """
Largest exponents of gated networks (marks) and mean-field theory for n -> infinity (lines), nats per step; top GRU
(reset-after form), bottom LSTM. All gates have weight variance s, W_ij ~ N(0, s/n), and input variance v; the bias b
is that of the gate that keeps (update gate, forget gate), all others are 0. (a), (d) Critical lines. Fresh weights in
every layer: chi, the growth of a perturbation's squared norm, passes 1 at the solid line without input and at the
dashed one with v = 1. Without input chi jumps past 1 in the GRU, where a chaotic state appears; the silent state h =
0 stays stable up to the thin line (in the LSTM the two coincide). Dotted: where the silent state of a recurrent
network, whose weights are shared by all steps, becomes unstable. Marks: where the measured exponent of fresh weights
changes sign, interpolated in ln s between the two runs next to it (which only bracket the jump of the GRU; in (d), v
= 0, chi rises so slowly above the line that n = 200 moves the crossing). (b), (e) Exponent against s in units of the
critical value, fresh weights; lines 1/2 ln chi, bars standard errors; at n = 200 the mean logarithm lies below the
logarithm of the mean by a few percent of chi. (c), (f) What sharing the weights changes, v = 1: fresh weights
(squares) at 2.5 times their critical variance have the exponent of the theory (dashed); the same cells with shared
weights (triangles) have a smaller one there, and on the critical line of fresh weights (circles; theory for fresh
weights 0) a larger one. Diamonds: shared weights without input at s = 0.64 times onset, with the exact ln(k + R) of
the silent state (dotted; k the gate's value, R the radius of the disc of eigenvalues). Fresh: one run; shared: means
over draws, bars standard errors. Derivations: docs/gated_mean_field.md.
"""

LINE = {"marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.4, "zorder": 3, "markerfacecolor": "white"}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
CELLS = {"gru": "GRU", "lstm": "LSTM"}
GATE = {"gru": "update", "lstm": "forget"}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Three panels for each of the two cells, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.9, 2, 3)
    for row, name in zip(axes, CELLS, strict=True):
        plane(row[0], data, config, name)
        rates(row[1], data, config, name)
        sharing(row[2], data, config, name)
        row[1].set_title(CELLS[name])
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def crossings(data: dict[str, np.ndarray], config: dict[str, Any], name: str) -> np.ndarray:
    """ln(s / s_critical) where the measured exponent passes 0, axes (bias, input); NaN if it does not."""
    factors, found = np.log(config["factors"]), data[f"{name}_fresh_exponent"]
    out = np.full(found.shape[:2], np.nan)
    for where in np.ndindex(*out.shape):
        above = np.flatnonzero(found[where] > 0)
        if above.size and above[0]:
            k = above[0]
            low, high = found[where][k - 1 : k + 1]
            out[where] = factors[k - 1] - low * (factors[k] - factors[k - 1]) / (high - low)
    return out


def plane(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], name: str) -> None:
    """Critical weight variance against the bias."""
    x = data[f"{name}_line_biases"]
    for k, (color, stroke) in enumerate(((DARK, "-"), (BLUE, "--"))):
        label = f"fresh, $v={config['inputs'][k]:g}$"
        ax.plot(x, data[f"{name}_line_fresh"][:, k], color=color, linestyle=stroke, label=label, **LINE)
    ax.plot(x, data[f"{name}_line_shared"], color=RED, linestyle=":", label="shared, $v=0$", **LINE)
    ax.plot(x, data[f"{name}_line_silent"], color=DARK, linestyle="-", linewidth=0.5, **LINE)
    found = data[f"{name}_critical"] * np.exp(crossings(data, config, name))
    for k, (color, marker) in enumerate(((DARK, "o"), (BLUE, "s"))):
        ax.plot(config["biases"], found[:, k], color=color, marker=marker, **MARK)
    ax.set(yscale="log", xlabel=f"bias of the {GATE[name]} gate", ylabel="weight variance $s$")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (6 if name == "gru" else 1))
    ax.legend(loc="upper left" if name == "gru" else "lower left", borderaxespad=0.2)


def rates(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], name: str) -> None:
    """Exponent against s / s_critical with fresh weights, least and most memory, with and without input."""
    shown = [(b, k) for b in (0, len(config["biases"]) - 1) for k in (0, 1)]
    for (b, k), color, stroke, marker in zip(
        shown, (DARK, BLUE, RED, GREEN), ("-", "--", "-.", ":"), "os^D", strict=True
    ):
        label = f"$b={config['biases'][b]:g}$, $v={config['inputs'][k]:g}$"
        ax.plot(
            data[f"{name}_curve_factors"],
            data[f"{name}_curve_theory"][min(b, 1), k],
            color=color,
            linestyle=stroke,
            **LINE,
        )
        ax.errorbar(config["factors"], data[f"{name}_fresh_exponent"][b, k], data[f"{name}_fresh_error"][b, k],
                    color=color, fmt=marker, label=label, elinewidth=0.8,
                    **{key: MARK[key] for key in ("markersize", "zorder", "markerfacecolor")})  # fmt: skip
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.set(
        xscale="log", xlabel="weight variance $s/s_{\\mathrm{critical}}$", ylabel=r"exponent $\lambda_1$ (nats/step)"
    )
    ax.set_xticks([0.7, 1, 1.4, 2.5], ["0.7", "1", "1.4", "2.5"])
    ax.minorticks_off()
    ax.legend(loc="upper left", handlelength=1, borderaxespad=0.2)


def sharing(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], name: str) -> None:
    """Exponents of shared weights beside those of fresh ones, against the bias."""
    x, runs = config["biases"], data[f"{name}_shared_exponent"]
    error = runs.std(axis=2, ddof=1) / np.sqrt(runs.shape[2]) if runs.shape[2] > 1 else np.zeros(runs.shape[:2])
    far = f"{config['factors'][-1]:g}\\,s_c"
    series = ((data[f"{name}_fresh_exponent"][:, 1, -1], data[f"{name}_fresh_error"][:, 1, -1], BLUE, "s", f"fresh, ${far}$"),
              (runs[2].mean(axis=1), error[2], GREEN, "^", f"shared, ${far}$"),
              (runs[1].mean(axis=1), error[1], DARK, "o", "shared, $s_c$"),
              (runs[0].mean(axis=1), error[0], RED, "D", "shared, silent"))  # fmt: skip
    ax.plot(x, data[f"{name}_fresh_theory"][:, 1, -1], color=BLUE, linestyle="--", **LINE)
    ax.plot(data[f"{name}_silent_biases"], data[f"{name}_silent_curve"], color=RED, linestyle=":", **LINE)
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    for values, bar, color, marker, label in series:
        ax.errorbar(x, values, bar, color=color, fmt=marker, label=label, elinewidth=0.8,
                    **{key: MARK[key] for key in ("markersize", "zorder", "markerfacecolor")})  # fmt: skip
    ax.set(xlabel=f"bias of the {GATE[name]} gate", ylabel=r"exponent $\lambda_1$ (nats/step)")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.4 * (high - low))
    ax.legend(loc="upper center", ncols=2, handlelength=1, borderaxespad=0.1, columnspacing=0.8)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Fresh weights have the exponents of the theory; shared ones only at the silent state, and by how much not."""
    rows = []
    for name, cell in CELLS.items():
        ratio = np.exp(2 * (data[f"{name}_fresh_exponent"] - data[f"{name}_fresh_theory"]))
        silent = data[f"{name}_shared_exponent"][0].mean(axis=1) - data[f"{name}_silent_theory"]
        on_line = data[f"{name}_shared_exponent"][1].mean(axis=1)
        rows += [
            (f"{cell}, fresh weights: measured chi / theory, mean of {ratio.size} points", "docs/gated_mean_field.md", 1, 0.03,
             np.mean(ratio), "equal"),
            (f"{cell}, fresh weights, v = 1: worst distance in ln s of the measured critical point", "docs/gated_mean_field.md",
             0, 0.05, np.max(np.abs(crossings(data, config, name)[:, 1])), "at_most"),
            (f"{cell}, shared weights, silent: worst distance from ln(k + R)", "circular law", 0, 0.02,
             np.max(np.abs(silent)), "at_most"),
            (f"{cell}: error of the quadrature of chi, by comparison of two rules", "two rules", 0, 1e-6,
             data[f"{name}_fresh_quadrature"], "at_most"),
            (f"{cell}, shared weights on the critical line of fresh ones, v = 1: least mean exponent over b is positive",
             "weights met again before they are forgotten", 0, 0, np.min(on_line), "at_least"),
        ]  # fmt: skip
    return claims_of(NAME, rows)
