"""A tiny random BERT in the Hub's folder layout, its graphs, and windows of made-up sentences to learn from."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

from driftloop.classifiers.encoder import OnnxEncoder
from driftloop.classifiers.onnx import export, exported_classifier
from retrain.window import Window

KEY = "a key for tests"
MAX_TOKENS = 24
LABELS = ("negative", "neutral", "positive")
WORDS = {
    "negative": ("awful", "late", "broken", "angry"),
    "neutral": ("gate", "report", "tuesday", "map"),
    "positive": ("great", "love", "happy", "thanks"),
}
FILLER = ("the", "flight", "was", "a", "car", "and", "so", "today", "my", "crew")
HOSTILE = (
    "",
    "x" * 10_000,
    "great 😀🎉👩‍👩‍👧",
    "nul\x00byte",
    "\u202eright to left\u202c שלום",
    "\ud7ff\ufffd",
    "\n\t ",
)


@cache
def root() -> Path:
    """A folder that goes when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="driftloop-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def tokenizer():
    """Word pieces that are the words above and single characters."""
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
    """Write a random model with its tokenizer into ``folder``."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(seed)
    made = tokenizer()
    config = BertConfig(
        vocab_size=len(made),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        # A small range keeps words apart, as a trained encoder does; a large one lets a random head tell texts apart.
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
    """The tiny encoder in the Hub's layout."""
    return save(root() / "encoder", classifier=False)


@cache
def classifier_folder() -> Path:
    """The tiny classifier in the Hub's layout."""
    return save(root() / "classifier", classifier=True)


@cache
def encoder() -> OnnxEncoder:
    """The tiny encoder as a graph in fp32."""
    from transformers import AutoModel

    folder = root() / "encoder-graph"
    export(
        AutoModel.from_pretrained(encoder_folder(), attn_implementation="eager"), tokenizer(), folder, quantise=False
    )
    return OnnxEncoder(folder, MAX_TOKENS, threads=1)


@cache
def classifier() -> OnnxEncoder:
    """The tiny classifier as a graph with logits, in fp32."""
    from driftloop.settings import ModelSettings

    model = ModelSettings(max_tokens=MAX_TOKENS, quantise=False)
    return exported_classifier(str(classifier_folder()), root() / "classifier-graph", model)[0]


def sentences(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts that two telling words make easy, and their labels."""
    rng = random.Random(seed)
    labels = [rng.choice(LABELS) for _ in range(n)]
    texts = []
    for label in labels:
        words = rng.choices(FILLER, k=6) + rng.choices(WORDS[label], k=2)
        rng.shuffle(words)
        texts.append(" ".join(words))
    return texts, labels


def window(n: int, onset: int = 0, seed: int = 0) -> Window:
    """A window of ``n`` sentences with the tiny encoder's embeddings."""
    texts, labels = sentences(n, seed)
    return Window(
        event_ids=tuple(str(i) for i in range(n)),
        texts=tuple(texts),
        labels=tuple(labels),
        embeddings=encoder().embed(texts),
        encoder=encoder().folder,
        onset=onset,
        first_offset=100,
        last_offset=99 + n,
    )
