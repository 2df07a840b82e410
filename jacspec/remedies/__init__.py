"""Remedies as values that compose: Optax transformations, regularizers, and training without gradients."""

from jacspec.remedies.adaptive import adaptive_clip as adaptive_clip
from jacspec.remedies.adaptive import autoclip as autoclip
from jacspec.remedies.adaptive import zclip as zclip
from jacspec.remedies.clipping import clip_by_global_norm as clip_by_global_norm
from jacspec.remedies.clipping import clip_by_leaf_norm as clip_by_leaf_norm
from jacspec.remedies.clipping import clip_by_value as clip_by_value
from jacspec.remedies.evolution import Evolution as Evolution
from jacspec.remedies.evolution import evolve as evolve
from jacspec.remedies.guard import reject_nonfinite as reject_nonfinite
from jacspec.remedies.regularizers import flossing as flossing
from jacspec.remedies.regularizers import pascanu_omega as pascanu_omega
from jacspec.remedies.report import ClipReport as ClipReport
from jacspec.remedies.report import RejectReport as RejectReport
from jacspec.remedies.report import clip_report as clip_report
from jacspec.remedies.report import reject_report as reject_report
from jacspec.remedies.reweighting import effective_sample_size as effective_sample_size
from jacspec.remedies.reweighting import importance_weights as importance_weights
