"""What the core costs, in steps of a plain rescaled matmul chain of the same shape, dtype and batch.

Every figure is a ratio to a matmul chain timed right before in the same process, and the median of several: a shared
machine changes its speed by the second. The step of that chain, P <- J P / max abs(J P), is the floor of any method
that touches the product: 2 n^3 flops. LAPACK gets one thread: its threads and XLA's fight for the same cores.

    python -m benchmarks.core [--float32] [--batch B] [n ...]
"""

import argparse
import os
import platform
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np

import jacspec as js
from jacspec._product import recursion
from jacspec._product.finish import finish

REPEATS = 7
STEPS = {32: 500, 64: 300, 128: 150, 256: 60, 512: 16, 1024: 8}


def seconds(function, *arguments):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


@jax.jit
def matmul_chain(Js):
    def one(Js):
        def step(P, J):
            P = jnp.matmul(J, P, precision=jax.lax.Precision.HIGHEST)
            return P / jnp.max(jnp.abs(P)), None

        return jax.lax.scan(step, jnp.eye(Js.shape[-1], dtype=Js.dtype), Js)[0]

    return jax.vmap(one)(Js)


def over(question):
    """`question` of each chain of a batch of given matrices, jitted."""
    return jax.jit(jax.vmap(lambda Js: question(js.JacobianChain.from_matrices(Js, check=False))))


@over
def graded(chain):
    """The recursion without the finish."""

    def step(state, J, t):
        return recursion.extend(state, J.push(state.Q), t), None

    state, _ = chain.fold(step, recursion.identity(chain.shape[1], chain.dtype), xs=jnp.arange(chain.length))
    return state.logs, state.U


exponents = over(lambda chain: js.lyapunov_exponents(chain).exponents)
leading = over(lambda chain: js.lyapunov_exponents(chain, k=8).exponents)
closing = jax.jit(jax.vmap(lambda logs, U: finish(logs, U)))


def ratio(function, arguments, Js):
    """Median time of `function` in matmul steps of the chain Js."""
    seconds(matmul_chain, Js), seconds(function, *arguments)
    steps = Js.shape[1]
    ratios = [steps / seconds(matmul_chain, Js) * seconds(function, *arguments) for _ in range(REPEATS)]
    return float(np.median(ratios))


def row(n, dtype, batch, family):
    T = STEPS.get(n, 50)
    G = np.random.default_rng(0).standard_normal((batch, T, n, n)) / np.sqrt(n)
    Js = jnp.asarray(G if family == "gauss" else np.eye(n) + 0.1 * G, dtype)
    unit = np.median([seconds(matmul_chain, Js) for _ in range(REPEATS + 1)][1:]) / T
    product = graded(Js)
    cells = [
        ratio(graded, (Js,), Js) / T,
        ratio(closing, product, Js),
        ratio(exponents, (Js,), Js) / T,
        ratio(leading, (Js,), Js) / T,
    ]
    rate = 2 * n**3 * batch / unit / 1e9
    print(
        f"{n:5d} {batch:5d} {T:5d} {family:9s} {unit * 1e6:11.1f} {rate:8.1f}",
        *(f"{c:11.1f}" for c in cells),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", not options.float32)
    device = jax.devices()[0]
    print(f"{device.device_kind}, {os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}", end=", ")
    print(
        f"{'float32' if options.float32 else 'float64'}, BLAS threads {os.environ.get('OPENBLAS_NUM_THREADS', 'default')}"
    )
    print("    n batch     T family    matmul (us)  GFLOP/s   recursion      finish   exponents  8 exponents")
    for n in options.sizes:
        for family in ("gauss", "residual"):
            row(n, jnp.float32 if options.float32 else jnp.float64, options.batch, family)


if __name__ == "__main__":
    main()
