"""Functions taken apart: every kind of argument, output, rule and loop; and what is refused, in words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomies import agrees, normal, s5, with_scan

import jacspec as js
from jacspec.networks._pieces import _lifted


def test_any_argument_and_several_outputs():
    W = {"a": normal(4, 4), "b": normal(4)}
    net = lambda W, x: (jnp.tanh(W["a"] @ jnp.tanh(W["a"] @ x + W["b"])), W["b"] * 2)
    flat, unravel = jax.flatten_util.ravel_pytree(W)
    anatomy = js.dissect(net, W, normal(4))
    agrees(anatomy, lambda flat: net(unravel(flat), normal(4)), flat)
    assert anatomy.depth.shape == (8, 20)


def test_reverse_mode_alone():
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (3 * g * jnp.cos(x),))
    W = normal(4, 4)
    f = lambda x: sine(W @ sine(W @ x))
    anatomy = js.dissect(f, normal(4))
    agrees(anatomy, f, normal(4))
    assert anatomy.depth.length == 2


def with_slope(slope):
    """A sine whose derivative is said to be constant."""

    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    f.defjvp(lambda x, t: (jnp.sin(x[0]), slope * t[0]))
    return f


def test_two_rules_behind_one_function_are_two_programs():
    W, one, two = normal(4, 4), with_slope(1.0), with_slope(2.0)
    f = lambda x: two(W @ one(W @ x))
    agrees(js.dissect(f, normal(4)), f, normal(4))


def test_steps_taken_from_a_scan_are_those_of_the_scan():
    W, us = normal(4, 4), normal(6, 4, seed=1)
    (chain,) = js.dissect(with_scan, normal(4)).times.values()
    own = js.jacobian_chain(lambda h, u: jnp.tanh(W @ h + u), normal(4), us)
    np.testing.assert_allclose(np.asarray(chain.dense()), np.asarray(own.dense()), atol=1e-14)


def test_counter_becomes_a_driver():
    W = normal(4, 4)
    step = lambda c, _: ((jnp.tanh(W @ c[0]) * jnp.cos(c[1]), c[1] + 1), None)
    f = lambda x: jax.lax.scan(step, (x, 0), None, length=5)[0][0]
    (chain,) = js.dissect(f, normal(4)).times.values()
    P = functools.reduce(lambda P, J: np.asarray(J) @ P, chain.dense(), np.eye(4))
    np.testing.assert_allclose(P, jax.jacrev(f)(normal(4)), atol=1e-14)


REFUSED = {
    "while": (lambda x: jax.lax.while_loop(lambda s: s.sum() < 10, lambda s: s * 2, jnp.abs(x)), ValueError, "loop of"),
    "callback": (lambda x: jax.pure_callback(np.sin, x, x), ValueError, "calls the host"),
    "argmax": (lambda x: jnp.argmax(2 * x), ValueError, "ends in argmax"),
    "stopped": (lambda x: jax.lax.stop_gradient(2 * x), ValueError, "ends in stop_gradient"),
    "constant": (lambda x: jnp.ones(3), ValueError, "nothing is computed"),
    "no function": (3, TypeError, "callable"),
    "python if": (lambda x: x if x.sum() > 0 else -x, TypeError, "jnp.where"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as told:
        js.dissect(model, normal(4))
    assert str(told.value).startswith("jacspec.dissect: ")
    if name in ("while", "callback", "argmax", "stopped"):
        assert "test_dissect_functions.py:" in str(told.value)


@pytest.mark.parametrize(
    ("inputs", "options", "kind", "words"),
    [
        (("text",), {}, TypeError, "holds no array"),
        ((jnp.arange(3),), {}, TypeError, "is not floating"),
        ((jnp.array([jnp.nan]),), {}, ValueError, "non-finite"),
        ((jnp.ones(3),), {"wrt": 2}, ValueError, "out of range"),
        ((jnp.ones(3),), {"wrt": "kernel"}, ValueError, "no parameter"),
        ((jnp.ones(3),), {"blocks": "some"}, ValueError, "unknown"),
        ((jnp.ones(3),), {"variables": {}}, ValueError, "Linen"),
    ],
)
def test_wrong_arguments(inputs, options, kind, words):
    with pytest.raises(kind, match=words):
        js.dissect(lambda x: x * 2, *inputs, **options)


def test_associative_scan_has_no_step():
    anatomy = js.dissect(s5, normal(8, 4))
    (name,) = anatomy.times
    with pytest.raises(ValueError, match=r"Write it as jax\.lax\.scan"):
        anatomy.times[name]


def test_wide_states_are_pushed_and_pulled(monkeypatch):
    f = lambda x: jnp.tanh(normal(4, 4) @ jnp.tanh(normal(4, 4, seed=1) @ x))
    kept = js.dissect(f, normal(4)).depth
    monkeypatch.setattr("jacspec.chain.autodiff.STORED_BYTES", 0)
    wide = js.dissect(f, normal(4)).depth
    for J, K in zip(wide.dense(), kept.dense(), strict=True):
        np.testing.assert_allclose(J, K, atol=1e-14)
    np.testing.assert_allclose(js.log_singular_values(wide), js.log_singular_values(kept), atol=1e-12)


def test_cuts_that_are_asked_for():
    f = lambda x: jnp.tanh(normal(4, 4) @ jnp.tanh(normal(4, 4, seed=1) @ x))
    every = js.dissect(f, normal(4), blocks="all")
    assert [block.operations for block in every.blocks] == [("dot_general",), ("tanh",)] * 2
    some = js.dissect(f, normal(4), blocks=lambda block: block.operations[-1] == "dot_general")
    assert [block.operations for block in some.blocks] == [("dot_general",), ("tanh", "dot_general"), ("tanh",)]
    for anatomy in (every, some):
        agrees(anatomy, f, normal(4))


def test_an_input_that_is_given_out():
    anatomy = js.dissect(lambda x: (x, x), normal(3))
    agrees(anatomy, lambda x: (x, x), normal(3))


def test_two_rules_inside_of_two_scans():
    W, one, two = normal(4, 4), with_slope(1.0), with_slope(2.0)
    run = lambda f, x: jax.lax.scan(lambda h, _: (f(W @ h), None), x, None, length=2)[0]
    f = lambda x: run(two, run(one, x))
    agrees(js.dissect(f, normal(4)), f, normal(4))


def of_a_scan(f):
    return lambda x: jax.lax.scan(lambda h, _: (f(h), None), x, None, length=2)[0]


def of_a_condition(f):
    return lambda x: jax.lax.cond(x.sum() > 0, f, lambda h: f(2 * h), x)


def of_a_rule(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda x, t: (g(*x), 3 * jax.jvp(f, x, t)[1]))
    return g


HOLDERS = {
    "scan": of_a_scan,
    "cond": of_a_condition,
    "cond in a scan": lambda f: of_a_scan(of_a_condition(f)),
    "remat in a scan": lambda f: of_a_scan(jax.checkpoint(lambda h: 2 * f(h))),
    "custom_jvp": of_a_rule,
    "custom_jvp in a scan": lambda f: of_a_scan(of_a_rule(f)),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_two_blocks_whose_jitted_functions_hold_other_weights(name):
    layer = lambda W: HOLDERS[name](jax.jit(lambda h: jnp.tanh(W @ h)))
    first, second, V = layer(normal(4, 4, seed=1)), layer(normal(4, 4, seed=2)), normal(4, 4)
    f = lambda x: second(V @ first(V @ x))
    agrees(js.dissect(f, normal(4)), f, normal(4))


def test_blocks_whose_factors_differ_little():
    def f(x):
        for k in range(5):
            x = jnp.tanh(W @ x) * (0.5 + k * 1e-9)
        return x

    W = normal(4, 4)
    agrees(js.dissect(f, normal(4)), f, normal(4))


def test_half_precision_is_told():
    W = normal(4, 4).astype(jnp.bfloat16)
    with pytest.warns(UserWarning, match="bfloat16"):
        js.dissect(lambda x: W @ x, normal(4).astype(jnp.bfloat16))


def test_gradient_norms_where_widths_change():
    A, B = normal(5, 4), normal(3, 5, seed=1)
    chain = js.dissect(lambda x: jnp.tanh(B @ jnp.tanh(A @ x)), normal(4)).depth
    got = js.log_gradient_norms(chain, jnp.ones(3))
    want = jax.grad(lambda x: jnp.tanh(B @ jnp.tanh(A @ x)).sum())(normal(4))
    np.testing.assert_allclose(got[0], jnp.log(jnp.linalg.norm(want)), atol=1e-12)


def test_shared_weight_as_the_argument():
    def net(W, x):
        for _ in range(4):
            x = jnp.tanh(W @ x)
        return x

    anatomy = js.dissect(net, normal(4, 4), normal(4))
    agrees(anatomy, lambda W: net(W, normal(4)), normal(4, 4))
    assert [block.frontier for block in anatomy.blocks] == [2, 2, 2, 1]


@pytest.mark.parametrize("budget", [None, 0])
def test_a_slope_that_is_not_finite_is_told(monkeypatch, budget):
    if budget is not None:
        monkeypatch.setattr("jacspec.chain.autodiff.STORED_BYTES", budget)
    with pytest.warns(UserWarning, match="Jacobian of step 1 is not finite"):
        chain = js.dissect(lambda x: jnp.sqrt(x), jnp.array([0.0, 1.0])).depth
    assert chain.first_nonfinite == 1


def test_equal_blocks_are_one_program(monkeypatch):
    traced = []
    monkeypatch.setattr("jacspec.networks._pieces._lifted", lambda closed: traced.append(closed) or _lifted(closed))
    W = normal(8, 2, 4, 4) / 2

    def net(x):
        for w in W:
            x = x + jnp.tanh(jax.nn.softmax(x @ w[0] @ x.T) @ x @ w[1])
        return x

    chain = js.dissect(net, normal(3, 4)).depth
    assert chain.length == 8
    assert len(traced) <= 2 * 2  # the map and what is made beside it, of one kind of block, or of two with an end
    norms = js.log_gradient_norms(chain, jnp.ones(12))
    want = jax.grad(lambda x: net(x).sum())(normal(3, 4))
    np.testing.assert_allclose(norms[0], jnp.log(jnp.linalg.norm(want)), atol=1e-10)
