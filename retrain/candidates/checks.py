"""Checks that every candidate passes, on synthetic sentences and a tiny encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from driftloop.core.models.bundle import BundleClassifier, Lineage, load_bundle, verify_bundle
from driftloop.core.models.sample_texts import HOSTILE, sentences
from driftloop.core.settings import ModelSettings
from driftloop.testing.checks import CheckFailed, expect, failure_reason
from retrain.candidates.base import Budget, Candidate, CannotFit, Task
from retrain.fitting import sandbox
from retrain.testing import tiny_encoder
from retrain.training_window import TrainingWindow

LINEAGE = Lineage(
    candidate="given",
    trigger="alert-4",
    dataset_revision="abc",
    topic="outcomes",
    first_offset=100,
    last_offset=199,
    rows=100,
    parent_version="6",
)
HELD_OUT = sentences(120, seed=99)
ROWS, ONSET = 160, 60
TOLERANCE = 1e-3
"""Largest difference in probability between two fits with the same seed."""
MIN_ACCURACY = 0.6
"""Accuracy to exceed on texts that two words make easy; chance is a third."""


@dataclass(frozen=True)
class Subject:
    """Candidate under check."""

    make: Callable[[], Candidate]
    """Makes a new candidate."""
    name: str
    """Name by which a child process finds it: a listed name, or module:Class."""
    folder: Path
    """Empty folder for the bundles."""
    seconds: float = 20.0
    """Budget of a fit in a child process."""
    grace: float = 30.0
    """Seconds after the budget at which the child process is killed."""

    @cached_property
    def fitted(self) -> Path:
        """Return the bundle of a fit on a window whose last hundred rows lie after the drift."""
        self.fit(tiny_encoder.window(ROWS, onset=ONSET), "fitted")
        return self.folder / "fitted"

    def fit(self, window: TrainingWindow, folder: str) -> BundleClassifier:
        """Fit on a window and load the bundle.

        Args:
            window: Window to learn from.
            folder: Name of the bundle's folder.
        """
        with threadpool_limits(1):
            self.make().fit(window, self.task(folder), self.folder / folder)
        return load_bundle(self.folder / folder, tiny_encoder.KEY, threads=1)

    def task(self, folder: str, seconds: float = 120.0) -> Task:
        """Return the task of a fit.

        Args:
            folder: Name of the bundle's folder; the scratch folder is beside it.
            seconds: Budget of the fit.
        """
        model = ModelSettings(encoder=str(tiny_encoder.encoder_folder()), max_tokens=tiny_encoder.MAX_TOKENS)
        scratch = self.folder / f"scratch-{folder}"
        scratch.mkdir(exist_ok=True)
        return Task(
            budget=Budget(seconds, 1, 7),
            model=model,
            lineage=LINEAGE,
            signing_key=tiny_encoder.KEY,
            scratch=scratch,
        )


def check_interface(subject: Subject) -> None:
    """The candidate has a name, `quick`, `fit`, `rescue` and `refit`."""
    made = subject.make()
    expect(isinstance(made, Candidate), "one of name, quick, fit, rescue and refit is missing")
    expect(isinstance(made.name, str) and made.name, f"its name is {made.name!r}, not a word")
    expect(isinstance(made.quick, bool), f"quick is {made.quick!r}, not True or False")


def check_bundle(subject: Subject) -> None:
    """The bundle verifies and loads, and gives each text probabilities that sum to 1."""
    manifest = verify_bundle(subject.fitted, tiny_encoder.KEY)
    expect(manifest.max_tokens == tiny_encoder.MAX_TOKENS, f"it was made for texts of {manifest.max_tokens} tokens")
    probabilities = _probabilities(load_bundle(subject.fitted, tiny_encoder.KEY, threads=1))
    expect(probabilities.shape == (len(HELD_OUT[0]), 3), f"its probabilities have the shape {probabilities.shape}")
    _expect_shares(probabilities)


def check_labels(subject: Subject) -> None:
    """The labels of the model are the classes of the window."""
    labels = load_bundle(subject.fitted, tiny_encoder.KEY, threads=1).labels
    expect(labels == tiny_encoder.window(ROWS).classes, f"its labels are {labels}")


def check_lineage(subject: Subject) -> None:
    """The candidate signs the lineage of its task and adds its parameters."""
    lineage = verify_bundle(subject.fitted, tiny_encoder.KEY).lineage
    expect(_without_parameters(lineage) == LINEAGE, f"its lineage is {lineage}")
    expect(bool(lineage.parameters), "it added no parameters to the lineage")


def check_learns(subject: Subject) -> None:
    """The candidate learns texts that two words make easy."""
    labels = load_bundle(subject.fitted, tiny_encoder.KEY, threads=1).predict(HELD_OUT[0]).labels
    accuracy = float(np.mean([a == b for a, b in zip(labels, HELD_OUT[1], strict=True)]))
    expect(
        accuracy > MIN_ACCURACY,
        f"{accuracy:.2f} of its answers are right, not more than {MIN_ACCURACY}; chance is a third",
    )


def check_seed(subject: Subject) -> None:
    """Two fits with the same seed give the same model."""
    first = load_bundle(subject.fitted, tiny_encoder.KEY, threads=1)
    again = subject.fit(tiny_encoder.window(ROWS, onset=ONSET), "again")
    gap = float(np.abs(_probabilities(again) - _probabilities(first)).max())
    expect(gap <= TOLERANCE, f"the answers of two fits with the same seed differ by {gap:.4g}")


def check_refuses_one_class(subject: Subject) -> None:
    """A window of one class raises CannotFit, and nothing is written."""
    _expect_refusal(subject, replace(tiny_encoder.window(80), labels=("neutral",) * 80), "one-class", "one class")


def check_refuses_few_rows(subject: Subject) -> None:
    """A window of nine rows raises CannotFit, and nothing is written."""
    _expect_refusal(subject, tiny_encoder.window(9), "nine", "nine rows")


def check_awkward_windows(subject: Subject) -> None:
    """The candidate fits windows with two classes, a rare class, one recent class, no words, hostile texts."""
    for kind, window in awkward_windows().items():
        try:
            check_window(subject, window, kind.replace(" ", "-"))
        except Exception as error:
            raise CheckFailed(f"{kind}: {failure_reason(error)}") from error


def awkward_windows() -> dict[str, TrainingWindow]:
    """Return windows that a careless candidate fails on, by what is awkward about them."""
    plain = tiny_encoder.window(100, onset=50)
    labels = plain.labels
    return {
        "two classes": replace(plain, labels=tuple("yes" if label == "positive" else "no" for label in labels)),
        "rare class": replace(plain, labels=("rare", *("a" if i % 2 else "b" for i in range(99)))),
        "recent rows of one class": replace(plain, labels=(*labels[:50], *(["positive"] * 50))),
        "no words": replace(plain, texts=tuple(f"{i}" for i in range(100))),
        "hostile": replace(plain, texts=tuple(HOSTILE[i % len(HOSTILE)] for i in range(100))),
    }


def check_window(subject: Subject, window: TrainingWindow, folder: str) -> None:
    """Fit on an awkward window and check the model.

    Args:
        subject: Candidate under check.
        window: Window to learn from.
        folder: Name of the bundle's folder.
    """
    model = subject.fit(window, folder)
    expect(set(model.labels) <= set(window.classes), f"labels {model.labels} for {window.classes}")
    expect(len(model.labels) > 1, f"the only label is {model.labels}")
    _expect_shares(_probabilities(model))


def check_rescue(subject: Subject) -> None:
    """Before the first checkpoint `rescue` returns False and writes nothing."""
    out = subject.folder / "rescued"
    rescued = subject.make().rescue(tiny_encoder.window(60), subject.task("rescued"), out)
    expect(rescued is False, f"`rescue` returned {rescued!r} without a checkpoint")
    expect(not out.exists(), "`rescue` wrote something without a checkpoint")


def check_refit(subject: Subject) -> None:
    """`refit` returns True with a verified bundle, or False without one."""
    out = subject.folder / "refitted"
    window = tiny_encoder.window(ROWS, onset=ONSET)
    with threadpool_limits(1):
        refitted = subject.make().refit(window, subject.fitted, subject.task("refitted"), out)
    expect(refitted in (True, False), f"`refit` returned {refitted!r}, not True or False")
    if refitted:
        _expect_shares(_probabilities(load_bundle(out, tiny_encoder.KEY, threads=1)))
    else:
        expect(not out.exists(), "`refit` returned False and wrote something")


def check_budget(subject: Subject) -> None:
    """A fit in a child process ends within its budget, with some grace, on a window that could take minutes."""
    window = tiny_encoder.window(1500, onset=700)
    task, folder = subject.task("budget", subject.seconds), subject.folder / "budget"
    folder.mkdir()
    end = sandbox.run(subject.name, window, task, folder, grace=subject.grace)
    expect(not end.overran, f"it was killed {subject.grace:g} s after the end of its budget of {subject.seconds:g} s")
    expect(end.bundle is not None and not end.reason, end.reason or "it wrote no bundle")
    if end.bundle is not None:
        labels = load_bundle(end.bundle, tiny_encoder.KEY, threads=1).labels
        expect(labels == window.classes, f"its labels are {labels}")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_interface,
    check_bundle,
    check_labels,
    check_lineage,
    check_learns,
    check_seed,
    check_refuses_one_class,
    check_refuses_few_rows,
    check_awkward_windows,
    check_rescue,
    check_refit,
    check_budget,
)


def _expect_refusal(subject: Subject, window: TrainingWindow, folder: str, kind: str) -> None:
    out = subject.folder / folder
    try:
        subject.make().fit(window, subject.task(folder), out)
    except CannotFit as error:
        expect(bool(str(error)), "its CannotFit gives no reason")
        expect(not out.exists(), f"it refused {kind} and wrote something")
        return
    expect(False, f"it was fitted on {kind}")


def _probabilities(model: BundleClassifier) -> Any:
    return model.predict(HELD_OUT[0]).probabilities


def _expect_shares(probabilities: Any) -> None:
    gap = float(np.abs(probabilities.sum(axis=1) - 1).max())
    expect(gap <= 1e-4, f"a row of probabilities is {gap:.4g} away from the sum of 1")
    expect(bool((probabilities >= 0).all()), "a probability is below 0")


def _without_parameters(lineage: Lineage) -> Lineage:
    return msgspec.structs.replace(lineage, parameters={})
