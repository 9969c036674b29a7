"""Outcome of a drift case: a verdict for tables, and a few sentences with the accuracy before and after it."""

from __future__ import annotations

from collections.abc import Sequence

from serving.cases.model import AccuracySpan, Round, Swap, Verdict
from serving.cases.reasons import as_sentence, first_sentence


def verdict_of(rounds: Sequence[Round], swaps: Sequence[Swap]) -> Verdict:
    """Return the outcome of a case in one or two words.

    Args:
        rounds: The retrainings of the case.
        swaps: The changes of the champion that they led to.
    """
    if swaps:
        return "promoted" if swaps[-1].action == "promote" else "rolled back"
    if not rounds:
        return "not retrained"
    if any(candidate.state == "waiting" for one in rounds for candidate in one.candidates):
        return "waiting"
    if rounds[-1].state not in ("finished", "failed"):
        return "under way"
    return "failed" if all(one.state == "failed" for one in rounds) else "rejected"


def describe_outcome(
    verdict: Verdict,
    rounds: Sequence[Round],
    swaps: Sequence[Swap],
    before: AccuracySpan,
    until: AccuracySpan,
    since: AccuracySpan,
    as_registered: AccuracySpan | None,
) -> str:
    """Return the outcome in sentences.

    Args:
        verdict: The outcome, from `verdict_of`.
        rounds: The retrainings of the case.
        swaps: The changes of the champion that they led to.
        before: Accuracy before the drift.
        until: Accuracy from the onset to the first promotion of the case.
        since: Accuracy from that promotion on.
        as_registered: Accuracy in ``until`` that the version would have had without learning from labels. `None` if it
            does not learn from them.
    """
    was, fell = f"Accuracy was {_number(before)} before the drift", f"{_number(until)} from the onset"
    if not swaps:
        return f"{_without_promotion(verdict, len(rounds))} {was} and {fell} on."
    first = swaps[0]
    by = f" ({first.candidate})" if first.candidate else ""
    if first.position < 0:
        promoted = f"Version {first.version}{by} was promoted. None of its predictions has a label yet."
    else:
        promoted = f"Version {first.version}{by} became the champion {until.labelled} labelled events after the onset."
    back = f" Rolled back later: {as_sentence(first_sentence(swaps[-1].reason))}" if verdict == "rolled back" else ""
    unlearnt = "" if as_registered is None else f" ({_number(as_registered)} without learning from labels)"
    return f"{promoted} {was}, {fell} until then{unlearnt}, and {_number(since)} since then.{back}"


def _without_promotion(verdict: Verdict, retrainings: int) -> str:
    times = f"{retrainings} retraining{'' if retrainings == 1 else 's'}"
    return {
        "not retrained": "No retraining followed.",
        "waiting": "A better model waits for manual approval.",
        "under way": "The first retraining is running.",
        "failed": f"{times} failed.",
        "rejected": f"{times} produced no better model.",
    }[verdict]


def _number(share: AccuracySpan) -> str:
    return "unknown" if share.accuracy is None else f"{share.accuracy:.3f}"
