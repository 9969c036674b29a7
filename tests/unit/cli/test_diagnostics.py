"""The doctor: a finding for everything that is needed, and a remedy for everything that is not as it should be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from driftloop.cli import diagnostics
from driftloop.cli.diagnostics import GIB, MASK, Finding, examine, list_settings
from driftloop.core import settings_source
from driftloop.core.settings import KafkaSecurity, RetrainSettings, Settings
from driftloop.devstack import kafka_download

SECRET = "tiger-7f3a"
NOBODY = {
    "DRIFTLOOP_KAFKA": "127.0.0.1:1",
    "DRIFTLOOP_REDIS": "redis://127.0.0.1:1/0",
    "DRIFTLOOP_MLFLOW": "127.0.0.1:1",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def listening() -> Iterator[str]:
    """An address where something accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "{}:{}".format(*server.getsockname())


def found(folder: Path, environ: dict[str, str] | None = None) -> dict[str, Finding]:
    findings = list(examine(environ or {}, folder / "runs"))
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def test_every_requirement_is_checked_and_failures_have_remedies(tmp_path: Path) -> None:
    findings = found(tmp_path)
    wanted = {"Python", "packages: scoring", "packages: embedded", "Java", "Kafka's jars", "Valkey", "encoder"}
    wanted |= {"disk: run directory", "disk: cache", "memory", "cores", "fine-tuning", "ports"}
    assert wanted <= set(findings)
    assert findings["Python"].status == findings["packages: scoring"].status == "ok"
    for finding in findings.values():
        assert finding.detail
        assert bool(finding.remedy) == (finding.status != "ok"), finding


def test_own_services_replace_embedded_stack_checks(tmp_path: Path, listening: str) -> None:
    """Java, Kafka's jars and Valkey are not checked when all three addresses are given."""
    own = {"DRIFTLOOP_KAFKA": listening, "DRIFTLOOP_REDIS": f"redis://{listening}/0", "DRIFTLOOP_MLFLOW": listening}
    findings = found(tmp_path, own)
    for name in ("Kafka", "Redis", "MLflow"):
        assert findings[name] == Finding(name, "ok", f"answers at {listening}")
    assert not {"Java", "Kafka's jars", "Valkey", "packages: embedded", "stack"} & set(findings)


def test_first_of_several_brokers_is_checked(tmp_path: Path, listening: str) -> None:
    assert found(tmp_path, {**NOBODY, "DRIFTLOOP_KAFKA": f"{listening},127.0.0.1:1"})["Kafka"].status == "ok"


@pytest.mark.parametrize("name", ["Kafka", "Redis", "MLflow"])
def test_unreachable_service_is_missing_with_its_variable(tmp_path: Path, name: str) -> None:
    finding = found(tmp_path, NOBODY)[name]
    assert finding.status == "missing" and "127.0.0.1:1" in finding.detail
    assert f"DRIFTLOOP_{name.upper()}" in finding.remedy


def test_malformed_address_is_reported_as_missing(tmp_path: Path) -> None:
    finding = found(tmp_path, {**NOBODY, "DRIFTLOOP_REDIS": "redis://127.0.0.1:many/0"})["Redis"]
    assert finding.status == "missing" and "many" in finding.detail


@pytest.mark.parametrize("password", [SECRET, f"{SECRET}@{SECRET}"])
def test_a_password_in_an_address_is_not_shown(tmp_path: Path, password: str) -> None:
    address = f"redis://me:{password}@127.0.0.1:1/0"
    finding = found(tmp_path, {**NOBODY, "DRIFTLOOP_REDIS": address})["Redis"]
    assert SECRET not in finding.detail and f"me:{MASK}@127.0.0.1:1" in finding.detail
    shown = {setting.variable: setting.value for setting in list_settings(Settings(redis=address, mlflow=address))}
    assert shown["DRIFTLOOP_REDIS"] == shown["DRIFTLOOP_MLFLOW"] == f"redis://me:{MASK}@127.0.0.1:1/0"


def test_partial_own_stack_names_missing_addresses(tmp_path: Path, listening: str) -> None:
    findings = found(tmp_path, {"DRIFTLOOP_KAFKA": listening})
    assert findings["stack"].status == "missing", "simulate refuses to start like this"
    assert findings["stack"].detail == "DRIFTLOOP_KAFKA is set, DRIFTLOOP_REDIS, DRIFTLOOP_MLFLOW is not"
    assert "Valkey" in findings and "Java" not in findings


def test_invalid_setting_is_reported_first_and_checks_continue(tmp_path: Path) -> None:
    findings = list(examine({"DRIFTLOOP_SCORER__BATCH": "many", **NOBODY}, tmp_path))
    assert (findings[0].name, findings[0].status) == ("settings", "missing")
    assert "scorer.batch" in findings[0].detail and len(findings) > 5


def test_missing_package_is_named_with_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(diagnostics.GROUPS, "replay", ("pytest", "no-such-distribution"))
    monkeypatch.setitem(diagnostics.GROUPS, "scoring", ("no-such-distribution",))
    findings = found(tmp_path, NOBODY)
    replay = Finding(
        "packages: replay", "missing", "no-such-distribution not installed", "run `pip install 'driftloop[replay]'`"
    )
    assert findings["packages: replay"] == replay
    assert findings["packages: scoring"].remedy == "run `pip install 'driftloop'`"


def test_jars_that_are_absent_or_altered_are_counted(tmp_path: Path, cache: Path) -> None:
    pins = kafka_download.read_pins()
    finding = found(tmp_path)["Kafka's jars"]
    assert (finding.status, finding.detail[: len(str(len(pins)))]) == ("note", str(len(pins)))
    folder = cache / f"kafka-{kafka_download.VERSION}"
    folder.mkdir(parents=True)
    (folder / pins[0].filename).write_bytes(b"altered")
    assert found(tmp_path)["Kafka's jars"].detail == (
        f"{len(pins) - 1} of {len(pins)} jars are not cached, 1 are altered"
    )


def test_encoder_path_must_exist_hub_encoder_is_note(tmp_path: Path) -> None:
    nowhere = found(tmp_path, {**NOBODY, "DRIFTLOOP_MODEL__ENCODER": str(tmp_path / "nowhere")})["encoder"]
    assert (nowhere.status, nowhere.remedy) == ("missing", "set DRIFTLOOP_MODEL__ENCODER to an encoder that exists")
    assert found(tmp_path, {**NOBODY, "DRIFTLOOP_MODEL__ENCODER": "somebody/encoder"})["encoder"].status == "note"


def test_unwritable_run_folder_is_reported_as_missing(tmp_path: Path) -> None:
    """A file in place of the run folder makes it unwritable."""
    assert found(tmp_path, NOBODY)["disk: run directory"].status == "ok"
    (tmp_path / "runs").write_text("in the way")
    finding = found(tmp_path, NOBODY)["disk: run directory"]
    assert (finding.status, finding.detail) == ("missing", f"{tmp_path / 'runs'} cannot be written")


@pytest.mark.parametrize(("free", "status"), [(0.5, "missing"), (3.0, "note"), (50.0, "ok")])
def test_low_disk_space_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=free * GIB))
    finding = found(tmp_path, NOBODY)["disk: run directory"]
    assert finding.status == status and f"{free:.1f} GB free" in finding.detail


@pytest.mark.parametrize(("free", "status"), [(1.5, "missing"), (4.0, "note"), (16.0, "ok")])
def test_low_memory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: str) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free * GIB))
    finding = found(tmp_path, NOBODY)["memory"]
    assert (finding.status, finding.detail) == (status, f"{free:.1f} GB available")


def test_settings_list_has_value_default_and_meaning() -> None:
    """The list contains every variable."""
    chosen = Settings(stream="tweets", retrain=RetrainSettings(candidates=("linear",)))
    shown = {setting.variable: setting for setting in list_settings(chosen)}
    assert set(shown) == set(settings_source.environment(Settings()))
    stream = shown["DRIFTLOOP_STREAM"]
    assert (stream.value, stream.default) == ("tweets", "default")
    assert stream.about.startswith("Stream id: the key of alerts")
    assert shown["DRIFTLOOP_RETRAIN__CANDIDATES"].value == '["linear"]'
    assert shown["DRIFTLOOP_SCORER__BATCH"].about == "Maximum number of events in a batch."
    assert shown["DRIFTLOOP_MODEL__MAX_TOKENS"].about == "", "it has no docstring, and must not get another's"


def test_the_list_of_settings_never_shows_a_secret() -> None:
    chosen = Settings(signing_key=SECRET, redis_password=SECRET, security=KafkaSecurity(username="me", password=SECRET))
    shown = {setting.variable: setting for setting in list_settings(chosen)}
    assert SECRET not in str(shown) and Settings().signing_key not in str(shown)
    assert shown["DRIFTLOOP_SIGNING_KEY"].value == shown["DRIFTLOOP_SECURITY__PASSWORD"].value == MASK
    assert shown["DRIFTLOOP_SECURITY__PASSWORD"].default == "", "that none is set may be seen"
