"""Second derivatives: every nesting of forward and reverse mode is right, or all refuse in one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacspec as js
from jacspec._ground.primitives import Primitive

POINT, V, W = jnp.array([0.1, 0.2]), jnp.array([0.3, 0.7]), jnp.array([1.0, -0.4])
WEIGHT = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2)))
START, LENGTH = jnp.array([0.4, -0.7]), 3

# W^T H V by each of them
NESTINGS = {
    "hessian": lambda f, p: W @ jax.hessian(f)(p) @ V,
    "grad of grad": lambda f, p: W @ jax.grad(lambda p: jax.grad(f)(p) @ V)(p),
    "jvp of jvp": lambda f, p: jax.jvp(lambda p: jax.jvp(f, (p,), (V,))[1], (p,), (W,))[1],
    "jvp of grad": lambda f, p: jax.jvp(jax.grad(f), (p,), (W,))[1] @ V,
    "grad of jvp": lambda f, p: W @ jax.grad(lambda p: jax.jvp(f, (p,), (V,))[1])(p),
}


def cell(p):
    return js.cells.Elman(WEIGHT * (1 + p[0]) + p[1] * jnp.eye(2))


def chain(p):
    return js.jacobian_chain(cell(p), START, length=LENGTH)


def product(p):
    h, P = START, jnp.eye(2)
    for _ in range(LENGTH):
        P = jax.jacfwd(lambda h: jnp.tanh(cell(p).W @ h))(h) @ P
        h = jnp.tanh(cell(p).W @ h)
    return P


RIGHT = {  # (question, the same in plain JAX)
    "exponents": (
        lambda p: js.lyapunov_exponents(chain(p)).exponents @ jnp.array([2.0, 1.0]),
        lambda p: (jnp.log(jnp.linalg.norm(product(p)[:, 0])) + jnp.log(jnp.abs(jnp.linalg.det(product(p))))) / LENGTH,
    ),
    "gradient norms": (
        lambda p: js.log_gradient_norms(chain(p), jnp.ones(2))[0],
        lambda p: jnp.log(jnp.linalg.norm(product(p).sum(axis=0))),
    ),
    "push": (lambda p: chain(p).push(jnp.ones(2))[1], lambda p: jnp.log(jnp.linalg.norm(product(p).sum(axis=1)))),
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("name", RIGHT)
def test_second_derivatives_are_those_of_plain_jax(name, nesting):
    question, plain = RIGHT[name]
    want = NESTINGS["jvp of jvp"](plain, POINT)
    assert abs(want) > 0.1
    got = jax.jit(lambda p: NESTINGS[nesting](question, p))(POINT)
    np.testing.assert_allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("options", [{}, {"origin": "end"}, {"k": 1}], ids=str)
def test_second_derivatives_of_singular_values_are_refused_in_one_sentence(options, nesting, transform):
    question = lambda p: js.log_singular_values(chain(p), **options)[0]
    with pytest.raises(NotImplementedError, match=r"(?m)^jacspec: log singular values have no second.*\.$"):
        transform(lambda p: NESTINGS[nesting](question, p))(POINT)


def test_a_primitive_keeps_its_rule_in_every_nesting():
    """Where jax.custom_jvp loses it: in a scan that reverse mode has passed. The rule is told from the code by a factor."""

    @Primitive
    def sine(x):
        return jnp.sin(x)

    @Primitive
    def cosine(x):
        return jnp.cos(x)

    sine.defjvp(lambda primals, tangents: (sine(*primals), 3 * cosine(*primals) * tangents[0]))
    cosine.defjvp(lambda primals, tangents: (cosine(*primals), -5 * sine(*primals) * tangents[0]))
    x = jnp.array([[0.3, 1.2], [2.0, -0.4]])
    scanned = lambda x: jax.lax.scan(lambda c, y: (c + sine(y).sum(), None), 0.0, x)[0]
    mapped = lambda x: jax.vmap(jax.vmap(sine), in_axes=1)(x).sum()
    for f in (scanned, mapped, jax.checkpoint(scanned)):
        for second in (lambda f: jax.grad(lambda x: jax.grad(f)(x).sum()), lambda f: jax.jacfwd(jax.grad(f))):
            H = jax.jit(second(f))(x)
            H = H if H.ndim == 2 else jnp.einsum("ijij->ij", H)
            np.testing.assert_allclose(H, -15 * jnp.sin(x), rtol=1e-14)


def test_a_primitive_without_a_rule_says_so():
    @Primitive
    def nameless(x):
        return x + 1

    with pytest.raises(NotImplementedError, match="nameless has no derivative"):
        jax.grad(nameless)(1.0)
