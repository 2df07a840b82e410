"""The curse of memory in linear recurrent units, and what their parametrization does against it."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "curse_of_memory"
CAPTION = """
The curse of memory (Zucchet & Orvieto 2024): sensitivity of the linear unit h_t = l h_{t-1} + x_t to l, with Gaussian
inputs of unit variance and correlation rho^|t - s|; marks: means over draws of LRU cells after 600 steps and of their
parameter gradients, bars: two standard errors; lines: theory. (a) E h^2 and (b) E (dh/dl)^2 against 1 - l: no state
explodes, and no Jacobian, yet the derivative does, with the third power of the memory 1 / (1 - l), and worse for
correlated inputs. (c) The derivative by the lag at which l acted, white input: l^(2 j) / (1 - l^2). (d) The cure of the
LRU: with gamma = sqrt(1 - l^2) before the input (squares) the mean square is 1 / (1 - l^2)^2, and with respect to nu,
l = exp(-exp nu), it is (l ln l / (1 - l^2))^2, at most 1/4 (triangles). (e) Derivative of the real part of a state by
its phase theta, modulus 0.95. (f) Loss of a student l with a teacher l = 0.95, white input: its curvature at the
minimum, 2 E (dh/dl)^2, is the price of memory.
"""

DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
LINE = {"linestyle": "-", "marker": "none", "zorder": 1}
MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
BAR = {"elinewidth": 0.7, "markersize": 3.2, "markerfacecolor": "white", "zorder": 3}
LEGEND = {"handlelength": 1.0, "labelspacing": 0.2, "borderaxespad": 0.2, "handletextpad": 0.5}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    for letter, ax, panel in zip("abcdef", axes.flat, (moment, sensitivity, lags, cured, phases, loss), strict=True):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def error(config: dict[str, Any]) -> float:
    """Relative standard error of the mean square of a Gaussian variable."""
    return np.sqrt(2 / config["draws"])


def against_memory(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], name: str, label: str) -> None:
    """A second moment against 1 - l, for every correlation."""
    memory = 1 - np.array(config["decays"])
    for k, rho in enumerate(config["correlations"]):
        color, found = plotting.COLORS[k], data[f"plain_{name}"][k]
        ax.plot(1 - data["plain_curve"], data[f"plain_curve_{name}"][k], color=color, **LINE)
        ax.errorbar(
            memory, found, 2 * error(config) * found, color=color, fmt="os^"[k], label=rf"$\rho={rho:g}$", **BAR
        )
    ax.set(yscale="log", ylabel=label)
    memory_axis(ax)
    ax.legend(loc="upper right", **LEGEND)


def memory_axis(ax: Any) -> None:
    """1 - l, logarithmic."""
    ax.set(xscale="log", xlabel="$1-\\ell$")
    ax.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    ax.xaxis.minorticks_off()


def moment(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """E h^2."""
    against_memory(ax, data, config, "moment", "$E\\,h^2$")


def sensitivity(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """E (dh/dl)^2."""
    against_memory(ax, data, config, "sensitivity", r"$E\,(\partial h/\partial\ell)^2$")


def lags(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Mean squares of the summands of dh/dl."""
    j = np.arange(121)
    for l, color, marker in zip((0.8, 0.9, 0.95, 0.98), (GREEN, RED, BLUE, DARK), "D^so", strict=True):
        found = data["plain_lag"][:121, config["decays"].index(l)]
        ax.plot(j, l ** (2 * j) / (1 - l**2), color=color, **LINE)
        shown = np.arange(0, len(found), 8)
        ax.plot(shown, found[shown], color=color, marker=marker, label=rf"$\ell={l:g}$", **MARK)
    ax.set(yscale="log", xlabel="lag $j$ (steps)", ylabel="mean square at lag $j$", ylim=(1e-6, 1e4))
    ax.legend(loc="upper right", ncols=2, columnspacing=1, **LEGEND)


def cured(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """E (d.../d...)^2 with and without normalization and parametrization."""
    l, curve = np.array(config["decays"]), data["plain_curve"]
    by_nu = lambda l: (l * np.log(l)) ** 2
    rows = (
        (r"$\partial h/\partial\ell$", data["plain_sensitivity"][0], data["plain_curve_sensitivity"][0]),
        (r"$\partial(\gamma h)/\partial\ell$", data["cured_by_nu"] / by_nu(l), 1 / (1 - curve**2) ** 2),
        (r"$\partial(\gamma h)/\partial\nu$", data["cured_by_nu"], by_nu(curve) / (1 - curve**2) ** 2),
    )
    for k, (label, found, theory) in enumerate(rows):
        ax.plot(1 - curve, theory, color=plotting.COLORS[k], **LINE)
        ax.errorbar(1 - l, found, 2 * error(config) * found, color=plotting.COLORS[k], fmt="os^"[k], label=label, **BAR)
    ax.set(yscale="log", ylabel="mean square", ylim=(0.03, 1e6))
    memory_axis(ax)
    ax.legend(loc="upper right", **LEGEND)


def phase_law(theta: np.ndarray, r: float) -> np.ndarray:
    """Sum over j of j^2 r^(2j) sin^2(j theta), from f(z) = sum of j^2 z^j = z (1 + z) / (1 - z)^3."""
    f = lambda z: z * (1 + z) / (1 - z) ** 3
    return 0.5 * (f(r**2) - f(r**2 * np.exp(2j * theta)).real)


def phases(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """E (d Re s / d theta)^2."""
    theta, found = np.array(config["phases"]), data["turning_by_theta"]
    curve = np.geomspace(0.004, 1.5, 300)
    ax.plot(curve, phase_law(curve, config["modulus"]), color="0.5", label="theory", **LINE)
    ax.errorbar(theta, found, 2 * error(config) * found, color=DARK, fmt="o", label="measured", **BAR)
    label = r"$E\,(\partial\,\mathrm{Re}\,s/\partial\theta)^2$"
    ax.set(xscale="log", xlabel=r"phase $\theta$ (rad)", ylabel=label, ylim=(0, None))
    ax.legend(loc="lower right", **LEGEND)


def student_law(l: np.ndarray, teacher: float) -> np.ndarray:
    """E (h - h*)^2 for white input."""
    return 1 / (1 - l**2) + 1 / (1 - teacher**2) - 2 / (1 - l * teacher)


def loss(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The student's loss."""
    l, teacher, curve = np.array(config["decays"]), config["teacher"], np.linspace(0.45, 0.985, 400)
    found, other = data["plain_loss"], l != teacher
    ax.plot(curve, student_law(curve, teacher), color="0.5", label="theory", **LINE)
    near = np.linspace(0.87, 1.0, 50)
    parabola = (1 + teacher**2) / (1 - teacher**2) ** 3 * (near - teacher) ** 2
    ax.plot(near, parabola, color=RED, linestyle="--", marker="none", label="curvature")
    ax.errorbar(l[other], found[other], 2 * error(config) * found[other], color=DARK, fmt="o", label="measured", **BAR)
    ax.set(xlabel=r"student $\ell$", ylabel="loss $E\\,(h-h^*)^2$", ylim=(-0.5, 12))
    ax.legend(loc="upper center", **LEGEND)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """4.5 standard errors for one number, 5 for the worst of many: chance fails the figure less than once in 1e4."""
    paper, se = "Zucchet & Orvieto 2024, eq. (5)-(6)", error(config)
    l, at = np.array(config["decays"]), config["decays"].index(0.95)
    white, colored = config["correlations"].index(0.0), config["correlations"].index(0.6)
    scores = lambda found, law: np.abs(found / law - 1).max() / se
    j = np.arange(40)[:, None]
    other = l != config["teacher"]
    rows = [
        ("l = 0.95, white input: E h^2", paper, 10.256, 4.5 * se * 10.256, data["plain_moment"][white, at], "equal"),
        ("l = 0.95, white input: E (dh/dl)^2", paper, 2052.63, 4.5 * se * 2052.63, data["plain_sensitivity"][white, at], "equal"),
        ("l = 0.95, rho = 0.6: E h^2", paper, 37.448, 4.5 * se * 37.448, data["plain_moment"][colored, at], "equal"),
        ("E h^2, all l and rho: largest deviation in standard errors", f"{paper}; AR(1) input", 0, 5,
         scores(data["plain_moment"], data["plain_moment_theory"]), "at_most"),
        ("E (dh/dl)^2, all l and rho: largest deviation in standard errors", f"{paper}; derived for AR(1) input", 0, 5,
         scores(data["plain_sensitivity"], data["plain_sensitivity_theory"]), "at_most"),
        ("dh/dl from the lag terms, and sum_j j l^(j-1) x_{T-j}: worst difference over the largest", "derived: linear sum", 0, 1e-11,
         data["plain_sum_error"].max(), "equal"),
        ("lag terms up to 40, all l: largest deviation in standard errors", "derived: l^(2j) / (1 - l^2)", 0, 5.5,
         scores(data["plain_lag"][:40], l ** (2 * j) / (1 - l**2)), "at_most"),
        ("normalized, by nu, all l: largest deviation in standard errors", "derived: (l ln l / (1 - l^2))^2 < 1/4", 0, 5,
         scores(data["cured_by_nu"], (l * np.log(l) / (1 - l**2)) ** 2), "at_most"),
        ("by the phase, all theta: largest deviation in standard errors", "derived: sum of j^2 r^(2j) sin^2(j theta)", 0, 5,
         scores(data["turning_by_theta"], phase_law(np.array(config["phases"]), config["modulus"])), "at_most"),
        ("student's loss, all l: largest deviation in standard errors", "derived: white input", 0, 5,
         scores(data["plain_loss"][other], student_law(l[other], config["teacher"])), "at_most"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
