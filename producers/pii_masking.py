"""Personal data taken out of a text before it goes anywhere: handles, e-mail addresses, phone numbers, links.

A handle becomes `@user` and a link `http`, as in TweetEval (Barbieri et al., Findings of EMNLP 2020) and as the cards
of the models trained on it ask for; the other two get the names that ekphrasis gives them, `<email>` and `<phone>`
(Baziotis et al., SemEval 2017). A text is masked where it is read: no topic, store, model or log holds what was there.

Handles and links are what Twitter takes for them. Phone numbers are international ones, North American ones with their
area code, and others that begin with a 0; a number that may as well be an amount, a date or a reference is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from driftloop.core.settings import Masked

_SEP = r"[ \u00a0.()/\u2010-\u2013-]"
_DASH = r"[ \u00a0.\u2010-\u2013-]"
_DOMAIN = r"(?:[^\W_](?:[\w-]*[^\W_])?\.)+"
_REST = r"\S*[^\s.,;:!?'\"’”…)\]}>]"
"""Up to the next blank, but for the punctuation of the sentence around it."""

_LINK = rf"""
    (?:https?|ftp)://{_REST}
  | (?<![\w@.]) www\.{_REST}
  | (?<![\w@＠.-]) {_DOMAIN}[^\W\d_]{{2,}}/{_REST}
  | (?<![\w@＠.-]) {_DOMAIN}(?:com|net|org|edu|gov|info)\b (?!@)
"""
_EMAIL = r"(?<![\w@＠.+%'-]) [\w.+%'-]+ @ [\w-]+ (?:\.[\w-]+)+"
_HANDLE = r"(?:(?<![a-z0-9_]) | (?<=\bRT)) [@＠] (?!\d{1,4}(?:[ap]m|h|k)?\b) \w+ (?:@ [\w-]+ (?:\.[\w-]+)+)?"
_PHONE = rf"""
    (?<![\w+]) \+1 (?:{_SEP}{{0,3}}\d){{10}} (?!\d)
  | (?<![\w+]) (?:\+|00)[1-9] (?:{_SEP}{{0,3}}\d){{6,14}} (?!\d)
  | (?<![\w$€£.,+-]) (?:1{_DASH}?)? (?:\([2-9]\d\d\)\ ?|[2-9]\d\d{_DASH}) [2-9]\d\d{_DASH}?\d{{4}} (?![\w%]|[.,]\d)
  | (?<![\w$€£.,+#-]) [2-9]\d\d[2-9]\d{{6}} (?![\w%]|[.,]\d)
  | (?<![\w$€£.,+:/-]) (?!\d\d[-/.\ ]\d\d[-/.\ ](?:19|20)\d\d\b)
    0[1-9] (?:[\ \u00a0./\u2010-\u2013-]?\d){{7,10}} (?![\w%]|[.,:]\d)
"""

# The order matters: a link may hold an address, and an address what looks like a handle.
_KINDS: tuple[tuple[Masked, str, str], ...] = (
    ("link", _LINK, "http"),
    ("email", _EMAIL, "<email>"),
    ("handle", _HANDLE, "@user"),
    ("phone", _PHONE, "<phone>"),
)
_PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE | re.VERBOSE), token) for kind, pattern, token in _KINDS]


def mask(text: str, kinds: Collection[Masked]) -> str:
    """``text`` with everything of these kinds replaced by its token; masked again it stays as it is."""
    for kind, pattern, token in _PATTERNS:
        if kind in kinds:
            text = pattern.sub(token, text)
    return text
