"""API latency: `driftloop serve` and MLflow's model server with the same model, at 1, 8 and 64 clients.

Each client is a thread with its own connection that sends one text after the other (a closed loop). Both servers run
throughout, and take turns round by round. The clients share the cores with the servers, so the figures are those of a
client on the same machine.

    python -m benchmarks.performance.api_latency --requests 600 --rounds 3
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from benchmarks.harness.cli import save_json
from benchmarks.harness.process_sampler import cpu_seconds
from benchmarks.harness.train_champion import promote
from benchmarks.performance.model_servers import ModelServer, driftloop_server, mlflow_server
from driftloop.core import topics
from driftloop.core.settings import Settings
from driftloop.devstack.ports import HOST
from driftloop.devstack.stack import EmbeddedStack
from producers.scenarios.scenarios import load_scenario

CLIENTS = (1, 8, 64)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table, as medians over the rounds."""

    server: str
    clients: int
    p50: float
    """Median latency in milliseconds."""
    p99: float
    """99th percentile of the latency in milliseconds."""
    per_second: float
    """Requests per second."""
    cpu_seconds: float
    """CPU seconds of the server for 1,000 requests."""


def main() -> int:
    """Print one table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance.api_latency", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--requests", type=int, default=600, help="requests of a round, all clients together")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    options = parser.parse_args()
    texts = [row.text for row in load_scenario("tweets-stationary").sequence[: options.requests]]
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as folder, EmbeddedStack(Path(folder)) as stack:
        rows = measure(stack.settings(Settings()), Path(folder), texts, options.rounds)
    print(f"{'server':<22} {'clients':>7} {'p50 ms':>8} {'p99 ms':>8} {'requests/s':>11} {'CPU s per 1,000':>16}")
    for row in rows:
        figures = f"{row.p50:>8.1f} {row.p99:>8.1f} {row.per_second:>11.1f} {row.cpu_seconds:>16.2f}"
        print(f"{row.server:<22} {row.clients:>7} {figures}")
    save_json(options.out, rows)
    return 0


def measure(settings: Settings, folder: Path, texts: Sequence[str], rounds: int) -> list[Row]:
    """Measure both servers in turn at every number of clients. A first round warms up and does not count.

    Args:
        settings: A stream without topics.
        folder: Folder for bundles and logs.
        texts: Texts of a round.
        rounds: Number of rounds that count.
    """
    topics.create(settings)
    version = promote(settings, folder).version
    found: dict[tuple[str, int], list[tuple[float, float, float, float]]] = defaultdict(list)
    with driftloop_server(settings, folder) as ours, mlflow_server(settings, folder, version) as theirs:
        for number in range(rounds + 1):
            for clients in CLIENTS:
                for server in (ours, theirs):
                    figures = _round(server, texts, clients)
                    if number:
                        found[server.name, clients].append(figures)
    return [
        Row(
            server=name,
            clients=clients,
            **{key: median(values) for key, values in zip(_FIGURES, zip(*each, strict=True), strict=True)},
        )
        for (name, clients), each in sorted(found.items())
    ]


_FIGURES = ("p50", "p99", "per_second", "cpu_seconds")


def _round(server: ModelServer, texts: Sequence[str], clients: int) -> tuple[float, float, float, float]:
    """Send all texts once. Return p50, p99, requests per second and CPU seconds per 1,000 requests."""
    latencies: list[float] = []
    failures: list[str] = []

    def client(own: Sequence[str]) -> None:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
        try:
            for text in own:
                body = json.dumps({server.key: [text]})
                began = time.perf_counter()
                connection.request("POST", server.path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
                latencies.append((time.perf_counter() - began) * 1000)
                if response.status != 200:
                    failures.append(f"{response.status} {content[:200]!r}")
                    return
        finally:
            connection.close()

    cpu, began = cpu_seconds(server.pid), time.perf_counter()
    threads = [threading.Thread(target=client, args=(texts[i::clients],)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures or len(latencies) != len(texts):
        raise RuntimeError(f"{server.name} answered {len(latencies)} of {len(texts)}: {failures[:3]}")
    spent = 1000 * (cpu_seconds(server.pid) - cpu) / len(texts)
    p50, p99 = np.percentile(latencies, [50, 99])
    return float(p50), float(p99), len(texts) / seconds, spent


if __name__ == "__main__":
    sys.exit(main())
