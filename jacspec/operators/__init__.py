"""Step Jacobians: small linear operators with `push` (J V), `pull` (J^T U) and `dense` (J).

A large scale difference belongs on the left, row by row: diag(d) W is pushed as d * (W V) and never formed.
Every matrix product asks for the highest precision; TF32 would ruin a spectrum.
"""

from jacspec.operators.composed import Composed as Composed
from jacspec.operators.diagonal import Diagonal as Diagonal
from jacspec.operators.diagonal import Scaled as Scaled
from jacspec.operators.gated_sum import GatedSum as GatedSum
from jacspec.operators.linearized import Linear as Linear
from jacspec.operators.linearized import Linearized as Linearized
from jacspec.operators.matrix import Given as Given
from jacspec.operators.matrix import Matrix as Matrix
from jacspec.operators.matrix import row_norms as row_norms
from jacspec.operators.normalization import Projected as Projected
from jacspec.operators.normalization import Standardized as Standardized
