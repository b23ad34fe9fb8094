"""Runs CUDA recipes under NVIDIA's compute-sanitizer: `python tools/sanitize.py [RECIPE …] [--tool racecheck]`.

Each recipe is checked as the conformance kit does, with a choice for each of a few kernels of its corpus, of different
kinds first, so results are compared too; `--kernels` and `--choices` ask for more. Needs a GPU, and compute-sanitizer
on the path. Exit code 1 if a recipe is not clean under a tool.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys

_FOUND = 9
_CHECK = """
import sys
from tilewright.config.binding import bind
from tilewright.config.loading import load_config
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.corpus import corpus
recipe, target, choices, most = *sys.argv[1:3], *map(int, sys.argv[3:])
registry = Registry()
registry.load()
settings = bind(load_config({"target": target}), registry)
cases = [*corpus("float32"), *corpus("float16")]
report = conformance.check_recipe(recipe, settings, choices, 1, cases, most)
print(f"{recipe}: {report.kernels} kernels, {report.choices} choices, {len(report.failures)} wrong", flush=True)
for failure in report.failures:
    print(failure, flush=True)
sys.exit(bool(report.failures) or not report.choices)
"""


def clean(recipe: str, tool: str, options: argparse.Namespace) -> bool:
    """Whether a recipe's kernels are right, and a tool finds nothing."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(_FOUND), "--target-processes", "all"]
    command += [sys.executable, "-c", _CHECK, recipe, options.target, str(options.choices), str(options.kernels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stdout.write(f"{tool} {recipe}: {'clean' if not done.returncode else 'NOT CLEAN'}\n")
    told = [x for x in done.stdout.splitlines() if done.returncode or "SUMMARY" in x or x.startswith(recipe)]
    sys.stdout.writelines(f"  {x}\n" for x in (*told, *(done.stderr.splitlines() if done.returncode else ())))
    sys.stdout.flush()
    return not done.returncode


def _all_recipes(target: str) -> list[str]:
    from tilewright.compiler import recipes_of
    from tilewright.config.binding import bind
    from tilewright.config.loading import load_config
    from tilewright.plugins.manager import Registry

    registry = Registry()
    registry.load()
    return sorted(recipes_of(bind(load_config({"target": target}), registry)))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", help="names such as cuda.simt; default: all of the target's")
    parser.add_argument("--tool", action="append", choices=["memcheck", "racecheck", "initcheck", "synccheck"])
    parser.add_argument("--target", default="cuda:h200")
    parser.add_argument("--choices", type=int, default=12, help="choices of a recipe, at least one per kernel")
    parser.add_argument("--kernels", type=int, default=12, help="most kernels of the corpus per recipe")
    options = parser.parse_args()
    if shutil.which("compute-sanitizer") is None:
        raise SystemExit("compute-sanitizer is not on the path; it comes with the CUDA toolkit.")
    recipes = options.recipes or _all_recipes(options.target)
    found = [clean(recipe, tool, options) for recipe in recipes for tool in options.tool or ["memcheck", "racecheck"]]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
