"""Any Flax module as a step that is a pytree; its Jacobian is by automatic differentiation."""

from collections.abc import Mapping
from typing import Any, cast

import jax
from flax import linen, nnx
from flax.core import meta, unfreeze

from jacspec import _checks
from jacspec._pytree import pytree, static
from jacspec.typing import Driver, State


@pytree
class NNXStep:
    """Any NNX module called on (state, input), as a pytree; its Jacobian is by automatic differentiation.

    A snapshot: what the module held when the step was made. Whatever a call would change in the module (statistics,
    random streams) is dropped, so that the same numbers are drawn in the step and in its Jacobian.

    Attributes:
        graphdef: the structure of the module.
        state: its arrays.
    """

    graphdef: Any = static()
    state: Any

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state, without the output that a Flax cell returns beside it."""
        module: Any = nnx.merge(self.graphdef, self.state, copy=True)
        return _state_of(module(h) if x is None else module(h, x), h)


@pytree
class LinenStep:
    """Any Linen module applied to (state, input), as a pytree; its Jacobian is by automatic differentiation.

    Attributes:
        module: the module, unbound.
        variables: its collections, ``{"params": ...}`` and others.
    """

    module: Any = static()
    variables: Any

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state, without the output that a Flax cell returns beside it."""
        out = self.module.apply(self.variables, h) if x is None else self.module.apply(self.variables, h, x)
        return _state_of(out, h)


def _state_of(out: Any, h: State) -> State:
    """The state in what a module returned: a Flax cell returns (state, output), other modules the state alone."""
    want = jax.tree.structure(h)
    if jax.tree.structure(out) == want:
        return out
    if isinstance(out, tuple) and len(out) == 2 and jax.tree.structure(out[0]) == want:
        return out[0]
    got, hint = str(jax.tree.structure(out)), "Wrap the module in a function (h, x) -> h."
    raise TypeError(_checks.message("from_flax", "module", "does not return the next state", got, str(want), hint))


def nnx_step(module: nnx.Module) -> NNXStep:
    graphdef, state = nnx.split(module)
    return NNXStep(graphdef, jax.tree.map(lambda leaf: leaf, state))  # a split shares its Variables with the module


def linen_step(module: linen.Module, variables: Any) -> LinenStep:
    if variables is None and module.scope is not None:
        module, variables = module.unbind()
    if not isinstance(variables, Mapping):
        want, hint = "{'params': ...} or the parameters", "A Linen module does not hold its weights."
        raise TypeError(_checks.message("from_flax", "variables", "is missing", type(variables).__name__, want, hint))
    variables = meta.unbox(unfreeze(cast(dict, variables)))
    return LinenStep(module, variables if "params" in variables else {"params": variables})
