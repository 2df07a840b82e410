"""The long short-term memory, its full (c, h) Jacobian, and two named approximations of it.

    i = s(a_i)   f = s(a_f)   g = t(a_g)   o = s(a_o),    a_k = W_k h_{t-1} + U_k x_t + b_k,
    c_t = f c_{t-1} + i g,    h_t = o t(c_t)

with the gate s (logistic) and the activation t (tanh). With A = diag(f) and
B = diag(c_{t-1} f') W_f + diag(g i') W_i + diag(i g') W_g, in the order (c, h):

    J_t = [[A, B], [diag(o t'(c_t)) A, diag(t(c_t) o') W_o + diag(o t'(c_t)) B]]
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jacspec import activations
from jacspec._ground.arithmetic import matmul, norms, transposed_matmul
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.cells import _parameters
from jacspec.cells._gates import product, value
from jacspec.operators import Diagonal, GatedSum

GATES = ("input", "forget", "candidate", "output")


@pytree
class LSTMJacobian:
    """The (2n, 2n) Jacobian of an LSTM step on the flat state (c, h), as diagonals around four weight matrices.

    One product with the stacked (4n, n) weights pushes, one pulls; only `dense` makes a (2n, 2n) array.

    Attributes:
        forget: f, shape (n,).
        gains: g i', c_{t-1} f', i g', t(c_t) o', shape (4, n).
        output: o, shape (n,).
        squashing: t'(c_t), shape (n,).
        weights: W_i, W_f, W_g, W_o, shape (4, n, n).
    """

    forget: Array
    gains: Array
    output: Array
    squashing: Array
    weights: Array

    def _rows(self) -> tuple[Array, Array]:
        """What multiplies dc and what multiplies the four W_k dh, for the rows of c and of h: (2, n), (2, 4, n)."""
        through = product(self.output, self.squashing)
        to_c = self.gains.at[3].set(0)
        to_h = jnp.concatenate([product(through, self.gains[:3]), self.gains[3:]])
        return jnp.stack([self.forget, product(through, self.forget)]), jnp.stack([to_c, to_h])

    def push(self, V: Array) -> Array:
        """J V, (2n, k)."""
        n = self.forget.shape[0]
        carry, gains = self._rows()
        parts = matmul(self.weights.reshape(4 * n, n), V[n:]).reshape(4, n, V.shape[1])
        rows = carry[:, :, None] * V[:n] + jnp.sum(gains[..., None] * parts, axis=1)
        return rows.reshape(2 * n, V.shape[1])

    def pull(self, U: Array) -> Array:
        """J^T U, (2n, k)."""
        n = self.forget.shape[0]
        carry, gains = self._rows()
        rows = U.reshape(2, n, U.shape[1])
        parts = jnp.sum(gains[..., None] * rows[:, None], axis=0).reshape(4 * n, U.shape[1])
        to_c = jnp.sum(carry[:, :, None] * rows, axis=0)
        return jnp.concatenate([to_c, transposed_matmul(self.weights.reshape(4 * n, n), parts)])

    def dense(self) -> Array:
        """J, (2n, 2n)."""
        carry, gains = self._rows()
        blocks = jnp.sum(gains[..., None] * self.weights, axis=1)
        return jnp.concatenate([jnp.concatenate([jnp.diag(d), B], axis=1) for d, B in zip(carry, blocks, strict=True)])

    def row_norms(self) -> Array:
        """Per row the root of (dc part)^2 + (sum_k abs(gain_k) ||W_k||)^2, an upper bound, (2n,)."""
        carry, gains = self._rows()
        bound = jnp.sum(jnp.abs(gains) * norms(self.weights), axis=1)
        return norms(jnp.stack([carry, bound], axis=-1)).reshape(-1)

    @property
    def factors(self) -> dict[str, Array]:
        """Forget and output gate, cell squashing, and for every gate its gain and its weight."""
        out = {"forget gate": self.forget, "output gate": self.output, "cell squashing": self.squashing}
        for k, name in enumerate(GATES):
            out |= {name: self.gains[..., k, :], f"{name} weight": self.weights[..., k, :, :]}
        return out


@pytree
class FourTerm:
    """J = diag(f) + (sum_k diag(gain_k) W_k) diag(column): dc_t/dc_{t-1} with o_{t-1} held fixed.

    Attributes:
        forget: f, shape (n,).
        gated: the sum over input, forget gate and candidate.
        column: o_{t-1} t'(c_{t-1}), shape (n,).
    """

    forget: Array
    gated: GatedSum
    column: Array

    def push(self, V: Array) -> Array:
        """J V, (n, k)."""
        return self.forget[:, None] * V + self.gated.push(self.column[:, None] * V)

    def pull(self, U: Array) -> Array:
        """J^T U, (n, k)."""
        return self.forget[:, None] * U + self.column[:, None] * self.gated.pull(U)

    def dense(self) -> Array:
        """J, (n, n)."""
        return jnp.diag(self.forget) + self.gated.dense() * self.column

    def row_norms(self) -> Array:
        """abs(f_i) + sum_k abs(gain_ki) ||W_ki diag(column)||, an upper bound."""
        weights = norms(self.gated.weights * self.column)
        return jnp.abs(self.forget) + jnp.sum(jnp.abs(self.gated.gains) * weights, axis=0)

    @property
    def factors(self) -> dict[str, Array]:
        """Forget gate, what the hidden state lets through, and every gate's gain and weight."""
        gated = {name: factor for name, factor in self.gated.factors.items() if name != "kept"}
        return {"forget gate": self.forget, "output gate and cell squashing": self.column} | gated


@pytree
class LSTM(_parameters.PairCell):
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t), with the full Jacobian of the state (c, h).

    The state is the tuple (c, h), the cell state first; flat it has 2n numbers in that order.

    Args:
        W: recurrent weights of the gates i, f, g, o, (4, n, n).
        U: input weights, (4, n, m), or None for a cell without input.
        b: biases, (4, n), or None; b[1] is the forget bias.
        activation: of the candidate and of the cell state, a name of the table or an `Activation`.
        gate: of i, f and o.

    Raises:
        TypeError: for parameters that are not floating arrays, or a carry that is not the tuple (c, h).
        ValueError: for shapes that do not fit, or an unknown activation.

    Reference: S. Hochreiter and J. Schmidhuber, Neural Computation 9 (1997) 1735; the forget gate is from F. A. Gers,
    J. Schmidhuber and F. Cummins, Neural Computation 12 (2000) 2451.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> cell = js.cells.LSTM(jnp.zeros((4, 1, 1)))
        >>> cell.jacobian((jnp.zeros(1), jnp.zeros(1))).dense().tolist()
        [[0.5, 0.0], [0.25, 0.0]]
    """

    W: Array
    U: Array | None = None
    b: Array | None = None
    activation: str | Activation = static(default="tanh")
    gate: str | Activation = static(default="sigmoid")
    gate_count: ClassVar[int | None] = 4
    keeping_gate: ClassVar[Any] = 1

    def __post_init__(self):
        """Check shapes and the names of the activations."""
        _parameters.check_gated(self, 4)
        activations.get(self.activation, function="cells.LSTM")
        activations.get(self.gate, function="cells.LSTM")

    def preactivation(self, carry: tuple[Array, Array], x: Array | None = None) -> Array:
        """A = W h + U x + b of the gates i, f, g, o, shape (4, n)."""
        _, h = _parameters.pair("LSTM", carry, self.W.shape[-1], ("c", "h"))
        _parameters.driver("LSTM", self.U, x)
        return _parameters.affine(self.W, self.U, self.b, h, x)

    def output(self, carry: tuple[Array, Array]) -> Array:
        """h, what the next layer of a stack receives."""
        return carry[1]

    def gates(self, carry: tuple[Array, Array], x: Array | None = None) -> dict[str, Array]:
        """``input``, ``forget``, ``candidate`` and ``output``, each of shape (n,)."""
        s, t = activations.get(self.gate), activations.get(self.activation)
        a = self.preactivation(carry, x)
        return {name: (t if name == "candidate" else s)(a[k]) for k, name in enumerate(GATES)}

    def __call__(self, carry: tuple[Array, Array], x: Array | None = None) -> tuple[Array, Array]:
        """The next state (c, h)."""
        i, f, g, o = self.gates(carry, x).values()
        c = f * carry[0] + i * g
        return c, o * activations.get(self.activation)(c)

    def _terms(self, carry, x):
        """The gate f, the gains g i', c f', i g', the output gate's gate and slope, and the new cell state."""
        s, t = activations.get(self.gate), activations.get(self.activation)
        a = self.preactivation(carry, x)
        c, (i, f, o) = carry[0], value(s, a[jnp.array([0, 1, 3])])
        di, df, do = s.derivative(a[jnp.array([0, 1, 3])])
        g, dg = t(a[2]), t.derivative(a[2])
        return f, [product(g, di), product(c, df), product(i, dg)], (o, do), s(a[1]) * c + s(a[0]) * g

    def jacobian(self, carry: tuple[Array, Array], x: Array | None = None) -> LSTMJacobian:
        """The full Jacobian of (c, h); see `LSTMJacobian.factors` for the names of what it is made of."""
        f, gains, (o, do), c = self._terms(carry, x)
        t = activations.get(self.activation)
        return LSTMJacobian(f, jnp.stack([*gains, product(t(c), do)]), o, t.derivative(c), self.W)

    def four_term(self, carry: tuple[Array, Array], x: Array | None = None, *, previous_output_gate: Array) -> FourTerm:
        """dc_t/dc_{t-1} with the previous output gate held fixed, an operator on the n cells.

        diag(f) + [diag(c f') W_f + diag(g i') W_i + diag(i g') W_g] diag(o_{t-1} tanh'(c_{t-1})): exact for one step in
        which h_{t-1} = o_{t-1} tanh(c_{t-1}) moves with c_{t-1} alone. Its product over steps is **not** dc_T/dc_0,
        because o_{t-1} depends on h_{t-2} (45 % off after ten steps of a random cell of six units); `jacobian` is.

        Args:
            carry: (c_{t-1}, h_{t-1}), each of shape (n,).
            x: input x_t, (m,), or None.
            previous_output_gate: o_{t-1}, (n,): ``cell.gates(carry two steps ago, x_{t-1})["output"]``.

        Reference: N. Weber, Why LSTMs stop your gradients from vanishing, blog post (2017).
        """
        n = self.W.shape[-1]
        _parameters.vector("LSTM.four_term", "previous_output_gate", previous_output_gate, n, meaning="o at t - 1")
        f, gains, _, _ = self._terms(carry, x)
        zero = jnp.zeros_like(f)
        gated = GatedSum(zero, jnp.stack([*gains, zero]), self.W, ("kept", *GATES))
        squashing = activations.get(self.activation).derivative(carry[0])
        return FourTerm(f, gated, product(previous_output_gate, squashing))

    def forget_only(self, carry: tuple[Array, Array], x: Array | None = None) -> Diagonal:
        """diag(f), the additive path alone: the usual first approximation of dc_t/dc_{t-1}, on the n cells."""
        return Diagonal(self._terms(carry, x)[0], "forget gate")
