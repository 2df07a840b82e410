"""What is derived from a value that is not resolved, not complete or not finite says so; and results tell their numbers."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacspec as js
from jacspec.questions.exponents import LyapunovSpectrum
from jacspec.questions.spectrum import Spectrum

INF, NAN = math.inf, math.nan


def exponents(values, resolved=True, complete=True):
    lam = jnp.asarray(values, float)
    ok = jnp.broadcast_to(jnp.asarray(resolved), lam.shape) & ~jnp.isnan(lam)
    true = jnp.asarray(True)
    return LyapunovSpectrum(
        lam, lam[None], jnp.ones(1), 0.1 + 0 * lam, ok, true, jnp.asarray(-1), jnp.asarray(complete)
    )


def singular(values, resolved=True, complete=True, converged=True, t=10):
    s = jnp.asarray(values, float)
    ok = jnp.broadcast_to(jnp.asarray(resolved), s.shape) & ~jnp.isnan(s)
    flags = jnp.asarray(converged), jnp.asarray(-1), jnp.asarray(complete)
    return Spectrum(s, jnp.asarray(t), ok, 0 * s, jnp.full_like(s, jnp.nan), *flags)


Y, N = True, False
# exponents, resolved, complete, dimension, entropy rate
EXPONENTS = [
    ([0.5, 0.1, -0.3, -2], Y, Y, 3 + 0.3 / 2, 0.6),
    ([0.5, 0.1, -0.3, -2], [Y, Y, Y, N], Y, NAN, 0.6),  # the divisor of the dimension
    ([0.5, -0.3, -2, -9], [Y, Y, Y, N], Y, 2 + 0.2 / 2, 0.5),  # beyond the crossing
    ([0.5, -0.3, -2, -9], [Y, Y, N, N], Y, NAN, 0.5),
    ([0.5, -0.3, -2, -9], [Y, N, Y, Y], Y, NAN, 0.5),
    ([0.5, 0.1, -0.3, -2], [Y, N, Y, Y], Y, NAN, NAN),
    ([0.5, 0.1, -0.3, -2], [N, Y, Y, Y], Y, NAN, NAN),
    ([0.5, 0.1], Y, Y, 2, 0.6),
    ([0.5, 0.1], Y, N, NAN, NAN),
    ([0.5, 0.1], [Y, N], Y, NAN, NAN),
    ([0.5, -0.1], Y, N, NAN, 0.5),
    ([0.5, -2], Y, N, 1.25, 0.5),
    ([0.5, -INF], Y, Y, 1, 0.5),
    ([-0.5, -INF], Y, Y, 0, 0),
    ([-0.5, -1], [N, Y], Y, NAN, 0),
    ([-0.5, -1], [Y, N], Y, 0, 0),
    ([NAN, NAN], N, Y, NAN, NAN),
]
# values, resolved, complete, converged, rank, log condition number
SINGULAR = [
    ([3, 1, -4], Y, Y, Y, 3, 7),
    ([3, 1, -4], [Y, Y, N], Y, Y, 2, NAN),  # an upper bound of the smallest
    ([3, 1, -4], [Y, N, Y], Y, Y, 2, 7),
    ([3, 1, -4], [N, Y, Y], Y, Y, 2, NAN),
    ([3, 1, -4], Y, N, Y, 3, NAN),  # of the leading values only
    ([3, 1, -4], Y, Y, N, -1, NAN),
    ([3, 1, -INF], Y, Y, Y, 2, INF),
    ([3, 1, -INF], [Y, Y, N], Y, Y, 2, NAN),
    ([-INF, -INF], Y, Y, Y, 0, NAN),
    ([NAN, NAN], N, Y, N, -1, NAN),
]


@pytest.mark.parametrize(("values", "resolved", "complete", "dimension", "entropy"), EXPONENTS)
def test_dimension_and_entropy_inherit_doubt(values, resolved, complete, dimension, entropy):
    found = exponents(values, resolved, complete)
    np.testing.assert_allclose(found.kaplan_yorke_dimension, dimension, rtol=1e-12)
    np.testing.assert_allclose(found.entropy_rate, entropy, rtol=1e-12)


@pytest.mark.parametrize(("values", "resolved", "complete", "converged", "rank", "condition"), SINGULAR)
def test_rank_and_condition_number_inherit_doubt(values, resolved, complete, converged, rank, condition):
    found = singular(values, resolved, complete, converged)
    assert found.rank.dtype.kind == "i"
    assert int(found.rank) == rank
    np.testing.assert_allclose(found.log_condition_number, condition, rtol=1e-12)
    assert found.rates.shape == found.resolved.shape
    np.testing.assert_allclose(found.rates, np.asarray(values) / 10)


def test_batches_inherit_row_by_row():
    rows = [row for row in EXPONENTS if len(row[0]) == 4]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[exponents(*row[:3]) for row in rows])
    np.testing.assert_allclose(batch.kaplan_yorke_dimension, [row[3] for row in rows], rtol=1e-12)
    np.testing.assert_allclose(batch.entropy_rate, [row[4] for row in rows], rtol=1e-12)
    rows = [row for row in SINGULAR if len(row[0]) == 3]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[singular(*row[:4]) for row in rows])
    assert batch.rank.tolist() == [row[4] for row in rows]
    np.testing.assert_allclose(batch.log_condition_number, [row[5] for row in rows], rtol=1e-12)


M = js.JacobianChain.from_matrices


@pytest.fixture(scope="module")
def Js():
    return jnp.asarray(np.random.default_rng(0).standard_normal((200, 4, 4)))


def test_the_leading_values_are_not_the_whole(Js):
    chain = M(Js)
    for k in (2, 4):
        found = js.spectrum(chain, k=k, at=[3, 200])
        assert found.complete.tolist() == [k == 4] * 2
        assert np.isnan(found.log_condition_number).tolist() == [k != 4] * 2
    whole = js.spectrum(chain)
    assert bool(whole.complete)
    np.testing.assert_allclose(whole.log_condition_number, found.log_condition_number[-1], atol=1e-9)
    np.testing.assert_allclose(whole.log_condition_number, np.ptp(whole.log_singular_values), atol=1e-12)
    growing = M(jnp.tile(jnp.diag(jnp.array([3.0, 2.0, 0.1])), (10, 1, 1)))
    assert np.isnan(js.lyapunov_exponents(growing, k=2).entropy_rate)
    np.testing.assert_allclose(js.lyapunov_exponents(growing).entropy_rate, np.log(6), rtol=1e-12)


def test_a_drowned_direction_spoils_what_needs_it():
    """Two QR are so far apart that rounding of the first direction passes for growth of the second."""
    O = np.linalg.qr(np.random.default_rng(1).standard_normal((2, 2)))[0]
    chain = M(jnp.tile(O @ np.diag([np.e**2, np.e**-2]) @ O.T, (400, 1, 1)))
    every = js.lyapunov_exponents(chain, transient=40)
    np.testing.assert_allclose(every.entropy_rate, 2, atol=1e-6)
    apart = js.lyapunov_exponents(chain, transient=40, qr_every=40)
    assert apart.resolved.tolist() == [True, False]
    assert apart.exponents[1] > 0  # noise
    assert np.isnan(apart.entropy_rate)
    assert np.isnan(apart.kaplan_yorke_dimension)


def test_a_condition_number_beyond_the_precision_is_not_a_number():
    low = np.random.default_rng(2).standard_normal((8, 6, 4)) @ np.random.default_rng(3).standard_normal((8, 4, 6))
    found = js.spectrum(M(jnp.asarray(low)))
    assert np.isfinite(found.log_singular_values).all()
    assert np.isnan(found.log_condition_number)
    assert int(found.rank) == 4


def test_a_chain_that_is_not_finite_has_neither(Js):
    chain = M(Js.at[7, 0, 0].set(jnp.nan), check=False)
    found, rates = js.spectrum(chain), js.lyapunov_exponents(chain)
    assert int(found.rank) == -1
    assert np.isnan([found.log_condition_number, rates.entropy_rate, rates.kaplan_yorke_dimension]).all()
    assert "not finite from index 8" in repr(found)
    assert "not finite from index 8" in repr(rates)
    assert "all NaN" in repr(found)


def test_repr_tells_the_numbers(Js):
    chain = M(Js)
    found = js.spectrum(chain)
    s = [f"{float(v):.4g}" for v in found.log_singular_values]
    want = f"Spectrum of a product of 200 factors: 4 log singular values {', '.join(s)} nats; 4 of 4 resolved"
    assert repr(found) == want
    assert "2 leading log singular values 1, 0 nats" in repr(singular([1, 0], complete=False))
    assert "errors at most 2.0e-09" in repr(dataclasses.replace(found, error=jnp.array([1e-12, 0, 2e-9, 0])))
    at = repr(js.spectrum(chain, at=[3, 200]))
    assert "2 products of 3 to 200 factors" in at
    assert f" to {s[0]}, the last {s[-1]} to " in at
    assert "; 8 of 8 resolved" in at
    rates = js.lyapunov_exponents(chain)
    lam = [f"{float(v):.4g}" for v in rates.exponents]
    error = f"standard errors at most {float(rates.standard_error.max()):.1e}"
    assert (
        repr(rates)
        == f"LyapunovSpectrum over 200 steps: 4 exponents {', '.join(lam)} nats/step; 4 of 4 resolved; {error}"
    )
    unknown = rates.standard_error.at[1].set(jnp.nan)
    assert "standard error not known for all" in repr(dataclasses.replace(rates, standard_error=unknown))
    assert "of 2 chains over 200 steps" in repr(
        jax.vmap(lambda a: js.lyapunov_exponents(M(a)))(jnp.stack([Js, 2 * Js]))
    )
    zero = singular([3, 2, 1.5, 1, 0, -INF])
    told = "3, 2, 1.5 ... -inf nats; 6 of 6 resolved, 1 exactly zero"
    assert told in repr(zero)
    assert "not converged" in repr(singular([1, 0], converged=False))
    assert "1 of 2 resolved" in repr(singular([1, 0], [Y, N]))
    for result in (found, rates, zero):
        assert len(repr(result)) < 240


def test_repr_is_safe_where_there_are_no_numbers(Js):
    seen = []
    jax.jit(lambda a: seen.extend(map(repr, (js.spectrum(M(a)), js.lyapunov_exponents(M(a))))))(Js)
    jax.vmap(lambda a: seen.append(repr(js.spectrum(M(a)))))(Js[None])
    found = js.spectrum(M(Js))
    seen += [repr(jax.eval_shape(lambda a: js.spectrum(M(a)), Js)), repr(jax.tree.map(lambda _: None, found))]
    assert len(seen) == 5
    assert all(text.startswith(("Spectrum(log_singular_values=", "LyapunovSpectrum(exponents=")) for text in seen)


def test_plain_python_for_json(Js):
    found = js.spectrum(M(jnp.diag(jnp.array([2.0, 0.0]))[None]))
    told = found.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["log_singular_values"] == [float(found.log_singular_values[0]), "-inf"]
    assert [float(v) for v in told["log_singular_values"]] == found.log_singular_values.tolist()
    assert told["resolved"] == [True, True]
    assert (told["rank"], told["log_condition_number"], told["horizons"], told["complete"]) == (1, "inf", 1, True)
    rates = js.lyapunov_exponents(M(Js), k=2).to_dict()
    assert json.loads(json.dumps(rates, allow_nan=False)) == rates
    assert (len(rates["history"]), rates["entropy_rate"], rates["complete"]) == (200, "nan", False)
    with pytest.raises(TypeError, match=r"Spectrum.to_dict: argument 'self' is traced.*outside jit"):
        jax.jit(lambda a: js.spectrum(M(a)).to_dict())(Js)
