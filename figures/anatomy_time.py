"""One recurrent network from all sides: spectrum, gradient by lag and what its factors do, before and after learning."""

from typing import Any

import numpy as np

from figures._anatomy import Column, by_lag, page
from jacspec.results import Claim, claims_of

NAME = "anatomy_time"
CAPTION = """
The same networks from all sides, before (open, blue) and after (filled, orange) they learned to recall the sign of one of eight
Gaussian inputs eight steps late: a tanh RNN, an LSTM and a GRU of 48 units, Gaussian recurrent weights of variance 1 / n, input
variance 0.1, no biases; 1500 updates of Adam at 0.003 on 16 fresh sequences, gradient clipped to norm 1. Accuracies on fresh
sequences are in the panels. (a)-(c) All log singular values of the product of T = 40 step Jacobians per step against the share
of larger ones, medians over 6 sequences; the LSTM has 2n. Lines: theory at infinite width before training: tanh RNN,
the Lyapunov spectrum of products of free matrices under this input; LSTM and GRU, the spectrum at rest, all gates half open
(upper half of the LSTM's). (d)-(f) Gradient of the loss of the last step by lag (marks and bands: median and quartiles of 64
sequences) and what the spectrum predicts for a gradient in no special direction, (1/2) ln mean sigma^2 (lines). Dashed: the
leading exponent of theory times the lag. Dotted: the lag asked for. Training makes the gradient last exactly as long as it is
needed, and shorter beyond. (g)-(i) Why: log gains of a backward step J^T g = K g + W^T S g. Kept: ||K g|| / ||g||, through the
gates that keep; slopes: ||S g|| / ||g||, saturation and the other gates; weights: ||W^T S g|| / ||S g||; total: ||J^T g|| / ||g||;
mean over time, median and quartiles of sequences. Training does not open gates; it grows weights along the gradient.
"""

TITLES = {"tanh": "tanh RNN", "lstm": "LSTM", "gru": "GRU"}
PARTS = ("kept", "slopes", "weights", "total")
LABELS = {
    "spectrum": r"$\ln\sigma_i\,/\,T$ (nats per step)",
    "lag": "lag $T-t$ (steps)",
    "gradient": r"$\ln\|\partial E_T/\partial h_t\|$, relative (nats)",
    "gain": "log gain of a\nbackward step (nats)",
    "absent": "no gate",
}


def draw(data: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Nine panels, and the claims behind them."""
    cells = [name.split()[0].lower() for name in config["cells"]]
    columns = []
    for cell in cells:
        own = {name: data[f"{cell}_{name}"] for name in ("law", "norms", "isotropic", "gains")}
        title = f"{TITLES[cell]}, accuracy {data[f'{cell}_accuracy'][1]:.1%}"
        spectra, slope = data[f"{cell}_spectra"] / config["length"], float(own["law"][0])
        columns.append(Column(title=title, spectra=spectra, slope=slope, **own))
    return page(columns, config["lags"], PARTS, LABELS, config["lag"]), claims(data, config, cells)


def claims(data: dict[str, np.ndarray], config: dict[str, Any], cells: list[str]) -> list[Claim]:
    """Identities to rounding, theory before training, and what training does, for every cell at once."""
    lag, lags, T = config["lag"], config["lags"], config["length"]
    outside, contrast = -np.inf, np.inf
    for cell in cells:
        few = data[f"{cell}_largest"].shape[1]
        for state in (0, 1):
            gain = by_lag(data[f"{cell}_norms"][state])[:few, lags]
            outside = max(outside, (gain - data[f"{cell}_largest"][state]).max())
        middle = np.median(by_lag(data[f"{cell}_norms"][1]), axis=0)
        contrast = min(contrast, (2 * middle[lag] - middle[2 * lag]) / lag)
    rows = [
        ("every gradient is below sigma_1 of its product: largest excess, nats", "exact", 0, 1e-9, outside, "at_most"),
        ("J^T g is the sum of its named parts: worst relative error", "exact", 0, 1e-12,
         max(data[f"{cell}_parts_error"].max() for cell in cells), "at_most"),
        ("accuracy after training, worst of the cells", "stated", 0.97, 0,
         min(data[f"{cell}_accuracy"][1] for cell in cells), "at_least"),
        ("after training the gradient falls faster beyond the lag asked for than within it, nats per step", "stated", 0, 0,
         contrast, "at_least"),
    ]  # fmt: skip
    sums = {"tanh": "tanh RNN: sum of ln sigma_i = sum ln f' + T ln |det W|: worst relative difference",
            "lstm": "LSTM: sum of ln sigma_i = sum ln f + sum ln |tanh(c) o'| + T ln |det W_o|: worst relative difference"}  # fmt: skip
    for cell, text in sums.items():
        total = data[f"{cell}_spectra"].sum(axis=-1)
        worst = np.abs(total / data[f"{cell}_log_det"] - 1).max()
        rows.append((text, "determinant", 0, 1e-9, worst, "at_most"))
    upper = np.arange(config["width"]) < 0.8 * config["width"]
    rates = {cell: np.median(data[f"{cell}_spectra"][0], axis=0)[: config["width"]] / T for cell in cells}
    gap = np.abs(rates["tanh"] - data["tanh_law"])[upper].mean()
    rows.append(("tanh RNN before training: abs(ln sigma_i / T - theory), mean over u < 0.8, nats per step",
                 "Haagerup & Larsen 2000; Newman 1986", 0, 0.06, gap, "at_most"))  # fmt: skip
    for cell, source in (("lstm", "Can, Krishnamurthy & Schwab 2020"), ("gru", "Krishnamurthy, Can & Schwab 2022")):
        rows.append((f"{TITLES[cell]} before training: ln sigma_1 / T against the leading exponent at rest, nats per step",
                     source, data[f"{cell}_law"][0], 0.05, rates[cell][0]))  # fmt: skip
    return claims_of(NAME, rows)
