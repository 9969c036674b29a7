"""The pages of `case`, `models`, `approve`, `reject` and `rollback`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

CASE = """\
Each alert opens a case. Without an id this lists all cases of the stream; with one it shows everything about it: which
signals fired, when the change likely began, which words, topics and classes moved, with examples, which of them lost
accuracy, what the policy reckoned, what was trained on which offsets, what the gate said of each candidate, and what
came of it. The beginning of an id is enough.

reads   drift-alerts, outcomes, retraining; with --replay also bundles from MLflow and embeddings from Redis
writes  nothing but missing topics and the page
"""

CASE_MORE = """
examples
  driftloop case                               all cases
  driftloop case 3f9c12ab                      one of them
  driftloop case 3f9c12ab --html case.html     as a page without scripts, to send to somebody
  driftloop case 3f9c12ab --json               for programs; `pydoc serving.cases.model` explains each field
  driftloop case 3f9c12ab --replay             make the same decisions and the same models again

what a replay compares
  The policy is asked again with what was on the topics at each decision, under the settings that it had. Linear heads
  are fitted again on the same outcomes and compared bit by bit. Searches are limited by the clock and cannot be
  repeated like that, which is said of them. Where embeddings have expired in Redis they are computed again; their last
  bits may differ then, and the heads with them. The command ends with 1 where something differs.
"""

MODELS = """\
Lists every registered version of the stream's model: the candidate, what it was made for, the gate's verdict, its
accuracy on the events that it was compared on and on those that it has scored since. The champion has a dot.

reads   MLflow; outcomes
writes  nothing but missing topics
"""

MODELS_MORE = """
examples
  driftloop models
  driftloop models --json
"""

APPROVE = """\
Promotes a version that waits for a person's word, or one that the gate rejected. Every winner waits where
DRIFTLOOP_RETRAIN__APPROVAL is manual. A version older than the champion comes into office under a new number.

reads   MLflow
writes  model-updates, retraining; the version's verdict to MLflow
"""

APPROVE_MORE = """
examples
  driftloop approve 7
  driftloop approve 7 --by 'Grace Hopper' --reason 'looked at its mistakes'
"""

REJECT = """\
Turns down a version that waits for a person's word. It stays in the registry with the reason.

reads   MLflow
writes  retraining; the version's verdict to MLflow
"""

REJECT_MORE = """
examples
  driftloop reject 7 --reason 'wrong on short texts'
"""

ROLLBACK = """\
Makes an earlier model the champion again, by default the one that the present champion replaced. Its bundle is verified
and registered once more under a new number, since a smaller one would look like a late message to the rest of the loop.

reads   MLflow
writes  model-updates, retraining; a new version to MLflow
"""

ROLLBACK_MORE = """
examples
  driftloop rollback                              to the champion's predecessor
  driftloop rollback 4 --reason 'customers complain'
"""

ASK = """\
Lists the events that have no label yet and whose label would be worth most: those that the model doubts, those unlike
any that is labelled, and those of a segment that the newest alert says has moved; no two that say the same. Give the
answers as messages on `labels`.

reads   predictions, outcomes, drift-alerts; Redis
writes  nothing
"""

ASK_MORE = """
examples
  driftloop ask                                   twenty events
  driftloop ask --budget 200 --json               for an annotation tool
"""

Add = Callable[[str, str, str, str], argparse.ArgumentParser]
"""Adds a verb, given its name, its line, its page and what follows the options."""


def add(verb: Add, run: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the six verbs; ``run`` adds the option that names a running simulation."""
    one = verb("case", "everything about an alert, and what came of it", CASE, CASE_MORE)
    one.add_argument("id", nargs="?", metavar="ID", help="of the case, or its beginning (default: list all)")
    one.add_argument("--json", action="store_true", help="one JSON document")
    one.add_argument("--html", metavar="FILE", help="write a page")
    one.add_argument("--replay", action="store_true", help="make its decisions and models again, and compare")
    run(one)

    one = verb("models", "list the versions of the model", MODELS, MODELS_MORE)
    one.add_argument("--json", action="store_true", help="one JSON document")
    run(one)

    one = verb("approve", "promote a version that waits or was rejected", APPROVE, APPROVE_MORE)
    one.add_argument("model", metavar="VERSION", help="its number")
    _who(one)
    run(one)

    one = verb("reject", "turn down a version that waits", REJECT, REJECT_MORE)
    one.add_argument("model", metavar="VERSION", help="its number")
    _who(one, required=True)
    run(one)

    one = verb("rollback", "make an earlier model the champion again", ROLLBACK, ROLLBACK_MORE)
    one.add_argument("model", nargs="?", default="", metavar="VERSION", help="default: the champion's predecessor")
    _who(one)
    run(one)

    one = verb("ask", "list the events most worth a person's label", ASK, ASK_MORE)
    one.add_argument("--budget", type=int, default=20, metavar="N", help="most events to ask for (default: 20)")
    one.add_argument("--json", action="store_true", help="one JSON document")
    run(one)


def _who(verb: argparse.ArgumentParser, required: bool = False) -> None:
    verb.add_argument("--reason", metavar="TEXT", default="", required=required, help="why; it is written down")
    verb.add_argument("--by", metavar="NAME", default="", help="who decides (default: the user's name)")
