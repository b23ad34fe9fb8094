"""From a model to code objects for AMD GPUs, on a machine without one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi

import tilewright
from backends.tests.test_rocm_matrix import DEVICES, matched, product, settings_for
from tilewright.compiler import build_program, device_of, plan_module, recipes_of
from tilewright.config.binding import Settings
from tilewright.errors import InputError, InternalError
from tilewright.frontend import load
from tilewright.ir.ops import value
from tilewright.ir.program import Program
from tilewright.planning.trial import CodeFacts
from tilewright.plugins.records import RecipeEntry
from tilewright.testing import conformance
from tilewright.testing.cases import case, node
from tilewright.testing.control import control_case
from tilewright.views.subject import subject_of
from tilewright_backends import gpus
from tilewright_backends.build.cuda.builder import device_kernel
from tilewright_backends.build.cuda.library import SYMBOL, cuda_module, packed_modules
from tilewright_backends.build.rocm import tools
from tilewright_backends.build.rocm.metadata import metadata
from tilewright_backends.build.rocm.source import llvm_source, object_code, rocm_target, shell_for, warp_of
from tilewright_backends.emit.gpu.body import GpuBody

MATRIX = {"gfx90a": "v_mfma", "gfx942": "v_mfma", "gfx1100": "v_wmma", "gfx1201": "v_wmma"}
LDS = 65536


def tool(name: str) -> str:
    """LLVM's tool of the version that knows all four architectures."""
    return f"{name}-{tools.LLVM}"


def listing(code: Path) -> str:
    done = subprocess.run([tool("llvm-objdump"), "-d", str(code)], capture_output=True, text=True, check=True)
    return done.stdout


def check_object(folder: Path, data: dict[str, Any], arch: str) -> str:
    """Facts that LLVM's own reader sees too, within the limits of the device; gives the machine code as text."""
    code = folder / "kernels.hsaco"
    read = subprocess.run([tool("llvm-readelf"), "-n", str(code)], capture_output=True, text=True, check=True).stdout
    assert f"amdhsa.target:   amdgcn-amd-amdhsa--{arch}" in read
    told = metadata(code.read_bytes())["amdhsa.kernels"]
    for key in ("vgpr_count", "sgpr_count", "group_segment_fixed_size", "private_segment_fixed_size", "wavefront_size"):
        wanted = [int(x) for x in re.findall(rf"\.{key}: +(\d+)", read)]
        assert wanted == [x[f".{key}"] for x in told]
    assert {x[".name"] for x in told} == set(data["kernels"])
    for facts in data["kernels"].values():
        assert facts["wave"] == warp_of(arch)
        assert facts["shared_bytes"] <= LDS
        assert 0 < facts["registers"] <= 512
    for entry in told:
        assert entry[".max_flat_workgroup_size"] == data["kernels"][entry[".name"]]["threads"]
    return listing(code)


def small(settings: Settings) -> Program:
    """Kernels of several kinds, one of which exchanges values and one of which has barriers."""
    nodes = [node("Exp", "x", "e"), node("ReduceSum", "e a", "s"), node("CumSum", "x b", "z")]
    nodes.append(node("TopK", "x k", "v i"))
    weights = {"a": np.asarray([1]), "b": np.asarray(1), "k": np.asarray([5])}
    feeds = {"x": np.zeros((8, 3000), np.float32)}
    module = load(case("small", nodes, feeds, weights=weights, outputs=("s", "z", "v", "i")).model)
    return plan_module(module, settings).program


@pytest.mark.parametrize("arch", DEVICES)
def test_code_objects_are_what_llvm_reads(arch: str, tmp_path: Path) -> None:
    settings = settings_for(arch)
    output = build_program(small(settings), settings, tmp_path)
    text = check_object(tmp_path, dict(output.data), arch)
    assert not any(k["spill_bytes"] or k["stack_bytes"] for k in output.data["kernels"].values())
    for name, facts in output.data["facts"].items():
        told = output.data["kernels"][f"tw_{name}"]
        found = CodeFacts(seconds=0, **facts)
        assert (found.registers, found.spills, found.shared_bytes) == (told["registers"], 0, told["shared_bytes"])
        assert 1 <= found.blocks_per_unit <= 2048 // told["threads"]
    assert (tmp_path / "kernels.hsaco").read_bytes() in output.library.read_bytes()
    assert "v_exp_f32" in text
    assert "ds_bpermute_b32" in text
    # A thread's stores to shared memory have arrived when it signals the barrier.
    barriers = [m.start() for m in re.finditer(r"\ts_barrier(_signal)?\b", text)]
    assert barriers
    for at in barriers:
        before = text[:at].splitlines()[-8:]
        assert any("lgkmcnt(0)" in x or "s_wait_dscnt 0x0" in x or "dscnt" in x for x in before), before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("arch", DEVICES)
def test_products_are_on_matrix_units(arch: str, dtype: str, tmp_path: Path) -> None:
    settings = settings_for(arch)
    module, _ = product(dtype, turned=True, constant=True)
    group, match = matched(module, settings)
    choices = conformance.sample(match, 3, np.random.default_rng(1))
    output = build_program(conformance.copies(module, [(group, x) for x in choices], settings), settings, tmp_path)
    text = check_object(tmp_path, dict(output.data), arch)
    kind = {"float16": "f16", "bfloat16": "bf16"}[dtype]
    assert re.search(rf"{MATRIX[arch]}_f32_16x16x16_?{kind}", text)
    facts = list(output.data["kernels"].values())
    assert not any(k["spill_bytes"] or k["stack_bytes"] for k in facts)
    for choice, found in zip(choices, facts, strict=True):
        assert found["shared_bytes"] <= choice.resources.shared_bytes
        assert found["registers"] * found["threads"] <= device_of(settings).registers_per_unit


def test_modules_are_packed_as_tvm_packs_them(tmp_path: Path) -> None:
    """TVM's own exporter writes the same table for the same code object."""
    arch, settings = "gfx942", settings_for("gfx942")
    program = small(settings)
    kernel = next(iter(program.kernels.values()))
    entry = settings.registry.get(RecipeEntry, kernel.choice.recipe)
    emitter = settings.registry.resolve(entry, entry.emitter)
    made = device_kernel(kernel, program, emitter, arch, shell_for(arch))
    code = tools.link(object_code(llvm_source([made], arch, tmp_path), tmp_path), tmp_path)
    tvm_ffi.register_global_func("tvm_callback_rocm_link", lambda _: bytearray(code), override=True)
    target = rocm_target(arch)
    with target:
        device = tvm.get_global_func("target.build.rocm")(tvm.IRModule({made.name: made.function}), target)
    packed = packed_modules([cuda_module(code, [made], "hsaco")], "hip")
    exported = tmp_path / "exported.so"
    empty = tmp_path / "empty.ll"
    empty.write_text('target triple = "x86_64-unknown-linux-gnu"\n', encoding="utf-8")
    holder = tvm.get_global_func("ffi.Module.load_from_file.ll")(str(empty), "ll")
    holder.import_module(device)
    holder.export_library(str(exported))
    assert packed[8:] in exported.read_bytes()
    assert SYMBOL.encode() in exported.read_bytes()


def test_addresses_on_chip_that_become_global_are_refused(tmp_path: Path) -> None:
    """What TVM does to a declared view of shared memory would fault on a device."""
    shell = shell_for("gfx942")("k", (value("y", "float32", (64,)),), 64, 1)
    body = shell.body
    seen = GpuBody.view(body, body.shared("float32", 64), "float32", 64)
    body.store(seen, body.thread_var, tvm.tirx.const(1.0, "float32"))
    body.sync()
    body.store(body.params["y"], body.thread_var, seen[63 - body.thread_var])
    with pytest.raises(InternalError, match="memory on chip became one of global memory"):
        llvm_source([shell.finish("gfx942")], "gfx942", tmp_path)


def test_running_says_what_is_missing() -> None:
    model = case("small", [node("Relu", "x", "y")], {"x": np.zeros((4, 8), np.float32)}).model
    with pytest.raises(InputError, match="libamdhip64") as found:
        tilewright.compile(model, target="rocm:gfx1100")
    assert "ROCm" in str(found.value.remedy)


@pytest.mark.parametrize("missing", ["linker", "device libraries"])
def test_missing_tools_are_named(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if missing == "linker":
        monkeypatch.setattr(tools, "find_linker", lambda: None)
    else:
        monkeypatch.setattr(tools, "find_device_libraries", lambda: None)
    settings = settings_for("gfx942")
    with pytest.raises(InputError, match="ld.lld" if missing == "linker" else "ocml.bc") as found:
        build_program(small(settings), settings, tmp_path)
    assert "apt install" in str(found.value.remedy)


@pytest.mark.parametrize("name", list(gpus.FAMILIES["rocm"]))
def test_every_target_plans(name: str) -> None:
    settings = settings_for(name)
    device = device_of(settings)
    assert device.kind == "rocm"
    assert device.warp == warp_of(device.arch)
    assert device.shared_per_block == LDS
    program = small(settings)
    assert all(k.choice.recipe.startswith("rocm.") for k in program.kernels.values())


@pytest.mark.parametrize("text", ["", "mi9000", "gfx803"])
def test_unknown_devices_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"mi300x|ROCm device"):
        gpus.resolve("rocm", text)


def test_control_flow_reads_back_through_hip(tmp_path: Path) -> None:
    settings = settings_for("gfx1201")
    program = plan_module(load(control_case(0).model), settings).program
    output = build_program(program, settings, tmp_path)
    check_object(tmp_path, dict(output.data), "gfx1201")
    wanted = subprocess.run(["nm", "-D", str(output.library)], capture_output=True, text=True, check=True).stdout
    assert "U hipMemcpyAsync" in wanted
    assert "cuda" not in wanted


def tier(quick: bool) -> pytest.MarkDecorator:
    """The slow tier has a sample of these builds, the full one the others."""
    return pytest.mark.slow if quick else pytest.mark.full


@pytest.mark.parametrize("arch", [pytest.param(x, marks=tier(x in ("gfx942", "gfx1100"))) for x in DEVICES])
@pytest.mark.parametrize(("recipe", "dtype"), [("matrix", "float16"), ("simt", "float32")])
def test_sampled_choices_of_products_fit(recipe: str, dtype: str, arch: str, tmp_path: Path) -> None:
    """No choice that the constraints allow spills, takes many more registers than it announced, or more LDS."""
    settings = settings_for(arch)
    rows = np.zeros((256, 512), dtype)
    module = load(case("product", [node("MatMul", "a b", "y")], {"a": rows}, weights={"b": rows.T.copy()}).model)
    fit(module, f"rocm.{recipe}", settings, 20, 48, tmp_path)


@pytest.mark.parametrize("arch", [pytest.param(x, marks=tier(x == "gfx1100")) for x in DEVICES])
def test_sampled_choices_of_convolutions_fit(arch: str, tmp_path: Path) -> None:
    """Operands are gathered; what LLVM keeps of their addresses is counted about."""
    image, weight = np.zeros((1, 8, 30, 30), np.float32), np.zeros((64, 8, 5, 5), np.float32)
    nodes = [node("Conv", "x w", "y", pads=[2, 2, 2, 2], strides=[2, 2])]
    module = load(case("convolution", nodes, {"x": image}, weights={"w": weight}).model)
    fit(module, "rocm.simt", settings_for(arch), 10, 64, tmp_path)


def fit(module: Any, recipe: str, settings: Settings, count: int, more: int, folder: Path) -> None:
    """Builds sampled choices of a module's only kernel; registers may be `more` than announced."""
    known, device = recipes_of(settings)[recipe], device_of(settings)
    program = plan_module(module, settings).program
    (kernel,) = program.kernels.values()
    match = known.see(subject_of(kernel.group, program.constants), device)  # type: ignore[arg-type]
    assert match is not None
    choices = conformance.sample(match, count, np.random.default_rng(0))
    copies = conformance.copies(module, [(kernel.group, x) for x in choices], settings)
    facts = list(build_program(copies, settings, folder).data["kernels"].values())
    for choice, found in zip(choices, facts, strict=True):
        told = dict(choice.params), found["registers"], choice.resources.registers
        assert found["spill_bytes"] == 0, told
        assert found["registers"] <= choice.resources.registers + more, told
        assert found["shared_bytes"] <= choice.resources.shared_bytes, told
