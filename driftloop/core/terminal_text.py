"""Strangers' text on a terminal: shown as it is, never obeyed."""

from __future__ import annotations

import re
import unicodedata

MASK = "••••••"
_KEPT = frozenset({"\u200d"})
"""The joiner inside emoji; harmless."""
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def escape_control_chars(text: str, limit: int | None = None) -> str:
    """``text`` on one line, control characters written out (``\\x1b``), cut to ``limit`` characters with an ellipsis.

    Escape sequences, line breaks, bidirectional overrides and lone surrogates all become printable text.
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def without_password(address: str) -> str:
    """An address with its password, where it has one, masked."""
    return re.sub(r"(://[^:/@]*:)[^/]+@", rf"\g<1>{MASK}@", address)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _KEPT:
        return character
    if character in _NAMES:
        return _NAMES[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
