"""A recurrent network: stacked cells between the input and a linear readout.

    h^1_t = cell_1(h^1_{t-1}, E x_t),    h^l_t = cell_l(h^l_{t-1}, y^{l-1}_t),    output_t = C y^L_t + c

where y^l is the output of a layer: its state, or h of an LSTM's (c, h). Classifier, regressor and language model are this
one class: they differ in the loss, and in whether every time or the last one is read. The cells are `jacspec.cells`, built
from the parameters on every call, so that the step that is trained is the step whose Jacobian is taken.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jacspec import activations, cells, initializers, layers
from jacspec._ground import checks, laws
from jacspec._ground.arithmetic import matmul
from jacspec._ground.pytree import pytree, static
from jacspec.activations import Activation
from jacspec.cells import lru
from jacspec.chain import JacobianChain, jacobian_chain, stack
from jacspec.models import _activity, weights
from jacspec.typing import State, Step


class Family(NamedTuple):
    """What is known of a kind of cell where its initial values are made.

    Attributes:
        build: the cell.
        gates: number of recurrent matrices; None for a single one without that axis.
        keeps: index in b, (gates, n), of the gate that keeps the state; ``...`` where b has no axis of gates; None without
            such a gate.
        enters: the same for the gate that lets the new in, where it is another one.
        critical: its architecture in `initializers.critical`, if there is one.
        options: further arguments.
    """

    build: Any
    gates: int | None = None
    keeps: Any = None
    enters: int | None = None
    critical: str | None = None
    options: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "elman": Family(cells.Elman, critical="tanh_rnn"),
    "leaky_elman": Family(cells.LeakyElman, options=("rate",)),
    "lstm": Family(cells.LSTM, cells.LSTM.gate_count, cells.LSTM.keeping_gate, 0, critical="lstm", options=("gate",)),
    "gru": Family(cells.GRU, cells.GRU.gate_count, cells.GRU.keeping_gate, critical="gru", options=("gate", "form")),
    "mgu": Family(cells.MGU, cells.MGU.gate_count, cells.MGU.keeping_gate, options=("gate", "reset_gate")),
    "minimal_rnn": Family(cells.MinimalRNN, keeps=cells.MinimalRNN.keeping_gate, options=("gate",)),
    "lru": Family(cells.LRU, options=("r_min", "r_max")),
}


@pytree
class WithOutput:
    """A cell whose output is f of its whole state as one vector: of the real and imaginary parts of an `LRU`."""

    cell: Any
    activation: str | Activation = static(default="tanh")

    def __call__(self, h: State, x: Array | None = None) -> State:
        """The next state."""
        return self.cell(h, x)

    def jacobian(self, h: State, x: Array | None = None) -> Any:
        """The step Jacobian of the cell."""
        return self.cell.jacobian(h, x)

    def initial_state(self, x: Array | None = None) -> State:
        """That of the cell."""
        return self.cell.initial_state(x)

    def output(self, h: State) -> Array:
        """f(re, im), (2n,): without f a stack of linear recurrences would be one."""
        return activations.get(self.activation)(jnp.concatenate(h))


class Recurrent(nnx.Module):
    """Cells of one kind, stacked, with a linear readout.

    Parameters: ``cells[l]`` (those of the cell, by its names), ``head`` (W, b), and ``embedding`` (E). Input weights
    are Gaussian of variance input_gain^2 / n_in, readout and E of 1 / n_in, and biases 0 unless said otherwise.

    Args:
        cell: "elman", "leaky_elman", "lstm", "gru", "mgu", "minimal_rnn" or "lru".
        features: m, numbers a step of the input has; for tokens their number, with one-hot rows as inputs.
        width: n, units a layer.
        outputs: numbers the readout has.
        depth: number of layers.
        readout: "every" time or only the "last".
        embedding: None, or the rank of the input weights of the first layer: U E x with a shared E.
        activation: of the state or the candidate; of an LRU, of its output.
        initialization: law of the recurrent weights, each gate by itself: "orthogonal", "identity" (with ReLU the IRNN),
            "glorot", "he", "gaussian", "critical" (elman, lstm and reset-after gru) or "critical_orthogonal" (elman).
            None: orthogonal, and for the LRU its own law, eigenvalues uniform on the ring r_min < abs(lambda) < r_max.
        gain: factor of that law; 1 is on the edge of chaos for the critical ones.
        input_gain: of the input weights.
        forget_bias: initial bias of the gate that keeps the state (for the Cho GRU, minus that of z).
        chrono: None, or T_max of `initializers.chrono` for that gate, and for the LSTM's input gate.
        dtype: of the parameters and of all that is computed.
        rngs: `nnx.Rngs`; the stream ``params`` is used.
        **options: of the cell: `rate` (leaky_elman), `gate`, `form` (gru), `reset_gate` (mgu), `r_min`, `r_max` (lru).

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for unknown names (the nearest is given), options that the cell lacks or that contradict one another.

    Reference: Q. V. Le et al., arXiv 1504.00941 (identity); C. Tallec, Y. Ollivier, ICLR 2018 (chrono); A. Orvieto et
        al., arXiv 2303.06349 (ring).

    Example:
        >>> import jax.numpy as jnp, jacspec as js
        >>> from flax import nnx
        >>> from jacspec.models import Recurrent
        >>> model = Recurrent("lstm", 3, 8, 2, forget_bias=1.0, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((20, 3))).shape, js.log_singular_values(model.chain(jnp.zeros((20, 3)))).shape
        ((20, 2), (16,))
    """

    def __init__(
        self,
        cell: str,
        features: int,
        width: int,
        outputs: int,
        *,
        depth: int = 1,
        readout: str = "every",
        embedding: int | None = None,
        activation: str | Activation = "tanh",
        initialization: str | None = None,
        gain: float = 1.0,
        input_gain: float = 1.0,
        forget_bias: float | None = None,
        chrono: float | None = None,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        name = "models.Recurrent"
        dtype = laws.checked_dtype(name, dtype)
        checks.one_of(name, "cell", cell, FAMILIES)
        checks.one_of(name, "readout", readout, ("every", "last"))
        sizes = {"features": features, "width": width, "outputs": outputs, "depth": depth}
        sizes = {argument: checks.integer(name, argument, value, 1) for argument, value in sizes.items()}
        activations.get(activation, function=name)
        self.cell, self.readout, self.activation = cell, readout, activation
        self.features, self.width, self.dtype = sizes["features"], sizes["width"], dtype
        for option in options:
            checks.one_of(name, f"an option of {cell!r}", option, FAMILIES[cell].options)
        self.options = tuple(sorted(options.items()))

        rngs = weights.streams(name, rngs)
        input_gain = weights.number(name, "input_gain", input_gain, 0, dtype=dtype)
        forget_bias, chrono = self._keep_gate(name, {"forget_bias": forget_bias, "chrono": chrono})
        law, gain = self._law(name, initialization, gain, forget_bias, chrono)
        bias = lambda: self._keep_bias(forget_bias, chrono, rngs)
        normal = lambda gain, *shape: weights.draw("gaussian", rngs.params(), shape, dtype, gain)
        n, n_out, n_in = self.width, self.width * (1 + (cell == "lru")), self.features
        if embedding is None:
            self.embedding = None
        else:
            n_in = checks.integer(name, "embedding", embedding, 1)
            self.embedding = nnx.Param(normal(1.0, n_in, self.features))
        self.cells = nnx.List([])
        for _ in range(sizes["depth"]):
            if cell == "lru":
                keys = [rngs.params() for _ in range(3)]
                values = lru.ring(name, keys, n, n_in, dtype, input_gain, **options)
            else:
                gates = FAMILIES[cell].gates
                lead = () if gates is None else (gates,)
                values = {"W": weights.draw(law, rngs.params(), (*lead, n, n), dtype, gain)}
                values |= {"U": normal(input_gain, *lead, n, n_in), "b": bias()}
            if cell == "minimal_rnn":
                values |= {"V": normal(input_gain, n, n), "c": jnp.zeros(n, dtype)}
            self.cells.append(nnx.Dict({key: nnx.Param(value) for key, value in values.items()}))
            n_in = n_out
        count = sizes["outputs"]
        self.head = nnx.Dict(W=nnx.Param(normal(1.0, count, n_out)), b=nnx.Param(jnp.zeros(count, dtype)))
        self.steps()  # the cells check their own options
        weights.finite(name, self)

    def _keep_gate(self, name: str, given: dict[str, Any]) -> tuple[float | None, float | None]:
        """The two options that set the bias of the gate that keeps the state, checked."""
        for argument, value in given.items():
            if value is not None and FAMILIES[self.cell].keeps is None:
                text = f"needs a gate that keeps the state, and {self.cell!r} has none"
                raise ValueError(checks.message(name, argument, text))
        forget_bias, chrono = (
            v if v is None else weights.number(name, k, v, dtype=self.dtype) for k, v in given.items()
        )
        if forget_bias is not None and chrono is not None:
            text = checks.message(name, "chrono", "and forget_bias set the same bias", expected="one of them")
            raise ValueError(text)
        return forget_bias, chrono

    def _law(self, name: str, law: str | None, gain: float, forget_bias: Any, chrono: Any) -> tuple[str, float]:
        """The law of the recurrent weights and its gain."""
        gain, family = weights.number(name, "gain", gain, 0, dtype=self.dtype), FAMILIES[self.cell]
        if self.cell == "lru":
            if law is not None or gain != 1:
                argument, got = ("gain", gain) if law is None else ("initialization", repr(law))
                hint = "Choose its ring with r_min and r_max."
                raise ValueError(checks.message(name, argument, "is not for 'lru'", got, hint=hint))
            return "", gain
        law = "orthogonal" if law is None else law
        checks.one_of(name, "initialization", law, weights.LAWS)
        if not law.startswith("critical"):
            return law, gain
        known = family.critical and dict(self.options).get("form") != "reset_before"
        if not known or chrono is not None or (law == "critical_orthogonal" and self.cell != "elman"):
            want = "elman, lstm or the reset-after gru, without chrono ('critical_orthogonal': elman)"
            text = checks.message(name, "initialization", "is not known for this cell", f"{law!r}, {self.cell!r}", want)
            raise ValueError(text)
        arguments: dict[str, Any] = {"architecture": family.critical}
        if family.gates is not None:
            arguments["gate_bias"] = forget_bias
        return law, weights.critical_gain(name, law, gain, self.activation, **arguments)

    def _keep_bias(self, forget_bias: float | None, chrono: float | None, rngs: nnx.Rngs) -> Array:
        """b, zero but for the gate that keeps the state."""
        family, n = FAMILIES[self.cell], self.width
        b = jnp.zeros((n,) if family.gates is None else (family.gates, n), self.dtype)
        sign = -1 if dict(self.options).get("form") == "reset_before" else 1
        if forget_bias is not None:
            return b.at[family.keeps].set(sign * forget_bias)
        if chrono is None:
            return b
        keep, enter = initializers.chrono(rngs.params(), n, chrono, self.dtype)
        b = b.at[family.keeps].set(sign * keep)
        return b if family.enters is None else b.at[family.enters].set(enter)

    def _cell(self, parameters: Any, embedding: Array | None) -> Step:
        """One layer's cell; U E is the input weight of one that sees the input itself."""
        values = {name: value[...] for name, value in parameters.items()}
        input_weight = "B" if self.cell == "lru" else "U"
        if embedding is not None:
            values[input_weight] = matmul(values[input_weight], embedding)
        if self.cell == "lru":
            return WithOutput(cells.LRU(**values), self.activation)
        return FAMILIES[self.cell].build(**values, activation=self.activation, **dict(self.options))

    def steps(self) -> list[Step]:
        """The step of every layer, lowest first, as `step` composes them."""
        embedding = None if self.embedding is None else self.embedding[...]
        return [self._cell(p, None if l else embedding) for l, p in enumerate(self.cells)]

    @property
    def step(self) -> Step:
        """(h, x) -> h with x of shape (features,): the cell, or for depth > 1 the `stack` of cells.

        One cell brings its analytic ``jacobian``. A snapshot of the parameters: ask again after an update.
        """
        return _sweep(self.steps())

    def initial_state(self) -> State:
        """The zero state of the cell, (n,) where it names none; the tuple of the layers' states for depth > 1."""
        zero = lambda: jnp.zeros(self.width, self.dtype)
        states = [getattr(step, "initial_state", zero)() for step in self.steps()]
        return tuple(states) if len(states) > 1 else states[0]

    def __call__(self, inputs: Array) -> Array:
        """The outputs of one sequence; a batch belongs outside, to `jax.vmap`.

        Args:
            inputs: (T, features).

        Returns:
            (T, outputs), or (outputs,) with ``readout="last"``.

        Raises:
            TypeError: for inputs that are no numeric array.
            ValueError: for inputs of another shape.
        """
        steps = self.steps()
        step, read = _sweep(steps), self._reader(steps)
        start, inputs = self.initial_state(), self._checked(inputs)
        if self.readout == "last":
            return read(lax.scan(lambda h, x: (step(h, x), None), start, inputs)[0])
        states = lax.scan(lambda h, x: (step(h, x),) * 2, start, inputs)[1]
        return jax.vmap(read)(states)

    def answers(self, inputs: Array) -> Array:
        """The outputs of a batch (batch, T, features)."""
        return jax.vmap(lambda x: self(x))(inputs)

    def entry(self, x: Array) -> Array:
        """One sequence of a task, (T, features), in the form in which `chain` takes it: as it is."""
        return x

    def read(self, h: State) -> Array:
        """The outputs at a state: h_t -> y_t, (outputs,)."""
        return self._reader(self.steps())(h)

    def _reader(self, steps: list[Step]) -> Any:
        output = getattr(steps[-1], "output", lambda h: h)
        head = layers.Dense(self.head["W"][...], self.head["b"][...])
        return lambda h: head(output(h if len(steps) == 1 else h[-1]))

    def chain(self, inputs: Array, **options: Any) -> JacobianChain:
        """The Jacobian chain of the state along one sequence, from the zero state.

        Args:
            inputs: (T, features).
            **options: of `jacspec.jacobian_chain`.

        Returns:
            A `JacobianChain` of length T; for depth > 1 its state is the tuple of all layers' states.

        Raises:
            TypeError: for inputs that are no numeric array.
            ValueError: for inputs of another shape, or with NaN or Inf.
        """
        return jacobian_chain(self.step, self.initial_state(), self._checked(inputs), **options)

    def layer_states(self, h: State) -> tuple[State, ...]:
        """The states of the layers, lowest first, in a state of the chain."""
        return h if len(self.cells) > 1 else (h,)

    def activity(self, inputs: Array) -> list[dict[str, Array]]:
        """For every layer ``{"slope": f'(a)}``, (T, n), or its gates by name, along one sequence (T, features)."""
        states = self.chain(inputs, store=False, check=False).states
        return _activity.over_time(self.steps(), self.layer_states(states), inputs)

    def _checked(self, inputs: Array) -> Array:
        text = f"(T, {self.features}), one sequence; a batch goes through jax.vmap"
        return weights.inputs("models.Recurrent", inputs, (None, self.features), text, self.dtype)


def _sweep(steps: list[Step]) -> Step:
    """One step through all layers."""
    return steps[0] if len(steps) == 1 else stack(*steps)
