"""Scenarios: the true drifts of the built-in streams, and scenario files of users."""

import math
import os
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.scenarios import BUILTIN, load_scenario, parse_rate, read_spec

SOURCES = ("driverless-cars", "airlines", "coachella", "deflategate", "apple", "claritin")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIFTLOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def mix(rows):
    counts = Counter(row.label for row in rows)
    return {label: counts[label] / len(rows) for label in ("negative", "neutral", "positive")}


@pytest.mark.parametrize("name", BUILTIN)
def test_every_builtin_scenario_is_complete_and_consistent(name):
    scenario = load_scenario(name)
    rows = list(scenario.rows())
    assert scenario.name == name
    assert scenario.about
    assert (scenario.rate, scenario.label_delay, scenario.bootstrap) == (40, 200, None)
    assert scenario.labels == ("negative", "neutral", "positive")
    assert len({row.row for row in rows}) == len(rows) == len(scenario) >= 3000, "a row comes twice"
    assert len(set(scenario.event_ids)) == len(rows)
    edges = [start for _, start, _ in scenario.segments] + [scenario.segments[-1][2]]
    assert edges == sorted(set(edges))
    assert (edges[0], edges[-1]) == (0, len(rows))
    assert list(scenario.drifts) == edges[1:-1]
    assert load_scenario(name) == scenario, "the same file, data and seed must give the same stream"


def test_stream_is_identical_in_another_process():
    code = "from producers.scenarios.scenarios import *; print(hash_ := load_scenario('tweets-short').event_ids[::700])"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == str(load_scenario("tweets-short").event_ids[::700])


def test_tweets_follow_six_sources_in_order():
    scenario = load_scenario("tweets")
    assert len(scenario) == 24_078
    assert scenario.drifts == (4814, 9814, 13578, 18578, 22382)
    assert tuple(name for name, _, _ in scenario.segments) == SOURCES
    assert tuple(name for name, _ in groupby(row.segment for row in scenario.rows())) == SOURCES
    rows = list(scenario.rows())
    assert mix(rows[:4814])["neutral"] == pytest.approx(0.88, abs=0.005)
    assert mix(rows[4814:9814])["negative"] == pytest.approx(0.63, abs=0.02)
    assert mix(rows[9814:13578])["positive"] == pytest.approx(0.61, abs=0.005)
    # Shuffled inside: the first rows must not be of one class, as they are in the file.
    assert len({row.label for row in rows[:100]}) == 3


def test_short_has_exactly_one_drift():
    assert load_scenario("tweets-short").drifts == (1500,)
    assert len(load_scenario("tweets-short")) == 3500


def test_gradual_blends_the_same_rows_on_a_ramp():
    gradual, abrupt = load_scenario("tweets-gradual"), load_scenario("tweets")
    assert sorted(gradual.sequence) == sorted(abrupt.sequence)
    rows = list(gradual.rows())
    for border, start, new in zip(abrupt.drifts, gradual.drifts, SOURCES[1:], strict=True):
        assert start == border - 500
        assert {row.segment for row in rows[start - 100 : start]}.isdisjoint({new})
        parts = [rows[at : at + 200] for at in range(start, start + 1000, 200)]
        shares = [sum(row.segment == new for row in part) / 200 for part in parts]
        assert shares == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=0.13)
        assert {row.segment for row in rows[start + 1000 : start + 1100]} == {new}


def test_recurring_scenario_repeats_sources():
    scenario = load_scenario("tweets-recurring")
    names = [name for name, _, _ in scenario.segments]
    assert names == ["driverless-cars", "airlines", "driverless-cars", "coachella", "airlines"]
    for name, start, end in scenario.segments:
        assert {row.segment for row in scenario.sequence[start:end]} == {name}


def test_stationary_has_no_drift():
    scenario = load_scenario("tweets-stationary")
    assert scenario.drifts == ()
    assert sorted(row.row for row in scenario.rows()) == sorted(row.row for row in load_scenario("tweets").rows())
    overall = mix(scenario.sequence)
    for start in range(0, 24_000, 2000):
        assert mix(scenario.sequence[start : start + 2000]) == pytest.approx(overall, abs=0.04)


def test_typos_scenario_changes_only_texts():
    typed, clean = load_scenario("tweets-typos"), load_scenario("tweets-stationary")
    assert typed.drifts == (8000,)
    pairs = list(zip(typed.rows(), clean.rows(), strict=False))
    assert len(pairs) == 16_000
    assert all((a.row, a.label) == (b.row, b.label) for a, b in pairs)
    assert all(a.text == b.text for a, b in pairs[:8000])
    changed = sum(a.text != b.text for a, b in pairs[8000:]) / 8000
    assert changed > 0.99
    assert typed.sequence[7999].segment != typed.sequence[8000].segment


def test_label_shift_changes_only_label_shares():
    """The mix of sources among the negative tweets stays the same."""
    scenario = load_scenario("tweets-label-shift")
    sources = dict(source_of_rows())
    wanted = [(0.25, 0.6, 0.15), (0.7, 0.2, 0.1), (0.2, 0.2, 0.6)]
    airlines = []
    for (_, start, end), shares in zip(scenario.segments, wanted, strict=True):
        rows = scenario.sequence[start:end]
        assert tuple(mix(rows).values()) == pytest.approx(shares)
        negative = [row for row in rows if row.label == "negative"]
        airlines.append(sum(sources[row.row] == "airlines" for row in negative) / len(negative))
    assert scenario.drifts == (4000, 8000)
    # Among the negative tweets, the share of each source stays what it is in the data (57% airlines).
    assert airlines == pytest.approx([9178 / 16186] * 3, abs=0.05)


def test_injections_keep_rows_before_their_onset():
    whole = load_scenario("tweets-stationary").sequence
    for name in ("prior", "swap", "relabel", "vocabulary", "noise"):
        scenario = load_scenario(f"tweets-{name}")
        (truth,) = scenario.injected
        assert truth.onset == scenario.drifts[0] == 3000
        before = [row._replace(segment="all") for row in scenario.sequence[:3000]]
        assert before == list(whole[:3000]), name
        assert {row.segment for row in scenario.sequence} == set(SOURCES), "a part's name would give the drift away"


def test_order_label_mix_and_typos_count_as_injections():
    tweets = load_scenario("tweets")
    assert [(one.kind, one.onset) for one in tweets.injected] == [("order", at) for at in tweets.drifts]
    assert tweets.injected[0].segments == ("airlines", "driverless-cars")
    assert [one.width for one in load_scenario("tweets-gradual").injected] == [1000] * 5
    first, second = load_scenario("tweets-label-shift").injected
    assert (first.kind, first.onset, first.classes) == ("prior", 4000, ("negative", "neutral", "positive"))
    assert (second.onset, second.classes[:2]) == (8000, ("negative", "positive"))
    (typos,) = load_scenario("tweets-typos").injected
    assert (typos.kind, typos.onset, typos.end) == ("noise", 8000, None)
    assert load_scenario("tweets-stationary").injected == ()


def test_annotations_are_true_labels_without_annotators():
    scenario = load_scenario("tweets-short")
    assert [one.label for one in scenario.annotations] == [row.label for row in scenario.sequence]
    assert {one.annotator for one in scenario.annotations} == {"dataset"}


def source_of_rows():
    from producers.data.datasets import load
    from producers.scenarios.scenario_schema import DatasetSpec

    table = load(DatasetSpec(packaged="tweets"), Path())
    return zip(table.rows, table.segments, strict=True)


def test_other_seed_changes_order_and_keeps_drifts():
    one, two = load_scenario("tweets"), load_scenario("tweets", seed=8)
    assert one.drifts == two.drifts
    assert one.sequence != two.sequence
    assert set(one.event_ids).isdisjoint(two.event_ids)


def test_other_replay_id_changes_only_event_ids():
    one, two = load_scenario("tweets-short"), load_scenario("tweets-short", replay_id="second")
    assert one.sequence == two.sequence
    assert two.replay_id == "second"
    assert set(one.event_ids).isdisjoint(two.event_ids)


# --- scenarios of one's own ---------------------------------------------------------------------------------------

CSV = "text,label,shop\n" + "".join(f"text {n},{('good', 'bad')[n % 2]},{'abc'[n // 10]}\n" for n in range(30))


def own(folder: Path, body: str, csv: str = CSV) -> str:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "reviews.csv").write_text(csv)
    if "[dataset]" not in body:
        body += '\n[dataset]\npath = "data/reviews.csv"\nsegment = "shop"\n'
    (folder / "mine.toml").write_text(body)
    return str(folder / "mine.toml")


NO_SEGMENT = '[dataset]\npath = "data/reviews.csv"\n'


def test_own_data_without_segments_keeps_file_order(tmp_path):
    scenario = load_scenario(own(tmp_path, 'rate = "max"\ndrifts = [20, 10]\nbootstrap = 5\n' + NO_SEGMENT))
    assert [row.text for row in scenario.rows()] == [f"text {n}" for n in range(30)]
    assert (scenario.name, scenario.rate, scenario.bootstrap) == ("mine", math.inf, 5)
    assert scenario.drifts == (10, 20)
    assert scenario.segments == (("", 0, 30),)


def test_own_data_with_segments(tmp_path):
    assert load_scenario(own(tmp_path, "")).segments == (("a", 0, 10), ("b", 10, 20), ("c", 20, 30))
    turned = load_scenario(own(tmp_path, 'order = ["c", { segment = "a", count = 4 }, "b", "a"]\nshuffle = false'))
    assert [row.row for row in turned.rows()] == [*range(20, 30), *range(4), *range(10, 20), *range(4, 10)]
    assert turned.drifts == (10, 14, 24)
    assert [row.row for row in load_scenario(own(tmp_path, 'order = ["a", "b"]')).rows()] != list(range(20))


def test_recurring_segment_without_counts_is_divided_evenly(tmp_path):
    scenario = load_scenario(own(tmp_path, 'order = ["a", "b", "a", "a"]'))
    assert [end - start for _, start, end in scenario.segments] == [3, 10, 3, 4]
    assert scenario.drifts == (3, 13), "a to a is no drift"


def test_interleaved_segments_are_one_part(tmp_path):
    csv = "text,label,shop\n" + "".join(f"t{n},{n % 2},{n % 3}\n" for n in range(12))
    scenario = load_scenario(own(tmp_path, "", csv))
    assert scenario.segments == (("all", 0, 12),)
    assert [row.segment for row in scenario.rows()] == list("012") * 4


def test_limit_cuts_stream_segments_and_drifts(tmp_path):
    scenario = load_scenario(own(tmp_path, 'order = ["a", "b", "c"]\nlimit = 15'))
    assert (len(scenario), scenario.drifts) == (15, (10,))
    assert scenario.segments == (("a", 0, 10), ("b", 10, 15))


def test_typos_start_and_end_at_given_positions(tmp_path):
    body = 'order = ["a", "b"]\n[typos]\nstart = 5\nend = 15\nshare = 1.0\n'
    scenario = load_scenario(own(tmp_path, body))
    assert scenario.drifts == (5, 10, 15)
    wrong = [position for position, row in enumerate(scenario.rows()) if not row.text.startswith("text ")]
    assert wrong == list(range(5, 15))
    assert {row.segment for row in scenario.rows()} == {"a", "b"}


def test_unlabelled_rows_are_skipped_and_counted(tmp_path):
    """Rows with an empty text are kept."""
    scenario = load_scenario(own(tmp_path, NO_SEGMENT, "text,label\n,good\nx,bad\ny,\nz,good\n"))
    assert scenario.skipped == 1
    assert [(row.text, row.row) for row in scenario.rows()] == [("", 0), ("x", 1), ("z", 3)]


def test_injected_drifts_are_added_to_listed_drifts(tmp_path):
    body = 'drifts = [10]\n[[inject]]\nkind = "label-swap"\nstart = 15\nend = 20\nswap = ["good", "bad"]\n'
    scenario = load_scenario(own(tmp_path, body))
    assert (scenario.drifts, scenario.drifts_known) == ((10, 15, 20), True)
    plain = [("good", "bad")[row.row % 2] for row in scenario.sequence]
    changed = [at for at, row in enumerate(scenario.sequence) if row.label != plain[at]]
    assert changed == list(range(15, 20))
    assert not load_scenario(own(tmp_path, body.removeprefix("drifts = [10]"))).drifts_known


def test_synthetic_data_in_a_scenario(tmp_path):
    body = 'order = ["food", "travel"]\n[dataset]\nsynthetic = { classes = 4, topics = 2, events = 800 }\n'
    scenario = load_scenario(own(tmp_path, body))
    assert (len(scenario), scenario.drifts, len(scenario.labels)) == (800, (400,), 4)


def test_replay_id_depends_only_on_stream_content(tmp_path):
    first = load_scenario(own(tmp_path, 'order = ["a", "b"]\nrate = 10')).replay_id
    same = load_scenario(own(tmp_path, 'order = ["a", "b"]\nrate = "max"\nlabel_delay = 3\nlimit = 12')).replay_id
    assert same == first, "the same stream at another pace must be resumed, not doubled"
    assert load_scenario(own(tmp_path, 'order = ["b", "a"]')).replay_id != first
    words = 'order = ["a", "b"]\n[[inject]]\nkind = "vocabulary"\nstart = 1\ncount = 1\n'
    two = [load_scenario(own(tmp_path, f"limit = {limit}\n{words}")).replay_id for limit in (12, 13)]
    assert two[0] != two[1], "the words are chosen from what the limit leaves"
    flipped = '[[annotators]]\nname = "x"\nshare = 0.5\nflipped = 0.5\n'
    assert load_scenario(own(tmp_path, f'order = ["a", "b"]\n{flipped}')).replay_id != first, "other labels are sent"
    assert load_scenario(own(tmp_path, 'order = ["a", "b"]', CSV + "x,good,c\n")).replay_id != first


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("rate = 0", ("above 0", "0")),
        ("rate = -3.5", ("above 0",)),
        ('rate = "fast"', ("above 0", "'fast'")),
        ("rate = nan", ("above 0",)),
        ("speed = 3", ("unknown field `speed`",)),
        ("order = 3", ("$.order",)),
        ("label_delay = -1", ("$.label_delay",)),
        ("name = ", ("does not fit",)),
        ('order = ["a", "d"]', ("'d'", "does not occur", "'a', 'b', 'c'")),
        ('order = [{ segment = "a", count = 11 }]', ("11", "'a'", "has 10")),
        ('cut = 5\norder = [{ segment = "a", count = 6 }]', ("'a'", "has 5")),
        ('order = [{ segment = "a", count = 10 }, "a"]', ("'a'", "has 10")),
        ('order = ["a"]\nmix = true', ("only one of",)),
        ("transition = 4", ("needs an `order`",)),
        ('transition = 12\norder = ["a", "b", "c"]', ("Phase 2", "10 rows", "12")),
        ('order = ["a"]\n' + NO_SEGMENT, ("needs a segment column",)),
        ("[[label_mix]]\nstart = 0\nshares = { good = 1.0 }\n", ("needs a `limit`",)),
        ("limit = 9\n[[label_mix]]\nstart = 2\nshares = { good = 1.0 }\n", ("rise from 0",)),
        ("limit = 9\n[[label_mix]]\nstart = 0\nshares = { good = 0.6, bad = 0.6 }\n", ("add up to 1.2",)),
        ("limit = 9\n[[label_mix]]\nstart = 0\nshares = { good = 0.5, ugly = 0.5 }\n", ("'ugly'", "'bad', 'good'")),
        ("limit = 30\n[[label_mix]]\nstart = 0\nshares = { good = 0.9, bad = 0.1 }\n", ("27", "'good'", "15 are left")),
        ("limit = 1", ("one class only", "'good'")),
        ('[dataset]\npath = "data/none.csv"\n', ("There is no dataset at", "none.csv")),
        ('[dataset]\npath = "data/reviews.csv"\ntext = "body"\n', ("no column 'body'", "'text', 'label', 'shop'")),
        ('[dataset]\npath = "data/reviews.csv"\nlable = "x"\n', ("unknown field `lable`",)),
        ('[[inject]]\nkind = "swap"\nstart = 3\n', ("'swap'", "label-swap", "vocabulary")),
        ("[[inject]]\nstart = 3\n", ("`kind`", "label-swap")),
        ('[[inject]]\nkind = "noise"\nstart = 3\nspeed = 1\n', ("unknown field `speed`",)),
        ('[[inject]]\nkind = "noise"\nstart = 30\n', ("beyond the end", "30 events")),
        ('[[inject]]\nkind = "noise"\nstart = 10\nend = 10\n', ("`end` to 11",)),
        ('[[inject]]\nkind = "noise"\nstart = 10\nend = 15\nwidth = 8\n', ("`end` to 18",)),
        ('[[inject]]\nkind = "noise"\nstart = 1\nsegment = "z"\n', ("segment 'z'", "'a', 'b', 'c'")),
        ('[[inject]]\nkind = "label-swap"\nstart = 1\n', ("either `swap`", "`relabel`")),
        ('[[inject]]\nkind = "label-swap"\nstart = 1\nswap = ["good"]\n', ("two different labels",)),
        ('[[inject]]\nkind = "label-swap"\nstart = 1\nrelabel = { good = "ugly" }\n', ("'ugly'", "'bad', 'good'")),
        ('[[inject]]\nkind = "vocabulary"\nstart = 1\n', ("20 words", "lower `count`")),
        ('[[inject]]\nkind = "topic"\nstart = 1\n', ("a `segment`, a `label`",)),
        ('[[inject]]\nkind = "topic"\nstart = 1\nsegment = "z"\n', ("segment 'z'", "'a', 'b', 'c'")),
        ('[[inject]]\nkind = "topic"\nstart = 1\nlabel = "ugly"\n', ("label 'ugly'",)),
        ('[[inject]]\nkind = "topic"\nstart = 25\nsegment = "c"\n', ("a whole part", "`mix = true`")),
        ('mix = true\n[[inject]]\nkind = "topic"\nstart = 25\nsegment = "c"\n', ("beyond the end", "20 events")),
        ('[[inject]]\nkind = "vocabulary"\nstart = 5\nwords = { sofa = "chair" }\n', ("'sofa'", "position 5")),
        ('[[inject]]\nkind = "prior"\nstart = 1\nshares = { good = 0.6 }\n', ("add up to 0.6",)),
        ('[[inject]]\nkind = "prior"\nstart = 1\nshares = { ugly = 1.0 }\n', ("'ugly'", "'bad', 'good'")),
        (
            'mix = true\nlimit = 29\n[[inject]]\nkind = "prior"\nstart = 1\nshares = { good = 0.9, bad = 0.1 }\n',
            ("'prior'", "before the `limit` of 29"),
        ),
        (
            "limit = 9\n[[label_mix]]\nstart = 0\nshares = { good = 0.5, bad = 0.5 }\n"
            '[[inject]]\nkind = "topic"\nstart = 1\nsegment = "a"\n',
            ("both `label_mix` and",),
        ),
        ('[[annotators]]\nname = "x"\nshare = 1.2\n', ("$.annotators[0].share",)),
        ('[[annotators]]\nname = "x"\nshare = 0.7\n[[annotators]]\nname = "y"\nshare = 0.7\n', ("1.4", "1 or less")),
        ('[[annotators]]\nname = "x"\nshare = 0.1\n[[annotators]]\nname = "x"\nshare = 0.1\n', ("name of its own",)),
        ('[[annotators]]\nname = "x"\nshare = 0.7\nto = "ugly"\n', ("'ugly'", "'bad', 'good'")),
        ('[[annotators]]\nname = "x"\nshare = 0.7\nstart = 30\n', ("beyond the end",)),
    ],
)
def test_bad_scenarios_get_one_clear_sentence(tmp_path, body, words):
    with pytest.raises(DriftloopError) as caught:
        load_scenario(own(tmp_path, body))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tweets-gradul", ("'tweets-gradul'", "Did you mean 'tweets-gradual'", *BUILTIN)),
        ("quakes", ("'quakes'", *BUILTIN)),
        ("folder/none.toml", ("no scenario file folder/none.toml",)),
    ],
)
def test_unknown_scenarios(name, words):
    with pytest.raises(DriftloopError) as caught:
        load_scenario(name)
    for word in words:
        assert word in str(caught.value)


def test_read_spec_returns_spec_and_folder(tmp_path):
    spec, base = read_spec(own(tmp_path, "rate = 3"))
    assert (spec.rate, spec.name, base) == (3, "mine", tmp_path)


def test_ids_are_stable_across_versions():
    # A replay that an older version began must be gone on with. Change this only with a note in the changelog.
    assert load_scenario("tweets-short").replay_id == "tweets-short-a1381317c4ca"
    assert load_scenario("tweets-short").event_ids[0] == "aaa97724e8621becb855c7f59d4367cf"
    assert load_scenario("tweets-typos").replay_id == "tweets-typos-59be2c25095a"
    assert load_scenario("tweets-label-shift").replay_id == "tweets-label-shift-b67495d9e453"


def test_rate_parsing_accepts_max_and_positive_numbers():
    assert parse_rate("max") == math.inf
    assert parse_rate("12.5") == 12.5
    for wrong in ("", "0", "-1", "many", math.nan, 0, -2):
        with pytest.raises(DriftloopError):
            parse_rate(wrong)


def test_ramp_uses_every_row_once_in_order():
    stream, starts = transforms.blend([list(range(50)), list(range(100, 150)), list(range(200, 250))], 21, seed=1)
    assert sorted(stream) == [*range(50), *range(100, 150), *range(200, 250)]
    assert [row for row in stream if row < 50] == list(range(50))
    assert [row for row in stream if 100 <= row < 150] == list(range(100, 150))
    assert starts == [40, 90]
