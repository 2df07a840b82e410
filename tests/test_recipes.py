"""A cell, a layer, a remedy and a figure of one's own, added from outside the package: the recipes of ARCHITECTURE.md.

The document shows the lines between the rulers below, and a test compares the two.
"""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jacspec as js
from jacspec import activations, comparison, models, plotting, tasks, training
from jacspec.models import recurrent
from jacspec.operators import GatedSum, Scaled
from jacspec.results import Claim

ROOT = Path(__file__).resolve().parent.parent
TASK = tasks.adding(10)
BUDGET = {"width": 4, "updates": 4, "batch": 4, "seeds": 1}
F64 = jnp.float64

# ---- a cell ----


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Antisymmetric:
    """h_t = h_{t-1} + RATE f(a_t), a_t = A h_{t-1} + U x_t + b, A = W - W^T;  J_t = I + RATE diag(f'(a_t)) A."""

    W: jax.Array  # (n, n)
    U: jax.Array | None = None  # (n, m)
    b: jax.Array | None = None  # (n,)
    activation: str = dataclasses.field(default="tanh", metadata={"static": True})

    RATE = 0.1

    def preactivation(self, h, x=None):
        a = jnp.matmul(self.W - self.W.T, h, precision="highest")  # TF32 would ruin a spectrum
        a = a if x is None else a + jnp.matmul(self.U, x, precision="highest")
        return a if self.b is None else a + self.b  # (n,)

    def __call__(self, h, x=None):
        return h + self.RATE * activations.get(self.activation)(self.preactivation(h, x))

    def jacobian(self, h, x=None):
        slope = activations.get(self.activation).derivative(self.preactivation(h, x))
        A = self.RATE * (self.W - self.W.T)
        return GatedSum(jnp.ones_like(h), slope[None], A[None], ("kept", "slope"))  # diag(1) + diag(slope) A


FAMILY = recurrent.Family(Antisymmetric)  # recurrent.FAMILIES["antisymmetric"] = FAMILY: `models.Recurrent` knows it
ROW = comparison.Remedy("antisymmetric", cell="antisymmetric")  # js.compare(task, ["none", ROW])

# ---- a layer ----


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """h' = f(a), a = Q h + b, with Q = (I + A)^-1 (I - A) orthogonal, A = W - W^T;  J = diag(f'(a)) Q."""

    W: jax.Array  # (n, n)
    b: jax.Array  # (n,)
    activation: str = dataclasses.field(default="tanh", metadata={"static": True})

    def weight(self):
        A, eye = self.W - self.W.T, jnp.eye(len(self.W), dtype=self.W.dtype)
        return jnp.linalg.solve(eye + A, eye - A)

    def preactivation(self, h):
        return jnp.matmul(self.weight(), h, precision="highest") + self.b

    def __call__(self, h):
        return activations.get(self.activation)(self.preactivation(h))

    def jacobian(self, h):
        return Scaled(activations.get(self.activation).derivative(self.preactivation(h)), self.weight())


class OrthogonalNet(models.Deep):
    """A `Deep` network whose hidden layers are orthogonal; `chain`, `hidden_chain` and `activity` follow from `layers`."""

    def layers(self, inputs):
        first, *hidden, head = super().layers(inputs)
        return [first, *(Orthogonal(dense.W, dense.b, dense.activation) for dense in hidden), head]

    def __call__(self, inputs):
        return jax.vmap(lambda x: functools.reduce(lambda h, layer: layer(h), self.layers(x), x))(inputs)


@dataclasses.dataclass(frozen=True)
class OrthogonalLayers(comparison.Remedy):
    """A row with a model of one's own: js.compare(task, ["none", OrthogonalLayers()], depth=8)."""

    text: str = dataclasses.field(default="orthogonal layers", compare=False)
    orthogonal: bool = True  # a field that is not None or False is what tells the row from others

    def model(self, deep, **arguments):
        return OrthogonalNet(**arguments)


# ---- a remedy ----


def centralize():
    """Gradient centralization (Yong et al. 2020): every row of the gradient of a weight matrix gets the mean 0."""
    return optax.stateless_with_tree_map(lambda g, _: g - g.mean(-1, keepdims=True) if g.ndim > 1 else g)


@dataclasses.dataclass(frozen=True)
class Centralized(comparison.Remedy):
    """A row of its own: js.compare(task, ["none", Centralized()])."""

    text: str = dataclasses.field(default="centralized", compare=False)
    centralized: bool = True  # a field that is not None or False is what tells the row from others

    def clipping(self):
        return [*super().clipping(), centralize()]


# ---- a figure ----

# experiments/saturation.py: what is computed
CONFIG = {"seed": 0, "width": 50, "steps": 30, "gains": [0.5, 1.0, 2.0]}
FULL, TINY = {"width": 400}, {"width": 5}


def run(config, progress):
    """Log of the largest singular value, (gain, t)."""
    n, T, curves = config["width"], config["steps"], []
    W = js.initializers.orthogonal(jax.random.key(config["seed"]), n, float)
    for done, gain in enumerate(config["gains"]):
        progress(f"gain {gain}", done, len(config["gains"]))
        chain = js.jacobian_chain(js.cells.Elman(gain * W), jnp.zeros(n), length=T)
        curves.append(js.spectrum(chain, at=range(1, T + 1)).log_singular_values[:, 0])
    progress("done", len(curves), len(curves))
    return {"largest": np.stack(curves)}


# figures/saturation.py: what is drawn, from the arrays alone
CAPTION = "Largest singular value of a tanh network at the origin: it grows by the gain at every step."


def draw(data, config):
    fig, ax = plotting.figure()
    ax.plot(np.arange(1, config["steps"] + 1), data["largest"].T)
    ax.set(xlabel="step $t$", ylabel=r"$\ln\,\sigma_1$ (nats)")
    expected = config["steps"] * np.log(config["gains"][-1])
    measured = data["largest"][-1, -1]
    row = {"claim": "ln sigma_1 at the end", "source": "T ln g", "expected": expected, "measured": measured}
    return fig, [Claim(figure="saturation", tolerance=1e-9, **row)]


# ---- what they give ----


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[-1]))


def test_the_cell_has_the_spectrum_of_its_closed_form_and_of_autodiff():
    """Linear, J = I + RATE A is normal with eigenvalues 1 +- i RATE w: T log |1 + i RATE w| to T n = 240 roundings."""
    W, U, xs = normal(6, 6), normal(6, 2), normal(40, 2)
    chain = js.jacobian_chain(Antisymmetric(W, U, activation="linear"), jnp.ones(6), xs)
    w = np.linalg.eigvals(np.asarray(W - W.T)).imag
    want = np.sort(20 * np.log1p((0.1 * w) ** 2))[::-1]
    np.testing.assert_allclose(js.spectrum(chain).log_singular_values, want, rtol=0, atol=1e-13)

    cell = Antisymmetric(W, U, jnp.ones(6))
    analytic, automatic = (js.jacobian_chain(cell, jnp.ones(6), xs, jacobian=kind) for kind in ("analytic", "autodiff"))
    np.testing.assert_allclose(analytic.dense(), automatic.dense(), rtol=0, atol=1e-14)
    norms = [js.log_gradient_norms(chain, jnp.ones(6)) for chain in (analytic, automatic)]
    np.testing.assert_allclose(*norms, rtol=0, atol=1e-13)
    assert set(cell.jacobian(jnp.ones(6), xs[0]).factors) == {"kept", "slope", "slope weight"}


def test_the_layer_keeps_every_length_where_it_is_linear_and_agrees_with_autodiff():
    layers = [Orthogonal(normal(6, 6, seed=k), jnp.ones(6), "linear") for k in range(20)]
    chain = js.layer_chain(layers, jnp.ones(6))
    np.testing.assert_allclose(js.spectrum(chain).log_singular_values, 0, atol=1e-13)
    np.testing.assert_allclose(js.log_gradient_norms(chain, jnp.ones(6)), np.log(6) / 2, atol=1e-13)

    layers = [dataclasses.replace(layer, activation="tanh") for layer in layers[:4]]
    analytic, automatic = (js.layer_chain(layers, jnp.ones(6), jacobian=kind) for kind in ("analytic", "autodiff"))
    np.testing.assert_allclose(analytic.dense(), automatic.dense(), rtol=0, atol=1e-14)
    assert set(layers[0].jacobian(jnp.ones(6)).factors) == {"slope", "weight"}


PROBES = [training.SpectrumProbe(2), training.GradientProbe(TASK), training.ActivityProbe()]


@jax.jit
def probed(model):
    batch = TASK.sample(jax.random.key(0), 4)
    return {name: value for probe in PROBES for name, value in probe(model, batch).items()}


def test_probes_and_a_row_of_the_cell(monkeypatch):
    monkeypatch.setitem(recurrent.FAMILIES, "antisymmetric", FAMILY)
    model = models.Recurrent("antisymmetric", TASK.features, 4, TASK.outputs, readout="last", rngs=nnx.Rngs(0))
    found = probed(model)
    assert_finite(found, lyapunov_exponents=(2,), log_gradient_norms=(TASK.length + 1,), saturated=(1,), dead=(1,))
    (row,) = js.compare(TASK, [ROW], **BUDGET).rows
    assert_whole(row, "antisymmetric")


def test_probes_and_a_row_of_the_layer(tmp_path):
    model = OrthogonalNet(TASK.length * TASK.features, 4, TASK.outputs, depth=3, rngs=nnx.Rngs(0))
    found = probed(model)
    assert_finite(found, log_singular_values=(2,), log_gradient_norms=(5,), saturated=(3,), dead=(3,))
    linear = OrthogonalLayers(activation="linear")
    (row,) = js.compare(TASK, [linear], depth=3, store=tmp_path, **BUDGET).rows
    assert_whole(row, "orthogonal layers")
    (plain,) = js.compare(
        TASK, [comparison.Remedy("none", activation="linear")], depth=3, store=tmp_path, **BUDGET
    ).rows
    assert not np.allclose(plain.exponents_before, 0)
    nameless = type("Nameless", (comparison.Remedy,), {"__module__": "nowhere"})("nameless")
    with pytest.raises(ValueError, match="'remedies' has code of its own; got Nameless of nowhere"):
        js.compare(TASK, [nameless], depth=3, store=tmp_path, **BUDGET)
    rounding = 64 * np.finfo(np.float32).eps  # of Q, its product with a vector, and one QR: tens of operations a layer
    np.testing.assert_allclose([row.exponents_before, row.exponents_after], 0, atol=rounding)


def test_training_with_the_remedy_keeps_what_it_cannot_move():
    """Under gradient descent the sum of every row of weights stays: each update adds a few roundings of a row of 4."""
    model = models.Recurrent("elman", TASK.features, 4, TASK.outputs, readout="last", dtype=F64, rngs=nnx.Rngs(0))
    optimizer = optax.chain(centralize(), optax.sgd(0.1))
    found = training.fit(model, TASK, optimizer, updates=2, every=1, batch=4, held_out=4, probes=PROBES[:2])
    old, new = (jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (model, found.model))
    matrices = [(a, b) for a, b in zip(old, new, strict=True) if a.ndim > 1]
    for a, b in matrices:
        np.testing.assert_allclose(a.sum(-1), b.sum(-1), rtol=0, atol=1e-14)
    assert max(float(jnp.abs(a - b).max()) for a, b in matrices) > 1e-4
    assert_finite(found.history, lyapunov_exponents=(3, 2), log_gradient_norms=(3, TASK.length + 1))


def test_a_row_of_the_remedy():
    none, row = js.compare(TASK, ["none", Centralized()], **BUDGET).rows
    assert_whole(row, "centralized")
    assert row.loss != none.loss
    np.testing.assert_array_equal(row.exponents_before, none.exponents_before)


def assert_finite(found, **shapes):
    for name, shape in shapes.items():
        assert found[name].shape == shape
        assert np.isfinite(found[name]).all(), name


def assert_whole(row, name):
    assert row.remedy == name
    assert row.status.tolist() == ["finished"]
    for value in (row.loss, row.exponents_before, row.exponents_after, row.slope_before, row.slope_after):
        assert np.isfinite(value).all()


def test_the_figure_draws_from_its_arrays_and_claims_a_number(tmp_path):
    calls, config = [], CONFIG | TINY
    data = run(config, lambda *call: calls.append(call))
    with plotting.style():
        fig, (claim,) = draw(data, config)
        assert all(path.stat().st_size > 5000 for path in plotting.save_figure(fig, "saturation", tmp_path))
    assert claim.holds, claim
    assert calls[-1][1] == calls[-1][2]
    assert CAPTION


def blocks(text):
    """The Python of the recipes in a text of ARCHITECTURE.md."""
    recipes = text.partition("\n## Recipes\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", recipes, re.DOTALL)


def own_lines():
    """This file's recipes, by name."""
    source = Path(__file__).read_text()
    parts = re.split(r"^# ---- (.*) ----\n", source, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))


def test_architecture_shows_these_lines():
    own = own_lines()
    del own["what they give"]
    shown = [block.strip() for block in blocks((ROOT / "ARCHITECTURE.md").read_text())]
    assert shown == list(own.values())


@pytest.mark.parametrize("name", ["a cell", "a layer", "a remedy", "a figure"])
def test_a_recipe_is_short(name):
    assert len([line for line in own_lines()[name].splitlines() if line.strip()]) < 40
