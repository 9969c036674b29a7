"""Masking of personal data in texts: handles, e-mail addresses, phone numbers and links.

A handle becomes `@user` and a link `http`, as in TweetEval (Barbieri et al., Findings of EMNLP 2020). The cards of the
models trained on it require these tokens. The other two become `<email>` and `<phone>`, as in ekphrasis (Baziotis et
al., SemEval 2017). A text is masked when it is read, so no topic, store, model or log holds the original.

Handles and links follow Twitter's definitions. Phone numbers are international ones, North American ones with an area
code, and others that begin with 0. A number that may be an amount, a date or a reference is not masked.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from driftloop.core.settings import Masked

_SEP = r"[ \u00a0.()/\u2010-\u2013-]"
_DASH = r"[ \u00a0.\u2010-\u2013-]"
_DOMAIN = r"(?:[^\W_](?:[\w-]*[^\W_])?\.)+"
_REST = r"\S*[^\s.,;:!?'\"’”…)\]}>]"  # up to the next blank, without the punctuation of the sentence around it

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

# The order matters: a link may contain an address, and an address may contain a handle.
_KINDS: tuple[tuple[Masked, str, str], ...] = (
    ("link", _LINK, "http"),
    ("email", _EMAIL, "<email>"),
    ("handle", _HANDLE, "@user"),
    ("phone", _PHONE, "<phone>"),
)
_PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE | re.VERBOSE), token) for kind, pattern, token in _KINDS]


def mask(text: str, kinds: Collection[Masked]) -> str:
    """Replace personal data by tokens. Masking a masked text changes nothing.

    Args:
        text: The text.
        kinds: Kinds of personal data to mask.
    """
    for kind, pattern, token in _PATTERNS:
        if kind in kinds:
            text = pattern.sub(token, text)
    return text
