"""The seven distributions agree with each other, and their wheels carry what they promise."""

from __future__ import annotations

import email.message
import email.parser
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "tilewright": ".",
    "tilewright-core": "core",
    "tilewright-backends": "backends",
    "tilewright-roller": "plugins/roller",
    "tilewright-welder": "plugins/welder",
    "tilewright-grinder": "plugins/grinder",
    "tilewright-rammer": "plugins/rammer",
}
TECHNIQUES = [name for name, folder in FOLDERS.items() if folder.startswith("plugins/")]
PYTHONS = ("3.11", "3.12", "3.13")


def metadata(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / FOLDERS[name] / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(name: str) -> list[Requirement]:
    project = metadata(name)["project"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def package(name: str) -> str:
    return "tilewright" if name == "tilewright-core" else name.replace("-", "_")


def constraints() -> dict[str, Version]:
    lines = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_every_distribution_is_listed_here() -> None:
    found = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/pyproject.toml")}
    found |= {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert found | {"."} == set(FOLDERS.values())


def test_one_version() -> None:
    versions = {metadata(name)["project"]["version"] for name in FOLDERS}
    assert len(versions) == 1
    version = versions.pop()
    own = [requirement for name in FOLDERS for requirement in requirements(name) if requirement.name in FOLDERS]
    assert own
    assert {str(requirement.specifier) for requirement in own} == {f"=={version}"}
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FOLDERS)
def test_shared_metadata(name: str) -> None:
    project = metadata(name)["project"]
    assert project["name"] == name
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11,<3.14"
    assert [line for line in project["classifiers"] if line.startswith("Programming Language")] == [
        f"Programming Language :: Python :: {python}" for python in PYTHONS
    ]
    folder = ROOT / FOLDERS[name]
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    if name != "tilewright":
        assert (folder / "src" / package(name) / "py.typed").is_file()
        assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {name}\n")


def test_who_depends_on_whom() -> None:
    own = {name: {str(item.name) for item in requirements(name)} & set(FOLDERS) for name in FOLDERS}
    assert own.pop("tilewright") == set(FOLDERS) - {"tilewright"}
    assert own.pop("tilewright-core") == set()
    assert all(needed == {"tilewright-core"} for needed in own.values())


def test_the_pins_of_tvm_are_metadata_of_the_backends_only() -> None:
    pins = {
        name: {item.name: str(item.specifier) for item in requirements(name) if item.name.startswith("apache-tvm")}
        for name in FOLDERS
    }
    expected = {"apache-tvm": "==0.27.0.post1", "apache-tvm-ffi": "==0.1.14.post1"}
    assert pins == {name: expected if name == "tilewright-backends" else {} for name in FOLDERS}


def test_every_requirement_is_pinned_for_development() -> None:
    pinned = constraints()
    groups = metadata("tilewright")["dependency-groups"]
    needed = [requirement for name in FOLDERS for requirement in requirements(name) if requirement.name not in FOLDERS]
    needed += [Requirement(line) for lines in groups.values() for line in lines if isinstance(line, str)]
    assert needed
    missing = {str(item) for item in needed if canonicalize_name(item.name) not in pinned}
    assert not missing
    wrong = [item for item in needed if not item.specifier.contains(pinned[canonicalize_name(item.name)], True)]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_wheel(name: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT / FOLDERS[name])], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    version = metadata(name)["project"]["version"]
    assert wheel.name == f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        members = set(archive.namelist())
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        headers = email.parser.Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        check_headers(name, headers)
        assert f"{info}/licenses/LICENSE" in members
        points = archive.read(f"{info}/entry_points.txt").decode() if f"{info}/entry_points.txt" in members else ""
    payload = {member for member in members if not member.startswith(f"{info}/")}
    if name == "tilewright":
        assert payload == set()
        return
    source = ROOT / FOLDERS[name] / "src"
    on_disk = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    generated = {path for path in on_disk if any(part[0] == "." or part == "__pycache__" for part in path.parts)}
    assert payload == {path.as_posix() for path in on_disk - generated}
    assert f"{package(name)}/py.typed" in payload
    if name == "tilewright-core":
        assert "tilewright = tilewright.cli:main" in points
    else:
        short = name.removeprefix("tilewright-")
        assert f"[tilewright.plugins]\n{short} = tilewright_{short}.plugin" in points


def check_headers(name: str, headers: email.message.Message) -> None:
    assert headers["Name"] == name
    assert headers["License-Expression"] == "Apache-2.0"
    built = {comparable(line) for line in headers.get_all("Requires-Dist") or [] if "extra ==" not in line}
    assert built == {comparable(line) for line in metadata(name)["project"]["dependencies"]}


def comparable(line: str) -> tuple[str, str]:
    requirement = Requirement(line)
    return canonicalize_name(requirement.name), str(requirement.specifier)
