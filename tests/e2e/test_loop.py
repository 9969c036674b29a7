"""The whole loop as its users start it: one true drift that is answered, and the control in which nothing happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pypdf
import pytest

from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import load_bundle
from driftloop.core.models.registry import Registry
from driftloop.core.settings import Settings
from driftloop.devstack.stack import EmbeddedStack
from retrain.policies.mixture_rounds import MORE_LABELS
from serving.audit.audit import audit
from serving.report.chapters.cost import PROCESSES

pytestmark = pytest.mark.timeout(600)

QUICK = {"DRIFTLOOP_RETRAIN__TPOT_SECONDS": "15", "DRIFTLOOP_RETRAIN__FINETUNE_SECONDS": "30"}


def simulate(folder: Path, *arguments: str, **settings: str) -> dict[str, Any]:
    """Run `driftloop simulate` to its end, with settings as variables, and return its summary."""
    chosen = QUICK | {f"DRIFTLOOP_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "driftloop", "simulate", *arguments, "--plain", "--out", str(folder)]
    done = subprocess.run(command, env=os.environ | chosen, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def test_short_run_answers_drift_without_loss(tmp_path: Path) -> None:
    """The fast tier's one run: a drift at event 1,500 of 2,400, without slow candidates."""
    folder = tmp_path / "run"
    summary = simulate(
        folder, "tweets-short", "--limit", "2400", "--rate", "90", "--no-page", RETRAIN__CANDIDATES="linear"
    )
    assert summary["events"] == summary["predictions"] == 2400
    assert summary["duplicates"] == summary["dead_letters"] == summary["false_alarms"] == 0
    (drift,) = summary["drifts"]
    assert 1500 == drift["true_position"] <= drift["detected_position"] < 2000
    assert summary["promotions"] >= 1
    with EmbeddedStack(folder) as stack:
        found = audit(stack.settings(Settings()))
    assert found.clean and found.counts["events"] == found.counts["predictions"] == 2400, found


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("drifted") / "run"
    return folder, simulate(folder, "tweets-short", "--rate", "50")


@pytest.mark.slow
def test_drift_is_detected_and_events_predicted_once(drifted: tuple[Path, dict[str, Any]]) -> None:
    _, summary = drifted
    assert summary["events"] == summary["predictions"] == 3500
    assert summary["duplicates"] == summary["dead_letters"] == summary["false_alarms"] == 0
    (drift,) = summary["drifts"]
    assert drift["true_position"] == 1500
    assert 1500 <= drift["detected_position"] < 2000


@pytest.mark.slow
def test_better_model_is_promoted_automatically(drifted: tuple[Path, dict[str, Any]]) -> None:
    """Old and new model score the same events, those that the new one scored live: neither was trained on them.

    The registered models do not learn; live, the new one learns on.
    """
    folder, summary = drifted
    rounds = summary["retrainings"] + summary["refreshes"]
    promoted = [int(run["version"]) for run in rounds if run["verdict"] == "promoted"]
    assert promoted and summary["promotions"] >= 1
    tried = {name for run in summary["retrainings"] for name in run["candidates"]}
    assert tried == {"mixture", "tpot", "finetune"}
    with EmbeddedStack(folder) as stack:
        settings = stack.settings(Settings())
        registry = Registry(settings)
        champion = int(registry.champion() or 0)
        assert champion == max(promoted) or (summary["rollbacks"] and champion > max(promoted))
        outcomes = clients.read_all(settings, topics.name(settings, topics.OUTCOMES), Outcome)
        scored = Counter(outcome.model_version for outcome in outcomes)
        new = max(scored.keys() - {"1"}, key=scored.__getitem__)
        after = [outcome for outcome in outcomes if outcome.model_version == new]
        assert len(after) >= 100, "the promotions came too late to compare anything"
        accuracy = {}
        for version in ("1", new):
            bundle = registry.download(version, folder / "compared")
            model = load_bundle(bundle, settings.signing_key, version=version)
            said = model.predict([outcome.text for outcome in after]).labels
            accuracy[version] = sum(a == o.label for a, o in zip(said, after, strict=True)) / len(after)
        live = sum(outcome.correct for outcome in after) / len(after)
        for version in registry.versions():
            assert version.tags["verdict"] in {"promoted", "rejected"} and version.tags["reason"]
            assert {"trigger", "first_offset", "last_offset", "parent_version", "digest"} <= version.tags.keys()
    assert accuracy[new] > accuracy["1"] + 0.1, accuracy
    assert live > accuracy[new] - 0.02, "the labels that came later have made it worse"


@pytest.mark.slow
def test_run_writes_report_with_its_figures(drifted: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = drifted
    reader = pypdf.PdfReader(folder / "report.pdf")
    said = " ".join(" ".join(page.extract_text() for page in reader.pages).split())
    page = (folder / "report.html").read_text(encoding="utf-8")
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert reader.metadata is not None and reader.metadata.title == "Report of a run of driftloop"
    assert len(reader.pages) >= 8 and len(reader.outline) == 15
    accuracy = summary["accuracy"]
    for text in (said, page):
        assert f"{accuracy['prequential']:.3f} over {accuracy['counted']:,} labelled events" in text
        assert "3,500 of 3,500 predicted" in text and "1 of 1 within 2,000 labelled events" in text
        assert "account names, e-mail addresses, phone numbers and links" in text
    for name, share in accuracy["per_segment"].items():
        assert f'<td class="text">{name}</td><td class="number">' in page and f">{share:.3f}</td>" in page
    promoted = [model for model in told["models"] if model["kind"] in ("bootstrap", "answer", "search")]
    assert told["unread"] == "" and promoted[0]["version"] == "1"
    for model in promoted:
        assert f"Model card of version {model['version']}" in page and model["digest"] in page
    assert len(PROCESSES) == 9 and set(PROCESSES) == set(summary["cpu_seconds"]), "each is said what it does"
    assert all(summary["cpu_seconds"].values())


@pytest.mark.slow
def test_report_can_be_rewritten_after_the_run(drifted: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = drifted
    before = (folder / "report.html").read_bytes()
    (folder / "report.pdf").unlink()
    command = [sys.executable, "-m", "driftloop", "report", "--run", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").read_bytes() == before
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.parametrize("mixture", ["true", "false"])
def test_control_stream_without_drift_answers_none(tmp_path: Path, mixture: str) -> None:
    """A single champion stays. A mixture is registered again when its labels have grown threefold."""
    summary = simulate(
        tmp_path / "run",
        *("tweets-stationary", "--limit", "3000", "--rate", "150"),
        RETRAIN__MIXTURE=mixture,
        RETRAIN__CANDIDATES="linear",
    )
    assert summary["events"] == summary["predictions"] == 3000
    triggers = [run["trigger"] for run in summary["retrainings"] + summary["refreshes"]]
    assert triggers == ([MORE_LABELS] if mixture == "true" else [])
    assert summary["promotions"] == len(triggers)
    assert summary["false_alarms"] <= 1
