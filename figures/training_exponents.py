"""Lyapunov exponents of gated networks while they learn: what the hidden block alone does not see."""

from typing import Any

import numpy as np

from jacspec import plotting
from jacspec.results import Claim, claims_of

NAME = "training_exponents"
CAPTION = """
An LSTM and a GRU of 20 units (gate that keeps: bias 1) learn to read handwritten digits row by row; Lyapunov exponents,
nats per step, along a stream of held-out digits. Small marks: three networks each; large marks: their means. (a)
Cross-entropy on the digits held out; dotted: ln 10. (b) Leading exponent of the LSTM: of its whole state (c, h), of h
alone, dh_t/dh_{t-1} at fixed c_{t-1}, which is the quantity of the published code of Vogt et al. 2022, and, as a line,
the largest mean logarithm of a forget gate, the additive path through c. Training brings the exponent of the whole
state from that of the initial forget gate to the edge of stability; by h alone, what is read would be gone after a step or
two. (c) The same for the GRU, where h is the whole state (the two coincide, found by analytic and by automatic
differentiation); line: update gate, which after training no longer gives the slowest direction. (d), (e) All exponents of the first network before and after training. (f) After training, the norm
of dE/dh_t, mean of the logarithms over 16 random losses that read h at the end of the stream (marks): it decays with the
exponent of the whole state (lines), not with that of h alone (dashed).
"""

MARK = {"linestyle": "none", "markerfacecolor": "white", "zorder": 3}
LINE = {"marker": "none", "zorder": 1}
DARK, BLUE, RED, GREEN = plotting.COLORS[:4]
NAMES = {"lstm": ("LSTM", BLUE, "o"), "gru": ("GRU", RED, "s")}
WHOLE = {"lstm": "whole state $(c,h)$", "gru": "whole state $h$"}
GATE = {"lstm": "forget gate", "gru": "update gate"}


def draw(data: dict[str, np.ndarray], _: dict[str, Any]) -> tuple[Any, list[Claim]]:
    """Six panels, and the claims behind them."""
    fig, axes = plotting.figure("double", 0.86, 2, 3)
    losses(axes[0, 0], data)
    leading(axes[0, 1], data, "lstm")
    leading(axes[0, 2], data, "gru")
    spectra(axes[1, 0], data, "lstm")
    spectra(axes[1, 1], data, "gru")
    gradients(axes[1, 2], data)
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        plotting.panel_label(ax, letter)
    return fig, claims(data)


def runs(ax: Any, x: Any, rows: np.ndarray, color: str, marker: str, label: str) -> None:
    """Every network small, their mean large."""
    for row in rows:
        ax.plot(
            x, row, color=color, marker=marker, **(MARK | {"markersize": 1.6, "markerfacecolor": color, "zorder": 2})
        )
    ax.plot(x, rows.mean(axis=0), color=color, marker=marker, markersize=3.4, label=label, **MARK)


def losses(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Held-out loss of both."""
    for cell, (name, color, marker) in NAMES.items():
        runs(ax, data["records"], data[f"{cell}_loss"], color, marker, name)
    ax.axhline(np.log(10), color="0.5", linestyle=":", linewidth=0.9, zorder=0)
    ax.set(yscale="log", xlabel="updates", ylabel="held-out loss (nats)")
    ax.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    ax.minorticks_off()
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.92), handlelength=1)


def leading(ax: Any, data: dict[str, np.ndarray], cell: str) -> None:
    """Leading exponent of the whole state, of h alone, and the keeping gate."""
    name, color, marker = NAMES[cell]
    x = data["records"]
    ax.plot(x, data[f"{cell}_keep"][..., 0].mean(axis=0), color=GREEN, linestyle="-.", label=GATE[cell], **LINE)
    runs(ax, x, data[f"{cell}_whole"][..., 0], color, marker, WHOLE[cell])
    runs(ax, x, data[f"{cell}_alone"][..., 0], DARK, "x", "$h$ alone")
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.set(xlabel="updates", ylabel=r"leading exponent $\lambda_1$ (nats/step)", title=name)
    place = {"lstm": {"loc": "lower right"}, "gru": {"loc": "center right", "bbox_to_anchor": (1, 0.64)}}[cell]
    ax.legend(**place, handlelength=1.6, labelspacing=0.25)


def spectra(ax: Any, data: dict[str, np.ndarray], cell: str) -> None:
    """All exponents of the first network, before and after."""
    name, color, marker = NAMES[cell]
    for record, when, filled in ((0, "before", "white"), (-1, "after", None)):
        for kind, shade, shape, label in (("whole", color, marker, WHOLE[cell]), ("alone", DARK, "x", "$h$ alone")):
            values = data[f"{cell}_{kind}"][0, record]
            look = MARK | {"markersize": 3.2, "markerfacecolor": filled or shade}
            shape = {"x": "+" if filled is None else "x"}.get(shape, shape)
            index = np.append(np.arange(0, values.size - 1, 1 + values.size // 41), values.size - 1)
            ax.plot(index + 1, values[index], color=shade, marker=shape, label=f"{label}, {when}", **look)
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    ax.set(xlabel="index $i$", ylabel=r"exponent $\lambda_i$ (nats/step)", title=name)
    ax.set_ylim(bottom=1.35 * ax.get_ylim()[0])
    ax.legend(loc="lower left", handlelength=1, labelspacing=0.25)


def backward(data: dict[str, np.ndarray], cell: str) -> np.ndarray:
    """ln ||dE/dh|| of the trained networks against the lag, from 0 at the end, axes (draw, lag)."""
    norms = data[f"{cell}_log_gradient_norms"][:, -1, ::-1]
    return norms - norms[:, :1]


def gradients(ax: Any, data: dict[str, np.ndarray]) -> None:
    """Mean log gradient norms of the trained networks."""
    for cell, (name, color, marker) in NAMES.items():
        norms = backward(data, cell)
        lag = np.arange(norms.shape[1])
        every = slice(None, None, max(1, lag.size // 12))
        runs(ax, lag[every], norms[:, every], color, marker, name)
        ax.plot(lag, data[f"{cell}_whole"][:, -1, 0].mean() * lag, color=color, linestyle="-", **LINE)
    alone = data["lstm_alone"][:, -1, 0].mean()
    low, high = (pick([pick(backward(data, cell)) for cell in NAMES]) for pick in (np.min, np.max))
    ax.plot(lag, alone * lag, color=DARK, linestyle="--", label="LSTM, $h$ alone", **LINE)
    ax.set(
        xlabel="lag $T-t$ (steps)",
        ylabel=r"$\ln(\Vert\partial E/\partial h_t\Vert/\Vert\partial E/\partial h_T\Vert)$ (nats)",
    )
    ax.set_ylim(2.4 * low, high + 0.1 * (high - low))
    ax.legend(loc="lower right", handlelength=1.6)


def claims(data: dict[str, np.ndarray]) -> list[Claim]:
    """A gradient norm is exp(lambda_1 lag) up to powers of the size of the state, here six."""
    lstm, alone = data["lstm_whole"], data["lstm_alone"]
    rates = {cell: backward(data, cell)[:, -1] / (data[f"{cell}_log_gradient_norms"].shape[-1] - 1) for cell in NAMES}
    apart = max(np.abs(rates[cell] - data[f"{cell}_whole"][:, -1, 0]).max() for cell in NAMES)
    allowed = 6 * np.log(lstm.shape[-1]) / (data["lstm_log_gradient_norms"].shape[-1] - 1)
    rule = {cell: np.abs(data[f"{cell}_whole"].sum(axis=-1) - data[f"{cell}_sum_rule"]).max() for cell in NAMES}
    size, vogt = (
        f"{lstm.shape[0]} networks, {lstm.shape[1]} records",
        "Vogt et al. 2022 (relation; published code: h alone)",
    )
    rows = [
        (f"LSTM: sum lambda_i = <ln prod f tanh(c) o (1 - o)> + ln abs det W_o, worst of {size}",
         "determinant of the (c, h) Jacobian, exact", 0, 1e-8, rule["lstm"]),
        (f"GRU: sum lambda_i = <ln abs det dh_t/dh_(t-1)>, worst of {size}", "exact at every T", 0, 1e-8, rule["gru"]),
        (f"GRU: exponents of h alone (automatic) = of the whole state (analytic), worst of {size}",
         "the same matrix", 0, 1e-8, np.abs(data["gru_whole"] - data["gru_alone"]).max()),
        (f"LSTM: lambda_1 of (c, h) minus that of h alone, least of {size}", vogt, 0.3, 0,
         (lstm[..., 0] - alone[..., 0]).min(), "at_least"),
        ("rate of gradient norms = lambda_1 of the whole state, worst of the trained networks", "Oseledets 1968", 0,
         allowed, apart),
        ("LSTM: rate of gradient norms minus lambda_1 of h alone, least of the trained networks", vogt, 0.3, 0,
         (rates["lstm"] - alone[:, -1, 0]).min(), "at_least"),
        ("LSTM before training: lambda_1 minus largest mean ln f, worst of the networks",
         "the forget gate dominates (Su 2020)", 0, 0.2, np.abs(lstm[:, 0, 0] - data["lstm_keep"][:, 0, 0]).max()),
        ("LSTM: rise of lambda_1 by training, mean of the networks", vogt, 0, 0, (lstm[:, -1, 0] - lstm[:, 0, 0]).mean(),
         "at_least"),
        ("lambda_1 after training, farthest from 0 of all networks", vogt, 0, 0.15,
         max(np.abs(data[f"{cell}_whole"][:, -1, 0]).max() for cell in NAMES)),
        ("held-out digits that are read wrong, worst of all networks", "logistic regression on all pixels: 0.031", 0.031,
         0.1, max(data[f"{cell}_wrong"][:, -1].max() for cell in NAMES), "at_most"),
    ]  # fmt: skip
    return claims_of(NAME, rows)
