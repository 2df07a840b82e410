"""Result files: arrays in an npz, and everything needed to trust them in a JSON sidecar.

A result is a pair `<name>.npz`, `<name>.json`. The sidecar holds the configuration, seed, versions, device, flags, wall
time, the hash of the code, and the SHA-256 of the arrays' file. Both are written whole or not at all. Reading never
unpickles, verifies the checksum, and allocates no more than the file holds.
"""

import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jacspec._ground import files
from jacspec._ground.files import ResultError, broken
from jacspec._ground.messages import message

FORMAT = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jacspec")
_KINDS = "biufcU"  # of NumPy: booleans, integers, floating and complex numbers, strings
_FIELDS: dict[str, Any] = {"config": dict, "arrays": dict, "versions": dict, "code": str, "sha256": str, "device": str}
_FIELDS |= {"seed": int | None, "wall_time": int | float | None}
"""What a manifest holds, and of what kind."""


# Writing


def save(
    path: str | os.PathLike,
    arrays: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    seed: int | None = None,
    wall_time: float | None = None,
    code: str = "",
    root: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Write `arrays` and their manifest as `<path>.npz` and `<path>.json`, each whole or not at all.

    Args:
        path: Name of the result, with or without ``.npz``; relative to `root` where there is one.
        arrays: Real or complex numbers, booleans or strings by name.
        config: The options of the computation: JSON values (NumPy scalars and tuples are converted), no NaN.
        seed: 0..2**32-1, of the random numbers; None: there were none.
        wall_time: Seconds the computation took; None: it was not measured.
        code: The `code_hash` of the code.
        root: The folder that the files must lie under; None: the folder that `path` names.

    Returns:
        The manifest as written.

    Raises:
        TypeError: A path, arrays, seed, wall time or code of the wrong type.
        ValueError: An unsafe name, an array of objects, a configuration that is not JSON, or a seed out of range.
        OSError: The files could not be written; those that were there before are intact.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> manifest = save("decay", {"log_norm": [0.0, -0.5]}, {"n": 1}, root=folder)
        >>> load("decay", root=folder)[0]["log_norm"]
        array([ 0. , -0.5])
    """
    target = files.resolve("results.save", path, root, ".npz")
    from jacspec._ground import checks

    name = "results.save"
    if seed is not None:
        seed = checks.integer(name, "seed", seed, 0, 2**32 - 1, "A seed lies in 0..2**32-1.")
    if wall_time is not None:
        wall_time = float(checks.number(name, "wall_time", wall_time, "seconds >= 0", lambda v: 0 <= v < math.inf))
    for argument, value, kind in (("arrays", arrays, Mapping), ("config", config, Mapping), ("code", code, str)):
        checks.instance(name, argument, value, kind)
    table = {name: _storable(name, value) for name, value in arrays.items()}
    config = _plain(config, "save")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # as np.savez, but any name is a name and dates do not vary
        for name, array in table.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    content = stream.getvalue()
    manifest = {
        "format": FORMAT,
        "config": config,
        "seed": seed,
        "code": code,
        "cell": _digest({"code": code, "config": config}),
        "arrays": {name: {"shape": list(a.shape), "dtype": a.dtype.str} for name, a in table.items()},
        "sha256": hashlib.sha256(content).hexdigest(),
        "wall_time": wall_time,
        **environment(),
    }
    manifest["seal"] = _digest(manifest)
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    files.write((target, content), (target.with_suffix(".json"), text.encode()))
    return manifest


def _storable(name: str, value: Any) -> np.ndarray:
    if not isinstance(name, str) or not name or not all(c.isalnum() or c in "_.-" for c in name):
        raise ValueError(
            message("results.save", "arrays", "has an unusable name", repr(name), "letters, digits, '_', '.' and '-'")
        )
    hint = "Convert bfloat16 to float32, and ragged lists to one array each."
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        got = f"{type(value).__name__}: {error}"
        raise ValueError(
            message("results.save", f"arrays[{name!r}]", "cannot be stored", repr(got), "numbers", hint)
        ) from error
    if array.dtype.kind not in _KINDS:
        raise ValueError(
            message("results.save", f"arrays[{name!r}]", "cannot be stored", repr(array.dtype), "numbers", hint)
        )
    return np.ascontiguousarray(array) if array.ndim else array


def environment() -> dict[str, Any]:
    """Versions, device and the settings of JAX that decide numbers."""
    import jax

    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "device": f"{device.platform}: {device.device_kind}",
        "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        "threefry_partitionable": bool(jax.config.jax_threefry_partitionable),  # pyright: ignore[reportAttributeAccessIssue]
        "prng_implementation": str(jax.config.jax_default_prng_impl),  # pyright: ignore[reportAttributeAccessIssue]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# Reading


def load(
    path: str | os.PathLike, *, root: str | os.PathLike | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the manifest of a result, after its checksum and format have been verified.

    Args:
        path: Name of the result, with or without ``.npz``; relative to `root` where there is one.
        root: The folder that the files must lie under; None: the folder that `path` names.

    Raises:
        FileNotFoundError: There is no such result.
        ResultError: The sidecar is missing or unreadable, the format is another, or the arrays' file is truncated,
            altered, pickled, or claims more than it holds.
    """
    target = files.resolve("results.load", path, root, ".npz")
    if not target.is_file():
        msg = f"jacspec.results.load: there is no result {target}. Run the experiment that writes it."
        raise FileNotFoundError(msg)
    manifest = _manifest(target)
    content = target.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != manifest["sha256"]:
        raise broken(target, f"its checksum is {found[:12]}, the sidecar says {str(manifest['sha256'])[:12]}: "
                              "truncated, altered, or a sidecar of another run")  # fmt: skip
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {
                info.filename.removesuffix(".npy"): _read_array(archive, info, target) for info in archive.infolist()
            }
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise broken(target, f"not an npz file ({error})") from error
    described = {name: {"shape": list(a.shape), "dtype": a.dtype.str} for name, a in arrays.items()}
    if described != manifest["arrays"]:
        raise broken(target, f"it holds {sorted(described)}, and the sidecar describes other names, shapes or dtypes")
    return arrays, manifest


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise broken(target, f"'{info.filename}' is compressed, which jacspec never writes")
    raw = archive.read(info)
    member = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
        if dtype.hasobject:
            raise broken(target, f"'{info.filename}' holds pickled objects, which are never read")
        if math.prod(shape) * dtype.itemsize != len(raw) - member.tell():
            raise broken(target, f"'{info.filename}' claims shape {shape}, more or less than the file holds")
        member.seek(0)
        return np.lib.format.read_array(member, allow_pickle=False)
    except ResultError:
        raise
    except ValueError as error:
        raise broken(target, f"'{info.filename}' is not an array ({error})") from error


def _manifest(target: Path) -> dict[str, Any]:
    sidecar = target.with_suffix(".json")
    if not sidecar.is_file():
        raise broken(target, f"its sidecar {sidecar.name} is missing")
    try:
        manifest = json.loads(sidecar.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise broken(sidecar, f"not JSON ({error})") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise broken(sidecar, f"its format version is {version}, this jacspec reads version {FORMAT}")
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    if _digest(rest) != manifest.get("seal"):
        raise broken(sidecar, "its contents and its seal disagree: it was altered")
    for field, kinds in _FIELDS.items():
        if field not in manifest or not isinstance(manifest[field], kinds):
            raise broken(sidecar, f"its field '{field}' is missing or of another kind: it was not written by jacspec")
    return manifest


# Whether a result is still the one the code would compute


def code_hash(*sources: str | os.PathLike | ModuleType) -> str:
    """SHA-256 over the names and contents of source files; a folder or a package stands for every ``.py`` below it.

    Raises:
        FileNotFoundError: A source does not exist.
        TypeError: A source is neither a path nor a module.
    """
    total = hashlib.sha256()
    for source in sources:
        if not isinstance(source, (str, os.PathLike, ModuleType)):
            got = type(source).__name__
            raise TypeError(
                message("results.code_hash", "sources", "is neither a path nor a module", repr(got), "either")
            )
        path = Path(str(source.__file__) if isinstance(source, ModuleType) else source)
        path = path.parent if path.name == "__init__.py" and isinstance(source, ModuleType) else path
        if not path.exists():
            msg = f"jacspec.results.code_hash: there is no file {path}."
            raise FileNotFoundError(msg)
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(path.parent).as_posix()
            total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def staleness(
    path: str | os.PathLike, config: Mapping[str, Any], code: str, *, root: str | os.PathLike | None = None
) -> str:
    """Why the result at `path` is not what `config` and `code` would compute, in a few words; empty if it is."""
    if not isinstance(code, str):
        raise TypeError(
            message("results.staleness", "code", "is of the wrong type", repr(type(code).__name__), "a str")
        )
    try:
        _, manifest = load(path, root=root)
    except FileNotFoundError:
        return "missing"
    except ResultError as error:
        return f"unusable: {error}"
    if manifest["config"] != _plain(config, "staleness"):
        return "the configuration changed"
    return "" if manifest["code"] == code else "the code changed"


# JSON


def _plain(config: Mapping[str, Any], function: str) -> dict[str, Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        raise TypeError(type(value).__name__)

    try:
        return json.loads(json.dumps(config, allow_nan=False, default=convert))
    except (TypeError, ValueError, RecursionError) as error:
        expected = "finite numbers, strings, lists and dictionaries"
        raise ValueError(message(f"results.{function}", "config", "is not JSON", repr(str(error)), expected)) from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
