"""Claims say what holds, and cannot be talked into holding."""

import json
import math

import numpy as np
import pytest

from jacspec import results
from jacspec.results import Claim, ResultError


def claim(measured=1.0, expected=1.0, tolerance=0.0, figure="decay", **options):
    text = {"claim": "rate | at lag", "source": "theory"}
    return Claim(figure=figure, expected=expected, tolerance=tolerance, measured=measured, **text, **options)


@pytest.mark.parametrize(
    ("kind", "measured", "expected", "tolerance", "holds"),
    [
        ("equal", 1.0, 1.0, 0.0, True),
        ("equal", 1.25, 1.0, 0.25, True),
        ("equal", 0.75, 1.0, 0.25, True),
        ("equal", 1.26, 1.0, 0.25, False),
        ("equal", math.nan, 1.0, 9.0, False),
        ("equal", -math.inf, -math.inf, 0.0, True),
        ("equal", math.inf, -math.inf, 1.0, False),
        ("equal", 1.0, math.inf, 1.0, False),
        ("at_most", -5.0, 1.0, 0.0, True),
        ("at_most", 1.25, 1.0, 0.25, True),
        ("at_most", 1.5, 1.0, 0.25, False),
        ("at_most", math.nan, 1.0, 0.25, False),
        ("at_least", 5.0, 1.0, 0.0, True),
        ("at_least", 0.75, 1.0, 0.25, True),
        ("at_least", 0.5, 1.0, 0.25, False),
        ("at_least", math.nan, 1.0, 0.25, False),
    ],
)
def test_claim_holds_exactly_within_its_tolerance(kind, measured, expected, tolerance, holds):
    assert claim(measured, expected, tolerance, kind=kind).holds is holds


def test_claim_cannot_be_talked_into_holding():
    with pytest.raises(TypeError):
        claim(2.0, holds=True)
    with pytest.raises(AttributeError):
        claim(2.0).holds = True


@pytest.mark.parametrize(
    ("options", "name"),
    [({"tolerance": -1}, "tolerance"), ({"tolerance": math.nan}, "tolerance"), ({"tolerance": math.inf}, "tolerance"),
     ({"expected": math.nan}, "expected"), ({"kind": "roughly"}, "kind")],
)  # fmt: skip
def test_claim_that_says_nothing_is_refused(options, name):
    with pytest.raises(ValueError, match=f"argument '{name}'"):
        claim(**options)


def test_claims_are_merged_by_figure(tmp_path):
    results.write_claims([claim(figure="a"), claim(2.0, figure="b")], tmp_path)
    results.write_claims([claim(3.0, figure="b"), claim(figure="b")], tmp_path)
    rows = json.loads((tmp_path / "claims.json").read_text())
    assert [(r["figure"], r["measured"], r["holds"]) for r in rows] == [("a", 1, True), ("b", 3, False), ("b", 1, True)]
    assert rows[0].keys() >= {"figure", "claim", "source", "expected", "tolerance", "measured", "holds"}
    text = (tmp_path / "claims.md").read_text()
    assert text.startswith("2 of 3 claims hold.")
    assert "rate \\| at lag" in text
    assert "**no**" in text
    assert len({len(line) for line in text.splitlines()[2:]}) == 1


def test_failed_figure_loses_its_old_claims(tmp_path):
    results.write_claims([claim(figure="a"), claim(figure="b")], tmp_path)
    assert [r["figure"] for r in results.write_claims([], tmp_path, replace=["a"])] == ["b"]


def test_claims_with_infinities_are_json(tmp_path):
    results.write_claims([claim(-np.float32(np.inf), -math.inf), claim(math.nan)], tmp_path)
    rows = json.loads((tmp_path / "claims.json").read_text(), parse_constant=pytest.fail)
    assert [r["measured"] for r in rows] == ["-inf", "nan"]
    assert results.write_claims([], tmp_path) == rows


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"figure": "a"}]'])
def test_foreign_claims_file_is_named(tmp_path, content):
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(ResultError, match=r"claims\.json cannot be used"):
        results.write_claims([claim()], tmp_path)


@pytest.mark.parametrize("name", ["figure", "claim", "source", "expected", "tolerance", "measured", "kind", "holds"])
@pytest.mark.parametrize("value", [None, [1], {"a": 1}, 3, "words"])
def test_a_field_of_another_kind_makes_the_file_a_foreign_one(tmp_path, name, value):
    results.write_claims([claim()], tmp_path)
    path = tmp_path / "claims.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[0], rows[0] | {name: value}]))
    number, words = name in ("expected", "tolerance", "measured"), name in ("figure", "claim", "source")
    if (number and value == 3) or (words and value == "words"):
        assert len(results.write_claims([claim(figure="new")], tmp_path)) == 3
    else:
        with pytest.raises(ResultError, match=r"claims\.json cannot be used"):
            results.write_claims([claim(figure="new")], tmp_path)


@pytest.mark.parametrize("value", ["a", None, [1], 1j, 10**400])
def test_what_is_no_number_is_no_claim(value):
    for name in ("expected", "tolerance", "measured"):
        with pytest.raises(TypeError, match=f"results.Claim: argument '{name}' is no number"):
            claim(**{name: value})
    with pytest.raises(TypeError, match="'figure' is no text"):
        claim(figure=3)


def test_rows_that_are_no_claims_are_named(tmp_path):
    for row in (3, "words", ("claim", "source"), ("claim", "source", 1, 0, 1, "equal", "more")):
        with pytest.raises(ValueError, match="'rows' has a row that is no claim"):
            results.claims_of("decay", [row])
    assert results.claims_of("decay", [("claim", "source", 1, 0, 1)])[0].holds
    with pytest.raises(TypeError, match="'claims' holds what is no Claim"):
        results.write_claims([3], tmp_path)
    with pytest.raises(TypeError, match="'folder' is no path"):
        results.write_claims([claim()], 3)
