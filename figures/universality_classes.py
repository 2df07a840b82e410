"""Universality classes: the Jacobians of very deep networks with orthogonal weights follow one of two laws."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "universality_classes"
CAPTION = """
Eigenvalues lambda of J J^T, in units of their mean, for networks of 100 layers (160 units, orthogonal weights) on the
critical line, where q* is such that their variance s = L (mu_2 / mu_1^2 - 1) is fixed, mu_k = E phi'(a)^(2k). Filled
marks: slopes of fresh pre-activations N(0, q*), as theory has them; hollow marks: forward passes of one input; every
network at its own s. (a) Bernoulli class, slopes 0 or 1: distribution at s = 0.25, 1 and 3 (lines; Pennington et al.
2018) and the networks with the nearest s; the step at e^s, of height 1 - s, is an atom: what never meets a dead unit.
(b) Smooth class. Softplus is there at 100 layers; tanh and erf approach the limit as the root of the depth (dotted:
tanh at 100 layers, by free probability at finite depth). (c) Upper ends of both classes (s e or the atom e^s; smooth)
and lower end of the smooth one against s (dotted: where the outermost of 160 eigenvalues lie for tanh at 100 layers).
In a forward pass the norm of the state relaxes, which gives one eigenvalue far below; it is left out. (d) Share of
eigenvalues in the atom: 1 - s. (e) Variance of the eigenvalues over their squared mean: s, whatever the activation.
(f) Distance of ln of the upper end at L layers from its limit, s = 0.25: s (L / (L - 1))^(L-1) for slopes 0 or 1, by
free probability for the others; guides: powers -1 and -1/2 of L.
"""

DARK, BLUE, RED, GREEN, PINK = plotting.COLORS[:5]
LOOKS = {
    "hard_tanh": (DARK, "o"),
    "shifted_relu": (BLUE, "s"),
    "tanh": (RED, "^"),
    "erf": (GREEN, "D"),
    "softplus": (PINK, "v"),
}
NAMES = {"hard_tanh": "hard tanh", "shifted_relu": "shifted ReLU", "tanh": "tanh", "erf": "erf", "softplus": "softplus"}
LINE = {"marker": "none", "linestyle": "-", "zorder": 1}
SHOWN = {0.25: "0.75", 1.0: "0.55", 3.0: "0.3"}
"""The distributions that are shown, and their grays."""
OUTLIERS = {"fresh": 0, "forward": 1}
"""Eigenvalues below the lower end: the norm of a state relaxes to sqrt(n q*), which shrinks one direction."""


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.9, 2, 3)
    distribution(axes[0, 0], data, config, "bernoulli")
    distribution(axes[0, 1], data, config, "smooth")
    for ax, panel in zip(axes.flat[2:], (ends, atoms, variances, limit), strict=True):
        panel(ax, data, config)
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def networks(data: dict[str, np.ndarray], config: dict[str, Any], group: str) -> Iterator[tuple[str, str, Any]]:
    """Activation and kind of every sort of network of a class, and a function from a key to numbers, axes (draw, s, ...)."""
    known = {"fresh": [name for names in config["classes"].values() for name in names], "forward": config["forward"]}
    for kind, names in known.items():
        for j, name in enumerate(names):
            if name in config["classes"][group]:
                yield name, kind, lambda key, kind=kind, j=j: data[f"{kind}_{key}"][:, j]


def joined(data: dict[str, np.ndarray], config: dict[str, Any], group: str, key: str) -> np.ndarray:
    """A number of all networks of a class, axes (network, ...)."""
    found = [get(key) for *_, get in networks(data, config, group)]
    return np.concatenate([part.reshape(-1, *part.shape[2:]) for part in found])


def mark(name: str, kind: str, size: float = 3.2) -> dict[str, Any]:
    """The look of a kind of network."""
    color, marker = LOOKS[name]
    return {"color": color, "marker": marker, "markersize": size, "linestyle": "none", "zorder": 3,
            "markerfacecolor": color if kind == "fresh" else "white", "markeredgewidth": 0.8}  # fmt: skip


def distribution(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], group: str) -> None:
    """Share of eigenvalues below, theory and the networks nearest to its s."""
    lowest = -8.0
    for i, s in enumerate(config["variances"]):
        if s not in SHOWN:
            continue
        x, below = data[f"{group}_log_x"][i], data[f"{group}_cumulative"][i]
        if data[f"{group}_atom"][i] > 0:
            at = float(data[f"{group}_log_atom"][i])
            x, below = np.append(x, [at, at]), np.append(below, [below[-1], 1.0])
        ax.plot(np.append(x, 3.2), np.append(below, 1.0), color=SHOWN[s], label=f"$s={s:g}$", **LINE)
        if group == "smooth":
            ax.plot(data["finite_log_x"][0, i], data["finite_cumulative"][0, i], color=SHOWN[s], marker="none",
                    linestyle=":", linewidth=0.9)  # fmt: skip
        for j, (name, kind, get) in enumerate(networks(data, config, group)):
            if kind == "forward":
                continue
            logs = get("logs")[np.argmin(np.abs(get("s")[:, i] - s)), i]
            ranks = np.arange(4 * j + 2, logs.size, max(1, logs.size // 11))
            ranks = ranks[logs[ranks] > lowest]
            ax.plot(logs[ranks], 1 - (ranks + 0.5) / logs.size, label=None if i else NAMES[name],
                    **mark(name, "fresh", 2.6))  # fmt: skip
    ax.set(xlabel=r"$\ln\,\lambda$ (nats)", ylabel="share of eigenvalues below", xlim=(lowest, 3.2), ylim=(-0.02, 1.04))
    handles, labels = ax.get_legend_handles_labels()
    order = np.argsort([not label.startswith("$s") for label in labels], kind="stable")  # lines first
    ax.legend([handles[k] for k in order], [labels[k] for k in order], loc="upper left", handlelength=1, borderaxespad=0,
              labelspacing=0.25)  # fmt: skip


def ends(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Largest and smallest eigenvalue against s."""
    s, smooth = data["curve"], data["smooth_curve"]
    ax.plot(
        s, np.maximum(data["bernoulli_curve"][:, 0], np.where(s < 1, s, -np.inf)), color=DARK, label="Bernoulli", **LINE
    )
    for k in range(2):
        ax.plot(s, smooth[:, k], color=RED, label=None if k else "smooth", **LINE)
        ax.plot(s, data["finite_curve"][:, k], color=RED, **(LINE | {"linestyle": ":", "linewidth": 0.9}))
    for group in config["classes"]:
        for name, kind, get in networks(data, config, group):
            ax.plot(get("s").ravel(), get("logs")[..., 0].ravel(), **mark(name, kind, 2.8))
            if group == "smooth":
                lowest = get("logs")[..., -1 - OUTLIERS[kind]]
                ax.plot(get("s").ravel(), lowest.ravel(), **mark(name, kind, 2.8))
    ax.set(xscale="log", xlabel="variance $s$", ylabel=r"$\ln\,\lambda_{\max}$, $\ln\,\lambda_{\min}$ (nats)")
    plain(ax)
    ax.legend(loc="lower left", handlelength=1.2)


def plain(ax: Any) -> None:
    """Plain numbers on the axis of s."""
    ax.set_xticks([0.25, 1, 3], ["0.25", "1", "3"])
    ax.minorticks_off()


def atoms(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Share of eigenvalues in the atom."""
    s = np.linspace(0, 1.7, 100)
    ax.plot(s, np.maximum(1 - s, 0), color="0.55", label="$1-s$", **LINE)
    for name, kind, get in networks(data, config, "bernoulli"):
        shown = get("s") < 1.7
        label = NAMES[name] if kind == "fresh" else None
        ax.plot(get("s")[shown], get("share")[shown], label=label, **mark(name, kind))
    ax.set(xlabel="variance $s$", ylabel="share of eigenvalues in the atom")
    ax.legend(loc="upper right", handlelength=1)


def relative_variances(logs: np.ndarray) -> np.ndarray:
    """Variance over the squared mean."""
    values = np.exp(logs)
    return values.var(axis=-1) / values.mean(axis=-1) ** 2


def variances(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Variance of the eigenvalues against s."""
    ax.plot(data["curve"], data["curve"], color="0.55", **LINE)
    for group in config["classes"]:
        for name, kind, get in networks(data, config, group):
            label = NAMES[name] if kind == "fresh" else None
            ax.plot(get("s").ravel(), relative_variances(get("logs")).ravel(), label=label, **mark(name, kind))
    ax.set(xscale="log", yscale="log", xlabel="variance $s$ from the slopes",
           ylabel=r"$\mathrm{Var}\,\lambda/(\mathrm{E}\,\lambda)^2$")  # fmt: skip
    plain(ax)
    ax.set_yticks([0.25, 1, 3], ["0.25", "1", "3"])
    ax.legend(loc="upper left", handlelength=1, labelspacing=0.25, borderaxespad=0)


def distances(data: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, np.ndarray]:
    """abs ln(upper end at L layers / limit) by depth; the same for all slopes 0 or 1."""
    s, L = config["limit_variance"], np.array(config["limit_depths"], float)
    smooth = np.abs(data["limit_log_edge"] - smooth_ends(s)[1])
    bernoulli = np.abs((L - 1) * np.log(L / (L - 1)) - 1)
    return {"hard_tanh": bernoulli} | dict(zip(config["classes"]["smooth"], smooth, strict=True))


def limit(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Distance of the upper end from its limit against depth."""
    L = np.array(config["limit_depths"], float)
    found = distances(data, config)
    for name, values in found.items():
        label = "slopes 0, 1" if name == "hard_tanh" else NAMES[name]
        ax.plot(L, values, label=label, **mark(name, "forward", 4.4 if name == "tanh" else 3.2))
    for power, name in ((-0.5, "tanh"), (-1.0, "hard_tanh")):
        ax.plot(L, found[name][-1] * (L / L[-1]) ** power, color="0.55", **LINE)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="depth $L$ (layers)",
        ylabel=r"$|\ln\,\lambda_+(L)-\ln\,\lambda_+(\infty)|$ (nats)",
    )
    ax.legend(loc="lower left", handlelength=1, labelspacing=0.25)


def smooth_ends(s: float) -> np.ndarray:
    """ln lambda at m = (-1 -+ sqrt(1 + 4 / s)) / 2 of lambda = (1 + m) / m exp(s m), lower one first."""
    m = (-1 + np.array([-1, 1]) * np.sqrt(1 + 4 / s)) / 2
    return np.log((1 + m) / m) + s * m


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Laws at the precision of their quadrature; networks at the first order in 1 / depth and 1 / width."""
    s = np.array(config["variances"])
    n, depth, source = config["width"], config["depth"], "Pennington et al. 2018"
    groups = config["classes"]
    law_ends = max(
        np.abs(data["bernoulli_ends"][:, 0] - 1 - np.log(s)).max(),
        np.abs(data["smooth_ends"] - np.stack([smooth_ends(v) for v in s])).max(),
    )
    moments = np.concatenate([data[f"{group}_moments"] for group in groups])
    wanted = np.stack([np.ones(2 * len(s)), 1 + np.tile(s, 2)], axis=1)
    both = functools.partial(joined, data, config)
    own, share, dead = (both("bernoulli", key) for key in ("s", "share", "dead"))
    some = own < 0.8
    atom = both("bernoulli", "log_atom")[some] - own[some]
    small = 0.8**2 / depth + 0.8 / n  # mean of sum_l d_l^2, n d_l binomial, at s = 0.8; s = sum_l d_l / (1 - d_l)
    first_order = 3 * own / depth + 4 / n
    ratios = np.concatenate([np.log(relative_variances(both(group, "logs")) / both(group, "s")) for group in groups])
    smooth = data["fresh_ks"][:, len(groups["bernoulli"]) :] - data["finite_ks"]
    power = {name: np.polyfit(np.log(config["limit_depths"])[-2:], np.log(values[-2:]), 1)[0]
             for name, values in distances(data, config).items()}  # fmt: skip
    quick = "softplus" if "softplus" in power else "hard_tanh"
    return claims_of(NAME, [
        ("ends of the laws: ln of s e, and of (1 + m) / m exp(s m) at m = (-1 -+ sqrt(1 + 4 / s)) / 2, largest distance", source,
         0, 1e-8, law_ends),
        ("mean 1 and second moment 1 + s of both laws: largest error", f"{source}: s is the variance", 0, 1e-4,
         np.abs(moments - wanted).max()),
        ("Bernoulli networks, s < 0.8: share of eigenvalues in the atom + s, largest distance from 1", f"{source}: 1 - s",
         0, 2 * small, np.abs(share[some] + own[some] - 1).max(initial=0)),
        ("Bernoulli networks: share of eigenvalues in the atom, distance from 1 - dead units / width",
         "dimension of what meets no dead unit", 0, 1e-12, np.abs(share - np.maximum(1 - dead, 0)).max()),
        ("Bernoulli networks, s < 0.8: ln of the atom - s, largest", f"{source}: e^s", 0, small,
         np.abs(atom).max(initial=0)),
        ("Bernoulli networks: Kolmogorov-Smirnov distance over 3 s / L + 4 / n, largest", source, 1, 0,
         (both("bernoulli", "ks") / first_order).max(), "at_most"),
        ("smooth networks: Kolmogorov-Smirnov distance beyond that of the law at their depth, largest", source, 0, 5 / n,
         smooth.max(), "at_most"),
        ("variance of the eigenvalues over s, geometric mean of all networks", f"{source}: L (mu_2 / mu_1^2 - 1)", 1, 0.05,
         np.exp(ratios.mean())),
        (f"{NAMES[quick]}: power of L with which ln of the upper end reaches its limit", "third cumulant of phi'^2: q*^2 L", -1, 0.05,
         power[quick]),
        ("tanh: power of L with which ln of the upper end reaches its limit", "third cumulant of phi'^2: q*^3 L, q*^2 L = s / 8",
         -0.5, 0.05, power["tanh"]),
    ])  # fmt: skip
