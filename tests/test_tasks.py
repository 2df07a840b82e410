"""Tasks against their definitions: each sequence read back in plain Python, frequencies, trivial predictors, bad input."""

import functools
import hashlib
import math
import sys
from collections import Counter
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacspec import tasks

KEY = jax.random.key(7)
SIGMAS = 5  # of a frequency or a mean: one false alarm in 10^6
COUNT = 4096

SYNTHETIC = {
    "adding": {"length": 43},
    "adding, arjovsky": {"length": 21, "convention": "arjovsky"},
    "multiplication": {"length": 10},
    "temporal_order": {"length": 38},
    "temporal_order, 3": {"length": 19, "symbols": 3},
    "permutation": {"length": 12},
    "copy": {"length": 5},
    "memorization": {"length": 4},
    "memorization, 5": {"length": 3, "bits": 5},
    "delayed_copy": {"length": 12, "lag": 3},
    "delayed_xor": {"length": 12, "lag": 3},
}


@functools.cache
def built(name):
    return tasks.get(name.partition(",")[0], **SYNTHETIC[name])


@functools.cache
def drawn(name):
    """Inputs as (N, T, features), targets and weights of many sequences, as NumPy arrays."""
    return tasks.Batch(*map(np.asarray, built(name).evaluation(KEY, COUNT)))


@jax.jit
def judged(task, outputs, batch):
    """Everything a task says of outputs."""
    judges = task.loss, task.wrong, task.step_errors, task.step_losses
    return [judge(outputs, batch) for judge in judges]


def symbols_of(inputs):
    """The symbols of one-hot sequences."""
    assert set(np.unique(inputs)) == {0, 1}
    assert (inputs.sum(axis=-1) == 1).all()
    return inputs.argmax(axis=-1)


def assert_uniform(values, expected):
    """The values are the expected ones, equally often, within the standard deviation of a frequency."""
    expected = list(expected)
    p, N = 1 / len(expected), len(values)
    counts = Counter(np.asarray(values).tolist())
    assert set(counts) == set(expected)
    for value in expected:
        assert abs(counts[value] / N - p) <= SIGMAS * math.sqrt(p * (1 - p) / N)


def assert_answered_last(batch):
    assert (batch.weights[:, :-1] == 0).all()
    assert (batch.weights[:, -1] == 1).all()


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


# Real data


def test_digits_are_split_evenly_and_always_alike():
    from sklearn.datasets import load_digits

    source = load_digits()
    seen = []
    for fold in range(5):
        task = tasks.digits(fold=fold)
        test, train = task.data["held_out"], task.data["train"]
        per_class = np.bincount(test.targets[:, -1], minlength=10)
        assert (np.abs(per_class - np.bincount(source.target) / 5) < 1).all()
        assert len(train.inputs) + task.held_out == 1797
        np.testing.assert_array_equal(np.sort(test.targets[:, -1]), np.repeat(np.arange(10), per_class))
        seen.append((test, train))
    every = np.concatenate([np.asarray(test.inputs).reshape(-1, 64) for test, _ in seen])
    np.testing.assert_array_equal(
        every[np.lexsort(every.T)] * 16, source.data[np.lexsort(source.data.T)]
    )  # the folds are a partition
    again = tasks.digits(fold=4)
    np.testing.assert_array_equal(again.data["train"].inputs, seen[4][1].inputs)
    assert again.sha256 == hashlib.sha256(source.data.tobytes() + source.target.tobytes()).hexdigest()


def test_digits_in_three_orders():
    rows, pixels, permuted = (tasks.digits(order=order).data["train"] for order in ("row", "pixel", "permuted"))
    assert (rows.inputs.shape[1:], pixels.inputs.shape[1:], permuted.inputs.shape[1:]) == ((8, 8), (64, 1), (64, 1))
    np.testing.assert_array_equal(rows.inputs.reshape(-1, 64), pixels.inputs[..., 0])
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(permuted.inputs[..., 0], pixels.inputs[:, order, 0])
    assert not np.array_equal(permuted.inputs, pixels.inputs)
    assert not np.array_equal(permuted.inputs, tasks.digits(order="permuted", seed=1).data["train"].inputs)
    np.testing.assert_array_equal(rows.targets[:, -1], permuted.targets[:, -1])
    assert_answered_last(rows)


def test_digits_baseline():
    task = tasks.digits()
    test, train = (np.asarray(task.data[part].targets[:, -1]) for part in ("held_out", "train"))
    counts = Counter(train.tolist())
    p = {c: (n + 0.5) / (len(train) + 5) for c, n in counts.items()}
    np.testing.assert_allclose(task.baseline, -np.mean([math.log(p[c]) for c in test.tolist()]), rtol=1e-12)
    assert abs(task.baseline - math.log(10)) < 1e-3
    assert task.chance == np.mean(test != counts.most_common(1)[0][0])


def test_sunspots_hold_out_the_years_from_1921():
    from statsmodels.datasets import sunspots

    series = sunspots.load_pandas().data
    years, numbers = series["YEAR"].to_numpy(), series["SUNACTIVITY"].to_numpy()
    task = tasks.sunspots(22, dtype=jnp.float64)
    center = numbers[years <= 1920].mean()
    test = task.data["held_out"]
    np.testing.assert_allclose(test.targets[:, -1, 0] * task.scale + center, numbers[years >= 1921], atol=1e-9)
    np.testing.assert_allclose(test.inputs[0, :, 0] * task.scale + center, numbers[(years >= 1899) & (years < 1921)])
    train = task.data["train"]
    np.testing.assert_allclose(train.targets[:, -1, 0] * task.scale + center, numbers[(years > 1721) & (years < 1921)])
    assert (task.held_out, len(train.inputs)) == (88, 199)
    persistence = test.inputs[:, -1:] + jnp.zeros_like(test.inputs)
    assert round(float(task.loss(persistence, test)) * task.scale**2) == 926
    np.testing.assert_allclose(task.loss(persistence, test), task.baseline, rtol=1e-12)
    assert np.asarray(task.wrong(persistence, test)).mean() == task.chance
    assert round(math.erfc(math.sqrt(926 / 304 / 2)), 2) == task.success  # an AR(9) model with Gaussian errors


def test_held_out_sequences_come_once_before_they_come_again():
    task = tasks.sunspots(22)
    every = np.asarray(task.evaluation(KEY, 181).inputs)[..., 0]
    first, second = (np.unique(part, axis=0) for part in (every[:88], every[88:176]))
    assert len(first) == 88
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(every[:88], np.asarray(task.evaluation(jax.random.key(1), 181).inputs)[:88, :, 0])


def test_text_of_the_manual():
    import pydoc_data.topics

    source = "".join(pydoc_data.topics.topics.values())
    task = tasks.text(50)
    assert task.sha256 == hashlib.sha256(source.encode()).hexdigest()
    split = int(0.9 * len(source))
    train, test = source[:split], source[split:]
    alphabet = sorted(set(source))
    V, one, two, before = (
        len(alphabet),
        Counter(train),
        Counter(pairwise(train)),
        Counter(train[:-1]),
    )
    unigram = -np.mean([math.log2((one[c] + 0.5) / (split + V / 2)) for c in test])
    bigram = -np.mean([math.log2((two[a, b] + 0.5) / (before[a] + V / 2)) for a, b in pairwise(test)])
    np.testing.assert_allclose(task.baseline, unigram * math.log(2), rtol=1e-12)
    np.testing.assert_allclose(task.tolerance, bigram * math.log(2), rtol=1e-12)
    if task.sha256.startswith("37d06970fc92"):  # the text that was measured; the smoothing of the bigrams was not told
        assert round(unigram, 3) == 4.671
        assert abs(bigram - 3.343) < 0.01
    assert abs(unigram - 4.671) < 0.1
    assert abs(bigram - 3.343) < 0.1

    decode = lambda ids: "".join(alphabet[i] for i in ids)
    batch = tasks.Batch(*map(np.asarray, task.evaluation(KEY, task.held_out)))
    assert {decode(t) for t in batch.targets} == {test[i + 1 : i + 51] for i in range(0, 50 * task.held_out, 50)}
    sample = tasks.Batch(*map(np.asarray, task.sample(KEY, 8)))
    for inputs, targets in zip(symbols_of(sample.inputs), sample.targets, strict=True):
        window = decode(inputs) + decode(targets[-1:])
        assert window in train
        assert window[1:] == decode(targets)
    logits = np.log([(one[c] + 0.5) for c in alphabet]) + np.zeros((*batch.weights.shape, 1))
    np.testing.assert_allclose(np.asarray(task.wrong(logits, batch)).mean(), task.chance, atol=1e-12)


# The user's own data


def written(folder, **arrays):
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


INPUTS = np.random.default_rng(0).normal(size=(40, 6, 2))
CLASSES = np.random.default_rng(1).integers(0, 3, 40)


def test_classes_from_a_file(tmp_path):
    task = tasks.from_file(written(tmp_path, inputs=INPUTS, targets=CLASSES))
    assert (task.length, task.features, task.outputs, task.held_out) == (6, 2, 3, 4)
    train, test = task.data["train"], task.data["held_out"]
    both = np.concatenate([np.asarray(train.inputs), np.asarray(test.inputs)])
    rows = [int(np.argmin(np.abs(INPUTS - x).sum(axis=(1, 2)))) for x in both]
    assert sorted(rows) == list(range(40))
    np.testing.assert_array_equal(np.concatenate([train.targets, test.targets])[:, -1], CLASSES[rows])
    p = (np.bincount(train.targets[:, -1], minlength=3) + 0.5) / (36 + 1.5)
    np.testing.assert_allclose(task.baseline, -np.log(p)[test.targets[:, -1]].mean(), rtol=1e-12)
    assert task.chance == np.mean(np.asarray(test.targets)[:, -1] != p.argmax())
    assert_answered_last(train)


def test_classes_at_every_step_and_weights_from_a_file(tmp_path):
    targets = np.random.default_rng(2).integers(0, 2, (40, 6))
    weights = np.tile([0, 0, 1, 2, 0, 1.0], (40, 1))
    task = tasks.from_file(written(tmp_path, inputs=INPUTS, targets=targets.astype(np.uint8), weights=weights))
    test = task.data["held_out"]
    np.testing.assert_array_equal(test.weights, weights[:4])
    counts = sum(w * np.bincount(t, minlength=2) for w, t in zip(weights[0], task.data["train"].targets.T, strict=True))
    logits = np.log((counts + 0.5) / (counts.sum() + 1)) + np.zeros((4, 6, 2))
    np.testing.assert_allclose(task.loss(logits, test), task.baseline, rtol=1e-12)
    assert np.asarray(task.wrong(logits, test)).mean() == task.chance


@pytest.mark.parametrize("every_step", [False, True])
def test_numbers_from_a_file(tmp_path, every_step):
    targets = np.random.default_rng(3).normal(size=(40, 6, 3) if every_step else (40, 3))
    task = tasks.from_file(written(tmp_path, inputs=INPUTS, targets=targets), dtype=jnp.float64)
    assert (task.kind, task.outputs) == ("squared", 3)
    train, test = task.data["train"], task.data["held_out"]
    mean = np.asarray(train.targets)[:, slice(None) if every_step else slice(-1, None)].mean(axis=(0, 1))
    outputs = mean + np.zeros((4, 6, 3))
    np.testing.assert_allclose(task.loss(outputs, test), task.baseline, rtol=1e-12)
    assert np.asarray(task.wrong(outputs, test)).mean() == task.chance
    assert float(test.weights.sum()) == (24 if every_step else 4)


def test_text_from_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("héllo wörld " * 50, "utf-8")
    task = tasks.from_file(path, length=5)
    assert (task.length, task.features) == (5, len(set("héllo wörld ")))
    with pytest.raises(ValueError, match="'length' is too long for the text; got 60 of 600 characters"):
        tasks.from_file(path, length=60)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"is not a text; got mine.txt, byte 0, expected UTF-8"):
        tasks.from_file(path)


PICKLED = np.array([{"a": 1}] * 40, dtype=object)
SPOILED = INPUTS.copy()
SPOILED[3, 2, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"inputs": INPUTS}, "'targets' is missing; got the arrays .'inputs'.,"),
        ({"inputs": PICKLED, "targets": CLASSES}, "'path' cannot be read; got mine.npz: .*allow_pickle=False"),
        ({"inputs": INPUTS[..., 0], "targets": CLASSES}, r"'inputs' has the wrong shape; got shape \(40, 6\)"),
        ({"inputs": INPUTS[:1], "targets": CLASSES[:1]}, "'inputs' has the wrong shape.* Two sequences at least"),
        ({"inputs": INPUTS.astype(str), "targets": CLASSES}, "'inputs' is not numeric; got dtype <U"),
        ({"inputs": INPUTS.astype(complex), "targets": CLASSES}, "'inputs' is not numeric; got dtype complex128"),
        ({"inputs": INPUTS, "targets": CLASSES[:-1]}, r"'targets' has the wrong shape; got int64 of shape \(39,\)"),
        ({"inputs": INPUTS, "targets": CLASSES * 1.0}, r"'targets' .* expected \(40, outputs\) or \(40, 6, outputs\)"),
        ({"inputs": INPUTS, "targets": CLASSES - 1}, "'targets' has a negative class; got -1"),
        ({"inputs": SPOILED, "targets": CLASSES}, r"'inputs' has non-finite values; .* first at index \(3, 2, 1\)"),
        ({"inputs": INPUTS, "targets": CLASSES, "weights": np.zeros((40, 6))}, "'weights' is of no use"),
        ({"inputs": INPUTS, "targets": CLASSES, "weights": np.ones(40)}, r"'weights' is of no use; got shape \(40,\)"),
    ],
)
def test_files_of_the_wrong_content(tmp_path, arrays, words):
    with pytest.raises(ValueError, match=words):
        tasks.from_file(written(tmp_path, **arrays))


def test_files_that_are_none(tmp_path):
    whole = written(tmp_path, inputs=INPUTS, targets=CLASSES)
    with pytest.raises(ValueError, match="'length' is that of the arrays; got 7"):
        tasks.from_file(whole, length=7)
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"'path' cannot be read; got mine.npz"):
        tasks.from_file(whole)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tasks.from_file(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"got '.pkl', expected '.npz' or '.txt'"):
        tasks.from_file(tmp_path / "mine.pkl")


# Bad input


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("adding", {}, 10),
        ("adding", {"convention": "arjovsky"}, 2),
        ("multiplication", {}, 10),
        ("temporal_order", {}, 10),
        ("temporal_order", {"symbols": 3}, 10),
        ("permutation", {}, 2),
        ("copy", {}, 1),
        ("memorization", {"bits": 5}, 1),
        ("delayed_copy", {"lag": 4}, 5),
        ("delayed_xor", {"lag": 4}, 9),
        ("sunspots", {}, 1),
        ("text", {}, 1),
    ],
)
def test_too_short_a_length_names_the_least(name, options, least):
    assert tasks.get(name, length=least, **options).length >= least
    for short in (least - 1, -3):
        with pytest.raises(
            ValueError, match=f"'length' is too short; got {short}, expected a length of at least {least}"
        ):
            tasks.get(name, length=short, **options)
    with pytest.raises(TypeError, match=r"'length' must be an integer; got 20.0"):
        tasks.get(name, length=20.0, **options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("temporal_orders", {}, "'name' is unknown.*Did you mean 'temporal_order'"),
        ("adding", {"lenght": 10}, "'option' is unknown; got 'lenght'.*Did you mean 'length'"),
        ("adding", {"convention": "pascaru"}, "'convention' is unknown.*Did you mean 'pascanu'"),
        ("temporal_order", {"symbols": 4}, "'symbols' is unknown; got 4, expected 2 or 3"),
        ("memorization", {"bits": 10}, "'bits' is unknown; got 10, expected 5 or 20"),
        ("digits", {"order": "rows"}, "'order' is unknown.*Did you mean 'row'"),
        ("digits", {"fold": 5}, "'fold' is out of range; got 5, expected 0..4"),
        ("delayed_copy", {"lag": 0}, "'lag' is out of range; got 0"),
        ("sunspots", {"length": 221}, "'length' is out of range; got 221, expected 1..220"),
    ],
)
def test_unknown_names_and_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        tasks.get(name, **options)


def test_keys_and_counts():
    task = built("delayed_copy")
    with pytest.raises(TypeError, match=r"tasks.Task.sample: argument 'key' is not a JAX key; got int"):
        task.sample(3, 4)
    with pytest.raises(ValueError, match=r"argument 'key' is not a single key; got shape \(2,\)"):
        task.evaluation(jax.random.split(KEY), 4)
    with pytest.raises(ValueError, match="'batch' is out of range; got 0"):
        task.sample(KEY, 0)
    with pytest.raises(TypeError, match="'count' must be an integer"):
        task.evaluation(KEY, 4.0)
    with pytest.raises(ValueError, match="'kind' is unknown; got 'square'"):
        tasks.Task("t", 4, 1, 2, "square", 1.0, 1.0, lambda data, key, count: None)


@pytest.mark.parametrize(
    ("module", "task"), [("sklearn.datasets", "digits"), ("statsmodels.datasets.sunspots", "sunspots")]
)
def test_a_missing_package_is_named_with_the_way_out(monkeypatch, module, task):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"jacspec.tasks.{task}: .* is not installed. pip install 'jacspec\[data\]'"):
        tasks.get(task)
