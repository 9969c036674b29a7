"""The command line: pages to learn from, one sentence for what goes wrong, and which setting wins."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

import driftloop
from driftloop.cli import arguments, main, options, parser, run_directory
from driftloop.cli.commands import monitor
from driftloop.cli.options import StackOptions
from driftloop.core import settings_source, topics
from driftloop.core.settings import Settings

HEAVY = ("torch", "transformers", "faust", "mlflow", "sklearn", "datasets")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder and a cache of its own, no settings from outside, and the signal handler put back."""
    for name in [name for name in os.environ if name.startswith("DRIFTLOOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    # A simulation that should have been refused fails here before it starts anything.
    monkeypatch.setenv("DRIFTLOOP_SCRATCH_DIR", "/dev/null/work")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    try:
        code: Any = main.main(argv)
    except SystemExit as end:
        code = end.code
    return (code, *capsys.readouterr())


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one sentence of a command that cannot go on."""
    code, out, err = said(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("driftloop: ") and err.endswith("\n") and err.count("\n") == 1
    return err


def process(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environ |= {"PYTHONPATH": str(Path(driftloop.__file__).parent.parent), **options.pop("environ", {})}
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, *argv], env=environ, stderr=subprocess.PIPE, text=True, timeout=60, **options
    )


def scenario(rows: int = 30, **keys: str) -> str:
    """The path of a scenario file with data of its own; its first model is trained on ten events."""
    Path("data.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(rows)))
    given = {"bootstrap": "10", **keys}
    lines = [*(f"{name} = {value}" for name, value in given.items()), "[dataset]", 'path = "data.csv"']
    Path("mine.toml").write_text("\n".join(lines))
    return "mine.toml"


@pytest.mark.parametrize("verb", parser.verbs())
def test_every_command_help_has_all_sections(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Help pages list inputs, outputs, examples, settings and exit codes."""
    code, page, err = said(capsys, verb, "--help")
    assert (code, err) == (0, "")
    assert page.startswith(f"usage: driftloop {verb} ")
    for heading in ("\nreads  ", "\nwrites  ", "\nexamples\n", "\nsettings\n", "\nexit codes\n"):
        assert heading in page
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize("verb", parser.verbs())
def test_every_help_example_parses(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    _, page, _ = said(capsys, verb, "--help")
    examples = [line for line in page.splitlines() if re.match(rf"  (\S+ )?driftloop {verb}\b", line)]
    assert examples
    for line in examples:
        words = shlex.split(re.split(r"\s{2,}|\|", line.strip())[0])
        variables = dict(word.split("=", 1) for word in words[: words.index("driftloop")])
        assert settings_source.load(variables) != Settings() or not variables
        assert parser.build().parse_args(words[words.index("driftloop") + 1 :]).verb == verb


def test_main_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The main help also appears when no command is given, with exit code 2."""
    code, page, _ = said(capsys, "--help")
    assert code == 0 and all(re.search(rf"\n +{verb} +\w", page) for verb in parser.verbs())
    assert said(capsys) == (2, "", page)


def test_arguments_list_every_topic() -> None:
    assert tuple(topic.name for topic in topics.ALL) == arguments.TOPICS


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"driftloop {driftloop.__version__}\n", "")


@pytest.mark.parametrize("argv", [[], ["--help"], ["watch", "--help"]], ids=["import", "help", "verb's help"])
def test_import_and_help_load_no_heavy_packages(argv: list[str]) -> None:
    code = (
        "import sys, driftloop.cli.main\n"
        "try:\n    driftloop.cli.main.main(sys.argv[1:]) if sys.argv[1:] else None\n"
        f"except SystemExit:\n    pass\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = process("-c", code, *argv)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("simulat", "'simulat'", "see `driftloop --help`"),
        ("simulate tweets-shrt", "No scenario is called 'tweets-shrt'", "Did you mean 'tweets-short'?"),
        ("simulate no.toml", "no scenario file no.toml", "check the path"),
        ("replay nowhere", "No scenario is called 'nowhere'", "tweets-short"),
        ("replay", "SCENARIO", "see `driftloop replay --help`"),
        ("simulate tweets more", "more", "see `driftloop --help`"),
        ("simulate --rate 0", "'0' is neither a number above 0 nor \"max\"", "see `driftloop simulate --help`"),
        ("simulate --rate fast", "'fast' is neither", "see `driftloop simulate --help`"),
        ("simulate --limit -1", "--limit", "see `driftloop simulate --help`"),
        ("simulate --limit 1.5", "'1.5' is not a whole number of 1 or more", "see `driftloop simulate --help`"),
        ("simulate --out a --resume b", "--resume: not allowed with argument --out", "see `driftloop simulate --help`"),
        ("simulate --stack mine", "'mine'", "see `driftloop simulate --help`"),
        ("watch", "TOPIC", "see `driftloop watch --help`"),
        ("watch prediction", "no topic 'prediction'", "choose one of events, predictions"),
        ("watch events --where label", "The filter 'label'", "as in `--where label=negative`"),
        ("watch events --where verdict=x", "no field 'verdict'", "Their fields are event_id, "),
        ("watch labels --wrong", "--wrong works on the topic outcomes", "outcomes"),
        ("watch events --max 0", "'0' is not a whole number of 1 or more", "see `driftloop watch --help`"),
        ("watch events --run here", "No simulation is running under here", "`driftloop simulate --resume here`"),
        ("topics --run here", "No simulation is running under here", "`driftloop simulate --resume here`"),
        ("topics --console prediction", "'prediction'", "see `driftloop topics --help`"),
        ("simulate --resume here", "here holds no run", "give the folder that `driftloop simulate` named"),
        ("simulate tweets --kafka a:1", "needs DRIFTLOOP_REDIS and DRIFTLOOP_MLFLOW too", "set all three"),
        ("compare 1", "B", "see `driftloop compare --help`"),
        ("compare 1 2 --newest 0", "'0' is not a whole number of 1 or more", "see `driftloop compare --help`"),
        ("backfill --from 0", "--version", "see `driftloop backfill --help`"),
        ("backfill --version 1", "--from", "see `driftloop backfill --help`"),
        ("backfill --version 1 --from -1", "--from", "see `driftloop backfill --help`"),
        (
            "backfill --version 1 --from latest",
            "'latest' is not a whole number of 0",
            "see `driftloop backfill --help`",
        ),
        ("init mine --csv a.csv --text t", "--label", "see `driftloop init --help`"),
        ("init mine --csv a.csv --text t --label l", "There is no file a.csv", "correct --csv"),
        ("simulate tweets --settings no.toml", "settings file no.toml cannot be read", "correct --settings"),
        ("simulate tweets --stack own", "needs DRIFTLOOP_KAFKA and DRIFTLOOP_REDIS and", "--stack embedded"),
    ],
)
def test_refused_command_gives_one_sentence_with_remedy(
    capsys: pytest.CaptureFixture[str], line: str, what: str, remedy: str
) -> None:
    sentence = refused(capsys, *line.split())
    assert what in sentence and remedy in sentence
    assert list(Path().iterdir()) == [], "nothing is made by a command that is refused"


@pytest.mark.parametrize("line", ["simulate tweets", "replay tweets", "watch events", "topics", "doctor --settings"])
@pytest.mark.parametrize(
    ("name", "value", "named"), [("NONSENSE", "1", "`nonsense`"), ("SCORER__BATCH", "many", "$.scorer.batch")]
)
def test_invalid_setting_is_named_by_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(f"DRIFTLOOP_{name}", value)
    sentence = refused(capsys, *line.split())
    assert named in sentence and "see `driftloop doctor --settings`" in sentence


def test_address_from_environment_counts_towards_own_stack(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLOOP_REDIS", "redis://cache:6379/0")
    assert "needs DRIFTLOOP_MLFLOW too" in refused(capsys, "simulate", "tweets", "--kafka", "a:1")


def test_occupied_run_directory_is_refused_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    mine = scenario()
    run_directory.new(Path("run"), run_directory.Record(scenario="another"))
    sentence = refused(capsys, "simulate", mine, "--out", "run", "--stack", "embedded", "--kafka", "ignored:1")
    assert "run holds a run already" in sentence and "`driftloop simulate --resume run`" in sentence
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("years of work")
    assert "full is not empty: choose a new folder" in refused(capsys, "simulate", mine, "--out", "full")
    assert run_directory.read(Path("run")).scenario == "another"
    assert [file.name for folder in ("run", "full") for file in Path(folder).iterdir()] == ["run.json", "thesis.tex"]


@pytest.mark.parametrize(
    ("given", "kept"), [("tweets", "scenario"), ("--rate 5", "rate"), ("tweets --limit 9", "scenario and limit")]
)
def test_resume_with_changed_options_is_refused(capsys: pytest.CaptureFixture[str], given: str, kept: str) -> None:
    run_directory.new(Path("run"), run_directory.Record(scenario="tweets-short"))
    sentence = refused(capsys, "simulate", *given.split(), "--resume", "run")
    assert f"keeps its own {kept} (run/run.json): leave that out" in sentence


def test_too_few_events_for_bootstrap_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "simulate", scenario(), "--limit", "9", "--out", "run")
    assert (
        "sends 9 events, fewer than the 10" in sentence and "raise --limit, or lower DRIFTLOOP_RETRAIN__B" in sentence
    )
    assert "sends 30 events, fewer than the 31" in refused(capsys, "simulate", scenario(bootstrap="31"), "--out", "run")
    assert not Path("run").exists()


def test_option_overrides_environment_overrides_recorded_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "DRIFTLOOP_KAFKA=127.0.0.1:9092\n" in said(capsys, "doctor", "--settings")[1]
    monkeypatch.setenv("DRIFTLOOP_KAFKA", "environment:1")
    monkeypatch.setenv("DRIFTLOOP_STREAM", "environment")
    assert "DRIFTLOOP_KAFKA=environment:1   (default 127.0.0.1:9092)\n" in said(capsys, "doctor", "--settings")[1]
    assert "DRIFTLOOP_KAFKA=option:2 " in said(capsys, "doctor", "--settings", "--kafka", "option:2")[1]
    given = StackOptions.of(parser.build().parse_args(["score", "--kafka", "option:2"]))
    remembered = {f"DRIFTLOOP_{name}": "remembered" for name in ("KAFKA", "STREAM", "REDIS")}
    chosen = options.load_settings(given, remembered)
    assert (chosen.kafka, chosen.stream, chosen.redis) == ("option:2", "environment", "remembered")


def test_project_folder_supplies_scenario_and_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settings file named by option or variable takes precedence."""
    scenario(bootstrap="31")
    Path("mine").mkdir()
    for name in ("data.csv", "mine.toml"):
        Path(name).rename(Path("mine") / name.replace("mine", "scenario"))
    text = Path("mine/scenario.toml").read_text()
    Path("mine/scenario.toml").write_text(text.replace("bootstrap = 31\n", ""))
    assert "sends 30 events, fewer than the 500" in refused(capsys, "simulate", "mine", "--out", "run")
    for name, bootstrap in (("mine/driftloop.toml", 41), ("other.toml", 42), ("third.toml", 43)):
        Path(name).write_text(f"[retrain]\nbootstrap = {bootstrap}\n")
    assert "fewer than the 41" in refused(capsys, "simulate", "mine", "--out", "run")
    monkeypatch.setenv("DRIFTLOOP_SETTINGS", "other.toml")
    assert "fewer than the 42" in refused(capsys, "simulate", "mine", "--out", "run")
    for name in ("other.toml", ""):
        monkeypatch.setenv("DRIFTLOOP_SETTINGS", name)
        assert "fewer than the 43" in refused(capsys, "simulate", "mine", "--settings", "third.toml", "--out", "run")
    Path("empty").mkdir()
    assert "No scenario is called 'empty'" in refused(capsys, "simulate", "empty", "--out", "run")


def test_doctor_shows_values_from_settings_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text('signing_key = "tiger-7f3a"\n[scorer]\nbatch = 7\n')
    code, out, _ = said(capsys, "doctor", "--settings", "mine.toml")
    assert code == 0 and "DRIFTLOOP_SCORER__BATCH=7   (default 64)" in out and "tiger" not in out
    assert "DRIFTLOOP_SCORER__BATCH=64\n" in said(capsys, "doctor", "--settings")[1]


def test_running_simulation_is_found_or_absence_reported(capsys: pytest.CaptureFixture[str]) -> None:
    given = StackOptions.of(parser.build().parse_args(["watch", "events"]))
    assert options.find_settings(given, None).kafka == Settings().kafka
    assert capsys.readouterr().err.startswith("driftloop: No simulation is running on this machine; trying Kafka at ")
    running = run_directory.announce(Path("run"), Settings(kafka="127.0.0.1:21000", topic_prefix="t."))
    found = options.find_settings(given, None)
    run_directory.withdraw(running)
    assert (found.kafka, found.topic_prefix, capsys.readouterr().err) == ("127.0.0.1:21000", "t.", "")


def test_doctor_lists_settings_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list contains every variable, and explains what it means."""
    monkeypatch.setenv("DRIFTLOOP_SIGNING_KEY", "tiger-7f3a")
    code, out, err = said(capsys, "doctor", "--settings")
    assert (code, err) == (0, "") and "tiger" not in out
    assert all(f"{name}=" in out for name in settings_source.environment(Settings()))
    assert "DRIFTLOOP_SCORER__BATCH=64\n    Maximum number of events in a batch.\n" in out


def test_doctor_exits_1_when_a_service_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    stack = ["--kafka", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1", "--mlflow", "http://127.0.0.1:1"]
    code, out, err = said(capsys, "doctor", *stack)
    assert (code, err) == (1, "") and out.endswith("Something is missing.\n")
    assert "✗ Kafka: 127.0.0.1:1: " in out and "    → start it, or correct DRIFTLOOP_KAFKA\n" in out


@pytest.mark.parametrize("argv", [["--version"], ["doctor", "--settings"], ["simulate", "--help"]])
def test_closed_output_pipe_ends_command_quietly(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = process("-m", "driftloop", *argv, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (main.BROKEN_PIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("argv", [["--version"], ["doctor", "--settings"], ["simulate", "--help"]])
def test_full_disk_on_output_gives_one_sentence(argv: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = process("-m", "driftloop", *argv, stdout=full)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "No space left on device. Make room" in done.stderr


def test_help_is_escaped_on_ascii_terminal() -> None:
    done = process("-m", "driftloop", "--help", environ={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "") and "\\u25ba" in done.stdout


FAILURES = (
    (KafkaTimeoutError("gone\nand more"), 2, "Kafka failed: KafkaTimeoutError: gone. Check that it is running"),
    (FileNotFoundError(2, "No such file or directory", "a\x1b"), 2, "No such file or directory (a\\x1b). Make room"),
    (KeyboardInterrupt(), 130, ""),
)


@pytest.mark.parametrize(("error", "code", "sentence"), FAILURES)
def test_runtime_failure_prints_at_most_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    monkeypatch.setattr(monitor, "run", lambda _arguments: (_ for _ in ()).throw(error))
    ended, out, err = said(capsys, "monitor")
    assert (ended, out) == (code, "")
    assert sentence in err and err.count("\n") == bool(sentence)


def test_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "run", lambda _arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main.main(["monitor"])
