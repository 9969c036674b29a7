"""What a scenario does to the rows of a dataset: put segments in turn, blend them, shift the labels, add typos.

Every function is fully determined by its arguments, and none repeats a row: an event's id is made from its row.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from driftloop.core.errors import DriftloopError


def generator(seed: int, *purpose: object) -> random.Random:
    """A generator of its own for each purpose, so that one transform does not move another's choices.

    `random.Random` seeded with a string gives the same sequence on every machine and Python version.
    """
    return random.Random(":".join(map(str, (seed, *purpose))))


def pools(
    rows: Sequence[int], segments: Sequence[str], cut: int | None, shuffle: bool, seed: int
) -> dict[str, list[int]]:
    """The rows of each segment, shuffled inside where asked for, and cut to at most ``cut`` rows each."""
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
    """One list of rows for each (segment, count) of ``order``; a count of None takes an equal share of what is left.

    A segment that comes again goes on where it stopped.

    Raises:
        DriftloopError: a segment that does not occur, or more rows than it has.
    """
    asked: Counter[str] = Counter()
    sharing: Counter[str] = Counter()
    for name, count in order:
        if name not in available:
            raise DriftloopError(
                f"The segment {name!r} in `order` does not occur in the data: there is "
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
    """Join the phases; around each border ``width`` rows go over from the one to the other on a linear ramp.

    Returns the rows in stream order and, for each border, the position at which its transition begins.

    Raises:
        DriftloopError: a phase is shorter than the transitions at its ends.
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
    """Both lists in their own order, woven so that the share of the new rises evenly from 0 to 1."""
    woven: list[int] = []
    width = len(old) + len(new)
    taken = 0
    for step in range(width):
        wants_new = chance.random() < (step + 0.5) / width
        if (wants_new and taken < len(new)) or step - taken == len(old):
            woven.append(new[taken])
            taken += 1
        else:
            woven.append(old[step - taken])
    return woven


def shift_labels(
    pool: Sequence[int], labels: Sequence[str], shares: Sequence[tuple[int, Mapping[str, float]]], total: int, seed: int
) -> list[int]:
    """``total`` rows of the pool whose label mix follows ``shares``: (first position, share of each label).

    Inside a label the rows come as they stand in the pool, so that the texts of a class do not change with the mix.

    Raises:
        DriftloopError: a label that does not occur, or more rows of one than there are.
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
                    f"The label {label!r} in `label_mix` does not occur in the data: there is "
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
    """Whole counts that add up to ``total`` (largest remainder)."""
    exact = {label: part * total for label, part in share.items()}
    counts = {label: math.floor(value) for label, value in exact.items()}
    by_remainder = sorted(exact, key=lambda label: counts[label] - exact[label])
    for label in by_remainder[: total - sum(counts.values())]:
        counts[label] += 1
    return counts


def runs(segments: Sequence[str]) -> list[tuple[str, int, int]]:
    """(segment, start, end) of each unbroken run."""
    borders = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(segments)) if a != b), len(segments)]
    return [(segments[start], start, end) for start, end in pairwise(borders)]


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS: dict[str, str] = {
    key: "".join(
        _ROWS[y][x]
        for y, x in ((i, j - 1), (i, j + 1), (i - 1, j), (i - 1, j + 1), (i + 1, j - 1), (i + 1, j))
        if 0 <= y < len(_ROWS) and 0 <= x < len(_ROWS[y])
    )
    for i, line in enumerate(_ROWS)
    for j, key in enumerate(line)
}


def mistype(text: str, share: float, chance: random.Random) -> str:
    """Hit a neighbouring key, drop, double or swap a letter: ``share`` of the letters of a US keyboard."""
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
