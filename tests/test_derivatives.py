"""Every public activation, layer, cell and clipping has a case among the tests of derivatives."""

import inspect
import typing

import optax
import pytest
from test_derivatives_activations import ACTIVATIONS
from test_derivatives_clipping import CLIPPINGS
from test_derivatives_layers import CELLS, LAYERS

from jacspec import activations, cells, layers, remedies
from jacspec.remedies import adaptive, clipping


def transformations(module):
    hints = {name: typing.get_type_hints(f) for name, f in inspect.getmembers(module, inspect.isfunction)}
    made = {name for name, hint in hints.items() if hint.get("return") is optax.GradientTransformation}
    return {name for name in made if inspect.isfunction(getattr(remedies, name, None))}


def classes(module):
    return {name for name, _ in inspect.getmembers(module, inspect.isclass)}


@pytest.mark.parametrize(
    ("public", "cases"),
    [
        (set(activations.TABLE), ACTIVATIONS),
        (classes(layers), LAYERS),
        (classes(cells), CELLS),
        (transformations(clipping) | transformations(adaptive), CLIPPINGS),
    ],
)
def test_every_public_name_has_a_case(public, cases):
    assert len(public) >= 6
    assert public == {name.split()[0] for name in cases}
