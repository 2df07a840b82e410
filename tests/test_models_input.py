"""What the models say when they are given something wrong."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jacspec.models import Convolutional, Deep, Recurrent

F64 = jnp.float64


def recurrent(cell="lstm", **options):
    return Recurrent(
        **{"cell": cell, "features": 3, "width": 2, "outputs": 2, "dtype": F64, "rngs": nnx.Rngs(0)} | options
    )


def convolutional(**options):
    return Convolutional(**{"channels_in": 1, "channels": 2, "outputs": 1, "depth": 1, "rngs": nnx.Rngs(0)} | options)


def deep(**options):
    return Deep(**{"features": 3, "width": 5, "outputs": 2, "depth": 2, "dtype": F64, "rngs": nnx.Rngs(0)} | options)


@pytest.mark.parametrize(
    ("build", "kind", "pattern"),
    [
        (lambda: recurrent("lsmt"), ValueError, r"'cell' is unknown; got 'lsmt'.*mean 'lstm'"),
        (lambda: recurrent(activation="tahn"), ValueError, r"models.Recurrent.*'activation'.*mean 'tanh'"),
        (lambda: recurrent(initialization="orthogonl"), ValueError, r"'initialization'.*mean 'orthogonal'"),
        (lambda: recurrent(readout="lst"), ValueError, r"'readout'.*mean 'last'"),
        (lambda: recurrent(depth=0), ValueError, r"'depth' is out of range; got 0"),
        (lambda: recurrent(width=2.0), TypeError, r"'width' must be an integer"),
        (lambda: recurrent(rngs=0), TypeError, r"'rngs' is of the wrong type.*nnx\.Rngs\(seed\)"),
        (lambda: recurrent(gain="1"), TypeError, r"'gain' must be a number"),
        (lambda: recurrent(rate=0.5), ValueError, r"an option of 'lstm'.*'rate'"),
        (lambda: recurrent("gru", form="reset_befor"), ValueError, r"'form'.*mean 'reset_before'"),
        (lambda: recurrent("leaky_elman", rate=1.5), ValueError, r"'rate' is out of range"),
        (lambda: recurrent("elman", forget_bias=1.0), ValueError, r"'forget_bias' needs a gate.*'elman' has none"),
        (lambda: recurrent(forget_bias=1.0, chrono=10), ValueError, r"'chrono' and forget_bias set the same bias"),
        (lambda: recurrent(forget_bias=math.nan), ValueError, r"'forget_bias' is out of range; got nan"),
        (lambda: recurrent(chrono=2), ValueError, r"'t_max' is out of range"),
        (lambda: recurrent("mgu", initialization="critical"), ValueError, r"'initialization' is not known.*'mgu'"),
        (lambda: recurrent("lru", initialization="orthogonal"), ValueError, r"'initialization' is not for 'lru'"),
        (lambda: recurrent("lru", gain=2.0), ValueError, r"'gain' is not for 'lru'; got 2.0"),
        (lambda: recurrent("lru", chrono=9), ValueError, r"'chrono' needs a gate.*'lru' has none"),
        (lambda: recurrent("lru", r_max=1.0), ValueError, r"'r_max' is out of range; got 1.0"),
        (lambda: recurrent()(jnp.ones((2, 4, 3))), ValueError, r"shape \(2, 4, 3\).*jax\.vmap"),
        (lambda: recurrent()([[1.0, 2.0, 3.0]]), TypeError, r"'inputs' must be a numeric array; got list"),
        (lambda: deep(kind="residal"), ValueError, r"'kind'.*mean 'residual'"),
        (lambda: deep(normalization="bacth"), ValueError, r"'normalization'.*mean 'batch'"),
        (lambda: deep(position="after"), ValueError, r"'position' needs a normalization of states; got None"),
        (
            lambda: deep(position="after", normalization="weight"),
            ValueError,
            r"'position' needs a normalization of states",
        ),
        (lambda: deep(branch_scale=0.0), ValueError, r"'branch_scale' needs kind='residual'"),
        (lambda: deep(kind="residual", width=(3, 4), depth=None), ValueError, r"'width' changes along residual"),
        (lambda: deep(width=(3, 4)), ValueError, r"'width' is a sequence.*replaces depth"),
        (lambda: deep(depth=None), ValueError, r"'depth' is missing"),
        (
            lambda: deep(initialization="critical", activation="relu", bias_variance=0.3),
            ValueError,
            r"no critical point for relu",
        ),
        (lambda: deep(bias_variance=-1.0), ValueError, r"'bias_variance' is out of range; got -1.0"),
        (lambda: deep()(jnp.ones(3)), ValueError, r"'inputs' do not fit; got shape \(3,\), expected \(batch, 3\)"),
        (
            lambda: Convolutional(3, 2, 1, depth=1, rngs=nnx.Rngs(0)),
            ValueError,
            r"'channels' is out of range; got 2, expected channels >= 3",
        ),
        (
            lambda: Convolutional(1, 2, 1, depth=1, rngs=nnx.Rngs(0)).chain(jnp.ones((2, 4, 4, 1))),
            ValueError,
            r"'inputs' do not fit.*\(H, W, 1\)",
        ),
    ],
)
def test_bad_input_is_refused(build, kind, pattern):
    with pytest.raises(kind, match=pattern):
        build()


F32, F16 = jnp.float32, jnp.float16
WIDE = [1.0, 1e39, 2.0]  # finite in float64 alone


@pytest.mark.parametrize(
    ("build", "kind", "pattern"),
    [
        (
            lambda: recurrent("elman", gain=1e39, dtype=F32),
            ValueError,
            r"'gain' leaves the range of float32; got 1e\+39",
        ),
        (lambda: recurrent("elman", gain=7e4, dtype=F16), ValueError, "'gain' leaves the range of float16"),
        (lambda: recurrent("elman", input_gain=1e39, dtype=F32), ValueError, "'input_gain' leaves the range"),
        (lambda: recurrent(forget_bias=-1e39, dtype=F32), ValueError, "'forget_bias' leaves the range"),
        (lambda: deep(kind="residual", branch_scale=1e39, dtype=F32), ValueError, "'branch_scale' leaves the range"),
        (lambda: deep(gain=10**400), ValueError, "'gain' is out of range; got an integer of 1329 bits"),
        (
            lambda: deep(gain=6e4, width=99, dtype=F16, initialization="gaussian"),
            ValueError,
            r"'blocks\.0\.W' is not finite in float16",
        ),
        (
            lambda: deep(bias_variance=1e80, dtype=F32),
            ValueError,
            r"'blocks\.0\.b' is not finite in float32.*variances",
        ),
        (
            lambda: recurrent("lru", r_min=1 - 2e-9, r_max=1 - 1e-9, dtype=F32),
            ValueError,
            r"'cells\.0\.nu' is not finite",
        ),
        (lambda: convolutional(gain=1e39), ValueError, "'gain' leaves the range of float32"),
        (lambda: convolutional(bias_variance=1e80), ValueError, r"'blocks\.0\.b' is not finite"),
        (
            lambda: recurrent(dtype=F32)(np.array([WIDE])),
            ValueError,
            r"'inputs' leave the range of float32; got 1e\+39",
        ),
        (lambda: deep(dtype=F32)(np.array([WIDE])), ValueError, "'inputs' leave the range of float32"),
        (lambda: deep(dtype=F32).chain(np.array(WIDE)), ValueError, "'inputs' leave the range of float32"),
        (lambda: deep(dtype="float33"), TypeError, "'dtype' must be floating; got 'float33'"),
        (lambda: deep(dtype=jnp.int32), TypeError, "'dtype' must be floating; got int32"),
        (lambda: recurrent(dtype=jnp.complex64), TypeError, "'dtype' must be floating; got complex64"),
    ],
)
def test_what_leaves_the_dtype_is_refused_where_it_does(build, kind, pattern):
    with pytest.raises(kind, match=pattern):
        build()


def test_what_the_dtype_holds_is_taken():
    assert recurrent("elman", gain=1e30, dtype=F32).dtype == F32
    assert deep(bias_variance=1e60, dtype=F32).blocks[0]["b"].dtype == F32  # its root is what is used


@pytest.mark.parametrize("law", ["gaussian", "he", "delta_orthogonal", "critical"])
@pytest.mark.parametrize(
    ("size", "kind", "text"),
    [
        (0, ValueError, "'kernel_size' is out of range; got 0"),
        (1.5, TypeError, "'kernel_size' must be an integer; got 1.5"),
        ((3, 3, 3), ValueError, r"'kernel_size' has the wrong length; got \(3, 3, 3\)"),
    ],
)
def test_a_kernel_has_one_or_two_axes_by_every_law(law, size, kind, text):
    with pytest.raises(kind, match=f"jacspec.models.Convolutional: argument {text}"):
        Convolutional(1, 2, 3, depth=1, kernel_size=size, initialization=law, rngs=nnx.Rngs(0))
