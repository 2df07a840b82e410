"""Gradients between vanishing and exploding: exp(a sqrt l) in tanh residual networks, powers of l on the critical line."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "sqrt_law"
CAPTION = """
Squared gradients that change more slowly than exponentially with depth; lines: mean-field recursion, marks: networks with
Gaussian weights of variance sigma_w^2 / n. Residual network x' = x + tanh(W x), sigma_w = 1, 200 units, 400 layers, 6
networks: (a) the variance of the state over depth tends to 1, from below as 1 - 4 / sqrt(2 pi l) (dotted); (b) log of the
mean squared Jacobian, every network, against the square root of depth; dotted: slope a = (8/3) / sqrt(2 pi) = 1.0638
(Yang & Schoenholz 2017); (c) its slope, over factors of 4 in depth, falls to a (dotted) only slowly: mean of the networks
with standard errors. Networks without residual connections on the critical line, h' = W phi(h), 400 units, 24 networks:
(d) averaged partial Jacobian norm, a power of depth, -1 for tanh (sigma_w^2 = 1) and 0 for ReLU (sigma_w^2 = 2; Doshi et
al. 2023), mean of the squares over networks with standard errors.
"""

MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "linestyle": "-", "zorder": 2}
DARK, BLUE, RED = plotting.COLORS[:3]
RATE = 8 / 3 / np.sqrt(2 * np.pi)
CRITICAL = (("tanh", BLUE, "s", "tanh"), ("relu", RED, "^", "ReLU"))


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Four panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.62, 2, 2)
    for letter, ax, panel in zip("abcd", axes.flat, (variance, gradient, slope, power), strict=True):
        panel(ax, data)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def spaced(last: int, first: int = 1, count: int = 14) -> np.ndarray:
    """Layers at equal distances of their logarithm."""
    return np.unique(np.geomspace(first, last, count).round().astype(int))


def variance(ax: Any, data: dict[str, np.ndarray]) -> None:
    """p_l / l."""
    theory, runs = data["theory_residual_variance"], data["residual_variance"]
    l = np.arange(1, len(theory))
    ax.plot(l, theory[1:] / l, color=DARK, label="recursion", **LINE)
    late = l[l >= 16]
    ax.plot(
        late, 1 - 4 / np.sqrt(2 * np.pi * late), color=RED, linestyle=":", marker="none", label=r"$1-4/\sqrt{2\pi l}$"
    )
    at = spaced(runs.shape[1] - 1)
    for k, run in enumerate(runs):
        ax.plot(
            at, run[at] / at, color=BLUE, marker="o", label=None if k else "networks", **(MARK | {"markersize": 2.4})
        )
    ax.axhline(1, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xscale="log", xlabel="layer $l$", ylabel=r"variance $p_l/l$")
    ax.legend(loc="upper right")


def gradient(ax: Any, data: dict[str, np.ndarray]) -> None:
    """ln chi against sqrt l."""
    runs = data["residual_log_chi"]
    depth = runs.shape[1] - 1
    l = np.arange(depth + 1)
    ax.plot(np.sqrt(l), data["theory_residual_log_chi"][: depth + 1], color=DARK, label="recursion", **LINE)
    ax.plot(np.sqrt(l), RATE * np.sqrt(l), color=RED, linestyle=":", marker="none", label=r"$1.0638\,\sqrt{l}$")
    at = np.unique((np.linspace(0, np.sqrt(depth), 11) ** 2).round().astype(int))
    for k, run in enumerate(runs):
        ax.plot(
            np.sqrt(at),
            run[at],
            color=BLUE,
            marker="o",
            label=None if k else "networks",
            **(MARK | {"markersize": 2.4}),
        )
    ax.set(xlabel=r"$\sqrt{l}$", ylabel=r"$\ln\,\chi_{0\to l}$ (nats)")
    ax.legend(loc="upper left")


def slopes(log_chi: np.ndarray, at: np.ndarray) -> np.ndarray:
    """d ln chi / d sqrt l between l / 4 and l, along the last axis."""
    before = at // 4
    return (log_chi[..., at] - log_chi[..., before]) / (np.sqrt(at) - np.sqrt(before))


def slope(ax: Any, data: dict[str, np.ndarray]) -> None:
    """The slope against depth."""
    theory, runs = data["theory_residual_log_chi"], data["residual_log_chi"]
    at = 4 * spaced((len(theory) - 1) // 4, 2, 40)
    ax.plot(at, slopes(theory, at), color=DARK, label="recursion", **LINE)
    ax.axhline(RATE, color=RED, linestyle=":", label="$a=1.0638$")
    at = 4 * spaced((runs.shape[1] - 1) // 4, 2, 8)
    found = slopes(runs, at)
    ax.errorbar(at, found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(len(found)), color=BLUE, marker="o",
                elinewidth=0.8, label="networks", **MARK)  # fmt: skip
    ax.set(xscale="log", xlabel="layer $l$", ylabel=r"$d\,\ln\,\chi\,/\,d\sqrt{l}$ (nats)")
    ax.legend(loc="upper right")


def power(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Averaged partial Jacobian norms of critical networks."""
    for name, color, marker, label in CRITICAL:
        squares = np.exp(data[f"{name}_log_chi"])
        l, at = np.arange(squares.shape[1]), spaced(squares.shape[1] - 1, 1, 11)
        ax.plot(l[1:], np.exp(data[f"theory_{name}_log_chi"])[1:], color=color, **LINE)
        error = squares.std(axis=0, ddof=1) / np.sqrt(len(squares))
        ax.errorbar(
            at, squares.mean(axis=0)[at], error[at], color=color, marker=marker, elinewidth=0.8, label=label, **MARK
        )
    guide = l[l >= l[-1] / 5]
    tail = np.exp(data["theory_tanh_log_chi"])[-1] * l[-1]
    ax.plot(guide, 0.5 * tail / guide, color="0.5", linestyle=":", marker="none", label=r"$\propto 1/l$")
    ax.set(xscale="log", yscale="log", xlabel="layer $l$", ylabel=r"mean squared Jacobian $\mathcal{J}^{0,l}$")
    ax.legend(loc="lower left")


def exponent(log_chi: np.ndarray) -> tuple[float, float]:
    """The power of depth over the last factor of 5, of the mean square over networks, and its standard error (jackknife)."""
    l = np.arange(log_chi.shape[1])
    late = l >= max(1, l[-1] // 5)
    fit = lambda runs: np.polyfit(np.log(l[late]), np.log(np.exp(runs).mean(axis=0))[late], 1)[0]
    left_out = np.array([fit(np.delete(log_chi, k, axis=0)) for k in range(len(log_chi))])
    return fit(log_chi), np.sqrt((len(left_out) - 1) * left_out.var())


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Networks: 4 to 5 standard errors at the default size; recursions: the digits printed, or the size of the next term."""
    theory, variances = data["theory_residual_log_chi"], data["theory_residual_variance"]
    runs, far = data["residual_log_chi"], len(theory) - 1
    depth = runs.shape[1] - 1
    local = slopes(runs.mean(axis=0), np.array([depth]))[0] / slopes(theory, np.array([depth]))[0]
    root = np.sqrt(far)
    powers = {name: exponent(data[f"{name}_log_chi"])[0] for name in ("tanh", "relu")}
    expected = {name: exponent(data[f"theory_{name}_log_chi"][None].repeat(2, axis=0))[0] for name in powers}
    yang, doshi = "Yang & Schoenholz 2017", "Doshi et al. 2023"
    low, high = config["power_from"], config["power_to"]
    rows = [
        ("a of ln chi ~ a sqrt(l), from the quadrature of tanh'^2", f"{yang}: (8/3) / sqrt(2 pi)", RATE, 1e-9,
         data["theory_sqrt_rate"]),
        (f"recursion: ln chi / sqrt(l) at l = {far}, slowly on its way to 1.0638", f"{yang}; independent quadrature: 1.0803",
         1.0803 if far == 4000 else RATE, 5e-5 if far == 4000 else 0.02, theory[-1] / root),
        (f"recursion: p_l / l -> 1, as (l - p_l) / sqrt(l) at l = {far}", "4 / sqrt(2 pi), from <tanh^2> ~ 1 - 2 / sqrt(2 pi p)",
         4 / np.sqrt(2 * np.pi), 3 / root, (far - variances[-1]) / root),
        (f"networks: ln chi at l = {depth} / recursion", yang, 1, 0.04, runs[:, -1].mean() / theory[depth]),
        (f"networks: slope of ln chi over sqrt(l), l = {depth // 4} to {depth}, / recursion", yang, 1, 0.07, local),
        (f"networks: variance at l = {depth} / recursion", yang, 1, 0.18,
         data["residual_variance"][:, -1].mean() / variances[depth]),
        (f"tanh, critical: power of depth, recursion from l = {low} to {high}", f"{doshi}: -1; -1.0012 at these depths",
         -1.0012, 5e-5, data["theory_tanh_power"]),
        (f"erf, critical: power of depth, recursion from l = {low} to {high}", f"{doshi}: -1", -1, 0.002,
         data["theory_erf_power"]),
        ("tanh, critical: power of depth of networks, last factor of 5", f"{doshi}, recursion", expected["tanh"], 0.18,
         powers["tanh"]),
        ("ReLU, critical: power of depth of networks, last factor of 5", f"{doshi}: 0", 0, 0.28, powers["relu"]),
    ]  # fmt: skip
    return claims_of(NAME, rows)
