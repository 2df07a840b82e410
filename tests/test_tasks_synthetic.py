"""Synthetic tasks against their definitions: sequences read back in plain Python, frequencies, trivial predictors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import COUNT, KEY, SIGMAS, SYNTHETIC, assert_answered_last, assert_uniform, built, drawn, symbols_of

from jacspec import tasks

# Definitions


@pytest.mark.parametrize("name", ["adding", "multiplication"])
def test_marks_and_targets_of_pascanu(name):
    batch, L = drawn(name), SYNTHETIC[name]["length"]
    T = built(name).length
    assert L + int(L * 0.1) - 1 == T
    lengths, firsts, seconds = [], {}, {}
    for (mark, x), target in zip(batch.inputs.transpose(0, 2, 1), batch.targets[:, -1, 0], strict=True):
        l = T - np.flatnonzero(x)[0]  # a uniform number is zero once in 2^23
        mark, x = mark[T - l :], x[T - l :]
        p0, p1 = np.flatnonzero(mark)
        assert mark[p0] == mark[p1] == 1
        assert 0 <= p0 < int(l * 0.1) <= p1 < int(l * 0.1) + int(l * 0.4)
        want = x[p0] * x[p1] if name == "multiplication" else (x[p0] + x[p1]) / 2
        assert target == want
        lengths.append(int(l))
        firsts.setdefault(int(l), []).append(p0)
        seconds.setdefault(int(l), []).append(p1)
    assert_uniform(lengths, range(L, L + int(L * 0.1)))
    for l in firsts:
        assert_uniform(firsts[l], range(int(l * 0.1)))
        assert_uniform(seconds[l], range(int(l * 0.1), int(l * 0.1) + int(l * 0.4)))
    assert (batch.inputs[:, : T - max(lengths)] == 0).all()
    assert_answered_last(batch)


def test_a_batch_of_pascanu_shares_its_length():
    task = built("adding")
    starts = [
        np.argmax(np.asarray(task.sample(key, 8).inputs)[:, :, 1] > 0, axis=1) for key in jax.random.split(KEY, 20)
    ]
    assert all((s == s[0]).all() for s in starts)
    assert len({int(s[0]) for s in starts}) > 1


def test_marks_and_targets_of_arjovsky():
    batch, half = drawn("adding, arjovsky"), 21 // 2
    x, mark = batch.inputs[..., 0], batch.inputs[..., 1]
    places = np.array([np.flatnonzero(m) for m in mark])
    assert_uniform(places[:, 0], range(half))
    assert_uniform(places[:, 1], range(half, 2 * half))
    np.testing.assert_array_equal(batch.targets[:, -1, 0], np.take_along_axis(x, places, axis=1).sum(axis=1))
    assert_answered_last(batch)


@pytest.mark.parametrize("name", ["adding", "adding, arjovsky"])
def test_numbers_are_uniform(name):
    channel = 1 if name == "adding" else 0
    x = drawn(name).inputs[:, 4:, channel].ravel()  # after the padding
    assert x.min() >= 0
    assert x.max() < 1
    assert_uniform(np.floor(10 * x.astype(np.float64)).astype(int), range(10))


@pytest.mark.parametrize(("name", "slots"), [("temporal_order", (0.1, 0.5)), ("temporal_order, 3", (0.1, 0.3, 0.6))])
def test_slots_and_classes_of_temporal_order(name, slots):
    batch, L = drawn(name), SYNTHETIC[name]["length"]
    symbols = symbols_of(batch.inputs)
    places = np.array([np.flatnonzero(s < 2) for s in symbols])
    assert places.shape == (COUNT, len(slots))
    for place, start in zip(places.T, slots, strict=True):
        assert_uniform(place, range(int(L * start), int(L * start) + int(L * 0.1)))
    values = np.take_along_axis(symbols, places, axis=1)
    np.testing.assert_array_equal(batch.targets[:, -1], sum(v * 2**i for i, v in enumerate(values.T)))
    assert_uniform(batch.targets[:, -1], range(2 ** len(slots)))
    assert_uniform(symbols[symbols >= 2], range(2, 6))
    assert_answered_last(batch)


def test_permutation_repeats_its_first_symbol():
    batch = drawn("permutation")
    symbols = symbols_of(batch.inputs)
    assert symbols.shape == (COUNT, 12)
    np.testing.assert_array_equal(batch.targets[:, -1], symbols[:, 0])
    assert_uniform(symbols[:, 0], range(2))
    assert_uniform(symbols[:, 1:].ravel(), range(2, 100))
    assert_answered_last(batch)


def test_layout_of_copy():
    batch, T = drawn("copy"), 5
    symbols = symbols_of(batch.inputs)
    for seen, asked in zip(symbols, batch.targets, strict=True):
        shown = list(seen[:10])
        assert list(seen) == shown + [0] * (T - 1) + [9] + [0] * 10
        assert list(asked) == [0] * (T + 10) + shown
    assert_uniform(symbols[:, :10].ravel(), range(1, 9))
    assert (batch.weights == 1).all()


@pytest.mark.parametrize(("name", "T", "n", "v"), [("memorization", 4, 10, 5), ("memorization, 5", 3, 5, 2)])
def test_layout_of_memorization(name, T, n, v):
    batch = drawn(name)
    symbols = symbols_of(batch.inputs)
    assert batch.inputs.shape == (COUNT, T + 2 * n, v + 2)
    for seen, asked in zip(symbols, batch.targets, strict=True):
        shown = list(seen[:n])
        assert list(seen) == shown + [v] * T + [v + 1] + [v] * (n - 1)
        assert list(asked) == [v] * (T + n) + shown
    assert_uniform(symbols[:, :n].ravel(), range(v))
    assert (batch.weights == 1).all()


def test_all_patterns_of_five_bits_come_before_one_comes_again():
    patterns = symbols_of(drawn("memorization, 5").inputs)[:, :5]
    for start in range(0, COUNT, 32):
        assert len({tuple(p) for p in patterns[start : start + 32]}) == 32
    few = symbols_of(np.asarray(built("memorization, 5").sample(KEY, 8).inputs))[:, :5]
    assert len({tuple(p) for p in few}) == 8
    assert (
        few.sum() != symbols_of(np.asarray(built("memorization, 5").sample(jax.random.key(1), 8).inputs))[:, :5].sum()
    )


@pytest.mark.parametrize(("name", "first"), [("delayed_copy", 3), ("delayed_xor", 6)])
def test_delayed_bits(name, first):
    batch = drawn(name)
    assert_uniform(batch.inputs.ravel(), (0, 1))
    s, y = batch.inputs[..., 0].astype(int), batch.targets[..., 0].astype(int)
    for t in range(first, 12):
        want = s[:, t - 3] if name == "delayed_copy" else s[:, t - 3] ^ s[:, t - 6]
        np.testing.assert_array_equal(y[:, t], want)
    np.testing.assert_array_equal(batch.weights, np.tile(np.arange(12) >= first, (COUNT, 1)))


def test_lag_and_span_differ_by_two():
    by_span = tasks.delayed_xor(12, span=6)
    assert by_span.name == built("delayed_xor").name
    batch = by_span.sample(KEY, 4)
    s = np.asarray(batch.inputs)
    np.testing.assert_array_equal(batch.targets[:, 6:], s[:, 3:-3] != s[:, :-6])
    with pytest.raises(ValueError, match="not twice the lag; got span=6, lag=6"):
        tasks.delayed_xor(12, lag=6, span=6)
    with pytest.raises(ValueError, match="not twice the lag; got span=5"):
        tasks.delayed_xor(12, span=5)


# What the trivial predictor reaches


@jax.jit
def judged(task, outputs, batch):
    """Everything a task says of outputs."""
    judges = task.loss, task.wrong, task.step_errors, task.step_losses
    return [judge(outputs, batch) for judge in judges]


def trivial(name, batch):
    """Outputs of the best predictor that sees no input."""
    task, never = built(name), -1e9
    shape = (*batch.weights.shape, task.outputs)
    means = {"adding": 0.5, "adding, arjovsky": 1.0, "multiplication": 0.25}
    if name in means:
        return np.full(shape, means[name])
    logits = np.zeros(shape)
    if name == "permutation":
        logits[..., 2:] = never
    if name.startswith(("copy", "memorization")):
        n, blank = {"copy": (10, 0), "memorization": (10, 5), "memorization, 5": (5, 2)}[name]
        logits[:, :-n, :] = never
        logits[:, :-n, blank] = 0
        logits[:, -n:, blank] = never
    return logits


@pytest.mark.parametrize("name", SYNTHETIC)
def test_baseline_and_chance_are_those_of_the_trivial_predictor(name):
    task, batch = built(name), drawn(name)
    outputs = trivial(name, batch)
    loss, wrong, _, losses = map(np.asarray, judged(task, outputs, batch))
    if name == "memorization, 5":
        assert wrong.mean() == task.chance == 31 / 32
    else:
        assert abs(wrong.mean() - task.chance) <= SIGMAS * math.sqrt(task.chance * (1 - task.chance) / COUNT)
    if task.kind == "squared":
        assert abs(loss - task.baseline) < SIGMAS * losses[:, -1].std() / math.sqrt(COUNT)
    else:  # the same for every sequence
        np.testing.assert_allclose(loss, task.baseline, rtol=1e-6)


def test_published_baselines():
    closed = {
        "adding": (1 / 24, 0.36), "adding, arjovsky": (1 / 6, 0.64), "multiplication": (7 / 144, 0.390),
        "temporal_order": (1.386, 0.75), "temporal_order, 3": (2.079, 0.875), "permutation": (math.log(2), 0.5),
        "delayed_copy": (math.log(2), 1 - 2.0**-9), "delayed_xor": (math.log(2), 1 - 2.0**-6),
    }  # fmt: skip
    for name, (baseline, chance) in closed.items():
        assert abs(built(name).baseline - baseline) < 5e-4
        assert abs(built(name).chance - chance) < 5e-4
        assert built(name).success == 0.01
    for T, value in {100: 0.173287, 200: 0.094520, 300: 0.064983, 500: 0.039989, 1000: 0.020387}.items():
        assert round(tasks.copy(T).baseline, 6) == value
    np.testing.assert_allclose(built("multiplication").baseline, 1 / 9 - 1 / 16, rtol=1e-15)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_right_answer_is_right_and_one_wrong_step_is_wrong(name):
    task, batch = built(name), drawn(name)
    if task.kind == "cross_entropy":
        outputs = 60.0 * np.eye(task.outputs)[batch.targets]
    else:
        outputs = 120.0 * (batch.targets - 0.5) if task.kind == "logistic" else batch.targets.astype(float)
    loss, wrong, _, _ = judged(task, outputs, batch)
    assert loss < 1e-20
    assert not wrong.any()

    t = np.argmax(batch.weights[3] > 0)  # the first step that is asked for
    right = outputs[3, t].copy()
    outputs[3, t] = {"squared": right + 0.21, "logistic": -right, "cross_entropy": 60 - right}[task.kind]
    _, wrong, errors, _ = judged(task, outputs, batch)
    assert np.flatnonzero(wrong).tolist() == [3]
    assert np.argwhere(errors).tolist() == [[3, t]]
    outputs[3, t] = np.nan
    assert np.flatnonzero(judged(task, outputs, batch)[1]).tolist() == [3]
    outputs[3, t] = right + 0.19 if task.kind == "squared" else 0.01 * right
    assert not judged(task, outputs, batch)[1].any()


@pytest.mark.parametrize("kind", ["cross_entropy", "logistic", "squared"])
def test_losses_are_weighted_means_in_nats(kind):
    rng = np.random.default_rng(0)
    y, w = rng.normal(0, 3, (3, 4, 2)), rng.uniform(0, 1, (3, 4))
    bits = rng.integers(0, 2, (3, 4, 2))
    targets = {"cross_entropy": bits[..., 0], "logistic": bits.astype(float), "squared": rng.normal(0, 1, (3, 4, 2))}[
        kind
    ]
    task = tasks.Task("t", 4, 1, 2, kind, 1.0, 1.0, lambda data, key, count: None, tolerance=4.0)
    total = 0.0
    for b, t in np.ndindex(3, 4):
        p = 1 / (1 + np.exp(-y[b, t]))
        if kind == "cross_entropy":
            step = -math.log(np.exp(y[b, t, targets[b, t]]) / np.exp(y[b, t]).sum())
        elif kind == "logistic":
            step = -np.mean(np.log(np.where(bits[b, t] == 1, p, 1 - p)))
        else:
            step = np.mean((y[b, t] - targets[b, t]) ** 2)
        total += w[b, t] * step
    batch = tasks.Batch(jnp.zeros((3, 4, 1)), jnp.asarray(targets), jnp.asarray(w))
    np.testing.assert_allclose(task.loss(jnp.asarray(y), batch), total / w.sum(), rtol=1e-13)
    assert task.loss(jnp.asarray(y, jnp.bfloat16), batch).dtype != jnp.bfloat16
    assert np.isfinite(jax.jit(jax.grad(task.loss))(jnp.asarray(300 * y), batch)).all()
    with pytest.raises(ValueError, match=r"argument 'outputs' have the wrong shape; got shape \(3, 4, 1\)"):
        task.loss(jnp.zeros((3, 4, 1)), batch)


@pytest.mark.parametrize("name", ["memorization, 5", "digits"])
def test_tasks_pass_through_jit_and_vmap(name):
    task = tasks.digits() if name == "digits" else built(name)
    keys = jax.random.split(KEY, 2)
    mapped = jax.jit(lambda task, keys: jax.vmap(lambda k: task.sample(k, 8))(keys))(task, keys)
    for i, key in enumerate(keys):
        for a, b in zip(task.sample(key, 8), mapped, strict=True):
            np.testing.assert_array_equal(a, b[i])
    assert not np.array_equal(mapped.targets[0], mapped.targets[1])


def test_dtypes():
    assert {a.dtype for a in drawn("adding")} == {np.dtype(np.float32)}
    double = tasks.delayed_copy(12, lag=3, dtype=jnp.float64).sample(KEY, 4)
    assert {a.dtype for a in double} == {jnp.dtype(jnp.float64)}
