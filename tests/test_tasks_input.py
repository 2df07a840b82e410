"""What the tasks say when they are given something wrong."""

import sys

import jax
import pytest
from sequences import KEY, built

from jacspec import tasks


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
