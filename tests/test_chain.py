"""The chain: whatever the route, the same ordered Jacobians of the same trajectory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import jacspec as js

N, M, T = 5, 3, 7


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    cell = js.cells.Elman(0.6 * draw(N, N), draw(N, M), draw(N))
    return cell, draw(N), draw(T, M)


def unrolled(step, h, xs):
    for x in xs:
        h = step(h, x)
    return h


def test_the_dense_chain_is_the_jacobian_of_every_step(parts):
    cell, h0, xs = parts
    chain = js.jacobian_chain(cell, h0, xs)
    for t, J in enumerate(chain.dense()):
        np.testing.assert_allclose(J, jax.jacobian(cell)(chain.states[t], xs[t]), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(chain.states[-1], unrolled(cell, h0, xs), rtol=1e-14)


@pytest.mark.parametrize("store", [True, False])
def test_autodiff_and_analytic_are_the_same_chain(parts, store):
    cell, h0, xs = parts
    analytic = js.jacobian_chain(cell, h0, xs, jacobian="analytic")
    autodiff = js.jacobian_chain(cell, h0, xs, jacobian="autodiff", store=store)
    closure = js.jacobian_chain(lambda h, x: jnp.tanh(cell.W @ h + cell.U @ x + cell.b), h0, xs, store=store)
    assert (analytic.store, autodiff.store) == ("states", "matrices" if store else "states")
    for other in (autodiff, closure):
        np.testing.assert_allclose(other.dense(), analytic.dense(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(js.log_singular_values(other), js.log_singular_values(analytic), atol=1e-10)


def test_push_and_pull_are_the_product_and_its_transpose(parts):
    cell, h0, xs = parts
    chain = js.jacobian_chain(cell, h0, xs)
    P = jax.jacobian(lambda h: unrolled(cell, h, xs))(h0)
    rng = np.random.default_rng(1)
    for verb, matrix in ((chain.push, P), (chain.pull, P.T)):
        V = jnp.asarray(rng.standard_normal((N, 2)))
        unit, log = verb(V)
        np.testing.assert_allclose(unit * jnp.exp(log), matrix @ V, rtol=1e-12)
        np.testing.assert_allclose(jnp.linalg.norm(unit, axis=0), 1, rtol=1e-14)
        one, scale = verb(V[:, 0])
        assert (one.shape, scale.shape) == ((N,), ())


def test_push_beyond_the_range_of_floating_point():
    chain = js.JacobianChain.from_factors(jnp.full((5000, 2), 1e-3), 10 * jnp.eye(2))
    unit, log = chain.push(jnp.ones(2))
    np.testing.assert_allclose(log, 5000 * np.log(1e-2) + 0.5 * np.log(2), rtol=1e-13)
    np.testing.assert_allclose(unit, np.sqrt(0.5), rtol=1e-13)
    assert chain.push(jnp.zeros(2))[1] == -jnp.inf


def test_factors_are_the_diagonal_on_the_left():
    rng = np.random.default_rng(2)
    d, W = jnp.asarray(rng.standard_normal((4, 3))), jnp.asarray(rng.standard_normal((3, 3)))
    chain = js.JacobianChain.from_factors(d, W)
    np.testing.assert_allclose(chain.dense(), d[:, :, None] * W, rtol=1e-15)
    assert chain.store == "factors"
    given = js.JacobianChain.from_matrices(chain.dense())
    np.testing.assert_allclose(js.log_singular_values(chain), js.log_singular_values(given), atol=1e-12)
    one = js.log_singular_values(js.JacobianChain.from_factors(d[:1], W))
    np.testing.assert_allclose(one, np.log(np.linalg.svd(np.diag(d[0]) @ W, compute_uv=False)), atol=1e-13)


def test_a_weight_changed_between_two_calls_changes_the_answer(parts):
    _, h0, xs = parts
    weights = {"W": np.eye(N), "scale": 1.0}
    step = lambda h, x: jnp.tanh(weights["scale"] * (jnp.asarray(weights["W"]) @ h)) + 0 * x.sum()
    ask = lambda: np.asarray(js.log_singular_values(js.jacobian_chain(step, 0 * h0, xs, store=False)))
    before = ask()
    weights["W"][:] *= 2
    np.testing.assert_allclose(ask() - before, T * np.log(2), rtol=1e-12)
    weights["scale"] = 0.5
    np.testing.assert_allclose(ask(), before, atol=1e-12)


def test_an_nnx_module_in_a_closure_is_read_anew():
    cell = nnx.SimpleCell(2, 3, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    step = lambda h, x: cell(h, x)[0]
    ask = lambda: js.log_singular_values(js.jacobian_chain(step, jnp.zeros(3), jnp.zeros((6, 2))))
    before = ask()
    cell.dense_h.kernel[...] = 3 * cell.dense_h.kernel[...]
    np.testing.assert_allclose(ask() - before, 6 * np.log(3), rtol=1e-12)


def test_states_are_pytrees(parts):
    _, _, xs = parts
    rng = np.random.default_rng(3)
    W = {"a": jnp.asarray(rng.standard_normal((2, 2))), "b": jnp.asarray(rng.standard_normal((2, 2, 2)))}

    def step(h, x):
        a = jnp.tanh(W["a"] @ h["a"] + h["b"].sum() + x[:2])
        return {"a": a, "b": jnp.sin(W["b"] @ a)}

    h0 = {"a": jnp.ones(2), "b": jnp.zeros((2, 2))}
    chain = js.jacobian_chain(step, h0, xs)
    flat, unravel = ravel_pytree(h0)
    P = jax.jacobian(lambda v: ravel_pytree(unrolled(step, unravel(v), xs))[0])(flat)
    V = jnp.eye(6)
    unit, log = chain.push(V)
    np.testing.assert_allclose(unit * jnp.exp(log), P, atol=1e-13)
    assert chain.states["b"].shape == (T + 1, 2, 2)
    assert js.adjoints(chain, h0).directions["a"].shape == (T + 1, 2)


def test_depth_is_the_same_call(parts):
    _, h0, _ = parts
    weights = jnp.asarray(np.random.default_rng(4).standard_normal((6, N, N)))
    step = lambda h, W: jnp.tanh(W @ h)
    P = jax.jacobian(lambda h: unrolled(step, h, weights))(h0)
    over_weights = js.jacobian_chain(step, h0, weights)
    over_layers = js.layer_chain([js.layers.Dense(W, activation="tanh") for W in weights], h0)
    for chain in (over_weights, over_layers):
        np.testing.assert_allclose(chain.push(jnp.eye(N))[0] * jnp.exp(chain.push(jnp.eye(N))[1]), P, atol=1e-13)
    np.testing.assert_allclose(js.log_singular_values(over_layers), js.log_singular_values(over_weights), atol=1e-11)


def test_widths_may_change():
    rng = np.random.default_rng(5)
    weights = [jnp.asarray(rng.standard_normal(s)) for s in ((6, 4), (3, 6), (7, 3), (7, 7))]
    layers = [js.layers.Dense(weights[0], activation="tanh"), lambda h: jnp.sin(weights[1] @ h)]
    layers += [js.layers.Dense(W) for W in weights[2:]]
    x = jnp.asarray(rng.standard_normal(4))
    P = jax.jacobian(lambda h: [h := layer(h) for layer in layers][-1])(x)
    chain = js.layer_chain(layers, x)
    assert chain.store == "operators"
    assert (chain.shape, chain.rank_bound, chain.length) == ((7, 4), 3, 4)
    want = np.append(np.log(np.linalg.svd(P, compute_uv=False)[:3]), -np.inf)  # rank 3 of (7, 4)
    np.testing.assert_allclose(js.log_singular_values(chain), want, atol=1e-12)
    np.testing.assert_allclose(js.log_singular_values(chain, origin="end"), want, atol=1e-12)
    assert [J.shape for J in chain.dense()] == [(6, 4), (3, 6), (7, 3), (7, 7)]
    early = js.log_singular_values(chain[:2])  # (3, 4); beside the whole product, (7, 4), a horizon has 4 values
    np.testing.assert_allclose(js.log_singular_values(chain, at=[2, 4])[0], [*early, -np.inf], atol=1e-13)


def test_windows(parts):
    cell, h0, xs = parts
    chain = js.jacobian_chain(cell, h0, xs)
    np.testing.assert_allclose(chain[2:5].dense(), chain.dense()[2:5], rtol=1e-15)
    assert chain[2:5].states.shape == (4, N)
    assert chain[3:3].length == 0


def test_stacked_over_time_and_over_depth():
    rng = np.random.default_rng(6)
    layers = {"W": jnp.asarray(0.5 * rng.standard_normal((3, 4, 4))), "V": jnp.asarray(rng.standard_normal((3, 4, 4)))}
    cell = lambda h, x, p: jnp.tanh(p["W"] @ h + p["V"] @ x)
    xs = jnp.asarray(rng.standard_normal((5, 4)))
    layer = lambda i: jax.tree.map(lambda a: a[i], layers)

    by_time = js.jacobian_chain(
        js.stack(*(lambda h, x, i=i: cell(h, x, layer(i)) for i in range(3))), (jnp.zeros(4),) * 3, xs
    )
    by_depth = js.jacobian_chain(js.over_time(cell), xs, layers)
    np.testing.assert_allclose(by_time.states[2], by_depth_states(by_depth), atol=1e-14)
    blocks = by_time.dense().reshape(5, 3, 4, 3, 4)
    assert jnp.abs(blocks[:, 0, :, 1:]).max() == 0  # no layer hears the one above
    below = by_depth.dense().reshape(3, 5, 4, 5, 4)
    assert jnp.abs(below[:, 0, :, 1:]).max() == 0  # no time hears the one after


def by_depth_states(chain):
    """The last layer's states with the zero state in front, as `stack` counts them."""
    return jnp.concatenate([jnp.zeros((1, 4)), chain.states[-1]])


def test_stack_passes_the_output_of_a_gated_cell():
    rng = np.random.default_rng(7)
    draw = lambda *shape: jnp.asarray(0.4 * rng.standard_normal(shape))
    first, second = js.cells.LSTM(draw(4, 3, 3), draw(4, 3, 2)), js.cells.Elman(draw(4, 4), draw(4, 3))
    pair = (jnp.zeros(3), jnp.zeros(3))
    chain = js.jacobian_chain(js.stack(first, second), (pair, jnp.zeros(4)), draw(6, 2))
    assert chain.dense().shape == (6, 10, 10)
    alone = js.jacobian_chain(first, pair, jnp.zeros((6, 2)))
    assert alone.store == "states"


def test_one_product_with_the_shared_weight_for_the_whole_batch():
    cell = js.cells.Elman(jnp.eye(16), jnp.ones((16, 2)), jnp.zeros(16))
    ask = lambda h0, xs: js.batched(js.log_singular_values, cell, h0, xs)
    h0, xs = jnp.zeros((8, 16)), jnp.ones((8, 5, 2))
    text = jax.jit(ask).lower(h0, xs).as_text()
    products = [
        line for line in text.splitlines() if "dot_general" in line and "tensor<16x16xf64>, tensor<8x16x16xf64>" in line
    ]
    assert products, "the shared (16, 16) weight meets the (8, 16, 16) block in one dot_general"
    assert all("batching_dims" not in line for line in products)
    single = js.log_singular_values(js.jacobian_chain(cell, h0[0], xs[0]))
    np.testing.assert_allclose(ask(h0, xs), jnp.tile(single, (8, 1)), atol=1e-12)


def test_an_analytic_chain_keeps_no_matrix():
    length, n = 300, 20
    cell = js.cells.Elman(jnp.eye(n), None, jnp.zeros(n))
    chain = js.jacobian_chain(cell, jnp.zeros(n), length=length, store=True)
    kept = sum(leaf.size for leaf in jax.tree.leaves(chain))
    assert kept <= (length + 1) * n + n * n + n + 2


def test_jit_vmap_and_grad_from_outside(parts):
    cell, h0, xs = parts
    ask = lambda W, h: js.log_singular_values(js.jacobian_chain(js.cells.Elman(W, cell.U, cell.b), h, xs))
    direct = ask(cell.W, h0)
    np.testing.assert_allclose(jax.jit(ask)(cell.W, h0), direct, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(ask, (None, 0))(cell.W, jnp.stack([h0, 2 * h0]))[0], direct, atol=1e-12)


def test_the_state_takes_the_dtype_the_step_returns():
    cell = js.cells.Elman(jnp.eye(3))
    assert js.jacobian_chain(cell, jnp.zeros(3, jnp.float32), length=2).states.dtype == jnp.float64
    with pytest.warns(UserWarning, match="narrows the state from float64 to float32"):
        js.jacobian_chain(lambda h, x: h.astype(jnp.float32), jnp.zeros(3), length=2)


@pytest.mark.parametrize("make", [jnp.asarray, list], ids=["array", "list"])
def test_a_window_of_given_matrices_has_no_nan_but_its_own(make):
    Js = make(jnp.ones((4, 1, 1)).at[jnp.array([0, 2])].set(jnp.nan))
    chain = js.JacobianChain.from_matrices(Js, check=False)
    assert [int(chain[s:t].first_nonfinite) for s, t in ((0, 4), (0, 1), (1, 2), (1, 4), (3, 4), (2, 2))] == [
        1,
        1,
        -1,
        2,
        -1,
        -1,
    ]
    assert js.log_singular_values(chain[1:2]).tolist() == [0]


def test_one_rectangular_matrix_is_a_chain():
    J = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 2)))
    chain = js.JacobianChain.from_matrices(J)
    np.testing.assert_allclose(js.log_singular_values(chain), np.log(np.linalg.svd(J[0])[1]), atol=1e-14)
    assert chain[1:].shape == (3, 3)
    with pytest.raises(ValueError, match="do not follow"):
        js.JacobianChain.from_matrices(J[:0])


@pytest.mark.parametrize("jacobian", ["auto", "autodiff"])
def test_a_layer_that_is_a_pytree_takes_its_state_alone(jacobian):
    layer = jax.tree_util.Partial(lambda W, h: jnp.tanh(W @ h), jax.random.normal(jax.random.key(0), (3, 2)))
    widening = js.layer_chain([layer, jnp.sin], jnp.ones(2), jacobian=jacobian)
    expected = jax.jacobian(lambda h: jnp.sin(layer(h)))(jnp.ones(2))
    np.testing.assert_allclose(
        widening.push(jnp.eye(2))[0] * jnp.exp(widening.push(jnp.eye(2))[1]), expected, rtol=1e-12
    )


def test_a_fold_over_changing_widths_takes_a_list_or_a_leading_axis():
    chain = js.JacobianChain.from_matrices([jnp.ones((3, 2)), jnp.ones((4, 3))])
    take = lambda carry, J, x: (carry, x)
    several = [jnp.ones(3), 2 * jnp.ones(4)]
    for one, expected in zip(chain.fold(take, (), xs=several)[1], several, strict=True):
        np.testing.assert_array_equal(one, expected)
    assert [float(x) for x in chain.fold(take, (), xs=jnp.arange(2.0), reverse=True)[1]] == [0, 1]
    for few in (several[:1], jnp.arange(1.0)):
        with pytest.raises(ValueError, match=r"'xs' does not fit.*expected T=2 entries"):
            chain.fold(take, (), xs=few)


def test_what_a_user_gets_where_widths_change_is_a_plain_list():
    chain = js.layer_chain([js.layers.Dense(jnp.ones((3, 2))), js.layers.Dense(jnp.ones((4, 3)))], jnp.ones(2))
    outs = chain.fold(lambda carry, J, _: (carry, J.dense()), ())[1]
    for found in (chain.states, chain.dense(), outs, js.adjoints(chain, jnp.ones(4)).directions):
        assert type(found) is list
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), chain.dense(), [jnp.ones((3, 2)), jnp.ones((4, 3))])
