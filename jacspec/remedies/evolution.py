"""Training without gradients, by evosax: nothing that could vanish or explode is computed.

The parameters are one vector x of n numbers; a search draws a population around what it knows, sees the losses, and
moves. Only the order of the losses matters to the strategies, so that a loss may be discontinuous or infinite.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jacspec._ground import checks
from jacspec._ground.memory import affordable
from jacspec._ground.pytree import pytree
from jacspec.remedies.clipping import threshold, within

ALGORITHMS = {
    "open_es": "Open_ES",
    "cma_es": "CMA_ES",
    "sep_cma_es": "Sep_CMA_ES",
    "lm_ma_es": "LM_MA_ES",
    "simple_ga": "SimpleGA",
    "pso": "PSO",
}
POPULATION_BASED = ("simple_ga", "pso")
FULL_COVARIANCE_BELOW = 300
"""Parameters up to which `cma_es` is reasonable: n^2 numbers, and an eigendecomposition in every generation."""


@pytree
class Evolution:
    """What a search found.

    Attributes:
        parameters: the best that was evaluated; those given if nothing was better.
        loss: their loss.
        history: (generations,), best loss so far after each generation.
        generation_best: (generations,), best loss within each generation; inf if none was finite.
    """

    parameters: Any
    loss: Array
    history: Array
    generation_best: Array


def evolve(
    loss: Callable[[Any], Array],
    parameters: Any,
    key: Array,
    *,
    algorithm: str = "open_es",
    population: int = 32,
    generations: int = 100,
    std: float = 0.1,
    learning_rate: float = 0.02,
) -> Evolution:
    """Minimize a loss by sampling, in one `lax.scan` over the generations; the key decides everything.

    ========== ==============================================================================================
    open_es    mean moved by Adam along an antithetic estimate of the gradient of the smoothed, ranked loss
    cma_es     covariance matrix adaptation, full covariance: fewer than 300 parameters
    sep_cma_es the same with a diagonal covariance
    lm_ma_es   limited-memory matrix adaptation; population at most the number of parameters
    simple_ga  the better half survives, crosses over (rate 0 as in evosax) and mutates
    pso        particle swarm; the swarm starts around the parameters given
    ========== ==============================================================================================

    Args:
        loss: parameters -> scalar; a loss that is not finite counts as the worst.
        parameters: pytree of floating arrays, where the search starts.
        key: a key of `jax.random`.
        algorithm: one of the names above.
        population: evaluations per generation, >= 4; even for ``open_es``.
        generations: >= 1.
        std: standard deviation of the first population, > 0, in the unit of the parameters.
        learning_rate: of Adam in ``open_es``, > 0.

    Returns:
        An `Evolution`.

    Raises:
        TypeError: for a loss that is not callable or no scalar, parameters that are not floating, a key that is none.
        ValueError: for an unknown algorithm, parameters that are not finite, options out of range or beyond the dtype, or
            ``cma_es`` with 300 parameters or more.

    Reference: R. T. Lange, evosax, arXiv 2212.04180; T. Salimans et al., arXiv 1703.03864 (open_es); N. Hansen,
    arXiv 1604.00772 (cma_es); R. Ros, N. Hansen, PPSN 2008 (sep_cma_es); I. Loshchilov, T. Glasmachers, H.-G. Beyer,
    arXiv 1705.06693 (lm_ma_es); F. P. Such et al., arXiv 1712.06567 (simple_ga).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jacspec import remedies
        >>> bowl = lambda x: jnp.sum((x - 1) ** 2)
        >>> found = remedies.evolve(bowl, jnp.zeros(3), jax.random.key(0), algorithm="cma_es", population=12)
        >>> found.parameters.round(3).tolist()
        [1.0, 1.0, 1.0]
    """
    name = "remedies.evolve"
    checks.function(name, "loss", loss, "loss(parameters) -> scalar")
    checks.one_of(name, "algorithm", algorithm, ALGORITHMS)
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    for path, leaf in leaves:
        checks.array(name, "parameters" + jax.tree_util.keystr(path), leaf)
    checks.finite(name, "parameters", parameters)
    checks.key(name, key)
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, parameters))
    std, learning_rate = _options(name, algorithm, flat.size, population, generations, std, learning_rate)
    out = jax.eval_shape(loss, parameters)
    if not hasattr(out, "shape") or out.shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(checks.message(name, "loss", "must return a scalar", out, "a floating array of shape ()"))

    def evaluate(x: Array) -> Array:
        value = loss(unravel(x.astype(flat.dtype)))
        return jnp.where(jnp.isfinite(value), value, jnp.inf).astype(start.dtype)

    start = flat.astype(jnp.result_type(float))
    with jax.ensure_compile_time_eval():
        search, options = _search(algorithm, flat.size, population, std, learning_rate)
    init_key, *keys = jax.random.split(key, 3)
    if algorithm in POPULATION_BASED:
        candidates = start + std * jax.random.normal(keys[0], (population, start.size), start.dtype).at[0].set(0)
        state = search.init(init_key, candidates, jax.vmap(evaluate)(candidates), options)
    else:
        state = search.init(init_key, start, options)

    def generation(state, key):
        ask, tell = jax.random.split(key)
        candidates, state = search.ask(ask, state, options)
        losses = jax.vmap(evaluate)(candidates)
        if algorithm == "lm_ma_es":  # evosax 0.3 weighs its draws z by rank without sorting them first
            order = jnp.argsort(losses)
            candidates, losses, state = candidates[order], losses[order], state.replace(z=state.z[order])
        state, _ = search.tell(tell, candidates, losses, state, options)
        return state, (state.best_fitness, losses.min())

    state, (best, generation_best) = lax.scan(generation, state, jax.random.split(keys[1], generations))
    # the mean of a strategy is often better than any sample; the start is never given up for something worse
    given = evaluate(start)
    rivals = jnp.stack([start, state.best_solution, getattr(state, "mean", start)])
    losses = jax.vmap(evaluate)(rivals)
    winner = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
    return Evolution(
        unravel(rivals[winner].astype(flat.dtype)), losses[winner], jnp.minimum(best, given), generation_best
    )


def _options(
    name: str, algorithm: str, n: int, population: Any, generations: Any, std: Any, rate: Any
) -> tuple[Any, Any]:
    """`std` and `rate` as floats; every option that the search cannot work with is refused."""
    if n == 0:
        raise ValueError(checks.message(name, "parameters", "is empty", "n=0", "n >= 1"))
    checks.integer(name, "population", population, 4, checks.INT32_MAX)
    affordable(name, "population", population, population * n, "their parameters")
    checks.integer(name, "generations", generations, 1, checks.INT32_MAX)
    affordable(name, "generations", generations, 2 * generations, "their losses")
    std, rate = threshold(name, "std", std), threshold(name, "learning_rate", rate)
    for argument, value in (("std", std), ("learning_rate", rate)):
        within(name, argument, value, jnp.result_type(float))
    if algorithm == "open_es" and population % 2:
        raise ValueError(checks.message(name, "population", "comes in pairs", population, "an even number"))
    if algorithm == "cma_es" and n >= FULL_COVARIANCE_BELOW:
        got, want = f"{n} parameters for cma_es", f"fewer than {FULL_COVARIANCE_BELOW}"
        hint = "Use 'sep_cma_es' (diagonal covariance), 'lm_ma_es' (limited memory) or 'open_es'."
        raise ValueError(checks.message(name, "algorithm", "keeps a full covariance", got, want, hint))
    if algorithm == "lm_ma_es" and population > n:
        # its paths are averaged at the rates population / (4^i n), which must not exceed 1
        hint = "Use 'cma_es' or 'sep_cma_es' for so few parameters."
        got = f"{population} for {n} parameters"
        raise ValueError(checks.message(name, "population", "is too large for lm_ma_es", got, f"4..{n}", hint))
    return std, rate


def _search(algorithm: str, n: int, population: int, std: float, learning_rate: float) -> tuple[Any, Any]:
    """The search of evosax on vectors, and its options."""
    from evosax import algorithms  # takes seconds to import

    given: dict[str, Any] = {}
    if algorithm == "open_es":
        given["optimizer"] = optax.adam(learning_rate)
    if algorithm in ("open_es", "simple_ga"):
        given["std_schedule"] = optax.constant_schedule(std)
    search = getattr(algorithms, ALGORITHMS[algorithm])(population_size=population, solution=np.zeros(n), **given)
    options = search.default_params
    return search, options.replace(std_init=jnp.asarray(std)) if hasattr(options, "std_init") else options
