"""Fork server: processes of the loop that start without importing anything.

A scorer's imports take four to five seconds of a core, and the tests start some 160 processes. The server has imported
them once. Each process is then a fork of it, below a launcher as `driftloop.core.processes.supervisor` has it, so that
signals, restarts and exit statuses are those of a process that was started afresh.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from driftloop.core.processes import launcher
from driftloop.core.processes.supervisor import ManagedProcess, bytecode_cache

MODULES = (
    "stream_processors.scoring.scorer",
    "stream_processors.monitoring.monitor",
    "retrain.worker",
    "producers.replay",
    "producers.scenarios.scenarios",
    "driftloop.cli.main",
    "benchmarks.harness.stub_model",
)
"""Modules that the server imports, those of the four roles."""


class ForkServer:
    """A process that has imported `MODULES` and forks on request. Use it as a context manager.

    Raises:
        OSError: The server does not start or has ended.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fork-server-")
        self._address = str(Path(self._folder.name) / "socket")
        # The server ends when this pipe is closed, however its parent ends.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.fork_server", self._address],
            stdin=subprocess.PIPE,
            env={**os.environ, **bytecode_cache()},
        )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server. Processes that it has forked end too, as their launchers lose their parent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    def fork(self, order: dict[str, Any], descriptors: Sequence[int]) -> socket.socket:
        """Fork a launcher.

        Args:
            order: Program, variables, folder and grace of the process, as `_Launcher` reads them.
            descriptors: Standard input, the log and the end of the pipe on which the launcher reports.

        Returns:
            A connection with the launcher's process id in its first line and its exit status in the second.
        """
        connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                connection.connect(self._address)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if self._process.poll() is not None:
                    raise OSError(f"the fork server ended with status {self._process.returncode}") from None
                time.sleep(0.05)
        body = json.dumps(order).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        connection.sendmsg([len(body).to_bytes(8, "big") + body], [rights])
        return connection


class _Launcher:
    """The part of `subprocess.Popen` that `ManagedProcess` uses, for a launcher that another process has forked."""

    def __init__(self, connection: socket.socket, stdin: int) -> None:
        self._lines = connection.makefile("r")
        self._connection = connection
        self.pid = int(self._lines.readline())
        self.stdin = os.fdopen(stdin, "wb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait up to ``timeout`` seconds and return the exit status.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked launcher", timeout or 0)
            line = self._lines.readline()
            self.returncode = int(line) if line else -signal.SIGKILL  # the server itself was ended
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the launcher, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class ForkedProcess(ManagedProcess):
    """A ``python -m MODULE ARGUMENTS...`` that starts as a fork of a server."""

    server: ForkServer

    def _launch(self, argv: Sequence[str], *keep: int) -> tuple[Any, int | None]:
        assert not keep and not self.keep, "a forked process inherits no descriptors"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        read, write = os.pipe()
        stdin, give = os.pipe()
        with self.log.open("ab") as log, os.fdopen(read) as report:
            order = {
                "module": argv[argv.index("-m") + 1 :],
                "env": {**os.environ, **bytecode_cache(), **self.env},
                "cwd": str(self.cwd or Path.cwd()),
                "grace": self.grace,
            }
            try:
                connection = self.server.fork(order, [stdin, log.fileno(), write])
            finally:
                os.close(stdin)
                os.close(write)
            found = _Launcher(connection, give)
            line = report.readline().strip()
        return found, int(line) if line else None


def main() -> None:
    """Import, then fork for each connection until standard input ends."""
    for module in MODULES:
        import_module(module)
    gc.collect()
    gc.freeze()
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests' to answer
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{sys.argv[1]}.new")
        server.listen(64)
        Path(f"{sys.argv[1]}.new").rename(sys.argv[1])
        waiting: dict[int, socket.socket] = {}
        while True:
            readable, _, _ = select.select([server.fileno(), woken, 0], [], [])
            if 0 in readable and not os.read(0, 1):
                return
            if woken in readable:
                os.read(woken, 512)
                _report(waiting)
            if server.fileno() in readable:
                connection, _ = server.accept()
                pid = _fork(server, connection, list(waiting.values()))
                connection.sendall(f"{pid}\n".encode())
                waiting[pid] = connection


def _report(waiting: dict[int, socket.socket]) -> None:
    """Send the exit status of each launcher that has ended."""
    while waiting:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = waiting.pop(pid)
        with contextlib.suppress(OSError), connection:
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _fork(server: socket.socket, connection: socket.socket, others: Sequence[socket.socket]) -> int:
    """Fork a launcher for one connection and return its process id."""
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    (_, _, data), *_ = ancillary
    stdin, log, report = array.array("i", data)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    order = json.loads(body)
    pid = os.fork()
    if pid:
        for descriptor in (stdin, log, report):
            os.close(descriptor)
        return pid
    code = 127
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for other in (server, connection, *others):
            other.close()
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(stdin)
        os.close(log)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        sys.argv = ["launcher", str(report), str(order["grace"]), *order["module"]]
        code = launcher.main(_become)
        code = code if code >= 0 else 128 - code
    finally:
        os._exit(code)
    raise AssertionError("not reached")


def _become(argv: Sequence[str]) -> None:
    """Run a module as the program of this process, and end with its exit status, as an interpreter does."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    module, *arguments = argv
    sys.argv = [module, *arguments]
    code: Any = 0
    try:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code or 0)


if __name__ == "__main__":
    main()
