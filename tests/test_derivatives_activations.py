"""Activations: two derivatives in every mode, at kinks those that are documented. (equation, the slope at each kink)"""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from differences import ALPHA, LAMBDA, LEAKY, SECOND_SLOW, worst

from jacspec import activations

ACTIVATIONS = {
    "linear": (lambda x: x, {}),
    "tanh": (mp.tanh, {}),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), {}),
    "relu": (lambda x: max(x, 0), {0: 0}),
    "leaky_relu": (lambda x: x if x > 0 else LEAKY * x, {0: 1}),
    "elu": (lambda x: x if x > 0 else mp.expm1(x), {0: 1}),
    "selu": (lambda x: LAMBDA * (x if x > 0 else ALPHA * mp.expm1(x)), {0: LAMBDA * ALPHA}),
    "gelu": (lambda x: x * mp.ncdf(x), {}),
    "swish": (lambda x: x / (1 + mp.exp(-x)), {}),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), {}),
    "hard_tanh": (lambda x: min(max(x, -1), 1), {1: 1, -1: 1}),
    "erf": (mp.erf, {}),
}
# Second derivatives at kinks are one-sided, from the side of the slope.
CURVATURE_AT_KINK = {"elu": 1, "selu": LAMBDA * ALPHA}
INSIDE = [0.0, 1e-8, -1e-8, 0.3, -0.3, 1.0, -1.0, 2.0, -2.0, 5.0, -5.0, -5.5, 7.0, -7.0]


def derivative(name, x, order):
    equation, kinks = ACTIVATIONS[name]
    if x in kinks:
        return kinks[x] if order == 1 else CURVATURE_AT_KINK.get(name, 0)
    return float(mp.diff(equation, mp.mpf(float(x)), order, h=mp.mpf(10) ** -40))


@pytest.mark.parametrize("dtype", SECOND_SLOW)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_two_derivatives_in_every_mode(name, dtype):
    f = activations.get(name)
    points = jnp.asarray(INSIDE, dtype)
    first = [jax.jacfwd(f), jax.grad(f), f.derivative]
    second = [jax.jacfwd(jax.jacfwd(f)), jax.grad(jax.grad(f)), jax.jacfwd(jax.grad(f)), jax.grad(f.derivative)]
    got = jax.jit(jax.vmap(lambda a: (jnp.stack([d(a) for d in first]), jnp.stack([d(a) for d in second]))))(points)
    with mp.workdps(100):
        for order, found in enumerate(got, 1):
            want = np.array([derivative(name, float(x), order) for x in points])[:, None]
            error = worst(found.T, np.broadcast_to(want, found.shape).T)
            print(f"{name:28} {jnp.dtype(dtype).name} derivative {order}: {error:.1e}")
            # relative to the largest along the points: a curvature that changes its sign has no relative accuracy there
            assert error <= 16 * float(jnp.finfo(dtype).eps), (found, want)


def test_smooth_slopes_have_two_derivatives_at_zero():
    """An even function written with abs(a) has none."""
    for name in ("tanh", "sigmoid", "gelu", "swish", "softplus", "erf"):
        f = activations.get(name)
        with mp.workdps(100):
            want = derivative(name, 0.0, 3)
        for got in (
            jax.grad(jax.grad(f.derivative)),
            jax.grad(jax.grad(jax.grad(f))),
            jax.jacfwd(jax.jacfwd(f.derivative)),
        ):
            np.testing.assert_allclose(got(0.0), want, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_logarithms_of_slopes_have_their_derivative(name):
    f = activations.get(name)
    points = [x for x in INSIDE if x not in ACTIVATIONS[name][1]]
    got = jax.vmap(jax.grad(lambda a: f.log_derivative(a)[0]))(jnp.asarray(points))
    with mp.workdps(100):
        slope, bend = (np.array([derivative(name, x, k) for x in points]) for k in (1, 2))
    want = np.divide(bend, slope, out=np.zeros_like(bend), where=slope != 0)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
