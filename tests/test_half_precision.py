"""Models in half precision: computed in float32 from their rounded numbers, and said."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jacspec as js

HALVES = [jnp.float16, jnp.bfloat16]
RNG = np.random.default_rng(0)
W, B, X = RNG.normal(size=(3, 3)), 3 + RNG.random(3), RNG.normal(size=(10, 3))


def closure(W, b):
    return lambda h, x: jnp.tanh(W @ h + b)


CHAINS = {  # of W, b, h0 and xs in one dtype
    "cell": lambda W, b, h, xs: js.jacobian_chain(js.cells.Elman(W, jnp.eye(3, dtype=W.dtype), b), h, xs),
    "gated cell": lambda W, b, h, xs: js.jacobian_chain(
        js.cells.GRU(jnp.stack([W] * 3), b=jnp.stack([b] * 3)), h, length=10
    ),
    "function": lambda W, b, h, xs: js.jacobian_chain(closure(W, b), h, length=10),
    "function, stored anew": lambda W, b, h, xs: js.jacobian_chain(closure(W, b), h, length=10, store=False),
    "layers": lambda W, b, h, xs: js.layer_chain([js.layers.Dense(W, b, "tanh"), js.layers.LayerNorm()] * 5, h),
    "residual of a function": lambda W, b, h, xs: js.layer_chain(
        [js.layers.Residual(lambda h: jnp.tanh(W @ h))] * 4, h
    ),
    "matrices": lambda W, b, h, xs: js.JacobianChain.from_matrices(jnp.stack([W / 300] * 10)),
    "list of matrices": lambda W, b, h, xs: js.JacobianChain.from_matrices([W / 300] * 3),
    "factors": lambda W, b, h, xs: js.JacobianChain.from_factors(xs / 300, W),
}


def given(dtype, widen):
    values = [jnp.asarray(v, dtype) for v in (W, B, X[0], X)]
    return [v.astype(jnp.float32) for v in values] if widen else values


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", CHAINS)
def test_half_precision_is_float32_on_the_rounded_numbers(name, dtype):
    with pytest.warns(UserWarning, match=f"is in {jnp.dtype(dtype).name}.*computed in float32") as told:
        chain = CHAINS[name](*given(dtype, widen=False))
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = CHAINS[name](*given(dtype, widen=True))
    assert chain.dtype == wide.dtype != dtype
    # "matrices" divides in half precision first: its entries are rounded once more
    tolerance = 1e-5 if "matrices" not in name and name != "factors" else 40 * float(jnp.finfo(dtype).eps)
    got, want = js.spectrum(chain), js.spectrum(wide)
    np.testing.assert_allclose(got.log_singular_values, want.log_singular_values, rtol=tolerance, atol=10 * tolerance)
    np.testing.assert_array_equal(got.resolved, want.resolved)
    cotangent = jnp.ones(3, dtype)
    norms = js.log_gradient_norms(chain, cotangent)
    np.testing.assert_allclose(norms, js.log_gradient_norms(wide, jnp.ones(3)), rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_saturated_unit_keeps_its_slope(dtype):
    """tanh' is .0099 at 3: below the smallest factor that half precision knows."""
    cell = js.cells.Elman(jnp.eye(1, dtype=dtype), b=jnp.full(1, 3, dtype))
    with pytest.warns(UserWarning, match="step.W"):
        chain = js.jacobian_chain(cell, jnp.zeros(1, dtype), length=10)
    h, truth = 0.0, 0.0
    for _ in range(10):
        h = np.tanh(h + 3)
        truth += np.log1p(-(h**2))
    np.testing.assert_allclose(js.log_singular_values(chain)[0], truth, rtol=1e-5)
    np.testing.assert_allclose(
        js.activations.get("tanh").derivative(jnp.asarray(3, dtype)), 1 / np.cosh(3) ** 2, rtol=0.02
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_what_casts_by_itself_is_named(dtype):
    name = jnp.dtype(dtype).name
    with pytest.warns(UserWarning, match=f"narrows the state from float32 to {name}"):
        chain = js.jacobian_chain(lambda h, x: jnp.tanh(h).astype(dtype), jnp.ones(2, jnp.float32), length=3)
    assert chain.states.dtype == dtype
    linear = nnx.Linear(2, 2, dtype=dtype, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match=rf"layers\[0\]' casts its state to {name}"):
        js.layer_chain([linear], jnp.ones(2, jnp.float32))


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_of_parameters_too(dtype):
    layers = [js.layers.Dense(jnp.asarray(W, dtype), jnp.asarray(B, dtype), "tanh")] * 3
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layers)
    with pytest.warns(UserWarning, match=r"step\[0\].W"):
        got = js.parameter_gradient_norms(layers, jnp.asarray(X[0], dtype), None, jnp.ones(3))
    want = js.parameter_gradient_norms(wide, jnp.asarray(X[0], dtype).astype(jnp.float32), None, jnp.ones(3))
    np.testing.assert_allclose(got.step_total, want.step_total, rtol=1e-5)
