"""JVP and VJP of every public differentiable function against its equation in many digits.

Each case is a function of one vector (parameters, state and inputs in a row) and the same equation in mpmath, whose
Jacobian is a central difference in 400 digits. Points lie at zero, at ties and thresholds, and at scales up to the ends
of the dtype. `pytest -s` prints the table. A new activation, layer, cell or clipping without a case fails the walk.
"""

import inspect
import itertools
import typing

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jacspec as js
from jacspec import activations, cells, layers, operators, remedies
from jacspec.remedies import adaptive, clipping

DIGITS, STEP = 400, 100  # digits of a number, digits of the relative step of a difference
DTYPES = [jnp.float32, jnp.float64]
SECOND_SLOW = [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]
SCALES = {jnp.float32: (1e-36, 1e-20, 1.0, 1e20, 1e38), jnp.float64: (1e-300, 1e-160, 1e-20, 1.0, 1e20, 1e160, 1e300)}
LEAKY, LAMBDA, ALPHA = activations.LEAKY_SLOPE, activations.SELU_SCALE, activations.SELU_ALPHA


def elementwise(f):
    return np.vectorize(f, otypes=[object])


exp, log, sqrt, tanh = map(elementwise, (mp.exp, mp.log, mp.sqrt, mp.tanh))


def logistic(x):
    return 1 / (1 + exp(-x))


def norm(x):
    return mp.sqrt(sum(v * v for v in np.ravel(x)))


def truth(f, point):
    """The Jacobian of the equation f by central differences."""
    with mp.workdps(DIGITS):
        x = np.array([mp.mpf(float(v)) for v in point], object)
        step = max([abs(v) for v in x if v] or [mp.mpf(1)]) * mp.mpf(10) ** -STEP
        columns = []
        for i in range(x.size):
            d = np.array([step if i == j else mp.mpf(0) for j in range(x.size)], object)
            columns.append((np.ravel(f(x + d)) - np.ravel(f(x - d))) / (2 * step))
        return np.array(np.stack(columns, axis=1), float)


def spread(count):
    """Numbers in (-1, 1) of which no two are close: parts of multiples of the golden ratio."""
    return 2 * (np.arange(1, count + 1) * (np.sqrt(5) - 1) / 2 % 1) - 1


def both(f, points):
    """J by forward and by reverse mode at every point, in one program."""
    flat = lambda v: ravel_pytree(f(v))[0]
    return jax.jit(jax.vmap(lambda v: (jax.jacfwd(flat)(v), jax.jacrev(flat)(v))))(points)


def worst(got, want):
    """The largest error relative to the row, above what underflows."""
    info = jnp.finfo(got.dtype)
    floor, got = float(info.tiny) / float(info.eps), np.asarray(got, float)
    size = np.max(np.abs(want), axis=-1, keepdims=True)
    seen = (size < float(info.max) / 8) & np.isfinite(size)
    return float(np.max(np.where(seen, np.abs(got - want) / np.maximum(size, floor), 0), initial=0))


def checked(name, f, equation, points, dtype, roundings=64):
    """Both modes against the equation, within `roundings`; the line of the table."""
    points = jnp.asarray(np.stack(points), dtype)
    forward, reverse = both(f, points)
    want = np.stack([truth(equation, p) for p in np.asarray(points)])
    errors = worst(forward, want), worst(reverse, want)
    print(f"{name:28} {jnp.dtype(dtype).name} {len(points):3} points  JVP {errors[0]:.1e}  VJP {errors[1]:.1e}")
    assert np.isfinite(np.asarray(forward)).all()
    assert max(errors) <= roundings * float(jnp.finfo(dtype).eps), (name, errors, forward, reverse, want)


# --- activations: (equation, the documented slope at each kink) ------------------------------------------------------

ACTIVATIONS = {
    "linear": (lambda x: x, {}),
    "tanh": (mp.tanh, {}),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), {}),
    "relu": (lambda x: max(x, 0), {0: 0}),
    "leaky_relu": (lambda x: x if x > 0 else LEAKY * x, {0: 1}),
    "elu": (lambda x: x if x > 0 else mp.expm1(x), {0: 1}),
    "selu": (lambda x: LAMBDA * (x if x > 0 else ALPHA * mp.expm1(x)), {0: LAMBDA * ALPHA}),
    "gelu": (lambda x: x * mp.ncdf(x), {}),
    "swish": (lambda x: x / (1 + mp.exp(-x)), {}),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), {}),
    "hard_tanh": (lambda x: min(max(x, -1), 1), {1: 1, -1: 1}),
    "erf": (mp.erf, {}),
}
# Second derivatives at kinks are one-sided, from the side of the slope.
CURVATURE_AT_KINK = {"elu": 1, "selu": LAMBDA * ALPHA}
INSIDE = [0.0, 1e-8, -1e-8, 0.3, -0.3, 1.0, -1.0, 2.0, -2.0, 5.0, -5.0, -5.5, 7.0, -7.0]


def derivative(name, x, order):
    equation, kinks = ACTIVATIONS[name]
    if x in kinks:
        return kinks[x] if order == 1 else CURVATURE_AT_KINK.get(name, 0)
    return float(mp.diff(equation, mp.mpf(float(x)), order, h=mp.mpf(10) ** -40))


@pytest.mark.parametrize("dtype", SECOND_SLOW)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_two_derivatives_in_every_mode(name, dtype):
    f = activations.get(name)
    points = jnp.asarray(INSIDE, dtype)
    first = [jax.jacfwd(f), jax.grad(f), f.derivative]
    second = [jax.jacfwd(jax.jacfwd(f)), jax.grad(jax.grad(f)), jax.jacfwd(jax.grad(f)), jax.grad(f.derivative)]
    got = jax.jit(jax.vmap(lambda a: (jnp.stack([d(a) for d in first]), jnp.stack([d(a) for d in second]))))(points)
    with mp.workdps(100):
        for order, found in enumerate(got, 1):
            want = np.array([derivative(name, float(x), order) for x in points])[:, None]
            error = worst(found.T, np.broadcast_to(want, found.shape).T)
            print(f"{name:28} {jnp.dtype(dtype).name} derivative {order}: {error:.1e}")
            # relative to the largest along the points: a curvature that changes its sign has no relative accuracy there
            assert error <= 16 * float(jnp.finfo(dtype).eps), (found, want)


def test_smooth_slopes_have_two_derivatives_at_zero():
    """An even function written with abs(a) has none."""
    for name in ("tanh", "sigmoid", "gelu", "swish", "softplus", "erf"):
        f = activations.get(name)
        with mp.workdps(100):
            want = derivative(name, 0.0, 3)
        for got in (
            jax.grad(jax.grad(f.derivative)),
            jax.grad(jax.grad(jax.grad(f))),
            jax.jacfwd(jax.jacfwd(f.derivative)),
        ):
            np.testing.assert_allclose(got(0.0), want, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_logarithms_of_slopes_have_their_derivative(name):
    f = activations.get(name)
    points = [x for x in INSIDE if x not in ACTIVATIONS[name][1]]
    got = jax.vmap(jax.grad(lambda a: f.log_derivative(a)[0]))(jnp.asarray(points))
    with mp.workdps(100):
        slope, bend = (np.array([derivative(name, x, k) for x in points]) for k in (1, 2))
    want = np.divide(bend, slope, out=np.zeros_like(bend), where=slope != 0)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


# --- layers and cells: (number of parameters and inputs, JAX, equation, points) --------------------------------------


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


# --- clipping: (JAX, equation, points at scale 1 with thresholds at that scale) --------------------------------------


def once(clip, g, params=None):
    return clip.update(g, clip.init(g), params)[0]


def sequence(clip, v):
    """The last of three gradients of two entries, clipped by what was seen before."""
    state = clip.init(v[:2])
    for g in v.reshape(3, 2):
        new, state = clip.update(g, state)
    return new


def to_norm(g, bound):
    return g * (bound / norm(g)) if norm(g) >= bound else g


def zclip(v):
    a, b, c = (norm(g) for g in v.reshape(3, 2))
    mean, deviation = (a + b) / 2, abs(a - b) / 2
    z = (c - mean) / (deviation + mp.mpf(1e-6))
    return to_norm(v[4:], mean + 4 * deviation / z)


def autoclip(v):
    return to_norm(v[4:], sorted(norm(g) for g in v.reshape(3, 2))[1])


def agc(v):
    G, W = v[:3], v[3:]
    return to_norm(G, mp.mpf(0.5) * max(norm(W), mp.mpf(1e-3)))


CLIPPINGS = {
    "clip_by_value": (
        lambda v: once(remedies.clip_by_value(v[0], -v[0]), v[1:]),
        lambda v: np.array([min(max(g, -v[0]), v[0]) for g in v[1:]]),
        [[1.0, 3.0, -4.0, 0.5, 0.0]],
    ),
    "clip_by_global_norm": (
        lambda v: once(remedies.clip_by_global_norm(v[0]), {"a": v[1:3], "b": v[3:]}),
        lambda v: to_norm(v[1:], v[0]),
        [[1.0, 3.0, -4.0, 0.0, 0.5], [9.0, 3.0, -4.0, 0.0, 0.5], [9.0, 0.0, 0.0, 0.0, 0.0]],
    ),
    "clip_by_leaf_norm": (
        lambda v: once(remedies.clip_by_leaf_norm(v[0]), {"a": v[1:3], "b": v[3:]}),
        lambda v: np.concatenate([to_norm(v[1:3], v[0]), to_norm(v[3:], v[0])]),
        [[1.0, 3.0, -4.0, 0.0, 0.5]],
    ),
    "adaptive_clip": (
        lambda v: once(remedies.adaptive_clip(0.5), v[:3], v[3:]),
        agc,
        [[3.0, -4.0, 0.0, 1.0, 0.5, 0.0], [0.1, 0.0, 0.0, 1.0, 0.5, 0.0]],
    ),
    "zclip": (
        lambda v: sequence(remedies.zclip(2.0, warm_up=2, max_norm=None), v),
        zclip,
        [[1.0, 0.0, 3.0, 0.1, 12.0, -5.0]],
    ),
    "autoclip": (
        lambda v: sequence(remedies.autoclip(50), v),
        autoclip,
        [[1.0, 0.0, 3.0, 0.1, 12.0, -5.0], [9.0, 0.0, 30.0, 0.1, 1.0, -0.5]],
    ),
}
ANY_SCALE = {"clip_by_value", "clip_by_global_norm", "clip_by_leaf_norm", "autoclip"}


@pytest.mark.parametrize("dtype", SECOND_SLOW)
@pytest.mark.parametrize("name", CLIPPINGS)
def test_clippings(name, dtype):
    f, equation, points = CLIPPINGS[name]
    top = float(jnp.finfo(dtype).max) / 40
    scales = [min(s * 4, top) for s in SCALES[dtype]] if name in ANY_SCALE else [1.0, 8.0]
    checked(name, f, equation, [s * np.array(p) for p in points for s in scales], dtype)


@pytest.mark.parametrize("name", ["clip_by_global_norm", "clip_by_leaf_norm"])
def test_clippings_by_thresholds_of_another_scale_than_the_entries(name):
    f, equation, _ = CLIPPINGS[name]
    entries, bounds = (1e-40, 1e-37, 1e-10, 1e20, 3e38), (2e-38, 1e-36, 1.0, 2e37, 3e38)
    points = [np.array([c, *(s * np.array([0.5, -1.0, 0.0, 0.01]))]) for s in entries for c in bounds]
    checked(name, f, equation, points, jnp.float32)


@pytest.mark.parametrize(("factor", "eps"), [(1e-30, 1e3), (1.0, 1e-36), (1e5, 1e-36)])
def test_units_of_another_scale_than_their_weights(factor, eps):
    f = lambda v: once(remedies.adaptive_clip(factor, eps=eps), v[:3], v[3:])
    exact = [mp.mpf(float(np.float32(number))) for number in (factor, eps)]
    equation = lambda v: to_norm(v[:3], exact[0] * max(norm(v[3:]), exact[1]))
    sizes = itertools.product((1e-37, 1e-20, 1.0, 3e38), (1e-38, 1e-30, 1.0, 1e30, 3e38))
    points = [np.array([0.5 * g, -g, 0.01 * g, 0.3 * w, 0.0, -w]) for g, w in sizes]
    checked(f"adaptive_clip {factor} {eps}", f, equation, points, jnp.float32)


def test_at_a_threshold_the_derivative_is_that_of_the_branch_taken():
    eye, g = np.eye(2), jnp.array([3.0, 4.0])
    forms = {
        "norm": (lambda g: once(remedies.clip_by_global_norm(5.0), g), eye - np.outer(g, g) / 25),
        "value": (lambda g: once(remedies.clip_by_value(4.0), g), eye),
        "no threshold": (lambda g: once(remedies.clip_by_global_norm(jnp.inf), g), eye),
        "weights at the floor": (lambda w: once(remedies.adaptive_clip(0.1, eps=5.0), g, w), np.outer(g, g) * 0.1 / 25),
        "weights below it": (lambda w: once(remedies.adaptive_clip(0.1, eps=6.0), g, w), 0 * eye),
    }
    for name, (f, want) in forms.items():
        for got in both(f, g[None]):
            np.testing.assert_allclose(got[0], want, atol=1e-15, err_msg=name)


# --- norms and questions --------------------------------------------------------------------------------------------


def product(v):
    J = v.reshape(2, 2, 2)
    return J[1] @ J[0]


def singular(v):
    P = product(v)
    square, det = norm(P) ** 2, abs(P[0, 0] * P[1, 1] - P[0, 1] * P[1, 0])
    large = mp.sqrt((square + mp.sqrt(square**2 - 4 * det**2)) / 2)
    return np.array([mp.log(large), mp.log(det / large)])


def rates(v):
    P = product(v)
    first = mp.log(norm(P[:, 0]))
    return np.array([first, mp.log(abs(P[0, 0] * P[1, 1] - P[0, 1] * P[1, 0])) - first]) / 2


def matrices(v):
    return js.JacobianChain.from_matrices(v.reshape(2, 2, 2), check=False)


def unit_and_log(x):
    return np.array([*(x / norm(x)), mp.log(norm(x))])


ONE = jnp.ones(2)
QUESTIONS = {
    "norms": (4, operators.norms, norm),
    "units": (4, lambda v: operators.units(v)[0], lambda v: v / norm(v)),
    "spectrum": (8, lambda v: js.spectrum(matrices(v)).log_singular_values, singular),
    "log_singular_values end": (8, lambda v: js.log_singular_values(matrices(v), origin="end"), singular),
    "log_singular_values k=1": (8, lambda v: js.log_singular_values(matrices(v), k=1), lambda v: singular(v)[:1]),
    "lyapunov_exponents": (8, lambda v: js.lyapunov_exponents(matrices(v)).exponents, rates),
    "push": (8, lambda v: matrices(v).push(ONE), lambda v: unit_and_log(product(v).sum(axis=1))),
    "pull": (8, lambda v: matrices(v).pull(ONE), lambda v: unit_and_log(product(v).sum(axis=0))),
    "log_gradient_norms": (
        8,
        lambda v: js.log_gradient_norms(matrices(v), ONE)[:2],
        lambda v: log(np.array([norm(product(v).sum(axis=0)), norm(v[4:].reshape(2, 2).sum(axis=0))])),
    ),
}


@pytest.mark.parametrize("dtype", SECOND_SLOW)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("log_singular") else []) for name in QUESTIONS],
)
def test_questions(name, dtype):
    count, f, equation = QUESTIONS[name]
    scales = SCALES[dtype] if count == 4 else [s for s in SCALES[dtype] if abs(np.log10(s)) < 161]
    checked(name, f, equation, [s * spread(count) for s in scales], dtype, roundings=200)


def test_norms_of_zero_have_derivative_zero_and_undefined_layers_say_nan():
    zero = jnp.zeros(3)
    for f in (operators.norms, lambda v: operators.units(v)[0]):
        for got in both(f, zero[None]):
            np.testing.assert_array_equal(got[0], np.zeros_like(got[0]))
    for layer in (layers.RMSNorm(epsilon=0.0), layers.LayerNorm(epsilon=0.0), layers.CosineNorm(jnp.eye(3))):
        for got in both(layer, zero[None]):
            assert np.isnan(got).all()


# --- the walk -------------------------------------------------------------------------------------------------------


def transformations(module):
    hints = {name: typing.get_type_hints(f) for name, f in inspect.getmembers(module, inspect.isfunction)}
    made = {name for name, hint in hints.items() if hint.get("return") is optax.GradientTransformation}
    return {name for name in made if inspect.isfunction(getattr(remedies, name, None))}


def classes(module):
    return {name for name, _ in inspect.getmembers(module, inspect.isclass)}


@pytest.mark.parametrize(
    ("public", "cases"),
    [
        (set(activations.TABLE), ACTIVATIONS),
        (classes(layers), LAYERS),
        (classes(cells), CELLS),
        (transformations(clipping) | transformations(adaptive), CLIPPINGS),
    ],
)
def test_every_public_name_has_a_case(public, cases):
    assert len(public) >= 6
    assert public == {name.split()[0] for name in cases}
