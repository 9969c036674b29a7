"""The sandbox: whatever a fit does, there is an answer, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from driftloop.core.models.bundle import Lineage, load_bundle
from driftloop.core.settings import ModelSettings
from retrain.candidates.base import Budget, Task
from retrain.fitting import sandbox
from retrain.fitting.child_process import NICENESS
from retrain.fitting.sandbox import FitResult
from tests import tiny

LINEAGE = Lineage(candidate="test", trigger="alert-9", rows=60)
REASONS = {
    "Quick": "",
    "Segfault": "its process crashed with SIGSEGV",
    "Killed": "its process was killed by the system, most likely for want of memory",
    "OutOfMemory": "it ran out of memory",
    "Quits": "its process ended with status 3: a last word",
    "Refuses": "all 9 labels are 'a'",
    "CutOff": "the cluster was lost; the best so far was kept",
    "Blunders": "it failed with ZeroDivisionError: division by zero",
    "CannotDownload": "The encoder x could not be loaded: give a folder.",
    "Missing": "tests.misbehaving:Missing cannot be used",
    "Forges": "is not signed with this key",
    "Sleeper": "stopped at its limit of",
    "SleeperWithBest": "the best so far was kept",
    "SleeperAfterBundle": "stopped at its limit of",
}


def task(folder: Path, seconds: float = 60.0, seed: int = 7) -> Task:
    model = ModelSettings(max_tokens=tiny.MAX_TOKENS)
    return Task(
        budget=Budget(seconds, 1, seed),
        model=model,
        lineage=LINEAGE,
        signing_key=tiny.KEY,
        scratch=folder / "scratch",
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="module")
def progress() -> list[str]:
    return []


@pytest.fixture(scope="module")
def ends(root: Path, progress: list[str]) -> dict[str, FitResult]:
    """Every candidate's end. They run side by side, because a process takes seconds to start."""
    window = tiny.window(60)

    def run(name: str) -> FitResult:
        # The sleepers need time to start and leave their process ids; the others would take all that they get.
        seconds = 15.0 if name.startswith("Sleeper") else 120.0
        said = progress.append if name == "Quick" else None
        folder = root / name
        return sandbox.run(f"tests.misbehaving:{name}", window, task(folder, seconds), folder, progress=said)

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(REASONS, pool.map(run, REASONS), strict=True))


@pytest.mark.parametrize("name", REASONS)
def test_every_fit_result_has_its_reason(ends: dict[str, FitResult], name: str) -> None:
    assert REASONS[name] in ends[name].reason
    assert bool(ends[name].reason) == bool(REASONS[name])
    assert "Traceback" not in ends[name].reason
    assert ends[name].seconds > 0


def test_only_complete_bundles_are_returned(ends: dict[str, FitResult]) -> None:
    complete = {"Quick", "CutOff", "SleeperWithBest", "SleeperAfterBundle"}
    assert {name for name, end in ends.items() if end.bundle} == complete
    for name in complete:
        bundle = ends[name].bundle
        assert bundle is not None
        assert load_bundle(bundle, tiny.KEY).labels == tiny.LABELS


def test_only_sleeping_candidates_overrun(ends: dict[str, FitResult]) -> None:
    overran = {name for name, end in ends.items() if end.overran}
    assert overran == {name for name in REASONS if name.startswith("Sleeper")}


def test_child_has_lower_priority_and_reports_progress(ends: dict[str, FitResult], progress: list[str]) -> None:
    assert ends["Quick"].bundle is not None
    assert progress == [f"niceness {min(os.nice(0) + NICENESS, 19)}"]


def test_slow_candidate_gets_lowest_priority(tmp_path: Path) -> None:
    said: list[str] = []
    end = sandbox.run("tests.misbehaving:Slow", tiny.window(60), task(tmp_path), tmp_path, progress=said.append)
    assert end.bundle is not None
    assert said[-1] == "niceness 19"
    if Path("/proc/self/autogroup").exists():  # otherwise the niceness would count within its session only
        assert said[0] == "nice 19"


def test_stopped_fit_leaves_no_process_running(ends: dict[str, FitResult], root: Path) -> None:
    for name in ("Sleeper", "SleeperWithBest"):
        assert ends[name].overran
        assert_gone(three(root / name / "scratch" / "pids"))


def test_the_signing_key_is_not_on_disk(ends: dict[str, FitResult], root: Path) -> None:
    assert ends["Quick"].bundle is not None
    files = [path for path in (root / "Quick").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if tiny.KEY.encode() in path.read_bytes()]


def test_unknown_candidate_is_named_in_reason(tmp_path: Path) -> None:
    end = sandbox.run("gradient-wizard", tiny.window(30), task(tmp_path), tmp_path)
    assert end.bundle is None
    assert "no candidate gradient-wizard" in end.reason


def test_unwritable_folder_is_reported_as_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    end = sandbox.run("linear", tiny.window(30), task(tmp_path / "file"), tmp_path / "file")
    assert end.bundle is None
    assert "the window could not be written" in end.reason


def test_a_cancelled_fit_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "scratch" / "pids"
    end = sandbox.run(
        "tests.misbehaving:SleeperWithBest",
        tiny.window(30),
        task(tmp_path, 120, seed=1),
        tmp_path,
        cancel=lambda: "the worker is stopping" if pids.exists() else None,
    )
    assert (end.bundle, end.reason, end.overran) == (None, "the worker is stopping", False)
    assert_gone(three(pids))


@pytest.mark.slow
def test_cancelled_fit_also_ends_its_rescue(tmp_path: Path) -> None:
    """A new drift once waited for the best of a search that it had ended."""
    rescuing = tmp_path / "scratch" / "rescuing"

    def run(cancel: sandbox.Cancel) -> sandbox.FitResult:
        rescuing.unlink(missing_ok=True)
        name = "tests.misbehaving:SleeperWithSlowRescue"
        return sandbox.run(name, tiny.window(30), task(tmp_path, 3), tmp_path, grace=0.0, cancel=cancel)

    control = run(lambda: None)
    assert control.bundle is not None and control.reason == "stopped at its limit of 3 s; the best so far was kept"
    end = run(lambda: "superseded" if rescuing.exists() else None)
    assert (end.bundle, end.reason) == (None, "superseded") and rescuing.exists()


def test_fork_server_is_shared_and_ends_with_parent() -> None:
    code = (
        "import os\nfrom multiprocessing import forkserver\nfrom retrain.fitting import sandbox\n"
        "sandbox.start_fork_server(); first = forkserver._forkserver._forkserver_pid\n"
        "sandbox.start_fork_server(); print(first, forkserver._forkserver._forkserver_pid, flush=True); os._exit(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    first, second = map(int, done.stdout.split())
    assert first == second
    assert_gone([first])


@pytest.mark.slow
def test_dying_fork_server_is_started_again(tmp_path: Path) -> None:
    """Server dies while a child process is requested from it."""
    window = tiny.window(30)
    sandbox.start_fork_server()
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    threading.Timer(3.0, os.kill, (server, signal.SIGKILL)).start()
    assert sandbox.run("tests.misbehaving:Quick", window, task(tmp_path), tmp_path).bundle is not None


def test_starting_fork_server_keeps_environment_unchanged() -> None:
    before = dict(os.environ)
    sandbox.start_fork_server()
    assert os.environ == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_child_dies_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        # A shell that starts the tests in the background has them, and all below them, ignore SIGINT.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); folder = Path(sys.argv[1])\n"
        "from retrain.fitting import sandbox; from retrain.training_window import TrainingWindow\n"
        "from test_sandbox import task\n"
        "sandbox.run('tests.misbehaving:Sleeper', TrainingWindow.load(folder / 'in'), task(folder, 600), folder)"
    )
    tiny.window(30).save(tmp_path / "in")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        env=os.environ | {"PYTHONPATH": str(Path(tiny.__file__).parent.parent)},
        stderr=subprocess.DEVNULL,
    )
    pids = tmp_path / "scratch" / "pids"
    try:
        patience = time.monotonic() + 120
        while not pids.exists() and parent.poll() is None and time.monotonic() < patience:
            time.sleep(0.1)
        parent.send_signal(number)
        assert parent.wait(30) != 0
    finally:
        parent.kill()
        parent.wait()
    assert_gone(three(pids))


def three(file: Path) -> list[int]:
    """The process ids that the sleeper wrote: its own, and its two children's."""
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 3
    return pids


def assert_gone(pids: list[int]) -> None:
    """The processes end; they are given a while, because the system takes one."""
    patience = time.monotonic() + 30
    while alive := [pid for pid in pids if _running(pid)]:
        assert time.monotonic() < patience, f"{alive} of {pids} are still running"
        time.sleep(0.05)


def _running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
