"""From a model to a CUDA library on a machine without a GPU."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from tilewright.compiler import build_program, plan_model
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError
from tilewright.ir.program import Program
from tilewright.plugins.manager import Registry
from tilewright.testing.models import BUILDERS
from tilewright.testing.precision import narrowed
from tilewright_backends import gpus
from tilewright_backends.build.cuda import compile as cuda_compile
from tilewright_backends.build.cuda.builder import copy_kernel, device_kernel, set_kernel
from tilewright_backends.build.cuda.library import cuda_module, packed_modules
from tilewright_backends.build.cuda.source import DeviceKernel, cuda_source, cuda_target
from tilewright_backends.load_cuda import load_cuda

ARCHITECTURES = ("sm_80", "sm_90a")


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"cuda:{device}"}), registry)


def conv_relu() -> Any:
    """Two equal convolutions, so that they share a kernel, and a third."""
    rng = np.random.default_rng(0)
    kernels = [numpy_helper.from_array((rng.standard_normal((32, 32, 3, 3)) * 0.1).astype("f4"), f"w{i}") for i in "01"]
    last = numpy_helper.from_array((rng.standard_normal((8, 32, 1, 1)) * 0.1).astype("f4"), "w2")
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 14, 14])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 14, 14])
    graph = helper.make_graph(nodes, "g", [x], [y], [*kernels, last])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def kernels_of(program: Program, settings: Settings) -> Mapping[str, DeviceKernel]:
    from tilewright.plugins.records import RecipeEntry

    entries = {k.choice.recipe: settings.registry.get(RecipeEntry, k.choice.recipe) for k in program.kernels.values()}
    emitters = {name: settings.registry.resolve(entry, entry.emitter) for name, entry in entries.items()}
    return {
        name: device_kernel(kernel, program, emitters[kernel.choice.recipe], "sm_90a")
        for name, kernel in program.kernels.items()
    }


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_model_becomes_a_library_with_machine_code(arch: str, tmp_path: Path) -> None:
    settings = settings_for(arch)
    program = plan_model(conv_relu(), settings).program
    output = build_program(program, settings, tmp_path)
    symbols = subprocess.run(["nm", "-D", output.library], capture_output=True, text=True, check=True).stdout
    assert "__tvm_ffi__library_bin" in symbols
    assert "__tvm_ffi_main" in symbols
    assert b"\x7fELF" in output.library.read_bytes()[64:]  # the machine code is an ELF file inside
    kernels = output.data["kernels"]
    assert len(kernels) == len(program.kernels)
    assert all(k["registers"] > 0 for k in kernels.values())
    assert not any(k["spill_bytes"] for k in kernels.values())


def test_a_kernel_of_several_launches_appears_once() -> None:
    settings = settings_for("h200")
    program = plan_model(conv_relu(), settings).program
    assert len(program.kernels) < len(program.body)
    kernels = kernels_of(program, settings)
    source = cuda_source(list(kernels.values()), "sm_90a")
    for kernel in kernels.values():
        assert len(re.findall(rf"\b{kernel.name}\([^;]*\) \{{", source)) == 1


def test_builds_are_byte_identical(tmp_path: Path) -> None:
    settings = settings_for("h200")
    libraries = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        program = plan_model(conv_relu(), settings).program
        libraries.append(build_program(program, settings, folder).library.read_bytes())
    assert libraries[0] == libraries[1]


def test_the_library_table_is_laid_out_as_tvm_packs_it() -> None:
    """TVM without a driver packs the source of device functions; the same kernels packed by us give the same bytes."""
    kernels = [copy_kernel(100, "sm_90a"), copy_kernel(4096, "sm_90a"), set_kernel("int64", "sm_90a")]
    target = cuda_target("sm_90a")
    built = tvm.get_global_func("target.build.cuda")(tvm.IRModule({k.name: k.function for k in kernels}), target)
    empty = tvm.get_global_func("target.build.llvm")(tvm.IRModule({}), tvm.target.Target("llvm"))
    empty.import_module(built)
    packed = tvm.get_global_func("runtime.ModulePackImportsToTensor")(empty).numpy().tobytes()
    mine = packed_modules([cuda_module(built.inspect_source().encode(), kernels, "cuda")])
    assert mine == packed


def test_facts_are_read_from_the_assemblers_log() -> None:
    log = """ptxas info    : Compiling entry function 'tw_a' for 'sm_90a'
ptxas info    : Function properties for tw_a
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem
ptxas info    : Compiling entry function 'tw_b' for 'sm_90a'
ptxas info    : Function properties for tw_b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers"""
    facts = cuda_compile.parse_facts(log)
    assert facts["tw_a"] == cuda_compile.KernelFacts(40, 20, 16, 128)
    assert facts["tw_b"] == cuda_compile.KernelFacts(12, 0, 0, 0)


def test_nvrtc_takes_over_where_there_is_no_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if cuda_compile.nvrtc_library() is None:
        pytest.skip("NVRTC's wheels are not installed")
    monkeypatch.setattr(cuda_compile, "find_nvcc", lambda: None)
    settings = settings_for("h200")
    output = build_program(plan_model(conv_relu(), settings).program, settings, tmp_path)
    assert all(k["registers"] > 0 for k in output.data["kernels"].values())
    assert output.versions["cuda compiler"].startswith("nvrtc 13.")


def test_without_any_cuda_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compile, "find_nvcc", lambda: None)
    monkeypatch.setattr(cuda_compile, "nvrtc_library", lambda: Path("/nonexistent/libnvrtc.so.13"))
    with pytest.raises(InputError, match=r"tilewright-backends\[cuda\]"):
        cuda_compile.compile_source("", "sm_90a", Path())


def test_refused_source_is_an_internal_error_that_quotes_the_compiler(tmp_path: Path) -> None:
    from tilewright.errors import InternalError

    with pytest.raises(InternalError, match="undefined"):
        cuda_compile.compile_source("__global__ void k() { nonsense(); }", "sm_90a", tmp_path)


@pytest.mark.parametrize("text", ["", "h300", "sm_10"])
def test_unknown_devices_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(InputError, match=r"h200|h100|sm_80"):
        gpus.resolve("cuda", text)


def test_no_code_is_generated_for_a_device_that_can_only_be_planned_for(tmp_path: Path) -> None:
    settings = settings_for("v100")
    program = plan_model(conv_relu(), settings).program
    with pytest.raises(InputError, match="v100"):
        build_program(program, settings, tmp_path)


def test_loading_without_a_driver_says_so(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver")
    settings = settings_for("h200")
    output = build_program(plan_model(conv_relu(), settings).program, settings, tmp_path)
    with pytest.raises(InputError, match="driver"):
        load_cuda(output.library, {}, output.data, target="cuda:h200", threads=1)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_block_builds_for_hopper(name: str, dtype: str, tmp_path: Path) -> None:
    settings = settings_for("h200")
    model = BUILDERS[name]().model
    model = model if dtype == "float32" else narrowed(model, dtype)
    output = build_program(plan_model(model, settings).program, settings, tmp_path)
    assert output.data["kernels"]
