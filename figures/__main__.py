"""The runner: experiments that are missing or stale, then the figures, then the table of claims.

Exit codes: 0 all well; 1 something failed; 2 usage; 3 a claim does not hold; 130 interrupted.
"""

import argparse
import contextlib
import difflib
import multiprocessing
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import experiments
from experiments import Profile
from figures import _drawing, _gallery
from jacspec import results

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """The figures that exist, sorted."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, draw, check; return the exit code."""
    options = _options(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if options.list:
        for name in options.names:
            print(f"{name:28} {_state(name, options.profile)}")
        return 0
    claims, failed = [], []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console, transient=True) as bar,
        ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), _drawing.prepare) as drawing,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        overall = bar.add_task("figures", total=len(options.names))
        current = {
            name: pool.submit(_compute_and_draw, name, bar, drawing, options.profile, force=options.force)
            for name in options.names
        }
        try:
            for name, done in current.items():
                try:
                    spent, own = done.result()
                    claims += own
                    console.print(f"{name}: drawn" + (f", computed in {spent:.1f} s" if spent else ""))
                except Exception as error:
                    failed.append(name)
                    text = str(error) if isinstance(error, experiments.ExperimentFailed) else traceback.format_exc()
                    console.print(f"{name}: failed\n{text.strip()}", markup=False)
                bar.advance(overall)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
    return _report(options, claims, failed, console)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = names()
    parser = argparse.ArgumentParser(
        prog="python -m figures", description="Run stale experiments, draw, check the claims."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"figures to draw (all): {', '.join(known)}")
    experiments.add_options(parser)
    parser.add_argument("--force", action="store_true", help="run the experiments although their results are current")
    parser.add_argument("--jobs", type=int, default=2, help="experiments that run at the same time (2)")
    parser.add_argument("--list", action="store_true", help="say which results are current, and do nothing")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.3)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            parser.error(f"there is no figure '{name}'{hint} Known: {', '.join(known) or 'none yet'}")
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}, expected at least 1")
    options.profile = Profile(options.full, options.seed)
    options.complete = not options.names
    options.names = list(dict.fromkeys(options.names)) or known
    return options


def _state(name: str, profile: Profile) -> str:
    try:
        return experiments.staleness(name, profile) or "current"
    except Exception as error:
        return f"cannot be imported: {error}"


def _bring_up_to_date(name: str, bar: Progress, profile: Profile, *, force: bool) -> float:
    """Run the experiment if its result is not current; the seconds that took."""
    began = time.perf_counter()
    reason = experiments.staleness(name, profile)
    if not reason and not force:
        return 0.0
    bar.console.print(f"{name}: computing ({reason or 'forced'})", markup=False)
    if reason.startswith("unusable"):
        for suffix in (".npz", ".json"):
            path = experiments.folder(profile) / (name + suffix)
            if path.exists():
                path.replace(path.with_name(path.name + ".corrupt"))
    task = bar.add_task(name, total=None)
    try:
        experiments.execute_apart(
            name,
            lambda label, done, total: bar.update(task, description=f"{name}: {label}", completed=done, total=total),
            profile,
        )
    finally:
        bar.remove_task(task)
    return time.perf_counter() - began


def _compute_and_draw(
    name: str, bar: Progress, drawing: ProcessPoolExecutor, profile: Profile, *, force: bool
) -> tuple[float, list[results.Claim]]:
    """Seconds that computing took (0 if the result was current), and the claims of the figure."""
    spent = _bring_up_to_date(name, bar, profile, force=force)
    return spent, drawing.submit(_drawing.draw, name, profile).result()


def _report(options: argparse.Namespace, claims: list[results.Claim], failed: list[str], console: Console) -> int:
    folder = _drawing.out(options.profile)
    try:
        if options.complete:  # nothing of figures that are no more
            (folder / "claims.json").unlink(missing_ok=True)
        rows = results.write_claims(claims, folder, replace=options.names)
        page = _gallery.write(folder, rows, _manifests(options.profile), names())
    except (OSError, results.ResultError) as error:
        console.print(f"the claims could not be written: {error}", markup=False)
        return 1
    print(results.claims_table([row for row in rows if row["figure"] in options.names]))
    console.print(f"{page}: every figure with its claims", markup=False)
    if failed:
        console.print(f"{len(failed)} of {len(options.names)} figures failed: {', '.join(failed)}")
        return 1
    return 0 if all(claim.holds for claim in claims) else 3


def _manifests(profile: Profile) -> dict[str, dict[str, Any]]:
    """What the results that can be read were made of."""
    found = {}
    for name in names():
        with contextlib.suppress(FileNotFoundError, results.ResultError):
            found[name] = results.load(name, root=experiments.folder(profile))[1]
    return found


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
