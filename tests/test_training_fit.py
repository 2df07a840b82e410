"""Training against a loop written out in NumPy; determinism, resuming, many seeds at once, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jacspec import models, remedies, tasks, training
from jacspec.tasks import Batch, Task
from jacspec.training import _driver

F64 = jnp.float64
ROWS, T = 8, 5


def _first_rows(data, key, count):
    return jax.tree.map(lambda a: a[:count], Batch(*data))


def known(targets=None, **options):
    """A task whose every batch is its first rows: (T, 2) numbers in, one number out at the end."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, T, 2))
    y = 0.5 * x[:, -1, 0] - 0.3 * x[:, -2, 1] if targets is None else targets
    w = np.zeros((ROWS, T))
    w[:, -1] = 1
    data = tuple(map(jnp.asarray, (x, np.repeat(y[:, None, None], T, 1), w)))
    return Task("known", T, 2, 1, "squared", 1.0, 1.0, _first_rows, data=data, **options)


def _noisy_rows(data, key, count):
    x = jax.random.normal(key, (count, T, 2), F64)
    last = jnp.broadcast_to((jnp.arange(T) == T - 1).astype(F64), (count, T))
    y = jnp.where(jnp.abs(x[0, 0, 0]) < data, jnp.nan, x[:, -1:, :1])  # some batches are spoilt
    return Batch(x, jnp.broadcast_to(y, (count, T, 1)), last)


def noisy(spoilt=0.0):
    """Normal numbers in, the last of the first channel out."""
    return Task("noisy", T, 2, 1, "squared", 1.0, 1.0, _noisy_rows, data=jnp.asarray(spoilt))


def elman(rngs, width=3, **options):
    options = {"readout": "last", "dtype": F64} | options
    return models.Recurrent("elman", 2, width, 1, **options, rngs=rngs)


def variables(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def same_bits(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(variables(a), variables(b), strict=True))


# The loop, written out


def backpropagated(p, x, y):
    """Loss and gradient of an Elman network read at the end, squared error and a penalty of 0.01 ||W||^2."""
    hs = [np.zeros((len(x), 3))]
    for t in range(T):
        hs.append(np.tanh(hs[-1] @ p["W"].T + x[:, t] @ p["U"].T + p["b"]))
    error = hs[-1] @ p["C"].T + p["c"] - y[:, None]
    g = {name: np.zeros_like(value) for name, value in p.items()}
    e = 2 * error / len(x)
    g["C"], g["c"], bar = e.T @ hs[-1], e.sum(axis=0), e @ p["C"]
    for t in reversed(range(T)):
        a = bar * (1 - hs[t + 1] ** 2)
        g["W"] += a.T @ hs[t]
        g["U"] += a.T @ x[:, t]
        g["b"] += a.sum(axis=0)
        bar = a @ p["W"]
    g["W"] += 0.02 * p["W"]
    return np.mean(error**2) + 0.01 * np.sum(p["W"] ** 2), g


def test_training_is_the_loop_of_its_equations():
    task, model = known(), elman(nnx.Rngs(0))
    before = variables(model)
    x, y = np.asarray(task.data[0]), np.asarray(task.data[1][:, -1, 0])
    held = {"W": model.cells[0]["W"], "U": model.cells[0]["U"], "b": model.cells[0]["b"]}
    held |= {"C": model.head["W"], "c": model.head["b"]}
    p = {name: np.asarray(value[...]) for name, value in held.items()}
    losses, norms = [], []
    for _ in range(7):
        loss, g = backpropagated(p, x, y)
        norm = np.sqrt(sum(np.sum(part**2) for part in g.values()))
        losses.append(loss)
        norms.append(norm)
        p = {name: value - 0.2 * min(1, 0.9 / norm) * g[name] for name, value in p.items()}

    found = training.fit(
        model, task, optax.chain(remedies.clip_by_global_norm(0.9), optax.sgd(0.2)), updates=7, batch=ROWS, every=3,
        regularizer=lambda model, batch: 0.01 * jnp.sum(model.cells[0]["W"][...] ** 2), success=False,
    )  # fmt: skip
    cell, head = found.model.cells[0], found.model.head
    for name, value in {"W": cell["W"], "U": cell["U"], "b": cell["b"], "C": head["W"], "c": head["b"]}.items():
        np.testing.assert_allclose(value[...], p[name], rtol=1e-12, atol=1e-14)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, variables(model), strict=True)
    )  # the given one is not touched

    parts = [slice(0, 3), slice(3, 6), slice(6, 7)]
    clipped = np.asarray(norms) >= 0.9
    assert 0 < clipped.sum() < 7
    assert found.history["update"].tolist() == [0, 3, 6, 7]
    for name, values in {"training_loss": losses, "gradient_norm": norms, "clip_rate": clipped}.items():
        assert np.isnan(found.history[name][0])
        np.testing.assert_allclose(found.history[name][1:], [np.mean(values[s]) for s in parts], rtol=1e-12)
    np.testing.assert_allclose(
        found.history["log_gradient_norm"][1:], [np.log(max(norms[s])) for s in parts], atol=1e-12
    )
    loss, _ = backpropagated(p, x, y)
    np.testing.assert_allclose(found.loss, loss - 0.01 * np.sum(p["W"] ** 2), rtol=1e-12)
    assert (found.status, found.updates, found.solved_at, found.trace) == ("finished", 7, None, None)
    assert remedies.clip_report(found.optimizer_state).times_clipped == clipped.sum()


@pytest.mark.slow
def test_running_statistics_move_with_every_update_and_judge_what_is_held_out():
    task = known()
    model = models.Deep(2 * T, 3, 1, depth=1, normalization="batch", dtype=F64, rngs=nnx.Rngs(0))
    found = training.fit(model, task, optax.sgd(0.0), updates=4, batch=ROWS, every=4, success=False)
    block, head = found.model.blocks
    a = np.asarray(task.data[0]).reshape(ROWS, -1) @ np.asarray(block["W"][...]).T  # b = 0
    np.testing.assert_allclose(block["mean"][...], (1 - 0.9**4) * a.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(block["variance"][...], 0.9**4 + (1 - 0.9**4) * a.var(axis=0), rtol=1e-12)
    y = np.tanh((a - block["mean"][...]) / np.sqrt(block["variance"][...] + 1e-5)) @ np.asarray(head["W"][...]).T
    np.testing.assert_allclose(found.loss, np.mean((y[:, 0] - task.data[1][:, -1, 0]) ** 2), rtol=1e-12)


# The same again


OPTIONS = {"updates": 6, "batch": 4, "every": 2, "held_out": 16, "success": False}


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One training, uninterrupted, with its records on the way."""
    folder, records = tmp_path_factory.mktemp("run"), []
    files = {"log": folder / "run.jsonl", "checkpoint": folder / "states"}
    task, optimizer = noisy(), optax.adam(0.1)
    found = training.fit(elman(nnx.Rngs(1)), task, optimizer, seed=1, callback=records.append, **files, **OPTIONS)
    return task, optimizer, found, records, files


def test_many_seeds_are_one_program_and_the_same_trainings(run):
    task, optimizer, found, _, _ = run
    both = training.fit_seeds(elman, task, optimizer, seeds=[2, 1], **OPTIONS)
    assert [one.seed for one in both] == [2, 1]
    for a, b in zip(variables(both[1].model), variables(found.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)  # six steps of Adam, whose first divides g by abs(g)
    np.testing.assert_allclose(both[1].history["loss"], found.history["loss"], rtol=1e-10)
    assert abs(both[0].loss - found.loss) > 1e-3


def test_an_interrupted_training_ends_with_the_same_bits_as_another(run, tmp_path):
    task, optimizer, found, _, _ = run

    def interrupt(record):
        if record["update"] == 4:
            raise Interrupted

    arguments = {"seed": 1, "checkpoint": tmp_path / "states", "log": tmp_path / "log.jsonl", **OPTIONS}
    with pytest.raises(Interrupted):
        training.fit(elman(nnx.Rngs(1)), task, optimizer, callback=interrupt, **arguments)
    resumed_at = []
    resumed = training.fit(
        elman(nnx.Rngs(1)), task, optimizer, callback=lambda r: resumed_at.append(int(r["update"])), **arguments
    )
    assert resumed_at == [4, 6]
    assert same_bits(found.model, resumed.model)
    assert resumed.history["update"].tolist() == [0, 2, 4, 6]
    np.testing.assert_array_equal(found.history["loss"], resumed.history["loss"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines[1:]] == [0, 2, 4, 6]


def test_a_finished_training_is_not_done_again(run, monkeypatch):
    task, optimizer, found, _, files = run
    monkeypatch.setattr(_driver.Program, "advance", None)
    again = training.fit(elman(nnx.Rngs(1)), task, optimizer, seed=1, **files, **OPTIONS)
    assert same_bits(found.model, again.model)
    assert again.seconds == found.seconds
    assert again.optimizer_state.report.updates == 6


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"batch": 5}, "batch, "),
        ({"seed": 3}, "'checkpoint'.*seeds"),
        ({"optimizer": optax.adam(0.2)}, "got optimizer differ"),
        ({"model": elman(nnx.Rngs(2))}, "got model differ"),
        ({"task": noisy(0.1)}, "got task differ"),
        ({"regularizer": lambda model, batch: 0.1 * jnp.sum(batch.inputs)}, "got regularizer differ"),
    ],
)
def test_a_checkpoint_of_other_arguments_is_refused(run, changed, names):
    task, optimizer, _, _, files = run
    arguments = {"model": elman(nnx.Rngs(1)), "task": task, "optimizer": optimizer, "seed": 1} | OPTIONS | changed
    with pytest.raises(ValueError, match=f"{names}.*Use another directory"):
        training.fit(**arguments, checkpoint=files["checkpoint"])


def test_the_log_has_a_header_and_a_line_a_record(run):
    _, _, found, records, files = run
    header, *lines = [json.loads(line) for line in files["log"].read_text().splitlines()]
    assert header["config"]["seeds"] == [1]
    assert header["config"]["updates"] == 6
    assert header["versions"]["optax"] == optax.__version__
    assert [line["loss"] for line in lines] == found.history["loss"].tolist() == [float(r["loss"]) for r in records]
    assert lines[0]["training_loss"] == "nan"  # JSON has no NaN
    assert lines[0]["seed"] == records[0]["seed"] == 1


# How it ends


def test_it_ends_when_the_task_is_solved():
    found = training.fit(
        elman(nnx.Rngs(0), 8), known(tolerance=0.02), optax.adam(0.03), updates=400, batch=ROWS, every=10, success=0.25
    )
    assert found.status == "solved"
    assert found.solved_at == found.updates == found.history["update"][-1] < 400
    assert (found.history["metric"][:-1] > 0.25).all()
    assert found.history["metric"][-1] <= 0.25


def test_the_callback_can_stop_it(capsys):
    stop = lambda record: record["update"] >= 2
    found = training.fit(elman(nnx.Rngs(0)), known(), optax.sgd(0.1), updates=6, batch=ROWS, every=1,
                         callback=stop, progress=True, success=False)  # fmt: skip
    assert (found.status, found.updates, found.history["update"].tolist()) == ("stopped", 2, [0, 1, 2])
    assert "2/6" in capsys.readouterr().out


def test_what_is_not_finite_is_never_applied_however_often_it_comes():
    found = training.fit(
        elman(nnx.Rngs(0)),
        noisy(spoilt=0.7),
        optax.adam(0.1),
        updates=30,
        batch=4,
        every=30,
        patience=30,
        success=False,
    )
    rejected = int(found.history["rejected"][-1])
    assert 3 < rejected < 27
    assert all(np.isfinite(a).all() for a in variables(found.model))
    assert optax.tree_utils.tree_get(found.optimizer_state, "count") == 30 - rejected
    assert not same_bits(found.model, elman(nnx.Rngs(0)))
    assert (found.status, found.updates) == ("finished", 30)


# Bad input


def arguments(**changed):
    return {"model": elman(nnx.Rngs(0)), "task": known(), "optimizer": optax.sgd(0.1), "updates": 1, **changed}


@pytest.mark.parametrize(
    ("changed", "kind", "pattern"),
    [
        ({"updates": 0}, ValueError, "'updates' is out of range; got 0"),
        ({"updates": 1.5}, TypeError, "'updates' must be an integer; got 1.5"),
        ({"batch": -1}, ValueError, "'batch'.*-1"),
        ({"every": 0}, ValueError, "'every'.*0"),
        ({"seed": -1}, ValueError, "'seed'.*-1.*2\\*\\*32-1"),
        ({"patience": -1}, ValueError, "'patience'"),
        ({"held_out": 0}, ValueError, "'held_out'"),
        ({"success": "always"}, TypeError, "'success' must be a number; got 'always'.*None.*False"),
        ({"success": 2.0}, ValueError, "'success'.*2.0"),
        ({"jump": 1.0}, ValueError, "'jump' is out of range; got 1.0"),
        ({"jump": "big"}, TypeError, "'jump'"),
        ({"optimizer": optax.sgd}, TypeError, "'optimizer' is none; got function.*Call it"),
        ({"task": "adding"}, TypeError, "'task' is of the wrong type; got str.*jacspec.tasks"),
        ({"model": "elman"}, TypeError, "'model' is of the wrong type; got str"),
        ({"regularizer": 0.1}, TypeError, "'regularizer' must be callable"),
        ({"callback": 1}, TypeError, "'callback'"),
        ({"checkpoint": 1}, TypeError, "'checkpoint' is no path"),
        ({"probes": training.SpectrumProbe()}, TypeError, "'probes' must be a sequence"),
        ({"probes": [lambda model, batch: 1.0]}, TypeError, r"'probes\[0\]' returns no dict"),
        ({"probes": [lambda model, batch: {"loss": 1.0}]}, ValueError, r"'probes\[0\]'.*\['loss'\]"),
        (
            {"model": models.Recurrent("elman", 3, 4, 1, rngs=nnx.Rngs(0))},
            ValueError,
            "features=3.*features=2 of known",
        ),
        (
            {"model": models.Recurrent("elman", 2, 4, 7, rngs=nnx.Rngs(0))},
            ValueError,
            r"outputs \(32, 5, 7\).*outputs=1",
        ),
        ({"model": models.Deep(2, 4, 1, depth=1, rngs=nnx.Rngs(0))}, ValueError, "features=2, .*features=10.*5 x 2"),
        (
            {"task": tasks.delayed_copy(3, lag=1), "model": models.Deep(3, 4, 1, depth=1, rngs=nnx.Rngs(0))},
            ValueError,
            "answers only at the end.*readout='every'",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_compiles(changed, kind, pattern, monkeypatch):
    def never(*args):
        pytest.fail("training has begun")

    monkeypatch.setattr(_driver.Program, "start", never)
    with pytest.raises(kind, match=pattern):
        training.fit(**arguments(**changed))


WIDTHS = iter((3, 4))


@pytest.mark.parametrize(
    ("changed", "kind", "pattern"),
    [
        ({"seeds": []}, ValueError, "'seeds'"),
        ({"seeds": [1, 1]}, ValueError, "'seeds' must be different"),
        ({"make": 3}, TypeError, "'make' must be callable"),
        ({"option": {"evry": 3}}, ValueError, "'evry'.*Did you mean 'every'"),
        (
            {"make": lambda rngs: elman(rngs, next(WIDTHS))},
            ValueError,
            "differ in more than their",
        ),
    ],
)
def test_bad_seeds_are_refused(changed, kind, pattern):
    given = {"make": elman, "task": known(), "optimizer": optax.sgd(0.1), "seeds": [0, 1], "updates": 1} | changed
    given |= given.pop("option", {})
    with pytest.raises(kind, match=pattern):
        training.fit_seeds(**given)
