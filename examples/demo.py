"""Compiles seeded ResNet-50, runs it, and compares it with ONNX Runtime: `make demo`.

The model ships with the onnx package without its weights; they are drawn from a seed here. Each engine runs
in a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import sys

from tilewright.bench.measure import Measured
from tilewright.bench.run import OURS, Compilation, ModelResult, bench_model
from tilewright.errors import TilewrightError
from tilewright.threads import thread_count

REFERENCE = "onnxruntime"


def main() -> int:
    """Runs the demo; 0 if the results agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="light:resnet50", help="a path, or light:NAME")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    threads = thread_count()
    print(f"Compiling {arguments.model} for {arguments.target}, then timing it on {threads} threads …", flush=True)
    try:
        result = bench_model(
            arguments.model,
            Compilation(arguments.target),
            others=(REFERENCE,),
            threads=threads,
            rounds=arguments.rounds,
        )
    except TilewrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report(result)
    return 0 if result.agree else 1


def report(result: ModelResult) -> None:
    """Prints what was found."""
    compiled = result.compiled
    took = "taken from the cache" if compiled.cached else f"{compiled.seconds:.1f} s"
    print(f"target          {compiled.manifest.target}")
    print(f"compile time    {took}, peak memory {compiled.peak_bytes / 2**20:.0f} MiB")
    print(f"kernels         {compiled.manifest.kernels}")
    for agreement in result.agreements:
        verdict = "agrees with ONNX Runtime" if agreement.ok else f"DIFFERS: {agreement.why}"
        print(f"output          {agreement.name}: {verdict}, ‖a-b‖/‖b‖ = {agreement.norm_error:.1e}")
    print(f"Tilewright      {times(result.engines[OURS])}")
    print(f"ONNX Runtime    {times(result.engines[REFERENCE])}")
    print(f"ratio           {result.ratio(REFERENCE):.2f} of ONNX Runtime's time")


def times(measured: Measured) -> str:
    """Median latency, spread and peak memory."""
    milliseconds = f"{measured.median * 1e3:.2f} ms ±{measured.spread:.0%}"
    return f"{milliseconds}, median of {len(measured.samples)}, peak memory {measured.peak_bytes / 2**20:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
