"""The pages' commands, one after the other as a reader would type them, on a real loop."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from driftloop.cli import run_directory
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Prediction, decode
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings_source import load
from driftloop.core.topics import PREDICTIONS
from driftloop.devstack.ports import free_port
from tests.docs.snippets import ROOT, Shell, Snippet, of
from tests.docs.test_snippets import reviews
from tests.integration.test_simulate import link_cache

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DOCS = ROOT / "docs"
API = "127.0.0.1:8000"
QUICK = {"DRIFTLOOP_RETRAIN__TPOT_SECONDS": "15", "DRIFTLOOP_RETRAIN__FINETUNE_SECONDS": "20", "COLUMNS": "160"}
PATIENCE = 400
"""Seconds that a simulation has to come to its end."""


@dataclass
class Kept:
    """A simulation that has ended, its stack and its live page still there."""

    folder: Path
    environ: dict[str, str]
    api: str
    run: str
    case: str
    event: str


def variables(folder: Path) -> dict[str, str]:
    """Variables under which a page's commands find no simulation but that of the page."""
    return {**QUICK, "DRIFTLOOP_CACHE": str(link_cache(folder / "cache")), "BROWSER": "true"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """What the page says is to be started in another terminal; found from this one, as the page says."""
    (snippet,) = of(DOCS / "inspect.md", "sh elsewhere")
    folder = tmp_path_factory.mktemp("kept")
    api = f"127.0.0.1:{free_port()}"
    environ = {**variables(folder), "DRIFTLOOP_API__PORT": api.partition(":")[2]}
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-c", f"exec {snippet.text.strip()} --rate 80 --out kept --no-open"]
    child = ManagedProcess(
        "simulate", command, env={**environ, "PATH": path}, log=folder / "said", cwd=folder, grace=30.0
    )
    child.start()
    try:
        until = time.monotonic() + PATIENCE
        while "Still running" not in (said := (folder / "said").read_text(encoding="utf-8")):
            assert child.poll() is None and time.monotonic() < until, said[-4000:]
            time.sleep(0.5)
        found = [json.loads(ask(environ, *words)) for words in (("case", "--json"), ("watch", "predictions", *FIRST))]
        yield Kept(folder, environ, api, str(folder / "kept"), found[0][0]["case_id"], found[1]["event_id"])
    finally:
        child.stop()


FIRST = ("--from-beginning", "--max", "1", "--json")


def ask(environ: dict[str, str], *words: str) -> str:
    command = [str(ROOT / ".venv" / "bin" / "driftloop"), *words]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def repeated(kept: Kept) -> Iterator[None]:
    """The newest prediction comes again and again, as after a crash: something for those who follow a stream."""
    found = run_directory.find(Path(kept.run))
    assert found is not None
    settings = load(found.settings)
    prediction = decode(Prediction, ask(kept.environ, "watch", "predictions", *FIRST).encode())
    outbox, over = ConfirmedProducer(settings), threading.Event()

    def go_on() -> None:
        while not over.wait(0.5):
            outbox.put(PREDICTIONS.name, prediction.event_id, prediction)
            outbox.flush()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        outbox.close()


def read(page: Path, folder: Path, environ: dict[str, str], exchanged: dict[str, str]) -> list[tuple[Snippet, str]]:
    """Run a page from its top to its end; each block with what it said."""
    (folder / "docs").symlink_to(DOCS)
    shell = Shell(folder, environ, exchanged)
    try:
        return [(snippet, shell.run(snippet)) for snippet in of(page, "sh", "python")]
    finally:
        shell.close()


def on_it(page: Path, kept: Kept, folder: Path) -> dict[str, str]:
    """Run a page on the simulation that is kept; what each command's block said, by its first line."""
    exchanged = {API: kept.api, "EVENT_ID": kept.event, "runs/…": kept.run, "case ID": f"case {kept.case}"}
    with repeated(kept):
        said = read(page, folder, kept.environ, exchanged)
    return {snippet.text.partition("\n")[0]: text for snippet, text in said}


def test_inspect_page_commands_work(kept: Kept, tmp_path: Path) -> None:
    said = on_it(DOCS / "inspect.md", kept, tmp_path)
    topics = said["driftloop topics"]
    assert topics.count('"event_id"') >= 3 and '"alert_id"' in topics
    assert kept.case[:8] in said["driftloop case"] and (tmp_path / "case.html").stat().st_size > 1000
    assert "McNemar" in said["driftloop models"] and "agree" in said["driftloop models"]
    assert "ALL-RECORDS-DELIVERED" in said["driftloop audit"]
    assert said["driftloop ask --budget 5"] == "Every predicted event in the store has its label.\n"


def test_api_page_commands_work(kept: Kept, tmp_path: Path) -> None:
    said = list(on_it(DOCS / "api.md", kept, tmp_path).values())
    everything = "\n".join(said)
    assert '"model_version"' in said[0] and said[0].count('"label"') == 3
    assert '"outputs"' in said[1] and '"first_offset"' in said[2] and "# TYPE driftloop_" in said[3]
    assert "event: " in everything and '"corrects"' in everything and '"command_id"' in everything
    assert '"status":422' in said[-1] and everything.count('"status":') == 1, "one request is wrong, on purpose"


def test_readme_commands_work(kept: Kept, tmp_path: Path) -> None:
    reviews(tmp_path)
    said = "\n".join(on_it(ROOT / "README.md", kept, tmp_path).values())
    assert '"model_version"' in said and "event: " in said and '"corrects"' in said
    assert "ALL-RECORDS-DELIVERED" in said and "600 of 600 events predicted" in said
    assert '"status":' not in said, "a request was refused"


def test_plugins_page_commands_work(kept: Kept, tmp_path: Path) -> None:
    reviews(tmp_path)
    said = on_it(DOCS / "plugins.md", kept, tmp_path)
    checks = next(text for line, text in said.items() if line.startswith("cd docs/examples"))
    (shown,) = of(DOCS / "plugins.md", "text")
    assert shown.text in checks and len(re.findall(r"(\d+) of \1 checks passed", checks)) == 4
    assert any("McNemar" in text for text in said.values())


def test_tutorial_commands_work(tmp_path: Path) -> None:
    """In a copy of nothing: the page makes its own data, and its own loop."""
    for name in ("Makefile", "pyproject.toml", "uv.lock", ".venv", ".uv"):
        (tmp_path / name).symlink_to(ROOT / name)
    environ = {**variables(tmp_path), "DRIFTLOOP_API__PORT": str(free_port())}
    said = read(DOCS / "tutorial.md", tmp_path, environ, {})
    texts = [text for _, text in said]
    assert any("3000 of 3000 events predicted" in text for text in texts)
    assert any("report.pdf" in text.split() for text in texts)
    found = dict(re.findall(r"^(first-run|never) (\S+)$", texts[-1], re.MULTILINE))
    assert float(found["first-run"]) > float(found["never"]) + 0.05, texts[-1]
