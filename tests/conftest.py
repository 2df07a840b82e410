"""Every test runs in float64 unless it says otherwise, draws without a display, and draws the same examples each time."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # LAPACK's threads and XLA's fight for the same cores

import hypothesis
import jax
import matplotlib as mpl
import pytest

jax.config.update("jax_enable_x64", True)
mpl.use("Agg")
pytest.register_assert_rewrite("layer_checks", "refusals", "sequences")  # they fail as tests do, with values shown
hypothesis.settings.register_profile("jacspec", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("jacspec")


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Forget compiled programs when there are many: they use up the memory maps that Linux grants a process (65,530)."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 30_000:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that look at the same run of an experiment or a comparison stay in one process, which then runs it once."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "drawn" in params:
            item.add_marker(pytest.mark.xdist_group(params["drawn"]))
        for fixture in {"resumed", "run"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(fixture))
