"""Process between a parent and its child that ends the child when the parent dies for any reason.

`driftloop.core.processes.supervisor.ManagedProcess` runs it as a script:
``launcher.py REPORT_FD GRACE PROGRAM ARGUMENTS...``. It imports only the standard library, so that it starts in some
20 ms and stays small. Its standard input is a pipe that only the parent holds open. End of file means that the parent
is gone, on every POSIX system. On Linux the kernel also ends the child if this launcher is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def main(run: Callable[[list[str]], object] | None = None) -> int:
    """Start the program in its own session, report its pid, wait for its end and return its exit status.

    Args:
        run: Function that becomes the program in the forked child. `None`: the program is executed.
    """
    report, grace, argv = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(report, False)
    parent = os.getppid()
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: signals.append(received))
    signal.signal(signal.SIGCHLD, lambda _received, _frame: None)

    child = _spawn(argv, run or _execute)
    os.write(report, f"{child}\n".encode())
    os.close(report)
    deadline: float | None = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _kill_group(child)
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([woken] if deadline else [woken, 0], [], [], 0.5)
        if woken in readable:
            os.read(woken, 512)
        orphaned = deadline is None and (os.getppid() != parent or (0 in readable and not os.read(0, 1)))
        if signals or orphaned:
            signals.clear()
            _signal(child, signal.SIGTERM)
        if orphaned:
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() > deadline:
            _kill_group(child)


def _spawn(argv: list[str], run: Callable[[list[str]], object]) -> int:
    launcher = os.getpid()
    running, starting = os.pipe()
    child = os.fork()
    if child:
        os.close(starting)
        os.read(running, 1)  # end of file when the program runs and can be signalled
        os.close(running)
        return child
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _die_with(launcher)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if run is not _execute:
            os.close(starting)  # an executed program has closed it
        run(argv)
    except OSError as error:
        os.write(2, f"{argv[0]} could not be started: {error.strerror}\n".encode())
    os._exit(127)


def _execute(argv: list[str]) -> None:
    os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - the argument list is the supervisor's own


def _die_with(launcher: int) -> None:
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:  # it died before the request
        os._exit(127)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    # Report a signal as shells do.
    sys.exit(code if code >= 0 else 128 - code)
