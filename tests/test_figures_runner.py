"""`python -m figures` recomputes what is stale and only that, survives what fails, and checks the claims."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from figures import _gallery

ROOT = Path(__file__).resolve().parent.parent

EXPERIMENT = """
import numpy as np
import experiments

CONFIG = {"seed": 3, "steps": 4}
FULL = {"steps": 6}


def run(config, progress):
    print("this is not a result")
    for t in range(config["steps"]):
        progress("counting", t + 1, config["steps"])
    return {"curve": np.arange(config["steps"]) * 0.5}


def main():
    experiments.alone("counting")


if __name__ == "__main__":
    main()
"""

FIGURE = """
from jacspec import plotting
from jacspec.results import Claim

CAPTION = "A line."


def draw(data, config):
    fig, ax = plotting.figure()
    ax.plot(data["curve"])
    last = 0.5 * (config["steps"] - 1)
    return fig, [Claim(figure="counting", claim="last", source="by hand", expected=last, tolerance=0, measured=data["curve"][-1])]
"""


@pytest.fixture
def tree(tmp_path):
    """A repository with one experiment, its figure, and as much of the package as the runner needs."""
    ground = [
        f"jacspec/_ground/{name}.py" for name in ("__init__", "checks", "drawing", "files", "jsonable", "messages")
    ]
    rooms = [
        path.relative_to(ROOT) for room in ("plotting", "results") for path in (ROOT / "jacspec" / room).glob("*.py")
    ]
    for file in (
        "experiments/__init__.py",
        "figures/__init__.py",
        "figures/__main__.py",
        "figures/_drawing.py",
        "figures/_gallery.py",
        *ground,
        *rooms,
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "jacspec" / "__init__.py").touch()
    add(tmp_path, "counting", EXPERIMENT)
    return tmp_path


def call(tree, *arguments, module="figures"):
    environment = os.environ | {"PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)


def add(tree, name, experiment, figure=FIGURE):
    (tree / "experiments" / f"{name}.py").write_text(experiment)
    (tree / "figures" / f"{name}.py").write_text(figure.replace('"counting"', f'"{name}"'))


def test_runs_draws_and_claims_then_has_nothing_left_to_run(tree):
    first = call(tree)
    assert first.returncode == 0, first.stderr
    assert "1 of 1 claims hold." in first.stdout
    assert "not a result" not in first.stdout
    assert "counting: computing (missing)" in first.stderr
    names = sorted(p.name for p in (tree / "figures" / "out").iterdir())
    assert names == ["claims.json", "claims.md", "counting.pdf", "counting.png", "counting.txt", "index.html"]
    page = (tree / "figures" / "out" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "1 of 1 claims hold" in page
    assert '"steps": 4' in html.unescape(page)
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing beside it is needed
    manifest = json.loads((tree / "results" / "counting.json").read_text())
    assert manifest["x64"] is True
    assert manifest["seed"] == 3
    assert manifest["arrays"]["curve"]["dtype"] == "<f8"
    drawn = {p.name: p.read_bytes() for p in (tree / "figures" / "out").iterdir()}

    second = call(tree)
    assert second.returncode == 0
    assert "computing" not in second.stderr
    assert {p.name: p.read_bytes() for p in (tree / "figures" / "out").iterdir()} == drawn

    (tree / "figures" / "counting.py").write_text(FIGURE + "\n# drawing is not computing\n")
    assert "computing" not in call(tree).stderr
    assert "computing (forced)" in call(tree, "--force").stderr
    (tree / "experiments" / "counting.py").write_text(EXPERIMENT + "\n# another version\n")
    assert "the code changed" in call(tree, "--list").stdout


@pytest.mark.slow
def test_result_is_stale_when_the_package_changes(tree):
    assert call(tree).returncode == 0
    (tree / "jacspec" / "__init__.py").write_text("# another version")
    assert call(tree, "--list").stdout.split(maxsplit=1) == ["counting", "the code changed\n"]
    assert "computing (the code changed)" in call(tree).stderr


def test_configuration_or_damage_makes_a_result_stale_and_the_bad_file_is_kept(tree):
    assert call(tree).returncode == 0
    path = tree / "results" / "counting.npz"
    path.write_bytes(path.read_bytes()[:-9])
    again = call(tree)
    assert again.returncode == 0
    assert "computing (unusable: " in again.stderr
    assert (tree / "results" / "counting.npz.corrupt").exists()
    listed = call(tree, "--list")
    assert listed.stdout.split() == ["counting", "current"]
    (tree / "experiments" / "counting.py").write_text(EXPERIMENT.replace('"steps": 4', '"steps": 5'))
    assert "the configuration changed" in call(tree, "--list").stdout


@pytest.mark.slow
def test_full_profile_has_its_own_results_and_figures(tree):
    assert call(tree, "--full").returncode == 0
    assert json.loads((tree / "results" / "full" / "counting.json").read_text())["config"]["steps"] == 6
    assert (tree / "figures" / "out" / "full" / "counting.pdf").exists()


@pytest.mark.slow
def test_another_seed_has_its_own_results_and_figures(tree):
    assert call(tree, "--seed", "7").returncode == 0
    manifest = json.loads((tree / "results" / "seed7" / "counting.json").read_text())
    assert (manifest["seed"], manifest["config"]["seed"], manifest["config"]["steps"]) == (7, 7, 4)
    assert (tree / "figures" / "out" / "seed7" / "index.html").exists()
    assert not (tree / "results" / "counting.json").exists()
    assert "counting: computing" not in call(tree, "--seed", "7").stderr
    assert not (tree / "results" / "counting.npz").exists()


def test_failures_do_not_stop_the_others_and_are_in_the_summary(tree):
    crash = EXPERIMENT.replace('print("this is not a result")', 'raise ArithmeticError("planted failure")')
    add(tree, "a_crash", crash)
    add(tree, "b_killed", EXPERIMENT.replace('print("this is not a result")', "import os; os._exit(9)"))
    add(tree, "c_unreadable", "def run(")
    add(tree, "d_bad_figure", EXPERIMENT, FIGURE.replace("def draw", "def paint"))
    add(tree, "e_stranger", EXPERIMENT, FIGURE.replace('figure="counting"', 'figure="other"'))
    (tree / "figures" / "f_lonely.py").write_text(FIGURE)
    ended = call(tree)
    assert ended.returncode == 1
    assert "ArithmeticError: planted failure" in ended.stderr
    assert "exit code 9" in ended.stderr
    assert "6 of 7 figures failed: a_crash, b_killed, c_unreadable, d_bad_figure, e_stranger, f_lonely" in ended.stderr
    assert "1 of 1 claims hold." in ended.stdout
    assert (tree / "figures" / "out" / "counting.pdf").exists()


def test_claim_that_does_not_hold_is_exit_code_3(tree):
    add(tree, "wrong", EXPERIMENT, FIGURE.replace("expected=last", "expected=last + 1"))
    ended = call(tree)
    assert ended.returncode == 3
    assert "1 of 2 claims hold." in ended.stdout
    assert "**no**" in ended.stdout
    named = call(tree, "counting")
    assert named.returncode == 0
    assert len(json.loads((tree / "figures" / "out" / "claims.json").read_text())) == 2


@pytest.mark.slow
def test_failed_or_removed_figures_leave_no_claim(tree):
    add(tree, "other", EXPERIMENT)
    assert call(tree).returncode == 0
    for folder in ("experiments", "figures"):
        (tree / folder / "other.py").unlink()
    (tree / "figures" / "counting.py").write_text("broken")
    assert call(tree).returncode == 1
    assert json.loads((tree / "figures" / "out" / "claims.json").read_text()) == []


def test_unknown_figure_is_a_usage_error_with_the_nearest_name(tree):
    ended = call(tree, "countign")
    assert ended.returncode == 2
    assert "no figure 'countign'; did you mean 'counting'?" in ended.stderr
    assert not (tree / "results").exists()


def test_experiment_runs_alone(tree):
    ended = call(tree, module="experiments.counting")
    assert ended.returncode == 0, ended.stderr
    assert (tree / "results" / "counting.npz").exists()


def test_profile_that_changes_what_is_not_there_is_refused(tree):
    add(tree, "typo", EXPERIMENT.replace('"steps": 6', '"step": 6'))
    ended = call(tree, "typo", "--full")
    assert ended.returncode == 1
    assert "FULL changes ['step'], which CONFIG does not have" in ended.stderr


@pytest.mark.skipif(not list((ROOT / "figures").glob("[!_]*.py")), reason="no figure yet")
def test_every_figure_of_the_repository_has_its_experiment():
    def stems(folder):
        return {p.stem for p in (ROOT / folder).glob("*.py") if not p.stem.startswith("_")}

    assert stems("figures") <= stems("experiments")


@pytest.mark.parametrize(("seconds", "words"), [(None, "cpu</p>"), (1.25, "cpu; computed in 1.2 s</p>")])
def test_the_page_says_how_long_a_result_took_where_that_is_known(tmp_path, seconds, words):
    (tmp_path / "counting.png").write_bytes(bytes(24))
    manifest = {"versions": {"jax": "0"}, "device": "cpu", "config": {}, "wall_time": seconds}
    page = _gallery.write(tmp_path, [], {"counting": manifest}, ["counting"])
    assert words in page.read_text()
