"""Embedded stack: Kafka, Valkey and MLflow as child processes with their data in one folder."""

from __future__ import annotations

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
from driftloop.core.files import write_atomic
from driftloop.core.kafka.acls import ADMIN
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import KafkaSecurity, Settings
from driftloop.devstack import kafka_broker, mlflow_process, valkey_process
from driftloop.devstack.credentials import Credentials
from driftloop.devstack.java import find_java
from driftloop.devstack.kafka_download import Progress, kafka_classpath
from driftloop.devstack.ports import HOST, choose_ports, is_free
from driftloop.devstack.run_lock import lock_root

SERVICES = ("kafka", "valkey", "mlflow")
PORTS = ("kafka", "controller", "valkey", "mlflow")
MINIMUM_FREE = 500 * 2**20
"""Bytes that must be free under the run directory before a start."""
FULL = 20 * 2**20
"""Free bytes below which a full disk is reported as the cause of a failed start."""
PATIENCE = 60.0
"""Seconds within which a service must answer."""


@dataclass
class _Service:
    child: ManagedProcess
    ready: Callable[[], bool]
    ports: tuple[int, ...]
    # Called after the service has stopped.
    on_stopped: Callable[[], None] = lambda: None
    # Seconds from the start of the stack to the first answer.
    seconds: float = 0.0


class EmbeddedStack:
    """A Kafka broker, a Valkey server and an MLflow server, each a child process on a loopback port.

    All data are under ``root``: ``kafka``, ``valkey``, ``mlflow``, ``logs``, and ``stack.json`` with the ports. A later
    stack on the same root has the same topics, keys and models, after a clean stop as well as after a ``kill -9``.

    A secured stack has its passwords under ``root/secrets``. Kafka uses TLS and passwords, and gives each role the
    rights of `driftloop.core.kafka.acls`. Valkey has one user with access to the loop's keys only. MLflow has no
    authentication, so every user of this machine can reach it.

    Args:
        root: Run directory; made if missing.
        progress: Called with one line for each step.
        ports: Requested ports by name (`PORTS`). The others keep their last port, or get a free one.
        minimum_free: Bytes that must be free under ``root``.
        secured: Start a secured stack.
        advertised: Port that Kafka's clients are told to use, of a proxy. `0` for the broker's own.
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
        """Process ids of the running services by name (`SERVICES`)."""
        return {name: pid for name, service in self._services.items() if (pid := service.child.pid) is not None}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds from `start` to the first answer of each service."""
        return {name: service.seconds for name, service in self._services.items()}

    def settings(self, base: Settings, role: str = ADMIN) -> Settings:
        """Return settings with the addresses of this stack and, if it is secured, the identity of a role.

        Args:
            base: Other settings.
            role: Name of the role.
        """
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
        """Return variables with the identity of ``role`` for another process. Empty if the stack is not secured."""
        return {} if self._credentials is None else self._credentials.variables(role)

    def start(self) -> None:
        """Start the three services and return when all of them answer.

        Raises:
            DriftloopError: the folder is in use or full, a requested port is in use, Java or Kafka's jars are not
                available, or a service does not start. In this case no process keeps running.
        """
        if self._lock is not None:
            raise DriftloopError(f"The stack under {self.root} is started already.")
        self._stopping.clear()
        self._lock = lock_root(self.root, self._minimum_free)
        try:
            self._choose_ports()
            self._make_credentials()
            with ThreadPoolExecutor(len(SERVICES)) as pool:
                begun = time.monotonic()
                jobs = [pool.submit(self._start_service, name, begun) for name in SERVICES]
                try:
                    failures = [error for job in jobs if (error := job.exception()) is not None]
                except BaseException:  # Ctrl-C: stop the services without waiting for their start
                    self._stopping.set()
                    raise
            if failures:
                raise next((error for error in failures if not isinstance(error, _StartAborted)), failures[0])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the services, Kafka last, and unlock the folder. Repeated calls are safe."""
        self._stopping.set()
        for name in reversed(SERVICES):
            if name in self._services:
                self._services[name].child.stop(15)
                self._services[name].on_stopped()
        self._services.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def poll(self) -> None:
        """Restart services that have ended. Call it repeatedly."""
        for service in self._services.values():
            service.child.poll()

    def child(self, name: str) -> ManagedProcess:
        """Return the process of one of `SERVICES`."""
        return self._services[name].child

    def wait(self, name: str) -> None:
        """Wait until one of `SERVICES` answers; restart it if it has ended.

        Raises:
            DriftloopError: the service does not answer within `PATIENCE` seconds.
        """
        self._wait_until_ready(self._services[name], time.monotonic())

    def restart(self, name: str) -> None:
        """Restart one of `SERVICES` on its port with its data, and wait until it answers.

        Raises:
            DriftloopError: the service does not start.
        """
        service = self._services[name]
        service.child.stop(15)
        service.child.start()
        self._wait_until_ready(service, time.monotonic())

    def __enter__(self) -> EmbeddedStack:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _choose_ports(self) -> None:
        record = self.root / "stack.json"
        recorded: dict[str, int] = {}
        if record.exists():
            try:
                recorded = msgspec.json.decode(record.read_bytes(), type=dict[str, dict[str, int]])["ports"]
            except (msgspec.DecodeError, KeyError):
                self._progress(f"{record} cannot be read; new ports are chosen.")
        self.ports, moved = choose_ports(PORTS, self._requested, recorded)
        for name in moved:
            self._progress(f"Port {recorded[name]} of {name} is in use by another program: now {self.ports[name]}.")
        try:
            write_atomic(record, json.dumps({"ports": self.ports}).encode())
        except OSError as error:
            raise DriftloopError(f"{record} could not be written: {error.strerror}.") from error

    def _make_credentials(self) -> None:
        """Create the credentials of a secured stack.

        Raises:
            DriftloopError: the run was started with the opposite setting. Kafka's storage has the users, or has none.
        """
        folder = self.root / "secrets"
        if (self.root / "kafka" / "data").exists() and folder.exists() != self._secured:
            raise DriftloopError(
                f"The run under {self.root} was started {'without' if self._secured else 'with'} DRIFTLOOP_SECURED: "
                "use the same setting, or choose another folder."
            )
        if self._secured:
            self.root.chmod(0o700)  # the data contain the texts and the hashes of the passwords
            self._credentials = Credentials.create(folder)

    def _start_service(self, name: str, begun: float) -> None:
        try:
            service = self._prepare(name)
            if self._stopping.is_set():
                raise _StartAborted(f"{name} was not started because another service failed.")
            self._services[name] = service
            service.child.start()
            self._wait_until_ready(service, begun)
            service.child.restart = True
            self._progress(f"{service.child.name} is ready after {service.seconds:.1f} s.")
        except BaseException:
            self._stopping.set()
            raise

    def _prepare(self, name: str) -> _Service:
        log, folder, port = self.root / "logs" / f"{name}.log", self.root / name, self.ports[name]
        keep = () if self._lock is None else (self._lock,)
        settings = self.settings(Settings())
        log.parent.mkdir(exist_ok=True)
        try:
            if name == "kafka":
                java, jars = find_java(), kafka_classpath(self._progress)
                child = kafka_broker.prepare(
                    java, jars, folder, log, self.ports, keep, self._credentials, advertised=self._advertised
                )
                on_stopped = partial(kafka_broker.store_class_cache, java, jars, folder)
                ports = (port, self.ports["controller"])
                return _Service(child, lambda: kafka_broker.ready(port, settings), ports, on_stopped)
            if name == "valkey":
                child = valkey_process.prepare(folder, log, port, keep, self._credentials)
                return _Service(child, lambda: valkey_process.ready(settings, child.pid), (port,))
            child = mlflow_process.prepare(folder, log, port, keep)
            return _Service(child, lambda: mlflow_process.ready(port), (port,))
        except OSError as error:
            raise DriftloopError(
                f"{name} could not be prepared under {folder}: {error.strerror or error}; make room "
                "or choose another folder."
            ) from error

    def _wait_until_ready(self, service: _Service, begun: float) -> None:
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
    """The start of a service was aborted because another service failed."""


def _exit_message(service: _Service) -> str:
    """Return the reason why a service ended while it was starting."""
    child = service.child
    taken = [port for port in service.ports if not is_free(port)]
    if taken:
        return f"{child.name} could not start because port {taken[0]} is in use: try again or choose another port."
    free = shutil.disk_usage(child.log.parent).free
    if free < FULL:
        return f"{child.name} could not start because no space is left under {child.cwd}: make room and try again."
    lines = [line.strip() for line in child.log_tail().splitlines() if line.strip()]
    last = f" ({lines[-1][:200]})" if lines else ""
    return f"{child.name} ended with status {child.exit_code} while starting{last}: see {child.log}."
