"""Result files are whole or absent, verified before use, and never leave their folder; claims say what holds."""

import errno
import hashlib
import io
import json
import math
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacspec import results
from jacspec.results import Claim, ResultError

ARRAYS = {
    "curve": np.array([0.0, -np.inf, np.nan, 3e-320]),
    "names": np.array(["tanh", "relu"]),
    "table": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.float64(2.5),
    "file": np.zeros((0, 3), bool),
}
CONFIG = {"n": 32, "g": 3.0, "activations": ["tanh", "relu"]}


def put(root, name="decay", arrays=ARRAYS, config=CONFIG, **options):
    return results.save(name, arrays, config, **{"seed": 7, "wall_time": 1.5, "code": "c0de", "root": root} | options)


def reseal(root, content, name="decay"):
    """Replace the arrays' file by `content` under a sidecar that vouches for it, as an attacker could."""
    (root / f"{name}.npz").write_bytes(content)
    sidecar = root / f"{name}.json"
    manifest = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
    del manifest["seal"]
    manifest["seal"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    sidecar.write_text(json.dumps(manifest))


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    put(tmp_path)
    arrays, manifest = results.load("decay", root=tmp_path)
    assert list(arrays) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert arrays[name].tobytes() == np.asarray(expected).tobytes()
        assert arrays[name].shape == np.shape(expected)
        assert arrays[name].dtype == np.asarray(expected).dtype
    assert manifest["config"] == CONFIG


def test_jax_arrays_and_fortran_order_come_back_equal(tmp_path):
    put(tmp_path, arrays={"a": jnp.arange(3.0), "b": np.asfortranarray(np.arange(6.0).reshape(2, 3))})
    arrays, _ = results.load("decay", root=tmp_path)
    np.testing.assert_array_equal(arrays["a"], [0, 1, 2])
    np.testing.assert_array_equal(arrays["b"], np.arange(6.0).reshape(2, 3))


def test_path_without_root_names_its_own_folder(tmp_path):
    put(None, name=tmp_path / "decay.npz")
    assert results.load(tmp_path / "decay")[1]["seed"] == 7


def test_manifest_says_where_the_numbers_come_from(tmp_path):
    manifest = put(tmp_path)
    assert manifest == json.loads((tmp_path / "decay.json").read_text())
    assert manifest["format"] == results.FORMAT
    assert manifest["seed"] == 7
    assert manifest["wall_time"] == 1.5
    assert manifest["x64"] is True
    assert set(manifest["versions"]) == {"python", "jax", "jaxlib", "flax", "optax", "numpy", "jacspec"}
    assert manifest["versions"]["jax"] == jax.__version__
    assert jax.devices()[0].device_kind in manifest["device"]
    assert {"threefry_partitionable", "prng_implementation", "matmul_precision", "sha256", "cell"} <= manifest.keys()


def test_same_arrays_give_the_same_file(tmp_path):
    put(tmp_path, name="a")
    put(tmp_path, name="b")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_cell_depends_on_code_and_configuration_alone(tmp_path):
    cell = put(tmp_path)["cell"]
    assert put(tmp_path, wall_time=9.0, config=dict(reversed(CONFIG.items())))["cell"] == cell
    assert put(tmp_path, code="other")["cell"] != cell
    assert put(tmp_path, config=CONFIG | {"n": 33})["cell"] != cell


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


# Writing whole or not at all

LIMITED = """
import resource, sys
import numpy as np
from jacspec import results
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    results.save("decay", {"big": np.zeros(10_000)}, {}, seed=0, wall_time=0.0, root=sys.argv[1])
except OSError as error:
    print(error)
    sys.exit(error.errno)
"""


def test_file_size_limit_leaves_the_old_result_intact(tmp_path):
    put(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert ended.returncode == errno.EFBIG, ended.stderr
    assert "decay.npz" in ended.stdout
    assert "bytes" in ended.stdout
    assert results.load("decay", root=tmp_path)[1]["seed"] == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decay.json", "decay.npz"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_disk_full_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    real_open = Path.open

    def to_full_device(path, mode="r", *args, **options):
        return real_open(Path("/dev/full"), "wb") if path.suffix == ".tmp" else real_open(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", to_full_device)
    with pytest.raises(OSError, match=r"decay\.npz \(\d+ bytes\): No space left") as caught:
        put(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_interruption_before_the_rename_keeps_the_old_pair(tmp_path, monkeypatch):
    put(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, seed=8)
    assert results.load("decay", root=tmp_path)[1]["seed"] == 7
    assert len(list(tmp_path.iterdir())) == 2


KILLED = """
import sys
from jacspec import results
number = 0
while True:
    results.save("decay", {"a": [float(number)] * 20_000}, {"number": number}, seed=number, wall_time=0.0, root=sys.argv[1])
    number += 1
    print(number, flush=True)
"""


def test_killed_writer_leaves_a_usable_or_recognizable_result(tmp_path):
    """A kill can fall between the two renames; then the pair is refused, never read as one."""
    for pause in range(3):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        with child:
            for _ in range(3 + pause):
                child.stdout.readline()
            child.kill()
        try:
            arrays, manifest = results.load("decay", root=tmp_path)
        except ResultError as error:
            reason = str(error)
        else:
            reason = ""
            assert (arrays["a"] == manifest["config"]["number"]).all()
        assert not reason or "sidecar of another run" in reason
    put(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decay.json", "decay.npz"]


def test_stale_temporary_files_are_swept_and_live_ones_kept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = tmp_path / f".decay.npz.{gone.pid}-00aa.tmp"
    alive = tmp_path / f".decay.npz.{os.getppid()}-00aa.tmp"
    for path in (stale, alive):
        path.touch()
    put(tmp_path)
    assert not stale.exists()
    assert alive.exists()


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


# Staleness


def test_result_is_current_until_code_configuration_or_file_changes(tmp_path):
    def why(config=CONFIG, code="c0de"):
        assert results.is_current("decay", config, code, root=tmp_path) == (not said(config, code))
        return said(config, code)

    def said(config, code):
        return results.staleness("decay", config, code, root=tmp_path)

    assert why() == "missing"
    put(tmp_path, config=CONFIG | {"shape": (2, 3), "eps": np.float64(0.1)})
    assert why(CONFIG | {"eps": 0.1, "shape": [2, 3]}) == ""
    assert why() == "the configuration changed"
    put(tmp_path)
    assert why() == ""
    assert why(code="other") == "the code changed"
    (tmp_path / "decay.npz").write_bytes(b"")
    assert why().startswith("unusable: ")


def test_code_hash_sees_every_change(tmp_path):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    first, second = package / "__init__.py", package / "inner" / "a.py"
    first.write_text("x = 1")
    second.write_text("y = 1")
    seen = {results.code_hash(package)}
    assert results.code_hash(package) in seen
    second.write_text("y = 2")
    seen.add(results.code_hash(package))
    second.rename(package / "inner" / "b.py")
    seen.add(results.code_hash(package))
    seen.add(results.code_hash(package, first))
    assert len(seen) == 4
    (package / "notes.txt").write_text("not code")
    assert results.code_hash(package) in seen
    with pytest.raises(FileNotFoundError):
        results.code_hash(tmp_path / "absent.py")


def test_code_hash_of_a_package_covers_its_folder():
    import jacspec

    assert results.code_hash(jacspec) == results.code_hash(Path(jacspec.__file__).parent)
    assert results.code_hash(results) == results.code_hash(results.__file__) != results.code_hash(jacspec)


# Claims


def claim(measured=1.0, expected=1.0, tolerance=0.0, figure="decay", **options):
    text = {"claim": "rate | at lag", "source": "theory"}
    return Claim(figure=figure, expected=expected, tolerance=tolerance, measured=measured, **text, **options)


@pytest.mark.parametrize(
    ("kind", "measured", "expected", "tolerance", "holds"),
    [
        ("equal", 1.0, 1.0, 0.0, True),
        ("equal", 1.25, 1.0, 0.25, True),
        ("equal", 0.75, 1.0, 0.25, True),
        ("equal", 1.26, 1.0, 0.25, False),
        ("equal", math.nan, 1.0, 9.0, False),
        ("equal", -math.inf, -math.inf, 0.0, True),
        ("equal", math.inf, -math.inf, 1.0, False),
        ("equal", 1.0, math.inf, 1.0, False),
        ("at_most", -5.0, 1.0, 0.0, True),
        ("at_most", 1.25, 1.0, 0.25, True),
        ("at_most", 1.5, 1.0, 0.25, False),
        ("at_most", math.nan, 1.0, 0.25, False),
        ("at_least", 5.0, 1.0, 0.0, True),
        ("at_least", 0.75, 1.0, 0.25, True),
        ("at_least", 0.5, 1.0, 0.25, False),
        ("at_least", math.nan, 1.0, 0.25, False),
    ],
)
def test_claim_holds_exactly_within_its_tolerance(kind, measured, expected, tolerance, holds):
    assert claim(measured, expected, tolerance, kind=kind).holds is holds


def test_claim_cannot_be_talked_into_holding():
    with pytest.raises(TypeError):
        claim(2.0, holds=True)
    with pytest.raises(AttributeError):
        claim(2.0).holds = True


@pytest.mark.parametrize(
    ("options", "name"),
    [({"tolerance": -1}, "tolerance"), ({"tolerance": math.nan}, "tolerance"), ({"tolerance": math.inf}, "tolerance"),
     ({"expected": math.nan}, "expected"), ({"kind": "roughly"}, "kind")],
)  # fmt: skip
def test_claim_that_says_nothing_is_refused(options, name):
    with pytest.raises(ValueError, match=f"argument '{name}'"):
        claim(**options)


def test_claims_are_merged_by_figure(tmp_path):
    results.write_claims([claim(figure="a"), claim(2.0, figure="b")], tmp_path)
    results.write_claims([claim(3.0, figure="b"), claim(figure="b")], tmp_path)
    rows = json.loads((tmp_path / "claims.json").read_text())
    assert [(r["figure"], r["measured"], r["holds"]) for r in rows] == [("a", 1, True), ("b", 3, False), ("b", 1, True)]
    assert rows[0].keys() >= {"figure", "claim", "source", "expected", "tolerance", "measured", "holds"}
    text = (tmp_path / "claims.md").read_text()
    assert text.startswith("2 of 3 claims hold.")
    assert "rate \\| at lag" in text
    assert "**no**" in text
    assert len({len(line) for line in text.splitlines()[2:]}) == 1


def test_failed_figure_loses_its_old_claims(tmp_path):
    results.write_claims([claim(figure="a"), claim(figure="b")], tmp_path)
    assert [r["figure"] for r in results.write_claims([], tmp_path, replace=["a"])] == ["b"]


def test_claims_with_infinities_are_json(tmp_path):
    results.write_claims([claim(-np.float32(np.inf), -math.inf), claim(math.nan)], tmp_path)
    rows = json.loads((tmp_path / "claims.json").read_text(), parse_constant=pytest.fail)
    assert [r["measured"] for r in rows] == ["-inf", "nan"]
    assert results.write_claims([], tmp_path) == rows


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"figure": "a"}]'])
def test_foreign_claims_file_is_named(tmp_path, content):
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(ResultError, match=r"claims\.json cannot be used"):
        results.write_claims([claim()], tmp_path)
