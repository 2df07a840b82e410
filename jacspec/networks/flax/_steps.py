"""Any Flax module as a step that is a pytree; its Jacobian is by automatic differentiation."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from flax import linen, nnx
from flax.core import meta, unfreeze

from jacspec._ground import checks
from jacspec._ground.calls import called, refuse_impure, trace
from jacspec._ground.pytree import pytree, static
from jacspec.typing import Driver, State

FORM = "module(h, x) -> h"

# Words of an exception of Flax, and the way out of it.
WAYS_OUT = {
    "Scope": "The variables must be this module's own: those of a part lie one level down, variables['params'][name]; "
    "a BatchNorm also wants 'batch_stats'.",
    "ModifyScopeVariable": "It writes a variable: use_running_average=True for a BatchNorm (jacspec.layers.BatchNorm "
    "stands for one in training).",
    "use_running_average": "Make the BatchNorm with use_running_average=True.",
    "Rng": "It draws random numbers: deterministic=True, or keys as drivers: "
    "lambda h, key: module.apply(variables, h, rngs={'dropout': key}).",
    "rngs": "It draws random numbers: make it with deterministic=True.",
}


def _way_out(text: str) -> str:
    return next((hint for words, hint in reversed(WAYS_OUT.items()) if words in text), "")


@pytree
class NNXStep:
    """Any NNX module called on (state, input), as a pytree; its Jacobian is by automatic differentiation.

    A snapshot: what the module held when the step was made. Every call starts from it, so that the step and its
    Jacobian draw the same random numbers. What a call writes and the next one would not read (running statistics in
    training) is dropped; where the next call would read it (a memory, a random stream) the step is refused.

    Attributes:
        graphdef: the structure of the module.
        state: its arrays.
        once: whether the module is called once only, as a layer is: then what it writes is never read.

    Raises:
        TypeError: on a call, for an exception of that kind in the module, or if it does not return the next state.
        ValueError: on a call, for any other exception in the module, or if it changes itself.
    """

    graphdef: Any = static()
    state: Any
    once: bool = static(default=False)

    def module(self, state: Any = None) -> Any:
        """The module anew, with the arrays it was made with or with others."""
        return nnx.merge(self.graphdef, self.state if state is None else state, copy=True)

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state, without the output that a Flax cell returns beside it."""
        module, args = self.module(), (h,) if x is None else (h, x)
        out = called("from_flax", "module", module, *args, form=FORM, way_out=_way_out)
        changed = {} if self.once else self._changed(module)
        if changed:
            first, second = (trace(self._last_of(calls), *args) for calls in (1, 2))
            first = first._replace(changed=changed)
            refuse_impure("from_flax", "module", first, second, self.module, self.state, *args)
        return _state_of(out, h)

    def _last_of(self, calls: int) -> Callable:
        """What several calls of one module return in the end."""

        def run(*args):
            module = self.module()
            return [module(*args) for _ in range(calls)][-1]

        return run

    def _changed(self, module: Any) -> dict[str, Any]:
        """The variables that a call replaced, by name."""
        graphdef, state = nnx.split(module)
        before, after = (dict(jax.tree_util.tree_leaves_with_path(s)) for s in (self.state, state))
        found = {jax.tree_util.keystr(path): leaf for path, leaf in before.items() if after.get(path) is not leaf}
        return found if found or graphdef == self.graphdef else {"its attributes": None}

    @property
    def initial_state(self) -> Callable:
        """x -> the cell's own first carry; an AttributeError where the module is no cell."""
        start = self.module().initialize_carry
        return lambda x: start(x.shape, rngs=nnx.Rngs(0))


@pytree
class LinenStep:
    """Any Linen module applied to (state, input), as a pytree; its Jacobian is by automatic differentiation.

    Attributes:
        module: the module, unbound.
        variables: its collections, ``{"params": ...}`` and others.

    Raises:
        TypeError: on a call, for an exception of that kind in the module, or if it does not return the next state.
        ValueError: on a call, for any other exception in the module.
    """

    module: Any = static()
    variables: Any

    def __call__(self, h: State, x: Driver = None) -> State:
        """The next state, without the output that a Flax cell returns beside it."""
        args, apply = (h,) if x is None else (h, x), lambda *args: self.module.apply(self.variables, *args)
        return _state_of(called("from_flax", "module", apply, *args, form=FORM, way_out=_way_out), h)

    @property
    def initial_state(self) -> Callable:
        """x -> the cell's own first carry; an AttributeError where the module is no cell."""
        start = self.module.initialize_carry
        return lambda x: start(jax.random.key(0), x.shape)


def _state_of(out: Any, h: State) -> State:
    """The state in what a module returned: a Flax cell returns (state, output), other modules the state alone."""
    want = jax.tree.structure(h)
    if jax.tree.structure(out) == want:
        return out
    if isinstance(out, tuple) and len(out) == 2 and jax.tree.structure(out[0]) == want:
        return out[0]
    got, hint = str(jax.tree.structure(out)), "Wrap the module in a function (h, x) -> h."
    raise TypeError(checks.message("from_flax", "module", "does not return the next state", got, str(want), hint))


def nnx_step(module: nnx.Module, *, once: bool = False) -> NNXStep:
    """A snapshot of the module as a step."""
    graphdef, state = nnx.split(module)
    own = jax.tree.map(lambda leaf: leaf, state)  # a split shares its Variables with the module
    return NNXStep(graphdef, own, once)


def linen_step(module: linen.Module, variables: Any) -> LinenStep:
    """The module with its variables as a step; TypeError where they are missing."""
    if variables is None and module.scope is not None:
        module, variables = module.unbind()
    if not isinstance(variables, Mapping):
        want, hint = "{'params': ...} or the parameters", "A Linen module does not hold its weights."
        raise TypeError(checks.message("from_flax", "variables", "is missing", type(variables).__name__, want, hint))
    variables = meta.unbox(unfreeze(cast(dict, variables)))
    return LinenStep(module, variables if "params" in variables else {"params": variables})
