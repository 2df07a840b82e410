"""What the core says when a question about a chain, or about a batch of them, has something wrong in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from refusals import (
    BARE,
    BATCH,
    CELL,
    CHAIN,
    COMPILED,
    DENSE,
    EMPTY,
    EYE,
    GRU,
    NAN_CELL,
    ONE,
    PROGRAMS,
    WIDENING,
    WIDER,
    XS,
    M,
    N,
    T,
    ask,
    batch,
    named_before_compiling,
    plain,
    spoiled,
)

import jacspec as js

# what is called, the exception, what the message must say after "jacspec.<function>: argument "
CASES = {
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
        "at single beyond": (
            lambda: js.spectrum(CHAIN, at=6),
            ValueError,
            r"'at' is out of range; got 6, expected 0\.\.5",
        ),
        "at single negative": (
            lambda: js.spectrum(CHAIN, at=np.int64(-1)),
            ValueError,
            r"'at' is out of range; got -1",
        ),
        "at single float": (
            lambda: js.spectrum(CHAIN, at=1.5),
            TypeError,
            r"'at' must be an integer or a .*; got 1\.5",
        ),
        "at 0-D float": (lambda: js.spectrum(CHAIN, at=np.array(1.0)), TypeError, r"'at' must be an integer"),
        "at single bool": (lambda: js.spectrum(CHAIN, at=True), TypeError, r"'at' must be an integer; got (np\.)?True"),
        "at single traced": (
            lambda: jax.jit(lambda at: js.spectrum(CHAIN, at=at))(1),
            TypeError,
            r"'at' is traced; expected concrete integers",
        ),
        "at string": (lambda: js.spectrum(CHAIN, at="12"), TypeError, r"'at' must be an integer or a sequence"),
        "at 2-D": (
            lambda: js.spectrum(CHAIN, at=np.ones((1, 1), int)),
            TypeError,
            r"'at' must be an integer or a sequence of integers",
        ),
        "at list in a list": (lambda: js.spectrum(CHAIN, at=[[1]]), TypeError, r"'at' must be an integer; got \[1\]"),
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


test_the_argument_is_named_before_anything_is_compiled = named_before_compiling(CASES)


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
