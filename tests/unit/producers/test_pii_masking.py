"""Masking: personal data that is removed, text that is kept, and a stream whose identity does not change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Settings
from driftloop.core.settings_source import environment, load
from producers.pii_masking import mask
from producers.scenarios.scenarios import load_scenario

ALL = ("handle", "email", "phone", "link")

PERSONAL = {
    "handle": [
        "@jane", "@JaneDoe_99", "@_", "@Ünïcode", "@日本語", "@имя", "＠jane", "@jane@social.example", "@19840607",
        "@x1", "@" + "a" * 40,
    ],
    "email": [
        "jane@example.com", "jane.doe+tag@mail.example.co.uk", "j_d%x@sub.example.org", "JANE@EXAMPLE.COM",
        "ünïcode@exämple.de", "o'neil@example.ie", "j-d@ex-ample.info",
    ],
    "phone": [
        "+44 20 7946 0958", "+442079460958", "+1-202-555-0143", "+1 (202) 555-0143", "+49 (0)30 123456",
        "0049 30 1234567", "(202) 555-0143", "(202)555-0143", "202-555-0143", "202.555.0143", "202 555 0143",
        "2025550143", "1-800-428-4322", "1 800 428 4322", "020 7946 0958", "07911 123456", "07911123456",
        "06 12 34 56 78", "06.12.34.56.78", "030/1234567", "0171-1234567", "202\u2011555\u20110143",
        "+33\u00a06\u00a012345678",
    ],
    "link": [
        "http://t.co/56eSsfOOwt", "https://example.com/a?b=c#d", "HTTP://EXAMPLE.COM", "www.example.com",
        "www.example.de/x",
        "t.co/56eSsfOOwt", "bit.ly/2x?y", "example.com", "sub.example.org", "ftp://example.com/f",
        "https://münchen.example/ä",
        "https://user:pw@example.com/", "http://10.0.0.1:8080/x", "http://t.co",
    ],
}  # fmt: skip
TOKENS = {"handle": "@user", "email": "<email>", "phone": "<phone>", "link": "http"}

HARMLESS = [
    "12", "1,234,567", "3.14159265358", "0.0001234567", "1 000 000", "$5,000.00", "€1299", "$2025550143",
    "50%", "7:45",
    "12:30:59", "8pm", "@ 8pm", "@8pm", "@ $50", "@50", "27.02.2015", "02/27/2015", "2015-02-27",
    "02.27.2015 1030", "2015-2016",
    "2015-02-27T10:30:00", "UA877", "AA 1234", "flight 3729", "flight 1234 to 5678", "737-300", "A320-200",
    "#Coachella2015",
    "#1", "$GOOG", "$AAPL 127.08", "iOS 8.1.3", "v2.10.0", "10.0.0.1", "153.69.214.203", "150202-000419",
    "1-0", "24-7",
    "3-0-1", "4.5/5", "1420070400", "12345678901234", "FP9M6Y", "WO2013138000A1", "#2025550143",
    "e.g. this", "i.e. that",
    "sh@t", "a @ b", "and/or", "p.m./a.m.", "he/she", "x.y", "end.Next", "U.S./Mexico", "<3", ":-)",
    "12 34 56", "ISBN 978-3-16",
    "100 200 3000", "1/2 cup", "http", "@user", "9 to 5", "2 x 4",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "secret"), [(kind, one) for kind, found in PERSONAL.items() for one in found])
def test_personal_data_is_masked_in_any_context(kind: str, secret: str) -> None:
    for text in (
        secret,
        f"call {secret} now",
        f"({secret})",
        f"RT {secret}: so",
        f"{secret}, {secret}.",
        f"“{secret}”",
    ):
        found = mask(text, ALL)
        assert secret not in found and TOKENS[kind] in found, found
        assert found == mask(found, ALL), "masked again it is another"
        assert mask(text, ()) == text, "control: with nothing to mask it stays"


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_not_masked(text: str) -> None:
    for around in (text, f"so {text} it was", f"({text})", f"{text}, {text}."):
        assert mask(around, ALL) == around


def test_masking_keeps_the_surrounding_text() -> None:
    text = "RT @jane: see (http://t.co/abc), call +1-202-555-0143 2 times; jane@example.com! #fail 3.5 @ 8pm\n😀"
    masked = "RT @user: see (http), call <phone> 2 times; <email>! #fail 3.5 @ 8pm\n😀"
    assert mask(text, ALL) == masked
    assert mask(text, ("link",)) == text.replace("http://t.co/abc", "http")


WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="@＠./+:-_%'"), max_size=8)
PLANTED = st.sampled_from([one for found in PERSONAL.values() for one in found])


@hypothesis(max_examples=2_000, derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(WORDS, PLANTED), min_size=1, max_size=5))
def test_personal_data_among_random_words_is_masked(parts: list[tuple[str, str]]) -> None:
    text = " ".join(f"{word} {secret}" for word, secret in parts)
    found = mask(text, ALL)
    assert not [secret for _, secret in parts if secret in found.split()], found
    assert mask(found, ALL) == found


@hypothesis(max_examples=1_000, derandomize=True, database=None, deadline=None)
@given(st.text(st.characters(), max_size=200) | st.text("@.+-0123 ()/wthcom:", max_size=400))
def test_arbitrary_text_is_masked_without_error(text: str) -> None:
    found = mask(text, ALL)
    assert mask(text, ()) == text and isinstance(found, str)


def csv(tmp_path: Path, text: str) -> Path:
    (tmp_path / "data.csv").write_text(f"text,label\n{text} @jane,a\nplain words,b\n")
    return tmp_path / "data.csv"


def test_mask_setting_overrides_the_scenario(tmp_path: Path) -> None:
    """A scenario masks the kinds that it lists, unless the setting says otherwise."""
    path = csv(tmp_path, "see www.example.com")
    scenario = tmp_path / "own.toml"
    scenario.write_text(f'[dataset]\npath = "{path.name}"\n')
    plain = load_scenario(str(scenario))
    assert plain.sequence[0].text == "see www.example.com @jane", "a data set of one's own is masked where one says so"
    masked = load_scenario(str(scenario), mask=("handle",))
    assert masked.sequence[0].text == "see www.example.com @user"
    scenario.write_text(f'mask = ["link", "handle"]\n[dataset]\npath = "{path.name}"\n')
    assert load_scenario(str(scenario)).sequence[0].text == "see http @user"
    assert load_scenario(str(scenario), mask=()).sequence == plain.sequence
    assert plain.event_ids == masked.event_ids == load_scenario(str(scenario)).event_ids, "the rows are the same"
    scenario.write_text(f'mask = ["name"]\n[dataset]\npath = "{path.name}"\n')
    with pytest.raises(DriftloopError, match=r"Invalid enum value 'name' - at `\$.mask"):
        load_scenario(str(scenario))


def test_packaged_tweets_are_masked_with_unchanged_ids() -> None:
    masked, plain = load_scenario("tweets-short"), load_scenario("tweets-short", mask=())
    assert masked.event_ids == plain.event_ids and masked.replay_id == plain.replay_id
    assert [row[1:] for row in masked.sequence] == [row[1:] for row in plain.sequence]
    left = re.compile(r"://|www\.|(?<![A-Za-z0-9_])@(?!user)[A-Za-z_]{2}")
    assert not [row.text for row in masked.sequence if left.search(row.text)]
    assert sum(bool(left.search(row.text)) for row in plain.sequence) > 1000, "control: there is something to mask"


def test_mask_setting_takes_kinds_or_nothing() -> None:
    assert load({}).mask is None and load({"DRIFTLOOP_MASK": ""}).mask == ()
    assert load({"DRIFTLOOP_MASK": "handle, link"}).mask == ("handle", "link")
    for chosen in (None, (), ("email",)):
        assert load(environment(Settings(mask=chosen))).mask == chosen
    with pytest.raises(DriftloopError, match="Invalid enum value"):
        load({"DRIFTLOOP_MASK": "names"})
