"""Injected drifts change only what they declare, from their onset on. Simulated annotators err at their stated rate."""

from collections import Counter

import pytest

from driftloop.core.errors import DriftloopError
from producers.data.synthetic_texts import CLASSES, bayes_accuracy, make, posteriors
from producers.scenarios.drift_injection import KINDS, inject, intensity, selection_truth
from producers.scenarios.drift_selection import select
from producers.scenarios.row import Row
from producers.scenarios.scenario_schema import (
    AnnotatorSpec,
    LabelSwapSpec,
    NoiseSpec,
    PriorSpec,
    SyntheticSpec,
    TopicSpec,
    VocabularySpec,
)
from producers.scenarios.word_replacement import choose_words
from producers.simulated_annotators import Annotation, annotate, first_sent

SPEC = SyntheticSpec(events=3000, classes=3, topics=3, sentences=2)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    table = make(SPEC)
    # The topics one event at a time, so that every stretch has all of them.
    order = sorted(range(3000), key=lambda at: (at % 1000, at))
    return [Row(table.texts[at], table.labels[at], table.segments[at], at) for at in order]


def changed(before: list[Row], after: list[Row]) -> list[int]:
    return [at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]


EACH = {
    "label-swap": LabelSwapSpec(start=1000, end=2000, width=400, swap=["praise", "complaint"]),
    "vocabulary": VocabularySpec(start=1000, end=2000, width=400, count=40, pick="frequent"),
    "noise": NoiseSpec(start=1000, end=2000, width=400, of="tokens", share=0.9),
}


def test_there_is_a_test_for_every_kind():
    assert set(KINDS) == {*EACH, "prior", "topic"}


@pytest.mark.parametrize("kind", EACH)
def test_gradual_injection_rises_and_falls_within_span(rows, kind):
    spec = EACH[kind]
    after, truth = inject(rows, spec, seed=1)
    hits = changed(rows, after)
    assert 1000 <= hits[0] < 1100
    assert 2300 < hits[-1] < 2400
    full = sum(1400 <= at < 2000 for at in hits) / 600
    for start, share in ((1000, 0.25), (1200, 0.75), (2000, 0.75), (2200, 0.25)):
        assert sum(start <= at < start + 200 for at in hits) / 200 == pytest.approx(share * full, abs=0.12), start
    assert (truth.kind, truth.onset, truth.end, truth.width) == (kind, 1000, 2000, 400)
    assert inject(rows, spec, seed=1) == (after, truth), "the same seed must give the same stream"
    assert inject(rows, spec, seed=2)[0] != after
    assert inject(rows, spec, seed=1, number=1)[0] != after


@pytest.mark.parametrize("kind", EACH)
def test_injection_is_independent_of_later_events(rows, kind):
    spec = EACH[kind]
    if isinstance(spec, VocabularySpec):  # otherwise the words are chosen from the events
        spec = VocabularySpec(start=1000, end=2000, width=400, words={"the": "ze", "and": "und"})
    whole, _ = inject(rows, spec, seed=1)
    part, _ = inject(rows[:1500], spec, seed=1)
    assert part == whole[:1500]


def test_intensity_follows_start_width_and_end():
    """Intensity is the value of the linear ramp at the middle of an event."""
    assert [intensity(NoiseSpec(start=3), at) for at in range(5)] == [0, 0, 0, 1, 1]
    assert [intensity(NoiseSpec(start=1, width=2, end=4), at) for at in range(7)] == [0, 0.25, 0.75, 1, 0.75, 0.25, 0]


def test_label_swap_exchanges_two_labels(rows):
    after, truth = inject(rows, LabelSwapSpec(start=500, swap=["praise", "complaint"]), seed=1)
    turned = {"praise": "complaint", "complaint": "praise", "question": "question"}
    assert after[:500] == rows[:500]
    assert after[500:] == [row._replace(label=turned[row.label]) for row in rows[500:]]
    assert truth.classes == ("praise", "complaint")


def test_a_label_is_renamed_in_one_segment_only(rows):
    spec = LabelSwapSpec(start=500, relabel={"question": "praise"}, segment="food")
    after, truth = inject(rows, spec, seed=1)
    wanted = [at for at in range(500, 3000) if (rows[at].label, rows[at].segment) == ("question", "food")]
    assert changed(rows, after) == wanted
    assert {after[at].label for at in wanted} == {"praise"}
    assert (truth.classes, truth.segments) == (("question", "praise"), ("food",))


def test_word_replacement_is_consistent_and_keeps_case(rows):
    after, truth = inject(rows, VocabularySpec(start=500, words={"hotel": "yurt", "we": "they"}), seed=1)
    assert after[:500] == rows[:500]
    assert not any(word in row.text.lower().split() for row in after[500:] for word in truth.words)
    assert (
        Counter(" ".join(row.text for row in rows[500:]).lower().split())["hotel"]
        == Counter(" ".join(row.text for row in after[500:]).lower().split())["yurt"]
    )
    hostile = Row("We saw A HOTEL, hotels; hôtel we_ 'hotel'", "praise", "travel", 0)
    (typed,), _ = inject([hostile], VocabularySpec(start=0, words={"hotel": "yurt", "we": "they"}), seed=1)
    assert typed.text == "They saw A YURT, hotels; hôtel we_ 'yurt'"


def test_informative_words_come_from_class_vocabulary(rows):
    """Replacement words occur nowhere in the stream."""
    words = choose_words(rows, VocabularySpec(start=500, count=15), seed=1)
    class_words = {word for line in CLASSES.values() for word in line.split()}
    assert len(words) == len(set(words.values())) == 15
    assert class_words >= words.keys()
    assert "the" in choose_words(rows, VocabularySpec(start=500, count=15, pick="frequent"), seed=1)
    assert set(words.values()).isdisjoint(" ".join(row.text for row in rows).lower().split())
    texts = Counter(word for row in rows[500:] for word in set(row.text.lower().replace(".", "").split()))
    counts = [texts[word] for word in words]
    assert counts == sorted(counts, reverse=True)
    assert choose_words(rows, VocabularySpec(start=500, count=15), seed=2).keys() == words.keys()


def test_mutual_word_swap_moves_every_word(rows):
    words = choose_words(rows, VocabularySpec(start=500, count=12, by="each other"), seed=1)
    assert set(words) == set(words.values())
    assert all(old != new for old, new in words.items())
    # Known words with another meaning: the best classifier of before is no better than that any more.
    after, _ = inject(rows, VocabularySpec(start=500, count=48, by="each other"), seed=1)
    names = ["praise", "complaint", "question"]
    scores = posteriors(SPEC, [row.text for row in after], [row.segment for row in after]).argmax(axis=1)
    right = [names[best] == row.label for best, row in zip(scores, after, strict=True)]
    assert sum(right[:500]) / 500 > 0.75 > 0.6 > sum(right[500:]) / 2500


def test_noise_affects_stated_share_of_texts_and_words(rows):
    after, _ = inject(rows, NoiseSpec(start=1000, of="tokens", share=0.3, texts=0.5), seed=1)
    pairs = [(a.text.split(), b.text.split()) for a, b in zip(rows[1000:], after[1000:], strict=True) if a != b]
    # Of the texts that are hit, a few have no word replaced: 0.7 to the power of their words.
    assert len(pairs) / 2000 == pytest.approx(0.5 * 0.92, abs=0.05)
    other = [a != b for old, new in pairs for a, b in zip(old, new, strict=True) if any(map(str.isalpha, a[:2]))]
    assert sum(other) / len(other) == pytest.approx(0.3, abs=0.05)
    typed, _ = inject(rows, NoiseSpec(start=1000, share=0.2, segment="food"), seed=1)
    assert {rows[at].segment for at in changed(rows, typed)} == {"food"}
    assert [row.label for row in typed] == [row.label for row in rows]


# --- which rows come ----------------------------------------------------------------------------------------------


def choose(rows, specs, limit=None, parts=None):
    labels, segments = [row.label for row in rows], [row.segment for row in rows]
    return select(parts or [range(len(rows))], labels, segments, specs, limit, seed=3)


def shares(rows, chosen, key="label"):
    counts = Counter(getattr(rows[at], key) for at in chosen)
    return {name: count / len(chosen) for name, count in counts.items()}


def test_prior_shift_keeps_order_within_each_label(rows):
    """Labels reach the stated shares after the onset."""
    wanted = {"praise": 0.7, "complaint": 0.2, "question": 0.1}
    (chosen,) = choose(rows, [PriorSpec(start=800, shares=wanted)], limit=1600)
    assert chosen[:800] == list(range(800))
    assert len(set(chosen)) == len(chosen) == 1600, "a row comes twice"
    assert shares(rows, chosen[800:]) == pytest.approx(wanted, abs=0.05)
    for label in wanted:
        inside = [at for at in chosen if rows[at].label == label]
        assert inside == sorted(inside)
    assert shares(rows, chosen[800:], "segment") == pytest.approx(
        dict.fromkeys(("travel", "food", "technology"), 1 / 3), abs=0.06
    )


def test_prior_truth_lists_most_changed_label_first():
    truth = selection_truth(PriorSpec(start=9, shares={"a": 0.35, "b": 0.65}), {"a": 0.3, "b": 0.3, "c": 0.4})
    assert truth.classes == ("c", "b", "a"), "a label that comes no more moves too"


def test_prior_shift_ramps_independently_of_limit(rows):
    spec = PriorSpec(start=400, end=1000, width=400, shares={"praise": 0.9, "complaint": 0.1})
    (chosen,) = choose(rows, [spec], limit=1600)
    assert choose(rows, [spec], limit=1100) == [chosen[:1100]]
    means = [shares(rows, chosen[at : at + 200])["praise"] for at in range(0, 1600, 200)]
    expected = [1 / 3, 1 / 3, 0.475, 0.758, 0.9, 0.758, 0.475, 1 / 3]
    assert means == pytest.approx(expected, abs=0.1)


def test_stream_without_limit_ends_at_exhausted_label(rows):
    (chosen,) = choose(rows, [PriorSpec(start=300, shares={"praise": 1.0})])
    praise = [at for at, row in enumerate(rows) if row.label == "praise"]
    assert [at for at in chosen if rows[at].label == "praise"] == praise
    assert len(chosen) == 300 + sum(at >= 300 for at in praise)


def test_topic_is_absent_before_its_onset(rows):
    (chosen,) = choose(rows, [TopicSpec(start=600, segment="food")], limit=1500)
    assert "food" not in shares(rows, chosen[:600], "segment")
    assert shares(rows, chosen[600:], "segment")["food"] == pytest.approx(1 / 3, abs=0.05)
    (chosen,) = choose(rows, [TopicSpec(start=600, end=1200, segment="food", label="question", share=0.5)], limit=1400)
    both = [(rows[at].segment, rows[at].label) == ("food", "question") for at in chosen]
    assert not any(both[:600] + both[1200:])
    assert sum(both[600:1200]) / 600 == pytest.approx(0.5, abs=0.06)
    assert "food" in shares(rows, chosen[:600], "segment"), "the other texts of the segment are not held back"


def test_topic_and_prior_together(rows):
    wanted = {"praise": 0.6, "complaint": 0.2, "question": 0.2}
    specs = [TopicSpec(start=500, segment="travel", share=0.4), PriorSpec(start=900, shares=wanted)]
    (chosen,) = choose(rows, specs, limit=1500)
    assert shares(rows, chosen[500:900], "segment")["travel"] == pytest.approx(0.4, abs=0.07)
    assert shares(rows, chosen[500:900])["praise"] == pytest.approx(1 / 3, abs=0.07)
    assert shares(rows, chosen[900:]) == pytest.approx(wanted, abs=0.06)


def test_prior_shift_keeps_rows_within_their_part(rows):
    parts = [range(1000), range(1000, 2000), range(2000, 3000)]
    chosen = choose(rows, [PriorSpec(start=1500, shares={"praise": 0.8, "complaint": 0.2})], parts=parts)
    assert chosen[0] == list(range(1000))
    assert chosen[1][:500] == list(range(1000, 1500))
    assert 500 < len(chosen[1]) < 1000
    assert set(chosen[2]) <= set(range(2000, 3000))
    assert shares(rows, chosen[2])["praise"] == pytest.approx(0.8, abs=0.07)


def test_bayes_accuracy_is_known_after_prior_shift(rows):
    wanted = {"praise": 0.8, "complaint": 0.1, "question": 0.1}
    (chosen,) = choose(rows, [PriorSpec(start=0, shares=wanted)], limit=1000)
    texts, segments = [rows[at].text for at in chosen], [rows[at].segment for at in chosen]
    best = posteriors(SPEC, texts, segments, list(wanted.values())).argmax(axis=1)
    realised = sum(list(wanted)[column] == rows[at].label for column, at in zip(best, chosen, strict=True)) / 1000
    assert bayes_accuracy(SPEC, texts, segments, list(wanted.values())) == pytest.approx(realised, abs=0.04)


# --- annotators ---------------------------------------------------------------------------------------------------


def test_annotators_err_at_stated_rate_after_start(rows):
    labels = ("complaint", "praise", "question")
    crew = [
        AnnotatorSpec(name="liar", share=0.4, flipped=0.5, start=1500),
        AnnotatorSpec(name="spiteful", share=0.2, flipped=1.0, to="praise"),
        AnnotatorSpec(name="silent", share=0.3, missing=0.25),
    ]
    given = annotate(rows, labels, crew, seed=5)
    assert given == annotate(rows, labels, crew, seed=5) != annotate(rows, labels, crew, seed=6)
    counts = Counter(one.annotator for one in given)
    expected = {"liar": 0.4, "spiteful": 0.2, "silent": 0.3, "dataset": 0.1}
    assert {name: count / 3000 for name, count in counts.items()} == pytest.approx(expected, abs=0.03)
    by_name = {name: [] for name in expected}
    for at, (one, row) in enumerate(zip(given, rows, strict=True)):
        by_name[one.annotator].append((at, one.label, row.label))
    assert all(label == true for _, label, true in by_name["dataset"])
    wrong = [(at, label) for at, label, true in by_name["liar"] if label != true]
    assert min(at for at, _ in wrong) >= 1500
    assert len(wrong) / sum(at >= 1500 for at, _, _ in by_name["liar"]) == pytest.approx(0.5, abs=0.06)
    assert set(Counter(label for _, label in wrong)) == set(labels)
    assert {label for _, label, _ in by_name["spiteful"]} == {"praise"}
    silent = [label for _, label, _ in by_name["silent"]]
    assert silent.count(None) / len(silent) == pytest.approx(0.25, abs=0.05)
    assert all(label in (None, true) for _, label, true in by_name["silent"])


def test_first_sent_skips_missing_labels():
    silent, given = Annotation("silent", None), Annotation("dataset", "praise")
    annotations = [given, silent, silent, given, silent]
    assert [first_sent(annotations, start, 5) for start in range(6)] == [0, 3, 3, 3, 5, 5]
    assert first_sent(annotations, 1, 3) == 3


def test_injection_functions_refuse_impossible_specs(rows):
    with pytest.raises(DriftloopError, match="beyond the end"):
        inject(rows, NoiseSpec(start=3000), seed=1)
    with pytest.raises(DriftloopError, match="0 are frequent"):
        choose_words([Row("", "a", "", 0)] * 9, VocabularySpec(start=0), seed=1)
