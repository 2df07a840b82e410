"""Every test runs in float64 unless it says otherwise, draws without a display, and draws the same examples each time."""

import hypothesis
import jax
import matplotlib as mpl

jax.config.update("jax_enable_x64", True)
mpl.use("Agg")
hypothesis.settings.register_profile("jacspec", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("jacspec")
