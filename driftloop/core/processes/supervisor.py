"""Supervised child processes: own session, end with the parent, restart with back-off.

A child can have a warm standby: a second process that has imported its modules and waits to replace it. Most of a
scorer's start is imports. See `driftloop.core.processes.warm_standby`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import cache_dir

LAUNCHER = Path(__file__).with_name("launcher.py")

FIRST_DELAY = 0.2
"""Seconds before the first restart. Each further delay is twice as long."""
LONGEST_DELAY = 10.0
"""Maximum seconds before a restart."""
STEADY_AFTER = 10.0
"""Seconds of uptime after which earlier failures of a child no longer increase the restart delay."""
STANDBY_AFTER = 5.0
"""Seconds of uptime after which a child's standby is started, so that it does not slow down the child's start."""
NEXT_STANDBY_AFTER = 2.0
"""The same for a child that was a standby itself, whose start is short."""


class ManagedProcess:
    """One child process, with its output appended to a log.

    The child leads its own session. Ctrl-C in the terminal therefore reaches only the parent, which stops its children
    in an order of its choice. If the parent ends without stopping it, even through ``kill -9``, the child gets SIGTERM.
    Its process group gets SIGKILL ``grace`` seconds later.

    Args:
        name: Name in messages.
        argv: Program and arguments.
        env: Variables added to the environment of this process.
        log: File for standard output and standard error. Its folder is created.
        restart: `poll` starts the child again after it has ended by itself.
        cwd: Working folder. `None`: the folder of this process.
        grace: Seconds between SIGTERM and SIGKILL after the parent's death.
        keep: File descriptors that the child inherits. It also holds a lock on them until it ends.
        warm: Modules that a standby imports. The child must be a ``python -m PROGRAM``.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        restart: bool = False,
        cwd: Path | None = None,
        grace: float = 10.0,
        keep: Sequence[int] = (),
        warm: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.env = dict(env)
        self.log = log
        self.restart = restart
        self.cwd = cwd
        self.grace = grace
        self.keep = tuple(keep)
        self.warm = tuple(warm)
        self.restarts = 0
        """Number of restarts by `poll`."""
        self.exit_code: int | None = None
        """Last exit status, negative for a signal. `None` before the first end."""
        self._launcher: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._standby: _WarmStandby | None = None
        self._started_at = self._standby_at = 0.0
        self._failures = 0
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child. `None` while it is not running."""
        return self._pid

    @property
    def steady(self) -> bool:
        """Return True if the child has run longer than `STEADY_AFTER` since its last start."""
        return time.monotonic() - self._started_at > STEADY_AFTER

    def start(self) -> None:
        """Start the child.

        Raises:
            DriftloopError: The child is running, or the operating system refuses another process.
        """
        if self._launcher is not None:
            raise DriftloopError(f"{self.name} is running already (process {self._pid}).")
        spare, self._standby = self._standby, None
        self._started_at = time.monotonic()
        if spare is not None and spare.take_over():
            self._launcher, self._pid = spare.launcher, spare.pid
            self._standby_at = self._started_at + NEXT_STANDBY_AFTER
        else:
            self._launcher, self._pid = self._launch(self.argv)
            self._standby_at = self._started_at + STANDBY_AFTER
        self._restart_at = None
        self.exit_code = None

    def _launch(self, argv: Sequence[str], *keep: int) -> tuple[subprocess.Popen[bytes], int | None]:
        """Start a launcher. Return it with the process id of its program, which is None if it could not be started."""
        report, write = os.pipe()
        with os.fdopen(report) as stream:
            try:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                with self.log.open("ab") as log:
                    launcher = subprocess.Popen(
                        [sys.executable, "-I", "-S", str(LAUNCHER), str(write), str(self.grace), *argv],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, **bytecode_cache(), **self.env},
                        cwd=self.cwd,
                        pass_fds=(write, *self.keep, *keep),
                        start_new_session=True,
                    )
            except OSError as error:
                raise DriftloopError(f"{self.name} could not be started: {error.strerror or error}.") from error
            finally:
                os.close(write)
            line = stream.readline().strip()
        return launcher, int(line) if line else None

    def poll(self) -> int | None:
        """Return None while the child runs or waits for a restart, otherwise its exit status.

        With ``restart=True`` this method restarts a child that has ended. Call it a few times per second.
        """
        if self._launcher is None:
            if self._restart_at is None:
                return self.exit_code
            if time.monotonic() >= self._restart_at:
                self.restarts += 1
                self.start()
            return None
        code = self._launcher.poll()
        if code is None:
            if self.warm and self.restart and self._standby is None and time.monotonic() > self._standby_at:
                self._standby = self._start_standby()
            return None
        self._on_exit(code)
        if not self.restart:
            return self.exit_code
        self._failures = 1 if self.steady else self._failures + 1
        self._restart_at = time.monotonic() + min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self._failures - 1))
        return None

    def stop(self, timeout: float = 10.0) -> int | None:
        """End the child with SIGTERM, and its process group with SIGKILL after ``timeout`` seconds.

        A second call has no effect.

        Returns:
            The exit status. `None` if the child was never started.
        """
        self._restart_at = None
        if self._standby is not None:
            self._standby.dismiss()
            self._standby = None
        if self._launcher is None:
            return self.exit_code
        self._launcher.send_signal(signal.SIGTERM)
        try:
            code = self._launcher.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._launcher.wait()
        self._on_exit(code)
        return self.exit_code

    def kill(self) -> None:
        """Send SIGKILL to the child's process group."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log, for an error message or a report."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, self.log.stat().st_size - 64_000))
                text = stream.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> ManagedProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start_standby(self) -> _WarmStandby:
        wait, start = os.pipe()
        try:
            program = self.argv.index("-m")
            waiting = ["-m", "driftloop.core.processes.warm_standby", str(wait), ",".join(self.warm)]
            return _WarmStandby(*self._launch([*self.argv[:program], *waiting, *self.argv[program:]], wait), start)
        except BaseException:
            os.close(start)
            raise
        finally:
            os.close(wait)

    def _on_exit(self, code: int) -> None:
        assert self._launcher is not None and self._launcher.stdin is not None  # noqa: S101
        self._launcher.stdin.close()
        if code < 0:
            self.kill()  # the launcher was killed: its child must not outlive it
        self._launcher = None
        self._pid = None
        self.exit_code = 128 - code if code > 128 else code


@dataclass(frozen=True)
class _WarmStandby:
    """Standby process with its launcher and the pipe that starts its program."""

    launcher: subprocess.Popen[bytes]
    pid: int | None
    start_pipe: int

    def take_over(self) -> bool:
        """Start its program. Return False if the process has ended; it is then cleaned up."""
        try:
            started = self.launcher.poll() is None and os.write(self.start_pipe, b"!") == 1
        except BrokenPipeError:
            started = False
        if started:
            os.close(self.start_pipe)
        else:
            self.dismiss()
        return started

    def dismiss(self) -> None:
        """End the standby."""
        os.close(self.start_pipe)
        if self.pid is not None and self.launcher.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.launcher.wait()
        assert self.launcher.stdin is not None  # noqa: S101
        self.launcher.stdin.close()


def bytecode_cache() -> Mapping[str, str]:
    """Return variables with which Python children keep their bytecode in the user cache, if they need it.

    With ``PYTHONDONTWRITEBYTECODE`` set and nothing compiled, every start would compile some 2,500 modules of MLflow,
    pandas and torch again. That takes 8 seconds instead of 3.
    """
    if not os.environ.get("PYTHONDONTWRITEBYTECODE") or os.environ.get("PYTHONPYCACHEPREFIX"):
        return {}
    compiled = getattr(importlib.util.find_spec("numpy"), "cached", None)
    if compiled and Path(compiled).exists():
        return {}
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache_dir() / "bytecode")}


def stop_all(children: Iterable[ManagedProcess], timeout: float = 10.0) -> None:
    """Stop children one after the other.

    Args:
        children: Child processes in the order of their end.
        timeout: Seconds between SIGTERM and SIGKILL for each of them.
    """
    for child in children:
        child.stop(timeout)
