"""Every experiment runs at a tiny size and its figure draws from what came out, with its claims."""

import ast
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

import experiments
from jacspec import plotting

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("closed_forms",)
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in experiments.names()]
# what must hold whatever the size
EXACT = {
    "closed_forms": (
        "1.01^365",
        "0.25^20",
        "largest excess",
        "exponents",
        "time constants",
        "gate table",
        "h*",
        "shears",
    ),
    "extensive_chaos": ("mean exponent from -1", "dynamic mean field"),
    "gradient_decay": ("largest excess", "farthest outside", "jax.grad"),
    "anatomy_time": ("largest excess", "named parts", "T ln |det W|:", "T ln |det W_o|"),
    "anatomy_depth": ("largest excess", "named parts"),
    "lstm_anatomy": (
        "of one step",
        "full Jacobian",
        "one unit",
        "time constants",
        "gate table",
        "largest excess",
        "times 4",
    ),
    "lyapunov_tanh_rnn": ("quadrature",),
    "gated_phase": ("GRU: error of the quadrature", "LSTM: error of the quadrature"),
    "gaussian_products": ("sum of the exponents",),
    "product_density": ("orthogonal factors",),
    "remedy_claims": ("SGD clipped", "Adam on gradients"),
    "error_cliff": ("ln dx_T/dx_0", "longest step", "w <= 2"),
    "bifurcations": ("along both branches", "latched exponents", "from the wall"),
    "smoothness_clipping": ("least L0", "all starts", "t ln 5", "random starts"),
    "residual_universality": ("SkipInit",),
    "sqrt_law": ("from the quadrature", "recursion: ln chi", "tanh, critical: power of depth, recursion"),
    "saxe_dynamics": ("singular values of the Jacobian",),
    "curse_of_memory": ("from the lag terms",),
    "invariance_panel": (
        "entries of the table",
        "as predicted",
        "slope of ln |dL/dW| against",
        "W -> 3 W",
        "all six normalizations",
        "X -> lambda X",
        "|W dL/dW|",
        "|X dL/dX|",
        "ln gradient ratio",
        "power of the deviation",
    ),
    "flossing": ("ln abs det J_t",),
    "training_exponents": ("ln prod f tanh(c)", "ln abs det dh_t", "(automatic)"),
    "width_fluctuations": ("delta-orthogonal convolutions",),
    "universality_classes": ("ends of the laws", "mean 1 and second moment", "distance from 1 - dead units"),
    "nonnormal_transients": ("all couplings and times", "numerical radius", "ln K", "e n K"),
    "jjt_density": (
        "mass of every law",
        "first and second moment",
        "edges (L+1)",
        "Fuss-Catalan",
        "largest abs ln sigma",
    ),
}
MAY_BE_ZERO = {
    "gradient_decay": ("_norms", "_terms", "_smallest", "_largest"),
    "anatomy_time": ("_gains",),
    "anatomy_depth": ("_gains", "_spectra"),
}


@pytest.fixture(scope="module", params=NAMES)
def drawn(request):
    name = request.param
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)  # the time goes into compiling
    try:
        experiment = importlib.import_module(f"experiments.{name}")
        assert experiment.CONFIG.keys() >= experiment.TINY.keys()
        config, calls = experiment.CONFIG | experiment.TINY, []
        data = experiment.run(dict(config), lambda *call: calls.append(call))
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    figure = importlib.import_module(f"figures.{name}")
    with plotting.style():
        fig, claims = figure.draw(data, config)
    return name, data, calls, fig, claims, figure.CAPTION


def test_arrays_are_finite_but_for_the_zeros_that_may_be(drawn):
    name, data, *_ = drawn
    assert data
    for key, array in data.items():
        if array.dtype.kind == "U":
            continue
        assert not np.isposinf(array.astype(float)).any(), key
        if not key.endswith(MAY_BE_ZERO.get(name, ())):
            assert not np.isneginf(array.astype(float)).any(), key
    experiments.refuse_doubt(name, data)


def test_progress_counts_up_to_its_total(drawn):
    calls = drawn[2]
    done = [d for _, d, _ in calls]
    assert done == sorted(done)
    assert calls[-1][1] == calls[-1][2]


def test_claims_are_few_named_and_the_exact_ones_hold(drawn):
    name, _, _, _, claims, _ = drawn
    assert 1 <= len(claims) <= 10
    assert {claim.figure for claim in claims} == {name}
    for words in EXACT.get(name, ()):
        (claim,) = (claim for claim in claims if words in claim.claim)
        assert claim.holds, claim


def test_figure_is_written_with_labeled_axes(drawn, tmp_path):
    name, _, _, fig, _, caption = drawn
    for path in plotting.save_figure(fig, name, tmp_path):
        assert path.stat().st_size > 10_000
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert len(caption.split()) > 50


@pytest.mark.parametrize("name", NAMES)
def test_figure_imports_neither_experiments_nor_jax(name):
    tree = ast.parse((ROOT / "figures" / f"{name}.py").read_text())
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.split(".")[0] in ("experiments", "jax", "jaxlib", "flax", "optax")}
