"""What must stay the same, and what must not, when a chain is changed in a way whose effect is known.

Values are drawn, shapes are not: every shape is compiled. Where a relation moves the data by a rounding, the tolerance
is the bound that ``verify=True`` gives for the very chain that was drawn.
"""

import itertools

import families
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jacspec as js

N, T = 4, 12
EPS = np.finfo(np.float64).eps
FAMILIES = ("gauss", "residual", "orth", "near_degenerate", "pairs")
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)]
HORIZONS = (0, 5, T)


def family(names=FAMILIES, n=N, T=T):
    """Chains (T, n, n) of a family and a seed."""
    return st.builds(
        lambda name, seed: getattr(families, name)(np.random.default_rng(seed), n, T), st.sampled_from(names), SEEDS
    )


CHAINS, GAUSS = family(), family(["gauss"])
ROTATIONS = SEEDS.map(lambda seed: families.orth(np.random.default_rng(seed), N, T + 1))
SCALES = st.floats(-60, 60).map(lambda x: float(np.exp(x)))
examples = hypothesis.settings(max_examples=20)


def chain_of(Js, dtype=np.float64):
    return js.JacobianChain.from_matrices(jnp.asarray(np.asarray(Js, dtype)))


def A(Js, dtype=np.float64, **options):
    """Log singular values of the product."""
    return np.asarray(js.log_singular_values(chain_of(Js, dtype), **options))


def B(Js, dtype=np.float64):
    """Lyapunov exponents times T: sums over the steps."""
    return np.asarray(js.lyapunov_exponents(chain_of(Js, dtype)).exponents) * len(Js)


def close(found, want, Js, dtype=np.float64):
    """Whether two spectra differ by no more than rounding the data of `Js` may move them."""
    ulp = np.finfo(dtype).eps / EPS
    bound = 16 * ulp * np.asarray(js.spectrum(chain_of(Js), verify=True).error).max()
    if bound > 1e-7 * ulp:
        hypothesis.assume(False)
    assert np.abs(np.asarray(found) - want).max() <= bound


@pytest.mark.slow
def test_close_can_fail():
    Js = families.gauss(np.random.default_rng(0), N, T)
    close(A(Js), A(Js), Js)
    with pytest.raises(AssertionError):
        close(A(Js) + 1e-6, A(Js), Js)
    with pytest.raises(AssertionError):
        close(A(Js) * np.nan, A(Js), Js)


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(Js=GAUSS, c=SCALES, negative=st.booleans())
def test_a_factor_at_every_step_shifts_both_spectra(dtype, Js, c, negative):
    Js = Js.astype(dtype)
    scaled = (-c if negative else c) * Js
    hypothesis.assume(
        dtype == np.float64 or abs(np.log(c)) < 40
    )  # float32 itself ends at e^-87, its noise floor at e^-65
    shift, tolerance = T * np.log(c), 1e-11 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(A(scaled, dtype), A(Js, dtype) + shift, rtol=0, atol=tolerance)
    np.testing.assert_allclose(B(scaled, dtype), B(Js, dtype) + shift, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(Js=GAUSS, Os=ROTATIONS)
def test_orthogonal_factors_on_either_side(dtype, Js, Os):
    left, right = Js.copy(), Js.copy()
    left[-1], right[0] = Os[0] @ Js[-1], Js[0] @ Os[1]
    for turned in (left, right):
        close(A(turned, dtype), A(Js, dtype), Js, dtype)
    close(B(left, dtype), B(Js, dtype), Js, dtype)


@examples
@given(Js=CHAINS, Os=ROTATIONS)
def test_a_gauge_at_every_step(Js, Os):
    turned = np.stack([Os[t + 1] @ J @ Os[t].T for t, J in enumerate(Js)])
    close(A(turned), A(Js), Js)
    turned[0] = Os[1] @ Js[0]
    close(B(turned), B(Js), Js)


@examples
@given(Js=CHAINS, order=st.permutations(range(N)))
def test_the_order_of_the_hidden_units(Js, order):
    close(A(Js[:, order][:, :, order]), A(Js), Js)


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(Js=GAUSS)
def test_the_reversed_transposed_chain_and_the_other_origin(dtype, Js):
    close(A(Js.swapaxes(1, 2)[::-1], dtype), A(Js, dtype), Js, dtype)
    close(A(Js, dtype, origin="end"), A(Js, dtype), Js, dtype)


def test_exponents_do_not_share_the_symmetries_of_the_product():
    rng = np.random.default_rng(1)
    Js, O = families.gauss(rng, N, T), families.orthogonal(rng, N)
    right = Js.copy()
    right[0] = Js[0] @ O
    order = [2, 0, 3, 1]
    inverse = np.stack([np.linalg.inv(J) for J in Js[::-1]])
    for other in (right, Js[:, order][:, :, order], Js.swapaxes(1, 2)[::-1]):
        assert np.abs(B(other) - B(Js)).max() > 0.1
    assert np.abs(B(inverse) + B(Js)[::-1]).max() > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(Js=GAUSS)
def test_the_sum_is_the_log_determinant(dtype, Js):
    Js = Js.astype(dtype)
    want = sum(np.linalg.slogdet(J.astype(np.float64))[1] for J in Js)
    condition = max(np.linalg.cond(J.astype(np.float64)) for J in Js)
    tolerance = 30 * N * T * np.finfo(dtype).eps * max(1, condition / 100)
    np.testing.assert_allclose(A(Js, dtype).sum(dtype=np.float64), want, rtol=0, atol=tolerance)
    np.testing.assert_allclose(B(Js, dtype).sum(dtype=np.float64), want, rtol=0, atol=tolerance)


@pytest.mark.slow
@examples
@given(Js=CHAINS)
def test_partial_sums_are_submultiplicative_and_bound_the_exponents(Js):
    chain = chain_of(Js)
    head, tail = (js.log_singular_values(chain, at=HORIZONS, origin=origin)[1] for origin in ("start", "end"))
    whole, head, tail = np.cumsum(A(Js)), np.cumsum(head), np.cumsum(tail)
    assert (whole <= head + tail + 1e-9).all()
    assert (np.cumsum(B(Js)) <= whole + 1e-9).all()


@examples
@given(Js=CHAINS)
def test_the_inverse_chain_negates_and_reverses(Js):
    hypothesis.assume(max(np.linalg.cond(J) for J in Js) < 1e3)
    inverse = np.stack([np.linalg.inv(J) for J in Js[::-1]])
    bound = np.asarray(js.spectrum(chain_of(Js), verify=True).error).max() * 1e3
    np.testing.assert_allclose(A(inverse), -A(Js)[::-1], rtol=0, atol=max(bound, 1e-12))


@examples
@given(Js=CHAINS)
def test_the_second_compound_adds_pairs(Js):
    pairs = list(itertools.combinations(range(N), 2))
    minor = lambda J, r, c: J[r[0], c[0]] * J[r[1], c[1]] - J[r[0], c[1]] * J[r[1], c[0]]
    wedge = np.stack([[[minor(J, r, c) for c in pairs] for r in pairs] for J in Js])
    values = A(Js)
    close(A(wedge), np.sort([values[i] + values[j] for i, j in pairs])[::-1], Js)


@pytest.mark.slow
@examples
@given(Js=CHAINS)
def test_horizons_are_windows(Js):
    chain = chain_of(Js)
    start, end = (js.log_singular_values(chain, at=HORIZONS, origin=origin) for origin in ("start", "end"))
    np.testing.assert_allclose(start[1], js.log_singular_values(chain[:5]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(end[1], js.log_singular_values(chain[5:]), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(start[0], 0)
    np.testing.assert_array_equal(end[2], 0)
    history = js.lyapunov_exponents(chain).history
    np.testing.assert_allclose(np.sort(history[:5].sum(0)), np.sort(B(Js[:5])), rtol=0, atol=1e-13)


@pytest.mark.slow
@examples
@given(Js=CHAINS, other=CHAINS)
def test_the_union_of_two_chains_merges_their_spectra(Js, other):
    first, second = Js[:, :2, :2], other[:, 2:, 2:]
    union = np.zeros((T, N, N))
    union[:, :2, :2], union[:, 2:, 2:] = first, second
    hypothesis.assume(np.abs(np.linalg.det(first)).min() > 1e-3)
    hypothesis.assume(np.abs(np.linalg.det(second)).min() > 1e-3)
    for ask in (A, B):
        merged = np.sort(np.concatenate([ask(first), ask(second)]))
        np.testing.assert_allclose(np.sort(ask(union)), merged, rtol=0, atol=1e-9)


@examples
@given(seed=SEEDS, c=st.floats(-2, 2).map(lambda x: float(np.exp(x))))
def test_a_bias_free_relu_network_scales_exactly(seed, c):
    rng = np.random.default_rng(seed)
    W, h = jnp.asarray(rng.standard_normal((N, N))), jnp.asarray(rng.standard_normal(N))
    ask = lambda W: js.spectrum(chain_of(js.jacobian_chain(js.cells.Elman(W, activation="relu"), h, length=T).dense()))
    one, two = ask(W), ask(c * W)
    live = np.isfinite(one.log_singular_values)
    np.testing.assert_array_equal(np.isfinite(two.log_singular_values), live)
    seen = live & np.asarray(one.resolved & two.resolved)
    shift = np.asarray(two.log_singular_values - one.log_singular_values)[seen]
    np.testing.assert_allclose(shift, T * np.log(c), rtol=0, atol=1e-9)


def test_a_tanh_network_does_not_scale():
    rng = np.random.default_rng(0)
    W, h = jnp.asarray(rng.standard_normal((N, N))), jnp.asarray(rng.standard_normal(N))
    ask = lambda W: A(js.jacobian_chain(js.cells.Elman(W), h, length=T).dense())
    assert np.abs(ask(2 * W) - ask(W) - T * np.log(2)).max() > 1


@examples
@given(Js=CHAINS)
def test_appended_identities_change_nothing(Js):
    longer = np.concatenate([Js, np.tile(np.eye(N), (3, 1, 1))])
    np.testing.assert_allclose(A(longer), A(Js), rtol=0, atol=1e-13)
    np.testing.assert_allclose(B(longer), B(Js), rtol=0, atol=1e-13)


@examples
@given(seed=SEEDS)
def test_a_duplicated_unit_adds_a_zero_and_keeps_the_eigenvalues(seed):
    W = np.random.default_rng(seed).standard_normal((3, 3))
    doubled = np.zeros((4, 4))
    doubled[:3, :3], doubled[3, :3] = W, W[2]
    doubled[:, 3] = doubled[:, 2] = doubled[:, 2] / 2
    values = np.linalg.eigvals(W)
    np.testing.assert_allclose(np.sort(np.abs(np.linalg.eigvals(doubled)))[1:], np.sort(np.abs(values)), atol=1e-7)
    found = js.spectrum(chain_of(np.tile(doubled, (T, 1, 1))))
    unseen = np.isneginf(found.log_singular_values) | ~np.asarray(found.resolved)
    assert unseen[-1]
    assert not unseen[0]
    assert int(found.rank) <= 3


@pytest.fixture(scope="module")
def batch():
    return jnp.asarray(np.stack([families.gauss(np.random.default_rng(i), N, T) for i in range(6)]))


@pytest.mark.parametrize("ask", [A, B])
def test_batches_jit_and_vmap_change_a_few_ulp_at_most(batch, ask):
    question = {A: js.log_singular_values, B: lambda chain: js.lyapunov_exponents(chain).exponents * T}[ask]
    one = lambda Js: question(js.JacobianChain.from_matrices(Js))
    alone, many = np.stack([one(Js) for Js in batch]), jax.jit(jax.vmap(one))
    few_ulp = 64 * EPS * np.abs(alone).max() * T
    np.testing.assert_allclose(many(batch), alone, rtol=0, atol=few_ulp)
    np.testing.assert_allclose(jax.jit(one)(batch[0]), alone[0], rtol=0, atol=few_ulp)
    order = np.array([4, 0, 5, 2, 1, 3])
    np.testing.assert_array_equal(many(batch[order]), np.asarray(many(batch))[order])


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1e-3, 1e-9, 0.0])
def test_the_leading_values_are_the_head_of_all_even_in_a_cluster(spread):
    n, length, k = 40, 6, 3
    rng = np.random.default_rng(3)
    Os = families.orth(rng, n, length + 1)
    rates = np.concatenate([spread * rng.standard_normal(6), -0.3 - 2 * rng.random(n - 6)])
    Js = np.stack([Os[t + 1] @ np.diag(np.exp(rates)) @ Os[t].T for t in range(length)])
    found, every = js.spectrum(chain_of(Js), k=k), js.spectrum(chain_of(Js))
    assert bool(found.converged)
    np.testing.assert_allclose(found.log_singular_values, every.log_singular_values[:k], rtol=0, atol=1e-9)
    np.testing.assert_allclose(every.log_singular_values[:k], length * np.sort(rates)[::-1][:k], rtol=0, atol=1e-11)


# closed forms


@pytest.mark.parametrize("dtype", DTYPES)
def test_closed_forms(dtype):
    rng, eps = np.random.default_rng(4), np.finfo(dtype).eps
    d = rng.uniform(-3, 1, (T, N))
    rotation = np.kron(np.eye(2), [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    total = np.sort(d.sum(0))[::-1]
    table = {
        "identity": (np.tile(np.eye(N), (T, 1, 1)), np.zeros(N), 0),
        "permutation": (np.stack([np.eye(N)[rng.permutation(N)] for _ in range(T)]), np.zeros(N), 0),
        "orthogonal": (families.orth(rng, N, T), np.zeros(N), 20),
        "rotation and scale": (np.tile(0.7 * rotation, (T, 1, 1)), np.full(N, T * np.log(0.7)), 20),
        "diagonal": (np.stack([np.diag(np.exp(row)) for row in d]), total, 20),
    }
    for name, (Js, want, c) in table.items():
        np.testing.assert_allclose(A(Js, dtype), want, rtol=0, atol=c * T * eps, err_msg=name)
        np.testing.assert_allclose(np.sort(B(Js, dtype))[::-1], want, rtol=0, atol=c * T * eps, err_msg=name)


@pytest.mark.parametrize("activation", ["linear", "tanh", "sigmoid", "elu", "gelu", "swish", "softplus", "erf"])
def test_one_unit_is_a_sum_of_logs(activation):
    f = js.activations.get(activation)

    @jax.jit
    def ask(w, h):
        cell = js.cells.Elman(w.reshape(1, 1), None, None, activation=activation)
        chain = js.jacobian_chain(cell, h.reshape(1), length=T)
        slopes = jax.vmap(lambda h: f.log_derivative(w * h[0])[0])(chain.states[:-1])
        return js.log_singular_values(chain)[0], jnp.log(jnp.abs(w)) + slopes

    for w in (0.5, -0.9, 1.7):
        for h in (0.1, -2.0):
            found, terms = ask(jnp.asarray(w), jnp.asarray(h))
            ulps = 4 * EPS * np.maximum(np.abs(np.asarray(terms)), 1).sum()
            assert abs(float(found) - float(np.sum(np.asarray(terms, np.longdouble)))) <= ulps


@examples
@given(seed=SEEDS)
def test_a_linear_network_is_a_power_of_its_weight(seed):
    rng = np.random.default_rng(seed)
    Q, d = families.orthogonal(rng, N), np.sort(rng.uniform(-1, 1, N))[::-1]
    W = Q @ np.diag(np.exp(d)) @ Q.T
    cell = js.cells.Elman(jnp.asarray(W), activation="linear")
    found = A(js.jacobian_chain(cell, jnp.ones(N), length=T).dense())
    np.testing.assert_allclose(found, T * d, rtol=0, atol=1e-12 * np.exp(np.ptp(d) * T / 4))


@pytest.mark.slow
def test_layer_norm_has_one_zero_and_the_gain():
    h = np.random.default_rng(5).standard_normal(5)
    for dtype in (np.float64, np.float32):
        for epsilon in (0.0, 1e-3):
            found = js.spectrum(js.layer_chain([js.layers.LayerNorm(epsilon=epsilon)], jnp.asarray(h.astype(dtype))))
            values, s = np.asarray(found.log_singular_values), np.sqrt(np.var(h) + epsilon)
            tolerance = 100 * np.finfo(dtype).eps
            np.testing.assert_allclose(values[:3], -np.log(s), rtol=0, atol=tolerance)
            zeros = values[4:] if epsilon else values[3:]
            doubt = ~np.asarray(found.resolved)[-len(zeros) :]
            assert (np.isneginf(zeros) | doubt).all()
            assert int(found.rank) == 5 - len(zeros)
            if epsilon:
                np.testing.assert_allclose(values[3], np.log(epsilon / s**3), rtol=0, atol=tolerance * s**2 / epsilon)


def test_batch_norm_has_the_gain_the_small_value_and_a_zero_for_each_feature():
    H, epsilon = np.random.default_rng(6).standard_normal((5, 2)) * [1.0, 3.0], 1e-3
    found = js.spectrum(js.layer_chain([js.layers.BatchNorm(epsilon=epsilon)], jnp.asarray(H)))
    s = np.sqrt(H.var(axis=0) + epsilon)
    want = np.sort(np.concatenate([np.repeat(-np.log(s), 3), np.log(epsilon / s**3)]))[::-1]
    np.testing.assert_allclose(found.log_singular_values[:8], want, rtol=0, atol=1e-10)
    assert (np.isneginf(found.log_singular_values[8:]) | ~np.asarray(found.resolved)[8:]).all()
    assert int(found.rank) == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_saturated_tanh_is_tiny_and_not_zero(dtype):
    @jax.jit
    def ask(b):
        cell = js.cells.Elman(jnp.eye(3, dtype=dtype), None, b)
        return js.spectrum(js.jacobian_chain(cell, jnp.zeros(3, dtype), length=3))

    for a in (5.0, 20.0, 40.0, 60.0, 79.0):
        b = np.array([a, -a, 0.5 * a])
        found = ask(jnp.asarray(b, dtype))
        h, want = np.zeros(3), np.zeros(3)
        for _ in range(3):
            pre = h + b
            want += 2 * (np.log(2) - np.abs(pre) - np.log1p(np.exp(-2 * np.abs(pre))))
            h = np.tanh(pre)
        values, resolved = np.asarray(found.log_singular_values), np.asarray(found.resolved)
        assert not np.isneginf(values[resolved]).any()
        np.testing.assert_allclose(values[resolved], np.sort(want)[::-1][resolved], rtol=20 * np.finfo(dtype).eps)
        if dtype == np.float64:
            assert resolved.all()
        else:
            assert (values[~resolved] >= np.sort(want)[::-1][~resolved] - 1e-3).all()  # an upper bound


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float64, 1e300), (np.float32, 1e30), (np.float64, 1e-200), (np.float32, 1e-25)]
)
def test_steps_whose_squares_leave_the_range_of_the_dtype(dtype, scale):
    Js = families.gauss(np.random.default_rng(7), N, T).astype(dtype)
    shift, tolerance = T * np.log(float(dtype(scale))), 100 * T * T * np.log(1e300) * np.finfo(dtype).eps
    np.testing.assert_allclose(A(dtype(scale) * Js, dtype), A(Js, dtype) + shift, rtol=0, atol=tolerance)
    np.testing.assert_allclose(B(dtype(scale) * Js, dtype), B(Js, dtype) + shift, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "scales"), [(np.float64, (1e300, 1e-300)), (np.float32, (1e30, 1e-30))])
def test_gradients_of_steps_whose_squares_leave_the_range_of_the_dtype(dtype, scales):
    """Each question is homogeneous in every step: sum_ij J_ij d/dJ_ij gives its degree."""
    Js = families.gauss(np.random.default_rng(7), N, T).astype(dtype)
    for ask, degree in (
        (lambda chain: jnp.sum(js.log_singular_values(chain)), N),
        (lambda chain: js.log_gradient_norms(chain, jnp.ones(N, dtype))[0], 1),
        (lambda chain: chain.push(jnp.ones(N, dtype))[1], 1),
    ):
        slope = jax.jit(jax.grad(lambda Js, ask=ask: ask(js.JacobianChain.from_matrices(Js, check=False))))
        for scale in scales:
            steps = dtype(scale) * Js
            found = jnp.sum(slope(jnp.asarray(steps)) * steps, axis=(1, 2))
            np.testing.assert_allclose(found, degree, rtol=1e4 * np.finfo(dtype).eps)
