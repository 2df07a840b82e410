"""Figures read results and draw them; they never compute and never import an experiment.

A figure is a module `figures/<name>.py` beside an experiment of the same name, with

- `CAPTION`: the caption, plain text;
- `draw(data, config)`: the matplotlib figure and a list of `jacspec.results.Claim` whose `figure` is the name; `data` are
  the arrays of the result, `config` is what the experiment was asked to do.

``python -m figures`` runs what is missing or stale, draws, and checks the claims. Modules whose name starts with an
underscore are shared helpers.
"""
