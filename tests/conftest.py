"""Every test runs in float64 unless it says otherwise, draws without a display, and draws the same examples each time."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # LAPACK's threads and XLA's fight for the same cores

import hypothesis
import jax
import matplotlib as mpl

jax.config.update("jax_enable_x64", True)
mpl.use("Agg")
hypothesis.settings.register_profile("jacspec", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("jacspec")
