"""Drawing one figure from its stored result, in a process that does nothing else."""

import importlib
import signal
from pathlib import Path

import matplotlib as mpl

import experiments
from experiments import DEFAULT, Profile
from jacspec import plotting, results

HERE = Path(__file__).resolve().parent


def out(profile: Profile = DEFAULT) -> Path:
    """Where the drawn figures of a profile go."""
    return profile.under(HERE / "out")


def prepare() -> None:
    """Make this process one that draws."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    mpl.use("Agg")


def draw(name: str, profile: Profile) -> list[results.Claim]:
    """Draw the figure, write it with its caption, and return its claims."""
    module = importlib.import_module(f"figures.{name}")
    data, manifest = results.load(name, root=experiments.folder(profile))
    with plotting.style():
        fig, claims = module.draw(data, manifest["config"])
        plotting.save_figure(fig, name, out(profile))
    plotting.save_caption(name, module.CAPTION, out(profile))
    strangers = {claim.figure for claim in claims} - {name}
    if strangers:
        msg = f"figures.{name}: a claim names the figure {sorted(strangers)}, expected '{name}'"
        raise ValueError(msg)
    return claims
