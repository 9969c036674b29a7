"""deploy/prometheus and deploy/grafana: promtool takes them, rules fire where they must, every metric is a real one."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
PAGE = ROOT / "docs" / "metrics.md"
HISTOGRAM = re.compile(r"_(bucket|sum|count)$")
OF_PROMETHEUS = {"service", "instance", "job", "le", "alertstate"}
"""Labels that no process gives."""


@pytest.fixture(scope="module")
def promtool() -> str:
    """Where it is; fetched where this machine has none."""
    done = subprocess.run([ROOT / "tests" / "promtool.sh"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run(promtool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    return [rule for group in read(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    (path,) = (GRAFANA / "dashboards").glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def shown() -> dict[str, str]:
    """The queries of the dashboard, by where they stand."""
    page = dashboard()
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in page["panels"]
        for target in panel.get("targets", ())
    }
    return found | {one["name"]: one["expr"] for one in page["annotations"]["list"]}


def listed() -> dict[tuple[str, str], tuple[str, frozenset[str]]]:
    """By process and metric, its type and labels as docs/metrics.md has them."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if cells := re.fullmatch(r"\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\| ([\w, ]+) \| .+ \|", line):
            name, kind, labels, processes = cells.groups()
            for process in processes.split(", "):
                assert (process, name) not in found, f"{name} stands there twice"
                found[process, name] = (kind, frozenset(labels.split(", ")) - {""})
    return found


def test_promtool_accepts_configuration_and_rules(promtool: str) -> None:
    done = run(promtool, "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0 and f"{len(rules())} rules found" in done.stdout, done.stdout + done.stderr


def test_alert_rules_fire_only_in_expected_cases(promtool: str) -> None:
    done = run(promtool, "test", "rules", PROMETHEUS / "alerts.test.yml")
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("never", "expected"), [(True, r"exp:\[[^\]]"), (False, r"exp:\[\]")])
def test_control_rule_firing_never_or_always_is_detected(
    never: bool, expected: str, promtool: str, tmp_path: Path
) -> None:
    """So each of them has a case of both kinds."""
    groups = read(PROMETHEUS / "alerts.yml")
    for rule in itertools.chain.from_iterable(group["rules"] for group in groups["groups"]):
        if "alert" in rule:
            rule["expr"] = "vector(1) > 1" if never else "vector(1)"
            rule.pop("for", None)
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    shutil.copy(PROMETHEUS / "alerts.test.yml", tmp_path)
    done = run(promtool, "test", "rules", tmp_path / "alerts.test.yml")
    said = re.sub(r"\s", "", done.stdout + done.stderr)
    found = {alert for alert in alerts() if re.search(rf"alertname:{alert},time:[^,]+,{expected}", said)}
    assert done.returncode == 1 and found == set(alerts())


def test_promtool_accepts_every_dashboard_query(promtool: str, tmp_path: Path) -> None:
    def check(queries: dict[str, str]) -> subprocess.CompletedProcess[str]:
        made = [
            {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
            for number, query in enumerate(queries.values())
        ]
        file = tmp_path / "queries.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}), encoding="utf-8")
        return run(promtool, "check", "rules", file)

    done = check(shown())
    assert done.returncode == 0 and f"{len(shown())} rules found" in done.stdout, done.stdout + done.stderr
    for where, query in shown().items():
        assert check({where: f"{query} )"}).returncode != 0, "the control: a query that is none"


def wrong_names(query: str) -> Iterator[str]:
    """What a query asks for that nobody has, or by labels that it does not have."""
    kinds = {name: kind for (_, name), (kind, _) in listed().items()}
    labels = {name: found for (_, name), (_, found) in listed().items()}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    grouped = {word for words in re.findall(r"\b(?:by|on) \((.*?)\)", query) for word in words.split(", ")} - {""}
    for name, matchers in re.findall(r"\b(driftloop[:_][\w:]+)(?:\{(.*?)\})?", query):
        base = HISTOGRAM.sub("", name) if kinds.get(HISTOGRAM.sub("", name)) == "histogram" else name
        if name in recorded:
            continue
        if base not in kinds or (kinds[base] == "histogram") != (base != name):
            yield f"no metric {name}"
        elif unknown := {*re.findall(r"(\w+)(?:=~?|!=|!~)\"", matchers), *grouped} - labels[base] - OF_PROMETHEUS:
            yield f"{name} has no {', '.join(sorted(unknown))}"


def test_rules_and_panels_use_only_documented_metrics() -> None:
    assert len({name for _, name in listed()}) > 20
    queries = {**shown(), **{rule.get("alert", rule.get("record")): rule["expr"] for rule in rules()}}
    found = {where: list(wrong_names(query)) for where, query in queries.items()}
    assert not {where: wrong for where, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("driftloop_events", "no metric driftloop_events"),
        ("sum(driftloop_records) > 1", "no metric driftloop_records"),
        ("driftloop_batch_seconds", "no metric driftloop_batch_seconds"),
        ("driftloop_lag_records_bucket", "no metric driftloop_lag_records_bucket"),
        ('driftloop_messages_total{role="scorer"}', "driftloop_messages_total has no role"),
        ("sum by (version) (driftloop_messages_total)", "driftloop_messages_total has no version"),
        ("driftloop:accuracy_of_nothing", "no metric driftloop:accuracy_of_nothing"),
    ],
)
def test_control_unknown_metric_or_label_is_reported(query: str, wrong: str) -> None:
    assert list(wrong_names(query)) == [wrong]


def test_dashboard_panels_are_complete_without_overlap() -> None:
    page = dashboard()
    panels = page["panels"]
    (source,) = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert len(panels) == len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels})
    used = [panel["datasource"] for panel in panels if panel["type"] != "row"]
    used += [target["datasource"] for panel in panels for target in panel.get("targets", ())]
    used += [one["datasource"] for one in page["annotations"]["list"]]
    assert {(one["type"], one["uid"]) for one in used} == {(source["type"], source["uid"])}
    for panel in panels:
        assert panel["type"] == "row" or (panel["targets"] and panel["description"]), panel["title"]
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(references) == len(set(references))
    places = [panel["gridPos"] for panel in panels]
    taken = [
        (column, line)
        for at in places
        for column in range(at["x"], at["x"] + at["w"])
        for line in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken)), "two panels overlap"
    assert {column for column, _ in taken} == set(range(24)), "a panel is outside the 24 columns"


def test_monitoring_files_agree_with_compose_services() -> None:
    services = read(ROOT / "docker-compose.yml")["services"]
    mounts = {
        name: dict(volume.split(":")[:2] for volume in service.get("volumes", ())) for name, service in services.items()
    }
    configuration = read(PROMETHEUS / "prometheus.yml")
    for name in ("prometheus.yml", *configuration["rule_files"]):
        assert mounts["prometheus"][f"./deploy/prometheus/{name}"] == f"/etc/prometheus/{name}"
    scraped, loop = configuration["scrape_configs"]
    (names,) = (one["names"] for one in scraped["dns_sd_configs"])
    (relabel,) = scraped["relabel_configs"]
    given = {re.sub(f"^{relabel['regex']}$", r"\1", name) for name in names} | {
        loop["static_configs"][0]["labels"]["service"]
    }
    assert set(names) <= services.keys() and given == {"scorer", "monitor", "retrainer", "producer", "api"}
    asked = set(itertools.chain.from_iterable(re.findall(r'service="(\w+)"', rule["expr"]) for rule in rules()))
    assert asked and asked <= given
    (source,) = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    (provider,) = read(GRAFANA / "provisioning" / "dashboards" / "driftloop.yml")["providers"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services["grafana"]["depends_on"]
    assert mounts["grafana"]["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounts["grafana"]["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert f"/api/dashboards/uid/{dashboard()['uid']}" in str(services["grafana"]["healthcheck"]["test"])
