"""Chains of matrices of every kind, mixed at random: each value is right, or `resolved` or `error` says that it is not."""

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacspec as js


@jax.jit
@jax.vmap
def ask(Js):
    found = js.spectrum(js.JacobianChain.from_matrices(Js, check=False), verify=True)
    return found.log_singular_values, found.resolved, found.error, found.converged


def truth(Js, values):
    T, n, _ = Js.shape
    finite = values[np.isfinite(values)]
    return families.reference(
        Js.astype(float), n, 2 * families.digits_for(np.ptp(finite) if finite.size else 0) + 13 * T
    )


def faults(want, values, resolved, error, tolerance):
    """What is wrong with a spectrum, value by value."""
    for i, (true, value, bound) in enumerate(zip(want, values, error, strict=True)):
        off = 0 if value == true else abs(value - true)
        if np.isnan(value) or np.isnan(bound):
            yield f"value {i} is {value}, its error {bound}"
        elif resolved[i] and true == -np.inf and value != true and bound < 3:
            yield f"value {i} is {value:.6g}, an exact zero"
        elif resolved[i] and true > -np.inf and off > max(bound, tolerance * (1 + abs(true))):
            yield f"value {i} is {value:.9g} and not {true:.9g}, error {bound:.2g}"
        elif not resolved[i] and bound < np.inf:
            yield f"value {i} is not resolved, but has an error of {bound:.2g}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("n", "T", "count"),
    [(3, 12, 60), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 30, 200), (4, 40, 100), (5, 8, 200)))],
)
def test_a_value_is_right_or_something_says_that_it_is_not(n, T, count, dtype):
    rng = np.random.default_rng(1000 * n + T)
    chains, names = zip(*(families.mixed(rng, n, T, dtype) for _ in range(count)), strict=True)
    answers = [np.asarray(part, float) for part in ask(jnp.asarray(np.stack(chains)))]
    found, kept = [], 0
    for Js, name, values, resolved, error, converged in zip(chains, names, *answers, strict=True):
        want = truth(Js, values)
        found += [f"{name}: {fault}" for fault in faults(want, values, resolved, error, 200 * np.finfo(dtype).eps * T)]
        found += [] if converged else [f"{name}: not converged"]
        kept += np.sum(resolved == 1)
    assert not found
    assert kept > 0.6 * n * count  # saying no to everything would be right, too
