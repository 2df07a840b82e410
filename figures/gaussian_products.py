"""Lyapunov spectra of products of Gaussian matrices: the digamma formula, its fluctuations, the triangular law."""

from typing import Any

import numpy as np
from scipy.special import gammainc, gammaln, polygamma

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "gaussian_products"
CAPTION = """
Products of independent Gaussian matrices, entries of variance 1/n: what jacspec measures (marks) and what is known
exactly (lines); logs are natural. (a) Lyapunov exponents at n = 8 over 40,000 steps; the bars, four standard errors
sqrt(psi'((n-i+1)/2)/(4T)), are smaller than the marks. Line: [ln(2/n) + psi((n-i+1)/2)]/2, i real (Newman 1986);
dotted: n to infinity, ln(1-u)/2 at u = (i-1/2)/n. (b) Growth of three of the eight directions in a single step: ln
R_ii of the QR recursion is the log of a chi variable with n-i+1 degrees of freedom. (c) Variance of these growths;
line: psi'/4. (d) Triangular law: the exponents at n = 100 over 2,000 steps as a distribution of the growth factors
e^lambda; line: s^2, the limit of infinite width (Newman 1986; Isopi & Newman 1992). (e) The largest exponent falls
short of its limit 0 by 1/(2n) to leading order (dotted; line: the digamma formula); bars: four standard errors. (f)
Finite products: ln ||J^T v|| after 20 steps at n = 8, 4,000 products; its mean T lambda_1 and variance T psi'(n/2)/4
are exact at every T; line: the normal density with these two.
"""

MARK = {"linestyle": "none", "markersize": 3.6, "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "linestyle": "-", "zorder": 2}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
SIGMAS = 4.5
"""Bound on the largest of several z-scores: eight of them exceed it less than once in 10,000 seeds."""


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.8, 2, 3)
    for letter, ax, panel in zip(
        "abcdef", axes.flat, (spectrum, growth, variances, triangular, top, norms), strict=True
    ):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def spectrum(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The exponents at small width."""
    n = config["width"]
    i, fine = np.arange(1, n + 1), np.linspace(1, n, 200)
    error = 4 * np.sqrt(data["finite_variance_theory"] / config["steps"])
    ax.plot(fine, 0.5 * (np.log(2 / n) + polygamma(0, (n - fine + 1) / 2)), color=DARK, label="digamma formula", **LINE)
    ax.plot(fine, 0.5 * np.log(1 - (fine - 0.5) / n), color="0.5", **LINE | {"linestyle": ":"}, label=r"$n\to\infty$")
    ax.errorbar(i, data["finite_exponents"], error, color=BLUE, fmt="o", label=f"$n={n}$", **MARK, elinewidth=0.8)
    ax.set(xlabel="index $i$", ylabel=r"exponent $\lambda_i$ (nats/step)")
    ax.legend(loc="lower left")


def log_chi(log: np.ndarray, shape: float, n: int) -> np.ndarray:
    """Density of ln r, r^2 = (2/n) x with x of the Gamma law of this shape: 2 x^k e^-x / Gamma(k)."""
    x = n / 2 * np.exp(2 * log)
    return 2 * np.exp(shape * np.log(x) - x - gammaln(shape))


def growth(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """One-step growths of the first, a middle and the last direction."""
    n = config["width"]
    fine = np.linspace(-5.5, 1.2, 400)
    for i, color, marker in ((1, DARK, "o"), (n - 2, BLUE, "s"), (n, RED, "^")):
        counts, edges = np.histogram(data["finite_history"][:, i - 1], np.linspace(-5.5, 1.2, 30))
        middle = (edges[1:] + edges[:-1]) / 2
        density = counts / config["steps"] / np.diff(edges)
        ax.plot(fine, log_chi(fine, (n - i + 1) / 2, n), color=color, **LINE)
        seen = density > 0.004
        ax.plot(middle[seen], density[seen], color=color, marker=marker, label=f"$i={i}$", **MARK)
    ax.set(xlabel=r"growth in one step $\ln R_{ii}$ (nats)", ylabel="density (1/nat)")
    ax.legend(loc="upper left")


def variances(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Variance of the one-step growths."""
    n = config["width"]
    i, fine = np.arange(1, n + 1), np.linspace(1, n, 200)
    measured = data["finite_history"].var(axis=0, ddof=1)
    ax.plot(fine, polygamma(1, (n - fine + 1) / 2) / 4, color=DARK, label=r"$\psi'/4$", **LINE)
    error = 4 * variance_error(n) / np.sqrt(config["steps"])
    ax.errorbar(i, measured, error, color=BLUE, fmt="o", label=f"$n={n}$", **MARK, elinewidth=0.8)
    ax.set(yscale="log", xlabel="index $i$", ylabel=r"variance of $\ln R_{ii}$ (nats$^2$)")
    ax.set_yticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
    ax.minorticks_off()
    ax.legend(loc="upper left")


def variance_error(n: int) -> np.ndarray:
    """sqrt(T) times the standard error of a sample variance of ln R_ii: its fourth cumulant is psi'''/16."""
    k = (n - np.arange(n)) / 2
    return np.sqrt(polygamma(3, k) / 16 + 2 * (polygamma(1, k) / 4) ** 2)


def triangular(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Distribution of e^lambda against s^2."""
    fine = np.linspace(0, 1, 100)
    ax.plot(fine, fine**2, color=DARK, label="$s^2$", **LINE)
    factors = np.exp(data["large_exponents"])
    shown = slice(None, None, max(1, len(factors) // 25))
    label = f"$n={config['large_width']}$"
    ax.plot(factors[shown], 1 - data["large_u"][shown], color=BLUE, marker="o", label=label, **MARK)
    ax.set(xlabel=r"growth factor $s=e^{\lambda}$ per step", ylabel=r"share of exponents $\leq\ln s$")
    ax.legend(loc="upper left")


def top(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """-lambda_1 against n."""
    n = np.array(config["widths"])
    fine = np.geomspace(n[0], n[-1], 100)
    error = 4 * np.sqrt(data["top_variance_theory"] / config["widths_steps"])
    ax.plot(fine, 0.5 * (np.log(fine / 2) - polygamma(0, fine / 2)), color=DARK, label="digamma formula", **LINE)
    ax.plot(fine, 0.5 / fine, color="0.5", label="$1/(2n)$", **LINE | {"linestyle": ":"})
    ax.errorbar(n, -data["top_exponents"], error, color=BLUE, fmt="o", **MARK, elinewidth=0.8)
    ax.set(xscale="log", yscale="log", xlabel="width $n$", ylabel=r"$-\lambda_1$ (nats/step)")
    ax.set_xticks(n, [str(value) for value in n])
    ax.minorticks_off()
    ax.legend(loc="lower left")


def norms(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Histogram of ln ||J^T v||."""
    mean, deviation = data["norms_theory"], np.sqrt(data["norms_variance_theory"])
    fine = mean + deviation * np.linspace(-4, 4, 200)
    counts, edges = np.histogram(data["norms_log"], mean + deviation * np.linspace(-4, 4, 25))
    middle, total, step = (edges[1:] + edges[:-1]) / 2, data["norms_log"].size, np.diff(edges)
    normal = np.exp(-(((fine - mean) / deviation) ** 2) / 2) / deviation / np.sqrt(2 * np.pi)
    ax.plot(fine, normal, color=DARK, label="normal", **LINE)
    label = f"{total} products"
    ax.errorbar(middle, counts / total / step, np.sqrt(counts) / total / step, color=BLUE, fmt="o", label=label, **MARK,
                elinewidth=0.8)  # fmt: skip
    ax.set(xlabel=rf"$\ln\,\Vert J^T v\Vert$ after {config['norm_steps']} steps (nats)", ylabel="density (1/nat)")
    ax.set_ylim(0, 1.6 * normal.max())
    ax.legend(loc="upper left", handlelength=1.2)


def distance_to_law(history: np.ndarray) -> float:
    """Largest over i of sqrt(T) sup abs(F_T - F), F the law of ln R_ii (Kolmogorov's statistic)."""
    T, n = history.shape
    found = []
    for i in range(n):
        cdf = gammainc((n - i) / 2, n / 2 * np.exp(2 * np.sort(history[:, i])))
        found.append(np.sqrt(T) * max(np.max(np.arange(1, T + 1) / T - cdf), np.max(cdf - np.arange(T) / T)))
    return max(found)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Exponents, their fluctuations and the limits."""
    n, T, draws = config["width"], config["steps"], config["norm_draws"]
    error = np.sqrt(data["finite_variance_theory"] / T)
    z = (data["finite_exponents"] - data["finite_theory"]) / error
    spread = data["finite_history"].var(axis=0, ddof=1) - data["finite_variance_theory"]
    ratio = data["finite_standard_error"] / error
    top = (data["top_exponents"] - data["top_theory"]) / np.sqrt(data["top_variance_theory"] / config["widths_steps"])
    s = np.exp(data["large_exponents"])
    sup = np.max(np.abs(1 - data["large_u"] - s**2))
    mean, variance = data["norms_log"].mean(), data["norms_log"].var(ddof=1)
    excess = polygamma(3, n / 2) / 16 * config["norm_steps"]
    rows = [
        (f"exponents at n = {n}: largest abs z of all", "Newman 1986, psi formula; SE sqrt(psi'/4T)",
         0, SIGMAS, np.abs(z).max(), "at_most"),
        (f"largest exponent at n = {n}", "Newman 1986: (ln(2/n) + psi(n/2))/2",
         0.5 * (np.log(2 / n) + polygamma(0, n / 2)), 4 * error[0], data["finite_exponents"][0], "equal"),
        ("variance of ln R_ii: largest abs z of all", "psi'((n-i+1)/2)/4, fourth cumulant psi'''/16",
         0, SIGMAS, np.abs(spread / variance_error(n) * np.sqrt(T)).max(), "at_most"),
        ("law of ln R_ii: largest sqrt(T) sup abs(F_T - F)", "log chi with n-i+1 degrees of freedom; Kolmogorov",
         0, 2.5, distance_to_law(data["finite_history"]), "at_most"),
        ("reported standard error / sqrt(psi'/4T), farthest from 1 (tolerance: four times its own spread at 40,000 steps)", "steps of the QR recursion are independent",
         1, 0.2, ratio[np.nanargmax(np.abs(ratio - 1))], "equal"),
        ("sum of the exponents minus mean ln abs det", "exact at every T and n",
         0, 1e-12, data["finite_exponents"].sum() - data["finite_log_det"], "equal"),
        (f"triangular law at n = {config['large_width']}: sup abs(1 - u - s^2)", "Newman 1986; Isopi & Newman 1992",
         0, 0.02, sup, "at_most"),
        (f"largest exponent at {len(top)} widths: largest abs z", "Newman 1986, psi formula",
         0, SIGMAS, np.abs(top).max(), "at_most"),
        ("variance of ln ||J^T v|| over T psi'(n/2)/4", "Newman 1986, exact at every T",
         1, 4 * np.sqrt((2 + excess / data["norms_variance_theory"] ** 2) / draws), variance / data["norms_variance_theory"],
         "equal"),
        ("mean of ln ||J^T v|| after T steps", "Newman 1986, exact at every T: T lambda_1",
         data["norms_theory"], 4 * np.sqrt(data["norms_variance_theory"] / draws), mean, "equal"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
