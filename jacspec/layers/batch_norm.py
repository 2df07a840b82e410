"""Batch normalization.

    z = (h - mu) / s,    s^2 = v + epsilon,    h' = gamma z + beta

Training: mu and v are the mean and the population variance of the batch, whose B examples are therefore one state:

    d h'_{bj} / d h_{ci} = [i = j] (gamma_j / s_j) ([b = c] - 1/B - z_bj z_cj / B)

Evaluation: mu and v are given and J = diag(gamma / s).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jacspec._ground import checks
from jacspec._ground.arithmetic import normalized
from jacspec._ground.pytree import pytree, static
from jacspec.layers import _parameters
from jacspec.operators import Diagonal
from jacspec.operators.normalization import Standardized, centered


@pytree
class BatchNorm:
    """h' = gamma (h - mu) / sqrt(v + epsilon) + beta over the batch, with the joint Jacobian of all examples.

    In training mode the state is the whole batch, (B, n), flattened row-major, and J is (B n) x (B n): every example
    acts on every other. `PerExample` puts a vector layer beside it. A feature that is constant over the batch gives
    z = 0 and the gain gamma / sqrt(epsilon); with epsilon = 0 it has no derivative and gives NaN.

    Args:
        scale: gamma, (n,), or None for ones.
        bias: beta, (n,), or None.
        epsilon: added to the variance; 1e-5 as in Flax, 0 allowed.
        mean: running mean, (n,); used in evaluation mode.
        variance: running variance, (n,); used in evaluation mode.
        mode: "train" or "eval".

    Raises:
        TypeError: for parameters that are not floating arrays.
        ValueError: for shapes that do not fit, an unknown mode, missing, non-finite or negative statistics in evaluation
            mode; on a call in training mode, for a single example.

    Reference: S. Ioffe, C. Szegedy, ICML 2015, algorithm 1; G. Yang et al., A mean field theory of batch normalization,
        ICLR 2019 (what this Jacobian does to depth).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> constant = js.layers.BatchNorm().jacobian(jnp.ones((4, 1))).dense()
        >>> round(float(constant.max()), 2)
        237.17
    """

    scale: Array | None = None
    bias: Array | None = None
    epsilon: float = static(default=1e-5)
    mean: Array | None = None
    variance: Array | None = None
    mode: str = static(default="train")

    def __post_init__(self):
        """Check shapes, the mode and, in evaluation mode, the statistics."""
        name, text = "layers.BatchNorm", "(n,), the same n for all"
        checks.one_of(name, "mode", self.mode, ("train", "eval"))
        object.__setattr__(self, "epsilon", _parameters.epsilon("BatchNorm", self.epsilon))
        n = None
        for key in ("scale", "bias", "mean", "variance"):
            value = _parameters.shaped("BatchNorm", key, getattr(self, key), (n,), text)
            n = n if value is None else value.shape[0]
            object.__setattr__(self, key, value)
        if self.mode == "train":
            return
        for key, value in (("mean", self.mean), ("variance", self.variance)):
            if value is None:
                hint = "Running statistics come from training; mode='train' takes those of the batch."
                raise ValueError(checks.message(name, key, "is needed with mode='eval'", "None", "(n,)", hint))
            checks.finite(name, key, value)
        if checks.is_concrete(self.variance):
            low = float(np.min(np.asarray(self.variance)))
            if low < 0 or low + self.epsilon == 0:
                text = checks.message(name, "variance", "is too small", low, "variance >= 0, and > 0 if epsilon = 0")
                raise ValueError(text)

    @property
    def _width(self) -> int | None:
        return next((p.shape[0] for p in (self.scale, self.bias, self.mean, self.variance) if p is not None), None)

    def _standardize(self, h):
        """z and the gain gamma / s (n,)."""
        gamma = 1 if self.scale is None else self.scale
        if self.mode == "eval":
            s = jnp.sqrt(self.variance + self.epsilon)  # type: ignore[arg-type]
            return (h - self.mean) / s, gamma / s
        z, s = normalized(centered(h, 0), 0, count=h.shape[0], epsilon=self.epsilon)
        return z, gamma / s

    def _check(self, h):
        if self.mode == "eval":
            if not hasattr(h, "shape") or len(h.shape) != 2:
                _parameters.vector("BatchNorm", h, self._width)
                return
        elif not hasattr(h, "shape") or len(h.shape) != 2 or h.shape[0] < 2:
            got = f"shape {h.shape}" if hasattr(h, "shape") else type(h).__name__
            hint = (
                "In mode='train' the state is the whole batch and has one joint Jacobian; the per-example Jacobian is "
                "undefined in train mode. Give the whole batch (no jax.vmap), or use mode='eval' with statistics."
            )
            text = checks.message("layers.BatchNorm", "h", "is not a batch", got, "(B, n) with B >= 2", hint)
            raise ValueError(text)
        if h.shape[-1] == 0 or self._width not in (None, h.shape[-1]):
            want = f"({self._width},) or (B, {self._width})" if self.mode == "eval" else f"(B, {self._width or 'n'})"
            raise ValueError(checks.message("layers.BatchNorm", "h", "does not fit", f"shape {h.shape}", want))

    def __call__(self, h: Array, x: Any = None) -> Array:
        """gamma z + beta, of the shape of h; x is not used."""
        del x
        self._check(h)
        z, _ = self._standardize(h)
        z = z if self.scale is None else z * self.scale
        return z if self.bias is None else z + self.bias

    def jacobian(self, h: Array, x: Any = None) -> Standardized | Diagonal:
        """The joint Jacobian (train) or diag(gamma / s) (eval) as an operator.

        Its factors are ``normalization gain`` gamma / s and, in training, ``normalized state`` z.
        """
        del x
        self._check(h)
        z, gain = self._standardize(h)
        if self.mode == "eval":
            return Diagonal(jnp.broadcast_to(gain, h.shape).ravel(), "normalization gain")
        return Standardized(gain[None], z, True)
