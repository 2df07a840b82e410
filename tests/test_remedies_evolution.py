"""Searches without gradients find known minima; weights under covariate shift are those of known densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacspec import remedies

GOAL = jnp.linspace(-1, 1, 12)
SCALES = jnp.geomspace(1, 10, 12)  # an ellipsoid of condition number 100
BUDGET = {  # population, generations, options, and the share of the first loss that may be left
    "open_es": (40, 150, {"std": 0.05, "learning_rate": 0.05}, 1e-2),
    "cma_es": (16, 200, {"std": 0.3}, 1e-10),
    "sep_cma_es": (16, 200, {"std": 0.3}, 1e-10),
    "lm_ma_es": (12, 200, {"std": 0.3}, 1e-4),
    "simple_ga": (40, 200, {"std": 0.05}, 2e-2),
    "pso": (40, 200, {"std": 0.5}, 1e-2),
}


def ellipsoid(parameters):
    x = jnp.concatenate([parameters["a"].ravel(), parameters["b"]])
    return jnp.sum((SCALES * (x - GOAL)) ** 2)


START = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(6)}


@pytest.mark.parametrize(
    "algorithm", [pytest.param(a, marks=() if a == "cma_es" else pytest.mark.slow) for a in BUDGET]
)
def test_every_algorithm_descends_to_the_known_minimum(algorithm):
    population, generations, options, left = BUDGET[algorithm]
    ask = jax.jit(
        lambda key: remedies.evolve(
            ellipsoid, START, key, algorithm=algorithm, population=population, generations=generations, **options
        )
    )
    found, again, other = ask(jax.random.key(0)), ask(jax.random.key(0)), ask(jax.random.key(1))
    first = ellipsoid(START)
    for result in (found, other):
        assert result.loss < left * first
        np.testing.assert_allclose(ellipsoid(result.parameters), result.loss, rtol=1e-12)
        assert result.history.shape == (generations,)
        assert (np.diff(result.history) <= 0).all()
        assert result.loss <= result.history[-1] <= first
        if algorithm not in ("simple_ga", "pso"):  # whose first crowd counts before the first generation
            best = np.minimum(first, np.minimum.accumulate(result.generation_best))
            np.testing.assert_array_equal(result.history, best)
    np.testing.assert_array_equal(found.history, again.history)
    np.testing.assert_array_equal(found.parameters["a"], again.parameters["a"])
    assert (found.history != other.history).any()


def test_a_threshold_unit_learns_where_every_gradient_is_zero():
    x = jax.random.normal(jax.random.key(0), (200, 4))
    labels = x @ jnp.array([1.0, -2.0, 0.5, 0.0]) > 0
    loss = lambda w: jnp.mean((x @ w > 0) != labels)
    start = jnp.array([0.0, 1.0, 0.0, 1.0], jnp.float32)
    as_float = lambda w: loss(w).astype(float)
    assert not jax.grad(as_float)(start).any()
    options = {"population": 20, "generations": 100, "std": 0.3, "learning_rate": 0.1}
    found = remedies.evolve(as_float, start, jax.random.key(1), **options)
    assert as_float(start) > 0.3
    assert found.loss < 0.05
    assert found.parameters.dtype == jnp.float32


def test_losses_that_are_not_finite_are_the_worst():
    options = {"population": 8, "generations": 30}
    half = lambda x: jnp.where(x[0] > 0.3, jnp.nan, -x[0])
    found = remedies.evolve(half, jnp.zeros(2), jax.random.key(0), algorithm="simple_ga", **options)
    assert 0.2 < found.parameters[0] <= 0.3
    alone = lambda x: jnp.where(jnp.all(x == 1), 5.0, jnp.inf)
    found = remedies.evolve(alone, jnp.ones(2), jax.random.key(0), **options)
    assert found.parameters.tolist() == [1.0, 1.0]
    assert found.history.tolist() == [5.0] * 30


def test_bad_input_is_refused():
    key, bowl = jax.random.key(0), lambda x: jnp.sum(x**2)
    for options, words in (
        ({"algorithm": "cma"}, "Did you mean 'cma_es'"),
        ({"algorithm": "cma_es"}, "300 parameters.*sep_cma_es.*lm_ma_es"),
        ({"population": 31}, "population.*even"),
        ({"population": 2}, "population"),
        ({"generations": 0}, "generations"),
        ({"std": 0.0}, "std"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"algorithm": "lm_ma_es", "population": 302}, r"population.*4\.\.300"),
    ):
        with pytest.raises(ValueError, match=words):
            remedies.evolve(bowl, jnp.zeros(300), key, **options)
    with pytest.raises(TypeError, match="scalar"):
        remedies.evolve(lambda x: x, jnp.zeros(3), key)
    with pytest.raises(TypeError, match=r"parameters\['n'\].*floating"):
        remedies.evolve(lambda p: 0.0, {"n": jnp.arange(3)}, key)
    with pytest.raises(TypeError, match="loss"):
        remedies.evolve(None, jnp.zeros(3), key)


def shifted(n_train, n_test, shift, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.standard_normal((n, len(shift)))
    return draw(n_train), draw(n_test) + shift


def test_weights_of_a_known_gaussian_shift():
    shift = np.array([0.8, -0.5, 0.0])
    train, test = shifted(6000, 4000, shift)
    w = np.asarray(remedies.importance_weights(jnp.asarray(train), jnp.asarray(test), penalty=1e-8))
    np.testing.assert_allclose(w.mean(), 1, rtol=1e-12)
    # log w = shift . x + constant, to the standard error of the logistic maximum likelihood estimate
    A = np.column_stack([train, np.ones(len(train))])
    slope, residual, *_ = np.linalg.lstsq(A, np.log(w), rcond=None)
    assert residual < 1e-15 * len(w)
    X = np.column_stack([np.concatenate([train, test]), np.ones(10_000)])
    p = 1 / (1 + np.exp(-(X @ np.append(shift, -(shift @ shift) / 2 + np.log(4000 / 6000)))))
    error = np.sqrt(np.diag(np.linalg.inv((X.T * (p * (1 - p))) @ X)))[:3]
    assert (np.abs(slope[:3] - shift) < 4 * error).all()
    assert (error < 0.04).all()
    # importance weighting moves the mean of the training inputs to that of the test inputs
    assert np.abs(np.average(train, axis=0, weights=w) - shift).max() < 0.1
    # E w^2 = exp(shift^2) for two Gaussians
    size = remedies.effective_sample_size(jnp.asarray(w))
    np.testing.assert_allclose(size / 6000, np.exp(-shift @ shift), rtol=0.25)


def test_the_regression_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    train, test = shifted(60, 40, np.array([1.5, 0.3]), 1)
    train[:, 1] *= 100
    pooled = np.concatenate([train, test])
    X = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    y = np.arange(100) >= 60
    model = LogisticRegression(C=1 / (0.05 * 100), tol=1e-12, max_iter=10_000).fit(X, y)
    odds = np.exp(model.decision_function(X[:60]))
    found = remedies.importance_weights(jnp.asarray(train), jnp.asarray(test), penalty=0.05)
    np.testing.assert_allclose(found, odds / odds.mean(), rtol=1e-6)


def test_separated_sets_get_finite_weights_and_bad_input_is_refused():
    far = remedies.importance_weights(jnp.linspace(0, 1, 20)[:, None], 50 + jnp.linspace(0, 1, 20)[:, None])
    assert jnp.isfinite(far).all()
    np.testing.assert_allclose(far.mean(), 1, rtol=1e-12)
    good = jnp.ones((4, 2))
    for arguments, words in (
        ((good, jnp.ones((4, 3))), "test_features"),
        ((good.at[1, 0].set(jnp.nan), good), "train_features.*non-finite"),
        ((jnp.ones(4), good), "train_features"),
    ):
        with pytest.raises(ValueError, match=words):
            remedies.importance_weights(*arguments)
    with pytest.raises(ValueError, match="penalty"):
        remedies.importance_weights(good, good, penalty=0.0)
