"""A convolutional network whose every layer can keep every direction: delta-orthogonal kernels, circular padding.

h_l = f(K_l * h_{l-1} + b_l),    y = C mean_space(h_L) + c
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jacspec import activations, layers
from jacspec._ground import checks, laws
from jacspec._ground.pytree import pytree
from jacspec.activations import Activation
from jacspec.chain import JacobianChain, layer_chain
from jacspec.models import _activity, _depth, weights

LAWS = (*laws.KERNELS, "critical")


@pytree
class MeanOverSpace:
    """The mean of each channel."""

    def __call__(self, h: Array, x: Any = None) -> Array:
        """(space..., channels) -> (channels,); x is not used."""
        del x
        return h.mean(axis=tuple(range(h.ndim - 1)))


class Convolutional(nnx.Module):
    """Convolutions of one width with circular padding, the mean over space, and a linear readout.

    Parameters: ``blocks[l]``, L of them and the readout last, each with a ``kernel`` (W for the readout) and b.

    Args:
        channels_in: channels of the input.
        channels: c >= channels_in, of every layer.
        outputs: numbers the readout has.
        depth: L, number of convolutions.
        kernel_size: (k,) or (k1, k2), or k for (k, k).
        activation: f.
        initialization: law of the kernels: "delta_orthogonal"; "gaussian" and "he", of variance gain^2 / (k1 k2 c_in)
            and twice that; "critical", delta-orthogonal on the edge of chaos. The readout is Gaussian.
        gain: factor of that law; 1 is on the edge for the critical one.
        bias_variance: sigma_b^2 of the convolutions.
        dtype: of the parameters and of all that is computed.
        rngs: `nnx.Rngs`; the stream ``params`` is used.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for unknown names (the nearest is given), or sizes out of range.

    Reference: L. Xiao et al., Dynamical isometry and a mean field theory of CNNs, ICML 2018.

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> from flax import nnx
        >>> from jacspec.models import Convolutional
        >>> model = Convolutional(1, 4, 10, depth=3, activation="linear", rngs=nnx.Rngs(0))
        >>> model(jnp.ones((2, 8, 8, 1))).shape
        (2, 10)
        >>> chain = model.chain(jnp.ones((8, 8, 1)))[1:-1]  # without the first layer and the readout
        >>> bool(abs(js.log_singular_values(chain)).max() < 1e-5)
        True
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        outputs: int,
        *,
        depth: int,
        kernel_size: int | tuple[int, ...] = 3,
        activation: str | Activation = "tanh",
        initialization: str = "delta_orthogonal",
        gain: float = 1.0,
        bias_variance: float = 0.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "models.Convolutional"
        dtype = laws.checked_dtype(name, dtype)
        checks.one_of(name, "initialization", initialization, LAWS)
        activations.get(activation, function=name)
        depth = checks.integer(name, "depth", depth, 1)
        self.channels_in = checks.integer(name, "channels_in", channels_in, 1)
        channels = checks.integer(name, "channels", channels, 1)
        size = laws.checked_kernel_size(name, (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size)
        law = "delta_orthogonal" if initialization == "critical" else initialization
        laws.check_channels(name, "channels", law, self.channels_in, channels)
        self.axes, self.activation, self.dtype = len(size), activation, dtype

        rngs = weights.streams(name, rngs)
        variance = weights.number(name, "bias_variance", bias_variance, 0)
        gain = weights.number(name, "gain", gain, 0, dtype=dtype)
        gain = weights.critical_gain(name, initialization, gain, activation, bias_variance=variance)
        self.blocks = nnx.List([])
        for c in (self.channels_in, *(channels,) * (depth - 1)):
            kernel = laws.kernel(law, rngs.params(), size, c, channels, dtype, gain)
            bias = laws.noise(rngs.params(), channels, dtype, variance)
            self.blocks.append(nnx.Dict(kernel=nnx.Param(kernel), b=nnx.Param(bias)))
        W = weights.draw("gaussian", rngs.params(), (checks.integer(name, "outputs", outputs, 1), channels), dtype, 1.0)
        self.blocks.append(nnx.Dict(W=nnx.Param(W), b=nnx.Param(jnp.zeros(outputs, dtype))))
        weights.finite(name, self)

    def layers(self) -> list[Any]:
        """The L convolutions and the readout, on one example, for `layer_chain`."""
        *hidden, head = ({key: value[...] for key, value in block.items()} for block in self.blocks)
        convolutions = [layers.Conv(p["kernel"], p["b"], self.activation) for p in hidden]
        return [*convolutions, layers.Sequential(MeanOverSpace(), layers.Dense(head["W"], head["b"]))]

    def __call__(self, inputs: Array) -> Array:
        """The outputs of a batch.

        Args:
            inputs: (batch, H, W, channels_in), or (batch, length, channels_in) for a kernel of one axis.

        Returns:
            (batch, outputs).

        Raises:
            TypeError: for inputs that are no numeric array.
            ValueError: for inputs of another shape.
        """
        inputs, built = self._checked(inputs, (None,)), self.layers()
        return jax.vmap(lambda x: _depth.compose(built, x)[0])(inputs)

    def answers(self, inputs: Array) -> Array:
        """The outputs of a batch of sequences (batch, T, features): lines of pixels, or images of one channel."""
        return self(jax.vmap(self.entry)(inputs))

    def entry(self, x: Array) -> Array:
        """One sequence of a task, (T, features), in the form in which `chain` takes it: with an axis of channels."""
        return x[..., None] if x.ndim == self.axes else x

    def chain(self, inputs: Array, **options: Any) -> JacobianChain:
        """The Jacobian chain over depth of one example; ``[1:-1]`` leaves out the first layer and the readout.

        Args:
            inputs: (H, W, channels_in), or (length, channels_in).
            **options: of `jacspec.layer_chain`.

        Returns:
            A `JacobianChain` of length L + 1.

        Raises:
            TypeError: for inputs that are no numeric array.
            ValueError: for inputs of another shape.
        """
        return layer_chain(self.layers(), self._checked(inputs, ()), **options)

    def hidden_chain(self, chain: JacobianChain) -> JacobianChain:
        """The part of its chain between the first layer and the readout."""
        return chain[1:-1]

    def activity(self, inputs: Array) -> list[dict[str, Array]]:
        """For every convolution ``{"slope": f'(a)}``, (..., channels), at one example."""
        return _activity.over_depth(self.chain(inputs, check=False)[:-1])

    def _checked(self, inputs: Array, batch: tuple[None, ...]) -> Array:
        shape = (*batch, *(None,) * self.axes, self.channels_in)
        names = ("batch",) * len(batch) + ("H", "W")[: self.axes] + (str(self.channels_in),)
        return weights.inputs("models.Convolutional", inputs, shape, f"({', '.join(names)})", self.dtype)
