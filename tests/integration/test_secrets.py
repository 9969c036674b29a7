"""Secrets stay where they were put: no log, message, topic, parameter, page or command line has one.

A whole secured simulation and every way to fail that a user can meet are run with secrets that cannot be mistaken, and
everything that is left is searched for them byte for byte. What the search finds when a secret is planted is shown too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from driftloop.cli import parser
from driftloop.core.errors import DriftloopError
from driftloop.core.models.registry import Registry
from driftloop.core.settings import Settings, cache_dir
from driftloop.devstack.ports import HOST, free_port
from tests.integration.conftest import text_and_label
from tests.integration.test_simulate import Done, command, environ, link_cache, started, write_scenario

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PLANTED = {
    name: f"planted-{name}-8c1f4e" for name in ("signing-key", "redis-password", "sasl-password", "url-password")
}


def leaks(folders: Iterable[Path], texts: Iterable[str], secrets: Iterable[str], kept: Path | None = None) -> list[str]:
    """Where a secret is: in a file under ``folders`` but for those under ``kept``, or in one of the texts."""
    wanted = [secret.encode() for secret in secrets]
    found = [f"in what was said: {text[:300]}" for text in texts if any(s in text.encode() for s in wanted)]
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and (kept is None or kept not in path.parents):
                body = path.read_bytes()
                found += [f"in {path}" for secret in wanted if secret in body]
    return found


class Ran(NamedTuple):
    """A secured simulation that has ended."""

    root: Path
    cache: Path
    secrets: list[str]
    done: Done
    command_lines: set[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("secrets")
    cache = link_cache(folder / "cache")
    scenario = write_scenario(folder, "max", [text_and_label(i) for i in range(200)])
    (folder / "key").write_text(PLANTED["signing-key"])
    env = environ(cache, DRIFTLOOP_SECURED="true", DRIFTLOOP_SIGNING_KEY_FILE=str(folder / "key"))
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                seen.add("\0".join(process.info["cmdline"] or ()))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    root = folder / "run"
    process = started("simulate", scenario, "--out", root, "--plain", env=env, cwd=folder)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.terminate()
    done = Done(process.returncode, out, err)
    ended.set()
    watcher.join()
    passwords = [file.read_text() for file in (root / "secrets").iterdir() if file.suffix == ""]
    assert len(passwords) == 8
    yield Ran(root, cache, [*passwords, PLANTED["signing-key"]], done, seen)


def test_secured_simulation_leaks_no_secret(ran: Ran) -> None:
    """On disk are all topics, the keys of the store, MLflow's parameters, tags and artifacts, and all logs."""
    assert ran.done.code == 0, (ran.done, (ran.root / "logs" / "retrain.log").read_text()[-2000:])
    where = [ran.root, ran.cache / "runs"]
    assert leaks(where, ran.done[1:], ran.secrets, ran.root / "secrets") == []
    assert leaks([], ran.command_lines, ran.secrets) == []
    assert any("kafka.tools.StorageTool" in line for line in ran.command_lines), "who formats was not seen"
    assert any("valkey-server" in line for line in ran.command_lines)


def test_control_planted_secret_is_found(ran: Ran) -> None:
    assert len(leaks([ran.root], [], ran.secrets)) == 9 - 1, "the files of the passwords themselves"
    topic = next((ran.root / "kafka" / "data").glob("labels-0/*.log"))
    assert leaks([ran.root], [], ["own-annotator"], ran.root / "secrets") == []
    assert str(topic) in " ".join(leaks([ran.root], [], ["label"], ran.root / "secrets"))
    assert leaks([], ["it said planted-sasl-password-8c1f4e."], PLANTED.values())


@pytest.mark.parametrize("given", ["variable", "file"])
@pytest.mark.parametrize("verb", ["topics", "score", "retrain", "doctor", "settings", "help"])
def test_command_output_shows_no_secret(tmp_path: Path, verb: str, given: str) -> None:
    """Nothing listens at the addresses, and one of them holds a password itself."""
    secrets = {
        "DRIFTLOOP_SIGNING_KEY": PLANTED["signing-key"],
        "DRIFTLOOP_SECURITY__PASSWORD": PLANTED["sasl-password"],
    }
    if given == "file":
        for name, secret in list(secrets.items()):
            (tmp_path / name).write_text(secret)
            secrets[f"{name}_FILE"] = str(tmp_path / name)
            del secrets[name]
    env = environ(
        cache_dir(),
        DRIFTLOOP_KAFKA=f"{HOST}:{free_port()}",
        DRIFTLOOP_REDIS=f"redis://me:{PLANTED['url-password']}@{HOST}:{free_port()}/0",
        DRIFTLOOP_MLFLOW=f"http://me:{PLANTED['url-password']}@{HOST}:{free_port()}",
        DRIFTLOOP_SECURITY__PROTOCOL="SASL_SSL",
        DRIFTLOOP_SECURITY__USERNAME="me",
        **secrets,
    )
    arguments = {
        "settings": ["doctor", "--settings"],
        "help": ["score", "--help"],
    }
    done = command(*arguments.get(verb, [verb]), env=env, cwd=tmp_path)
    assert (done.code == 0) == (verb in ("settings", "help")), done
    assert leaks([], done[1:], PLANTED.values()) == []


def test_missing_registry_error_hides_password() -> None:
    address = f"{HOST}:{free_port()}"
    with pytest.raises(
        DriftloopError, match=rf"No MLflow answers at http://me:•+@{address} .* set DRIFTLOOP_MLFLOW"
    ) as e:
        Registry(Settings(mlflow=f"http://me:{PLANTED['url-password']}@{address}"))
    assert leaks([], [str(e.value)], PLANTED.values()) == []


def test_help_pages_show_no_secret(tmp_path: Path) -> None:
    env = environ(cache_dir(), DRIFTLOOP_SIGNING_KEY=PLANTED["signing-key"])
    pages = [started(verb, "--help", env=env, cwd=tmp_path) for verb in parser.verbs()]
    said = [page.communicate(timeout=60)[0] for page in pages]
    assert all(said) and leaks([], said, PLANTED.values()) == []
