"""Run directories, and announcements of simulations that run."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from driftloop.cli import run_directory
from driftloop.cli.run_directory import Record
from driftloop.core import settings, settings_source
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import KafkaSecurity, Settings

SECRET = "tiger-7f3a"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runs"


def put(path: Path, **fields: Any) -> Path:
    """An announcement as another process would have left it."""
    addresses = dict.fromkeys(run_directory.ADDRESSES, "somewhere")
    running = {"pid": os.getpid(), "born": psutil.Process().create_time(), "root": "/r", "settings": addresses}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode({**running, **fields}))
    return path


def test_saved_record_is_read_unchanged(tmp_path: Path) -> None:
    record = Record(
        scenario="tweets", rate="max", limit=900, stack="own", settings={"DRIFTLOOP_STREAM": "s"}, seconds=3
    )
    run_directory.new(tmp_path / "a" / "run", record)
    assert run_directory.read(tmp_path / "a" / "run") == record
    run_directory.save(
        tmp_path / "a" / "run", msgspec.structs.replace(record, sessions=2, first_promotion_seconds=12.5)
    )
    assert run_directory.read(tmp_path / "a" / "run").first_promotion_seconds == 12.5
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == [run_directory.RECORD]


def test_folder_with_a_run_is_refused_and_kept(tmp_path: Path) -> None:
    run_directory.new(tmp_path / "run", Record(scenario="first"))
    with pytest.raises(DriftloopError, match=r"holds a run already: continue it \(`driftloop simulate --resume "):
        run_directory.new(tmp_path / "run", Record(scenario="second"))
    assert run_directory.read(tmp_path / "run").scenario == "first"


def test_folder_with_other_files_is_refused_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DriftloopError, match="is not empty: choose a new folder"):
        run_directory.new(tmp_path, Record(scenario="tweets"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_is_refused_as_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DriftloopError, match="cannot be used as a run directory: Not a directory"):
        run_directory.new(tmp_path / "file", Record(scenario="tweets"))


def test_folder_without_run_is_refused_with_hint(tmp_path: Path) -> None:
    with pytest.raises(DriftloopError, match=r"holds no run .* give the folder that `driftloop simulate` named"):
        run_directory.read(tmp_path)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"scenario":"tw', b'{"scenario":7}', b'{"scenario":"\xff"}', b'{"x":' + b"[" * 50_000],
    ids=["empty", "no scenario", "cut", "wrong kind", "no utf-8", "deep"],
)  # fmt: skip
def test_damaged_record_is_refused_with_one_sentence(tmp_path: Path, body: bytes) -> None:
    (tmp_path / run_directory.RECORD).write_bytes(body)
    with pytest.raises(DriftloopError, match=r"run\.json is damaged .*: start a new run") as caught:
        run_directory.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_keeps_the_old_record(tmp_path: Path) -> None:
    """Saving to a full disk raises an error that suggests to make room."""
    run_directory.save(tmp_path, Record(scenario="old"))
    (tmp_path / f".{run_directory.RECORD}.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(DriftloopError, match=r"cannot be written: No space left on device; make room"):
        run_directory.save(tmp_path, Record(scenario="new"))
    assert [path.name for path in tmp_path.iterdir()] == [run_directory.RECORD]
    assert run_directory.read(tmp_path).scenario == "old"


@pytest.mark.parametrize("own_stack", [True, False])
def test_secrets_are_never_stored(tmp_path: Path, own_stack: bool) -> None:
    chosen = Settings(
        kafka="broker:9092",
        redis=f"redis://:{SECRET}@cache:6379/0",
        mlflow=f"https://me:{SECRET}@mlflow",
        redis_password=SECRET,
        signing_key=SECRET,
        security=KafkaSecurity(username="me", password=SECRET),
    )
    record = Record(scenario="tweets", settings=run_directory.recorded_variables(chosen, own_stack=own_stack))
    run_directory.new(tmp_path / "run", record)
    assert SECRET.encode() not in (tmp_path / "run" / run_directory.RECORD).read_bytes()
    assert record.settings["DRIFTLOOP_SECURITY__USERNAME"] == "me"
    assert ("DRIFTLOOP_KAFKA" in record.settings) == own_stack


def test_recorded_variables_restore_the_settings() -> None:
    chosen = Settings(stream="tweets", redis="redis://cache:6379/0", scorer=settings.ScorerSettings(batch=8))
    assert settings_source.load(run_directory.recorded_variables(chosen, own_stack=True)) == chosen


def test_a_running_simulation_is_found_until_it_withdraws(tmp_path: Path, cache: Path) -> None:
    running = run_directory.announce(tmp_path, Settings(kafka="127.0.0.1:21000", stream="mine"))
    assert run_directory.find() == run_directory.find(tmp_path) == running
    assert running.settings["DRIFTLOOP_KAFKA"] == "127.0.0.1:21000" and set(running.settings) == set(
        run_directory.ADDRESSES
    )
    for path in (tmp_path / run_directory.RUNNING, *cache.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, "an address may hold a password"
    run_directory.withdraw(running)
    run_directory.withdraw(running)
    assert (run_directory.find(), run_directory.find(tmp_path)) == (None, None)


def test_unwritable_cache_does_not_block_a_run(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("in the way")
    assert run_directory.find(tmp_path) is None
    assert run_directory.announce(tmp_path, Settings()) == run_directory.find(tmp_path)
    assert run_directory.find() is None


def test_announcements_of_dead_processes_are_ignored_and_removed(cache: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    put(cache / "dead.json", pid=ended.pid)
    put(cache / "reborn.json", born=psutil.Process().create_time() - 3600)
    put(cache / "negative.json", pid=-1)
    put(cache / "addressless.json", settings={"DRIFTLOOP_KAFKA": "a:1"})
    (cache / "cut.json").write_bytes(b'{"pid":')
    (cache / "binary.json").write_bytes(b'{"root":"\xff')
    alive = put(cache / "alive.json", root="/alive")
    found = run_directory.find()
    assert found is not None and found.root == "/alive"
    assert list(cache.iterdir()) == [alive]


def test_most_recently_started_simulation_is_found(tmp_path: Path, cache: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as later:
        put(cache / "1.json", pid=later.pid, born=psutil.Process(later.pid).create_time(), root="/later")
        put(cache / "2.json", root="/earlier")
        put(tmp_path / run_directory.RUNNING, root="/earlier")
        last, chosen = run_directory.find(), run_directory.find(tmp_path)
    assert last is not None and last.root == "/later"
    assert chosen is not None and chosen.root == "/earlier"


def test_running_simulation_supplies_missing_variables(tmp_path: Path) -> None:
    running = run_directory.announce(tmp_path, Settings(kafka="127.0.0.1:21000", stream="mine"))
    assert run_directory.environ_of(None, {"DRIFTLOOP_STREAM": "other", "HOME": "/h"}) == (
        {**running.settings, "DRIFTLOOP_STREAM": "other", "HOME": "/h"},
        running,
    )
    assert run_directory.environ_of(None, {"DRIFTLOOP_KAFKA": "elsewhere:1"}) == (
        {"DRIFTLOOP_KAFKA": "elsewhere:1"},
        None,
    )
    variables, found = run_directory.environ_of(tmp_path, {"DRIFTLOOP_KAFKA": "elsewhere:1"})
    assert (variables["DRIFTLOOP_KAFKA"], found) == ("127.0.0.1:21000", running)


def test_folder_without_running_simulation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriftloopError, match=r"No simulation is running under .*: see `driftloop simulate --resume"):
        run_directory.environ_of(tmp_path, {})
    assert run_directory.environ_of(None, {"A": "b"}) == ({"A": "b"}, None)
