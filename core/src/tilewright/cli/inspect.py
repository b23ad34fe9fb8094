"""`tilewright inspect`."""

from __future__ import annotations

from pathlib import Path

import attrs
import click

from tilewright.artifact import Artifact, Variant
from tilewright.cli.base import Command
from tilewright.cli.output import Output, lines
from tilewright.sizes import size_text


@click.command("inspect", cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def command(output: Output, file: Path) -> None:
    """Show what the artifact FILE is and check its digests. No code in it is loaded."""
    with Artifact(file) as artifact:
        artifact.verify()
        manifest = artifact.manifest
    fields: dict[str, object] = {
        "model": manifest.model,
        "target": manifest.target,
        "written by": f"Tilewright {manifest.tilewright}",
        "needs": ", ".join(manifest.requires),
        "kernels": manifest.kernels,
    }
    fields |= {"planned for": f"{manifest.threads} threads"} if manifest.threads else {}
    fields |= {f"input {info.name}": info for info in manifest.inputs}
    fields |= {f"output {info.name}": info for info in manifest.outputs}
    for place, step in enumerate(manifest.pipeline):
        fields |= {f"step {place}": f"{step.kind}: {', '.join(step.inputs)} → {', '.join(step.outputs)}"}
        fields |= {f"step {place}, program {n}": _program(variant) for n, variant in enumerate(step.variants)}
        fields |= {f"step {place}, node {n}": f"{node.node}: {node.why}" for n, node in enumerate(step.nodes)}
    fields |= {f"slot {slot}": name for slot, name in manifest.slots.items()}
    fields |= {f"version of {name}": version for name, version in manifest.versions.items()}
    fields |= {
        f"section {name}": f"{size_text(section.size)}, SHA-256 {section.sha256[:16]}…"
        for name, section in manifest.sections.items()
    }
    output.result(attrs.asdict(manifest) | {"kernels": manifest.kernels}, lines(fields))


def _program(variant: Variant) -> str:
    shapes = " ".join(f"{info.name}={info}" for info in variant.inputs)
    return f"{shapes or 'no inputs'}; {variant.kernels} kernels in {variant.library}"
