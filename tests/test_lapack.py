"""Factorizations do what JAX's do, at every order of derivative, and never hand LAPACK a batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jacspec as js
from jacspec._ground import lapack
from jacspec._product.orthogonal import qr
from jacspec.theory import recurrent

RNG = np.random.default_rng(0)
A = jnp.asarray(RNG.normal(size=(3, 2, 5, 5)))
B = jnp.asarray(RNG.normal(size=(3, 2, 4, 5)))
R = jnp.triu(A) + 3 * jnp.eye(5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (qr, jnp.linalg.qr),
        (lapack.triangle, lambda A: jnp.linalg.qr(A, mode="r")),
        (lambda A: lapack.eigenvectors(A + A.mT), lambda A: jnp.linalg.eigh(A + A.mT)[1]),
        (lapack.inverse, jnp.linalg.inv),
    ],
)
def test_a_batch_of_batches_is_that_of_jax(ours, theirs):
    got, want = jax.jit(jax.vmap(jax.vmap(ours)))(A), theirs(A)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


def direct(R, B):
    return lax.linalg.triangular_solve(jnp.triu(R), B, left_side=False, lower=False)


SOLVES = [
    pytest.param(lambda R, B: lapack.divide_right(B, jnp.triu(R)), direct, id="divide_right"),
    pytest.param(
        lambda R, B: lapack.solve(R, B[0]), lambda R, B: jnp.linalg.solve(R, B[0]), id="solve", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), SOLVES)
@pytest.mark.parametrize("argnum", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_solutions_and_two_derivatives_under_vmap(ours, theirs, argnum):
    orders = [lambda f: f, jax.grad, jax.jacfwd, jax.hessian]
    scalar = lambda f: lambda R, B: jnp.sum(jnp.sin(f(R, B)))
    for order in orders:
        options = {} if order is orders[0] else {"argnums": argnum}
        got, want = (jax.vmap(order(scalar(f), **options))(R[0], B[0]) for f in (ours, theirs))
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_only_what_has_a_batch_axis_is_looped_over():
    got = jax.vmap(lapack.divide_right, in_axes=(0, None))(B[0], R[0, 0])
    np.testing.assert_allclose(got, direct(R[0, 0], B[0].reshape(-1, 5)).reshape(B[0].shape), atol=1e-14)


def batches(function, *args):
    """Calls of LAPACK in the program whose first operand has more than two axes."""
    text = jax.jit(function).lower(*args).as_text()
    calls = re.findall(r"custom_call @lapack_(\w+?)_ffi.*?: \(tensor<([0-9x]+)x", text)
    return calls, [call for call in calls if call[1].count("x") > 1]


def matrices(J):
    return js.JacobianChain.from_matrices(J, check=False)


Js = jnp.asarray(RNG.normal(size=(2, 6, 5, 5)))
QUESTIONS = {
    "spectrum at horizons": (jax.vmap(lambda J: js.log_singular_values(matrices(J), at=(2, 4), origin="end")), Js),
    "its gradient": (jax.vmap(jax.grad(lambda J: js.log_singular_values(matrices(J)).sum())), Js),
    "exponents": (jax.vmap(lambda J: js.lyapunov_exponents(matrices(J)).exponents), Js),
    "their gradient": (jax.vmap(jax.grad(lambda J: js.lyapunov_exponents(matrices(J)).exponents[0])), Js),
    "leading ones": (jax.vmap(lambda J: js.log_singular_values(matrices(J), k=2)), Js),
    "orthogonal gates": (lambda key: js.initializers.orthogonal(key, 4, jnp.float64, gates=3), jax.random.key(0)),
    "LSTM theory": (jax.vmap(lambda s: recurrent.lstm(s).chi), jnp.array([1.0, 2.0])),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_lapack_never_gets_a_batch_on_the_cpu(name):
    calls, batched = batches(*QUESTIONS[name])
    assert calls
    assert batched == []


def test_that_test_can_fail():
    assert batches(jnp.linalg.qr, A)[1]
