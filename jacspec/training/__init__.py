"""Training: `fit` for one seed, `fit_seeds` for many at once, probes on the way, and the trace of an explosion."""

from jacspec.training.fit import Fit as Fit
from jacspec.training.fit import fit as fit
from jacspec.training.fit import fit_seeds as fit_seeds
from jacspec.training.probes import ActivityProbe as ActivityProbe
from jacspec.training.probes import GradientProbe as GradientProbe
from jacspec.training.probes import SpectrumProbe as SpectrumProbe
from jacspec.training.trace import Trace as Trace
