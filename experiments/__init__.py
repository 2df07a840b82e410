"""Experiments compute arrays and write them to `results/`; they never draw.

An experiment is a module `experiments/<name>.py` with

- `CONFIG`: what it does by default, JSON values; its entry ``"seed"`` (0 if there is none) is recorded as the seed;
- `FULL`: the entries that ``--full`` changes;
- `TINY`: the entries that the tests change, to run it in seconds;
- `run(config, progress)`: the arrays by name; it calls ``progress(label, done, total)`` as it goes;
- `main()`: calls ``experiments.alone("<name>")``, so that ``python -m experiments.<name>`` runs it.

Results of the default profile lie in `results/`, those of ``--full`` in `results/full/`. Modules whose name starts with
an underscore are shared helpers.
"""

import argparse
import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jacspec
from jacspec import results

ROOT = Path(__file__).resolve().parent.parent
Progress = Callable[[str, int, int], None]


class ExperimentFailed(RuntimeError):
    """An experiment in a process of its own did not finish; the message is its traceback or its end."""


def names() -> list[str]:
    """The experiments that exist, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def configuration(name: str, *, full: bool = False) -> dict[str, Any]:
    """What the experiment is asked to do in the default or the full profile.

    Raises:
        KeyError: `FULL` changes an entry that `CONFIG` does not have.
    """
    module = importlib.import_module(f"experiments.{name}")
    unknown = module.FULL.keys() - module.CONFIG.keys()
    if unknown:
        msg = f"experiments.{name}: FULL changes {sorted(unknown)}, which CONFIG does not have"
        raise KeyError(msg)
    return module.CONFIG | (module.FULL if full else {})


def code(name: str) -> str:
    """The hash of everything the result depends on: the experiment, the shared helpers and the package."""
    here = Path(__file__).parent
    return results.code_hash(jacspec, here / f"{name}.py", *sorted(here.glob("_*.py")))


def folder(*, full: bool = False) -> Path:
    """Where the results of a profile lie."""
    return ROOT / "results" / "full" if full else ROOT / "results"


def staleness(name: str, *, full: bool = False) -> str:
    """Why the stored result is not the one that the experiment would compute now; empty if it is."""
    return results.staleness(name, configuration(name, full=full), code(name), root=folder(full=full))


def execute(name: str, progress: Progress, *, full: bool = False) -> dict[str, Any]:
    """Run the experiment in this process, in float64, write its result, and return the manifest."""
    import jax

    jax.config.update("jax_enable_x64", True)
    config, version = configuration(name, full=full), code(name)
    began = time.perf_counter()
    arrays = importlib.import_module(f"experiments.{name}").run(dict(config), progress)
    seconds = time.perf_counter() - began
    seed = config.get("seed", 0)
    return results.save(name, arrays, config, seed=seed, wall_time=seconds, code=version, root=folder(full=full))


def execute_apart(name: str, progress: Progress, *, full: bool = False) -> None:
    """Run the experiment in a process of its own, which may fail, or be killed, without harm to this one.

    Raises:
        ExperimentFailed: With the traceback or the exit status of the process.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # LAPACK's threads and XLA's fight for the same cores
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, name, full), daemon=True)
    process.start()
    there.close()
    failure = None
    try:
        while True:
            message = here.recv()
            if isinstance(message, str):
                failure = message
            else:
                progress(*message)
    except EOFError:
        process.join()
    finally:
        here.close()
        process.terminate()
        process.join()
    if failure or process.exitcode:
        raise ExperimentFailed(failure or f"its process ended with exit code {process.exitcode}")


def _child(there: Connection, name: str, full: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.dup2(2, 1)  # what an experiment prints is not a result
    try:
        execute(name, lambda label, done, total: there.send((str(label), int(done), int(total))), full=full)
    except BaseException:
        there.send(traceback.format_exc())
    finally:
        there.close()


def alone(name: str) -> None:
    """The command line of one experiment: ``python -m experiments.<name> [--full]``."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}")
    parser.add_argument("--full", action="store_true", help="the full profile instead of the default one")
    full = parser.parse_args().full
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(name)
        execute(
            name, lambda text, done, total: bar.update(task, description=text, completed=done, total=total), full=full
        )
    print(folder(full=full) / f"{name}.npz")
