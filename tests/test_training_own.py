"""What a user brings to a training: models, regularizers, probes, optimizers, tasks and paths, good ones and bad ones."""

import dataclasses

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jacspec as js
from jacspec import models, training
from jacspec.tasks import Batch, Task
from jacspec.training import _driver

F64 = jnp.float64
ROWS, T = 4, 5
X = np.random.default_rng(0).normal(size=(ROWS, T, 2))
W = np.random.default_rng(1).uniform(size=(ROWS, T)) * (np.arange(ROWS)[:, None] + 0.1)


def first_rows(data, key, count):
    return jax.tree.map(lambda a: a[:count], Batch(*data))


def known(kind="squared", draw=first_rows, **options):
    """Unequal weights at every row and step."""
    shape = (ROWS, T) if kind == "cross_entropy" else (ROWS, T, 1)
    targets = jnp.zeros(shape, int) if kind == "cross_entropy" else jnp.ones(shape)
    options = {"outputs": 1, "data": (jnp.asarray(X), targets, jnp.asarray(W))} | options
    return Task("known", T, 2, kind=kind, baseline=1.0, chance=1.0, draw=draw, **options)


class Net(nnx.Module):
    """An Elman network in Flax: all that `fit` needs."""

    def __init__(self, rngs=None):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.cell = nnx.SimpleCell(2, 3, dtype=F64, param_dtype=F64, rngs=rngs)
        self.out = nnx.Linear(3, 1, dtype=F64, param_dtype=F64, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.RNN(self.cell)(x))


class Chained(Net):
    """What `SpectrumProbe` needs beside."""

    def chain(self, inputs):
        graph, state = nnx.split(self.cell)
        step = lambda h, x: nnx.merge(graph, state, copy=True)(h, x)[0]
        return js.jacobian_chain(step, jnp.zeros(3), inputs)


class Read(Chained):
    """What `GradientProbe` needs beside."""

    def read(self, h):
        return self.out(h)


class Scalar(nnx.Module):
    """w x_1, with what is wrong put in."""

    def __init__(self, f=lambda self, y: y, chain=None):
        self.w, self.f = nnx.Param(jnp.ones((2, 1))), f
        if chain is not None:
            self.chain = chain

    def __call__(self, x):
        return self.f(self, x @ self.w[...])


class Fixed(nnx.Module):
    def __call__(self, x):
        return x[..., :1]


def add_variable(self, y):
    self.extra = nnx.BatchStat(y.sum())
    return y


def change_dtype(self, y):
    self.kept = nnx.BatchStat(jnp.zeros((), jnp.float16))
    return y


def fit(model=None, task=None, optimizer=None, **options):
    options = {"updates": 2, "batch": ROWS, "every": 1, "held_out": ROWS, "success": False} | options
    return training.fit(model or Net(), task or known(), optimizer or optax.sgd(0.1), **options)


# Good ones


def test_one_step_on_unequal_weights_is_that_of_its_equations():
    found = fit(Scalar(), updates=1)
    w = np.ones((2, 1))
    error = X @ w - 1
    loss = np.sum(W * error[..., 0] ** 2) / W.sum()
    g = 2 * np.einsum("rt,rti,rto->io", W, X, error) / W.sum()
    np.testing.assert_allclose(found.model.w[...], w - 0.1 * g, rtol=1e-12)
    np.testing.assert_allclose(found.history["training_loss"][1], loss, rtol=1e-12)
    np.testing.assert_allclose(found.history["loss"][0], loss, rtol=1e-12)
    np.testing.assert_allclose(found.history["gradient_norm"][1], np.linalg.norm(g), rtol=1e-12)


def test_probes_of_a_users_model_are_those_of_the_same_network_of_the_package():
    own = Read()
    ours = models.Recurrent("elman", 2, 3, 1, dtype=F64, rngs=nnx.Rngs(0))
    cell, head = ours.cells[0], ours.head
    cell["W"][...], cell["U"][...] = own.cell.dense_h.kernel[...].T, own.cell.dense_i.kernel[...].T
    head["W"][...], head["b"][...] = own.out.kernel[...].T, own.out.bias[...]
    probes = [training.SpectrumProbe(3, quantity="both"), training.GradientProbe(known())]
    every = jax.jit(lambda model, batch: [probe(model, batch) for probe in probes])
    a, b = (every(model, known().sample(jax.random.key(0), ROWS)) for model in (own, ours))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10), a, b)
    history = fit(own, probes=probes[:2]).history
    assert history["lyapunov_exponents"].shape == (3, 3)
    assert history["log_gradient_norms"].shape == (3, T + 1)


STACKED = models.Recurrent("gru", 2, 3, 1, depth=2, dtype=F64, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("model", [Read(), pytest.param(STACKED, marks=pytest.mark.slow)])
def test_probes_serve_in_anyones_loop(model):
    inputs, targets = jnp.asarray(X), jnp.ones((ROWS, T, 1))
    batch = Batch(inputs, targets, jnp.ones((ROWS, T)))
    spectrum, squared = jax.jit(training.SpectrumProbe(2)), lambda y, t: jnp.mean((y - t) ** 2)
    same = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), a, b)
    same(spectrum(model, inputs), spectrum(model, batch))
    same(spectrum(model, X), spectrum(model, batch))
    same(spectrum(model, inputs[0]), spectrum(model, inputs[:1]))
    gradients = jax.jit(training.GradientProbe(loss=squared))(model, inputs, targets)
    same(gradients, jax.jit(training.GradientProbe(loss=lambda y: squared(y, targets)))(model, inputs))
    same(gradients, jax.jit(training.GradientProbe(known()))(model, batch))


def test_a_chain_of_other_outputs_than_the_models_gives_no_gradient():
    """Where the sizes fit by chance: the answer is marked, not made up."""

    class Other(Read):
        def read(self, h):
            return self.out(h) + 1

    class Last(Chained):  # one answer of as many numbers as the state has
        def __call__(self, x):
            return 2 * nnx.RNN(self.cell)(x)[:, -1]

    probe = training.GradientProbe(loss=jnp.sum)
    for model in (Other(), Last()):
        assert np.isnan(probe(model, jnp.asarray(X))["log_gradient_norms"]).all()


def test_a_deep_model_is_asked_on_vectors_and_on_sequences():
    model = models.Deep(2 * T, 4, 1, depth=3, dtype=F64, rngs=nnx.Rngs(0))
    vectors = jnp.asarray(X.reshape(ROWS, -1))
    probes = [training.SpectrumProbe(2, examples=1), training.GradientProbe(loss=jnp.sum)]
    every = jax.jit(lambda x: [probe(model, x) for probe in probes])
    jax.tree.map(np.testing.assert_array_equal, every(vectors), every(jnp.asarray(X)))
    alone = jax.jit(training.ActivityProbe())
    jax.tree.map(np.testing.assert_array_equal, alone(model, vectors[0]), alone(model, vectors[:1]))


def test_an_optimizer_that_asks_for_the_loss_function_is_given_it():
    optimizer = optax.lbfgs()
    loss = lambda w: known().loss(jnp.asarray(X) @ w, Batch(*known().data))
    w = jnp.ones((2, 1))
    state, losses = optimizer.init(w), []
    for _ in range(3):
        value, g = jax.value_and_grad(loss)(w)
        losses.append(value)
        updates, state = optimizer.update(g, state, w, value=value, grad=g, value_fn=loss)
        w = optax.apply_updates(w, updates)
    found = fit(Scalar(), optimizer=optax.lbfgs(), updates=3)
    np.testing.assert_allclose(found.model.w[...], w, rtol=1e-10)
    np.testing.assert_allclose(found.history["training_loss"][1:], losses, rtol=1e-10)


def test_numbers_serve_as_results():
    probe = lambda model, batch: {"float": 1.0, "int": 2, "bool": True, "array": jnp.arange(2)}
    found = fit(Scalar(), regularizer=lambda model, batch: 1.5, probes=[probe], updates=1)
    plain = fit(Scalar(), updates=1)
    np.testing.assert_allclose(found.history["training_loss"][1], plain.history["training_loss"][1] + 1.5)
    assert [found.history[name].tolist() for name in ("float", "int", "bool")] == [[1.0] * 2, [2] * 2, [True] * 2]
    assert found.history["array"].shape == (2, 2)


class Scheduled(nnx.Module):
    """Its losses are given, one an update."""

    def __init__(self, losses):
        self.w, self.done = nnx.Param(jnp.zeros(())), nnx.BatchStat(jnp.zeros((), int))
        self.roots = tuple(np.sqrt(losses).tolist())
        self.learns = True

    def eval(self):
        self.learns = False

    def __call__(self, x):
        y = jnp.asarray(self.roots)[self.done[...]]
        if self.learns:
            self.done[...] = self.done[...] + 1
        return jnp.full((*x.shape[:2], 1), 1 + y) + self.w[...]


@pytest.mark.parametrize(
    ("losses", "explodes"),
    [
        ([1.0, 1, 1, 9, 9.5, 20, 1], 5),  # ten times the median of all before, not of the last
        ([1.0, 9, 9.5, 9, 20, 50, 1], None),
        ([9.0] * 20 + [1.0] * 17 + [80.0, 1], 37),  # of the last 32: 15 of 9 and 17 of 1
        ([9.0] * 20 + [1.0] * 15 + [80.0, 1], None),  # 17 of 9 and 15 of 1
        ([0.01, 0.02, 0.9, 1.1, 1], 3),  # the baseline, .1, where it is larger
    ],
)
def test_a_jump_is_measured_by_the_median_of_the_last_32_losses_and_the_baseline(losses, explodes):
    task = dataclasses.replace(known(), baseline=0.1)
    found = fit(Scheduled(losses), task, optax.sgd(0.0), updates=len(losses) - 1, every=50, jump=10.0)
    assert (found.status, found.updates) == ("exploded", explodes) if explodes else ("finished", len(losses) - 1)


def test_it_is_solved_where_the_metric_equals_the_criterion():
    found = fit(Scalar(), success=1.0)
    assert (found.metric, found.status, found.solved_at) == (1.0, "solved", 0)


# Bad ones

MODELS = {
    "no module": (lambda x: x, TypeError, "got function, expected Module.*flax.nnx.Module with model.inputs. -> outputs"),
    "Linen": (linen.Dense(1), TypeError, "'model' is of the wrong type; got Dense.*flax.nnx.Module"),
    "no parameters": (Fixed(), ValueError, "'model' has no parameters; got Fixed.*nnx.Param"),
    "no array": (Scalar(lambda self, y: {"y": y}), TypeError, "returns no floating array; got dict.*batch, T, features"),
    "integers": (Scalar(lambda self, y: y.astype(int)), TypeError, "returns no floating array; got dtype int64"),
    "features": (Scalar(lambda self, y: y @ jnp.ones((7, 7))), TypeError, "fails when it is called; got TypeError: dot"),
    "shape": (Scalar(lambda self, y: y[:, :3]), ValueError, r"does not fit the task; got outputs \(4, 3, 1\)"),
    "attribute": (Scalar(lambda self, y: self.nothing), TypeError, "AttributeError: 'Scalar' object has no attribute"),
    "dropout": (Scalar(lambda self, y: nnx.Dropout(0.5)(y)), ValueError, "ValueError: .*rngs.*Dropout"),
    "its own error": (Scalar(lambda self, y: 1 / 0), ValueError, "ZeroDivisionError: division by zero"),
    "a branch": (Scalar(lambda self, y: y if y[0, 0, 0] > 0 else -y), TypeError, "TracerBoolConversionError"),
    "new variable": (Scalar(add_variable), ValueError, "changes the form of its variables.*extra.*in __init__"),
}  # fmt: skip
NESTED = {"x": {"y": jnp.ones(2)}}
PROBES = {
    "no chain": (training.SpectrumProbe(3), Net(), "'model' has no Jacobian chain; got Net, expected a method chain"),
    "no array": (training.SpectrumProbe(3), Scalar(chain=lambda x: x), "'model' returns no Jacobian chain; got .*Scalar"),
    "failing": (training.SpectrumProbe(3), Scalar(chain=lambda: 0), r"'model' fails when it is called.*shape \(5, 2\)"),
    "gradient": (training.GradientProbe(known()), Net(), "'model' has no Jacobian chain"),
    "no read": (training.GradientProbe(known()), Chained(), r"has another chain than outputs; got 3 num.*needs a method read"),
    "activity": (training.ActivityProbe(), Net(), "'model' has no activity; got Net"),
    "k": (training.SpectrumProbe(4), Chained(), r"'k' is out of range; got 4, expected 1\.\.3"),
    "transient": (training.SpectrumProbe(2, transient=9), Read(), "'transient'"),
    "loss": (training.GradientProbe(loss=lambda y: y), Read(), "'loss' is no real number; got float64 of shape"),
    "loss of three": (training.GradientProbe(loss=lambda a, b, c: a), Read(), "'loss' fails when it is called"),
    "nested": (lambda m, b: NESTED, Net(), r"'probes\[0\]' returns what is no real array; got 'x': \['y'\]"),
    "list": (lambda m, b: {"x": [1.0]}, Net(), r"'probes\[0\]' returns what is no real array"),
    "complex": (lambda m, b: {"x": 1j}, Net(), r"'probes\[0\]' returns what is no real array; got 'x': complex.*apart"),
    "key": (lambda m, b: {1: 1.0}, Net(), r"'probes\[0\]' returns what is no real array; got 1"),
    "string": (lambda m, b: {"x": "y"}, Net(), r"'probes\[0\]' fails when it is called; got TypeError"),
    "arguments": (lambda m: {"x": 1}, Net(), r"'probes\[0\]' fails when it is called; got TypeError.*probe\(model, batch\)"),
    "None": (None, Net(), r"'probes\[0\]' fails when it is called"),
    "twice": (lambda m, b: {"seconds": 1.0}, Net(), r"a name that is taken; got \['seconds'\]"),
}  # fmt: skip
REGULARIZERS = {
    "None": (lambda m, b: None, "'regularizer' returns no number; got NoneType"),
    "vector": (lambda m, b: jnp.ones(2), r"'regularizer' returns no number; got float64\[2\]"),
    "complex": (lambda m, b: 1j, "'regularizer' returns no number; got complex128"),
    "string": (lambda m, b: "a", "'regularizer' fails when it is called; got TypeError"),
    "dict": (lambda m, b: {"a": 1.0}, "'regularizer' returns no number"),
    "arguments": (lambda m: 1.0, r"'regularizer' fails when it is called; got TypeError.*regularizer\(model, batch\)"),
    "attribute": (lambda m, b: m.nothing, "AttributeError: .*nothing"),
}


def growing_state():
    init, update = lambda p: (), lambda g, s, p=None: (g, (*s, jnp.zeros(())))
    return optax.GradientTransformation(init, update)


OPTIMIZERS = {
    "asks for more": (optax.contrib.sophia(0.1), "'optimizer' fails when it is called.*obj_fn.*value_fn="),
    "raises": (optax.GradientTransformation(lambda p: (), lambda g, s, p=None: 1 / 0), "ZeroDivisionError"),
    "grows": (growing_state(), "'optimizer' makes a state that changes its form"),
    "one array": (optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (jnp.ones(3), s)), "'optimizer'"),
}
BIG = 2**31
NUMBERS = {
    "patience": ({"patience": 2**40}, r"'patience' is out of range; got 1099511627776, expected 0\.\.2147483647"),
    "updates": ({"updates": BIG}, "'updates' is out of range"),
    "every": ({"every": 2**70}, "'every' is out of range"),
    "batch": ({"batch": 99999999999999}, "'batch' is out of range"),
    "batch in memory": ({"batch": BIG - 1}, "'batch' does not fit into memory; got 2147483647 sequences"),
    "held_out": ({"held_out": BIG - 1}, "'held_out' does not fit into memory"),
}


def batches(**changed):
    """A task whose batches have other parts than it says."""
    good = {"inputs": (T, 2), "targets": (T, 1), "weights": (T,)} | changed
    return known(draw=lambda data, key, count: Batch(*(jnp.ones((count, *shape)) for shape in good.values())))


def classed(value, outputs=1):
    targets = jnp.zeros((ROWS, T), int).at[1, 2].set(value)
    return known("cross_entropy", data=(jnp.asarray(X), targets, jnp.asarray(W)))


TASKS = {
    "no Batch": (known(draw=lambda data, key, count: (1, 2)), "'task' draws no Batch; got tuple"),
    "arguments": (known(draw=lambda data, key: 0), r"'task' fails when it is called.*draw\(data, key, count\)"),
    "inputs": (batches(inputs=(T,)), r"draws inputs of another form; got float64\(2, 5\), expected .*\(2, 5, 2\)"),
    "targets": (batches(targets=(T,)), "draws targets of another form"),
    "weights": (batches(weights=(T, 1)), "draws weights of another form"),
    "floating classes": (known("cross_entropy", data=(jnp.asarray(X), jnp.ones((ROWS, T)), jnp.asarray(W))), "targets of"),
    "class": (classed(7), r"asks for a class that there is not; got 7, expected 0\.\.0"),
    "negative class": (classed(-1), "asks for a class that there is not; got -1"),
    "no weights": (known(data=(jnp.asarray(X), jnp.ones((ROWS, T, 1)), jnp.zeros((ROWS, T)))), "asks for nothing"),
}  # fmt: skip
SINGLE = models.Recurrent("elman", 2, 3, 1, rngs=nnx.Rngs(0))
WIDE = known(data=(jnp.asarray(X * 1e39), jnp.ones((ROWS, T, 1)), jnp.asarray(W)))
CASES = {f"model: {name}": ({"model": model}, kind, text) for name, (model, kind, text) in MODELS.items()}
CASES |= {f"probe: {name}": ({"model": m, "probes": [probe]}, None, text) for name, (probe, m, text) in PROBES.items()}
CASES |= {f"regularizer: {name}": ({"regularizer": r}, TypeError, text) for name, (r, text) in REGULARIZERS.items()}
CASES |= {f"optimizer: {name}": ({"optimizer": o}, ValueError, text) for name, (o, text) in OPTIMIZERS.items()}
CASES |= {f"number: {name}": (options, ValueError, text) for name, (options, text) in NUMBERS.items()}
CASES |= {f"task: {name}": ({"model": Scalar(), "task": task}, None, text) for name, (task, text) in TASKS.items()}
CASES["cast"] = (
    {"model": SINGLE, "task": WIDE},
    ValueError,
    r"inputs beyond float32, the dtype of the model; got .*e\+3",
)


@pytest.fixture
def _untrained(monkeypatch):
    monkeypatch.setattr(_driver.Program, "start", lambda *args: pytest.fail("training has begun"))


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("name", CASES)
def test_what_cannot_work_is_refused_by_name_before_the_first_update(name):
    options, kind, text = CASES[name]
    with pytest.raises((TypeError, ValueError) if kind is None else kind, match=text) as caught:
        fit(**options)
    told = str(caught.value)
    assert told.startswith("jacspec.")
    assert "argument '" in told
    assert len(told) < 900


def test_a_device_without_memory_is_told_as_the_size_of_the_batch(monkeypatch):
    def full(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(_driver.Program, "advance", full)
    with pytest.raises(
        MemoryError, match=r"'batch' needs too much memory; got RESOURCE_EXHAUSTED.*9 bytes.*smaller batch"
    ):
        fit(Scalar())


PATHS = {
    "log is a directory": ("log", "", ValueError, "'log' is a directory"),
    "log through a file": ("log", "plain/log", ValueError, "'log' leads through .*plain, which is a file"),
    "log without a name": ("log", None, ValueError, "'log' is no path; got ''"),
    "log with NUL": ("log", "a\0b", ValueError, "'log' is no path"),
    "log too long": ("log", "a" * 300, ValueError, "'log' cannot be used"),
    "checkpoint is a file": ("checkpoint", "plain", ValueError, "'checkpoint' is a file"),
    "checkpoint through a file": ("checkpoint", "plain/x/y", ValueError, "'checkpoint' leads through .*plain"),
    "checkpoint without rights": (
        "checkpoint",
        "locked/x",
        PermissionError,
        "'checkpoint' cannot be written: no right",
    ),
}


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_cannot_be_written_is_refused_before_the_first_update(name, tmp_path, monkeypatch):
    argument, path, kind, text = PATHS[name]
    (tmp_path / "plain").write_text("")
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: "locked" not in str(path))
    with pytest.raises(kind, match=text):
        fit(**{argument: "" if path is None else str(tmp_path) + "/" + path})
    with pytest.raises(ValueError, match="'log' is the directory of the checkpoint"):
        fit(log=tmp_path / "new", checkpoint=tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["locked", "plain"]


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"seeds": 5}, TypeError, r"'seeds' must be numbers; got 5.*range\(5\)"),
        ({"seeds": "12"}, TypeError, "'seeds' must be numbers"),
        ({"make": lambda: None}, TypeError, r"'make' fails when it is called.*make\(rngs\)"),
        ({"make": lambda rngs: None}, TypeError, "'model' is of the wrong type; got NoneType"),
    ],
)
def test_bad_seeds_and_makers_are_refused(change, kind, text):
    given = {"make": lambda rngs: Net(rngs), "task": known(), "optimizer": optax.sgd(0.1), "seeds": [0], "updates": 1}
    with pytest.raises(kind, match=text):
        training.fit_seeds(**given | change)


PROBE, ACTIVITY = training.SpectrumProbe(2), training.ActivityProbe


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: PROBE(Read(), [1.0]), TypeError, "SpectrumProbe: argument 'inputs' are no array of numbers; got list"),
        (lambda: PROBE(Read(), np.array(["a"])), TypeError, "'inputs' are no array of numbers; got dtype <U1"),
        (lambda: PROBE(Read(), jnp.ones((0, T, 2))), ValueError, "'inputs' hold no examples"),
        (lambda: PROBE(Read(), jnp.ones(2)), ValueError, "'inputs' hold no examples"),
        (lambda: PROBE(Read(), jnp.ones((1, T, 3))), TypeError, r"'step' fails at h = float64\[3\], x = float64\[3\]"),
        (lambda: PROBE(SINGLE, jnp.ones((1, T, 3))), ValueError, r"'inputs' do not fit; got shape \(5, 3\)"),
        (lambda: PROBE(Net(), jnp.asarray(X)), TypeError, "'model' has no Jacobian chain; got Net"),
        (lambda: training.GradientProbe(), TypeError, r"'loss' or a task.*got neither.*GradientProbe\(loss="),
        (lambda: training.GradientProbe(known(), loss=jnp.sum), TypeError, "got both"),
        (lambda: training.GradientProbe(loss=3), TypeError, "'loss' must be callable"),
        (lambda: training.GradientProbe(known())(Read(), jnp.asarray(X)), TypeError, "'inputs' have no targets"),
        (lambda: ACTIVITY(slope="a"), TypeError, "'slope' must be a number"),
        (lambda: ACTIVITY(gate=2), ValueError, "'gate' is out of range"),
    ],
)
def test_what_a_probe_cannot_answer_is_refused_by_name(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_a_threshold_below_the_dtype_still_counts_what_is_exactly_shut():
    """1 - 1e-10 is 1 and 1e-50 is 0 in float32: a gate that is 1 and a slope that is 0 are within both."""
    shut = models.Recurrent("lstm", 2, 3, 1, forget_bias=200.0, rngs=nnx.Rngs(0))
    found = ACTIVITY(gate=1e-10)(shut, jnp.asarray(X, jnp.float32))
    assert found["saturated_forget"].tolist() == [1.0]
    dead = models.Deep(2 * T, 3, 1, depth=1, activation="relu", gain=0.0, rngs=nnx.Rngs(0))
    assert ACTIVITY(slope=1e-50)(dead, jnp.asarray(X, jnp.float32))["saturated"].tolist() == [1.0]


def test_a_protocol_names_every_method_that_is_asked_for():
    for protocol, methods in {"Model": {"__call__"}, "ChainModel": {"chain"}, "ReadModel": {"read"}}.items():
        owner = getattr(training, protocol)
        assert methods <= vars(owner).keys()
        assert all(vars(owner)[name].__doc__ for name in methods)
    assert dataclasses.is_dataclass(training.SpectrumProbe)


class Elsewhere(Read):
    """A network whose chain is not that of its outputs, or fails, and which does not say what its states are."""

    fails = False

    def chain(self, inputs):
        if self.fails:
            raise RuntimeError("not today")
        return js.jacobian_chain(lambda h, x: 1e30 * h + 1, jnp.ones(3, inputs.dtype), inputs, check=False)


@pytest.mark.parametrize("fails", [False, True])
def test_an_explosion_is_not_traced_through_a_chain_that_nobody_vouches_for(fails):
    model = type("Model", (Elsewhere,), {"fails": fails})()
    found = fit(model, optimizer=optax.sgd(1e200), updates=9, every=1, jump=None, success=False)
    assert found.status == "exploded"
    assert found.trace.state_log_norms is None
    assert "state" not in found.trace.where


def test_a_trace_that_fails_does_not_cost_the_training():
    members = {"fails": True, "layer_states": lambda self, h: (h,)}
    found = fit(
        type("Model", (Elsewhere,), members)(), optimizer=optax.sgd(1e200), updates=9, every=1, jump=None, success=False
    )
    assert (found.status, found.trace.kind) == ("exploded", "unknown")
    assert "the trace did not succeed" in found.trace.where


def test_a_layer_called_hidden_chain_is_no_method():
    model = Chained()
    model.hidden_chain = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    probe = training.SpectrumProbe(1)
    inputs = jnp.ones((2, 3, 2))
    np.testing.assert_array_equal(*(next(iter(probe(m, inputs).values())) for m in (model, Chained())))
