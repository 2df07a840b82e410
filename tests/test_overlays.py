"""Overlays draw bars and curve with one mass, say how far apart they are, and hide no value."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from jacspec.plotting import overlays
from jacspec.theory import random_matrix as rm


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def semicircle():
    """L = 1: the law, and n values at its own quantiles."""
    law = rm.jacobian_law(rm.bernoulli_slopes(1.0), 1)
    u = (np.arange(500) + 0.5) / 500
    grid = np.linspace(-25, np.log(4), 40_001)
    return law, np.interp(u, rm.fuss_catalan_cdf(jnp.exp(grid), 1), grid) / 2


def test_bars_have_the_mass_of_the_values_and_the_curve_that_of_the_law(ax, semicircle):
    law, values = semicircle
    found = overlays.plot_spectrum(ax, np.tile(values, (3, 1)), law, bins=30)
    (bars,) = ax.patches[:1]
    heights, edges, _ = bars.get_data()
    inside = (values >= edges[0]) & (values <= edges[-1])
    np.testing.assert_allclose(np.sum(heights * np.diff(edges)), inside.mean(), rtol=1e-12)
    assert found.outside == 3 * (~inside).sum()
    curve = next(line for line in ax.lines if len(line.get_xdata()) == law.log_x.size)
    np.testing.assert_allclose(np.trapezoid(curve.get_ydata(), curve.get_xdata()), 1, atol=0.01)
    assert found.distance < 1e-3 + 0.5 / 500


def test_distance_sees_a_shift_of_the_values(ax, semicircle):
    law, values = semicircle
    assert overlays.plot_spectrum(ax, values + 0.1, law).distance > 0.03


def test_zeros_and_atoms_are_compared_and_not_drawn_as_bars(ax):
    law = rm.jacobian_law(rm.bernoulli_slopes(0.9), 4, ensemble="orthogonal")
    n, atom = 1000, float(law.log_atom) / 2
    grid = np.linspace(float(law.log_x[0]), float(law.log_x[-1]), 2001)
    continuous = np.interp((np.arange(300) + 0.5) / n + 0.1, law.cdf(grid), grid) / 2
    values = np.concatenate([np.full(100, -np.inf), continuous, atom + 1e-13 * np.arange(-300, 300)])
    found = overlays.plot_spectrum(ax, values, law)
    assert [found.zeros, found.theory_zeros] == pytest.approx([0.1, 0.1])
    assert found.distance < 0.005
    assert any("0.600 (0.600)" in text.get_text() for text in ax.texts)
    heights, edges, _ = ax.patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) <= 0.3 + 1e-12
    more = overlays.plot_spectrum(ax, np.where(np.arange(n) < 200, -np.inf, values), law)
    assert more.distance > 0.09


def test_a_single_atom_has_no_curve(ax):
    law = rm.jacobian_law(rm.bernoulli_slopes(1.0), 4, ensemble="orthogonal")
    found = overlays.plot_spectrum(ax, np.zeros(50), law)
    assert found.distance < 1e-12
    assert len(ax.lines) == 1


def test_exponents_beside_their_curve(ax):
    n = 100
    u = np.linspace(0, 0.999, 400)
    at = (np.arange(n) + 0.5) / n
    values = np.asarray(rm.triangular_exponents(at))
    gap = overlays.plot_exponents(
        ax, np.where(at > 0.9, -np.inf, values + 0.05), u, rm.triangular_exponents(u), standard_error=0.01
    )
    assert gap == pytest.approx(0.05, abs=1e-3)
    marks = [line for line in ax.lines if line.get_marker() == "v"]
    assert len(marks[0].get_xdata()) == 10


@pytest.mark.parametrize("values", [np.nan, [np.inf, 0.0], np.zeros((2, 2, 2)), np.zeros(0)])
def test_bad_values_are_refused(ax, semicircle, values):
    with pytest.raises(ValueError, match="'log_singular_values'"):
        overlays.plot_spectrum(ax, values, semicircle[0])


def test_bad_options_are_refused(ax, semicircle):
    with pytest.raises(ValueError, match="'bins'"):
        overlays.plot_spectrum(ax, np.zeros(3), semicircle[0], bins=0)
    with pytest.raises(ValueError, match="'exponents'"):
        overlays.plot_exponents(ax, np.zeros((2, 3)), [0, 1], [0, 1])
    with pytest.raises(ValueError, match="'theory'"):
        overlays.plot_exponents(ax, np.zeros(3), [0, 1], [0, 1, 2])
