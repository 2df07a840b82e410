"""Initial values of weights and gate biases.

A weight W has shape (out, in), as everywhere in jacspec (a Flax kernel is its transpose), with gates or other copies on
leading axes; fan-in is the last axis and fan-out the one before it. Every function takes a key and a dtype: there is no
default of either. Draws are made in float32 at least and then cast. An argument of the wrong type raises TypeError.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks, laws
from jacspec.theory.critical import CriticalScales as CriticalScales
from jacspec.theory.critical import critical as critical


def orthogonal(key: Array, shape: int | tuple[int, int], dtype: Any, *, gain: float = 1.0, gates: int | None = None):
    """Haar-distributed orthogonal weights: W^T W = gain^2 I (or W W^T where there are fewer rows than columns).

    With `gates` every gate is orthogonal by itself; one orthogonal draw cut into gates is not (its blocks have mean
    squared singular value 1/gates).

    Args:
        key: a JAX key.
        shape: (out, in), or n for (n, n).
        dtype: a floating dtype.
        gain: the common singular value, >= 0.
        gates: None, or a number of gates for shape (gates, out, in).

    Returns:
        W, (out, in) or (gates, out, in).

    Raises:
        ValueError: for a shape below 1, or a gain that is negative or not finite.

    Reference: F. Mezzadri, Notices of the AMS 54 (2007) 592 (the signs of the diagonal of R).

    Example:
        >>> import jax, jax.numpy as jnp, jacspec.initializers as init
        >>> W = init.orthogonal(jax.random.key(0), 3, jnp.float32, gates=4)
        >>> W.shape, bool(jnp.allclose(W[2] @ W[2].T, jnp.eye(3), atol=1e-5))
        ((4, 3, 3), True)
    """
    name = "initializers.orthogonal"
    out, fan_in = _shape(name, (shape, shape) if not isinstance(shape, (tuple, list)) else shape, 2, 2)
    gain, dtype = laws.checked_gain(name, gain), laws.checked_dtype(name, dtype)
    copies = () if gates is None else (checks.integer(name, "gates", gates, 1),)
    return laws.orthogonal(checks.key(name, key), (*copies, out, fan_in), dtype, gain)


def identity(n: int, dtype: Any, *, scale: float = 1.0) -> Array:
    """W = scale I, (n, n): with ReLU and zero bias the IRNN.

    Args:
        n: width.
        dtype: a floating dtype.
        scale: any finite number.

    Returns:
        W, (n, n).

    Raises:
        ValueError: for n < 1 or a scale that is not finite.

    Reference: Q. V. Le, N. Jaitly, G. E. Hinton, arXiv 1504.00941.

    Example:
        >>> import jax.numpy as jnp, jacspec.initializers as init
        >>> init.identity(2, jnp.float32, scale=0.5).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    name = "initializers.identity"
    n = checks.integer(name, "n", n, 1)
    dtype = laws.checked_dtype(name, dtype)
    return jnp.eye(n, dtype=dtype) * checks.plain_number(name, "scale", scale)


def gaussian(key: Array, shape: tuple[int, ...], dtype: Any, *, gain: float = 1.0) -> Array:
    """Independent normal weights of variance gain^2 / n_in: the sigma_w^2 / n_in of mean-field theory.

    Args:
        key: a JAX key.
        shape: (..., out, in).
        dtype: a floating dtype.
        gain: sigma_w, >= 0.

    Returns:
        W of that shape.

    Raises:
        ValueError: for a shape below 1, or a gain that is negative or not finite.

    Reference: H. Sompolinsky, A. Crisanti, H. J. Sommers, Phys. Rev. Lett. 61 (1988) 259.

    Example:
        >>> import jax, jax.numpy as jnp, jacspec.initializers as init
        >>> round(float(init.gaussian(jax.random.key(0), (400, 100), jnp.float32, gain=2.0).std()), 1)
        0.2
    """
    return _independent("gaussian", key, shape, dtype, gain, "normal")


def glorot(key: Array, shape: tuple[int, ...], dtype: Any, *, gain: float = 1.0, distribution: str = "normal") -> Array:
    """Independent weights of variance 2 gain^2 / (n_in + n_out).

    Args:
        key: a JAX key.
        shape: (..., out, in).
        dtype: a floating dtype.
        gain: >= 0.
        distribution: "normal" (not truncated) or "uniform" (symmetric, of that variance).

    Returns:
        W of that shape.

    Raises:
        ValueError: for a shape below 1, an unknown distribution, or a gain that is negative or not finite.

    Reference: X. Glorot, Y. Bengio, AISTATS 2010, eq. (12) and (16).

    Example:
        >>> import jax, jax.numpy as jnp, jacspec.initializers as init
        >>> W = init.glorot(jax.random.key(0), (2, 4), jnp.float32, distribution="uniform")
        >>> bool(jnp.abs(W).max() <= 1.0)  # sqrt(6 / (2 + 4))
        True
    """
    return _independent("glorot", key, shape, dtype, gain, distribution)


def he(key: Array, shape: tuple[int, ...], dtype: Any, *, gain: float = 1.0, distribution: str = "normal") -> Array:
    """Independent weights of variance 2 gain^2 / n_in: critical for ReLU.

    Args:
        key: a JAX key.
        shape: (..., out, in).
        dtype: a floating dtype.
        gain: >= 0; 1 for ReLU (the factor 2 is there already).
        distribution: "normal" (not truncated) or "uniform" (symmetric, of that variance).

    Returns:
        W of that shape.

    Raises:
        ValueError: for a shape below 1, an unknown distribution, or a gain that is negative or not finite.

    Reference: K. He et al., ICCV 2015, eq. (10).

    Example:
        >>> import jax, jax.numpy as jnp, jacspec.initializers as init
        >>> round(float(init.he(jax.random.key(0), (400, 50), jnp.float32).std()), 1)
        0.2
    """
    return _independent("he", key, shape, dtype, gain, distribution)


def chrono(key: Array, n: int, t_max: float, dtype: Any) -> tuple[Array, Array]:
    """Gate biases for memories of 1 to t_max steps: b_f = ln U(1, t_max - 1), b_i = -b_f.

    Args:
        key: a JAX key.
        n: width.
        t_max: the longest memory, in steps, > 2.
        dtype: a floating dtype.

    Returns:
        (b_f, b_i): biases of the forget and the input gate, each (n,).

    Raises:
        ValueError: for n < 1, or t_max not above 2 or not finite.

    Reference: C. Tallec, Y. Ollivier, Can recurrent neural networks warp time?, ICLR 2018, eq. (16).

    Example:
        >>> import jax, jax.numpy as jnp, jacspec.initializers as init
        >>> forget, enter = init.chrono(jax.random.key(0), 5, 100, jnp.float32)
        >>> bool((forget >= 0).all()), bool((forget + enter == 0).all())
        (True, True)
    """
    name = "initializers.chrono"
    n = checks.integer(name, "n", n, 1)
    t_max = checks.plain_number(name, "t_max", t_max, "a finite t_max > 2", lambda t_max: 2 < t_max < math.inf)
    dtype = laws.checked_dtype(name, dtype)
    forget = jnp.log(jax.random.uniform(checks.key(name, key), (n,), laws.wide(dtype), 1, t_max - 1)).astype(dtype)
    return forget, -forget


def delta_orthogonal(
    key: Array, kernel_size: int | tuple[int, ...], c_in: int, c_out: int, dtype: Any, *, gain: float = 1.0
) -> Array:
    """A convolution kernel that is zero but for an orthogonal matrix at its center.

    With circular padding and stride 1 every singular value of the convolution is `gain`.

    Args:
        key: a JAX key.
        kernel_size: (k,) or (k1, k2), or k for (k,); the center is at (k - 1) // 2.
        c_in: channels in.
        c_out: channels out, at least c_in.
        dtype: a floating dtype.
        gain: the common singular value, >= 0.

    Returns:
        K, (*kernel_size, c_in, c_out), the layout of Flax and of `jacspec.layers.Conv`.

    Raises:
        ValueError: for sizes below 1, c_out < c_in, or a gain that is negative or not finite.

    Reference: L. Xiao et al., Dynamical isometry and a mean field theory of CNNs, ICML 2018, algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jacspec.initializers as init
        >>> K = init.delta_orthogonal(jax.random.key(0), (3, 3), 2, 4, jnp.float32)
        >>> K.shape, float(jnp.abs(K).at[1, 1].set(0.0).max())
        ((3, 3, 2, 4), 0.0)
    """
    name = "initializers.delta_orthogonal"
    size = laws.checked_kernel_size(name, kernel_size)
    c_in, c_out = checks.integer(name, "c_in", c_in, 1), checks.integer(name, "c_out", c_out, 1)
    laws.check_channels(name, "c_out", "delta_orthogonal", c_in, c_out)
    gain, dtype = laws.checked_gain(name, gain), laws.checked_dtype(name, dtype)
    return laws.kernel("delta_orthogonal", checks.key(name, key), size, c_in, c_out, dtype, gain)


def _independent(law, key, shape, dtype, gain, distribution):
    """Independent draws by the law that the function is named after."""
    name = f"initializers.{law}"
    shape, gain = _shape(name, shape, 2), laws.checked_gain(name, gain)
    checks.one_of(name, "distribution", distribution, ("normal", "uniform"))
    key, dtype = checks.key(name, key), laws.checked_dtype(name, dtype)
    return laws.independent(key, shape, dtype, laws.deviation(law, gain, *shape[-2:]), distribution)


def _shape(name, shape, low, high=None, argument="shape"):
    """A tuple of `low` to `high` positive integers."""
    want = (
        f"{low} integers or more" if high is None else f"{low} integers" if low == high else f"{low} or {high} integers"
    )
    if not isinstance(shape, (tuple, list)):
        raise TypeError(checks.message(name, argument, "must be a tuple", repr(shape), want))
    if len(shape) < low or (high is not None and len(shape) > high):
        raise ValueError(checks.message(name, argument, "has the wrong length", tuple(shape), want))
    return tuple(checks.integer(name, argument, s, 1) for s in shape)
