"""Extensive chaos of random rate networks: one spectrum for all sizes, dimension and entropy against gain and input."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "extensive_chaos"
CAPTION = """
Lyapunov spectra of random rate networks dx/dt = -x + J tanh(x) + noise (flow; Runge-Kutta, 0.2 time constants a step) and
x' = J tanh(x) (map), J_ij ~ N(0, g^2/N), after Engelken, Wolf & Abbott 2023; nats per time constant, a step of the map. (a) Whole
spectra of the flow, N = 100, one network each, and the same turned about (1/2, -1) (lines): a point symmetry, good near the
onset of chaos, of mean exactly -1 at every g (dotted). (b) Leading exponents at g = 3 against i/N: means of three networks
of each size with their standard deviation; filled: lambda_1 and share of positive exponents of a published run of N = 4096
(Clark, rnn-lyapunov data). (c) Dimension and entropy rate grow in proportion to N: every network; lines: N times the published
values per unit at N = 4096. (d) The leading exponent of the flow against the gain, without input and with white noise of
sigma = 1: dynamic mean field, N -> infinity (lines; Sompolinsky et al. 1988, Schuecker et al. 2018) and one network of
N = 200 each, which lies lower: its first exponent stands at (i - 1/2)/N = 0.0025, where the spectrum is steep, and small
networks are regular near the onset of chaos. (e) Kaplan-Yorke dimension and (f) entropy rate per unit: flow and flow with
noise, one network of N = 200 each, and map, two of N = 200, with random-matrix theory (line); filled: published, N = 4096.
Both fall again when the gain of the map grows; noise lowers both.
"""

MARK = {"linestyle": "none", "markersize": 3.4, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "zorder": 2}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
LOOKS = tuple(zip((DARK, BLUE, RED), "os^", strict=True))
FILLED = {"color": GREEN, "marker": "D", "linestyle": "none", "markersize": 4.5, "zorder": 2.5}
# published runs of N = 4096: D_KY/N, h/N, lambda_1, share of positive exponents, <tanh'^2>
FLOW = {"dimension": 0.06094, "entropy": 0.0031354, "leading": 0.23114, "positive": 0.02881}
MAP = {
    3.0: {"dimension": 0.28717, "entropy": 0.025106, "leading": 0.30958},
    5.0: {"dimension": 0.24594, "entropy": 0.038912, "leading": 0.53118, "slope_square": 0.11595},
}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    symmetry(axes[0, 0], data, config)
    collapse(axes[0, 1], data, config)
    growth(axes[0, 2], data, config)
    leading(axes[1, 0], data, config)
    per_unit(axes[1, 1], data, config, "dimension", r"dimension $D_{\mathrm{KY}}/N$")
    per_unit(axes[1, 2], data, config, "entropy", r"entropy rate $h/N$ (nats/$\tau$)")
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def fraction(n: int, k: int) -> np.ndarray:
    """(i - 1/2) / n of the leading k exponents."""
    return (np.arange(k) + 0.5) / n


def symmetry(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Whole spectra and their images under the point symmetry."""
    n = data["whole_exponents"].shape[1]
    u, every = fraction(n, n), max(1, n // 20)
    for k, g in enumerate(config["whole_gains"]):
        exponents, (color, marker) = data["whole_exponents"][k], LOOKS[k]
        ax.plot(u, -2 - exponents[::-1], color=color, linestyle="-", linewidth=0.8, **LINE)
        ax.plot(u[::every], exponents[::every], color=color, marker=marker, label=f"$g={g:g}$", **MARK)
    ax.axhline(-1, color="0.5", linestyle=":", linewidth=0.8, zorder=0)
    ax.plot([], [], color="0.4", linestyle="-", linewidth=0.8, marker="none", label="turned about $(1/2,-1)$")
    ax.set(xlabel="fraction $(i-1/2)/N$", ylabel=r"exponent $\lambda_i$ (nats/$\tau$)")
    ax.legend(loc="lower left", handlelength=1.2)


def collapse(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The top of the spectrum at every size."""
    for n, (color, marker) in zip(config["sizes"], LOOKS, strict=False):
        runs = data[f"size_{n}_exponents"]
        u = fraction(n, runs.shape[1])
        shown = (u < 0.1) & (np.arange(len(u)) % max(1, n // 150) == 0)
        ax.errorbar(u[shown], runs.mean(axis=0)[shown], runs.std(axis=0, ddof=1)[shown], color=color, fmt=marker,
                    label=f"$N={n}$", elinewidth=0.7, **(MARK | {"linestyle": None}))  # fmt: skip
    ax.plot([0.5 / 4096, FLOW["positive"]], [FLOW["leading"], 0], label="$N=4096$", **FILLED)
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.set(xlabel="fraction $(i-1/2)/N$", ylabel=r"exponent $\lambda_i$ (nats/$\tau$)")
    ax.text(0.97, 0.95, f"flow, $g={config['gain']:g}$", transform=ax.transAxes, ha="right", va="top")
    ax.legend(loc="lower left", handlelength=1)


def growth(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Dimension and entropy rate of whole networks."""
    line = np.array([0, 1.08 * max(config["sizes"])])
    for (field, factor, label), (color, marker) in zip(
        (("dimension", 1, r"$D_{\mathrm{KY}}$"), ("entropy", 10, r"$10\,h$ (nats/$\tau$)")), LOOKS[:2], strict=True
    ):
        ax.plot(line, factor * FLOW[field] * line, color=color, linestyle="-", **LINE)
        for n in config["sizes"]:
            found = factor * n * data[f"size_{n}_{field}"]
            ax.plot(np.full(len(found), n), found, color=color, marker=marker, **MARK)
        ax.plot([], [], color=color, marker=marker, label=label, **MARK)
    ax.plot([], [], color="0.4", linestyle="-", marker="none", label=r"$N\times$ values at 4096")
    ax.set(xlabel="units $N$", ylabel="dimension and entropy rate", xlim=(0, None))
    ax.set_ylim(-0.5, 1.25 * ax.get_ylim()[1])
    ax.legend(loc="upper left", title=f"flow, $g={config['gain']:g}$", handlelength=1.2)


def leading(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """lambda_1 of the flow against the gain, without and with noise."""
    for k, sigma in enumerate(config["noise"]):
        color, marker = LOOKS[k]
        ax.plot(data["theory_gains"], data["theory_leading"][k], color=color, linestyle="-", **LINE)
        found = data["sweep_exponents"][k, :, :, 0]
        ax.plot(config["sweep_gains"], found, color=color, marker=marker, **MARK)
        ax.plot([], [], color=color, marker=marker, label=rf"$\sigma={sigma:g}$", **MARK)
    ax.plot(config["gain"], FLOW["leading"], label="$N=4096$", **FILLED)
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.set(xlabel="gain $g$", ylabel=r"leading exponent $\lambda_1$ (nats/$\tau$)")
    ax.text(0.05, 0.95, "flow", transform=ax.transAxes, va="top")
    ax.legend(loc="lower right", handlelength=1)


def per_unit(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], field: str, label: str) -> None:
    """Dimension or entropy rate per unit of flow and map against the gain."""
    ax.plot(data["theory_map_gains"], data[f"theory_map_{field}"], color=RED, linestyle="-", **LINE)
    shown = [(config["map_gains"], data[f"map_{field}"], LOOKS[2], "map")]
    for k, sigma in enumerate(config["noise"]):
        name = rf"flow, $\sigma={sigma:g}$" if sigma else "flow"
        shown.append((config["sweep_gains"], data[f"sweep_{field}"][k], LOOKS[k], name))
    for gains, found, (color, marker), name in shown:
        ax.plot(gains, found, color=color, marker=marker, **MARK)
        ax.plot([], [], color=color, marker=marker, label=name, **MARK)
    values = [MAP[g][field] for g in MAP] + [FLOW[field]]
    ax.plot([*MAP, config["gain"]], values, label="$N=4096$", **FILLED)
    ax.set(xscale="log", xlabel="gain $g$", ylabel=label)
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])
    ax.set_xticks([1, 2, 5, 10, 30], ["1", "2", "5", "10", "30"])
    ax.minorticks_off()
    ax.legend(loc="upper right" if field == "dimension" else "upper left", handlelength=1, borderaxespad=0, ncol=2,
              columnspacing=1)  # fmt: skip


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Tolerances on dimension and entropy are in directions of n, and in directions of growth lambda_1.

    One network differs from the next by one to two directions; three of them are averaged here, two for the map. A map of gain
    30 has lambda_1 = 1.39.
    """
    n, size = config["sizes"][-1], f"size_{config['sizes'][-1]}_"
    half = f"size_{config['sizes'][-2]}_exponents"
    flow, five, N = f"flow, g = 3, N = {n}", config["map_gains"].index(5.0), config["map_size"]
    clark = "Clark, rnn-lyapunov data, N = 4096"
    engelken = "Engelken, Wolf & Abbott 2023"
    of_map = lambda field, k: data[f"map_{field}"][k].mean()
    eight, thirty = config["map_gains"].index(8.0), config["map_gains"].index(30.0)
    drop = np.interp([8.0, 30.0], data["theory_map_gains"], data["theory_map_entropy"])
    near = np.asarray(config["sweep_gains"]) <= 3
    change = max(np.diff(data[f"sweep_{field}"][:, near], axis=0).mean() for field in ("dimension", "entropy"))
    rows = [
        (f"{flow}: D_KY / N (tolerance 5 / N)", clark, FLOW["dimension"], 5 / n, data[f"{size}dimension"].mean()),
        (f"{flow}: entropy rate / N (tolerance 3 lambda_1 / N)", clark, FLOW["entropy"], 3 * FLOW["leading"] / n,
         data[f"{size}entropy"].mean()),
        ("flow, g = 3: lambda_1 of dynamic mean field, N -> infinity", clark, FLOW["leading"], 0.01,
         data["sweep_theory"][config["noise"].index(0.0), config["sweep_gains"].index(3.0)]),
        (f"flow, g = 3: worst distance of the mean spectra of N = {config['sizes'][-2]} and {n} at equal i/N, i/N < 0.1",
         f"{engelken}: size-invariant spectrum", 0, 0.1, distance(data[half], config["sizes"][-2], data[f"{size}exponents"], n)),
        ("flow, whole spectra: worst distance of the mean exponent from -1", f"derived: div f = -N; {engelken}", 0, 2e-4,
         np.abs(data["whole_exponents"].mean(axis=1) + 1).max()),
        ("flow, g <= 3: mean change by noise of D_KY / N, or of the entropy rate / N if it is larger",
         f"{engelken}: input reduces both", 0, 0, change, "at_most"),
        (f"map, g = 5, N = {N}: D_KY / N", clark, MAP[5.0]["dimension"], 0.02, of_map("dimension", five)),
        (f"map, g = 5, N = {N}: entropy rate / N (tolerance 3 lambda_1 / N)", clark, MAP[5.0]["entropy"],
         3 * MAP[5.0]["leading"] / N, of_map("entropy", five)),
        (f"map, g = 5, N = {N}: <tanh'^2>", clark, MAP[5.0]["slope_square"], 0.006, of_map("slope_square", five)),
        ("map: entropy rate / N falls from g = 8 to g = 30 by", "random-matrix theory (Newman 1986)", drop[0] - drop[1], 1.39 / N,
         of_map("entropy", eight) - of_map("entropy", thirty)),
    ]  # fmt: skip
    return claims_of(NAME, rows)


def distance(few: np.ndarray, n: int, many: np.ndarray, m: int) -> float:
    """The largest difference of two mean spectra at equal i/N below 0.1, where both were measured."""
    u, v = fraction(n, few.shape[1]), fraction(m, many.shape[1])
    shared = (u < 0.1) & (u <= v[-1])
    return float(np.abs(few.mean(axis=0)[shared] - np.interp(u[shared], v, many.mean(axis=0))).max())
