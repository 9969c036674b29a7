"""Fine-tuning candidate: the encoder itself learns the new concept, with transformers' Trainer.

The head starts as a logistic regression on the frozen embeddings, and then both are trained. Linear probing first keeps
what the encoder knew (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022). If there are enough rows
and time, some rows are held out, and training stops early when they get worse; see `retrain.candidates.early_stopping`.
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
from retrain.candidates import early_stopping, training_rows
from retrain.candidates.base import Task
from retrain.candidates.trainable_network import choose_device, has_bf16, initialise_head, load_network
from retrain.training_window import TrainingWindow

EPOCHS = 4
"""Maximum number of passes over the rows. More passes overfit."""
BATCH = 32
LEARNING_RATE = 1e-4
WARMUP = 0.1
EXPORT_SECONDS = 12.0
"""Part of the budget that is reserved for the export of the graph; more on a machine that has shown itself slow."""
QUANTISATION_LOSS = 0.01
"""Accuracy on the newest rows that int8 may cost. With a greater loss the graph stays in fp32."""
CHECKED_ROWS = 300
"""Newest rows on which int8 is compared with fp32."""
WEIGHTS = "weights.safetensors"


class FineTune:
    """The encoder and a linear head on its mean embedding, trained for as many steps as the budget allows.

    The number of steps follows from the measured speed. It is equal for a seed only if ``epochs`` or ``patience`` ended
    the training.

    Args:
        epochs: Maximum number of passes over the rows.
        learning_rate: Peak learning rate.
        patience: Consecutive worse measurements that end the training. `0` holds no rows out and trains to the end.
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
        """Train, export and write the bundle; see `Candidate.fit`.

        Args:
            window: Labelled events to learn from.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle.
        """
        started = time.monotonic()
        training_rows.require_learnable(window)
        task.scratch.mkdir(parents=True, exist_ok=True)
        network, tokenizer = load_network(window, task)
        device = choose_device(task.device)
        old_share = training_rows.choose_old_weight(window)
        indices = training_rows.sample_rows(window, old_share, len(window), task.budget.seed)
        rows = window.take(indices.tolist())
        deadline = started + task.budget.seconds - max(EXPORT_SECONDS, 1.5 * (time.monotonic() - started))
        recent = indices >= window.onset
        report = self._train(network.to(device), tokenizer, rows, recent, window.classes, task, deadline)
        parameters = {**report, "old_share": old_share, "rows": len(rows), "learning_rate": self.learning_rate}
        self.progress(f"finetune: {report['steps']} steps done, writing the graph")
        _write(network, tokenizer, window, parameters, task, out)

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Export the weights that the killed training had saved; see `Candidate.rescue`.

        Args:
            window: Window of the fit.
            task: Task of the fit.
            out: Folder of the bundle.
        """
        from safetensors.torch import load_model

        weights = task.scratch / WEIGHTS
        if not weights.is_file():
            return False
        network, tokenizer = load_network(window, task)
        load_model(network, weights)
        _write(network, tokenizer, window, {"rescued": True}, task, out)
        return True

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Return False: a refit would take too long.

        Args:
            window: Not used.
            fitted: Not used.
            task: Not used.
            out: Not used.
        """
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
        """Train the network in place until the steps, the time or the patience are used up; return a report."""
        from transformers import DataCollatorWithPadding, PrinterCallback, Trainer

        device, seed = network.classifier.weight.device.type, task.budget.seed
        bf16 = has_bf16(device)
        collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if device == "cuda" else None)
        examples = _examples(tokenizer, rows, classes, task.model.max_tokens)
        seconds = _seconds_per_step(network, collate, examples, seed, bf16)
        affordable = max(1, int((deadline - time.monotonic()) / seconds))
        hold_out = self.patience > 0 and affordable * BATCH >= early_stopping.MIN_PASSES * len(examples)
        train, held = early_stopping.split_held_out(rows.labels, recent & hold_out, seed)
        initialise_head(network.to("cpu"), rows.take(train.tolist()), classes)
        network.to(device)
        stopping = early_stopping.EarlyStopping(
            network,
            [collate([examples[i] for i in held[at : at + BATCH]]) for at in range(0, len(held), BATCH)],
            task.scratch / WEIGHTS,
            deadline,
            self.patience,
            self.progress,
        )
        stopping.begin()
        # The newest rows are learnt if not all can be seen once.
        learnt = [examples[i] for i in train[-affordable * BATCH :]]
        steps_per_pass = -(-len(learnt) // BATCH)
        every = -(-steps_per_pass // early_stopping.MEASUREMENTS_PER_PASS)
        affordable = max(1, int((deadline - time.monotonic()) / (seconds + stopping.slowest_seconds / every)))
        steps = min(self.epochs * steps_per_pass, affordable)
        if not len(held):
            every = max(1, steps // 4)
        trainer = Trainer(
            model=network,
            args=self._arguments(task, steps, device, bf16),
            train_dataset=learnt,
            data_collator=collate,
            callbacks=[early_stopping.trainer_callback(stopping, steps, every)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # the graph is written in fp32
        network.to("cpu").eval()
        stopping.restore()
        return {
            "steps": trainer.state.global_step,
            "rows_trained_on": len(learnt),
            "epochs": round(trainer.state.global_step * BATCH / len(learnt), 2),
            "seconds_per_step": round(seconds, 3),
            "device": device,
            "bf16": bf16,
            "rows_held_out": len(held),
            **stopping.report(),
        }

    def _arguments(self, task: Task, steps: int, device: str, bf16: bool) -> Any:
        """Return the arguments of the Trainer: nothing is saved, logged or reported."""
        from transformers import TrainingArguments

        return TrainingArguments(
            output_dir=str(task.scratch / "trainer"),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=self.learning_rate,
            warmup_steps=int(WARMUP * steps),
            weight_decay=0.01,
            seed=task.budget.seed,
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


def _examples(tokenizer: Any, rows: TrainingWindow, classes: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """Return the rows as token ids, mask and the index of the class."""
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
    """Return the median of three forward and backward passes that change no weight, after one that is not counted."""
    import torch

    chosen = random.Random(seed)
    durations = []
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
        durations.append(time.perf_counter() - started)
    return max(float(np.median(durations[1:])), 1e-4)


@dataclass(frozen=True)
class _ExportedEncoder:
    encoder: OnnxEncoder
    parameters: dict[str, Any]
    """Entries of the lineage about int8: whether the graph is in it, and how often both give the same label."""


def _write(
    network: Any, tokenizer: Any, window: TrainingWindow, parameters: dict[str, Any], task: Task, out: Path
) -> None:
    network.eval()
    exported = _export(network, tokenizer, window, task)
    write_bundle(
        out,
        encoder=exported.encoder,
        head=None,
        labels=window.classes,
        lineage=msgspec.structs.replace(task.lineage, parameters={**parameters, **exported.parameters}),
        key=task.signing_key,
    )


def _export(network: Any, tokenizer: Any, window: TrainingWindow, task: Task) -> _ExportedEncoder:
    """Export the graph in int8 if that is configured and costs next to no accuracy, in fp32 otherwise."""

    def write_graph(quantise: bool) -> OnnxEncoder:
        folder = task.scratch / ("int8" if quantise else "fp32")
        export(network, tokenizer, folder, quantise=quantise, weights=task.model.for_gpu)
        return OnnxEncoder(folder, task.model.max_tokens, task.budget.cores)

    def labels(encoder: OnnxEncoder) -> NDArray[np.str_]:
        return np.asarray(BundleClassifier(encoder, None, window.classes).predict(newest.texts).labels)

    fp32 = write_graph(False)
    if not task.model.quantise:
        return _ExportedEncoder(fp32, {"int8": False})
    newest = window.take(slice(-CHECKED_ROWS, None))
    int8 = write_graph(True)
    int8_labels, fp32_labels, truth = labels(int8), labels(fp32), np.asarray(newest.labels)
    accurate = bool((int8_labels == truth).mean() >= (fp32_labels == truth).mean() - QUANTISATION_LOSS)
    agreement = round(float((int8_labels == fp32_labels).mean()), 4)
    parameters = {"int8": accurate, "int8_agreement": agreement, "int8_compared_on": len(newest)}
    return _ExportedEncoder(int8 if accurate else fp32, parameters)
