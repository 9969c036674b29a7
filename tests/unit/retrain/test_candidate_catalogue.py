"""Time limits of the candidates."""

import pytest

from driftloop.core.settings import RetrainSettings
from retrain.candidates.catalogue import budget_seconds

SETTINGS = RetrainSettings(linear_seconds=60.0, tpot_seconds=30.0, finetune_seconds=45.0, finetune_share=0.5)


@pytest.mark.parametrize(("lasted", "seconds"), [(0.0, 45.0), (89.0, 45.0), (400.0, 200.0)])
@pytest.mark.parametrize("name", ["finetune", "my_package.module:MyCandidate"])
def test_limit_grows_with_the_concept(name: str, lasted: float, seconds: float) -> None:
    assert budget_seconds(name, SETTINGS, lasted) == seconds


@pytest.mark.parametrize(("name", "seconds"), [("linear", 60.0), ("tpot", 30.0)])
def test_other_limits_are_fixed(name: str, seconds: float) -> None:
    assert budget_seconds(name, SETTINGS, 400.0) == seconds
