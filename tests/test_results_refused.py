"""Damaged result files are refused before use; what would not come back or would leave its folder is not saved."""

import functools
import hashlib
import io
import json
import math
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_result import put

from jacspec import results
from jacspec.results import ResultError


def reseal(root, content, name="decay"):
    """Replace the arrays' file by `content` under a sidecar that vouches for it, as an attacker could."""
    (root / f"{name}.npz").write_bytes(content)
    sidecar = root / f"{name}.json"
    manifest = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
    del manifest["seal"]
    manifest["seal"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    sidecar.write_text(json.dumps(manifest))


# Damage


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    put(tmp_path)
    path = tmp_path / "decay.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ResultError, match=r"decay\.npz cannot be used: its checksum .* truncated"):
        results.load("decay", root=tmp_path)


def test_any_flipped_byte_is_refused(tmp_path):
    put(tmp_path)
    path = tmp_path / "decay.npz"
    whole = path.read_bytes()
    for where in range(0, len(whole), 17):
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
        with pytest.raises(ResultError, match=r"decay\.npz"):
            results.load("decay", root=tmp_path)


@pytest.mark.parametrize(
    ("true", "false"), [('"seed": 7', '"seed": 8'), ('"n": 32', '"n": 33'), ('"x64": true', '"x64": NaN')]
)
def test_altered_sidecar_is_refused(tmp_path, true, false):
    put(tmp_path)
    sidecar = tmp_path / "decay.json"
    sidecar.write_text(sidecar.read_text().replace(true, false))
    with pytest.raises(ResultError, match=r"decay\.json cannot be used: .* altered"):
        results.load("decay", root=tmp_path)


class _Payload:
    def __reduce__(self):
        return os.mkdir, (os.environ["JACSPEC_TEST_PAYLOAD"],)


def test_pickle_in_a_resealed_file_is_refused_and_not_run(tmp_path, monkeypatch):
    trap = tmp_path / "executed"
    monkeypatch.setenv("JACSPEC_TEST_PAYLOAD", str(trap))
    put(tmp_path)
    stream = io.BytesIO()
    np.savez(stream, curve=np.array([_Payload()], dtype=object))
    reseal(tmp_path, stream.getvalue())
    with pytest.raises(ResultError, match="pickled objects"):
        results.load("decay", root=tmp_path)
    reseal(tmp_path, pickle.dumps(_Payload()))
    with pytest.raises(ResultError, match="not an npz"):
        results.load("decay", root=tmp_path)
    assert not trap.exists()


def resealed_archive(tmp_path, member, compression=zipfile.ZIP_STORED):
    put(tmp_path)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("curve.npy", member)
    reseal(tmp_path, stream.getvalue())


def test_header_that_asks_for_petabytes_is_refused_before_allocation(tmp_path):
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    resealed_archive(tmp_path, member.getvalue() + b"\0" * 64)
    with pytest.raises(ResultError, match="more or less than the file holds"):
        results.load("decay", root=tmp_path)


def test_compressed_member_and_non_array_are_refused(tmp_path):
    resealed_archive(tmp_path, b"\0" * 10**6, zipfile.ZIP_DEFLATED)
    with pytest.raises(ResultError, match="compressed"):
        results.load("decay", root=tmp_path)
    resealed_archive(tmp_path, b"no array at all")
    with pytest.raises(ResultError, match="not an array"):
        results.load("decay", root=tmp_path)


def test_arrays_other_than_the_sidecar_describes_are_refused(tmp_path):
    put(tmp_path)
    stream = io.BytesIO()
    np.savez(stream, curve=np.zeros(3))
    reseal(tmp_path, stream.getvalue())
    with pytest.raises(ResultError, match="describes other names"):
        results.load("decay", root=tmp_path)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no result .*decay\.npz"):
        results.load("decay", root=tmp_path)
    put(tmp_path)
    (tmp_path / "decay.json").unlink()
    with pytest.raises(ResultError, match=r"sidecar decay\.json is missing"):
        results.load("decay", root=tmp_path)


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "format version is None"),
        ('{"format": 99}', "format version is 99, this jacspec reads version 1"),
        ('{"format": 1}', "it was altered"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_unusable_sidecar_is_named(tmp_path, sidecar, reason):
    put(tmp_path)
    (tmp_path / "decay.json").write_text(sidecar)
    with pytest.raises(ResultError, match=f"decay.json cannot be used: .*{reason}"):
        results.load("decay", root=tmp_path)


# What may not be saved, and where


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/absolute/x",
        "a\0b",
        "",
        ".",
        "..",
        ".hidden",
        "nul",
        "CON.npz",
        "com1",
        "x" * 300,
        "a b",
        "a;b",
        "x.txt",
        "a/.b",
    ],
)
def test_unsafe_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"jacspec\.results\.save: argument 'path'"):
        put(tmp_path, name=name)
    with pytest.raises(ValueError, match=r"jacspec\.results\.load: argument 'path'"):
        results.load(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unsupported_format_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"unsupported format; got 'decay.xyz', expected a name ending in '\.npz'"):
        put(tmp_path, name="decay.xyz")


def test_dots_are_refused_without_a_root_too(tmp_path):
    with pytest.raises(ValueError, match="leaves its root"):
        put(None, name=tmp_path / ".." / "x")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_link_out_of_the_root_is_refused(tmp_path, kind):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    if kind == "file":
        (root / "decay.npz").symlink_to(outside / "decay.npz")
        name = "decay"
    else:
        (root / "sub").symlink_to(outside)
        name = "sub/decay"
    with pytest.raises(ValueError, match="through a link"):
        put(root, name=name)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("value", [np.array([{}], object), jnp.ones(2, jnp.bfloat16), [None], np.array([b"a"])])
def test_arrays_that_would_not_come_back_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"argument 'arrays\['curve'\]' cannot be stored"):
        put(tmp_path, arrays={"curve": value})


@pytest.mark.parametrize("name", ["", "../x", "a/b", 3])
def test_array_names_are_plain(tmp_path, name):
    with pytest.raises(ValueError, match="argument 'arrays' has an unusable name"):
        put(tmp_path, arrays={name: 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan"), object(), {1, 2}])
def test_configuration_is_json_without_nan(tmp_path, value):
    with pytest.raises(ValueError, match="argument 'config' is not JSON"):
        put(tmp_path, config={"x": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**32, ValueError), (1.5, TypeError), ("a", TypeError)])
def test_seed_is_an_integer_of_32_bits(tmp_path, seed, error):
    with pytest.raises(error, match=r"argument 'seed'.*0\.\.2\*\*32-1"):
        put(tmp_path, seed=seed)


@pytest.mark.parametrize("wall_time", [-1.0, math.nan, math.inf])
def test_wall_time_is_a_duration(tmp_path, wall_time):
    with pytest.raises(ValueError, match="argument 'wall_time'"):
        put(tmp_path, wall_time=wall_time)


WRONG = [
    ({"path": 3}, TypeError, "'path' is no path"),
    ({"path": b"x"}, TypeError, "'path' is no path"),
    ({"root": 3}, TypeError, "'root' is no path"),
    ({"root": "a\0"}, ValueError, "'root' is not a folder name"),
    ({"arrays": [1.0]}, TypeError, "'arrays' is of the wrong type"),
    ({"arrays": {"curve": [[1], [1, 2]]}}, ValueError, r"arrays\['curve'\]' cannot be stored"),
    ({"arrays": {"curve": jax.random.key(0)}}, ValueError, r"arrays\['curve'\]' cannot be stored"),
    ({"config": None}, TypeError, "'config' is of the wrong type"),
    (
        {"config": {"x": functools.reduce(lambda inner, _: [inner], range(20_000), 0)}},
        ValueError,
        "'config' is not JSON",
    ),
    ({"config": {(1, 2): 3}}, ValueError, "'config' is not JSON"),
    ({"code": None}, TypeError, "'code' is of the wrong type"),
    ({"wall_time": "1 s"}, TypeError, "'wall_time' must be a number"),
    ({"wall_time": 10**400}, ValueError, "'wall_time' is out of range"),
    ({"wall_time": 1j}, TypeError, "'wall_time' must be a number"),
]


@pytest.mark.parametrize(("changed", "error", "words"), WRONG)
def test_arguments_of_the_wrong_kind_are_named(tmp_path, changed, error, words):
    given = {"path": "decay", "arrays": {"curve": [1.0]}, "config": {}, "root": tmp_path} | changed
    with pytest.raises(error, match=f"results.save: argument '?{words}"):
        results.save(**given)
    assert list(tmp_path.iterdir()) == []


def test_only_a_path_arrays_and_a_configuration_are_needed(tmp_path):
    manifest = results.save(tmp_path / "decay", {"curve": [1.0]}, {"n": 3})
    assert (manifest["seed"], manifest["wall_time"]) == (None, None)
    arrays, found = results.load(tmp_path / "decay")
    assert found == manifest
    assert arrays["curve"].tolist() == [1.0]
    assert results.staleness(tmp_path / "decay", {"n": 3}, "") == ""


@pytest.mark.parametrize("field", ["config", "arrays", "code", "seed", "wall_time", "versions", "device"])
@pytest.mark.parametrize("value", ["gone", [3]])
def test_a_sealed_sidecar_of_another_program_is_named(tmp_path, field, value):
    put(tmp_path)
    sidecar = tmp_path / "decay.json"
    manifest = json.loads(sidecar.read_text())
    manifest[field] = value
    if value == "gone":
        del manifest[field]
    sidecar.write_text(json.dumps(manifest))
    reseal(tmp_path, (tmp_path / "decay.npz").read_bytes())
    with pytest.raises(ResultError, match=f"decay.json cannot be used: its field '{field}' is missing"):
        results.load("decay", root=tmp_path)
    assert results.staleness("decay", {}, "", root=tmp_path).startswith("unusable")


def test_a_folder_in_the_place_of_a_sidecar_is_named(tmp_path):
    put(tmp_path)
    (tmp_path / "decay.json").unlink()
    (tmp_path / "decay.json").mkdir()
    with pytest.raises(ResultError, match=r"sidecar decay\.json is missing"):
        results.load("decay", root=tmp_path)
    for source in (3, None, ["x"]):
        with pytest.raises(TypeError, match="'sources' is neither a path nor a module"):
            results.code_hash(source)
