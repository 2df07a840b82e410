"""Every test runs in float64 unless it says otherwise, draws without a display, and draws the same examples each time."""

import os
from collections.abc import Iterator

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # LAPACK's threads and XLA's fight for the same cores

import hypothesis
import jax
import matplotlib as mpl
import pytest

jax.config.update("jax_enable_x64", True)
mpl.use("Agg")
hypothesis.settings.register_profile("jacspec", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("jacspec")


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Forget compiled programs after each file: thousands of them exhaust the memory maps a process may have."""
    yield
    jax.clear_caches()
