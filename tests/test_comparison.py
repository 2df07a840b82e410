"""The comparison: equal conditions, rows that survive a kill, and what is written about them."""

import csv
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from scipy.special import digamma, polygamma
from scipy.stats import binomtest

import jacspec as js
from jacspec import comparison, remedies, tasks
from jacspec.comparison import rows, table
from jacspec.comparison.build import plan
from jacspec.comparison.search import search
from jacspec.training import reading

REMEDIES = ["clip=norm:1e-9", "lr=1e30"]
OPTIONS = {"length": 10, "width": 4, "updates": 4, "batch": 3, "seeds": 2}
SCRIPT = """
import jax, sys
jax.config.update("jax_enable_x64", True)
from jacspec.comparison import compare
compare("temporal_order", {remedies}, store=sys.argv[1], **{options})
"""


# Statistics


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 5), (5, 5), (1, 1), (7, 1000)])
def test_wilson_is_that_of_scipy(k, n):
    truth = binomtest(k, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(comparison.wilson(k, n), [truth.low, truth.high], atol=1e-12)


def test_wilson_refuses_what_is_no_count():
    for k, n in ((6, 5), (-1, 5), (0, 0)):
        with pytest.raises(ValueError, match="successes"):
            comparison.wilson(k, n)


# A real comparison, killed once


def killed(store, wait):
    """A comparison in a process of its own, killed after `wait()`; whether it was still running."""
    script = SCRIPT.format(remedies=REMEDIES, options=OPTIONS)
    process = subprocess.Popen([sys.executable, "-c", script, str(store)], env=os.environ | {"JAX_PLATFORMS": "cpu"})
    try:
        wait(process)
        return process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def first_row(store):
    def wait(process):
        while process.poll() is None and not list(store.glob("row-*.json")):
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A comparison that was killed after its first row and then went on, and the sentences that it said."""
    store, said = tmp_path_factory.mktemp("store"), []
    assert killed(store, first_row(store))
    assert len(list(store.glob("row-*.json"))) == 1
    return js.compare("temporal_order", REMEDIES, store=store, progress=said.append, **OPTIONS), said, store


def equal(one, other):
    for name, value in one.arrays().items():
        np.testing.assert_array_equal(value, other.arrays()[name], err_msg=name)


def test_a_killed_comparison_ends_with_the_numbers_of_an_uninterrupted_one(resumed):
    found, said, store = resumed
    assert said[0] == "clip=norm:1e-9: stored"
    assert said[1].startswith("lr=1e30: ")
    whole = comparison.prepare("temporal_order", REMEDIES, **OPTIONS)
    equal(found.rows[0], rows.train(whole.plans[0], range(2)))  # the one that the killed process computed
    again = []
    stored = js.compare("temporal_order", REMEDIES, store=store, progress=again.append, **OPTIONS)
    assert again == ["clip=norm:1e-9: stored", "lr=1e30: stored"]
    for one, other in zip(found.rows, stored.rows, strict=True):
        equal(one, other)


@pytest.mark.slow
def test_five_kills_at_random_moments_change_no_number(resumed, tmp_path):
    found, _, _ = resumed
    draw = random.Random(0)
    for _ in range(5):
        killed(tmp_path, lambda process: time.sleep(draw.uniform(0, 25)))
    last = js.compare("temporal_order", REMEDIES, store=tmp_path, **OPTIONS)
    for one, other in zip(found.rows, last.rows, strict=True):
        equal(one, other)


def test_rows_start_from_the_same_networks_and_data(resumed):
    clipped, hot = resumed[0].rows
    for name in ("exponents_before", "slope_before"):
        np.testing.assert_array_equal(getattr(clipped, name), getattr(hot, name))
    np.testing.assert_array_equal(clipped.record_loss[:, 0], hot.record_loss[:, 0])
    assert (clipped.exponents_before[0] != clipped.exponents_before[1]).any()  # seeds differ


def test_a_row_says_what_happened(resumed):
    clipped, hot = resumed[0].rows
    assert clipped.status.tolist() == ["finished"] * 2
    assert clipped.clip_rate.tolist() == [1.0, 1.0]
    assert clipped.updates.tolist() == [4, 4]
    assert clipped.record_update.tolist() == [0, 1, 2, 3, 4]
    # four steps of length 1e-9 x the learning rate change nothing that matters
    np.testing.assert_allclose(clipped.record_loss[:, -1], clipped.record_loss[:, 0], rtol=1e-9)
    np.testing.assert_allclose(clipped.slope_after, clipped.slope_before, rtol=1e-7)
    assert hot.status.tolist() == ["exploded"] * 2
    assert np.isnan(hot.clip_rate).all()
    assert all(hot.failures)
    assert all(cause.startswith("update ") for cause in hot.causes)
    assert np.isfinite(hot.loss).all()


def test_the_table_says_it_too(resumed, tmp_path):
    found = resumed[0]
    lines = found.summaries()
    assert [line.remedy for line in lines] == REMEDIES
    assert [line.law for line in lines] == ["gaussian"] * 2
    assert lines[0].parameters == 4 * 4 + 4 * 6 + 4 + 4 * 4 + 4
    assert lines[0].failures == ""
    assert lines[1].failures.startswith("2 exploded, first: update ")
    assert lines[0].loss_over_baseline == np.median(found.rows[0].loss.astype(float)) / math.log(4)

    stream = io.StringIO()
    Console(width=160, file=stream).print(found.table())
    text = stream.getvalue()
    assert "clip=norm:1e-9" in text
    assert "0/2 (0.00-0.66)" in text
    assert "2 exploded" in text

    with found.write_csv(tmp_path / "table.csv").open() as stream:
        read = list(csv.DictReader(stream))
    assert [line["remedy"] for line in read] == REMEDIES
    assert float(read[0]["slope_before"]) == lines[0].slope_before
    for write in (found.write_csv, found.write_json):
        with pytest.raises(TypeError, match="argument 'path' is no path"):
            write(3)
    whole = json.loads(found.write_json(tmp_path / "table.json").read_text())
    assert whole["settings"]["updates"] == 4
    assert whole["runs"][0]["record_loss"] == found.rows[0].record_loss.tolist()
    assert whole["summaries"][0]["updates_to_success"] == "nan"


def test_the_figure_shows_every_row(resumed, tmp_path):
    fig = comparison.plot(resumed[0])
    success, loss, exponent, gradient = fig.axes
    assert [label.get_text() for label in success.get_yticklabels()] == REMEDIES
    spread = np.concatenate([line.get_xdata() for line in gradient.lines if len(line.get_xdata()) == 4])
    assert set(np.ravel([row.slope_before for row in resumed[0].rows])) <= set(spread)
    fig.savefig(tmp_path / "figure.png")
    assert all(ax.get_xlabel() for ax in (success, loss, exponent, gradient))


# The store, with rows that cost nothing


def canned(remedy="none", value=0.5, seeds=2, **changes):
    each = lambda *shape: np.full((seeds, *shape), value)
    fields = {
        "status": np.full(seeds, "finished"), "failures": np.full(seeds, ""), "causes": np.full(seeds, ""),
        "solved_at": np.full(seeds, -1), "updates": np.full(seeds, 4), "loss": each(), "wrong": each(),
        "rejected": np.zeros(seeds, int), "clip_rate": each(), "exponents_before": each(4), "exponents_after": each(4),
        "slope_before": each(), "slope_after": each(), "record_update": np.array([0, 4]), "record_loss": each(2),
        "record_wrong": each(2),
    }  # fmt: skip
    return rows.Row(remedy, "gaussian", 3, 1.0, **(fields | changes))


@pytest.fixture
def trained(monkeypatch):
    """The remedies that were trained, by a training that costs nothing."""
    done = []

    def train(plan, seeds):
        done.append(str(plan.remedy))
        return canned(str(plan.remedy), len(done), len(seeds))

    monkeypatch.setattr(sys.modules["jacspec.comparison.compare"], "train", train)
    return done


def test_only_what_is_missing_is_computed(trained, tmp_path):
    ask = lambda remedies, **options: js.compare("temporal_order", remedies, store=tmp_path, **(OPTIONS | options))
    first = ask(["none", "gru"])
    assert trained == ["none", "gru"]
    second = ask(["gru", "clip=norm:1", "none"])
    assert trained == ["none", "gru", "clip=norm:1"]
    assert [row.remedy for row in second.rows] == ["gru", "clip=norm:1", "none"]
    equal(second.rows[0], first.rows[1])
    ask([" clip = norm:1.0"])  # the same remedy in other words
    assert len(trained) == 3
    for change in (
        {"updates": 5},
        {"seeds": 3},
        {"first_seed": 1},
        {"learning_rate": 0.02},
        {"width": 5},
        {"optimizer": "adam"},
    ):
        ask(["none"], **change)
    ask(["none"], length=11)
    assert len(trained) == 10


def test_the_seeds_of_a_row(monkeypatch):
    asked = []
    train = lambda plan, seeds: asked.append(list(seeds)) or canned()
    monkeypatch.setattr(sys.modules["jacspec.comparison.compare"], "train", train)
    js.compare("temporal_order", ["none"], **OPTIONS)
    js.compare("temporal_order", ["none"], **OPTIONS, first_seed=3)
    assert asked == [[0, 1], [3, 4]]


def test_other_code_or_precision_computes_again(trained, tmp_path, monkeypatch):
    ask = lambda: js.compare("temporal_order", ["none"], store=tmp_path, **OPTIONS)
    ask()
    with jax.enable_x64(False):
        ask()
    assert len(trained) == 2
    monkeypatch.setattr(sys.modules["jacspec.comparison.compare"], "_code", lambda: "99")
    ask()
    assert len(trained) == 3


def test_a_broken_row_is_computed_again(trained, tmp_path):
    ask = lambda: js.compare("temporal_order", ["none"], store=tmp_path, **OPTIONS)
    ask()
    (path,) = tmp_path.glob("row-*.npz")
    path.write_bytes(path.read_bytes()[:-50])
    ask()
    assert len(trained) == 2
    path.with_suffix(".json").unlink()  # a kill between the two files of a row
    ask()
    assert len(trained) == 3
    assert ask().rows[0].loss.tolist() == [3.0, 3.0]
    assert len(trained) == 3


def test_summaries_of_known_rows():
    nan, inf = math.nan, math.inf
    row = canned(
        seeds=4, solved_at=np.array([300, -1, 100, 200]), loss=np.array([0.1, nan, 0.3, 0.2]),
        slope_after=np.array([inf, 1.0, nan, 2.0]), wrong=np.array([0.0, nan, 0.0, 0.5]),
        failures=np.array(["", "jump", "", "jump"]), causes=np.array(["", "update 3", "", "update 9"]),
    )  # fmt: skip
    line = table.summarize(row, 2.0)
    assert (line.solved, line.success_rate, line.updates_to_success) == (3, 0.75, 200.0)
    np.testing.assert_allclose([line.loss, line.loss_over_baseline], [0.25, 0.125])  # a NaN counts as the worst
    assert line.wrong == 0.25
    assert line.slope_after == 2.0  # of inf, 1, 2
    assert line.failures == "2 exploded, first: update 3"
    assert math.isnan(table.summarize(canned(), 1.0).updates_to_success)
    only_lost = table.summarize(canned(loss=np.full(2, nan)), 1.0)
    assert only_lost.loss == inf


def test_the_share_of_clipped_updates_counts_every_update_once():
    history = {"update": np.array([0, 1, 4, 14, 14]), "clip_rate": np.array([math.nan, 1.0, 1 / 3, 0.2, math.nan])}
    assert rows._clip_rate(history) == pytest.approx((1 + 1 + 2) / 14)  # dispatches of 1, 3, 10 and 0 updates
    assert math.isnan(rows._clip_rate({"update": np.array([0]), "clip_rate": np.array([math.nan])}))


# Bad input


@pytest.mark.parametrize("baseline", [0.0])
def test_a_task_with_nothing_to_learn_is_refused(trained, baseline):
    task = tasks.Task("constant", 4, 1, 1, "squared", baseline, 0.0, lambda *_: None)
    with pytest.raises(ValueError, match="'task' has a baseline of 0: nothing to learn; got constant"):
        js.compare(task, ["none"])
    assert trained == []


@pytest.mark.parametrize("changes", [{"lr": math.inf}, {"clip": (("norm", (math.nan,)),)}, {"gain": object()}])
def test_a_remedy_made_by_hand_is_checked_too(trained, tmp_path, changes):
    with pytest.raises(ValueError, match="'remedies' has a value that cannot be stored"):
        js.compare("temporal_order", [comparison.Remedy(**changes)], store=tmp_path)
    assert trained == []


@pytest.mark.parametrize(
    ("store", "error"), [(3, TypeError), ("", ValueError), ("a\0b", ValueError), (b"x", TypeError)]
)
def test_a_store_that_is_no_folder_is_refused(trained, store, error):
    with pytest.raises(error, match="compare: argument 'store' is"):
        js.compare("temporal_order", ["none"], store=store)
    assert trained == []


@pytest.mark.parametrize("bad", [(1.5, 2), ("1", 2), (1, 2.0), (True, 2)])
def test_wilson_counts(bad):
    with pytest.raises(TypeError, match="must be an integer"):
        comparison.wilson(*bad)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"task": "temporal_ordr"}, ValueError, "Did you mean 'temporal_order'"),
        ({"task": "digits,ordr=pixel"}, ValueError, "Did you mean 'order'"),
        ({"task": "digits,order"}, ValueError, "option=value"),
        ({"task": 3}, TypeError, "'task'.*3"),
        ({"length": 5}, ValueError, "'length' is too short; got 5, expected a length of at least 10"),
        ({"remedies": []}, ValueError, "'remedies' is empty"),
        ({"remedies": "none"}, TypeError, "'remedies' must be a list"),
        ({"remedies": None}, TypeError, "'remedies' must be a list"),
        ({"remedies": np.array("none")}, TypeError, "'remedies' must be a list"),
        ({"remedies": ["gru", "gru "]}, ValueError, "same row twice"),
        ({"remedies": ["gruu"]}, ValueError, "Did you mean 'gru'"),
        ({"width": 0}, ValueError, "'width'.*got 0"),
        ({"seeds": 2.5}, TypeError, "'seeds' must be an integer"),
        ({"first_seed": -1}, ValueError, "'first_seed' is out of range"),
        ({"first_seed": 2**32 - 1}, ValueError, "'first_seed' is out of range"),
        ({"depth": 0}, ValueError, "'depth'"),
        ({"learning_rate": math.nan}, ValueError, "'learning_rate'.*nan"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate > 0"),
        ({"learning_rate": "1e-3"}, TypeError, "'learning_rate' must be a number"),
        ({"optimizer": "adm"}, ValueError, "Did you mean 'adam'"),
        ({"updats": 3}, ValueError, "Did you mean 'updates'"),
    ],
)
def test_bad_arguments_are_refused_before_training(trained, arguments, error, words):
    given = {"task": "temporal_order", "remedies": ["none"]} | arguments
    with pytest.raises(error, match=words):
        js.compare(**given)
    assert trained == []


# Training without gradients, and over depth


def test_a_search_is_judged_on_held_out_sequences_before_and_after(monkeypatch):
    asked = {}

    def halve(loss, parameters, key, **options):
        asked.update(options)
        parameters = jax.tree.map(lambda a: a / 2, parameters)
        return remedies.Evolution(parameters, loss(parameters), jnp.zeros(1), jnp.zeros(1))

    monkeypatch.setattr(remedies, "evolve", halve)
    task = tasks.adding(10)
    budget = {"width": 3, "depth": None, "updates": 99, "batch": 2, "learning_rate": 0.1, "rule": "sgd"}
    one = plan(comparison.Remedy.parse("ga"), task, **budget)
    found = search(one, range(2), 50)
    assert asked == {"algorithm": "simple_ga", "population": 16, "generations": one.updates}
    judged = task.evaluation(jax.random.key(2**32 - 1), 50)
    truth = np.asarray(judged.targets)[:, -1]
    for models, losses, shares, scale in (
        (found.start, found.first_loss, found.first_wrong, 1),
        (found.found, found.loss, found.wrong, 2),
    ):
        for seed, model in enumerate(models):
            np.testing.assert_allclose(scale * model.head["W"][...], one.make(nnx.Rngs(seed)).head["W"][...], rtol=1e-6)
            errors = (np.asarray(reading.outputs(model, judged.inputs))[:, -1] - truth) ** 2
            np.testing.assert_allclose(losses[seed], errors.mean(), rtol=1e-5)
            assert shares[seed] == np.float32((errors > 0.04).mean())


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["es", "cma_es", "sep_cma_es", "lm_ma_es", "ga", "pso"])
def test_a_search_is_a_row_like_any_other(algorithm):
    options = {"length": 10, "width": 4, "updates": 400, "batch": 4, "seeds": 2}
    found = js.compare("adding", [algorithm], **options).rows[0]
    assert found.record_loss.shape == (2, 2)
    np.testing.assert_array_equal(found.record_loss[:, 1], found.loss)
    assert (found.loss < found.record_loss[:, 0]).all()
    assert found.clip_rate.tolist() == pytest.approx([math.nan] * 2, nan_ok=True)
    assert np.isfinite(found.exponents_after).all()


@pytest.mark.slow
def test_over_depth_a_residual_network_learns_what_a_plain_one_with_small_weights_does_not():
    options = {"depth": 8, "width": 16, "updates": 40, "batch": 32, "learning_rate": 0.05, "seeds": 2}
    plain, residual, batch = js.compare("digits", ["gain=0.5", "residual", "norm=batch"], **options).rows
    assert (plain.wrong > 0.8).all()
    assert (residual.wrong < 0.6).all()
    # small tanh layers are linear: the leading exponent of Gaussian products (Newman 1986), over the 6 layers counted
    truth, error = math.log(0.5) + (math.log(2 / 16) + digamma(8)) / 2, math.sqrt(polygamma(1, 8) / 4 / 6)
    np.testing.assert_allclose(plain.exponents_before[:, 0], truth, atol=4 * error)
    assert (plain.slope_before > 0.5).all()
    assert (np.abs(residual.slope_before) < plain.slope_before / 4).all()
    assert (batch.slope_before < 0).all()  # batch normalization makes gradients grow on their way back
