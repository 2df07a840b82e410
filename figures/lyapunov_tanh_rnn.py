"""Lyapunov spectra of random tanh networks beside mean-field theory."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "lyapunov_tanh_rnn"
CAPTION = """
Lyapunov exponents of random tanh networks (marks) and mean-field theory for n -> infinity (lines), nats per step.
W_ij ~ N(0, g^2/n), one draw of n = 200 unless said; bars are standard errors, over time in (a)-(c), over draws in (d).
(a) Whole spectra of h_t = W tanh(h_{t-1}) against the fraction u = (i - 1/2)/n. Lines: lambda(u) =
1/2 ln[g^2 (1-u) / S(-u)], S the S-transform of phi'(a)^2 with a ~ N(0, q), q = g^2 <tanh^2> + sigma^2. Marks in gray are
below the precision floor of float64. (b) The same with white Gaussian input of standard deviation sigma = 1 in every
unit. (c) Measured minus theory at g = 3: the top of the spectrum lies below theory by an amount that shrinks with n; the
bars leave out the draw of W. (d) The leading exponent against g: autonomous and driven, theory ln(g sqrt(<phi'^2>)),
means of draws; input lowers it and moves the onset of chaos from g = 1 to larger g. (e), (f) Kaplan-Yorke dimension and
entropy rate per unit; n = 4096 is a published simulation (filled: Clark et al., rnn-lyapunov data).
Theory: Sompolinsky, Crisanti & Sommers 1988 for q; the spectrum is that of an i.i.d. product (Newman 1986 for phi' = 1).
"""

LINE = {"marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.2, "zorder": 3, "markerfacecolor": "white"}
COLORS, MARKERS, STROKES = plotting.COLORS, "os^Dv", ("-", "--", "-.", ":")
# g: (D_KY / n, entropy / n) of one network of n = 4096, 6000 steps
PUBLISHED = {3.0: (0.28717, 0.025106), 5.0: (0.24594, 0.038912)}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    spectra(axes[0, 0], data, config, 0)
    spectra(axes[0, 1], data, config, 1)
    axes[0, 1].sharey(axes[0, 0])
    residuals(axes[0, 2], data, config)
    leading(axes[1, 0], data, config)
    per_unit(axes[1, 1], data, config, "dimension", r"dimension $D_{\mathrm{KY}}/n$", 0)
    per_unit(axes[1, 2], data, config, "entropy", "entropy rate $/n$ (nats/step)", 1)
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def spectra(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], driven: int) -> None:
    """Exponents against u at every gain."""
    n = data["small_exponents"].shape[-1]
    u, every = (np.arange(n) + 0.5) / n, max(1, n // 14)
    for k, g in enumerate(config["gains"]):
        exponents, error = data["small_exponents"][k, driven], data["small_standard_error"][k, driven]
        seen = data["small_resolved"][k, driven]
        chosen = np.arange(n) % every == 0
        ax.plot(data["theory_u"], data["theory_spectrum"][k, driven], color=COLORS[k], linestyle=STROKES[k], **LINE)
        for mask, color in ((chosen & seen, COLORS[k]), (~seen, "0.6")):
            label = f"$g={g:g}$" if color != "0.6" else None
            ax.errorbar(u[mask], exponents[mask], error[mask], color=color, fmt=MARKERS[k], label=label, elinewidth=0.8,
                        **{key: MARK[key] for key in ("markersize", "zorder", "markerfacecolor")})  # fmt: skip
    title = f"driven, $\\sigma={config['inputs'][1]:g}$" if driven else "autonomous"
    ax.set(xlabel="fraction $u=(i-1/2)/n$", ylabel=r"exponent $\lambda$ (nats/step)")
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.legend(loc="lower left", title=title, handlelength=1)


def residuals(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Measured minus theory at the gain of the large runs, for both sizes."""
    k = config["gains"].index(config["large_gain"])
    small, large = data["small_exponents"][k, 0], data["large_exponents"]
    for values, error, color, marker in (
        (small, data["small_standard_error"][k, 0], COLORS[0], "o"),
        (large.mean(axis=0), np.sqrt((data["large_standard_error"] ** 2).sum(axis=0)) / len(large), COLORS[1], "s"),
    ):
        n = values.size
        u, every = (np.arange(n) + 0.5) / n, max(1, n // 20)
        gap = values - np.interp(u, data["theory_u"], data["theory_spectrum"][k, 0])
        inside = (np.arange(n) % every == 0) & (u < 0.95)
        label = f"$n={n}$" + (f", {len(large)} draws" if color == COLORS[1] else "")
        ax.errorbar(u[inside], gap[inside], error[inside], color=color, fmt=marker, label=label, elinewidth=0.8,
                    markersize=3.2, markerfacecolor="white")  # fmt: skip
    ax.axhline(0, color="0.3", linewidth=0.8, zorder=0)
    ax.set(xlabel="fraction $u=(i-1/2)/n$", ylabel=r"measured $-$ theory (nats/step)")
    ax.set_ylim(top=0.08)
    ax.legend(loc="upper left", title=f"$g={config['large_gain']:g}$", handlelength=1)


def leading(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """lambda_1 against g."""
    for k, sigma in enumerate(config["inputs"]):
        draws = data["curve_leading"][k]
        label = rf"driven, $\sigma={sigma:g}$" if sigma else "autonomous"
        ax.plot(data["fine_gains"], data["fine_leading"][:, k], color=COLORS[k], linestyle=STROKES[k], **LINE)
        error = draws.std(axis=1, ddof=1) / np.sqrt(draws.shape[1]) if draws.shape[1] > 1 else None
        ax.errorbar(data["curve_gains"], draws.mean(axis=1), error, color=COLORS[k], fmt=MARKERS[k], label=label,
                    elinewidth=0.8, markersize=3.2, markerfacecolor="white")  # fmt: skip
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    gain_axis(ax)
    ax.set(ylabel=r"leading exponent $\lambda_1$ (nats/step)")
    ax.legend(loc="lower right", handlelength=1)


def per_unit(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], field: str, label: str, column: int) -> None:
    """Dimension or entropy per unit against g."""
    n, large = data["small_exponents"].shape[-1], data[f"large_{field}"] / data["large_exponents"].shape[-1]
    for k, sigma in enumerate(config["inputs"]):
        name = rf"$n={n}$, $\sigma={sigma:g}$" if sigma else f"$n={n}$"
        ax.plot(data["fine_gains"], data[f"fine_{field}"][:, k], color=COLORS[k], linestyle=STROKES[k], **LINE)
        ax.plot(
            config["gains"], data[f"small_{field}"][:, k] / n, color=COLORS[k], marker=MARKERS[k], label=name, **MARK
        )
    size = data["large_exponents"].shape[-1]
    ax.plot(config["large_gain"], large.mean(), color=COLORS[2], marker="^", label=f"$n={size}$", **MARK)
    gains = list(PUBLISHED)
    ax.plot(gains, [PUBLISHED[g][column] for g in gains], color=COLORS[3], marker="D", linestyle="none",
            markersize=3.2, label="$n=4096$")  # fmt: skip
    gain_axis(ax)
    ax.set(ylabel=label)
    ax.legend(loc="upper left", handlelength=1, labelspacing=0.25, borderaxespad=0)
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])


def gain_axis(ax: Any) -> None:
    """g from 0.5 to 10, in logarithmic steps."""
    ax.set(xscale="log", xlabel="gain $g$")
    ax.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    ax.minorticks_off()


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """The tolerances of dimension and entropy are three directions of n, and three of growth lambda_1."""
    three, five, n = (
        config["gains"].index(config["large_gain"]),
        config["gains"].index(5.0),
        data["large_exponents"].shape[-1],
    )
    u = (np.arange(data["small_exponents"].shape[-1]) + 0.5) / data["small_exponents"].shape[-1]
    gap = data["small_exponents"][three, 0] - np.interp(u, data["theory_u"], data["theory_spectrum"][three, 0])
    leading, mean = data["theory_leading"][three, 1], data["theory_mean"][three, 1]
    rule = np.max(np.abs(data["large_sum"] - data["large_sum_rule"]))
    large = f"g = 3, n = {n}, mean of {len(data['large_exponents'])} draws"
    mean_field = "mean field, Sompolinsky et al. 1988"
    driven = data["small_exponents"][three, 1]
    rows = [
        (f"{large}: lambda_1", mean_field, 0.3102493, 0.02, data["large_exponents"][:, 0].mean(), "equal"),
        (f"{large}: mean exponent (mean field less 4.5 / n, as the published run of n = 4096; four standard errors)",
         "mean field and circular law", -2.272805 - 4.5 / n, 4 * 7 / n / len(data["large_exponents"]) ** 0.5,
         data["large_exponents"].mean(), "equal"),
        ("sum rule, sum lambda_i = sum <ln phi'_i> + ln abs det W: worst of the draws", "exact at every n and T", 0, 1e-8,
         rule, "equal"),
        (f"{large}: D_KY / n (tolerance 3 / n)", "mean-field spectrum", 0.2877, 3 / n, data["large_dimension"].mean() / n,
         "equal"),
        (f"{large}: entropy / n (tolerance 3 lambda_1 / n)", "mean-field spectrum", 0.0252, 3 * 0.31 / n,
         data["large_entropy"].mean() / n, "equal"),
        (f"g = 3, n = {u.size}: worst distance from lambda(u), u < 0.8", "random-matrix spectrum", 0, 0.06,
         np.abs(gap[u < 0.8]).max(), "equal"),
        (f"g = 3, n = {u.size}, white input of variance 1: lambda_1", mean_field, leading, 0.03, driven[0], "equal"),
        (f"g = 3, n = {u.size}, white input of variance 1: mean exponent", "mean field and circular law", mean, 0.05,
         driven.mean(), "equal"),
        ("quadrature: lambda_1 at g = 5 (a fixed Gauss-Hermite rule says 0.53485)", mean_field, 0.5324279, 5e-8,
         data["theory_leading"][five, 0], "equal"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
