"""Any model as a function of its own arrays and of its inputs, traced once: a computation in which every array has a name.

A module of Flax NNX is split, and merged anew inside the trace, so that what it writes stays there; a Linen module is
applied to its variables; any other callable that is a pytree (Equinox) is taken apart by JAX. What is left over, a plain
function, is called as it is, and the arrays it captures are constants of the trace.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from jacspec._ground import checks
from jacspec._ground.calls import called

FORM = "model(*inputs)"


class Traced(NamedTuple):
    """A model traced at its inputs.

    Attributes:
        closed: the computation; its arguments are `arrays`, in this order.
        arrays: of the model, then of the inputs.
        names: of the arrays: ``blocks.0.linear.kernel`` for one of the model, ``inputs[0]`` for one of an input.
        owner: for each array the number of its input; -1 for the model.
        out: the structure of what the model returns.
    """

    closed: ClosedJaxpr
    arrays: list[Any]
    names: list[str]
    owner: list[int]
    out: Any


def traced(model: Any, inputs: tuple, variables: Any, options: Mapping[str, Any]) -> Traced:
    """`model` as a computation of its arrays and those of `inputs`; what is no array stays as it is.

    Raises:
        TypeError: for what cannot be called, a Linen module without variables, or an exception of that kind in the model.
        ValueError: for variables that belong to no Linen module, or any other exception in the model.
    """
    call, own = _taken_apart(model, variables)
    trees = [own, *inputs]
    arrays, names, owner, rebuild = [], [], [], []
    for number, tree in enumerate(trees):
        pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
        rebuild.append((structure, [None if _is_array(leaf) else leaf for _, leaf in pairs]))
        for path, leaf in pairs:
            if _is_array(leaf):
                arrays.append(leaf)
                owner.append(number - 1)
                names.append(dotted(path) if number == 0 else f"inputs[{number - 1}]" + jax.tree_util.keystr(path))

    def run(arrays: list[Any]) -> Any:
        waiting = iter(arrays)
        whole = [
            jax.tree.unflatten(structure, [next(waiting) if fixed is None else fixed for fixed in leaves])
            for structure, leaves in rebuild
        ]
        return call(whole[0], *whole[1:], **options)

    trace = lambda *_: jax.make_jaxpr(run, return_shape=True)(arrays)
    closed, out = called("dissect", "model", trace, *inputs, form=FORM, way_out=_way_out)
    return Traced(closed, arrays, names, owner, jax.tree.structure(out))


def dotted(path: tuple) -> str:
    """The way to a leaf as one writes it: ``blocks.0.linear.kernel``."""
    if path and getattr(path[-1], "name", "") == "value":  # the array inside a variable of NNX
        path = path[:-1]
    keys = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return ".".join(key.strip(".") for key in keys if key)


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an array of numbers or keys, which a trace can take for a variable."""
    dtype = getattr(leaf, "dtype", None)
    if not hasattr(leaf, "shape") or dtype is None:
        return False
    return not isinstance(dtype, np.dtype) or dtype.kind in "biufcV"


def _taken_apart(model: Any, variables: Any) -> tuple[Callable, Any]:
    """``call(own, *inputs)`` and `own`, the pytree in which the model holds its arrays."""
    nnx, linen = sys.modules.get("flax.nnx"), sys.modules.get("flax.linen")
    if linen is not None and isinstance(model, linen.Module):
        return _of_linen(model, variables)
    if variables is not None:
        raise ValueError(
            checks.message("dissect", "variables", "belong to Linen", expected="None with any other model")
        )
    owner = getattr(model, "__self__", None) if inspect.ismethod(model) else model
    if nnx is not None and isinstance(owner, nnx.Module):
        graph, state = nnx.split(owner)
        verb = model.__name__ if inspect.ismethod(model) else "__call__"
        return (lambda own, *args, **options: getattr(nnx.merge(graph, own, copy=True), verb)(*args, **options)), state
    checks.function("dissect", "model", model, FORM)
    if jax.tree_util.all_leaves([model]):
        return (lambda _, *args, **options: model(*args, **options)), None
    return (lambda own, *args, **options: own(*args, **options)), model


def _of_linen(module: Any, variables: Any) -> tuple[Callable, Any]:
    """``call(own, *inputs)`` of a Linen module, and its variables."""
    if variables is None and module.scope is not None:
        module, variables = module.unbind()
    if not isinstance(variables, Mapping):
        want, hint = "variables={'params': ...}", "A Linen module does not hold its weights: model.init(key, x)."
        raise TypeError(checks.message("dissect", "variables", "are missing", type(variables).__name__, want, hint))
    variables = dict(variables) if "params" in variables else {"params": variables}
    others = tuple(name for name in variables if name != "params")

    def call(own: Any, *args: Any, **options: Any) -> Any:
        if not others:
            return module.apply(dict(own), *args, **options)
        return module.apply(dict(own), *args, mutable=others, **options)[0]  # what it writes no later call reads

    return call, _Own(variables)


class _Own(dict):
    """The variables of a Linen module by collection, whose arrays are named without the collection."""


class _Nameless:
    """A step of a path that has no name."""

    key = ""


jax.tree_util.register_pytree_with_keys(
    _Own,
    lambda own: (tuple((_Nameless(), tree) for tree in own.values()), tuple(own)),
    lambda names, trees: _Own(zip(names, trees, strict=True)),
)


def _way_out(text: str) -> str:
    """What to do about an exception of the model, from its text."""
    if "make_rng" in text or "InvalidRngError" in text or "RngStream" in text:
        return "It draws random numbers: give keys, rngs={'dropout': jax.random.key(0)}, or deterministic=True."
    if "TraceContextError" in text:
        return "It writes a variable of a module that it captures: give the module itself, dissect(module, x)."
    return ""
