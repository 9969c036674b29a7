"""`driftloop bench`: runs a benchmark."""

from __future__ import annotations

import argparse
import sys

from driftloop.cli.arguments import Verbs

DESCRIPTION = """\
Runs one of the benchmarks and prints its table. `adaptation` runs policies, detectors and baselines on streams with
known drift. `detection` scores the detectors. `label_noise` adds an annotator with wrong labels. These three run in
this process, without Kafka. `throughput` and `scaling` start a stack of their own. All arguments after the name are
passed to the benchmark; its own --help lists them.

reads   the scenarios' data; your own CSV file
writes  the files that the benchmark's own options name; embeddings to the user cache
"""

MORE = """
examples
  driftloop bench adaptation                                 six kinds of drift, few systems
  driftloop bench adaptation --full --seeds 7 8 9 10 11      all scenarios and systems
  driftloop bench adaptation --csv reviews.csv --text review --label stars
  driftloop bench detection --help
"""

BENCHMARKS = ("adaptation", "detection", "label_noise", "throughput", "scaling")


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("bench", run, "measure: adaptation, detection, throughput, scaling", DESCRIPTION, MORE)
    verb.add_argument("benchmark", metavar="NAME", choices=BENCHMARKS, help=f"one of {', '.join(BENCHMARKS)}")
    verb.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="the benchmark's own options")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and return its exit status."""
    from importlib.metadata import entry_points

    # An entry point instead of an import: the benchmarks are the layer above the command line.
    (found,) = entry_points(group="driftloop.benchmarks", name=arguments.benchmark)
    sys.argv = [f"driftloop bench {arguments.benchmark}", *arguments.rest]
    status: int = found.load()()
    return status
