"""What the finish costs, in steps of a plain rescaled matmul chain of the same size.

Each time is a ratio to a matmul chain run just before in the same process, and the median of several such ratios, for a
shared machine changes its speed by the second. On a busy machine set OPENBLAS_NUM_THREADS=1: LAPACK's threads wait for
each other by spinning.

    python benchmarks/finish.py [n ...]
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacspec._product.finish import finish
from jacspec._product.logs import normalize_rows, scale_columns, zeros

STEPS, REPEATS = 40, 7


def seconds(function, *arguments):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


@jax.jit
def matmul_chain(jacobians):
    def step(P, J):
        P = jnp.matmul(J, P, precision=lax.Precision.HIGHEST)
        return P / jnp.max(jnp.abs(P)), None

    return lax.scan(step, jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype), jacobians)[0]


@jax.jit
def graded(jacobians):
    """(l, U) of the product, by the graded recursion without its sorts: inputs as the finish sees them."""

    def step(carry, J):
        Q, logs, U = carry
        Q, R = jnp.linalg.qr(jnp.matmul(J, Q, precision=lax.Precision.HIGHEST))
        N, logs = scale_columns(R, logs)
        U, logs = normalize_rows(jnp.matmul(N, U, precision=lax.Precision.HIGHEST), logs)
        return (Q, logs, U), None

    eye = jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype)
    return lax.scan(step, (eye, zeros(len(eye), eye.dtype), eye), jacobians)[0][1:]


def chain(rng, family, n, length, batch=()):
    G = rng.standard_normal((*batch, length, n, n)) / np.sqrt(n)
    return jnp.asarray(G if family == "gauss" else np.eye(n) + 0.1 * G)


def compare(label, n, family, batch=()):
    rng = np.random.default_rng(0)
    inputs, solve, unit = graded, jax.jit(finish), matmul_chain
    if batch:
        inputs, solve, unit = jax.vmap(graded), jax.jit(jax.vmap(finish)), jax.jit(jax.vmap(matmul_chain))
    logs, U = inputs(chain(rng, family, n, 100, batch))
    jacobians = chain(rng, family, n, STEPS, batch)
    done = jax.block_until_ready(solve(logs, U))
    seconds(unit, jacobians)
    times, ratios = [], []
    for _ in range(REPEATS):
        step = seconds(unit, jacobians) / STEPS
        times.append(seconds(solve, logs, U))
        ratios.append(times[-1] / step)
    spread = float(jnp.max(jnp.max(logs.hi, axis=-1) - jnp.min(logs.hi, axis=-1)))
    print(
        f"{label:>8} {family:>8} {spread:7.1f} {int(jnp.max(done.sweeps)):6d} {float(jnp.max(done.off)):9.1e} "
        f"{1e3 * np.median(times):9.2f} {np.median(ratios):12.0f}   {'' if bool(jnp.all(done.converged)) else 'NO'}",
        flush=True,
    )


def main():
    jax.config.update("jax_enable_x64", True)
    print(f"{'n':>8} {'family':>8} {'nats':>7} {'sweeps':>6} {'off':>9} {'ms':>9} {'matmul steps':>12}")
    for n in [int(a) for a in sys.argv[1:]] or [8, 16, 32, 64, 128, 256, 512]:
        for family in ("gauss", "residual"):
            compare(str(n), n, family)
            if n <= 32:
                compare(f"64 x {n}", n, family, (64,))


if __name__ == "__main__":
    main()
