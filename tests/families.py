"""Chains built from what they should show, and their log singular values in as many digits as it takes."""

import mpmath as mp
import numpy as np


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def gaussian(rng, n):
    return rng.standard_normal((n, n)) / np.sqrt(n)


def gauss(rng, n, T):
    return np.stack([gaussian(rng, n) for _ in range(T)])


def orth(rng, n, T):
    return np.stack([orthogonal(rng, n) for _ in range(T)])


def _tanh(rng, n, T, gain, bias):
    W, h, b = gain * gaussian(rng, n), rng.standard_normal(n), bias * rng.standard_normal(n)
    out = []
    for _ in range(T):
        a = W @ h + b + 0.3 * rng.standard_normal(n)
        h = np.tanh(a)
        out.append((1 / np.cosh(a) ** 2)[:, None] * W)
    return np.stack(out)


def tanh(rng, n, T):
    return _tanh(rng, n, T, 1.5, 0.0)


def tanh_saturated(rng, n, T):
    return _tanh(rng, n, T, 6.0, 2.0)


def relu(rng, n, T):
    """Dead rows."""
    return np.stack([(rng.random(n) < 0.9)[:, None] * 1.4 * gaussian(rng, n) for _ in range(T)])


def relu_columns(rng, n, T):
    """Dead columns."""
    return np.stack([(rng.random(n) < 0.97)[None, :] * 1.4 * gaussian(rng, n) for _ in range(T)])


def residual(rng, n, T):
    return np.stack([np.eye(n) + 0.1 * gaussian(rng, n) for _ in range(T)])


def pairs(rng, n, T):
    """Nearly equal pairs with large gaps between them."""
    Q = [orthogonal(rng, n) for _ in range(T + 1)]
    rates = np.repeat(np.linspace(1, -2, (n + 1) // 2), 2)[:n] + 1e-7 * rng.standard_normal(n)
    return np.stack([Q[t + 1] @ np.diag(np.exp(rates)) @ Q[t].T for t in range(T)])


def near_degenerate(rng, n, T):
    Q = [orthogonal(rng, n) for _ in range(T + 1)]
    return np.stack([Q[t + 1] @ np.diag(np.exp(1e-6 * rng.standard_normal(n))) @ Q[t].T for t in range(T)])


def jordan(rng, n, T):
    del rng
    return np.stack([0.9 * np.eye(n) + np.diag(np.ones(n - 1), 1)] * T)


def graded_diagonal(rng, n, T):
    """Growth in the order opposite to the basis."""
    d = np.exp(np.linspace(-2, 1, n))
    return np.stack([np.diag(d * np.exp(0.1 * rng.standard_normal(n))) for _ in range(T)])


def graded_triangular(rng, n, T):
    d = np.exp(np.linspace(-2, 1, n))
    return np.stack([np.triu(rng.standard_normal((n, n)), 1) * 0.5 + np.diag(d) for _ in range(T)])


def prescribed(rng, n, T):
    """Geometric singular values over six decades, between random rotations."""
    Q = [orthogonal(rng, n) for _ in range(T + 1)]
    d = np.geomspace(1, 1e-6, n)
    return np.stack([Q[t + 1] @ np.diag(d) @ Q[t].T for t in range(T)])


def shears(rng, n, T):
    """Non-normal, all eigenvalues one."""
    return np.stack([np.eye(n) + np.triu(rng.standard_normal((n, n)), 1) for _ in range(T)])


def switch(rng, n, T):
    """Grows along one order for half the time, then along the reverse: no algorithm resolves the product."""
    d, Q = np.exp(np.linspace(-1, 1, n)), orthogonal(rng, n)
    return np.stack([Q @ np.diag(d if t < T // 2 else d[::-1]) @ Q.T for t in range(T)])


def rectangular(rng, n, T):
    """Widths that change from step to step: a few shapes, because every shape is compiled."""
    widths = [n, *((n + 2, max(1, n - 1), n)[t % 3] for t in range(T))]
    return [rng.standard_normal((widths[t + 1], widths[t])) / np.sqrt(n) for t in range(T)]


def _sizes(rng, n, dtype):
    """Sizes over twenty-four decades, ten in float32."""
    decades = 12 if dtype == np.float64 else 5
    return 10.0 ** rng.uniform(-decades, decades, n)


MIXTURE = {
    "gauss": lambda rng, n, _: gaussian(rng, n),
    "orthogonal": lambda rng, n, _: orthogonal(rng, n),
    "rows of all sizes": lambda rng, n, dtype: _sizes(rng, n, dtype)[:, None] * gaussian(rng, n),
    "columns of all sizes": lambda rng, n, dtype: gaussian(rng, n) * _sizes(rng, n, dtype),
    "values of all sizes": lambda rng, n, dtype: orthogonal(rng, n) * _sizes(rng, n, dtype) @ orthogonal(rng, n),
    "diagonal": lambda rng, n, dtype: np.diag(_sizes(rng, n, dtype)),
    "arrow": lambda rng, n, dtype: np.diag(_sizes(rng, n, dtype)) + np.eye(n)[:1].T @ np.ones((1, n)),
    "dead rows": lambda rng, n, _: (rng.random(n) < 0.8)[:, None] * gaussian(rng, n),
    "dead columns": lambda rng, n, _: gaussian(rng, n) * (rng.random(n) < 0.85),
    "sparse": lambda rng, n, _: gaussian(rng, n) * (rng.random((n, n)) < 0.5),
    "triangular": lambda rng, n, _: np.triu(rng.standard_normal((n, n))),
    "jordan": lambda rng, n, _: 0.9 * np.eye(n) + 10.0 ** rng.integers(-3, 4) * np.eye(n, k=1),
    "identity": lambda rng, n, _: np.eye(n) + 1e-3 * gaussian(rng, n),
    "integers": lambda rng, n, _: rng.integers(-2, 3, (n, n)),
    "signs": lambda rng, n, _: rng.choice([-1.0, 1.0], (n, n)),
    "rank one": lambda rng, n, _: rng.standard_normal((n, 1)) @ rng.standard_normal((1, n)),
    "rank two": lambda rng, n, _: rng.standard_normal((n, 2)) @ rng.standard_normal((2, n)),
    "nearly rank one": lambda rng, n, _: rng.standard_normal((n, 1)) + 10.0 ** rng.uniform(-12, -2) * gaussian(rng, n),
    "any size": lambda rng, n, _: 10.0 ** rng.uniform(-20, 20) * gaussian(rng, n),
    "hilbert": lambda rng, n, _: 1 / (np.arange(n)[:, None] + np.arange(n) + 1),
    "nearly the same rows": lambda rng, n, _: gaussian(rng, n)[:1] * (1 + 1e-9 * (np.arange(n) == n - 1))[:, None],
}


def mixed(rng, n, T, dtype):
    """Up to three kinds of the mixture: repeated with a period, drawn anew, or one and then another's transpose."""
    kinds = rng.choice(list(MIXTURE), rng.integers(1, 4), replace=False)
    draw = lambda: np.asarray(MIXTURE[rng.choice(kinds)](rng, n, dtype), dtype)
    base = [draw() for _ in range(rng.integers(1, 6))]
    match rng.integers(3):
        case 0:
            steps = [base[t % len(base)] for t in range(T)]
        case 1:
            steps = [draw() for _ in range(T)]
        case _:
            steps = [base[0] if t < T // 2 else base[-1].T for t in range(T)]
    return np.stack(steps), ", ".join(kinds)


def product(Js, n, digits):
    with mp.workdps(digits):
        P = mp.eye(n)
        for J in Js:
            P = mp.matrix(np.asarray(J, float).tolist()) * P
        return P


def reference(Js, n, digits):
    """Log singular values of J_T ... J_1, descending, in `digits` digits; exact zeros are -inf."""
    with mp.workdps(digits):
        P = product(Js, n, digits)
        if min(P.rows, P.cols) == 1:
            values = [mp.sqrt(sum(x * x for x in P))]
        else:
            P = P if P.rows >= P.cols else P.T
            values = list(mp.svd_r(P, compute_uv=False))
        top = max(values)
        zero = top * mp.mpf(10) ** (25 - digits)
        return np.sort([float(mp.log(s)) if s > zero else -np.inf for s in values])[::-1]


def digits_for(spread):
    """Digits that hold a spread of so many nats, with a margin."""
    return int(1.1 * spread / np.log(10)) + 60


def nudged(Js, seed):
    """The same chain with every number moved by about one rounding."""
    rng = np.random.default_rng(seed)
    return [np.asarray(J) * (1 + 2.0**-52 * rng.choice([-1, 1], np.shape(J))) for J in Js]
