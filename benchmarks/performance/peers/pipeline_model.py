"""Model of the peers: a Hugging Face pipeline around the encoder, and the head of a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.performance import peers
from driftloop.core.models.bundle import HEAD
from driftloop.core.models.head import load_head
from driftloop.core.models.onnx_export import find_weights
from driftloop.core.models.torch_network import pool_embeddings
from driftloop.core.settings import ModelSettings


class Embeddings(transformers.Pipeline):  # type: ignore[misc]
    """Custom pipeline from texts to embeddings of shape (d,), as the manual of transformers describes it."""

    def _sanitize_parameters(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {}

    def preprocess(self, text: str) -> Any:
        """Tokenise one text."""
        most = ModelSettings().max_tokens
        return self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt")

    def _forward(self, tokens: Any) -> dict[str, Any]:
        states = self.model(**tokens, output_hidden_states=True).hidden_states
        return {"embedding": pool_embeddings(states, tokens["attention_mask"])}

    def postprocess(self, found: dict[str, Any]) -> Any:
        """Return the embedding."""
        return found["embedding"][0].numpy()


class PipelineModel:
    """driftloop's base encoder in full precision, with the head of a bundle.

    Args:
        bundle: Folder of the bundle.
    """

    def __init__(self, bundle: Path) -> None:
        source = find_weights(ModelSettings().encoder)
        network = transformers.AutoModel.from_pretrained(source)
        self._pipeline = Embeddings(model=network, tokenizer=transformers.AutoTokenizer.from_pretrained(source))
        self._head = load_head(bundle / HEAD)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Predict the labels of a batch of texts."""
        with torch.inference_mode():
            embeddings = np.stack(self._pipeline(list(texts), batch_size=len(texts)))
        probabilities = self._head.predict_proba(texts, embeddings)
        return [self._head.classes[row] for row in probabilities.argmax(axis=1)]


@dataclass(frozen=True)
class Job:
    """Arguments of a peer."""

    kafka: str
    """Address of the broker."""
    events: str
    """Topic to read."""
    predictions: str
    """Topic to write."""
    bundle: Path
    """Folder of the bundle with the head."""
    server: str
    """Address of a model server that predicts in place of the pipeline. Empty for none."""

    @property
    def group(self) -> str:
        """Consumer group."""
        return f"peer-{self.events}"


def parse_job() -> Job:
    """Parse the command line of a peer."""
    program = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.performance.peers.{program}", description=peers.__doc__
    )
    parser.add_argument("--kafka", required=True, help="address of the broker")
    parser.add_argument("--events", required=True, help="topic to read")
    parser.add_argument("--predictions", required=True, help="topic to write")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle with the head")
    parser.add_argument("--server", default="", help="address of a model server that predicts in place of the pipeline")
    return Job(**vars(parser.parse_args()))


def encode_prediction(event: dict[str, Any], label: str) -> bytes:
    """Encode the message about a predicted event.

    Args:
        event: The event.
        label: The predicted label.
    """
    return json.dumps({"event_id": event["event_id"], "label": label}).encode()
