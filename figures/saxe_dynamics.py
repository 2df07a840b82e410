"""Learning in deep linear networks: measured strengths of modes against their closed form."""

from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.special import polygamma, psi

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "saxe_dynamics"
CAPTION = """
Gradient descent on deep linear networks (Saxe, McClelland & Ganguli 2014), error |W_D ... W_1 - U S V^T|^2 / 2; time is
rate times updates. (a) Two layers from weights whose modes lie apart: the strengths u of four modes (marks) and
u(t) = s e^(2st) / (e^(2st) - 1 + s/u_0) (lines); they are the singular values of the network's Jacobian. (b) Two layers
from small random weights, 64 hidden units, all seeds: each mode follows the same curve from the part of the initial
weights that lies along it, so that strong modes are learned first. Lines: mean over seeds of that prediction. (c) A mode
of strength 2 at several depths D, against time times D; lines: u' = D u^(2-2/D) (s - u). (d) The time in which it grows
to half its strength: times D it has a limit (dotted), so that depth costs nothing from a start like this. (e) Largest,
middle and smallest log singular value of the Jacobian of 10 layers while they learn a full matrix with singular values
from 0.5 to 2, from orthogonal weights (circles) and from Gaussian weights of the same size (squares); one seed. (f) The
error left in all seeds: at the same size of the weights, directions that Gaussian products have squashed don't learn.
"""

DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
HUES = (DARK, BLUE, RED, GREEN, plotting.COLORS[4])
LINE = {"linestyle": "-", "marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
LEGEND = {"handlelength": 1.0, "labelspacing": 0.2, "borderaxespad": 0.2, "handletextpad": 0.5}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    panels = (aligned, unaligned, depths, delays, spectra, errors)
    for letter, ax, panel in zip("abcdef", axes.flat, panels, strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def aligned(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Strengths of decoupled modes."""
    every = slice(None, None, 3)
    for k, s in enumerate(config["modes"]):
        ax.plot(data["aligned_curve"], data["aligned_curve_theory"][:, k], color=HUES[k], **LINE)
        u = data["aligned_strength"][1, every, k]
        ax.plot(data["aligned_t"][every], u, color=HUES[k], marker="os^D"[k], label=f"$s={s:g}$", **MARK)
    ax.set(xlabel="time $t$", ylabel="strength $u$", ylim=(-0.1, 5.4))
    ax.legend(loc="upper left", ncols=2, columnspacing=1, **LEGEND)


def unaligned(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Strengths from small random weights."""
    t, every = data["unaligned_t"], slice(None, None, 3)
    for k, s in enumerate(config["modes"]):
        ax.plot(t, data["unaligned_strength_theory"][:, :, k].mean(axis=0), color=HUES[k], **LINE)
        for seed, u in enumerate(data["unaligned_strength"][:, every, k]):
            label = None if seed else f"$s={s:g}$"
            ax.plot(t[every], u, color=HUES[k], marker="os^D"[k], label=label, **(MARK | {"markersize": 2.4}))
    ax.set(xlabel="time $t$", ylabel="strength $u$", ylim=(-0.1, 5.4))
    ax.legend(loc="upper left", ncols=2, columnspacing=1, **LEGEND)


def depths(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """One mode at several depths."""
    t = data["depths_t"]
    for k, D in enumerate(config["depths"][:5]):
        ax.plot(t, data["depths_strength_theory"][k], color=HUES[k], **LINE)
        u = data["depths_strength"][k, 1, k::5]
        ax.plot(t[k::5], u, color=HUES[k], marker="os^Dv"[k], label=f"$D={D}$", **MARK)
    ax.set(xlabel="time times depth, $D\\,t$", ylabel="strength $u$", ylim=(0, 2.7))
    ax.legend(loc="upper left", ncols=3, columnspacing=1, **LEGEND)


def delay(D: float, s: float, start: float) -> float:
    """D times the time from `start` to s/2: the integral of u^(2/D - 2) / (s - u)."""
    return quad(lambda u: u ** (2 / D - 2) / (s - u), start, s / 2, epsabs=1e-13, epsrel=1e-13)[0]


def half(t: np.ndarray, u: np.ndarray, s: float) -> float:
    """When u passes s/2, linear in the logit of u/s between snapshots; NaN if it does not."""
    k = int(np.argmax(u > s / 2))
    if k == 0:
        return np.nan
    logit = np.log(u[k - 1 : k + 1] / (s - u[k - 1 : k + 1]))
    return float(np.interp(0, logit, t[k - 1 : k + 1]))


def delays(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Time to half the strength against depth."""
    s, start = config["depth_mode"], config["depth_start"]
    D = np.geomspace(2, 14, 60)
    ax.plot(D, [delay(d, s, start) for d in D], color="0.5", label="theory", **LINE)
    ax.axhline(delay(np.inf, s, start), color="0.5", linestyle=":", marker="none", label=r"$D\to\infty$")
    measured = [half(data["depths_t"], u[1], s) for u in data["depths_strength"]]
    ax.plot(config["depths"], measured, color=DARK, marker="o", label="gradient descent", **MARK)
    ax.set(xlabel="depth $D$", ylabel="$D\\,t$ to half the strength", ylim=(0, None))
    ax.legend(loc="lower right", **(LEGEND | {"handlelength": 1.6}))


def spectra(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """Log singular values during training."""
    t, every = data["isometry_t"], slice(None, None, 5)
    for logs, color, marker, label in zip(
        data["isometry_log"][:, 0], (DARK, RED), "os", ("orthogonal", "Gaussian"), strict=True
    ):
        shown = logs[:, [0, logs.shape[1] // 2, -1]]
        ax.plot(t, shown, color=color, linewidth=0.7, **LINE)
        for k, row in enumerate(shown[every].T):
            ax.plot(t[every], row, color=color, marker=marker, label=None if k else label, **MARK)
    ax.set(xlabel="time times depth, $D\\,t$", ylabel=r"$\ln\sigma_i$ (nats)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.3), **LEGEND)


def errors(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """The error of all seeds."""
    t, every = data["isometry_t"], slice(None, None, 5)
    for runs, color, marker, label in zip(
        data["isometry_error"], (DARK, RED), "os", ("orthogonal", "Gaussian"), strict=True
    ):
        for seed, run in enumerate(runs):
            ax.plot(t, run, color=color, linewidth=0.7, **LINE)
            ax.plot(
                t[every],
                run[every],
                color=color,
                marker=marker,
                label=None if seed else label,
                **(MARK | {"markersize": 2.4}),
            )
    ax.set(yscale="log", xlabel="time times depth, $D\\,t$", ylabel="error")
    ax.legend(loc="lower left", **LEGEND)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Gradient descent of the rate eta is the flow up to eta; twice the run at eta/2 minus that at eta, up to eta^2."""
    saxe = "Saxe et al. 2014"
    modes, start, rate = np.array(config["modes"]), config["start"], config["rate"]
    full, halved = data["aligned_strength"] - data["aligned_strength_theory"]
    # while u is small a grows by ln(1 + eta s) = eta s (1 - eta s / 2) an update: late by eta s / 2 of ln(s/u_0) / (2 s),
    # at a speed of s^2 / 2 at most
    first = rate * modes**2 * np.log(modes / start) / 8
    deep = data["depths_strength"] - data["depths_strength_theory"][:, None]
    t_half = [
        half(data["aligned_t"], 2 * b - a, s)
        for a, b, s in zip(*data["aligned_strength"].transpose(0, 2, 1), modes, strict=True)
    ]
    closed = np.log(modes / start - 1) / (2 * modes)
    pair = lambda key: np.array([
        [half(data["unaligned_t"], u, s) for u, s in zip(run.T, modes, strict=True)] for run in data[key]
    ])  # fmt: skip
    measured, predicted = pair("unaligned_strength"), pair("unaligned_strength_theory")
    s, at = config["depth_mode"], config["depth_start"]
    late = np.array(
        [
            half(data["depths_t"], 2 * u[1] - u[0], s) / delay(D, s, at)
            for D, u in zip(config["depths"], data["depths_strength"], strict=True)
        ]
    )
    orthogonal, gaussian = data["isometry_log"][:, :, 0]
    n, D = config["size"], config["deep"]
    i = np.arange(1, n + 1)
    mean = D * np.sum(np.log(2 / n) + psi(i / 2)) / 2
    spread = np.sqrt(D * np.sum(polygamma(1, i / 2)) / 4 / config["seeds"])
    ends = data["isometry_error"][..., -1]
    rows = [
        ("two layers: worst distance from the closed form over its bound, first order in the rate", f"{saxe}, closed form", 1, 0,
         (np.abs(full).max(axis=0) / first).max(), "at_most"),
        ("two layers: that distance at the rate over that at half the rate", "derived: first order in the rate", 2, 0.1,
         np.abs(full).max() / np.abs(halved).max(), "equal"),
        ("two layers, extrapolated to rate 0: worst distance from the closed form", f"{saxe}, closed form", 0,
         (first * rate * modes).max(), np.abs(2 * halved - full).max(), "equal"),
        ("two layers: worst relative error of the time ln(s/u_0 - 1) / (2s) to half the strength", f"{saxe}, closed form", 0, 1e-4,
         np.abs(t_half / closed - 1).max(), "equal"),
        ("singular values of the Jacobian are the strengths: worst difference", "derived: J = W_2 W_1", 0, 1e-12,
         np.abs(np.exp(data["aligned_log"]) - data["aligned_strength"][1]).max(), "equal"),
        ("small random weights: worst relative error of the time to half the strength, all seeds and modes",
         "derived: |W_1 v + W_2^T u|^2 / 4 grows as e^(2st)", 0, 0.04, np.abs(measured / predicted - 1).max(), "equal"),
        # the fastest rate of the flow is s^2 a unit of D t: second order in the rate is (eta s^2)^2 of s
        ("2 to 12 layers, extrapolated to rate 0: worst distance from u' = D u^(2-2/D) (s - u)", saxe, 0, s * (rate * s**2) ** 2,
         np.abs(2 * deep[:, 1] - deep[:, 0]).max(), "equal"),
        ("2 to 12 layers: worst relative error of the time to half the strength", f"{saxe}: quadrature", 0, 1e-3,
         np.abs(late - 1).max(), "equal"),
        (f"{D} Gaussian layers at the start: ln|det J|, in standard errors from its mean", "Newman 1986: psi formula, sum rule", 0, 4.5,
         (gaussian.sum(axis=-1).mean() - mean) / spread + np.abs(orthogonal).max(), "equal"),
        ("error left: least of the Gaussian starts over largest of the orthogonal ones", f"{saxe}: dynamical isometry", 1, 0,
         ends[1].min() / ends[0].max(), "at_least"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
