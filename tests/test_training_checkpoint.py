"""Checkpoints: every part of a state comes back bit for bit, what is damaged is told, and a resumed training is the same."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

from jacspec import remedies, training
from jacspec.tasks import Batch, Task
from jacspec.training._loop import State
from jacspec.training.checkpoint import Checkpoint

F64 = jnp.float64
MARKS = {"model": "a", "seeds": "[0]"}
T = 3


def state(shift=0):
    """One seed, with a number of every kind in every part."""
    rng = np.random.default_rng(shift)
    draw = lambda dtype, *shape: jnp.asarray(rng.normal(size=(1, *shape)), dtype)
    return State(
        {"W": draw(F64, 2, 3), "b": draw(jnp.float32, 3).at[0, 0].set(-0.0), "half": draw(ml_dtypes.bfloat16, 2)},
        {"mean": draw(F64, 3).at[0, 1].set(jnp.nan), "key": jax.random.key(shift)[None], "count": jnp.asarray([7 + shift])},
        {"mu": draw(F64, 2, 3), "seen": jnp.asarray([True]), "top": jnp.asarray([jnp.inf])},
        jnp.asarray([40 + shift], jnp.int32),
        jnp.asarray([shift % 4], jnp.int32),
        draw(F64, 32).at[0, 5:].set(jnp.nan),
    )  # fmt: skip


def records(shift=0):
    row = lambda u: {
        "update": np.int32(u),
        "loss": np.float64(0.3 + shift),
        "probe": np.arange(3.0),
        "on": np.bool_(True),
    }
    return [[row(0), row(4)]]


def bits(tree):
    plain = lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
    return [(str(a.dtype), a.shape, np.asarray(plain(a)).tobytes()) for a in jax.tree.leaves(tree)]


def restored(folder, like=None, marks=None):
    store = Checkpoint("training.fit", folder, marks or MARKS)
    try:
        return store.restore(like or state(1))
    finally:
        store.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    store = Checkpoint("training.fit", folder, MARKS)
    assert store.restore(state()) is None
    store.save(4, state(), records())
    store.close()
    return folder


def test_every_part_of_a_state_comes_back_bit_for_bit(saved):
    done, found, rows = restored(saved)
    assert done == 4
    assert bits(found) == bits(state())
    assert bits(rows) == bits(records())
    assert jax.tree.structure(found) == jax.tree.structure(state())
    for name in (field.name for field in dataclasses.fields(State)):  # the comparison sees each part
        assert bits(getattr(found, name)) != bits(getattr(state(1), name))


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "flipped": lambda content: bytes([*content[: len(content) // 2], content[len(content) // 2] ^ 255]) + content[len(content) // 2 + 1 :] if content else b"x",
    "first byte": lambda content: bytes([content[0] ^ 1]) + content[1:] if content else b"x",
    "longer": lambda content: content + b"\0",
    "another": lambda content: b"[]",
    "deleted": None,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # Orbax's own, on metadata that it does not need
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_told_or_does_not_matter(saved, kind, tmp_path):
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    told = []
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        if DAMAGE[kind] is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(DAMAGE[kind]((folder / file).read_bytes()))
        try:
            found = restored(folder)
        except ValueError as error:
            told.append(str(error))
        else:
            assert (found[0], bits(found[1:])) == (4, bits((state(), records()))), file
    assert len(told) >= 3
    assert all("training.fit: argument 'checkpoint' is " in text and str(tmp_path) in text for text in told)
    assert sum("is damaged" in text for text in told) >= len(told) - 1  # a manifest may become another's


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "states/4").rename(folder / "states/6"), "another number of updates"),
        (lambda folder: shutil.rmtree(folder / "states/4/default"), "no arrays"),
        (lambda folder: (folder / "fit.json").write_text(json.dumps(MARKS | {"seeds": "[1]"})), "another training"),
        (lambda folder: (folder / "fit.json").unlink(), "no manifest"),
        (lambda folder: (folder / "fit.json").write_text("[1]"), "no table"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_belong_together_is_damaged(saved, change, why, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    change(tmp_path / "copy")
    marks = MARKS | {"seeds": "[1]"} if why == "another training" else MARKS
    with pytest.raises(ValueError, match=r"'checkpoint' is damaged; got .*copy.*Remove the directory"):
        restored(tmp_path / "copy", marks=marks)


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="'checkpoint' holds other files"):
        restored(tmp_path)


# A training that is interrupted


class Noisy(nnx.Module):
    """Dropout, a running statistic and a count of calls: everything that a call can change."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 4, param_dtype=F64, dtype=F64, rngs=rngs)
        self.mean = nnx.BatchStat(jnp.zeros(4, F64))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 1, param_dtype=F64, dtype=F64, rngs=rngs)
        self.mask = nnx.BatchStat(jnp.zeros((4, T, 4), bool))
        self.seen = nnx.BatchStat(jnp.zeros((4, T, 2), F64))

    def __call__(self, x):
        h = self.linear(x)
        if not self.dropout.deterministic:
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * h.mean(axis=(0, 1))
        h = self.dropout(2 + jnp.tanh(h - self.mean[...]))
        if not self.dropout.deterministic:
            self.mask[...], self.seen[...] = h != 0, x
        return self.head(h)


def draw_noise(data, key, count):
    x, w = (f(k, (count, T, *shape), F64) for f, k, shape in zip(
        (jax.random.normal, jax.random.uniform), jax.random.split(key), ((2,), ()), strict=True))  # fmt: skip
    return Batch(x, jnp.sum(x, axis=-1, keepdims=True) * data, w)


TASK = Task("noise", T, 2, 1, "squared", 1.0, 1.0, draw_noise, data=jnp.asarray(1.0))
OPTIONS = {"updates": 6, "batch": 4, "every": 2, "held_out": 8, "success": False}
LOOK = lambda model, batch: {"mask": model.mask[...], "seen": model.seen[...], "held": batch.inputs}


def optimizer():
    return optax.chain(remedies.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0.1, 0.01, 6)))


class Interrupted(Exception):
    pass


def test_a_resumed_training_is_the_same_in_every_part(tmp_path):
    def interrupt(record):
        if record["update"] == 4:
            raise Interrupted

    fit = lambda **o: training.fit(Noisy(nnx.Rngs(1)), TASK, optimizer(), seed=1, probes=[LOOK], **OPTIONS, **o)
    whole = fit()
    with pytest.raises(Interrupted):
        fit(checkpoint=tmp_path / "states", callback=interrupt)
    resumed = fit(checkpoint=tmp_path / "states")
    parts = lambda found: [nnx.state(found.model), found.optimizer_state]
    assert bits(parts(whole)) == bits(parts(resumed))
    assert (whole.status, whole.updates, whole.loss, whole.metric) == ("finished", 6, resumed.loss, resumed.metric)
    for name, values in whole.history.items():
        if name != "seconds":
            np.testing.assert_array_equal(values, resumed.history[name], err_msg=name)


def test_every_update_and_every_seed_draws_its_own():
    """Masks, batches and held-out sequences: keys differ between updates, seeds and purposes, and only there."""
    both = training.fit_seeds(Noisy, TASK, optimizer(), seeds=[1, 2], probes=[LOOK], **OPTIONS | {"every": 1})
    masks, seen, held = (
        np.concatenate([found.history[name][1:].reshape(6, -1) for found in both]) for name in ("mask", "seen", "held")
    )
    distinct = lambda rows: len({row.tobytes() for row in rows})
    assert (distinct(masks), distinct(seen), distinct(held)) == (12, 12, 2)
    numbers = [set(rows.ravel().tolist()) for rows in (seen, held)]
    assert not numbers[0] & numbers[1]
    assert len(numbers[0]) == seen.size


def jumping(model, optimizer, updates, spoilt=np.inf, **options):
    """A training whose batch at one update is 1e6 times as large, or NaN."""
    task = dataclasses.replace(TASK, draw=spoil, draw_held_out=draw_noise, data=(TASK.data, jnp.asarray(spoilt)))
    task = dataclasses.replace(task, draw_held_out=lambda data, key, count: draw_noise(data[0], key, count))
    return training.fit(model, task, optimizer, seed=1, **OPTIONS | {"updates": updates} | options)


def spoil(data, key, count):
    batch = draw_noise(data[0], key, count)
    at = jax.random.uniform(jax.random.fold_in(key, 1)) > 0.8
    return batch._replace(targets=jnp.where(at, data[1], batch.targets))


@pytest.mark.parametrize("target", [1e6, np.nan])
def test_an_explosion_leaves_everything_as_it_was_before(target):
    """A jump of the loss, or NaN: parameters, statistics, random streams and the optimizer are those of the last update."""
    exploded = jumping(Noisy(nnx.Rngs(1)), optimizer(), 40, target)
    assert (exploded.status, exploded.updates >= 2) == ("exploded", True)
    assert exploded.trace.kind == ("jump" if target == 1e6 else "data")
    before = jumping(Noisy(nnx.Rngs(1)), optimizer(), exploded.updates, target)
    assert before.status == "finished"
    assert bits(nnx.state(exploded.model)) == bits(nnx.state(before.model))
    inner = lambda found: [
        leaf for leaf in jax.tree.leaves(found.optimizer_state.inner, is_leaf=is_report) if not is_report(leaf)
    ]
    is_report = lambda node: isinstance(node, remedies.ClipReport)
    assert bits(inner(exploded)) == bits(inner(before))
    assert exploded.optimizer_state.report.updates == exploded.updates + (target != 1e6)
