"""The pages of what one brings along: `init`, `check`, `compare` and `backfill`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

INIT = """\
Makes a folder with a scenario and a settings file for a file of labelled texts of yours: CSV, TSV, JSON lines or
Parquet, compressed or not. The file is read first: what cannot become a stream is refused with one sentence, and what
is worth knowing about it is said. The data is copied into the folder, so that the folder can be moved and is complete.
Then `driftloop simulate DIR` runs at once. Nothing that exists is overwritten.

reads   the file; a copy of its rows is kept in the user cache
writes  DIR with scenario.toml, driftloop.toml and the data
"""

INIT_MORE = """
examples
  driftloop init my-project --csv reviews.csv --text body --label stars
  driftloop init my-project --data reviews.parquet --text body --label stars --segment shop --rate 20
  driftloop init my-project --csv old.csv --text body --label stars --encoding latin-1

what is chosen
  The rows come as they stand in the file, which should be the order in which they arose; a file that is sorted by its
  label is shuffled. The first model is trained on a fifth of the rows, 50 to 500. A label comes after a twentieth of
  the rows, 200 events at most. Few rows are for the linear head alone. All of it stands in the two files, with
  comments.
"""

CHECK = """\
Finds out what a class of yours is - a detector, a candidate, a policy or a classifier - and runs the checks on it that
driftloop's own of that kind have to pass: one line for each, passed or failed with what was found. The class is named
as in the settings, my_package.module:MyClass, or with a dot in place of the colon, or by the short name of an entry
point; its package is installed, or PYTHONPATH names the folder it lies in. It ends with 1 where a check failed, and
with 2 where there is nothing that could be checked.

reads   the class; for a candidate it makes a tiny encoder of its own
writes  nothing but scratch files, which go at the end
"""

CHECK_MORE = """
examples
  driftloop check my_package.detector:Cusum
  driftloop check 'my_package.detector:Cusum?limit=8&slack=0.2'     with parameters, as in the settings
  driftloop check my_package.policy.EveryMistakes                   a dot does as well
  driftloop check my_package.candidate:ClassMeans                   about a minute: it is fitted some ten times

The class runs with all the rights of this command: check what you would also run.
"""

COMPARE = """\
Puts two registered versions side by side: what is written on each, and how both do on the newest labelled events that
neither was trained on: accuracy, agreement, each class and each segment, and how likely such a difference is between
two equal models (McNemar's test, and the gate's paired bootstrap). Bundles are verified by signature, as the scorer
does. It ends with 1 where there is no event to compare them on.

reads   outcomes; MLflow
writes  nothing but bundles to the user cache
"""

COMPARE_MORE = """
examples
  driftloop compare 3 7
  driftloop compare 3 7 --newest 500
  driftloop compare 3 7 --json | jq .agreement
"""

BACKFILL = """\
Scores past events with another version of the model, and shows what would have changed: how many answers, from which
label to which, in which segment, and what that would have done to the accuracy, on events that the version was not
trained on. It reads outside any consumer group, and writes to no topic and not to the store: the loop goes on as it is.

reads   events from --from on, predictions, labels; MLflow
writes  nothing but FILE, and bundles to the user cache
"""

BACKFILL_MORE = """
examples
  driftloop backfill --version 3 --from 0
  driftloop backfill --version 3 --from earliest --to 5000 --out predictions.jsonl
  driftloop backfill --version 3 --from 12000 --partition 2
  driftloop backfill --version 3 --from 0 --json | jq .changed

offsets
  They are those of the topic events, each partition's own: with several partitions and no --partition, --from and --to
  hold for each of them. `earliest` is the first that the broker still keeps. --to is not included.

FILE has one prediction on each line, as on the topic predictions. It is there when all is done, and not before.
"""

Add = Callable[[str, str, str, str], argparse.ArgumentParser]
"""Adds a verb, given its name, its line, its page and what follows the options."""
Read = Callable[[str], object]


def add(verb: Add, run: Callable[[argparse.ArgumentParser], None], count: Read, rate: Read) -> None:
    """Add the four verbs; ``run`` adds the option that names a running simulation, ``count``, ``rate`` read values."""
    one = verb("init", "make a project of your own data", INIT, INIT_MORE)
    one.add_argument("folder", metavar="DIR", help="the new folder")
    one.add_argument("--csv", "--data", dest="data", metavar="FILE", required=True, help="the labelled texts")
    one.add_argument("--text", metavar="COL", required=True, help="the column with the texts")
    one.add_argument("--label", metavar="COL", required=True, help="the column with the labels")
    one.add_argument("--segment", metavar="COL", default="", help="a column that says where a row comes from")
    one.add_argument("--rate", metavar="R", type=rate, default="40", help="events per second, or max (default: 40)")
    one.add_argument("--encoding", metavar="NAME", default="utf-8", help="of a text file (default: utf-8)")

    one = verb("check", "test a class of your own", CHECK, CHECK_MORE)
    one.add_argument("name", metavar="CLASS", help="my_package.module:MyClass")

    one = verb("compare", "two versions of the model, side by side", COMPARE, COMPARE_MORE)
    one.add_argument("one", metavar="A", help="a version's number")
    one.add_argument("other", metavar="B", help="another's")
    one.add_argument("--newest", metavar="N", type=count, default=2000, help="most events (default: 2000)")
    one.add_argument("--json", action="store_true", help="one JSON document")
    run(one)

    one = verb("backfill", "score history with another version", BACKFILL, BACKFILL_MORE)
    one.add_argument("--version", dest="model", metavar="N", required=True, help="the version's number")
    one.add_argument("--from", dest="start", metavar="OFFSET", type=_offset, required=True, help="or earliest")
    one.add_argument("--to", dest="end", metavar="OFFSET", type=_offset, help="not included (default: the end)")
    one.add_argument("--partition", metavar="P", type=_whole, help="only this one (default: all)")
    one.add_argument("--out", metavar="FILE", help="write the new predictions, as JSON lines")
    one.add_argument("--json", action="store_true", help="one JSON document")
    run(one)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _offset(text: str) -> int | None:
    return None if text == "earliest" else _whole(text)
