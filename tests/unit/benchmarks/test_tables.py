"""Tables of the adaptation benchmark: means, regret, share, remarks, and a page that takes them."""

import pytest

from benchmarks.adaptation.plots import draw
from benchmarks.adaptation.results import Comparison, Measured, Row, read, write
from benchmarks.adaptation.tables import make_tables, put_into, regret, share
from driftloop.core.errors import DriftloopError


def row(system, accuracy, seed=7, scenario="s", **fields):
    known = {
        "events": 4000, "counted_from": 2000, "blocks": [accuracy] * 16, "retrainings": 0, "refreshes": 0, "fits": 0,
        "swaps": 0, "rollbacks": 0, "drifts": [2500], "detected": None, "delays": [], "false_alarms": None,
        "repeats": None, "quiet_events": 2000, "alerts": [], "swapped_at": [],
    }  # fmt: skip
    return Row(scenario=scenario, seed=seed, system=system, accuracy=accuracy, **{**known, **fields})


def table(*rows, cpu=False):
    measured = [Measured(one, {"watch": 1.25, "retrain": 2.5, "whole": 4.0}) for one in rows]
    return make_tables(measured, cpu=cpu)


def cells(text, system):
    lines = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    found = next(line for line in lines if line[0] == f"`{system}`")
    return dict(zip(lines[0], found, strict=True))


def test_regret_and_share_are_computed_per_seed():
    rows = [
        row("never", 0.4, 7), row("iid", 0.8, 7), row("oracle", 0.75, 7), row("on-drift", 0.7, 7),
        row("never", 0.5, 8), row("iid", 0.8, 8), row("oracle", 0.78, 8), row("on-drift", 0.74, 8),
        row("cara", 0.6, 8),
    ]  # fmt: skip
    assert regret([rows[3], rows[7]], rows) == pytest.approx(0.045)
    assert share([rows[3], rows[7]], rows) == pytest.approx((0.72 - 0.45) / (0.8 - 0.45))
    assert regret([rows[8]], rows) == pytest.approx(0.18), "against the oracle of the same seed only"
    assert share([rows[8]], [*rows[:1], rows[8]]) is None
    assert share([row("on-drift", 0.8)], [row("never", 0.8), row("iid", 0.801)]) is None, "there is no way to go"


def test_guests_are_compared_with_the_mixture_alone():
    """On the seeds that both have. The cost is of watching and retraining, 3.75 s for each run of 4,000 events."""
    guests = [
        Comparison("tpot", 900, 200, 0.6, 0.65, True), Comparison("tpot", 1900, 600, 0.7, 0.69, False),
    ]  # fmt: skip
    rows = [row("mixture", 0.70), row("mixture?tpot=1", 0.71, guests=guests), row("mixture?tpot=1", 0.9, 8)]
    text = table(*rows)["s"]
    worth = text[text.index("Candidates as guests") :]
    assert cells(worth, "mixture?tpot=1") == {
        "system": "`mixture?tpot=1`", "added": "+0.0100", "compared": "2", "better when compared": "+0.020",
        "joined": "1", "CPU s per 1,000 events": "0.9",
    }  # fmt: skip
    assert "Candidates as guests" not in table(rows[0])["s"]


def test_table_row_holds_means_and_missed_drifts():
    shown = table(
        row(
            "on-drift",
            0.7,
            7,
            drifts=[2500, 3000],
            detected=1,
            delays=[20],
            false_alarms=1,
            repeats=2,
            retrainings=3,
            fits=5,
        ),
        row(
            "on-drift",
            0.72,
            8,
            drifts=[2500, 3000],
            detected=2,
            delays=[40, 90],
            false_alarms=0,
            repeats=1,
            retrainings=4,
            fits=6,
        ),
    )["s"]
    line = cells(shown, "on-drift")
    assert line["accuracy"].startswith("0.7100 [")
    assert (line["retrainings"], line["fits"]) == ("3.5", "5.5")
    assert (line["drifts found"], line["mean delay"], line["median delay"]) == ("3/4", "50", "40")
    assert line["normalised delay"] == f"{(150 + 2000) / 4 / 2000:.3f}", "a missed drift counts as the longest delay"
    assert line["false alarms per 10,000"] == "2.50"
    assert (line["regret"], line["share"]) == ("-", "-")


def test_table_row_shows_recovery_labels_or_never():
    shown = table(row("on-drift", 0.7, recoveries=[40, 90]), row("on-drift", 0.7, 8, recoveries=[80]), row("iid", 0.8))
    assert cells(shown["s"], "on-drift")["recovered after"] == "80 (worst 90)"
    assert cells(shown["s"], "iid")["recovered after"] == "-"
    shown = table(row("never", 0.7, recoveries=[40, None]), row("cara", 0.7, recoveries=[None]))
    assert cells(shown["s"], "never")["recovered after"] == "40 (worst 40), 1 of 2 never"
    assert cells(shown["s"], "cara")["recovered after"] == "1 of 1 never"
    assert "recovered after" not in table(row("never", 0.7))["s"], "where no concept comes back"


def test_system_without_detector_has_no_detections():
    line = cells(table(row("oracle", 0.7))["s"], "oracle")
    assert {line[name] for name in ("drifts found", "mean delay", "false alarms per 10,000", "repeats")} == {"-"}


def test_cpu_is_printed_when_asked_for():
    rows = [row("never", 0.5)]
    assert "CPU" not in table(*rows)["s"]
    line = cells(table(*rows, cpu=True)["s"], "never")
    assert (line["watch CPU s"], line["retrain CPU s"]) == ("1.2", "2.5")


def test_table_compares_default_with_best_references():
    ours = row("on-drift", 0.7, retrainings=5, fits=20)
    few, many = row("error:ddm", 0.71, retrainings=5, fits=22), row("online:softmax", 0.9, fits=4000)
    shown = table(ours, few, row("oracle", 0.8), many, row("never", 0.4))["s"]
    assert "0.0100 BEHIND the best reference with as few retrainings, `error:ddm`" in shown
    assert "0.3000 ahead of the best reference with as few fits, refreshes included, `never`" in shown
    assert "0.2000 BEHIND the best reference of any cost, `online:softmax` with 4000 fits" in shown


def test_table_compares_the_mixture_with_all_others():
    """An option makes another mixture, which is no other system. Of equal CPU by default; a softmax that costs more."""
    ours, single, dear = row("mixture", 0.7), row("on-drift", 0.68, retrainings=5), row("online:softmax", 0.72)
    rows = [ours, single, dear, row("mixture?share=0.1", 0.8), row("iid", 0.9)]
    shown = table(*rows)["s"]
    assert "`mixture` is 0.0200 BEHIND the best other system, `online:softmax`." in shown
    assert "no more CPU" not in shown
    assert "0.0400 BEHIND the best reference of any cost, `online:softmax`" in shown, "no mixture among the references"
    spent = {"online:softmax": 9.0}
    measured = [Measured(one, {"watch": 1.0, "retrain": spent.get(one.system, 2.0), "whole": 10.0}) for one in rows]
    shown = make_tables(measured, cpu=True)["s"]
    assert "It is 0.0200 ahead of the best one of no more CPU, `on-drift`." in shown


def test_only_shared_seeds_are_compared():
    ours = [row("on-drift", 0.6, 7, retrainings=5), row("on-drift", 0.8, 8, retrainings=5)]
    shown = table(*ours, row("error:ddm", 0.75, 8, retrainings=4))["s"]
    assert "0.0500 ahead of the best reference with as few retrainings, `error:ddm`" in shown
    assert cells(shown, "error:ddm")["seeds"] == "1"


def test_ceiling_below_oracle_is_marked_no_ceiling():
    assert "no ceiling" in table(row("iid", 0.5), row("oracle", 0.8))["s"]
    assert "no ceiling" not in table(row("iid", 0.9), row("oracle", 0.8))["s"]


def test_summary_marks_best_system_without_hindsight():
    rows = [
        row(name, value, scenario=s)
        for s in "ab"
        for name, value in (("never", 0.4), ("on-drift", 0.7), ("oracle", 0.8))
    ]
    shown = table(*rows)["summary"]
    assert "**0.700** (0+0)" in shown
    assert "**0.800**" not in shown
    assert "summary" not in table(*rows[:3])


def test_page_tables_are_replaced_between_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table s -->\nold\n<!-- end -->\nbetween\n<!-- table other -->\nkept\n<!-- end -->\n")
    put_into(page, {"s": "new \\1 table", "third": "nowhere"})
    assert page.read_text() == (
        "before\n<!-- table s -->\nnew \\1 table\n<!-- end -->\nbetween\n<!-- table other -->\nkept\n<!-- end -->\n"
    )
    with pytest.raises(DriftloopError, match="<!-- table third -->"):
        put_into(page, {"third": "nowhere"})


def test_rows_are_read_as_they_were_written(tmp_path):
    measured = [Measured(row("never", 0.5, alerts=[(3, "error", "repeat")]), {"whole": 1.0})]
    write(tmp_path / "deep" / "rows.json", measured)
    assert read(tmp_path / "deep" / "rows.json") == measured
    (tmp_path / "broken.json").write_text("{}")
    for name in ("broken.json", "none.json"):
        with pytest.raises(DriftloopError, match=name):
            read(tmp_path / name)


def test_plots_are_identical_for_equal_rows(tmp_path):
    rows = [
        row("never", 0.4), row("periodic:500", 0.6, retrainings=4, fits=4), row("online:softmax", 0.65, fits=4000),
        row("on-drift", 0.7, retrainings=2, fits=6, alerts=[(2520, "error", "detection")], swapped_at=[2600]),
    ]  # fmt: skip
    drawn = [draw(rows, tmp_path / folder) for folder in ("one", "two")]
    assert [path.name for path in drawn[0]] == ["s-time.svg", "s-frontier.svg"]
    assert [path.read_bytes() for path in drawn[0]] == [path.read_bytes() for path in drawn[1]]
