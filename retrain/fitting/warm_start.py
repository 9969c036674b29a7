"""What searches have ended with, so that the next one of the same candidate begins with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from driftloop.core.models.bundle import HEAD

KEPT = 3
"""The newest heads of a candidate that are kept."""


class WarmStartStore:
    """The heads of the newest bundles of each slow candidate, whether they were promoted or not.

    Args:
        folder: where they are kept; it is made when the first comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, list[Path]] = {}

    def keep(self, candidate: str, bundle: Path) -> None:
        """Take the head of a bundle, where it has one."""
        if not (bundle / HEAD).is_file():
            return
        mine = self._kept.setdefault(candidate, [])
        number = int(mine[-1].stem) + 1 if mine else 0
        target = self._folder / candidate.replace(":", "-") / f"{number}.skops"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / HEAD, target)
        mine.append(target)
        while len(mine) > KEPT:
            mine.pop(0).unlink()

    def of(self, candidate: str) -> tuple[Path, ...]:
        """The heads of a candidate, the newest last."""
        return tuple(self._kept.get(candidate, ()))
