"""All log singular values against mpmath: more than sixty chains, in float64 and float32."""

import functools

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacspec as js

# few shapes, because every shape is compiled; many families
SHAPES = {
    (1, 1): "gauss",
    (1, 1000): "gauss tanh tanh_saturated",
    (2, 1): "gauss prescribed",
    (2, 1000): "gauss residual orth tanh shears",
    (3, 10): "gauss relu relu_columns prescribed graded_triangular rectangular",
    (3, 200): "gauss tanh tanh_saturated near_degenerate jordan graded_diagonal relu",
    (4, 50): "gauss tanh_saturated relu pairs jordan residual switch",
    (6, 200): "gauss tanh jordan graded_diagonal graded_triangular pairs residual",
    (8, 100): "gauss tanh tanh_saturated relu relu_columns pairs prescribed graded_triangular residual switch",
    (8, 2000): "gauss orth tanh tanh_saturated residual near_degenerate",
    (12, 40): "gauss tanh relu relu_columns near_degenerate graded_diagonal residual",
    (12, 300): "gauss orth residual tanh pairs",
    (1, 6): "rectangular",
    (6, 5): "rectangular",
}
QUICK = {(3, 200), (12, 40), (3, 10)}  # the others are slow tests
CASES = [(name, *shape) for shape, names in SHAPES.items() for name in names.split()]
ILL = {case for case in CASES if case[0] == "switch"}


def each(cases):
    """One case a test; a shape stays on one worker, which compiles it once."""

    def marks(n, T):
        return [pytest.mark.xdist_group(f"{n}-{T}")] + ([] if (n, T) in QUICK else [pytest.mark.slow])

    return [pytest.param(c, id="-".join(map(str, c)), marks=marks(*c[1:])) for c in cases]


def chain_of(Js, dtype):
    if isinstance(Js, list):
        return js.JacobianChain.from_matrices([jnp.asarray(J, dtype) for J in Js])
    return js.JacobianChain.from_matrices(jnp.asarray(Js, dtype))


@functools.cache
def made(case):
    name, n, T = case
    return getattr(families, name)(np.random.default_rng(1000 * n + T), n, T)


def truth(Js, n, values):
    finite = values[np.isfinite(values)]
    return families.reference(Js, n, families.digits_for(np.ptp(finite) if finite.size else 0.0))


def is_ill_conditioned(case, want):
    """Whether one rounding of the data moves a value by more than 1e-9."""
    Js, n = families.nudged(made(case), 1), case[1]
    moved = truth(Js, n, want)
    live = np.isfinite(want) & np.isfinite(moved)
    return np.abs(moved[live] - want[live]).max() > 1e-9


@pytest.mark.parametrize("case", each(CASES))
def test_float64_is_right_and_its_error_bound_honest(case):
    Js = made(case)
    found = js.spectrum(chain_of(Js, jnp.float64), verify=True)
    values = np.asarray(found.log_singular_values)
    want = truth(Js, case[1], values)
    live = np.isfinite(want)
    assert int(found.rank) == live.sum()
    assert (values[~live] == -np.inf).all()
    assert bool(found.converged)
    error = np.abs(values[live] - want[live])
    bound = np.asarray(found.error)[live]
    assert (bound >= error).all()
    if case in ILL:
        assert is_ill_conditioned(case, want)
    else:
        assert error.max() <= 1e-9
        assert bound.max() < 1e-6


def test_few_chains_are_exempt():
    assert len(CASES) - len(ILL) >= 60
    assert len({n for _, n, _ in CASES}) >= 6
    assert len(ILL) <= 5


COARSE = {case for case in CASES if case[0] == "prescribed"} | {("relu", 3, 200)}
"""Chains of which one rounding of the data moves a value past the float32 tolerance."""


def tolerance32(want, T):
    return 3e-5 * np.maximum(np.abs(want), 1) + 3e-7 * T


@pytest.mark.parametrize("case", each(sorted(COARSE)))
def test_a_rounding_of_the_data_moves_the_chains_that_float32_cannot_hold(case):
    Js = made(case).astype(np.float32)
    sign = np.random.default_rng(0).choice([-1, 1], Js.shape)
    want, moved = (truth(J.astype(float), case[1], np.array([0.0, 1500.0])) for J in (Js, Js * (1 + 2.0**-23 * sign)))
    live = np.isfinite(want) & np.isfinite(moved)
    assert (np.abs(moved[live] - want[live]) > tolerance32(want[live], case[2])).any()


@pytest.mark.parametrize("case", each([c for c in CASES if c not in ILL | COARSE]))
def test_float32_is_right_for_the_rounded_chain(case):
    Js = made(case)
    Js = [J.astype(np.float32) for J in Js] if isinstance(Js, list) else Js.astype(np.float32)
    found = js.spectrum(chain_of(Js, jnp.float32))
    values = np.asarray(found.log_singular_values, float)
    want = truth(Js, case[1], values)
    live = np.isfinite(want)
    assert values.dtype == np.float64
    assert found.log_singular_values.dtype == jnp.float32
    assert int(found.rank) == live.sum()
    error = np.abs(values[live] - want[live])
    assert (error <= tolerance32(want[live], case[2])).all()


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_the_empty_product_is_the_identity(dtype):
    found = js.spectrum(js.JacobianChain.from_matrices(jnp.zeros((0, 3, 3), dtype)), verify=True)
    assert found.log_singular_values.tolist() == [0, 0, 0]
    assert int(found.rank) == 3
    assert found.error.tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gauss", "residual"])
@pytest.mark.parametrize("n", [128, 256])
def test_two_routes_agree_at_large_width(family, n):
    Js = jnp.asarray(getattr(families, family)(np.random.default_rng(n), n, 100))
    chain = js.JacobianChain.from_matrices(Js)
    transposed = js.JacobianChain.from_matrices(jnp.swapaxes(Js, 1, 2)[::-1])
    forward, other = js.log_singular_values(chain), js.log_singular_values(transposed)
    assert jnp.abs(forward - js.log_singular_values(chain, origin="end")).max() <= 1e-8
    assert jnp.abs(forward - other).max() <= 1e-8
    determinant = jnp.sum(jax.vmap(lambda J: jnp.linalg.slogdet(J)[1])(Js))
    assert abs(forward.sum() - determinant) <= 1e-8
