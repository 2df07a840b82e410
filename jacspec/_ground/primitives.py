"""Functions with a derivative of their own that no transformation forgets.

`jax.custom_jvp` loses its rule inside a `scan` through which reverse mode has gone: a second derivative then
differentiates the code of the function, or ends in an error of JAX. A primitive keeps its rule in every nesting.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

Axes = tuple[int | None, ...]


def one_at_a_time(f: Callable, axes: Axes) -> Callable:
    """`jax.vmap` of f over `axes`, on the CPU as a loop over the members of the batch.

    jaxlib 0.10 spreads a batch of matrices over XLA's threads from within one of them, and waits there. As many batches
    at the same time as there are threads (two on a small machine: two independent products in one program) wait for each
    other for ever. So on the CPU the members of a batch are factored one after another, as jaxlib itself does from
    0.11.2 on.
    """

    def loop(*args):
        moving = tuple(jnp.moveaxis(a, axis, 0) for a, axis in zip(args, axes, strict=True) if axis is not None)

        def member(moving):
            rest = iter(moving)
            return f(*(a if axis is None else next(rest) for a, axis in zip(args, axes, strict=True)))

        return lax.map(member, moving)

    return lambda *args: lax.platform_dependent(*args, cpu=loop, default=jax.vmap(f, axes))


class Primitive:
    """f of arrays, and of hashable keywords, as one operation of JAX.

    Args:
        f: arrays -> an array, or a tuple of two or more.
        over: what maps a function over the axes of a batch, as `jax.vmap(f, axes)` does.
    """

    def __init__(self, f: Callable, over: Callable[[Callable, Axes], Callable] = jax.vmap):
        self.f, self.over, self.rule = f, over, None
        self.__name__, self.__doc__ = f.__name__, f.__doc__
        self._program = jax.jit(self._run, static_argnames=("axes", "keywords"))
        self.primitive = core.Primitive(self.__name__)
        self.primitive.multiple_results = True
        self.primitive.def_impl(self._program)
        self.primitive.def_abstract_eval(self._types)
        batching.primitive_batchers[self.primitive] = self._batched
        ad.primitive_jvps[self.primitive] = self._pushed
        mlir.register_lowering(self.primitive, mlir.lower_fun(self._program, multiple_results=True))

    def defjvp(self, rule: Callable) -> Callable:
        """Set the derivative: (primals, tangents, **keywords) -> (f, df), with df linear in the tangents."""
        self.rule = rule
        return rule

    def __call__(self, *arrays: Any, **keywords: Any) -> Any:
        """f(*arrays, **keywords)."""
        out = self.primitive.bind(*map(jnp.asarray, arrays), axes=(), keywords=tuple(keywords.items()))
        return out[0] if len(out) == 1 else tuple(out)

    def _run(self, *arrays: Any, axes: tuple[Axes, ...], keywords: tuple) -> tuple:
        f = functools.partial(self.f, **dict(keywords))
        for each in axes:
            f = self.over(f, each)
        return _several(f(*arrays))

    def _types(self, *avals: Any, **parameters: Any) -> Any:
        return jax.make_jaxpr(functools.partial(self._program, **parameters))(*avals).out_avals

    def _batched(self, arrays: Any, dims: Any, *, axes: tuple[Axes, ...], keywords: tuple) -> Any:
        out = self.primitive.bind(*arrays, axes=(*axes, tuple(dims)), keywords=keywords)
        return out, [0] * len(out)

    def _pushed(self, primals: Any, tangents: Any, *, axes: tuple[Axes, ...], keywords: tuple) -> Any:
        if self.rule is None:
            message = f"jacspec: {self.__name__} has no derivative"
            raise NotImplementedError(message)
        rule = functools.partial(self.rule, **dict(keywords))
        for each in axes:
            rule = jax.vmap(rule, (each, each))
        return tuple(map(_several, rule(tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))))


def _several(out: Any) -> tuple:
    return out if isinstance(out, tuple) else (out,)
