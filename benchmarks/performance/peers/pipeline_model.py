"""The model of the peers: a Hugging Face pipeline around the encoder, and a bundle's head."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from driftloop.core.models.bundle import HEAD
from driftloop.core.models.head import load_head
from driftloop.core.models.onnx_export import find_weights
from driftloop.core.models.torch_network import pool_embeddings
from driftloop.core.settings import ModelSettings


class Embeddings(transformers.Pipeline):  # type: ignore[misc]
    """Texts to embeddings of shape (d,): a custom pipeline as the manual of transformers describes it."""

    def _sanitize_parameters(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {}

    def preprocess(self, text: str) -> Any:
        """One text's tokens."""
        most = ModelSettings().max_tokens
        return self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt")

    def _forward(self, tokens: Any) -> dict[str, Any]:
        states = self.model(**tokens, output_hidden_states=True).hidden_states
        return {"embedding": pool_embeddings(states, tokens["attention_mask"])}

    def postprocess(self, found: dict[str, Any]) -> Any:
        """Its embedding."""
        return found["embedding"][0].numpy()


class Labeller:
    """Labels texts with the encoder that driftloop starts from, in full precision, and the head of a bundle."""

    def __init__(self, bundle: Path) -> None:
        source = find_weights(ModelSettings().encoder)
        network = transformers.AutoModel.from_pretrained(source)
        self._pipeline = Embeddings(model=network, tokenizer=transformers.AutoTokenizer.from_pretrained(source))
        self._head = load_head(bundle / HEAD)

    def label(self, texts: Sequence[str]) -> list[str]:
        """The labels of texts, which are run together."""
        with torch.inference_mode():
            embeddings = np.stack(self._pipeline(list(texts), batch_size=len(texts)))
        said = self._head.predict_proba(texts, embeddings)
        return [self._head.classes[row] for row in said.argmax(axis=1)]


@dataclass(frozen=True)
class Job:
    """What a peer is to do."""

    kafka: str
    events: str
    predictions: str
    bundle: Path
    server: str
    """Address of a model server that is asked in place of a model of its own; empty: none."""

    @property
    def group(self) -> str:
        """Of its consumers."""
        return f"peer-{self.events}"


def job() -> Job:
    """From the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--events", required=True)
    parser.add_argument("--predictions", required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--server", default="")
    return Job(**vars(parser.parse_args()))


def answer(event: dict[str, Any], label: str) -> bytes:
    """What is written for an event."""
    return json.dumps({"event_id": event["event_id"], "label": label}).encode()
