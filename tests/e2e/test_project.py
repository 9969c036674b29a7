"""A user's own file becomes a running loop, with a detector, a candidate and a policy of the user's own in it."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
OLD = {1: "awful broken", 2: "slow cheap", 3: "okay fine", 4: "good solid", 5: "great perfect"}
NEW = {1: "horrible useless", 2: "flimsy dull", 3: "plain ordinary", 4: "decent pleasant", 5: "superb wonderful"}
OWN = """
[retrain]
bootstrap = 120
policy = "my_package.policy:EveryMistakes"
period = 30
candidates = ["my_package.candidate:ClassMeans"]
[monitor]
detectors = ["error:my_package.detector:Cusum?limit=5"]
"""


def driftloop(folder: Path, *argv: str) -> str:
    """What a command says that ends well."""
    command = [sys.executable, "-m", "driftloop", *argv]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(EXAMPLES)}, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def reviews(file: Path) -> None:
    """600 reviews with 1 to 5 stars, in other words from the middle on."""
    rng = random.Random(3)
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "body", "stars"])
        for i in range(600):
            stars = rng.randint(1, 5)
            words = (OLD if i < 300 else NEW)[stars]
            writer.writerow([i, f'The "{rng.choice(["kettle", "lamp"])}", señor 😀,\nis {words} {i}', stars])


def test_csv_file_becomes_loop_with_own_plugins(tmp_path: Path) -> None:
    """Detector, candidate and policy are the user's own classes."""
    reviews(tmp_path / "reviews.csv")
    said = driftloop(tmp_path, "init", "mine", "--csv", "reviews.csv", "--text", "body", "--label", "stars")
    assert "mine: 600 texts with 5 labels (1, 2, 3, 4, 5)." in said
    (tmp_path / "mine" / "driftloop.toml").write_text(OWN)
    run = ["mine", "--rate", "30", "--plain", "--no-page", "--stack", "embedded", "--out", "run"]
    driftloop(tmp_path, "simulate", *run)
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["events"] == summary["predictions"] == 600
    assert summary["dead_letters"] == summary["duplicates"] == 0
    assert {one["detector"] for one in summary["alerts"]} == {"my_package.detector:Cusum?limit=5"}
    retrainings = summary["retrainings"]
    assert retrainings and all("mistakes since the last retraining" in one["reason"] for one in retrainings)
    assert {name for one in retrainings for name in one["candidates"]} == {"mixture", "my_package.candidate:ClassMeans"}
    assert summary["promotions"] >= 1
