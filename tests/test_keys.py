"""No random key is used twice: JAX follows every key through what draws with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.errors import KeyReuseError
from sequences import KEY, SYNTHETIC, built

from jacspec import remedies, tasks
from jacspec.comparison import Remedy
from jacspec.comparison.build import plan
from jacspec.comparison.search import search


@pytest.fixture(autouse=True)
def followed():
    with jax.debug_key_reuse(True):
        yield


def test_a_key_that_is_used_twice_is_noticed():
    twice = lambda key: jax.random.normal(key) + jax.random.uniform(jax.random.split(key)[0])
    with pytest.raises(KeyReuseError):
        jax.jit(twice)(jax.random.key(0))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_no_task_uses_a_key_twice(name):
    task = built(name)
    for draw in (task.draw, task.draw_held_out or task.draw):
        jax.jit(lambda key, draw=draw: draw(task.data, key, 3))(jax.random.clone(KEY))


def test_no_stored_task_uses_a_key_twice(tmp_path):
    np.savez(tmp_path / "mine", inputs=np.arange(80.0).reshape(20, 2, 2), targets=np.arange(20) % 3)
    (tmp_path / "mine.txt").write_text("to be or not to be, " * 40)
    for task in (tasks.from_file(tmp_path / "mine.npz"), tasks.from_file(tmp_path / "mine.txt", length=5)):
        for draw in (task.draw, task.draw_held_out):
            jax.jit(lambda key, task=task, draw=draw: draw(task.data, key, 3))(jax.random.key(0))


def test_a_search_draws_its_sample_its_steps_and_its_judges_with_keys_of_their_own(monkeypatch):
    task, used = tasks.adding(10), {"sample": [], "judge": [], "steps": []}
    seen = lambda kind: lambda data: used[kind].append(tuple(np.ravel(data).tolist()))

    def recorded(kind, draw):
        def wrapped(data, key, count):
            jax.debug.callback(seen(kind), jax.random.key_data(key))
            return draw(data, key, count)

        return wrapped

    def evolve(loss, parameters, key, **options):
        jax.debug.callback(seen("steps"), jax.random.key_data(key))
        return remedies.Evolution(parameters, loss(parameters), jnp.zeros(1), jnp.zeros(1))

    monkeypatch.setattr(remedies, "evolve", evolve)
    held_out = recorded("judge", task.draw_held_out)
    task = dataclasses.replace(task, draw=recorded("sample", task.draw), draw_held_out=held_out)
    budget = {"width": 2, "depth": None, "updates": 99, "batch": 1, "learning_rate": 0.1, "rule": "sgd"}
    with jax.debug_key_reuse(False):  # which takes the stacked keys of the seeds for used
        search(plan(Remedy.parse("ga"), task, **budget), range(3), 3)
        jax.effects_barrier()
    keys = [set(used[kind]) for kind in used]
    assert [len(kind) for kind in keys] == [3, 1, 3]
    assert len(set.union(*keys)) == 7


def test_flossing_uses_no_key_twice():
    budget = {"width": 2, "depth": None, "updates": 9, "batch": 1, "learning_rate": 0.1, "rule": "sgd"}
    plan(Remedy.parse("flossing=before:1"), tasks.adding(10), **budget).make(nnx.Rngs(0))


@pytest.mark.parametrize("algorithm", ["open_es", "pso"])
def test_the_searches_use_no_key_twice(algorithm):
    ask = lambda key: remedies.evolve(lambda p: jnp.sum(p**2), jnp.ones(5), key, algorithm=algorithm, population=4)
    jax.jit(ask)(jax.random.key(0))
