"""When fine-tuning ends, and which of its weights are kept: the last that are not worse on rows held out.

The Brier score of these rows is measured every half pass. Weights are worse where it is higher than the least so far
beyond chance: they answer the same rows, so the differences row by row tell. Training ends when they were worse
`PATIENCE` times in succession: the criterion UP of Prechelt, "Early Stopping - But When?", in Neural Networks: Tricks
of the Trade, 1998. A rise within chance is none: while the learning rate is high the score is often above where the
same training ends. The gate goes by the Brier score as well; cross-entropy rises as soon as the network grows sure,
while its answers still get better. It is not left to the Trainer, which does not count the weights that training began
with, nor ends a slow evaluation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftloop.core.files import atomic_path
from retrain.candidates.training_rows import Rows

PATIENCE = 3
"""So many worse measurements in succession end the training."""
STANDARD_ERRORS = 2.0
"""Standard errors of the mean difference up to which weights are not worse than the best."""
MIN_ROWS = 1000
"""With fewer rows after the drift none is held out: each is needed to learn from, and a few dozen cannot tell two sets
of weights apart."""
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 300
"""Of the rows after the drift, this share is held out, and no more than so many."""
MIN_PASSES = 2
"""None is held out where the time allows fewer passes: what is seen once or twice is not learnt by heart."""
MEASUREMENTS_PER_PASS = 2
"""Measurements in one pass over the rows."""


def split_held_out(labels: Sequence[str], recent: NDArray[np.bool_], seed: int) -> tuple[Rows, Rows]:
    """Indices to train on and indices to hold out: a random part of the ``recent`` rows, with their mix of labels.

    Nothing is held out of fewer recent rows than `SMALLEST`.
    """
    everything = np.arange(len(labels))
    _, of_row, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(recent & (counts[of_row] > 1))  # the only row of a class is learnt from
    if len(candidates) < MIN_ROWS:
        return everything, everything[:0]
    order = np.random.default_rng(seed).permutation(candidates)
    order = order[np.argsort(of_row[order], kind="stable")]  # evenly spaced in it is evenly of each label
    size = min(round(HELD_OUT_SHARE * len(order)), MAX_HELD_OUT)
    held = order[((np.arange(size) + 0.5) * len(order) / size).astype(np.int64)]
    return np.setdiff1d(everything, held), np.sort(held)


class EarlyStopping:
    """Follows a training: keeps the last weights that are not worse in a file, ends it in time, and reports.

    ``held`` are batches for ``network``, with labels. Where there are none, no weights are worse.
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
        self.kept_step = 0
        """After which the weights were what they are in the file."""
        self.stopped_early = False
        self.slowest_seconds = 0.0
        """Most seconds that a measurement took, the writing of the weights included."""
        self._network, self._held, self._weights = network, held, weights
        self._deadline, self._patience, self._progress = deadline, patience, progress
        self._least: NDArray[np.float64] | None = None
        """The score of each row where their mean was least."""
        self._in_vain = 0
        """Measurements in succession that were worse."""
        self._last = time.monotonic()

    def begin(self) -> None:
        """Measure the weights that training starts with; the clock of the first step begins."""
        if self._held:
            self._look(0)
        self._last = time.monotonic()

    def after_step(self, step: int, steps: int, every: int) -> bool:
        """To be called after each of ``steps`` steps: True where no more is to follow, for the steps, time or patience.

        Looks at the network every ``every`` steps, and after the last one.
        """
        now = time.monotonic()
        ended = step >= steps or now + (now - self._last) + self.slowest_seconds > self._deadline
        if step % every == 0 or ended:
            if self._held:
                self._look(step)
            elif not ended:
                self._save()
        if step % every == 0 and not ended:
            said = f", held-out Brier score {self.scores[step]:.3f}" if step in self.scores else ""
            self._progress(f"finetune: step {step} of {steps}{said}")
        self.stopped_early = not ended and self._in_vain >= self._patience > 0
        self._last = time.monotonic()
        return ended or self.stopped_early

    def restore(self) -> None:
        """Put the kept weights back into the network."""
        from safetensors.torch import load_model

        if self.scores:
            load_model(self._network, self._weights)

    def report(self) -> dict[str, Any]:
        """What the lineage says of it; empty where nothing was measured."""
        if not self.scores:
            return {}
        return {
            "kept_step": self.kept_step,
            "held_out_brier_before": round(self.scores[min(self.scores)], 4),
            "held_out_brier": round(self.scores[self.kept_step], 4),
            "stopped_early": self.stopped_early,
        }

    def _look(self, step: int) -> None:
        """Measure the held-out rows, and keep the weights where they are not worse."""
        started = time.monotonic()
        found = self._measure()
        if found is not None:
            self.scores[step] = float(found.mean())
            if self._worse(found):
                self._in_vain += 1
            else:
                self._in_vain, self.kept_step = 0, step
                self._save()
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)

    def _worse(self, found: NDArray[np.float64]) -> bool:
        """Whether the rows' scores are higher, beyond chance, than where their mean was least."""
        if self._least is None or found.mean() < self._least.mean():
            self._least = found
            return False
        rise = found - self._least
        return bool(rise.mean() > STANDARD_ERRORS * rise.std() / math.sqrt(len(rise)))

    def _measure(self) -> NDArray[np.float64] | None:
        """The Brier score of each held-out row, shape (n,); None where the deadline came before its end."""
        import torch

        device, found = self._network.classifier.weight.device, []
        self._network.eval()
        try:
            with torch.no_grad():
                for batch in self._held:
                    if time.monotonic() > self._deadline:
                        return None
                    feed = {name: value.to(device) for name, value in batch.items() if name != "labels"}
                    said = torch.softmax(self._network(**feed).logits.float().cpu(), dim=-1)
                    truth = torch.nn.functional.one_hot(batch["labels"], said.shape[-1])
                    found.append(((said - truth) ** 2).sum(dim=-1).double().numpy())
        finally:
            self._network.train()
        scores: NDArray[np.float64] = np.nan_to_num(np.concatenate(found), nan=2.0)  # the highest there is
        return scores

    def _save(self) -> None:
        from safetensors.torch import save_model

        with atomic_path(self._weights) as unfinished:
            save_model(self._network, str(unfinished))


def trainer_callback(watch: EarlyStopping, steps: int, every: int) -> Any:
    """The Trainer's callback that asks ``watch`` after each step."""
    from transformers import TrainerCallback

    class Ask(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
            control.should_training_stop |= watch.after_step(state.global_step, steps, every)
            return control

    return Ask()
