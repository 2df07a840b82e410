"""Training: `fit` for one seed, `fit_seeds` for many at once, probes on the way, and the trace of an explosion.

`Model`, `ChainModel`, `ReadModel`, `Regularizer` and `Probe` are protocols: what the user's own must have.
"""

from jacspec.training.fit import Fit as Fit
from jacspec.training.fit import fit as fit
from jacspec.training.fit import fit_seeds as fit_seeds
from jacspec.training.probes import ActivityProbe as ActivityProbe
from jacspec.training.probes import GradientProbe as GradientProbe
from jacspec.training.probes import SpectrumProbe as SpectrumProbe
from jacspec.training.protocols import ActiveModel as ActiveModel
from jacspec.training.protocols import ChainModel as ChainModel
from jacspec.training.protocols import Model as Model
from jacspec.training.protocols import Probe as Probe
from jacspec.training.protocols import ReadModel as ReadModel
from jacspec.training.protocols import Regularizer as Regularizer
from jacspec.training.trace import Trace as Trace
