"""Stationary processes whose means are known only by their spread over many runs: records (T, runs) and maps."""

import jax
import jax.numpy as jnp
import numpy as np


def noise(T, runs, rng):
    return rng.standard_normal((T, runs))


def products(T, runs, rng):
    """log abs of Gaussian factors."""
    return np.log(np.abs(rng.standard_normal((T, runs))))


def autoregressive(phi):
    def record(T, runs, rng):
        e = rng.standard_normal((T, runs))
        x = np.empty((T, runs))
        x[0] = e[0] / np.sqrt(1 - phi**2)
        for t in range(1, T):
            x[t] = phi * x[t - 1] + e[t]
        return x

    return record


def telescoping(T, runs, rng):
    """Increments of a bounded sequence: the mean of T is off by O(1/T)."""
    return np.diff(rng.uniform(-1, 1, (T + 1, runs)), axis=0)


def spectral_peak(T, runs, rng):
    """ARMA(2, 0) that rings 21 steps long, where noise has 1/300 of the peak."""
    radius, angle, start = 0.98, 0.3, 500
    e, x = rng.standard_normal((T + start, runs)), np.zeros((T + start, runs))
    for t in range(2, T + start):
        x[t] = 2 * radius * np.cos(angle) * x[t - 1] - radius**2 * x[t - 2] + e[t]
    return x[start:]


def bursts(T, runs, rng):
    """One step in a hundred."""
    return 3.0 * (rng.uniform(size=(T, runs)) < 0.01)


def cycle(period):
    def record(T, runs, rng):
        values = rng.standard_normal(period)
        return values[(np.arange(T)[:, None] + rng.integers(0, period, runs)) % period]

    return record


def sinusoids(T, runs, rng):
    frequencies = rng.uniform(0.2, 3, 3)
    return sum(np.cos(w * np.arange(T)[:, None] + rng.uniform(0, 2 * np.pi, runs)) for w in frequencies)


def rotation(T, runs, rng):
    """Log growth of a vector that turns on an ellipse: telescoping and quasi-periodic."""
    angle = np.arange(T + 1)[:, None] + rng.uniform(0, 2 * np.pi, runs)
    return np.diff(np.log(np.hypot(2 * np.cos(angle), 0.5 * np.sin(angle))), axis=0)


def logistic(r):
    def record(T, runs, rng, start=3000):
        x, out = rng.uniform(0.05, 0.95, runs), np.empty((T, runs))
        for t in range(-start, T):
            if t >= 0:
                out[t] = np.log(np.abs(r * (1 - 2 * x)))
            x = r * x * (1 - x)
        return out

    return record


RECORDS = {
    "independent": noise,
    "Gaussian factors": products,
    "AR(1) +.9": autoregressive(0.9),
    "AR(1) -.9": autoregressive(-0.9),
    "telescoping": telescoping,
    "spectral peak": spectral_peak,
    "bursts": bursts,
    "logistic 3.6": logistic(3.6),
    "logistic 4": logistic(4.0),
}
PERIODIC = {
    **{f"cycle of {p}": cycle(p) for p in (2, 3, 4, 7, 64)},
    "sinusoids": sinusoids,
    "rotation": rotation,
    "logistic 3.5": logistic(3.5),
    "logistic 3.83": logistic(3.83),
}


def runge_kutta(f, dt):
    def step(h, x):
        a = f(h)
        b = f(h + dt / 2 * a)
        c = f(h + dt / 2 * b)
        return h + dt / 6 * (a + 2 * b + 2 * c + f(h + dt * c))

    return step


def lorenz(h):
    return jnp.array([10 * (h[1] - h[0]), h[0] * (28 - h[2]) - h[1], h[0] * h[1] - 8 / 3 * h[2]])


def roessler(h):
    return jnp.array([-h[1] - h[2], h[0] + 0.2 * h[1], 0.2 + h[2] * (h[0] - 5.7)])


def standard(K):
    def step(h, x):
        p = jnp.mod(h[1] + K * jnp.sin(h[0]), 2 * jnp.pi)
        return jnp.array([jnp.mod(h[0] + p, 2 * jnp.pi), p])

    return step


def henon(a):
    return lambda h, x: jnp.array([1 - a * h[0] ** 2 + h[1], 0.3 * h[0]])


# step, first state from uniform numbers, steps before the attractor is reached
MAPS = {
    **{
        f"logistic {r}": (lambda h, x, r=r: r * h * (1 - h), lambda u: u[:1], 3000) for r in (3.58, 3.6, 3.65, 3.7, 4.0)
    },
    **{f"Henon {a}": (henon(a), lambda u: 0.2 * u[:2] - 0.1, 2000) for a in (1.2, 1.4)},
    "standard 7": (standard(7.0), lambda u: 2 * jnp.pi * u[:2], 10),
    "Lorenz .01": (runge_kutta(lorenz, 0.01), lambda u: 2 * u + jnp.array([0.0, 0.0, 20.0]), 4000),
    "Lorenz .05": (runge_kutta(lorenz, 0.05), lambda u: 2 * u + jnp.array([0.0, 0.0, 20.0]), 800),
    "Roessler .05": (runge_kutta(roessler, 0.05), lambda u: u + jnp.array([0.5, 0.5, 0.0]), 4000),
    "Roessler .1": (runge_kutta(roessler, 0.1), lambda u: u + jnp.array([0.5, 0.5, 0.0]), 2000),
}


def first_states(name, runs, key):
    """States on the attractor, (runs, n)."""
    step, start, wait = MAPS[name]
    draws = jax.random.uniform(key, (runs, 3), minval=0.05, maxval=0.95)
    return jax.jit(jax.vmap(lambda u: jax.lax.fori_loop(0, wait, lambda _, h: step(h, None), start(u))))(draws)
