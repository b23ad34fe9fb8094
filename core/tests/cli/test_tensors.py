"""Tensors from files and into files."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from tilewright.artifact.manifest import TensorInfo
from tilewright.cli.tensors import read_inputs, save_outputs
from tilewright.errors import InputError

X = np.arange(6, dtype=np.float32).reshape(2, 3)
INPUTS = (TensorInfo("x", "float32", (2, 3)), TensorInfo("a=b", "bfloat16", (2,)))


def test_npy_npz_and_pb(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "one.npz", anything=X)
    np.savez(tmp_path / "two.npz", x=X, other=X + 1)
    (tmp_path / "x.pb").write_bytes(onnx.numpy_helper.from_array(X, "whatever").SerializeToString())
    for file in ("x.npy", "one.npz", "two.npz", "x.pb"):
        np.testing.assert_array_equal(read_inputs([f"x={tmp_path / file}"], INPUTS)["x"], X)
    assert set(read_inputs([str(tmp_path / "two.npz")], INPUTS)) == {"x", "other"}


def test_bfloat16_survives_and_a_name_may_hold_an_equals_sign(tmp_path: Path) -> None:
    b = np.array([1, 2], ml_dtypes.bfloat16)
    np.save(tmp_path / "b.npy", b)
    read = read_inputs([f"a=b={tmp_path / 'b.npy'}"], INPUTS)["a=b"]
    assert read.dtype == b.dtype
    np.testing.assert_array_equal(read, b)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".npy", b""),
        (".npy", b"not numpy"),
        (".npy", b"\x93NUMPY\x01\x00v\x00{"),
        (".npz", b""),
        (".npz", b"PK\x03\x04"),
        (".pb", b"no protobuf"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"wrong{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="wrong"):
        read_inputs([f"x={path}"], INPUTS)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="pickle"):
        read_inputs([f"x={tmp_path / 'x.npy'}"], INPUTS)


def test_a_missing_file_or_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_inputs([f"x={tmp_path / 'no.npy'}"], INPUTS)
    with pytest.raises(InputError, match="needs a name"):
        read_inputs([str(tmp_path / "x.npy")], INPUTS)
    np.savez(tmp_path / "two.npz", a=X, b=X)
    with pytest.raises(InputError, match="'a', 'b'"):
        read_inputs([f"x={tmp_path / 'two.npz'}"], INPUTS)


def test_outputs_are_saved_inside_the_folder_whatever_their_names(tmp_path: Path) -> None:
    b = np.array([1.5, 2], ml_dtypes.bfloat16)
    folder = tmp_path / "a" / "out"
    paths = save_outputs(folder, [('*/ [red]"<script>../', X), ("../../up", X), ("half", b), ("", X)])
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(paths)
    assert all(path.parent == folder for path in paths)
    np.testing.assert_array_equal(np.load(paths[1]), X)
    read = onnx.numpy_helper.to_array(onnx.TensorProto.FromString(paths[2].read_bytes()))
    np.testing.assert_array_equal(read.astype(np.float32), b.astype(np.float32))
