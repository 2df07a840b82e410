"""An `nnx.Sequential` as layers for `layer_chain`."""

import warnings
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jacspec import activations, layers
from jacspec._pytree import pytree, static
from jacspec.activations import Activation
from jacspec.flax._cells import Unknown, activation, cast
from jacspec.flax._steps import nnx_step
from jacspec.operators import Diagonal


@pytree
class Elementwise:
    """h' = f(h), J = diag(f'(h)): an activation that follows no layer which could take it in.

    Attributes:
        activation: a name of the table or an `Activation`.
    """

    activation: str | Activation = static()

    def __call__(self, h: Array, x: Any = None) -> Array:
        """f(h), of the shape of h; x is not used."""
        del x
        return activations.get(self.activation)(h)

    def jacobian(self, h: Array, x: Any = None) -> Diagonal:
        """diag(f'(h)) on the flattened state."""
        del x
        return Diagonal(activations.get(self.activation).derivative(h).ravel(), "slope")


def sequential(module: nnx.Sequential) -> list[Any]:
    """The layers, an activation taken in by the Linear or Conv before it.

    Where a `BatchNorm` is in training mode the state is the whole batch, and the other layers act on each example.
    """
    parts = list(_flat(module))
    batch = any(isinstance(part, nnx.BatchNorm) and not part.use_running_average for part in parts)
    out: list[Any] = []
    unknown: list[str] = []
    space = False  # between a Conv and what flattens it, a Linear or a norm would act on channels
    while parts:
        part = parts.pop(0)
        channels = space and not isinstance(part, nnx.Conv) and _known(part) is None
        try:
            layer, folded = _layer(part, _known(parts[0]) if parts else None, channels)
            alone = not batch or isinstance(part, nnx.BatchNorm) or isinstance(layer, Elementwise)
        except Unknown:
            unknown.append(f"{len(out)}: {getattr(part, '__name__', type(part).__name__)}")
            layer, folded, alone = (nnx_step(part) if isinstance(part, nnx.Module) else part), False, True
        space = isinstance(part, nnx.Module) if channels else space
        space |= isinstance(part, nnx.Conv)
        if folded:
            parts.pop(0)
        out.append(layer if alone else layers.PerExample(layer))
    if unknown:
        text = f"no analytic Jacobian for layer {', '.join(unknown)}: automatic differentiation is used there"
        warnings.warn(f"jacspec.from_flax: {text}", stacklevel=3)
    return out


def _flat(module: nnx.Sequential) -> Iterator[Any]:
    for part in module.layers:
        if isinstance(part, nnx.Sequential):
            yield from _flat(part)
        else:
            yield part


def _known(part: Any) -> str | Activation | None:
    """The entry of the table if `part` is an activation."""
    try:
        return None if isinstance(part, nnx.Module) else activation("layer", part)
    except Unknown:
        return None


def _layer(part: Any, function: str | Activation | None, channels: bool) -> tuple[Any, bool]:
    """The analytic layer of one part, and whether it took in the activation after it; raises Unknown."""
    if channels:
        raise Unknown
    known = _known(part)
    if known is not None:
        return Elementwise(known), False
    if type(part) not in (nnx.Linear, nnx.Conv, nnx.LayerNorm, nnx.RMSNorm, nnx.BatchNorm):
        raise Unknown
    held = {name: getattr(part, name, None) for name in ("kernel", "scale", "bias", "mean", "var")}
    values = cast({k: v[...] for k, v in held.items() if v is not None}, part.dtype, type(part).__name__)
    bias, after = values.get("bias"), function is not None
    if getattr(part, "dot_general", lax.dot_general) is not lax.dot_general:
        raise Unknown
    if getattr(part, "conv_general_dilated", lax.conv_general_dilated) is not lax.conv_general_dilated:
        raise Unknown
    if isinstance(part, nnx.Linear):
        return layers.Dense(values["kernel"].T, bias, function or "linear"), after
    if isinstance(part, nnx.Conv):
        return layers.Conv(values["kernel"], bias, function or "linear", *_geometry(part)), after
    if part.axis_name is not None:
        raise Unknown
    if isinstance(part, nnx.BatchNorm):
        if part.axis not in (-1, (-1,)):
            raise Unknown
        mode = "eval" if part.use_running_average else "train"
        stats = (values["mean"], values["var"]) if mode == "eval" else (None, None)
        return layers.BatchNorm(values.get("scale"), bias, part.epsilon, *stats, mode), False
    if (part.reduction_axes, part.feature_axes) != (-1, -1):
        raise Unknown
    if isinstance(part, nnx.RMSNorm):
        return layers.RMSNorm(values.get("scale"), part.epsilon), False
    return layers.LayerNorm(values.get("scale"), bias, part.epsilon), False


def _geometry(part: nnx.Conv) -> tuple[str, tuple[int, ...]]:
    """Padding and strides of a plain convolution over one or two axes; raises Unknown for any other."""
    axes = len(part.kernel_size)
    strides, *dilations = ((1 if s is None else s) for s in (part.strides, part.input_dilation, part.kernel_dilation))
    plain = all(set(jnp.atleast_1d(jnp.asarray(d)).tolist()) == {1} for d in dilations)
    if axes > 2 or not plain or part.feature_group_count != 1 or part.mask is not None:
        raise Unknown
    if not isinstance(part.padding, str) or part.padding not in ("SAME", "VALID", "CIRCULAR"):
        raise Unknown
    return part.padding, (strides,) * axes if isinstance(strides, int) else tuple(strides)
