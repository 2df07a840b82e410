"""The user's own data: what is held out, what training may not see of it, labels, and what a cast makes of numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacspec import tasks

RNG = np.random.default_rng(0)
N, T = 60, 8


def read(folder, split=None, dtype=jnp.float32, **arrays):
    np.savez(folder / "mine.npz", **arrays)
    return tasks.from_file(folder / "mine.npz", split=split, dtype=dtype)


def windows(series, stride=1, length=T):
    """Inputs (N, T, features) and the next value (N, 1) of a series (time, features)."""
    cut = np.lib.stride_tricks.sliding_window_view(series, length + 1, axis=0)[::stride].swapaxes(1, 2)
    return cut[:, :-1], cut[:, -1, :1].astype(float)


# Which sequences are held out

INPUTS = RNG.normal(size=(N, T, 1))
NUMBERED = {"inputs": INPUTS, "targets": np.arange(N, dtype=float)[:, None]}  # a target says which sequence it is


def sides(task):
    return tuple(set(np.asarray(task.data[part].targets)[:, -1, 0].astype(int)) for part in ("train", "held_out"))


@pytest.mark.parametrize("split", [None, "shuffled", "time", "group:patient"])
def test_a_split_is_a_partition_and_always_the_same(tmp_path, split):
    patients = np.repeat(["ann", "bob", "eve", "joe", "kim"], [20, 3, 5, 12, 20])
    train, held = sides(read(tmp_path, split, **NUMBERED, patient=patients))
    assert train | held == set(range(N))
    assert not train & held
    assert sides(read(tmp_path, split, **NUMBERED, patient=patients)) == (train, held)
    if split == "time":
        assert held == set(range(54, 60))
    elif split == "group:patient":
        assert not set(patients[list(train)]) & set(patients[list(held)])
        assert len(held) >= 0.1 * N
        assert train
    else:
        assert len(held) == 6
        assert held != set(range(54, 60))


@pytest.mark.parametrize("split", ["shuffled", "time", "group:patient"])
def test_training_and_evaluation_draw_from_their_sides_alone(tmp_path, split):
    task = read(tmp_path, split, **NUMBERED, patient=np.arange(N) // 9)
    train, held = sides(task)
    numbers = lambda batch: np.asarray(batch.targets)[:, -1, 0].astype(int).tolist()
    assert sorted(numbers(task.evaluation(jax.random.key(0), task.held_out))) == sorted(held)
    drawn = task.sample(jax.random.key(0), 1000)
    assert set(numbers(drawn)) == train  # each of 54 with probability 1 - e^-18
    np.testing.assert_array_equal(drawn.inputs, INPUTS[numbers(drawn)].astype(np.float32))


def test_groups_are_drawn_by_their_number_until_a_tenth_is_held_out(tmp_path):
    singles = {"inputs": INPUTS, "targets": NUMBERED["targets"], "series": np.arange(N)}
    train, held = sides(read(tmp_path, "group:series", **singles))
    assert len(held) == 6
    train, held = sides(read(tmp_path, "group:series", **(singles | {"series": np.arange(N) > 0})))
    assert sorted(map(len, (train, held))) == [1, 59]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("tim", "'split' is unknown; got 'tim'.*Did you mean 'time'"),
        ("group", "'split' is unknown.*'group:<column>'"),
        ("group:", "'split' is unknown"),
        (3, "'split' is unknown; got 3"),
        (
            "group:patients",
            r"names no column of the file; got 'patients', expected group:<column> .*\['patient', 'short'",
        ),
        ("group:inputs", "names no column of the file; got 'inputs'"),
        ("group:short", r"needs a group for every sequence; got short of shape \(3,\), expected \(60,\)"),
        ("group:same", "cannot separate groups; got one group in same"),
    ],
)
def test_splits_that_are_none(tmp_path, split, words):
    columns = {"patient": np.arange(N) % 3, "short": np.arange(3), "same": np.ones(N)}
    with pytest.raises(ValueError, match=words):
        read(tmp_path, split, **NUMBERED, **columns)
    with pytest.raises(ValueError, match=r"expected an array of shape \(60,\) in the file"):
        read(tmp_path, "group:patient", **NUMBERED)


# What training sees of it

SERIES = {  # of symbols, two in common are no evidence
    "numbers": RNG.normal(size=(400, 1)),
    "several": RNG.normal(size=(400, 3)),
    "rounded": np.round(RNG.normal(size=(400, 1)).cumsum(axis=0), 1),
    "symbols": np.eye(12)[RNG.integers(0, 12, 400)],
    "integers": RNG.integers(0, 50, (400, 1)),
}


@pytest.mark.parametrize(("kind", "stride"), [(k, s) for k in SERIES for s in (1, 3, 6) if (k, s) != ("symbols", 6)])
@pytest.mark.parametrize("order", ["as they come", "shuffled"])
def test_overlapping_windows_are_counted_as_the_times_say(tmp_path, kind, order, stride):
    inputs, targets = windows(SERIES[kind], stride)
    start = stride * np.arange(len(inputs))
    if order == "shuffled":
        rows = np.random.default_rng(1).permutation(len(inputs))
        inputs, targets, start = inputs[rows], targets[rows], start[rows]
    held = np.zeros(len(inputs), bool)
    held[-round(0.1 * len(inputs)) :] = True
    near = np.abs(start[held][:, None] - start[~held]) < T
    truth, of = int(near.any(axis=1).sum()), int(held.sum())
    with pytest.warns(UserWarning, match=rf"'split' lets training see steps of {truth} of the {of} held-out"):
        read(tmp_path, "time", inputs=inputs, targets=targets)


def test_a_shuffled_split_of_one_series_is_warned_of_and_a_gap_is_the_way_out(tmp_path):
    inputs, targets = windows(SERIES["numbers"])
    with pytest.warns(UserWarning, match="steps of 39 of the 39 held-out .*split='time'.*split='group:<column>'"):
        task = read(tmp_path, inputs=inputs, targets=targets)
    seen = np.asarray(task.data["train"].inputs)
    assert np.isin(np.asarray(task.data["held_out"].targets)[:, -1, 0], seen).all()  # this is what is warned of
    keep = np.r_[0:300, 308:341]  # the last 33 are held out
    assert read(tmp_path, "time", inputs=inputs[keep], targets=targets[keep]).held_out == 33
    both = [windows(SERIES["numbers"][part]) for part in (slice(200), slice(200, 400))]
    inputs, targets = (np.concatenate(parts) for parts in zip(*both, strict=True))
    read(tmp_path, "group:half", inputs=inputs, targets=targets, half=np.repeat([0, 1], 192))


FREE = {
    "numbers": RNG.normal(size=(500, T, 2)),
    "bits": RNG.integers(0, 2, (500, 24, 1)),
    "symbols": np.eye(9)[RNG.integers(0, 9, (500, 12))],
    "one step": RNG.normal(size=(500, 1, 3)),
    "padded": RNG.normal(size=(500, T, 1)) * (np.arange(T) < RNG.integers(3, T, 500)[:, None])[..., None],
    "marked": np.concatenate([np.ones((500, 1, 1)), RNG.normal(size=(500, 5, 1)), np.ones((500, 1, 1))], axis=1),
    "constant in time": np.repeat(RNG.normal(size=(500, 1, 1)), T, axis=1),
}


@pytest.mark.parametrize("kind", FREE)
def test_independent_sequences_raise_no_alarm(tmp_path, kind):
    for split in ("shuffled", "time"):
        read(tmp_path, split, inputs=FREE[kind], targets=np.arange(500) % 2)  # a warning is an error here


def test_sequences_that_occur_twice_are_warned_of(tmp_path):
    twice = np.concatenate([INPUTS, INPUTS])
    with pytest.warns(UserWarning, match="steps of 12 of the 12 held-out"):
        read(tmp_path, "time", inputs=twice, targets=np.arange(2 * N) % 2)
    twice[N:, 0] *= -1.0
    read(tmp_path, "time", inputs=twice, targets=np.arange(2 * N) % 2)


# Classes

LABELS = {
    "years": np.array([2020, 2021, 2022]),
    "a gap": np.array([0, 2, 7]),
    "huge": 10**12 + np.array([0, 5, 10**11]),
    "unsigned": np.uint64(2**63) + np.array([0, 1, 2], np.uint64),
    "small": np.array([3, 200, 255], np.uint8),
    "truth": np.array([False, True]),
}


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_classes_are_the_labels_that_occur(tmp_path, kind, every_step):
    labels = LABELS[kind]
    number = np.arange(N * T if every_step else N).reshape((N, T) if every_step else N) % len(labels)
    task = read(tmp_path, "time", inputs=INPUTS, targets=labels[number])
    assert (task.outputs, task.labels) == (len(labels), tuple(labels.tolist()))
    found = np.asarray(task.data["held_out"].targets)
    np.testing.assert_array_equal(
        np.array(task.labels)[found[:, -1]], labels[number[-6:, -1] if every_step else number[-6:]]
    )
    known = np.bincount(number[:-6].ravel()) + 0.5
    truth = -np.log(known / known.sum())[number[-6:]].mean()
    np.testing.assert_allclose(task.baseline, truth, rtol=1e-12)
    assert abs(task.baseline - math.log(len(labels))) < 1e-2


def test_what_is_not_asked_for_makes_no_class(tmp_path):
    targets, weights = np.tile([-100, 7, 7, -100, 9, 7, 9, 9], (N, 1)), np.tile([0, 1, 1, 0, 2, 1, 0.5, 0], (N, 1))
    task = read(tmp_path, inputs=INPUTS, targets=targets, weights=weights)
    assert task.labels == (7, 9)
    assert np.asarray(task.loss(jnp.zeros((6, T, 2)), task.data["held_out"])) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="'targets' has a negative class; got -100"):
        read(tmp_path, inputs=INPUTS, targets=targets)


def test_a_sequence_is_not_wrong_where_nothing_is_asked(tmp_path):
    targets, weights = RNG.integers(0, 2, (N, T)), np.zeros((N, T))
    targets[:, 3] = np.arange(N) == 0  # class 1 once, in the training part
    weights[:, 3] = 1 + np.arange(N)
    assert read(tmp_path, "time", inputs=INPUTS, targets=targets, weights=weights).chance == 0
    assert read(tmp_path, "time", inputs=INPUTS[::-1], targets=targets[::-1], weights=weights[::-1]).chance == 1 / 6


# Averages with weights that differ from sequence to sequence and step to step


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_the_trivial_predictor_is_judged_with_the_weights(tmp_path, kind):
    rng = np.random.default_rng(5)
    weights = rng.uniform(0, 1, (N, T)) ** 4 * rng.uniform(0.1, 10, (N, 1))
    targets = rng.integers(0, 3, (N, T)) if kind == "classes" else rng.normal(size=(N, T, 2)) + 3 * weights[..., None]
    task = read(tmp_path, "time", jnp.float64, inputs=INPUTS, targets=targets, weights=weights)
    w, known = weights[:-6], targets[:-6]
    if kind == "classes":
        counts = np.array([w[known == c].sum() for c in range(3)]) + 0.5
        best = np.log(counts / counts.sum())
    else:
        best = (w[..., None] * known).sum(axis=(0, 1)) / w.sum()
    outputs, held = jnp.zeros((6, T, len(best))) + best, task.data["held_out"]
    np.testing.assert_allclose(task.baseline, task.loss(outputs, held), rtol=1e-12)
    one = lambda i: (outputs[i : i + 1], jax.tree.map(lambda a: a[i : i + 1], held))
    each = np.asarray([task.loss(*one(i)) for i in range(6)])
    np.testing.assert_allclose(task.baseline, np.average(each, weights=weights[-6:].sum(axis=1)), rtol=1e-12)
    assert task.chance == np.asarray(task.wrong(outputs, held)).mean()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_in_half_precision_are_summed_in_float32(dtype):
    task = tasks.copy(100, dtype=dtype)
    batch = task.evaluation(jax.random.key(0), 700)  # 84,000 weights: beyond float16
    assert task.loss(jnp.zeros((700, 120, 9), dtype), batch) == pytest.approx(math.log(9), rel=1e-6)


# What a cast makes of numbers


@pytest.mark.parametrize(
    ("dtype", "value"), [(jnp.float16, 7e4), (jnp.float16, 1e39), (jnp.bfloat16, -4e38), (jnp.float32, 1e39)]
)
@pytest.mark.parametrize("name", ["inputs", "targets", "weights"])
def test_what_a_cast_makes_infinite_is_refused_with_its_name(tmp_path, dtype, value, name):
    arrays = {"inputs": INPUTS.copy(), "targets": RNG.normal(size=(N, T, 1)), "weights": np.ones((N, T))}
    arrays[name][2, 3] = abs(value) if name == "weights" else value
    told = rf"'{name}' leaves the range of {jnp.dtype(dtype)}; got .* at index \(2, 3.*wider dtype"
    with pytest.raises(ValueError, match=told):
        read(tmp_path, dtype=dtype, **arrays)
    assert read(tmp_path, dtype=jnp.float64, **arrays).length == T


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_targets_whose_squares_cannot_be_compared_are_refused(tmp_path, scale):
    arrays = {"inputs": INPUTS, "targets": scale * RNG.normal(size=(N, 1))}
    with pytest.raises(ValueError, match=r"'targets' has squares that leave the range of float32.*order 1"):
        read(tmp_path, **arrays)
    assert read(tmp_path, dtype=jnp.float64, **arrays).baseline == pytest.approx(scale**2, rel=0.9)


@pytest.mark.parametrize("targets", [np.ones(N, int), np.full((N, 1), 0.5), np.full((N, T), 3), np.zeros((N, T, 2))])
def test_targets_that_never_differ_are_refused(tmp_path, targets):
    with pytest.raises(ValueError, match="'targets' never differs: there is nothing to learn"):
        read(tmp_path, inputs=INPUTS, targets=targets)
    (tmp_path / "mine.txt").write_text("a" * 500)
    with pytest.raises(ValueError, match="'path' never differs"):
        tasks.from_file(tmp_path / "mine.txt", length=5)


def test_an_infinite_loss_is_wrong_whatever_the_tolerance():
    task = tasks.Task("t", 1, 1, 1, "squared", 1.0, 0.5, lambda *_: None, tolerance=3e38)
    one = jnp.zeros((1, 1, 1), jnp.float32)
    batch = tasks.Batch(one, one, one[..., 0] + 1)
    assert task.wrong(one + 1e30, batch).all()
    assert task.step_errors(one + 1e30, batch).all()
    assert not task.wrong(one + 1e15, batch).any()
