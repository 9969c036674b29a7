"""What came of a case: one word for tables, one sentence for people."""

from __future__ import annotations

from collections.abc import Sequence

from serving.cases.model import AccuracySpan, Round, Swap, Verdict


def verdict_of(rounds: Sequence[Round], swaps: Sequence[Swap]) -> Verdict:
    """What came of a case, in one word."""
    if swaps:
        return "promoted" if swaps[-1].action == "promote" else "rolled back"
    if not rounds:
        return "not retrained"
    if any(candidate.state == "waiting" for one in rounds for candidate in one.candidates):
        return "waiting"
    if rounds[-1].state not in ("finished", "failed"):
        return "under way"
    return "failed" if all(one.state == "failed" for one in rounds) else "rejected"


def words_of(
    verdict: Verdict,
    rounds: Sequence[Round],
    swaps: Sequence[Swap],
    before: AccuracySpan,
    until: AccuracySpan,
    since: AccuracySpan,
) -> str:
    """The same in a sentence, with the accuracy before the drift, until the answer, and since."""
    was, fell = f"accuracy {_number(before)} before the drift", f"{_number(until)} from the onset"
    if not swaps:
        times = f"{len(rounds)} retraining{'' if len(rounds) == 1 else 's'}"
        told = {
            "not retrained": "nothing was retrained",
            "waiting": "a better model waits for a person's approval",
            "under way": "the first retraining is under way",
            "failed": f"{times} failed",
            "rejected": f"{times} brought no better model",
        }[verdict]
        return f"{told}: {was}, {fell} on"
    first = swaps[0]
    by = f" ({first.candidate})" if first.candidate else ""
    took = f"version {first.version}{by} took over {until.labelled} labelled events after the onset"
    if first.position < 0:
        took = f"version {first.version}{by} was promoted, and none of its predictions has a label yet"
    back = f"; rolled back since: {swaps[-1].reason}" if verdict == "rolled back" else ""
    return f"{took}: {was}, {fell} until then, {_number(since)} since{back}"


def _number(share: AccuracySpan) -> str:
    return "unknown" if share.accuracy is None else f"{share.accuracy:.3f}"
