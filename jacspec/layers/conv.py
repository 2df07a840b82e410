"""Convolution.

    a = K * h + b,    h' = f(a),    J = diag(f'(a)) C(K)

C(K) is the convolution as a matrix on the flattened (row-major) state. It is never formed: a push convolves every column,
a pull applies the transposed convolution.
"""

import functools
import math
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec import activations
from jacspec._ground import checks, laws
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.layers import _parameters

PADDINGS = ("CIRCULAR", "SAME", "VALID")


@pytree
class ConvJacobian:
    """J = diag(slope) C(K).

    Attributes:
        slope: f'(a), shape (space..., out).
        kernel: K, shape (space..., in, out).
        shape: that of the state, (space..., in).
        padding: as of the layer.
        strides: as of the layer.
    """

    slope: Array
    kernel: Array
    shape: tuple[int, ...] = static()
    padding: str = static()
    strides: tuple[int, ...] = static()

    def _convolve(self, H):
        return convolve(H, self.kernel, self.padding, self.strides)

    def push(self, V: Array) -> Array:
        """slope * (K * V), column by column."""
        out = self.slope * self._convolve(V.T.reshape(-1, *self.shape))
        return out.reshape(V.shape[1], self.slope.size).T

    def pull(self, U: Array) -> Array:
        """The transposed convolution of slope * U, column by column."""
        k = U.shape[1]
        out = self.slope * U.T.reshape(k, *self.slope.shape)
        out = out.astype(jnp.result_type(out, self.kernel))
        (out,) = jax.linear_transpose(self._convolve, jax.ShapeDtypeStruct((k, *self.shape), out.dtype))(out)
        return out.reshape(k, -1).T

    def dense(self) -> Array:
        """J as a matrix."""
        return self.push(jnp.eye(math.prod(self.shape), dtype=self.kernel.dtype))

    def row_norms(self) -> Array:
        """abs(slope) times the norm of the taps inside the state: exact, a bound where the kernel wraps onto itself."""
        top = lax.stop_gradient(jnp.max(jnp.abs(self.kernel)))
        top = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
        ones = jnp.ones((1, *self.shape), self.kernel.dtype)
        square = convolve(ones, (self.kernel / top) ** 2, self.padding, self.strides)[0]
        laps = math.prod(-(-k // n) for k, n in zip(self.kernel.shape, self.shape[:-1], strict=False))
        square = square * laps if self.padding == "CIRCULAR" else square
        root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)
        return (jnp.abs(self.slope) * root * top).ravel()

    @property
    def factors(self) -> dict[str, Array]:
        """``slope`` and ``weight``, the kernel."""
        return {"slope": self.slope, "weight": self.kernel}


@functools.partial(jax.jit, static_argnums=(2, 3))
def convolve(H: Array, kernel: Array, padding: str, strides: tuple[int, ...]) -> Array:
    """The convolution (cross-correlation, as everywhere in deep learning) of a batch (B, space..., in)."""
    space = "HW"[: kernel.ndim - 2]
    dtype = jnp.result_type(H, kernel)
    if padding == "CIRCULAR":
        pads = [((k - 1) // 2, k // 2) for k in kernel.shape[:-2]]
        H, padding = jnp.pad(H, [(0, 0), *pads, (0, 0)], mode="wrap"), "VALID"
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        H.astype(dtype),
        kernel.astype(dtype),
        strides,
        padding,
        dimension_numbers=numbers,
        precision=lax.Precision.HIGHEST,
    )


@pytree
class Conv:
    """h' = f(K * h + b) over one or two axes of space, with J = diag(f'(a)) C(K).

    Args:
        kernel: K, (k, in, out) for a state (L, in), or (k1, k2, in, out) for a state (H, W, in), as in Flax.
        b: bias, (out,), or None.
        activation: a name of `jacspec.activations.TABLE` or an `Activation`.
        padding: "CIRCULAR" (the state is periodic), "SAME" (zeros) or "VALID" (none).
        strides: an integer, or one for each axis of space.

    Raises:
        TypeError: for parameters that are not floating arrays, an activation without a derivative, strides that are not
            integers.
        ValueError: for shapes that do not fit, an unknown activation or padding, strides below 1; on a call, for a batch,
            or a state smaller than the kernel with "VALID".

    Reference: L. Xiao et al., ICML 2018, eq. (2.1) (circular convolution and its Jacobian).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> layer = js.layers.Conv(jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1))
        >>> layer.jacobian(jnp.zeros((4, 1))).dense()[0].tolist()
        [2.0, 3.0, 0.0, 1.0]
    """

    kernel: Array
    b: Array | None = None
    activation: str | Activation = static(default="linear")
    padding: str = static(default="CIRCULAR")
    strides: int | tuple[int, ...] = static(default=1)

    def __post_init__(self):
        """Check shapes and options."""
        name = "layers.Conv"
        kernel = checks.array(name, "kernel", self.kernel, (3, 4), "(space..., in, out)")
        if 0 in kernel.shape:
            got = f"shape {kernel.shape}"
            raise ValueError(checks.message(name, "kernel", "is empty", got, "(space..., in, out)"))
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(self, "b", _parameters.shaped("Conv", "b", self.b, kernel.shape[-1:], "(out,) as in kernel"))
        activations.get(self.activation, function=name)
        checks.one_of(name, "padding", self.padding, PADDINGS)
        axes = kernel.ndim - 2
        strides = self.strides if isinstance(self.strides, (tuple, list)) else (self.strides,) * axes
        if len(strides) != axes:
            raise ValueError(checks.message(name, "strides", "has the wrong length", self.strides, f"{axes} integers"))
        object.__setattr__(self, "strides", tuple(checks.integer(name, "strides", s, 1) for s in strides))

    @classmethod
    def init(
        cls,
        key: Array,
        inputs: int,
        units: int,
        kernel_size: int | tuple[int, ...] = (3, 3),
        *,
        initialization: str = "gaussian",
        gain: float = 1.0,
        bias_variance: float = 0.0,
        dtype: Any = jnp.float32,
        activation: str | Activation = "linear",
        padding: str = "CIRCULAR",
        strides: int | tuple[int, ...] = 1,
    ) -> Self:
        """A random layer: a Gaussian kernel and b = 0, unless said otherwise.

        Args:
            key: a JAX key.
            inputs: channels in.
            units: channels out.
            kernel_size: (k,) or (k1, k2), or k for (k,).
            initialization: law of the kernel: "gaussian" (variance gain^2 / (taps x channels in)), "he", or
                "delta_orthogonal": orthogonal at the center and zero around it.
            gain: factor of that law, >= 0.
            bias_variance: sigma_b^2 of a Gaussian bias, >= 0.
            dtype: of the parameters; draws are made in float32 at least.
            activation: as of the layer.
            padding: as of the layer.
            strides: as of the layer.

        Raises:
            TypeError: for arguments of the wrong type.
            ValueError: for sizes, names and numbers out of range, or fewer channels out than in with "delta_orthogonal".

        Example:
            >>> import jax, jacspec as js
            >>> js.layers.Conv.init(jax.random.key(0), 3, 8).kernel.shape
            (3, 3, 3, 8)
        """
        name = "layers.Conv.init"
        size = laws.checked_kernel_size(name, kernel_size)
        kernel, b = _parameters.drawn(
            "Conv", key, inputs, units, initialization, gain, bias_variance, dtype, kernel_size=size
        )
        return cls(kernel, b, activation, padding, strides)

    def preactivation(self, h: Array) -> Array:
        """a = K * h + b, shape (space..., out)."""
        space, channels = self.kernel.shape[:-2], self.kernel.shape[-2]
        names = "H, W" if len(space) == 2 else "L"
        text = f"({names}, {channels}), one example"
        _parameters.state("Conv", h, len(space) + 1, channels, text)
        if 0 in h.shape or (self.padding == "VALID" and any(n < k for n, k in zip(h.shape[:-1], space, strict=True))):
            got = f"shape {h.shape} with a kernel of {space}"
            hint = "padding='SAME' or 'CIRCULAR' keeps the size." if self.padding == "VALID" else ""
            raise ValueError(checks.message("layers.Conv", "h", "is too small", got, text, hint))
        a = convolve(h[None], self.kernel, self.padding, self.strides)[0]  # type: ignore[arg-type]
        return a if self.b is None else a + self.b

    def __call__(self, h: Array, x: Any = None) -> Array:
        """f(a), shape (space..., out); x is not used."""
        del x
        return activations.get(self.activation)(self.preactivation(h))

    def jacobian(self, h: Array, x: Any = None) -> ConvJacobian:
        """diag(f'(a)) C(K) as an operator; its factors are ``slope`` and ``weight``."""
        del x
        slope = activations.get(self.activation).derivative(self.preactivation(h))
        return ConvJacobian(slope, self.kernel, h.shape, self.padding, self.strides)  # type: ignore[arg-type]
