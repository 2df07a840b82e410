"""A `Sequential` of Flax as layers for `layer_chain`."""

import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array, lax

from jacspec import layers
from jacspec._ground.pytree import pytree
from jacspec.activations import Activation
from jacspec.layers.elementwise import Elementwise
from jacspec.networks.flax._cells import Unknown, activation, cast
from jacspec.networks.flax._steps import LinenStep, nnx_step


@pytree
class AlongLastAxis:
    """A layer of vectors at every position of a state: a Linear or a norm that acts on the channels of an image.

    Attributes:
        layer: a layer on a state (n,).
    """

    layer: Any

    def _at(self, h: Array) -> Any:
        return functools.reduce(lambda layer, _: layers.PerExample(layer), range(h.ndim - 1), self.layer)

    def __call__(self, h: Array, x: Any = None) -> Array:
        """The layer along the last axis of h (..., n); x is not used."""
        del x
        return self._at(h)(h)

    def jacobian(self, h: Array, x: Any = None) -> Any:
        """Block-diagonal, one block a position."""
        del x
        return self._at(h).jacobian(h)


def sequential(module: nnx.Sequential) -> list[Any]:
    """The layers, an activation taken in by the Linear or Conv before it.

    Where a `BatchNorm` is in training mode the state is the whole batch, and the other layers act on each example.
    Behind a convolution, or a function of which nothing is known, a Linear or a norm acts on the last axis.
    """
    parts = list(_flat(module))
    batch = any(isinstance(part, nnx.BatchNorm) and not part.use_running_average for part in parts)
    owners = Counter(id(leaf) for part in parts for leaf in _arrays(part))
    out: list[Any] = []
    unknown: list[str] = []
    spread = False  # whether the state may have axes before that of the channels
    while parts:
        part = parts.pop(0)
        try:
            layer, folded = _layer(part, _known(parts[0]) if parts else None, spread)
            alone = not batch or isinstance(part, nnx.BatchNorm) or isinstance(layer, Elementwise)
            if spread and not isinstance(part, nnx.Conv) and not isinstance(layer, Elementwise):
                layer, alone = AlongLastAxis(layer), True
            spread |= isinstance(part, nnx.Conv)
        except Unknown:
            unknown.append(f"{len(out)}: {getattr(part, '__name__', type(part).__name__)}")
            once = all(owners[id(leaf)] == 1 for leaf in _arrays(part))
            layer, folded, alone = (nnx_step(part, once=once) if isinstance(part, nnx.Module) else part), False, True
            spread = True
        if folded:
            parts.pop(0)
        out.append(layer if alone else layers.PerExample(layer))
    _warn_of_unknown(unknown)
    return out


def linen_sequential(module: linen.Sequential, variables: Mapping[str, Any]) -> list[Any]:
    """The layers of a Linen `Sequential`, each with its own part of the variables."""
    out: list[Any] = []
    unknown: list[str] = []
    for i, part in enumerate(module.layers):
        known = None if isinstance(part, linen.Module) else _known(part)
        if known is not None:
            out.append(Elementwise(known))
            continue
        unknown.append(f"{len(out)}: {getattr(part, '__name__', type(part).__name__)}")
        if not isinstance(part, linen.Module):
            out.append(part)
            continue
        key = part.name or f"layers_{i}"
        own = {collection: held[key] for collection, held in variables.items() if key in held}
        out.append(LinenStep(part.clone(parent=None, name=None), own))
    _warn_of_unknown(unknown)
    return out


def _warn_of_unknown(unknown: list[str]) -> None:
    if unknown:
        text = f"no analytic Jacobian for layer {', '.join(unknown)}: automatic differentiation is used there"
        warnings.warn(f"jacspec.from_flax: {text}", stacklevel=4)


def _arrays(part: Any) -> list[Any]:
    return jax.tree.leaves(nnx.state(part)) if isinstance(part, nnx.Module) else []


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


def _layer(part: Any, function: str | Activation | None, spread: bool) -> tuple[Any, bool]:
    """The analytic layer of one part, and whether it took in the activation after it; raises Unknown."""
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
        if part.axis not in (-1, (-1,)) or (spread and not part.use_running_average):
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
