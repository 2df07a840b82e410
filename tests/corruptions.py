"""How much the tests notice: a seeded draw of small errors, planted one by one, and which test breaks.

    python tests/corruptions.py --seed 0 --each 6

Equal numbers of errors go into the cells, the layers, the theory, the product and the gradients. Four kinds: a sign turned, a
factor of 2 put in, a transpose left out, an index shifted. Each lands in a copy of the package, where the tests of its room
run first and the others after them, until one fails. Errors that survive are printed; some change nothing but a cost.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import compiler

ROOT = Path(__file__).resolve().parent.parent

ROOMS = {
    "cells": (["jacspec/cells"], ["test_cells.py", "test_cells_input.py", "test_metamorphic.py"]),
    "layers": (["jacspec/layers"], ["test_layers_jacobian.py", "test_layers_laws.py", "test_layers_input.py"]),
    "theory": (["jacspec/theory"], []),
    "product": (
        ["jacspec/_product"],
        [
            "test_product_finish.py",
            "test_product_orthogonal.py",
            "test_spectrum_oracle.py",
            "test_spectrum.py",
            "test_lyapunov.py",
        ],
    ),
    "gradients": (
        [
            "jacspec/questions/gradients.py",
            "jacspec/questions/parameter_gradients.py",
            "jacspec/chain",
            "jacspec/operators",
        ],
        ["test_gradients.py", "test_chain.py"],
    ),
}
NOT_HERE = ["test_figures_runner.py", "test_cli.py", "test_readme.py"]
LONGEST = 3600
"""Seconds in which the tests of a healthy package are long through."""
WORDS = {"message", "ValueError", "TypeError", "NotImplementedError"}
"""Calls whose arguments are the words of an error: no value comes from there."""


class Corruption(NamedTuple):
    """One error: `old` at `start` of the file becomes `new`."""

    file: str
    line: int
    start: int
    old: str
    new: str
    kind: str


def main() -> int:
    """Draw, plant, test, report."""
    parser = argparse.ArgumentParser(description="Plant errors, and see which the tests notice.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=6, help="errors for each of the five rooms")
    options = parser.parse_args()
    drawn, missed = draw(options.seed, options.each), 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("jacspec", "tests", "experiments", "figures", "pyproject.toml"):
            own = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__", "out")
            shutil.copytree(own, copy / name, ignore=ignore) if own.is_dir() else shutil.copy(own, copy / name)
        for number, (room, corruption) in enumerate(drawn, 1):
            began = time.monotonic()
            broken = noticed(copy, room, corruption)
            missed += not broken
            place = f"{corruption.file.removeprefix('jacspec/')}:{corruption.line}"
            change = f"{corruption.kind}: {corruption.old!r} -> {corruption.new!r}"
            took = f"{time.monotonic() - began:.0f} s"
            print(f"{number:3} {place:45} {change:60} {broken or 'NOT NOTICED'} ({took})", flush=True)
    print(f"{len(drawn) - missed} of {len(drawn)} were noticed")
    return 0


def draw(seed: int, each: int) -> list[tuple[str, Corruption]]:
    """`each` errors for every room, no two in the same line."""
    rng, drawn = random.Random(seed), []
    for room, (places, _) in ROOMS.items():
        files = [f for place in places for f in sorted((ROOT / place).rglob("*.py")) or [ROOT / place]]
        found = [c for file in files for c in corruptions(file)]
        kinds = sorted({c.kind for c in found})
        lines = set()
        for turn in range(each):
            kind = kinds[turn % len(kinds)]
            choices = [c for c in found if c.kind == kind and (c.file, c.line) not in lines]
            choice = rng.choice(choices or [c for c in found if (c.file, c.line) not in lines])
            lines.add((choice.file, choice.line))
            drawn.append((room, choice))
    return drawn


def corruptions(path: Path) -> Iterator[Corruption]:
    """Every error that can be planted in the arithmetic of a file: not in checks, messages, types or defaults."""
    source = path.read_text()
    offsets = [0]
    for text in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(text))
    at = lambda line, column: offsets[line - 1] + column
    file = path.relative_to(ROOT).as_posix()

    def swap(start: int, end: int, new: str, kind: str) -> Corruption:
        return Corruption(file, source.count("\n", 0, start) + 1, start, source[start:end], new, kind)

    for node in arithmetic(ast.parse(source)):
        if isinstance(node, ast.BinOp):
            low, high = at(node.left.end_lineno, node.left.end_col_offset), at(node.right.lineno, node.right.col_offset)
            gap = source[low:high]
            if isinstance(node.op, (ast.Add, ast.Sub)):
                old, new = ("+", "-") if isinstance(node.op, ast.Add) else ("-", "+")
                yield swap(low + gap.index(old), low + gap.index(old) + 1, new, "sign")
            elif isinstance(node.op, ast.Mult):
                yield swap(low + gap.index("*"), low + gap.index("*") + 1, "* 2 *", "factor")
        elif isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
            end = at(node.end_lineno, node.end_col_offset)
            yield swap(end - len(node.attr) - 1, end, "", "transpose")
        elif isinstance(node, ast.Subscript):
            for index in ast.walk(node.slice):
                if isinstance(index, ast.Constant) and type(index.value) is int:
                    start, end = at(index.lineno, index.col_offset), at(index.end_lineno, index.end_col_offset)
                    # towards 0: JAX clamps an index beyond the end, where a shift would change nothing
                    yield swap(start, end, str(abs(index.value - 1)), "index")


def arithmetic(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes inside functions that compute values."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.arguments, ast.AnnAssign)):
            continue
        if isinstance(node, ast.FunctionDef) and node.name in ("__post_init__", "row_norms"):
            continue  # checks, and upper bounds, of which twice the value is one
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in WORDS:
            continue
        if isinstance(node, ast.FunctionDef):
            for statement in node.body:
                yield from (statement, *arithmetic(statement))
        else:
            if not isinstance(tree, (ast.Module, ast.ClassDef)):
                yield node
            yield from arithmetic(node)


def noticed(copy: Path, room: str, corruption: Corruption) -> str:
    """The first test that breaks, or nothing."""
    target = copy / corruption.file
    source = target.read_text()
    end = corruption.start + len(corruption.old)
    target.write_text(source[: corruption.start] + corruption.new + source[end:])
    theory = sorted(path.name for path in (ROOT / "tests").glob("test_theory_*.py"))
    near = lambda test: not any(part in test for part in Path(corruption.file).with_suffix("").parts[2:])
    own = ROOMS[room][1] or sorted(theory, key=near)
    others = {path.name for path in (ROOT / "tests").glob("test_*.py")} - {*own, *NOT_HERE}
    try:
        return run(copy, own) or run(copy, sorted(others))
    finally:
        target.write_text(source)


def run(copy: Path, tests: list[str]) -> str:
    """The name of the first test that fails, or nothing."""
    environment = os.environ | {
        "PYTHONPATH": str(copy), "XLA_FLAGS": compiler.FLAGS, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    options = {"cwd": copy / "tests", "env": environment, "capture_output": True, "text": True}
    try:
        found = subprocess.run(command, timeout=LONGEST, check=False, **options)
    except subprocess.TimeoutExpired:
        return f"does not end within {LONGEST} s"
    if found.returncode == 0:
        return ""
    failed = [line.split()[1] for line in found.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"pytest ended with {found.returncode}"


if __name__ == "__main__":
    sys.exit(main())
