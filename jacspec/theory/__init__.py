"""Closed forms and quadratures: a second, independent path to the numbers that the rest of the package measures."""

from jacspec.theory import mean_field as mean_field
from jacspec.theory import normalization as normalization
from jacspec.theory import random_matrix as random_matrix
from jacspec.theory import recurrent as recurrent
from jacspec.theory import scalar as scalar
