"""Result files come back bit for bit, are written whole or not at all, and know when they are stale."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_result import ARRAYS, CONFIG, put

from jacspec import results
from jacspec.results import ResultError, store


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
    assert manifest["format"] == store.FORMAT
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


# Staleness


def test_result_is_current_until_code_configuration_or_file_changes(tmp_path):
    def why(config=CONFIG, code="c0de"):
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
    assert results.code_hash(store) == results.code_hash(store.__file__) != results.code_hash(jacspec)
