"""Fine-tuning: the encoder itself learns the new concept, with transformers' Trainer.

The head starts as a logistic regression over the frozen embeddings, and then both are trained: linear probing
first keeps what the encoder knew (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022). Where there
are rows and time enough, some are held out, and where training makes these worse it ends and goes back; see `stopping`.
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

from driftloop.core.models.bundle import BundleClassifier, write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.onnx_export import export
from retrain.candidates import early_stopping
from retrain.candidates import training_rows as choice
from retrain.candidates.base import Task
from retrain.candidates.trainable_network import choose_device, has_bf16, initialise_head, load_network
from retrain.training_window import TrainingWindow

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

    The number of steps follows from the measured speed: equal for a seed only where `EPOCHS` or ``patience`` ended the
    training. A ``patience`` of 0 holds nothing out and trains to the end.
    """

    name = "finetune"
    quick = False

    def __init__(
        self, epochs: int = EPOCHS, learning_rate: float = LEARNING_RATE, patience: int = early_stopping.PATIENCE
    ) -> None:
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.patience = patience
        self.progress: Callable[[str], None] = lambda text: None

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Train, export and write the bundle; see `Candidate.fit`."""
        started = time.monotonic()
        choice.require_learnable(window)
        task.scratch.mkdir(parents=True, exist_ok=True)
        network, tokenizer = load_network(window, task)
        device = choose_device(task.device)
        old_share = choice.choose_old_weight(window)
        indices = choice.sample_rows(window, old_share, MAX_ROWS, task.budget.seed)
        rows = window.take(indices.tolist())
        deadline = started + task.budget.seconds - max(EXPORT_SECONDS, 1.5 * (time.monotonic() - started))
        recent = indices >= window.onset
        report = self._train(network.to(device), tokenizer, rows, recent, window.classes, task, deadline)
        parameters = {**report, "old_share": old_share, "rows": len(rows), "learning_rate": self.learning_rate}
        self.progress(f"finetune: {report['steps']} steps done, writing the graph")
        _write(network, tokenizer, window, parameters, task, out)

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Export the weights that the killed training had saved; see `Candidate.rescue`."""
        from safetensors.torch import load_model

        weights = task.scratch / WEIGHTS
        if not weights.is_file():
            return False
        network, tokenizer = load_network(window, task)
        load_model(network, weights)
        _write(network, tokenizer, window, {"rescued": True}, task, out)
        return True

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """It would take too long."""
        return False

    def _train(
        self,
        network: Any,
        tokenizer: Any,
        rows: TrainingWindow,
        recent: NDArray[np.bool_],
        classes: Sequence[str],
        task: Task,
        deadline: float,
    ) -> dict[str, Any]:
        """Train ``network`` in place until the steps, the time or the patience are used up."""
        from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

        device, seed = network.classifier.weight.device.type, task.budget.seed
        bf16 = has_bf16(device)
        collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if device == "cuda" else None)
        examples = _examples(tokenizer, rows, classes, task.model.max_tokens)
        seconds = _seconds_per_step(network, collate, examples, seed, bf16)
        affordable = max(1, int((deadline - time.monotonic()) / seconds))
        watched = self.patience > 0 and affordable * BATCH >= early_stopping.MIN_PASSES * len(examples)
        train, held = early_stopping.split_held_out(rows.labels, recent & watched, seed)
        initialise_head(network.to("cpu"), rows.take(train.tolist()), classes)
        network.to(device)
        watch = early_stopping.EarlyStopping(
            network,
            [collate([examples[i] for i in held[at : at + BATCH]]) for at in range(0, len(held), BATCH)],
            task.scratch / WEIGHTS,
            deadline,
            self.patience,
            self.progress,
        )
        watch.begin()
        learnt = [examples[i] for i in train[-affordable * BATCH :]]  # where not all can be seen once, the newest are
        in_pass = -(-len(learnt) // BATCH)
        every = -(-in_pass // early_stopping.MEASUREMENTS_PER_PASS)
        affordable = max(1, int((deadline - time.monotonic()) / (seconds + watch.slowest_seconds / every)))
        steps = min(self.epochs * in_pass, affordable)
        if not len(held):
            every = max(1, steps // 4)
        arguments = TrainingArguments(
            output_dir=str(task.scratch / "trainer"),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=self.learning_rate,
            warmup_steps=int(WARMUP * steps),
            weight_decay=0.01,
            seed=seed,
            use_cpu=device == "cpu",
            bf16=bf16,
            save_strategy="no",
            logging_strategy="no",
            train_sampling_strategy="group_by_length",  # little padding, so more steps fit the budget
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=device != "cpu",
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=network,
            args=arguments,
            train_dataset=learnt,
            data_collator=collate,
            callbacks=[early_stopping.trainer_callback(watch, steps, every)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # the graph is written in fp32
        network.to("cpu").eval()
        watch.restore()
        return {
            "steps": trainer.state.global_step,
            "rows_trained_on": len(learnt),
            "epochs": round(trainer.state.global_step * BATCH / len(learnt), 2),
            "seconds_per_step": round(seconds, 3),
            "device": device,
            "bf16": bf16,
            "rows_held_out": len(held),
            **watch.report(),
        }


def _examples(tokenizer: Any, rows: TrainingWindow, classes: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """The rows as token ids, mask and the index of the class."""
    encoded = tokenizer(list(rows.texts), truncation=True, max_length=max_tokens)
    return [
        {
            "input_ids": encoded["input_ids"][i],
            "attention_mask": encoded["attention_mask"][i],
            "labels": classes.index(label),
        }
        for i, label in enumerate(rows.labels)
    ]


def _seconds_per_step(network: Any, collate: Any, examples: list[dict[str, Any]], seed: int, bf16: bool) -> float:
    """Median of three forward and backward passes that change nothing, after one that is not counted."""
    import torch

    chosen = random.Random(seed)
    taken = []
    device = network.classifier.weight.device
    network.train()
    for _ in range(4):
        batch = collate(chosen.sample(examples, min(BATCH, len(examples))))
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = network(**{name: value.to(device) for name, value in batch.items()}).loss
        loss.backward()
        loss.item()  # waits for a GPU
        network.zero_grad()
        taken.append(time.perf_counter() - started)
    return max(float(np.median(taken[1:])), 1e-4)


@dataclass(frozen=True)
class _Graph:
    encoder: OnnxEncoder
    found: dict[str, Any]
    """What the lineage says of int8: whether the graph is in it, and how often both give the same label."""


def _write(
    network: Any, tokenizer: Any, window: TrainingWindow, parameters: dict[str, Any], task: Task, out: Path
) -> None:
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


def _graph(network: Any, tokenizer: Any, window: TrainingWindow, task: Task) -> _Graph:
    """The graph in int8 where that was asked for and costs next to nothing, in fp32 otherwise."""

    def written(quantise: bool) -> OnnxEncoder:
        folder = task.scratch / ("int8" if quantise else "fp32")
        export(network, tokenizer, folder, quantise=quantise, weights=task.model.for_gpu)
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
