"""The error for a file that is not a sound artifact."""

from __future__ import annotations

from pathlib import Path

from tilewright.errors import InputError


class ArtifactError(InputError):
    """A file is no artifact, is damaged, or holds something that an artifact may not hold."""


def damaged(path: Path, what: str) -> ArtifactError:
    """The error for an artifact that was cut off or changed."""
    return ArtifactError(f"Artifact {path} is damaged: {what}.", "Compile the model again.")
