"""What normalization does to gradients: rates per layer, and what a change of scale leaves as it was."""

from jacspec.theory.normalization.invariance import NORMALIZATIONS as NORMALIZATIONS
from jacspec.theory.normalization.invariance import UNCHANGED as UNCHANGED
from jacspec.theory.normalization.invariance import Change as Change
from jacspec.theory.normalization.invariance import data_scaling as data_scaling
from jacspec.theory.normalization.invariance import unchanged as unchanged
from jacspec.theory.normalization.invariance import weight_scaling as weight_scaling
from jacspec.theory.normalization.rates import BatchStatistics as BatchStatistics
from jacspec.theory.normalization.rates import GradientRate as GradientRate
from jacspec.theory.normalization.rates import batch_norm_rate as batch_norm_rate
from jacspec.theory.normalization.rates import batch_norm_rate_limit as batch_norm_rate_limit
from jacspec.theory.normalization.rates import batch_norm_rate_linear as batch_norm_rate_linear
from jacspec.theory.normalization.rates import batch_norm_rate_relu as batch_norm_rate_relu
from jacspec.theory.normalization.rates import batch_norm_statistics as batch_norm_statistics
from jacspec.theory.normalization.rates import layer_norm_log_singular_values as layer_norm_log_singular_values
from jacspec.theory.normalization.rates import layer_norm_rate as layer_norm_rate
