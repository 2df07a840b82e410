"""What the core says when a chain is made of something wrong, or cut, pushed and pulled with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import (
    BARE,
    BATCH,
    CELL,
    CHAIN,
    COMPILED,
    DENSE,
    EYE,
    GRU,
    LINEAR,
    NAN,
    NAN_CELL,
    ONE,
    PAIRED,
    WIDENING,
    WIDER,
    XS,
    M,
    N,
    T,
    ask,
    batch,
    given,
    named_before_compiling,
    plain,
    spoiled,
    start,
)

import jacspec as js
from jacspec.chain import autodiff

drive = lambda xs: js.jacobian_chain(CELL, ONE, xs)
walk = lambda step: js.jacobian_chain(step, ONE, XS)
factors = js.JacobianChain.from_factors
INF = np.inf

# what is called, the exception, what the message must say after "jacspec.<function>: argument "
CASES = {
    "jacobian_chain": {
        "h0 list": (lambda: start([1.0, 2.0, 3.0]), TypeError, r"'h0\[0\]' must be an array; got float"),
        "h0 None": (
            lambda: js.jacobian_chain(plain, None, length=T),
            ValueError,
            r"'h0' is None and the step does not know it; got function.*jnp.zeros",
        ),
        "h0 empty tree": (lambda: start(()), ValueError, r"'h0' is empty"),
        "h0 string": (lambda: start("abc"), TypeError, r"'h0' must be an array; got str"),
        "h0 integers": (lambda: start(np.ones(N, int)), TypeError, r"'h0' must be floating; got dtype int64"),
        "h0 objects": (lambda: start(np.ones(N, object)), TypeError, r"'h0' must be numeric; got dtype object"),
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
        "captured inside jit inside remat": (
            lambda: walk(jax.checkpoint(lambda h, x: jax.jit(lambda h: NAN @ h)(h) / 2)),
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
        "check number": (lambda: ask(check=1), ValueError, r"'check' is unknown; got 1, expected True or False"),
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
        "h0 complex": (lambda: start(np.ones(N, complex)), TypeError, r"'h' must be floating; got dtype complex128"),
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
        "complex carry": (
            lambda: js.jacobian_chain(js.cells.LSTM(np.ones((4, N, N))), (np.ones(N, complex), ONE), length=T),
            TypeError,
            r"'carry: c' must be floating; got dtype complex128",
        ),
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
        "3-D": (lambda: CHAIN.pull(np.ones((3, 1, 1))), ValueError, r"'u' has the wrong rank; got shape \(3, 1, 1\)"),
        "short": (lambda: WIDENING.pull(ONE), ValueError, r"'u' does not fit; got shape \(3,\), expected \(4"),
        "inf": (lambda: CHAIN.pull(spoiled(ONE, 2, value=INF)), ValueError, r"'u' has non-finite.*index \(2,\)"),
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
}


def start_stack(h0):
    return js.jacobian_chain(js.stack(BARE, js.cells.Elman(EYE, EYE)), h0, length=T)


test_the_argument_is_named_before_anything_is_compiled = named_before_compiling(CASES)


def test_too_large_a_store_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(autodiff, "free_bytes", lambda: 2.0 * T * N * N * 8 - 1)
    before = len(COMPILED)
    with pytest.raises(MemoryError, match=r"jacobian_chain: argument 'store' asks for too much.*T=5, n=3.*store=False"):
        js.jacobian_chain(lambda h, x: jnp.tanh(h), ONE, length=T, store=True)
    assert not [name for name in COMPILED[before:] if "probed" in name]
    monkeypatch.setattr(autodiff, "free_bytes", lambda: 2.0 * T * N * N * 8)
    assert js.jacobian_chain(lambda h, x: jnp.tanh(h), ONE, length=T, store=True).store == "matrices"
