"""Experiments compute arrays and write them to `results/`; they never draw.

An experiment is a module `experiments/<name>.py` with

- `CONFIG`: what it does by default, JSON values; its entry ``"seed"`` (0 if there is none) is recorded as the seed;
- `FULL`: the entries that ``--full`` changes;
- `TINY`: the entries that the tests change, to run it in seconds;
- `MAY_BE_NAN`, if any: how the names of arrays end in which NaN is an answer, and why; elsewhere it ends the experiment;
- `run(config, progress)`: the arrays by name; it calls ``progress(label, done, total)`` as it goes;
- `main()`: calls ``experiments.alone("<name>")``, so that ``python -m experiments.<name>`` runs it.

Results of the default profile lie in `results/`, those of ``--full`` in `results/full/`, those of ``--seed 1`` in
`results/seed1/`. Modules whose name starts with
an underscore are shared helpers.
"""

import argparse
import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jacspec
from jacspec import results

COMPILER = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
"""XLA_FLAGS where the user has set none: compiling, most of the work here, takes two thirds, and the programs run as fast."""
if metadata.version("jaxlib").startswith("0.10."):
    COMPILER += " --xla_cpu_use_fusion_emitters=false"  # an unknown flag, which ends the process, from 0.11 on

ROOT = Path(__file__).resolve().parent.parent
Progress = Callable[[str, int, int], None]


class Profile(NamedTuple):
    """What of an experiment is asked for beside its `CONFIG`.

    Attributes:
        full: whether the entries of `FULL` hold.
        seed: in place of that of the configuration, or None.
    """

    full: bool = False
    seed: int | None = None

    def under(self, root: Path) -> Path:
        """The folder of this profile: the root itself for the default one."""
        folder = root / "full" if self.full else root
        return folder if self.seed is None else folder / f"seed{self.seed}"


DEFAULT = Profile()


class DoubtfulResult(ValueError):
    """An experiment found numbers that are not known where a figure claims to know them."""


class ExperimentFailed(RuntimeError):
    """An experiment in a process of its own did not finish; the message is its traceback or its end."""


def names() -> list[str]:
    """The experiments that exist, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def configuration(name: str, profile: Profile = DEFAULT) -> dict[str, Any]:
    """What the experiment is asked to do in a profile.

    Raises:
        KeyError: `FULL` changes an entry that `CONFIG` does not have.
    """
    module = importlib.import_module(f"experiments.{name}")
    unknown = module.FULL.keys() - module.CONFIG.keys()
    if unknown:
        msg = f"experiments.{name}: FULL changes {sorted(unknown)}, which CONFIG does not have"
        raise KeyError(msg)
    chosen = {} if profile.seed is None else {"seed": profile.seed}
    return module.CONFIG | (module.FULL if profile.full else {}) | chosen


def code(name: str) -> str:
    """The hash of everything the result depends on: the experiment, the shared helpers and the package."""
    here = Path(__file__).parent
    return results.code_hash(jacspec, here / f"{name}.py", *sorted(here.glob("_*.py")))


def folder(profile: Profile = DEFAULT) -> Path:
    """Where the results of a profile lie."""
    return profile.under(ROOT / "results")


def staleness(name: str, profile: Profile = DEFAULT) -> str:
    """Why the stored result is not the one that the experiment would compute now; empty if it is."""
    return results.staleness(name, configuration(name, profile), code(name), root=folder(profile))


def execute(name: str, progress: Progress, profile: Profile = DEFAULT) -> dict[str, Any]:
    """Run the experiment in this process, in float64, write its result, and return the manifest."""
    import jax

    jax.config.update("jax_enable_x64", True)
    config, version = configuration(name, profile), code(name)
    began = time.perf_counter()
    arrays = importlib.import_module(f"experiments.{name}").run(dict(config), progress)
    seconds = time.perf_counter() - began
    refuse_doubt(name, arrays)
    seed = config.get("seed", 0)
    return results.save(name, arrays, config, seed=seed, wall_time=seconds, code=version, root=folder(profile))


def refuse_doubt(name: str, arrays: dict[str, Any]) -> None:
    """See that no array has NaN, as what is not resolved is, but those of the experiment's `MAY_BE_NAN`.

    Raises:
        DoubtfulResult: Naming the arrays.
    """
    allowed = tuple(getattr(importlib.import_module(f"experiments.{name}"), "MAY_BE_NAN", ()))
    numbers = {key: np.asarray(a) for key, a in arrays.items() if not key.endswith(allowed)}
    counts = {key: int(np.isnan(a).sum()) for key, a in numbers.items() if a.dtype.kind in "fc"}
    told = [f"{count} of {numbers[key].size} in '{key}'" for key, count in counts.items() if count]
    if told:
        msg = f"experiments.{name}: values are not resolved (NaN): {', '.join(told)}. A figure can't claim them"
        raise DoubtfulResult(msg)


def execute_apart(name: str, progress: Progress, profile: Profile = DEFAULT) -> None:
    """Run the experiment in a process of its own, which may fail, or be killed, without harm to this one.

    Raises:
        ExperimentFailed: With the traceback or the exit status of the process.
    """
    _prepare()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, name, profile), daemon=True)
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


def _child(there: Connection, name: str, profile: Profile) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.dup2(2, 1)  # what an experiment prints is not a result
    try:
        execute(name, lambda label, done, total: there.send((str(label), int(done), int(total))), profile)
    except BaseException:
        there.send(traceback.format_exc())
    finally:
        there.close()


def in_parts(parts: Sequence[Callable], config: dict[str, Any], progress: Progress) -> dict[str, np.ndarray]:
    """The arrays of several functions of the configuration, each named after its function: ``<function>_<array>``."""
    arrays: dict[str, np.ndarray] = {}
    for done, part in enumerate(parts):
        progress(part.__name__.replace("_", " "), done, len(parts))
        arrays |= {f"{part.__name__}_{key}": np.asarray(value) for key, value in part(config).items()}
    progress("done", len(parts), len(parts))
    return arrays


def _prepare() -> None:
    """The environment of a process that has not computed yet."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # LAPACK's threads and XLA's fight for the same cores
    os.environ.setdefault("XLA_FLAGS", COMPILER)


def alone(name: str) -> None:
    """The command line of one experiment: ``python -m experiments.<name> [--full] [--seed N]``."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}")
    add_options(parser)
    options = parser.parse_args()
    profile = Profile(options.full, options.seed)
    _prepare()
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(name)
        say = lambda text, done, total: bar.update(task, description=text, completed=done, total=total)
        execute(name, say, profile)
    print(folder(profile) / f"{name}.npz")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that choose a profile."""
    parser.add_argument("--full", action="store_true", help="full-size experiments, in a folder 'full' of their own")
    parser.add_argument("--seed", type=int, help="another seed, in a folder 'seedN' of its own")
