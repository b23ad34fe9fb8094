"""Versions from metadata; nothing is imported."""

from __future__ import annotations

from tilewright.plugins.discovery import discover
from tilewright.plugins.identity import distribution_version


def version_text(python: str) -> str:
    """What `--version` prints: Tilewright, Python, TVM, ONNX, and each installed plugin."""
    libraries = (f"{name} {distribution_version(name)}" for name in ("apache-tvm", "apache-tvm-ffi", "onnx"))
    rows = [f"tilewright {distribution_version('tilewright-core')} (Python {python})", ", ".join(libraries)]
    found = discover()
    rows += [f"plugin {plugin.name} ({plugin.distribution} {plugin.version})" for plugin in found.plugins]
    rows += [f"unusable {failure}" for failure in found.failures]
    return "\n".join(rows)
