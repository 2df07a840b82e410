"""Finite width: log gradient norms fluctuate by 5 times the sum of 1 / width, whatever the architecture."""

from typing import Any

import numpy as np
from scipy import special, stats

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "width_fluctuations"
CAPTION = """
Random networks without biases at their critical variances, 2 / n for ReLU and 1 / n for linear units: squared
gradients are 1 in the mean at every depth, and yet vanish in nearly every deep network. All marks are measured, bars:
two standard errors. (a) One fresh layer of n units: variance of the squared norm of a gradient, 5 / n and 2 / n
(lines). (b) Deep ReLU networks with beta = sum of 1 / n_l = 0.5: density of ln ||dE/dh_0||^2 for 16 layers of 32
units and for 26 layers of 32 and 128 units in turn; line: N(-5 beta / 2, 5 beta) of Hanin & Nica (2018), dashed: the
normal law with the exact mean and variance at width 32. (c) Variance and (d) mean of ln ||dE/dh||^2 against the sum
of 1 / n_l over the layers passed: only that sum counts. Lines: 5 beta, 2 beta and minus a half of them; dotted: exact
at width 32 (polygamma functions). (e) Second moment of ||dE/dh||^2, the quantity that averages over networks see: it
grows as exp(5 beta), carried by ever fewer networks (dotted: exact at width 32; bars from exact fourth moments). (f)
Through 10,000 linear layers: four networks of independent Gaussian weights with 36 units each (thin lines; line and
band: exact mean and two standard deviations) and circular convolutions with delta-orthogonal kernels (3 x 3, 4
channels, Xiao et al. 2018), which have nothing that fluctuates.
"""

DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
LOOKS = ((DARK, "o"), (BLUE, "s"), (RED, "^"), (GREEN, "D"))
NAMES = {"relu": "ReLU", "linear": "linear"}
ALIVE = {"linear": 1.0, "relu": 0.5}
"""The share of units whose derivative is 1."""
MARK = {"linestyle": "none", "markersize": 3.2, "markerfacecolor": "white", "zorder": 3, "elinewidth": 0.7}
LINE = {"marker": "none", "linestyle": "-", "color": "0.55", "zorder": 1}
DOTTED = LINE | {"linestyle": ":", "color": "0.2", "linewidth": 0.9}
Z = 4.5
"""Standard errors allowed: chance exceeds them once in 150,000."""


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    for letter, ax, panel in zip(
        "abcdef", axes.flat, (one_layer, density, variances, means, second, depth), strict=True
    ):
        panel(ax, data, config)
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def moments(n: int, p: float) -> np.ndarray:
    """E s^k, k = 1 ... 4, of s = sum over n units of xi g^2 / (p n), from the cumulants of one term."""
    m = [p ** (1 - k) * special.factorial2(2 * k - 1) for k in range(1, 5)]
    k2, k3 = m[1] - 1, m[2] - 3 * m[1] + 2
    k4 = m[3] - 4 * m[2] - 3 * m[1] ** 2 + 12 * m[1] - 6
    k2, k3, k4 = k2 / n, k3 / n**2, k4 / n**3
    return np.array([1, 1 + k2, 1 + 3 * k2 + k3, 1 + 6 * k2 + 3 * k2**2 + 4 * k3 + k4])


def log_law(widths: list[int], p: float) -> np.ndarray:
    """Mean, variance and third cumulant of ln s over one period: of ln(chi^2_K / (p n_in)), K >= 1 of n_out units alive."""
    found = np.zeros(3)
    for fan_in, n in zip((widths[-1], *widths[:-1]), widths, strict=True):
        K = np.arange(1, n + 1)
        weight = stats.binom.pmf(K, n, p)
        weight /= weight.sum()
        one = special.digamma(K / 2) + np.log(2 / (p * fan_in))
        off = one - weight @ one
        spread = special.polygamma(1, K / 2)
        found += weight @ np.stack([one, spread + off**2, special.polygamma(2, K / 2) + 3 * spread * off + off**3]).T
    return found


def cases(config: dict[str, Any]) -> list[tuple[int, str, float, list[int], np.ndarray]]:
    """Index, label, p, widths and beta by period of every kind of network."""
    found = []
    for i, (name, widths, periods, _) in enumerate(config["networks"]):
        label = f"{NAMES[name]}, $n={', '.join(map(str, widths))}$"
        found.append((i, label, ALIVE[name], widths, np.arange(periods + 1) * np.sum(1 / np.array(widths))))
    return found


def thin(beta: np.ndarray) -> slice:
    """About eight of the periods."""
    return slice(None, None, max(1, (len(beta) - 1) // 8))


def coefficient(data: dict[str, np.ndarray], config: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """n (E s^2 / (E s)^2 - 1) of one layer by width, and its standard errors from the exact moments."""
    n = np.array(config["one_layer"])
    first, second, draws = data["one_layer"][:, list(ALIVE).index(name)].T
    _, m2, m3, m4 = np.stack([moments(int(width), ALIVE[name]) for width in n], axis=1)
    square = 4 * m2**2 * (m2 - 1) + m4 - m2**2 - 4 * m2 * (m3 - m2)  # of a ratio of means
    return n * (second / first**2 - 1), n * np.sqrt(square / draws)


def one_layer(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Relative variance of the squared norm behind one layer."""
    n = np.array(config["one_layer"])
    fine = np.geomspace(0.8 * n.min(), 1.25 * n.max(), 50)
    for name, (color, marker) in zip(("relu", "linear"), LOOKS[:: len(LOOKS) - 1], strict=True):
        found, error = coefficient(data, config, name)
        ax.plot(fine, (3 / ALIVE[name] - 1) / fine, **LINE)
        ax.errorbar(n, found / n, 2 * error / n, color=color, marker=marker, label=NAMES[name], **MARK)
    ax.set(xscale="log", yscale="log", xlabel="width $n$",
           ylabel=r"$\mathrm{E}\,g^4/(\mathrm{E}\,g^2)^2-1$, $\;g=\Vert\partial E/\partial h\Vert$")  # fmt: skip
    ax.set_xticks(n, [str(width) for width in n])
    ax.minorticks_off()
    ax.legend(loc="lower left", handlelength=0.8)


def density(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Histograms of ln ||dE/dh_0||^2 beside the normal law."""
    shown = [case for case in cases(config) if case[2] == ALIVE["relu"]]
    _, _, p, widths, betas = shown[0]
    beta = betas[-1]
    spread = np.sqrt(5 * beta)
    x = np.linspace(-2.5 * beta - 4 * spread, -2.5 * beta + 4 * spread, 200)
    ax.plot(x, stats.norm.pdf(x, -2.5 * beta, spread), **LINE)
    mean, variance, _ = log_law(widths, p)
    periods = len(betas) - 1
    ax.plot(x, stats.norm.pdf(x, periods * mean, np.sqrt(periods * variance)), **(DOTTED | {"linestyle": "--"}))
    for i, label, *_ in (shown[0], shown[-1]):
        logs = data[f"gradient_{i}"][:, -1]
        counts, ends = np.histogram(logs, 24, (x[0], x[-1]))
        scale = logs.size * (ends[1] - ends[0])
        color, marker = LOOKS[i]
        ax.errorbar((ends[:-1] + ends[1:]) / 2, counts / scale, 2 * np.sqrt(counts) / scale, color=color, marker=marker,
                    label=label.split(", ", 1)[1], **MARK)  # fmt: skip
    ax.axvline(0, color="0.7", linewidth=0.7, linestyle=":", marker="none", zorder=0)
    ax.set(xlabel=r"$\ln\,\Vert\partial E/\partial h_0\Vert^2$ (nats)", ylabel="density (1/nat)")
    ax.set_ylim(0, 1.45 * ax.get_ylim()[1])
    ax.legend(loc="upper left", handlelength=0.8, borderaxespad=0.3, title="ReLU, " + rf"$\beta={beta:.2g}$")


def variances(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Variance of ln ||dE/dh||^2."""
    by_beta(ax, data, config, 1)
    ax.set(ylabel=r"variance of $\ln\,\Vert\partial E/\partial h\Vert^2$")
    ax.legend(loc="upper left", handlelength=0.8, borderaxespad=0)


def means(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Mean of ln ||dE/dh||^2."""
    by_beta(ax, data, config, 0)
    ax.axhline(0, color="0.7", linewidth=0.7, linestyle=":", marker="none", zorder=0)
    ax.set(ylabel=r"mean of $\ln\,\Vert\partial E/\partial h\Vert^2$ (nats)")


def by_beta(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], which: int) -> None:
    """Mean (0) or variance (1) against beta, with 5 beta, 2 beta, and the exact values at the first width."""
    drawn = set()
    for (i, label, p, widths, beta), (color, marker) in zip(cases(config), LOOKS, strict=False):
        logs = data[f"gradient_{i}"]
        found = (logs.mean(axis=0), logs.var(axis=0, ddof=1))[which]
        error = (np.sqrt(logs.var(axis=0) / len(logs)), found * np.sqrt(2 / len(logs)))[which]
        ax.errorbar(beta[thin(beta)], found[thin(beta)], 2 * error[thin(beta)], color=color, marker=marker, label=label,
                    **MARK)  # fmt: skip
        if p not in drawn:
            ax.plot(beta, (3 / p - 1) * beta * (-0.5, 1)[which], **LINE)
            ax.plot(beta, np.arange(len(beta)) * log_law(widths, p)[which], **DOTTED)
        drawn.add(p)
    ax.set(xlabel=r"$\beta=\sum_l 1/n_l$")


def second(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """ln E ||dE/dh||^4 against beta, as far as the sample can tell."""
    for (i, label, p, widths, beta), (color, marker) in zip(cases(config), LOOKS, strict=False):
        near = beta < 0.21 if len(beta) > 4 else beta < np.inf
        measured, expected, error = second_moment(data[f"gradient_{i}"], widths, p)
        few = np.flatnonzero(near)[1:][:: max(1, near.sum() // 6)]
        ax.errorbar(beta[few], np.log(measured[few]), 2 * (error / measured)[few], color=color, marker=marker,
                    label=label, **MARK)  # fmt: skip
        if i in (0, len(config["networks"]) - 1):
            ax.plot(beta[near], (3 / p - 1) * beta[near], **LINE)
            ax.plot(beta[near], np.log(expected[near]), **DOTTED)
    ax.set(xlabel=r"$\beta=\sum_l 1/n_l$", ylabel=r"$\ln\,\mathrm{E}\,\Vert\partial E/\partial h\Vert^4$ (nats)")


def second_moment(logs: np.ndarray, widths: list[int], p: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of ||dE/dh||^4 over networks, what it should be, and the standard error from the exact fourth moment."""
    periods = np.arange(logs.shape[1])
    _, m2, _, m4 = np.prod([moments(n, p) for n in widths], axis=0)
    return np.exp(2 * logs).mean(axis=0), m2**periods, np.sqrt((m4**periods - m2 ** (2 * periods)) / len(logs))


def depth(ax: Any, data: dict[str, np.ndarray], _: dict[str, Any]) -> None:
    """ln ||dE/dh|| over 10,000 layers."""
    x, mean, spread = data["distance"], data["dense_mean"], 2 * np.sqrt(data["dense_variance"])
    ax.fill_between(x, mean - spread, mean + spread, color="0.88", linewidth=0)
    ax.plot(x, mean, **LINE)
    for k, logs in enumerate(data["dense"]):
        ax.plot(x, logs, color=BLUE, linestyle="-", linewidth=0.6, marker="none",
                label=None if k else "Gaussian")  # fmt: skip
    few = slice(None, None, max(1, len(x) // 10))
    ax.plot(x[few], data["delta_orthogonal"][few], color=RED, marker="^", label="delta-orthogonal",
            **{k: v for k, v in MARK.items() if k != "elinewidth"})  # fmt: skip
    ax.set(xlabel="layers from the output", ylabel=r"$\ln\,\Vert\partial E/\partial h\Vert$ (nats)")
    ax.legend(loc="lower left", handlelength=1.2)


def scores(data: dict[str, np.ndarray], config: dict[str, Any], which: int) -> float:
    """The largest distance of a mean (0) or variance (1) at full depth from the exact law, in standard errors."""
    worst = []
    for i, _, p, widths, beta in cases(config):
        expected = (len(beta) - 1) * log_law(widths, p)
        for key in ("gradient", "forward"):
            logs = data[f"{key}_{i}"][:, -1]
            errors = np.sqrt(expected[1] / logs.size), expected[1] * np.sqrt((2 + stats.kurtosis(logs)) / logs.size)
            found = logs.mean(), logs.var(ddof=1)
            worst.append(abs(found[which] - expected[which]) / errors[which])
    return max(worst)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Moments within 4.5 standard errors; the asymptotic law within these and its own distance from the exact one."""
    rows: list[tuple[Any, ...]] = []
    nica, hanin = "Hanin & Nica 2018", "Hanin 2018, theorem 1"
    for name, value in (("linear", 2), ("relu", 5)):
        found, error = coefficient(data, config, name)
        weight = error**-2 / (error**-2).sum()
        rows.append((f"one layer, {NAMES[name]}: n (E g^4 / (E g^2)^2 - 1), mean over widths", f"{nica}: 1 + {value} / n",
                     value, Z / np.sqrt((error**-2).sum()), (weight * found).sum()))  # fmt: skip
    relu = [case for case in cases(config) if case[2] == ALIVE["relu"]]
    i, _, p, widths, betas = max(relu, key=lambda case: min(case[3]) * (len(case[3]) == 1))
    logs, beta = data[f"gradient_{i}"][:, -1], betas[-1]
    mean, variance, _ = (len(betas) - 1) * log_law(widths, p)
    size = f"ReLU, {len(betas) - 1} layers of {widths[0]}, beta = {beta:.3g}"
    first, _, p1, widths1, betas1 = relu[0]
    early = min(3, len(betas1) - 1)
    shallow = data[f"gradient_{first}"][:, : early + 1]
    measured, expected, error = (part[-1] for part in second_moment(shallow, widths1, p1))
    deep = data[f"gradient_{first}"][:, -1]
    law = (len(betas1) - 1) * log_law(widths1, p1)
    ks = stats.kstest((deep - law[0]) / np.sqrt(law[1]), "norm").statistic
    skewed = abs(law[2]) / law[1] ** 1.5 / (6 * np.sqrt(2 * np.pi))  # first term of Edgeworth's expansion
    few = f"ReLU, {early} layers of {widths1[0]}"
    flat = max(np.abs(data["delta_orthogonal_spectrum"]).max(), data["delta_orthogonal_largest"])
    rows += [
        (f"{size}: variance of ln ||dE/dh_0||^2", f"{nica}: 5 beta", 5 * beta,
         abs(variance - 5 * beta) + Z * variance * np.sqrt(2.2 / logs.size), logs.var(ddof=1)),
        (f"{size}: mean of ln ||dE/dh_0||^2", f"{nica}: -5 beta / 2", -2.5 * beta,
         abs(mean + 2.5 * beta) + Z * np.sqrt(variance / logs.size), logs.mean()),
        ("means of ln ||dE/dh_0||^2 and ln ||h_L||^2, all architectures: largest distance from the exact law / standard error",
         "independent layers, digamma function", 0, Z, scores(data, config, 0)),
        ("variances of ln ||dE/dh_0||^2 and ln ||h_L||^2, all architectures: largest distance / standard error",
         "independent layers, trigamma function", 0, Z, scores(data, config, 1)),
        (f"ReLU, {len(betas1) - 1} layers of {widths1[0]}: Kolmogorov-Smirnov distance of ln ||dE/dh_0||^2 to a normal law",
         f"{nica}: asymptotically normal; skewness of ln chi^2", skewed, 2.5 / np.sqrt(deep.size), ks, "at_most"),
        (f"{few}: E ||dE/dh_0||^2", f"{hanin}: 1 at every depth", 1, Z * np.sqrt((expected - 1) / len(shallow)),
         np.exp(shallow[:, -1]).mean()),
        (f"{few}: E ||dE/dh_0||^4", f"{hanin}: exponential in beta; (1 + 5 / n)^L", expected, Z * error, measured),
        ("delta-orthogonal convolutions: largest |ln sigma| of a layer and |ln gradient norm| over all layers",
         "Xiao et al. 2018: dynamical isometry", 0, 1e-15 * config["layers"] + 1e-13, flat),
    ]  # fmt: skip
    return claims_of(NAME, rows)
