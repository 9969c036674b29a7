"""Early stopping of fine-tuning: it keeps the last weights that are not worse on held-out rows.

The Brier score of the held-out rows is measured twice per pass. Weights are worse if it is higher than the smallest one
so far beyond chance. Both score the same rows, so the differences are tested row by row. Training ends after `PATIENCE`
consecutive worse measurements: the criterion UP of Prechelt, "Early Stopping - But When?", in Neural Networks: Tricks
of the Trade, 1998. A rise within chance does not count: while the learning rate is high, the score is often above the
one that the same training ends with.

The gate uses the Brier score as well. Cross-entropy rises as soon as the network grows certain, while its labels still
improve. The Trainer's own early stopping does not measure the initial weights, and cannot end a slow evaluation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.candidates.training_rows import Rows

PATIENCE = 3
"""Consecutive worse measurements that end the training."""
STANDARD_ERRORS = 2.0
"""Standard errors of the mean difference up to which weights are not worse than the best."""
MIN_ROWS = 1000
"""Rows after the drift below which none is held out.

Each is then needed for training, and a few dozen rows cannot tell two sets of weights apart.
"""
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 300
"""Share and largest number of the rows after the drift that are held out."""
MIN_PASSES = 2
"""Passes that the time must allow for rows to be held out. Rows seen once or twice are not overfitted."""
MEASUREMENTS_PER_PASS = 2


def split_held_out(labels: Sequence[str], recent: NDArray[np.bool_], seed: int) -> tuple[Rows, Rows]:
    """Return the indices to train on and the indices to hold out.

    A random part of the recent rows is held out, with the same mix of labels. Nothing is held out of fewer recent rows
    than `MIN_ROWS`.

    Args:
        labels: Label of each row, shape (n,).
        recent: True for each row after the drift, shape (n,).
        seed: Seed of the random part.
    """
    everything = np.arange(len(labels))
    _, of_row, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(recent & (counts[of_row] > 1))  # the only row of a class is not held out
    if len(candidates) < MIN_ROWS:
        return everything, everything[:0]
    order = np.random.default_rng(seed).permutation(candidates)
    order = order[np.argsort(of_row[order], kind="stable")]  # even steps through it take evenly from each label
    size = min(round(HELD_OUT_SHARE * len(order)), MAX_HELD_OUT)
    held = order[((np.arange(size) + 0.5) * len(order) / size).astype(np.int64)]
    return np.setdiff1d(everything, held), np.sort(held)


class EarlyStopping:
    """Follows a training: saves the last weights that are not worse, ends it in time, and reports.

    Args:
        network: Network in training.
        held: Batches of held-out rows, with labels. If empty, no weights count as worse.
        weights: File for the kept weights.
        deadline: Time of `time.monotonic` at which training must end.
        patience: Consecutive worse measurements that end the training; `0` disables.
        progress: Called with a line after each measurement.
    """

    def __init__(
        self,
        network: Any,
        held: Sequence[dict[str, Any]],
        weights: Path,
        deadline: float,
        patience: int,
        progress: Callable[[str], None],
    ) -> None:
        self.scores: dict[int, float] = {}
        """Brier score of the held-out rows, from 0 to 2, by training step."""
        self.kept_step = 0
        """Step of the saved weights."""
        self.stopped_early = False
        self.slowest_seconds = 0.0
        """Seconds of the slowest measurement, with the writing of the weights."""
        self._network, self._held, self._weights = network, held, weights
        self._deadline, self._patience, self._progress = deadline, patience, progress
        self._best: NDArray[np.float64] | None = None  # scores of the rows when their mean was smallest
        self._worse_in_a_row = 0
        self._last = time.monotonic()

    def begin(self) -> None:
        """Measure the initial weights and start the clock of the first step."""
        if self._held:
            self._measure_and_save(0)
        self._last = time.monotonic()

    def after_step(self, step: int, steps: int, every: int) -> bool:
        """Measure the network if it is due, and return True if training must end.

        Call it after each step. Training ends by its steps, its time or its patience.

        Args:
            step: Steps so far.
            steps: Planned number of steps.
            every: Steps between two measurements.
        """
        now = time.monotonic()
        ended = step >= steps or now + (now - self._last) + self.slowest_seconds > self._deadline
        if step % every == 0 or ended:
            if self._held:
                self._measure_and_save(step)
            elif not ended:
                self._save()
        if step % every == 0 and not ended:
            score = f", held-out Brier score {self.scores[step]:.3f}" if step in self.scores else ""
            self._progress(f"finetune: step {step} of {steps}{score}")
        self.stopped_early = not ended and self._worse_in_a_row >= self._patience > 0
        self._last = time.monotonic()
        return ended or self.stopped_early

    def restore(self) -> None:
        """Load the saved weights back into the network."""
        from safetensors.torch import load_model

        if self.scores:
            load_model(self._network, self._weights)

    def report(self) -> dict[str, Any]:
        """Return the entries for the lineage; empty if nothing was measured."""
        if not self.scores:
            return {}
        return {
            "kept_step": self.kept_step,
            "held_out_brier_before": round(self.scores[min(self.scores)], 4),
            "held_out_brier": round(self.scores[self.kept_step], 4),
            "stopped_early": self.stopped_early,
        }

    def _measure_and_save(self, step: int) -> None:
        """Measure the held-out rows, and save the weights if they are not worse."""
        started = time.monotonic()
        scores = self._measure()
        if scores is not None:
            self.scores[step] = float(scores.mean())
            if self._is_worse(scores):
                self._worse_in_a_row += 1
            else:
                self._worse_in_a_row, self.kept_step = 0, step
                self._save()
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)

    def _is_worse(self, scores: NDArray[np.float64]) -> bool:
        """Return True if the rows' scores are higher, beyond chance, than the best ones so far."""
        if self._best is None or scores.mean() < self._best.mean():
            self._best = scores
            return False
        rise = scores - self._best
        return bool(rise.mean() > STANDARD_ERRORS * rise.std() / math.sqrt(len(rise)))

    def _measure(self) -> NDArray[np.float64] | None:
        """Return the Brier score of each held-out row, shape (n,); `None` if the deadline passed meanwhile."""
        import torch

        device, found = self._network.classifier.weight.device, []
        self._network.eval()
        try:
            with torch.no_grad():
                for batch in self._held:
                    if time.monotonic() > self._deadline:
                        return None
                    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
                    probabilities = torch.softmax(self._network(**inputs).logits.float().cpu(), dim=-1)
                    truth = torch.nn.functional.one_hot(batch["labels"], probabilities.shape[-1])
                    found.append(((probabilities - truth) ** 2).sum(dim=-1).double().numpy())
        finally:
            self._network.train()
        scores: NDArray[np.float64] = np.nan_to_num(np.concatenate(found), nan=2.0)  # 2 is the worst score
        return scores

    def _save(self) -> None:
        from safetensors.torch import save_model

        unfinished = self._weights.with_suffix(".part")
        save_model(self._network, str(unfinished))
        unfinished.replace(self._weights)


def trainer_callback(stopping: EarlyStopping, steps: int, every: int) -> Any:
    """Return a callback for the Trainer that calls `EarlyStopping.after_step`.

    Args:
        stopping: Early stopping of the training.
        steps: Planned number of steps.
        every: Steps between two measurements.
    """
    from transformers import TrainerCallback

    class _StepEnd(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
            control.should_training_stop |= stopping.after_step(state.global_step, steps, every)
            return control

    return _StepEnd()
