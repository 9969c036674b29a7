"""`driftloop report`: writes the report of a finished run again."""

from __future__ import annotations

import argparse
from pathlib import Path

from driftloop.cli.arguments import Verbs, positive_number
from driftloop.cli.options import terminate_as_interrupt
from driftloop.cli.output import write

DESCRIPTION = """\
Writes the report of a finished run as a web page and as a PDF, for readers who do not know this project. The report
describes the problem, the data and the loop. It shows accuracy over time with the drifts, every retraining with its
reason, and what AutoML and Hugging Face models contributed. It also covers segments, latency, cost and limitations, and
has a card for each promoted model. `simulate` writes the report at its end. This command writes it again, with your own
prices, and needs no service.

Energy and cost are estimates: the measured CPU seconds, multiplied by the watts and the price given here.

reads   summary.json and report.json in the run directory
writes  report.html and report.pdf beside them
"""

MORE = """
examples
  driftloop report --run runs/DIR
  driftloop report --run runs/DIR --watts 8 --price 0.031 --currency EUR
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("report", run, "write the report of a finished run", DESCRIPTION, MORE)
    verb.add_argument("--run", metavar="DIR", required=True, help="the run directory")
    verb.add_argument(
        "--watts", metavar="W", type=positive_number, help="of one busy core (default: a cloud server's, see report)"
    )
    verb.add_argument(
        "--price", metavar="P", type=positive_number, help="of one core for one hour (default: a round figure)"
    )
    verb.add_argument("--currency", metavar="NAME", help="of that price (default: USD)")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and return the exit status."""
    from serving.report import build, run_data
    from serving.report.chapters.cost import Rates

    terminate_as_interrupt()
    folder = Path(arguments.run)
    given = {"watts": arguments.watts, "price": arguments.price, "currency": arguments.currency}
    rates = Rates(**{name: value for name, value in given.items() if value is not None})
    for path in build.write_report(run_data.read(folder), folder, rates):
        write(str(path))
    return 0
