"""Gaussian expectations against mpmath and closed forms, from q = 1e-8 to 1e8."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jacspec.theory._quadrature import PANELS, gaussian_mean, nodes

VARIANCES = [1e-8, 1e-4, 0.1, 1.0, 5.0, 20.7, 100.0, 1e4, 1e6, 1e8]
SMOOTH = {
    "tanh^2": (lambda a: jnp.tanh(a) ** 2, lambda a: mp.tanh(a) ** 2),
    "sech^4": (lambda a: jnp.cosh(jnp.clip(a, -200, 200)) ** -4, lambda a: mp.sech(a) ** 4),
    "softplus^2": (lambda a: jnp.logaddexp(0, a) ** 2, lambda a: mp.log1p(mp.exp(a)) ** 2 if a < 200 else a**2),
}


def truth(f, q):
    """E f by mpmath at 25 digits, with breaks at both scales."""
    with mp.workdps(25):
        r = mp.sqrt(q)
        breaks = {r * x for x in (0, 0.5, 1, 2, 4, 7, 12)} | {
            mp.mpf(x) for x in (0.5, 1, 2, 4, 8, 16, 40) if x < 12 * r
        }
        density = lambda a: mp.exp(-a * a / (2 * q)) / mp.sqrt(2 * mp.pi * q)
        return float(mp.quad(lambda a: (f(a) + f(-a)) * density(a), sorted(breaks)))


@pytest.mark.parametrize("name", SMOOTH)
def test_thirteen_digits_over_sixteen_decades(name):
    f, exact = SMOOTH[name]
    want = np.array([truth(exact, q) for q in VARIANCES])
    value, error = jax.jit(jax.vmap(lambda q: gaussian_mean(f, q)))(jnp.asarray(VARIANCES))
    assert (np.abs(value / want - 1) < 1e-13).all()
    assert (np.abs(value - want) <= error + 4e-15 * want).all()  # the estimate is an upper bound, up to 16 roundings
    assert (error / want)[np.asarray(VARIANCES) <= 100].max() < 1e-11


@pytest.mark.slow
def test_a_narrow_function_off_center_is_seen_by_the_estimate():
    want = np.array([truth(lambda a: mp.sech(a - 1) ** 2, q) for q in VARIANCES])
    f = lambda a: jnp.cosh(jnp.clip(a - 1, -300, 300)) ** -2
    value, error = jax.vmap(lambda q: gaussian_mean(f, q))(jnp.asarray(VARIANCES))
    assert (np.abs(value / want - 1)[:-1] < 1e-13).all()
    assert (np.abs(value - want) <= error + 4e-15 * want).all()


@pytest.mark.parametrize("kink", [1.0, *(pytest.param(kink, marks=pytest.mark.slow) for kink in (0.01, 30.0))])
def test_clipped_square_in_closed_form(kink):
    def exact(q):
        x = kink / math.sqrt(q)
        inside = math.erf(x / math.sqrt(2)) - 2 * x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return (q * inside if x > 1e-2 else q * math.sqrt(2 / math.pi) * x**3 * (1 / 3 - x * x / 10 + x**4 / 56)) + (
            kink**2 * math.erfc(x / math.sqrt(2))
        )

    f = lambda a: jnp.clip(a, -kink, kink) ** 2
    value, error = jax.vmap(lambda q: gaussian_mean(f, q, (-kink, kink)))(jnp.asarray(VARIANCES))
    want = np.array([exact(q) for q in VARIANCES])
    assert (np.abs(value / want - 1) < 1e-12).all()  # of which erf's cancellation in the closed form has 1e-13
    assert (np.abs(value - want) <= error + 1e-12 * want).all()


def test_an_unresolved_integrand_is_reported():
    value, error = gaussian_mean(lambda a: jnp.cos(300 * a), jnp.asarray(1.0))
    assert float(error) > abs(float(value))  # the truth is exp(-45000)


@pytest.mark.parametrize(
    "q", [pytest.param(1e-4, marks=pytest.mark.slow), 2.0, pytest.param(1e4, marks=pytest.mark.slow)]
)
def test_derivatives_with_respect_to_the_variance_cross_a_jump(q):
    """E 1[a > 1] = Q(1/sqrt q): first and second derivative in closed form."""
    mean = lambda q: gaussian_mean(lambda a: jnp.where(a > 1, 1.0, 0.0), q, (1.0,))[0]
    density = math.exp(-0.5 / q) / math.sqrt(2 * math.pi * q)
    first = density / (2 * q)
    second = first * (0.5 / q**2 - 1.5 / q)
    assert float(jax.grad(mean)(q)) == pytest.approx(first, rel=1e-12, abs=1e-300)
    assert float(jax.grad(jax.grad(mean))(q)) == pytest.approx(second, rel=1e-11, abs=1e-300)


def test_zero_variance_and_several_functions_at_once():
    both = lambda a: jnp.stack([jnp.cos(a), a * a])
    value, error = gaussian_mean(both, jnp.asarray(0.0))
    assert value.tolist() == [1, 0]
    assert error.tolist() == [0, 0]
    value, _ = gaussian_mean(both, 2)
    np.testing.assert_allclose(value, [math.exp(-1), 2], rtol=1e-14)


def test_no_mean_without_a_variance():
    for q in (-1.0, math.nan):
        assert all(map(math.isnan, map(float, gaussian_mean(jnp.cos, jnp.asarray(q)))))


def test_nodes_integrate_polynomials_over_their_reach():
    a, kronrod, gauss = nodes(jnp.asarray(4.0), (0.5,))
    assert a.size == kronrod.size == 15 * (PANELS + PANELS + 8)
    np.testing.assert_allclose([kronrod @ a**2, gauss @ a**2], 2 * 20.0**3 / 3, rtol=1e-13)


@pytest.mark.slow
def test_float32():
    value, error = gaussian_mean(lambda a: jnp.tanh(a) ** 2, jnp.asarray(3.0, jnp.float32))
    assert value.dtype == error.dtype == jnp.float32
    assert float(value) == pytest.approx(truth(lambda a: mp.tanh(a) ** 2, 3.0), rel=1e-6)
