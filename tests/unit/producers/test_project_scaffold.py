"""`driftloop init`: refused data, notes on the data, the files written, and a replay of them."""

from __future__ import annotations

import csv
import gzip
import json
import random
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from driftloop.cli.main import main
from driftloop.core import settings_source
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import load_scenario

TEXTS = ('plain, with "quotes"', "two\nlines", "señor 😀 \u202e", "tab\tand ; semicolon", "")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder and a cache of its own, and the signal handlers put back."""
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def table(
    rows: Iterable[tuple[object, ...]], name: str = "reviews.csv", header: tuple[str, ...] = ("body", "stars")
) -> str:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return name


def stars(n: int = 200, seed: int = 1) -> list[tuple[str, int]]:
    rng = random.Random(seed)
    return [(f"{TEXTS[i % len(TEXTS)]}{i if i % 50 else ''}", rng.randint(1, 5)) for i in range(n)]


def init(capsys: pytest.CaptureFixture[str], *argv: str, data: str = "reviews.csv") -> tuple[int, str, str]:
    code = main(["init", "mine", "--csv", data, "--text", "body", "--label", "stars", *argv])
    return (code, *capsys.readouterr())


def refused(capsys: pytest.CaptureFixture[str], *argv: str, data: str = "reviews.csv") -> str:
    code, out, err = init(capsys, *argv, data=data)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert not Path("mine").exists()
    return err


def test_init_project_replays_every_text_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    rows = stars()
    table(rows)
    code, out, err = init(capsys)
    assert (code, err) == (0, "")
    assert out.startswith("mine: 200 texts with 5 labels (1, 2, 3, 4, 5).\nThe first 50 train the first model; ")
    assert "\n  driftloop simulate mine\n" in out and "--settings mine/driftloop.toml\n" in out
    scenario = load_scenario("mine/scenario.toml")
    assert [(row.text, row.label) for row in scenario.rows()] == [(text, str(label)) for text, label in rows]
    assert (scenario.name, scenario.rate, scenario.label_delay, scenario.bootstrap) == ("mine", 40.0, 10, None)
    assert not scenario.drifts_known
    chosen = settings_source.load({"DRIFTLOOP_SETTINGS": "mine/driftloop.toml"})
    assert (chosen.retrain.bootstrap, chosen.retrain.candidates) == (50, ("linear",))
    assert (chosen.retrain.policy, chosen.monitor.detectors) == ("on-drift", ("fused",))


def test_moved_project_works_without_source_file(capsys: pytest.CaptureFixture[str]) -> None:
    table(stars())
    init(capsys)
    Path("reviews.csv").unlink()
    Path("elsewhere").mkdir()
    shutil.move("mine", "elsewhere/yours")
    assert len(load_scenario("elsewhere/yours/scenario.toml")) == 200


@pytest.mark.parametrize(
    ("rows", "bootstrap", "delay", "candidates"),
    [(100, 50, 5, 1), (500, 100, 25, 1), (2000, 400, 100, 3), (6000, 500, 200, 3)],
)
def test_init_defaults_depend_on_number_of_rows(
    capsys: pytest.CaptureFixture[str], rows: int, bootstrap: int, delay: int, candidates: int
) -> None:
    table(stars(rows))
    init(capsys)
    chosen = settings_source.load({"DRIFTLOOP_SETTINGS": "mine/driftloop.toml"}).retrain
    assert (chosen.bootstrap, len(chosen.candidates)) == (bootstrap, candidates)
    assert load_scenario("mine/scenario.toml").label_delay == delay


def test_init_accepts_jsonl_unusual_columns_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with gzip.open("r.jsonl.gz", "wt", encoding="utf-8") as file:
        for text, label in stars():
            file.write(json.dumps({'a "strange" column': text, "s\\": label, "shop": "ü"}) + "\n")
    argv = ["init", "mine", "--data", "r.jsonl.gz", "--text", 'a "strange" column', "--label", "s\\"]
    assert main([*argv, "--segment", "shop", "--rate", "max"]) == 0
    scenario = load_scenario("mine/scenario.toml")
    assert scenario.rate == float("inf") and len(scenario) == 200
    assert {row.segment for row in scenario.rows()} == {"ü"}
    assert [row.text for row in scenario.rows()] == [text for text, _ in stars()]


def test_other_encoding_is_requested_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    Path("reviews.csv").write_bytes(
        ("body,stars\n" + "".join(f"für {i},{i % 3}\n" for i in range(120))).encode("latin-1")
    )
    assert "reviews.csv is not utf-8: set its encoding, for example --encoding latin-1." in refused(capsys)
    assert init(capsys, "--encoding", "latin-1")[0] == 0
    assert next(load_scenario("mine/scenario.toml").rows()).text == "für 0"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--text", "bdy"], "reviews.csv has no column 'bdy': set --text to one of 'body', 'stars'."),
        (["--label", "star"], "has no column 'star': set --label to one of 'body', 'stars'."),
        (["--segment", "shop"], "has no column 'shop': set --segment to one of 'body', 'stars'."),
        (["--text", "stars"], "The column 'stars' cannot be both text and label"),
        (
            ["--text", "stars", "--label", "body"],
            "There are 161 different values in the column 'body' of reviews.csv, in 161 rows",
        ),
    ],
)
def test_missing_or_unsuitable_column_is_refused(
    capsys: pytest.CaptureFixture[str], argv: list[str], says: str
) -> None:
    table([(f"text number {i}", i % 2) for i in range(161)])
    assert says in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(f"t{i}", "yes") for i in range(200)], "All rows have the label 'yes' in the column 'stars'"),
        (
            [(f"t{i}", i % 2) for i in range(99)],
            "has 99 labelled rows: a first model and a stream after it need 100",
        ),
        ([(f"t{i}", i % 2 or "") for i in range(150)], "has 75 labelled rows"),
        ([(f"t{i}", i % 101) for i in range(2000)], "There are 101 different values"),
        ([(f"t{i}", i % 41) for i in range(200)], "There are 41 different values in the column 'stars'"),
        ([(f"t{i}", "ab"[i % 2] * 101) for i in range(200)], "the longest of 101 characters: this is not a label"),
        ([], "has no rows"),
    ],
)
def test_too_few_rows_or_unsuitable_labels_are_refused(
    capsys: pytest.CaptureFixture[str], rows: list[tuple[object, ...]], says: str
) -> None:
    table(rows)
    assert says in refused(capsys)


def test_hundred_short_labels_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    table([(f"t{i}", i * 37 % 100) for i in range(2000)])
    code, out, _ = init(capsys)
    assert code == 0 and "100 labels (0, 1, 10, " in out and " and 90 more)" in out


def test_unusable_data_path_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no file none.csv: correct --csv." in refused(capsys, data="none.csv")
    Path("folder").mkdir()
    assert "folder is a folder: give one file" in refused(capsys, data="folder")
    Path("notes.txt").write_text("words")
    assert "is of no known kind" in refused(capsys, data="notes.txt")


@pytest.mark.parametrize("kind", ["full folder", "empty folder", "file", "dangling link"])
def test_existing_target_is_never_overwritten(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    table(stars())
    mine = Path("mine")
    if kind == "file":
        mine.write_text("years of work")
    elif kind == "dangling link":
        mine.symlink_to("nowhere")
    else:
        mine.mkdir()
        if kind == "full folder":
            (mine / "scenario.toml").write_text("years of work")
    code, out, err = init(capsys)
    assert (code, out) == (2, "") and "mine exists already: choose another folder, nothing is overwritten." in err
    kept = mine / "scenario.toml" if kind == "full folder" else mine
    assert kept.is_symlink() or kept.is_dir() or kept.read_text() == "years of work"


def test_unwritable_target_is_reported_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table(stars())
    Path("a file").write_text("")
    code = main(["init", "a file/mine", "--csv", "reviews.csv", "--text", "body", "--label", "stars"])
    assert code == 2 and "a file/mine cannot be written (Not a directory)" in capsys.readouterr().err

    def full(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "mine cannot be written (No space left on device): make room" in refused(capsys)


def test_init_prints_notes_on_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[tuple[object, ...]] = [(f"text {i}", "ab"[i % 2]) for i in range(200)]
    rows[10:15] = [(" ", "a")] * 5
    rows[20:23] = [("rare", "c\x1b")] * 3
    rows[30:34] = [("unlabelled", "")] * 4
    rows[40] = ("x" * Settings().scorer.max_bytes, "b")
    table(rows)
    code, out, _ = init(capsys)
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert code == 0 and notes == [
        "note: 4 rows have no label and are left out.",
        "note: Labels with fewer than 20 rows are hard to learn and to judge: c\\x1b (3).",
        "note: 5 texts are empty; they are scored like any other text.",
        "note: 1 texts are too long to score (over 65536 bytes as events): they become dead letters.",
        "note: The rows keep the order of the file. If that is not their order in time, sort the file by time, or set "
        "`mix` in the scenario.",
    ]


@pytest.mark.parametrize("sort", ["all of it", "a short label first", "the beginning"])
def test_rows_sorted_by_label_are_shuffled_with_note(capsys: pytest.CaptureFixture[str], sort: str) -> None:
    rows = [(f"text {i}", i % 3) for i in range(300)]
    ordered = sorted(rows, key=lambda row: row[1])
    table({"all of it": ordered, "a short label first": ordered[70:], "the beginning": ordered[:100] + rows}[sort])
    code, out, _ = init(capsys)
    assert code == 0 and "note: The rows are sorted by their label, so the scenario shuffles them" in out
    first = [row.label for row in load_scenario("mine/scenario.toml").rows()][:46]
    assert set(first) == {"0", "1", "2"}
