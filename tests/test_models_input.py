"""What the models say when they are given something wrong."""

import math

import jax.numpy as jnp
import pytest
from flax import nnx

from jacspec.models import Convolutional, Deep, Recurrent

F64 = jnp.float64


def recurrent(cell="lstm", **options):
    return Recurrent(
        **{"cell": cell, "features": 3, "width": 2, "outputs": 2, "dtype": F64, "rngs": nnx.Rngs(0)} | options
    )


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
        (lambda: deep(position="after"), ValueError, r"'position' is of no meaning here; got None"),
        (lambda: deep(position="after", normalization="weight"), ValueError, r"'position' is of no meaning here"),
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
            r"'c_out' is out of range; got 2.*c_in = 3",
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
