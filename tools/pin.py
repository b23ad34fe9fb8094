"""Writes requirements/constraints.txt: one exact version for everything that use and development need.

    .venv/bin/python tools/pin.py

Resolves the distributions of this repository, with all extras and dependency groups, against the package
index that pip is configured for, and writes what pip chose. The versions must suit every supported Python,
so review the difference.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "requirements" / "constraints.txt"
PROJECTS = (
    "core[onnxruntime]",
    "backends[cuda]",
    "plugins/roller",
    "plugins/welder",
    "plugins/grinder",
    "plugins/rammer",
    ".[benchmarks]",
)
HEADER = """\
# The exact versions that `make setup` installs. Written by tools/pin.py; do not edit by hand.
"""


def resolve() -> dict[str, str]:
    """The versions pip chooses, by distribution name, without our own distributions."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
    ]
    command += [f"{ROOT}/{project}" for project in PROJECTS]
    command += ["--group", f"{ROOT / 'pyproject.toml'}:dev", "pip"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    chosen = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
    return {name: version for name, version in chosen.items() if not name.startswith("tilewright")}


def main() -> None:
    """Resolves and writes."""
    versions = resolve()
    lines = [f"{name}=={versions[name]}\n" for name in sorted(versions, key=str.lower)]
    OUTPUT.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} versions written to {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
