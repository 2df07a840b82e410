"""Files of safetensors: what they hold, and how damaged ones are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_states import drawn, linear

import jacspec as js


def filed(tensors, *, padding=b"", **entries):
    """The bytes of a safetensors file, by its specification."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
    for name, value in tensors.items():
        offsets = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": names[value.dtype.name], "shape": list(value.shape), "data_offsets": offsets}
        data += value.tobytes()
    text = json.dumps(header | entries).encode() + padding
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.float16, jnp.bfloat16])
def test_a_file_holds_what_the_state_dict_holds(tmp_path, dtype):
    state = {name: value.astype(dtype) for name, value in drawn("gru", prefix="gru.").items()}
    file = tmp_path / "model.safetensors"
    file.write_bytes(filed(state | {"n": np.array(3), "none": np.ones((0, 2))}, padding=b"   "))
    for path in (file, str(file)):
        found, expected = js.from_torch(path, "gru"), js.from_torch(state, "gru")
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == dtype
            assert jnp.array_equal(a, b)


def test_names_without_numbers_have_no_order_in_a_file(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(filed(linear(3, 3, 3, names=("enter", "leave"))))
    with pytest.raises(ValueError, match=r"no order in a file; got 'enter', 'leave'"):
        js.from_torch(file, "linear", activation="relu")


WEIGHT = {"weight": np.ones((2, 3))}
ENTRY = {"dtype": "F64", "shape": [2, 3], "data_offsets": [0, 48]}
DAMAGED = {
    "nothing": (b"", "less than 8 bytes"),
    "a short length": (b"\x01\x02", "less than 8 bytes"),
    "a header that is cut": (filed(WEIGHT)[:40], r"header would have \d+ bytes, of 32 there are"),
    "a huge header": (b"\xff" * 8 + filed(WEIGHT), r"header would have 18446744073709551615 bytes"),
    "data that are cut": (filed(WEIGHT)[:-1], r"'weight' lies at \[0, 48\], of 47 bytes"),
    "data that are too long": (filed(WEIGHT) + b"x", r"49 bytes follow the header, its arrays have 48"),
    "no JSON": (b"\x03" + b"\x00" * 7 + b"abc", "not JSON"),
    "no text": (b"\x03" + b"\x00" * 7 + b"\xff\xfe\xfd", "not JSON"),
    "deep JSON": ((200_000).to_bytes(8, "little") + b"[" * 200_000, "not JSON"),
    "a list": (b"\x02" + b"\x00" * 7 + b"[]", "no table of names"),
    "a name twice": (
        (lambda text: len(text).to_bytes(8, "little") + text)(b'{"a": {"shape": 1, "shape": 2}}'),
        "a name occurs twice",
    ),
    "an entry without shape": (filed(WEIGHT, weight={"dtype": "F64"}), "'weight' must have just dtype, shape, data_offsets"),
    "another dtype": (filed(WEIGHT, weight=ENTRY | {"dtype": "F8_E4M3"}), "'weight' has the dtype 'F8_E4M3'"),
    "a negative length": (filed(WEIGHT, weight=ENTRY | {"shape": [-2, -3]}), r"shape \[-2, -3\], not natural"),
    "a shape too large": (filed(WEIGHT, weight=ENTRY | {"shape": [2, 4]}), r"48 bytes, F64 of shape \(2, 4\) needs 64"),
    "offsets outside": (filed(WEIGHT, weight=ENTRY | {"data_offsets": [8, 56]}), r"lies at \[8, 56\], of 48 bytes"),
    "a hole": (filed(WEIGHT, weight=ENTRY | {"shape": [5], "data_offsets": [8, 48]}), r"begins at byte 8.*ends at 0"),
    "an overlap": (filed(WEIGHT, more=ENTRY), r"begins at byte 0, where the one before ends at 48"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_with_its_name_and_the_reason(tmp_path, case):
    content, reason = DAMAGED[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^jacspec.from_torch: .*cannot be read: .*{reason}.*model.safetensors"):
        js.from_torch(file, "linear")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^jacspec.from_torch: .*nowhere.safetensors"):
        js.from_torch(tmp_path / "nowhere.safetensors", "lstm")
