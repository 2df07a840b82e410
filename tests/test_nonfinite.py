"""NaN and Inf under jit and vmap: flagged in the element that has them, with the step, and felt nowhere else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacspec as js

N, M, T = 3, 2, 6
RNG = np.random.default_rng(0)
CLEAN = {
    "W": RNG.standard_normal((N, N)),
    "U": RNG.standard_normal((N, M)),
    "b": RNG.standard_normal(N),
    "h": RNG.standard_normal(N),
    "x": RNG.standard_normal((T, M)),
}
SPOTS = [("W", (1, 2), 1), ("U", (2, 0), 1), ("b", (0,), 1), ("h", (1,), 0)]
SPOTS += [("x", (t - 1, 1), t) for t in (1, 3, T)]
BAD = [(*spot, value) for spot in SPOTS for value in (np.nan, np.inf, -np.inf)]
FIRST = np.array([step for pair in BAD for step in (-1, pair[2])])  # every other element of the batch is healthy
SICK = FIRST >= 0


def batch_of(values):
    """The same problem 2 * len(BAD) times, every other one with its NaN or Inf if `values`."""
    out = {name: np.tile(a, (len(FIRST), *[1] * a.ndim)) for name, a in CLEAN.items()}
    if values:
        for i, (name, index, _, value) in enumerate(BAD):
            out[name][(2 * i + 1, *index)] = value
    return out


def asked(question, activation="tanh", jacobian="auto"):
    def one(p):
        cell = js.cells.Elman(p["W"], p["U"], p["b"], activation=activation)
        return question(js.jacobian_chain(cell, p["h"], p["x"], jacobian=jacobian))

    run = jax.jit(jax.vmap(one))
    return jax.tree.map(np.asarray, (run(batch_of(True)), run(batch_of(False))))


def assert_contained(found, clean):
    """Healthy elements to the last bit; sick ones NaN, told where, and never a zero that is none."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(a[~SICK], b[~SICK])
    np.testing.assert_array_equal(found.first_nonfinite.reshape(len(FIRST), -1)[:, -1], FIRST)
    np.testing.assert_array_equal(found.converged.reshape(len(FIRST), -1)[:, -1], ~SICK)
    assert not found.resolved.reshape(len(FIRST), -1)[SICK, -1].any()
    assert clean.converged.all()
    assert (clean.first_nonfinite == -1).all()


VALUES = {
    "verify": functools.partial(js.spectrum, verify=True),
    "exponents": js.lyapunov_exponents,
    "every third": functools.partial(js.lyapunov_exponents, qr_every=3, transient=1),
}


@pytest.mark.parametrize("question", [pytest.param("verify", marks=pytest.mark.slow), *list(VALUES)[1:]])
def test_one_sick_element_is_flagged_and_the_others_do_not_notice(question):
    found, clean = asked(VALUES[question])
    assert_contained(found, clean)
    values = found.exponents if "ex" in question or "every" in question else found.log_singular_values
    assert np.isnan(values[SICK]).all()
    assert np.isfinite(values[~SICK]).all()
    if question == "verify":
        assert np.isnan(found.error[SICK]).all()


@pytest.mark.parametrize(
    ("activation", "jacobian"),
    [("relu", "auto"), *(pytest.param(a, "autodiff", marks=pytest.mark.slow) for a in ("relu", "tanh"))],
)
def test_no_activation_hides_it(activation, jacobian):
    found, clean = asked(js.spectrum, activation, jacobian)
    assert_contained(found, clean)
    assert np.isnan(found.log_singular_values[SICK]).all()


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["start", "end"])
def test_horizons_that_do_not_reach_it_are_unaffected(origin):
    found, clean = asked(functools.partial(js.spectrum, at=range(T + 1), origin=origin))
    for i, first in enumerate(FIRST):
        t = np.arange(T + 1)
        reached = (first >= 0) & (first <= t) if origin == "start" else np.full(T + 1, first >= 0)
        np.testing.assert_array_equal(found.converged[i], ~reached)
        assert np.isnan(found.log_singular_values[i][reached]).all()
        np.testing.assert_array_equal(found.log_singular_values[i][~reached], clean.log_singular_values[i][~reached])
        np.testing.assert_array_equal(found.first_nonfinite[i], np.where(reached, first, -1))


@pytest.mark.parametrize(
    "question",
    [
        lambda chain: chain.push(jnp.ones(N)),
        lambda chain: chain.pull(jnp.ones(N)),
        lambda chain: js.adjoints(chain, jnp.ones(N)),
        lambda chain: js.log_gradient_norms(chain, jnp.ones((T + 1, N))),
    ],
    ids=["push", "pull", "adjoints", "log_gradient_norms"],
)
def test_vectors_and_gradients_of_the_sick_element_are_nan(question):
    found, clean = asked(question)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(a[~SICK], b[~SICK])
        assert np.isfinite(a[~SICK]).all()
        assert (not a[SICK].any()) if a.dtype == bool else np.isnan(a[SICK]).all()  # nothing is resolved


def test_given_matrices_and_factors():
    matrices, slopes = RNG.standard_normal((T + 1, T, N, N)), RNG.standard_normal((T + 1, T, N))
    sick_matrices, sick_slopes = matrices.copy(), slopes.copy()
    for t in range(1, T + 1):  # element t is bad at step t, element 0 healthy
        sick_matrices[t, t - 1, t % N, 1] = sick_slopes[t, t - 1, t % N] = (np.nan, np.inf, -np.inf)[t % 3]
    want = np.array([-1, *range(1, T + 1)])

    def run(Js, d):
        chains = js.JacobianChain.from_matrices(Js), js.JacobianChain.from_factors(d, CLEAN["W"])
        return [(js.spectrum(chain, at=(0, 2, T)), chain.push(jnp.ones(N))[1]) for chain in chains]

    run = jax.jit(jax.vmap(run))
    for (found, pushed), (clean, _) in zip(run(sick_matrices, sick_slopes), run(matrices, slopes), strict=True):
        values = np.asarray(found.log_singular_values)
        assert (values[:, 0] == 0).all()  # horizon 0 reaches no step
        np.testing.assert_array_equal(found.first_nonfinite[:, -1], want)
        np.testing.assert_array_equal(found.converged, (want < 0)[:, None] | (want[:, None] > np.array([0, 2, T])))
        np.testing.assert_array_equal(np.isnan(values).all(-1), ~np.asarray(found.converged))
        np.testing.assert_array_equal(values[0], clean.log_singular_values[0])
        np.testing.assert_array_equal(values[3:, 1], clean.log_singular_values[3:, 1])
        np.testing.assert_array_equal(np.isnan(pushed), want >= 0)


@pytest.mark.parametrize("step", [2, 4])
def test_a_state_that_overflows_on_the_way_is_reported_with_its_step(step):
    scale = 1e200 if step == 2 else 1e100
    grow = lambda h, x: scale * h + 0 * h[::-1]
    with pytest.warns(UserWarning, match=f"not finite at step {step}"):
        chain = js.jacobian_chain(grow, jnp.ones(2), length=T)
    found = js.spectrum(chain, at=range(T + 1))
    assert found.converged.tolist() == [t < step for t in range(T + 1)]
    want = np.log(scale) * np.arange(step)
    np.testing.assert_allclose(found.log_singular_values[:step], np.stack([want, want], axis=1), rtol=1e-13)
    assert np.isnan(found.log_singular_values[step:]).all()
    assert not bool(js.lyapunov_exponents(chain).converged)


def test_a_function_that_hides_a_nan_of_its_weights_is_seen_through():
    def ask(w, x):
        hide = lambda h, x: jnp.where(w * h + x > 0, w * h, 0.0)
        return js.spectrum(js.jacobian_chain(hide, jnp.ones(2), x))

    found = jax.jit(jax.vmap(ask))(jnp.array([1.0, jnp.nan, 1.0]), jnp.ones((3, T)).at[2, 3].set(jnp.nan))
    assert found.first_nonfinite.tolist() == [-1, 1, 4]
    assert found.converged.tolist() == [True, False, False]


def test_the_layer_that_hides_an_inf_in_its_bias_is_named():
    def ask(b):
        layers = [js.layers.Dense(W, bias, activation="tanh") for W, bias in zip([CLEAN["W"]] * 4, b, strict=True)]
        return js.spectrum(js.layer_chain(layers, CLEAN["h"]))

    b = np.zeros((3, 4, N))
    b[1, 2, 0], b[2, 0, 1] = np.inf, np.nan
    found = jax.jit(jax.vmap(ask))(b)
    assert found.first_nonfinite.tolist() == [-1, 3, 1]
    assert np.isnan(found.log_singular_values).all(axis=1).tolist() == [False, True, True]


@pytest.mark.slow
def test_a_wide_search_for_the_leading_values_ends():
    n = 20
    Js = RNG.standard_normal((3, 4, n, n)) / np.sqrt(n)
    clean = Js.copy()
    Js[1, 2, 5, 7] = np.nan
    ask = lambda Js: js.spectrum(js.JacobianChain.from_matrices(Js), k=1, at=(1,), origin="end")
    run = jax.jit(jax.vmap(lambda Js: jax.tree.map(lambda leaf: leaf[0], ask(Js))))
    found, want = run(Js), run(clean)
    assert found.first_nonfinite.tolist() == [-1, 3, -1]
    assert found.converged.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.log_singular_values[::2], want.log_singular_values[::2])
    assert np.isnan(found.log_singular_values[1]).all()


def test_healthy_runs_raise_no_flag():
    runs = 200
    gain = 10 ** RNG.uniform(-3, 1.5, runs)
    p = {
        "W": gain[:, None, None] * RNG.standard_normal((runs, N, N)),
        "U": 10 ** RNG.uniform(-3, 1.5, runs)[:, None, None] * RNG.standard_normal((runs, N, M)),
        "b": RNG.standard_normal((runs, N)),
        "h": RNG.standard_normal((runs, N)),
        "x": RNG.standard_normal((runs, T, M)),
    }

    def one(p):
        chain = js.jacobian_chain(js.cells.Elman(p["W"], p["U"], p["b"]), p["h"], p["x"])
        return js.spectrum(chain), js.lyapunov_exponents(chain), js.log_gradient_norms(chain, jnp.ones(N))

    found, exponents, gradients = jax.jit(jax.vmap(one))(p)
    for result in (found, exponents):
        assert result.converged.all()
        assert (result.first_nonfinite == -1).all()
    for values in (found.log_singular_values, exponents.exponents, gradients):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("scale", [1e300, 1e-150])
def test_healthy_matrices_near_the_ends_of_the_range_raise_no_flag(scale):
    Js = RNG.standard_normal((T, N, N))
    ask = lambda Js: js.spectrum(js.JacobianChain.from_matrices(Js))
    found, plain = ask(jnp.asarray(scale * Js)), ask(jnp.asarray(Js))
    assert bool(found.converged)
    np.testing.assert_allclose(
        found.log_singular_values, plain.log_singular_values + T * np.log(scale), rtol=1e-14, atol=1e-11
    )
