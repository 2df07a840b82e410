"""What cells share: `init`, the zero state, and checks of parameters, states and inputs."""

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks, laws
from jacspec._ground.arithmetic import matmul


class VectorCell:
    """A cell whose state is one vector."""

    W: Array
    gate_count: ClassVar[int | None] = None
    """Recurrent matrices in W; None for a single one without that axis."""
    keeping_gate: ClassVar[Any] = None
    """Where in b the bias of the gate that keeps the state stands; None without one."""

    @classmethod
    def init(
        cls,
        key: Array,
        inputs: int,
        units: int,
        *,
        initialization: str = "orthogonal",
        gain: float = 1.0,
        input_gain: float = 1.0,
        forget_bias: float | None = None,
        dtype: Any = jnp.float32,
        **options: Any,
    ) -> Self:
        """A random cell: W orthogonal, each gate by itself; input weights Gaussian of variance input_gain^2 / inputs; b = 0.

        Args:
            key: a JAX key.
            inputs: m, numbers in an input; 0 for a cell without input.
            units: n.
            initialization: law of W: "orthogonal", "identity", "glorot", "he" or "gaussian" (variance gain^2 / n).
            gain: factor of that law, >= 0.
            input_gain: of the input weights, and of V in a `MinimalRNN`, >= 0.
            forget_bias: bias of the gate that keeps the state (f; z of a GRU, with the other sign where the form is
                "reset_before"; u of a `MinimalRNN`), in cells that have one.
            dtype: of the parameters; draws are made in float32 at least.
            options: those of the cell that are no weights, such as `activation`, `gate`, `form` and `rate`.

        Raises:
            TypeError: for arguments of the wrong type.
            ValueError: for unknown names and options, and numbers out of range, in dtype too.

        Example:
            >>> import jax, jacspec as js
            >>> js.cells.LSTM.init(jax.random.key(0), 3, 8, forget_bias=1.0)
            LSTM(W=float32[4,8,8], U=float32[4,8,3], b=float32[4,8], activation='tanh', gate='sigmoid')
        """
        name = f"cells.{cls.__name__}.init"
        at_W, at_U = jax.random.split(checks.key(name, key))
        m, n = checks.integer(name, "inputs", inputs, 0), checks.integer(name, "units", units, 1)
        checks.one_of(name, "initialization", initialization, laws.LAWS)
        dtype, gain = laws.checked_dtype(name, dtype), laws.checked_gain(name, gain)
        input_gain = laws.checked_gain(name, input_gain, "input_gain")
        laws.check_options(name, cls, options)
        lead = () if cls.gate_count is None else (cls.gate_count,)
        b = jnp.zeros((*lead, n), dtype)
        if forget_bias is not None:
            if cls.keeping_gate is None:
                raise ValueError(checks.message(name, "forget_bias", "needs a gate that keeps the state", forget_bias))
            sign = -1 if options.get("form") == "reset_before" else 1
            b = b.at[cls.keeping_gate].set(sign * checks.plain_number(name, "forget_bias", forget_bias))
        W = laws.draw(initialization, at_W, (*lead, n, n), dtype, gain)
        U = laws.draw("gaussian", at_U, (*lead, n, m), dtype, input_gain) if m else None
        for field, value in (("W", W), ("U", U), ("b", b)):
            checks.finite(name, field, value)
        return cls(**{"W": W, "U": U, "b": b}, **options)

    def initial_state(self, x: Any = None) -> Array:
        """Zeros, shape (n,); x is not used."""
        del x
        return jnp.zeros(self.W.shape[-1], self.W.dtype)


class PairCell(VectorCell):
    """A cell whose state is a tuple of two vectors."""

    def initial_state(self, x: Any = None) -> tuple[Array, Array]:  # type: ignore[override]
        """Zeros twice, each of shape (n,); x is not used."""
        zero = super().initial_state(x)
        return zero, zero


def recurrent(cell: str, W: Any, gates: int | None = None):
    """W as (n, n), or (gates, n, n) for a gated cell.

    Raises:
        TypeError: if W is not a floating array.
        ValueError: if W is empty, of the wrong rank, not square, or not one matrix a gate.
    """
    name = f"cells.{cell}"
    shape = "(n, n)" if gates is None else f"({gates}, n, n)"
    W = checks.array(name, "W", W, 2 if gates is None else 3, shape)
    if 0 in W.shape:
        raise ValueError(checks.message(name, "W", "is empty", f"shape {W.shape}", shape))
    if W.shape[-1] != W.shape[-2]:
        raise ValueError(checks.message(name, "W", "must be square", f"shape {W.shape}", shape))
    if gates is not None and W.shape[0] != gates:
        raise ValueError(checks.message(name, "W", "needs one matrix a gate", f"shape {W.shape}", shape))
    return W


def optional(cell: str, argument: str, value: Any, shape: tuple[int | None, ...], text: str) -> Array | None:
    """A floating parameter of the given shape (None: any length), or None.

    Raises:
        TypeError: if it is neither None nor a floating array.
        ValueError: if its shape differs.
    """
    return None if value is None else checks.shaped(f"cells.{cell}", argument, value, shape, text)


def check_gated(obj: Any, gates: int | None) -> int:
    """Check and store W, U, b of a cell with one block a gate (or no gates: one block without the axis); return n."""
    cell = type(obj).__name__
    W = recurrent(cell, obj.W, gates)
    n, lead = W.shape[-1], () if gates is None else (gates,)
    text = "" if gates is None else f"{gates}, "
    U = optional(cell, "U", obj.U, (*lead, n, None), f"({text}n, m) with n as in W")
    b = optional(cell, "b", obj.b, (*lead, n), f"({text}n{'' if text else ','}) with n as in W")
    store(obj, W=W, U=U, b=b)
    return n


def store(obj: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(obj, name, value)


def vector(cell: str, argument: str, value: Any, n: int, *, meaning: str) -> None:
    """One state or input of n numbers; a batch is refused with the way out.

    Raises:
        TypeError: if it is no floating array.
        ValueError: if its shape is not (n,).
    """
    name = f"cells.{cell}"
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(checks.message(name, argument, "must be an array", type(value).__name__, f"({n},), {meaning}"))
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(checks.message(name, argument, "must be floating", f"dtype {value.dtype}", "a floating dtype"))
    if value.ndim == 2 and value.shape[-1] == n:
        hint = "One example inside, jax.vmap outside: use jacspec.batched or jax.vmap."
        raise ValueError(
            checks.message(name, argument, "is a batch", f"shape {value.shape}", f"({n},), {meaning}", hint)
        )
    if value.shape != (n,):
        raise ValueError(checks.message(name, argument, "does not fit", f"shape {value.shape}", f"({n},), {meaning}"))


def pair(cell: str, carry: Any, n: int, names: tuple[str, str]) -> tuple[Array, Array]:
    """A carry of two vectors of n numbers, in the order of `names`.

    Raises:
        TypeError: if it is not a tuple of two arrays.
        ValueError: if one of the two is a batch or not of shape (n,).
    """
    order = f"({', '.join(names)})"
    if not isinstance(carry, tuple) or len(carry) != 2:
        shape = getattr(carry, "shape", None)
        got = type(carry).__name__ if shape is None else f"an array of shape {shape}"
        hint = f"Pass the tuple {order}, {names[0]} first, each of shape ({n},)."
        problem = f"must be the pair {order}"
        raise TypeError(checks.message(f"cells.{cell}", "carry", problem, got, "a tuple of two", hint))
    for name, value in zip(names, carry, strict=True):
        vector(cell, f"carry: {name}", value, n, meaning=f"one half of the carry {order}")
    return carry


def driver(cell: str, U: Any, x: Any):
    """Check the input x against the input weights U, of shape (..., n, m) or None.

    Raises:
        TypeError: if it is no array.
        ValueError: if one of the two is missing or x is not of shape (m,).
    """
    if U is None and x is None:
        return
    if U is None or x is None:
        got, problem = "x without U" if U is None else "U without x", "and the input weights go together"
        raise ValueError(checks.message(f"cells.{cell}", "x", problem, got, "both or none"))
    vector(cell, "x", x, U.shape[-1], meaning="features")


def times(W: Array, v: Array) -> Array:
    """W v for W of shape (n, m) or (gates, n, m), as one matrix product."""
    return matmul(W.reshape(-1, W.shape[-1]), v).reshape(W.shape[:-1])


def inputs(W: Array, U: Array | None, b: Array | None, x: Array | None) -> Array:
    """U x + b, where both may be missing; for all gates at once."""
    a = jnp.zeros(W.shape[:-1], W.dtype) if U is None or x is None else times(U, x)
    return a if b is None else a + b


def affine(W: Array, U: Array | None, b: Array | None, h: Array, x: Array | None) -> Array:
    """W h + U x + b."""
    return times(W, h) + inputs(W, U, b, x)


def preactivation(cell: Any, h: Array, x: Array | None) -> Array:
    """W h + U x + b of a cell without gates, shape (n,), for a state and an input that are checked."""
    name = type(cell).__name__
    vector(name, "h", h, cell.W.shape[-1], meaning="the state")
    driver(name, cell.U, x)
    return affine(cell.W, cell.U, cell.b, h, x)
