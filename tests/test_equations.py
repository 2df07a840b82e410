"""The loops of a traced program, run by hand from what `jacspec._ground.equations` reads of them, give what JAX gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun

from jacspec._ground.equations import scan_of, while_of

h, A = jnp.array([0.3, -0.4]), jnp.array([[0.5, 0.1], [0.2, -0.3], [0.7, 0.9]])


def both(c, a):
    return (jnp.sin(c[0]) * a + h, c[1] + 1), (c[0] @ a, a)


def stepped(h):
    return lax.scan(lambda c, a: (jnp.tanh(c * a), c), h, A, reverse=True)


SCANS = {
    "all parts": (lambda h, A, b: lax.scan(lambda c, a: (both(c, a)[0], a * b), (h, 0), A), (h, A, h)),
    "all parts, in reverse": (lambda h, A: lax.scan(both, (h, 0), (A), reverse=True), (h, A)),
    "constants that are not constant": (lambda b, A: lax.scan(lambda c, a: (c * a @ b, None), 1.0, A), (h, A)),
    "an input alone": (lambda A: lax.map(jnp.sin, A), (A,)),
    "a carry alone": (lambda h: lax.scan(lambda c, _: (jnp.sin(c), None), h, None, length=3), (h,)),
    "an output alone": (lambda h: lax.scan(lambda _, x: (None, h * 2), None, None, length=3), (h,)),
    "a loop with bounds": (lambda h: lax.fori_loop(0, 3, lambda i, c: c * i + h, h), (h,)),
    "a length of one": (lambda h, A: lax.scan(both, (h, 0), A[:1]), (h, A)),
    "a carry as long as the loop": (lambda A: lax.scan(lambda c, a: (c + a, c), A, A), (A[:2],)),
    "its derivative": (lambda h, t: jax.jvp(stepped, (h,), (t,)), (h, h)),
    "its way back": (lambda h: jax.vjp(stepped, h)[1]((h, A)), (h,)),
    "a batch": (jax.vmap(stepped), (A,)),
    "a batch of inputs": (jax.vmap(lambda a: lax.scan(lambda c, x: (c + x, c * x), 0.0, a)), (A,)),
    "a key": (lambda k: lax.scan(lambda k, _: (jax.random.split(k)[0], None), k, None, length=3), (jax.random.key(0),)),
}


def numbers(values):
    return [
        np.asarray(jax.random.key_data(v) if jnp.issubdtype(jnp.asarray(v).dtype, jax.dtypes.prng_key) else v)
        for v in values
    ]


def equations(f, *args):
    """The equations of f in order, with the values of operands and results."""
    closed = jax.make_jaxpr(f)(*args)
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, jax.tree.leaves(args), strict=True))
    for e in closed.jaxpr.eqns:
        given = [v.val if hasattr(v, "val") else values[v] for v in e.invars]
        got = e.primitive.get_bind_params(e.params)
        functions, params = got if isinstance(got, tuple) else ((), got)
        out = e.primitive.bind(*functions, *given, **params)
        out = out if e.primitive.multiple_results else [out]
        values |= dict(zip(e.outvars, out, strict=True))
        yield e, given, out


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_run_by_hand_is_the_scan(name):
    f, args = SCANS[name]
    scans = [found for found in equations(f, *args) if found[0].primitive.name == "scan"]
    assert scans
    for equation, given, want in scans:
        scan = scan_of(equation)
        constants, carry, xs = scan.parts(given)
        ys = {}
        for i in scan.order:
            out = jaxpr_as_fun(scan.body)(*constants, *carry, *(x[i] for x in xs))
            carry, ys[i] = out[: scan.carried], out[scan.carried :]
        stacked = [jnp.stack(y) for y in zip(*(ys[i] for i in range(scan.length)), strict=True)]
        for got, true in zip(numbers([*carry, *stacked]), numbers(want), strict=True):
            assert got.shape == true.shape
            np.testing.assert_allclose(got, true, rtol=1e-6)


def test_a_scan_without_iterations_has_its_parts():
    (equation,) = jax.make_jaxpr(lambda h, A: lax.scan(lambda c, a: (c + a, c @ a), h, A))(h, A[:0]).eqns
    scan = scan_of(equation)
    assert (scan.fixed, scan.carried, scan.length, list(scan.order)) == (0, 1, 0, [])


@pytest.mark.parametrize("n", [0, 1, 4])
def test_a_while_loop_run_by_hand_is_the_loop(n):
    def f(h, n, b):
        return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.sin(c[1]) * b + h), (0, h))

    ((equation, given, want),) = equations(f, h, n, h)
    loop = while_of(equation)
    asked, constants, carry = loop.parts(given)
    assert (len(asked), len(constants), len(carry)) == (1, 2, 2)
    while jaxpr_as_fun(loop.test)(*asked, *carry)[0]:
        carry = jaxpr_as_fun(loop.body)(*constants, *carry)
    for got, true in zip(numbers(carry), numbers(want), strict=True):
        np.testing.assert_allclose(got, true, rtol=1e-6)
