"""JVP and VJP of clipping transformations. (JAX, equation, points at scale 1 with thresholds at that scale)"""

import itertools

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from differences import (
    SCALES,
    SECOND_SLOW,
    both,
    checked,
    norm,
)

from jacspec import remedies


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
