"""The rooms of the package import only downwards, and keep out of what is not theirs."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The ranks of the design; a half is a helper room between two of them.
RANKS: dict[str, float] = {
    **dict.fromkeys(["typing", "_pytree", "_checks", "_files", "_origin"], 0),
    **dict.fromkeys(["_primitives", "_precision", "_calls", "_states"], 0.3),
    **dict.fromkeys(["operators", "_report"], 0.5),
    "_lapack": 0.7,
    **dict.fromkeys(["activations", "_product", "_claims"], 1),
    "_links": 1.4,
    "_steps": 1.5,
    **dict.fromkeys(["_finite", "_given"], 1.7),
    **dict.fromkeys(["chain", "cells", "layers", "theory"], 2),
    **dict.fromkeys(["_leading", "_long_run", "_walks", "_overlays", "_doubt"], 2.5),
    "_conditioning": 2.7,
    **dict.fromkeys(["parameter_gradients", "compose"], 3.5),
    **dict.fromkeys(
        ["spectrum", "lyapunov", "gradients", "initializers", "flax", "networks", "tasks", "results", "plotting"], 3
    ),
    **dict.fromkeys(["remedies", "models"], 4),
    **dict.fromkeys(["training", "diagnosis"], 5),
    "comparison": 5.5,
    **dict.fromkeys(["cli", "__init__"], 6),
    "__main__": 6.5,
}
CORE = {
    "typing",
    "_pytree",
    "_checks",
    "_origin",
    "operators",
    "_lapack",
    "activations",
    "_product",
    "_steps",
    "_links",
    "chain",
}
CORE |= {"_primitives", "_precision", "_calls", "_states", "_finite", "_given", "_doubt", "_conditioning"}
CORE |= {
    "cells",
    "layers",
    "_leading",
    "_long_run",
    "_walks",
    "compose",
    "spectrum",
    "lyapunov",
    "gradients",
    "parameter_gradients",
}
LONGEST = 350
RUNNER = ("figures/__main__.py", "figures/_drawing.py")


def modules_imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of everything imported anywhere in `tree`, which lies in `package` ('' for a script)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute, or the name; '' for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def configures_jax(tree: ast.AST) -> bool:
    """Whether `tree` calls `jax.config.update` (or the same on a `config` imported from jax), or sets a flag."""
    changed = [dotted(node.func).rpartition(".") for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if any(name == "update" and (owner == "config" or owner.endswith("jax.config")) for owner, _, name in changed):
        return True
    targets = [t for node in ast.walk(tree) if isinstance(node, ast.Assign) for t in node.targets]
    return any(dotted(t).startswith("jax.config.") for t in targets)


def faults(file: str, source: str) -> list[str]:
    """What is wrong with `source` as the content of `file` (path from the root), one sentence each."""
    tree = ast.parse(source)
    folder, *rest = Path(file).with_suffix("").parts
    imported = set(modules_imported(tree, ".".join(Path(file).parent.parts)))
    found = []
    for name in sorted(imported):
        top, *inner = name.split(".")
        ours = top in ("jacspec", "experiments", "figures", "tests", "benchmarks")
        if not ours and top != "__future__" and any(part.startswith("_") for part in (top, *inner)):
            found.append(f"imports {name}, which is private")
        if folder == "figures" and file not in RUNNER:
            allowed = (
                inner[:1] in (["results"], ["plotting"]) if top == "jacspec" else top not in ("jax", "experiments")
            )
            if not allowed:
                found.append(f"a figure imports {name}")
        if folder == "experiments" and (top == "matplotlib" or inner[:1] == ["plotting"]):
            found.append(f"an experiment imports {name}")
        if folder == "jacspec":
            found += _faults_of_room(rest[0], name)
    if folder == "jacspec":
        if source.count("\n") > LONGEST:
            found.append(f"has {source.count(chr(10))} lines, more than {LONGEST}")
        if configures_jax(tree):
            found.append("changes the configuration of JAX")
    return found


def _faults_of_room(room: str, name: str) -> list[str]:
    top, *inner = name.split(".")
    if room not in RANKS:
        return [f"lies in the room '{room}', which has no rank in DESIGN"]
    if top != "jacspec":
        outside = room in CORE and top not in (sys.stdlib_module_names | {"jax", "numpy"})
        return [f"the core imports {name}"] if outside else []
    target = inner[0] if inner and inner[0] in RANKS else "__init__"
    if target == room or RANKS[target] < RANKS[room]:
        return []
    return [f"'{room}' (rank {RANKS[room]}) imports {name} (rank {RANKS[target]})"]


def python_files(folder: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("file", [f for folder in ("jacspec", "experiments", "figures") for f in python_files(folder)])
def test_room_keeps_to_its_place(file):
    assert faults(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source", "word"),
    [
        ("jacspec/typing.py", "import jacspec.chain", "rank 0"),
        ("jacspec/chain.py", "def f():\n    from jacspec.spectrum import spectrum", "rank 3"),
        ("jacspec/chain.py", "from . import spectrum", "rank 3"),
        ("jacspec/cells/lstm.py", "from ..layers import Dense", "rank 2"),
        ("jacspec/theory/scalar.py", "from jacspec.cells import Elman", "rank 2"),
        ("jacspec/theory/scalar.py", "from jacspec import chain", "rank 2"),
        ("jacspec/spectrum.py", "from jacspec import jacobian_chain", "rank 6"),
        ("jacspec/results.py", "import jacspec", "rank 6"),
        ("jacspec/chain.py", "import flax", "core"),
        ("jacspec/_product/qr.py", "from matplotlib import pyplot", "core"),
        ("jacspec/cells/lstm.py", "import optax as o", "core"),
        ("jacspec/chain.py", "from jax._src import core", "private"),
        ("experiments/a.py", "from numpy import _core", "private"),
        ("jacspec/attic.py", "import jax", "no rank"),
        ("jacspec/chain.py", "import jax\njax.config.update('jax_enable_x64', True)", "configuration"),
        ("jacspec/chain.py", "from jax import config\nconfig.update('jax_enable_x64', True)", "configuration"),
        ("jacspec/chain.py", "import jax\njax.config.jax_enable_x64 = True", "configuration"),
        ("jacspec/chain.py", "\n" * (LONGEST + 1), "lines"),
        ("figures/a.py", "import experiments.a", "a figure imports"),
        ("figures/a.py", "import jax.numpy as jnp", "a figure imports"),
        ("figures/a.py", "from jacspec import spectrum", "a figure imports"),
        ("experiments/a.py", "from matplotlib import pyplot as plt", "an experiment imports"),
        ("experiments/a.py", "from jacspec import plotting", "an experiment imports"),
    ],
)
def test_checker_sees_a_planted_violation(file, source, word):
    assert any(word in fault for fault in faults(file, source))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("jacspec/chain.py", "import functools\nimport jax\nimport numpy as np\nfrom jacspec.typing import Step"),
        ("jacspec/cells/lstm.py", "from jacspec.cells.elman import Elman\nfrom . import gru"),
        ("jacspec/results.py", "from jacspec import _files\nsettings = {}\nsettings.update(a=1)"),
        ("figures/a.py", "import numpy as np\nfrom jacspec import plotting, results"),
        (RUNNER[0], "import experiments"),
        ("experiments/a.py", "import jacspec as js\nimport optax\nfrom experiments import alone"),
    ],
)
def test_checker_lets_good_imports_pass(file, source):
    assert faults(file, source) == []
