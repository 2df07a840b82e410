"""What layers share: `init`, and checks of parameters and states."""

import abc
import math
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks, laws


class Weighted(abc.ABC):
    """A layer whose parameters follow from a weight matrix and a bias."""

    @classmethod
    def init(
        cls,
        key: Array,
        inputs: int,
        units: int,
        *,
        initialization: str = "gaussian",
        gain: float = 1.0,
        bias_variance: float = 0.0,
        dtype: Any = jnp.float32,
        **options: Any,
    ) -> Self:
        """A random layer: weights W (m, n) Gaussian and bias b (m,) zero, unless said otherwise.

        A `WeightNorm` gets V = W and g the lengths of its rows, so that its weights are W. A `CosineNorm` gets W and g = 1.

        Args:
            key: a JAX key.
            inputs: n, numbers that the layer receives.
            units: m, numbers that it gives.
            initialization: law of W: "gaussian" (variance gain^2 / n), "orthogonal", "identity", "glorot" or "he".
            gain: factor of that law, >= 0; sigma_w of mean-field theory for "gaussian".
            bias_variance: sigma_b^2 of a Gaussian bias, >= 0.
            dtype: of the parameters; draws are made in float32 at least.
            options: those of the layer that are no parameters, such as `activation`.

        Raises:
            TypeError: for arguments of the wrong type.
            ValueError: for unknown names and options, and numbers out of range, in dtype too.

        Example:
            >>> import jax, jacspec as js
            >>> js.layers.Dense.init(jax.random.key(0), 3, 8, activation="relu", initialization="he")
            Dense(W=float32[8,3], b=float32[8], activation='relu')
            >>> js.layers.WeightNorm.init(jax.random.key(0), 3, 8)
            WeightNorm(V=float32[8,3], g=float32[8], b=float32[8], activation='linear')
        """
        laws.check_options(f"layers.{cls.__name__}.init", cls, options)
        W, b = drawn(cls.__name__, key, inputs, units, initialization, gain, bias_variance, dtype)
        return cls._of_weights(W, b, **options)

    @classmethod
    @abc.abstractmethod
    def _of_weights(cls, W: Array, b: Array, **options: Any) -> Self:
        """The layer with these weights (m, n) and this bias (m,)."""


def shaped(layer: str, argument: str, value: Any, shape: tuple[int | None, ...], text: str) -> Any:
    """An optional floating parameter of the given shape (None: any length but 0); None passes through.

    Raises:
        TypeError: if it is not a floating array.
        ValueError: if its rank or shape differs, or it is empty.
    """
    if value is None:
        return None
    name = f"layers.{layer}"
    value = checks.shaped(name, argument, value, shape, text)
    if 0 in value.shape:
        raise ValueError(checks.message(name, argument, "is empty", f"shape {value.shape}", text))
    return value


def weight(layer: str, argument: str, value: Any) -> Array:
    """Weights of shape (m, n), from n units to m units.

    Raises:
        TypeError: if they are missing or not a floating array.
        ValueError: if they are not 2-D, or empty.
    """
    if value is None:
        raise TypeError(checks.message(f"layers.{layer}", argument, "is missing", "None", "(m, n)"))
    return shaped(layer, argument, value, (None, None), "(m, n)")


def epsilon(layer: str, value: Any) -> float:
    """A finite number >= 0, as a Python float.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is negative or not finite.
    """
    inside = lambda epsilon: 0 <= epsilon < math.inf
    return checks.plain_number(f"layers.{layer}", "epsilon", value, "a finite epsilon >= 0", inside)


def state(layer: str, h: Any, ndim: int, last: int | None, text: str) -> None:
    """One example of `ndim` axes whose last has length `last` (None: any); a batch is refused with the way out.

    Raises:
        TypeError: if it is not an array.
        ValueError: if its shape does not fit.
    """
    name = f"layers.{layer}"
    if not hasattr(h, "shape"):
        raise TypeError(checks.message(name, "h", "must be an array", type(h).__name__, text))
    fits = bool(h.shape) and h.shape[-1] > 0 and last in (None, h.shape[-1])
    if fits and len(h.shape) == ndim + 1:
        hint = "One example inside, jax.vmap outside: use jacspec.batched, jax.vmap or layers.PerExample."
        raise ValueError(checks.message(name, "h", "is a batch", f"shape {h.shape}", text, hint))
    if not fits or len(h.shape) != ndim:
        raise ValueError(checks.message(name, "h", "does not fit", f"shape {h.shape}", text))


def vector(layer: str, h: Any, n: int | None) -> None:
    """A state of shape (n,)."""
    state(layer, h, 1, n, "(n,), the state" if n is None else f"({n},), the state")


def drawn(
    layer: str,
    key: Any,
    inputs: int,
    units: int,
    initialization: str,
    gain: float,
    bias_variance: float,
    dtype: Any,
    kernel_size: tuple[int, ...] | None = None,
) -> tuple[Array, Array]:
    """Random weights (units, inputs), or a kernel (*kernel_size, inputs, units), and a bias (units,).

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for sizes, names and numbers out of range, in the dtype too.
    """
    name = f"layers.{layer}.init"
    at_W, at_b = jax.random.split(checks.key(name, key))
    n, m = checks.integer(name, "inputs", inputs, 1), checks.integer(name, "units", units, 1)
    known = laws.LAWS if kernel_size is None else laws.KERNELS
    checks.one_of(name, "initialization", initialization, known)
    dtype, gain = laws.checked_dtype(name, dtype), laws.checked_gain(name, gain)
    variance = laws.checked_gain(name, bias_variance, "bias_variance")
    if kernel_size is None:
        W = laws.draw(initialization, at_W, (m, n), dtype, gain)
    else:
        laws.check_channels(name, "units", initialization, n, m)
        W = laws.kernel(initialization, at_W, kernel_size, n, m, dtype, gain)
    b = laws.noise(at_b, m, dtype, variance) if variance else jnp.zeros(m, dtype)
    checks.finite(name, "W" if kernel_size is None else "kernel", W)
    checks.finite(name, "b", b)
    return W, b
