"""Slopes and gates of the layers of a model, by name."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import Array

from jacspec.chain import JacobianChain, series
from jacspec.typing import State


def over_time(steps: Sequence[Any], layer_states: Sequence[State], inputs: Array) -> list[dict[str, Array]]:
    """For every layer its slope, or its gates, at every step: (T, n) each.

    Args:
        steps: the cells, lowest first.
        layer_states: their states h_0 ... h_T.
        inputs: of the lowest, (T, features).
    """
    found, x = [], inputs
    for cell, states in zip(steps, layer_states, strict=True):
        before, after = series.part(states, slice(-1)), series.part(states, slice(1, None))
        if hasattr(cell, "gates"):
            seen = jax.vmap(cell.gates)(before, x)
            found.append({name: a for name, a in seen.items() if name != "candidate"})
        else:
            found.append(_slope(jax.vmap(lambda h, x, cell=cell: cell.jacobian(h, x).factors)(before, x)))
        x = jax.vmap(getattr(cell, "output", lambda h: h))(after)
    return found


def over_depth(chain: JacobianChain, *batch: int) -> list[dict[str, Array]]:
    """For every layer with an activation its slope, (..., n), behind the axes of a batch that is one state."""
    _, seen = chain.source.fold(lambda carry, J, _: (carry, _slope(J.factors)), (), reverse=False, xs=None)
    layers = [series.entry(seen, l) for l in range(chain.length)]
    shaped = lambda slope: slope.reshape(*batch, -1) if batch else slope
    return [{"slope": shaped(layer["slope"])} for layer in layers if layer]


def _slope(factors: dict[str, Array]) -> dict[str, Array]:
    """The product of the slopes of a Jacobian, if it has any; those of linear parts are 1."""
    found = [a for name, a in factors.items() if name.split()[-1].rstrip("'") == "slope"]
    return {"slope": math.prod(found[1:], start=found[0].reshape(found[-1].shape))} if found else {}
