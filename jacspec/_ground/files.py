"""Paths that stay under their folder, and files that are replaced whole or not at all."""

import contextlib
import errno
import os
import re
import secrets
import tempfile
from pathlib import Path

from jacspec._ground.messages import message

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
_LONGEST = 100


class ResultError(ValueError):
    """A result file that cannot be trusted; the message names the file and the reason."""


def broken(path: Path, reason: str) -> ResultError:
    """The ResultError that says why the file at `path` is not used."""
    return ResultError(f"jacspec.results: {path} cannot be used: {reason}.")


def _check_part(function: str, argument: str, part: str) -> None:
    if part == "..":
        raise ValueError(message(function, argument, "leaves its root", repr(part), "a path without '..'"))
    if len(part) > _LONGEST:
        raise ValueError(
            message(function, argument, "is too long", repr(part[:20] + "..."), f"at most {_LONGEST} characters")
        )
    if not _NAME.fullmatch(part):
        raise ValueError(message(function, argument, "is not a plain name", repr(part), "letters, digits, '_' and '-'"))
    if part.lower() in _RESERVED:
        raise ValueError(message(function, argument, "is reserved on some systems", repr(part), "another name"))


def resolve(
    function: str, path: str | os.PathLike, root: str | os.PathLike | None, suffix: str, argument: str = "path"
) -> Path:
    """The file that `path` names, with `suffix`; ValueError if the name is unsafe or leads out of `root`.

    Args:
        function: The public function that is called, for the message.
        path: A name, with or without `suffix`; relative to `root` where there is one.
        root: The folder that the file must lie under after links are followed; None: the folder that `path` names.
        suffix: With the dot, as ``".npz"``.
        argument: What the public function calls `path`.
    """
    text = _name_of(function, argument, path, "file")
    root = None if root is None else _name_of(function, "root", root, "folder")
    given = Path(text)
    if given.suffix not in ("", suffix):
        raise ValueError(
            message(function, argument, "has an unsupported format", repr(text), f"a name ending in '{suffix}'")
        )
    given = given.with_suffix("") if given.suffix else given
    if root is None:
        if ".." in given.parts:
            _check_part(function, argument, "..")
        folder, parts = given.parent, [given.name]
    else:
        if given.is_absolute():
            raise ValueError(
                message(function, argument, "is absolute", repr(text), f"a name relative to the root {root!r}")
            )
        folder, parts = Path(root), list(given.parts)
    for part in parts:
        _check_part(function, argument, part)
    target = folder.joinpath(*parts).with_suffix(suffix)
    if not target.resolve().is_relative_to(folder.resolve()):
        problem, expected = "leads out of its root through a link", f"a file under {os.fspath(folder)!r}"
        raise ValueError(message(function, argument, problem, repr(text), expected))
    return target


def _name_of(function: str, argument: str, path: object, kind: str) -> str:
    """The text of a path that names something."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(message(function, argument, "is no path", repr(type(path).__name__), f"the name of a {kind}"))
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(message(function, argument, f"is not a {kind} name", repr(text), "a name without NUL"))
    return text


def place(function: str, argument: str, path: object, kind: str = "folder") -> Path:
    """The folder or file that `path` names, absolute and without '..'; it need not exist."""
    return Path(os.path.abspath(_name_of(function, argument, path, kind)))


def probe(folder: Path, *names: str) -> None:
    """Make a folder and check that files of these names can be written into it, before the work whose results they hold.

    Raises:
        OSError: Naming the folder or the file and the reason.
    """
    where = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for where in (folder / name for name in names):
            if where.is_dir():
                raise IsADirectoryError(errno.EISDIR, "")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        msg = f"could not write {where}: {reason}"
        raise OSError(error.errno or errno.EIO, msg) from error


def write(*files: tuple[Path, bytes]) -> None:
    """Put each content under its name: all temporary files are written and flushed before the first takes its name.

    Raises:
        OSError: If one cannot be written, naming it and its size; the old files are intact, unless the renaming itself
            fails: those before it are new then. No temporary file stays.
    """
    pending: list[tuple[Path, Path]] = []
    try:
        for path, content in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
            pending.append((temporary, path))
            try:
                with temporary.open("xb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                msg = f"could not write {path} ({len(content)} bytes): {reason}"
                raise OSError(error.errno or errno.EIO, msg) from error
        for temporary, path in pending:
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        for temporary, _ in pending:
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be flushed
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` whose writer is gone."""
    for stale in path.parent.glob(f".{path.name}.*-*.tmp"):
        owner = stale.name.removeprefix(f".{path.name}.").split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            stale.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
