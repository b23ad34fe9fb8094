"""What every test shares: hypothesis profiles, a private cache, golden files, and that a run proves something."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: on a shared machine the time of one example says nothing about the code.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
settings.register_profile(
    "thorough", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write golden files instead of comparing with them"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `sampled(n)` each n-th case is in the default tier; of the others each third is slow.

    The rest is full. Of one marked `slow(every=n)` each n-th case is slow, the others are full.
    """
    seen: Counter[str] = Counter()
    for item in items:
        sampled, slow = item.get_closest_marker("sampled"), item.get_closest_marker("slow")
        if item.get_closest_marker("gpu") or (sampled is None and slow is None):
            continue
        function = item.nodeid.partition("[")[0]
        number = seen[function]
        seen[function] += 1
        if sampled is not None:
            turn, later = divmod(number, sampled.args[0])
            if later:
                others = turn * (sampled.args[0] - 1) + later - 1
                item.add_marker(pytest.mark.full if others % 3 else pytest.mark.slow)
        elif slow is not None and number % slow.kwargs.get("every", 1):
            item.add_marker(pytest.mark.full)


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Points cache and calibrations at folders of this run, so that no test reads or fills the user's."""
    folder = tmp_path_factory.mktemp("cache", numbered=False)
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEWRIGHT_CACHE", str(folder))
        patch.setenv("TILEWRIGHT_CONFIG", str(folder.with_name("config")))
        yield folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares `text` with the file `golden/<name>` beside the test's file."""
    folder = request.path.parent / "golden"
    update: bool = request.config.getoption("--update-golden")

    def compare(name: str, text: str) -> None:
        path = folder / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if not path.is_file():
            pytest.fail(f"{path} is missing; write it with: pytest --update-golden {request.node.nodeid}")
        assert text == path.read_text(encoding="utf-8"), f"{path} differs; accept with --update-golden"

    return compare


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which every test was skipped has proved nothing, so it is not a success."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.config.option.collectonly or exitstatus != pytest.ExitCode.OK:
        return
    if not any(reporter.stats.get(outcome) for outcome in ("passed", "xfailed")):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
