"""When fine-tuning ends, and which of its weights are kept: those with the least Brier score on rows held out.

The score is measured every half pass, and training ends when it has not fallen for `PATIENCE` times in succession:
the criterion UP of Prechelt, "Early Stopping - But When?", in Neural Networks: Tricks of the Trade, 1998. The gate goes
by the Brier score as well; cross-entropy rises as soon as the network grows sure, while its answers still get better.
It is not left to the Trainer, which does not count the weights that training began with, nor ends a slow evaluation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.candidates.rows import Rows

PATIENCE = 3
"""So many measurements without a new least score end the training: more than a pass, for the score rises while the
learning rate is at its highest, also where it falls below the first one in the end."""
SMALLEST = 1000
"""With fewer rows after the drift none is held out: each is needed to learn from, and a few dozen cannot tell two sets
of weights apart."""
SHARE = 0.1
MOST = 300
"""Of the rows after the drift, this share is held out, and no more than so many."""
PASSES = 2
"""None is held out where the time allows fewer passes: what is seen once or twice is not learnt by heart."""
PER_PASS = 2
"""Measurements in one pass over the rows."""


def split(labels: Sequence[str], recent: NDArray[np.bool_], seed: int) -> tuple[Rows, Rows]:
    """Indices to train on and indices to hold out: a random part of the ``recent`` rows, with their mix of labels.

    Nothing is held out of fewer recent rows than `SMALLEST`.
    """
    everything = np.arange(len(labels))
    _, of_row, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(recent & (counts[of_row] > 1))  # the only row of a class is learnt from
    if len(candidates) < SMALLEST:
        return everything, everything[:0]
    order = np.random.default_rng(seed).permutation(candidates)
    order = order[np.argsort(of_row[order], kind="stable")]  # evenly spaced in it is evenly of each label
    size = min(round(SHARE * len(order)), MOST)
    held = order[((np.arange(size) + 0.5) * len(order) / size).astype(np.int64)]
    return np.setdiff1d(everything, held), np.sort(held)


class Watch:
    """Follows a training: keeps the best weights so far in a file, ends it in time, and reports.

    ``held`` are batches for ``network``, with labels. Where there are none, the best weights are the last.
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
        """Brier score of the held-out rows, from 0 to 2, by the step after which it was measured."""
        self.stopped_early = False
        self.slowest = 0.0
        """Most seconds that a measurement took, the writing of the weights included."""
        self._network, self._held, self._weights = network, held, weights
        self._deadline, self._patience, self._progress = deadline, patience, progress
        self._last = time.monotonic()

    @property
    def best_step(self) -> int:
        """The step with the least score, the first of equals; only where something was measured."""
        return min(self.scores, key=self.scores.__getitem__)

    def begin(self) -> None:
        """Measure the weights that training starts with; the clock of the first step begins."""
        if self._held:
            self._look(0)
        self._last = time.monotonic()

    def after(self, step: int, steps: int, every: int) -> bool:
        """To be called after each of ``steps`` steps: True where no more is to follow, for the steps, time or patience.

        Looks at the network every ``every`` steps, and after the last one.
        """
        now = time.monotonic()
        ended = step >= steps or now + (now - self._last) + self.slowest > self._deadline
        if step % every == 0 or ended:
            if self._held:
                self._look(step)
            elif not ended:
                self._save()
        if step % every == 0 and not ended:
            said = f", held-out Brier score {self.scores[step]:.3f}" if step in self.scores else ""
            self._progress(f"finetune: step {step} of {steps}{said}")
        in_vain = sum(at > self.best_step for at in self.scores) if self.scores else 0
        self.stopped_early = not ended and in_vain >= self._patience > 0
        self._last = time.monotonic()
        return ended or self.stopped_early

    def restore(self) -> None:
        """Put the best weights that were measured back into the network."""
        from safetensors.torch import load_model

        if self.scores:
            load_model(self._network, self._weights)

    def report(self) -> dict[str, Any]:
        """What the lineage says of it; empty where nothing was measured."""
        if not self.scores:
            return {}
        return {
            "best_step": self.best_step,
            "held_out_brier_before": round(self.scores[min(self.scores)], 4),
            "held_out_brier": round(self.scores[self.best_step], 4),
            "stopped_early": self.stopped_early,
        }

    def _look(self, step: int) -> None:
        """Measure the held-out score, and keep the weights where it is the least so far."""
        started = time.monotonic()
        score = self._measure()
        if score is not None:
            better = not self.scores or score < min(self.scores.values())
            self.scores[step] = score
            if better:
                self._save()
        self.slowest = max(self.slowest, time.monotonic() - started)

    def _measure(self) -> float | None:
        """Brier score over the held-out rows; None where the deadline came before its end."""
        import torch

        device, total, rows = self._network.classifier.weight.device, 0.0, 0
        self._network.eval()
        try:
            with torch.no_grad():
                for batch in self._held:
                    if time.monotonic() > self._deadline:
                        return None
                    feed = {name: value.to(device) for name, value in batch.items() if name != "labels"}
                    said = torch.softmax(self._network(**feed).logits.float().cpu(), dim=-1)
                    truth = torch.nn.functional.one_hot(batch["labels"], said.shape[-1])
                    total += float(((said - truth) ** 2).sum())
                    rows += len(said)
        finally:
            self._network.train()
        return total / rows if math.isfinite(total) else math.inf

    def _save(self) -> None:
        from safetensors.torch import save_model

        unfinished = self._weights.with_suffix(".part")
        save_model(self._network, str(unfinished))
        unfinished.replace(self._weights)


def as_callback(watch: Watch, steps: int, every: int) -> Any:
    """The Trainer's callback that asks ``watch`` after each step."""
    from transformers import TrainerCallback

    class Ask(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
            control.should_training_stop |= watch.after(state.global_step, steps, every)
            return control

    return Ask()
