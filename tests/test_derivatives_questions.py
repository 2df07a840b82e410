"""JVP and VJP of norms, spectra, exponents and gradient norms up to the ends of the dtype. (count, JAX, equation)"""

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from differences import SCALES, SECOND_SLOW, both, checked, log, norm, spread

import jacspec as js
from jacspec import layers
from jacspec._ground import arithmetic


def product(v):
    J = v.reshape(2, 2, 2)
    return J[1] @ J[0]


def singular(v):
    P = product(v)
    square, det = norm(P) ** 2, abs(P[0, 0] * P[1, 1] - P[0, 1] * P[1, 0])
    large = mp.sqrt((square + mp.sqrt(square**2 - 4 * det**2)) / 2)
    return np.array([mp.log(large), mp.log(det / large)])


def rates(v):
    P = product(v)
    first = mp.log(norm(P[:, 0]))
    return np.array([first, mp.log(abs(P[0, 0] * P[1, 1] - P[0, 1] * P[1, 0])) - first]) / 2


def matrices(v):
    return js.JacobianChain.from_matrices(v.reshape(2, 2, 2), check=False)


def unit_and_log(x):
    return np.array([*(x / norm(x)), mp.log(norm(x))])


ONE = jnp.ones(2)
QUESTIONS = {
    "norms": (4, arithmetic.norms, norm),
    "units": (4, lambda v: arithmetic.units(v)[0], lambda v: v / norm(v)),
    "spectrum": (8, lambda v: js.spectrum(matrices(v)).log_singular_values, singular),
    "log_singular_values end": (8, lambda v: js.log_singular_values(matrices(v), origin="end"), singular),
    "log_singular_values k=1": (8, lambda v: js.log_singular_values(matrices(v), k=1), lambda v: singular(v)[:1]),
    "lyapunov_exponents": (8, lambda v: js.lyapunov_exponents(matrices(v)).exponents, rates),
    "push": (8, lambda v: matrices(v).push(ONE), lambda v: unit_and_log(product(v).sum(axis=1))),
    "pull": (8, lambda v: matrices(v).pull(ONE), lambda v: unit_and_log(product(v).sum(axis=0))),
    "log_gradient_norms": (
        8,
        lambda v: js.log_gradient_norms(matrices(v), ONE)[:2],
        lambda v: log(np.array([norm(product(v).sum(axis=0)), norm(v[4:].reshape(2, 2).sum(axis=0))])),
    ),
}


@pytest.mark.parametrize("dtype", SECOND_SLOW)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("log_singular") else []) for name in QUESTIONS],
)
def test_questions(name, dtype):
    count, f, equation = QUESTIONS[name]
    scales = SCALES[dtype] if count == 4 else [s for s in SCALES[dtype] if abs(np.log10(s)) < 161]
    checked(name, f, equation, [s * spread(count) for s in scales], dtype, roundings=200)


def test_norms_of_zero_have_derivative_zero_and_undefined_layers_say_nan():
    zero = jnp.zeros(3)
    for f in (arithmetic.norms, lambda v: arithmetic.units(v)[0]):
        for got in both(f, zero[None]):
            np.testing.assert_array_equal(got[0], np.zeros_like(got[0]))
    for layer in (layers.RMSNorm(epsilon=0.0), layers.LayerNorm(epsilon=0.0), layers.CosineNorm(jnp.eye(3))):
        for got in both(layer, zero[None]):
            assert np.isnan(got).all()
