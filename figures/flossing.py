"""Gradient flossing: exponents are drawn to zero, and the condition number of the long-term Jacobian falls."""

from typing import Any

import numpy as np
from scipy.special import polygamma

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "flossing"
CAPTION = """
Gradient flossing (Engelken 2023) of the network h_t = tanh(W h_{t-1} + U x_t) of 80 units, W_ij ~ N(0, 1/80), driven by
one white input: Adam moves W downhill on the mean of lambda_i^2 over the first k Lyapunov exponents, in short windows
with new inputs at every update. Everything shown is measured on other inputs; standard errors
of the exponents are about 0.005. (a) All exponents before and after 160
updates with k = 1, 16 and 32 (dotted: k); line: mean field for the initial network, n -> infinity (the top of a network
of 80 units below the onset of chaos lies above it). (b) Exponents during the flossing of the first 16: these go to zero,
the others stay. (c) The mean of lambda_i^2 over i <= k during the flossing of k exponents; dotted: 0.001. (d) Condition
number kappa_16 = sigma_1 / sigma_16 of the product of t step Jacobians (marks) and exp((lambda_1 - lambda_16) t) (lines).
Flossing one exponent sets the norm of the gradient, not its conditioning: the other directions fall behind. (e) The same
over all steps for the ratio of the first and the m-th singular value: what is flossed is well conditioned. (f) Norm
of the gradient against the lag behind the loss, mean of the logarithms for 16 random cotangents and their standard
deviation (marks), and lambda_1 times the lag (lines).
"""

MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "zorder": 1}
MARKERS, STROKES = "os^D", ("-", "--", "-.", ":")


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    panels = (spectra, during, losses, horizons, directions, gradients)
    for letter, ax, panel in zip("abcdef", axes.flat, panels, strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def networks(config: dict[str, Any]) -> list[tuple[str, str, str, Any]]:
    """Label, color, marker and stroke of the network before and after each flossing."""
    labels = ["before", *(f"$k={k}$" for k in config["flossed"])]
    return list(zip(labels, plotting.COLORS, MARKERS, STROKES, strict=False))


def spectra(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """All exponents, and mean field before."""
    index = np.arange(config["size"]) + 1
    ax.plot(index, data["mean_field"], color="0.5", label="mean field", **LINE)
    for (label, color, marker, _), exponents in zip(networks(config), data["exponents"], strict=True):
        ax.plot(index[::3], exponents[::3], color=color, marker=marker, label=label, **MARK)
    for k, (_, color, _, _) in zip(config["flossed"], networks(config)[1:], strict=True):
        ax.axvline(k, 0.5, color=color, linestyle=":", linewidth=0.7, zorder=0)
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.set(xlabel="index $i$", ylabel=r"exponent $\lambda_i$ (nats/step)")
    ax.set_ylim(-2.4, 0.1)
    ax.legend(loc="lower left", handlelength=1, labelspacing=0.25)


def during(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Exponents of the middle k against updates."""
    middle = len(config["flossed"]) // 2
    k, tracked = config["flossed"][middle], config["tracked"]
    within = sorted({0, k // 4 - 1, k // 2 - 1, k - 1} - {-1})
    beyond = sorted({k, (k + tracked) // 2 - 1, tracked - 1} - set(within))
    for chosen, color, marker, label in (
        (within, networks(config)[middle + 1][1], "o", r"$\lambda_{%s}$"),
        (beyond, "0.55", "s", r"$\lambda_{%s}$"),
    ):
        text = label % ",".join(str(i + 1) for i in chosen)
        lines = ax.plot(config["records"], data["during"][middle][:, chosen], color=color, marker=marker, linewidth=0.7,
                        markersize=2.8, markerfacecolor="white", linestyle="-")  # fmt: skip
        lines[0].set_label(text)
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.set(xlabel="updates", ylabel=r"exponent $\lambda_i$ (nats/step)")
    low = data["during"][middle].min()
    ax.set_ylim(1.85 * low, 0.06)
    ax.legend(loc="lower left", title=f"flossed: $k={k}$", handlelength=1.4, labelspacing=0.25)


def losses(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The flossing loss on inputs not seen."""
    for k, history, (label, color, marker, _) in zip(
        config["flossed"], data["during"], networks(config)[1:], strict=True
    ):
        ax.plot(config["records"], (history[:, :k] ** 2).mean(axis=1), color=color, marker=marker, linewidth=0.7,
                linestyle="-", markersize=3.2, markerfacecolor="white", label=label)  # fmt: skip
    ax.axhline(1e-3, color="0.5", linestyle=":", linewidth=0.9, zorder=0)
    ax.set(yscale="log", xlabel="updates", ylabel=r"mean of $\lambda_i^2$, $i\leq k$ (nats$^2$/step$^2$)")
    ax.legend(loc="upper right", handlelength=1.4, labelspacing=0.25)


def log_condition(data: dict[str, np.ndarray], m: int) -> np.ndarray:
    """ln(sigma_1 / sigma_m), axes (network, horizon)."""
    s = data["log_singular_values"]
    return s[:, :, 0] - s[:, :, m - 1]


def horizons(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln kappa_m against the horizon, m the middle k."""
    m, t = config["flossed"][len(config["flossed"]) // 2], np.asarray(config["horizons"])
    gaps = data["exponents"][:, 0] - data["exponents"][:, m - 1]
    for (label, color, marker, stroke), gap, found in zip(networks(config), gaps, log_condition(data, m), strict=True):
        ax.plot([0, t[-1]], [0, gap * t[-1]], color=color, linestyle=stroke, **LINE)
        ax.plot(t, found, color=color, marker=marker, label=label, **MARK)
    ax.set(xlabel="horizon $t$ (steps)", ylabel=rf"$\ln\,\kappa_{{{m}}}$ (nats)")
    ax.legend(loc="upper left", handlelength=1, labelspacing=0.25)


def directions(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln(sigma_1 / sigma_m) against m over all steps."""
    t, m = config["horizons"][-1], np.arange(min(config["size"], config["size"] // 2 + 8))
    for (label, color, marker, stroke), exponents, s in zip(
        networks(config), data["exponents"], data["log_singular_values"][:, -1], strict=True
    ):
        ax.plot(m + 1, (exponents[0] - exponents[m]) * t, color=color, linestyle=stroke, **LINE)
        ax.plot(m[::3] + 1, s[0] - s[m[::3]], color=color, marker=marker, label=label, **MARK)
    ax.set(xlabel="direction $m$", ylabel=rf"$\ln(\sigma_1/\sigma_m)$, $t={t}$ (nats)")
    ax.legend(loc="upper left", handlelength=1, labelspacing=0.25)


def gradients(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Mean log gradient norm against lag."""
    backward = data["log_gradient_norms"][..., ::-1]
    backward = backward - backward[..., :1]
    lag = np.arange(backward.shape[-1])
    for (label, color, marker, stroke), rows, exponents in zip(
        networks(config), backward, data["exponents"], strict=True
    ):
        ax.plot(lag, exponents[0] * lag, color=color, linestyle=stroke, **LINE)
        every = slice(None, None, max(1, lag.size // 10))
        ax.errorbar(lag[every], rows.mean(axis=0)[every], rows.std(axis=0, ddof=1)[every], color=color, marker=marker,
                    label=label, elinewidth=0.7, **MARK)  # fmt: skip
    ax.set(
        xlabel="lag $T-t$ (steps)",
        ylabel=r"$\ln(\Vert\partial E/\partial h_t\Vert/\Vert\partial E/\partial h_T\Vert)$ (nats)",
    )
    ax.legend(loc="lower left", handlelength=1, labelspacing=0.25)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Singular values and norms are exp(lambda T) up to powers of n: a ratio of two is allowed n^4."""
    n, steps, ks, records = config["size"], config["horizons"][-1], config["flossed"], np.asarray(config["records"])
    exponents, middle, engelken = data["exponents"], len(ks) // 2, "Engelken 2023"
    m, last, edge = ks[middle], ks[-1], 4 * np.log(n) / steps
    loss = (data["during"][middle][:, :m] ** 2).mean(axis=1)
    reached = records[loss < 1e-3]
    final = [(exponents[i][:k] ** 2).mean() for i, k in ((0, last), (len(ks), last))]
    apart = [log_condition(data, j)[:, -1] / steps - (exponents[:, 0] - exponents[:, j - 1]) for j in (m, last)]
    kappa = log_condition(data, m)[:, -1]
    norms = data["log_gradient_norms"].mean(axis=1)
    rates = (norms[:, 0] - norms[:, -1]) / steps
    spread = np.sqrt(polygamma(1, np.arange(1, n + 1) / 2).sum()) / (2 * n)
    rows = [
        (f"updates until the mean of lambda_i^2 over i <= {m} is below 0.001", engelken, 200, 0,
         reached[0] if reached.size else np.inf, "at_most"),
        (f"lambda_1 after flossing {ks[0]} (tolerance 0.01 and four standard errors)", engelken, 0, 0.01 + 4 * np.nan_to_num(data["standard_error"][1, 0]),
         exponents[1, 0]),
        (f"mean of lambda_i^2 over i <= {last}: after flossing {last} / before", engelken, 0.05, 0, final[1] / final[0],
         "at_most"),
        (f"ln(sigma_1 / sigma_m) / T = lambda_1 - lambda_m, m = {m} and {last}: worst of {len(exponents)} networks",
         engelken, 0, edge, np.abs(apart).max()),
        (f"ln kappa_{m} over {steps} steps: flossed {last} minus before (12 orders of magnitude)", engelken,
         -12 * np.log(10), 0, kappa[-1] - kappa[0], "at_most"),
        (f"ln kappa_{m} over {steps} steps: flossed {ks[0]} minus before", f"{ks[0]} < {m} exponents are asked for", 0, 0,
         kappa[1] - kappa[0], "at_least"),
        (f"rate of gradient norms over {steps} steps = lambda_1: worst of {len(exponents)} networks",
         "Engelken 2023; Oseledets 1968", 0, edge, np.abs(rates - exponents[:, 0]).max()),
        ("sum lambda_i = mean ln abs det J_t: worst of the networks", "exact at every n and T", 0, 1e-8,
         np.abs(data["sum_exponents"] - data["sum_log_det"]).max()),
        ("before: mean exponent (tolerance: four deviations of ln abs det W / n)", "mean field and circular law",
         data["mean_field"].mean(), 4 * spread, exponents[0].mean()),
    ]  # fmt: skip
    return claims_of(NAME, rows)
