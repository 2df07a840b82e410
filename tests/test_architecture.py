"""The rooms of the package import only downwards, and keep out of what is not theirs."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS = (
    ("typing", "_ground"),
    ("operators", "activations", "_product"),
    ("chain", "cells", "layers", "theory"),
    ("questions", "initializers", "networks", "tasks", "results", "plotting"),
    ("remedies", "models"),
    ("training",),
    ("diagnosis", "comparison"),
    ("cli", "__init__"),
    ("__main__",),
)
RANKS = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
CORE = {"typing", "_ground", "operators", "activations", "_product", "chain", "cells", "layers", "questions"}
"""Rooms that need JAX only."""
DRAWS = "jacspec/_ground/drawing.py"
"""What draws on the axes it is given; it loads Matplotlib where it is asked for new ones."""
AT_THE_ROOT = {"__init__.py", "__main__.py", "activations.py", "initializers.py", "py.typed", "typing.py"}
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


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


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
        if folder in ("experiments", "figures") and top == "jacspec" and any(map(is_private, inner)):
            found.append(f"imports {name}, which is private to the package")
        if folder == "jacspec":
            found += [] if file == DRAWS and top == "matplotlib" else _faults_of_room(rest[0], name)
    if folder == "jacspec":
        if len(rest) == 1 and Path(file).name not in AT_THE_ROOT:
            found.append("lies at the root, where the table of rooms does not name it")
        if source.count("\n") > LONGEST:
            found.append(f"has {source.count(chr(10))} lines, more than {LONGEST}")
        if configures_jax(tree):
            found.append("changes the configuration of JAX")
    return found


def _faults_of_room(room: str, name: str) -> list[str]:
    top, *inner = name.split(".")
    if room not in RANKS:
        return [f"lies in the room '{room}', which has no rank"]
    if top != "jacspec":
        outside = room in CORE and top not in (sys.stdlib_module_names | {"jax", "numpy"})
        return [f"the core imports {name}"] if outside else []
    target = inner[0] if inner and inner[0] in RANKS else "__init__"
    if target == room:
        return []
    found = []
    if RANKS[target] >= RANKS[room]:
        found.append(f"'{room}' (rank {RANKS[room]}) imports {name} (rank {RANKS[target]})")
    if any(map(is_private, inner[1:])):
        found.append(f"imports {name}, which is private to the room '{target}'")
    return found


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Groups of files that import one another, wherever the import stands; `sources` by dotted module name."""
    arrows = {}
    for module, source in sources.items():
        package = module if f"{module}.__init__" in sources else module.rpartition(".")[0]
        names = modules_imported(ast.parse(source), package.removesuffix(".__init__"))
        known = (next((m for m in (f"{n}.__init__", n, n.rpartition(".")[0]) if m in sources), None) for n in names)
        arrows[module] = {target for target in known if target not in (None, module)}
    reached = {module: _reached(module, arrows) for module in arrows}
    groups = {frozenset(m for m in reached[module] if module in reached[m]) for module in arrows}
    return sorted(sorted(group) for group in groups if group)


def _reached(module: str, arrows: dict[str, set[str]]) -> set[str]:
    """What is imported by `module`, by what it imports, and so on."""
    found, waiting = set(), [module]
    while waiting:
        new = arrows[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def python_files(folder: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("file", [f for folder in ("jacspec", "experiments", "figures") for f in python_files(folder)])
def test_room_keeps_to_its_place(file):
    assert faults(file, (ROOT / file).read_text()) == []


def test_no_file_imports_itself_by_way_of_others():
    sources = {f.removesuffix(".py").replace("/", "."): (ROOT / f).read_text() for f in python_files("jacspec")}
    assert len(sources) > 100
    assert circles(sources) == []
    planted = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jacspec.comparison.compare import Prepared"
    sources["jacspec.comparison.table"] += planted
    assert circles(sources) == [["jacspec.comparison.compare", "jacspec.comparison.table"]]


@pytest.mark.parametrize(
    ("file", "source", "word"),
    [
        ("jacspec/typing.py", "import jacspec.chain", "rank 0"),
        ("jacspec/chain/chain.py", "def f():\n    from jacspec.questions.spectrum import spectrum", "rank 3"),
        ("jacspec/chain/chain.py", "from .. import questions", "rank 3"),
        ("jacspec/cells/lstm.py", "from ..layers import Dense", "rank 2"),
        ("jacspec/theory/scalar.py", "from jacspec.cells import Elman", "rank 2"),
        ("jacspec/theory/scalar.py", "from jacspec import chain", "rank 2"),
        ("jacspec/questions/spectrum.py", "from jacspec import jacobian_chain", "rank 7"),
        ("jacspec/results/store.py", "import jacspec", "rank 7"),
        ("jacspec/chain/chain.py", "import flax", "core"),
        ("jacspec/_product/qr.py", "from matplotlib import pyplot", "core"),
        ("jacspec/cells/lstm.py", "import optax as o", "core"),
        ("jacspec/chain/chain.py", "from jax._src import core", "private"),
        ("experiments/a.py", "from numpy import _core", "private"),
        ("jacspec/attic/box.py", "import jax", "no rank"),
        ("jacspec/attic.py", "import jax", "root"),
        ("jacspec/training/fit.py", "from jacspec.models._depth import compose", "private to the room"),
        ("jacspec/training/fit.py", "from jacspec.models import deep, _depth", "private to the room"),
        ("experiments/a.py", "from jacspec.training import _loop", "private to the package"),
        ("jacspec/chain/chain.py", "import jax\njax.config.update('jax_enable_x64', True)", "configuration"),
        ("jacspec/chain/chain.py", "from jax import config\nconfig.update('jax_enable_x64', True)", "configuration"),
        ("jacspec/chain/chain.py", "import jax\njax.config.jax_enable_x64 = True", "configuration"),
        ("jacspec/chain/chain.py", "\n" * (LONGEST + 1), "lines"),
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
        ("jacspec/chain/chain.py", "import functools\nimport jax\nimport numpy as np\nfrom jacspec.typing import Step"),
        ("jacspec/cells/lstm.py", "from jacspec.cells.elman import Elman\nfrom . import gru"),
        ("jacspec/results/store.py", "from jacspec._ground import files\nsettings = {}\nsettings.update(a=1)"),
        ("figures/a.py", "import numpy as np\nfrom jacspec import plotting, results"),
        (RUNNER[0], "import experiments"),
        ("experiments/a.py", "import jacspec as js\nimport optax\nfrom experiments import alone"),
    ],
)
def test_checker_lets_good_imports_pass(file, source):
    assert faults(file, source) == []
