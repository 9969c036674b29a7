"""Subtitles in WebVTT (https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cue:
    """What is said from one moment to another, in seconds from the beginning of the film."""

    start: float
    end: float
    text: str


def webvtt(cues: Sequence[Cue]) -> str:
    """The file's text."""
    return "WEBVTT\n" + "".join(
        f"\n{number}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{_text(cue.text)}\n"
        for number, cue in enumerate(cues, 1)
    )


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds * 1000))
    return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}.{whole % 1000:03d}"


def _text(words: str) -> str:
    """As text: no tag, no arrow, no empty line."""
    return " ".join(words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
