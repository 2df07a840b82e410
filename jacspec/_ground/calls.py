"""Calling what a user wrote, under a trace.

What it raises is raised again with the argument, the shapes it was called with and the way out, and the original as the
cause. What it computes is compared between two calls: a callable that does something else the second time (a counter, a
variable it writes and reads, a random stream) is no function of its arguments, and a trace would freeze it.
"""

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jacspec._ground import checks

# Words of an exception, and the way out of it.
WAYS_OUT = {
    "TracerBoolConversionError": "Python's if cannot see traced values: use jnp.where or jax.lax.cond.",
    "TracerArrayConversionError": "Use jax.numpy in place of numpy inside it.",
    "TracerIntegerConversionError": "Index by jnp.take or jax.lax.dynamic_index_in_dim inside it.",
    "NonConcreteBooleanIndexError": "Use jnp.where with three arguments in place of a boolean index.",
    "ConcretizationTypeError": "Keep arrays inside it: float(), int() and .item() cannot see traced values.",
    "UnexpectedTracerError": "It keeps a value of an earlier call: make what changes a part of the state.",
    "TraceContextError": "It writes a variable of a Flax module that it captures: give the module itself to "
    "jacspec.from_flax, switch it to evaluation by module.eval(), or make the variable a part of the state.",
    "custom_vjp": "Derivatives are pushed forward here: use jax.custom_jvp in place of jax.custom_vjp (in diffrax: "
    "adjoint=diffrax.DirectAdjoint() or diffrax.ForwardMode()).",
    "while_loop or lax.fori_loop": "Use jax.lax.scan or static bounds, or store=True, which needs no reverse mode.",
    "callbacks do not support": "Give the callback a derivative by jax.custom_jvp.",
    "positional argument": "It is called in just this way (x is None without drivers); of a model give its recurrent part.",
    "UnboundModule": "Of a Linen module give jacspec.from_flax(module, variables).",
    "rngs": "It draws random numbers: make it with deterministic=True, or give keys as drivers.",
    "NoneType": "Without drivers its second argument is None.",
    "not a valid JAX type": "It must return arrays.",
    "harding": "Axes of a mesh must be Auto: jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,)).",
}


def called(
    function: str, argument: str, user: Callable, *args: Any, form: str, way_out: Callable[[str], str] | None = None
) -> Any:
    """``user(*args)``; its exception is raised again with the argument, its `form`, and a hint.

    `way_out` gives the hint for the text of the exception; else it is one of `WAYS_OUT`.

    Raises:
        TypeError: where `user` raises one.
        ValueError: where it raises anything else; an error of jacspec itself passes with a note.
    """
    try:
        return user(*args)
    except Exception as error:
        if str(error).startswith("jacspec."):  # it names its own argument
            error.add_note(f"jacspec.{function}: in {argument}")
            raise
        line = re.sub(r" \(https?://\S*", "", str(error).split("\n")[0])  # Flax adds the address of its page
        text = f"{type(error).__name__}: {line}"
        names = form[form.find("(") + 1 : form.find(")")].split(", ")
        problem = "fails at " + ", ".join(f"{n} = {shapes(a)}" for n, a in zip(names, args, strict=False))
        hint = (way_out and way_out(text)) or next((out for words, out in WAYS_OUT.items() if words in text), "")
        kind = TypeError if isinstance(error, TypeError) else ValueError
        hint = hint or "Its own error stands above: call it outside jacspec on arrays of these shapes."
        raise kind(checks.message(function, argument, problem, _cut(text, 180), form, hint)) from error


def shapes(tree: Any) -> str:
    """The dtypes and shapes of a pytree in few words: ``float32[3]``, ``(float32[3], float32[3])``."""
    short = jax.tree.map(lambda a: _Bare(f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else repr(a)), tree)
    return _cut(repr(short).replace(", dtype=", " "), 90)


class _Bare(str):
    """A text that prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


class Trace(NamedTuple):
    """A callable traced at shapes of its arguments.

    Attributes:
        closed: the computation; its inputs are the leaves of the callable, then those of the arguments.
        leaves: the leaves of a callable that is a pytree.
        out: what it returns, as shapes and dtypes.
        changed: the leaves of its own that the call replaced, by name; its structure as None.
    """

    closed: ClosedJaxpr
    leaves: list[Any]
    out: Any
    changed: dict[str, Any]


def is_pytree(user: Any) -> bool:
    """Whether JAX knows how to take a callable apart, down to arrays and numbers."""
    return not jax.tree_util.all_leaves([user]) and not any(map(callable, jax.tree.leaves(user)))


def trace(user: Callable, *args: Any, calls: int = 1) -> Trace:
    """`user` called on `args` (arrays or their shapes), `calls` times in a row, of which the last counts.

    A pytree is taken apart and put together inside the trace, so that what it writes into itself stays there.
    """
    leaves, structure = jax.tree.flatten(user) if is_pytree(user) else ([], None)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(user)] if structure else []
    changed: dict[str, Any] = {}

    def call(own, *args):
        copy = user if structure is None else jax.tree.unflatten(structure, own)
        out = [copy(*args) for _ in range(calls)][-1]
        if structure is not None:
            after, now = jax.tree.flatten(copy)
            pairs = zip(names, leaves, own, after, strict=False)
            changed.update({name: leaf for name, leaf, old, new in pairs if old is not new})
            changed.update({"its structure": None} if now != structure else {})
        return out

    closed, out = jax.make_jaxpr(call, return_shape=True)(leaves, *args)
    if any(isinstance(c, jax.Ref) for c in closed.consts):
        text = "it captures a jax.Ref: read it before, w = ref[...], or make it a part of the state"
        raise TypeError(text)
    # an array of NumPy may be changed by the next call
    consts = [jnp.array(c) if isinstance(c, np.ndarray) else c for c in closed.consts]
    return Trace(ClosedJaxpr(closed.jaxpr, consts), leaves, out, changed)


def pure_output(user: Callable, *args: Any) -> Any:
    """The shapes of what a pytree returns that is a function of its leaves and arguments alone; None for anything else.

    What is known of a structure is kept by JAX as for any jitted function of a pytree.
    """
    if not is_pytree(user):
        return None
    try:
        return jax.eval_shape(_pure, user, *args)
    except Exception:  # what is wrong is told by whoever calls it in earnest
        return None


@jax.jit
def _pure(user: Callable, *args: Any) -> Any:
    first, second = trace(user, *args), trace(user, *args)
    if first.changed or not same(first.closed, second.closed):
        text = "changes itself"
        raise ValueError(text)
    return user(*args)


def refuse_impure(
    function: str, argument: str, first: Trace, second: Trace, fresh: Callable[[Any], Any] | None = None, *given: Any
) -> None:
    """Raise ValueError if the second of two calls computes something else.

    With `fresh`, which makes the callable anew of ``given[0]``, its arrays, equal numbers at two calls on ``given[1:]``
    clear it.
    """
    if same(first.closed, second.closed) or (fresh is not None and _repeats(fresh, *given)):
        return
    what = ", ".join(list(first.changed)[:4]) or "what it captures (a counter, a list, numpy.random)"
    hint = (
        "Frozen it would be another network: switch it to evaluation (module.eval(), deterministic=True), "
        "make what changes a part of the state, or give random keys as drivers."
    )
    problem, want = "changes itself when it is called", "the same function at every call"
    raise ValueError(checks.message(function, argument, problem, _cut(what, 160), want, hint))


def _repeats(fresh: Callable[[Any], Any], own: Any, *args: Any) -> bool:
    """Whether a second call gives and leaves the numbers of the first: a weight that is normalized in place."""
    with jax.ensure_compile_time_eval():
        user, seen = fresh(_numbers_like(own)), []
        for _ in range(2):
            out = user(*_numbers_like(args))
            seen.append([jnp.asarray(a) for a in jax.tree.leaves((out, user))])
        if [(a.shape, a.dtype) for a in seen[0]] != [(a.shape, a.dtype) for a in seen[1]]:
            return False
        return all(bool(_close(a, b)) for a, b in zip(*seen, strict=True))


def _close(a: Array, b: Array) -> Array:
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return (a == b).all()
    # a normalization adds an epsilon below its root, so that a second one is not quite the first
    return jnp.abs(a - b).max(initial=0) <= jnp.finfo(a.dtype).eps ** 0.75 * jnp.abs(a).max(initial=0)


def _numbers_like(tree: Any) -> Any:
    """The arrays of a pytree, arbitrary ones where only shapes or tracers are known."""
    rng = np.random.default_rng(0)

    def draw(a):
        if checks.is_concrete(a) and not isinstance(a, jax.ShapeDtypeStruct):
            return a
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), a.shape)
        return jnp.asarray(rng.uniform(0.5, 1, a.shape), a.dtype)

    return jax.tree.map(draw, tree)


def same(a: ClosedJaxpr, b: ClosedJaxpr) -> bool:
    """Whether two computations give their outputs by the same operations on the same numbers; what is unused is not read."""
    known: dict[Any, int] = {}
    shared = {id(c) for c in a.consts} & {id(c) for c in b.consts}
    return _numbers(a.jaxpr, a.consts, known, shared) == _numbers(b.jaxpr, b.consts, known, shared)


def _numbers(jaxpr: Jaxpr, consts: list[Any], known: dict[Any, int], shared: set[int]) -> list[int]:
    """A number for every output: equal ones stand for equal expressions in the inputs (value numbering)."""
    number: Callable[[Any], int] = lambda key: known.setdefault(key, len(known))
    of = {v: number(constant(c, shared)) for v, c in zip(jaxpr.constvars, consts, strict=False)}
    of |= {v: number(("input", i, v.aval)) for i, v in enumerate([*jaxpr.constvars[len(consts) :], *jaxpr.invars])}
    read = lambda v: number((v.aval, constant(np.asarray(v.val)))) if isinstance(v, Literal) else of[v]
    for equation in jaxpr.eqns:
        details = []
        for value in jax.tree.leaves(equation.params):
            if isinstance(value, ClosedJaxpr):
                details.append(tuple(_numbers(value.jaxpr, value.consts, known, shared)))
            elif isinstance(value, Jaxpr):
                details.append(tuple(_numbers(value, [], known, shared)))
            elif isinstance(value, (bool, int, float)):  # names and functions may differ where the numbers agree
                details.append(value)
        key = (equation.primitive.name, tuple(details), tuple(read(v) for v in equation.invars))
        of |= {v: number((*key, i, v.aval)) for i, v in enumerate(equation.outvars)}
    return [read(v) for v in jaxpr.outvars]


def constant(array: Any, shared: Collection[int] = ()) -> tuple:
    """What tells a captured array from another: the object where both computations hold it (`shared`), else its values."""
    if id(array) in shared or not checks.is_concrete(array):
        return "object", id(array)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return "values", array.shape, str(array.dtype), hash(np.asarray(array).tobytes())
