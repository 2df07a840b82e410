"""Tasks of real data against their sources, and of the user's own files, whole and broken."""

import hashlib
import math
from collections import Counter
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import KEY, assert_answered_last, symbols_of

from jacspec import tasks

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
