"""Drift detectors scored on streams with known drift: hits, delay, false alarms; and accuracy estimated without labels.

    python -m benchmarks.detection.run                    # a few minutes: few seeds, the fused detector on texts
    python -m benchmarks.detection.run --full             # everything in docs/detection.md on the held-out seeds
    python -m benchmarks.detection.run --full --chosen    # the same on the seeds that choices were made on

The dummies stand beside every score. Streams of other corpora are left out where their package is not installed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import msgspec
from threadpoolctl import threadpool_limits

from benchmarks.detection.corpora import CORPORA, corpus_streams
from benchmarks.detection.results import Blocks, Row, interval, print_accuracy, print_stationary, print_table, score
from benchmarks.detection.synthetic import DETECTORS, THREE, make_watch, measure_synthetic
from benchmarks.detection.text import STATIONARY, TEXT_SCENARIOS, TRAINED, play, text_stream
from driftloop.core.errors import DriftloopError
from serving.simulation.drift_scoring import MAX_DELAY
from stream_processors.drift.fused_detector import RATE

__all__ = ["installed", "interval", "main", "measure_text"]

PARTS = ("synthetic", "stationary", "text", "corpora")
SEEDS = {
    "chosen": {"synthetic": range(30), "text": range(7, 12)},
    "held out": {"synthetic": range(30, 60), "text": range(12, 22)},
}
"""Seeds on which something was chosen, and those on which nothing was."""
TEXT_DETECTORS = ("fused", "error:adwin", "error:stepd", THREE, "always", "never")
RATES = (RATE, 1.0, 10.0)
"""False alarms per 10,000 events stated to the detector where nothing drifts; high ones so that some can be counted."""


def measure_text(names: Sequence[str], seeds: Sequence[int], detectors: Sequence[str]) -> Iterator[tuple[Row, Blocks]]:
    """One row for each stream, seed and detector, with the blocks of estimated and realised accuracy.

    Where nothing drifts the model stays as it is: one fitted anew on few events would be worse, which is a change.
    """
    for name, seed in itertools.product(names, seeds):
        stream = text_stream(name, seed)
        for detector in detectors:
            played = play(stream, make_watch(detector), fits=bool(stream.drifts))
            top3, kinds = played.explained(MAX_DELAY)
            yield (
                score(
                    "text", name, seed, detector, played.alerts, stream.drifts, len(stream.rows), TRAINED,
                    played.seconds, top3=top3, kinds=kinds,
                ),
                played.blocks,
            )  # fmt: skip


def installed(corpora: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The streams of each corpus that is there."""
    found = {}
    for corpus in corpora:
        try:
            found[corpus] = corpus_streams(corpus)
        except (DriftloopError, PackageNotFoundError) as error:
            sys.stderr.write(f"{corpus} is left out: {error}\n")
    return found


def main() -> int:
    """Print one table for each part, and write everything as JSON."""
    options = _options()
    seeds = SEEDS["chosen" if options.chosen else "held out"]
    few = seeds["synthetic"][: options.count or (30 if options.full else 3)]
    texts = seeds["text"][: options.count or (5 if options.full else 1)]
    rows: list[Row] = []
    accuracy: list[tuple[str, int, Blocks]] = []

    def texts_of(names: Sequence[str], detectors: Sequence[str]) -> list[Row]:
        found = list(measure_text(names, texts, detectors))
        accuracy.extend(
            (row.stream, row.seed, blocks) for row, blocks in found if row.detector.startswith("fused") and row.drifts
        )
        return [row for row, _ in found]

    with threadpool_limits(1):
        if "synthetic" in options.parts:
            _title("River's streams", few)
            measured = measure_synthetic(few, options.detectors or DETECTORS)
            for _, group in itertools.groupby(measured, key=lambda row: row.stream):
                rows += (shown := list(group))
                print_table(shown)
        corpora = installed(tuple(CORPORA)) if {"stationary", "corpora"} & set(options.parts) else {}
        if "stationary" in options.parts:
            _title("Texts where nothing drifts", texts)
            names = (STATIONARY, *(f"{corpus}/stationary" for corpus in corpora))
            still = texts_of(names, [f"fused?rate={rate:g}" for rate in RATES])
            rows += still
            print_stationary(still)
        detectors = options.detectors or (TEXT_DETECTORS if options.full else ("fused", "always", "never"))
        if "text" in options.parts:
            _title("Tweets", texts)
            rows += (shown := texts_of(options.scenarios or TEXT_SCENARIOS, detectors))
            print_table(shown)
        if "corpora" in options.parts:
            _title("Other texts", texts)
            names = tuple(name for streams in corpora.values() for name in streams if "stationary" not in name)
            rows += (shown := texts_of(names, detectors))
            print_table(shown)
        if accuracy:
            _title("Estimated accuracy", texts)
            print_accuracy(accuracy)
    if options.out is not None:
        body: dict[str, Any] = {
            "rows": rows,
            "accuracy": [{"stream": stream, "seed": seed, "blocks": blocks} for stream, seed, blocks in accuracy],
        }
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(body), indent=1))
    return 0


def _title(what: str, seeds: range) -> None:
    print(f"\n{what}, seeds {seeds.start} to {seeds.stop - 1}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.detection.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="all detectors; 30 seeds of River's streams, 5 of the texts"
    )
    parser.add_argument("--chosen", action="store_true", help="the seeds that choices were made on")
    parser.add_argument("--count", type=int, metavar="N", help="seeds of each part")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="in place of the tweets'")
    parser.add_argument("--detectors", nargs="+", metavar="LINE")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
