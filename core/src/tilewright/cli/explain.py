"""`tilewright explain`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
from rich.console import Group
from rich.text import Text

from tilewright.artifact import Artifact, Fallen
from tilewright.cli.base import Command, threads_option
from tilewright.cli.options import compile_options, opened_model, refuse_for_artifact, value_options
from tilewright.cli.output import Output, harmless, table
from tilewright.cli.tensors import read_arrays
from tilewright.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from tilewright.compiler import Plan
    from tilewright.config.binding import Settings
    from tilewright.planning.timeline import Timeline

ORDER = ("fallback", "control_rewrite", "connect", "propose", "schedule", "control_place", "storage")
"""What is decided, in that order: what falls back, the slots, the storage of values."""

_RUNS = 3
"""Of a program that is traced; the last one is shown."""


@click.command("explain", cls=Command)
@click.argument("file", metavar="FILE")
@click.option("--slot", help="Only the decisions of this slot.")
@click.option("--about", metavar="TEXT", help="Only decisions whose subject contains TEXT.")
@click.option("--alternatives", "all_of_them", is_flag=True, help="Also what was considered and not chosen.")
@click.option(
    "--svg",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Instead draw the kernels of a model, and what passes between them, into FILE.",
)
@click.option(
    "--timeline",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Instead write when which unit is predicted to run what: a picture into FILE.svg, or a trace for Chrome's and "
    "Perfetto's viewers into FILE.json.",
)
@click.option(
    "--measured",
    is_flag=True,
    help="With --timeline: run the model, and write when which multiprocessor did run what (CUDA).",
)
@compile_options
@value_options
@threads_option
def command(
    output: Output,
    file: str,
    slot: str | None,
    about: str | None,
    all_of_them: bool,
    svg: Path | None,
    timeline: Path | None,
    measured: bool,
    **options: Any,
) -> None:
    """Show what each slot decided for FILE, an artifact or an ONNX model, and why.

    A model is planned and not built, so the target may be one that code can only be planned for.
    """
    for option, wanted in (("--svg", svg), ("--timeline", timeline)):
        if wanted is not None and (slot is not None or about is not None or all_of_them):
            raise InputError(
                f"{option} draws kernels; --slot, --about and --alternatives are for decisions.",
                "Leave out one or the other.",
            )
    if measured and timeline is None:
        raise InputError("--measured says how a timeline is made, and there is none.", "Add --timeline FILE.")
    if svg is not None:
        _draw(output, file, svg, **options)
    if timeline is not None:
        _draw_timeline(output, file, timeline, measured=measured, **options)
    if svg is not None or timeline is not None:
        return
    names, every = _record(output, file, **options)
    decisions = [
        decision
        for decision in every
        if slot in (None, decision["slot"]) and (about is None or about in decision["subject"])
    ]
    present = dict.fromkeys(decision["slot"] for decision in decisions)
    ordered = sorted(present, key=lambda x: ORDER.index(x) if x in ORDER else len(ORDER))
    parts = []
    for name in ordered:
        value = f" = {names[name]}" if name in names else ""
        found = [decision for decision in decisions if decision["slot"] == name]
        parts += [Text(harmless(f"{name}{value}"), style="bold"), _table(found, all_of_them), Text()]
    output.result(decisions, Group(*parts[:-1]) if parts else "Nothing was decided.")


def _record(output: Output, file: str, **options: Any) -> tuple[Mapping[str, str], list[dict[str, Any]]]:
    """The value of each slot, and the decisions."""
    from tilewright.cli.compile import compiled_artifact
    from tilewright.cli.run import is_artifact

    if is_artifact(file):
        refuse_for_artifact(file, **options)
        with Artifact(file) as artifact:
            return _explained(artifact)
    with output.progress(f"planning {file}"):
        try:
            return _planned(file, **options)
        except UnsupportedError:  # not as a whole, so in parts, if at all
            artifact, _ = compiled_artifact(file, **options)
    with artifact:
        return _explained(artifact)


def _draw(output: Output, file: str, svg: Path, **options: Any) -> None:
    """Writes a picture of a model's kernels."""
    from tilewright.files import replacing
    from tilewright.pictures import draw, graph_of

    settings, plan = _one_plan(output, file, **options)
    graph = graph_of(plan.program, plan.decisions)
    with replacing(svg) as stream:
        stream.write(draw(graph, f"{file} for {settings.target}").encode())
    kernels = sum(bool(box.kernel) for box in graph.boxes)
    output.result({"svg": str(svg), "kernels": kernels}, harmless(f"{kernels} kernels drawn into {svg}"))


def _draw_timeline(output: Output, file: str, path: Path, *, measured: bool, **options: Any) -> None:
    """Writes when which unit runs what, or ran."""
    from tilewright.files import replacing
    from tilewright.pictures import chrome_trace, draw_timeline

    if path.suffix not in (".json", ".svg"):
        raise InputError(
            f"--timeline {path} has an ending that says nothing.", "End it in .svg for a picture, in .json for a trace."
        )
    target, found = (_recorded if measured else _predicted)(output, file, **options)
    said = "measured" if measured else "predicted"
    text = draw_timeline(found, f"{file} for {target}, {said}")
    text = text if path.suffix == ".svg" else json.dumps(chrome_trace(found))
    with replacing(path) as stream:
        stream.write(text.encode())
    facts = {"timeline": str(path), "seconds": found.seconds, "units": found.units, "busy": found.busy}
    said = f"{found.seconds * 1e6:.1f} µs on {found.units} units, busy {found.busy:.0%} of the time, drawn into {path}"
    output.result(facts, harmless(said))


def _predicted(output: Output, file: str, **options: Any) -> tuple[str, Timeline]:
    """The target and the timeline that the cost model predicts."""
    from tilewright.compiler import device_of
    from tilewright.planning.timeline import timeline_of

    settings, plan = _one_plan(output, file, **options)
    return str(settings.target), timeline_of(plan.program, device_of(settings))


def _recorded(output: Output, file: str, **options: Any) -> tuple[str, Timeline]:
    """The target and the timeline of the third run on random inputs."""
    from tilewright.api import compile_artifact, settings_for
    from tilewright.planning.tracing import recorded
    from tilewright.plugins.records import Pass
    from tilewright.runtime.executable import load_artifact
    from tilewright.runtime.random_feeds import random_feeds

    with opened_model(file) as path:
        settings = settings_for(options["target"], options["config"], options["fallback"], strict=options["strict"])
        point, trace = "after.schedule", settings.registry.get(Pass, "trace")
        passes = {**settings.passes, point: (*settings.passes.get(point, ()), trace)}
        bind = read_arrays(options["bound"], "--bind")
        with output.progress(f"compiling {file}"):
            artifact, _ = compile_artifact(
                path, attrs.evolve(settings, passes=passes), shapes=options["shapes"], bind=bind, jit=False, cache=False
            )
    with load_artifact(artifact) as program:
        feeds = random_feeds(program.manifest.examples(), 0)
        for _ in range(_RUNS):
            program.run(None, feeds)
        return program.target, recorded(program.timeline())


def _one_plan(output: Output, file: str, **options: Any) -> tuple[Settings, Plan]:
    """The plan of a model that has one program."""
    from tilewright.cli.run import is_artifact

    if is_artifact(file):
        raise InputError(
            f"{file} is compiled and tells what was decided, not which values pass between its kernels.",
            "Give the model that it was compiled from.",
        )
    with output.progress(f"planning {file}"):
        settings, plans = _plans(file, **options)
    if len(plans) != 1:
        raise InputError(
            f"One program can be drawn, but there are {len(plans)}, for several shapes.", "Give one of them by --shape."
        )
    return settings, plans[0]


def _planned(model: str, **options: Any) -> tuple[Mapping[str, str], list[dict[str, Any]]]:
    """The same for a model, which needs no build."""
    from tilewright.assemble import plain

    settings, plans = _plans(model, **options)
    decisions = _numbered([plain([*map(attrs.asdict, plan.decisions)]) for plan in plans])
    return {slot: record.name for slot, record in settings.slots.items()}, decisions


def _plans(
    model: str,
    *,
    target: str | None,
    config: str | None,
    shapes: dict[str, list[list[int]]],
    strict: bool,
    no_cache: bool,
    bound: tuple[str, ...],
    fallback: str | None,
    **_: Any,
) -> tuple[Settings, list[Plan]]:
    """The plans of a model, one for each combination of shapes that are asked for."""
    from tilewright.api import settings_for
    from tilewright.compiler import load_module, plan_module
    from tilewright.frontend.asked import combinations
    from tilewright.frontend.source import read
    from tilewright.frontend.text import given_module, is_text

    with opened_model(model) as path:
        settings = attrs.evolve(settings_for(target, config, fallback, strict=strict), keep_trials=not no_cache)
        bind = read_arrays(bound, "--bind")
        if is_text(path):
            modules = [load_module(given_module(path, shapes, bind), settings)]
        else:
            source = read(path)
            modules = [load_module(source, settings, one, bind=bind) for one in combinations(source.inputs, shapes)]
        return settings, [plan_module(module, settings) for module in modules]


def _explained(artifact: Artifact) -> tuple[Mapping[str, str], list[dict[str, Any]]]:
    """The same for what is compiled, with what falls back first."""
    manifest = artifact.manifest
    fallen = [_fallen(node) for step in manifest.pipeline for node in step.nodes]
    return manifest.slots, [*fallen, *_numbered([artifact.decisions(x) for x in manifest.variants])]


def _fallen(node: Fallen) -> dict[str, Any]:
    """A node that the reference evaluator runs, in the form of a decision."""
    why = f"{node.why} It holds {', '.join(node.inner)}." if node.inner else node.why
    return {
        "slot": "fallback",
        "subject": node.node,
        "chosen": "reference",
        "alternatives": [],
        "costs": [],
        "why": why,
    }


def _numbered(programs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The decisions of all programs; each says of which one it is, where there are several."""
    if len(programs) == 1:
        return [*programs[0]]
    return [{"program": number, **decision} for number, found in enumerate(programs) for decision in found]


def _table(decisions: Sequence[Mapping[str, Any]], all_of_them: bool) -> Any:
    """One table per slot. Columns that say nothing are left out."""
    rows: list[list[str]] = []
    for decision in decisions:
        costs, others = decision["costs"], decision["alternatives"]
        number = str(decision.get("program", ""))
        chosen = [_brief(decision["chosen"]), _seconds(costs), str(len(others))]
        rows.append([number, decision["subject"], *chosen, decision["why"]])
        if all_of_them:
            rows += [["", "", f"or {_brief(x)}", _seconds(costs[i + 1 :]), "", ""] for i, x in enumerate(others)]
    columns = ["program", "about", "chosen", "cost", "others", "why"]
    empty = {"others": ("", "0")}
    kept = [i for i, x in enumerate(columns) if i in (1, 2) or any(row[i] not in empty.get(x, ("",)) for row in rows)]
    shown = [columns[i] for i in kept]
    right = [name for name in ("cost", "others") if name in shown]
    return table(shown, [[row[i] for i in kept] for row in rows], right=right)


def _brief(chosen: Any) -> str:
    if isinstance(chosen, dict):
        return " ".join(f"{key}={_brief(value)}" for key, value in sorted(chosen.items()))
    return chosen if isinstance(chosen, str) else json.dumps(chosen)


def _seconds(costs: Sequence[float | None]) -> str:
    return f"{costs[0] * 1e6:.1f} µs" if costs and costs[0] is not None else ""
