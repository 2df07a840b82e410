"""Remedies at the ends of the dtype and for every dtype of a leaf: right there, or refused before the first update."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

import jacspec as js
from jacspec import remedies

RNG = np.random.default_rng(0)
F32 = np.finfo(np.float32)


def once(clip, g, params=None):
    """One update of arrays: what goes on, and the report."""
    return jax.jit(functools.partial(eager, clip))(g, params)


def eager(clip, g, params=None):
    new, state = clip.update(g, clip.init(g if params is None else params), params)
    return new, remedies.clip_report(state)


# Numbers of the user

THRESHOLDS = {
    "clip_by_value: max_value": lambda v: remedies.clip_by_value(v),
    "clip_by_value: min_value": lambda v: remedies.clip_by_value(1.0, -v),
    "clip_by_global_norm: max_norm": remedies.clip_by_global_norm,
    "clip_by_leaf_norm: max_norm": remedies.clip_by_leaf_norm,
    "adaptive_clip: clipping_factor": remedies.adaptive_clip,
    "adaptive_clip: eps": lambda v: remedies.adaptive_clip(eps=v),
    "zclip: z_threshold": remedies.zclip,
    "zclip: eps": lambda v: remedies.zclip(eps=v),
    "zclip: max_norm": lambda v: remedies.zclip(max_norm=v),
}


@pytest.mark.parametrize("case", THRESHOLDS)
@pytest.mark.parametrize("value", [1e39, 1e-39, 10**40, np.float64(3.5e38), np.array(1e-300)])
def test_a_threshold_beyond_the_dtype_is_refused_at_init(case, value):
    function, argument = case.split(": ")
    clip = THRESHOLDS[case](value)
    with pytest.raises(ValueError, match=rf"{function}: argument '.*{argument}.*' leaves the range of float32; got"):
        clip.init({"W": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.bfloat16)})
    clip.init({"W": jnp.ones(2), "b": jnp.ones(2, jnp.float16)})  # the norm is float64


def test_a_product_of_thresholds_beyond_the_dtype_is_refused_at_init():
    for factor, eps in ((1e-30, 1e-30), (1e30, 1e30)):
        with pytest.raises(ValueError, match=r"'clipping_factor \* eps' leaves the range of float32"):
            remedies.adaptive_clip(factor, eps=eps).init(jnp.ones(2, jnp.float32))


@pytest.mark.parametrize("case", THRESHOLDS)
@pytest.mark.parametrize("value", [math.nan, 0.0, -1.0, -math.inf, -(10**400)])
def test_a_threshold_on_the_wrong_side_is_refused_at_once(case, value):
    function, argument = case.split(": ")
    with pytest.raises(ValueError, match=f"{function}: argument '{argument}' is out of range; got"):
        THRESHOLDS[case](value)


@pytest.mark.parametrize("value", [math.inf, 10**400, np.float64("inf")])
def test_infinity_is_no_threshold_where_it_says_so_and_refused_elsewhere(value):
    for case in THRESHOLDS:
        if case.startswith(("clip_by_value", "clip_by_global_norm", "clip_by_leaf_norm")):
            g = jnp.full(9, -3e38 if "min" in case else 3e38, jnp.float32)
            assert not once(THRESHOLDS[case](value), g)[1].clipped
        else:
            with pytest.raises(ValueError, match=r"out of range; got .*, expected a finite"):
                THRESHOLDS[case](value)


@pytest.mark.parametrize("case", THRESHOLDS)
@pytest.mark.parametrize("value", ["1", [1.0], True, 1j, np.ones(2), np.array("a"), np.bool_(1), object()])
def test_what_is_no_number_is_refused_at_once(case, value):
    make = functools.partial(remedies.clip_by_value, 1.0) if "min_value" in case else THRESHOLDS[case]
    with pytest.raises(TypeError, match=f"argument '{case.split(': ')[1]}' must be a number"):
        make(value)


def test_a_norm_beyond_the_dtype_is_compared_and_brought_down():
    g = jnp.full(100, 3e38, jnp.float32)  # of norm 3e39
    for make in (remedies.clip_by_global_norm, remedies.clip_by_leaf_norm):
        new, report = once(make(3e38), g)
        np.testing.assert_allclose(new, 3e37, rtol=1e-6)
        assert report.clipped
    new, _ = once(remedies.zclip(max_norm=3e38), g)
    np.testing.assert_allclose(new, 3e37, rtol=1e-6)


@pytest.mark.parametrize("make", [remedies.clip_by_global_norm, remedies.clip_by_leaf_norm])
@pytest.mark.parametrize(("large", "small", "bound"), [(2e38, 1e-2, 1e37), (3e38, 3e-5, 3e33), (1e30, 1e-30, 1e29)])
def test_an_entry_far_below_the_largest_keeps_its_digits_where_it_comes_out_normal(make, large, small, bound):
    g = np.float32([large, -small, 0.0])
    new, _ = once(make(bound), jnp.asarray(g))
    norm = mpmath.sqrt(mpmath.fsum(mpmath.mpf(float(v)) ** 2 for v in g))
    want = [float(mpmath.mpf(float(v)) * mpmath.mpf(bound) / norm) for v in g]
    assert abs(want[1]) > F32.tiny
    np.testing.assert_allclose(new, want, rtol=8 * F32.eps)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("z_threshold", [2.5, 1e25])
def test_zclip_follows_its_formula_at_every_scale(scale, z_threshold):
    norms = scale * np.array([1.0, 1.5, 0.5, 1.2, 900.0, 1.1])
    clip = remedies.zclip(z_threshold, warm_up=4, max_norm=None, eps=1e-6 * scale)
    state, after = clip.init(jnp.ones(1, jnp.float32)), []
    for norm in norms:
        g, state = clip.update(jnp.full(1, norm, jnp.float32), state)
        after.append(float(g[0]))
    mean, deviation = norms[:4].mean(), norms[:4].std()
    z = (norms[4] - mean) / (deviation + 1e-6 * scale)
    want = mean + z_threshold**2 * deviation / z if z > z_threshold else norms[4]
    np.testing.assert_allclose(after[:5], [*norms[:4], want], rtol=1e-5)


def test_omega_counts_steps_by_thresholds_beyond_the_dtype():
    chain = js.JacobianChain.from_matrices(jnp.tile(jnp.float32(1e-10) * jnp.eye(1, dtype=jnp.float32), (9, 1, 1)))
    ask = lambda threshold: remedies.pascanu_omega(chain, jnp.ones(1, jnp.float32), threshold=threshold)
    assert ask(1e-81) == 5  # ||g_t||^2 = 1e-20^j: j = 0 .. 4 count, each with the ratio 1e-10
    assert ask(1e39) == 0
    assert ask(0) == 9
    for value in (math.nan, math.inf, -1e-300):
        with pytest.raises(ValueError, match="threshold"):
            ask(value)
    for value in (None, 1j, {}, "0"):
        with pytest.raises(TypeError, match="threshold"):
            ask(value)
    for value, error in ((1e39, ValueError), (math.nan, ValueError), ("0", TypeError), ([0.0, 0.0], TypeError)):
        with pytest.raises(error, match="'target'"):
            remedies.flossing(chain, k=1, target=value)
    with pytest.raises(ValueError, match="'target' has non-finite"):
        remedies.flossing(chain, k=1, target=jnp.array([1e39]))


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e37])
def test_importance_weights_know_no_scale(scale):
    train, test = (jnp.asarray(RNG.normal(size=(40, 2)) + shift, jnp.float32) for shift in (0, 1))
    want = remedies.importance_weights(train, test)
    assert want.max() > 2 * want.min()
    columns = jnp.array([scale, 1.0], jnp.float32)
    np.testing.assert_allclose(remedies.importance_weights(columns * train, columns * test), want, rtol=1e-4)
    sizes = remedies.effective_sample_size(jnp.float32(scale) * want), remedies.effective_sample_size(want)
    np.testing.assert_allclose(*sizes, rtol=1e-5)
    half = [x.astype(jnp.float16) for x in (train, test)]
    np.testing.assert_allclose(remedies.importance_weights(*half), want, rtol=1e-2)
    for penalty in (1e39, 1e-39, math.inf):
        with pytest.raises(ValueError, match="penalty"):
            remedies.importance_weights(train, test, penalty=penalty)


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0], [math.nan, 1.0], [math.inf], [], [[1.0]]])
def test_weights_that_are_none_have_no_effective_size(weights):
    with pytest.raises(ValueError, match="effective_sample_size: argument 'weights'"):
        remedies.effective_sample_size(jnp.array(weights, float))


# Units of the adaptive clip


def ratios(g, W, axes, **options):
    """The norms of the units of a clipped update over those of their weights."""
    new, _ = once(remedies.adaptive_clip(0.01, **options), jnp.asarray(g), jnp.asarray(W))
    norm = lambda x: np.sqrt(np.sum(np.square(x, dtype=float), axis=axes))
    return norm(np.asarray(new)) / norm(W)


UNITS = [  # the shape of a leaf, what is asked for, and the axes of a unit
    ((6, 5), -1, 1),
    ((6, 5), 1, 1),
    ((6, 5), 0, 0),
    ((4, 6, 5), -1, 2),
    ((4, 6, 5), 2, 2),
    ((4, 6, 5), -2, 1),
    ((4, 6, 5), (1,), 1),
    ((3, 4, 6, 5), -1, 3),
    ((3, 3, 4, 5), (0, 1, 2), (0, 1, 2)),
    ((5, 4, 3, 3), (1, -1, 2), (1, 2, 3)),
    ((2, 2, 2, 2, 3, 2), -1, 5),
    ((4, 6), -1, 1),  # biases of four gates
    ((5,), -1, 0),
    ((5,), 1, 0),
    ((6, 5), None, 0),
    ((6, 2, 5), None, 0),
    ((3, 3, 4, 5), None, (0, 1, 2)),
    ((2, 3, 3, 4, 5), None, (0, 1, 2, 3)),
    ((1, 5), None, (0, 1)),
    ((5,), None, 0),
]


@pytest.mark.parametrize(("shape", "axis", "axes"), UNITS)
def test_every_unit_is_clipped_to_its_share(shape, axis, axes):
    W = RNG.normal(size=shape) * np.exp(RNG.normal(size=shape))
    found = ratios(100 * RNG.normal(size=shape), W, axes, axis=axis)
    np.testing.assert_allclose(found, 0.01, rtol=1e-12)
    if axis is None:
        theirs = optax.adaptive_grad_clip(0.01)
        g = jnp.asarray(100 * RNG.normal(size=shape))
        np.testing.assert_allclose(
            once(remedies.adaptive_clip(0.01), g, jnp.asarray(W))[0], theirs.update(g, theirs.init(W), W)[0], rtol=1e-12
        )


def test_the_units_of_cells_are_clipped_with_the_axis_of_the_docstring():
    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    gated = js.cells.LSTM(draw(4, 6, 6), draw(4, 6, 3), draw(4, 6))
    params = {"gated": gated, "plain": js.cells.Elman(draw(6, 6), draw(6, 3), jnp.zeros(6))}
    g = jax.tree.map(lambda p: 100 * jnp.ones_like(p) + p, params)
    new, _ = once(remedies.adaptive_clip(0.01, axis=-1), g, params)
    norm = lambda x: jnp.linalg.norm(x, axis=-1)
    for p, u in zip(jax.tree.leaves(params), jax.tree.leaves(new), strict=True):
        np.testing.assert_allclose(norm(u), 0.01 * np.maximum(norm(p), 1e-3), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((4, 6, 5), 1),
        ((4, 6, 5), 0),
        ((3, 4, 6, 5), 2),
        ((6, 5), 7),
        ((6, 5), (0, 1, 2)),
        ((6, 5), -3),
        ((6, 5), (0, -2)),
        ((6, 5), ()),
        ((2,) * 6, None),
    ],
)
def test_axes_that_are_not_those_of_a_unit_are_refused_before_the_first_update(shape, axis):
    clip = remedies.adaptive_clip(0.01, axis=axis)
    with pytest.raises(ValueError, match=rf"adaptive_clip: argument 'params\['W'\]'.*{shape[0]}, {shape[1]}"):
        clip.init({"W": jnp.ones(shape), "b": jnp.ones(3)})


@pytest.mark.parametrize("axis", ["1", 1.0, True, [1], np.array([1])])
def test_what_is_no_axis_is_refused_at_once(axis):
    with pytest.raises(TypeError, match="'axis' is no axis"):
        remedies.adaptive_clip(axis=axis)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1.0, 3e38])
def test_units_of_every_size_are_clipped(size):
    W = np.full((2, 40), size, np.float32)  # of norm 2e39 at most
    found = ratios(np.full((2, 40), 3e38, np.float32), W, 1, axis=1)
    floor = np.float32(1e-3) / np.sqrt(40) / np.float32(size)
    np.testing.assert_allclose(found, 0.01 * max(1, floor), rtol=1e-5)


def test_a_unit_whose_weights_are_not_finite_is_not_waved_through():
    W = jnp.array([[1.0, jnp.inf], [jnp.nan, 1.0], [3.0, 4.0]])
    new, report = once(remedies.adaptive_clip(0.1, axis=1), jnp.ones((3, 2)), W)
    np.testing.assert_allclose(new, [[np.nan] * 2, [np.nan] * 2, [0.5 / np.sqrt(2)] * 2], rtol=1e-12)
    assert report.clipped


# Dtypes of leaves

CLIPS = {
    "value": remedies.clip_by_value(1.0),
    "global": remedies.clip_by_global_norm(1.0),
    "leaf": remedies.clip_by_leaf_norm(1.0),
    "adaptive": remedies.adaptive_clip(1.0),
    "zclip": remedies.zclip(),
}
WANT = {"value": (1, 1), "global": (1 / 3, 2 / 3), "leaf": (1, 0.5**0.5), "adaptive": (1, 1), "zclip": (1 / 3, 2 / 3)}
NARROW = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32")


@pytest.mark.parametrize("dtype", [*NARROW, float])
@pytest.mark.parametrize("kind", CLIPS)
def test_leaves_of_every_precision_are_clipped_alike(kind, dtype):
    leaf = lambda *values: float(values[0]) if dtype is float and len(values) == 1 else jnp.asarray(values, dtype)
    update = eager if dtype is float else once
    new, report = update(CLIPS[kind], {"a": leaf(2.0), "b": leaf(4.0, 4.0)}, {"a": leaf(1.0), "b": leaf(1.0, 1.0)})
    a, b = (np.asarray(new[name], float) for name in "ab")
    want = {"a": WANT[kind][0], "b": WANT[kind][1]}
    if kind == "adaptive":
        want["b"] = 1.0  # ||W|| = sqrt(2)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(a, want["a"], rtol=2 * eps)
    np.testing.assert_allclose(b, want["b"], rtol=2 * eps)
    assert report.clipped


@pytest.mark.parametrize("kind", CLIPS)
def test_what_cannot_be_clipped_is_refused_with_the_leaf_and_the_way_out(kind):
    clip = CLIPS[kind]
    z = {"z": jnp.array([3.0 + 4.0j])}
    with pytest.raises(TypeError, match=r"updates\['z'\]' is complex; .*optax.contrib.split_real_and_imaginary"):
        once(clip, z, z)
    for leaf in (jnp.arange(3), "text", 3):
        with pytest.raises(TypeError, match=r"updates\['z'\]' must be"):
            clip.update({"z": leaf}, clip.init({"z": jnp.ones(3)}), {"z": jnp.ones(3)})
    for params, words in (
        ({"y": jnp.ones(1)}, "has not the structure"),
        ({"z": jnp.ones(2)}, r"params\['z'\]' does not fit"),
    ):
        with pytest.raises(ValueError, match=words):
            clip.update({"z": jnp.ones(1)}, clip.init({"z": jnp.ones(1)}), params)
    # the way out
    way = optax.contrib.split_real_and_imaginary(remedies.clip_by_global_norm(1.0))
    np.testing.assert_allclose(way.update(z, way.init(z))[0]["z"], [0.6 + 0.8j], rtol=1e-6)


INEXACT = (*NARROW, "float64", "complex64", "complex128")


@pytest.mark.parametrize("dtype", [*INEXACT, float, complex])
@pytest.mark.parametrize("where", ["update", "parameter", "state"])
def test_what_is_not_finite_is_rejected_in_leaves_of_every_dtype(where, dtype):
    leaf = lambda v: dtype(v) if dtype in (float, complex) else jnp.asarray([v, 1], dtype)
    bad = math.nan  # float8_e4m3fn has no infinity
    p = {"z": leaf(bad if where == "parameter" else 1), "n": jnp.arange(2)}
    keep = lambda u, s, p=None: (jax.tree.map(jnp.zeros_like, u), leaf(bad) if where == "state" else s)
    optimizer = remedies.reject_nonfinite(optax.GradientTransformation(lambda p: leaf(0), keep))
    u = {"z": leaf(bad if where == "update" else 1), "n": jnp.zeros(2, int)}
    new, state = optimizer.update(u, optimizer.init(p), p)
    assert bool(remedies.reject_report(state).rejected)
    assert np.all(np.asarray(new["z"]) == 0)
    assert np.all(np.asarray(state.inner) == np.asarray(leaf(0)))
    fine = {"z": leaf(1), "n": jnp.zeros(2, int)}
    if where == "update":
        assert not bool(remedies.reject_report(optimizer.update(fine, optimizer.init(p), p)[1]).rejected)


@pytest.mark.parametrize(
    ("p", "u", "rejected"),
    [
        (("float16", -6e4), ("float32", 7e4), False),  # 1e4
        (("float16", 6e4), ("float32", 7e4), True),
        (("float16", 6e4), ("float16", 6e4), True),
        (("float32", -3e38), ("float64", 4e38), False),
        (("float32", 3e38), ("float64", 4e38), True),
        (("bfloat16", 1.0), ("float32", 1e38), False),
        (("float8_e5m2", -5e4), ("float32", 7e4), False),
        (("float8_e5m2", 1.0), ("float32", 1e6), True),
    ],
)
def test_mixed_precision_is_added_before_it_is_cast(p, u, rejected):
    p, u = (jnp.full(2, value, dtype) for dtype, value in (p, u))
    optimizer = remedies.reject_nonfinite(optax.identity())
    _, state = optimizer.update(u, optimizer.init(p), p)
    assert bool(remedies.reject_report(state).rejected) is rejected
    with pytest.raises(ValueError, match="reject_nonfinite: argument 'params'"):
        optimizer.update(u, optimizer.init(p), p[:1])


# Searches


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"std": "0.1"}, TypeError, "'std' must be a number"),
        ({"std": None}, TypeError, "'std' must be a number"),
        ({"std": 1e400}, ValueError, "'std' is out of range; got inf"),
        ({"std": 1e-310}, ValueError, "'std' leaves the range of float64"),
        ({"learning_rate": 1j}, TypeError, "'learning_rate' must be a number"),
        ({"learning_rate": math.nan}, ValueError, "'learning_rate' is out of range"),
        ({"key": 3}, TypeError, "'key' is not a JAX key"),
        ({"key": jax.random.split(jax.random.key(0))}, ValueError, "'key' is not a single key"),
        ({"parameters": jnp.array([1.0, jnp.nan])}, ValueError, "'parameters' has non-finite values"),
        ({"parameters": jnp.ones(2, complex)}, TypeError, "'parameters' must be floating"),
        ({"population": 10**12}, ValueError, "'population' is out of range"),
        ({"population": 2**31 - 2}, ValueError, "'population' does not fit into memory"),
        ({"generations": 10**12}, ValueError, "'generations' is out of range"),
    ],
)
def test_searches_refuse_what_they_would_choke_on(options, error, words):
    given = {"loss": lambda p: jnp.sum(p**2), "parameters": jnp.ones(9), "key": jax.random.key(0)} | options
    with pytest.raises(error, match=f"remedies.evolve: argument {words}"):
        remedies.evolve(**given)
    with jax.enable_x64(False), pytest.raises(ValueError, match="'std' leaves the range of float32; got 1e-45"):
        remedies.evolve(lambda p: jnp.sum(p), jnp.ones(2, jnp.float32), jax.random.key(0), std=1e-45)
