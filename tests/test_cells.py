"""Every cell: its step and analytic Jacobian against automatic differentiation and against formulas written out here."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jacspec import activations, cells

N, M = 5, 3
ACTIVATIONS = tuple(activations.TABLE)


def build(kind, rng, dtype=jnp.float64, bias=None, weight=1.0):
    """A random cell; `bias` replaces the random biases by that size with random signs."""

    def normal(*shape):
        return jnp.asarray(weight * rng.normal(size=shape) / math.sqrt(shape[-1]), dtype)

    def shift(*shape):
        return jnp.asarray(rng.normal(size=shape) if bias is None else bias * rng.choice([-1, 1], shape), dtype)

    kind, _, option = kind.partition(" ")
    if kind in ("Elman", "LeakyElman"):
        extra = {"rate": jnp.asarray(rng.uniform(0.1, 0.9, N), dtype)} if kind == "LeakyElman" else {}
        return getattr(cells, kind)(normal(N, N), normal(N, M), shift(N), option, **extra)
    if kind == "LSTM":
        return cells.LSTM(normal(4, N, N), normal(4, N, M), shift(4, N), option or "tanh")
    if kind == "GRU":
        hidden = shift(N) if option == "reset_after" else None
        return cells.GRU(normal(3, N, N), normal(3, N, M), shift(3, N), hidden, option)
    if kind == "MGU":
        reset = option == "reset"
        return cells.MGU(normal(2, N, N), normal(2, N, M), shift(2, N), shift(N) if reset else None, reset)
    if kind == "MinimalRNN":
        return cells.MinimalRNN(normal(N, N), normal(N, N), shift(N), normal(N, M), shift(N))
    return cells.LRU(normal(N), normal(N), normal(2, N, M))


GATED = ("LSTM", "GRU reset_after", "GRU reset_before", "MGU reset", "MGU plain", "MinimalRNN")
KINDS = (*(f"{k} {a}" for k in ("Elman", "LeakyElman") for a in ACTIVATIONS), *GATED, "LSTM softplus", "LRU")


def inputs(cell, rng, dtype=jnp.float64):
    def normal(n):
        return jnp.asarray(rng.normal(size=n), dtype)

    pair = isinstance(cell, (cells.LSTM, cells.LRU))
    return ((normal(N), normal(N)) if pair else normal(N)), normal(M)


@jax.jit
def autodiff(cell, h, x):
    flat, unravel = ravel_pytree(h)
    return jax.jacfwd(lambda v: ravel_pytree(cell(unravel(v), x))[0])(flat)


@jax.jit
def analytic(cell, h, x=None):
    """The operator, its matrix and its factors."""
    J = cell.jacobian(h, x)
    return J, J.dense(), J.factors


@jax.jit
def answers(J, V, U):
    return J.push(V), J.pull(U), J.row_norms()


def close(a, b, tolerance):
    return np.max(np.abs(np.asarray(a) - np.asarray(b))) <= tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_is_that_of_autodiff(kind):
    rng = np.random.default_rng(0)
    for _ in range(3):
        cell = build(kind, rng)
        h, x = inputs(cell, rng)
        (J, dense, _), want = analytic(cell, h, x), np.asarray(autodiff(cell, h, x))
        V, U = rng.normal(size=(dense.shape[1], 4)), rng.normal(size=(dense.shape[0], 2))
        push, pull, bound = (np.asarray(a) for a in answers(J, V, U))
        assert close(dense, want, 1e-12)
        assert close(push, want @ V, 1e-12)
        assert close(pull, want.T @ U, 1e-12)
        assert close(U.T @ push, pull.T @ V, 1e-12)
        true = np.linalg.norm(dense, axis=1)
        assert np.all(bound >= true * (1 - 1e-14))
        assert np.all(bound <= 10 * true)


@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind):
    """Against the float64 cell with the same float32 numbers: sums of N + M + 1 rounded products, and their images."""
    rng = np.random.default_rng(1)
    cell = build(kind, rng, jnp.float32)
    h, x = inputs(cell, rng, jnp.float32)
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), (cell, h, x))
    (_, dense, _), (_, want, _) = analytic(cell, h, x), analytic(*wide)
    assert dense.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(cell(h, x)))
    assert close(dense, want, 8 * (N + M + 1) * jnp.finfo(jnp.float32).eps * max(1, jnp.max(jnp.abs(want))))


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float64, 60.0), (jnp.float32, 30.0)])
@pytest.mark.parametrize("kind", [f"Elman {a}" for a in ACTIVATIONS if not activations.TABLE[a].structural_zeros]
                         + ["LeakyElman tanh", *GATED, "LRU"])  # fmt: skip
def test_saturation_gives_no_false_zero(kind, dtype, size):
    rng = np.random.default_rng(2)
    gradient = jax.jit(jax.grad(lambda cell, h, x: jnp.sum(cell.jacobian(h, x).dense())))
    for _ in range(5):
        cell, generic = build(kind, rng, dtype, size), build(kind, rng, dtype, 0.1)
        h, x = inputs(cell, rng, dtype)
        _, dense, factors = analytic(cell, h, x)
        _, structure, _ = analytic(generic, h, x)
        assert np.array_equal(dense != 0, structure != 0)
        for name, factor in factors.items():
            assert np.all(factor != 0), name
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient(cell, h, x)))


def test_saturation_test_bites():
    rng = np.random.default_rng(2)
    cell = build("Elman tanh", rng, jnp.float64, 60.0)
    h, x = inputs(cell, rng)
    assert not jnp.any(jax.jacfwd(lambda h: jnp.tanh(cell.W @ h + cell.U @ x + cell.b))(h))


@pytest.mark.parametrize("name", ["Elman", "LeakyElman"])
def test_dead_relu_is_exactly_zero(name):
    W = jnp.ones((2, 2))
    J = getattr(cells, name)(W, b=jnp.array([-100.0, 1.0]), activation="relu").jacobian(jnp.ones(2))
    assert J.dense().tolist() == [[0, 0], [1, 1]]
    assert J.factors["slope"].tolist() == [0, 1]


def test_leak_of_one_is_elman_and_scalar_rate_broadcasts():
    rng = np.random.default_rng(3)
    W, h = jnp.asarray(rng.normal(size=(N, N))), jnp.asarray(rng.normal(size=N))
    plain, leaky = cells.Elman(W), cells.LeakyElman(W)
    assert close(leaky(h), plain(h), 0)
    assert close(leaky.jacobian(h).dense(), plain.jacobian(h).dense(), 0)
    each = cells.LeakyElman(W, rate=jnp.full(N, 0.3)).jacobian(h).dense()
    assert close(cells.LeakyElman(W, rate=0.3).jacobian(h).dense(), each, 0)


advance = jax.jit(lambda cell, h, x=None: cell(h, x))


def sigma(a):
    return 1 / (1 + math.exp(-a))


def test_lstm_of_one_unit():
    """papers.md A5, written out in (h, c) order with plain floats, and its determinant."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        U, b, c, h = rng.normal(size=4), rng.normal(size=4), *rng.normal(size=2)
        i, f, o = (sigma(U[k] * h + b[k]) for k in (0, 1, 3))
        g = math.tanh(U[2] * h + b[2])
        new = f * c + i * g
        A = c * f * (1 - f) * U[1] + g * i * (1 - i) * U[0] + i * (1 - g * g) * U[2]
        out = 1 - math.tanh(new) ** 2
        hh = o * out * A + math.tanh(new) * o * (1 - o) * U[3]
        cell = cells.LSTM(jnp.asarray(U).reshape(4, 1, 1), b=jnp.asarray(b)[:, None])
        _, J, _ = analytic(cell, (jnp.array([c]), jnp.array([h])))
        assert close(J, np.array([[f, A], [o * out * f, hh]]), 1e-14)
        assert np.linalg.det(J) == pytest.approx(f * math.tanh(new) * o * (1 - o) * U[3], rel=1e-10)


def test_lstm_determinant():
    rng = np.random.default_rng(5)
    for _ in range(5):
        cell = build("LSTM", rng)
        _, dense, parts = analytic(cell, *inputs(cell, rng))
        part = np.linalg.slogdet(np.asarray(parts["output"])[:, None] * parts["output weight"])[1]
        want = np.sum(np.log(parts["forget gate"])) + part
        assert np.linalg.slogdet(dense)[1] == pytest.approx(want, abs=1e-11)


def test_gru_of_one_unit():
    """papers.md A10 (Cho: 1 - z keeps) and A10b (Flax: z keeps), with plain floats."""
    rng = np.random.default_rng(6)
    for _ in range(20):
        (Ur, Uz, Un), (br, bz, bn), bh, h = rng.normal(size=3), rng.normal(size=3), rng.normal(), rng.normal()
        r, z = sigma(Ur * h + br), sigma(Uz * h + bz)
        W, b, state = jnp.array([Ur, Uz, Un]).reshape(3, 1, 1), jnp.array([[br], [bz], [bn]]), jnp.array([h])
        n = math.tanh(bn + Un * r * h)
        want = 1 - z + (n - h) * z * (1 - z) * Uz + z * (1 - n * n) * Un * r * (1 + (1 - r) * h * Ur)
        cho = cells.GRU(W, b=b, form="reset_before")
        assert float(advance(cho, state)[0]) == pytest.approx((1 - z) * h + z * n, rel=1e-13)
        assert float(analytic(cho, state)[1][0, 0]) == pytest.approx(want, rel=1e-12)
        u = Un * h + bh
        n = math.tanh(bn + r * u)
        want = z + (h - n) * z * (1 - z) * Uz + (1 - z) * (1 - n * n) * (r * Un + u * r * (1 - r) * Ur)
        flax = cells.GRU(W, b=b, hidden_bias=jnp.array([bh]))
        assert float(advance(flax, state)[0]) == pytest.approx((1 - z) * n + z * h, rel=1e-13)
        assert float(analytic(flax, state)[1][0, 0]) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("i", "f"), [(0, 1), (1, 1), (0, 0), (1, 0)])
def test_lstm_gate_table(i, f):
    """papers.md A6: keep, add, erase, overwrite."""
    rng = np.random.default_rng(7)
    c, g = rng.normal(size=N), rng.uniform(-0.9, 0.9, N)
    sign = jnp.array([2 * i - 1, 2 * f - 1])[:, None] * jnp.ones(N)
    b = jnp.stack([30 * sign[0], 30 * sign[1], jnp.arctanh(g), jnp.zeros(N)])
    carry = (jnp.asarray(c), jnp.zeros(N))
    cell = cells.LSTM(jnp.zeros((4, N, N)), b=b)
    assert close(cell(carry)[0], f * c + i * g, 1e-12)
    assert close(cell.jacobian(carry).dense()[:N, :N], f * jnp.eye(N), 1e-12)
    assert close(cell.gates(carry)["candidate"], g, 1e-14)


def test_open_keep_gates_give_the_identity():
    z = jnp.array([0.0, 50.0, 0.0])[:, None] * jnp.ones(N)
    W, h = jnp.asarray(np.random.default_rng(8).normal(size=(3, N, N))), jnp.linspace(-1, 1, N)
    assert close(cells.GRU(W, b=z).jacobian(h).dense(), jnp.eye(N), 1e-12)
    assert close(cells.GRU(W, b=-z, form="reset_before").jacobian(h).dense(), jnp.eye(N), 1e-12)


def test_four_term_and_forget_only():
    """papers.md A4: one step is exact with o fixed, the product is not dc_T/dc_0."""
    rng = np.random.default_rng(9)
    cell, T = build("LSTM", rng, weight=3.0), 10
    xs = jnp.asarray(rng.normal(size=(T + 1, M)))
    before = inputs(cell, rng)[0]
    gate, carry = cell.gates(before, xs[0])["output"], cell(before, xs[0])
    true = jnp.concatenate([jnp.eye(N), jnp.diag(gate / jnp.cosh(carry[0]) ** 2)])
    product = jnp.eye(N)
    for t, x in enumerate(xs[1:]):
        J = cell.four_term(carry, x, previous_output_gate=gate)
        step = jax.jacfwd(lambda c, o=gate, x=x: cell((c, o * jnp.tanh(c)), x)[0])(carry[0])
        V = jnp.asarray(rng.normal(size=(N, 3)))
        assert close(J.dense(), step, 1e-9)
        assert close(J.push(V), step @ V, 1e-12)
        assert close(J.pull(V), step.T @ V, 1e-12)
        assert jnp.all(J.row_norms() >= jnp.linalg.norm(step, axis=1))
        forget = cell.gates(carry, x)["forget"]
        assert close(cell.forget_only(carry, x).dense(), jnp.diag(forget), 1e-15)
        assert close(cell.forget_only(carry, x).pull(V), forget[:, None] * V, 1e-15)
        product, true = J.dense() @ product, cell.jacobian(carry, x).dense() @ true
        error = jnp.linalg.norm(product - true[:N]) / jnp.linalg.norm(true[:N])
        assert (error < 1e-12) if t == 0 else True
        gate, carry = cell.gates(carry, x)["output"], cell(carry, x)
    assert error > 0.05


def test_lru_is_the_complex_recurrence():
    rng = np.random.default_rng(10)
    cell = build("LRU", rng)
    (re, im), x = inputs(cell, rng)
    lam = np.exp(-np.exp(np.asarray(cell.nu)) + 1j * np.asarray(cell.theta))
    B = np.asarray(cell.B[0] + 1j * cell.B[1])
    want = lam * np.asarray(re + 1j * im) + np.sqrt(1 - np.abs(lam) ** 2) * (B @ np.asarray(x))
    got = cell((re, im), x)
    np.testing.assert_allclose(np.asarray(got[0]) + 1j * np.asarray(got[1]), want, rtol=1e-13)
    product = np.linalg.matrix_power(np.asarray(cell.jacobian((re, im), x).dense()), 7)
    sigma = np.repeat(np.sort(np.abs(lam))[::-1], 2) ** 7
    np.testing.assert_allclose(np.linalg.svd(product)[1], sigma, rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("kind", [*GATED, "Elman tanh", "LRU"])
def test_vmap_and_jit_change_nothing(kind):
    rng = np.random.default_rng(11)
    cell = build(kind, rng)
    pairs = [inputs(cell, rng) for _ in range(4)]
    hs, xs = jax.tree.map(lambda *a: jnp.stack(a), *pairs)
    n = ravel_pytree(pairs[0][0])[0].size
    V = jnp.asarray(rng.normal(size=(n, 3)))
    Js = jax.jit(jax.vmap(lambda cell, h, x: cell.jacobian(h, x), in_axes=(None, 0, 0)))(cell, hs, xs)
    got = jax.vmap(lambda J: J.push(V))(Js)
    for k, (h, x) in enumerate(pairs):
        J = cell.jacobian(h, x)
        assert close(got[k], J.push(V), 1e-13)
        for name, factor in J.factors.items():  # of all at once, those of each
            assert close(Js.factors[name][k], factor, 1e-13)


@pytest.mark.parametrize("kind", GATED)
def test_factors_rebuild_the_jacobian(kind):
    rng = np.random.default_rng(12)
    cell = build(kind, rng)
    h, x = inputs(cell, rng)
    J, parts = cell.jacobian(h, x), cell.jacobian(h, x).factors
    terms = {k: parts[k][:, None] * parts[f"{k} weight"] for k in parts if f"{k} weight" in parts}
    if kind == "LSTM":
        A, B = jnp.diag(parts["forget gate"]), terms["input"] + terms["forget"] + terms["candidate"]
        q = (parts["output gate"] * parts["cell squashing"])[:, None]
        want = jnp.block([[A, B], [q * A, terms["output"] + q * B]])
    elif kind == "GRU reset_before":
        inner = jnp.diag(parts["reset gate"]) + terms["reset"]
        want = jnp.diag(parts["kept"]) + terms["update"] + terms["candidate"] @ inner
    else:
        want = jnp.diag(parts["kept"]) + sum(terms.values())
    assert close(J.dense(), want, 1e-14)


def test_cells_without_input_and_minimal_rnn_drives():
    rng = np.random.default_rng(13)
    W, h = jnp.asarray(rng.normal(size=(4, N, N))), jnp.asarray(rng.normal(size=N))
    for cell in (cells.GRU(W[:3]), cells.GRU(W[:3], form="reset_before"), cells.MGU(W[:2]), cells.MinimalRNN(W[0])):
        assert close(cell.jacobian(h).dense(), autodiff(cell, h, None), 1e-12)
    assert close(cells.LSTM(W).jacobian((h, h)).dense(), autodiff(cells.LSTM(W), (h, h), None), 1e-12)
    own = cells.MinimalRNN(W[0], W[1])
    u = jax.nn.sigmoid(W[0] @ h + W[1] @ h[::-1])
    assert close(own(h, h[::-1]), u * h + (1 - u) * h[::-1], 1e-14)


@pytest.mark.parametrize(("dtype", "nu"), [(jnp.float64, 7.0), (jnp.float32, 5.0), (jnp.float32, 100.0)])
def test_the_modulus_of_the_lru_stops_short_of_zero(dtype, nu):
    def log_modulus(nu):
        return jnp.log(cells.LRU(jnp.full(1, nu, dtype), jnp.zeros(1, dtype)).modulus[0])

    info = jnp.finfo(dtype)
    assert log_modulus(nu) == pytest.approx(float(jnp.log(info.tiny) - jnp.log(info.eps)), rel=1e-5)
    assert np.isfinite(jax.grad(log_modulus)(dtype(nu)))
    assert log_modulus(dtype(2.0)) == pytest.approx(-math.exp(2.0), rel=1e-6)
