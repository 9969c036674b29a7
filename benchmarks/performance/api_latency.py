"""Latency of `driftloop serve` next to MLflow's own model server, with the same model, at 1, 8 and 64 clients.

Each client is a thread with a connection of its own that asks for one text after the other (a closed loop). The servers
take turns, round by round; both run all the time. The clients share the cores with them, so what is measured is what a
caller on the same machine sees.

    python -m benchmarks.performance.api_latency --requests 600 --rounds 3
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import psutil

from benchmarks.harness.cli import save_json
from benchmarks.harness.process_sampler import cpu_seconds
from benchmarks.harness.train_champion import promote
from driftloop.core import topics
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings, environment
from driftloop.devstack.ports import HOST, free_port
from driftloop.devstack.stack import EmbeddedStack
from producers.scenarios.scenarios import load_scenario

CLIENTS = (1, 8, 64)
PATIENCE = 180.0
"""Seconds that a server has to come up."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: medians over the rounds. Latencies in milliseconds, CPU seconds per 1,000 requests."""

    server: str
    clients: int
    p50: float
    p99: float
    per_second: float
    cpu_seconds: float


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is asked."""

    name: str
    port: int
    path: str
    key: str
    """Of the texts in the request's JSON."""
    pid: int


def main() -> int:
    """Print one table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.performance.api_latency", description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=600, help="in a round, all clients together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    texts = [row.text for row in load_scenario("tweets-stationary").sequence[: options.requests]]
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as folder, EmbeddedStack(Path(folder)) as stack:
        rows = measure(stack.settings(Settings()), Path(folder), texts, options.rounds)
    print(f"{'server':<22} {'clients':>7} {'p50 ms':>8} {'p99 ms':>8} {'requests/s':>11} {'cpu s per 1,000':>16}")
    for row in rows:
        figures = f"{row.p50:>8.1f} {row.p99:>8.1f} {row.per_second:>11.1f} {row.cpu_seconds:>16.2f}"
        print(f"{row.server:<22} {row.clients:>7} {figures}")
    save_json(options.out, rows)
    return 0


def measure(settings: Settings, folder: Path, texts: Sequence[str], rounds: int) -> list[Row]:
    """Both servers at every number of clients, in turn; a first round warms up and is not counted."""
    topics.create(settings)
    version = promote(settings, folder).version
    found: dict[tuple[str, int], list[tuple[float, float, float, float]]] = defaultdict(list)
    with _ours(settings, folder) as ours, mlflow_server(settings, folder, version) as theirs:
        for number in range(rounds + 1):
            for clients in CLIENTS:
                for target in (ours, theirs):
                    figures = _round(target, texts, clients)
                    if number:
                        found[target.name, clients].append(figures)
    return [
        Row(
            server=name,
            clients=clients,
            **{key: median(values) for key, values in zip(_FIGURES, zip(*each, strict=True), strict=True)},
        )
        for (name, clients), each in sorted(found.items())
    ]


_FIGURES = ("p50", "p99", "per_second", "cpu_seconds")


def _round(target: Target, texts: Sequence[str], clients: int) -> tuple[float, float, float, float]:
    """p50, p99, requests per second and CPU seconds per 1,000 requests."""
    latencies: list[float] = []
    failures: list[str] = []

    def client(mine: Sequence[str]) -> None:
        connection = http.client.HTTPConnection(HOST, target.port, timeout=60)
        try:
            for text in mine:
                body = json.dumps({target.key: [text]})
                began = time.perf_counter()
                connection.request("POST", target.path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                said = answer.read()
                latencies.append((time.perf_counter() - began) * 1000)
                if answer.status != 200:
                    failures.append(f"{answer.status} {said[:200]!r}")
                    return
        finally:
            connection.close()

    cpu, began = cpu_seconds(target.pid), time.perf_counter()
    threads = [threading.Thread(target=client, args=(texts[i::clients],)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures or len(latencies) != len(texts):
        raise RuntimeError(f"{target.name} answered {len(latencies)} of {len(texts)}: {failures[:3]}")
    spent = 1000 * (cpu_seconds(target.pid) - cpu) / len(texts)
    p50, p99 = np.percentile(latencies, [50, 99])
    return float(p50), float(p99), len(texts) / seconds, spent


@contextmanager
def _ours(settings: Settings, folder: Path) -> Iterator[Target]:
    port = free_port()
    argv = [sys.executable, "-P", "-m", "driftloop", "serve"]
    env = environment(settings) | {"DRIFTLOOP_API__PORT": str(port), "DRIFTLOOP_API__RATE": "0"}
    with ManagedProcess("serve", argv, env=env, log=folder / "serve.log") as child:
        _wait(port, "/v2/health/ready")
        yield Target(name="driftloop serve", port=port, path="/v1/predict", key="text", pid=child.pid or 0)


@contextmanager
def mlflow_server(settings: Settings, folder: Path, version: str) -> Iterator[Target]:
    """MLflow's model server with a registered version, from when it answers until the context ends."""
    port = free_port()
    argv = [
        sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", HOST,
        "--port", str(port), "--model-uri", f"models:/{settings.model_name}/{version}",
    ]  # fmt: skip
    own = os.environ | environment(settings) | {"MLFLOW_TRACKING_URI": settings.mlflow}
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"  # it starts uvicorn by its name
    with (folder / "mlflow-serve.log").open("wb") as log:
        process = subprocess.Popen(argv, env=own, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(port, "/ping")
        yield Target(name="mlflow models serve", port=port, path="/invocations", key="inputs", pid=process.pid)
    finally:
        for member in (*psutil.Process(process.pid).children(recursive=True), process):
            member.terminate()
        process.wait(20)


def _wait(port: int, path: str) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
