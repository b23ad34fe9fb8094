"""Peers of TVM: the operator of `tvm_twin` scheduled by DLight's rules or by MetaSchedule's search, as a library.

TVM is imported once `environment` has set what it reads then.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.operators.cells import Cell

NAMES = ("tvm-dlight", "tvm-metaschedule")
TRIALS = 64
"""Schedules that MetaSchedule's search measures."""

_BATCH = 32
"""Most trials between which MetaSchedule's model of costs learns and its search runs. TVM's default is 64, with which a
search of 64 would never use what it learned."""
_ROUNDS = 64
"""Rounds of draws without a schedule that runs, after which the second search gives up. TVM's default is 5."""
_FAILED = 1e9  # seconds; MetaSchedule notes 1e10 for what did not run


def environment(threads: int) -> None:
    """Sets what TVM reads from the environment: its threads, nvcc where there is one, and no fast math."""
    import shutil

    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["TVM_CUDA_COMPILE_MODE"] = "nvcc" if shutil.which("nvcc") else "nvrtc"
    os.environ["TVM_CUDA_NVCC_NO_FAST_MATH"] = "1"
    # NVRTC is always given fast math first; of two options the later one counts.
    os.environ["TVM_CUDA_NVRTC_EXTRA_OPTS"] = "--ftz=false --prec-div=true --prec-sqrt=true"


def made(cell: Cell, engine: str, path: Path, target: str, threads: int, trials: int) -> dict[str, Any]:
    """Writes an engine's library of a cell; facts about it, or the error. Tuning needs the device to itself."""
    try:
        import tvm

        from benchmarks.operators.tvm_twin import twin

        function = twin(cell)
        if engine == "tvm-metaschedule" or (target.startswith("cuda") and cell.dtype == "float16"):
            # Both import it themselves, which takes half a minute, once: not part of a cell's time.
            importlib.import_module("tvm.s_tir.tensor_intrin")
        device = tvm_target(target, threads)
        start = time.perf_counter()
        module = tvm.IRModule({"main": function})
        facts: dict[str, Any] = {}
        with device:
            if engine == "tvm-dlight":
                module = _by_rules(module, target)
            else:
                module, facts = _tuned(module, device, threads, trials)
            tvm.compile(module, target=device).export_library(str(path))
    except Exception as error:  # noqa: BLE001 - one cell's failure is a result
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    return {"compile_seconds": time.perf_counter() - start, **facts}


def tvm_target(target: str, threads: int) -> Any:
    """TVM's target for one of ours. A GPU gets the limits of TVM's own description of the H100."""
    from tvm.target import Target

    from tilewright_backends import cpus, gpus

    kind, _, device = target.partition(":")
    if kind == "cpu":
        return Target({"kind": "llvm", "mcpu": cpus.resolve(device), "num-cores": threads})
    limits = {
        "max_threads_per_block": 1024,
        "thread_warp_size": 32,
        "max_shared_memory_per_block": 49152,
        "registers_per_block": 65536,
        "l2_cache_size_bytes": 52428800,
    }
    return Target({"kind": "cuda", "arch": gpus.arch("cuda", device), **limits}, host="llvm")


def _by_rules(module: Any, target: str) -> Any:
    """DLight's rules in the order in which its authors apply them. There are few for CPUs: the rest stays as it is."""
    from tvm.s_tir import dlight

    if target.startswith("cpu"):
        return dlight.ApplyDefaultSchedule(dlight.cpu.GEMV(), dlight.cpu.Reduction())(module)
    names = ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback")
    return dlight.ApplyDefaultSchedule(*(getattr(dlight.gpu, x)() for x in names))(module)


def _tuned(module: Any, device: Any, threads: int, trials: int) -> tuple[Any, dict[str, Any]]:
    """The best schedule of a search, and what the search cost.

    TVM's search gives up when five rounds of 512 draws hold no schedule within the limits of the device before 50 are
    found. Where it measured nothing, a second search draws for longer and starts from the first that it finds.
    Both count in the seconds.
    """
    from tvm.s_tir import meta_schedule

    workers = len(os.sched_getaffinity(0))
    batch = min(trials, _BATCH)
    start = time.perf_counter()
    builder = meta_schedule.builder.LocalBuilder(max_workers=workers, f_build=_build, timeout_sec=120)
    runner = meta_schedule.runner.LocalRunner(f_alloc_argument=_arguments)
    for strategy in ({}, {"init_min_unmeasured": 1, "max_fail_count": _ROUNDS}):
        logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)  # a search sets it to INFO
        with tempfile.TemporaryDirectory(prefix="tilewright-tvm-") as folder:
            database = meta_schedule.tir_integration.tune_tir(
                module,
                device,
                folder,
                max_trials_global=trials,
                num_trials_per_iter=batch,
                builder=builder,
                runner=runner,
                database="memory",
                cost_model=_cost_model(batch, workers),
                strategy=meta_schedule.search_strategy.EvolutionarySearch(**strategy),
                num_tuning_cores=workers,
                seed=0,
            )
        if records := database.get_all_tuning_records():
            break
    seconds = time.perf_counter() - start
    measured = sum(1 for x in records if x.run_secs and float(x.run_secs[0]) < _FAILED)
    if not measured:
        raise RuntimeError(f"MetaSchedule measured none of {len(records)} schedules in {seconds:.0f} s")
    schedule = meta_schedule.tir_integration.compile_tir(database, module, device)
    model = "xgb" if _installed("xgboost") else "random"
    facts = {"trials": len(records), "searches": 2 if strategy else 1, "cost_model": model}
    return schedule.mod, {**tuning_facts(seconds, measured), **facts}


def _cost_model(batch: int, workers: int) -> Any:
    """XGBoost's, TVM's default, from the second batch on: by default its guesses are random before 100 measurements."""
    from tvm.s_tir.meta_schedule import cost_model

    if not _installed("xgboost"):
        return cost_model.RandomModel()
    return cost_model.XGBModel(num_warmup_samples=batch, num_tuning_cores=workers, tree_method="auto")


def tuning_facts(seconds: float, measured: int) -> dict[str, Any]:
    """What `measured` trials cost, and what 1000 would: the seconds of the search over the trials that ran, times 1000.

    The search's seconds hold its own steps, builds, measurements and what was spent on trials that failed.
    """
    per_trial = seconds / measured
    return {"tuning_seconds": seconds, "trials_measured": measured, "seconds_to_1000_trials": 1000 * per_trial}


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _build(module: Any, target: Any, _: Any) -> Any:
    """MetaSchedule's default, less the half minute of its import in each of its processes, which builds do not need."""
    import tvm

    with target:
        return tvm.compile(module, target=target).mod


_filled: dict[str, Any] = {}


def _arguments(device: Any, described: Any, repeats: int) -> Any:
    """MetaSchedule's default, but once for all trials: the host fills a large result as slowly as it fills an input."""
    from tvm.s_tir.meta_schedule.runner.local_runner import default_alloc_argument

    key = f"{device} {described} {repeats}"
    if key not in _filled:
        _filled[key] = default_alloc_argument(device, described, repeats)
    return _filled[key]
