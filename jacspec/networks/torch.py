"""Weights of PyTorch as cells and layers, without PyTorch.

    RNN    h' = f(W_ih x + b_ih + W_hh h + b_hh)
    LSTM   rows of the weights by gate i, f, g, o:   c' = f c + i g,   h' = o tanh(c')
    GRU    rows by gate r, z, n:   n = tanh(W_in x + b_in + r (W_hn h + b_hn)),   h' = (1 - z) n + z h

The two biases of a gate are one in the cell but for b_hn, which stands inside the reset product.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jacspec import activations, cells, layers
from jacspec._ground import checks
from jacspec.chain import stack
from jacspec.networks import _safetensors

NAME = "from_torch"
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
RECURRENT = re.compile(r"(?P<part>(?:weight|bias)_(?:ih|hh|hr))(?:_l(?P<layer>0|[1-9]\d{0,3})(?P<reverse>_reverse)?)?")
"""Names of the modules (``weight_ih_l0``) and of their cells (``weight_ih``)."""


class Directions(NamedTuple):
    """The two cells of one bidirectional layer; `backward` reads the sequence from its end."""

    forward: Any
    backward: Any


def from_torch(
    weights: Mapping[str, Any] | str | os.PathLike,
    kind: str,
    *,
    activation: str | activations.Activation | None = None,
    prefix: str | None = None,
) -> Any:
    """The cells or layers that a PyTorch state dict holds the weights of; PyTorch itself is not needed.

    Args:
        weights: what ``module.state_dict()`` gives, names to arrays (NumPy, JAX or PyTorch), or the path of a
            ``.safetensors`` file. The arrays are copied and keep their dtype, in which the two biases are added.
        kind: "rnn", "lstm" or "gru" (`torch.nn.RNN`, `LSTM`, `GRU` and their cells, of any number of layers, in one or
            two directions), or "linear" (`torch.nn.Linear`, or several of them, one after another).
        activation: what the weights do not tell. Of an RNN its ``nonlinearity``, "tanh" (None) or "relu"; of several
            linear layers what stands between them, a name of `jacspec.activations.TABLE` ("linear" for nothing).
        prefix: the place of the module in a larger state dict, as "encoder.rnn"; None where there is but one of its kind.

    Returns:
        Cells, the steps of `jacobian_chain`, or layers, those of `layer_chain`:

        - one layer: a cell, `cells.Elman`, `cells.LSTM` (state (c, h), where torch has (h, c)) or `cells.GRU`;
        - L layers: the `stack` of L cells. Dropout between them is that of evaluation: none;
        - one layer in two directions: ``Directions(forward, backward)``, a pair of cells. The backward one takes the
            inputs in reverse, ``xs[::-1]``;
        - L layers in two directions: a list of L such pairs, from the input up. What layer l + 1 receives at t is the
            outputs of both directions of layer l at t, forward first;
        - linear layers: a list of `layers.Dense`, in the order of their numbers ("0.weight", "2.weight"), or of the
            state dict where they are named otherwise. Behind the last one there is no activation.

    Raises:
        TypeError: for weights that are no mapping of names to floating arrays.
        ValueError: for an unknown kind, names that are missing or belong to something else, shapes that do not fit, NaN or
            Inf, projections (``proj_size``), several modules of the kind without a prefix, a file that is damaged.
        FileNotFoundError: if there is no such file.

    Reference: the equations and the layout of the weights in the documentation of `torch.nn.RNN`, `torch.nn.LSTM` and
        `torch.nn.GRU`, PyTorch 2.

    Example:
        >>> import numpy as np, jacspec as js
        >>> state = {"weight_ih_l0": np.ones((8, 3), np.float32), "weight_hh_l0": np.zeros((8, 2), np.float32)}
        >>> js.from_torch(state, "lstm")
        LSTM(W=float32[4,2,2], U=float32[4,2,3], b=None, activation='tanh', gate='sigmoid')
    """
    checks.one_of(NAME, "kind", kind, (*GATES, "linear"))
    unordered = isinstance(weights, (str, os.PathLike))
    weights = _safetensors.read(NAME, "weights", weights) if unordered else weights
    if not isinstance(weights, Mapping) or any(not isinstance(name, str) for name in weights):
        hint = "Of a module give module.state_dict()."
        got = type(weights).__name__ + (" with other keys" if isinstance(weights, Mapping) else "")
        raise TypeError(
            checks.message(NAME, "weights", "must map names to arrays", got, "a state dict or a path", hint)
        )
    start = _start(weights, prefix)
    if kind == "linear":
        return _linear([name for name in weights if name.startswith(start)], weights, activation, unordered)
    return _recurrent(kind, _Module(weights, _module(weights, start, kind)), activation)


def _start(weights: Mapping[str, Any], prefix: str | None) -> str:
    """The given prefix with its dot."""
    if prefix is None:
        return ""
    if not isinstance(prefix, str):
        raise TypeError(checks.message(NAME, "prefix", "must be a string", type(prefix).__name__, "as 'encoder.rnn'"))
    start = prefix.rstrip(".") + "." if prefix else ""
    if any(name.startswith(start) for name in weights):
        return start
    known = sorted({name[:i] for name in weights for i in range(len(name)) if name[i] == "."})
    near = difflib.get_close_matches(prefix, known, 1, 0.4)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    raise ValueError(checks.message(NAME, "prefix", "begins no name", repr(prefix), _some(known), hint))


def _module(weights: Mapping[str, Any], start: str, kind: str) -> str:
    """What the names of the one recurrent module begin with."""
    names = [name for name in weights if name.startswith(start)]
    found = sorted({name[: name.rfind(".") + 1] for name in names if RECURRENT.fullmatch(name[name.rfind(".") + 1 :])})
    found = [module for module in found if _kind(weights, module) in (kind, None)] or found
    if len(found) == 1:
        return found[0]
    if not found:
        hint = "kind='linear' takes names such as '0.weight'."
        raise ValueError(
            checks.message(NAME, "weights", f"hold no {kind}", f"keys {_some(names)}", "'weight_ih_l0' ...", hint)
        )
    got = ", ".join(repr(name.rstrip(".")) for name in found)
    text = checks.message(NAME, "prefix", "is needed, there are several modules", got, "one of them")
    raise ValueError(text)


def _kind(weights: Mapping[str, Any], module: str) -> str | None:
    """The kind that the rows of its recurrent weights are those of; None where they are of none."""
    for name in ("weight_hh_l0", "weight_hh"):
        shape = tuple(getattr(weights.get(module + name), "shape", ()))
        if len(shape) == 2:
            return next((kind for kind, gates in GATES.items() if shape[0] == gates * shape[1]), None)
    return None


class _Module:
    """The weights of one recurrent module by their own names."""

    def __init__(self, weights: Mapping[str, Any], start: str):
        self.weights, self.start = weights, start
        inside = [name.removeprefix(start) for name in weights if name.startswith(start)]
        self.names = [name for name in inside if "." not in name]  # the others are of modules further inside
        self.unused = set(self.names)

    def shaped(self, name: str, shape: tuple[int | None, ...], expected: str) -> Array:
        """The array of that name."""
        if name not in self.names:
            got = f"keys {_some([self.start + other for other in self.names])}"
            raise ValueError(checks.message(NAME, f"weights[{self.start + name!r}]", "is missing", got, expected))
        self.unused.discard(name)
        return _array(self.weights, self.start + name, shape, expected)


def _recurrent(kind: str, module: _Module, activation: Any) -> Any:
    """The cells of all layers and directions."""
    if kind == "rnn":
        checks.one_of(NAME, "activation", activation, (None, "tanh", "relu"))
    elif activation is not None:
        raise ValueError(checks.message(NAME, "activation", f"is not for {kind!r}", repr(activation), "None"))
    matches = [match for match in map(RECURRENT.fullmatch, module.names) if match]
    projected = [module.start + match[0] for match in matches if "hr" in match["part"]]
    if projected:
        hint = "The cells here show the whole h; make the module with proj_size=0."
        raise ValueError(
            checks.message(NAME, f"weights[{projected[0]!r}]", "projects the state (proj_size)", hint=hint)
        )
    count = 1 + max(int(match["layer"] or 0) for match in matches)
    endings = ("", "_reverse") if any(match["reverse"] for match in matches) else ("",)
    biased = any("bias" in match["part"] for match in matches)
    single = all(match["layer"] is None for match in matches)  # a torch.nn.LSTMCell
    built, n = [], None
    for l in range(count):
        below = None if n is None else n * len(endings)
        for suffix in [""] if single else [f"_l{l}{ending}" for ending in endings]:
            built.append(_cell(kind, module, suffix, n, below, biased, activation or "tanh"))
            n = int(built[0].W.shape[-1])
    if module.unused:
        text = f"weights[{module.start + min(module.unused)!r}]"
        raise ValueError(checks.message(NAME, text, f"is none of the weights of a torch.nn.{kind.upper()}"))
    if len(endings) == 1:
        return built[0] if count == 1 else stack(*built)
    pairs = [Directions(*pair) for pair in zip(built[::2], built[1::2], strict=True)]
    return pairs[0] if count == 1 else pairs


def _cell(
    kind: str, module: _Module, suffix: str, units: int | None, below: int | None, biased: bool, activation: str
) -> Any:
    """The cell of one layer and direction, of `units` (None: any) that receive `below` numbers (None: any)."""
    gates, name = GATES[kind], "weight_hh" + suffix
    expected = f"({'' if gates == 1 else f'{gates} '}n, n)" if units is None else f"({gates * units}, {units})"
    W = module.shaped(name, (None, units), expected)
    n = int(W.shape[1])
    if W.shape[0] != gates * n:
        fits = [other for other, count in GATES.items() if W.shape[0] == count * n]
        hint = f"It would fit kind={fits[0]!r}." if fits else ""
        text = f"weights[{module.start + name!r}]"
        raise ValueError(checks.message(NAME, text, f"is not that of {kind!r}", f"shape {W.shape}", expected, hint))
    U = module.shaped("weight_ih" + suffix, (gates * n, below), f"({gates * n}, {'m' if below is None else below})")
    W, U = W.reshape(gates, n, n), U.reshape(gates, n, -1)
    b = [module.shaped(f"bias_{side}{suffix}", (gates * n,), f"({gates * n},)") for side in ("ih", "hh") if biased]
    return _CELLS[kind](W, U, [part.reshape(gates, n) for part in b], activation)


def _gru(W: Array, U: Array, b: list[Array], _: str) -> cells.GRU:
    """b_hn apart, for it is multiplied by the reset gate."""
    return cells.GRU(W, U, b[0].at[:2].add(b[1][:2]), b[1][2]) if b else cells.GRU(W, U)


_CELLS: dict[str, Callable[[Array, Array, list[Array], str], Any]] = {
    "rnn": lambda W, U, b, activation: cells.Elman(W[0], U[0], (b[0] + b[1])[0] if b else None, activation),
    "lstm": lambda W, U, b, _: cells.LSTM(W, U, b[0] + b[1] if b else None),
    "gru": _gru,
}


def _linear(names: list[str], weights: Mapping[str, Any], activation: Any, unordered: bool) -> list[layers.Dense]:
    """The linear layers, the activation behind all but the last."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        module, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            hint = "Choose the part of the network by prefix=..."
            want = "'weight' and 'bias' of linear layers"
            raise ValueError(
                checks.message(NAME, f"weights[{name!r}]", "is of something else", expected=want, hint=hint)
            )
        found.setdefault(module, {})[part] = name
    if not found:
        raise ValueError(checks.message(NAME, "weights", "are empty", expected="'0.weight', '0.bias' ..."))
    if activation is not None:
        activations.get(activation, function=NAME)
    elif len(found) > 1:
        hint = "Say activation='relu' or another name of activations.TABLE, 'linear' for none."
        text = f"is not told by the weights of {len(found)} layers"
        raise ValueError(checks.message(NAME, "activation", text, hint=hint))
    modules, numbers = list(found), {module: re.split(r"(\d+)", module) for module in found}
    if len({tuple(parts[::2]) for parts in numbers.values()}) == 1:  # the names differ in numbers alone
        modules.sort(key=lambda module: [int(number) for number in numbers[module][1::2]])
    elif unordered and len(modules) > 1:
        hint = "Give a mapping whose order is that of the layers."
        raise ValueError(checks.message(NAME, "weights", "have no order in a file", _some(modules), "numbers", hint))
    out, n, below = [], None, ""
    for module in modules:
        if "weight" not in found[module]:
            text = f"weights[{f'{module}.weight'.lstrip('.')!r}]"
            raise ValueError(checks.message(NAME, text, "is missing", f"the bias {found[module]['bias']!r} alone"))
        W = _array(weights, found[module]["weight"], (None, n), f"(m, {'n' if n is None else n}){below}")
        b = found[module].get("bias")
        b = None if b is None else _array(weights, b, W.shape[:1], f"({W.shape[0]},)")
        out.append(layers.Dense(W, b, "linear" if activation is None or module == modules[-1] else activation))
        n, below = W.shape[0], f" after {found[module]['weight']!r} of shape {W.shape}"
    return out


def _array(weights: Mapping[str, Any], name: str, shape: tuple[int | None, ...], expected: str) -> Array:
    """A copy of one of the weights, as a JAX array."""
    value, argument = weights[name], f"weights[{name!r}]"
    if hasattr(value, "detach"):  # a tensor of PyTorch
        try:
            value = value.detach().cpu()
            bfloat16 = str(value.dtype) == "torch.bfloat16"  # which NumPy does not know
            value = value.float().numpy().astype(jnp.bfloat16) if bfloat16 else value.numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:
            got = str(error).split("\n")[0]
            raise TypeError(checks.message(NAME, argument, "is no tensor of numbers", got, expected)) from error
    value = checks.shaped(NAME, argument, value, shape, expected)
    if 0 in value.shape:
        raise ValueError(checks.message(NAME, argument, "is empty", f"shape {value.shape}", expected))
    checks.finite(NAME, argument, value)
    return jnp.array(value)


def _some(names: list[str]) -> str:
    """The first names."""
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
