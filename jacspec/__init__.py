"""jacspec: how gradients travel through recurrent and deep networks, in numbers that can be trusted."""

from typing import TYPE_CHECKING

from jacspec import activations, cells, initializers, layers
from jacspec.chain import JacobianChain, batched, jacobian_chain, layer_chain, over_time, stack
from jacspec.questions.exponents import LyapunovSpectrum, lyapunov_exponents
from jacspec.questions.gradients import adjoints, log_gradient_norms
from jacspec.questions.parameter_gradients import parameter_gradient_by_lag, parameter_gradient_norms
from jacspec.questions.spectrum import Spectrum, log_singular_values, spectrum

__version__ = "0.1.0"

__all__ = [
    "JacobianChain", "LyapunovSpectrum", "Spectrum", "__version__", "activations", "adjoints", "batched", "cells",
    "compare", "comparison", "dissect", "from_flax", "from_torch", "initializers", "jacobian_chain", "layer_chain", "layers",
    "log_gradient_norms", "log_singular_values", "lyapunov_exponents", "models", "over_time",
    "parameter_gradient_by_lag", "parameter_gradient_norms", "plotting", "remedies", "results", "spectrum", "stack",
    "tasks", "theory", "training",
]  # fmt: skip

if TYPE_CHECKING:
    from jacspec import comparison, models, plotting, remedies, results, tasks, theory, training
    from jacspec.comparison import compare
    from jacspec.networks import dissect
    from jacspec.networks.flax import from_flax
    from jacspec.networks.torch import from_torch
else:

    def __getattr__(name: str):
        """What needs Flax, Optax, Matplotlib or files, or is large, loads when it is first used."""
        import difflib
        import importlib

        if name not in __all__:
            near = difflib.get_close_matches(name, __all__, 1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            text = f"module 'jacspec' has no attribute {name!r}{hint}"
            raise AttributeError(text)
        rooms = {"compare": "comparison", "dissect": "networks"}
        rooms |= {"from_flax": "networks.flax", "from_torch": "networks.torch"}
        room = rooms.get(name, name)
        module = importlib.import_module(f"jacspec.{room}")
        return module if room == name else getattr(module, name)


def __dir__() -> list[str]:
    """The public names, those that load late included."""
    return sorted(__all__)
