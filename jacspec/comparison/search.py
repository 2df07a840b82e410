"""Training without gradients, as a row: many seeds of `jacspec.remedies.evolve` in one program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jacspec import remedies
from jacspec.comparison.build import POPULATION, Plan
from jacspec.training import reading


class Search(NamedTuple):
    """What a search found, one entry a seed.

    Attributes:
        start: models at their start.
        found: models with the best parameters.
        loss: (seeds,), on held-out sequences.
        wrong: (seeds,), fraction of them that are wrong.
        first_loss: (seeds,), of the models at their start.
        first_wrong: (seeds,).
    """

    start: list[Any]
    found: list[Any]
    loss: np.ndarray
    wrong: np.ndarray
    first_loss: np.ndarray
    first_wrong: np.ndarray


def search(plan: Plan, seeds: range, held_out: int) -> Search:
    """The search of a plan for every seed, all judged on the same sequences.

    BatchNorm uses the statistics of the batch, at the end too: without updates the running ones never change.
    """
    start = [plan.make(nnx.Rngs(seed)) for seed in seeds]
    graph, _, rest = nnx.split(start[0], nnx.Param, ...)
    task = plan.seen
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    parameters = stack([nnx.state(model, nnx.Param) for model in start])
    judged = task.evaluation(jax.random.key(2**32 - 1), held_out)  # the same for all seeds

    def loss(p: Any, batch: Any) -> tuple[Array, Array]:
        y = reading.outputs(nnx.merge(graph, p, rest, copy=True), batch.inputs)
        answered = reading.last_steps(batch, y.shape[1])
        return task.loss(y, answered), jnp.mean(task.wrong(y, answered))

    def searched(p: Any, key: Array) -> Any:
        """The parameters that one seed finds, and (loss, fraction wrong) of these and of the start."""
        sample_key, search_key = jax.random.split(key)
        sample = task.sample(sample_key, plan.batch)
        found = remedies.evolve(
            lambda p: loss(p, sample)[0], p, search_key,
            algorithm=str(plan.remedy.search), population=POPULATION, generations=plan.updates,
        ).parameters  # fmt: skip
        return found, loss(found, judged), loss(p, judged)

    keys = stack([jax.random.key(seed) for seed in seeds])
    found, after, before = jax.jit(jax.vmap(searched))(parameters, keys)
    models = [
        nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], found), rest, copy=True) for i in range(len(seeds))
    ]
    return Search(start, models, *map(np.asarray, (*after, *before)))
