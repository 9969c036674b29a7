"""Classes of one's own: found by module:Class or by an entry point, and one sentence where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from my_package.candidate import ClassMeans
from my_package.detector import Cusum
from my_package.policy import EveryMistakes

from driftloop.core import plugins, settings_source
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import RetrainSettings
from retrain.candidates import catalogue
from retrain.policies.builtin import Budgeted
from retrain.policies.catalogue import make_policy
from stream_processors.drift import drift_monitor
from stream_processors.drift.checks import alarms, bernoulli
from stream_processors.drift.detectors import RiverDetector, make_detector
from stream_processors.monitoring.monitor import State, _signed, _unsigned

POINTS = """[driftloop.detectors]
cusum = my_package.detector:Cusum
lost = my_package.detector:Nowhere
[driftloop.candidates]
class-means = my_package.candidate:ClassMeans
[driftloop.policies]
every-mistakes = my_package.policy:EveryMistakes
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that offers the examples under short names."""
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)


def test_detector_is_selected_by_class_with_parameters() -> None:
    signal, detector = make_detector("error:my_package.detector:Cusum?limit=3&slack=0.05")
    assert signal == "error" and detector.name == "my_package.detector:Cusum"
    quick = alarms(detector, bernoulli(2, 0.2, 50) + bernoulli(2, 0.8, 60))
    slow = alarms(make_detector("error:my_package.detector:Cusum")[1], bernoulli(2, 0.2, 50) + bernoulli(2, 0.8, 60))
    assert quick and (not slow or quick[0] < slow[0])
    assert isinstance(make_detector("confidence:river.drift:ADWIN?delta=0.01")[1], RiverDetector)
    with pytest.raises(DriftloopError, match=r"cannot watch 'confidence': it takes error"):
        make_detector("confidence:river.drift.binary:DDM")


def test_policies_and_candidates_are_selected_by_class() -> None:
    chosen = settings_source.load({"DRIFTLOOP_RETRAIN__POLICY": "my_package.policy:EveryMistakes"}).retrain
    policy = make_policy(chosen)
    assert isinstance(policy, EveryMistakes) and policy.mistakes == chosen.period
    held = make_policy(RetrainSettings(policy="my_package.policy:EveryMistakes", max_per_day=1))
    assert isinstance(held, Budgeted) and held.name == "every-mistakes"
    assert isinstance(catalogue.find("my_package.candidate:ClassMeans"), ClassMeans)
    assert catalogue.is_quick("my_package.candidate:ClassMeans")


@pytest.mark.usefixtures("installed")
def test_an_installed_package_offers_short_names() -> None:
    assert plugins.names("detectors") == ["cusum", "lost"]
    assert make_detector("error:cusum?limit=3")[1].name == "cusum"
    assert isinstance(catalogue.find("class-means"), ClassMeans) and catalogue.is_quick("class-means")
    chosen = settings_source.load({"DRIFTLOOP_RETRAIN__POLICY": "every-mistakes"})
    assert isinstance(make_policy(chosen.retrain), EveryMistakes)
    assert plugins.find_any("cusum") is plugins.find_any("my_package.detector.Cusum") is Cusum
    with pytest.raises(DriftloopError, match=r"my_package.detector has no Nowhere"):
        make_detector("error:lost")
    with pytest.raises(DriftloopError, match=r"choose one of adwin, .*, cusum, lost, or give module:Class"):
        make_detector("error:cusun")
    with pytest.raises(DriftloopError, match=r"Choose from linear, mixture, tpot, finetune, class-means, or give"):
        catalogue.find("class-mean")
    with pytest.raises(DriftloopError, match=r"\(choose never, .*, every-mistakes, or module:Class\)"):
        settings_source.load({"DRIFTLOOP_RETRAIN__POLICY": "every-mistake"})


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("no_such_package.module:Class", "cannot be imported .*set PYTHONPATH to the folder"),
        ("my_package.detector:Cusun", "my_package.detector has no Cusun; correct the name"),
        ("broken_on_import:Class", "ValueError: as it was meant"),
        (":Class", "give module:Class"),
        ("module:", "give module:Class"),
    ],
)
def test_unloadable_plugin_gives_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, says: str
) -> None:
    (tmp_path / "broken_on_import.py").write_text("raise ValueError('as it was meant\\nto be')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DriftloopError, match=says) as caught:
        make_detector(f"error:{named}")
    assert "\n" not in str(caught.value)
    with pytest.raises(DriftloopError, match=says):
        make_policy(RetrainSettings(policy=named))
    with pytest.raises(DriftloopError, match=says):
        catalogue.find(named)
    assert not catalogue.is_quick(named), "its own process says what is wrong, and nobody waits for it"


@pytest.mark.parametrize("text", ["json:JSONDecoder", "my_package.policy:EveryMistakes", "json:loads"])
def test_unsuitable_class_is_refused_as_detector(text: str) -> None:
    with pytest.raises(DriftloopError, match=r"is not a detector|does not take these parameters"):
        make_detector(f"error:{text}")


def test_unsuitable_class_is_refused_as_policy_or_candidate() -> None:
    with pytest.raises(DriftloopError, match=r"ClassMeans cannot be made|is not a policy"):
        make_policy(RetrainSettings(policy="my_package.candidate:ClassMeans"))
    with pytest.raises(DriftloopError, match=r"Cusum is not a candidate. Give it `name`, `quick`, `fit`"):
        catalogue.find("my_package.detector:Cusum")
    with pytest.raises(DriftloopError, match=r"cannot be made .TypeError: .*Let it take no arguments"):
        catalogue.find("my_package.policy:EveryMistakes")


@pytest.mark.parametrize("text", ["error:my_package.detector:Cusum", "error:tests.broken.detectors:Amnesiac"])
def test_custom_detector_state_is_restored_and_signed(text: str) -> None:
    def fed(values: list[float], state: bytes | None = None) -> tuple[list[int], drift_monitor.DriftMonitor]:
        made = drift_monitor.DriftMonitor([text], "s")
        if state is not None:
            made.restore(_unsigned(state, "key").watch, [made.rows()])
        (track,) = made._single
        track._add("")
        return alarms(track.detectors[""], values), made

    before, after = bernoulli(3, 0.3, 300), bernoulli(4, 0.75, 300)
    _, stopped = fed(before)
    kept = _signed(State({}, stopped.save()), "key")
    through = [place - 300 for place in fed(before + after)[0] if place >= 300]
    restored = fed(after, kept)[0]
    assert through
    assert (restored == through) is ("Amnesiac" not in text), "the control keeps no state"
    with pytest.raises(ValueError, match=r"not signed"):
        _unsigned(kept, "another key")
