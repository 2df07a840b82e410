"""One deep network from all sides: spectrum, gradient by depth and what its factors do, before and after learning."""

from typing import Any

import numpy as np

from figures._anatomy import Column, by_lag, page
from jacspec.results import Claim, claims_of

NAME = "anatomy_depth"
CAPTION = """
The same networks from all sides, before (open, blue) and after (filled, orange) they learned scikit-learn's digits: tanh networks of
25 layers of 100 units, Gaussian weights of variance 1 / n: plain (bias variance 0.05), residual (branches W tanh(h) divided by
the root of their number) and with LayerNorm before the activation; 600 updates of Adam at 0.001 on 50 digits. Accuracies on held-out
digits are in the panels. (a)-(c) All log singular values of the product of the 24 equal layers against the share of larger ones,
medians over 6 held-out digits; what float64 cannot resolve is left out. Lines: the law of the product at infinite width before
training, without a free parameter: free products of Gaussian matrices and tanh slopes (a, c), the universal law of residual
networks (b). (d)-(f) Gradient of the cross-entropy by layers back (marks and bands: median and quartiles of 64 digits) and what
the spectrum predicts for a gradient in no special direction, (1/2) ln mean sigma^2 (lines). Dashed: mean field, (1/2) ln chi per layer.
(g)-(i) Why: mean log gains of the factors of a backward step: kept, the identity; slopes, of tanh; LN, the normalization; weights,
with the scale of the branch; total, of the whole step, to which the factors of plain and normalized layers add up. Training makes
up by weights for what saturation takes; the plain network, whose gradient vanishes, is left behind.
"""

TITLES = {"plain": "plain", "residual": "residual", "normalized": "LayerNorm"}
PARTS = ("kept", "slopes", "LN", "weights", "total")
SPREAD = {"plain": 0.18, "residual": 0.015, "normalized": 0.2}
"""Standard deviation of (1/2) ln mean sigma^2 over ten networks of this size; the tolerances are five of them."""

LABELS = {
    "spectrum": r"$\ln\sigma_i$ (nats)",
    "lag": "layers back, $L-l$",
    "gradient": r"$\ln\|\partial E/\partial h_l\|$, relative (nats)",
    "gain": "log gain of a\nbackward step (nats)",
    "absent": "none",
}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Nine panels, and the claims behind them."""
    columns = []
    for form in config["forms"]:
        own = {name: data[f"{form}_{name}"] for name in ("spectra", "law", "norms", "isotropic", "gains")}
        title = f"{TITLES[form]}, accuracy {data[f'{form}_accuracy'][1]:.1%}"
        columns.append(Column(title=title, slope=float(data[f"{form}_growth"]) / (config["depth"] - 1), **own))
    return page(columns, config["lags"], PARTS, LABELS), claims(data, config)


def claims(data: dict[str, np.ndarray], config: dict[str, Any]) -> list[Claim]:
    """Identities to rounding, theory before training, and what training does."""
    forms, lags, L, n = config["forms"], config["lags"], config["depth"] - 1, config["width"]
    outside = -np.inf
    for form in forms:
        few = data[f"{form}_largest"].shape[1]
        gains = np.stack([by_lag(data[f"{form}_norms"][state])[:few, lags] for state in (0, 1)])
        outside = max(outside, (gains - data[f"{form}_largest"]).max())
    rows = [
        ("every gradient is below sigma_1 of its product: largest excess, nats", "exact", 0, 1e-9, outside, "at_most"),
        ("J^T g is made of its named parts: worst relative error", "exact", 0, 1e-12,
         max(data[f"{form}_parts_error"].max() for form in forms), "at_most"),
    ]  # fmt: skip
    for form, tolerance, source in (
        ("plain", 1.2, "Pennington, Schoenholz & Ganguli 2017"),
        ("residual", 0.04, "Tarnowski et al. 2019; Ling & Qiu 2019"),
        ("normalized", 1.0, "Pennington, Schoenholz & Ganguli 2017"),
    ):
        spectra = np.median(data[f"{form}_spectra"][0], axis=0)
        gap = np.abs(spectra - data[f"{form}_law"])[np.arange(n) < 0.8 * n].mean()
        text = f"{TITLES[form]} before training: abs(ln sigma_i - law), mean over u < 0.8, nats"
        rows.append((text, source, 0, tolerance, gap, "at_most"))
    growth = {form: np.median(data[f"{form}_isotropic"][0], axis=0)[-1] for form in forms}
    for form, source in (
        ("plain", "Schoenholz et al. 2017: chi_1 = .759"),
        ("residual", "Tarnowski et al. 2019: m_1 = e^c"),
        ("normalized", "LayerNorm: chi = 1.17781, any sigma_w"),
    ):
        text = f"{TITLES[form]} before training: (1/2) ln mean sigma^2 of {L} layers, nats"
        rows.append((text, source, float(data[f"{form}_growth"]), 5 * SPREAD[form], growth[form]))
    rows.append(
        ("residual: held-out accuracy after training", "stated", 0.95, 0, data["residual_accuracy"][1], "at_least")
    )
    kept = np.median(by_lag(data["residual_norms"][0])[:, -1]) - np.median(by_lag(data["plain_norms"][0])[:, -1])
    rows.append(("gradient over all layers before training, residual above plain by e^2 or more, nats", "slower decay", 2, 0,
                 kept, "at_least"))  # fmt: skip
    return claims_of(NAME, rows)
