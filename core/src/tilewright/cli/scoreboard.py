"""`tilewright scoreboard`."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from pathlib import Path

import click

from tilewright.cli.base import Command
from tilewright.cli.output import Output, lines
from tilewright.config.loading import load_config
from tilewright.testing import scoreboard


@click.command("scoreboard", cls=Command)
@click.option("--target", metavar="T", help="What to compile for; it must run here.  [default: the configuration's]")
@click.option("-o", "--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Write scoreboard.md and .json.")
@click.option(
    "--against", metavar="FILE", type=click.Path(path_type=Path, exists=True), help="Earlier scoreboard.json."
)
def command(output: Output, target: str | None, out: Path | None, against: Path | None) -> int:
    """Run ONNX's own test suite, each test compiled and run in a worker.

    Exit with 1 if an answer is wrong, a test crashes, or one that passed --against an earlier run does not any more.
    """
    chosen = load_config({}, target=target).target
    with output.progress("ONNX's test suite") as say:
        scores = scoreboard.play(chosen, lambda done, total: say(f"ONNX's test suite: {done} of {total}"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        versions = f"onnx {version('onnx')}, target {chosen.partition(':')[0]}."
        (out / "scoreboard.md").write_text(scoreboard.as_markdown(scores, versions), encoding="utf-8")
        (out / "scoreboard.json").write_text(scoreboard.as_json(scores), encoding="utf-8")
    counts = Counter((x.group, x.kind) for x in scores)
    bad = [x for x in scores if x.kind in ("wrong", "crashed")]
    gone = scoreboard.lost(against.read_text(encoding="utf-8"), scores) if against is not None else []
    found: dict[str, object] = {"tests": len(scores)}
    for group in dict.fromkeys(x.group for x in scores):
        found[group] = ", ".join(f"{counts[group, k]} {k}" for k in scoreboard.ALL_KINDS if counts[group, k])
    troubles = {
        "wrong or crashed": [f"{x.name}: {x.detail}" for x in bad],
        "passed before": [f"{x.name}: {x.kind}" for x in gone],
    }
    output.result(found | troubles, lines(found | {k: "; ".join(v) or "none" for k, v in troubles.items()}))
    return 1 if bad or gone else 0
