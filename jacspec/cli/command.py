"""The command line: `jacspec compare --task temporal_order --length 50 --remedy none --remedy clip=norm:1 --seeds 5`.

The table goes to stdout, progress to stderr. Exit status: 0 done, 1 a file cannot be written, 2 wrong arguments (both
one sentence, before anything trains), 130 interrupted.
"""

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

EPILOG = """remedies are words joined by commas, for example
  none                 nothing is changed: a tanh Elman network, or plain tanh
                       layers with --depth
  clip=norm:1          clipping by norm, value (clip=value:0.5 or
                       clip=value:-1:0.5), leaf, agc, zclip, autoclip
  lstm,forget_bias=1   cells: elman leaky_elman lstm gru mgu minimal_rnn lru;
                       rate=0.1 with leaky_elman, chrono=50 and layers=2
  init=orthogonal      or identity, xavier, he, gaussian, critical,
                       critical_orthogonal; gain=1.2
  activation=relu      any name of jacspec.activations
  omega=norm:4, flossing=16
                       regularizers of the spectrum
  residual, skipinit, norm=batch:before
                       over depth; norm is also layer, rms, weight, cosine,
                       centered_cosine
  whiten, standardize, reweight, weight_decay=1e-4, lr=0.01, batch=64,
  optimizer=adam       of the data and of the training
  es, cma_es, sep_cma_es, lm_ma_es, ga, pso
                       training without gradients

a run that was stopped goes on where it was when it is called again with the
same --out, or none"""


PIPED = 160
"""Columns of the table where stdout is no terminal and COLUMNS is not set."""

FILES = ("table.csv", "table.json", "comparison.pdf", "comparison.png")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence with the nearest name; `options` is the text of those there are."""

    options = ""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with status 2."""
        print(f"jacspec: {message}", file=sys.stderr)
        raise SystemExit(2)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """All arguments; what is unknown is an error that names the nearest."""
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            near = difflib.get_close_matches(unknown[0], re.findall(r"--[a-z-]+", self.options), 1, 0.4)
            self.error(f"unknown argument {unknown[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return found


def parser() -> Parser:
    """The arguments of every command."""
    main = Parser(
        prog="jacspec", description="How gradients travel through recurrent and deep networks.", allow_abbrev=False
    )
    main.add_argument("--version", action="version", version=f"jacspec {import_module('jacspec').__version__}")
    commands = main.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)
    form = argparse.RawDescriptionHelpFormatter
    compare = commands.add_parser(
        "compare", help="train the same task with several remedies", description="Train the same task with several "
        "remedies at the same data, budget and\nseeds, and tabulate what each one does.",
        epilog=EPILOG, formatter_class=form, allow_abbrev=False,
    )  # fmt: skip
    source = compare.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--task", metavar="NAME", help="temporal_order, adding, digits,order=pixel, ... (jacspec.tasks)"
    )
    source.add_argument("--data", metavar="PATH", help="your own task: .npz with inputs and targets, or a .txt")
    compare.add_argument(
        "--split", metavar="HOW", help="what of an .npz is held out: shuffled (default), time, or group:<column>"
    )
    compare.add_argument("--length", type=int, metavar="T", help="steps of a sequence (default: that of the task)")
    compare.add_argument("--remedy", action="append", metavar="WORDS", help="a row of the table; give it several times")
    compare.add_argument("--width", type=int, default=50, metavar="N", help="units a layer (50)")
    compare.add_argument(
        "--depth", type=int, metavar="L", help="layers over depth, each sequence one vector; none: recurrent"
    )
    compare.add_argument("--updates", type=int, default=2000, metavar="N", help="of every row (2000)")
    compare.add_argument("--batch", type=int, default=20, metavar="B", help="sequences an update (20)")
    compare.add_argument("--learning-rate", type=float, default=0.01, metavar="ETA", help="of every row (0.01)")
    compare.add_argument("--optimizer", default="sgd", metavar="NAME", help="sgd (default) or adam")
    compare.add_argument("--seeds", type=int, default=5, metavar="N", help="runs a row (5)")
    compare.add_argument("--first-seed", type=int, default=0, metavar="N", help="of the first run (0), then N + 1, ...")
    compare.add_argument(
        "--out", metavar="FOLDER", help="finished rows, table.csv, table.json and the figure, which another call with the "
        "same folder replaces (default: a folder of its own for every comparison, comparison/<task>-<hash>; they share "
        "the finished rows)",
    )  # fmt: skip
    compare.add_argument("--quiet", action="store_true", help="no progress")
    main.options = compare.format_usage()
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    reader, finished = parser(), ""
    try:
        given = reader.parse(arguments)
        try:
            prepared, out = _prepared(given)
        except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
            reader.error(str(error))
        finished = f"; finished rows are in {prepared.store}"
        _compare(prepared, out, quiet=given.quiet)
    except KeyboardInterrupt:
        print(f"jacspec: interrupted{finished}.", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"jacspec: {error if error.filename else error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _prepared(given: argparse.Namespace) -> tuple[Any, Path]:
    """The comparison that the arguments ask for, and the folder of its table."""
    from jacspec import comparison, tasks
    from jacspec._ground import files
    from jacspec._ground.messages import message

    base = files.place("compare", "out", "comparison" if given.out is None else given.out)
    if given.data is not None:
        task, length = tasks.from_file(given.data, length=given.length, split=given.split), None
    elif given.split is not None:
        raise ValueError(message("compare", "split", "is for --data", repr(given.split), "no --split with --task"))
    else:
        task, length = given.task, given.length
    prepared = comparison.prepare(
        task, given.remedy or ["none"], length=length, width=given.width, depth=given.depth, updates=given.updates,
        batch=given.batch, learning_rate=given.learning_rate, optimizer=given.optimizer, seeds=given.seeds,
        first_seed=given.first_seed, store=base / "rows",
    )  # fmt: skip
    return prepared, base / prepared.name if given.out is None else base


def _compare(prepared: Any, out: Path, *, quiet: bool) -> None:
    """Compute, print and write."""
    from rich.console import Console

    from jacspec import comparison, plotting
    from jacspec._ground import files

    files.probe(out, *FILES)
    found = prepared.run(progress=not quiet)
    Console(width=shutil.get_terminal_size((PIPED, 0)).columns).print(found.table())
    written = [found.write_csv(out / FILES[0]), found.write_json(out / FILES[1])]
    written += plotting.save_figure(comparison.plot(found), "comparison", out)
    if not quiet:
        print("wrote " + ", ".join(map(str, written)), file=sys.stderr)
