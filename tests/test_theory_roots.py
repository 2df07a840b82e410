"""Roots and their first and second derivatives, in every nesting of forward and reverse mode, against closed forms."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax import lax

from jacspec.theory import _roots, mean_field, random_matrix, recurrent, scalar

NESTINGS = [(outer, inner) for outer in (jax.jacfwd, jax.jacrev) for inner in (jax.jacfwd, jax.jacrev)]


def cube_root(theta):
    return _roots.falling_root(lambda x: theta - x**3, jnp.zeros_like(theta), jnp.full_like(theta, 9.0))


def held(theta):
    """The same root, unmoved, of a search in a while loop."""
    falling = lambda q: (theta - q**3, 1e-16)
    return _roots.implicit(lambda x: theta - x**3, lambda: _roots.newton(falling, jnp.log(0.1), jnp.log(9.0)))[0]


def fixed_point(theta):
    """q = theta sqrt q."""
    F = lambda q: theta * jnp.sqrt(q)
    return _roots.attach_fixed_point(F, _roots.largest_fixed_point(F, range(6, -20, -2)))


CASES = {
    "falling root": (cube_root, lambda t: t ** mp.mpf("1/3")),
    "held root": (held, lambda t: mp.cbrt(t)),
    "fixed point": (fixed_point, lambda t: t**2),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("looped", [False, True])
def test_derivatives_in_every_nesting(case, looped):
    """Also inside a scan, where reverse mode forgets the rule of a `custom_jvp`."""
    find, truth = CASES[case]
    f = (lambda t: lax.scan(lambda c, k: (c + find(t * k), None), 0 * t, jnp.ones(2))[0] / 2) if looped else find
    want = [float(mp.diff(truth, 2.5, n)) for n in range(3)]
    assert float(f(2.5)) == pytest.approx(want[0], rel=1e-14)
    for outer, inner in NESTINGS:
        assert float(jax.jit(inner(f))(2.5)) == pytest.approx(want[1], rel=1e-12)
        assert float(jax.jit(outer(inner(f)))(2.5)) == pytest.approx(want[2], rel=1e-10, abs=1e-10)


def test_where_nothing_decides_about_the_root_its_derivative_is_infinite():
    flat = lambda theta: _roots.attach(lambda x: theta + 0 * x, jnp.asarray(0.7))
    assert float(flat(0.0)) == 0.7
    assert abs(float(jax.grad(flat)(0.0))) > 1e300


def test_a_silent_or_ordered_network_has_derivatives():
    """Where there is no root, no step is taken: forward and reverse mode agree, and neither is NaN."""
    chi = lambda v: recurrent.gru(v).chi
    slope = jax.jit(jax.grad(chi))(2.0)
    assert float(slope) == pytest.approx(1 / 16, rel=1e-9)  # chi = 1/4 + v <r>^2 <(1 - z)^2> with all gates at 1/2
    leading = lambda g: jnp.stack([*(lambda n: (n.leading, n.dimension, n.entropy))(recurrent.rate_network(g))])
    np.testing.assert_allclose(jax.jit(jax.jacrev(leading))(0.5), [2.0, 0.0, 0.0], atol=1e-12)


def test_an_edge_of_the_search_is_no_fixed_point():
    steep = lambda q: 3 * q
    assert float(_roots.largest_fixed_point(steep, range(6, -20, -2))) == np.inf
    assert float(_roots.largest_fixed_point(lambda q: q / 3, range(6, -20, -2))) == 0
    assert np.isnan(_roots.attach_fixed_point(steep, jnp.asarray(np.inf)))


def semicircle(u):
    """Half of 1 + the exponent of a flow of gain 2: cos t with u = (t - sin(2 t) / 2) / pi."""
    t = mp.findroot(lambda t: (t - mp.sin(2 * t) / 2) / mp.pi - u, 1.0)
    return mp.cos(t)


def marchenko_pastur(x):
    """The Fuss-Catalan distribution of depth 1."""
    return 1 - (2 * mp.acos(mp.sqrt(x) / 2) - mp.sqrt(x * (4 - x)) / 2) / mp.pi


def catalan_angle(x):
    """The distribution of depth 3 by the angle t, found with many digits."""
    L, sin = 3, mp.sin
    t = mp.findroot(
        lambda t: sin((L + 1) * t) ** (L + 1) / (sin(t) * sin(L * t) ** L) - x, (0.3, 0.75), solver="anderson"
    )
    s = mp.pi - (L + 1) * t
    return (s + L * sin(t) * sin(s) / sin(L * t)) / mp.pi


def disc(u):
    """Half the log of the radius about 0 outside of which lies the fraction u of a disc about 0.5 of radius 0.45."""
    a, R = mp.mpf(0.5), mp.mpf(0.9) / 2

    def outside(s):
        chords = (a + R - s) * (a - R + s) * (s - a + R) * (a + R + s)
        lens = R**2 * mp.acos((a**2 + R**2 - s**2) / (2 * a * R)) + s**2 * mp.acos((a**2 + s**2 - R**2) / (2 * a * s))
        return 1 - (lens - mp.sqrt(chords) / 2) / (mp.pi * R**2)

    return mp.log(mp.findroot(lambda s: outside(s) - u, (0.6, 0.65))) / 2


PUBLIC = {
    "disc": (lambda u: recurrent.leaky_origin_spectrum(u, 0.9, 0.5) / 4, disc, 0.3),
    "flow": (lambda u: (1 + recurrent.leaky_origin_spectrum(u, 2.0, 0.0)) / 2, semicircle, 0.3),
    "Fuss-Catalan": (lambda x: random_matrix.fuss_catalan_cdf(x, 1.0), marchenko_pastur, 1.3),
    "Fuss-Catalan, deep": (lambda x: random_matrix.fuss_catalan_cdf(x, 3.0), catalan_angle, 1.3),
    "S-transform": (
        lambda u: random_matrix.log_s_transform(random_matrix.bernoulli_slopes(0.7), u),
        lambda u: mp.log((1 - u) / (mp.mpf(0.7) - u)), 0.2,
    ),
    "sigmoid": (
        lambda b: scalar.sigmoid_fixed_points(5.0, b)[2],
        lambda b: mp.findroot(lambda x: x - 5 / (1 + mp.exp(-x)) - b, 2.0), -2.4,
    ),
    "tanh": (
        lambda w: scalar.tanh_fixed_point(w), lambda w: mp.findroot(lambda h: h - mp.tanh(w * h), 0.9), 1.7,
    ),
    "variance": (
        lambda s: mean_field.variance_fixed_point("relu", weight_variance=s, bias_variance=0.1).value,
        lambda s: mp.mpf(0.1) / (1 - s / 2), 1.0,
    ),
    "gated": (  # a gate of weight variance 0 is a constant: <h^2> = (1 - u)^2 z / (1 - u^2)
        lambda z: recurrent.minimal_rnn(1e-12, update_bias=1.0, candidate_variance=z).second_moment,
        lambda z: z * (lambda u: (1 - u) / (1 + u))(1 / (1 + mp.exp(-1))), 2.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_second_derivatives_of_the_theory(name):
    f, truth, at = PUBLIC[name]
    with mp.workdps(40):
        want = [float(mp.diff(truth, mp.mpf(at), n)) for n in range(3)]
    found = [jax.jit(g)(at) for g in (f, jax.grad(f), jax.jacfwd(jax.grad(f)))]
    np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-10)
    if name == "disc":  # inside a scan, by reverse mode twice
        looped = lambda u: lax.scan(lambda c, k: (c + f(u * k), None), 0 * u, jnp.ones(1))[0]
        np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(looped)))(at), want[2], rtol=1e-9)
