"""When fine-tuning ends, and which of its weights are kept: those with the least loss on rows that were held out.

The loss is measured every half pass, and training ends when it has not fallen for `PATIENCE` times in succession:
the criterion UP of Prechelt, "Early Stopping - But When?", in Neural Networks: Tricks of the Trade, 1998. It is not
left to the Trainer, which does not count the weights that training began with, nor ends a slow evaluation in time.
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

PATIENCE = 2
"""So many measurements without a new least loss end the training."""
SMALLEST = 300
"""With fewer rows after the drift none is held out: each of them is needed to learn from."""
SHARE = 0.1
LEAST, MOST = 50, 300
"""Of the rows after the drift, this share is held out, within these numbers."""
PASSES = 2
"""None is held out where the time allows fewer passes: what is seen once or twice is not learnt by heart."""
PER_PASS = 2
"""Measurements in one pass over the rows."""


def split(labels: Sequence[str], recent: NDArray[np.bool_], seed: int) -> tuple[Rows, Rows]:
    """Indices to train on and indices to hold out: a random part of the ``recent`` rows, with their mix of labels.

    Nothing is held out of fewer recent rows than `SMALLEST`.
    """
    everything, candidates = np.arange(len(labels)), np.flatnonzero(recent)
    if len(candidates) < SMALLEST:
        return everything, everything[:0]
    order = np.random.default_rng(seed).permutation(candidates)
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]  # evenly spaced in it is evenly of each label
    size = min(max(round(SHARE * len(order)), LEAST), MOST)
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
        self.losses: dict[int, float] = {}
        """Mean cross-entropy of the held-out rows, in nats, by the step after which it was measured."""
        self.stopped_early = False
        self.slowest = 0.0
        """Most seconds that a measurement took, the writing of the weights included."""
        self._network, self._held, self._weights = network, held, weights
        self._deadline, self._patience, self._progress = deadline, patience, progress
        self._last = time.monotonic()

    @property
    def best_step(self) -> int:
        """The step with the least loss, the first of equals; only where something was measured."""
        return min(self.losses, key=self.losses.__getitem__)

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
            said = f", held-out loss {self.losses[step]:.3f}" if step in self.losses else ""
            self._progress(f"finetune: step {step} of {steps}{said}")
        in_vain = sum(at > self.best_step for at in self.losses) if self.losses else 0
        self.stopped_early = not ended and in_vain >= self._patience > 0
        self._last = time.monotonic()
        return ended or self.stopped_early

    def restore(self) -> None:
        """Put the best weights that were measured back into the network."""
        from safetensors.torch import load_model

        if self.losses:
            load_model(self._network, self._weights)

    def report(self) -> dict[str, Any]:
        """What the lineage says of it; empty where nothing was measured."""
        if not self.losses:
            return {}
        return {
            "best_step": self.best_step,
            "held_out_loss_before": round(self.losses[min(self.losses)], 4),
            "held_out_loss": round(self.losses[self.best_step], 4),
            "stopped_early": self.stopped_early,
        }

    def _look(self, step: int) -> None:
        """Measure the held-out loss, and keep the weights where it is the least so far."""
        started = time.monotonic()
        loss = self._measure()
        if loss is not None:
            better = not self.losses or loss < min(self.losses.values())
            self.losses[step] = loss
            if better:
                self._save()
        self.slowest = max(self.slowest, time.monotonic() - started)

    def _measure(self) -> float | None:
        """Mean loss over the held-out rows; None where the deadline came before its end."""
        import torch

        device, total, rows = self._network.classifier.weight.device, 0.0, 0
        self._network.eval()
        try:
            with torch.no_grad():
                for batch in self._held:
                    if time.monotonic() > self._deadline:
                        return None
                    loss = self._network(**{name: value.to(device) for name, value in batch.items()}).loss
                    total += float(loss) * len(batch["labels"])
                    rows += len(batch["labels"])
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
