"""Clipping against Optax where Optax is right, and against the closed form where it is not."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

from jacspec import remedies


def once(clip, g, params=None):
    """One update: what goes on, and the report."""

    @jax.jit
    def update(g, params):
        new, state = clip.update(g, clip.init(g), params)
        return new, remedies.clip_report(state)

    return update(g, params)


def trees(dtype, count=200):
    """Random trees of three leaves, their norms spread over eight decades, and thresholds near them."""
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-4, 4, count)
    draw = lambda *shape: jnp.asarray(scale.reshape(-1, *[1] * len(shape)) * rng.normal(size=(count, *shape)), dtype)
    return {"W": draw(5, 7), "b": draw(7), "s": draw()}, jnp.asarray(scale * rng.uniform(0.5, 9, count), dtype)


PAIRS = {
    "global norm": (remedies.clip_by_global_norm, optax.clip_by_global_norm),
    "value": (remedies.clip_by_value, optax.clip),
    "adaptive": (
        lambda c: remedies.adaptive_clip(c, eps=1e-2),
        lambda c: optax.adaptive_grad_clip(c, eps=1e-2),
    ),
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("global norm", jnp.float32),
        *(pytest.param(kind, jnp.float32, marks=pytest.mark.slow) for kind in ("value", "adaptive")),
        *(pytest.param(kind, jnp.float64, marks=pytest.mark.slow) for kind in PAIRS),
    ],
)
def test_ordinary_trees_are_clipped_as_by_optax_to_one_ulp(kind, dtype):
    g, bounds = trees(dtype)
    params = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), g)

    def both(g, c, params):
        ours, theirs = (make(c) for make in PAIRS[kind])
        new, state = ours.update(g, ours.init(g), params)
        return new, theirs.update(g, theirs.init(g), params)[0], remedies.clip_report(state).clipped

    # operation by operation: a compiler that fuses x * x + y into one rounding moves the sum of squares itself
    ours, theirs, clipped = jax.vmap(both)(g, bounds, params)
    assert 20 < clipped.sum() <= 200
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), maxulp=1)


def test_each_leaf_is_clipped_as_optax_clips_it_alone():
    g, bounds = trees(jnp.float32, 200)

    def both(g, c):
        clip, alone = remedies.clip_by_leaf_norm(c), optax.clip_by_global_norm(c)
        new, _ = clip.update(g, clip.init(g))
        return new, jax.tree.map(lambda leaf: alone.update(leaf, optax.EmptyState())[0], g)

    ours, theirs = jax.vmap(both)(g, bounds)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), maxulp=1)


EXTREMES = {  # dtype: (four entries, threshold)
    jnp.float32: [
        ([1e20, 1e20, 0, 0], 1.0),  # finite; the sum of squares overflows
        ([1e19, -1e19, 1e19, 1e19], 5.0),
        ([3e38, 3e38, 3e38, 0], 1.0),  # the norm is beyond the dtype
        ([3e38, 3e38, 0, 0], 1e38),
        ([1e-23, 1e-23, 0, 0], 1e-25),  # the squares underflow
        ([3e-37, 4e-37, 0, 0], 1e-37),
        ([1e30, 1e-30, 0, 0], 1.0),
        ([-5e-39, 2e-38, 1e-41, 0], 1.2e-38),  # subnormal entries
    ],
    jnp.float64: [([1e300, 2e300, 0, 0], 3.0), ([3e-300, 4e-300, 0, 0], 1e-301), ([1e-310, 4e-308, 0, 0], 3e-308)],
    jnp.float16: [([300.0, 300.0, 0, 0], 1.0), ([65504.0] * 4, 1e5), ([6e-8, 6e-8, 0, 0], 7e-8)],
    jnp.bfloat16: [([1e30, 1e30, 0, 0], 1.0), ([1e-30, 2e-30, 0, 0], 1e-30)],
}


@pytest.mark.parametrize("dtype", EXTREMES)
@pytest.mark.parametrize("make", [remedies.clip_by_global_norm, remedies.clip_by_leaf_norm])
def test_extremes_follow_the_closed_form(dtype, make):
    values, bounds = zip(*EXTREMES[dtype], strict=True)
    g, wide = jnp.asarray(values, dtype), jnp.promote_types(dtype, jnp.float32)
    bounds = jnp.asarray(bounds, wide)
    new, report = jax.jit(jax.vmap(lambda g, c: once(make(c), g)))(g, bounds)
    assert new.dtype == dtype
    assert report.clipped.all()
    assert report.finite.all()
    info = jnp.finfo(dtype)
    for row, c, found, log in zip(np.asarray(g), np.asarray(bounds), new, report.log_norm_before, strict=True):
        exact = [mpmath.mpf(float(v)) for v in row]
        norm = mpmath.sqrt(mpmath.fsum(v * v for v in exact))
        want = [float(v * mpmath.mpf(float(c)) / norm) for v in exact]
        # a sum of 4 squares, a root, a quotient, a product: 7 roundings; what comes out subnormal may be flushed
        np.testing.assert_allclose(np.asarray(found, float), want, rtol=7 * float(info.eps), atol=float(info.tiny))
        np.testing.assert_allclose(log, float(mpmath.log(norm)), rtol=8 * float(jnp.finfo(wide).eps))


def test_subnormal_gradients_are_seen_and_left_alone():
    g = jnp.asarray(np.float32([1e-40, -3e-41, 0.0]))
    new, report = once(remedies.clip_by_global_norm(1e-37), g)
    np.testing.assert_array_equal(np.asarray(new).view(np.uint32), np.asarray(g).view(np.uint32))
    assert not bool(report.clipped)
    want = np.log(np.linalg.norm(np.float64(np.float32([1e-40, 3e-41]))))
    np.testing.assert_allclose(report.log_norm_before, want, rtol=1e-6)


def test_zero_gradients_and_infinite_thresholds_change_nothing():
    g = jnp.array([3.0, 4.0])
    for clip in (
        remedies.clip_by_global_norm(jnp.inf),
        remedies.clip_by_leaf_norm(jnp.inf),
        remedies.clip_by_value(jnp.inf),
    ):
        new, report = once(clip, g)
        assert new.tolist() == [3.0, 4.0]
        assert not bool(report.clipped)
    new, report = once(remedies.clip_by_global_norm(1.0), jnp.zeros(3))
    assert new.tolist() == [0.0, 0.0, 0.0]
    assert report.log_norm_after == -jnp.inf


GROUPS = {  # what is left finite of {"a": [inf or nan, 1], "b": [30, 40]} at threshold 5
    "value": (remedies.clip_by_value(5.0), [None, 1.0], [5.0, 5.0]),
    "leaf": (remedies.clip_by_leaf_norm(5.0), [None, None], [3.0, 4.0]),
    "global": (remedies.clip_by_global_norm(5.0), [None, None], [None, None]),
    "zclip": (remedies.zclip(max_norm=5.0), [None, None], [None, None]),
    "autoclip": (remedies.autoclip(), [None, None], [None, None]),
    "adaptive": (remedies.adaptive_clip(0.1), [None, None], [3.0, 4.0]),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_what_is_not_finite_never_becomes_a_number(kind):
    clip, *want = GROUPS[kind]
    bad = jnp.array([jnp.inf, -jnp.inf, jnp.nan])
    g = {"a": jnp.stack([bad, jnp.ones(3)], axis=1), "b": jnp.tile(jnp.array([30.0, 40.0]), (3, 1))}
    params = {"a": jnp.ones(2), "b": jnp.array([30.0, 40.0])}
    new, report = jax.jit(jax.vmap(lambda g: once(clip, g, params)))(g)
    for found, expected in zip(jax.tree.leaves(new), want, strict=True):
        wanted = [np.nan if e is None else e for e in expected]
        np.testing.assert_allclose(found, np.tile(wanted, (3, 1)), rtol=1e-15)
    assert not report.finite.any()
    assert np.isnan(report.log_norm_before).all()
    assert (report.times_nonfinite == 1).all()


def test_clipping_by_value_turns_the_gradient_and_no_learning_rate_does():
    g = jnp.array([10.0, 1.0])
    new, _ = once(remedies.clip_by_value(1.0), g)
    assert new.tolist() == [1.0, 1.0]
    assert once(remedies.clip_by_value(4.0, -0.5), jnp.array([5.0, -2.0]))[0].tolist() == [4.0, -0.5]
    angle = np.arccos(g @ new / jnp.linalg.norm(g) / jnp.linalg.norm(new))
    np.testing.assert_allclose(angle, np.pi / 4 - np.arctan(0.1), rtol=1e-14)


def test_clipping_the_norm_is_a_smaller_learning_rate_for_gradient_descent_and_not_for_adam():
    rate, c = 0.03, 2.0
    loss = lambda p: jnp.sum(p**4) + jnp.sum(jnp.cos(p))
    start = jnp.array([2.0, -1.0, 0.5])
    clipped = optax.chain(remedies.clip_by_global_norm(c), optax.sgd(rate))

    def step(carry, _):
        p, state, q, smallest = carry
        update, state = clipped.update(jax.grad(loss)(p), state, p)
        g = jax.grad(loss)(q)
        factor = jnp.minimum(1, c / jnp.linalg.norm(g))
        return (p + update, state, q - rate * factor * g, jnp.minimum(smallest, factor)), None

    (p, state, q, smallest), _ = jax.lax.scan(step, (start, clipped.init(start), start, 1.0), None, length=100)
    np.testing.assert_allclose(p, q, rtol=1e-12)
    assert smallest < 0.1
    assert 0 < remedies.clip_report(state).rate < 1  # it clips at first and not at the end

    both = [optax.adam(0.1), optax.chain(remedies.clip_by_global_norm(c), optax.adam(0.1))]
    g = jax.grad(loss)(start)
    plain, behind = jax.jit(lambda g: [o.update(g, o.init(start))[0] for o in both])(g)
    assert jnp.linalg.norm(g) > 10 * c
    smallest = jnp.min(jnp.abs(g)) * c / jnp.linalg.norm(g)
    np.testing.assert_allclose(plain, behind, rtol=1.1 * 1e-8 / smallest)  # g / (abs(g) + 1e-8), its eps


def test_the_report_is_found_in_any_state_and_counts():
    parts = {"w": optax.chain(remedies.clip_by_global_norm(1.0), optax.adam(0.1)), "b": optax.sgd(0.1)}
    optimizer = optax.chain(optax.partition(parts, {"W": "w", "b": "b"}), optax.scale(2.0))
    params = {"W": jnp.ones(2), "b": jnp.ones(1)}

    def step(state, size):
        g = {"W": size * jnp.array([0.6, 0.8]), "b": jnp.ones(1)}
        _, state = optimizer.update(g, state, params)
        return state, remedies.clip_report(state).norm_before

    state, before = jax.lax.scan(step, optimizer.init(params), jnp.array([0.5, 3.0, jnp.nan, 2.0]))
    report = remedies.clip_report(state)
    np.testing.assert_allclose(before, [0.5, 3.0, np.nan, 2.0], rtol=1e-15)
    np.testing.assert_allclose(report.norm_after, 1, rtol=1e-15)
    assert (report.updates, report.times_clipped, report.times_nonfinite) == (4, 2, 1)
    assert report.rate == 0.5
    assert np.isnan(remedies.clip_report(optimizer.init(params)).rate)
    pair = optax.chain(remedies.clip_by_value(1.0), remedies.clip_by_global_norm(0.5))
    first, second = remedies.clip_report(pair.update(jnp.array([3.0, 4.0]), pair.init(jnp.ones(2)))[1])
    np.testing.assert_allclose([first.norm_before, second.norm_before], [5, np.sqrt(2)])
    with pytest.raises(ValueError, match="ClipReport"):
        remedies.clip_report(optax.sgd(0.1).init(params))


def test_units_of_the_adaptive_clip():
    W = jnp.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])  # two units (rows) of norms 5 and 0
    G = jnp.array([[6.0, 0.0, 8.0], [0.0, 1.0, 0.0]])
    new, _ = once(remedies.adaptive_clip(0.1, axis=1), G, W)
    np.testing.assert_allclose(new, [[0.3, 0, 0.4], [0, 1e-4, 0]], rtol=1e-14)
    big, _ = once(remedies.adaptive_clip(0.1, axis=1), jnp.float32(1e25) * G.astype(jnp.float32), W.astype(jnp.float32))
    np.testing.assert_allclose(big, new, rtol=1e-6)
    kernel = jnp.ones((3, 3, 4, 2))
    new, _ = once(remedies.adaptive_clip(0.01), kernel, kernel)
    np.testing.assert_allclose(new, 0.01, rtol=1e-14)
    with pytest.raises(ValueError, match="params"):
        once(remedies.adaptive_clip(), W)


def run(clip, norms):
    """Norms after the clipping of a sequence of norms, in one scan."""

    def step(state, norm):
        g, state = clip.update(norm * jnp.array([0.6, -0.8]), state)
        return state, jnp.linalg.norm(g)

    return np.asarray(jax.jit(lambda x: jax.lax.scan(step, clip.init(jnp.ones(2)), x)[1])(jnp.asarray(norms)))


@pytest.mark.parametrize("max_norm", [None, 1.5])
def test_zclip_follows_the_published_program(max_norm):
    rng = np.random.default_rng(1)
    norms = np.exp(0.3 * rng.standard_normal(300))
    norms[rng.integers(30, 300, 12)] *= 50
    norms[150] = np.nan  # neither counted nor passed on

    want, buffer, mean, variance, outliers = [], [], 0.0, 0.0, 0
    ceiling = np.inf if max_norm is None else max_norm
    for x in norms:
        if np.isnan(x):
            want.append(np.nan)
        elif len(buffer) < 25:
            buffer.append(x)
            mean, variance = np.mean(buffer), np.var(buffer)
            want.append(min(x, ceiling))
        else:
            deviation = np.sqrt(variance)
            z = (x - mean) / (deviation + 1e-6)
            fed = mean + 2.5 * deviation / (z / 2.5) if z > 2.5 else x
            outliers += z > 2.5
            want.append(min(fed, ceiling))
            mean = 0.97 * mean + 0.03 * fed
            variance = 0.97 * variance + 0.03 * (fed - mean) ** 2
    assert outliers > 5
    np.testing.assert_allclose(run(remedies.zclip(max_norm=max_norm), norms), want, rtol=1e-11)


@pytest.mark.parametrize("window", [1000, 40])
def test_autoclip_is_the_percentile_of_the_history(window):
    norms = np.exp(np.random.default_rng(2).standard_normal(120))
    want = [min(x, np.percentile(norms[max(0, t + 1 - window) : t + 1], 30)) for t, x in enumerate(norms)]
    np.testing.assert_allclose(run(remedies.autoclip(30, window=window), norms), want, rtol=1e-13)


def test_adaptive_thresholds_survive_an_explosion():
    norms = np.float32([1, 1.1] * 15 + [1e25, 1.0, 3e38, 1.0])
    for clip in (remedies.zclip(max_norm=None), remedies.autoclip(50)):
        after = run(clip, norms)
        assert np.isfinite(after).all()
        assert after[-4] < 2
        assert after[-2] < 2


ARGUMENTS = [
    (remedies.clip_by_global_norm, (0,), ValueError, "max_norm.* > 0"),
    (remedies.clip_by_global_norm, (-1.0,), ValueError, "max_norm.* > 0"),
    (remedies.clip_by_global_norm, (float("nan"),), ValueError, "max_norm.*nan.* > 0"),
    (remedies.clip_by_global_norm, ("1",), TypeError, "max_norm"),
    (remedies.clip_by_global_norm, (True,), TypeError, "max_norm"),
    (remedies.clip_by_global_norm, (np.ones(2),), TypeError, r"max_norm.*\(2,\)"),
    (remedies.clip_by_leaf_norm, (0.0,), ValueError, "max_norm"),
    (remedies.clip_by_value, (-1.0,), ValueError, "max_value"),
    (remedies.clip_by_value, (1.0, 0.5), ValueError, "min_value < 0"),
    (remedies.adaptive_clip, (-0.1,), ValueError, "clipping_factor"),
    (remedies.zclip, (0.0,), ValueError, "z_threshold"),
    (remedies.autoclip, (0.0,), ValueError, "percentile"),
    (remedies.autoclip, (101.0,), ValueError, "percentile"),
    (remedies.reject_nonfinite, (0.1,), TypeError, "GradientTransformation"),
]


@pytest.mark.parametrize(("make", "arguments", "error", "words"), ARGUMENTS)
def test_bad_arguments_are_refused(make, arguments, error, words):
    with pytest.raises(error, match=words):
        make(*arguments)


def test_other_bad_input_is_refused():
    for options, words in (({"decay": 1.0}, "decay"), ({"warm_up": 1}, "warm_up"), ({"max_norm": 0.0}, "max_norm")):
        with pytest.raises(ValueError, match=words):
            remedies.zclip(**options)
    with pytest.raises(TypeError, match=r"updates\['n'\].*floating"):
        once(remedies.clip_by_global_norm(1.0), {"n": jnp.arange(3)})


def test_a_nonfinite_update_is_never_applied_however_many_come():
    optimizer = remedies.reject_nonfinite(optax.chain(remedies.clip_by_global_norm(1.0), optax.adam(0.1)))
    params = jnp.array([1.0, -2.0])

    def step(carry, g):
        params, state = carry
        update, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, update), state), None

    run = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g)[0])
    healthy = run((params, optimizer.init(params)), jnp.ones((3, 2)))
    bad = jnp.tile(jnp.array([[jnp.nan, 1.0], [1.0, jnp.inf]]), (50, 1))
    after, state = run(healthy, bad)
    np.testing.assert_array_equal(after, healthy[0])
    moments = lambda state: [leaf for leaf in jax.tree.leaves(state.inner[1])]
    for a, b in zip(moments(state), moments(healthy[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    report = remedies.reject_report(state)
    assert (report.consecutive, report.times_rejected, report.updates) == (100, 100, 103)
    assert remedies.clip_report(state).times_nonfinite == 100  # the record goes on
    (_, state) = run((after, state), jnp.ones((1, 2)))
    report = remedies.reject_report(state)
    assert (report.consecutive, report.times_rejected, bool(report.rejected)) == (0, 100, False)


OVERFLOWS = {
    "second moment": (optax.adam(0.1), 1e25, 1.0),
    "learning rate": (optax.sgd(1e38), 1e5, 1.0),
    "parameter": (optax.sgd(1.0), -3e38, 3e38),
    "masked by a clip": (optax.chain(optax.clip(1.0), optax.sgd(1.0)), jnp.inf, 1.0),
}


@pytest.mark.parametrize("case", OVERFLOWS)
def test_what_only_becomes_infinite_inside_is_rejected_too(case):
    inner, g, p = OVERFLOWS[case]
    optimizer = remedies.reject_nonfinite(inner)
    params = jnp.full(2, p, jnp.float32)
    start = optimizer.init(params)
    update, state = optimizer.update(jnp.full(2, g, jnp.float32), start, params)
    assert update.tolist() == [0.0, 0.0]
    assert bool(remedies.reject_report(state).rejected)
    for a, b in zip(jax.tree.leaves(state.inner), jax.tree.leaves(start.inner), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_guard_leaves_a_healthy_run_alone():
    plain = optax.chain(remedies.clip_by_global_norm(1.0), optax.adamw(0.01))
    guarded = remedies.reject_nonfinite(plain)
    gradients = jnp.asarray(np.random.default_rng(3).standard_normal((200, 4))).at[7].set(0)

    def run(optimizer):
        def step(carry, g):
            params, state = carry
            update, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, update), state), None

        start = jnp.ones(4)
        return jax.jit(lambda g: jax.lax.scan(step, (start, optimizer.init(start)), g)[0])(gradients)

    (want, _), (found, state) = run(plain), run(guarded)
    np.testing.assert_allclose(found, want, rtol=200 * np.finfo(float).eps)  # two programs, a rounding a step
    assert remedies.reject_report(state).times_rejected == 0
