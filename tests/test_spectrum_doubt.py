"""What the recursion cannot see is never called resolved, and what it can see is not given up."""

import itertools
import warnings

import families
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import jacspec as js
from jacspec._product import recursion
from jacspec.questions import _routes

DTYPES = [np.float64, np.float32]
RIGHT = {np.float64: 1e-9, np.float32: 1e-3}  # nats


@jax.jit
@jax.vmap
def ask(Js):
    found = js.spectrum(js.JacobianChain.from_matrices(Js, check=False))
    return found.log_singular_values, found.resolved


@jax.jit
@jax.vmap
def ask_exponents(Js):
    found = js.lyapunov_exponents(js.JacobianChain.from_matrices(Js, check=False))
    return found.exponents, found.resolved


def claimed(Js, question=ask):
    """How many values of each chain are called resolved and not zero."""
    values, resolved = question(jnp.asarray(Js))
    return np.sum(np.asarray(resolved) & (np.asarray(values) > -np.inf), axis=1)


def ring(n):
    return np.roll(np.eye(n), 1, axis=0)


def smoothing(kind, n):
    """A smoothing step and its eigenvalues, in mpmath, from the entries as they are rounded."""

    def eigenvalues(J, angle):
        a, b = mp.mpf(float(J[0, 0])), mp.mpf(float(J[0, 1]))
        return [abs(a + 2 * b * mp.cos(angle(k))) for k in range(n)]

    match kind:
        case "periodic":
            J = 0.7 * np.eye(n) + 0.15 * (ring(n) + ring(n).T)
            return J, lambda J: eigenvalues(J, lambda k: 2 * mp.pi * k / n)
        case "open":
            J = 0.7 * np.eye(n) + 0.15 * (np.eye(n, k=1) + np.eye(n, k=-1))
            return J, lambda J: eigenvalues(J, lambda k: mp.pi * (k + 1) / (n + 1))
        case "singular":  # the shortest wave is averaged away
            J = 0.5 * np.eye(n) + 0.25 * (ring(n) + ring(n).T)
            return J, lambda J: eigenvalues(J, lambda k: 2 * mp.pi * k / n)
        case _:
            order = np.random.default_rng(n).permutation(n)
            J = 1e-3 * (0.7 * np.eye(n) + 0.15 * (ring(n) + ring(n).T))
            back = np.argsort(order)
            scattered = J[order][:, order]
            return scattered, lambda J: eigenvalues(J[back][:, back], lambda k: 2 * mp.pi * k / n)


LARGE = [pytest.param(*case, marks=pytest.mark.slow) for case in itertools.product((64, 128, 256), (10, 100, 2000))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "T"), [(16, 1000), *LARGE])
def test_steps_that_smooth(n, T, dtype):
    """No column leads at the start: U would become singular to working precision without its random order and turning."""
    for kind in ("periodic", "open", "singular", "shuffled and small"):
        J, eigenvalues = smoothing(kind, n)
        J = J.astype(dtype)
        with mp.workdps(30):
            logs = [float(T * mp.log(x)) if x > 1e-20 else -np.inf for x in eigenvalues(J)]
        want = np.sort(logs)[::-1]
        chain = js.JacobianChain.from_factors(jnp.ones((T, n), dtype), jnp.asarray(J))
        found = js.spectrum(chain, verify=n < 64)
        resolved, values = np.asarray(found.resolved), np.asarray(found.log_singular_values, float)
        assert resolved.sum() == np.isfinite(want).sum(), kind
        error = np.abs(values[resolved] - want[resolved])
        assert error.max() <= (1e-9 if dtype == np.float64 else 1e-3), kind
        if n < 64:
            assert (np.asarray(found.error)[resolved] >= error).all(), kind


def test_the_error_covers_roundings_that_repeat_themselves():
    """Equal steps round alike: the value drifts by a rounding a step, on the other route, too."""
    T = 10_000
    J, eigenvalues = smoothing("periodic", 8)
    J = J.astype(np.float32)
    with mp.workdps(30):
        want = np.sort([float(T * mp.log(x)) for x in eigenvalues(J)])[::-1]
    chain = js.JacobianChain.from_factors(jnp.ones((T, 8), np.float32), jnp.asarray(J))
    found = js.spectrum(chain, verify=True)
    assert (np.abs(np.asarray(found.log_singular_values, float) - want) <= np.asarray(found.error)).all()


def test_a_convolution_that_smooths():
    kernel = jnp.array([0.15, 0.7, 0.15])[:, None, None]
    layer = js.layers.Conv(kernel)
    n, depth = 24, 200
    found = js.spectrum(js.layer_chain([layer] * depth, jnp.zeros((n, 1))))
    J = np.asarray(layer.jacobian(jnp.zeros((n, 1))).dense())
    assert found.resolved.all()
    np.testing.assert_allclose(found.log_singular_values, families.reference([J] * depth, n, 200), atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_singular_matrices_of_small_integers(dtype):
    matrices = np.array(list(itertools.product((0, 1, 2), repeat=9)), dtype).reshape(-1, 1, 3, 3)
    rank = np.linalg.matrix_rank(matrices[:, 0].astype(float))
    assert (claimed(matrices) == rank).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_equal_columns(dtype):
    rng = np.random.default_rng(0)
    matrices, index = rng.standard_normal((20_000, 1, 3, 3)), np.arange(20_000)
    columns = rng.permuted(np.tile(np.arange(3), (20_000, 1)), axis=1)
    matrices[index, 0, :, columns[:, 0]] = matrices[index, 0, :, columns[:, 1]]
    assert (claimed(matrices.astype(dtype)) == 2).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "T", "count"),
    [(3, 40, 300), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((5, 20, 900), (8, 20, 900)))],
)
def test_one_singular_step_among_dense_ones(n, T, count, dtype):
    rng = np.random.default_rng(n)
    for make in (
        lambda J: np.concatenate([J[:, :-1], J[:, :1]], axis=1),
        lambda J: np.concatenate([J[:, :, :-1], J[:, :, :1]], axis=2),
        lambda J: J[:, :, :-1] @ rng.standard_normal((count, n - 1, n)) / np.sqrt(n),
    ):
        Js, index = rng.standard_normal((count, T, n, n)) / np.sqrt(n), (np.arange(count), rng.integers(0, T, count))
        Js[index] = make(Js[index])
        Js = Js.astype(dtype)
        values, resolved = map(np.asarray, ask(jnp.asarray(Js)))
        kept = np.sum(resolved & (values > -np.inf), axis=1)
        assert (kept <= n - 1).all()
        given_up = np.flatnonzero(kept < n - 1)
        assert len(given_up) <= count // 100
        for i in given_up:  # they are lost indeed
            off = np.abs(values[i] - families.reference(Js[i].astype(float), n, 300))[: n - 1]
            assert (off[~resolved[i, : n - 1]] > RIGHT[dtype]).all()
        assert (claimed(Js, ask_exponents) <= n - 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "T", "count"), [(3, 40, 700), pytest.param(8, 20, 1300, marks=pytest.mark.slow)])
def test_chains_of_full_rank_lose_nothing(n, T, count, dtype):
    Js = np.random.default_rng(n).standard_normal((4 * count, T, n, n)) / np.sqrt(n)
    Js = Js[np.linalg.cond(Js).max(axis=1) < 1e4][:count]
    assert len(Js) == count
    assert (claimed(Js.astype(dtype)) == n).all()
    assert (claimed(Js.astype(dtype), ask_exponents) == n).all()


@pytest.mark.parametrize("origin", ["start", "end"])
def test_two_small_factors_of_a_step_are_not_a_zero(origin):
    rng = np.random.default_rng(1)
    W = [jnp.asarray(rng.standard_normal((3, 3)), jnp.float32) for _ in range(2)]
    layers = [js.layers.Dense(w, jnp.full(3, 40, jnp.float32), activation="tanh") for w in W]
    h = jnp.zeros(3, jnp.float32)
    apart = js.spectrum(js.layer_chain(layers, h), origin=origin)
    together = js.spectrum(js.layer_chain([js.layers.Sequential(*layers)], h), origin=origin)
    np.testing.assert_allclose(together.log_singular_values, apart.log_singular_values, rtol=1e-6)

    d, W = np.full((2, 3), 1e-200), 1e-200 * rng.standard_normal((3, 3))
    found = js.spectrum(js.JacobianChain.from_factors(jnp.asarray(d), jnp.asarray(W)), origin=origin)
    want = np.log(np.linalg.svd(1e200 * W @ (1e200 * W), compute_uv=False)) - 800 * np.log(10)
    np.testing.assert_allclose(found.log_singular_values, want, rtol=1e-13)


@pytest.mark.parametrize("question", [js.spectrum, lambda chain: js.spectrum(chain, k=2)])
def test_matrices_at_the_end_of_the_range(question):
    G = np.random.default_rng(2).standard_normal((1, 20, 20))
    for scale in (1e36, 3e37, 1e-33, 3e-35):
        J = jnp.asarray(scale * G, jnp.float32)
        want = np.log(np.linalg.svd(np.asarray(J[0], float), compute_uv=False))[:2]
        found = question(js.JacobianChain.from_matrices(J))
        np.testing.assert_allclose(found.log_singular_values[:2], want, rtol=1e-6)
        assert found.resolved[:2].all()


@pytest.mark.parametrize("scale", [1e-33, 1e-36])
def test_gradients_of_matrices_at_the_end_of_the_range(scale):
    Js = (scale * np.random.default_rng(2).uniform(1, 2, (7, 5, 5))).astype(np.float32)
    want = np.log(np.linalg.norm(np.ones(5) @ np.linalg.multi_dot(Js.astype(float)[::-1] / scale)))
    found = js.adjoints(js.JacobianChain.from_matrices(jnp.asarray(Js)), jnp.ones(5, jnp.float32))
    np.testing.assert_allclose(found.log_norms[0], want + 7 * np.log(scale), rtol=1e-6)
    assert found.resolved.all()


@pytest.mark.parametrize("origin", ["start", "end"])
def test_a_slope_that_was_stopped_is_seen_behind_any_weight(origin):
    """tanh at 100 in float32: the slope 4 e^-200 is stopped at 1e-31, whatever it is multiplied by."""
    h = jnp.zeros(3, jnp.float32)
    b = jnp.asarray([100.0, 0.0, 0.0], jnp.float32)
    for weight, seen in ((1e5, [True, True, False]), (1e-20, [True, True, False])):
        layer = js.layers.Dense(W=weight * jnp.eye(3, dtype=jnp.float32), b=b, activation="tanh")
        for layers in ([layer], [js.layers.Sequential(layer, js.layers.Dense(W=1e20 * jnp.eye(3, dtype=jnp.float32)))]):
            chain = js.layer_chain(layers, h)
            assert js.spectrum(chain, origin=origin).resolved.tolist() == seen
            norms = js.adjoints(chain, jnp.asarray([1.0, 0, 0], jnp.float32))
            assert norms.resolved.tolist() == [False] + [True] * len(layers)
            assert js.adjoints(chain, jnp.asarray([0.0, 1, 0], jnp.float32)).resolved.all()


@pytest.mark.parametrize(("dtype", "least"), [(np.float32, 1e-39), (np.float64, 1e-310)])
def test_numbers_that_count_as_zeros_are_named(dtype, least):
    J, tail = np.full((1, 3, 3), 10 * least, dtype), np.eye(3, dtype=dtype)[None]
    J[0, 0, 0], tail[0, 0, 1] = least, least
    with pytest.warns(UserWarning, match="jacobians.* 9 of 9 numbers .* smallest normal"):
        js.JacobianChain.from_matrices(jnp.asarray(J))
    with pytest.warns(UserWarning, match="d.* 1 of 3 numbers"):
        js.JacobianChain.from_factors(jnp.asarray([[1.0, least, 1.0]], dtype), jnp.eye(3, dtype=dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        js.JacobianChain.from_matrices(jnp.asarray(tail))  # beside 1 it is nothing


@pytest.mark.parametrize("k", [1, 2, 3])
def test_exponents_of_steps_that_cancel(k):
    """J^2 = 0: what J Q leaves is rounding, and so is all that is made of it."""
    J = np.outer([1.0, 2, 3], [5.0, -1, -1])
    found = js.lyapunov_exponents(js.JacobianChain.from_matrices(jnp.tile(jnp.asarray(J), (20, 1, 1))), k=k)
    assert not found.resolved.any()


def test_a_layer_that_removes_all_there_is():
    """Two numbers, their mean and their size removed: nothing is left, whatever rounding says."""
    found = js.spectrum(js.layer_chain([js.layers.LayerNorm(epsilon=0.0)] * 2, jnp.array([0.3, -1.1])))
    assert not (found.resolved & (found.log_singular_values > -jnp.inf)).any()


def test_a_product_that_is_turned(monkeypatch):
    """Columns in their own order make U singular; turned in time, the product keeps its digits and its derivatives."""
    monkeypatch.setattr(recursion, "identity", lambda n, dtype: recursion.start(jnp.eye(n, dtype=dtype)))
    n, T = 21, 61  # of no other test: what is compiled for them has this order
    J, eigenvalues = smoothing("open", n)
    Js = jnp.tile(jnp.asarray(J), (T, 1, 1))
    chain_of = lambda Js: js.JacobianChain.from_matrices(Js, check=False)
    assert _routes.forward(chain_of(Js), (T,))[0].turned_at > 0
    with mp.workdps(30):
        want = np.sort([float(T * mp.log(x)) for x in eigenvalues(J)])[::-1]
    np.testing.assert_allclose(js.log_singular_values(chain_of(Js)), want, atol=1e-10)
    total = lambda Js: jnp.sum(js.log_singular_values(chain_of(Js)) * jnp.arange(1.0, n + 1))
    gradient = jax.jit(jax.grad(total))(Js)
    np.testing.assert_allclose(jnp.sum(gradient * Js, axis=(1, 2)), n * (n + 1) / 2, rtol=1e-9)
    move = jnp.asarray(np.random.default_rng(4).standard_normal(Js.shape))
    forward = jax.jit(lambda: jax.jvp(total, (Js,), (move,))[1])()
    np.testing.assert_allclose(forward, jnp.sum(gradient * move), rtol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("origin", ["start", "end"])
@pytest.mark.parametrize(("first", "want"), [(0.0, -np.inf), (1e-25, 2 * np.log(1e-25) + np.log(1e20))])
def test_a_step_that_is_large_where_the_product_is_faint_or_dead(first, want, origin, dtype):
    """Its size is that on what is left of the product: neither a product of zero nor a faint one is lost to infinities."""
    Js = np.array([np.diag([1.0, first])] * 2 + [np.diag([0.0, 1e20])]).astype(dtype)
    found = js.spectrum(js.JacobianChain.from_matrices(Js), origin=origin)
    assert found.converged
    np.testing.assert_allclose(found.log_singular_values, [want, -np.inf], rtol=1e-5)


@pytest.mark.parametrize("origin", ["start", "end"])
def test_the_error_of_a_product_whose_largest_direction_dies(origin):
    """Its column is exactly zero: a change of it would count e^900-fold, but zeros are not rounded."""
    G, T = np.random.default_rng(3).standard_normal((4, 4)), 20
    for gap in (10.0, 46.0):
        large = np.tile(np.diag(np.exp([gap - 23, 8, -25, -26.5])), (T, 1, 1))
        Js = np.concatenate([large, (G * [0, 1, 1, 1])[None], large[:, ::-1, ::-1]])
        found = js.spectrum(js.JacobianChain.from_matrices(jnp.asarray(Js)), verify=True, origin=origin)
        off = np.abs(found.log_singular_values[:3] - families.reference(Js, 4, 1200)[:3])
        assert found.resolved.all()
        assert (off <= found.error[:3]).all()
        assert found.error.max() < 1e-6
