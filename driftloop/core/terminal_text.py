"""Untrusted text for a terminal: control characters are escaped, passwords are masked."""

from __future__ import annotations

import re
import unicodedata

MASK = "••••••"
_ALLOWED = frozenset({"\u200d"})  # the harmless joiner inside emoji
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def escape_control_chars(text: str, limit: int | None = None) -> str:
    r"""Return text on one line with control characters written out, such as ``\x1b``.

    Escape sequences, line breaks, bidirectional overrides and lone surrogates become printable text.

    Args:
        text: Untrusted text.
        limit: Maximum number of its characters; a longer text ends with an ellipsis. `None`: no limit.
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def without_password(address: str) -> str:
    """Return an address with its password masked."""
    return re.sub(r"(://[^:/@]*:)[^/]+@", rf"\g<1>{MASK}@", address)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _ALLOWED:
        return character
    if character in _NAMES:
        return _NAMES[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
