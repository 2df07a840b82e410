"""What a user brings to a training and cannot work: it is refused by name before anything is compiled."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from users_models import ROWS, Chained, Fixed, Net, Read, Scalar, T, W, X, add_variable, fit, known

from jacspec import models, training
from jacspec.tasks import Batch
from jacspec.training import _driver

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
    "no read": (training.GradientProbe(known()), Chained(), r"has a chain that does not end in its outputs; got 3 num.*needs a method read"),
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
