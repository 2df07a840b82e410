"""Mean-field theory of wide random networks: one number per layer instead of n units.

Pre-activations of a wide layer are Gaussian, a ~ N(0, q), so everything is an expectation over one Gaussian (how q and
gradients travel) or over two correlated ones (how the overlap of two inputs does). `variance` has the first kind,
`correlation` the second, `phase` puts them on the plane of sigma_w^2 and sigma_b^2, and `depth` follows networks that
have no fixed point: normalized, residual, critical.

All functions take scalars and work under jit, grad and vmap: a phase diagram is `jax.vmap(lambda w, b: phase("tanh",
weight_variance=w, bias_variance=b))`.
"""

from jacspec.theory.mean_field._common import elementwise as elementwise
from jacspec.theory.mean_field.depth import Growth as Growth
from jacspec.theory.mean_field.depth import normalized_chi as normalized_chi
from jacspec.theory.mean_field.depth import partial_jacobian_exponent as partial_jacobian_exponent
from jacspec.theory.mean_field.depth import partial_jacobians as partial_jacobians
from jacspec.theory.mean_field.depth import residual_growth as residual_growth
from jacspec.theory.mean_field.depth import residual_sqrt_rate as residual_sqrt_rate
from jacspec.theory.mean_field.line import CriticalPoint as CriticalPoint
from jacspec.theory.mean_field.line import critical_bias_variance as critical_bias_variance
from jacspec.theory.mean_field.line import critical_weight_variance as critical_weight_variance
from jacspec.theory.mean_field.phase import Phase as Phase
from jacspec.theory.mean_field.phase import correlation_map as correlation_map
from jacspec.theory.mean_field.phase import phase as phase
from jacspec.theory.mean_field.variance import FixedPoint as FixedPoint
from jacspec.theory.mean_field.variance import chi as chi
from jacspec.theory.mean_field.variance import variance_fixed_point as variance_fixed_point
from jacspec.theory.mean_field.variance import variance_map as variance_map
