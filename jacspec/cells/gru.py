"""The gated recurrent unit in its two forms. They differ in two ways; each form keeps its field's convention.

r = s(a_r)   z = s(a_z),    a_k = W_k h_{t-1} + U_k x_t + b_k

reset_after  (Flax, cuDNN):  n = t(U_n x + b_n + r (W_n h + b_hn)),   h' = (1 - z) n + z h      z keeps
reset_before (Cho 2014):     n = t(U_n x + b_n + W_n (r h)),          h' = (1 - z) h + z n      1 - z keeps

J_after  = diag(z) + diag((h - n) z') W_z + diag((1 - z) n') (diag(r) W_n + diag(u r') W_r),    u = W_n h + b_hn
J_before = diag(1 - z) + diag((n - h) z') W_z + diag(z n') W_n (diag(r) + diag(h r') W_r)
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground import checks
from jacspec._ground.arithmetic import matmul, norms, transposed_matmul
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.cells import _parameters
from jacspec.cells._gates import blend, complement, product, value
from jacspec.operators import GatedSum

GATES = ("reset", "update", "candidate")


@pytree
class ResetBefore:
    """J = diag(kept) + diag(update) W_z + diag(candidate) W_n (diag(gate) + diag(reset) W_r).

    Attributes:
        kept: 1 - z, shape (n,).
        update: (n - h) z', shape (n,).
        candidate: z n', shape (n,).
        gate: r, shape (n,).
        reset: h r', shape (n,).
        weights: W_r, W_z, W_n, shape (3, n, n).
    """

    kept: Array
    update: Array
    candidate: Array
    gate: Array
    reset: Array
    weights: Array

    def push(self, V: Array) -> Array:
        """J V by one product with (W_r, W_z) and one with W_n."""
        n = self.kept.shape[0]
        first = matmul(self.weights[:2].reshape(2 * n, n), V)
        inner = self.gate[:, None] * V + self.reset[:, None] * first[:n]
        outer = self.candidate[:, None] * matmul(self.weights[2], inner)
        return self.kept[:, None] * V + self.update[:, None] * first[n:] + outer

    def pull(self, U: Array) -> Array:
        """J^T U by one product with W_n^T and one with (W_r, W_z)^T."""
        n = self.kept.shape[0]
        inner = transposed_matmul(self.weights[2], self.candidate[:, None] * U)
        parts = jnp.concatenate([self.reset[:, None] * inner, self.update[:, None] * U])
        return (
            self.kept[:, None] * U
            + self.gate[:, None] * inner
            + transposed_matmul(self.weights[:2].reshape(2 * n, n), parts)
        )

    def dense(self) -> Array:
        """J, (n, n)."""
        return self.push(jnp.eye(self.kept.shape[0], dtype=self.kept.dtype))

    def row_norms(self) -> Array:
        """An upper bound by the triangle inequality, (n,)."""
        to_r, to_z, _ = norms(self.weights)
        inner = jnp.abs(self.gate) + jnp.abs(self.reset) * to_r
        through = jnp.sum(jnp.abs(self.weights[2]) * inner, axis=1)
        return jnp.abs(self.kept) + jnp.abs(self.update) * to_z + jnp.abs(self.candidate) * through

    @property
    def factors(self) -> dict[str, Array]:
        """What is kept, the reset gate, and for every gate its gain and its weight."""
        out = {"kept": self.kept, "reset gate": self.gate}
        for k, name in enumerate(GATES):
            out |= {name: getattr(self, name), f"{name} weight": self.weights[..., k, :, :]}
        return out


@pytree
class GRU(_parameters.VectorCell):
    """A gated recurrent unit: h' = (1 - z) n + z h (reset after) or h' = (1 - z) h + z n (reset before).

    The update gate z **keeps** the state in the form ``"reset_after"`` (Flax, PyTorch, cuDNN) and **replaces** it in
    ``"reset_before"`` (Cho et al., Chung et al.).

    Args:
        W: recurrent weights of the gates r, z, n, (3, n, n).
        U: input weights, (3, n, m), or None for a cell without input.
        b: biases, (3, n), or None.
        hidden_bias: b_hn, (n,), or None: the bias inside the reset product; ``"reset_after"`` only.
        form: ``"reset_after"``, n = tanh(U_n x + b_n + r (W_n h + b_hn)), or ``"reset_before"``,
            n = tanh(U_n x + b_n + W_n (r h)).
        activation: of the candidate, a name of the table or an `Activation`.
        gate: of r and z.

    Raises:
        TypeError: for parameters that are not floating arrays.
        ValueError: for shapes that do not fit, an unknown form or activation, or a hidden bias with ``"reset_before"``.

    Reference: K. Cho et al., EMNLP 2014 (arXiv 1406.1078), section 2.3 (reset before the product); J. Chung et al.,
    arXiv 1412.3555, section 3.2 (1 - z keeps); J. Appleyard et al., arXiv 1604.01946 (cuDNN, reset after).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> open_gate = jnp.array([[0.0], [50.0], [0.0]])
        >>> js.cells.GRU(jnp.ones((3, 1, 1)), b=open_gate).jacobian(jnp.ones(1)).dense().tolist()
        [[1.0]]
    """

    W: Array
    U: Array | None = None
    b: Array | None = None
    hidden_bias: Array | None = None
    form: str = static(default="reset_after")
    activation: str | Activation = static(default="tanh")
    gate: str | Activation = static(default="sigmoid")
    gate_count: ClassVar[int | None] = 3
    keeping_gate: ClassVar[Any] = 1

    def __post_init__(self):
        """Check shapes, the form and the names of the activations."""
        n = _parameters.check_gated(self, 3)
        checks.one_of("cells.GRU", "form", self.form, ("reset_after", "reset_before"))
        hidden_bias = _parameters.optional("GRU", "hidden_bias", self.hidden_bias, (n,), "(n,) with n as in W")
        if hidden_bias is not None and self.form == "reset_before":
            text = checks.message(
                "cells.GRU", "hidden_bias", "is of the form 'reset_after'", expected="None with 'reset_before'",
                hint="Add it to b[2], which is the same there.",
            )  # fmt: skip
            raise ValueError(text)
        _parameters.store(self, hidden_bias=hidden_bias)
        activations.get(self.activation, function="cells.GRU")
        activations.get(self.gate, function="cells.GRU")

    def _parts(self, h, x):
        """(a_r, a_z, a_n), shape (3, n), and what the reset gate multiplies: u = W_n h + b_hn, or h."""
        _parameters.vector("GRU", "h", h, self.W.shape[-1], meaning="the state")
        _parameters.driver("GRU", self.U, x)
        after = self.form == "reset_after"
        hidden = _parameters.times(self.W if after else self.W[:2], h)
        drive = _parameters.inputs(self.W, self.U, self.b, x)
        a = hidden[:2] + drive[:2]
        u = h if not after else hidden[2] if self.hidden_bias is None else hidden[2] + self.hidden_bias
        reset = activations.get(self.gate)(a[0]) * u
        candidate = drive[2] + (reset if after else matmul(self.W[2], reset))
        return jnp.concatenate([a, candidate[None]]), u

    def preactivation(self, h: Array, x: Array | None = None) -> Array:
        """(a_r, a_z, a_n), shape (3, n); a_n is the whole argument of the candidate's activation."""
        return self._parts(h, x)[0]

    def gates(self, h: Array, x: Array | None = None) -> dict[str, Array]:
        """``reset``, ``update`` and ``candidate``, each of shape (n,)."""
        s, t = activations.get(self.gate), activations.get(self.activation)
        r, z, n = self.preactivation(h, x)
        return {"reset": s(r), "update": s(z), "candidate": t(n)}

    def __call__(self, h: Array, x: Array | None = None) -> Array:
        """The next state, shape (n,)."""
        s, t = activations.get(self.gate), activations.get(self.activation)
        _, z, n = self.preactivation(h, x)
        return blend(s, z, h, t(n)) if self.form == "reset_after" else blend(s, z, t(n), h)

    def jacobian(self, h: Array, x: Array | None = None) -> GatedSum | ResetBefore:
        """The step Jacobian; its factors are ``kept`` and a gain and a weight for reset, update and candidate."""
        s, t = activations.get(self.gate), activations.get(self.activation)
        (r, z, n), u = self._parts(h, x)
        opened, closed, slope = value(s, z), complement(s, z), t.derivative(n)
        if self.form == "reset_after":
            reset = product(u, closed, slope, s.derivative(r))  # what may be large first: nothing underflows early
            update = product(h - t(n), s.derivative(z))
            candidate = product(closed, slope, value(s, r))
            return GatedSum(opened, jnp.stack([reset, update, candidate]), self.W, ("kept", *GATES))
        update = product(t(n) - h, s.derivative(z))
        reset = product(h, s.derivative(r))
        return ResetBefore(closed, update, product(opened, slope), value(s, r), reset, self.W)
