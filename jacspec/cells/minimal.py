"""The minimalRNN: one update gate, and no recurrence in the candidate.

z_t = t(U x_t + c)  (or the input itself),    u_t = s(W h_{t-1} + V z_t + b),    h_t = u_t h_{t-1} + (1 - u_t) z_t
J_t = diag(u) + diag((h_{t-1} - z) u') W
"""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground import checks, laws
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.cells import _parameters
from jacspec.cells._gates import blend, product, value
from jacspec.operators import GatedSum


@pytree
class MinimalRNN(_parameters.VectorCell):
    """h_t = u_t h_{t-1} + (1 - u_t) z_t, with J_t = diag(u) + diag((h_{t-1} - z) u') W: the gate u keeps.

    Args:
        W: recurrent weights of the gate, (n, n).
        V: weights from z to the gate, (n, n), or None.
        b: gate bias, (n,), or None.
        U: input weights of z = tanh(U x + c), (n, m); None: z is the input itself, of shape (n,), or 0 without input.
        c: bias of z, (n,), or None; only with U.
        activation: of z, a name of the table or an `Activation`.
        gate: of u.

    Raises:
        TypeError: for parameters that are not floating arrays.
        ValueError: for shapes that do not fit, an unknown activation, or c without U.

    Reference: M. Chen, J. Pennington and S. S. Schoenholz, Dynamical isometry and a mean field theory of RNNs,
    ICML 2018 (arXiv 1806.05394), section 2.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> js.cells.MinimalRNN(4.0 * jnp.eye(1)).jacobian(jnp.zeros(1)).dense().tolist()
        [[0.5]]
    """

    W: Array
    V: Array | None = None
    b: Array | None = None
    U: Array | None = None
    c: Array | None = None
    activation: str | Activation = static(default="tanh")
    gate: str | Activation = static(default="sigmoid")
    keeping_gate: ClassVar[Any] = ...

    def __post_init__(self):
        """Check shapes and the names of the activations."""
        n = _parameters.check_gated(self, None)
        V = _parameters.optional("MinimalRNN", "V", self.V, (n, n), "(n, n) with n as in W")
        c = _parameters.optional("MinimalRNN", "c", self.c, (n,), "(n,) with n as in W")
        if c is not None and self.U is None:
            raise ValueError(checks.message("cells.MinimalRNN", "c", "is the bias of z = tanh(U x + c) and needs U"))
        _parameters.store(self, V=V, c=c)
        activations.get(self.activation, function="cells.MinimalRNN")
        activations.get(self.gate, function="cells.MinimalRNN")

    @classmethod
    def init(cls, key: Array, inputs: int, units: int, **options: Any) -> Self:
        """As in the other cells; V is drawn like the input weights, with variance input_gain^2 / n, and c = 0."""
        others, at_V = jax.random.split(checks.key("cells.MinimalRNN.init", key))
        cell = super().init(others, inputs, units, **options)
        n, dtype = cell.W.shape[0], cell.W.dtype
        V = laws.draw("gaussian", at_V, (n, n), dtype, options.get("input_gain", 1.0))
        checks.finite("cells.MinimalRNN.init", "V", V)
        return dataclasses.replace(cell, V=V, c=jnp.zeros(n, dtype) if inputs else None)

    def drive(self, x: Array | None = None) -> Array:
        """z, shape (n,)."""
        n = self.W.shape[-1]
        if self.U is not None:
            _parameters.driver("MinimalRNN", self.U, x)
            return activations.get(self.activation)(_parameters.inputs(self.U, self.U, self.c, x))
        if x is None:
            return jnp.zeros(n, self.W.dtype)
        _parameters.vector("MinimalRNN", "x", x, n, meaning="z itself, as there is no U")
        return x

    def _parts(self, h, x):
        """The gate's pre-activation and z, each of shape (n,)."""
        _parameters.vector("MinimalRNN", "h", h, self.W.shape[-1], meaning="the state")
        z = self.drive(x)
        return _parameters.affine(self.W, self.V, self.b, h, z), z

    def preactivation(self, h: Array, x: Array | None = None) -> Array:
        """A = W h + V z + b of the gate, shape (n,)."""
        return self._parts(h, x)[0]

    def gates(self, h: Array, x: Array | None = None) -> dict[str, Array]:
        """``update``, shape (n,)."""
        return {"update": activations.get(self.gate)(self.preactivation(h, x))}

    def __call__(self, h: Array, x: Array | None = None) -> Array:
        """The next state, shape (n,)."""
        a, z = self._parts(h, x)
        return blend(activations.get(self.gate), a, h, z)

    def jacobian(self, h: Array, x: Array | None = None) -> GatedSum:
        """The step Jacobian; its factors are ``kept``, ``update`` and ``update weight``."""
        s = activations.get(self.gate)
        a, z = self._parts(h, x)
        return GatedSum(value(s, a), product(h - z, s.derivative(a))[None], self.W[None], ("kept", "update"))
