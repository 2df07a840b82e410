"""Options, derivatives and bookkeeping of the spectrum; its accuracy is the oracle's business."""

import families
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import jacspec as js
from jacspec._product import logs, orthogonal, recursion
from jacspec.questions import _leading


def chain_of(Js):
    return js.JacobianChain.from_matrices(jnp.asarray(Js))


def matrix(A):
    return mp.matrix(np.asarray(A, float).tolist())


def exact_gradient(Js, digits=200):
    """d log sigma_i / dJ_t = (J_T..J_{t+1})^T u_i (J_{t-1}..J_1 v_i)^T / sigma_i, from an mpmath SVD, as (n, T, n, n)."""
    T, n, _ = Js.shape
    with mp.workdps(digits):
        before, after = [mp.eye(n)], [mp.eye(n)]
        for t in range(T):
            before.append(matrix(Js[t]) * before[-1])
            after.append(after[-1] * matrix(Js[T - 1 - t]))
        U, S, Vt = mp.svd_r(before[-1])
        out = np.zeros((n, T, n, n))
        for i in range(n):
            if S[i] < S[0] * mp.mpf(10) ** (30 - digits):
                out[i] = np.nan
                continue
            for t in range(T):
                left = after[T - 1 - t].T * U[:, i] / S[i]
                right = before[t] * Vt[i, :].T
                out[i, t] = np.array((left * right.T).tolist(), float)
        return out


def agree(found, want):
    """Largest error of each gradient, relative to its largest entry."""
    return np.abs(found - want).max(axis=(1, 2, 3)) / np.abs(want).max(axis=(1, 2, 3))


@pytest.mark.parametrize(
    "family", ["gauss", "tanh", *(pytest.param(f, marks=pytest.mark.slow) for f in ("residual", "relu", "prescribed"))]
)
def test_gradients_of_separated_values(family):
    Js = getattr(families, family)(np.random.default_rng(3), 5, 12)
    ask = lambda A: js.log_singular_values(chain_of(A))
    found = np.asarray(jax.jacrev(ask)(jnp.asarray(Js)))
    want = exact_gradient(Js)
    live = ~np.isnan(want).any(axis=(1, 2, 3))
    assert live.any()
    assert np.isfinite(found).all()
    rows = (Js != 0).any(axis=2)[None, :, :, None]  # what would wake a dead row is not asked
    found, want = np.where(rows, found, 0), np.where(rows, want, 0)
    assert agree(found[live], want[live]).max() <= 1e-7
    forward = jax.jacfwd(ask)(jnp.asarray(Js))
    assert agree(np.where(rows, forward, 0)[live], want[live]).max() <= 1e-7
    scaling = np.einsum("itab,tab->it", found[live], Js)  # log sigma moves one to one with the scale of each factor
    np.testing.assert_allclose(scaling, 1, rtol=1e-8)


@pytest.mark.parametrize("gap", [1e-7, pytest.param(0.0, marks=pytest.mark.slow)])
def test_gradients_of_the_sum_over_a_cluster(gap):
    rng = np.random.default_rng(4)
    Q = [families.orthogonal(rng, 4) for _ in range(7)]
    d = np.exp(np.array([0.5, 0.5 - gap, -1.0, -1.0 - gap]))
    Js = np.stack([Q[t + 1] @ np.diag(d) @ Q[t].T for t in range(6)])
    found = np.asarray(jax.jacrev(lambda A: js.log_singular_values(chain_of(A))[:2].sum())(jnp.asarray(Js)))
    # the sum of the leading two is log of the leading value of the second compound: its gradient is that of the subspace
    with mp.workdps(120):
        before, after = [mp.eye(4)], [mp.eye(4)]
        for t in range(6):
            before.append(matrix(Js[t]) * before[-1])
            after.append(after[-1] * matrix(Js[5 - t]))
        U, S, Vt = mp.svd_r(before[-1])
        want = np.zeros_like(Js)
        for i in range(2):
            for t in range(6):
                left, right = after[5 - t].T * U[:, i] / S[i], before[t] * Vt[i, :].T
                want[t] += np.array((left * right.T).tolist(), float)
    assert np.abs(found - want).max() / np.abs(want).max() <= 1e-7


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_gradients_stay_finite_under_rank_loss_and_saturation(dtype, activation):
    rng = np.random.default_rng(5)
    W, b = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((6, 6), 6))

    def total(W, b):
        cell = js.cells.Elman(W, None, b, activation=activation)
        values = js.log_singular_values(js.jacobian_chain(cell, 0.1 * b, length=20, check=False))
        return jnp.sum(jnp.where(jnp.isfinite(values), values, 0))

    slope = jax.jit(jax.grad(total))
    for bias in (2, 20, 40):  # slopes down to e^-80
        gradient = slope(2.5 * W, bias * b)
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0


def test_gradient_with_respect_to_what_is_upstream():
    rng = np.random.default_rng(6)
    W, U, xs = (jnp.asarray(rng.standard_normal(s)) for s in ((4, 4), (4, 2), (9, 2)))
    ask = lambda W, xs: js.log_singular_values(js.jacobian_chain(js.cells.Elman(W, U), jnp.zeros(4), xs))[1]
    by_weight, by_input = jax.grad(ask, (0, 1))(W, xs)
    for gradient, base, at in ((by_weight, 0, (1, 2)), (by_input, 1, (3, 1))):
        move = lambda s, base=base, at=at: ask(*[a.at[at].add(s) if i == base else a for i, a in enumerate((W, xs))])
        numeric = (move(1e-5) - move(-1e-5)) / 2e-5
        np.testing.assert_allclose(gradient[at], numeric, rtol=1e-5, atol=1e-8)


def test_running_spectra_from_both_ends():
    Js = families.tanh(np.random.default_rng(7), 4, 12)
    chain = chain_of(Js)
    at = [7, 0, 12, 7]
    start, end = js.spectrum(chain, at=at), js.spectrum(chain, at=at, origin="end")
    assert start.log_singular_values.shape == (4, 4)
    assert start.horizons.tolist() == at
    assert end.horizons.tolist() == [5, 12, 0, 5]
    for i, t in enumerate(at):
        np.testing.assert_allclose(start.log_singular_values[i], js.log_singular_values(chain[:t]), atol=1e-11)
        np.testing.assert_allclose(end.log_singular_values[i], js.log_singular_values(chain[t:]), atol=1e-11)
    np.testing.assert_allclose(start.rates[0], start.log_singular_values[0] / 7)


@pytest.mark.parametrize("options", [{}, {"origin": "end"}, {"k": 2}])
def test_a_single_horizon_is_a_row_of_the_running_spectra(options):
    chain = chain_of(families.tanh(np.random.default_rng(7), 4, 12))
    rows = js.spectrum(chain, at=[7], **options)
    for at in (7, np.int32(7), np.array(7), jnp.asarray(7)):
        one = js.spectrum(chain, at=at, **options)
        for field in js.Spectrum.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, field), getattr(rows, field)[0])
    assert one.horizons.shape == one.rank.shape == one.converged.shape == ()
    assert one.log_singular_values.shape == (options.get("k", 4),)


def test_the_transposed_chain_of_a_saturated_network():
    Js = families.tanh_saturated(np.random.default_rng(8), 6, 40)
    chain = chain_of(Js)
    want = families.reference(Js, 6, 900)
    for origin in ("start", "end"):
        np.testing.assert_allclose(js.log_singular_values(chain, origin=origin), want, atol=1e-9)


def test_a_hidden_zero_is_not_passed_off_as_an_exact_one():
    rng = np.random.default_rng(9)
    low = rng.standard_normal((8, 6, 4)) @ rng.standard_normal((8, 4, 6))
    found = js.spectrum(chain_of(low))
    assert found.resolved.tolist() == [True] * 4 + [False] * 2
    assert int(found.rank) == 4
    assert jnp.isfinite(found.log_singular_values).all()  # upper bounds
    exact = low.copy()
    exact[3, 4:] = 0
    zeros = js.spectrum(chain_of(exact))
    assert zeros.log_singular_values[4:].tolist() == [-np.inf] * 2
    assert bool(zeros.resolved[:4].all())
    assert zeros.log_condition_number == np.inf


def test_verify_covers_what_no_algorithm_resolves():
    Js = families.switch(np.random.default_rng(10), 8, 100)
    found = js.spectrum(chain_of(Js), verify=True)
    error = np.abs(np.asarray(found.log_singular_values) - families.reference(Js, 8, 250))
    assert error.max() > 1e-3
    assert (found.error >= error).all()
    assert (found.rounding < 1e-6).all()  # the local estimate alone sees nothing
    assert jnp.isnan(js.spectrum(chain_of(Js)).error).all()


@pytest.mark.parametrize("family", ["gauss", "residual", "orth"])
def test_the_leading_values_by_push_and_pull_alone(family):
    n, k = 60, 3
    assert 3 * (k + _leading.GUARD) < n  # the block search really runs
    Js = getattr(families, family)(np.random.default_rng(11), n, 8)
    calls = []

    class PushPull:
        def __init__(self, J):
            self.J = J

        def push(self, V):
            calls.append(V.shape[1])
            return self.J @ V

        def pull(self, U):
            return self.J.T @ U

        def dense(self):
            raise AssertionError

    jax.tree_util.register_pytree_node(PushPull, lambda p: ((p.J,), None), lambda _, c: PushPull(*c))

    @jax.tree_util.register_pytree_node_class
    class Linear:
        def __call__(self, h, J):
            return J @ h

        def jacobian(self, h, J):
            return PushPull(J)

        def tree_flatten(self):
            return (), None

        @classmethod
        def tree_unflatten(cls, *_):
            return cls()

    chain = js.jacobian_chain(Linear(), jnp.zeros(n), jnp.asarray(Js))
    found = js.spectrum(chain, k=k)
    np.testing.assert_allclose(found.log_singular_values, js.log_singular_values(chain_of(Js))[:k], atol=1e-9)
    assert bool(found.converged)
    assert max(calls) < n


def test_the_search_for_leading_values_compiles_one_walk_and_one_reading(caplog):
    """As many as the whole spectrum: the last word is that of the program that searched."""
    chain = chain_of(families.gauss(np.random.default_rng(18), 26, 3))
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        found = js.spectrum(chain, k=1)
    compiled = [
        record.getMessage().split()[1] for record in caplog.records if record.getMessage().startswith("Compiling")
    ]
    assert [compiled.count(name) for name in ("jit(_push)", "jit(_pull)", "jit(_read_block)", "jit(while)")] == [
        1,
        1,
        1,
        0,
    ]
    traced = jax.jit(lambda A: js.spectrum(chain_of(A), k=1))(chain.source.operators.matrix)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_the_leading_values_of_layers_with_a_bottleneck():
    rng = np.random.default_rng(19)
    Js = [rng.standard_normal(shape) for shape in ((30, 40), (5, 30), (40, 5))]
    found = js.spectrum(js.JacobianChain.from_matrices([jnp.asarray(J) for J in Js]), k=3)
    np.testing.assert_allclose(
        found.log_singular_values, np.log(np.linalg.svd(Js[2] @ Js[1] @ Js[0], compute_uv=False)[:3]), atol=1e-12
    )
    assert bool(found.converged)


@pytest.mark.parametrize("traced", [False, True])
def test_leading_values_that_have_settled_keep_their_mark(monkeypatch, traced):
    """Two values lead by far, the others are crowded: a search cut short knows the two, and says so value by value."""
    monkeypatch.setattr(_leading, "TRIPS", 9)
    n, rng = 43, np.random.default_rng(7)  # a shape of no other test: what is compiled for it is cut short
    want = np.array([9.0, 6.0, *np.linspace(0.1, 0, n - 2)])
    Js = (families.orthogonal(rng, n) * np.exp(want) @ families.orthogonal(rng, n))[None]
    ask = lambda Js: js.spectrum(js.JacobianChain.from_matrices(Js, check=False), k=4)
    found = (jax.jit(ask) if traced else ask)(jnp.asarray(Js))
    assert found.resolved.tolist() == [True, True, False, False]
    assert not found.converged
    np.testing.assert_allclose(found.log_singular_values[:2], want[:2], atol=1e-12)
    assert np.all(found.log_singular_values < want[:4] + 1e-12)


@pytest.mark.slow
def test_the_leading_values_have_gradients():
    Js = jnp.asarray(families.gauss(np.random.default_rng(12), 24, 3))
    few = jax.grad(lambda A: js.log_singular_values(chain_of(A), k=1)[0])(Js)
    full = jax.grad(lambda A: js.log_singular_values(chain_of(A))[0])(Js)
    np.testing.assert_allclose(few, full, atol=1e-7)


def test_nothing_of_the_size_of_all_matrices_is_allocated():
    n, T = 24, 2000
    cell = js.cells.Elman(jnp.eye(n), None, jnp.zeros(n))
    for ask in (js.spectrum, js.lyapunov_exponents):
        run = jax.jit(lambda h, ask=ask: ask(js.jacobian_chain(cell, h, length=T, store=False)))
        memory = run.lower(jnp.zeros(n)).compile().memory_analysis()
        assert memory.temp_size_in_bytes < T * n**2 * 8 / 3


def test_the_pieces_of_the_recursion():
    rng = np.random.default_rng(13)
    R, l = jnp.asarray(np.triu(rng.standard_normal((4, 4)))), jnp.array([3.0, 1.0, -400.0, -2000.0])
    N, new = logs.scale_columns(R, logs.Logs(l, jnp.zeros(4)))
    np.testing.assert_array_equal(jnp.diagonal(N), jnp.diagonal(R))
    ratio = N * jnp.exp(new.hi[:, None] - l) - R  # diag(e^l') N diag(e^-l) = R where it does not underflow
    assert jnp.abs(jnp.triu(ratio)[:2, :2]).max() < 1e-14
    a, e = logs.two_sum(jnp.float32(1), jnp.float32(1e-9))
    assert (float(a), float(e)) == (1.0, float(np.float32(1e-9)))
    graded = recursion.extend(recursion.start(jnp.eye(4)), R)
    np.testing.assert_allclose(graded.Q @ (jnp.exp(graded.logs.hi)[:, None] * graded.U), R, atol=1e-14)


def test_the_derivative_of_qr_with_a_dead_column():
    A = jnp.asarray(np.random.default_rng(14).standard_normal((4, 4))).at[:, 3].set(0)
    Q, R = orthogonal.qr(A)
    dA = jnp.asarray(np.random.default_rng(15).standard_normal((4, 4))).at[:, 3].set(0)
    (_, (dQ, dR)) = jax.jvp(orthogonal.qr, (A,), (dA,))
    np.testing.assert_allclose((dQ @ R + Q @ dR)[:, :3], dA[:, :3], atol=1e-13)
    assert jnp.isfinite(dQ).all()


@pytest.mark.slow
def test_long_float32_sums_do_not_drift():
    T = 20_000
    Js = families.gauss(np.random.default_rng(16), 4, T).astype(np.float32)
    single = js.log_singular_values(js.JacobianChain.from_matrices(jnp.asarray(Js)))
    double = js.log_singular_values(chain_of(Js.astype(float)))
    assert (jnp.abs(single - double) <= 1e-5 * jnp.abs(double)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_at_the_ends_of_the_range_a_value_is_right_or_its_flag_is_down(dtype):
    """Above: LAPACK scales by the reciprocal of a norm, which has none there. Below: entries lose digits to underflow."""
    info = jnp.finfo(dtype)
    Js = families.gauss(np.random.default_rng(17), 6, 12).astype(dtype)
    ends = range(12 - info.maxexp, 130 - info.maxexp, 5), (-40, 0, 40), range(info.maxexp - 20, info.maxexp)
    for ask, read, steps in (
        (js.spectrum, lambda found: found.log_singular_values, 12),
        (js.lyapunov_exponents, lambda found: found.exponents, 1),
    ):
        run = jax.jit(lambda A, ask=ask: ask(js.JacobianChain.from_matrices(A, check=False)))
        right, kept = read(run(jnp.asarray(Js))), set()
        bits = [b for part in ends for b in part]
        for b in bits:  # times 2^b: the same chain, its values shifted
            found = run(jnp.asarray(np.ldexp(Js, b)))
            error = jnp.abs(read(found) - steps * b * jnp.log(2.0) - right)
            assert jnp.where(found.resolved & found.converged, error, 0).max() < 1e4 * info.eps, b
            assert found.converged or jnp.isnan(read(found)).all()
            kept |= {b} if found.resolved.all() else set()
        assert {-40, 0, 40} < kept < set(bits)


def test_no_seed_of_the_state_meets_the_witness():
    """A norm annihilates its own state: a witness drawn from the same seed would be lost with it."""
    ask = jax.jit(lambda h: js.spectrum(js.layer_chain([js.layers.RMSNorm()] * 2, h, check=False)).resolved)
    for seed in range(20):
        assert ask(jnp.asarray(np.random.default_rng(seed).standard_normal(8))).all()
