"""The command line: a comparison from words, and one sentence with status 2 for what is wrong, before anything trains."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from test_comparison import canned

from jacspec.cli import main

MODULE = sys.modules["jacspec.comparison.compare"]


@pytest.fixture(autouse=True)
def trained(monkeypatch):
    """The rows that would be trained; they cost nothing."""
    plans = []

    def train(plan, seeds):
        plans.append(plan)
        return canned(str(plan.remedy), 0.5, len(seeds))

    monkeypatch.setattr(MODULE, "train", train)
    return plans


def test_a_comparison_from_words(trained, tmp_path, capsys):
    words = "compare --task temporal_order --length 50 --remedy none --remedy clip=norm:1 --seeds 3 --width 7"
    words += " --remedy lstm,clip=value:-1:0.5 --updates 30 --batch 4 --learning-rate 0.2 --optimizer adam"
    assert main([*words.split(), "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    remedies = ["none", "clip=norm:1", "lstm,clip=value:-1:0.5"]  # ":-1:" is an emoji to some
    assert all(remedy in text for remedy in remedies for text in (out, err))
    assert "temporal_order, 2 symbols, L=50: 30 updates of 4 sequences, 3 seeds" in out
    assert "table.csv" in err
    assert "table.csv" not in out
    with (tmp_path / "table.csv").open() as stream:
        assert [line["remedy"] for line in csv.DictReader(stream)] == remedies
    settings = json.loads((tmp_path / "table.json").read_text())["settings"]
    assert settings == {
        "width": 7, "updates": 30, "batch": 4, "seeds": 3, "first_seed": 0, "depth": None, "learning_rate": 0.2, "optimizer": "adam",
    }  # fmt: skip
    assert (tmp_path / "comparison.pdf").read_bytes().startswith(b"%PDF")
    assert [plan.task.length for plan in trained] == [50] * 3
    assert [plan.rule for plan in trained] == ["adam"] * 3
    assert main([*words.split(), "--out", str(tmp_path), "--quiet"]) == 0
    assert len(trained) == 3  # from the store
    assert capsys.readouterr().err == ""


def test_digits_over_depth_and_in_another_order(trained, tmp_path):
    common = ["--seeds", "1", "--updates", "3", "--out", str(tmp_path), "--quiet"]
    assert main(["compare", "--task", "digits", "--depth", "5", "--remedy", "norm=batch", *common]) == 0
    assert main(["compare", "--task", "digits,order=pixel,fold=2", *common]) == 0
    deep, pixels = trained
    assert (deep.deep, deep.arguments["depth"], deep.arguments["features"]) == (True, 5, 64)
    assert (pixels.task.length, pixels.task.name, str(pixels.remedy)) == (64, "digits, pixel, fold 2", "none")


def test_data_of_the_user(trained, tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=np.arange(300.0).reshape(20, 5, 3), targets=np.arange(20) % 2)
    (tmp_path / "mine.txt").write_text("to be or not to be, " * 40)
    out = ["--seeds", "1", "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["compare", "--data", str(tmp_path / "mine.npz"), *out]) == 0
    assert main(["compare", "--data", str(tmp_path / "mine.txt"), "--length", "9", *out]) == 0
    assert [(plan.task.name, plan.task.length) for plan in trained] == [("mine.npz", 5), ("text, T=9", 9)]
    assert [plan.arguments["readout"] for plan in trained] == ["last", "every"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compare --task temporal_ordr", "Did you mean 'temporal_order'?"),
        ("compare --task temporal_order --length 5", "'length' is too short; got 5"),
        ("compare --task temporal_order --length five", "invalid int value: 'five'"),
        ("compare --task temporal_order --remedy lsmt", "Did you mean 'lstm'?"),
        ("compare --task temporal_order --remedy clip=norm:0", "'max_norm' is out of range; got 0.0"),
        ("compare --task temporal_order --remedy clip=norm:nan", "'max_norm' is out of range; got nan"),
        ("compare --task temporal_order --remedy clip=value:-1", "'max_value' is out of range"),
        ("compare --task temporal_order --remedy lstm,gru", "sets 'cell' twice"),
        ("compare --task temporal_order --remedy residual", "not for a recurrent network"),
        ("compare --task digits --depth 3 --remedy gru", "not for a deep network"),
        ("compare --task temporal_order --remedies none", "unknown argument '--remedies'. Did you mean '--remedy'?"),
        ("compare --task temporal_order --seeds 0", "'seeds' is out of range"),
        ("compare --task temporal_order --learning-rate -1", "'learning_rate' is out of range"),
        ("compare --task temporal_order --optimizer adm", "Did you mean 'adam'?"),
        ("compare --remedy none", "one of the arguments --task --data is required"),
        ("compare --task copy --data x.npz", "not allowed with argument"),
        ("compare --data nowhere.npz", "there is no file nowhere.npz"),
        ("compare --data shape.npz", "'targets' has the wrong shape; got int64 of shape (3,), expected (4,) or (4, 5)"),
        ("compare --data pickled.npz", "refused"),
        ("compare --data task.yaml", "'.yaml'"),
        ("comprae", "invalid choice: 'comprae'"),
        ("", "required"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_2(words, said, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("shape.npz", inputs=np.zeros((4, 5, 1)), targets=np.zeros(3, int))
    np.savez("pickled.npz", inputs=np.array([{}, None]), targets=np.zeros(2, int))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SystemExit) as left:
        main(words.split())
    out, err = capsys.readouterr()
    assert left.value.code == 2
    assert said in err
    assert err.startswith("jacspec: ")
    assert err.count("\n") == 1
    assert (out, trained) == ("", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_status_1(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["compare", "--task", "adding", "--seeds", "1", "--quiet", "--out", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_an_interruption_is_status_130(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "train", interrupted)
    assert main(["compare", "--task", "adding", "--seeds", "1", "--quiet", "--out", str(tmp_path)]) == 130
    assert str(tmp_path) in capsys.readouterr().err


def test_help_names_every_remedy(capsys):
    from jacspec.comparison import vocabulary

    with pytest.raises(SystemExit) as left:
        main(["compare", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert [word for word in vocabulary() if word.partition("=")[0] not in text] == []


def test_python_m_jacspec_is_the_command():
    done = subprocess.run([sys.executable, "-m", "jacspec", "compare"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jacspec: ")
