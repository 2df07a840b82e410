"""A branch that stays one under `vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def when(wanted: Array, do: Callable[[Any], Any], otherwise: Callable[[Any], Any], argument: Any) -> Any:
    """``do(argument)`` if `wanted` else ``otherwise(argument)``, both of the same shapes.

    `lax.cond` runs both for every member of a batch; this runs `do` only if one of them wants it. It cannot be
    differentiated in reverse: what uses it says how.
    """
    leaves, structure = jax.tree.flatten(argument)

    @jax.custom_batching.custom_vmap
    def call(wanted, *leaves):
        return lax.cond(wanted, do, otherwise, jax.tree.unflatten(structure, leaves))

    @call.def_vmap
    def rule(size: int, batched: list[bool], wanted: Array, *leaves: Array) -> tuple[Any, Any]:
        moved = [
            a if b else jnp.broadcast_to(a, (size, *jnp.shape(a)))
            for a, b in zip((wanted, *leaves), batched, strict=True)
        ]
        wants, members = moved[0], jax.tree.unflatten(structure, moved[1:])

        def each(pair):
            wants, member = pair
            return jax.tree.map(lambda a, b: jnp.where(wants, a, b), do(member), otherwise(member))

        out = when(jnp.any(wants), jax.vmap(each), lambda pair: jax.vmap(otherwise)(pair[1]), (wants, members))
        return out, jax.tree.map(lambda _: True, out)

    return call(wanted, *leaves)
