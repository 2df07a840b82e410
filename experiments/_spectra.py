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


def isotropic(logs: np.ndarray) -> np.ndarray:
    """(1/2) ln mean sigma_i^2: the growth of a gradient in no special direction, nats. `logs` descend along the last axis."""
    top = logs[..., :1]
    return top[..., 0] + np.log(np.mean(np.exp(2 * (logs - top)), axis=-1)) / 2
