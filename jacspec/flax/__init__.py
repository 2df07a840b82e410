"""Flax modules as steps: the analytic cell where the equations are known, otherwise automatic differentiation."""

import warnings
from collections.abc import Mapping
from typing import Any

from flax import linen, nnx

from jacspec import _checks
from jacspec.flax._cells import Unknown, analytic
from jacspec.flax._layers import sequential
from jacspec.flax._steps import LinenStep as LinenStep
from jacspec.flax._steps import NNXStep as NNXStep
from jacspec.flax._steps import linen_step, nnx_step


def from_flax(module: Any, variables: Mapping[str, Any] | None = None) -> Any:
    """The step of a Flax cell with its analytic Jacobian, or the layers of an `nnx.Sequential`.

    NNX ``SimpleCell``, ``LSTMCell``, ``OptimizedLSTMCell``, ``GRUCell`` and Linen ``SimpleCell``, ``LSTMCell``,
    ``OptimizedLSTMCell``, ``GRUCell``, ``MGUCell`` become `cells.Elman`, `cells.LSTM`, `cells.GRU` (reset after) and
    `cells.MGU`. Anything else, or a cell whose activation is not in `activations.TABLE`, becomes a step that is
    linearized by automatic differentiation, and a warning says so.

    The result holds the weights of this moment: call again after an update. The parameters keep their dtype unless the
    module sets ``dtype``, in which they are cast as Flax does; `nnx.SimpleCell` sets float32 where nobody else does, so
    give it ``dtype=jnp.float64`` for a float64 step.

    Args:
        module: a Flax module; of an `nnx.RNN` pass the cell.
        variables: for Linen, ``{"params": ...}`` or the parameters alone; a bound module brings its own.

    Returns:
        A step ``(state, input) -> state`` (a Flax cell returns an output beside it, which is dropped); the state of an
        LSTM is the tuple (c, h). For `nnx.Sequential` a list of layers for `layer_chain`.

    Raises:
        TypeError: if `module` is no Flax module or is an `nnx.RNN`, or the variables of a Linen module are missing.
        ValueError: if variables are given with an NNX module.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> from flax import nnx
        >>> from jacspec.flax import from_flax
        >>> cell = from_flax(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
        >>> cell
        GRU(W=float32[3,4,4], U=float32[3,4,3], b=float32[3,4], hidden_bias=None, form='reset_after', ...)
        >>> cell.jacobian(jnp.zeros(4), jnp.ones(3)).dense().shape
        (4, 4)
    """
    if isinstance(module, nnx.Sequential):
        return sequential(module)
    if isinstance(module, nnx.RNN):
        raise TypeError(_checks.message("from_flax", "module", "is a scan over a cell", "nnx.RNN", "its .cell"))
    if isinstance(module, nnx.Module):
        if variables is not None:
            raise ValueError(_checks.message("from_flax", "variables", "belong to Linen", expected="None with NNX"))
        step, params = nnx_step(module), nnx.to_pure_dict(nnx.state(module, nnx.Param))
    elif isinstance(module, linen.Module):
        step = linen_step(module, variables)
        module, params = step.module, step.variables.get("params", {})
    else:
        want = "a flax.nnx or flax.linen module"
        raise TypeError(_checks.message("from_flax", "module", "is no Flax module", type(module).__name__, want))
    try:
        return analytic(module, params)
    except Unknown as reason:
        text = f"{type(module).__name__} has no analytic Jacobian here ({reason}): automatic differentiation is used"
        warnings.warn(f"jacspec.from_flax: {text}", stacklevel=2)
        return step
