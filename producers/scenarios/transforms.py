"""Transforms of a dataset's rows: segments in turn, blended borders, shifted labels and typos.

Every function is determined by its arguments alone. None repeats a row, because an event's id is made from its row.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from driftloop.core.errors import DriftloopError


def generator(seed: int, *purpose: object) -> random.Random:
    """Return a separate random generator for each purpose, so that no transform changes another's choices.

    `random.Random` seeded with a string gives the same sequence on every machine and Python version.

    Args:
        seed: Seed of the scenario.
        *purpose: Values that name the purpose.
    """
    return random.Random(":".join(map(str, (seed, *purpose))))


def pools(
    rows: Sequence[int], segments: Sequence[str], cut: int | None, shuffle: bool, seed: int
) -> dict[str, list[int]]:
    """Group rows by their segment.

    Args:
        rows: Rows of the table.
        segments: Segment of every row of the table.
        cut: Maximum number of rows of each segment. None: no limit.
        shuffle: Shuffle inside each segment.
        seed: Seed of the scenario.

    Returns:
        Rows of each segment by its name.
    """
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[segments[row]].append(row)
    for name, pool in found.items():
        if shuffle:
            generator(seed, "segment", name).shuffle(pool)
        if cut is not None:
            del pool[cut:]
    return dict(found)


def take_turns(available: Mapping[str, list[int]], order: Sequence[tuple[str, int | None]]) -> list[list[int]]:
    """Take rows of the segments in turn.

    A segment that occurs again continues with its next rows.

    Args:
        available: Rows of each segment.
        order: (segment, count) of each phase. A count of None takes an equal share of the rows left.

    Returns:
        Rows of each phase.

    Raises:
        DriftloopError: A segment does not occur or has too few rows.
    """
    asked: Counter[str] = Counter()
    sharing: Counter[str] = Counter()
    for name, count in order:
        if name not in available:
            raise DriftloopError(
                f"The segment {name!r} in `order` does not occur in the data: use one of "
                f"{', '.join(map(repr, sorted(available)))}."
            )
        asked[name] += count or 0
        sharing[name] += count is None
    for name, total in asked.items():
        if total + sharing[name] > len(available[name]):
            raise DriftloopError(
                f"`order` asks for {total + sharing[name]} or more rows of {name!r}, which has "
                f"{len(available[name])} (after `cut`): lower its counts."
            )
    left = {name: len(available[name]) - asked[name] for name in asked}
    used: Counter[str] = Counter()
    phases: list[list[int]] = []
    for name, count in order:
        if count is None:
            count = left[name] // sharing[name]
            left[name] -= count
            sharing[name] -= 1
        phases.append(available[name][used[name] : used[name] + count])
        used[name] += count
    return phases


def blend(phases: Sequence[list[int]], width: int, seed: int) -> tuple[list[int], list[int]]:
    """Join phases with a gradual transition, a linear ramp, around each border.

    Args:
        phases: Rows of each phase.
        width: Rows of a transition. 0 joins the phases abruptly.
        seed: Seed of the scenario.

    Returns:
        The rows in stream order, and for each border the position at which its transition begins.

    Raises:
        DriftloopError: A phase is shorter than the transitions at its ends.
    """
    before, after = width // 2, width - width // 2
    stream: list[int] = []
    starts: list[int] = []
    for number, phase in enumerate(phases):
        head = after if number else 0
        tail = before if number < len(phases) - 1 else 0
        if len(phase) < head + tail or not phase:
            raise DriftloopError(
                f"Phase {number + 1} of the order has {len(phase)} rows, fewer than its transitions take "
                f"({head + tail}): lower `transition` or give it more rows."
            )
        if number:
            old = phases[number - 1][len(phases[number - 1]) - before :]
            starts.append(len(stream))
            stream += _ramp(old, phase[:head], generator(seed, "transition", number))
        stream += phase[head : len(phase) - tail]
    return stream, starts


def _ramp(old: list[int], new: list[int], chance: random.Random) -> list[int]:
    """Merge two lists so that the share of the new one rises evenly from 0 to 1. Each list keeps its order."""
    merged: list[int] = []
    width = len(old) + len(new)
    taken = 0
    for step in range(width):
        wants_new = chance.random() < (step + 0.5) / width
        if (wants_new and taken < len(new)) or step - taken == len(old):
            merged.append(new[taken])
            taken += 1
        else:
            merged.append(old[step - taken])
    return merged


def shift_labels(
    pool: Sequence[int], labels: Sequence[str], shares: Sequence[tuple[int, Mapping[str, float]]], total: int, seed: int
) -> list[int]:
    """Select rows so that their labels have given shares.

    Rows of one label keep their order, so that the texts of a class do not change with the mix.

    Args:
        pool: Rows of the table to select from, in order.
        labels: Label of every row of the table.
        shares: (first position, share of each label) of each phase.
        total: Number of rows to select.
        seed: Seed of the scenario.

    Raises:
        DriftloopError: A label does not occur or has too few rows.
    """
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for row in reversed(pool):
        by_label[labels[row]].append(row)  # reversed, so that pop() takes the first
    starts = [start for start, _ in shares]
    stream: list[int] = []
    for number, ((start, share), end) in enumerate(zip(shares, [*starts[1:], total], strict=True)):
        phase: list[int] = []
        for label, count in _counts(share, end - start).items():
            if label not in by_label:
                raise DriftloopError(
                    f"The label {label!r} in `label_mix` does not occur in the data: use one of "
                    f"{', '.join(map(repr, sorted(by_label)))}."
                )
            if count > len(by_label[label]):
                raise DriftloopError(
                    f"`label_mix` asks for {count} rows with the label {label!r} from position {start} on, and "
                    f"{len(by_label[label])} are left: lower its share, or `limit`."
                )
            phase += [by_label[label].pop() for _ in range(count)]
        generator(seed, "label mix", number).shuffle(phase)
        stream += phase
    return stream


def _counts(share: Mapping[str, float], total: int) -> dict[str, int]:
    """Round shares to whole counts that add up to ``total``, by the largest remainder."""
    exact = {label: part * total for label, part in share.items()}
    counts = {label: math.floor(value) for label, value in exact.items()}
    by_remainder = sorted(exact, key=lambda label: counts[label] - exact[label])
    for label in by_remainder[: total - sum(counts.values())]:
        counts[label] += 1
    return counts


def runs(segments: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return (segment, start, end) of each unbroken run of one segment."""
    borders = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(segments)) if a != b), len(segments)]
    return [(segments[start], start, end) for start, end in pairwise(borders)]


_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS: dict[str, str] = {
    key: "".join(
        _KEY_ROWS[y][x]
        for y, x in ((i, j - 1), (i, j + 1), (i - 1, j), (i - 1, j + 1), (i + 1, j - 1), (i + 1, j))
        if 0 <= y < len(_KEY_ROWS) and 0 <= x < len(_KEY_ROWS[y])
    )
    for i, line in enumerate(_KEY_ROWS)
    for j, key in enumerate(line)
}


def mistype(text: str, share: float, chance: random.Random) -> str:
    """Add typos: hit a neighbouring key, or drop, double or swap a letter.

    Args:
        text: The text.
        share: Share in [0, 1] of the letters of a US keyboard that are mistyped.
        chance: Random generator of the event.
    """
    out: list[str] = []
    for letter in text:
        near = _NEIGHBOURS.get(letter.lower())
        if near is None or chance.random() >= share:
            out.append(letter)
            continue
        slip = chance.randrange(4)
        if slip == 0:
            typed = chance.choice(near)
            out.append(typed.upper() if letter.isupper() else typed)
        elif slip == 1:
            out += [letter, letter]
        elif slip == 2 and out:
            out.insert(-1, letter)
        # Otherwise the letter is dropped.
    return "".join(out)
