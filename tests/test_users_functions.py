"""Whatever is wrong with what a user wrote, the message is jacspec's own: the argument, what it did, and the way out."""

import itertools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from refusals import EYE, ONE, N, T

import jacspec as js
from jacspec.networks.flax import from_flax

RNG = np.random.default_rng(0)


class MineError(Exception):
    """An exception of the user's own."""


def raises(error):
    def body(h):
        raise error

    return body


@jax.custom_vjp
def backward_only(h):
    return jnp.tanh(h)


backward_only.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: ((1 - jnp.tanh(h) ** 2) * g,))


def endless(h):
    return jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (jnp.tanh(c[0]), c[1] + 1), (h, 0))[0]


COUNT = itertools.count(1)
KEPT = []


def keeps(h):
    """Reads in one call what it kept in the one before."""
    out = jnp.tanh(h + (KEPT[-1] if KEPT else 0))
    KEPT.append(out)
    return out


# what the function does with its state, and words of the message
BROKEN = {
    "if": (lambda h: h if h[0] > 0 else -h, r"TracerBoolConversionError.*jnp\.where or jax\.lax\.cond"),
    "numpy": (lambda h: np.tanh(h), r"TracerArrayConversionError.*Use jax\.numpy"),
    "float()": (lambda h: h * float(h[0]), r"ConcretizationTypeError.*Keep arrays"),
    "range()": (lambda h: h * range(h.argmax())[0], r"TracerIntegerConversionError.*jnp\.take"),
    "boolean index": (lambda h: h[h > 0], r"NonConcreteBooleanIndexError.*jnp\.where"),
    "shapes": (lambda h: h @ jnp.ones((7, 7)), r"float64\[3\].*dot_general.*outside jacspec on arrays of these shapes"),
    "its own error": (raises(KeyError("mine")), r"KeyError: 'mine'.*stands above"),
    "an error of its own class": (raises(MineError("mine")), r"MineError: mine.*stands above"),
    "a warning made an error": (raises(UserWarning("mine")), r"UserWarning: mine.*stands above"),
    "string": (lambda h: "h", r"must return arrays"),
    "nothing": (lambda h: None, r"returns? .*(state|float)|does not fit the step"),
    "pair": (lambda h: (h, h), r"changes the structure.*from_flax|does not return the next state|does not fit"),
    "integers": (lambda h: h.astype(int), r"floating"),
    "backward only": (lambda h: backward_only(h), r"custom_vjp.*custom_jvp.*DirectAdjoint\(\) or .*ForwardMode"),
    "callback": (
        lambda h: jax.pure_callback(np.tanh, h, h),
        r"allbacks do not support JVP.*custom_jvp|vmap_method.*stands above",
    ),
    "counter": (lambda h: jnp.tanh(h) * next(COUNT), r"changes itself when it is called.*part of the state"),
    "noise of NumPy": (lambda h: jnp.tanh(h) * RNG.standard_normal(), r"changes itself.*random keys as drivers"),
    "memory": (keeps, r"changes itself|UnexpectedTracerError.*part of the state"),
    "reference": (lambda h: h + REF[...], r"jax\.Ref: read it before"),
}
REF = jax.new_ref(jnp.ones(()))


class Module(nnx.Module):
    def __init__(self, body):
        self.body = body

    def __call__(self, h, x=None):
        return self.body(h)


class Compact(linen.Module):
    body: object

    def __call__(self, h, x=None):
        return self.body(h)


def chain(body, **options):
    return js.jacobian_chain(lambda h, x: body(h), ONE, length=T, **options)


# the entry point, and the names of the argument that may be blamed
ENTRIES = {
    "jacobian_chain": (chain, "step|h0"),
    "unstored": (lambda body: chain(body, store=False), "step|h0"),
    "under jit": (lambda body: jax.jit(lambda h: js.jacobian_chain(lambda h, x: body(h), h, length=T))(ONE), "step|h0"),
    "layer_chain": (lambda body: js.layer_chain([jnp.tanh, lambda h: body(h)], ONE), r"layers\[1\]"),
    "stack": (
        lambda body: js.jacobian_chain(js.stack(js.cells.Elman(EYE), lambda h, x: body(h)), (ONE, ONE), length=T),
        r"steps\[1\]|step|h0\[1\]",
    ),
    "over_time": (
        lambda body: js.jacobian_chain(js.over_time(lambda h, x, p: body(h + x)), np.ones((2, N)), length=T),
        "step|h0|initial",
    ),
    "batched": (
        lambda body: js.batched(js.log_singular_values, lambda h, x: body(h), np.ones((2, N)), length=T),
        "step|h0",
    ),
    "nnx": (lambda body: js.jacobian_chain(from_flax(Module(body)), ONE, length=T), "module|step|h0"),
    "linen": (lambda body: js.jacobian_chain(from_flax(Compact(body), {}), ONE, length=T), "module|step|h0"),
    "nnx layers": (lambda body: js.layer_chain(from_flax(nnx.Sequential(Module(body))), ONE), r"module|layers\[0\]"),
}
FINE = {("layer_chain", "pair"), ("nnx", "pair"), ("linen", "pair"), ("nnx layers", "pair")}
"""Layers may change the structure, and a cell of Flax returns its output beside the state."""


@pytest.mark.filterwarnings("ignore:jacspec.from_flax")
@pytest.mark.parametrize(("entry", "kind"), [case for case in itertools.product(ENTRIES, BROKEN) if case not in FINE])
def test_a_broken_function_is_told_with_the_argument_and_the_way_out(entry, kind):
    (call, arguments), (body, words) = ENTRIES[entry], BROKEN[kind]
    KEPT.clear()
    with pytest.raises((TypeError, ValueError)) as caught:
        call(body)
    told = str(caught.value)
    assert type(caught.value) in (TypeError, ValueError)
    assert re.match(rf"jacspec\.[\w.]+: argument '({arguments})' ", told), told
    assert re.search(words, told), told
    assert len(told) < 500, told
    assert told.endswith((".", ")"))
    if "own" in kind:
        assert "mine" in str(caught.value.__cause__)


def test_a_step_without_reverse_mode_is_kept_or_refused():
    kept = js.log_singular_values(chain(endless, store=True))
    three = js.log_singular_values(chain(lambda h: jnp.tanh(jnp.tanh(jnp.tanh(h)))))
    np.testing.assert_allclose(kept, three, rtol=1e-13)
    np.testing.assert_allclose(js.log_singular_values(js.layer_chain([endless] * T, ONE)), three, rtol=1e-13)
    with pytest.raises(ValueError, match=r"'step' fails.*Reverse-mode.*or store=True"):
        chain(endless, store=False)


class Swapped:
    """The order of arguments of the cells of Equinox and Haiku."""

    def __init__(self, inputs):
        rng = np.random.default_rng(1)
        self.W, self.U = jnp.asarray(rng.standard_normal((2, 3, N, N))), jnp.asarray(rng.standard_normal((N, inputs)))

    def __call__(self, input, hidden):  # noqa: A002
        z = jax.nn.sigmoid(self.W[0, 0] @ hidden + (self.U @ input))
        return z * hidden + (1 - z) * jnp.tanh(self.W[0, 1] @ hidden)


@pytest.mark.parametrize("inputs", [N, 2])
def test_a_cell_that_takes_the_input_first_is_noticed(inputs):
    cell, xs = Swapped(inputs), np.ones((T, inputs))
    way_out = "Give lambda h, x: step"
    for step in (cell, cell.__call__, jax.jit(cell.__call__), lambda x, carry: cell(x, carry)):
        with pytest.raises(ValueError, match=rf"'step' takes the input first; got the signature .*{way_out}"):
            js.jacobian_chain(step, ONE, xs)
    right = js.log_singular_values(js.jacobian_chain(lambda h, x: cell(x, h), ONE, xs))
    assert np.isfinite(right).all()
    if inputs == N:
        with pytest.warns(UserWarning, match=rf"'step' takes the input first.*{way_out}"):
            js.jacobian_chain(lambda x, h: cell(x, h), ONE, xs)
    else:
        with pytest.raises(TypeError, match=r"dot_general.*It runs as step\(x, h\): give lambda h, x: step\(x, h\)"):
            js.jacobian_chain(lambda a, b: cell(a, b), ONE, xs)


@pytest.mark.parametrize(
    "step",
    [
        lambda h, x: jnp.tanh(h + x),
        lambda x, u: jnp.tanh(x + u),
        lambda state, inputs: jnp.tanh(state + inputs),
        lambda carry, x: jnp.tanh(carry + x),
        lambda a, b: jnp.tanh(a + b),
        lambda *args: jnp.tanh(args[0] + args[1]),
        lambda y, t: jnp.tanh(y + t),
        js.cells.Elman(EYE, EYE),
    ],
)
def test_the_order_of_other_names_raises_no_alarm(step):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert js.jacobian_chain(step, ONE, np.ones((T, N))).length == T


def test_a_step_size_may_be_called_h():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        euler = js.jacobian_chain(lambda x, h: x - h * x, ONE, np.full(T, 0.5))
    np.testing.assert_allclose(js.log_singular_values(euler), T * np.log(0.5))


class OwnJacobian:
    """A step that is no pytree and brings its Jacobian."""

    def __init__(self, jacobian):
        self.jacobian = jacobian

    def __call__(self, h, x):
        return jnp.tanh(h)


def test_a_jacobian_of_the_users_own():
    slope = lambda h: 1 - jnp.tanh(h) ** 2
    own = js.jacobian_chain(OwnJacobian(lambda h, x: js.operators.Diagonal(slope(h))), ONE, length=T)
    assert own.store == "states"
    np.testing.assert_allclose(js.log_singular_values(own), js.log_singular_values(chain(jnp.tanh)), rtol=1e-13)
    for jacobian, words in [
        (lambda h, x: jnp.diag(slope(h)), r"has no step Jacobian; got an array.*operators\.Matrix\(J\)"),
        (lambda h, x: js.operators.Matrix(jnp.ones((2, N))), r"does not fit the state; got J v of shape \(2, 1\)"),
        (lambda h: js.operators.Diagonal(slope(h)), r"fails at .*positional"),
    ]:
        with pytest.raises(TypeError, match=rf"argument 'step\.jacobian' {words}"):
            js.jacobian_chain(OwnJacobian(jacobian), ONE, length=T)


@pytest.mark.parametrize("entry", ["h0", "xs", "batched"])
def test_explicit_axes_of_a_mesh_are_refused_by_name(entry):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    put = lambda a, *axes: jax.device_put(jnp.asarray(a), jax.NamedSharding(mesh, jax.P(*axes)))
    step, XS = lambda h, x: jnp.tanh(h + x), np.ones((T, N))
    calls = {
        "h0": lambda: js.jacobian_chain(step, put(ONE, "i"), XS),
        "xs": lambda: js.jacobian_chain(step, ONE, put(XS, None, "i")),
        "batched": lambda: js.batched(js.log_singular_values, step, put(np.ones((2, N)), "i"), np.ones((2, T, N))),
    }
    with pytest.raises(ValueError, match=r"'(h0|xs)' is sharded over explicit axes.*AxisType\.Auto"):
        calls[entry]()
