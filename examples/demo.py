"""Compiles ResNet-50 with seeded weights for this CPU, and compares results and speed with ONNX Runtime's.

Each engine runs in a process of its own, in turns, with the same number of threads.
"""

from __future__ import annotations

import sys

from tilewright.bench.run import OURS, Compilation, bench_model
from tilewright.errors import TilewrightError
from tilewright.runtime.threads import thread_count

MODEL = "light:resnet50"


def main() -> int:
    """Prints what was compiled, whether the outputs agree, and both latencies; 1 if they do not agree."""
    threads = thread_count()
    print(f"Compiling {MODEL} (ResNet-50 of the onnx package, random weights from a seed) ...")
    try:
        result = bench_model(MODEL, Compilation(target="cpu", cache=False), threads=threads, seconds=0.5)
    except TilewrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    ours, other = result.engines[OURS], result.engines["onnxruntime"]
    print(f"target         {result.compiled.manifest.target}, {threads} threads")
    print(f"kernels        {result.compiled.manifest.kernels}")
    print(f"compile time   {result.compiled.seconds:.1f} s")
    print(f"agreement      {'yes' if result.agree else 'NO'}: largest relative error {result.worst_error:.1e}")
    print(f"Tilewright     {ours.median * 1e3:.2f} ms")
    print(f"ONNX Runtime   {other.median * 1e3:.2f} ms")
    return 0 if result.agree else 1


if __name__ == "__main__":
    sys.exit(main())
