"""Figures in one style: column widths, colors that survive color blindness and gray print, spectra beside their theory."""

from jacspec.plotting.figures import COLORS as COLORS
from jacspec.plotting.figures import WIDTHS as WIDTHS
from jacspec.plotting.figures import figure as figure
from jacspec.plotting.figures import panel_label as panel_label
from jacspec.plotting.figures import plot_log as plot_log
from jacspec.plotting.figures import save_caption as save_caption
from jacspec.plotting.figures import save_figure as save_figure
from jacspec.plotting.figures import style as style
from jacspec.plotting.overlays import Overlay as Overlay
from jacspec.plotting.overlays import plot_exponents as plot_exponents
from jacspec.plotting.overlays import plot_spectrum as plot_spectrum
