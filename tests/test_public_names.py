"""The public names: what there is, what loads when, and what a type checker makes of them."""

import ast
import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jacspec as js

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "JacobianChain", "jacobian_chain", "layer_chain", "stack", "over_time", "batched",
    "spectrum", "Spectrum", "log_singular_values", "lyapunov_exponents", "LyapunovSpectrum",
    "adjoints", "log_gradient_norms", "parameter_gradient_by_lag", "parameter_gradient_norms",
    "from_flax", "from_torch", "cells", "layers", "activations", "initializers", "theory", "remedies", "training",
    "tasks", "models", "compare", "comparison", "dissect", "plotting", "results", "__version__",
]  # fmt: skip
LATE = ("flax", "optax", "matplotlib", "orbax", "rich", "jacspec.plotting", "jacspec.training")
WRONG = (
    "js.spectrums", "js.tasks.addingg", "js.theory.meanfield", "js.importlib", "js.from_flax(1, 2, 3)", "js.cells.Elmann",
    "js.models.Recurent", "js.training.fitt", "js.plotting.figur", "from jacspec import spectrun",
)  # fmt: skip


def test_the_public_names_are_these():
    assert sorted(js.__all__) == dir(js) == sorted(NAMES)
    for name in NAMES:
        assert getattr(js, name) is not None
    assert callable(js.compare)
    assert callable(js.from_flax)
    assert js.theory.scalar.__name__ == "jacspec.theory.scalar"


@pytest.mark.parametrize(("name", "near"), [("spectrums", "spectrum"), ("from_flex", "from_flax"), ("task", "tasks")])
def test_an_unknown_name_is_answered_by_the_nearest(name, near):
    with pytest.raises(
        AttributeError, match=rf"^module 'jacspec' has no attribute '{name}'\. Did you mean '{near}'\?$"
    ):
        getattr(js, name)
    with pytest.raises(AttributeError, match=r"^module 'jacspec' has no attribute 'qqq'$"):
        js.qqq  # noqa: B018
    assert not hasattr(js, "importlib")


def test_what_is_heavy_loads_when_it_is_first_used():
    loaded = f"print([m for m in {LATE} if m in sys.modules])"
    code = f"import sys; import jacspec as js; dir(js); {loaded}; js.plotting; {loaded}; js.from_flax; {loaded}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    nothing, plotting, flax = (set(re.findall(r"[\w.]+", line)) for line in run.stdout.splitlines())
    assert (nothing, plotting) == (set(), {"jacspec.plotting"})
    assert flax >= {"flax", "jacspec.plotting"}


def problems(*files):
    """Line and rule of every error that pyright finds in `files`."""
    pyright = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    if subprocess.run([*pyright, "--version"], capture_output=True).returncode:
        pytest.skip("pyright cannot be started here")
    run = subprocess.run([*pyright, "--outputjson", *map(str, files)], capture_output=True, text=True, cwd=ROOT)
    found = json.loads(run.stdout)
    assert found["summary"]["filesAnalyzed"] == len(files), run.stdout
    errors = [d for d in found["generalDiagnostics"] if d["severity"] == "error"]
    return [(Path(d["file"]).name, d["range"]["start"]["line"], d.get("rule"), d["message"]) for d in errors]


def examples(file):
    """The examples of a file's docstrings, one function each, with what they take from the file imported by name."""
    tree = ast.parse(file.read_text())
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    known = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    known |= {a.asname or a.name for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    for node in ast.walk(tree):
        text = (isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node)) or ""
        if lines := [line for e in doctest.DocTestParser().get_examples(text) for line in e.source.splitlines()]:
            used = known & {n.id for n in ast.walk(ast.parse("\n".join(lines))) if isinstance(n, ast.Name)}
            lines = [f"from {module} import {name}" for name in sorted(used)] + lines
            yield "\n    ".join([f"def _{module.replace('.', '_')}_{getattr(node, 'lineno', 0)}() -> None:", *lines])


def test_a_type_checker_accepts_readme_and_examples_and_rejects_wrong_names(tmp_path):
    pytest.importorskip("pyright")
    good, bad, docs = tmp_path / "good.py", tmp_path / "bad.py", tmp_path / "docs.py"
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    uses = [f"js.{name}" for name in NAMES]
    uses += [
        "js.tasks.adding(length=5).features",
        "js.theory.mean_field.phase",
        "js.compare.__name__",
        "js.cells.Elman",
    ]
    good.write_text("\n".join([*blocks, *uses, ""]))
    bad.write_text("\n".join(["import jacspec as js", *WRONG, ""]))
    written = [text for file in sorted((ROOT / "jacspec").rglob("*.py")) for text in examples(file)]
    assert len(written) > 100
    docs.write_text("\n".join([*written, ""]))
    found = problems(good, bad, docs)
    assert [p for p in found if p[0] != "bad.py"] == []
    assert [line for _, line, *_ in found] == list(range(1, len(WRONG) + 1)), found
