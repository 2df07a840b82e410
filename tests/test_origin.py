"""The first operation that gives NaN or Inf, against programs in which it was planted: in every kind of inner program."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jacspec._ground.origin import origin

NAN, INF = np.nan, np.inf
ONE = jnp.ones(())


def scanned(h, xs):
    def step(h, x):
        h = h * 1e100 * x  # here
        return h, h

    return lax.scan(step, h, xs)[1]


def reversed_scan(h, xs):
    return lax.scan(lambda h, x: (h * 1e100 * x, None), h, xs, reverse=True)[0]  # here


def nested(h):
    def outer(h, i):
        inner = lambda g, j: (jnp.where((i == 1) & (j == 2), jnp.log(g - g), g), None)  # here
        return lax.scan(inner, h, jnp.arange(4))[0], None

    return lax.scan(outer, h, jnp.arange(3))[0]


def kept_in_a_carry(h, xs):
    def step(carry, x):
        first, second = carry
        return (jnp.exp(x), second + first), None  # here

    return lax.scan(step, (h, h), xs)[0][1]


def counted(h):
    return lax.while_loop(lambda s: s[1] < 2000, lambda s: (s[0] * 2, s[1] + 1), (h, 0))[0]  # here


def chosen(x):
    return lax.cond(x > 0, lambda x: jnp.log(x - 1), jnp.sin, x)  # here


@jax.jit
def compiled(x):
    return jnp.exp(x)  # here


def twice_compiled(x):
    return jax.jit(compiled)(x) * 2


PAIR = jnp.asarray([1.0, -1.0])


@jax.jit
def compiled_with_an_array(x):
    return jnp.log(PAIR * x)  # here


def scanned_with_an_array(x):
    return lax.scan(lambda h, _: (compiled_with_an_array(h), None), x, None, length=1)[0]


def kept(x):
    return jax.checkpoint(lambda x: jnp.sin(jnp.exp(x)))(x)  # here


@jax.custom_jvp
def own_tangent(x):
    return jnp.exp(x)  # here


own_tangent.defjvp(lambda p, t: (jnp.exp(p[0]), t[0] / p[0]))


@jax.custom_vjp
def own_cotangent(x):
    return 2 * x


own_cotangent.defvjp(lambda x: (2 * x, x), lambda x, g: (g / x,))


def called(x):
    return own_cotangent(x)  # here


def root(x):
    return jnp.sum(jnp.sqrt(x))  # here


def norm(x):
    return jnp.linalg.norm(x)  # here


def hidden(x):
    return jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0))  # here


def hidden_overflow(x):
    return jnp.sum(jnp.where(x < 0, jnp.exp(x), 1.0))  # here


def steep(x):
    return jnp.sum(jnp.sin(1e200 * jnp.sin(1e200 * x)))  # here


def masked(x):
    return jax.nn.softmax(jnp.where(x > 5, x, -jnp.inf))  # here


def mapped(x):
    return jax.vmap(lambda x: scanned(x, jnp.full(3, 1e100)))(x)


def narrowed(x):
    return x.astype(jnp.float32)  # here


def summed(x):
    return jnp.sum(x)  # here


def multiplied(x):
    return jnp.eye(2) @ x @ x  # here


def of_no_use(x):
    unused = jnp.log(-x)
    del unused
    return jnp.log(x - 1) + jnp.sqrt(x - 2)  # here


def marked(x):
    return jnp.where(x > 0, jnp.nan, x)  # here


class Module(nnx.Module):
    """A user's own."""

    def __init__(self):
        self.w = nnx.Param(jnp.zeros(3))

    def __call__(self, x):
        return x / jnp.sum(self.w[...])  # here


def of_module(x):
    return Module()(x)


A = jnp.asarray
CASES = {
    # name: (f, arguments, operation, cause, operands, value, loops, line of)
    "scan": (scanned, (ONE, A([1.0, 1e150, 1e200, 1.0])), "mul", "overflow", [1e200, 1e150], INF, (1,), scanned),
    "scan in reverse": (reversed_scan, (ONE, jnp.full(5, 1e80)), "mul", "overflow", [1e280, 1e80], INF, (3,), reversed_scan),
    "scan in a scan": (nested, (ONE,), "log", "pole", [0.0], -INF, (1, 2), nested),
    "carry to carry": (kept_in_a_carry, (ONE, A([0.0, 999.0, 0, 0])), "exp", "overflow", [999.0], INF, (1,), kept_in_a_carry),
    "while": (counted, (ONE,), "mul", "overflow", [2.0**1023, 2.0], INF, (1023,), counted),
    "cond": (chosen, (ONE,), "log", "pole", [0.0], -INF, (), chosen),
    "jit": (compiled, (A(999.0),), "exp", "overflow", [999.0], INF, (), compiled),
    "jit in jit": (twice_compiled, (A(999.0),), "exp", "overflow", [999.0], INF, (), compiled),
    "jit that holds an array": (compiled_with_an_array, (A([2.0, 3.0]),), "log", "undefined", [-3.0], NAN, (), compiled_with_an_array),
    "the same in a scan": (scanned_with_an_array, (A([2.0, 3.0]),), "log", "undefined", [-3.0], NAN, (0,), compiled_with_an_array),
    "remat": (jax.grad(kept), (A(999.0),), "exp", "overflow", [999.0], INF, (), kept),
    "custom_jvp": (own_tangent, (A(999.0),), "exp", "overflow", [999.0], INF, (), own_tangent),
    "tangent of custom_jvp": (jax.grad(own_tangent), (A(0.0),), "div", "pole", [1.0, 0.0], INF, (), None),
    "custom_vjp": (jax.grad(called), (A(0.0),), "div", "pole", [1.0, 0.0], INF, (), called),
    "derivative of a root": (jax.grad(root), (A([1.0, 0.0]),), "div", "pole", [0.5, 0.0], INF, (), root),
    "derivative of a norm": (jax.grad(norm), (jnp.zeros(3),), "div", "pole", [0.5, 0.0], INF, (), norm),
    "hidden by where": (jax.grad(hidden), (A([1.0, -4.0]),), "sqrt", "undefined", [-4.0], NAN, (), hidden),
    "overflow hidden": (jax.grad(hidden_overflow), (A([-1.0, 999.0]),), "exp", "overflow", [999.0], INF, (), hidden_overflow),
    "steep": (jax.grad(steep), (A([0.0]),), "mul", "overflow", [1e200, 1e200], INF, (), steep),
    "all masked": (masked, (jnp.ones(3),), "sub", "undefined", [-INF, -INF], NAN, (), masked),
    "vmap": (mapped, (A([0.0, 1e110]),), "mul", "overflow", [1e210, 1e100], INF, (0,), scanned),
    "cast": (narrowed, (A([1.0, 1e39]),), "convert_element_type", "cast", [1e39], INF, (), narrowed),
    "sum": (summed, (jnp.full(3, 1e308),), "reduce_sum", "overflow", [1e308], INF, (), summed),
    "product": (multiplied, (jnp.full((2, 2), 1e200),), "dot_general", "overflow", [1e200, 1e200], INF, (), multiplied),
    "NaN before Inf": (of_no_use, (ONE,), "sqrt", "undefined", [-1.0], NAN, (), of_no_use),
    "constant": (marked, (ONE,), "where", "constant", None, NAN, (), marked),
    "module": (of_module, (ONE,), "div", "pole", [1.0, 0.0], INF, (), Module.__call__),
    "argument": (summed, (A([1.0, NAN]),), "argument", "argument", [], NAN, (), None),
}  # fmt: skip


def line(f):
    lines, start = inspect.getsourcelines(f)
    return start + next(i for i, text in enumerate(lines) if "# here" in text)


@pytest.mark.parametrize("name", CASES)
def test_the_operation_is_found_where_it_was_planted(name):
    f, arguments, operation, cause, operands, value, loops, source = CASES[name]
    found = origin(f, *arguments)
    assert (found.operation, found.cause, found.loops) == (operation, cause, loops)
    np.testing.assert_equal(found.value, value)
    if operands is not None:
        np.testing.assert_allclose([low for low, _ in found.operands], operands, rtol=1e-6)
        np.testing.assert_allclose([high for _, high in found.operands], operands, rtol=1e-6)
    if source is not None:
        assert f"test_origin.py:{line(getattr(source, '__wrapped__', source))} (" in found.where
    assert operation in str(found) or operation == "argument"


def test_what_made_nan_of_an_infinity_is_told():
    found = origin(jax.grad(root), jnp.asarray([0.0, 0.0]))
    assert found.then is None  # 1 * inf
    found = origin(jax.grad(lambda x: root(0 * x)), jnp.asarray([0.0, 0.0]))
    assert (found.value, found.then.operation, np.isnan(found.then.value)) == (INF, "mul", True)
    assert str(found).startswith("div(0.5, 0) gives inf at ")
    assert "; then mul(" in str(found)


@pytest.mark.parametrize(("f", "x", "backward"), [(steep, [0.0], True), (hidden_overflow, [999.0, -1.0], False)])
def test_the_way_back_is_told_from_the_way_forward(f, x, backward):
    assert origin(jax.grad(f), jnp.asarray(x)).backward is backward


def test_what_is_finite_has_no_origin():
    assert origin(lambda x: jnp.where(x > 0, jnp.log(x), -1.0), jnp.asarray([-1.0, 0.0, 1.0])) is None
    assert origin(lambda x: (x, 3, jnp.arange(2)), ONE) is None


def test_a_function_traced_before_keeps_the_line_of_the_question():
    """JAX caches the program of `jnp.where`, `jnp.linalg.norm` and every jitted function, with the lines of the first caller."""
    jax.grad(lambda x: jnp.linalg.norm(x))(jnp.ones(3))
    again = jax.grad(lambda x: jnp.linalg.norm(x))  # here, not above
    where = origin(again, jnp.zeros(3)).where
    start = inspect.getsourcelines(test_a_function_traced_before_keeps_the_line_of_the_question)[1]
    assert f"test_origin.py:{start + 3} (" in where
