"""JVP and VJP of layers and cells. (number of parameters and inputs, JAX, equation, points)"""

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from differences import (
    DTYPES,
    SCALES,
    SECOND_SLOW,
    both,
    checked,
    elementwise,
    exp,
    logistic,
    norm,
    spread,
    sqrt,
    tanh,
    truth,
)

from jacspec import cells, layers


def rms(h, epsilon):
    return h / mp.sqrt(sum(h**2) / len(h) + mp.mpf(epsilon))


def standard(h, epsilon):
    return rms(h - sum(h) / len(h), epsilon)


def rows(W, f):
    return np.stack([f(w) for w in W])


def cosine(W, h, epsilon=0.0):
    return rows(W, lambda w: w / norm(w)) @ h / mp.sqrt(norm(h) ** 2 + mp.mpf(epsilon))


def circular(K, h):
    """h (4,) and K (3,): each output sees its neighbours on a ring."""
    return sum(K[k] * np.roll(h, 1 - k) for k in range(3))


CENTER = lambda W: rows(W, lambda w: w - sum(w) / len(w))
SQUARE = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 1.0]])
EPSILON = 1e-6

LAYERS = {
    "Dense": (9, lambda v: layers.Dense(v[:6].reshape(2, 3))(v[6:]), lambda v: v[:6].reshape(2, 3) @ v[6:]),
    "WeightNorm": (
        6,
        lambda v: layers.WeightNorm(v.reshape(2, 3))(jnp.arange(1, 4, dtype=v.dtype)),
        lambda v: rows(v.reshape(2, 3), lambda w: w / norm(w)) @ np.arange(1, 4),
    ),
    "Conv": (
        7,
        lambda v: layers.Conv(v[:3].reshape(3, 1, 1))(v[3:].reshape(4, 1)),
        lambda v: circular(v[:3], v[3:]),
    ),
    "CosineNorm": (
        9,
        lambda v: layers.CosineNorm(v[:6].reshape(2, 3))(v[6:]),
        lambda v: cosine(v[:6].reshape(2, 3), v[6:]),
    ),
    "CosineNorm centered": (
        9,
        lambda v: layers.CosineNorm(v[:6].reshape(2, 3), centered=True)(v[6:]),
        lambda v: cosine(CENTER(v[:6].reshape(2, 3)), v[6:] - sum(v[6:]) / 3),
    ),
    "RMSNorm": (3, layers.RMSNorm(epsilon=EPSILON), lambda h: rms(h, EPSILON)),
    "RMSNorm without epsilon": (3, layers.RMSNorm(epsilon=0.0), lambda h: rms(h, 0)),
    "LayerNorm": (3, layers.LayerNorm(epsilon=EPSILON), lambda h: standard(h, EPSILON)),
    "LayerNorm without epsilon": (3, layers.LayerNorm(epsilon=0.0), lambda h: standard(h, 0)),
    "BatchNorm": (
        6,
        lambda v: layers.BatchNorm(epsilon=EPSILON)(v.reshape(3, 2)),
        lambda v: np.stack([standard(h, EPSILON) for h in v.reshape(3, 2).T], axis=1),
    ),
    "Residual": (
        3,
        lambda h: layers.Residual(layers.RMSNorm(epsilon=0.0), 0.5)(h),
        lambda h: h + rms(h, 0) / 2,
    ),
    "Sequential": (
        3,
        lambda h: layers.Sequential(layers.Dense(jnp.asarray(SQUARE, h.dtype)), layers.LayerNorm(epsilon=0.0))(h),
        lambda h: standard(SQUARE @ h, 0),
    ),
    "LayerStep": (3, lambda h: layers.LayerStep()(h, layers.RMSNorm(epsilon=0.0)), lambda h: rms(h, 0)),
    "PerExample": (
        6,
        lambda v: layers.PerExample(layers.RMSNorm(epsilon=0.0))(v.reshape(2, 3)),
        lambda v: rows(v.reshape(2, 3), lambda h: rms(h, 0)),
    ),
}
AT_ZERO = {"RMSNorm", "LayerNorm", "BatchNorm"}
BILINEAR = {"Dense", "Conv"}  # both factors at one scale, and the product stays within range


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, dtype):
    count, f, equation = LAYERS[name]
    points = [s * spread(count) for s in ((1e-18, 1.0, 1e18) if name in BILINEAR else SCALES[dtype])]
    if name in AT_ZERO:
        points += [np.zeros(count), np.full(count, 2.0)]
    checked(name, f, equation, points, dtype)


def of_scale(count, scales):
    return [np.zeros(count), *(s * spread(count) for s in scales)]


def elman(v):
    return tanh(v[:4].reshape(2, 2) @ v[4:6] + v[6:8])


def gated(v, gates):
    """Recurrent weights (gates, 2, 2), h (2,) and the rest."""
    return v[: 4 * gates].reshape(gates, 2, 2), v[4 * gates : 4 * gates + 2], v[4 * gates + 2 :]


def lstm(v):
    W, c, h = gated(v, 4)
    i, f, g, o = (W[k] @ h for k in range(4))
    c = logistic(f) * c + logistic(i) * tanh(g)
    return np.concatenate([c, logistic(o) * tanh(c)])


def gru(v, after):
    W, h, bias = gated(v, 3)
    r, z = logistic(W[0] @ h), logistic(W[1] @ h)
    if after:
        n = tanh(r * (W[2] @ h + bias))
        return (1 - z) * n + z * h
    return (1 - z) * h + z * tanh(W[2] @ (r * h) + bias)


def mgu(v):
    W, h, bias = gated(v, 2)
    f = logistic(W[0] @ h)
    return (1 - f) * tanh(f * (W[1] @ h + bias)) + f * h


def minimal(v):
    W, h, z = v[:4].reshape(2, 2), v[4:6], v[6:]
    u = logistic(W @ h)
    return u * h + (1 - u) * z


def lru(v):
    nu, theta, re, im, x = (v[2 * k : 2 * k + 2] for k in range(5))
    r, cos, sin = exp(-exp(nu)), elementwise(mp.cos)(theta), elementwise(mp.sin)(theta)
    drive = sqrt(1 - r**2) * x
    return np.concatenate([r * (cos * re - sin * im) + drive, r * (sin * re + cos * im) + drive])


def lru_cell(v):
    nu, theta, re, im, x = v.reshape(5, 2)
    B = jnp.broadcast_to(jnp.eye(2, dtype=v.dtype), (2, 2, 2))
    return cells.LRU(nu, theta, B)((re, im), x)


CELLS = {
    "Elman": (8, lambda v: cells.Elman(v[:4].reshape(2, 2), b=v[6:8])(v[4:6]), elman),
    "LeakyElman": (
        8,
        lambda v: cells.LeakyElman(v[:4].reshape(2, 2), b=v[6:8], rate=0.25)(v[4:6]),
        lambda v: 3 * v[4:6] / 4 + elman(v) / 4,
    ),
    "LSTM": (20, lambda v: cells.LSTM(v[:16].reshape(4, 2, 2))((v[16:18], v[18:])), lstm),
    "GRU": (
        16,
        lambda v: cells.GRU(v[:12].reshape(3, 2, 2), hidden_bias=v[14:])(v[12:14]),
        lambda v: gru(v, after=True),
    ),
    "GRU reset_before": (
        16,
        lambda v: cells.GRU(
            v[:12].reshape(3, 2, 2), b=jnp.stack([0 * v[14:], 0 * v[14:], v[14:]]), form="reset_before"
        )(v[12:14]),
        lambda v: gru(v, after=False),
    ),
    "MGU": (12, lambda v: cells.MGU(v[:8].reshape(2, 2, 2), hidden_bias=v[10:])(v[8:10]), mgu),
    "MinimalRNN": (8, lambda v: cells.MinimalRNN(v[:4].reshape(2, 2))(v[4:6], v[6:]), minimal),
    "LRU": (10, lru_cell, lru),
}


@pytest.mark.parametrize("dtype", SECOND_SLOW)
@pytest.mark.parametrize("name", CELLS)
def test_cells(name, dtype):
    count, f, equation = CELLS[name]
    checked(name, f, equation, of_scale(count, (1e-30, 1e-8, 1.0, 2.5)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_slow_and_fast_modes_of_a_linear_recurrent_unit(dtype):
    """Its normalization sqrt(1 - |lambda|^2), where exp(nu) underflows and overflows."""
    end = {jnp.float32: 170.0, jnp.float64: 1400.0}[dtype]
    f = lambda nu: cells.LRU(nu, jnp.zeros_like(nu)).normalization
    equation = lambda nu: sqrt(-elementwise(mp.expm1)(-2 * exp(nu)))
    points = jnp.array([[-end], [-end / 2 - 5], [-2.0], [1.0], [end]], dtype)
    forward, reverse = both(f, points)
    np.testing.assert_allclose(f(points[:, 0]), np.array(equation(np.asarray(points)[:, 0]), float), rtol=2e-4)
    for got in (forward, reverse):
        np.testing.assert_allclose(got, [truth(equation, p) for p in points], rtol=2e-4, atol=1e-300)
