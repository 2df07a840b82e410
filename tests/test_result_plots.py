"""Plots of results need no theory, and show which values are in doubt."""

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

import jacspec as js
from jacspec import plotting
from jacspec.theory import random_matrix

NAN = np.nan


@pytest.fixture
def ax():
    return Figure().subplots()


def spectrum(values, resolved=True, error=NAN, horizons=3):
    values = jnp.asarray(values)
    resolved, error = (jnp.broadcast_to(jnp.asarray(a), values.shape) for a in (resolved, error))
    flags = jnp.asarray(True), jnp.asarray(-1), jnp.asarray(True)
    return js.Spectrum(values, jnp.asarray(horizons), resolved, jnp.zeros(values.shape), error, *flags)


def exponents(values, resolved=True, error=0.1, complete=True):
    chain = js.JacobianChain.from_matrices(jnp.tile(jnp.diag(jnp.exp(jnp.asarray(values))), (9, 1, 1)))
    found = js.lyapunov_exponents(chain, k=None if complete else 2)
    shape = found.exponents.shape
    changed = {"resolved": jnp.broadcast_to(jnp.asarray(resolved), shape), "standard_error": jnp.full(shape, error)}
    return js.LyapunovSpectrum(**({f: getattr(found, f) for f in found.__dataclass_fields__} | changed))


def marks(ax):
    """What is marked: (marker, color, whether it is hollow) and the positions, for every line of marks."""
    lines = [line for line in ax.lines if line.get_marker() not in ("none", "None", "")]
    look = [(m.get_marker(), mpl.colors.to_hex(m.get_color()), m.get_markerfacecolor() == "none") for m in lines]
    return {key: line.get_xdata().tolist() for key, line in zip(look, lines, strict=True) if line.get_xdata().size}


BLUE, GRAY = mpl.colors.to_hex("C0"), mpl.colors.to_hex("0.6")


def test_a_spectrum_draws_itself_with_its_errors_and_doubts(ax):
    found = spectrum([1.0, 0.0, -40.0, -np.inf, NAN], [True, True, False, True, False], [0.2, 0.1, np.inf, 0.0, NAN])
    assert found.plot(ax) is ax
    assert marks(ax) == {
        ("o", BLUE, False): [1, 2],
        ("o", GRAY, True): [3],
        ("v", BLUE, True): [4],
        ("x", BLUE, True): [5],
    }
    (bars,) = (c.get_segments() for c in ax.collections)
    np.testing.assert_allclose([b[:, 1] for b in bars], [[0.8, 1.2], [-0.1, 0.1]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["t = 3"]
    assert "nats" in ax.get_ylabel()


def test_running_spectra_have_a_color_each():
    chain = js.JacobianChain.from_matrices(jnp.tile(jnp.diag(jnp.array([2.0, 0.5])), (8, 1, 1)))
    ax = js.spectrum(chain, at=[2, 8]).plot()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["t = 2", "t = 8"]
    assert [m[1] for m in marks(ax)] == [mpl.colors.to_hex(c) for c in ("C0", "C1")]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [8 * np.log(2), -8 * np.log(2)])


def test_exponents_draw_themselves(ax):
    found = exponents([0.5, 0.0, -3.0], [True, True, False])
    assert found.plot(ax) is ax
    assert marks(ax) == {("o", BLUE, False): [1, 2], ("o", GRAY, True): [3]}
    assert len(ax.collections[0].get_segments()) == 2
    assert js.LyapunovSpectrum.plot(exponents([0.5, 0.0, -3.0], complete=False)) is not ax


def test_no_theory_no_curve(ax):
    overlay = plotting.plot_spectrum(ax, np.r_[np.linspace(-3, 1, 30), -np.inf])
    assert np.isnan([overlay.distance, overlay.theory_zeros]).all()
    assert overlay.zeros == pytest.approx(1 / 31)
    heights, edges, _ = ax.patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(30 / 31)
    assert not ax.lines
    assert np.isnan(plotting.plot_exponents(ax, np.array([1.0, 0.0])))
    assert [line.get_marker() for line in ax.lines] == ["o"]


def test_a_histogram_shows_what_is_not_resolved_and_has_no_distance_then(ax):
    law = random_matrix.jacobian_law(random_matrix.bernoulli_slopes(1.0), 1)
    values = np.linspace(0.6, -3, 40)
    sure = plotting.plot_spectrum(ax, spectrum(values), law)
    assert sure.distance == plotting.plot_spectrum(ax, values, law).distance > 0
    ax = Figure().subplots()
    found = plotting.plot_spectrum(ax, spectrum(values, values > -2), law)
    assert np.isnan(found.distance)
    filled, hollow = (p.get_data() for p in ax.patches if hasattr(p, "get_data"))
    width = np.diff(filled.edges)
    assert np.sum(filled.values * width) == pytest.approx((values > -2).mean())
    shown = ~np.isnan(hollow.values)
    assert np.sum((hollow.values - filled.values)[shown] * width[shown]) == pytest.approx((values <= -2).mean())


def test_exponents_beside_a_curve_take_errors_and_doubt_from_the_result(ax):
    found = exponents([0.5, 0.0, -3.0], [True, True, False])
    gap = plotting.plot_exponents(ax, found, [0.0, 1.0], [0.5, 0.5])
    assert gap == pytest.approx(0.5)  # not the 3.5 of the one in doubt
    assert len(ax.collections[0].get_segments()) == 2
    assert ("o", GRAY, True) in marks(ax)


def test_what_cannot_be_drawn_is_refused(ax):
    with pytest.raises(ValueError, match=r"'log_singular_values' mixes horizons; got \[2, 3\], expected one horizon"):
        plotting.plot_spectrum(ax, spectrum(np.zeros((2, 4)), horizons=[2, 3]))
    with pytest.raises(ValueError, match=r"'exponents' is not complete; got 2, expected all n"):
        plotting.plot_exponents(ax, exponents([0.5, 0.0, -3.0], complete=False))
    for u, theory in (([0.0, 1.0], None), (None, [0.0, 1.0])):
        with pytest.raises(ValueError, match="'theory' does not fit u"):
            plotting.plot_exponents(ax, np.zeros(3), u, theory)
