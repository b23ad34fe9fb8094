"""TVM as this package needs it: the pinned pair of versions, and nothing imported before it is wanted.

`import tvm` costs about a second, so modules that need it are imported by the builder only, and running a program uses
TVM's runtime library without the package (`load`).
"""

from __future__ import annotations

from importlib import metadata

from tilewright.errors import InputError

PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}


def versions() -> dict[str, str]:
    """Installed versions of TVM and its FFI, read from metadata. Raises InputError when one is missing."""
    found: dict[str, str] = {}
    for name in PINS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise InputError(
                f"Code generation needs {name} {PINS[name]}, which is not installed.",
                f"Install it with `pip install {name}=={PINS[name]}`.",
            ) from error
    return found


def require_tvm() -> None:
    """Checks the pair of versions. Raises InputError when it is another one: it would crash or miscompile."""
    for name, version in versions().items():
        if version != PINS[name]:
            raise InputError(
                f"Code generation needs {name} {PINS[name]}, found {version}; the two packages must match.",
                "Install both with `pip install " + " ".join(f"{pin}=={number}" for pin, number in PINS.items()) + "`.",
            )
