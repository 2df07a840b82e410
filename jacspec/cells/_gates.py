"""What gated cells share: products of gates and slopes that never underflow to a false zero."""

import math

import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground.arithmetic import smallest_factor
from jacspec.activations import Activation


def product(*factors: Array) -> Array:
    """The elementwise product; exactly zero only where a factor is, otherwise it stops at the smallest factor."""
    p = math.prod(factors[1:], start=factors[0])
    sign = math.prod(map(jnp.sign, factors[1:]), start=jnp.sign(factors[0]))
    least = smallest_factor(p.dtype)
    return jnp.where((sign != 0) & (jnp.abs(p) < least), sign * least, p)


def value(gate: Activation, a: Array) -> Array:
    """gate(a) as a factor of a Jacobian: a logistic gate never closes to exactly zero."""
    y = gate(a)
    return jnp.maximum(y, smallest_factor(y.dtype)) if gate is activations.TABLE["sigmoid"] else y


def complement(gate: Activation, a: Array) -> Array:
    """1 - gate(a), for the logistic gate from the other side: sigma(-a), without cancellation."""
    if gate is not activations.TABLE["sigmoid"]:
        return 1 - gate(a)
    return value(gate, -a)


def blend(gate: Activation, a: Array, kept: Array, new: Array) -> Array:
    """gate(a) kept + (1 - gate(a)) new."""
    rest = gate(-a) if gate is activations.TABLE["sigmoid"] else 1 - gate(a)
    return gate(a) * kept + rest * new
