"""Weights of PyTorch as cells and layers: values against its documented equations and against numbers it gave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_states import GATES, INPUTS, KINDS, STEPS, UNITS, drawn, linear

import jacspec as js


def documented(kind, state, suffix, xs, nonlinearity):
    """The outputs h_t of one layer and direction, by the equations in the documentation of torch.nn, (T, n)."""
    s = lambda a: 1 / (1 + np.exp(-a))
    zero = np.zeros(GATES[kind] * UNITS)
    W_i, W_h = state["weight_ih" + suffix], state["weight_hh" + suffix]
    b_i, b_h = state.get("bias_ih" + suffix, zero), state.get("bias_hh" + suffix, zero)
    h, c, out = np.zeros(UNITS), np.zeros(UNITS), []
    for x in xs:
        A, B = np.split(W_i @ x + b_i, GATES[kind]), np.split(W_h @ h + b_h, GATES[kind])
        if kind == "rnn":
            h = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[nonlinearity](A[0] + B[0])
        elif kind == "lstm":
            i, f, g, o = (a + b for a, b in zip(A, B, strict=True))
            c = s(f) * c + s(i) * np.tanh(g)
            h = s(o) * np.tanh(c)
        else:
            r, z = s(A[0] + B[0]), s(A[1] + B[1])
            h = (1 - z) * np.tanh(A[2] + r * B[2]) + z * h
        out.append(h)
    return np.array(out)


def outputs(step, xs):
    """What the uppermost layer shows at every time, (T, n)."""
    states = js.jacobian_chain(step, None, jnp.asarray(xs)).states
    top = states[-1] if hasattr(step, "steps") else states
    return np.asarray(top[1] if isinstance(top, tuple) else top)[1:]


CASES = [(kind, "tanh") for kind in KINDS] + [("rnn", "relu")]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("kind", "nonlinearity"), CASES)
def test_one_direction_is_what_the_documentation_says(kind, nonlinearity, layers, bias):
    state = drawn(kind, layers, bias=bias)
    step = js.from_torch(state, kind, activation=nonlinearity if kind == "rnn" else None)
    xs = expected = np.random.default_rng(1).normal(size=(STEPS, INPUTS))
    for l in range(layers):
        expected = documented(kind, state, f"_l{l}", expected, nonlinearity)
    np.testing.assert_allclose(outputs(step, xs), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_two_directions_are_what_the_documentation_says(kind, layers):
    state = drawn(kind, layers, 2)
    found = js.from_torch(state, kind)
    assert isinstance(found, tuple if layers == 1 else list)
    xs = expected = np.random.default_rng(1).normal(size=(STEPS, INPUTS))
    for l, (forward, backward) in enumerate([found] if layers == 1 else found):
        xs = np.concatenate([outputs(forward, xs), outputs(backward, xs[::-1])[::-1]], axis=1)
        there = documented(kind, state, f"_l{l}", expected, "tanh")
        back = documented(kind, state, f"_l{l}_reverse", expected[::-1], "tanh")[::-1]
        expected = np.concatenate([there, back], axis=1)
        np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-12)


# torch.nn.{RNN,LSTM,GRU}(1, 2), PyTorch 2.14.1 on a CPU in float64, on the inputs -1, 0.5, 2:
# weight_ih_l0 (row by row), weight_hh_l0, bias_ih_l0, bias_hh_l0, and the outputs (T, n).
GIVEN_BY_TORCH = {
    "rnn": (
        (
            [0.66, 0.29],
            [-0.06, 0.6, 0.21, 0.41],
            [-0.45, -0.21],
            [0.12, -0.3],
        ),
        [-0.7573623242165263, -0.664036770267849, -0.33901599309190095, -0.661963834814716, 0.5463495436023215, -0.2660411127818593],
    ),
    "lstm": (
        (
            [-0.07, -0.46, -0.2, 0.17, -0.03, -0.08, -0.13, -0.42],
            [0.23, 0.4, -0.41, 0.25, -0.55, 0.03, -0.39, 0.08, 0.12, 0.26, 0.35, -0.39, 0.44, 0.18, -0.43, -0.49],
            [-0.03, 0.59, 0.1, -0.03, 0.42, -0.19, -0.32, -0.65],
            [0.35, -0.22, 0.05, -0.05, 0.51, -0.65, 0.7, 0.54],
        ),
        [0.2604123517198689, -0.24168574146564428, 0.323328022590528, -0.19733551480648004, 0.30557815064572125, -0.1219234949697585],
    ),
    "gru": (
        (
            [0.37, -0.35, -0.44, 0.69, 0.4, -0.2],
            [0.09, 0.34, -0.7, 0.12, 0.1, -0.64, -0.48, 0.71, 0.14, -0.5, -0.15, 0.51],
            [-0.55, 0.44, 0.41, 0.42, -0.13, 0.32],
            [-0.69, -0.34, -0.44, -0.48, -0.01, -0.49],
        ),
        [-0.19413196902587188, 0.1475636786850383, -0.05563475100334765, 0.09874328753104472, 0.397477664075391, 0.033904486115861665],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_torch_itself_gave_these_numbers(kind):
    state, expected = GIVEN_BY_TORCH[kind]
    shapes = [(-1, 1), (-1, 2), (-1,), (-1,)]
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    state = {name: np.array(v).reshape(shape) for name, v, shape in zip(names, state, shapes, strict=True)}
    found = outputs(js.from_torch(state, kind), np.array([[-1.0], [0.5], [2.0]]))
    np.testing.assert_allclose(found.ravel(), expected, rtol=0, atol=1e-14)


def test_a_cell_of_torch_and_a_module_inside_a_larger_one_are_found():
    state = drawn("gru", prefix="model.encoder.gru.")
    alone = js.from_torch({name.rpartition(".")[2]: value for name, value in state.items()}, "gru")
    single = {name.rpartition(".")[2].removesuffix("_l0"): value for name, value in state.items()}
    larger = state | {"model.head.weight": np.ones((2, 4)), "model.norm.num_batches_tracked": np.array(3)}
    assert single.keys() == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}  # torch.nn.GRUCell
    other, decoder = drawn("lstm", prefix="model.other."), drawn("gru", prefix="model.decoder.")
    for found in (
        js.from_torch(single, "gru"),
        js.from_torch(larger, "gru"),
        js.from_torch(larger | other, "gru"),
        js.from_torch(larger | decoder, "gru", prefix="model.encoder"),
        js.from_torch(larger | decoder, "gru", prefix="model.encoder.gru."),
    ):
        assert all(jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True))


class Tensor:
    """What is asked of a tensor of PyTorch; like it, it needs `detach` before `numpy`, which knows no bfloat16."""

    def __init__(self, value, dtype="torch.float64", *, free=False):
        self.value, self.dtype, self.shape, self.free = value, dtype, value.shape, free

    def detach(self):
        return Tensor(self.value, self.dtype, free=True)

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.value.astype(np.float32), "torch.float32", free=self.free)

    def numpy(self):
        if not self.free or self.dtype == "torch.bfloat16":
            raise TypeError("Can't convert it")
        return self.value


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.float16, jnp.bfloat16])
def test_arrays_of_every_kind_keep_their_dtype_and_are_copied(dtype):
    state = {name: value.astype(dtype) for name, value in drawn("lstm", bias=False).items()}
    tensors = {name: Tensor(value, f"torch.{jnp.dtype(dtype).name}") for name, value in state.items()}
    arrays = {name: jnp.asarray(value) for name, value in state.items()}
    found = [js.from_torch(weights, "lstm") for weights in (state, tensors, arrays)]
    for value in state.values():
        value[...] = 7  # what is trained on afterwards
    for cell in found:
        assert cell.W.dtype == dtype
        np.testing.assert_array_equal(cell.W.reshape(-1, UNITS), arrays["weight_hh_l0"])
        np.testing.assert_array_equal(cell.U.reshape(-1, INPUTS), arrays["weight_ih_l0"])


def test_linear_layers_in_the_order_of_their_numbers():
    state = linear(*[5] * 13)
    mixed = dict(sorted(state.items()))  # "10.weight" before "2.weight", as files have them
    h = x = np.random.default_rng(3).normal(size=5)
    for l in range(12):
        h = state[f"{2 * l}.weight"] @ h + state[f"{2 * l}.bias"]
        h = h if l == 11 else np.tanh(h)
    chain = js.layer_chain(js.from_torch(mixed, "linear", activation="tanh"), jnp.asarray(x))
    np.testing.assert_allclose(chain.states[-1], h, rtol=0, atol=1e-12)


def test_linear_layers_by_name_alone_or_without_bias():
    state = linear(3, 4, 2, names=("last", "first"))  # in the order of the mapping
    assert [layer.W.shape for layer in js.from_torch(state, "linear", activation="relu")] == [(4, 3), (2, 4)]
    (alone,) = js.from_torch({"weight": np.ones((2, 3)), "bias": np.arange(2.0)}, "linear")
    assert (alone.activation, alone.W.shape, alone.b.tolist()) == ("linear", (2, 3), [0.0, 1.0])
    layers = js.from_torch({"rnn.x": np.ones(2)} | linear(3, 4, 2, names=("net.fc1", "net.fc2"), bias=False), "linear",
                           activation="linear", prefix="net")  # fmt: skip
    assert [layer.b for layer in layers] == [None, None]


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


def changed(state, name, value):
    return state | {name: value}


LSTM = drawn("lstm", 2, prefix="rnn.")
NAN = np.where(np.arange(16 * 4).reshape(16, 4) == 5, np.nan, 0.0)
REFUSED = {
    "an unknown kind": ((LSTM, "lsmt"), r"'kind' is unknown; got 'lsmt'.*mean 'lstm'"),
    "a missing key": (
        (without(LSTM, "rnn.weight_hh_l1"), "lstm"),
        r"'weights\['rnn.weight_hh_l1'\]' is missing; got keys 'rnn.weight_ih_l0'.*\(16, 4\)",
    ),
    "a missing bias": ((without(LSTM, "rnn.bias_hh_l0"), "lstm"), r"rnn.bias_hh_l0.*is missing.*\(16,\)"),
    "a missing direction": (
        (LSTM | {"rnn.weight_ih_l0_reverse": np.ones((16, 3))}, "lstm"),
        r"rnn.weight_hh_l0_reverse.*is missing",
    ),
    "a missing layer": (
        (without(LSTM, *[n for n in LSTM if "l0" in n]), "lstm"),
        r"rnn.weight_hh_l0.*is missing; got keys 'rnn.weight_ih_l1'",
    ),
    "a layer number that none has": (
        (LSTM | {"rnn.weight_ih_l99999999": np.ones((16, 4))}, "lstm"),
        r"rnn.weight_ih_l99999999.*none of the weights of a torch.nn.LSTM",
    ),
    "another kind": ((LSTM, "gru"), r"rnn.weight_hh_l0.*not that of 'gru'; got shape \(16, 4\).*kind='lstm'"),
    "another width": (
        (changed(LSTM, "rnn.weight_hh_l1", np.ones((20, 5))), "lstm"),
        r"rnn.weight_hh_l1.*got shape \(20, 5\), expected \(16, 4\)",
    ),
    "rows that are cut": (
        (changed(LSTM, "rnn.weight_ih_l0", np.ones((15, 3))), "lstm"),
        r"rnn.weight_ih_l0.*got shape \(15, 3\), expected \(16, m\)",
    ),
    "inputs that do not fit the layer below": (
        (changed(LSTM, "rnn.weight_ih_l1", np.ones((16, 3))), "lstm"),
        r"rnn.weight_ih_l1.*got shape \(16, 3\), expected \(16, 4\)",
    ),
    "a matrix for a bias": (
        (changed(LSTM, "rnn.bias_ih_l0", np.ones((1, 16))), "lstm"),
        r"rnn.bias_ih_l0.*got shape \(1, 16\).*\(16,\)",
    ),
    "nothing in it": ((changed(LSTM, "rnn.weight_hh_l0", np.ones((0, 0))), "lstm"), r"weight_hh_l0.*is empty"),
    "a NaN": ((changed(LSTM, "rnn.weight_hh_l1", NAN), "lstm"), r"rnn.weight_hh_l1.*non-finite.*\(1, 1\)"),
    "projections": (
        (LSTM | {"rnn.weight_hr_l0": np.ones((2, 4))}, "lstm"),
        r"rnn.weight_hr_l0.*projects the state \(proj_size\).*proj_size=0",
    ),
    "a left-over": ((LSTM | {"rnn.gamma": np.ones(4)}, "lstm"), r"rnn.gamma.*none of the weights of a torch.nn.LSTM"),
    "two modules": (
        (LSTM | drawn("lstm", prefix="dec."), "lstm"),
        r"'prefix' is needed.*got 'dec', 'rnn'",
    ),
    "two modules, neither of the kind": (
        (drawn("gru", prefix="enc.") | drawn("rnn", prefix="dec."), "lstm"),
        r"'prefix' is needed.*got 'dec', 'enc'",
    ),
    "a module of the kind and one with projections": (
        (LSTM | {"dec.weight_hh_l0": np.ones((16, 2)), "dec.weight_hr_l0": np.ones((2, 4))}, "lstm"),
        r"'prefix' is needed.*got 'dec', 'rnn'",
    ),
    "no module": ((linear(2, 3), "rnn"), r"'weights' hold no rnn; got keys '0.weight', '0.bias'.*kind='linear'"),
    "an empty state dict": (({}, "rnn"), r"hold no rnn; got keys none"),
    "an empty stack": (({}, "linear"), r"'weights' are empty"),
    "an unknown prefix": ((LSTM, "lstm", {"prefix": "rn"}), r"'prefix' begins no name; got 'rn'.*mean 'rnn'"),
    "an activation of a gated cell": ((LSTM, "lstm", {"activation": "relu"}), r"'activation' is not for 'lstm'"),
    "an activation no RNN has": ((drawn("rnn"), "rnn", {"activation": "gelu"}), r"'activation' is unknown; got 'gelu'"),
    "a stack with an untold activation": ((linear(2, 3, 4), "linear"), r"'activation' is not told.*of 2 layers"),
    "an unknown activation": ((linear(2, 3), "linear", {"activation": "rleu"}), r"'activation' is unknown; got 'rleu'.*mean 'relu'"),
    "linear layers that do not follow": (
        (linear(2, 3, 4) | {"2.weight": np.ones((4, 5))}, "linear", {"activation": "relu"}),
        r"2.weight.*got shape \(4, 5\), expected \(m, 3\) after '0.weight' of shape \(3, 2\)",
    ),
    "a normalization between": (
        (linear(2, 3, 4) | {"1.weight": np.ones(3)}, "linear", {"activation": "relu"}),
        r"1.weight.*wrong rank; got shape \(3,\)",
    ),
    "its statistics": ((linear(2, 3) | {"1.running_mean": np.ones(3)}, "linear"), r"1.running_mean.*something else"),
    "a recurrent part of a stack": ((LSTM | linear(2, 3), "linear"), r"rnn.weight_ih_l0.*something else.*prefix"),
    "a bias alone": (({"fc.bias": np.ones(2)}, "linear"), r"fc.weight.*is missing; got the bias 'fc.bias' alone"),
    "another file": (("model.pt", "lstm"), r"got 'model.pt', expected \*.safetensors.*torch.load"),
}  # fmt: skip


class Nowhere(Tensor):
    """A tensor on the meta device."""

    def detach(self):
        return self

    def numpy(self):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")


OF_THE_WRONG_TYPE = {
    "no numbers": (({"weight": Nowhere(np.ones((2, 2)))}, "linear"), r"'weight'.*no tensor of numbers; got.*meta tensor"),
    "a module": ((object(), "lstm"), r"'weights' must map names to arrays; got object.*module.state_dict\(\)"),
    "numbers for names": (({0: np.ones(2)}, "lstm"), r"'weights' must map names to arrays; got dict with other keys"),
    "a list": ((changed(LSTM, "rnn.weight_hh_l0", [[1.0]]), "lstm"), r"rnn.weight_hh_l0.*must be an array; got list"),
    "integers": (({"weight": np.ones((2, 2), int)}, "linear"), r"'weights\['weight'\]' must be floating; got dtype int64"),
    "a prefix": ((LSTM, "lstm", {"prefix": 3}), r"'prefix' must be a string; got int"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_shape(case):
    (weights, kind, *options), pattern = REFUSED[case]
    with pytest.raises(ValueError, match=rf"^jacspec\.from_torch: .*{pattern}"):
        js.from_torch(weights, kind, **(options[0] if options else {}))


@pytest.mark.parametrize("case", OF_THE_WRONG_TYPE)
def test_what_can_never_be_right_is_a_type_error(case):
    (weights, kind, *options), pattern = OF_THE_WRONG_TYPE[case]
    with pytest.raises(TypeError, match=rf"^jacspec\.from_torch: .*{pattern}"):
        js.from_torch(weights, kind, **(options[0] if options else {}))
