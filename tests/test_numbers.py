"""A number is a number wherever one is asked for, and what is none is refused in one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jacspec as js

KEY = jax.random.key(0)
PLACES = {
    "gain": lambda v: js.models.Deep(2, 3, 1, depth=1, gain=v, rngs=nnx.Rngs(0)),
    "input_gain": lambda v: js.models.Recurrent("elman", 2, 3, 1, input_gain=v, rngs=nnx.Rngs(0)),
    "scale": lambda v: js.initializers.identity(2, jnp.float32, scale=v),
    "t_max": lambda v: js.initializers.chrono(KEY, 2, v, jnp.float32),
    "epsilon": lambda v: js.layers.BatchNorm(epsilon=v),
    "slope": lambda v: js.training.ActivityProbe(slope=v),
    "max_norm": lambda v: js.remedies.zclip(max_norm=v),
    "decay": lambda v: js.remedies.zclip(decay=v),
    "tolerance": lambda v: js.tasks.Task("t", 1, 1, 1, "squared", 1.0, 1.0, lambda *a: a, tolerance=v),
}
GOOD = {"t_max": 2.5}
HUGE = 10**5000  # Python refuses to print it
OUTSIDE = {"nan": float("nan"), "inf": float("inf"), "huge": HUGE, "-huge": -HUGE, "array": jnp.asarray(jnp.nan)}


@pytest.mark.parametrize("argument", PLACES)
def test_a_scalar_of_any_library_is_a_number(argument):
    value = GOOD.get(argument, 0.5)
    for number in (value, np.float32(value), np.asarray(value), jnp.asarray(value)):
        PLACES[argument](number)


@pytest.mark.parametrize("argument", PLACES)
@pytest.mark.parametrize("value", ["0.5", True, 1j, np.bool_(True), jnp.ones(2), [0.5]])
def test_what_is_no_number_is_named(argument, value):
    with pytest.raises(TypeError, match=rf"^jacspec\.\S+: argument '{argument}' must be a number; got .*, expected"):
        PLACES[argument](value)


@pytest.mark.parametrize("argument", PLACES)
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_number_out_of_range_is_named(argument, name):
    value = OUTSIDE[name]
    got = r"an integer of \d+ bits" if isinstance(value, int) else "-?(nan|inf)"
    with pytest.raises(ValueError, match=rf"^jacspec\.\S+: argument '{argument}' is out of range; got {got}, expected"):
        PLACES[argument](value)


@pytest.mark.parametrize("argument", ["gain", "input_gain", "scale", "t_max", "epsilon", "slope"])
def test_a_number_that_fixes_a_program_cannot_be_traced(argument):
    with pytest.raises(TypeError, match=f"'{argument}' must be a number; got a traced value"):
        jax.jit(lambda v: (PLACES[argument](v), v)[1])(GOOD.get(argument, 0.5))


@pytest.mark.parametrize(
    ("argument", "ask"),
    [
        ("length", js.tasks.adding),
        ("width", lambda v: js.models.Deep(2, v, 1, depth=1, rngs=nnx.Rngs(0))),
        ("k", lambda v: js.spectrum(js.JacobianChain.from_matrices(jnp.ones((1, 2, 2))), k=v)),
    ],
)
def test_an_integer_out_of_range_is_named(argument, ask):
    for value in (-HUGE, 0):
        got = r"an integer of \d+ bits" if value else "0"
        with pytest.raises(
            ValueError, match=rf"argument '{argument}' is (out of range|too short); got {got}, expected"
        ):
            ask(value)
