"""Fine-tuning: the encoder itself learns the new concept, with transformers' Trainer.

The head starts as a logistic regression over the frozen embeddings, and then both are trained: linear probing
first keeps what the encoder knew (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.classifiers.bundle import BundleClassifier, write_bundle
from driftloop.classifiers.encoder import OnnxEncoder
from driftloop.classifiers.onnx import export
from retrain.candidates import rows as choice
from retrain.candidates.base import Task
from retrain.candidates.network import choose_device, load_network, start_head
from retrain.window import Window

MAX_ROWS = 4000
EPOCHS = 4
"""Most passes over the rows; more of them learn the rows by heart."""
BATCH = 32
LEARNING_RATE = 1e-4
WARMUP = 0.1
EXPORT_SECONDS = 12.0
"""Kept of the budget for writing the graph and comparing it; more where the machine showed itself slow."""
QUANTISATION_LOSS = 0.01
"""Most accuracy that int8 may cost on the newest rows; otherwise the graph stays in fp32."""
CHECKED_ROWS = 300
WEIGHTS = "weights.safetensors"


class FineTune:
    """The encoder and a linear head over its mean embedding, trained for as many steps as the budget allows.

    The number of steps follows from the measured speed: equal for a seed only where `EPOCHS` ended the training.
    """

    name = "finetune"
    quick = False

    def __init__(self, epochs: int = EPOCHS, learning_rate: float = LEARNING_RATE) -> None:
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.progress: Callable[[str], None] = lambda text: None

    def fit(self, window: Window, task: Task, out: Path) -> None:
        """Train, export and write the bundle; see `Candidate.fit`."""
        started = time.monotonic()
        choice.check(window)
        task.scratch.mkdir(parents=True, exist_ok=True)
        network, tokenizer = load_network(window, task)
        device = choose_device(task.device)
        old_share = choice.choose_old_weight(window)
        indices = choice.sample_rows(window, old_share, MAX_ROWS, task.budget.seed)
        rows = window.take(indices.tolist())
        start_head(network, rows, window.classes)
        deadline = started + task.budget.seconds - max(EXPORT_SECONDS, 1.5 * (time.monotonic() - started))
        report = self._train(network.to(device), tokenizer, rows, window.classes, task, deadline)
        parameters = {**report, "old_share": old_share, "rows": len(rows), "learning_rate": self.learning_rate}
        self.progress(f"finetune: {report['steps']} steps done, writing the graph")
        _write(network, tokenizer, window, parameters, task, out)

    def rescue(self, window: Window, task: Task, out: Path) -> bool:
        """Export the weights that the killed training had saved; see `Candidate.rescue`."""
        from safetensors.torch import load_model

        weights = task.scratch / WEIGHTS
        if not weights.is_file():
            return False
        network, tokenizer = load_network(window, task)
        load_model(network, weights)
        _write(network, tokenizer, window, {"rescued": True}, task, out)
        return True

    def refit(self, window: Window, fitted: Path, task: Task, out: Path) -> bool:
        """It would take too long."""
        return False

    def _train(
        self, network: Any, tokenizer: Any, rows: Window, classes: Sequence[str], task: Task, deadline: float
    ) -> dict[str, Any]:
        """Train ``network`` in place until the steps or the time are used up."""
        from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

        encoded = tokenizer(list(rows.texts), truncation=True, max_length=task.model.max_tokens)
        examples = [
            {
                "input_ids": encoded["input_ids"][i],
                "attention_mask": encoded["attention_mask"][i],
                "labels": classes.index(label),
            }
            for i, label in enumerate(rows.labels)
        ]
        collate = DataCollatorWithPadding(tokenizer)
        device = network.classifier.weight.device.type
        seconds = _seconds_per_step(network, collate, examples, task.budget.seed)
        affordable = max(1, int((deadline - time.monotonic()) / seconds))
        examples = examples[-affordable * BATCH :]  # where not all can be seen once, the newest are
        steps = min(self.epochs * -(-len(examples) // BATCH), affordable)
        watch = _watch(deadline, task.scratch / WEIGHTS, steps, self.progress)
        arguments = TrainingArguments(
            output_dir=str(task.scratch / "trainer"),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=self.learning_rate,
            warmup_steps=int(WARMUP * steps),
            weight_decay=0.01,
            seed=task.budget.seed,
            use_cpu=device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            train_sampling_strategy="group_by_length",  # little padding, so more steps fit the budget
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=device != "cpu",
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=network, args=arguments, train_dataset=examples, data_collator=collate, callbacks=[watch]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        network.to("cpu").eval()
        return {
            "steps": trainer.state.global_step,
            "rows_trained_on": len(examples),
            "epochs": round(trainer.state.global_step * BATCH / len(examples), 2),
            "seconds_per_step": round(seconds, 3),
            "device": device,
        }


def _seconds_per_step(network: Any, collate: Any, examples: list[dict[str, Any]], seed: int) -> float:
    """Median of three forward and backward passes that change nothing, after one that is not counted."""
    chosen = random.Random(seed)
    taken = []
    network.train()
    for _ in range(4):
        batch = collate(chosen.sample(examples, min(BATCH, len(examples))))
        started = time.perf_counter()
        loss = network(**{name: value.to(network.classifier.weight.device) for name, value in batch.items()}).loss
        loss.backward()
        loss.item()  # waits for a GPU
        network.zero_grad()
        taken.append(time.perf_counter() - started)
    return max(float(np.median(taken[1:])), 1e-4)


def _watch(deadline: float, weights: Path, steps: int, progress: Callable[[str], None]) -> Any:
    """A Trainer callback that stops in time, saves the weights a few times for a rescue, and reports."""
    from safetensors.torch import save_model
    from transformers import TrainerCallback

    every = max(1, steps // 4)

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
            if state.global_step % every == 0 and state.global_step < steps:
                progress(f"finetune: step {state.global_step} of {steps}")
                unfinished = weights.with_suffix(".part")
                save_model(rest["model"], str(unfinished))
                unfinished.replace(weights)
            if time.monotonic() > deadline:
                control.should_training_stop = True
            return control

    return Watch()


@dataclass(frozen=True)
class _Graph:
    encoder: OnnxEncoder
    found: dict[str, Any]
    """What the lineage says of int8: whether the graph is in it, and how often both give the same label."""


def _write(network: Any, tokenizer: Any, window: Window, parameters: dict[str, Any], task: Task, out: Path) -> None:
    network.eval()
    graph = _graph(network, tokenizer, window, task)
    write_bundle(
        out,
        encoder=graph.encoder,
        head=None,
        labels=window.classes,
        lineage=msgspec.structs.replace(task.lineage, parameters={**parameters, **graph.found}),
        key=task.signing_key,
    )


def _graph(network: Any, tokenizer: Any, window: Window, task: Task) -> _Graph:
    """The graph in int8 where that was asked for and costs next to nothing, in fp32 otherwise."""

    def written(quantise: bool) -> OnnxEncoder:
        folder = task.scratch / ("int8" if quantise else "fp32")
        export(network, tokenizer, folder, quantise=quantise)
        return OnnxEncoder(folder, task.model.max_tokens, task.budget.cores)

    plain = written(False)
    if not task.model.quantise:
        return _Graph(plain, {"int8": False})
    newest = window.take(slice(-CHECKED_ROWS, None))

    def labels(encoder: OnnxEncoder) -> NDArray[np.str_]:
        return np.asarray(BundleClassifier(encoder, None, window.classes).predict(newest.texts).labels)

    small = written(True)
    one, other, truth = labels(small), labels(plain), np.asarray(newest.labels)
    fits = bool((one == truth).mean() >= (other == truth).mean() - QUANTISATION_LOSS)
    agreement = {"int8_agreement": round(float((one == other).mean()), 4), "int8_compared_on": len(newest)}
    return _Graph(small if fits else plain, {"int8": fits, **agreement})
