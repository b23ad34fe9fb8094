"""Tilewright: a plugin-based tensor compiler. An ONNX model goes in, a fast CPU or CUDA program comes out.

    import tilewright

    program = tilewright.compile("model.onnx", target="cpu")
    outputs = program.run(None, {"x": array})
    program.save("model.tw")
    program = tilewright.load("model.tw")
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for True; importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

    from tilewright.api import compile
    from tilewright.config import Config
    from tilewright.runtime.executable import Executable, load
    from tilewright.runtime.specialise import Jit

__all__ = ["Config", "Executable", "Jit", "compile", "load"]

_LAZY = {
    "compile": "tilewright.api",
    "Config": "tilewright.config",
    "Executable": "tilewright.runtime.executable",
    "Jit": "tilewright.runtime.specialise",
    "load": "tilewright.runtime.executable",
}


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used: `import tilewright` alone loads nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tilewright-core")
    if name not in _LAZY:
        raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
