"""docker-compose.yml, .env.example and the Dockerfile, read as text: what they promise holds in each line."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from driftloop.cli import parser
from driftloop.core import settings, settings_source

ROOT = Path(__file__).resolve().parents[3]
OURS = {"topics", "producer", "scorer", "scorer-more", "monitor", "retrainer", "api"}
ONE_SHOT = {"topics", "console"}


def compose() -> dict[str, Any]:
    """The file with its anchors merged."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, each from what it is built on."""
    parts = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.split()[2]: part for part in parts}


def findings(file: dict[str, Any]) -> list[str]:
    """What is wrong with a compose file."""
    found: list[str] = []
    for name, service in file["services"].items():

        def say(what: str, name: str = name) -> None:
            found.append(f"{name}: {what}")

        if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
            say("keeps privileges")
        if "mem_limit" not in service:
            say("has no memory limit")
        if (name in OURS or "build" in service) and service.get("read_only") is not True:
            say("can write to its root file system")
        if service.get("privileged") or service.get("network_mode") or service.get("pid"):
            say("reaches into the host")
        for port in service.get("ports", []):
            if name not in {"api", "grafana"} or not str(port).startswith("127.0.0.1:"):
                say(f"publishes {port}")
        if name not in ONE_SHOT and "test" not in service.get("healthcheck", {}):
            say("has no health check")
        if re.search(r"nc -z|/dev/tcp|redis-cli ping", str(service.get("healthcheck"))):
            say("is only asked whether its port is open")
        environ = service.get("environment") or {}
        if environ.get("GF_AUTH_ANONYMOUS_ORG_ROLE", "Viewer") != "Viewer" or (
            "GF_AUTH_ANONYMOUS_ENABLED" in environ and "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION" not in environ
        ):
            say("lets strangers change what it shows")
        for value in environ.values():
            if re.search(r"(?i)local-(key|password)", str(value)):
                say("has a secret in its environment")
        for other, how in (service.get("depends_on") or {}).items():
            wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            if how.get("condition") != wanted:
                say(f"does not wait until {other} is ready")
    return found


def test_services_are_confined_checked_and_start_in_order() -> None:
    assert findings(compose()) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda s: s["redis"].update(ports=["127.0.0.1:6379:6379"]), "redis: publishes 127.0.0.1:6379:6379"),
        (lambda s: s["api"].update(ports=["8000:8000"]), "api: publishes 8000:8000"),
        (lambda s: s["mlflow"].update(ports=["127.0.0.1:5000:5000"]), "mlflow: publishes 127.0.0.1:5000:5000"),
        (lambda s: s["grafana"].update(ports=["3000:3000"]), "grafana: publishes 3000:3000"),
        (lambda s: s["grafana"].pop("cap_drop"), "grafana: keeps privileges"),
        (
            lambda s: s["grafana"]["environment"].update(GF_AUTH_ANONYMOUS_ORG_ROLE="Admin"),
            "grafana: lets strangers change",
        ),
        (
            lambda s: s["grafana"]["environment"].pop("GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"),
            "grafana: lets strangers change",
        ),
        (lambda s: s["scorer"].pop("cap_drop"), "scorer: keeps privileges"),
        (lambda s: s["retrainer"].pop("mem_limit"), "retrainer: has no memory limit"),
        (lambda s: s["monitor"].update(read_only=False), "monitor: can write to its root file system"),
        (lambda s: s["kafka"].pop("healthcheck"), "kafka: has no health check"),
        (lambda s: s["redis"]["healthcheck"].update(test="redis-cli ping"), "redis: is only asked whether"),
        (lambda s: s["api"]["environment"].update(X="driftloop-local-key"), "api: has a secret in its environment"),
        (lambda s: s["topics"].update(depends_on={"kafka": {"condition": "service_started"}}), "topics: does not wait"),
    ],
)
def test_control_broken_compose_file_is_reported(change: Any, finding: str) -> None:
    broken = deepcopy(compose())
    change(broken["services"])
    assert any(line.startswith(finding) for line in findings(broken))


def test_compose_commands_and_images_exist() -> None:
    """Commands are verbs of driftloop, and images are targets of the Dockerfile."""
    for name, service in compose()["services"].items():
        if "build" in service:
            target = service["build"]["target"]
            assert target in stages() and service["image"] == f"driftloop-{target}"
        if name in OURS:
            assert service["command"][0] in parser.verbs()


def test_every_compose_and_example_setting_is_valid() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    given = {name: value for name, value in lines.items() if name.startswith(settings.PREFIX)}
    assert given and settings_source.load({name: value for name, value in given.items() if value}) == settings.Settings(
        partitions=int(given["DRIFTLOOP_PARTITIONS"])
    ), "the example shows the defaults; the partitions are compose's own"
    for service in compose()["services"].values():
        environ = {name: str(value) for name, value in (service.get("environment") or {}).items()}
        defaults = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in environ.items()}
        ours = {name: value for name, value in defaults.items() if name.startswith(settings.PREFIX)}
        settings_source.load({name: value for name, value in ours.items() if not name.endswith("_FILE")})


def test_every_compose_variable_is_explained_in_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
    assert set(re.findall(r"(?<!\$)\$\{?([A-Z_]+)", text)) == used.keys(), "a variable without a default"
    example = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    for name, default in used.items():
        if name == "ENV_FILE":
            continue
        at = example.index(f"{name}={default}")
        assert example[at - 1].startswith("# "), f"{name} is not explained"
    for at, line in enumerate(example):
        if "=" in line and not line.startswith("#"):
            assert example[at - 1].startswith("# "), f"{line} is not explained"


def test_code_change_does_not_reinstall_dependencies() -> None:
    """What an image installs comes before any of our code is copied into it, and from the lock alone."""
    base = stages()["base"]
    assert re.findall(r"^COPY (.*)$", base, re.MULTILINE) == ["pyproject.toml uv.lock ./"]
    assert all(word in base for word in ("UV_LOCKED=1", "UV_NO_DEV=1"))
    images = [stage for stage in stages().values() if "ENTRYPOINT" in stage]
    assert len(images) == 5
    for stage in images:
        assert stage.startswith("base AS ") and "USER 10001:10001" in stage
        before, _, after = stage.partition("uv sync --no-install-project")
        assert "COPY" not in before and "RUN" not in after


def test_no_image_sends_telemetry() -> None:
    """Our package switches that off where it is loaded; MLflow's server starts without it."""
    ours = {name for name, stage in stages().items() if 'ENTRYPOINT ["/app/driftloop.sh"]' in stage}
    others = {name for name, stage in stages().items() if "ENTRYPOINT" in stage} - ours
    assert others == {"mlflow"} and "ENV MLFLOW_DISABLE_TELEMETRY=true" in stages()["mlflow"]
