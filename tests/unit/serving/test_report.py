"""The report of a run: its figures come from the run's messages, and strangers' text is text in it."""

from __future__ import annotations

import base64
import builtins
import hashlib
import io
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pypdf
import pytest
from msgspec.structs import replace
from scipy.stats import binomtest

from driftloop.cli import run_directory
from driftloop.cli.main import main
from driftloop.cli.simulation.prepare import PreparedRun
from driftloop.cli.simulation.run_report import write_report
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.topic_history import TopicHistory
from driftloop.core.messages import DriftAlert, MixtureUpdate, Outcome, Prediction, Retraining
from driftloop.core.settings import RetrainSettings, Settings
from producers.scenarios.scenarios import load_scenario
from serving.report import aggregates, build, collect, document, formatting, html, pdf, run_data
from serving.report.chapters import candidates
from serving.report.chapters.cost import OVERHEAD, Rates
from serving.report.document import Document
from serving.report.run_data import Injected, RunFacts, Source
from serving.simulation.drift_scoring import Truth
from serving.simulation.summarise import Clock, counts, summarise
from tests.unit.serving.test_case import Page
from tests.unit.serving.test_views import STEERING, made

EVIL = (
    '<img src=x onerror=alert(1)> #set text(red) $x^2$ \\u{41} #eval("1") *b* _i_ `c` @ref <label> \x1b[2J\u202e&amp;'
)
SHOWN = "#set text(red) $x^2$"
CPU = {"score": 40.3, "monitor": 12.5, "retrain": 61.7, "kafka": 9.5, "simulate": 3.0}
MODEL_STATES = ("queued", "searching", "gated", "promoted", "finished")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The command takes SIGTERM and SIGINT for itself; both are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stream(
    end: int, drift: int, segments: Sequence[str] = ("cars", "planes"), labels: Sequence[str] = ("good", "bad", "so-so")
) -> tuple[list[Prediction], list[Outcome]]:
    """Version 1 is right on 9 of 10 events before the drift and on 3 of 10 after it; version 2, from 60 events after it
    on, on 8 of 10. The segments come one after the other."""
    predictions, outcomes = [], []
    for i in range(end):
        version = "1" if i < drift + 60 else "2"
        right = i % 10 < (9 if i < drift else 3 if version == "1" else 8)
        label = labels[i % len(labels)]
        said = label if right else labels[(i + 1) % len(labels)]
        segment = segments[0] if i < drift else segments[-1]
        shared: dict[str, Any] = {
            "event_id": f"e{i}", "text": f"text number {i}", "segment": segment, "occurred_at": 1000 + i / 10,
            "position": i, "model_version": version, "latency_ms": 5.0 + i % 37,
        }  # fmt: skip
        predictions.append(made(Prediction, **shared, label=said, predicted_at=1003 + i / 10))
        outcomes.append(made(Outcome, **shared, predicted=said, label=label, correct=right, confidence=0.75))
    return predictions, outcomes


def scores(champion: float = 0.3125, challenger: float = 0.8125, rows: float = 48.0) -> dict[str, Any]:
    check = {"name": "segment accuracy", "passed": True, "words": "no accuracy harmed", "numbers": {}, "excused": False}
    return {
        "champion_accuracy": champion, "accuracy": challenger, "difference_low": 0.25, "difference_high": 0.75,
        "held_out": rows, "checks": [check], "segments": [], "classes": [],
    }  # fmt: skip


def diary(drift: int, candidate: str = "linear", **fields: Any) -> list[Retraining]:
    """The first model, an answer that is promoted, and a search in which TPOT loses and fine-tuning is given up."""

    def line(state: str, run: str, trigger: str, **more: Any) -> Retraining:
        known = {"state": state, "run_id": run, "trigger": trigger, "at": 1010.0, "reason": f"because of {state}"}
        kind = more.pop("kind", "answer")
        return replace(made(Retraining, **{**known, **fields, **more}), kind=kind)

    said: dict[str, Any] = {"candidate": candidate, "scores": scores(), "seconds": 2.75}
    again: dict[str, Any] = {"candidate": "linear", "scores": scores(0.8125, 0.7969), "seconds": 2.5, "kind": "search"}
    lost: dict[str, Any] = {"candidate": "tpot", "scores": scores(0.8125, 0.7812), "seconds": 44.5, "kind": "search"}
    return [
        line("queued", "first", "bootstrap", position=0),
        line("promoted", "first", "bootstrap", candidate=candidate, version="1"),
        line("finished", "first", "bootstrap", seconds=3.5),
        line("queued", "run", "alert", position=drift + 45),
        line("gated", "run", "alert", **said),
        line("promoted", "run", "alert", version="2", **said),
        line("finished", "run", "alert", seconds=4.25),
        line("queued", "hunt", "alert", position=drift + 75, at=1020.0, kind="search"),
        line("gated", "hunt", "alert", **again),
        line("rejected", "hunt", "alert", version="4", **again),
        line("gated", "hunt", "alert", **lost),
        line("rejected", "hunt", "alert", version="3", **lost),
        line("rejected", "hunt", "alert", candidate="finetune", kind="search"),
        line("finished", "hunt", "alert", seconds=66.25, kind="search"),
    ]


def alert(drift: int, **fields: Any) -> DriftAlert:
    moved = {
        "what": "word",
        "name": "delayed",
        "measure": "share",
        "before": 0.0625,
        "after": 0.4375,
        "texts": ["late"],
    }
    known: dict[str, Any] = {
        "alert_id": "alert", "position": drift + 21, "onset": drift + 3, "onset_at": 1000 + drift / 10,
        "evidence": {"moved": [moved]}, "severity": 0.3125,
    }  # fmt: skip
    return replace(made(DriftAlert, **{**known, **fields}), kind="covariate")


def source(warm_up: int = 100, **fields: Any) -> Source:
    known: dict[str, Any] = {
        "about": "Made up for a test.", "kind": "file", "origin": "reviews.csv", "revision": "0123abcd", "seed": 4711,
        "rate": "41", "label_delay": 123, "planned": 800, "warm_up": warm_up, "masked": ["handle", "link"],
        "command": "driftloop simulate mine.toml",
    }  # fmt: skip
    return Source(**{**known, **fields})


def facts_of(
    end: int = 730, drift: int = 410, warm_up: int = 100, truth: Truth | None = None, clock: Clock | None = None,
    about: Source | None = None, **found: Any,
) -> RunFacts:  # fmt: skip
    """The facts of a made-up run with one drift that is answered."""
    predictions, outcomes = stream(end, drift)
    known: dict[str, Any] = {
        "predictions": predictions, "outcomes": outcomes, "alerts": [alert(drift)], "model_updates": [],
        "retrainings": diary(drift), "dead_letters": [], "events": end,
    }  # fmt: skip
    topics = TopicHistory(**{**known, **found})
    settings = Settings(stream="s", retrain=RetrainSettings(mixture="weight_samples" in found))
    about = about or source(warm_up)
    evidence = collect.collect_from_topics(settings, topics, about, "embedded")
    measured = clock or Clock(seconds=91.5, cpu_seconds=CPU, peak_memory_mb=2304.0, restarts={"score": 0})
    summary = summarise(topics, truth or Truth("made-up", (drift,), True, about.warm_up), measured)
    return RunFacts(summary, evidence)


def nothing(**options: Any) -> RunFacts:
    empty: dict[str, Any] = {"predictions": [], "outcomes": [], "alerts": [], "retrainings": []}
    return facts_of(**{"events": 0, "clock": Clock(seconds=1.0), **empty, **options})


def composed(found: RunFacts, rates: Rates | None = None) -> Document:
    return build.build_document(found, rates or Rates())


def chapter(found: RunFacts, title: str, rates: Rates | None = None) -> str:
    """The text of the chapter whose title begins like that."""
    (one,) = [one for one in composed(found, rates).chapters if one.title.startswith(title)]
    return "\n".join(document.texts(Document(title="", subtitle="", author="", date="", chapters=[one])))


def printed(found: RunFacts) -> str:
    """What a reader of the PDF can select, on one line."""
    reader = pypdf.PdfReader(io.BytesIO(pdf.render(composed(found))))
    return " ".join(" ".join(page.extract_text() for page in reader.pages).replace("\u200b", "").split())


def counted(found: RunFacts, end: int = 730, drift: int = 410) -> list[Outcome]:
    return [one for one in stream(end, drift)[1] if counts(one, found.data.source.warm_up)]


def test_summary_chapter_has_the_figures_of_the_run() -> None:
    found = facts_of()
    rows = counted(found)
    right = sum(one.correct for one in rows)
    said = chapter(found, "Summary")
    assert f"{right / len(rows):.3f} over 630 labelled events" in said
    low, high = binomtest(right, len(rows)).proportion_ci(method="wilson")
    assert f"95% interval {low:.3f} to {high:.3f}" in said
    assert "730 of 730 predicted; 0 duplicates, 0 dead letters" in said
    assert "1 of 1 within 2,000 labelled events; 0 false alarms, 0 repeated alerts" in said
    assert "2 retrainings and 0 refreshes; 1 promoted, 0 rolled back" in said
    assert f"{sum(CPU.values()):.0f} CPU seconds" in said


@pytest.mark.parametrize(("right", "labelled"), [(0, 5), (5, 5), (3, 7), (950, 1000), (1, 30)])
def test_intervals_match_the_wilson_method(right: int, labelled: int) -> None:
    theirs = binomtest(right, labelled).proportion_ci(method="wilson")
    assert formatting.wilson(right, labelled) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_per_class_recall_precision_f1_match_outcomes() -> None:
    found = facts_of()
    rows = counted(found)
    said = chapter(found, "Accuracy over time")
    for label in ("good", "bad", "so-so"):
        true = [one for one in rows if one.label == label]
        called = [one for one in rows if one.predicted == label]
        hit = sum(one.correct for one in true)
        recall, precision = hit / len(true), hit / len(called)
        f1 = 2 * recall * precision / (recall + precision)
        assert (
            "\n".join([label, str(len(true)), str(len(called)), f"{recall:.3f}", f"{precision:.3f}", f"{f1:.3f}"])
            in said
        )


def test_accuracy_bins_count_each_event_once() -> None:
    found = facts_of()
    rows = counted(found)
    assert sum(one.labelled for one in found.data.bins) == len(rows)
    assert sum(one.right for one in found.data.bins) == sum(one.correct for one in rows)
    for one in found.data.bins:
        inside = [row for row in rows if one.start <= row.position < one.end]
        assert (one.labelled, one.right) == (len(inside), sum(row.correct for row in inside))
    long = aggregates.bins([replace(rows[0], position=position) for position in range(0, 100_000, 7)])
    assert len(long) <= aggregates.BINS and {one.end - one.start for one in long} == {1700}


def test_segment_accuracy_gap_mentions_sequential_segments() -> None:
    found = facts_of()
    rows = counted(found)
    said = chapter(found, "Segments and fairness")
    shares = {}
    for name in ("cars", "planes"):
        own = [one for one in rows if one.segment == name]
        shares[name] = sum(one.correct for one in own) / len(own)
        assert f"{name}\n{len(own)}\n{shares[name]:.3f}\n" in said
    assert f"30 labelled events or more is {shares['cars'] - shares['planes']:.3f}: cars compared with planes" in said
    assert "Their intervals do not overlap" in said and "one after the other" in said


def test_mixed_segments_are_not_called_sequential() -> None:
    """A segment with too few events gives no accuracy gap."""
    predictions, outcomes = stream(730, 410)
    mixed = [replace(one, segment=("cars", "planes")[one.position // 3 % 2]) for one in outcomes]
    assert "one after the other" not in chapter(facts_of(outcomes=mixed), "Segments")
    few = [replace(one, segment="rare" if one.position in (200, 201) else "cars") for one in outcomes]
    said = chapter(facts_of(outcomes=few), "Segments")
    assert "too few events" in said and "no gap between segments is given" in said
    none = [replace(one, segment="") for one in outcomes]
    assert "The events carry no segment" in chapter(facts_of(outcomes=none, predictions=predictions), "Segments")


def test_retraining_gain_compares_accuracy_around_promotion() -> None:
    said = chapter(facts_of(), "Accuracy over time")
    assert "431\n0.900 (410)\n0.300 (60)\n0.800 (260)\n+0.500" in said


def test_alerts_show_verdict_delay_and_evidence() -> None:
    said = chapter(facts_of(), "Drift")
    assert "410\n431\n21\nerror" in said and "detection of a true drift" in said
    assert "word\ndelayed\nshare\n0.062\n0.438\nlate" in said
    unknown = chapter(facts_of(truth=Truth("s", (), False, 100)), "Drift")
    assert "unknown" in unknown and "does not list the true changes of the stream" in unknown
    false = facts_of(truth=Truth("s", (), True, 100))
    assert "false alarm" in chapter(false, "Drift") and "False alarms: 1 alert" not in chapter(false, "Limitations")
    assert "1 alert without a drift" in chapter(false, "Limitations")
    missed = facts_of(alerts=[], retrainings=diary(410)[:3])
    assert "1 drift not detected" in chapter(missed, "Drift")
    assert "had changed at 1 known position" in chapter(missed, "Summary")


def test_unreached_drift_does_not_count_as_missed() -> None:
    early = facts_of(end=300, truth=Truth("s", (410,), True, 100), alerts=[], retrainings=diary(410)[:3])
    assert "not reached by this run" in chapter(early, "Drift") and "not detected" not in chapter(early, "Drift")
    assert "no drift so far" in chapter(early, "Summary")


def test_report_lists_retraining_reasons_and_candidate_comparisons() -> None:
    found = facts_of()
    said = chapter(found, "Retrainings")
    assert "455\nanswer\nbecause of queued\nlinear\npromoted v2\n4.2 s" in said
    assert "485\nsearch\nbecause of queued\nlinear, TPOT and fine-tuning\nrejected\n66 s" in said
    said = chapter(found, "Model candidates")
    assert "455\nanswer\nlinear\n48\n0.312\n0.812\n+0.250 to +0.750\n2.8 s\npromoted" in said
    assert "485\nsearch\nTPOT\n48\n0.812\n0.781\n" in said
    assert "fine-tuning\nBecause of rejected. (1 time)" in said
    tried = [(one.candidate.name, one.challenger - one.champion) for one in candidates.comparisons(found)]
    assert tried == [("linear", 0.5), ("linear", pytest.approx(-0.0156)), ("tpot", pytest.approx(-0.0313))]
    linear = "compared 2 times, better than the champion 1 time, promoted 1 time; mean accuracy gain +0.242;"
    assert linear in said
    assert "were both measured in 1 case." in said and "slow candidate had the higher accuracy in 0." in said
    better = [replace(one, scores=scores(0.8, 0.9)) if one.candidate == "tpot" else one for one in diary(410)]
    assert "slow candidate had the higher accuracy in 1." in chapter(facts_of(retrainings=better), "Model candidates")
    alone = [one for one in diary(410) if one.candidate != "tpot"]
    said = chapter(facts_of(retrainings=alone), "Model candidates")
    assert "No search of this run measured both a slow candidate" in said


def test_report_of_a_mixture_shows_its_experts() -> None:
    """Searches are compared with the mixture. The control, a run without one, mentions no expert."""
    shares = [{"online": 0.5, "newest-300": 0.5}, {"online": 0.123, "newest-300": 0.877}]
    samples = [
        MixtureUpdate(stream="s", version="1", revision=1, outcome_offset=at * 50, weights=one, published_at=0.0)
        for at, one in enumerate(shares)
    ]
    mixed = [replace(one, candidate="mixture") if one.candidate == "linear" else one for one in diary(410)]
    found = facts_of(retrainings=mixed, weight_samples=samples[::-1])
    assert [one.labelled for one in found.data.weights] == [1, 51]
    said = chapter(found, "Retrainings")
    assert "A mixture of experts answers" in said and "newest-300 had the largest weight, 0.877" in said
    assert "Weights of the experts over the labelled events" in said
    said = chapter(found, "Model candidates")
    assert "tried as one more expert of the mixture, in 1 case" in said and "they joined it in 0" in said
    alone = [one for one in mixed if one.candidate != "tpot"]
    said = chapter(facts_of(retrainings=alone, weight_samples=samples), "Model candidates")
    assert "No search of this run measured a slow candidate" in said
    assert "expert" not in chapter(facts_of(), "Retrainings") + chapter(facts_of(), "Model candidates")


def test_refresh_has_no_comparison_and_no_card() -> None:
    """Refreshes appear as rows of a table."""
    fresh = [replace(line, kind="refresh") if line.run_id == "run" else line for line in diary(410)]
    found = facts_of(retrainings=fresh)
    assert [one.candidate.name for one in candidates.comparisons(found)] == ["linear", "tpot"]
    said = chapter(found, "Model cards")
    assert "Model card of version 1" in said and "Model card of version 2" not in said and "Refreshes" in said


def test_model_card_reports_accuracy_as_champion() -> None:
    found = facts_of()
    rows = [one for one in counted(found) if one.model_version == "2"]
    said = chapter(found, "Model cards")
    right = sum(one.correct for one in rows) / len(rows)
    assert f"{len(rows)} events from event 470 on; accuracy {right:.3f} on {len(rows)} labels that arrived" in said
    assert "Reason for promotion\nbecause of promoted" in said and "Gate checks\n1 of 1 passed" in said
    checks = "check\nresult\nlimit\nfinding\nsegment accuracy\npassed\n–\nno accuracy harmed"
    assert f"Gate checks of version 2\n{checks}" in said
    assert "planes 0.800 of 260" in said
    assert "No model was promoted" in chapter(facts_of(retrainings=[]), "Model cards")


LONG = (
    "better: 0.633 against 0.233 on the newest 30 events, accuracy +0.400 [+0.133, +0.633], Brier score -0.920 "
    "[-1.264, -0.542]; forgetting: 0.055 against 0.885: excused, since what the champion knew no longer holds"
)


def test_long_reason_is_folded_in_html_not_pdf() -> None:
    lines = [replace(one, reason=LONG) if one.run_id == "run" else one for one in diary(410)]
    found = facts_of(retrainings=lines)
    page = html.render(build.build_document(found, Rates()))
    folded = "".join(re.findall(r"<details>.*?</details>", page, re.DOTALL))
    assert page.count("no longer holds") == folded.count("no longer holds") == 2, "of the retraining, and on the card"
    assert "<summary>Gate decision on version 2</summary>" in folded and "<details open" not in page
    said = chapter(found, "Model cards")
    assert "Reason for promotion\nbetter: 0.633 against 0.233 on the newest 30 events, accuracy +0.400" in said
    assert "since what the champion knew no longer holds" in printed(found)
    plain = html.render(build.build_document(facts_of(), Rates()))
    assert "Full reason" not in plain and plain.count("<details>") == 1, "the gate's checks of version 2 alone"


def test_latencies_leave_out_the_backlog() -> None:
    found = facts_of()
    latencies = sorted(5.0 + i % 37 for i in range(30, 730))
    assert found.data.latency.p50 == latencies[350] and sum(found.data.latency.counts) == 700
    assert found.data.backlog == 30 and found.data.end_to_end.count == 700
    assert found.data.end_to_end.p50 == pytest.approx(3000, abs=1)
    said = chapter(found, "Latency")
    assert (
        "10.0 events per second were predicted on average" in said and "No event was lost: each of 730 events" in said
    )
    lost = facts_of(events=733, clock=Clock(seconds=2.0, restarts={"score": 2}))
    assert "3 events had neither a prediction nor a dead letter" in chapter(lost, "Latency")
    assert "score 2 times" in chapter(lost, "Latency")


def test_energy_and_cost_follow_cpu_seconds_and_rates() -> None:
    found = facts_of()
    total = sum(CPU.values())
    rates = Rates(watts=7.2, price=0.36, currency="EUR")
    said = chapter(found, "Cost and energy", rates)
    assert f"= {total * 7.2 / 3600:.3f} Wh for the cores alone" in said
    assert f"{total * 7.2 / 3600 * OVERHEAD:.3f} Wh with the overhead factor 1.56" in said
    assert f"= {total * 0.36 / 3600:.4f} EUR for the run" in said
    loop = CPU["score"] + CPU["monitor"]
    assert f"scoring and monitoring\n{1000 * loop / 730:.1f}\n" in said
    assert "estimate" in said and "no measurement" in said
    unmeasured = facts_of(clock=Clock(seconds=1.0))
    assert "was not measured" in chapter(unmeasured, "Cost and energy")
    assert "computed" in chapter(found, "Cloud deployment") and "CPU ms" not in chapter(unmeasured, "Cloud deployment")


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(lambda: nothing(), id="nothing at all"),
        pytest.param(lambda: nothing(truth=Truth("s", (), True), about=source(0)), id="nothing, and none was due"),
        pytest.param(lambda: nothing(clock=Clock(seconds=0.0, missing="all of it")), id="incomplete"),
        pytest.param(lambda: facts_of(outcomes=[]), id="no label"),
        pytest.param(lambda: facts_of(outcomes=stream(730, 410)[1][:40]), id="warm-up only"),
        pytest.param(lambda: facts_of(end=101, drift=410, truth=Truth("s", (410,), True, 100)), id="one event counts"),
        pytest.param(lambda: facts_of(retrainings=[], alerts=[]), id="no model known"),
    ],
)
def test_sparse_run_still_has_complete_report(found: Any) -> None:
    made_up = composed(found())
    assert len(made_up.chapters) == 15 and all(one.blocks for one in made_up.chapters)
    assert "nan" not in html.render(made_up).lower().replace("governance", "")
    assert len(pypdf.PdfReader(io.BytesIO(pdf.render(made_up))).pages) >= 5


def test_incomplete_run_is_reported_in_summary() -> None:
    found = facts_of(clock=Clock(seconds=1.0, missing="3 of 9 labels have no outcome"))
    assert "This run is incomplete\nState at its end: 3 of 9 labels have no outcome." in chapter(found, "Summary")
    assert "incomplete" not in chapter(facts_of(), "Summary")


NUMBER = re.compile(r"\d[\d,.]+\d")
CONSTANTS = {
    "2,000", "1.56", "3,600", "2019", "2020", "2024", "100", "1,000", "10,000", "100,000", "0.7", "300", "6,000", "3.5",
    "0.05",
}  # fmt: skip
"""Numbers of the text itself, of settings that both runs share, and of the default rates."""


def other_run(drift: int, pace: float, factor: float) -> RunFacts:
    """A run that shares hardly a figure with that of `facts_of`; a chance one with two such runs is rare."""
    end = round(drift * 1.5)
    predictions, outcomes = stream(end, drift, labels=("good", "bad", "good", "so-so", "bad", "good", "so-so"))

    def moved(one: Any) -> Any:
        times = {"occurred_at": 1000.0 + one.position * pace, "model_version": "7" + one.model_version}
        return replace(one, **times, latency_ms=one.latency_ms * factor)

    lines = []
    for line in diary(drift):
        figures = {**scores(0.13 * factor, 0.21 * factor, round(11 * factor)), "difference_low": 0.037 * factor}
        figures["difference_high"] = 0.093 * factor
        changed = {"seconds": line.seconds * factor, "version": line.version and "7" + line.version}
        position = line.position + round(9 * factor) if line.position > 0 else line.position
        lines.append(replace(line, **changed, position=position, scores=figures if line.scores else {}))
    raised = alert(
        drift,
        severity=0.17 * factor,
        position=drift + round(23 * factor),
        onset=drift + 14,
        onset_at=1000 + drift * pace,
        evidence={},
    )
    return facts_of(
        predictions=[replace(moved(one), predicted_at=1017.0 + one.position * pace) for one in predictions],
        outcomes=[
            replace(moved(one), confidence=0.2 * factor, correct=one.correct and one.position % round(factor) != 0)
            for one in outcomes
            if one.position % 7
        ],
        retrainings=lines,
        events=end,
        alerts=[raised],
        truth=Truth("other", (drift,), True, 217),
        clock=Clock(
            seconds=157.0 * factor,
            cpu_seconds={name: value * factor**number for number, (name, value) in enumerate(CPU.items(), 1)},
            peak_memory_mb=1777.0 * factor,
        ),
        about=source(217, seed=999, rate="77", label_delay=456, planned=2345, revision="", command=""),
    )


def numbers(found: RunFacts) -> set[str]:
    """All that stand in the report with three characters or more, versions of packages and dates left out."""
    undated = [replace(one, promoted_at=0.0) for one in found.data.models]
    told = replace(found.data, software={}, written_at=0.0, models=undated)
    made_up = composed(RunFacts(found.summary, told))
    return {one for text in document.texts(made_up) for one in NUMBER.findall(text)}


def test_report_numbers_are_run_figures_or_constants() -> None:
    """A number that stands in the reports of three runs which share no figure is not one of a run."""
    first, second, third = (
        numbers(found) for found in (facts_of(), other_run(1277, 0.37, 3.3), other_run(1819, 0.083, 4.9))
    )
    assert min(len(first), len(second), len(third)) > 80
    assert (first & second & third) - CONSTANTS == set()


def hostile() -> RunFacts:
    """Every text that a stranger may have written is one that wants to be more than text."""
    labels = (EVIL + " a", EVIL + " b", "$ # c")
    predictions, outcomes = stream(730, 410, (EVIL + " cars", EVIL + " planes"), labels)
    moved = {"what": EVIL, "name": EVIL, "measure": EVIL, "before": 0.1, "after": 0.2, "texts": [EVIL * 3]}
    checks = [EVIL, {"name": [], "words": EVIL}]
    lines = [
        replace(
            line,
            reason=EVIL,
            candidate=line.candidate and EVIL,
            scores=line.scores and {**line.scores, "checks": checks},
        )
        for line in diary(410)
    ]
    about = source(
        about=EVIL, origin=EVIL, revision=EVIL, command=EVIL, masked=[EVIL], rate=EVIL,
        injected=[Injected(kind=EVIL, onset=1, end=2, width=3, classes=[EVIL], segments=[EVIL])],
        annotators=[run_data.Annotator(name=EVIL, share=0.5, flipped=0.1, missing=0.2)],
        parts=[run_data.Part(name=EVIL, start=0, end=5), run_data.Part(name=EVIL, start=5, end=9)],
    )  # fmt: skip
    evidence: dict[str, Any] = {"moved": [moved], "estimated_accuracy": [{"estimate": 0.5, "start": EVIL}]}
    clock = Clock(
        seconds=1.0, cpu_seconds={EVIL: 3.0, **CPU}, restarts={EVIL: 2}, missing=EVIL,
        software={EVIL: EVIL, "platform": EVIL},
    )  # fmt: skip
    found = facts_of(
        predictions=predictions, outcomes=outcomes, retrainings=lines, about=about,
        alerts=[alert(410, detector=EVIL, evidence=evidence, fired={EVIL: 1.0})],
        truth=Truth(EVIL, (410,), True, 100), clock=clock,
    )  # fmt: skip
    chosen = replace(found.data.chosen, encoder=EVIL, policy=EVIL, detectors=[EVIL], candidates=[EVIL])
    models = [
        replace(one, kind=EVIL, digest=EVIL, topic=EVIL, first_offset=EVIL, parameters={EVIL: EVIL, "rows": EVIL})
        for one in found.data.models
    ]
    told = replace(found.data, chosen=chosen, models=models, unread=EVIL, software={EVIL: EVIL})
    return RunFacts(found.summary, told)


def test_hostile_text_stays_plain_text_in_html() -> None:
    page = html.render(composed(hostile(), Rates(currency=EVIL)))
    read = Page(page)
    assert {"script", "img", "iframe", "object", "base", "form"}.isdisjoint(read.elements)
    assert not [name for name, _ in read.attributes if name.startswith("on") or name in ("style", "src", "xlink:href")]
    assert {value[0] for name, value in read.attributes if name == "href"} == {"#"}
    assert read.text["main"].count("<img src=x onerror=alert(1)> #set text(red)") > 20
    assert not any(mark in page for mark in STEERING)


def test_hostile_text_stays_plain_text_in_pdf() -> None:
    found = hostile()
    said = printed(found)
    assert said.count(SHOWN) > 15 and "onerror=alert(1)>" in said
    clean = printed(facts_of())
    assert SHOWN not in clean and "onerror" not in clean


def test_long_word_is_breakable_and_unchanged() -> None:
    word = "x" * 100
    assert pdf.breakable(word).replace(pdf.BREAK, "") == word
    assert max(map(len, pdf.breakable(f"a_{word}/b short").split(pdf.BREAK))) <= pdf.LONGEST + 8
    assert pdf.breakable("a short text, with words") == "a short text, with words"


def test_page_policy_allows_only_its_style_sheet() -> None:
    page = html.render(composed(facts_of()))
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src &#x27;sha256-{digest}&#x27;" in page and "default-src &#x27;none&#x27;" in page
    assert " style=" not in page and "url(http" not in page
    for colour in ("ink", "blue", "violet"):
        assert page.count(f"--{colour}:") == 3, "light, dark, and paper"


def test_page_ids_are_unique_and_references_resolve() -> None:
    read = Page(html.render(composed(facts_of())))
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and len(ids) > 15
    links = {value[1:] for name, value in read.attributes if name == "href"}
    links |= {value for name, value in read.attributes if name == "aria-labelledby"}
    for _, value in read.attributes:
        links |= set(re.findall(r"url\(#([^)]+)\)", value))
    assert links <= set(ids)


def test_tables_have_captions_and_figures_have_labels() -> None:
    read = Page(html.render(composed(facts_of())))
    assert read.elements.count("table") == read.elements.count("caption") > 12
    assert read.elements.count("svg") == read.elements.count("figcaption") == 7
    labels = [value for name, value in read.attributes if name == "aria-label"]
    assert any("730 events to the scorer" in label for label in labels)
    assert (
        "true drift" in read.text["svg"] and "alert: detection" in read.text["svg"] and "promotion" in read.text["svg"]
    )


def test_drawing_shows_untrusted_names_literally() -> None:
    mixed = [replace(one, segment=("$x^2$", "<b>&")[one.position % 2]) for one in stream(730, 410)[1]]
    read = Page(html.render(composed(facts_of(outcomes=mixed))))
    assert "$x^2$" in read.text["svg"] and "<b>&" in read.text["svg"] and "b" not in read.elements


def test_pdf_has_metadata_contents_and_page_numbers() -> None:
    reader = pypdf.PdfReader(io.BytesIO(pdf.render(composed(facts_of()))))
    assert reader.metadata is not None
    assert (reader.metadata.title, reader.metadata.author) == ("Report of a run of driftloop", "driftloop")
    assert len(reader.outline) == 15
    total = len(reader.pages)
    assert f"3 / {total}" in reader.pages[2].extract_text()
    first = " ".join(reader.pages[0].extract_text().split())
    assert "Segments and fairness" in first and "Summary" in first


def test_html_and_pdf_agree_on_key_figures() -> None:
    found = facts_of()
    on_paper = printed(found).replace(" ", "")
    page = Page(html.render(composed(found))).text
    for text in ("431 0.900 (410) 0.300 (60)", "Model card of version 2", "planes 0.800 of 260"):
        assert text.replace(" ", "") in on_paper
        assert text.replace(" ", "") in "".join(page["main"].split())


def test_stored_facts_reproduce_the_same_report(tmp_path: Path) -> None:
    found = facts_of()
    run_data.write(found.data, tmp_path)
    (tmp_path / "summary.json").write_bytes(msgspec.json.encode(found.summary))
    again = run_data.read(tmp_path)
    assert again == found
    assert html.render(composed(again)) == html.render(composed(found))


def run_of(folder: Path, found: RunFacts | None = None) -> Path:
    found = found or facts_of()
    folder.mkdir()
    run_data.write(found.data, folder)
    (folder / "summary.json").write_bytes(msgspec.json.encode(found.summary))
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*argv: str) -> str:
        try:
            code: Any = main(["report", *argv])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert (code, said.out) == (2, "") and said.err.startswith("driftloop: ") and said.err.count("\n") == 1
        return said.err

    return run


def test_report_command_writes_html_and_pdf_with_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = run_of(tmp_path / "run")
    assert main(["report", "--run", str(root), "--watts", "7.2", "--price", "0.36", "--currency", "EUR"]) == 0
    said = capsys.readouterr().out.split()
    assert said == [str(root / "report.html"), str(root / "report.pdf")]
    assert f"{sum(CPU.values()) * 0.36 / 3600:.4f} EUR" in (root / "report.html").read_text()
    assert (root / "report.pdf").read_bytes().startswith(b"%PDF")


def test_report_of_unfinished_run_is_refused(tmp_path: Path, refused: Any) -> None:
    """The refusal is one sentence, and no report is written."""
    assert "There is no run directory" in refused("--run", str(tmp_path / "nowhere"))
    assert "has no summary.json" in refused("--run", str(tmp_path))
    root = run_of(tmp_path / "run")
    (root / "report.json").unlink()
    assert "has no report.json" in refused("--run", str(root)) and "--resume" in refused("--run", str(root))
    (root / "report.json").write_text('{"models": 7}')
    assert "report.json is damaged" in refused("--run", str(root))
    (root / "summary.json").write_bytes(b"\xff")
    assert "summary.json is damaged" in refused("--run", str(root))
    assert not (root / "report.html").exists() and not (root / "report.pdf").exists()


def test_rates_must_be_positive_numbers(tmp_path: Path, refused: Any) -> None:
    for wrong in ("0", "-1", "nan", "inf", "cheap"):
        assert "is not a number above 0" in refused("--run", str(tmp_path), "--price", wrong)
    assert "required" in refused()


@pytest.mark.parametrize("package", ["matplotlib", "typst"])
def test_missing_report_extra_names_install_command(
    tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    root = run_of(tmp_path / "run")
    there = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}", name=package)
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    said = refused("--run", str(root))
    assert f"needs {package}" in said and "pip install 'driftloop[report]'" in said
    assert not (root / "report.html").exists()


@pytest.fixture
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings that lead to an MLflow that nobody has started."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield Settings(stream="s", mlflow="http://127.0.0.1:9")


def conclude(root: Path, settings: Settings) -> None:
    predictions, outcomes = stream(730, 410)
    found = TopicHistory(
        predictions=predictions,
        outcomes=outcomes,
        alerts=[],
        model_updates=[],
        retrainings=diary(410),
        dead_letters=[],
        events=730,
    )
    scenario = load_scenario("tweets-short")
    record = run_directory.Record(scenario="tweets-short", limit=730)
    summary = summarise(found, Truth("tweets-short", (), True, 100), Clock(seconds=1.0))
    write_report(PreparedRun(root, record, settings, scenario, 730, 100), found, summary)


def test_report_is_written_without_reachable_registry(
    tmp_path: Path, no_mlflow: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report names the part that is missing."""
    conclude(tmp_path, no_mlflow)
    assert "report.pdf" in capsys.readouterr().out
    (tmp_path / "summary.json").write_bytes(msgspec.json.encode(facts_of().summary))
    evidence = run_data.read(tmp_path).data
    assert "No MLflow answers" in evidence.unread and [one.version for one in evidence.models] == ["1", "2"]
    assert evidence.source.command == "driftloop simulate tweets-short --limit 730"
    assert evidence.source.masked == ["handle", "email", "phone", "link"]
    assert "MLflow did not answer" in (tmp_path / "report.html").read_text()


def test_unwritable_report_does_not_fail_the_run(
    tmp_path: Path, no_mlflow: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.pdf").mkdir()
    conclude(tmp_path, no_mlflow)
    said = capsys.readouterr()
    assert "There is no report: " in said.err and "report.pdf cannot be written" in said.err and said.out == ""
    assert (tmp_path / "report.json").is_file()


def test_report_exception_does_not_fail_the_run(
    tmp_path: Path, no_mlflow: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_report", lambda *_: 1 // 0)
    conclude(tmp_path, no_mlflow)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_report_file_is_written_atomically(tmp_path: Path) -> None:
    with pytest.raises(DriftloopError, match="cannot be written"):
        run_data.write_file(tmp_path / "nowhere" / "file", b"x")
    (tmp_path / "file").write_bytes(b"before")
    assert run_data.write_file(tmp_path / "file", b"after").read_bytes() == b"after"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
