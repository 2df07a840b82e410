"""What the documents say is so: the README's Python runs and prints what stands below it, and names what there is."""

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import pytest
from test_architecture import ROOMS, ROOT, dotted

import jacspec as js
from jacspec._ground.messages import message

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")}
NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


def same(shown: str, printed: str) -> bool:
    """Whether two texts have the same words, and numbers that are `near`."""
    words = [" ".join(re.split(NUMBER, text)).split() for text in (shown, printed)]
    numbers = [re.findall(NUMBER, text) for text in (shown, printed)]
    return words[0] == words[1] and len(numbers[0]) == len(numbers[1]) and all(map(near, *numbers))


def near(shown: str, printed: str) -> bool:
    """Whether two numbers differ by less than two of the last digit shown; whole ones by less than a thousandth."""
    mantissa, _, exponent = shown.partition("e")
    digits = mantissa.partition(".")[2]
    a, b = float(shown), float(printed)
    return abs(a - b) < (2 * 10.0 ** (int(exponent or 0) - len(digits)) if digits else 1e-3 * max(1, abs(a)))


def test_the_blocks_of_the_readme_run_and_print_what_stands_below_them():
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block, shown in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block, names)
        assert same(shown, printed.getvalue()), f"{block}\nprints\n{printed.getvalue()}"
    assert names["found"].log_singular_values.shape == (64,)
    assert bool(names["found"].converged)


@pytest.mark.parametrize(
    ("shown", "printed", "wanted"),
    [
        ("[4.6 -340.5]\n", "[   4.6  -340.6]\n", True),
        ("rank 59", "rank 59", True),
        ("1.2e-11", "1.3e-11", True),
        ("[4.6 -340.5]", "[4.6 -340.8]", False),
        ("rank 59", "rang 59", False),
        ("1 2", "1", False),
        ("", "1", False),
        ("1.2e-11", "1.2e-10", False),
        ("64 of 64", "63 of 64", False),
        ("-9379", "-9380.2", True),
    ],
)
def test_a_comparison_of_outputs_sees_what_differs(shown, printed, wanted):
    assert same(shown, printed) is wanted


def test_the_reader_learns_within_25_lines_how_to_install():
    assert any(line.startswith("pip install") for line in README.splitlines()[:25])


def test_versions_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11,<3.14"' in project
    assert '"jax>=0.10,<0.13"' in project
    assert "Python 3.11 to 3.13" in README
    assert "JAX 0.10 to 0.12" in README


def named(file: Path) -> Iterator[str]:
    """Full names of what a module and the helpers beside it use of the package."""
    tree, names = ast.parse(file.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):  # theory = js.theory.random_matrix
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (whole := dotted(node.value)):
            root, _, rest = whole.partition(".")
            names.setdefault(node.targets[0].id, f"{names.get(root, root)}.{rest}")
    for node in ast.walk(tree):
        root, _, rest = dotted(node).partition(".")
        if names.get(root, "").startswith("jacspec"):
            yield f"{names[root]}.{rest}".rstrip(".")
    for helper in {m for name in names.values() for m in re.findall(r"^experiments\.(_\w+)", name)}:
        yield from named(file.parent / f"{helper}.py")


def figures() -> list[list[list[str]]]:
    """The table of figures: for every row the names in its columns function, figure and test."""
    table = README.partition("| result |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[re.findall(r"`([\w.]+)`", column) for column in row.split("|")[2:5]] for row in table]


def test_the_table_of_figures_credits_what_the_experiments_call():
    rows = figures()
    assert sorted(name for _, drawn, _ in rows for name in drawn if name != "error_cliff") == sorted(
        path.stem for path in (ROOT / "figures").glob("[!_]*.py") if path.stem != "error_cliff"
    )
    wrong = []
    for functions, drawn, tests in rows:
        called = {name for figure in drawn for name in named(ROOT / "experiments" / f"{figure}.py")}
        called |= {name.replace("jacspec.comparison.", "jacspec.") for name in called}
        wrong += [(f, drawn) for f in functions if not any(re.match(rf"jacspec\.{f}(\.|$)", c) for c in called)]
        wrong += [(test, drawn) for test in tests if not (ROOT / "tests" / f"{test}.py").exists()]
    assert wrong == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_files_that_a_document_names_exist(name):
    paths = re.findall(r"`((?!dE)[\w./-]+/[\w.-]*|[\w-]+\.(?:md|py|toml|cff))`|\]\(([\w./-]+)\)", DOCUMENTS[name])
    files = {
        first or second for first, second in paths if not (first or second).startswith(("results/", "figures/out"))
    }
    assert len(files) > 3
    planned = {"jacspec/cells/antisymmetric.py", "jacspec/layers/orthogonal.py"}
    bare = lambda file: "/" not in file and file.endswith(".py") and any((ROOT / "jacspec").rglob(file))
    assert [file for file in sorted(files - planned) if not (ROOT / file).exists() and not bare(file)] == []


def test_the_functions_that_architecture_names_exist():
    sources = "\n".join(path.read_text() for path in (ROOT / "jacspec").rglob("*.py"))
    private = set(re.findall(r"`(_[a-z]\w+)`", ARCHITECTURE)) - {name for rooms in ROOMS for name in rooms}
    assert private
    assert [name for name in sorted(private) if f"def {name}(" not in sources] == []


def test_the_table_of_rooms_is_that_of_the_tests():
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", ARCHITECTURE, re.MULTILINE)
    assert [int(rank) for rank, _ in rows] == list(range(len(ROOMS)))
    assert [tuple(re.findall(r"`(\w+)`", rooms)) for _, rooms in rows] == list(ROOMS)


def test_an_error_is_worded_as_contributing_says():
    text = DOCUMENTS["CONTRIBUTING.md"]
    ((code, shown),) = re.findall(r"```python\n(.*?)\n```\n\n```text\n(.*?)\n```", text, re.DOTALL)
    assert eval(code, {"message": message}) == shown
    with pytest.raises(ValueError, match=f"^{re.escape(shown)}$"):
        js.cells.Elman(jnp.ones((2, 3)))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^\| `make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)
