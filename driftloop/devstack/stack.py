"""Kafka, Valkey and MLflow side by side under one folder: started together, stopped together, resumable."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.acls import ADMIN
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import KafkaSecurity, Settings
from driftloop.devstack import kafka_broker, mlflow_process, valkey_process
from driftloop.devstack.credentials import Credentials
from driftloop.devstack.java import find_java
from driftloop.devstack.kafka_download import Progress, kafka_classpath
from driftloop.devstack.ports import HOST, choose, is_free

SERVICES = ("kafka", "valkey", "mlflow")
PORTS = ("kafka", "controller", "valkey", "mlflow")
MINIMUM_FREE = 500 * 2**20
"""Bytes that must be free under the run directory before anything is started."""
FULL = 20 * 2**20
"""Free bytes below which a service that does not start is taken to have found no room."""
PATIENCE = 60.0
"""Seconds a service may take until it answers."""


@dataclass
class _Service:
    child: ManagedProcess
    ready: Callable[[], bool]
    ports: tuple[int, ...]
    after: Callable[[], None] = lambda: None
    seconds: float = 0.0


class EmbeddedStack:
    """A Kafka broker, a Valkey server and an MLflow server, each a child process on a loopback port.

    All data lie under ``root`` (``kafka``, ``valkey``, ``mlflow``, ``logs``, and ``stack.json`` with the ports), so a
    later stack on the same root, after a clean stop or a ``kill -9``, has the same topics, keys and models.

    Args:
        root: the run directory; made when missing.
        progress: gets one line for each step.
        ports: wanted ports by name (`PORTS`); the others are those used last time, or free ones.
        minimum_free: bytes that must be free under ``root``.
        secured: whether Kafka speaks TLS, wants a password and lets each role do only what `driftloop.core.kafka.acls` says, and
            Valkey knows one user that may touch the loop's keys alone. The passwords lie under ``root/secrets``. MLflow
            cannot tell its clients apart: it stays open to this machine's users.
        advertised: the port to which Kafka sends its clients, of a proxy before it; 0 for its own.
    """

    def __init__(
        self,
        root: Path,
        *,
        progress: Progress = lambda _line: None,
        ports: Mapping[str, int] | None = None,
        minimum_free: int = MINIMUM_FREE,
        secured: bool = False,
        advertised: int = 0,
    ) -> None:
        self.root = root.absolute()
        self.ports: dict[str, int] = {}
        """The port of each of `PORTS`, once `start` has chosen them."""
        self._progress = progress
        self._requested = dict(ports or {})
        self._minimum_free = minimum_free
        self._secured = secured
        self._advertised = advertised
        self._credentials: Credentials | None = None
        self._services: dict[str, _Service] = {}
        self._lock: int | None = None
        self._stopping = threading.Event()

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the running services by name (`SERVICES`)."""
        return {name: pid for name, service in self._services.items() if (pid := service.child.pid) is not None}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds from `start` until each service answered."""
        return {name: service.seconds for name, service in self._services.items()}

    def settings(self, base: Settings, role: str = ADMIN) -> Settings:
        """``base`` with the addresses of this stack and, where it asks for one, the identity of ``role``."""
        reached = msgspec.structs.replace(
            base,
            kafka=f"{HOST}:{self.ports['kafka']}",
            redis=f"redis://{HOST}:{self.ports['valkey']}/0",
            mlflow=f"http://{HOST}:{self.ports['mlflow']}",
            redis_user="",
            redis_password="",
            redis_ca_file="",
            security=KafkaSecurity(),
        )
        return reached if self._credentials is None else self._credentials.settings(reached, role)

    def identity(self, role: str) -> dict[str, str]:
        """The variables that give another process the identity of ``role``; none where none is asked for."""
        return {} if self._credentials is None else self._credentials.variables(role)

    def start(self) -> None:
        """Start the three services and return once all of them answer.

        Raises:
            DriftloopError: the folder is in use or full, a wanted port is taken, Java or Kafka's jars cannot be had,
                or a service does not come up. Nothing is left running then.
        """
        if self._lock is not None:
            raise DriftloopError(f"The stack under {self.root} is started already.")
        self._stopping.clear()
        self._claim_root()
        try:
            self._choose_ports()
            self._make_credentials()
            with ThreadPoolExecutor(len(SERVICES)) as pool:
                begun = time.monotonic()
                jobs = [pool.submit(self._bring_up, name, begun) for name in SERVICES]
                try:
                    failures = [error for job in jobs if (error := job.exception()) is not None]
                except BaseException:  # Ctrl-C: do not wait until the services are up before stopping them
                    self._stopping.set()
                    raise
            if failures:
                raise next((error for error in failures if not isinstance(error, _StartAborted)), failures[0])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the services, MLflow and Valkey first, and give the folder free; doing it twice does no harm."""
        self._stopping.set()
        for name in reversed(SERVICES):
            if name in self._services:
                self._services[name].child.stop(15)
                self._services[name].after()
        self._services.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def poll(self) -> None:
        """Start a service again that has ended by itself; call it now and then."""
        for service in self._services.values():
            service.child.poll()

    def child(self, name: str) -> ManagedProcess:
        """The child process behind one of `SERVICES`."""
        return self._services[name].child

    def wait(self, name: str) -> None:
        """Wait until one of `SERVICES` answers, starting it again where it has ended.

        Raises:
            DriftloopError: it does not answer within `PATIENCE` seconds.
        """
        self._await(self._services[name], time.monotonic())

    def restart(self, name: str) -> None:
        """Start one of `SERVICES` again, on its port and with its data, and wait until it answers.

        Raises:
            DriftloopError: it does not come up.
        """
        service = self._services[name]
        service.child.stop(15)
        service.child.start()
        self._await(service, time.monotonic())

    def __enter__(self) -> EmbeddedStack:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _claim_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DriftloopError(f"{self.root} cannot be used as a run directory: {error.strerror}.") from error
        try:
            if free < self._minimum_free:
                raise DriftloopError(
                    f"Only {free // 2**20} MB are free under {self.root}: driftloop needs at least "
                    f"{self._minimum_free // 2**20} MB; make room or choose another folder."
                )
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def _take(self, descriptor: int) -> None:
        """Lock the folder. Children inherit the lock: those of a parent that was killed hold it until they are gone."""
        deadline = time.monotonic() + 20
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                owner = int(os.pread(descriptor, 20, 0) or b"0")
                if owner == 0 or _alive(owner) or time.monotonic() > deadline:
                    raise DriftloopError(
                        f"{self.root} is in use by another driftloop (process {owner}): stop that one or choose "
                        "another folder."
                    ) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)

    def _choose_ports(self) -> None:
        record = self.root / "stack.json"
        recorded: dict[str, int] = {}
        if record.exists():
            try:
                recorded = msgspec.json.decode(record.read_bytes(), type=dict[str, dict[str, int]])["ports"]
            except (msgspec.DecodeError, KeyError):
                self._progress(f"{record} cannot be read; new ports are chosen.")
        self.ports, moved = choose(PORTS, self._requested, recorded)
        for name in moved:
            self._progress(f"Port {recorded[name]} of {name} is in use by another program: now {self.ports[name]}.")
        scratch = record.with_suffix(".new")
        try:
            scratch.write_text(json.dumps({"ports": self.ports}), encoding="utf-8")
            scratch.replace(record)
        except OSError as error:
            raise DriftloopError(f"{record} could not be written: {error.strerror}.") from error

    def _make_credentials(self) -> None:
        """A run keeps its form: users are made with Kafka's storage, and rules that are left out guard nothing."""
        folder = self.root / "secrets"
        if (self.root / "kafka" / "data").exists() and folder.exists() != self._secured:
            raise DriftloopError(
                f"The run under {self.root} was begun {'without' if self._secured else 'with'} DRIFTLOOP_SECURED: set "
                "it as it was, or choose another folder."
            )
        if self._secured:
            self.root.chmod(0o700)  # the data hold the texts, and what the passwords are checked with
            self._credentials = Credentials.made(folder)

    def _bring_up(self, name: str, begun: float) -> None:
        try:
            service = self._prepare(name)
            if self._stopping.is_set():
                raise _StartAborted(f"{name} was not started because another service failed.")
            self._services[name] = service
            service.child.start()
            self._await(service, begun)
            service.child.restart = True
            self._progress(f"{service.child.name} is ready after {service.seconds:.1f} s.")
        except BaseException:
            self._stopping.set()
            raise

    def _prepare(self, name: str) -> _Service:
        log, folder, port = self.root / "logs" / f"{name}.log", self.root / name, self.ports[name]
        keep = () if self._lock is None else (self._lock,)
        known = self.settings(Settings())
        log.parent.mkdir(exist_ok=True)
        try:
            if name == "kafka":
                java, jars = find_java(), kafka_classpath(self._progress)
                child = kafka_broker.prepare(
                    java, jars, folder, log, self.ports, keep, self._credentials, advertised=self._advertised
                )
                after = partial(kafka_broker.after, java, jars, folder)
                return _Service(child, lambda: kafka_broker.ready(port, known), (port, self.ports["controller"]), after)
            if name == "valkey":
                child = valkey_process.prepare(folder, log, port, keep, self._credentials)
                return _Service(child, lambda: valkey_process.ready(known, child.pid), (port,))
            child = mlflow_process.prepare(folder, log, port, keep)
            return _Service(child, lambda: mlflow_process.ready(port), (port,))
        except OSError as error:
            raise DriftloopError(
                f"{name} could not be prepared under {folder}: {error.strerror or error}; make room "
                "or choose another folder."
            ) from error

    def _await(self, service: _Service, begun: float) -> None:
        child, deadline = service.child, time.monotonic() + PATIENCE
        while not service.ready():
            if self._stopping.is_set():
                raise _StartAborted(f"{child.name} was stopped because another service failed.")
            if child.restart:
                child.poll()
            elif child.poll() is not None:
                raise DriftloopError(_exit_message(service))
            if time.monotonic() > deadline:
                raise DriftloopError(
                    f"{child.name} did not answer within {PATIENCE:.0f} s: see the end of {child.log}."
                )
            time.sleep(0.05)
        service.seconds = time.monotonic() - begun


class _StartAborted(DriftloopError):
    """A service was given up because another one failed first."""


def _exit_message(service: _Service) -> str:
    child = service.child
    taken = [port for port in service.ports if not is_free(port)]
    if taken:
        return f"{child.name} could not start because port {taken[0]} is in use: try again or choose another port."
    free = shutil.disk_usage(child.log.parent).free
    if free < FULL:
        return f"{child.name} could not start because no space is left under {child.cwd}: make room and try again."
    words = [line for line in child.log_tail().splitlines() if line.strip()]
    last = f" ({words[-1].strip()[:200]})" if words else ""
    return f"{child.name} ended with status {child.exit_code} while starting{last}: see {child.log}."


def _alive(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
