"""What the core says when it is given something wrong: which argument, what it was, what it should be, before compiling."""

import re
import sys
import warnings

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jacspec as js
from jacspec import _links

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
drive = lambda xs: js.jacobian_chain(CELL, ONE, xs)
walk = lambda step: js.jacobian_chain(step, ONE, XS)
given = js.JacobianChain.from_matrices
factors = js.JacobianChain.from_factors
batch = lambda *args, **options: js.batched(js.log_singular_values, *args, **options)
INF = np.inf

# what is called, the exception, what the message must say after "jacspec.<function>: argument "
CASES = {
    "jacobian_chain": {
        "h0 list": (lambda: start([1.0, 2.0, 3.0]), TypeError, r"'h0\[0\]' must be an array; got float"),
        "h0 None": (lambda: start(None), ValueError, r"'h0' is empty"),
        "h0 string": (lambda: start("abc"), TypeError, r"'h0' must be an array; got str"),
        "h0 integers": (lambda: start(np.ones(N, int)), TypeError, r"'h0' must be floating; got dtype int64"),
        "h0 objects": (lambda: start(np.ones(N, object)), TypeError, r"'h0' must be numeric; got dtype object"),
        "h0 complex": (lambda: start(np.ones(N, complex)), TypeError, r"'h0'.*complex128.*real 2n x 2n form"),
        "h0 bool": (lambda: start(np.ones(N, bool)), TypeError, r"'h0' must be floating; got dtype bool"),
        "h0 empty": (lambda: start(np.ones(0)), ValueError, r"'h0' is empty; got shapes \[\(0,\)\]"),
        "h0 nan": (lambda: start(spoiled(ONE, 2)), ValueError, r"'h0' has non-finite.*1 of 3.*index \(2,\)"),
        "h0 inf": (lambda: start(spoiled(ONE, 1, value=-INF)), ValueError, r"'h0' has non-finite.*index \(1,\)"),
        "h0 leaf": (
            lambda: js.jacobian_chain(plain, {"a": ONE, "b": spoiled(ONE, 0)}, length=1),
            ValueError,
            r"'h0\['b'\]' has non-finite.*index \(0,\)",
        ),
        "step None": (lambda: walk(None), TypeError, r"'step' must be callable; got NoneType, expected step\(h, x\)"),
        "step array": (lambda: walk(EYE), TypeError, r"'step' must be callable; got ndarray"),
        "step tuple": (lambda: walk(lambda h, x: (h, h)), TypeError, r"'step' changes the structure.*from_flax"),
        "Flax cell as a step": (lambda: walk(GRU), TypeError, r"'step' changes the structure.*jacspec.from_flax"),
        "step None out": (
            lambda: walk(lambda h, x: None),
            TypeError,
            r"'step' changes the structure.*PyTreeDef\(None\)",
        ),
        "step list out": (lambda: walk(lambda h, x: [h, h]), TypeError, r"'step' changes the structure"),
        "step wider": (
            lambda: walk(lambda h, x: jnp.ones(4)),
            TypeError,
            r"'h0' changes its shape.*\(4,\).*layer_chain",
        ),
        "step integers": (lambda: walk(lambda h, x: h.astype(int)), TypeError, r"'h0' must stay floating.*int64"),
        "step complex": (lambda: walk(lambda h, x: h + 1j), TypeError, r"'h0' must stay floating.*complex128"),
        "W nan": (lambda: walk(NAN_CELL), ValueError, r"'step\.W' has non-finite.*1 of 9.*index \(1, 2\)"),
        "captured nan": (lambda: walk(lambda h, x: NAN @ h), ValueError, r"'step\.captured\[0\]'.*index \(1, 2\)"),
        "captured NumPy nan": (
            lambda: walk(lambda h, x: spoiled(EYE, 0, 1, value=INF) @ h),
            ValueError,
            r"'step\.captured\[0\]'.*index \(0, 1\)",
        ),
        "captured inside jit": (
            lambda: walk(jax.jit(lambda h, x: jnp.tanh(NAN @ h))),
            ValueError,
            r"'step\.captured\[0\]'.*index \(1, 2\)",
        ),
        "captured module": (lambda: walk(lambda h, x: LINEAR(h)), ValueError, r"'step\.captured\[0\]'.*index \(1, 2\)"),
        "xs missing": (lambda: js.jacobian_chain(CELL, ONE), ValueError, r"'xs' is None and so is length.*length=T"),
        "xs list": (lambda: drive([[1.0, 2.0]]), TypeError, r"'xs\[0\]\[0\]' must be a numeric array; got float"),
        "xs scalar": (lambda: drive(np.array(1.0)), ValueError, r"'xs' has no leading axis; got shape \(\)"),
        "xs objects": (lambda: drive(np.ones((T, M), object)), TypeError, r"'xs'.*numeric array; got dtype object"),
        "xs strings": (lambda: drive(np.full((T, M), "a")), TypeError, r"'xs'.*numeric array; got dtype <U1"),
        "xs nan": (lambda: drive(spoiled(XS, 3, 1)), ValueError, r"'xs' has non-finite.*1 of 10.*index \(3, 1\)"),
        "xs ragged": (lambda: drive((XS, XS[:3])), ValueError, r"'xs\[1\]' has the wrong length.*\(3, 2\).*T=5"),
        "length negative": (
            lambda: ask(length=-1),
            ValueError,
            r"'length' is out of range; got -1, expected length >= 0",
        ),
        "length float": (lambda: ask(length=10.5), TypeError, r"'length' must be an integer; got 10\.5"),
        "length bool": (lambda: ask(length=True), TypeError, r"'length' must be an integer; got True"),
        "length string": (lambda: ask(length="5"), TypeError, r"'length' must be an integer; got '5'"),
        "length contradicts": (
            lambda: js.jacobian_chain(CELL, ONE, XS, length=4),
            ValueError,
            r"'xs' has the wrong length.*\(5, 2\).*T=4",
        ),
        "jacobian typo": (
            lambda: ask(jacobian="analitic"),
            ValueError,
            r"'jacobian' is unknown.*Did you mean 'analytic'",
        ),
        "jacobian missing": (
            lambda: js.jacobian_chain(plain, ONE, length=T, jacobian="analytic"),
            ValueError,
            r"'jacobian' is not there; got function.*jacobian='auto'",
        ),
        "store typo": (lambda: ask(store="atuo"), ValueError, r"'store' is unknown.*Did you mean 'auto'"),
        "store number": (lambda: ask(store=1), ValueError, r"'store' is unknown; got 1"),
        "check string": (lambda: ask(check="no"), ValueError, r"'check' is unknown; got 'no', expected True or False"),
    },
    "cells.Elman": {
        "batch": (lambda: start(BATCH), ValueError, r"'h' is a batch; got shape \(7, 3\).*vmap.*batched"),
        "batch of batches": (
            lambda: batch(BARE, np.ones((2, 7, N)), length=T),
            ValueError,
            r"'h' is a batch; got shape \(7, 3\).*batched.*vmap",
        ),
        "width": (lambda: start(np.ones(4)), ValueError, r"'h' does not fit; got shape \(4,\), expected \(3,\)"),
        "features": (lambda: drive(np.ones((T, 4))), ValueError, r"'x' does not fit.*\(4,\).*\(2,\), features"),
        "xs batch": (lambda: drive(np.ones((T, 7, M))), ValueError, r"'x' is a batch; got shape \(7, 2\).*vmap"),
        "xs integers": (lambda: drive(np.ones((T, M), int)), TypeError, r"'x' must be floating; got dtype int64"),
        "xs complex": (
            lambda: drive(np.ones((T, M), complex)),
            TypeError,
            r"'x' must be floating; got dtype complex128",
        ),
        "xs not wanted": (lambda: js.jacobian_chain(BARE, ONE, XS), ValueError, r"'x'.*x without U"),
        "xs wanted": (lambda: js.jacobian_chain(CELL, ONE, length=T), ValueError, r"'x'.*U without x"),
        "activation": (lambda: js.cells.Elman(EYE, activation="rellu"), ValueError, r"'activation'.*'relu'"),
    },
    "cells.LSTM": {
        "carry": (
            lambda: js.jacobian_chain(js.cells.LSTM(np.ones((4, N, N))), ONE, length=T),
            TypeError,
            r"'carry' must be the pair \(c, h\); got an array of shape \(3,\).*c first",
        ),
        "carry batch": (
            lambda: js.jacobian_chain(js.cells.LSTM(np.ones((4, N, N))), (BATCH, BATCH), length=T),
            ValueError,
            r"'carry: c' is a batch.*batched.*vmap",
        ),
    },
    "layer_chain": {
        "layers None": (lambda: js.layer_chain(None, ONE), TypeError, r"'layers' must be a sequence.*NoneType"),
        "one layer": (lambda: js.layer_chain(DENSE, ONE), TypeError, r"'layers' must be a sequence.*Dense"),
        "generator": (lambda: js.layer_chain((f for f in [DENSE]), ONE), TypeError, r"'layers' must be a sequence"),
        "not callable": (
            lambda: js.layer_chain([DENSE, 3], ONE),
            TypeError,
            r"'layers\[1\]' must be callable; got int",
        ),
        "W nan": (
            lambda: js.layer_chain([DENSE, js.layers.Dense(NAN)], ONE),
            ValueError,
            r"'layers\[1\]\.W' has non-finite.*index \(1, 2\)",
        ),
        "captured nan": (
            lambda: js.layer_chain([DENSE, lambda h: NAN @ h], ONE),
            ValueError,
            r"'layers\[1\]\.captured\[0\]' has non-finite.*index \(1, 2\)",
        ),
        "module nan": (
            lambda: js.layer_chain([DENSE, LINEAR], ONE),
            ValueError,
            r"'layers\[1\]\.kernel.*index \(1, 2\)",
        ),
        "x integers": (lambda: js.layer_chain([DENSE], np.ones(N, int)), TypeError, r"'x' must be floating.*int64"),
        "x nan": (lambda: js.layer_chain([DENSE], spoiled(ONE, 1)), ValueError, r"'x' has non-finite.*index \(1,\)"),
        "no jacobian": (
            lambda: js.layer_chain([DENSE, jnp.tanh], ONE, jacobian="analytic"),
            ValueError,
            r"'layers\[1\]' has no jacobian\(h\)",
        ),
        "jacobian typo": (
            lambda: js.layer_chain([DENSE], ONE, jacobian="aut"),
            ValueError,
            r"'jacobian' is unknown.*Did you mean 'auto'",
        ),
        "returns integers": (
            lambda: js.layer_chain([DENSE, lambda h: h.astype(int)], ONE),
            TypeError,
            r"'layers\[1\]' must return a floating state.*int64",
        ),
        "returns nothing": (
            lambda: js.layer_chain([DENSE, lambda h: None], ONE),
            TypeError,
            r"'layers\[1\]' must return a floating state",
        ),
    },
    "layers.Dense": {
        "names the layer": (
            lambda: js.layer_chain([DENSE, WIDER, DENSE], ONE),
            ValueError,
            r"(?s)'h' does not fit; got shape \(4,\), expected \(3,\).*in layers\[2\]",
        ),
        "batch": (lambda: js.layer_chain([DENSE], BATCH), ValueError, r"'h' is a batch.*batched.*vmap"),
    },
    "layers.BatchNorm": {
        "one example": (
            lambda: js.layer_chain([DENSE, js.layers.BatchNorm()], ONE),
            ValueError,
            r"'h' is not a batch.*per-example Jacobian is\s+undefined.*mode='eval'",
        ),
    },
    "JacobianChain.from_matrices": {
        "None": (lambda: given(None), TypeError, r"'jacobians' must be an array; got NoneType"),
        "number": (lambda: given(3.0), TypeError, r"'jacobians' must be an array; got float"),
        "empty list": (lambda: given([]), ValueError, r"'jacobians' is an empty list"),
        "lists": (lambda: given([[[1.0]]]), TypeError, r"'jacobians\[0\]' must be an array; got list"),
        "2-D": (lambda: given(EYE), ValueError, r"'jacobians' has the wrong rank; got shape \(3, 3\), expected 3-D"),
        "integers": (lambda: given(np.ones((2, 3, 3), int)), TypeError, r"'jacobians' must be floating.*int64"),
        "objects": (lambda: given(np.ones((2, 3, 3), object)), TypeError, r"'jacobians' must be numeric.*object"),
        "complex": (lambda: given(np.ones((2, 3, 3), complex)), TypeError, r"'jacobians'.*complex128.*2n x 2n"),
        "rectangular": (lambda: given(np.ones((2, 3, 4))), ValueError, r"'jacobians' do not follow at steps 0 and 1"),
        "ragged": (
            lambda: given([EYE, np.ones((4, 3)), EYE]),
            ValueError,
            r"'jacobians' do not follow at steps 1 and 2; got shapes \(4, 3\) and \(3, 3\), expected \(\.\.\., 4\)",
        ),
        "no width": (lambda: given(np.ones((2, 0, 0))), ValueError, r"'jacobians' is empty; got shape \(0, 0\)"),
        "no inner width": (lambda: given([np.ones((0, 3)), np.ones((3, 0))]), ValueError, r"'jacobians' is empty"),
        "nan": (lambda: given(spoiled(np.ones((2, 3, 3)), 1, 0, 2)), ValueError, r"1 of 18.*index \(1, 0, 2\)"),
        "nan in a list": (lambda: given([EYE, NAN]), ValueError, r"'jacobians\[1\]' has non-finite.*index \(1, 2\)"),
    },
    "JacobianChain.from_factors": {
        "d 1-D": (lambda: factors(ONE, EYE), ValueError, r"'d' has the wrong rank; got shape \(3,\)"),
        "d width": (lambda: factors(np.ones((T, 2)), EYE), ValueError, r"'d' does not fit W; got shape \(5, 2\)"),
        "W rectangular": (
            lambda: factors(np.ones((T, 3)), np.ones((3, 4))),
            ValueError,
            r"'W' must be square; got shape \(3, 4\)",
        ),
        "W list": (lambda: factors(np.ones((T, 1)), [[1.0]]), TypeError, r"'W' must be an array; got list"),
        "W empty": (lambda: factors(np.ones((T, 0)), np.ones((0, 0))), ValueError, r"'W' is empty"),
        "d nan": (
            lambda: factors(spoiled(np.ones((T, 3)), 2, 1), EYE),
            ValueError,
            r"'d' has non-finite.*index \(2, 1\)",
        ),
        "W inf": (lambda: factors(np.ones((T, 3)), NAN), ValueError, r"'W' has non-finite.*index \(1, 2\)"),
        "d integers": (lambda: factors(np.ones((T, 3), int), EYE), TypeError, r"'d' must be floating"),
    },
    "JacobianChain": {
        "number": (lambda: CHAIN[0], TypeError, r"'index' must be a slice without a step; got 0"),
        "step": (lambda: CHAIN[::2], TypeError, r"'index' must be a slice without a step"),
        "float": (lambda: CHAIN[0.5:2], TypeError, r"'index' must be an integer; got 0\.5"),
        "string": (lambda: CHAIN["a":], TypeError, r"'index' must be an integer; got 'a'"),
    },
    "JacobianChain.push": {
        "string": (lambda: CHAIN.push("abc"), TypeError, r"'v' must be an array; got str"),
        "None": (lambda: CHAIN.push(None), TypeError, r"'v' is no array and no state"),
        "list": (lambda: CHAIN.push([1.0, 2.0, 3.0]), TypeError, r"'v' is no array and no state"),
        "integers": (lambda: CHAIN.push(np.ones(N, int)), TypeError, r"'v' must be floating; got dtype int64"),
        "objects": (lambda: CHAIN.push(np.ones(N, object)), TypeError, r"'v' must be numeric"),
        "short": (lambda: CHAIN.push(np.ones(2)), ValueError, r"'v' does not fit; got shape \(2,\), expected \(3"),
        "nan": (lambda: CHAIN.push(spoiled(ONE, 1)), ValueError, r"'v' has non-finite.*index \(1,\)"),
        "other tree": (lambda: PAIRED.push({"a": ONE}), TypeError, r"'v' is no array and no state"),
    },
    "JacobianChain.pull": {
        "3-D": (lambda: CHAIN.pull(np.ones((3, 1, 1))), ValueError, r"'v' has the wrong rank; got shape \(3, 1, 1\)"),
        "short": (lambda: WIDENING.pull(ONE), ValueError, r"'v' does not fit; got shape \(3,\), expected \(4"),
        "inf": (lambda: CHAIN.pull(spoiled(ONE, 2, value=INF)), ValueError, r"'v' has non-finite.*index \(2,\)"),
    },
    "stack": {
        "nothing": (lambda: js.stack(), ValueError, r"'steps' is empty"),
        "not callable": (lambda: js.stack(BARE, 3), TypeError, r"'steps\[1\]' must be callable; got int"),
        "one state": (lambda: start_stack(ONE), TypeError, r"'states' does not fit the steps.*tuple of 2 states"),
        "three states": (lambda: start_stack((ONE,) * 3), TypeError, r"'states' does not fit.*got 3 of them"),
        "list": (lambda: start_stack([ONE, ONE]), TypeError, r"'states' does not fit.*got list"),
    },
    "over_time": {
        "not callable": (lambda: js.over_time(3), TypeError, r"'step' must be callable; got int"),
        "initial string": (lambda: js.over_time(plain, "a"), TypeError, r"'initial' must be an array; got str"),
        "initial integers": (lambda: js.over_time(plain, np.ones(3, int)), TypeError, r"'initial' must be floating"),
        "initial nan": (lambda: js.over_time(plain, spoiled(ONE, 1)), ValueError, r"'initial' has non-finite"),
    },
    "batched": {
        "question": (lambda: js.batched(None, BARE, BATCH, length=T), TypeError, r"'question' must be callable"),
        "sizes": (lambda: batch(CELL, BATCH, np.ones((4, T, M))), ValueError, r"'xs' and h0 differ.*\[4, 7\].*in_axes"),
        "list": (lambda: batch(BARE, [[1.0]], length=T), TypeError, r"'h0\[0\]\[0\]' must be an array; got float"),
        "scalar": (lambda: batch(BARE, np.array(1.0), length=T), ValueError, r"'h0' has no batch axis"),
        "h0 nan": (lambda: batch(BARE, spoiled(BATCH, 5, 2), length=T), ValueError, r"'h0' has non.*index \(5, 2\)"),
        "xs nan": (
            lambda: batch(CELL, BATCH, spoiled(np.ones((7, T, M)), 6, 1, 0)),
            ValueError,
            r"'xs' has non-finite.*index \(6, 1, 0\)",
        ),
        "W nan": (lambda: batch(NAN_CELL, BATCH, np.ones((7, T, M))), ValueError, r"'step\.W' has non-finite"),
    },
    "spectrum": {
        "no chain": (lambda: js.spectrum(np.ones((2, 3, 3))), TypeError, r"'chain' is of the wrong type; got ndarray"),
        "no chain either": (lambda: js.log_singular_values(None), TypeError, r"'chain' is of the wrong type"),
        "at number": (lambda: js.spectrum(CHAIN, at=5), TypeError, r"'at' must be a sequence of integers; got 5"),
        "at string": (lambda: js.spectrum(CHAIN, at="12"), TypeError, r"'at' must be a sequence of integers"),
        "at 2-D": (lambda: js.spectrum(CHAIN, at=np.ones((1, 1), int)), TypeError, r"'at' must be a sequence"),
        "at beyond": (
            lambda: js.spectrum(CHAIN, at=[2, 6]),
            ValueError,
            r"'at' is out of range; got 6, expected 0\.\.5",
        ),
        "at negative": (lambda: js.spectrum(CHAIN, at=[-1]), ValueError, r"'at' is out of range; got -1"),
        "at float": (lambda: js.spectrum(CHAIN, at=[1.5]), TypeError, r"'at' must be an integer; got 1\.5"),
        "at floats": (lambda: js.spectrum(CHAIN, at=np.array([1.0])), TypeError, r"'at' must be an integer"),
        "at bool": (lambda: js.spectrum(CHAIN, at=[True]), TypeError, r"'at' must be an integer; got True"),
        "at empty": (lambda: js.spectrum(CHAIN, at=[]), ValueError, r"'at' is empty; expected at least one horizon"),
        "at traced": (
            lambda: jax.jit(lambda at: js.spectrum(CHAIN, at=at))(np.array([1])),
            TypeError,
            r"'at' is traced; expected concrete integers",
        ),
        "k zero": (lambda: js.spectrum(CHAIN, k=0), ValueError, r"'k' is out of range; got 0, expected 1\.\.3"),
        "k beyond": (lambda: js.spectrum(CHAIN, k=4), ValueError, r"'k' is out of range; got 4, expected 1\.\.3"),
        "k beyond rank": (
            lambda: js.spectrum(WIDENING, k=4),
            ValueError,
            r"'k' is out of range; got 4, expected 1\.\.3",
        ),
        "k float": (lambda: js.spectrum(CHAIN, k=1.0), TypeError, r"'k' must be an integer; got 1\.0"),
        "k bool": (lambda: js.spectrum(CHAIN, k=True), TypeError, r"'k' must be an integer; got True"),
        "origin typo": (lambda: js.spectrum(CHAIN, origin="strat"), ValueError, r"'origin'.*Did you mean 'start'"),
        "verify string": (lambda: js.spectrum(CHAIN, verify="yes"), ValueError, r"'verify' is unknown; got 'yes'"),
        "verify with k": (lambda: js.spectrum(CHAIN, verify=True, k=1), ValueError, r"'verify' is not offered with k"),
    },
    "lyapunov_exponents": {
        "no chain": (lambda: js.lyapunov_exponents(EYE), TypeError, r"'chain' is of the wrong type; got ndarray"),
        "T = 0": (lambda: js.lyapunov_exponents(EMPTY), ValueError, r"'chain' has no exponent: T=0; expected T >= 1"),
        "widths": (lambda: js.lyapunov_exponents(WIDENING), ValueError, r"'chain' changes its width.*jacspec.spectrum"),
        "k zero": (lambda: js.lyapunov_exponents(CHAIN, k=0), ValueError, r"'k' is out of range; got 0.*n=3"),
        "k beyond": (
            lambda: js.lyapunov_exponents(CHAIN, k=4),
            ValueError,
            r"'k' is out of range; got 4, expected 1\.\.3",
        ),
        "qr_every zero": (lambda: js.lyapunov_exponents(CHAIN, qr_every=0), ValueError, r"'qr_every' is out of range"),
        "qr_every float": (lambda: js.lyapunov_exponents(CHAIN, qr_every=2.0), TypeError, r"'qr_every' must be an int"),
        "transient = T": (
            lambda: js.lyapunov_exponents(CHAIN, transient=T),
            ValueError,
            r"'transient'.*got 5.*T=5 steps",
        ),
        "transient beyond": (lambda: js.lyapunov_exponents(CHAIN, transient=99), ValueError, r"'transient'.*T=5"),
        "transient negative": (lambda: js.lyapunov_exponents(CHAIN, transient=-1), ValueError, r"'transient'.*got -1"),
    },
    "adjoints": {
        "no chain": (lambda: js.adjoints(None, ONE), TypeError, r"'chain' is of the wrong type; got NoneType"),
        "None": (lambda: js.adjoints(CHAIN, None), TypeError, r"'cotangent' must be an array; got NoneType"),
        "floats": (lambda: js.adjoints(CHAIN, [1.0, 2.0, 3.0]), TypeError, r"'cotangent' must be an array; got list"),
        "short": (lambda: js.adjoints(CHAIN, np.ones(2)), ValueError, r"'cotangent' does not fit.*\(2,\).*\(3,\)"),
        "T rows": (lambda: js.adjoints(CHAIN, np.ones((T, N))), ValueError, r"'cotangent' does not fit.*T\+1 = 6"),
        "column": (lambda: js.adjoints(CHAIN, np.ones((N, 1))), ValueError, r"'cotangent' does not fit"),
        "integers": (lambda: js.adjoints(CHAIN, np.ones((6, N), int)), TypeError, r"'cotangent' must be floating"),
        "objects": (
            lambda: js.log_gradient_norms(CHAIN, np.ones(N, object)),
            TypeError,
            r"'cotangent' must be numeric",
        ),
        "nan": (lambda: js.adjoints(CHAIN, spoiled(ONE, 1)), ValueError, r"'cotangent' has non-finite.*index \(1,\)"),
        "other tree": (lambda: js.adjoints(CHAIN, {"a": ONE}), ValueError, r"'cotangent' does not fit"),
        "list too short": (lambda: js.adjoints(WIDENING, [ONE, ONE]), ValueError, r"'cotangent' does not fit"),
        "list of wrong widths": (lambda: js.adjoints(WIDENING, [ONE] * 3), ValueError, r"'cotangent' does not fit"),
        "nan in a list": (
            lambda: js.adjoints(WIDENING, [ONE, ONE, spoiled(np.ones(4), 3)]),
            ValueError,
            r"'cotangent\[2\]' has non-finite.*index \(3,\)",
        ),
    },
    "parameter_gradient_by_lag": {
        "cotangent": (
            lambda: js.parameter_gradient_by_lag(CELL, ONE, XS, np.ones(2)),
            ValueError,
            r"'cotangent' does not",
        ),
        "no parameters": (
            lambda: js.parameter_gradient_by_lag(plain, ONE, XS, ONE),
            ValueError,
            r"'step' has no floating parameters",
        ),
        "terms": (
            lambda: js.parameter_gradient_by_lag(CELL, ONE, XS, ONE, terms="yes"),
            ValueError,
            r"'terms' is unknown",
        ),
        "store": (
            lambda: js.parameter_gradient_by_lag(CELL, ONE, XS, ONE, store="atuo"),
            ValueError,
            r"'store' is unknown.*Did you mean 'auto'",
        ),
    },
    "parameter_gradient_norms": {
        "no cotangent": (
            lambda: js.parameter_gradient_norms(CELL, ONE, XS),
            TypeError,
            r"'cotangent' must be an array",
        ),
        "no layers": (
            lambda: js.parameter_gradient_norms([], ONE, cotangent=ONE),
            ValueError,
            r"'step' is an empty list",
        ),
        "layers and xs": (
            lambda: js.parameter_gradient_norms([DENSE], ONE, XS, cotangent=ONE),
            ValueError,
            r"'xs' goes with a step, not with layers",
        ),
        "cotangent": (
            lambda: js.parameter_gradient_norms([DENSE, WIDER], ONE, cotangent=ONE),
            ValueError,
            r"'cotangent' does not fit; got shapes \[\(3,\)\], expected \(4,\)",
        ),
    },
    "activations.get": {
        "typo": (lambda: js.activations.get("rellu"), ValueError, r"'activation' is unknown.*Did you mean 'relu'"),
        "code": (lambda: js.activations.get("os.system"), ValueError, r"'activation' is unknown; got 'os.system'"),
        "function": (lambda: js.activations.get(jnp.tanh), TypeError, r"'activation' has no derivative"),
        "None": (lambda: js.activations.get(None), TypeError, r"'activation' has no derivative; got NoneType"),
    },
    "from_flax": {
        "number": (lambda: js.from_flax(3), TypeError, r"'module' is no Flax module; got int"),
        "class": (lambda: js.from_flax(nnx.GRUCell), TypeError, r"'module' is no Flax module"),
        "scan": (lambda: js.from_flax(nnx.RNN(GRU)), TypeError, r"'module' is a scan over a cell.*its \.cell"),
        "variables": (lambda: js.from_flax(GRU, {"params": {}}), ValueError, r"'variables' belong to Linen"),
        "no variables": (lambda: js.from_flax(linen.GRUCell(3)), TypeError, r"'variables' is missing"),
    },
}
ROWS = [
    pytest.param(function, *row, id=f"{function}: {name}")
    for function, rows in CASES.items()
    for name, row in rows.items()
]


def start_stack(h0):
    return js.jacobian_chain(js.stack(BARE, js.cells.Elman(EYE, EYE)), h0, length=T)


@pytest.mark.parametrize(("function", "call", "error", "words"), ROWS)
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


def test_compilations_are_counted():
    before = len(COMPILED)
    js.lyapunov_exponents(js.jacobian_chain(lambda h, x: 0.123 * h, ONE, length=7))
    assert len(PROGRAMS.intersection(COMPILED[before:])) >= 2


def test_unknown_keywords_are_refused():
    for call in (
        lambda: ask(lenght=3),
        lambda: js.log_singular_values(CHAIN, orgin="end"),
        lambda: js.lyapunov_exponents(CHAIN, qr_evry=2),
        lambda: batch(BARE, BATCH, lenght=3),
        lambda: js.parameter_gradient_norms([DENSE], ONE, cotangent=ONE, jacobain="auto"),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: js.jacobian_chain(js.cells.Elman(jnp.eye(N, dtype=jnp.float32)), ONE, length=2),
        lambda: js.JacobianChain.from_matrices(np.ones((2, N, N))),
        lambda: js.JacobianChain.from_factors(ONE[None].astype(np.float32), EYE),
        lambda: js.cells.Elman(EYE),
        lambda: js.layer_chain([jnp.tanh], ONE),
    ],
)
def test_float64_without_x64_warns_once(call):
    with jax.enable_x64(False), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            call()
    told = [str(w.message) for w in caught]
    assert len(told) == 1
    assert re.search(r"jacspec\.\S+: argument '\w+' is float64 but jax_enable_x64 is off: float32 is used", told[0])


def test_too_large_a_store_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(_links, "free_bytes", lambda: 2.0 * T * N * N * 8 - 1)
    before = len(COMPILED)
    with pytest.raises(MemoryError, match=r"jacobian_chain: argument 'store' asks for too much.*T=5, n=3.*store=False"):
        js.jacobian_chain(lambda h, x: jnp.tanh(h), ONE, length=T, store=True)
    assert not [name for name in COMPILED[before:] if "stored" in name]
    monkeypatch.setattr(_links, "free_bytes", lambda: 2.0 * T * N * N * 8)
    assert js.jacobian_chain(lambda h, x: jnp.tanh(h), ONE, length=T, store=True).store == "matrices"


def test_values_may_go_unchecked_but_not_shapes():
    chain = js.jacobian_chain(NAN_CELL, ONE, XS, check=False)
    assert int(chain.first_nonfinite) == 1
    with pytest.raises(TypeError, match=r"'h0' must be floating"):
        js.jacobian_chain(BARE, np.ones(N, int), length=T, check=False)
    assert int(given(spoiled(np.ones((2, 3, 3)), 1, 0, 2), check=False).first_nonfinite) == 2


def test_what_is_right_is_accepted():
    assert ask().length == T
    assert start(np.ones(N, np.float32)).length == T
    assert CHAIN[-2:].length == 2
    assert CHAIN[np.int64(1) : 99].length == T - 1
    assert js.spectrum(CHAIN, at=np.array([0, 3])).log_singular_values.shape == (2, N)
    assert js.JacobianChain.from_matrices(iter([EYE, EYE])).length == 2
    assert PAIRED.push({"a": np.ones(1), "b": np.ones(2)})[0].shape == (N,)
    listed = js.adjoints(CHAIN, [0 * ONE] * T + [ONE])
    np.testing.assert_allclose(listed.log_norms, js.log_gradient_norms(CHAIN, ONE), rtol=1e-14)


def test_a_state_that_is_a_list_is_a_state():
    step = lambda h, x: [jnp.tanh(h[0] + h[1]), 0.5 * h[1]]
    chain = js.jacobian_chain(step, [ONE[:2], ONE[:2]], length=T, store=True)
    assert chain[2:].states[0].shape == (T - 1, 2)
    assert js.adjoints(chain, [ONE[:2], ONE[:2]]).directions[1].shape == (T + 1, 2)
    grown = jax.jit(lambda h: js.jacobian_chain(lambda h, x: [h[0] * h[0], h[1]], h, length=T).first_nonfinite)
    assert int(grown([jnp.full(2, 1e100), jnp.ones(2)])) == 2
