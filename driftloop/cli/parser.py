"""The command line's pages: what each verb takes, and a text one can learn from."""

from __future__ import annotations

import argparse
from functools import partial
from typing import NoReturn

from driftloop.cli import case_pages, own_pages

TOPICS = (
    "events", "predictions", "labels", "outcomes", "drift-alerts", "model-updates", "retraining", "commands",
    "dead-letters",
)  # fmt: skip

BENCHMARKS = ("adaptation", "detection", "label_noise", "throughput", "scaling")

EXIT_CODES = """
exit codes
  0    done
  1    not all of it: something needed is missing, or did not come
  2    could not go on: one sentence on standard error says why and what to do
  130  interrupted (Ctrl-C or SIGTERM); what was under way was ended in order
"""

SETTINGS = """
settings
  Every option of the stack is also an environment variable, DRIFTLOOP_KAFKA, DRIFTLOOP_REDIS, DRIFTLOOP_MLFLOW and
  DRIFTLOOP_STREAM, and a key of a TOML file that --settings or DRIFTLOOP_SETTINGS names. An option wins over the
  environment, and that over the file. `driftloop doctor --settings` shows all settings, their values and meaning.
"""

MAIN = """\
driftloop closes the loop that most machine-learning projects leave open: a model scores a live stream, the world
changes, the system notices, retrains, proves that the new model is better, and promotes it without a restart.

    replay ──► events ──► score ──► predictions ─┐
       └─────────────────────────► labels ───────┴──► monitor ──► outcomes, drift-alerts
    score ◄── model-updates ◄── retrain ◄───────────────────────────────┘

Start with `driftloop simulate`: it needs nothing but this package, and shows all of it on real tweets.
"""

SIMULATE = """\
Runs the whole loop on this machine: a real Kafka, a Valkey and an MLflow as child processes, and beside them the
scorer, the monitor, the retraining job and a replay of the scenario. You see events per second, lag, the rolling
accuracy of each model version, drift (▲, true drifts △) and promotions (●), here and on the live page, which opens in
your browser where there is one. It ends by itself when every event is predicted, every label joined and no retraining
under way, and leaves summary.json and a report in the run directory.

Built-in scenarios: tweets (six sources in turn, five true drifts), tweets-short (the first of them, 90 seconds),
tweets-gradual, tweets-recurring, tweets-stationary (the control), tweets-typos, tweets-label-shift; or the path of a
TOML file of your own that names a CSV file, a folder or a dataset of the Hugging Face Hub; or a folder that
`driftloop init` made, which stands for its scenario.toml and, without --settings, its driftloop.toml.

reads   predictions, outcomes, drift-alerts, model-updates, retraining, dead-letters (to show them)
writes  nothing itself: its child processes `replay`, `score`, `monitor`, `retrain` and `serve` do
"""

SIMULATE_MORE = """
examples
  driftloop simulate                           the tweets, at 40 events/s
  driftloop simulate tweets-short --plain      lines instead of a picture, for logs
  driftloop simulate mine.toml --rate max      your data, as fast as the machine goes
  driftloop simulate my-project                what `driftloop init my-project` wrote
  driftloop simulate tweets --settings mine.toml     with the settings in that file
  driftloop simulate --resume runs/DIR         go on where a run was stopped or killed
  DRIFTLOOP_RETRAIN__POLICY=never driftloop simulate     the loop left open, to compare with

the run directory (--out, default runs/TIME-SCENARIO)
  summary.json   the figures; `pydoc serving.simulation.summary` explains each field
  report.pdf     the run for people, and the same as report.html; `driftloop report` writes them again
  report.json    what they are made of, beside summary.json
  run.json       scenario and settings, for --resume
  logs/          one log for each process
  kafka/ valkey/ mlflow/    their data

a stack of your own
  With DRIFTLOOP_KAFKA, DRIFTLOOP_REDIS and DRIFTLOOP_MLFLOW all set (or --stack own) nothing is started but the five
  processes. `--stack embedded` ignores the three.
"""

DEMO = """\
A guided run of `simulate` that tells what happens as it happens: the drift, the alert, the retraining, the gate, the
swap. It takes under 15 minutes, with --fast under 4, and records itself: the terminal as an asciinema cast, and the
live page as a film with subtitles, where there is a Chromium (`make browser` installs one).

reads   what `simulate` reads
writes  what `simulate` does; demo.cast, demo.mp4 and demo.vtt in the run directory
"""

DEMO_MORE = """
examples
  driftloop demo                               the first true drift of the tweets
  driftloop demo --fast --out friday           in under four minutes, into a folder of that name
  driftloop demo mine.toml --no-video          data of your own, and the terminal alone
  asciinema play friday/demo.cast              any player of asciinema's casts
"""

REPLAY = """\
Sends the events of a scenario at their rate, and each label some events later on a topic of its own. Event ids follow
from the data, so the same scenario sends the same ids; a replay that was cut off goes on after the last message that
is on the topics. The first events, which the first model is trained on, go out at full speed with their labels.

reads   the tail of events and labels, to know where to go on
writes  events, labels (created when missing)
"""

REPLAY_MORE = """
examples
  driftloop replay tweets --kafka localhost:9092
  driftloop replay mine.toml --rate max --limit 1000

a scenario file
  rate = 40                    # events per second, or "max"
  label_delay = 200            # a label comes so many events after its event
  [dataset]
  path = "reviews.csv"         # or packaged = "tweets", or hub = "owner/name"
  text = "review"              # columns
  label = "stars"
"""

SCORE = """\
Scores events with the champion: a sentence encoder on ONNX Runtime and a head. Waits for the first model, takes over
a new one between two batches while events flow, and acknowledges a batch only when its predictions are safe, so that
a crash repeats events and never loses one. What cannot be decoded or scored becomes a dead letter.

reads   events, model-updates; bundles from MLflow
writes  predictions, dead-letters; predictions and embeddings by event id to Redis
"""

SCORE_MORE = """
examples
  driftloop score --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000
  DRIFTLOOP_SCORER__BATCH=128 driftloop score        larger batches
  DRIFTLOOP_SCORER__MEMBER=second driftloop score    another one on the same machine: they share the partitions
"""

MONITOR = """\
Joins predictions with their late labels, and watches: River detectors on the error, the confidence and the mix of
predicted labels. An alarm becomes an alert that says when the change began and what moved. The detectors' state
survives a restart, and no event counts twice.

reads   predictions, labels
writes  outcomes, drift-alerts, dead-letters; state to Redis
"""

MONITOR_MORE = """
examples
  driftloop monitor --kafka broker:9092 --redis redis://cache:6379/0
  DRIFTLOOP_MONITOR__DETECTORS='error:adwin,error:ddm,mix:adwin?delta=1e-6' driftloop monitor
"""

RETRAIN = """\
Decides when to retrain (policy), builds the training window from outcomes, fits the candidates side by side under a
hard time limit, compares each with the champion on the newest events that none has seen, and promotes only what is
better beyond chance. Everything is registered in MLflow, rejected candidates with their reason. It also trains the
first model, on the first labelled events. It goes on until it is interrupted; with --once it does what is due by what
is on the topics, and ends.

reads   drift-alerts, outcomes; people's labels and commands; events and labels for the first model
writes  retraining, model-updates; runs and model versions to MLflow
"""

RETRAIN_MORE = """
examples
  driftloop retrain --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000
  DRIFTLOOP_RETRAIN__POLICY=periodic DRIFTLOOP_RETRAIN__PERIOD=1000 driftloop retrain
  DRIFTLOOP_RETRAIN__CANDIDATES=linear driftloop retrain       the quickest candidate only
  DRIFTLOOP_RETRAIN__DASK=tcp://dask:8786 driftloop retrain    TPOT's search on the workers of a Dask cluster
  driftloop retrain --once                                     as a batch job, from cron or a Kubernetes CronJob
"""

SERVE = """\
Serves the live page at /, the loop's figures for Prometheus at /metrics, /health, and an API, with a manual at /docs:
scores texts with the champion (also for clients of the Open Inference Protocol, below /v2), says where a prediction
comes from, streams predictions and alerts, takes people's labels, and promotes, rolls back and retrains for admins. A
browser shows its token once, in a form.

It listens on the loopback address unless told otherwise. Who calls is known by a token (DRIFTLOOP_API__TOKENS); without
any set, everybody on this machine may do everything, and from elsewhere read and score.

reads   every topic; predictions by id from Redis; models from MLflow
writes  labels (people's), commands (what they ask of `driftloop retrain`, which does it)
"""

SERVE_MORE = """
examples
  driftloop serve --kafka broker:9092 --redis redis://cache:6379/0
  DRIFTLOOP_API__PORT=8080 driftloop serve
  curl http://127.0.0.1:8000/v1/status
  curl -H 'Content-Type: application/json' -d '{"text": "late again", "explain": true}' \\
      http://127.0.0.1:8000/v1/predict
  curl -N http://127.0.0.1:8000/v1/stream/predictions
  DRIFTLOOP_API__TOKENS=ann:annotator:TOKEN,bob:admin:OTHER driftloop serve     tokens of 16 characters or more
"""

TOPICS_PAGE = """\
Lists the topics with their messages, and creates those that are missing. With --console it starts Kafka's own console
consumer on one of them, from the jars that the embedded broker uses, and prints on standard error the command that
does the same on a machine with Kafka's scripts. While a simulation runs on this machine, its broker is found by itself.

reads   the topics' names and end offsets; with --console one topic
writes  nothing but missing topics
"""

TOPICS_MORE = """
examples
  driftloop topics                                  names, partitions, messages
  driftloop topics --console predictions --max 3    what is on a topic, byte for byte, with Kafka's own tool
  driftloop topics --run runs/DIR                   of that simulation, where several run
  driftloop topics --acls                           who may do what, made so on a broker with an authorizer

The console consumer prints what is there, escape sequences included; `driftloop watch` shows them as text.
"""

WATCH = """\
Prints the messages of one topic as they come, one readable line each. Text from the stream is shown, never obeyed:
control characters and escape sequences are written out. While a simulation runs on this machine, it is found by
itself; DRIFTLOOP_KAFKA and the other settings win over it.

reads   the topic, outside any consumer group: nobody else is disturbed
writes  nothing
"""

WATCH_MORE = """
examples
  driftloop watch drift-alerts --from-beginning        every alert so far, then those to come
  driftloop watch outcomes --wrong --segment airlines  the mistakes on one segment
  driftloop watch predictions --where label=negative --where model_version=2
  driftloop watch retraining --json | jq .state        for programs
"""

AUDIT = """\
Reads the topics once and says whether every event ended as exactly one prediction or one dead letter, by its key:
ALL-RECORDS-DELIVERED, PROCESSED-LESS or PROCESSED-MORE, with counts and the first event ids that it is not true of.
Labels and outcomes, what the detectors have counted, the store and the lineage of every model are compared as well.
It may run while the loop is at work, and beside any fault: what has not been acknowledged yet is on its way, not lost.
While a simulation runs on this machine it is found by itself.

reads   events, predictions, labels, outcomes, dead-letters, model-updates, committed offsets; Redis; MLflow
writes  nothing but a file for the time being, in the folder for temporary files
"""

AUDIT_MORE = """
examples
  driftloop audit                            of the simulation on this machine
  driftloop audit --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000
  driftloop audit --json | jq .verdict       for programs
"""

REPORT = """\
Writes the report of a finished run: one document as a web page and as a PDF, for somebody who has never seen this
project. The problem and the data, the loop as it ran, accuracy over time with the drifts, every retraining with its
reason, what AutoML and Hugging Face models were worth against the rest, segments, latency, cost, limits, and a card
for each promoted model. `simulate` writes it at its end; this writes it again, with rates of your own, and needs no
service.

Energy and cost are estimates: the CPU seconds that were measured, times the watts and the price given here.

reads   summary.json and report.json in the run directory
writes  report.html and report.pdf beside them
"""

REPORT_MORE = """
examples
  driftloop report --run runs/DIR
  driftloop report --run runs/DIR --watts 8 --price 0.031 --currency EUR
"""

BENCH = """\
Runs one of the benchmarks and prints its table. `adaptation` plays policies, detectors and references over streams
with known drift, `detection` scores the detectors, `label_noise` lets an annotator lie: in this process, without Kafka.
`throughput` and `scaling` start a stack of their own. What stands after the name goes to the benchmark; `--help` there
shows what it takes.

reads   the scenarios' data; a CSV file of your own
writes  what is asked for with the benchmark's own options; embeddings to the user cache
"""

BENCH_MORE = """
examples
  driftloop bench adaptation                                 six kinds of drift, few systems
  driftloop bench adaptation --full --seeds 7 8 9 10 11      all scenarios and systems
  driftloop bench adaptation --csv reviews.csv --text review --label stars
  driftloop bench detection --help
"""

DOCTOR = """\
Looks at everything `driftloop simulate` needs on this machine - Python, packages, Java, Kafka's jars, Valkey, the
encoder, disk, memory, cores, ports - and says for what is missing how to get it. Where DRIFTLOOP_KAFKA, DRIFTLOOP_REDIS
or DRIFTLOOP_MLFLOW is set, it asks that address instead. With --settings it shows all settings; with a settings file
after it, what they are with that file.

reads   this machine
writes  nothing
"""

DOCTOR_MORE = """
examples
  driftloop doctor
  driftloop doctor --settings
  driftloop doctor --settings mine.toml
  driftloop doctor --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000

a settings file
  signing_key_file = "/run/secrets/key"    # DRIFTLOOP_SIGNING_KEY_FILE: better than the secret itself in the file
  [retrain]
  policy = "periodic"                      # DRIFTLOOP_RETRAIN__POLICY
  candidates = ["linear"]                  # DRIFTLOOP_RETRAIN__CANDIDATES
  [retrain.gate]
  minimum_gain = 0.01                      # DRIFTLOOP_RETRAIN__GATE__MINIMUM_GAIN
  Paths in it start where the command is run, as those of a variable do.
"""


def build() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog="driftloop", description=MAIN, epilog=EXIT_CODES, formatter_class=_Page)
    parser.add_argument("--version", action="store_true", help="print the version and end")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", parser_class=_Parser)
    stack = _stack_options()

    verb = _verb(verbs, "simulate", "run the whole loop on this machine and watch it", SIMULATE, SIMULATE_MORE, stack)
    verb.add_argument("scenario", nargs="?", metavar="SCENARIO", help="name, TOML file or project (default: tweets)")
    _pace(verb)
    where = verb.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="a new run directory (default: runs/TIME-SCENARIO)")
    where.add_argument("--resume", metavar="DIR", help="go on with the run in DIR, with its scenario and settings")
    verb.add_argument(
        "--stack",
        choices=("auto", "own", "embedded"),
        default="auto",
        help="auto: own when all three addresses are set",
    )
    verb.add_argument("--plain", action="store_true", help="print lines; this is so wherever output is no terminal")
    verb.add_argument("--no-page", action="store_true", help="without the live page")
    verb.add_argument("--no-open", action="store_true", help="do not show the live page in a browser")
    verb.add_argument("--keep", action="store_true", help="leave the stack running at the end, until Ctrl-C")

    verb = _verb(verbs, "demo", "a guided run that records itself", DEMO, DEMO_MORE, stack)
    verb.add_argument("scenario", nargs="?", metavar="SCENARIO", help="name or TOML file (default: the tweets)")
    verb.add_argument("--fast", action="store_true", help="under four minutes")
    verb.add_argument("--out", metavar="DIR", help="a new run directory (default: runs/TIME-demo)")
    verb.add_argument("--no-video", action="store_true", help="do not film the live page")
    verb.add_argument("--no-open", action="store_true", help="do not show the live page in a browser")

    verb = _verb(verbs, "replay", "send a scenario's events and labels", REPLAY, REPLAY_MORE, stack)
    verb.add_argument("scenario", metavar="SCENARIO", help="name, TOML file or project")
    _pace(verb)

    _verb(verbs, "score", "score events with the champion", SCORE, SCORE_MORE, stack)
    _verb(verbs, "monitor", "join labels, watch for drift", MONITOR, MONITOR_MORE, stack)
    verb = _verb(verbs, "retrain", "retrain, compare, promote", RETRAIN, RETRAIN_MORE, stack)
    verb.add_argument("--once", action="store_true", help="do what is due, then end")

    _verb(verbs, "serve", "the live page, the API and the loop's metrics", SERVE, SERVE_MORE, stack)

    verb = _verb(
        verbs, "topics", "list and create the topics; read them with Kafka's tool", TOPICS_PAGE, TOPICS_MORE, stack
    )
    verb.add_argument("--console", metavar="TOPIC", choices=TOPICS, help=f"one of {', '.join(TOPICS)}")
    verb.add_argument("--max", metavar="N", type=_count, help="with --console: end after N messages")
    verb.add_argument("--asyncapi", action="store_true", help="print the topics and messages as an AsyncAPI document")
    verb.add_argument("--acls", action="store_true", help="give each role its rights on the broker, and list them")
    _run(verb)

    verb = _verb(verbs, "watch", "print a topic's messages as they come", WATCH, WATCH_MORE, stack)
    verb.add_argument("topic", metavar="TOPIC", help=f"one of {', '.join(TOPICS)}")
    verb.add_argument(
        "--where", metavar="FIELD=VALUE", action="append", default=[], help="only such messages; may be repeated"
    )
    verb.add_argument("--segment", metavar="X", help="only messages of this segment")
    verb.add_argument("--wrong", action="store_true", help="on outcomes: only wrong predictions")
    verb.add_argument("--from-beginning", action="store_true", help="also what is there already")
    verb.add_argument("--max", metavar="N", type=_count, help="end after N messages")
    verb.add_argument("--json", action="store_true", help="one JSON object on each line")
    _run(verb)

    verb = _verb(verbs, "audit", "whether every event was answered once", AUDIT, AUDIT_MORE, stack)
    verb.add_argument("--json", action="store_true", help="one JSON object")
    _run(verb)

    verb = _verb(verbs, "report", "write the report of a finished run", REPORT, REPORT_MORE, _Parser(add_help=False))
    verb.add_argument("--run", metavar="DIR", required=True, help="the run directory")
    verb.add_argument("--watts", metavar="W", type=_positive, help="of one busy core (default: a cloud's, as it says)")
    verb.add_argument("--price", metavar="P", type=_positive, help="of one core for one hour (default: a round figure)")
    verb.add_argument("--currency", metavar="NAME", help="of that price (default: USD)")

    case_pages.add(partial(_verb, verbs, stack=stack), _run)
    own_pages.add(partial(_verb, verbs, stack=stack), _run, _count, _rate)

    verb = _verb(
        verbs,
        "bench",
        "measure: adaptation, detection, throughput, scaling",
        BENCH,
        BENCH_MORE,
        _Parser(add_help=False),
    )
    verb.add_argument("benchmark", metavar="NAME", choices=BENCHMARKS, help=f"one of {', '.join(BENCHMARKS)}")
    verb.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="the benchmark's own options")

    alone = _stack_options(file=False)
    verb = _verb(verbs, "doctor", "say what is missing and how to get it", DOCTOR, DOCTOR_MORE, alone)
    verb.add_argument(
        "--settings", metavar="FILE", nargs="?", const="", help="show all settings instead, as FILE makes them"
    )
    return parser


class _Page(argparse.RawDescriptionHelpFormatter):
    """Texts keep their lines; options get a wide first column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=118)


class _Parser(argparse.ArgumentParser):
    """Its errors are one sentence, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"driftloop: {message}; see `{self.prog} --help`.\n")


def _verb(
    verbs: argparse._SubParsersAction[_Parser],
    name: str,
    line: str,
    page: str,
    more: str,
    stack: _Parser,
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=line,
        description=page,
        epilog=f"{more.strip()}\n{SETTINGS}{EXIT_CODES}",
        parents=[stack],
        formatter_class=_Page,
    )


def _stack_options(*, file: bool = True) -> _Parser:
    parser = _Parser(add_help=False)
    group = parser.add_argument_group("the stack")
    group.add_argument("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers")
    group.add_argument("--redis", metavar="URL", help="Redis or Valkey, redis://host:port/0")
    group.add_argument("--mlflow", metavar="URL", help="MLflow, http://host:port")
    group.add_argument("--stream", metavar="ID", help="stream id, also the model's name in MLflow")
    if file:
        group.add_argument("--settings", metavar="FILE", help="TOML file with settings; see `driftloop doctor`")
    return parser


def _pace(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--rate", metavar="R", type=_rate, help="events per second, or max (default: the scenario's)")
    verb.add_argument("--limit", metavar="N", type=_count, help="only the first N events")


def _run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--run", metavar="DIR", help="of the simulation running in DIR (default: the newest)")


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _rate(text: str) -> str:
    try:
        good = text == "max" or float(text) > 0
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number above 0 nor "max"')
    return text
