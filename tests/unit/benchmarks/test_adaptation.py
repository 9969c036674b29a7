"""Adaptation benchmark: the references, and equal rows for equal commands.

The streams are synthetic texts of two classes whose labels change places half-way. Counts of their most frequent words
replace an encoder's embeddings.
"""

import dataclasses
import json
from functools import cache
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from benchmarks.adaptation import baselines, run
from benchmarks.adaptation.measurement import measure
from benchmarks.adaptation.playback import Stream
from benchmarks.adaptation.results import write
from driftloop.cli import main
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import RetrainSettings, Settings
from producers.scenarios.scenarios import load_scenario
from producers.simulated_annotators import Annotation
from retrain.policies.base import ALWAYS, CompletedRetraining, PolicyContext, Retrain, Wait

EVENTS, SWAP, DELAY, BOOTSTRAP = 1000, 500, 40, 100

FILE = f"""
label_delay = {DELAY}
bootstrap = {BOOTSTRAP}
drifts = []
[dataset]
synthetic = {{ events = {EVENTS}, signal = 0.9 }}
"""
DRIFT = f"""
[[inject]]
kind = "label-swap"
start = {SWAP}
swap = ["praise", "complaint"]
"""


def embeddings(texts, model=None):
    """Stands for the encoder: unit-length counts of the 64 most frequent words, shape (n, 64)."""
    counts = CountVectorizer(max_features=64).fit_transform(texts).toarray().astype(np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)


def make_stream(folder, text):
    path = folder / "swapped.toml"
    path.write_text(text)
    scenario = load_scenario(str(path))
    texts = [row.text for row in scenario.sequence]
    numbers = {word: at for at, word in enumerate(sorted({word for text in texts for word in text.split()}))}
    return Stream(scenario, embeddings(texts), [[numbers[word] for word in text.split()] for text in texts])


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return make_stream(tmp_path_factory.mktemp("swapped"), FILE + DRIFT)


@pytest.fixture(scope="module")
def row_of(stream):
    """Measures a system once."""
    return cache(lambda system: measure(stream, system, Settings(), 1.0).row)


def test_oracle_swaps_model_soon_after_true_drift(stream, row_of):
    """The oracle detects nothing itself: detections and false alarms stay undefined."""
    row = row_of("oracle")
    assert row.drifts == [SWAP]
    assert row.retrainings >= 1
    assert SWAP + DELAY < row.swapped_at[0] < SWAP + DELAY + 250, "as soon as there are labels enough to win with"
    assert row.accuracy > row_of("never").accuracy + 0.4
    assert (row.detected, row.false_alarms) == (None, None), "it detects nothing: it is told"


def test_mixture_learns_swapped_labels_without_a_search(row_of):
    row = row_of("mixture")
    assert row.accuracy > row_of("never").accuracy + 0.4
    assert (row.retrainings, row.rollbacks) == (0, 0) and row.fits > 10
    assert row.swapped_at and row.swapped_at[0] > SWAP + DELAY, "a snapshot of the new concept"


@pytest.mark.parametrize(
    "option", ["online=0", "concept=0", "words=0", "alerts=0", "seconds=20", "rate=1", "speed=2000"]
)
def test_options_of_the_mixture_change_its_row(row_of, option):
    assert row_of(f"mixture?{option}").blocks != row_of("mixture").blocks


@pytest.mark.parametrize("option", ["share=2", "size=3", "windows=0", "share=x"])
def test_unknown_option_of_the_mixture_is_refused(stream, option):
    with pytest.raises(DriftloopError, match="mixture"):
        measure(stream, f"mixture?{option}", Settings(), 1.0)


class Heard:
    """A policy that keeps what it was told last."""

    name = "heard"

    def decide(self, now, alerts, outcomes):
        self.positions = [alert.position for alert in alerts]
        return Wait("it only listens")


def test_scripted_alert_arrives_with_its_events_label(stream):
    """Alerts of real detectors are not passed on, and no scripted alert comes early."""
    told = baselines.ScriptedAlerts(heard := Heard(), baselines.oracle_alerts(stream.scenario))
    (detected,) = baselines.dummy_alerts(stream.scenario, SWAP, every=EVENTS - SWAP)
    for newest, expected in ((SWAP - 1, []), (SWAP, [SWAP])):
        outcomes = [SimpleNamespace(position=newest)]
        told.decide(PolicyContext(newest + 1), [detected], outcomes)
        assert heard.positions == expected, "what a detector says is not passed on"


def test_oracle_without_drift_never_retrains(tmp_path):
    still = make_stream(tmp_path, FILE)
    row = measure(still, "oracle", Settings(), 1.0).row
    assert (row.fits, row.swaps, row.drifts) == (0, 0, [])


def test_dummy_detectors_never_fire_or_fire_regularly(stream, row_of):
    never, always = row_of("never-fire"), row_of("always-fire")
    assert (never.fits, never.detected, never.alerts) == (0, 0, [])
    assert never.accuracy == row_of("never").accuracy
    positions = [at for at, _, _ in always.alerts]
    assert positions == list(range(BOOTSTRAP + 99, EVENTS, 100))
    assert (always.detected, always.delays) == (1, [99])
    assert always.false_alarms == sum(at < SWAP for at in positions)
    assert always.repeats == sum(at > SWAP + 99 for at in positions)
    assert always.fits > row_of("oracle").retrainings


def test_dummy_detector_counts_only_received_labels(stream):
    said = tuple(Annotation("", None if at % 2 else row.label) for at, row in enumerate(stream.scenario.sequence))
    half = dataclasses.replace(stream.scenario, annotations=said)
    alerts = baselines.dummy_alerts(half, BOOTSTRAP)
    assert [alert.position for alert in alerts][:2] == [BOOTSTRAP + 198, BOOTSTRAP + 398]


def test_single_detector_is_scored_by_own_alerts(row_of):
    row = row_of("error:adwin")
    assert row.detected == 1
    assert 0 <= row.delays[0] < 400
    assert {signal for _, signal, _ in row.alerts} == {"error"}
    assert row.alerts[0] not in row_of("never").alerts, "the fused detector watches the model that stays"
    assert len(row.alerts) == row.detected + row.false_alarms + row.repeats
    assert row.accuracy > row_of("never").accuracy + 0.3


def test_pooled_head_is_no_ceiling_under_label_swap(row_of):
    assert row_of("iid").accuracy < 0.75
    assert row_of("iid-concepts").accuracy > 0.9


def test_online_learner_receives_labels_after_delay(stream, row_of):
    assert row_of("online:softmax").fits == EVENTS
    early = dataclasses.replace(stream.scenario, label_delay=0)
    late = dataclasses.replace(stream.scenario, label_delay=EVENTS)
    learnt = {
        delay: baselines.learn_online(Stream(scenario, stream.embeddings), "softmax", BOOTSTRAP, 7)[0][SWAP:].mean()
        for delay, scenario in ((0, early), (DELAY, stream.scenario), (EVENTS, late))
    }
    assert learnt[0] > learnt[DELAY] > learnt[EVENTS]
    assert learnt[EVENTS] < 0.3, "without a label since the swap it goes on as before"


def test_online_learner_trains_on_sent_labels(stream):
    lies = {"praise": "complaint", "complaint": "praise"}
    said = tuple(Annotation("liar", lies[row.label]) for row in stream.scenario.sequence)
    lied = Stream(dataclasses.replace(stream.scenario, annotations=said), stream.embeddings)
    correct, _ = baselines.learn_online(lied, "softmax", BOOTSTRAP, 7)
    assert correct[BOOTSTRAP:SWAP].mean() < 0.3, "learnt from lies, scored against the truth"


def test_cara_retrains_once_errors_exceed_threshold():
    """Errors count from the last retraining on."""
    outcomes = [SimpleNamespace(correct=at % 2 == 0, in_sample=at < 10, occurred_at=float(at)) for at in range(20)]
    assert isinstance(baselines.Cara(4).decide(PolicyContext(20), [], outcomes), Retrain), "five of ten"
    assert isinstance(baselines.Cara(5).decide(PolicyContext(20), [], outcomes), Wait)
    past = CompletedRetraining(15, ALWAYS, 15, 14.0, "cara", True, "search")
    assert isinstance(baselines.Cara(2).decide(PolicyContext(20, (past,)), [], outcomes), Retrain), (
        "three of the last five"
    )
    assert isinstance(baselines.Cara(3).decide(PolicyContext(20, (past,)), [], outcomes), Wait)


def test_cara_threshold_rises_with_retraining_price(stream):
    chosen = {}
    for price in (0.0, 1e6):
        retrain = RetrainSettings(bootstrap=BOOTSTRAP, window=100, cost_of_second=price)
        chosen[price] = baselines.choose_threshold(stream, Settings(retrain=retrain), 40, SWAP + 200)
    assert chosen[0.0] < chosen[1e6] <= 200, "at most what the prefix reaches"


def test_unknown_drifts_are_not_scored(tmp_path):
    unknown = make_stream(tmp_path, FILE.replace("drifts = []", ""))
    assert not unknown.scenario.drifts_known
    row = measure(unknown, "never-fire", Settings(), 1.0).row
    assert (row.drifts, row.detected, row.false_alarms) == (None, None, None)


def test_short_stream_uses_a_quarter_as_bootstrap(tmp_path):
    text = FILE.replace(f"bootstrap = {BOOTSTRAP}\n", "").replace(f"events = {EVENTS}", "events = 240")
    row = measure(make_stream(tmp_path, text), "never", Settings(), 1.0).row
    assert (row.events, row.counted_from) == (240, 120)
    assert row.accuracy > 0.7


@pytest.mark.parametrize("system", ["never", "mixture"])
def test_too_few_first_events_are_refused(tmp_path, system):
    few = make_stream(tmp_path, FILE.replace(f"bootstrap = {BOOTSTRAP}", "bootstrap = 2"))
    with pytest.raises(DriftloopError, match="set `bootstrap` in the scenario, or --bootstrap"):
        measure(few, system, Settings(), 1.0)


def test_unknown_system_or_learner_is_refused(stream):
    with pytest.raises(DriftloopError, match="no system 'perodic:10'"):
        measure(stream, "perodic:10", Settings(), 1.0)
    with pytest.raises(DriftloopError, match="no online learner 'svm'"):
        measure(stream, "online:svm", Settings(), 1.0)


@pytest.fixture
def csv(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "embed", embeddings)
    path = tmp_path / "my reviews.csv"
    words = {"good": "excellent superb fine", "bad": "awful terrible broken"}
    lines = [
        f'"{words[label]} thing {n % 7}",{label}' for n in range(400) for label in [("good", "bad")[n * n % 3 % 2]]
    ]
    path.write_text("review,stars\n" + "\n".join(lines) + "\n")
    return path


def test_the_same_command_gives_the_same_rows(csv, tmp_path, capsys):
    command = ["--csv", str(csv), "--text", "review", "--label", "stars", "--label-delay", "20", "--drifts", "200"]
    command += ["--systems", "never", "on-drift", "always-fire", "online:softmax", "iid"]
    said, kept = [], []
    for name in ("one", "two"):
        measured = run.run([*command, "--out", str(tmp_path / f"{name}.json")])
        said.append(capsys.readouterr().out)
        kept.append([one["row"] for one in json.loads((tmp_path / f"{name}.json").read_bytes())])
        assert kept[-1] == json.loads(msgspec.json.encode([one.row for one in measured]))
    assert said[0] == said[1]
    assert kept[0] == kept[1]
    assert [row["system"] for row in kept[0]] == ["never", "on-drift", "always-fire", "online:softmax", "iid"]
    assert {tuple(row["drifts"]) for row in kept[0]} == {(200,)}
    assert run.run(["--read", str(tmp_path / "one.json")])
    assert capsys.readouterr().out == said[0]


def test_first_events_of_a_csv_can_be_chosen(csv, capsys):
    command = ["--csv", str(csv), "--text", "review", "--label", "stars", "--systems", "never", "--label-delay", "20"]
    assert run.run([*command, "--bootstrap", "300"])[0].row.counted_from == 300
    for number, said in (("400", "there are 400"), ("0", "--bootstrap"), ("-4", "--bootstrap")):
        assert run.main([*command, "--bootstrap", number]) == 2
        assert said in capsys.readouterr().err


def test_wrong_options_exit_2_with_error_message(csv, capsys):
    assert run.main(["--csv", str(csv), "--text", "nothing", "--systems", "never"]) == 2
    assert "no column 'nothing'" in capsys.readouterr().err
    assert run.main(["--seed", "one"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bench_command_passes_options_to_benchmark(stream, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["driftloop"])
    write(tmp_path / "rows.json", [measure(stream, "never", Settings(), 1.0)])
    assert main.main(["bench", "adaptation", "--read", str(tmp_path / "rows.json"), "--cpu"]) == 0
    assert "watch CPU s" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main(["bench", "adaptation", "--help"])
    assert "usage: driftloop bench adaptation" in capsys.readouterr().out
