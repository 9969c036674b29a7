"""The supervisor: children live in their own session, are stopped in bounded time and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from driftloop.core.errors import DriftloopError
from driftloop.core.processes import supervisor
from driftloop.core.processes.supervisor import ManagedProcess, stop_all

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ManagedProcess]]:
    made: list[ManagedProcess] = []

    def build(
        code: str, *, name: str = "worker", env: dict[str, str] | None = None, **options: object
    ) -> ManagedProcess:
        log = tmp_path / "logs" / f"{name}.log"
        child = ManagedProcess(name, [sys.executable, "-c", code], env=env or {}, log=log, **options)  # type: ignore[arg-type]
        made.append(child)
        return child

    yield build
    stop_all(made, 0.1)


def test_stop_ends_child_and_clears_pid(make: Callable[..., ManagedProcess]) -> None:
    """Pid is that of the program itself, not of its launcher; a second stop is harmless."""
    child = make("import time; time.sleep(60)")
    child.start()
    pid = child.pid
    assert pid is not None and child.poll() is None
    assert psutil.Process(pid).cmdline()[1:3] == ["-c", "import time; time.sleep(60)"]
    assert child.stop() == -signal.SIGTERM
    assert gone(pid) and child.pid is None
    assert child.stop() == -signal.SIGTERM, "a second stop does no harm"


def test_exit_status_and_output_are_kept(make: Callable[..., ManagedProcess]) -> None:
    child = make("import os, sys; print('said', os.environ['MARK']); sys.stderr.write('and this\\n'); sys.exit(7)",
                 env={"MARK": "x1"})  # fmt: skip
    child.start()
    assert eventually(lambda: child.poll() is not None)
    assert child.poll() == 7
    assert "said x1" in child.log_tail() and "and this" in child.log_tail()
    assert child.restarts == 0


def test_a_signal_is_reported_as_a_negative_status(make: Callable[..., ManagedProcess]) -> None:
    child = make("import time; time.sleep(60)")
    child.start()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert eventually(lambda: child.poll() is not None)
    assert child.poll() == -signal.SIGKILL


def test_child_ignoring_sigterm_is_killed_with_group(make: Callable[..., ManagedProcess]) -> None:
    helper = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    child = make(helper + "print(p.pid, flush=True); " + STUBBORN)
    child.start()
    assert eventually(lambda: "up" in child.log_tail())
    grandchild = int(child.log_tail().splitlines()[0])
    assert child.stop(0.3) == -signal.SIGKILL
    assert eventually(lambda: gone(grandchild))


def test_restarts_with_back_off_until_stopped(make: Callable[..., ManagedProcess]) -> None:
    child = make("print('born', flush=True)", restart=True)
    child.start()
    assert eventually(lambda: child.poll() is not None or child.restarts >= 3)
    assert child.restarts >= 3
    waits = []
    for _ in range(2):
        assert eventually(lambda: child.poll() is None and child.pid is None)
        assert child._restart_at is not None
        waits.append(child._restart_at - time.monotonic())
        before = child.restarts
        assert eventually(lambda: child.poll() is not None or child.restarts > before)  # noqa: B023
    assert waits[1] > waits[0] > 0.2, "every further death waits longer"
    child.stop()
    before = child.restarts
    assert child.poll() is not None and child.poll() is not None
    assert child.restarts == before, "a stopped child stays stopped"


def test_restart_brings_back_a_killed_child(make: Callable[..., ManagedProcess]) -> None:
    child = make("import time; time.sleep(60)", restart=True)
    child.start()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: child.poll() is None and child.restarts == 1 and child.pid is not None)
    assert child.pid != first and gone(first)


def test_missing_program_is_named_in_log(make: Callable[..., ManagedProcess], tmp_path: Path) -> None:
    child = ManagedProcess("ghost", ["no-such-program-here"], env={}, log=tmp_path / "ghost.log")
    child.start()
    assert eventually(lambda: child.poll() is not None)
    assert child.poll() == 127
    assert "no-such-program-here could not be started: No such file or directory" in child.log_tail()


def test_starting_twice_is_refused(make: Callable[..., ManagedProcess]) -> None:
    child = make("import time; time.sleep(60)")
    child.start()
    with pytest.raises(DriftloopError, match="worker is running already"):
        child.start()


def test_missing_working_folder_is_refused(tmp_path: Path) -> None:
    child = ManagedProcess("lost", [sys.executable, "-V"], env={}, log=tmp_path / "l.log", cwd=tmp_path / "missing")
    with pytest.raises(DriftloopError, match="lost could not be started: No such file or directory"):
        child.start()
    assert child.pid is None


def test_child_runs_in_its_own_session(make: Callable[..., ManagedProcess]) -> None:
    """Ctrl-C reaches the parent alone for this reason."""
    child = make("import time; time.sleep(60)")
    child.start()
    assert child.pid is not None
    assert os.getsid(child.pid) == child.pid and os.getpgid(child.pid) != os.getpgid(0)


PARENT = """
import sys, time
from pathlib import Path
from driftloop.core.processes.supervisor import ManagedProcess
child = ManagedProcess("orphan", [sys.executable, "-c", sys.argv[2]], env={}, log=Path(sys.argv[1]), grace=0.5)
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("code", ["import time; time.sleep(60)", STUBBORN], ids=["willing", "stubborn"])
def test_the_death_of_the_parent_ends_the_child(tmp_path: Path, how: signal.Signals, code: str) -> None:
    log = tmp_path / "o.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(log), code], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if code == STUBBORN:
            assert eventually(lambda: "up" in log.read_text())
        launcher = psutil.Process(pid).ppid()
        parent.send_signal(how)
        parent.wait(20)
        assert eventually(lambda: gone(pid)), "the child outlived its parent"
        assert eventually(lambda: gone(launcher)), "the launcher outlived its parent"
    finally:
        parent.kill()
        parent.wait()


def test_the_death_of_the_launcher_ends_the_child(make: Callable[..., ManagedProcess]) -> None:
    child = make("import time; time.sleep(60)")
    child.start()
    pid = child.pid
    assert pid is not None
    psutil.Process(psutil.Process(pid).ppid()).kill()
    assert eventually(lambda: child.poll() is not None)
    assert eventually(lambda: gone(pid))


def counted(folder: Path, **options: object) -> ManagedProcess:
    """A program that says how long its module took to load, which is slow, and lives for a minute."""
    (folder / "heavy.py").write_text("import time; time.sleep(1)")
    (folder / "program.py").write_text(
        "import sys, time; begun = time.monotonic(); import heavy; took = time.monotonic() - begun\n"
        "print(sys.argv[1:], 'loaded' if took > 0.9 else 'was ready', __name__, flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-m", "program", "one", "two"]
    return ManagedProcess("program", argv, env={"PYTHONPATH": str(folder)}, log=folder / "log", cwd=folder, **options)  # type: ignore[arg-type]


def spares(child: ManagedProcess) -> list[psutil.Process]:
    """The processes in waiting, launchers not counted."""
    found = [process for process in psutil.Process().children(recursive=True) if process.pid != child.pid]
    return [process for process in found if "driftloop.core.processes.warm_standby" in process.cmdline()[1:4]]


@pytest.mark.slow
@pytest.mark.parametrize("warm", [("heavy",), ()], ids=["spare", "control"])
def test_standby_replaces_killed_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: tuple[str, ...]) -> None:
    """Control without a standby loads its modules again."""
    monkeypatch.setattr(supervisor, "STANDBY_AFTER", 0.0)
    monkeypatch.setattr(supervisor, "NEXT_STANDBY_AFTER", 0.0)
    child = counted(tmp_path, restart=True, warm=warm)
    child.start()
    try:
        for round_ in range(2):
            assert eventually(lambda n=round_ + 1: child.log.exists() and child.log.read_text().count("two") == n)
            child.poll()
            assert len(spares(child)) == bool(warm)
            time.sleep(1.5)
            child.kill()
            assert eventually(lambda n=round_ + 1: child.poll() is None and child.restarts == n)
            assert child.pid is not None and not gone(child.pid)
        assert eventually(lambda: child.log.read_text().count("two") == 3)
    finally:
        child.stop()
    said = "was ready" if warm else "loaded"
    assert child.log.read_text().splitlines() == [
        "['one', 'two'] loaded __main__", *[f"['one', 'two'] {said} __main__"] * 2
    ]  # fmt: skip
    assert spares(child) == []


def test_dead_standby_does_not_prevent_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New standby is made after the restart, and ends when the child is stopped."""
    monkeypatch.setattr(supervisor, "STANDBY_AFTER", 0.0)
    child = counted(tmp_path, restart=True, warm=("heavy",))
    child.start()
    try:
        child.poll()
        (spare,) = spares(child)
        spare.kill()
        assert eventually(lambda: gone(spare.pid))
        child.kill()
        assert eventually(lambda: child.poll() is None and child.restarts == 1 and "two" in child.log.read_text())
        child.poll()
        (spare,) = spares(child)
    finally:
        child.stop()
    assert gone(spare.pid)
