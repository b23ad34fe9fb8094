"""What the CUDA runtime is relied upon for, on a device: host control, read-back, graphs, grid barriers, C++."""

from __future__ import annotations

import ctypes
import logging
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
import pytest
import tvm
import tvm_ffi
from onnx import TensorProto, helper, numpy_helper
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx import op as tir_op

import tilewright
from tilewright.compiler import build_program, plan_model
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.ir.expr import const
from tilewright.ir.ops import value
from tilewright.ir.program import HostCopy, HostIf, HostLoop, HostStep, Program
from tilewright.plugins.manager import Registry
from tilewright.runtime import immediate
from tilewright_backends.build.cuda.builder import host_module, link
from tilewright_backends.build.cuda.compile import compile_source, find_nvcc
from tilewright_backends.build.cuda.library import cuda_module, packed_modules
from tilewright_backends.build.cuda.source import DeviceKernel
from tilewright_backends.device_weights import SHARED
from tilewright_backends.load_cuda import CudaProgram

SHAPE = (64, 33)
_log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def settings() -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": "cuda:h200"}), registry)


def halving() -> onnx.ModelProto:
    """`y = x / 2` and whether the sum of its elements is above 1."""
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "one"], ["go"]),
    ]
    constants = [numpy_helper.from_array(np.float32(v), n) for n, v in (("half", 0.5), ("one", 1.0))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "halving", [x], [y, go], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def controlled(settings: Settings, control: str) -> Program:
    """The halving model under control of the host that its own planner would not make."""
    program = plan_model(halving(), settings).program
    launches = program.body
    x, (y, go) = program.inputs[0].name, (v.name for v in program.outputs)
    again: tuple[HostStep, ...] = (HostCopy(y, x), *launches)
    body = {
        "while": (*launches, HostLoop("i", const(1000), go, again)),
        "for": (*launches, HostLoop("i", const(99), "", again)),
        "if": (*launches, HostIf(go, again, ())),
    }[control]
    return attrs.evolve(program, body=body)


def halvings(array: Any, control: str) -> int:
    """How often NumPy would halve."""
    if control == "for":
        return 100
    total, times = float(array.astype(np.float64).sum()) / 2, 1
    while total > 1 and (control == "while" or times < 2):
        total, times = total / 2, times + 1
    return times


@pytest.mark.parametrize("control", ["while", "for", "if"])
def test_a_host_program_with_control_builds(control: str, settings: Settings, tmp_path: Path) -> None:
    program = controlled(settings, control)
    output = build_program(program, settings, tmp_path)
    assert output.data["capturable"] == (control == "for")
    symbols = subprocess.run(["nm", "-D", output.library], capture_output=True, text=True, check=True).stdout
    assert ("U cudaMemcpyAsync" in symbols) == (control != "for")


@pytest.mark.gpu
@pytest.mark.parametrize("control", ["while", "for", "if"])
def test_the_host_program_decides(control: str, settings: Settings) -> None:
    """Several runs of one loaded program: as a function, and where values do not decide, as a replayed graph."""
    program = controlled(settings, control)
    rng = np.random.default_rng(0)
    with immediate.loaded(program, settings) as native:
        for scale in (1.0, 1e-6, 30.0):
            array = (scale * (1 + rng.random(SHAPE))).astype(np.float32)
            outputs = [immediate.poisoned(v.static_shape(), v.dtype) for v in program.outputs]
            native.run([array], outputs)
            times = halvings(array, control)
            assert np.array_equal(outputs[0], array * np.float32(0.5) ** times)
            assert outputs[1] == (outputs[0].astype(np.float64).sum() > 1)


@pytest.mark.gpu
def test_three_hundred_launches_of_one_function_replay_as_a_graph(settings: Settings) -> None:
    program = plan_model(halving(), settings).program
    x, y = program.inputs[0].name, program.outputs[0].name
    again: tuple[HostStep, ...] = (*program.body, HostCopy(y, x))
    program = attrs.evolve(program, body=tuple(again * 100)[:-1])
    assert len(program.body) >= 300 - 1
    array = np.random.default_rng(0).random(SHAPE, np.float32)
    with immediate.loaded(program, settings) as native:
        for _ in range(3):
            outputs = [immediate.poisoned(v.static_shape(), v.dtype) for v in program.outputs]
            native.run([array], outputs)
            assert np.array_equal(outputs[0], array * np.float32(0.5) ** 100)
        seconds = sorted(native.measure(20))[10]
    _log.info("%d launches: %.1f µs", len(program.body), seconds * 1e6)


BARRIER = """
extern "C" __global__ void __launch_bounds__(256) tw_rounds(float* x, unsigned int* arrived) {
  for (int round = 0; round < 8; ++round) {
    const float other = ((volatile float*)x)[((blockIdx.x + 1) % gridDim.x) * blockDim.x + threadIdx.x];
    for (int half = 0; half < 2; ++half) {
      if (half) x[blockIdx.x * blockDim.x + threadIdx.x] = other + 1.0f;
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        const unsigned int goal = (2 * round + half + 1) * gridDim.x;
        atomicAdd(arrived, 1u);
        while (atomicAdd(arrived, 0u) < goal) {}
        __threadfence();
      }
      __syncthreads();
    }
  }
}
extern "C" __global__ void tw_clear(unsigned int* arrived) { *arrived = 0; }
"""
BLOCKS = 132


def barrier_library(folder: Path) -> Path:
    """A library whose host function clears a counter and then launches a kernel with grid barriers cooperatively."""
    x, arrived = value("x", "float32", (BLOCKS * 256,)), value("arrived", "int32", (1,))
    rounds = DeviceKernel("tw_rounds", (x, arrived), BLOCKS, 256, 0, True, None)
    clear = DeviceKernel("tw_clear", (arrived,), 1, 1, 0, False, None)
    table = tirx.Var("table", PointerType(PrimType("uint64")))
    cells = tirx.decl_buffer((2,), "uint64", "addresses", data=table, layout=None)

    def pointer(number: int, dtype: str) -> Any:
        return tirx.reinterpret(PointerType(PrimType(dtype)), tirx.BufferLoad(cells, [tirx.const(number, "int32")]))

    def launch(kernel: DeviceKernel, *args: Any) -> Any:
        sizes = [tirx.const(kernel.grid, "int32"), tirx.const(kernel.block, "int32")]
        return tirx.Evaluate(tir_op.call_ffi_kernel(kernel.name, *args, *sizes, launch_params=kernel.launch_tags))

    statements = [
        tirx.DeclBuffer(cells, data=table),
        launch(clear, pointer(1, "int32")),
        launch(rounds, pointer(0, "float32"), pointer(1, "int32")),
    ]
    function = tirx.PrimFunc([table], tirx.SeqStmt(statements)).with_attr("global_symbol", "main")
    compiled = compile_source(BARRIER, "sm_90a", folder)
    path = folder / "library.so"
    link(host_module(function), packed_modules([cuda_module(compiled.cubin, [rounds, clear])]), path, folder)
    return path


def test_a_cooperative_kernel_builds(tmp_path: Path) -> None:
    assert barrier_library(tmp_path).exists()


@pytest.mark.gpu
def test_cooperative_launches_run_and_replay_in_a_graph(tmp_path: Path) -> None:
    """Eight rounds in which each block takes its neighbour's numbers plus 1, a barrier before and after each write."""
    size = BLOCKS * 256
    data = {
        "entry": "main",
        "arch": "sm_90a",
        "capturable": True,
        "buffers": [["x", "weight", 4 * size], ["arrived", "workspace", 4]],
        "kernels": {},
    }
    start = np.random.default_rng(0).random(size, np.float32)
    program = CudaProgram(barrier_library(tmp_path), {"x": start}, data)
    x = program._table.addresses[0]
    result = np.full(size, np.nan, np.float32)
    wanted = start.reshape(BLOCKS, 256)
    for _ in range(4):
        program.launch()
        download(program, int(x), result)
        for _ in range(8):
            wanted = np.roll(wanted, -1, axis=0) + np.float32(1)
        assert np.array_equal(result.reshape(wanted.shape), wanted)
    seconds = sorted(program.measure(20))[10]
    _log.info("two launches, one cooperative with 16 grid barriers, in a graph: %.1f µs", seconds * 1e6)
    program.close()


def download(program: CudaProgram, address: int, into: Any) -> None:
    cuda = program._cuda
    cuda("cudaStreamSynchronize", program._stream)
    cuda("cudaMemcpy", ctypes.c_void_p(into.ctypes.data), ctypes.c_void_p(address), ctypes.c_size_t(into.nbytes), 2)


MAIN = r"""
#include <cuda_runtime.h>
#include <cstdint>
#include <cstdio>
#include <vector>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
// Arguments: library, number of the output, for each buffer its bytes and the file that fills it, or "-".
int main(int argc, char** argv) {
  std::vector<uint64_t> table;
  std::vector<uint64_t> sizes;
  uint64_t bytes = 0;
  for (int i = 3; i + 1 < argc; i += 2) {
    void* pointer = nullptr;
    if (sscanf(argv[i], "%lu", &bytes) != 1 || cudaMalloc(&pointer, bytes + 256) != cudaSuccess) return 1;
    if (argv[i + 1][0] != '-') {
      std::vector<char> data(bytes);
      FILE* file = fopen(argv[i + 1], "rb");
      if (file == nullptr || fread(data.data(), 1, bytes, file) != bytes) return 2;
      fclose(file);
      if (cudaMemcpy(pointer, data.data(), bytes, cudaMemcpyHostToDevice) != cudaSuccess) return 3;
    }
    table.push_back(reinterpret_cast<uint64_t>(pointer));
    sizes.push_back(bytes);
  }
  auto module = tvm::ffi::Module::LoadFromFile(argv[1]);
  module->GetFunction("main").value()(static_cast<void*>(table.data()));
  const int output = argv[2][0] - '0';
  std::vector<float> result(sizes[output] / 4);
  const void* from = reinterpret_cast<const void*>(table[output]);
  if (cudaMemcpy(result.data(), from, sizes[output], cudaMemcpyDeviceToHost) != cudaSuccess) return 4;
  for (float x : result) printf("%.9g\n", x);
}
"""


def cuda_toolkit() -> Path | None:
    """Where nvcc says that it lies: the one on the PATH may be a script."""
    nvcc = find_nvcc()
    if nvcc is None:
        return None
    said = subprocess.run([nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True, check=False)
    found = re.search(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)
    top = Path(found.group(1).strip()) if found else None
    return top if top is not None and (top / "include" / "cuda_runtime.h").exists() else None


def cpp_loader(folder: Path, cuda: Path) -> Path:
    """A C++ program that loads a library with TVM's runtime libraries alone. `cuda` is the toolkit's folder."""
    source, binary = folder / "main.cc", folder / "main"
    source.write_text(MAIN, encoding="utf-8")
    ffi = Path(tvm_ffi.__file__).parent
    runtime = Path(str(tvm.__file__)).parent / "lib"
    folders = [ffi / "lib", runtime, cuda / "lib64"]
    command = ["g++", "-std=c++17", "-O1", f"-I{ffi / 'include'}", f"-I{cuda / 'include'}", str(source)]
    command += [x for folder in folders for x in (f"-L{folder}", f"-Wl,-rpath,{folder}")]
    command += [
        "-Wl,--no-as-needed,--allow-shlib-undefined",
        "-ltvm_ffi",
        "-ltvm_runtime",
        "-ltvm_runtime_cuda",
        "-lcudart",
    ]
    done = subprocess.run([*command, "-o", str(binary)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return binary


def run_cpp(binary: Path, arguments: Sequence[str]) -> list[float]:
    done = subprocess.run([str(binary), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return [float(line) for line in done.stdout.split()]


@pytest.mark.gpu
def test_a_cpp_program_loads_and_runs_a_library(settings: Settings, tmp_path: Path) -> None:
    toolkit = cuda_toolkit()
    if toolkit is None:
        pytest.skip("the C++ program is built with the headers of CUDA's toolkit, and none was found")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((48, 40)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (32, 48))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (32, 40))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    output = build_program(plan_model(model, settings).program, settings, tmp_path)
    array = rng.standard_normal((32, 48)).astype(np.float32)
    contents = {w.name: np.ascontiguousarray(w.load()) for w in output.weights}
    buffers = output.data["buffers"]
    arguments = [str(output.library), str([kind for _, kind, _ in buffers].index("output"))]
    for number, (name, kind, size) in enumerate(buffers):
        data = array if kind == "input" else contents.get(name)
        file = tmp_path / f"{number}.bin"
        if data is not None:
            file.write_bytes(data.tobytes().ljust(size, b"\0"))
        arguments += [str(size), "-" if data is None else str(file)]
    found = np.array(run_cpp(cpp_loader(tmp_path, toolkit), arguments))
    wanted = np.maximum(array.astype(np.float64) @ weight, 0)
    assert np.linalg.norm(found.reshape(wanted.shape) - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.gpu
def test_variants_agree_and_share_their_weights_on_the_device() -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_normal((64, 96)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", k]) for n, k in (("x", 64), ("y", 96)))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "dense", [x], [y], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    before = set(SHARED._copies)
    with tilewright.compile(model, "cuda:h200", shapes={"rows": [5, 128]}, cache=False) as program:
        for rows in (5, 128, 5):
            given = rng.standard_normal((rows, 64)).astype(np.float32)
            (found,) = program.run(None, {"x": given})
            np.testing.assert_allclose(found, given.astype(np.float64) @ w, rtol=1e-3, atol=1e-3)
        stored = {name for variant in program.manifest.variants for name in variant.weights.values()}
        assert len(SHARED._copies.keys() - before) == len(stored)
    assert set(SHARED._copies) == before
