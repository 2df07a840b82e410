"""Remedies side by side: options that compose, one table, the same data, budget and seeds in every row."""

from jacspec.comparison.compare import Prepared as Prepared
from jacspec.comparison.compare import compare as compare
from jacspec.comparison.compare import prepare as prepare
from jacspec.comparison.picture import plot as plot
from jacspec.comparison.remedy import Remedy as Remedy
from jacspec.comparison.remedy import vocabulary as vocabulary
from jacspec.comparison.rows import Row as Row
from jacspec.comparison.table import Comparison as Comparison
from jacspec.comparison.table import Summary as Summary
from jacspec.comparison.table import wilson as wilson
