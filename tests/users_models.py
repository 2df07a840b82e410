"""Models of users, from the least that `fit` takes to what the probes ask beside; and a task of known numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jacspec as js
from jacspec import training
from jacspec.tasks import Batch, Task

F64 = jnp.float64
ROWS, T = 4, 5
X = np.random.default_rng(0).normal(size=(ROWS, T, 2))
W = np.random.default_rng(1).uniform(size=(ROWS, T)) * (np.arange(ROWS)[:, None] + 0.1)


def first_rows(data, key, count):
    return jax.tree.map(lambda a: a[:count], Batch(*data))


def known(kind="squared", draw=first_rows, **options):
    """Unequal weights at every row and step."""
    shape = (ROWS, T) if kind == "cross_entropy" else (ROWS, T, 1)
    targets = jnp.zeros(shape, int) if kind == "cross_entropy" else jnp.ones(shape)
    options = {"outputs": 1, "data": (jnp.asarray(X), targets, jnp.asarray(W))} | options
    return Task("known", T, 2, kind=kind, baseline=1.0, chance=1.0, draw=draw, **options)


class Net(nnx.Module):
    """An Elman network in Flax: all that `fit` needs."""

    def __init__(self, rngs=None):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.cell = nnx.SimpleCell(2, 3, dtype=F64, param_dtype=F64, rngs=rngs)
        self.out = nnx.Linear(3, 1, dtype=F64, param_dtype=F64, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.RNN(self.cell)(x))


class Chained(Net):
    """What `SpectrumProbe` needs beside."""

    def chain(self, inputs):
        graph, state = nnx.split(self.cell)
        step = lambda h, x: nnx.merge(graph, state, copy=True)(h, x)[0]
        return js.jacobian_chain(step, jnp.zeros(3), inputs)


class Read(Chained):
    """What `GradientProbe` needs beside."""

    def read(self, h):
        return self.out(h)


class Scalar(nnx.Module):
    """w x_1, with what is wrong put in."""

    def __init__(self, f=lambda self, y: y, chain=None):
        self.w, self.f = nnx.Param(jnp.ones((2, 1))), f
        if chain is not None:
            self.chain = chain

    def __call__(self, x):
        return self.f(self, x @ self.w[...])


class Fixed(nnx.Module):
    def __call__(self, x):
        return x[..., :1]


def add_variable(self, y):
    self.extra = nnx.BatchStat(y.sum())
    return y


def change_dtype(self, y):
    self.kept = nnx.BatchStat(jnp.zeros((), jnp.float16))
    return y


def fit(model=None, task=None, optimizer=None, **options):
    options = {"updates": 2, "batch": ROWS, "every": 1, "held_out": ROWS, "success": False} | options
    return training.fit(model or Net(), task or known(), optimizer or optax.sgd(0.1), **options)
