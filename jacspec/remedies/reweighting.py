"""Importance weighting under covariate shift: the training loss as the test inputs would see it."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jacspec._ground import checks, lapack
from jacspec._ground.arithmetic import matmul, norms
from jacspec._ground.precision import at_least_float32
from jacspec.remedies.clipping import threshold, within
from jacspec.remedies.norm import parts_and_norm

MAX_STEPS = 100  # Newton steps; five to ten are normal


def importance_weights(train_features: Array, test_features: Array, *, penalty: float = 1e-3) -> Array:
    """Weights p_test(x) / p_train(x) of the training inputs, by telling the two sets apart.

    With a logistic regression P(test | x) = sigma(w . x + b), Bayes' rule gives

        p_test(x) / p_train(x) = (n_train / n_test) exp(w . x + b),

    exact where the log ratio is linear in the features, such as for two Gaussians of one covariance.

    Args:
        train_features: (n_train, d).
        test_features: (n_test, d).
        penalty: ridge on w in units of the pooled standard deviation, > 0: the loss is the mean log loss plus
            penalty ||w||^2 / 2. It keeps w finite where the sets can be separated.

    Returns:
        (n_train,), positive, mean 1.

    Raises:
        TypeError: for features that are not floating arrays, a penalty that is no number.
        ValueError: for shapes that do not fit, values that are not finite, penalty <= 0 or beyond the dtype.

    Reference: H. Shimodaira, J. Stat. Plan. Inference 90 (2000) 227 (weighting); M. Sugiyama, T. Suzuki, T. Kanamori,
    Density Ratio Estimation in Machine Learning, Cambridge 2012 (logistic regression).

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> train, test = jnp.array([[0.0], [1.0]] * 50), jnp.array([[1.0]] * 75 + [[0.0]] * 25)
        >>> remedies.importance_weights(train, test, penalty=1e-9)[:2].round(4).tolist()
        [0.5, 1.5]
    """
    name = "remedies.importance_weights"
    train = checks.array(name, "train_features", train_features, 2, "(n_train, d)")
    test = checks.array(name, "test_features", test_features, 2, "(n_test, d)")
    if 0 in train.shape or test.shape[0] == 0 or test.shape[1] != train.shape[1]:
        got, want = f"shapes {train.shape} and {test.shape}", "(n_train, d) and (n_test, d), none of them 0"
        raise ValueError(checks.message(name, "test_features", "does not fit train_features", got, want))
    for argument, features in (("train_features", train), ("test_features", test)):
        checks.finite(name, argument, features)
    dtype = at_least_float32(train, test)
    penalty = threshold(name, "penalty", penalty)
    within(name, "penalty", penalty, dtype)
    return _weights(train.astype(dtype), test.astype(dtype), penalty)


@jax.jit
def _weights(train: Array, test: Array, penalty: float) -> Array:
    (pooled,), _ = parts_and_norm([jnp.concatenate([train, test])], axis=0)  # no square overflows or underflows
    spread = jnp.std(pooled, axis=0)
    X = (pooled - jnp.mean(pooled, axis=0)) / jnp.where(spread > 0, spread, 1)
    X = jnp.concatenate([X, jnp.ones((X.shape[0], 1), X.dtype)], axis=1)
    y = (jnp.arange(X.shape[0]) >= train.shape[0]).astype(X.dtype)
    ridge = jnp.full(X.shape[1], penalty, X.dtype).at[-1].set(0)
    radius = jnp.max(norms(X))

    def gradient(w):
        return matmul(X.T, jax.nn.sigmoid(matmul(X, w)) - y) / y.size + ridge * w

    def newton(state):
        count, w, g = state
        p = jax.nn.sigmoid(matmul(X, w))
        H = matmul(X.T * (p * (1 - p)), X) / y.size + jnp.diag(ridge)
        step = lapack.solve(H + jnp.finfo(X.dtype).eps * jnp.eye(w.size, dtype=X.dtype), g)
        # The third derivative of the logistic loss is at most radius times the second, so that a step shortened to
        # log(1 + d) / d, d = radius ||step||, descends from everywhere (generalized self-concordance).
        d = radius * norms(step)
        w = w - step * jnp.where(d > 0, jnp.log1p(d) / jnp.where(d > 0, d, 1), 1)
        return count + 1, w, gradient(w)

    start = jnp.zeros(X.shape[1], X.dtype)
    tolerance = 10 * jnp.finfo(X.dtype).eps * radius
    _, w, _ = lax.while_loop(
        lambda s: (s[0] < MAX_STEPS) & (norms(s[2]) > tolerance), newton, (0, start, gradient(start))
    )
    return train.shape[0] * jax.nn.softmax(matmul(X[: train.shape[0]], w))


def effective_sample_size(weights: Array) -> Array:
    """How many equally weighted examples are as good: (sum w)^2 / sum w^2.

    Args:
        weights: (n,), finite, not negative, one of them positive.

    Returns:
        Scalar in [1, n]; NaN where JAX traces weights that are none.

    Raises:
        TypeError: for weights that are no array of numbers.
        ValueError: for weights of another shape, that are not finite, negative, or all zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacspec import remedies
        >>> remedies.effective_sample_size(jnp.array([1.0, 1.0, 0.0])).item()
        2.0
    """
    name = "remedies.effective_sample_size"
    if hasattr(weights, "dtype") and jnp.issubdtype(weights.dtype, jnp.integer):
        weights = jnp.asarray(weights, float)
    weights = checks.array(name, "weights", weights, 1, "(n,)")
    checks.finite(name, "weights", weights)
    fine = jnp.all(weights >= 0) & jnp.any(weights > 0)
    if checks.is_concrete(fine) and not fine:
        got = "a negative one" if jnp.any(weights < 0) else "no positive one"
        raise ValueError(checks.message(name, "weights", "are no weights", got, "none negative, one positive"))
    (shares,), _ = parts_and_norm([weights])
    return jnp.where(fine, jnp.sum(shares) ** 2 / jnp.sum(shares**2), jnp.nan)
