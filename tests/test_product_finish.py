"""The graded SVD against mpmath: every singular value to a few thousand eps, however far apart they are."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jacspec._product import finish as module
from jacspec._product.finish import finish
from jacspec._product.logs import Logs

ROUNDINGS = 4500  # 1e-12 in float64, 5e-4 in float32


def tolerance(values, dtype=np.float64):
    """Few thousand roundings, and the two that a log of this size is written and compared with."""
    finite = np.abs(values[np.isfinite(values)])
    return np.finfo(dtype).eps * (ROUNDINGS + 2 * max([1.0, *finite]))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def graded(rng, n, spread):
    """Rows of random direction and scales spread evenly, in random order."""
    return -spread * rng.permutation(n) / max(n - 1, 1), unit(rng.standard_normal((n, n)))


def hidden(rng, log_sigma, group):
    """Known singular values, mixed by an orthogonal matrix within each group of consecutive ones."""
    n, rows, logs = len(log_sigma), [], []
    V = orthogonal(rng, n)
    for start in range(0, n, group):
        part = slice(start, min(start + group, n))
        size = part.stop - part.start
        block = orthogonal(rng, size) @ (np.exp(log_sigma[part] - log_sigma[start])[:, None] * V[:, part].T)
        norms = np.linalg.norm(block, axis=1)
        rows.append(block / norms[:, None])
        logs.append(log_sigma[start] + np.log(norms))
    return np.concatenate(logs), np.concatenate(rows)


def dead(problem, rows):
    l, U = problem
    l, U = l.copy(), U.copy()
    l[rows], U[rows] = -np.inf, 0
    return l, U


def cases():
    rng = np.random.default_rng(0)
    steps = np.arange(8)
    return {
        **{f"spread {s}": graded(rng, 8, s) for s in (0, 1, 12, 60, 400, 3000)},
        "one cluster": hidden(rng, -1e-3 * steps, 8),
        "tight cluster": hidden(rng, -1e-9 * steps, 8),
        "clusters far apart": hidden(rng, -50.0 * (steps // 4) - 1e-5 * steps, 4),
        "near-equal pairs": hidden(rng, -9.0 * (steps // 2) - 1e-7 * (steps % 2), 2),
        "near-equal pairs, close": hidden(rng, -1.0 * (steps // 2) - 1e-7 * (steps % 2), 8),
        "exact ties": hidden(rng, -3.0 * (steps // 2), 2),
        "all equal": hidden(rng, 0.0 * steps, 8),
        "orthogonal rows": (-5.0 * steps, orthogonal(rng, 8)),
        "identity": (1.0 * steps, np.eye(8)),
        "nearly dependent": (-2.0 * steps, unit(rng.standard_normal((1, 8)) + 0.1 * rng.standard_normal((8, 8)))),
        "dead rows": dead(graded(rng, 8, 30), [0, 3, 7]),
        "dead rows and ties": dead(hidden(rng, -3.0 * (steps // 2), 2), [1, 4]),
        "one row left": dead(graded(rng, 8, 30), [0, 1, 2, 3, 5, 6, 7]),
        "one by one": (np.array([700.25]), np.array([[-1.0]])),
        "one dead": (np.array([-np.inf]), np.array([[0.0]])),
        "all dead": dead(graded(rng, 8, 30), range(8)),
        "one row": (np.array([3.0]), unit(rng.standard_normal((1, 5)))),
        "wide": (graded(rng, 5, 40)[0], unit(rng.standard_normal((5, 9)))),
        "wide, dead rows": dead((graded(rng, 5, 4)[0], unit(rng.standard_normal((5, 9)))), [2]),
        "huge scales": (5000 + graded(rng, 8, 20)[0], unit(rng.standard_normal((8, 8)))),
    }


CASES = cases()


def digits(l):
    live = l[np.isfinite(l)]
    return 60 + int((np.max(live) - np.min(live)) if live.size else 0)


def exact(l, U):
    """Logs, X, V and live rows of the exact decomposition of the rounded input; call inside mp.workdps."""
    live = [j for j in range(len(l)) if np.isfinite(l[j])]
    A = mp.matrix(len(live), U.shape[1])
    for i, j in enumerate(live):
        for k in range(U.shape[1]):
            A[i, k] = mp.exp(mp.mpf(float(l[j]))) * mp.mpf(float(U[j, k]))
    X, sigma, Vt = mp.svd_r(A)
    order = sorted(range(len(live)), key=lambda i: -sigma[i])
    return [mp.log(sigma[i]) for i in order], X[:, :], Vt, order, live


def oracle(l, U):
    if not np.isfinite(l).any():
        return np.full(len(l), -np.inf)
    with mp.workdps(digits(l)):
        values = [float(v) for v in exact(l, U)[0]]
    return np.array(values + [-np.inf] * (len(l) - len(values)))


def pair(l, dtype=np.float64):
    hi = np.asarray(l, dtype)
    with np.errstate(invalid="ignore"):
        lo = np.where(np.isfinite(hi), np.asarray(l) - hi, 0).astype(dtype)
    return Logs(jnp.asarray(hi), jnp.asarray(lo))


def close(actual, expected, dtype=np.float64):
    np.testing.assert_array_equal(np.isneginf(actual), np.isneginf(expected))
    live = np.isfinite(expected)
    np.testing.assert_allclose(np.asarray(actual, float)[live], expected[live], rtol=0, atol=tolerance(expected, dtype))


def check_vectors(done):
    """Orthonormal where the singular value is not zero, finite elsewhere."""
    live = np.isfinite(done.log_singular_values)
    V = np.asarray(done.right)[:, live]
    assert np.all(np.isfinite(done.right))
    eps = np.finfo(V.dtype).eps
    np.testing.assert_allclose(V.T @ V, np.eye(V.shape[1]), atol=100 * eps)


@pytest.mark.parametrize("name", CASES)
def test_values_agree_with_mpmath(name):
    l, U = CASES[name]
    done = finish(pair(l), jnp.asarray(U))
    assert bool(done.converged), (int(done.sweeps), float(done.largest_cosine))
    close(done.log_singular_values, oracle(l, U))
    check_vectors(done)


@pytest.mark.parametrize("name", [name for name, (_, U) in CASES.items() if U.shape in ((8, 8), (5, 9))])
def test_values_in_float32(name):
    l, U = CASES[name]
    U = U.astype(np.float32)
    logs = pair(l, np.float32)
    done = finish(logs, jnp.asarray(U))
    assert done.log_singular_values.dtype == done.right.dtype == done.largest_cosine.dtype == jnp.float32
    assert bool(done.converged), (int(done.sweeps), float(done.largest_cosine))
    close(done.log_singular_values, oracle(np.asarray(logs.hi, float) + np.asarray(logs.lo, float), U), np.float32)


def test_many_coupled_rows():
    rng = np.random.default_rng(1)
    l, U = graded(rng, 16, 12)
    close(finish(pair(l), jnp.asarray(U)).log_singular_values, oracle(l, U))


def test_small_part_of_the_pair_counts():
    l, U = CASES["spread 12"]
    moved = finish(Logs(jnp.asarray(l), jnp.asarray(np.full(8, 1e-3))), jnp.asarray(U)).log_singular_values
    close(moved - 1e-3, oracle(l, U))


def test_no_rows():
    done = finish(Logs(jnp.zeros(0), jnp.zeros(0)), jnp.zeros((0, 3)))
    assert done.log_singular_values.shape == (0,)
    assert done.right.shape == (3, 0)
    assert bool(done.converged)


def test_more_rows_than_columns_is_an_error():
    with pytest.raises(ValueError, match="at most as many rows"):
        finish(pair(np.zeros(3)), jnp.ones((3, 2)))


def test_right_vectors_agree_with_mpmath():
    l, U = CASES["spread 60"]
    right = np.asarray(finish(pair(l), jnp.asarray(U)).right)
    with mp.workdps(digits(l)):
        _, _, Vt, order, _ = exact(l, U)
        V = np.array([[float(Vt[i, k]) for i in order] for k in range(8)])
    np.testing.assert_allclose(np.abs(np.sum(V * right, axis=0)), 1, atol=1e-13)
    np.testing.assert_allclose(right * np.sign(np.sum(V * right, axis=0)), V, atol=1e-11)


@pytest.mark.parametrize(("n", "spread"), [(40, 3.0), (40, 200.0)])
def test_row_order_and_right_orthogonal_factors_change_nothing(n, spread):
    rng = np.random.default_rng(2)
    l, U = graded(rng, n, spread)
    order = rng.permutation(n)
    plain = finish(pair(l), jnp.asarray(U)).log_singular_values
    turned = finish(pair(l[order]), jnp.asarray(unit(U[order] @ orthogonal(rng, n)))).log_singular_values
    condition = np.linalg.cond(U)  # the rounding of U Q moves log sigma by eps times this
    np.testing.assert_allclose(turned, plain, rtol=0, atol=20 * np.finfo(float).eps * (condition + np.max(-l)))
    np.testing.assert_allclose(jnp.sum(plain), l.sum() + np.linalg.slogdet(U)[1], rtol=1e-13, atol=1e-11)


measure = jax.jit(lambda step, logs, U: module._measure(step, logs, U, 1e-15))


@pytest.mark.parametrize("method", ["_all_at_once", "_in_blocks", "_pair_by_pair"])
@pytest.mark.parametrize("name", ["spread 1", "spread 60", "spread 3000", "clusters far apart", "dead rows"])
def test_one_step_of_each_method_keeps_the_singular_values(method, name):
    l, U = CASES[name]
    rows = measure(jnp.array(1), pair(l), jnp.asarray(U))
    # The generator of rows this strongly coupled is too large for the Cayley transform: shrunk, it is still a rotation.
    shrink = jnp.minimum(1, 0.5 / rows.size)
    rows = rows._replace(generator=rows.generator * shrink, size=rows.size * shrink)
    logs, new = jax.jit(getattr(module, method))(rows)
    if method != "_in_blocks" or name in ("spread 1", "clusters far apart"):  # else a block is one row
        assert not np.allclose(new, rows.U)
    close(oracle(np.asarray(logs.hi + logs.lo), np.asarray(new)), oracle(l, U))


def fresh():
    """The solver, traced anew with the constants of the moment."""
    return jax.jit(lambda *problem: module._solve.__wrapped__(*problem))


@pytest.mark.parametrize(("setting", "value"), [("PAIRWISE_FROM", 0), ("SMALL", 1e-3)])
def test_slow_paths_reach_the_same_values(monkeypatch, setting, value):
    monkeypatch.setattr(module, setting, value)
    solve = fresh()
    for name in ("spread 12", "spread 400", "one cluster", "near-equal pairs", "dead rows"):
        l, U = CASES[name]
        done = solve(pair(l), jnp.asarray(U))
        assert bool(done.converged), (name, int(done.sweeps), float(done.largest_cosine))
        close(done.log_singular_values, oracle(l, U))


def test_giving_up_is_reported(monkeypatch):
    monkeypatch.setattr(module, "MAX_STEPS", 0)
    l, U = CASES["spread 12"]
    done = fresh()(pair(l), jnp.asarray(U))
    assert not bool(done.converged)
    assert int(done.sweeps) == 0
    assert float(done.largest_cosine) > 1e-14


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["hi", "lo", "U"])
def test_input_that_is_not_finite_ends_and_is_reported(bad, where):
    l, U = (x.copy() for x in CASES["spread 12"])
    lo = np.zeros(8)
    {"hi": l, "lo": lo, "U": U[1]}[where][2] = bad
    done = finish(Logs(jnp.asarray(l), jnp.asarray(lo)), jnp.asarray(U))
    assert not bool(done.converged)
    assert np.isnan(done.log_singular_values).all()


def exact_derivative(l, U):
    """x_ji^2 and x_ji e^l_j v_ki / sigma_i: derivatives of log sigma_i in l_j and U_jk."""
    m, n = U.shape
    dl, dU = np.zeros((m, m)), np.zeros((m, m, n))
    with mp.workdps(digits(l)):
        values, X, Vt, order, live = exact(l, U)
        for i, s in enumerate(order):
            for a, j in enumerate(live):
                dl[i, j] = float(X[a, s] ** 2)
                factor = X[a, s] * mp.exp(mp.mpf(float(l[j])) - values[i])
                dU[i, j] = [float(factor * Vt[s, k]) for k in range(n)]
    return dl, dU


SMOOTH = ["spread 0", "spread 12", "spread 400", "one cluster", "nearly dependent", "dead rows", "one row left"]
SMOOTH += ["one by one", "wide", "wide, dead rows", "near-equal pairs", "clusters far apart", "huge scales"]


forward = jax.jit(jax.jacfwd(lambda *a: finish(*a).log_singular_values, argnums=(0, 1)))
reverse = jax.jit(jax.jacrev(lambda *a: finish(*a).log_singular_values, argnums=(0, 1)))


@pytest.mark.parametrize("name", SMOOTH)
def test_derivative_agrees_with_mpmath(name):
    l, U = CASES[name]
    dlogs, dU = reverse(pair(l), jnp.asarray(U))
    exact_dl, exact_dU = exact_derivative(l, U)
    values = oracle(l, U)
    gaps = -np.diff(values[np.isfinite(values)])
    gap = min([1.0, *gaps])  # singular vectors turn by eps / gap
    allowed = 500 * np.finfo(float).eps / gap * max(1, np.max(np.abs(exact_dU)))
    np.testing.assert_allclose(dlogs.hi, exact_dl, atol=allowed)
    np.testing.assert_array_equal(dlogs.hi, dlogs.lo)
    np.testing.assert_allclose(dU, exact_dU, atol=allowed)
    if U.shape == (8, 8):
        for one, other in zip(jax.tree.leaves(forward(pair(l), jnp.asarray(U))), (dlogs.hi, dlogs.lo, dU), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-14 * max(1, np.max(np.abs(other))))


def test_derivative_agrees_with_finite_differences():
    rng = np.random.default_rng(3)
    l, U = CASES["spread 12"]
    dl, dU = rng.standard_normal(8), rng.standard_normal((8, 8))
    tangents = Logs(jnp.asarray(dl), jnp.zeros(8)), jnp.asarray(dU)
    _, actual = jax.jvp(lambda *a: finish(*a).log_singular_values, (pair(l), jnp.asarray(U)), tangents)
    with mp.workdps(80):
        h = mp.mpf(10) ** -20
        sides = []
        for sign in (1, -1):
            A = mp.matrix(8, 8)
            for j in range(8):
                for k in range(8):
                    A[j, k] = mp.exp(mp.mpf(l[j]) + sign * h * mp.mpf(dl[j])) * (U[j, k] + sign * h * mp.mpf(dU[j, k]))
            sides.append(sorted((mp.log(s) for s in mp.svd_r(A, compute_uv=False)), reverse=True))
        expected = [float((p - q) / (2 * h)) for p, q in zip(*sides, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_forward_is_the_transpose_of_reverse_in_a_checkpointed_scan_under_vmap():
    rng = np.random.default_rng(4)
    problems = [CASES["spread 12"], CASES["dead rows"], CASES["spread 400"]]
    logs = jax.tree.map(lambda *x: jnp.stack(x), *[pair(l) for l, _ in problems])
    U = jnp.stack([jnp.asarray(U) for _, U in problems])
    weights = jnp.asarray(rng.standard_normal((3, 8)))

    def total(logs, U):
        def step(carry, weight):
            values = finish(logs, U).log_singular_values
            return carry + jnp.sum(jnp.where(jnp.isfinite(values), values * weight, 0)), None

        return jax.lax.scan(jax.checkpoint(step), 0.0, weights)[0]

    def batch(logs, U):
        return jnp.sum(jax.vmap(total)(logs, U))

    tangents = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), (logs, U))
    _, along = jax.jit(lambda *a: jax.jvp(batch, a, tangents))(logs, U)
    gradient = jax.jit(jax.grad(batch, argnums=(0, 1)))(logs, U)
    across = sum(jnp.sum(g * t) for g, t in zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents), strict=True))
    np.testing.assert_allclose(along, across, rtol=1e-12)
    for i, (l, u) in enumerate(problems):
        alone = jnp.einsum("v,vjk->jk", weights.sum(axis=0), reverse(pair(l), jnp.asarray(u))[1])
        np.testing.assert_allclose(gradient[1][i], alone, atol=1e-12)


def test_only_values_carry_a_derivative():
    l, U = CASES["spread 12"]
    tangents = Logs(jnp.ones(8), jnp.ones(8)), jnp.ones((8, 8))

    def floats(logs, U):
        done = finish(logs, U)
        return done.right, done.largest_cosine

    _, (right, off) = jax.jvp(floats, (pair(l), jnp.asarray(U)), tangents)
    assert not right.any()
    assert not off


@pytest.mark.parametrize("argument", [0, 1])
def test_second_derivative_raises(argument):
    l, U = CASES["spread 12"]
    with pytest.raises(NotImplementedError, match="second derivative"):
        jax.make_jaxpr(jax.hessian(lambda *a: finish(*a).log_singular_values[0], argument))(pair(l), jnp.asarray(U))


def test_vmap_is_a_loop():
    names = ["spread 0", "spread 12", "spread 60", "spread 400", "spread 3000", "dead rows"]
    problems = [CASES[name] for name in names] + [(np.zeros(8), np.eye(8)), dead(CASES["spread 0"], range(8))]
    logs = jax.tree.map(lambda *x: jnp.stack(x), *[pair(l) for l, _ in problems])
    batch = jax.jit(jax.vmap(finish))(logs, jnp.stack([jnp.asarray(U) for _, U in problems]))
    assert len(set(batch.sweeps.tolist())) > 1
    for i, (l, U) in enumerate(problems):
        one = finish(pair(l), jnp.asarray(U))
        close(batch.log_singular_values[i], np.asarray(one.log_singular_values))
        assert bool(batch.converged[i])
