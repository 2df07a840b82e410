"""What the core is asked when it is given something wrong, and the test that it says so before it compiles."""

import re
import sys
import warnings

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jacspec as js

COMPILED = []
"""Names of what XLA compiled."""


def _listen(event, duration, **details):
    if event.endswith("backend_compile_duration"):
        COMPILED.append(details.get("fun_name"))


jax.monitoring.register_event_duration_secs_listener(_listen)

PROGRAMS = {
    f"jit({value.__wrapped__.__name__})"
    for name, module in list(sys.modules.items())
    if name.startswith("jacspec")
    for value in list(vars(module).values())
    if hasattr(value, "lower") and hasattr(value, "__wrapped__")
} | {"jit(scan)", "jit(while)"}
"""Names of what the package jits, and of loops: not the single operations with which an array is made."""


def spoiled(a, *index, value=np.nan):
    a = np.array(a)
    a[index] = value
    return a


N, M, T = 3, 2, 5
ONE, EYE, XS = np.ones(N), np.eye(N), np.ones((T, M))
NAN = jnp.asarray(spoiled(EYE, 1, 2))
BATCH = np.ones((7, N))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CELL, BARE = js.cells.Elman(EYE, np.ones((N, M))), js.cells.Elman(EYE)
    NAN_CELL = js.cells.Elman(NAN, np.ones((N, M)))
    DENSE, WIDER = js.layers.Dense(EYE), js.layers.Dense(np.ones((4, N)))
    CHAIN = js.jacobian_chain(BARE, ONE, length=T)
    EMPTY = CHAIN[2:2]
    WIDENING = js.layer_chain([DENSE, WIDER], ONE)
    PAIRED = js.jacobian_chain(lambda h, x: {"a": h["a"], "b": h["b"]}, {"a": np.ones(1), "b": np.ones(2)}, length=2)
    GRU = nnx.GRUCell(M, N, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    LINEAR = nnx.Linear(N, N, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    LINEAR.kernel[...] = NAN
plain = lambda h, x: jnp.tanh(h)
ask = lambda **options: js.jacobian_chain(BARE, ONE, **({"length": T} | options))
start = lambda h0: js.jacobian_chain(BARE, h0, length=T)
given = js.JacobianChain.from_matrices
batch = lambda *args, **options: js.batched(js.log_singular_values, *args, **options)


def named_before_compiling(cases):
    """The test of a table: function -> name of the case -> (what is called, the exception, what the message must say)."""
    rows = [
        pytest.param(function, *row, id=f"{function}: {name}")
        for function, rows in cases.items()
        for name, row in rows.items()
    ]

    @pytest.mark.parametrize(("function", "call", "error", "words"), rows)
    def test_the_argument_is_named_before_anything_is_compiled(function, call, error, words):
        before = len(COMPILED)
        with pytest.raises(error, match=words) as caught:
            call()
        assert not PROGRAMS.intersection(COMPILED[before:])
        assert type(caught.value) is error
        told = str(caught.value)
        assert re.match(rf"jacspec\.{re.escape(function)}: argument '.+?' ", told), told
        assert told.rstrip().endswith((".", "?", ")", "]"))
        assert len(told) < 500

    return test_the_argument_is_named_before_anything_is_compiled
