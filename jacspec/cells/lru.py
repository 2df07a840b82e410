"""The linear recurrent unit: a diagonal complex linear recurrence, stable by its parametrization.

s_t = lambda s_{t-1} + gamma (B x_t),    lambda = exp(-exp(nu) + i theta),    |lambda| < 1,
J_t = [[diag(Re lambda), -diag(Im lambda)], [diag(Im lambda), diag(Re lambda)]]   on the state (Re s, Im s)
"""

import math
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array

from jacspec._ground import checks, laws
from jacspec._ground.arithmetic import smallest_factor
from jacspec._ground.pytree import pytree
from jacspec.cells import _parameters


@pytree
class Rotations:
    """n scaled plane rotations: J = [[diag(r cos p), -diag(r sin p)], [diag(r sin p), diag(r cos p)]].

    Attributes:
        modulus: r, shape (n,).
        phase: p in radians, shape (n,).
    """

    modulus: Array
    phase: Array

    def _turn(self, V: Array, sign: int) -> Array:
        re, im = V.reshape(2, -1, V.shape[1])
        cos, sin = jnp.cos(self.phase)[:, None], sign * jnp.sin(self.phase)[:, None]
        r = self.modulus[:, None]
        return jnp.concatenate([r * (cos * re - sin * im), r * (sin * re + cos * im)])

    def push(self, V: Array) -> Array:
        """J V, (2n, k)."""
        return self._turn(V, 1)

    def pull(self, U: Array) -> Array:
        """J^T U, (2n, k)."""
        return self._turn(U, -1)

    def dense(self) -> Array:
        """J, (2n, 2n)."""
        return self.push(jnp.eye(2 * self.modulus.shape[0], dtype=self.modulus.dtype))

    def row_norms(self) -> Array:
        """The moduli twice, exactly."""
        return jnp.concatenate([self.modulus, self.modulus])

    @property
    def factors(self) -> dict[str, Array]:
        """``modulus`` and ``phase``."""
        return {"modulus": self.modulus, "phase": self.phase}


@pytree
class LRU:
    """s_t = lambda s_{t-1} + gamma (B x_t) with a complex diagonal lambda = exp(-exp(nu) + i theta).

    The state is the tuple (re, im), the real part first; flat it has 2n numbers. Every singular value of a product of
    T steps is a modulus to the power T, in pairs.

    Args:
        nu: log of minus the log modulus, (n,).
        theta: phase in radians, (n,). (The paper trains log theta.)
        B: real and imaginary part of the input weights, (2, n, m), or None for a cell without input.
        gamma: normalization of the input, (n,), or None for the paper's initial value sqrt(1 - |lambda|^2).

    Raises:
        TypeError: for parameters that are not floating arrays (complex ones included: pass the two parts), or a carry
            that is not the tuple (re, im).
        ValueError: for shapes that do not fit.

    Reference: A. Orvieto et al., Resurrecting recurrent neural networks for long sequences, ICML 2023
    (arXiv 2303.06349), section 3.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> cell = js.cells.LRU(jnp.log(jnp.log(jnp.array([2.0]))), jnp.zeros(1))
        >>> [round(r, 6) for r in cell.jacobian((jnp.ones(1), jnp.zeros(1))).row_norms().tolist()]
        [0.5, 0.5]
    """

    nu: Array
    theta: Array
    B: Array | None = None
    gamma: Array | None = None

    def __post_init__(self):
        """Check shapes."""
        nu = checks.shaped("cells.LRU", "nu", self.nu, (None,), "(n,)")
        n = self.nu.shape[0]
        theta = checks.shaped("cells.LRU", "theta", self.theta, (n,), "(n,) with n as in nu")
        B = _parameters.optional("LRU", "B", self.B, (2, n, None), "(2, n, m) with n as in nu")
        gamma = _parameters.optional("LRU", "gamma", self.gamma, (n,), "(n,) with n as in nu")
        _parameters.store(self, nu=nu, theta=theta, B=B, gamma=gamma)

    @classmethod
    def init(
        cls,
        key: Array,
        inputs: int,
        units: int,
        *,
        r_min: float = 0.0,
        r_max: float = 0.99,
        input_gain: float = 1.0,
        dtype: Any = jnp.float32,
    ) -> Self:
        """A random unit: lambda uniform by area on the ring r_min < |lambda| < r_max, B Gaussian, the paper's gamma.

        Args:
            key: a JAX key.
            inputs: m, numbers in an input; 0 for a cell without input.
            units: n.
            r_min: inner radius, >= 0.
            r_max: outer radius, < 1.
            input_gain: E |B_ij|^2 = input_gain^2 / m.
            dtype: of the parameters.

        Raises:
            TypeError: for arguments of the wrong type.
            ValueError: for sizes, radii and gains out of range.

        Reference: A. Orvieto et al., arXiv 2303.06349, lemma 3.2.

        Example:
            >>> import jax, jacspec as js
            >>> js.cells.LRU.init(jax.random.key(0), 3, 8, r_min=0.9)
            LRU(nu=float32[8], theta=float32[8], B=float32[2,8,3], gamma=float32[8])
        """
        name = "cells.LRU.init"
        keys = jax.random.split(checks.key(name, key), 3)
        m, n = checks.integer(name, "inputs", inputs, 0), checks.integer(name, "units", units, 1)
        input_gain = laws.checked_gain(name, input_gain, "input_gain")
        values = ring(name, keys, n, m, laws.checked_dtype(name, dtype), input_gain, r_min=r_min, r_max=r_max)
        for field, value in values.items():
            checks.finite(name, field, value)
        return cls(**values)

    def initial_state(self, x: Array | None = None) -> tuple[Array, Array]:
        """Zeros twice, each of shape (n,); x is not used."""
        del x
        return jnp.zeros_like(self.nu), jnp.zeros_like(self.nu)

    @property
    def modulus(self) -> Array:
        """|lambda| = exp(-exp(nu)), shape (n,); it stops short of underflow."""
        return jnp.exp(-self._rate)

    @property
    def _rate(self) -> Array:
        """-log |lambda| = exp(nu), held where |lambda| is the smallest factor."""
        return jnp.exp(jnp.minimum(self.nu, math.log(-math.log(smallest_factor(self.nu.dtype)))))

    @property
    def normalization(self) -> Array:
        """gamma, or sqrt(1 - |lambda|^2) without cancellation, shape (n,)."""
        if self.gamma is not None:
            return self.gamma
        slow = self.nu < math.log(jnp.finfo(self.nu.dtype).tiny)  # there 1 - |lambda|^2 = 2 exp(nu) underflows
        square = -jnp.expm1(-2 * jnp.where(slow, 1, self._rate))
        return jnp.where(slow, math.sqrt(2) * jnp.exp(self.nu / 2), jnp.sqrt(square))

    def __call__(self, carry: tuple[Array, Array], x: Array | None = None) -> tuple[Array, Array]:
        """The next state (re, im)."""
        _parameters.pair("LRU", carry, self.nu.shape[0], ("re", "im"))
        _parameters.driver("LRU", self.B, x)
        re, im = self.jacobian(carry, x).push(jnp.concatenate(carry)[:, None])[:, 0].reshape(2, -1)
        if self.B is None or x is None:
            return re, im
        drive = self.normalization * _parameters.times(self.B, x)
        return re + drive[0], im + drive[1]

    def jacobian(self, carry: tuple[Array, Array], x: Array | None = None) -> Rotations:
        """The rotations by lambda, the same at every state and input."""
        _parameters.pair("LRU", carry, self.nu.shape[0], ("re", "im"))
        _parameters.driver("LRU", self.B, x)
        return Rotations(self.modulus, self.theta)


def ring(
    name: str, keys: Any, n: int, m: int, dtype: Any, gain: float, *, r_min: float = 0.0, r_max: float = 0.99
) -> dict[str, Any]:
    """Parameters of an LRU of n units and m inputs (0: none) from three keys; `name` is the function that asks.

    abs(lambda)^2 is uniform on (r_min^2, r_max^2), as area is, and nu = log(-log(abs(lambda)^2) / 2).

    Raises:
        TypeError: for radii that are no numbers.
        ValueError: unless 0 <= r_min < r_max < 1.
    """
    text = "a finite number within [0, 1]"
    r_min = checks.plain_number(name, "r_min", r_min, text, lambda r: 0 <= r <= 1)
    r_max = checks.plain_number(name, "r_max", r_max, text, lambda r: 0 <= r <= 1)
    if not r_min < r_max < 1:
        raise ValueError(checks.message(name, "r_max", "is out of range", r_max, f"r_min = {r_min} < r_max < 1"))
    wide = laws.wide(dtype)
    low = max(r_min**2, float(jnp.finfo(wide).tiny))
    square = jax.random.uniform(keys[0], (n,), wide, low, r_max**2)
    nu = jnp.log(-jnp.log(square) / 2)
    theta = jax.random.uniform(keys[1], (n,), wide, 0, 2 * jnp.pi)
    B = laws.draw("gaussian", keys[2], (2, n, m), dtype, gain / 2**0.5) if m else None  # E abs(B_ij)^2 = gain^2 / m
    drawn = {"nu": nu, "theta": theta, "gamma": LRU(nu, theta).normalization}
    return {"B": B, **{name: value.astype(dtype) for name, value in drawn.items()}}
