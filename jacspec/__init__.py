"""jacspec: how gradients travel through recurrent and deep networks, in numbers that can be trusted."""

import importlib

from jacspec import activations as activations
from jacspec import cells as cells
from jacspec import initializers as initializers
from jacspec import layers as layers
from jacspec.chain import JacobianChain as JacobianChain
from jacspec.chain import jacobian_chain as jacobian_chain
from jacspec.chain import layer_chain as layer_chain
from jacspec.compose import batched as batched
from jacspec.compose import over_time as over_time
from jacspec.compose import stack as stack
from jacspec.gradients import adjoints as adjoints
from jacspec.gradients import log_gradient_norms as log_gradient_norms
from jacspec.lyapunov import LyapunovSpectrum as LyapunovSpectrum
from jacspec.lyapunov import lyapunov_exponents as lyapunov_exponents
from jacspec.parameter_gradients import parameter_gradient_by_lag as parameter_gradient_by_lag
from jacspec.parameter_gradients import parameter_gradient_norms as parameter_gradient_norms
from jacspec.spectrum import Spectrum as Spectrum
from jacspec.spectrum import log_singular_values as log_singular_values
from jacspec.spectrum import spectrum as spectrum

__version__ = "0.1.0"


LATE = ("comparison", "models", "plotting", "remedies", "results", "tasks", "theory", "training")


def __getattr__(name: str):
    """What needs Flax, Optax, Matplotlib or files, or is large, loads when it is first used."""
    if name == "from_flax":
        from jacspec.flax import from_flax

        return from_flax
    if name == "compare":
        from jacspec.comparison import compare

        return compare
    if name in LATE:
        return importlib.import_module(f"jacspec.{name}")
    text = f"module 'jacspec' has no attribute {name!r}"
    raise AttributeError(text)


def __dir__() -> list[str]:
    """The public names, those that load late included."""
    return sorted([*globals(), "compare", "from_flax", *LATE])
