"""Figures have the widths of the venues, the same bytes for the same data, and never hide a value."""

import colorsys
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from jacspec import plotting

X = np.linspace(0, 5, 40)


@plotting.style()
def draw(scale=1.0):
    fig, (left, right) = plotting.figure("double", columns=2, sharex=True)
    for k in range(7):
        left.plot(X, scale * np.sin(X + k), label=f"$k = {k}$", markevery=0.15)
    left.set(xlabel=r"lag $\tau$", ylabel=r"$\log\,\sigma_1$ (nats)")
    left.legend(ncols=2)
    plotting.plot_log(right, X, np.where(X > 3, -np.inf, -X))
    for ax, label in ((left, "a"), (right, "b")):
        plotting.panel_label(ax, label)
    return fig


def test_same_figure_gives_the_same_bytes(tmp_path):
    first, second, other = (plotting.save_figure(draw(s), n, tmp_path) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    for kind in (0, 1):
        assert first[kind].read_bytes() == second[kind].read_bytes()
        assert first[kind].read_bytes() != other[kind].read_bytes()
    assert first[0].read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in first[0].read_bytes()


def test_bytes_are_those_of_another_process_with_other_settings(tmp_path):
    code = f"""
import matplotlib as mpl
mpl.rcParams.update({{"font.size": 20, "lines.linewidth": 9, "savefig.dpi": 10, "axes.grid": True}})
import sys; sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
from test_plotting import draw, plotting
plotting.save_figure(draw(), "there", {str(tmp_path)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for path in plotting.save_figure(draw(), "here", tmp_path):
        assert path.read_bytes() == (tmp_path / f"there{path.suffix}").read_bytes()


@pytest.mark.parametrize(("width", "inches"), [("single", 3.25), ("double", 6.75)])
def test_figures_are_as_wide_as_a_column(tmp_path, width, inches):
    fig, ax = plotting.figure(width, aspect=0.5)
    ax.plot(X, X)
    assert tuple(fig.get_size_inches()) == (inches, inches * 0.5)
    _, png = plotting.save_figure(fig, "w", tmp_path)
    header = png.read_bytes()
    assert int.from_bytes(header[16:20], "big") == int(inches * 300)


def test_grid_of_panels_keeps_the_aspect_of_a_panel():
    fig, axes = plotting.figure("double", aspect=0.5, rows=2, columns=3)
    assert axes.shape == (2, 3)
    assert tuple(fig.get_size_inches()) == pytest.approx((6.75, 6.75 / 3 * 0.5 * 2))


def test_drawing_leaves_no_trace_in_the_settings(tmp_path):
    before = mpl.rcParams.copy()
    plotting.save_figure(draw(), "a", tmp_path)
    assert mpl.rcParams == before
    with plotting.style():
        assert mpl.rcParams["text.usetex"] is False
        assert mpl.rcParams["font.serif"] == ["STIXGeneral", "DejaVu Serif"]
    assert mpl.rcParams == before


def test_lines_differ_in_gray_by_marker_and_stroke():
    with plotting.style():
        cycle = list(mpl.rcParams["axes.prop_cycle"])
    assert len(cycle) == len(plotting.COLORS) == 7
    for key in ("color", "marker", "linestyle"):
        assert len({str(c[key]) for c in cycle}) == 7
    lightness = [colorsys.rgb_to_hls(*mpl.colors.to_rgb(c["color"]))[1] for c in cycle]
    assert max(lightness) < 0.75  # nothing that white paper swallows


@pytest.mark.parametrize(
    ("values", "count", "markers"),
    [
        ([-1.0, -2.0, -3.0], 0, []),
        ([-1.0, -np.inf, -3.0], 1, ["v"]),
        ([-np.inf, np.inf, np.nan], 3, ["v", "^", "x"]),
        ([np.nan, np.nan, -1.0], 2, ["x"]),
        ([], 0, []),
        ([-1.0], 0, []),
    ],
)
def test_values_off_the_scale_are_marked_and_counted(tmp_path, values, count, markers):
    fig, ax = plotting.figure()
    x = np.arange(len(values))
    assert plotting.plot_log(ax, x, values, label="measured") == count
    line, *marks = ax.get_lines()
    assert [m.get_marker() for m in marks] == markers
    assert sum(len(m.get_xdata()) for m in marks) == count
    assert all(m.get_color() == line.get_color() for m in marks)
    assert np.isfinite(line.get_ydata()).sum() == len(values) - count
    if count < len(values):
        assert [t.get_text() for t in ax.legend().get_texts()] == ["measured"]
    plotting.save_figure(fig, "a", tmp_path)


def test_lone_points_keep_their_marker_among_many():
    y = np.full(100, -np.inf)
    y[[13, 50, 51, 99]] = -1.0
    _, ax = plotting.figure()
    assert plotting.plot_log(ax, np.arange(100), y) == 96
    marked = set(ax.get_lines()[0].get_markevery())
    assert {13, 99} <= marked
    _, ax = plotting.figure()
    plotting.plot_log(ax, np.arange(100), -np.arange(100.0))
    assert 10 <= len(ax.get_lines()[0].get_markevery()) <= 14


def test_marks_change_the_picture_and_not_the_scale(tmp_path):
    def picture(y):
        fig, ax = plotting.figure()
        plotting.plot_log(ax, X, y, marker="")
        return ax.get_ylim(), plotting.save_figure(fig, "a", tmp_path)[1].read_bytes()

    y = -X.copy()
    gap, zero = y.copy(), y.copy()
    gap[20], zero[20] = np.nan, -np.inf
    plain, with_gap, with_zero = picture(y), picture(gap), picture(zero)
    assert with_gap[0] == pytest.approx(plain[0])
    assert with_zero[0] == pytest.approx(plain[0])
    assert len({plain[1], with_gap[1], with_zero[1]}) == 3


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"width": "wide"}, "width"),
        ({"aspect": 0}, "aspect"),
        ({"aspect": np.nan}, "aspect"),
        ({"rows": 0}, "rows"),
        ({"columns": 1.5}, "columns"),
    ],
)
def test_bad_size_is_named(options, argument):
    with pytest.raises(ValueError, match=rf"jacspec\.plotting\.figure: argument '{argument}' .*; got .*, expected"):
        plotting.figure(**options)


@pytest.mark.parametrize(
    ("x", "y", "argument"), [([1, 2], [1.0], "y"), ([[1.0]], [[1.0]], "y"), ([np.nan], [1.0], "x")]
)
def test_bad_data_are_named(x, y, argument):
    with pytest.raises(ValueError, match=rf"jacspec\.plotting\.plot_log: argument '{argument}' .*; got .*, expected"):
        plotting.plot_log(plotting.figure()[1], x, y)


@pytest.mark.parametrize("name", ["../a", "/a", "a.svg", "a b", ""])
def test_unsafe_name_is_refused(tmp_path, name):
    for save, content in ((plotting.save_figure, plotting.figure()[0]), (plotting.save_caption, "text")):
        arguments = (content, name) if save is plotting.save_figure else (name, content)
        with pytest.raises(
            ValueError, match=rf"jacspec\.plotting\.{save.__name__}: argument 'name' .*; got .*, expected"
        ):
            save(*arguments, tmp_path)


def test_caption_is_one_paragraph_a_line(tmp_path):
    path = plotting.save_caption("a", "\n  One\n  sentence.\n\n  Another.  \n", tmp_path)
    assert path.read_text() == "One sentence.\n\nAnother.\n"


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys; from jacspec import plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
