"""Search for guests of a mixture in the in-process loop: TPOT and fine-tuning are fitted for real.

A fit runs in the sandbox of the live loop, and its seconds are the time until its model is there. Equal rows and equal
settings are fitted once: the result is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptation.playback import Stream
from benchmarks.adaptation.results import Comparison
from driftloop.core.files import write_atomic
from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier, Lineage, load_bundle
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.settings import Settings, cache_dir
from retrain.candidates import catalogue
from retrain.candidates.base import Budget, Task
from retrain.evaluation.gate import judge
from retrain.evaluation.paired_slice import Slice
from retrain.evaluation.shadow import MIXTURE_EVENTS, Shadow
from retrain.fitting import sandbox
from retrain.mixture.champion_learner import GuestChange, as_guest
from retrain.policies.base import ALWAYS
from retrain.training_window import TrainingWindow

FOLDER = "benchmark-fits"
"""Folder of the fits in the cache."""


@dataclass
class Tried:
    """A fitted candidate in shadow of the mixture."""

    name: str
    ready: int
    """Tick at which its fit is finished."""
    model: BundleClassifier
    shadow: Shadow


class GuestSearch:
    """Fits candidates one after the other, and compares each with the mixture as the live loop does.

    Args:
        stream: The stream.
        settings: Settings of the loop.
        names: Candidates, in the order of their fits.
        speed: Events per second.
    """

    def __init__(self, stream: Stream, settings: Settings, names: Sequence[str], speed: float) -> None:
        self._stream = stream
        self._speed = speed
        self._settings = settings
        self._names = names
        self._encoder: OnnxEncoder = exported_encoder(settings.model, threads=1)
        self._tried: list[Tried] = []
        self._onset_at = ALWAYS
        self.judged: list[Comparison] = []

    @property
    def open(self) -> tuple[float, ...]:
        """Onset of the search that is open, if one is."""
        return (self._onset_at,) if self._tried else ()

    def start(self, tick: int, window: TrainingWindow, onset_at: float, until_at: float, rows: int) -> float:
        """Fit the candidates on a window; earlier ones that are still in shadow are dropped.

        Args:
            tick: Current tick.
            window: Rows to learn from.
            onset_at: `occurred_at` of the first event of the concept.
            until_at: `occurred_at` of the newest of them.
            rows: Labelled events of the concept.

        Returns:
            The seconds of the fits.
        """
        self._tried.clear()
        self._onset_at = onset_at
        ready, spent = tick, 0.0
        for name in self._names:
            limit = catalogue.budget_seconds(name, self._settings.retrain, rows / self._speed)
            bundle, seconds = self._fit(name, window, limit)
            spent += seconds
            ready += max(1, round(seconds * self._speed))
            if bundle is not None:
                model = load_bundle(bundle, self._settings.signing_key, threads=1, encoder=self._encoder)
                chosen = self._settings.retrain
                shadow = Shadow.beside_mixture(model, chosen, rows=rows, since=until_at, began=tick)
                self._tried.append(Tried(name, ready, model, shadow))
        return spent

    def learn(self, outcome: Outcome) -> None:
        """Queue a labelled event for the candidates that are fitted or being fitted."""
        for tried in self._tried:
            tried.shadow.offer([outcome])

    def end_at(self, onset_at: float) -> None:
        """Leave out the events from a new drift on."""
        for tried in self._tried:
            tried.shadow.end_at(onset_at)

    def joining(self, tick: int) -> list[GuestChange]:
        """Return the candidates that have proved better by now."""
        found = []
        for tried in [one for one in self._tried if one.ready <= tick]:
            decision = tried.shadow.advance_all(self._predict)
            if decision == "undecided" and len(tried.shadow.rows) < tried.shadow.most and np.isinf(tried.shadow.until):
                continue
            self._tried.remove(tried)
            joining = self._judge(tried, tick)
            found += [] if joining is None else [joining]
        return found

    def _judge(self, tried: Tried, tick: int) -> GuestChange | None:
        shadow = tried.shadow
        if len(shadow.rows) < MIXTURE_EVENTS or shadow.stack is None:
            return None
        mixture, stacked = shadow.predictions()
        truth = [row.label for row in shadow.rows]
        chosen = self._settings.retrain
        verdict = judge(
            Slice(truth, mixture, stacked), limits=chosen.gate, confidence=chosen.confidence, seed=chosen.seed
        )
        guest = as_guest(tried.name, tried.model, self._encoder.digest)
        joins = verdict.better and guest is not None and bool(np.isinf(shadow.until))
        accuracies = round(verdict.champion_accuracy, 4), round(verdict.challenger_accuracy, 4)
        self.judged.append(Comparison(tried.name, tick, len(truth), *accuracies, joins))
        return GuestChange(guest, shadow.stack.weight) if joins else None

    def _predict(self, model: BundleClassifier, outcomes: Sequence[Outcome]) -> Predictions:
        embeddings = self._stream.embeddings[[outcome.position for outcome in outcomes]]
        return model.predict([outcome.text for outcome in outcomes], embeddings)

    def _fit(self, name: str, window: TrainingWindow, limit: float) -> tuple[Path | None, float]:
        """Return the bundle of a fit, `None` if it failed, and its seconds."""
        chosen = self._settings.retrain
        recipe: dict[str, Any] = {"name": name, "seconds": limit, "seed": chosen.seed, "onset": window.onset}
        given = [] if name == "finetune" else [window.given]  # fine-tuning does not read it
        rows = json.dumps([recipe, window.texts, window.labels, self._encoder.digest, *given]).encode()
        folder = cache_dir() / FOLDER / hashlib.sha256(rows).hexdigest()[:32]
        result = folder / "fit.json"
        if not result.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            task = Task(
                budget=Budget(limit, seed=chosen.seed),
                model=self._settings.model,
                lineage=Lineage(candidate=name, rows=len(window)),
                signing_key=self._settings.signing_key,
                scratch=folder / "scratch",
                device=chosen.device,
            )
            found = sandbox.run(name, replace(window, encoder=self._encoder.folder), task, folder)
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            shutil.rmtree(folder / "window", ignore_errors=True)
            fitted = {"fitted": found.bundle is not None, "seconds": found.seconds, "reason": found.reason}
            write_atomic(result, json.dumps(fitted).encode())
        known = json.loads(result.read_bytes())
        return folder / "bundle" if known["fitted"] else None, float(known["seconds"])
