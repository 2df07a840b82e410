"""Every example in the docstrings of the package runs and prints what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

import jacspec

PACKAGE = Path(jacspec.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__" and ">>>" in path.read_text()
)

LONG = ("models", "remedies", "training", "theory", "questions.parameter_gradients", "chain.compose", "cells.lstm")
"""What trains, solves or compiles for seconds in its examples."""


@pytest.mark.parametrize(
    "module",
    [pytest.param(m, marks=pytest.mark.slow if m.removeprefix("jacspec.").startswith(LONG) else ()) for m in MODULES],
)
def test_examples(module):
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    results = doctest.testmod(importlib.import_module(module), optionflags=options)
    assert results.attempted > 0
    assert results.failed == 0
