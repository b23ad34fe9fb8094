"""Artifacts: what goes in comes out, equal in means equal bytes, and nothing odd is accepted."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from tilewright.artifact import Artifact, ArtifactError, Manifest, Step, TensorInfo, Variant, write_artifact
from tilewright.ir import dtypes
from tilewright.runtime.native import Array, Weight

LIBRARY = bytes(range(256)) * 33

DECISIONS = [
    {"slot": "connect", "subject": "m", "chosen": "all", "alternatives": [], "costs": [1.5, None], "why": "it is small"}
]


def manifest() -> Manifest:
    """Of one program."""
    inputs = (TensorInfo("x", "float32", (1, "n")),)
    outputs = (TensorInfo("y", "float32", (1, "n")),)
    variant = Variant("library.so", "decisions.json", inputs, outputs, {"n": (0, 8)}, data={"entry": "main"})
    step = Step("native", ("x",), ("y",), (variant,))
    return Manifest("0.1.0", "m", "cpu:generic", "acme", inputs, outputs, (step,))


def write(path: Path, library: Path, weights: Sequence[Weight] = ()) -> None:
    """An artifact of one program."""
    write_artifact(path, manifest(), {"library.so": library}, weights, decisions={"decisions.json": DECISIONS})


def weight(name: str, array: Array) -> Weight:
    return Weight(name, dtypes.from_numpy(array.dtype), array.shape, lambda: array)


WEIGHTS = {
    "a": np.arange(7, dtype=np.int8),
    "odd / name": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
    "half": np.ones((2, 2), ml_dtypes.bfloat16),
    "scalar": np.array(3.5, np.float64),
    "empty": np.zeros((0, 4), np.float16),
    "bool": np.array([True, False]),
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "lib.so"
    path.write_bytes(LIBRARY)
    return path


@pytest.fixture
def path(tmp_path: Path, library: Path) -> Path:
    out = tmp_path / "model.tw"
    weights = [weight(name, array) for name, array in WEIGHTS.items()]
    write(out, library, weights)
    return out


def test_what_goes_in_comes_out(path: Path) -> None:
    with Artifact(path) as artifact:
        artifact.verify()
        assert artifact.manifest.inputs == (TensorInfo("x", "float32", (1, "n")),)
        (variant,) = artifact.manifest.variants
        assert variant.data == {"entry": "main"}
        assert artifact.decisions(variant) == DECISIONS
        with artifact.library(variant) as library:
            assert library.read_bytes() == LIBRARY
            assert library.parent.stat().st_mode & 0o777 == 0o700
        assert not library.exists()
        read = artifact.weights()
    assert list(read) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_weights_are_mapped_aligned_and_read_only(path: Path) -> None:
    with Artifact(path) as artifact:
        for array in artifact.weights().values():
            assert array.ctypes.data % 64 == 0
            assert not array.flags.writeable
            assert not array.flags.owndata


def test_the_members_are_plain_zip_and_plain_safetensors(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        read = dict(deserialize(archive.read("weights.safetensors")))
        for name, section in json.loads(archive.read("manifest.json"))["sections"].items():
            data = archive.read(name)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (section["size"], section["sha256"])
    for name, array in WEIGHTS.items():
        assert tuple(read[name]["shape"]) == array.shape
        assert bytes(read[name]["data"]) == array.tobytes()


def test_equal_contents_make_equal_files(tmp_path: Path, library: Path) -> None:
    for name in ("one.tw", "two.tw"):
        write(tmp_path / name, library, [weight("a", WEIGHTS["a"])])
        os.utime(library, (0, 0))
    assert (tmp_path / "one.tw").read_bytes() == (tmp_path / "two.tw").read_bytes()


@given(st.lists(st.tuples(st.sampled_from(dtypes.DTYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=8))
def test_any_weights_survive(specs: list[tuple[str, list[int]]]) -> None:
    import tempfile

    rng = np.random.default_rng(1)
    arrays = {
        f"w{i}": rng.integers(0, 2, shape).astype(dtypes.to_numpy(dtype)) for i, (dtype, shape) in enumerate(specs)
    }
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "lib.so")
        library.write_bytes(b"x")
        write(Path(folder, "m"), library, [weight(n, a) for n, a in arrays.items()])
        with Artifact(Path(folder, "m")) as artifact:
            read = artifact.weights()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_failed_or_interrupted_write_leaves_nothing(tmp_path: Path, library: Path) -> None:
    def interrupted() -> Array:
        raise KeyboardInterrupt

    out = tmp_path / "model.tw"
    out.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write(out, library, [Weight("w", "float32", (2,), interrupted)])
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lib.so", "model.tw"]


def test_a_weight_that_is_not_what_was_announced_is_refused(tmp_path: Path, library: Path) -> None:
    wrong = Weight("w", "float32", (2,), lambda: np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="announced as float32"):
        write(tmp_path / "m", library, [wrong])


@pytest.mark.parametrize("keep", [0, 1, 30, 1000, -1, -30])
def test_a_truncated_artifact_is_refused(path: Path, keep: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(ArtifactError, match=r"model\.tw"):
        Artifact(path)


def test_any_changed_byte_is_found_before_use(path: Path) -> None:
    with Artifact(path) as artifact:
        places = dict(artifact._members)
    data = path.read_bytes()
    for member in places.values():
        for offset in {member.offset, member.offset + member.size // 2, member.offset + member.size - 1}:
            changed = bytearray(data)
            changed[offset] ^= 0x20
            path.write_bytes(bytes(changed))
            with pytest.raises(ArtifactError, match="damaged"), Artifact(path) as artifact:
                artifact.verify()


def test_a_changed_library_or_weight_is_never_given_out(path: Path) -> None:
    with Artifact(path) as artifact:
        members = dict(artifact._members)
    data = bytearray(path.read_bytes())
    data[members["library.so"].offset] ^= 1
    data[members["weights.safetensors"].offset + 200] ^= 1
    path.write_bytes(bytes(data))
    with Artifact(path) as artifact:
        with pytest.raises(ArtifactError, match=r"library\.so"), artifact.library(artifact.manifest.variants[0]):
            pytest.fail("the library was given out")
        with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
            artifact.weights()


def test_a_missing_file_and_a_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        Artifact(tmp_path / "none.tw")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="not a Tilewright artifact"):
        Artifact(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        info = zipfile.ZipInfo("readme")
        info.extra = struct.pack("<HH", 0xD935, 24) + bytes(24)
        archive.writestr(info, "x")
    with pytest.raises(ArtifactError, match=r"other\.zip"):
        Artifact(tmp_path / "other.zip")


def rebuilt(path: Path, edit: Callable[[zipfile.ZipFile], None]) -> Path:
    """The artifact with `edit` applied to an archive opened for appending."""
    with zipfile.ZipFile(path, "a") as archive:
        edit(archive)
    return path


def _aligned(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    padding = -(archive.start_dir + 30 + len(name) + 4) % 64
    info.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
    return info


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../b", "a\\..\\b", "dir/file", "C:x", "new\nline", ""])
def test_a_strange_member_path_is_refused(path: Path, name: str) -> None:
    rebuilt(path, lambda archive: archive.writestr(_aligned(archive, name), b"x"))
    with pytest.raises(ArtifactError, match=r"refused|damaged"):
        Artifact(path)


def test_a_member_that_is_there_twice_is_refused(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        rebuilt(path, lambda archive: archive.writestr(_aligned(archive, "library.so"), b"x"))
    with pytest.raises(ArtifactError, match="twice"):
        Artifact(path)


def test_a_compressed_member_is_refused(path: Path) -> None:
    rebuilt(
        path,
        lambda archive: archive.writestr(_aligned(archive, "more"), b"x" * 999, zipfile.ZIP_DEFLATED),
    )
    with pytest.raises(ArtifactError, match="compressed"):
        Artifact(path)


def test_an_encrypted_member_is_refused(path: Path) -> None:
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02")
    path.write_bytes(data[: at + 8] + b"\x01" + data[at + 9 :])
    with pytest.raises(ArtifactError, match="encrypted"):
        Artifact(path)


def test_a_member_that_the_manifest_does_not_list_is_refused(path: Path) -> None:
    rebuilt(path, lambda archive: archive.writestr(_aligned(archive, "more"), b"x"))
    with pytest.raises(ArtifactError, match="not the ones that its manifest lists"):
        Artifact(path)


def _with_manifest(tmp_path: Path, library: Path, edit: Callable[[dict[str, object]], None]) -> Path:
    """An artifact whose manifest was changed by someone who keeps the container consistent."""
    out = tmp_path / "edited.tw"
    write(out, library)
    with zipfile.ZipFile(out) as archive:
        data = {info.filename: archive.read(info) for info in archive.infolist()}
    text = json.loads(data["manifest.json"])
    edit(text)
    data["manifest.json"] = json.dumps(text).encode()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in data.items():
            archive.writestr(_aligned(archive, name), content)
    return out


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(schema=2), "schema"),
        (lambda m: m.update(format="other"), "format"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("inputs"), "inputs"),
        (lambda m: m["sections"]["library.so"].update(size=1), "lists"),
        (lambda m: m["sections"]["library.so"].update(size=-1), "size"),
        (lambda m: m["sections"]["library.so"].update(sha256="0" * 64), "written"),
        (lambda m: m["sections"].pop("library.so"), "lists"),
    ],
)
def test_a_wrong_manifest_is_refused(
    tmp_path: Path, library: Path, edit: Callable[[dict[str, object]], None], words: str
) -> None:
    path = _with_manifest(tmp_path, library, edit)
    with pytest.raises(ArtifactError) as caught, Artifact(path) as artifact:
        artifact.verify()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "WHAT", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": 3}',
    ],
)
def test_wrong_weights_are_refused(tmp_path: Path, library: Path, header: bytes) -> None:
    out = tmp_path / "weights.tw"
    write(out, library)
    section = struct.pack("<Q", len(header)) + header + bytes(8)
    with zipfile.ZipFile(out) as archive:
        data = {info.filename: archive.read(info) for info in archive.infolist()}
    data["weights.safetensors"] = section
    text = json.loads(data["manifest.json"])
    text["sections"]["weights.safetensors"] = {
        "size": len(section),
        "sha256": hashlib.sha256(section).hexdigest(),
    }
    data["manifest.json"] = json.dumps(text).encode()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in data.items():
            archive.writestr(_aligned(archive, name), content)
    with Artifact(out) as artifact, pytest.raises(ArtifactError, match="weights"):
        artifact.weights()


def test_many_large_weights_are_never_held_together(tmp_path: Path) -> None:
    """Writes and maps 256 MiB of weights in a process whose memory may grow by 100 MiB only."""
    script = f"""
import numpy as np
from pathlib import Path
from tilewright.artifact import *
from tilewright.memory import peak_bytes
from tilewright.runtime.native import Weight
folder = Path({str(tmp_path)!r})
(folder / "lib.so").write_bytes(b"x")
before = peak_bytes()
weights = [Weight(f"w{{i}}", "float32", (1 << 23,), lambda i=i: np.full(1 << 23, i, np.float32)) for i in range(8)]
step = Step("native", (), (), (Variant("library.so", "decisions.json", (), ()),))
m = Manifest("0", "m", "cpu:x", "p", (), (), (step,))
libraries = dict([("library.so", folder / "lib.so")])
write_artifact(folder / "m.tw", m, libraries, weights, decisions=dict([("decisions.json", [])]))
with Artifact(folder / "m.tw") as artifact:
    read = artifact.weights()
    assert read["w3"][5] == 3
print((peak_bytes() - before) / 2**20)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 100


def test_opening_and_reading_imports_no_code_generator(path: Path) -> None:
    script = (
        "import sys; from tilewright.artifact import Artifact; Artifact(sys.argv[1]).verify(); "
        "print([m for m in ('tvm', 'onnx', 'torch', 'tvm_ffi') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_section_beyond_two_gibibytes(tmp_path: Path, library: Path) -> None:
    count, part = 9, np.arange(1 << 26, dtype=np.float32)
    weights = [weight(f"w{i}", part) for i in range(count)]
    write(tmp_path / "large.tw", library, weights)
    with Artifact(tmp_path / "large.tw") as artifact:
        read = artifact.weights()
        assert artifact.manifest.sections["weights.safetensors"].size > 2 << 30
        np.testing.assert_array_equal(read["w8"][-5:], part[-5:])
        assert artifact.decisions(artifact.manifest.variants[0]) == DECISIONS
