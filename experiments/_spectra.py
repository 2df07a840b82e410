"""Spectra of batches of chains over the last steps, and what they predict for a gradient."""

import functools

import jax
import numpy as np

import jacspec as js


@functools.partial(jax.jit, static_argnames="lags")
def from_the_end(Js: jax.Array, lags: tuple[int, ...]) -> js.Spectrum:
    """All log singular values of J_T ... J_{T-lag+1} of the step Jacobians (example, T, n, n): (example, lag, i).

    From matrices, so that one compilation serves all networks of a width.
    """
    at = tuple(Js.shape[1] - lag for lag in lags)
    one = lambda J: js.spectrum(js.JacobianChain.from_matrices(J, check=False), at=at, origin="end")
    return jax.vmap(one)(Js)


def isotropic(found: js.Spectrum) -> np.ndarray:
    """(1/2) ln mean sigma_i^2: the growth of a gradient in no special direction, nats.

    NaN where the values that are not resolved, upper bounds, could change it by more than 1e-9.
    """
    logs, resolved = np.asarray(found.log_singular_values), np.asarray(found.resolved)
    top = logs[..., :1]
    shares = np.exp(2 * (logs - top))
    least, most = (np.log(np.mean(s, axis=-1)) / 2 for s in (np.where(resolved, shares, 0), shares))
    return np.where(most - least < 1e-9, top[..., 0] + least, np.nan)
