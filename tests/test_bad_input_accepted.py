"""Where bad input ends: what only warns, what may go unchecked, and what is right and accepted."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import BARE, CHAIN, EYE, NAN_CELL, ONE, PAIRED, XS, N, T, ask, given, spoiled, start

import jacspec as js


@pytest.mark.parametrize(
    "call",
    [
        lambda: js.jacobian_chain(js.cells.Elman(jnp.eye(N, dtype=jnp.float32)), ONE, length=2),
        lambda: js.JacobianChain.from_matrices(np.ones((2, N, N))),
        lambda: js.JacobianChain.from_factors(ONE[None].astype(np.float32), EYE),
        lambda: js.cells.Elman(EYE),
        lambda: js.layer_chain([jnp.tanh], ONE),
    ],
)
def test_float64_without_x64_warns_once(call):
    with jax.enable_x64(False), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            call()
    told = [str(w.message) for w in caught]
    assert len(told) == 1
    assert re.search(r"jacspec\.\S+: argument '\w+' is float64 but jax_enable_x64 is off: float32 is used", told[0])


def test_values_may_go_unchecked_but_not_shapes():
    chain = js.jacobian_chain(NAN_CELL, ONE, XS, check=False)
    assert int(chain.first_nonfinite) == 1
    with pytest.raises(TypeError, match=r"'h0' must be floating"):
        js.jacobian_chain(BARE, np.ones(N, int), length=T, check=False)
    assert int(given(spoiled(np.ones((2, 3, 3)), 1, 0, 2), check=False).first_nonfinite) == 2


def test_what_is_right_is_accepted():
    assert ask().length == T
    assert start(np.ones(N, np.float32)).length == T
    assert CHAIN[-2:].length == 2
    assert CHAIN[np.int64(1) : 99].length == T - 1
    assert js.spectrum(CHAIN, at=np.array([0, 3])).log_singular_values.shape == (2, N)
    assert js.JacobianChain.from_matrices(iter([EYE, EYE])).length == 2
    assert PAIRED.push({"a": np.ones(1), "b": np.ones(2)})[0].shape == (N,)
    assert js.activations.get(np.str_("tanh")) is js.activations.get("tanh")
    assert ask(jacobian=np.str_("analytic"), store=np.str_("auto")).length == T
    listed = js.adjoints(CHAIN, [0 * ONE] * T + [ONE])
    np.testing.assert_allclose(listed.log_norms, js.log_gradient_norms(CHAIN, ONE), rtol=1e-14)


def test_a_state_that_is_a_list_is_a_state():
    step = lambda h, x: [jnp.tanh(h[0] + h[1]), 0.5 * h[1]]
    chain = js.jacobian_chain(step, [ONE[:2], ONE[:2]], length=T, store=True)
    assert chain[2:].states[0].shape == (T - 1, 2)
    assert js.adjoints(chain, [ONE[:2], ONE[:2]]).directions[1].shape == (T + 1, 2)
    grown = jax.jit(lambda h: js.jacobian_chain(lambda h, x: [h[0] * h[0], h[1]], h, length=T).first_nonfinite)
    assert int(grown([jnp.full(2, 1e100), jnp.ones(2)])) == 2
