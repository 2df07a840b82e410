"""Experiments read the package's numbers with their marks, and refuse what is not known where it may not be."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
import jacspec as js
from experiments import _spectra
from experiments._known import known

FOLDER = Path(experiments.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "_known")
QUESTIONS = {
    "spectrum",
    "log_singular_values",
    "lyapunov_exponents",
    "adjoints",
    "parameter_gradient_by_lag",
    "parameter_gradient_norms",
}
VALUES = {"log_singular_values", "rates", "exponents", "history", "standard_error", "log_norms", "by_parameter"}
VALUES |= {"step_total", "driver_totals"}


def is_known(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "known"


def assigned(function):
    """What every name is set to in a function: names that stand for `known(...)`, and names whose marks are read.

    The history of a `fit` holds what its probes returned, in which the same is looked for.
    """
    safe = {"fit"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            safe |= {t.id for t, value in pairs if isinstance(t, ast.Name) and is_known(value)}
        if isinstance(node, ast.Attribute) and node.attr == "resolved" and isinstance(node.value, ast.Name):
            safe.add(node.value.id)
    return safe


def bare_reads(source):
    """Lines at which a value is read of what is neither `known(...)` nor a name that stands for it or has its marks read."""
    tree = ast.parse(source)
    found = set()
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    for function in [*functions, *[n for n in tree.body if n not in functions]]:
        safe = assigned(function)
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute):
                continue
            base = node.value
            module = isinstance(base, ast.Name) and base.id in ("js", "jacspec")
            if module and node.attr == "log_singular_values":
                found.add(node.lineno)  # it drops the marks
            read = is_known(base) or (isinstance(base, ast.Name) and base.id in safe)
            if not module and node.attr in VALUES and not read:
                found.add(node.lineno)
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and str(n.module).startswith("jacspec")]
    found |= {n.lineno for n in imports if {alias.name for alias in n.names} & QUESTIONS}
    return sorted(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_experiment_reads_a_value_without_its_mark(path):
    assert bare_reads(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f(c):\n    return js.log_singular_values(c)", [2]),
        ("def f(c):\n    return js.spectrum(c).log_singular_values", [2]),
        ("def f(c):\n    found = js.lyapunov_exponents(c)\n    return found.exponents[0]", [3]),
        ("def f(c):\n    t, found = 1, js.adjoints(c)\n    return found.log_norms", [3]),
        ("def f(c):\n    return jacspec.parameter_gradient_norms(c).step_total", [2]),
        ("from jacspec import spectrum", [1]),
        (
            "def f(c):\n    found = known(js.spectrum(c))\n    return found.rates\ndef g(found):\n    return found.rates",
            [5],
        ),
        ("def f(c):\n    return known(js.spectrum(c)).log_singular_values", []),
        ("def f(c):\n    found = js.spectrum(c)\n    return found.rates, found.resolved", []),
    ],
)
def test_the_walk_finds_what_it_looks_for(source, lines):
    assert bare_reads(source) == lines


def singular():
    """A product of which the precision cannot see the smallest value."""
    low = np.random.default_rng(2).standard_normal((8, 6, 5)) @ np.random.default_rng(3).standard_normal((8, 5, 6))
    return jnp.asarray(low)


def test_a_value_that_is_not_resolved_is_not_a_number():
    Js = singular()
    found = js.spectrum(js.JacobianChain.from_matrices(Js))
    assert 0 < found.resolved.sum() < 6
    for values in (
        known(found).log_singular_values,
        jax.jit(jax.vmap(lambda J: known(js.spectrum(js.JacobianChain.from_matrices(J))).log_singular_values))(
            Js[None]
        )[0],
    ):
        assert np.isnan(values).tolist() == (~found.resolved).tolist()
        np.testing.assert_array_equal(np.asarray(values)[found.resolved], found.log_singular_values[found.resolved])
    rates = js.lyapunov_exponents(js.JacobianChain.from_matrices(Js))
    assert 0 < rates.resolved.sum() < 6
    for name in ("exponents", "standard_error", "history"):
        assert np.isnan(getattr(known(rates), name)[..., ~rates.resolved]).all()
    np.testing.assert_array_equal(known(rates).history[:, rates.resolved], rates.history[:, rates.resolved])


def test_gradients_that_cancel_are_not_numbers():
    norm = js.layers.LayerNorm()
    chain = js.layer_chain([norm], jnp.arange(5.0))
    found = js.adjoints(chain, jnp.ones(5))  # of a sum, whose mean the layer removes
    assert found.resolved.tolist() == [False, True]
    assert np.isnan(known(found).log_norms).tolist() == [True, False]

    def step(h, w):
        return norm(w * h)

    args = (step, jnp.arange(1, 6.0), jnp.linspace(1, 2, 10).reshape(2, 5), jnp.ones(5))
    totals = js.parameter_gradient_norms(*args)
    assert not np.any(totals.resolved.driver_totals)
    assert np.isnan(np.asarray(known(totals).driver_totals)).all()

    args = (js.cells.Elman(jnp.eye(5), b=jnp.zeros(5)), jnp.arange(5.0) / 9, None, jnp.ones(5))
    lags = js.parameter_gradient_by_lag(*args, length=3)
    planted = lags.__class__(
        **{**vars(lags), "resolved": lags.resolved.at[1].set(False)}
        | {"resolved_by_parameter": jax.tree.map(lambda r: r.at[2].set(False), lags.resolved_by_parameter)}
    )
    assert np.isnan(known(planted).log_norms).tolist() == [False, True, False]
    assert np.isnan(known(planted).by_parameter.W).tolist() == [False, False, True]


def test_growth_in_no_direction_needs_only_what_counts():
    found = _spectra.from_the_end(jnp.stack([singular(), jnp.tile(jnp.eye(6), (8, 1, 1))]), (8,))
    logs = np.asarray(found.log_singular_values)
    want = np.log(np.mean(np.exp(2 * logs), axis=-1)) / 2
    np.testing.assert_allclose(_spectra.isotropic(found), want, atol=1e-9)  # the unresolved one is far below
    doubted = found.__class__(**{**vars(found), "resolved": found.resolved.at[1, 0, 5].set(False)})
    assert np.isnan(_spectra.isotropic(doubted)).tolist() == [[False], [True]]


def test_an_experiment_that_finds_what_it_may_not_is_refused(monkeypatch, tmp_path):
    module = __import__("experiments.product_density", fromlist=["run"])
    monkeypatch.setattr(module, "run", lambda config, progress: {"log": np.array([0.0, np.nan]), "t": np.arange(2)})
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    with pytest.raises(experiments.DoubtfulResult, match=r"experiments\.product_density: .*1 of 2 in 'log'"):
        experiments.execute("product_density", lambda *call: None)
    assert not list(tmp_path.rglob("*.npz"))
    monkeypatch.setattr(module, "MAY_BE_NAN", ("log",), raising=False)
    experiments.refuse_doubt("product_density", {"log": np.array([np.nan])})
    experiments.refuse_doubt("product_density", {"other": np.array(["text"]), "flag": np.array([True])})
