"""From the parameter tree of a Flax cell to the analytic cell.

A kernel of Flax is (in, out) with y = x K, so that W = K^T here. Gates are read in the order of the equations: i, f, g, o
(LSTM), r, z, n (GRU), f, n (MGU).
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from jacspec import cells
from jacspec.activations import Activation

ACTIVATIONS: dict[Any, str] = {
    jax.nn.identity: "linear",
    jnp.tanh: "tanh",
    jax.lax.tanh: "tanh",
    jax.nn.hard_tanh: "hard_tanh",
    jax.nn.sigmoid: "sigmoid",
    jax.scipy.special.expit: "sigmoid",
    jax.lax.logistic: "sigmoid",
    jax.nn.relu: "relu",
    jax.nn.leaky_relu: "leaky_relu",
    jax.nn.elu: "elu",
    jax.nn.selu: "selu",
    jax.nn.silu: "swish",
    jax.nn.softplus: "softplus",
    jax.scipy.special.erf: "erf",
    jax.lax.erf: "erf",
}


class Unknown(Exception):
    """Why a module has no analytic Jacobian here."""


class Misfit(Exception):
    """Parameters that are not those of the cell."""


def analytic(module: Any, params: Mapping[str, Any]) -> Any:
    """The cell whose equations the module computes; raises Unknown, or Misfit for variables that are not its own."""
    convert = _CELLS.get(type(module).__call__)
    if convert is None:
        text = "not a cell of the list in from_flax"
        raise Unknown(text)
    for name in params:
        part = getattr(module, name, None)
        if isinstance(part, nnx.Module) and type(part) is not nnx.Linear:
            text = f"its part {name!r} is a {type(part).__name__}, not a Linear"
            raise Unknown(text)
    try:
        return convert(module, cast(params, module.dtype, type(module).__name__))
    except Misfit as reason:
        if isinstance(module, nnx.Module):  # a part of it was replaced
            raise Unknown(*reason.args) from None
        raise


def cast(params: Any, dtype: Any, name: str) -> Any:
    """The parameters in the dtype in which the module computes."""
    if dtype is None:
        return params
    if any(jnp.finfo(p.dtype).bits > jnp.finfo(dtype).bits for p in jax.tree.leaves(params)):
        text = f"{name} computes in its dtype, {jnp.dtype(dtype).name}, less than its parameters have"
        warnings.warn(f"jacspec.from_flax: {text}; make the module with another dtype to keep them", stacklevel=4)
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), params)


def activation(argument: str, function: Any) -> str | Activation:
    """The entry of the table that is this very function; raises Unknown."""
    if isinstance(function, Activation):
        return function
    if isinstance(function, functools.partial) and not function.args:
        if function.func is jax.nn.gelu and function.keywords == {"approximate": False}:
            return "gelu"
    elif isinstance(function, Callable) and function.__hash__ is not None and function in ACTIVATIONS:
        return ACTIVATIONS[function]
    text = f"{argument} {getattr(function, '__name__', function)!r} is not in the table of activations"
    raise Unknown(text)


def _blocks(params: Mapping[str, Any], gates: str) -> tuple[Array, Array, list, list]:
    """W (gates, n, n), U (gates, n, m), and the biases of the two sides by gate, None where there is none.

    A side ('h' or 'i') is one Dense with fused gates (``dense_h``, ``h``) or one for each gate (``hf``, ``if_``).
    """
    found, used, text = [], set(), f"its parameters are {sorted(params)}"
    for side in "hi":
        names = [name for name in (f"dense_{side}", side) if name in params]
        if not names:
            names = [next((n for n in (side + g, f"{side}{g}_") if n in params), side + g) for g in gates]
        used |= set(names)
        if not set(names) <= set(params) or any("kernel" not in params[name] for name in names):
            raise Misfit(text)
        count = len(gates) // len(names)
        kernels = [block.T for name in names for block in jnp.split(params[name]["kernel"], count, axis=1)]
        biases = [params[name].get("bias") for name in names]
        biases = [part for bias in biases for part in ([None] * count if bias is None else jnp.split(bias, count))]
        found += [jnp.stack(kernels), biases]
    if used != set(params) or any(set(dense) - {"kernel", "bias"} for dense in params.values()):
        raise Unknown(text)
    W, b_h, U, b_i = found
    return W, U, b_h, b_i


def _bias(W: Array, *sides: list) -> Array | None:
    """The sum over the sides of the biases by gate, (gates, n), or None where there is none at all."""
    if all(part is None for side in sides for part in side):
        return None
    zero = jnp.zeros(W.shape[-1], W.dtype)
    return sum(jnp.stack([zero if part is None else part for part in side]) for side in sides)  # type: ignore[return-value]


def _functions(module: Any) -> dict[str, Any]:
    return {
        "activation": activation("activation_fn", module.activation_fn),
        "gate": activation("gate_fn", module.gate_fn),
    }


def _simple(module: Any, params: Mapping[str, Any]) -> cells.Elman:
    """W = K_h^T, and the identity beside it where the module is residual."""
    W, U, b_h, b_i = _blocks(params, " ")
    W = W[0] + jnp.eye(W.shape[-1], dtype=W.dtype) if module.residual else W[0]
    b = _bias(W, b_h, b_i)
    return cells.Elman(W, U[0], None if b is None else b[0], activation("activation_fn", module.activation_fn))


def _lstm(module: Any, params: Mapping[str, Any]) -> cells.LSTM:
    W, U, b_h, b_i = _blocks(params, "ifgo")
    return cells.LSTM(W, U, _bias(W, b_h, b_i), **_functions(module))


def _gru(module: Any, params: Mapping[str, Any]) -> cells.GRU:
    """The bias of the hidden side stays inside the reset product for n, and joins the input's for r and z.

    ``hn_bias`` is b_hn as flax pull request 5595 writes it beside the fused ``dense_h``.
    """
    own = params.get("hn_bias")
    W, U, b_h, b_i = _blocks({name: part for name, part in params.items() if name != "hn_bias"}, "rzn")
    hidden = b_h[2] if own is None else own if b_h[2] is None else own + b_h[2]
    return cells.GRU(W, U, _bias(W, [*b_h[:2], None], b_i), hidden, **_functions(module))


def _mgu(module: Any, params: Mapping[str, Any]) -> cells.MGU:
    W, U, b_h, b_i = _blocks(params, "fn")
    if not module.reset_gate:
        return cells.MGU(W, U, _bias(W, b_h, b_i), reset_gate=False, **_functions(module))
    return cells.MGU(W, U, _bias(W, [b_h[0], None], b_i), b_h[1], **_functions(module))


_CELLS: dict[Any, Callable[[Any, Mapping[str, Any]], Any]] = {
    nnx.SimpleCell.__call__: _simple,
    linen.SimpleCell.__call__: _simple,
    nnx.LSTMCell.__call__: _lstm,
    nnx.OptimizedLSTMCell.__call__: _lstm,
    linen.LSTMCell.__call__: _lstm,
    linen.OptimizedLSTMCell.__call__: _lstm,
    nnx.GRUCell.__call__: _gru,
    linen.GRUCell.__call__: _gru,
    linen.MGUCell.__call__: _mgu,
}
