"""Gradients by time, by layer and by parameter, against autodiff where floats reach and closed forms beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacspec as js

RNG = np.random.default_rng(0)
N, M, T = 5, 3, 25


def draw(*shape, scale=1.0):
    return jnp.asarray(scale * RNG.standard_normal(shape))


CELL = js.cells.Elman(draw(N, N, scale=0.5), draw(N, M), draw(N))
H0, XS, U = draw(N), draw(T, M), draw(N)


def final(cell, h0, xs):
    return jax.lax.scan(lambda h, x: (cell(h, x), None), h0, xs)[0]


def every(cell, h0, xs):
    return jnp.concatenate([h0[None], jax.lax.scan(lambda h, x: (cell(h, x),) * 2, h0, xs)[1]])


def test_adjoints_of_a_loss_at_the_end():
    found = js.adjoints(js.jacobian_chain(CELL, H0, XS), U)

    def loss(nudges):  # nudges[t] is added to h_t: the gradient with respect to it is dE/dh_t
        step = lambda h, given: (CELL(h, given[0]) + given[1], None)
        return U @ jax.lax.scan(step, H0 + nudges[0], (XS, nudges[1:]))[0]

    want = jax.grad(loss)(jnp.zeros((T + 1, N)))
    np.testing.assert_allclose(found.directions * jnp.exp(found.log_norms)[:, None], want, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(js.log_gradient_norms(js.jacobian_chain(CELL, H0, XS), U), found.log_norms)


def test_adjoints_of_a_loss_at_every_step():
    weights = draw(T + 1, N)
    found = js.adjoints(js.jacobian_chain(CELL, H0, XS), weights)
    want = jax.grad(lambda h: jnp.sum(weights * every(CELL, h, XS)))(H0)
    np.testing.assert_allclose(found.directions[0] * jnp.exp(found.log_norms[0]), want, rtol=1e-12)
    only_first = jnp.zeros((T + 1, N)).at[3].set(U)
    norms = js.log_gradient_norms(js.jacobian_chain(CELL, H0, XS), only_first)
    assert (norms[4:] == -jnp.inf).all()
    np.testing.assert_allclose(norms[3], jnp.log(jnp.linalg.norm(U)), rtol=1e-12)


@pytest.mark.parametrize("rate", [1e-3, 1e3])
def test_beyond_the_range_of_floating_point(rate):
    length = 2000
    cell = js.cells.Elman(rate * jnp.eye(2), None, None, activation="linear")
    chain = js.JacobianChain.from_factors(jnp.ones((length, 2)), rate * jnp.eye(2))
    norms = js.log_gradient_norms(chain, jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(norms, np.log(5) + np.log(rate) * np.arange(length, -1, -1), rtol=1e-12)
    # h stays 0, so W gets nothing, b everything: sum_i rate^(T-i)
    biased = js.cells.Elman(cell.W, None, jnp.zeros(2), activation="linear")
    found = js.parameter_gradient_norms(biased, jnp.zeros(2), None, jnp.array([3.0, 4.0]), length=length)
    want = np.log(5) + (length * np.log(rate) - np.log(rate - 1) if rate > 1 else -np.log(1 - rate))
    np.testing.assert_allclose(found.step.b, want, rtol=1e-12)
    assert -jnp.inf == found.step.W


def test_the_summands_add_up_to_the_gradient():
    terms = js.parameter_gradient_by_lag(CELL, H0, XS, U, terms=True)
    want = jax.grad(lambda cell: U @ final(cell, H0, XS))(CELL)
    total = jax.tree.map(lambda term: jnp.tensordot(jnp.exp(terms.log_norms), term, 1), terms.terms)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14), total, want)
    states = every(CELL, H0, XS)
    for i in (1, T):  # the immediate part is diag(f'(a_i)) (x) h_{i-1}
        g = jax.grad(lambda h, i=i: U @ final(CELL, h, XS[i:]))(states[i])
        slope = CELL.f.derivative(CELL.preactivation(states[i - 1], XS[i - 1]))
        np.testing.assert_allclose(
            terms.terms.W[i - 1] * jnp.exp(terms.log_norms[i - 1]), jnp.outer(slope * g, states[i - 1]), rtol=1e-11
        )
        np.testing.assert_allclose(terms.by_parameter.b[i - 1], jnp.log(jnp.linalg.norm(slope * g)), rtol=1e-11)
    assert js.parameter_gradient_by_lag(CELL, H0, XS, U).terms is None


def test_a_summand_that_is_exactly_zero_has_terms_of_zero():
    """At the third step every unit is dead: what was before gets nothing, in numbers and not in NaN."""
    cell = js.cells.Elman(CELL.W, jnp.eye(N), CELL.b, activation="relu")
    xs = jnp.asarray(np.random.default_rng(1).standard_normal((T, N))).at[2].set(-100.0)
    found = js.parameter_gradient_by_lag(cell, H0, xs, U, terms=True)
    dead = found.log_norms == -jnp.inf
    assert dead[:3].all()
    assert found.resolved[:3].all()
    for term in jax.tree.leaves(found.terms):
        assert jnp.isfinite(term).all()
        assert (term[:3] == 0).all()
    want = jax.grad(lambda cell: U @ final(cell, H0, xs))(cell)
    total = jax.tree.map(lambda term: jnp.tensordot(jnp.exp(found.log_norms), term, 1), found.terms)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14), total, want)


def test_the_summands_of_a_closure_are_those_of_what_it_captures():
    step = lambda h, x: jnp.tanh(CELL.W @ h + CELL.U @ x + CELL.b)
    closure = js.parameter_gradient_by_lag(step, H0, XS, U)
    np.testing.assert_allclose(closure.log_norms, js.parameter_gradient_by_lag(CELL, H0, XS, U).log_norms, rtol=1e-11)


def test_norms_over_time_and_by_driver():
    found = js.parameter_gradient_norms(CELL, H0, XS, U)
    want, by_input = jax.grad(lambda cell, xs: U @ final(cell, H0, xs), (0, 1))(CELL, XS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, jnp.log(jnp.linalg.norm(b)), rtol=1e-11), found.step, want)
    np.testing.assert_allclose(found.drivers, jnp.log(jnp.linalg.norm(by_input, axis=1)), rtol=1e-10)


def test_norms_over_depth_by_either_route():
    weights = draw(6, N, N)
    step = lambda h, W: jnp.tanh(W @ h)
    gradient = jax.grad(lambda W: U @ jax.lax.scan(lambda h, w: (step(h, w), None), H0, W)[0])(weights)
    want = jnp.log(jnp.linalg.norm(gradient, axis=(1, 2)))
    np.testing.assert_allclose(js.parameter_gradient_norms(step, H0, weights, U).driver_totals, want, rtol=1e-11)
    layers = [js.layers.Dense(W, activation="tanh") for W in weights]
    found = js.parameter_gradient_norms(layers, H0, cotangent=U)
    np.testing.assert_allclose(found.step_total, want, rtol=1e-11)
    np.testing.assert_allclose(found.step[2].W, want[2], rtol=1e-11)
    mixed = [*layers[:3], js.layers.Dense(draw(2, N)), lambda h: 2 * h]
    by_layer = js.parameter_gradient_norms(mixed, H0, cotangent=jnp.ones(2)).step_total
    assert by_layer.shape == (5,)
    assert by_layer[-1] == -jnp.inf  # a layer without parameters


def test_gradients_of_a_gated_state_cover_cell_and_hidden():
    cell = js.cells.LSTM(draw(4, 3, 3, scale=0.5), draw(4, 3, M), draw(4, 3))
    h0 = (draw(3), draw(3))
    cotangent = (jnp.zeros(3), jnp.ones(3))
    found = js.adjoints(js.jacobian_chain(cell, h0, XS), cotangent)
    want = jax.grad(lambda h: jnp.sum(jax.lax.scan(lambda h, x: (cell(h, x), None), h, XS)[0][1]))(h0)
    for part, direction in zip(want, found.directions, strict=True):
        np.testing.assert_allclose(direction[0] * jnp.exp(found.log_norms[0]), part, rtol=1e-10)


def test_log_norms_lie_between_the_singular_values():
    chain = js.jacobian_chain(CELL, H0, XS)
    norms = js.log_gradient_norms(chain, U / jnp.linalg.norm(U))
    spectra = js.log_singular_values(chain, at=range(T + 1), origin="end")
    assert (norms <= spectra[:, 0] + 1e-9).all()
    assert (norms >= spectra[:, -1] - 1e-9).all()


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
def test_a_parameter_that_acted_long_ago_is_tiny_and_not_zero(dtype):
    """h' = tanh(.3 h + U x + .1) with x at the first step alone: U acted once, and W and b to the end."""
    one, xs = jnp.ones(1, dtype), jnp.zeros((1000, 1), dtype).at[0].set(1)

    def total(U):
        cell = js.cells.Elman(jnp.full((1, 1), 0.3, dtype), U, jnp.full(1, 0.1, dtype))
        found = js.parameter_gradient_norms(cell, jnp.zeros(1, dtype), xs, one)
        adjoint = js.log_gradient_norms(js.jacobian_chain(cell, jnp.zeros(1, dtype), xs), one)[1]
        return found.step.U, adjoint + jnp.log(1 - jnp.tanh(U[0, 0] + dtype(0.1)) ** 2)

    found, want = total(jnp.ones((1, 1), dtype))
    assert found < -1000
    np.testing.assert_allclose(found, want, rtol=1e3 * np.finfo(dtype).eps)
    slope, other = (jax.grad(lambda U, i=i: total(U)[i])(jnp.ones((1, 1), dtype)) for i in (0, 1))
    np.testing.assert_allclose(slope, other, rtol=1e5 * np.finfo(dtype).eps)


@pytest.mark.parametrize("bias", [5.0, 17.0, 40.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_parameter_gradients_of_saturated_units(dtype, bias):
    """dE/dW = f'(a) h_0 with h_0 = 1: log sech^2 a of tanh, log s(a) s(-a) of the sigmoid, -a of the gate's complement."""
    one, a = jnp.ones(1, dtype), bias + 1
    b = jnp.full(1, bias, dtype)
    if np.exp(-2 * a) > np.finfo(dtype).tiny / np.finfo(dtype).eps:
        cell = js.cells.Elman(jnp.eye(1, dtype=dtype), b=b)
        want = 2 * (np.log(2) - a - np.log1p(np.exp(-2 * a)))
        norms = js.parameter_gradient_norms(cell, one, None, one, length=1)
        np.testing.assert_allclose(norms.step.W, want, rtol=20 * np.finfo(dtype).eps)
        np.testing.assert_allclose(norms.step_total, want + 0.5 * np.log(2), rtol=20 * np.finfo(dtype).eps)
    cell = js.cells.Elman(jnp.eye(1, dtype=dtype), b=b, activation="sigmoid")
    by_lag = js.parameter_gradient_by_lag(cell, one, None, one, length=1).by_parameter
    np.testing.assert_allclose(by_lag.W[0], -a - 2 * np.log1p(np.exp(-a)), rtol=20 * np.finfo(dtype).eps)
