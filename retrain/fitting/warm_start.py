"""Warm starts: heads of earlier fits, from which the next fit of the same candidate begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from driftloop.core.models.bundle import HEAD

KEPT = 3
"""Number of newest heads kept for each candidate."""


class WarmStartStore:
    """Heads of the newest bundles of each slow candidate, promoted or not.

    Args:
        folder: Folder of the heads; it is created with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, list[Path]] = {}

    def keep(self, candidate: str, bundle: Path) -> None:
        """Copy the head of a bundle, if it has one.

        Args:
            candidate: Name of the candidate.
            bundle: Folder of its bundle.
        """
        if not (bundle / HEAD).is_file():
            return
        heads = self._kept.setdefault(candidate, [])
        number = int(heads[-1].stem) + 1 if heads else 0
        target = self._folder / candidate.replace(":", "-") / f"{number}.skops"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / HEAD, target)
        heads.append(target)
        while len(heads) > KEPT:
            heads.pop(0).unlink()

    def of(self, candidate: str) -> tuple[Path, ...]:
        """Return the heads of a candidate, the newest last."""
        return tuple(self._kept.get(candidate, ()))
