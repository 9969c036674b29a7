"""Detection benchmark: hits, delays and false alarms of drift detectors on streams with known drift.

It also scores the accuracy that is estimated without labels.

    driftloop bench detection                    # a few minutes: few seeds, the fused detector on texts
    driftloop bench detection --full             # everything in docs/detection.md on the held-out seeds
    driftloop bench detection --full --chosen    # the same on the seeds that choices were made on

Dummies are scored beside the detectors. Corpora whose package is not installed are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.detection.corpora import CORPORA, corpus_streams
from benchmarks.detection.results import Blocks, Row, print_accuracy, print_stationary, print_table, score
from benchmarks.detection.synthetic import DETECTORS, THREE, make_watch, measure_synthetic
from benchmarks.detection.text import STATIONARY, TEXT_SCENARIOS, TRAINED, play, text_stream
from benchmarks.harness.cli import save_json
from driftloop.core.errors import DriftloopError
from serving.simulation.drift_scoring import MAX_DELAY
from stream_processors.drift.fused_detector import RATE

SEEDS = {
    "chosen": {"synthetic": range(30), "text": range(7, 12)},
    "held out": {"synthetic": range(30, 60), "text": range(12, 22)},
}
"""Seeds on which something was chosen, and held-out seeds."""
TEXT_DETECTORS = ("fused", "error:adwin", "error:stepd", THREE, "always", "never")
RATES = (RATE, 1.0, 10.0)
"""Stated false alarms per 10,000 events for the stationary streams. High rates give alarms that can be counted."""


def main() -> int:
    """Print one table for each part, and write everything as JSON."""
    options = _parse()
    benchmark = DetectionBenchmark(options)
    with threadpool_limits(1):
        for part, measure in PARTS.items():
            if part in options.parts:
                measure(benchmark)
        benchmark.print_accuracy()
    accuracy = [{"stream": stream, "seed": seed, "blocks": blocks} for stream, seed, blocks in benchmark.accuracy]
    save_json(options.out, {"rows": benchmark.rows, "accuracy": accuracy})
    return 0


class DetectionBenchmark:
    """The parts of the benchmark, with the rows that they have measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        seeds = SEEDS["chosen" if options.chosen else "held out"]
        self._synthetic_seeds = seeds["synthetic"][: options.count or (30 if options.full else 3)]
        self._text_seeds = seeds["text"][: options.count or (5 if options.full else 1)]
        self._detectors = options.detectors or (TEXT_DETECTORS if options.full else ("fused", "always", "never"))
        self.rows: list[Row] = []
        self.accuracy: list[tuple[str, int, Blocks]] = []
        """Stream, seed and blocks of the fused detector on streams with drift."""

    def synthetic(self) -> None:
        """Measure the detectors on River's streams, a table for each stream."""
        _print_title("River's streams", self._synthetic_seeds)
        measured = measure_synthetic(self._synthetic_seeds, self._options.detectors or DETECTORS)
        for _, group in itertools.groupby(measured, key=lambda row: row.stream):
            self._show(list(group))

    def stationary(self) -> None:
        """Count the false alarms on shuffled texts, at several stated rates."""
        _print_title("Texts without drift", self._text_seeds)
        names = (STATIONARY, *(f"{corpus}/stationary" for corpus in self._corpora))
        rows = self._measure_texts(names, [f"fused?rate={rate:g}" for rate in RATES])
        self.rows += rows
        print_stationary(rows)

    def text(self) -> None:
        """Measure the detectors on tweets."""
        _print_title("Tweets", self._text_seeds)
        self._show(self._measure_texts(self._options.scenarios or TEXT_SCENARIOS, self._detectors))

    def corpora(self) -> None:
        """Measure the detectors on other corpora."""
        _print_title("Other texts", self._text_seeds)
        names = tuple(name for streams in self._corpora.values() for name in streams if "stationary" not in name)
        self._show(self._measure_texts(names, self._detectors))

    def print_accuracy(self) -> None:
        """Print estimated against realised accuracy, if any text was measured."""
        if self.accuracy:
            _print_title("Estimated accuracy", self._text_seeds)
            print_accuracy(self.accuracy)

    @cached_property
    def _corpora(self) -> dict[str, tuple[str, ...]]:
        return installed(tuple(CORPORA))

    def _measure_texts(self, names: Sequence[str], detectors: Sequence[str]) -> list[Row]:
        found = list(measure_text(names, self._text_seeds, detectors))
        self.accuracy.extend(
            (row.stream, row.seed, blocks) for row, blocks in found if row.detector.startswith("fused") and row.drifts
        )
        return [row for row, _ in found]

    def _show(self, rows: list[Row]) -> None:
        self.rows += rows
        print_table(rows)


PARTS: dict[str, Callable[[DetectionBenchmark], None]] = {
    "synthetic": DetectionBenchmark.synthetic,
    "stationary": DetectionBenchmark.stationary,
    "text": DetectionBenchmark.text,
    "corpora": DetectionBenchmark.corpora,
}
"""Parts by their name, in the order in which they run."""


def measure_text(names: Sequence[str], seeds: Sequence[int], detectors: Sequence[str]) -> Iterator[tuple[Row, Blocks]]:
    """Measure detectors on texts.

    On a stream without drift the model stays as it is. A model fitted anew on few events would be worse, which is a
    change.

    Args:
        names: Streams, as `benchmarks.detection.text.text_stream` takes them.
        seeds: Seeds of the streams.
        detectors: Detectors, as `benchmarks.detection.synthetic.make_watch` takes them.

    Returns:
        The row of each stream, seed and detector, with the blocks of estimated and realised accuracy.
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
    """Return the streams of each installed corpus."""
    found = {}
    for corpus in corpora:
        try:
            found[corpus] = corpus_streams(corpus)
        except (DriftloopError, PackageNotFoundError) as error:
            sys.stderr.write(f"{corpus} is skipped: {error}\n")
    return found


def _print_title(part: str, seeds: range) -> None:
    print(f"\n{part}, seeds {seeds.start} to {seeds.stop - 1}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="driftloop bench detection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_true", help="all detectors; 30 seeds of River's streams, 5 of the texts"
    )
    parser.add_argument("--chosen", action="store_true", help="use the seeds that choices were made on")
    parser.add_argument("--count", type=int, metavar="N", help="number of seeds of each part")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="parts to run")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="scenarios in place of the tweets'")
    parser.add_argument("--detectors", nargs="+", metavar="LINE", help="detectors in place of the default ones")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
