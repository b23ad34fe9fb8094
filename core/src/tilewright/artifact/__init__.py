"""The artifact: one file that holds a compiled program.

It is native code, and loading it runs it: load only artifacts that you trust. Opening and inspecting one runs
nothing.
"""

from tilewright.artifact.errors import ArtifactError, damaged
from tilewright.artifact.file import Artifact, write_artifact
from tilewright.artifact.manifest import Fallen, Manifest, Model, Section, Step, TensorInfo, Variant

__all__ = [
    "Artifact",
    "ArtifactError",
    "Fallen",
    "Manifest",
    "Model",
    "Section",
    "Step",
    "TensorInfo",
    "Variant",
    "damaged",
    "write_artifact",
]
