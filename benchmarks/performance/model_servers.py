"""Model servers for the benchmarks: `driftloop serve`, and MLflow's own server."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.settings_source import environment
from driftloop.devstack.ports import HOST, free_port

PATIENCE = 180.0
"""Seconds after which waiting for a server fails."""


class ModelServer(msgspec.Struct, frozen=True, kw_only=True):
    """A running model server."""

    name: str
    port: int
    path: str
    """Path of the requests."""
    key: str
    """Key of the texts in the request's JSON."""
    pid: int


@contextmanager
def driftloop_server(settings: Settings, folder: Path) -> Iterator[ModelServer]:
    """Run `driftloop serve` until the context ends.

    Args:
        settings: A stream with a champion.
        folder: Folder for the log.
    """
    port = free_port()
    argv = [sys.executable, "-P", "-m", "driftloop", "serve"]
    env = environment(settings) | {"DRIFTLOOP_API__PORT": str(port), "DRIFTLOOP_API__RATE": "0"}
    with ManagedProcess("serve", argv, env=env, log=folder / "serve.log") as child:
        _wait_until_ready(port, "/v2/health/ready")
        yield ModelServer(name="driftloop serve", port=port, path="/v1/predict", key="text", pid=child.pid or 0)


@contextmanager
def mlflow_server(settings: Settings, folder: Path, version: str) -> Iterator[ModelServer]:
    """Run MLflow's model server until the context ends.

    Args:
        settings: Registry and name of the model.
        folder: Folder for the log.
        version: Version of the model.
    """
    port = free_port()
    argv = [
        sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", HOST,
        "--port", str(port), "--model-uri", f"models:/{settings.model_name}/{version}",
    ]  # fmt: skip
    env = os.environ | environment(settings) | {"MLFLOW_TRACKING_URI": settings.mlflow}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"  # it starts uvicorn by its name
    with (folder / "mlflow-serve.log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(port, "/ping")
        yield ModelServer(name="mlflow models serve", port=port, path="/invocations", key="inputs", pid=process.pid)
    finally:
        for member in (*psutil.Process(process.pid).children(recursive=True), process):
            member.terminate()
        process.wait(20)


def _wait_until_ready(port: int, path: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"no server came up on port {port} within {PATIENCE:.0f} s")
