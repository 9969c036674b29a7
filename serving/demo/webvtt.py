"""Subtitles in WebVTT (https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cue:
    """Subtitle with its start and end, in seconds from the beginning of the video."""

    start: float
    end: float
    text: str


def webvtt(cues: Sequence[Cue]) -> str:
    """Return the content of the file."""
    return "WEBVTT\n" + "".join(
        f"\n{number}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{_text(cue.text)}\n"
        for number, cue in enumerate(cues, 1)
    )


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds * 1000))
    return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}.{whole % 1000:03d}"


def _text(text: str) -> str:
    """Return text without tags, arrows and empty lines."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
