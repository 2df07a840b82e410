"""A deep network of dense layers: plain or residual, with or without normalization.

    plain       h_l = g(W_l h_{l-1} + b_l),                 y = C h_L + c
    residual    h_1 = W_1 x + b_1,    h_l = h_{l-1} + alpha_l (W_l g(h_{l-1}) + b_l),    y = C g(h_L) + c

g is the activation f and the normalization N in either order: f(N(a)) ("before" the activation) or N(f(a)) ("after").
The residual form is that of pre-activation ResNets, with identities from the first to the last layer. Weight and cosine
normalization act inside W h. The layers are `jacspec.layers`, built from the parameters on every call.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jacspec import activations, layers
from jacspec._ground import checks, laws
from jacspec._ground.arithmetic import norms
from jacspec.activations import Activation
from jacspec.chain import JacobianChain, layer_chain
from jacspec.layers.elementwise import Elementwise
from jacspec.models import _activity, _depth, weights

OF_STATES = ("batch", "layer", "rms")
OF_WEIGHTS = ("weight", "cosine", "centered_cosine")
COSINE_EPSILON = 1e-6  # a layer that is all zero (dead ReLU) has no cosine


class Deep(nnx.Module):
    """Dense layers of given widths and a linear readout.

    Parameters: ``blocks[l]``, L of them and the readout last, each with W and b; ``scale`` and ``bias`` of the
    normalization before or after; g of the weight and cosine ones; ``alpha`` of a residual branch. BatchNorm also keeps
    ``mean`` and ``variance`` as `nnx.BatchStat`. In training mode (the default, or `model.train()`) it normalizes with
    those of the batch and every call moves the running ones; after `model.eval()` it uses them.

    Args:
        features: numbers the input has.
        width: n with `depth`, or the sequence of widths n_1 ... n_L.
        outputs: numbers the readout has.
        depth: L, number of hidden layers; None if `width` is a sequence.
        kind: "plain" or "residual" (equal widths).
        normalization: None, "batch", "layer", "rms", "weight", "cosine" or "centered_cosine".
        position: "before" or "after" the activation, for the first three.
        activation: f.
        initialization: law of the weights: "orthogonal", "identity", "glorot", "he", "gaussian", or "critical" and
            "critical_orthogonal", Gaussian and orthogonal on the edge of chaos of a network without normalization. The
            readout is Gaussian. With weight normalization W at the start is that of the law; cosines have g = 1.
        gain: factor of that law: sigma_w for "gaussian"; 1 is on the edge for the critical ones.
        bias_variance: sigma_b^2 of the hidden layers.
        branch_scale: alpha at the start, a parameter: 0 is SkipInit; None is 1 / sqrt(number of branches).
        momentum: of the running statistics: the share that stays.
        dtype: of the parameters and of all that is computed.
        rngs: `nnx.Rngs`; the stream ``params`` is used.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for unknown names (the nearest is given), or arguments that contradict one another.

    Reference: K. He et al., arXiv 1603.05027 (pre-activation); S. De, S. L. Smith, NeurIPS 2020 (SkipInit); S. Schoenholz
        et al., arXiv 1611.01232 (critical).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> from flax import nnx
        >>> from jacspec.models import Deep
        >>> model = Deep(4, 8, 2, depth=3, kind="residual", branch_scale=0.0, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((5, 4))).shape
        (5, 2)
        >>> js.log_singular_values(model.chain(jnp.ones(4))[1:-1]).tolist()  # the two residual blocks
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        features: int,
        width: int | Sequence[int],
        outputs: int,
        *,
        depth: int | None = None,
        kind: str = "plain",
        normalization: str | None = None,
        position: str = "before",
        activation: str | Activation = "tanh",
        initialization: str = "orthogonal",
        gain: float = 1.0,
        bias_variance: float = 0.0,
        branch_scale: float | None = None,
        momentum: float = 0.9,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "models.Deep"
        dtype = laws.checked_dtype(name, dtype)
        checks.one_of(name, "kind", kind, ("plain", "residual"))
        checks.one_of(name, "normalization", normalization, (None, *OF_STATES, *OF_WEIGHTS))
        checks.one_of(name, "position", position, ("before", "after"))
        checks.one_of(name, "initialization", initialization, weights.LAWS)
        activations.get(activation, function=name)
        if position == "after" and normalization not in OF_STATES:
            want = " or ".join(map(repr, OF_STATES))
            raise ValueError(
                checks.message(name, "position", "needs a normalization of states", repr(normalization), want)
            )
        if branch_scale is not None and kind != "residual":
            raise ValueError(checks.message(name, "branch_scale", "needs kind='residual'", branch_scale, "None"))
        self.features, widths = checks.integer(name, "features", features, 1), _widths(name, width, depth)
        if kind == "residual" and len(set(widths)) > 1:
            raise ValueError(checks.message(name, "width", "changes along residual layers", widths, "equal widths"))
        self.kind, self.normalization, self.position, self.activation = kind, normalization, position, activation
        self.momentum = weights.number(name, "momentum", momentum, 0, 1)
        self.dtype, self.use_running_average = dtype, False

        rngs = weights.streams(name, rngs)
        variance = weights.number(name, "bias_variance", bias_variance, 0)
        gain = weights.number(name, "gain", gain, 0, dtype=dtype)
        gain = weights.critical_gain(name, initialization, gain, activation, bias_variance=variance)
        branches = max(1, len(widths) - 1)
        alpha = (
            1 / math.sqrt(branches)
            if branch_scale is None
            else weights.number(name, "branch_scale", branch_scale, dtype=dtype)
        )
        self.blocks = nnx.List([])
        for l, (n, m) in enumerate(zip((self.features, *widths), widths, strict=False)):
            W = weights.draw(initialization, rngs.params(), (m, n), dtype, gain)
            block = {"W": W, "b": laws.noise(rngs.params(), m, dtype, variance)}
            if normalization in OF_WEIGHTS:
                block["g"] = norms(W) if normalization == "weight" else jnp.ones(m, dtype)
            if kind == "residual" and l:
                block["alpha"] = jnp.asarray(alpha, dtype)
            self.blocks.append(self._variables(block, m if kind == "plain" else n if l else None))
        outputs = checks.integer(name, "outputs", outputs, 1)
        head = weights.draw("gaussian", rngs.params(), (outputs, widths[-1]), dtype, 1.0)
        block = {"W": head, "b": jnp.zeros(outputs, dtype)}
        self.blocks.append(self._variables(block, widths[-1] if kind == "residual" else None))
        weights.finite(name, self)

    def _variables(self, values: dict[str, Array], n: int | None) -> nnx.Dict:
        """A block's variables, with those of a normalization of n units."""
        held: dict[str, nnx.Variable] = {key: nnx.Param(value) for key, value in values.items()}
        if n is not None and self.normalization in OF_STATES:
            held["scale"] = nnx.Param(jnp.ones(n, self.dtype))
            if self.normalization != "rms":
                held["bias"] = nnx.Param(jnp.zeros(n, self.dtype))
            if self.normalization == "batch":
                held["mean"] = nnx.BatchStat(jnp.zeros(n, self.dtype))
                held["variance"] = nnx.BatchStat(jnp.ones(n, self.dtype))
        return nnx.Dict(held)

    @property
    def joint(self) -> bool:
        """Whether the examples of a batch act on one another."""
        return self.normalization == "batch" and not self.use_running_average

    def _affine(self, p: dict[str, Array], activation: str | Activation = "linear") -> Any:
        """f(W h + b), with weight or cosine normalization if the model has it."""
        if "g" not in p:
            return layers.Dense(p["W"], p["b"], activation)
        if self.normalization == "weight":
            return layers.WeightNorm(p["W"], p["g"], p["b"], activation)
        centered = self.normalization == "centered_cosine"
        return layers.CosineNorm(p["W"], p["g"], p["b"], activation, centered, COSINE_EPSILON)

    def _nonlinear(self, p: dict[str, Array]) -> list[Any]:
        """g: the activation and the normalization, in their order."""
        f = Elementwise(self.activation)
        if "scale" not in p:
            return [f]
        if self.normalization == "batch" and self.use_running_average:
            normalize: Any = layers.BatchNorm(p["scale"], p["bias"], 1e-5, p["mean"], p["variance"], "eval")
        elif self.normalization == "batch":
            normalize = layers.BatchNorm(p["scale"], p["bias"])
        else:
            normalize = layers.RMSNorm(p["scale"]) if "bias" not in p else layers.LayerNorm(p["scale"], p["bias"])
        return [normalize, f] if self.position == "before" else [f, normalize]

    def _built(self, joint: bool) -> list[Any]:
        """The blocks as layers, on one example, or (`joint`) on a batch that is one state."""
        each = layers.PerExample if joint else lambda layer: layer
        held = [{key: value[...] for key, value in block.items()} for block in self.blocks]
        first, *hidden, head = held
        if self.kind == "residual":
            branch = lambda p: layers.Sequential(*self._nonlinear(p), each(self._affine(p)))
            inside = [layers.Residual(branch(p), p["alpha"]) for p in hidden]
            last = layers.Sequential(*self._nonlinear(head), each(layers.Dense(head["W"], head["b"])))
            return [each(self._affine(first)), *inside, last]
        plain = [
            layers.Sequential(each(self._affine(p)), *self._nonlinear(p))
            if "scale" in p
            else each(self._affine(p, self.activation))
            for p in (first, *hidden)
        ]
        return [*plain, each(layers.Dense(head["W"], head["b"]))]

    def layers(self, inputs: Array) -> list[Any]:
        """The layers for `layer_chain`: L of them, and the readout.

        Args:
            inputs: the first state: one example (features,), or a batch (batch, features) that is one state. With
                BatchNorm in training mode only the second has a Jacobian.

        Returns:
            Layers with analytic Jacobians, whose composition is the network; nothing in the model changes.
        """
        batch = inputs.ndim == 2
        joint = batch and self.joint
        built = self._built(joint)
        return [layers.PerExample(layer) for layer in built] if batch and not joint else built

    def __call__(self, inputs: Array) -> Array:
        """The outputs of a batch.

        Args:
            inputs: (batch, features).

        Returns:
            (batch, outputs).

        Raises:
            TypeError: for inputs that are no numeric array.
            ValueError: for inputs of another shape, or a batch of one with BatchNorm in training mode.
        """
        text = f"(batch, {self.features})"
        inputs = weights.inputs("models.Deep", inputs, (None, self.features), text, self.dtype)
        built = self._built(self.joint)
        if not self.joint:
            return jax.vmap(lambda x: _depth.compose(built, x)[0])(inputs)
        out, seen = _depth.compose(built, inputs)
        for block, statistics in zip(self.blocks, seen, strict=True):
            for now in statistics:
                for key, value in zip(("mean", "variance"), now, strict=True):
                    block[key][...] = self.momentum * block[key][...] + (1 - self.momentum) * value
        return out

    def answers(self, inputs: Array) -> Array:
        """The outputs of a batch of sequences (batch, T, features), of T * features numbers each."""
        return self(jax.vmap(self.entry)(inputs))

    def entry(self, x: Array) -> Array:
        """One sequence of a task, (T, features), in the form in which `chain` takes it: a vector."""
        return x.reshape(-1)

    def chain(self, inputs: Array, **options: Any) -> JacobianChain:
        """The Jacobian chain over depth, from the input to the outputs; ``[1:-1]`` leaves out both ends.

        Args:
            inputs: (features,), or (batch, features) as one state.
            **options: of `jacspec.layer_chain`.

        Returns:
            A `JacobianChain` of length L + 1; nothing in the model changes.

        Raises:
            TypeError: for inputs that are no numeric array.
            ValueError: for inputs of another shape, or one example with BatchNorm in training mode.
        """
        shape = (None, self.features)[-getattr(inputs, "ndim", 1) :]
        text = f"({self.features},) or (batch, {self.features})"
        inputs = weights.inputs("models.Deep", inputs, shape, text, self.dtype)
        return layer_chain(self.layers(inputs), inputs, **options)

    def hidden_chain(self, chain: JacobianChain) -> JacobianChain:
        """The part of its chain between the first layer and the readout."""
        return chain[1:-1]

    def activity(self, inputs: Array) -> list[dict[str, Array]]:
        """For every layer with an activation ``{"slope": f'(a)}``, (..., n), at one example or at a batch."""
        hidden = self.chain(inputs, check=False)[:-1]
        return _activity.over_depth(hidden, *inputs.shape[:-1])


def _widths(name: str, width: Any, depth: Any) -> tuple[int, ...]:
    """n_1 ... n_L."""
    if isinstance(width, Sequence) and not isinstance(width, str):
        if depth is not None or not width:
            text = checks.message(name, "width", "is a sequence of L >= 1 widths and replaces depth", (width, depth))
            raise ValueError(text)
        return tuple(checks.integer(name, f"width[{l}]", n, 1) for l, n in enumerate(width))
    n = checks.integer(name, "width", width, 1)
    if depth is None:
        raise ValueError(checks.message(name, "depth", "is missing", None, "a number of layers, or a list of widths"))
    return (n,) * checks.integer(name, "depth", depth, 1)
