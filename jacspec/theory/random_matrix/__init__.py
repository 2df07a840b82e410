"""Random matrices and free probability: spectra of products at infinite width, and exponents at finite width."""

from jacspec.theory.random_matrix._spectral_law import SpectralLaw as SpectralLaw
from jacspec.theory.random_matrix.free import jacobian_law as jacobian_law
from jacspec.theory.random_matrix.free import jacobian_moments as jacobian_moments
from jacspec.theory.random_matrix.gaussian import fuss_catalan_cdf as fuss_catalan_cdf
from jacspec.theory.random_matrix.gaussian import fuss_catalan_density as fuss_catalan_density
from jacspec.theory.random_matrix.gaussian import fuss_catalan_edge as fuss_catalan_edge
from jacspec.theory.random_matrix.gaussian import fuss_catalan_moment as fuss_catalan_moment
from jacspec.theory.random_matrix.gaussian import ginibre_product_cdf as ginibre_product_cdf
from jacspec.theory.random_matrix.gaussian import log_norm_growth as log_norm_growth
from jacspec.theory.random_matrix.gaussian import newman_exponents as newman_exponents
from jacspec.theory.random_matrix.gaussian import triangular_exponents as triangular_exponents
from jacspec.theory.random_matrix.lyapunov import log_s_transform as log_s_transform
from jacspec.theory.random_matrix.lyapunov import lyapunov_spectrum as lyapunov_spectrum
from jacspec.theory.random_matrix.rectangular import haar_block_cdf as haar_block_cdf
from jacspec.theory.random_matrix.rectangular import haar_block_density as haar_block_density
from jacspec.theory.random_matrix.rectangular import haar_block_edge as haar_block_edge
from jacspec.theory.random_matrix.rectangular import marchenko_pastur_cdf as marchenko_pastur_cdf
from jacspec.theory.random_matrix.rectangular import marchenko_pastur_density as marchenko_pastur_density
from jacspec.theory.random_matrix.rectangular import marchenko_pastur_edges as marchenko_pastur_edges
from jacspec.theory.random_matrix.slopes import SquaredSlopes as SquaredSlopes
from jacspec.theory.random_matrix.slopes import bernoulli_slopes as bernoulli_slopes
from jacspec.theory.random_matrix.slopes import squared_slopes as squared_slopes
from jacspec.theory.random_matrix.universal import bernoulli_universality as bernoulli_universality
from jacspec.theory.random_matrix.universal import residual_law as residual_law
from jacspec.theory.random_matrix.universal import smooth_universality as smooth_universality
