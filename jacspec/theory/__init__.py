"""Closed forms and quadratures: a second, independent path to the numbers that the rest of the package measures."""
