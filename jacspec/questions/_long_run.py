"""Standard error of the mean of one correlated record, whether or not its process is reversible, mixing or random.

Every stationary record is its mean, a part that grows like noise and the increments of a bounded sequence u (M. I. Gordin,
Soviet Math. Dokl. 10 (1969) 1174). The variance of the mean of N blocks has a term of each,

    Var = S / N + 2 var(u) / N^2,    S = sum over all lags m of gamma_m

with gamma_m the autocovariance: S is the long-run variance, 2 pi times the spectral density at frequency zero. Positive
correlation makes S larger than gamma_0, oscillation smaller; it is 0 where the record telescopes, and the second term is
then all there is.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax, nn

from jacspec._ground.arithmetic import matmul

SHORTEST = 64
"""Blocks below which no record can tell its long-run variance."""

TAPERS = 20
"""Sine tapers, at least: the frequencies k / (2N), k = 1, 2, ..., on which the level at zero is fitted."""

FLAT = 0.4
"""Prior weight of the shape without a slope; the others share the rest."""

SLOWEST = 30
"""Half of the variance must lie above the frequency SLOWEST / (2N), a period of a fifteenth of the record."""

INDEPENDENT = 20
"""Blocks with the same variance, but independent, to which the record must amount at least."""

RECURRENT = 0.65
"""Correlation of u with itself, N/4 to N/2 blocks later, above which the record is nearly periodic."""


def standard_error(history: Array, steps: Array) -> Array:
    """Standard error of the mean growth per step: half the width that holds the mean in about 95 % of all records.

    The deviations of the blocks from the mean, d = history - steps * mean, are summed under K = max(20, N/100) sine
    tapers. The squares y_k^2 of the sums measure the spectrum at the frequencies k / (2N), k = 1 ... K, and a level with
    a dip or a peak at zero, S (1 + (k/p)^2) / (1 + (k/q)^2), is fitted to them by likelihood, together with the mean
    that the odd tapers see. S is the posterior mean over a grid of p and q; for one p and q it is that of a variance
    with K - 1 degrees of freedom, (K - 1) / (K - 3) times the estimate, which stands for the factor of Student's t.
    2 var(u) / N is taken from the partial sums of d less their straight line, to which S alone contributes 2 S / 15.

    Args:
        history: (N, k) log growth over each block, nats.
        steps: (N,) steps per block.

    Returns:
        (k,), nats per step; NaN where the record cannot tell: fewer than 64 blocks, not all finite, all the same within
        rounding (a constant, or an event not yet seen), half of the variance slower than a period of N/15, fewer than
        20 effectively independent blocks, a half of the record that holds less than a fiftieth of the variance (a
        transient), or partial sums that come back to themselves (periodic and quasi-periodic records: their mean
        is off by O(1/N), and by how much hangs on the phase at which the record is cut).

    Reference: P. Heidelberger, P. D. Welch, Commun. ACM 24 (1981) 233 (a smooth fit to the spectrum near zero);
    K. S. Riedel, A. Sidorenko, IEEE Trans. Signal Process. 43 (1995) 188 (sine tapers); Gordin (1969).
    """
    N, k = history.shape
    if N < SHORTEST:
        return jnp.full(k, jnp.nan, history.dtype)
    history = lax.stop_gradient(history)
    finite = jnp.isfinite(history).all(axis=0)
    rate = jnp.where(finite, history / steps[:, None], 0)
    spread, largest = jnp.ptp(rate, axis=0), jnp.maximum(jnp.abs(rate).max(axis=0), 1)
    varies = spread > 16 * jnp.finfo(history.dtype).eps * largest
    d = jnp.where(finite, history - steps[:, None] * (jnp.sum(history, axis=0) / jnp.sum(steps)), 0)
    size = jnp.sqrt(jnp.mean(d**2, axis=0))
    d = d / jnp.where(varies, size, 1)

    spectrum = jnp.fft.rfft(d, 2 * N, axis=0)  # (N + 1, k)
    levels, weights = _levels_at_zero(spectrum, N)  # (shapes, k)
    u = _without_line(jnp.cumsum(d, axis=0))
    ends = 2 * jnp.mean(u**2, axis=0) / N
    S = jnp.sum(weights * levels, axis=0)
    variance = jnp.sum(weights * jnp.maximum(levels, levels * 13 / 15 + ends), axis=0)

    power = jnp.cumsum(jnp.abs(spectrum) ** 2, axis=0)
    fast = jnp.sum(power < power[-1] / 2, axis=0) >= SLOWEST
    first_half = jnp.mean(jnp.where(jnp.arange(N)[:, None] < N // 2, d**2, 0), axis=0)
    stationary = jnp.abs(first_half - 0.5) < 0.48
    once = _recurrence(u) < RECURRENT
    known = finite & varies & fast & stationary & (INDEPENDENT * S <= N) & once
    return jnp.where(known, size * jnp.sqrt(N * variance) / jnp.sum(steps), jnp.nan)


def _levels_at_zero(spectrum: Array, N: int) -> tuple[Array, Array]:
    """The long-run variance that every shape of the spectrum gives, and the weight of the shape, both (shapes, k)."""
    K = max(TAPERS, N // 100)
    k = np.arange(1, K + 1)
    angle = np.pi * k / (2 * N)
    mean = math.sqrt(2 / N) * np.where(k % 2 == 1, 1 / np.sin(angle), 0)  # what a mean of 1 adds to every y_k
    inverse, log_prior = _shapes(K)
    seen = np.sum(inverse * mean**2, axis=1, keepdims=True)
    log_prior += 0.5 * np.sum(np.log(inverse), axis=1) - 0.5 * np.log(seen[:, 0])

    dtype = spectrum.real.dtype
    cast = functools.partial(jnp.asarray, dtype=dtype)
    low = spectrum[1 : K + 1]
    y = math.sqrt(2 / N) * (cast(np.sin(angle))[:, None] * low.real - cast(np.cos(angle))[:, None] * low.imag)  # (K, k)
    squares = matmul(cast(inverse), y**2) - matmul(cast(inverse * mean / np.sqrt(seen)), y) ** 2
    squares = jnp.maximum(squares, jnp.finfo(dtype).tiny)
    weights = nn.softmax(cast(log_prior)[:, None] - (K - 1) / 2 * jnp.log(squares), axis=0)
    return squares / (K - 3), weights


def _shapes(K: int) -> tuple[np.ndarray, np.ndarray]:
    """1 / shape of the spectrum at k = 1 ... K, (shapes, K), and the log of its prior weight."""
    k = np.arange(1, K + 1) / K
    rise = np.array([1 + (k / p) ** 2 for p in (np.inf, *0.5 ** np.arange(7))])
    fall = np.array([1 + (k / q) ** 2 for q in (np.inf, *0.5 ** np.arange(4))])
    inverse = (fall / rise[:, None]).reshape(-1, K)
    flat = np.all(inverse == 1, axis=1)
    weight = np.where(flat, FLAT / flat.sum(), (1 - FLAT) / (~flat).sum())
    return inverse, np.log(weight)


def _without_line(x: Array) -> Array:
    """x (N, k) less its least-squares straight line."""
    t = jnp.linspace(-1, 1, x.shape[0], dtype=x.dtype)[:, None]
    x = x - jnp.mean(x, axis=0)
    return x - t * jnp.sum(t * x, axis=0) / jnp.sum(t**2)


def _recurrence(u: Array) -> Array:
    """The largest correlation of u (N, k) with itself at lags from N/4 to N/2."""
    N = u.shape[0]
    lags = np.arange(N // 4, N // 2)
    products = jnp.fft.irfft(jnp.abs(jnp.fft.rfft(u, 2 * N, axis=0)) ** 2, 2 * N, axis=0)[lags]
    squares = jnp.cumsum(u**2, axis=0)
    both = squares[N - 1 - lags] + squares[-1] - squares[lags - 1]
    return jnp.max(2 * products / jnp.where(both > 0, both, 1), axis=0)
