"""Frozen dataclasses that JAX sees as containers of arrays."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**options: Any) -> Any:
    """A field that belongs to the structure (compared and hashed), not to the leaves."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it with JAX.

    ``__post_init__`` checks what a user passes and does not run when JAX rebuilds the object, because JAX
    puts placeholders, tracers and batches where the arrays were.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten(obj):
        return tuple(getattr(obj, name) for name in data), tuple(getattr(obj, name) for name in meta)

    def flatten_with_keys(obj):
        children, aux = flatten(obj)
        return tuple(zip(map(jax.tree_util.GetAttrKey, data), children, strict=True)), aux

    def unflatten(aux, children):
        obj = object.__new__(cls)
        for name, value in (*zip(data, children, strict=True), *zip(meta, aux, strict=True)):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    if cls.__repr__ is object.__repr__:
        cls.__repr__ = shapes  # type: ignore[method-assign]
    return cls


def shapes(obj: Any) -> str:
    """The fields of `obj`, an array by its dtype and shape."""
    return f"{type(obj).__name__}({', '.join(f'{f.name}={_short(getattr(obj, f.name))}' for f in dataclasses.fields(obj))})"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype") and getattr(value, "ndim", 0):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_short, value[:3])) + (f", ... {len(value)} in all" if len(value) > 3 else "")
        return f"({inner})"
    return repr(value)
