"""Tiny random BERT in the Hub's folder layout, its graph, and windows of synthetic sentences to learn from.

It serves the checks of candidates and the tests. An encoder of megabytes would make each of them take minutes.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.onnx_export import export
from driftloop.core.models.sample_texts import FILLER, LABELS, WORDS, sentences
from retrain.training_window import TrainingWindow

KEY = "a key for tests"
MAX_TOKENS = 24


@cache
def root() -> Path:
    """Return a folder that is deleted when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="driftloop-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def tokenizer() -> Any:
    """Return a tokenizer whose pieces are the words of the synthetic sentences and single characters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(c) for c in range(33, 127)]
    words = [word for group in WORDS.values() for word in group]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *FILLER, *letters, *("##" + letter for letter in letters)]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def save(folder: Path, *, classifier: bool, seed: int = 0) -> Path:
    """Write a random model with its tokenizer, and return its folder.

    Args:
        folder: Folder to write to.
        classifier: True for a model with a classification head, False for an encoder.
        seed: Seed of the weights.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(seed)
    made = tokenizer()
    config = BertConfig(
        vocab_size=len(made),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        # A small range separates words, as a trained encoder does. A large one lets a random head separate texts.
        initializer_range=0.5 if classifier else 0.1,
    )
    if classifier:
        config.num_labels = len(LABELS)
        config.id2label = {i: label.upper() for i, label in enumerate(LABELS)}
        config.label2id = {label.upper(): i for i, label in enumerate(LABELS)}
    (BertForSequenceClassification if classifier else BertModel)(config).eval().save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@cache
def encoder_folder() -> Path:
    """Return the folder of the tiny encoder, in the Hub's layout."""
    return save(root() / "encoder", classifier=False)


@cache
def encoder() -> OnnxEncoder:
    """Return the tiny encoder as a graph in fp32."""
    from transformers import AutoModel

    folder = root() / "encoder-graph"
    export(
        AutoModel.from_pretrained(encoder_folder(), attn_implementation="eager"), tokenizer(), folder, quantise=False
    )
    return OnnxEncoder(folder, MAX_TOKENS, threads=1)


def window(n: int, onset: int = 0, seed: int = 0) -> TrainingWindow:
    """Return a window of synthetic sentences with the tiny encoder's embeddings.

    Args:
        n: Number of sentences.
        onset: Index of the first row after the drift; 0 for none.
        seed: Seed of the sentences.
    """
    texts, labels = sentences(n, seed)
    return TrainingWindow(
        event_ids=tuple(str(i) for i in range(n)),
        texts=tuple(texts),
        labels=tuple(labels),
        embeddings=encoder().embed(texts),
        encoder=encoder().folder,
        onset=onset,
        first_offset=100,
        last_offset=99 + n,
    )
