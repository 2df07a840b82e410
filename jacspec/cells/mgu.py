"""The minimal gated unit: one gate that keeps and resets.

    f = s(W_f h + U_f x + b_f),    n = t(U_n x + b_n + f (W_n h + b_hn)),    h' = (1 - f) n + f h
    J = diag(f) + diag((h - n) f') W_f + diag((1 - f) n') (diag(f) W_n + diag(u f') W_f),    u = W_n h + b_hn

Without the reset gate the inner term is W_n alone.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground import checks
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.cells import _parameters
from jacspec.cells._gates import blend, complement, product, value
from jacspec.operators import GatedSum

GATES = ("forget", "candidate")


@pytree
class MGU(_parameters.VectorCell):
    """h' = (1 - f) n + f h with one gate f, as in `flax.linen.MGUCell`: f keeps.

    Args:
        W: recurrent weights of f and n, (2, n, n).
        U: input weights, (2, n, m), or None for a cell without input.
        b: biases, (2, n), or None.
        hidden_bias: b_hn, (n,), or None: the bias inside the reset product; with the reset gate only.
        reset_gate: whether f also multiplies W_n h + b_hn.
        activation: of the candidate, a name of the table or an `Activation`.
        gate: of f.

    Raises:
        TypeError: for parameters that are not floating arrays.
        ValueError: for shapes that do not fit, an unknown activation, or a hidden bias without the reset gate.

    Reference: G.-B. Zhou et al., Minimal gated unit for recurrent neural networks, arXiv 1603.09420, section 3 (there
    the reset is before the product and 1 - f keeps; the equations here are those of Flax).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> js.cells.MGU(jnp.zeros((2, 1, 1))).jacobian(jnp.ones(1)).dense().tolist()
        [[0.5]]
    """

    W: Array
    U: Array | None = None
    b: Array | None = None
    hidden_bias: Array | None = None
    reset_gate: bool = static(default=True)
    activation: str | Activation = static(default="tanh")
    gate: str | Activation = static(default="sigmoid")
    gate_count: ClassVar[int | None] = 2
    keeping_gate: ClassVar[Any] = 0

    def __post_init__(self):
        """Check shapes and the names of the activations."""
        n = _parameters.check_gated(self, 2)
        checks.one_of("cells.MGU", "reset_gate", self.reset_gate, (True, False))
        hidden_bias = _parameters.optional("MGU", "hidden_bias", self.hidden_bias, (n,), "(n,) with n as in W")
        if hidden_bias is not None and not self.reset_gate:
            text = "Add it to b[1], which is the same there."
            raise ValueError(checks.message("cells.MGU", "hidden_bias", "needs reset_gate=True", hint=text))
        _parameters.store(self, hidden_bias=hidden_bias)
        activations.get(self.activation, function="cells.MGU")
        activations.get(self.gate, function="cells.MGU")

    def _parts(self, h, x):
        """(a_f, a_n), shape (2, n), and u = W_n h + b_hn."""
        _parameters.vector("MGU", "h", h, self.W.shape[-1], meaning="the state")
        _parameters.driver("MGU", self.U, x)
        hidden = _parameters.times(self.W, h)
        drive = _parameters.inputs(self.W, self.U, self.b, x)
        forget = hidden[0] + drive[0]
        u = hidden[1] if self.hidden_bias is None else hidden[1] + self.hidden_bias
        inner = activations.get(self.gate)(forget) * u if self.reset_gate else u
        return jnp.stack([forget, drive[1] + inner]), u

    def preactivation(self, h: Array, x: Array | None = None) -> Array:
        """(a_f, a_n), shape (2, n); a_n is the whole argument of the candidate's activation."""
        return self._parts(h, x)[0]

    def gates(self, h: Array, x: Array | None = None) -> dict[str, Array]:
        """``forget`` and ``candidate``, each of shape (n,)."""
        f, n = self.preactivation(h, x)
        return {"forget": activations.get(self.gate)(f), "candidate": activations.get(self.activation)(n)}

    def __call__(self, h: Array, x: Array | None = None) -> Array:
        """The next state, shape (n,)."""
        f, n = self.preactivation(h, x)
        return blend(activations.get(self.gate), f, h, activations.get(self.activation)(n))

    def jacobian(self, h: Array, x: Array | None = None) -> GatedSum:
        """The step Jacobian; its factors are ``kept`` and a gain and a weight for forget and candidate."""
        s, t = activations.get(self.gate), activations.get(self.activation)
        (f, n), u = self._parts(h, x)
        candidate = product(complement(s, f), t.derivative(n))
        forget = product(h - t(n), s.derivative(f))
        if self.reset_gate:
            forget = forget + product(u, candidate, s.derivative(f))
            candidate = product(candidate, value(s, f))
        return GatedSum(value(s, f), jnp.stack([forget, candidate]), self.W, ("kept", *GATES))
