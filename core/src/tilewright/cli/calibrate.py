"""`tilewright calibrate`."""

from __future__ import annotations

import attrs
import click

from tilewright.cli.base import Command
from tilewright.cli.output import Output, table


@click.command("calibrate", cls=Command)
@click.option("--target", default="cpu", show_default=True, metavar="T", help="cpu, cpu:MCPU, cuda:h200, …")
@click.option("--threads", type=int, help="Worker threads of a CPU program [default: all].")
@click.option("--dry-run", is_flag=True, help="Measure and show, but store nothing.")
def command(output: Output, target: str, threads: int | None, dry_run: bool) -> None:
    """Measure what this machine's device does, and plan with that from now on.

    Bandwidths, arithmetic peaks and the cost of starting a kernel, in some seconds. The numbers replace those of the
    device model for this target, for you alone; programs compiled before stay as they are.
    """
    from tilewright.api import settings_for
    from tilewright.bench.calibrate import calibrate
    from tilewright.compiler import base_device
    from tilewright.device.calibration import store
    from tilewright.threads import thread_count

    settings = settings_for(target, None)
    found = calibrate(settings, thread_count(threads))
    before, after = base_device(settings), found.applied(base_device(settings))
    rows = [
        [f"{x.name} GB/s", f"{x.bandwidth / 1e9:.4g}", f"{y.bandwidth / 1e9:.4g}"]
        for x, y in zip(before.levels, after.levels, strict=True)
        if x.name in found.bandwidth
    ]
    rows += [
        [f"{name} GFLOP/s", f"{before.peak.get(name, 0) / 1e9:.4g}", f"{after.peak[name] / 1e9:.4g}"]
        for name in found.peak
    ]
    rows.append(["launch µs", f"{before.launch_seconds * 1e6:.3g}", f"{after.launch_seconds * 1e6:.3g}"])
    path = "" if dry_run else str(store(found))
    output.result(
        {**attrs.asdict(found), "path": path},
        table(["", "device model", "measured"], rows, right=("device model", "measured")),
    )
    if path:
        output.note(f"stored in {path}")
