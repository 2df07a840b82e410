"""The command line: a comparison from words, and one sentence with status 2 for what is wrong, before anything trains."""

import csv
import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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


def test_a_comparison_from_words(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # at 80 a long remedy is folded
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
        ("compare --data folder.npz", "there is no file folder.npz"),
        ("compare --data ../folder.npz", "there is no file ../folder.npz"),
        ("compare --data shape.npz", "'targets' has the wrong shape; got int64 of shape (3,), expected (4,) or (4, 5)"),
        ("compare --data pickled.npz", "refused"),
        ("compare --data task.yaml", "'.yaml'"),
        ("comprae", "invalid choice: 'comprae'"),
        ("", "required"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_2(words, said, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
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


SPARE = ["compare", "--task", "adding", "--seeds", "1", "--quiet"]


@pytest.mark.parametrize("where", ["file", "file/below", "table.csv", "comparison.png"])
def test_what_cannot_be_written_is_said_before_anything_trains(where, trained, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / where if where.startswith("file") else tmp_path
    if out == tmp_path:
        (tmp_path / where).mkdir()
    assert main([*SPARE, "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("jacspec: could not write ")
    assert str(tmp_path / where) in err
    assert err.count("\n") == 1
    assert trained == []


def test_a_folder_that_is_read_only_is_said_before_anything_trains(trained, tmp_path, capsys, monkeypatch):
    def refused(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert main([*SPARE, "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"jacspec: could not write {tmp_path}: Permission denied\n"
    assert trained == []


@pytest.mark.parametrize("out", ["../run", "a/../b", "./c d/é", "."])
def test_any_folder_will_do(out, trained, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*SPARE, "--out", out]) == 0
    assert {"rows", "table.csv", "table.json", "comparison.pdf"} <= {p.name for p in Path(out).resolve().iterdir()}
    assert main([*SPARE, "--out", out]) == 0
    assert len(trained) == 1


def test_without_a_folder_no_call_overwrites_the_table_of_another(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ("", "--remedy gru", "--width 3", "--remedy none --remedy gru", ""):
        assert main([*SPARE, *words.split()]) == 0
    tables = sorted(Path("comparison").glob("adding-*/table.csv"))
    assert len(tables) == 4
    assert {table.read_text().count("\n") for table in tables} == {2, 3}
    assert len(trained) == 3  # finished rows are shared


NUMBERS = ["length", "width", "depth", "updates", "batch", "learning-rate", "seeds", "first-seed"]
FINE = {("first-seed", "0"), ("learning-rate", "99999999999999")}


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize(
    "value", ["0", "-1", "99999999999999", "9" * 400, "nan", "inf", "1e39", "1e-50", "five", "", "٣٣e"]
)
def test_no_number_on_the_command_line_ends_in_a_traceback(option, value, trained, tmp_path, capsys):
    task = "digits" if option == "depth" else "temporal_order"
    given = ["compare", "--task", task, f"--{option}={value}", "--out", str(tmp_path)]
    if (option, value) in FINE:
        assert main([*given, "--quiet"]) == 0
        return
    with pytest.raises(SystemExit) as left:
        main(given)
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert err.startswith("jacspec: ")
    assert err.count("\n") == 1
    assert option.replace("-", "_") in err.replace("-", "_")
    assert "..-" not in err
    assert len(err) < 1000
    assert trained == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--width 999999", "'width' does not fit into memory; got 999999: the parameters of 5 seeds are"),
        ("--batch 99999999", "'batch' does not fit into memory; got 99999999: the inputs and states of 5 seeds"),
        ("--remedy batch=99999999", "'batch' does not fit into memory"),
        ("--remedy lstm,layers=99999", "'layers' is out of range; got 99999, expected at most 10000"),
        ("--updates 2147483647 --remedy batch=1", "'updates' makes too many at this batch; got 42949672940"),
        ("--remedy clip=norm:inf", "'clip=norm:inf' is out of range"),
        ("--remedy clip=norm:1e39", "'max_norm' leaves the range of float32; got 1e+39"),
        ("--remedy lr=1e39", "'lr=1e39' leaves the range of float32"),
        ("--seeds 99999999999", "'seeds' is out of range; got 99999999999, expected 1..2147483647"),
        ("--split time", "'split' is for --data; got 'time'"),
        ("--length 999999999 --remedy none", "does not fit into memory"),
    ],
)
def test_what_no_machine_holds_is_refused_before_it_is_made(words, said, trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--task", "temporal_order", *words.split(), "--out", str(tmp_path)])
    assert said in capsys.readouterr().err
    assert trained == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lstm", "got 'lstm', which sets 'cell'"),
        ("layers=2", "got 'layers=2'"),
        ("flossing=3", "got 'flossing=3'"),
        ("activation=relu,omega=norm", "got 'omega=norm'"),
    ],
)
def test_a_refused_word_is_given_back_as_it_was_written(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--task", "digits", "--depth", "3", "--remedy", words, "--out", str(tmp_path)])
    assert said in capsys.readouterr().err


def test_data_with_nothing_to_learn_is_refused_before_anything_trains(trained, tmp_path, capsys):
    inputs = np.arange(300.0).reshape(20, 5, 3)
    for name, targets in (("class", np.ones(20, int)), ("number", np.full((20, 1), 0.1))):
        np.savez(tmp_path / name, inputs=inputs, targets=targets)
        with pytest.raises(SystemExit):
            main(["compare", "--data", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / "out")])
        assert "'targets' never differs" in capsys.readouterr().err
    np.savez(tmp_path / "fine", inputs=inputs, targets=np.arange(20) // 7, site=np.arange(20) // 5)
    for split, held_out in (("time", 2), ("group:site", 5)):
        assert (
            main(["compare", "--data", str(tmp_path / "fine.npz"), "--split", split, "--out", str(tmp_path / split)])
            == 0
        )
        assert trained[-1].task.held_out == held_out


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_lines_are_no_longer_than_the_terminal(columns, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "lstm,forget_bias=1,clip=norm:1,clip=value:-1:0.5,weight_decay=1e-4"
    assert main([*SPARE, "--remedy", "none", "--remedy", long, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert all(number in out for number in ("0/1", "0.00-0.79", "0.500", "+0.50"))
    assert "".join(out.split()).count("weight_decay=1e-4") == 1 or columns < 160
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


def test_version(capsys):
    import jacspec

    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"jacspec {jacspec.__version__}\n"


@pytest.mark.parametrize("moment", ["_prepared", "_compare"])
def test_an_interruption_at_any_moment_is_one_sentence(moment, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["jacspec.cli.command"], moment, interrupted)
    assert main([*SPARE, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.startswith("jacspec: interrupted")


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
