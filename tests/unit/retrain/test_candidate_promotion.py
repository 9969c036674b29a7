"""Records of a verdict: scores on the topic, metrics and tags in MLflow."""

from __future__ import annotations

import msgspec

from retrain.evaluation.gate import judge
from retrain.evaluation.guards import Latency
from retrain.evaluation.sequential_test import ShadowTest
from retrain.promotion.candidate_promotion import list_checks, metrics_of, scores_of
from tests.unit.retrain.test_gate import mostly, rows


def test_scores_include_all_verdict_figures() -> None:
    newest = rows(mostly(1, 200, 0.3), mostly(2, 200, 0.85), segments=["x", "y"] * 100)
    verdict = judge(newest, before=rows(mostly(8, 200, 0.8), mostly(9, 200, 0.4)), latency=Latency(5.0, 900.0))
    scores = scores_of(verdict)
    assert scores == msgspec.json.decode(msgspec.json.encode(scores))
    assert scores["brier_gain_low"] < scores["brier_gain"] < scores["brier_gain_high"] and scores["refresh"] is False
    found = {check["name"]: check for check in scores["checks"]}
    assert found["latency"]["limit"] == 250.0 and found["latency"]["numbers"]["challenger_ms"] == 900.0
    assert set(found["forgetting"]["numbers"]) == {
        "champion", "challenger", "chance", "rows", "champion_newest", "annotators",
    }  # fmt: skip
    assert list_checks(scores["checks"]).splitlines()[-2:] == [
        f"forgetting excused: {found['forgetting']['words']}",
        "latency failed: 900.00 ms per event against 5.00, over the budget of 250 ms",
    ]


def test_nested_figures_become_prefixed_metrics() -> None:
    test = ShadowTest(0.1)
    test.update("a", {"a": 0.4, "b": 0.6}, {"a": 0.9, "b": 0.1})
    scores = {
        "accuracy": 0.8,
        "refresh": False,
        "checks": [],
        "shadow": test.as_json(),
        "quantisation": {"agreement": 0.99, "loss": 0.0, "rows": 100, "int8": True},
        "fit": "the best so far was kept",
    }
    metrics = metrics_of(scores)
    assert {"accuracy": 0.8, "shadow_events": 1.0, "shadow_accuracy_gain": 1.0, "quantisation_int8": 1.0}.items() <= (
        metrics.items()
    )
    assert "shadow_verdict" not in metrics and all(isinstance(value, float) for value in metrics.values())
