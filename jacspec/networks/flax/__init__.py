"""Flax modules as steps: the analytic cell where the equations are known, otherwise automatic differentiation."""

import warnings
from collections.abc import Mapping
from typing import Any

from flax import linen, nnx

from jacspec._ground import checks
from jacspec.networks.flax._cells import Misfit, Unknown, analytic
from jacspec.networks.flax._layers import linen_sequential, sequential
from jacspec.networks.flax._steps import LinenStep as LinenStep
from jacspec.networks.flax._steps import NNXStep as NNXStep
from jacspec.networks.flax._steps import linen_step, nnx_step

SCANS = {
    nnx.RNN: ".cell",
    linen.RNN: ".cell",
    nnx.Bidirectional: ".forward_rnn.cell or .backward_rnn.cell",
    linen.Bidirectional: ".forward_rnn.cell or .backward_rnn.cell",
}


def _name(kind: type) -> str:
    return f"{'nnx' if issubclass(kind, nnx.Module) else 'linen'}.{kind.__name__}"


def from_flax(module: Any, variables: Mapping[str, Any] | None = None) -> Any:
    """The step of a Flax cell with its analytic Jacobian, or the layers of a `Sequential` (NNX or Linen).

    NNX ``SimpleCell``, ``LSTMCell``, ``OptimizedLSTMCell``, ``GRUCell`` and Linen ``SimpleCell``, ``LSTMCell``,
    ``OptimizedLSTMCell``, ``GRUCell``, ``MGUCell`` become `cells.Elman`, `cells.LSTM`, `cells.GRU` (reset after) and
    `cells.MGU`. Anything else, or a cell whose activation is not in `activations.TABLE`, becomes a step that is
    linearized by automatic differentiation, and a warning says so.

    The result holds the weights of this moment: call again after an update. The parameters keep their dtype unless the
    module sets ``dtype``, in which they are cast as Flax does; `nnx.SimpleCell` sets float32 where nobody else does, so
    give it ``dtype=jnp.float64`` for a float64 step.

    Args:
        module: a Flax module; of an `RNN` pass the cell, of a `Bidirectional` the cell of either direction, of a
            model its recurrent part.
        variables: for Linen, ``{"params": ...}`` or the parameters alone; a bound module brings its own.

    Returns:
        A step ``(state, input) -> state`` (a Flax cell returns an output beside it, which is dropped); the state of an
        LSTM is the tuple (c, h). For a `Sequential` a list of layers for `layer_chain`.

    Raises:
        TypeError: if `module` is no Flax module or a scan over a cell, or the variables of a Linen module are missing.
        ValueError: if variables are given with an NNX module, or are not those of a Linen cell. On a call, if the module
            changes itself (a memory, Dropout in training): frozen it would be another network.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> from flax import nnx
        >>> from jacspec.networks.flax import from_flax
        >>> cell = from_flax(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
        >>> cell
        GRU(W=float32[3,4,4], U=float32[3,4,3], b=float32[3,4], hidden_bias=None, form='reset_after', ...)
        >>> cell.jacobian(jnp.zeros(4), jnp.ones(3)).dense().shape
        (4, 4)
    """
    if isinstance(module, nnx.Sequential):
        return sequential(module)
    for kind, cell in SCANS.items():
        if isinstance(module, kind):
            want = f"its {cell}" + (", with variables['params']['cell']" if kind is linen.RNN else "")
            raise TypeError(checks.message("from_flax", "module", "is a scan over a cell", _name(kind), want))
    if isinstance(module, nnx.Module):
        if variables is not None:
            raise ValueError(checks.message("from_flax", "variables", "belong to Linen", expected="None with NNX"))
        step, params = nnx_step(module), nnx.to_pure_dict(nnx.state(module, nnx.Param))
    elif isinstance(module, linen.Module):
        step = linen_step(module, variables)
        module, params = step.module, step.variables.get("params", {})
        if isinstance(module, linen.Sequential):
            return linen_sequential(module, step.variables)
    else:
        want, hint = "a flax.nnx or flax.linen module", "Any function (h, x) -> h is a step as it is."
        raise TypeError(checks.message("from_flax", "module", "is no Flax module", type(module).__name__, want, hint))
    try:
        return analytic(module, params)
    except Misfit as reason:
        got, want = f"parameters {sorted(params)}", f"those of the {type(module).__name__} itself"
        hint = "The cell of an RNN has its own in variables['params']['cell']."
        raise ValueError(
            checks.message("from_flax", "variables", "are not those of the module", got, want, hint)
        ) from reason
    except Unknown as reason:
        text = f"{type(module).__name__} has no analytic Jacobian here ({reason}): automatic differentiation is used"
        warnings.warn(f"jacspec.from_flax: {text}", stacklevel=2)
        return step
