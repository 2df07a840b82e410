"""Eigenvalues of J J^T at critical initializations: Gaussian against orthogonal weights, five activations, depth 1 to 64."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "jjt_density"
CAPTION = """
Singular values sigma of the input-output Jacobian J = D_L W_L ... D_1 W_1 at critical initializations (sigma_w^2 E f'^2 = 1;
values above the last row; no biases for linear and ReLU networks, bias variance 0.05 for hard tanh, tanh and erf), Gaussian
(a) against orthogonal weights (b). Lines: density of ln sigma per nat at infinite width, by free probability, for the depths
in the legend of the first panel; L = 2 is cut off at the top for three of the orthogonal networks. Shaded histograms: real
forward passes at the depths of the twelve fixed cases, in the color of the depth, atoms left out. Dots: atoms of the law with
their mass, singular values that never meet a dead unit; of the linear orthogonal network nothing else is left. The share
1 - p of exact zeros (dead units) has no place on the axis. (c) The largest eigenvalue of J J^T against depth: theory (lines:
edge of the support or atom) and median with range over networks (marks). Gaussian weights spread the spectrum in proportion
to L even without a nonlinearity; with orthogonal weights and ReLU it spreads all the same (half of all units are dead at
every layer), while hard tanh, tanh and erf hold it back. Networks that are not much wider than deep scatter about the edge
and, with Gaussian weights, stay below it.
"""

ENSEMBLES = ("gaussian", "orthogonal")
WEIGHTS = {"gaussian": "Gaussian", "orthogonal": "orthogonal"}
TOPS = (0.42, 0.7)
NAMES = {"linear": "linear", "relu": "ReLU", "hard_tanh": "hard tanh", "tanh": "tanh", "erf": "erf"}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
SHADES = (plotting.COLORS[6], BLUE, GREEN, RED, "#CC79A7", "#E69F00")
THIN = {"linestyle": "-", "marker": "none", "linewidth": 1.0}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Three rows, an activation a column; and the claims."""
    names = config["activations"]
    fig, axes = plotting.figure("double", 1.12, 3, len(names), sharex="row", sharey="row", squeeze=False)
    for column, name in enumerate(names):
        for row, ensemble in enumerate(ENSEMBLES):
            densities(axes[row, column], data, config, column, row)
            axes[row, column].set_title(f"{NAMES[name]}, {WEIGHTS[ensemble]}", pad=3, fontsize=7)
        growth(axes[2, column], data, config, column)
        variance, _, q = data["critical"][column]
        axes[2, column].set_title(rf"$\sigma_w^2={variance:.4g},\ q^*={q:.3g}$", pad=3, fontsize=7)
    for ax in axes[:, 1:].flat:
        ax.yaxis.label.set_visible(False)
    for ax in axes[0]:
        ax.xaxis.label.set_visible(False)
    axes[0, 0].legend(loc="upper left", handlelength=1.2, labelspacing=0.2, borderaxespad=0.1)
    axes[2, 0].legend(loc="upper left", handlelength=1.2, labelspacing=0.2, borderaxespad=0.1)
    for letter, ax in zip("abc", axes[:, 0], strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data, config)


def densities(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], column: int, row: int) -> None:
    """Density of ln sigma for every depth, and the histogram of the cases."""
    low, high, bins = config["histogram"]
    depths = config["law_depths"]
    shade = dict(zip(depths, SHADES, strict=False))
    for i, (name, ensemble, depth) in enumerate(config["cases"]):
        if (name, ensemble) == (config["activations"][column], ENSEMBLES[row]):
            if (name, ensemble) == ("linear", "orthogonal"):
                continue  # nothing but the atom
            edges = np.linspace(low, high, int(bins) + 1)
            ax.stairs(data["case_histogram"][i], edges, fill=True, color=shade[depth], alpha=0.3, linewidth=0)
    for k, depth in enumerate(depths):
        log_x, density = data["law_log_x"][column, row, k] / 2, 2 * data["law_density"][column, row, k]
        log_atom, atom, _ = data["law_atom"][column, row, k]
        label = f"$L={depth}$"
        if atom < 1 - 1e-9:
            top = data["law_log_edge"][column, row, k] / 2
            ax.plot(np.append(log_x, top), np.append(density, 0), color=shade[depth], label=label, **THIN)
        if atom > 1e-9:
            stem(ax, log_atom / 2, atom, k, shade[depth])
    ax.set(xlim=(low, high), ylim=(0, TOPS[row]), xlabel=r"$\ln\,\sigma$ (nats)", ylabel="density (per nat)")
    ax.set_xticks([-8, -6, -4, -2, 0, 2])


def stem(ax: Any, place: float, atom: float, k: int, color: str) -> None:
    """An atom: a dot above all curves, with its mass beside it."""
    alone = atom > 1 - 1e-9
    height = 0.58 - 0.12 * k if not alone else 0.46
    ax.plot([place, place], [0, height], color=color, **(THIN | {"linewidth": 0.7}))
    ax.plot(place, height, color=color, marker="o", markersize=3.5, linestyle="none", zorder=4)
    if k == 0 or not alone:
        text = {"textcoords": "offset points", "va": "center", "ha": "right", "fontsize": 7}
        words = "mass 1\n(every $L$)" if alone else f"{atom:.2f}"
        ax.annotate(words, (place, height), (-4, 0), **text)


def growth(ax: Any, data: dict[str, np.ndarray], config: dict[str, Any], column: int) -> None:
    """The largest eigenvalue against depth."""
    depths = np.array(config["edge_depths"])
    for row, (color, marker) in enumerate(((DARK, "o"), (RED, "s"))):
        ax.plot(depths, data["edge_theory"][column, row], color=color, **THIN)
        runs = data["edge_measured"][:, column, row]
        middle = np.median(runs, axis=0)
        error = np.stack([middle - runs.min(axis=0), runs.max(axis=0) - middle])
        look = {"color": color, "marker": marker, "markersize": 3, "markerfacecolor": "white", "linestyle": "none"}
        ax.errorbar(depths, middle, error, label=WEIGHTS[ENSEMBLES[row]], linewidth=0.7, **look)
    ax.set_xscale("log", base=2)
    ax.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    ax.minorticks_off()
    ax.set(xlabel="depth $L$", ylabel=r"$\ln\,\lambda_{\max}$ (nats)", ylim=(-0.5, 8.5), yticks=[0, 2, 4, 6, 8])


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """KS: 0.01 at width 1000 and ten draws, growing as 1 / sqrt(width draws); counts: four standard errors."""
    cases, names, depths = config["cases"], config["activations"], config["law_depths"]
    allowed = 0.01 * np.sqrt(1e4 / (config["width"] * config["draws"]))
    ks, given, shift, spread = data["case_ks"].T
    fluctuation = allowed + 4 * spread / np.sqrt(config["draws"])
    fluctuating = np.array([name in ("relu", "hard_tanh") for name, *_ in cases])
    error = np.abs(data["law_error"])
    linear = data["law_log_edge"][names.index("linear"), 0]
    relu = data["law_log_edge"][names.index("relu"), 1]
    L = np.array(depths, float)
    fuss = (L + 1) * np.log(L + 1) - L * np.log(L)
    powers = L * np.log(L) - (L - 1) * np.log(L - 1)
    atom, atom_measured, atom_error = data["case_atom"].T
    rank, rank_measured, rank_error = data["case_rank"].T
    trivial = [case[:2] == ["linear", "orthogonal"] for case in cases]
    size = f"n = {config['width']}, {config['draws']} draws"
    rows = [
        (f"linear, tanh, erf ({(~fluctuating).sum()} cases, {size}): largest KS distance to the law",
         "Pennington et al. 2017", 0, allowed, ks[~fluctuating].max(initial=0), "at_most"),
        (f"ReLU, hard tanh ({fluctuating.sum()} cases, {size}): largest KS distance to the law given the live units of every layer",
         "Pennington et al. 2017", 0, allowed, given[fluctuating].max(initial=0), "at_most"),
        ("the same to the law at p(q*): worst deviation from what binomial live units make, in units of four standard errors",
         "rank of finite matrices", 0, 1, (np.abs(ks - shift) / fluctuation)[fluctuating].max(initial=0), "at_most"),
        ("mass of every law, atoms included: worst deviation from 1", "exact", 0, 1e-6, error[..., 0].max(), "at_most"),
        ("first and second moment of every law: worst relative deviation from the closed form", "Pennington et al. 2018", 0,
         1e-6, error[..., 1:].max(), "at_most"),
        ("edges (L+1)^(L+1)/L^L (linear, Gaussian) and L^L/(L-1)^(L-1) (ReLU, orthogonal): worst error of the log",
         "closed form", 0, 1e-8, max(np.abs(linear - fuss).max(), np.abs(relu - powers).max()), "at_most"),
        ("linear, Gaussian, L = 4: sup distance to the Fuss-Catalan distribution function", "Penson & Zyczkowski 2011", 0,
         1e-9, data["fuss_catalan_distance"], "at_most"),
        ("atom 1 - L (1 - p) of the orthogonal cases: worst deviation in units of four standard errors", "closed form", 0, 1,
         (np.abs(atom_measured - atom) / np.maximum(atom_error, 1e-12))[(atom > 0) & (atom < 1 - 1e-9)].max(initial=0), "at_most"),
        ("rank: worst deviation from the smallest of L binomials, in units of four standard errors", "closed form", 0, 1,
         (np.abs(rank_measured - rank) / np.maximum(rank_error, 1e-12)).max(), "at_most"),
        ("linear, orthogonal, L = 4: largest abs ln sigma", "exact", 0, 1e-10, data["case_spread"][trivial].max(initial=0), "at_most"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
