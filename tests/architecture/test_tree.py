"""What may not stand in the tree: package index hosts and paths of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Written in pieces, so that this file does not contain what it looks for.
HOSTS = (
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "conda.anaconda" + ".org",
    "npmjs" + ".org",
    "pypi" + ".nvidia.com",
)
INDEX_OPTIONS = ("--index" + "-url", "--extra-index" + "-url", "--find" + "-links", "PIP_INDEX" + "_URL")
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:home|Users|root|work|mnt|opt/tw)/\w+")


def tracked_texts() -> dict[str, str]:
    """The text files git tracks, by path. A file that is no UTF-8 is data, not text."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    texts = {}
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if not path.is_file():  # removed in the working tree, still in the index
            continue
        try:
            texts[name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts


def offences(pattern: str | re.Pattern[str]) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{name}:{number}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if expression.search(line)
    ]


def test_the_search_sees_the_tree() -> None:
    assert "pyproject.toml:1" in offences(r"\[build-system\]")


def test_no_package_index() -> None:
    assert not offences("|".join(re.escape(text) for text in HOSTS + INDEX_OPTIONS))


def test_no_path_of_one_machine() -> None:
    assert not offences(MACHINE_PATH)
    assert MACHINE_PATH.search("open('/ho" + "me/someone/model.onnx')")
