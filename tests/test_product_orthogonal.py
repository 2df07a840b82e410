"""The order of rows, and the factorization that keeps to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacspec._product.orthogonal import descending, row_sorted_qr


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 256, 257])
def test_the_order_is_that_of_a_stable_sort(n, dtype):
    rng = np.random.default_rng(n)
    size = rng.integers(-n, n + 1, n).astype(dtype)  # with ties
    size[: n // 4] = rng.choice([np.inf, -np.inf, np.nan], n // 4)
    order, place = jax.jit(descending)(jnp.asarray(size))
    want = np.argsort(-np.where(np.isnan(size), -np.inf, size), kind="stable")
    np.testing.assert_array_equal(order, want)
    np.testing.assert_array_equal(place, np.argsort(want))


def test_sizes_of_any_magnitude_are_ordered():
    size = jnp.array([1e-300, -1e300, 1e300, -1e-300, 1.0, -1.0, 0.0, 1 + 1e-12])
    np.testing.assert_array_equal(descending(size)[0], [2, 7, 4, 0, 6, 3, 5, 1])


def test_rows_of_very_different_size_stay_apart():
    """Every row of Q R is right to its own last digits, which QR of the rows as they come does not give."""
    rng = np.random.default_rng(0)
    A = jnp.asarray(rng.standard_normal((6, 6)) * np.exp(np.array([-40, 0, -20, -30, 5, -10.0]))[:, None])
    error = lambda Q, R: (jnp.abs(Q @ R - A).max(axis=1) / jnp.abs(A).max(axis=1)).max()
    Q, R = row_sorted_qr(A, jnp.abs(A).max(axis=1))
    assert error(Q, R) < 1e-14
    np.testing.assert_allclose(Q.T @ Q, jnp.eye(6), atol=1e-15)
    assert error(*jnp.linalg.qr(A)) > 1e-10
