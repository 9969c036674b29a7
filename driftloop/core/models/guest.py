"""Guest among the experts of a mixture: a model of another kind, found by a search.

It is a scikit-learn head on the embeddings that the mixture sees as well, or a fine-tuned network. A network costs a
second pass for each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from driftloop.core.files import link_or_copy
from driftloop.core.models.classifier import Matrix, softmax
from driftloop.core.models.encoder import MODEL, TOKENIZER, Encoder, OnnxEncoder
from driftloop.core.models.head import Head, load_head

HEAD = "head.skops"
FILES = {"skops": (HEAD,), "logits": (MODEL, TOKENIZER)}
"""Files of a guest by its kind."""


class GuestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a guest in the manifest."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """Name of the expert."""
    head: Literal["skops", "logits"]
    """Kind of the model: a head on the embeddings, or a network with logits."""
    labels: Annotated[list[str], msgspec.Meta(min_length=1)]
    """The k classes, in the order of the columns of its probabilities."""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=8192)]


@dataclass(frozen=True)
class Guest:
    """A model among the experts of a mixture."""

    name: str
    """Name of the expert."""
    labels: tuple[str, ...]
    """Its k classes."""
    model: Head | Encoder
    """A head on the embeddings, or a network whose graph has logits."""

    @property
    def costs_a_pass(self) -> bool:
        """Return True if it reads the texts itself."""
        return not isinstance(self.model, Head)

    def predict_proba(self, texts: Sequence[str], embeddings: Matrix, classes: Sequence[str]) -> Matrix:
        """Return its probabilities of the classes of a mixture, shape (n, k).

        Args:
            texts: n texts.
            embeddings: Their embeddings, of shape (n, d).
            classes: Classes of the mixture. One that it does not know has a probability of 0.
        """
        if isinstance(self.model, Head):
            own = self.model.predict_proba(texts, embeddings)
        else:
            logits = self.model.run(texts)[1]
            if logits is None:
                raise ValueError(f"the network of {self.name} has no logits")
            own = softmax(logits)
        found = np.zeros((len(texts), len(classes)), dtype=np.float32)
        places = {name: at for at, name in enumerate(classes)}
        for column, name in enumerate(self.labels):
            if name in places:
                found[:, places[name]] = own[:, column]
        return found

    def save(self, folder: Path) -> GuestInfo:
        """Write the files of the guest into a new folder, and return its description."""
        folder.mkdir()
        if isinstance(self.model, Head):
            self.model.save(folder / HEAD)
            return GuestInfo(name=self.name, head="skops", labels=list(self.labels), max_tokens=1)
        for name in FILES["logits"]:
            link_or_copy(self.model.folder / name, folder / name)
        max_tokens = self.model.max_tokens
        return GuestInfo(name=self.name, head="logits", labels=list(self.labels), max_tokens=max_tokens)


def guest_folder(at: int) -> str:
    """Return the folder of a guest in a bundle, by its index."""
    return f"guest-{at}"


def guest_files(guests: Sequence[GuestInfo]) -> set[str]:
    """Return the files of guests in a bundle, by their paths."""
    return {f"{guest_folder(at)}/{name}" for at, info in enumerate(guests) for name in FILES[info.head]}


def load_guest(folder: Path, info: GuestInfo, threads: int) -> Guest:
    """Read a guest whose files were verified.

    Args:
        folder: Its folder.
        info: Its description.
        threads: Threads of its network, if it has one.

    Raises:
        ValueError: A file is damaged, or does not fit the description.
    """
    if info.head == "skops":
        head = load_head(folder / HEAD)
        if list(head.classes) != info.labels:
            raise ValueError(f"the head of {info.name} has other classes than its description")
        return Guest(info.name, head.classes, head)
    network = OnnxEncoder(folder, info.max_tokens, threads)
    if not network.has_logits:
        raise ValueError(f"the network of {info.name} has no logits")
    return Guest(info.name, tuple(info.labels), network)
