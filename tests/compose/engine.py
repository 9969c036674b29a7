"""Docker Compose on whatever runs containers here: Docker itself, or Podman behind Docker's client."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class NoEngine(Exception):
    """Nothing here runs containers; the text says what was looked for."""


@dataclass
class Compose:
    """`docker compose` for one project; every call fails with what the command said."""

    command: list[str]
    project: str
    environ: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, timeout: float = 900, check: bool = True) -> str:
        """Run a subcommand, and return its standard output."""
        argv = [*self.command, "-p", self.project, *arguments]
        done = subprocess.run(
            argv, cwd=ROOT, env={**os.environ, **self.environ}, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise AssertionError(
                f"{shlex.join(argv)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"[-6000:]
            )
        return done.stdout

    def docker(self, *arguments: str) -> list[str]:
        """Run a command of the engine, and return the lines of its standard output."""
        environ = {**os.environ, **self.environ}
        done = subprocess.run(["docker", *arguments], env=environ, capture_output=True, text=True, timeout=60)
        return done.stdout.split("\n")[:-1]


@contextlib.contextmanager
def engine(project: str, environ: Mapping[str, str]) -> Iterator[Compose]:
    """Compose with the engine that was found; ``environ`` is what the file's variables get.

    ``DRIFTLOOP_COMPOSE`` names a command to use instead of `docker compose`.

    Raises:
        NoEngine: there is none.
    """
    own = os.environ.get("DRIFTLOOP_COMPOSE")
    if own:
        yield Compose(shlex.split(own), project, dict(environ))
    elif not _runs("docker", "compose", "version"):
        raise NoEngine("`docker compose` is not installed")
    elif _runs("docker", "info"):
        yield Compose(["docker", "compose"], project, dict(environ))
    elif shutil.which("podman") is None:
        raise NoEngine("Docker has no engine here, and Podman is not installed")
    else:
        with _podman(project) as address:
            built_without = {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
            yield Compose(["docker", "compose"], project, {**environ, **built_without, "DOCKER_HOST": address})


@contextlib.contextmanager
def _podman(project: str) -> Iterator[str]:
    """Podman's Docker socket, and its health checks: without systemd nobody else runs those."""
    with tempfile.TemporaryDirectory(prefix="driftloop-podman-") as folder:
        address = f"unix://{folder}/podman.sock"
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stop = threading.Event()
        checks = threading.Thread(target=_check_health, args=(project, stop), daemon=True)
        try:
            deadline = time.monotonic() + 20
            while not Path(folder, "podman.sock").exists():
                if service.poll() is not None or time.monotonic() > deadline:
                    raise NoEngine("Podman's service does not start")
                time.sleep(0.1)
            checks.start()
            yield address
        finally:
            stop.set()
            if checks.is_alive():
                checks.join(35)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(service.pid, signal.SIGTERM)
            service.wait(20)


def _check_health(project: str, stop: threading.Event) -> None:
    label = f"label=com.docker.compose.project={project}"
    while not stop.wait(2):
        listed = subprocess.run(["podman", "ps", "-q", "--filter", label], capture_output=True, text=True)
        for container in listed.stdout.split():
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(["podman", "healthcheck", "run", container], capture_output=True, timeout=30)


def _runs(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
