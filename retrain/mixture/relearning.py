"""Repetition of what a mixture learnt between two registered versions, from the topics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.manifest import Lineage
from driftloop.core.models.mixture import Mixture
from driftloop.core.models.mixture_head import MixtureHead
from retrain.mixture.learner import NO_DRIFT, MixtureLearner
from retrain.mixture.trainer import MixtureTrainer

BATCH = 20
"""Labels between two looks at the refits, as many as a worker reads in half a second at 40 events per second."""


def learn_again(
    head: MixtureHead,
    lineage: Lineage,
    learnt: int,
    outcomes: Sequence[tuple[int, Outcome]],
    alerts: Sequence[DriftAlert],
    embed: Callable[[Sequence[Outcome]], Matrix],
) -> Mixture:
    """Return the mixture after the labels that came while a version was the champion.

    The order is that of the worker, but for the moments at which refits end. They end before the next batch here.

    Args:
        head: Head of the version.
        lineage: Its origin.
        learnt: Offset of the last label that it had learnt.
        outcomes: Labelled events with their offsets, up to the last one to be learnt.
        alerts: Alerts of the stream.
        embed: Returns the embeddings of n outcomes, shape (n, d).

    Raises:
        ValueError: The mixture has experts that this version of driftloop does not fit.
    """
    onset_at = lineage.parameters.get("onset_at")
    learner = MixtureLearner(head.mixture.copy(), lineage.rows, onset_at=NO_DRIFT if onset_at is None else onset_at)
    labelled_at = [0.0]
    trainer = MixtureTrainer(learner, head, embed, lambda expert: None, budget=math.inf, now=lambda: labelled_at[-1])
    try:
        trainer.remember([one for offset, one in outcomes if offset <= learnt or one.in_sample])
        new = [(offset, one) for offset, one in outcomes if offset > learnt and not one.in_sample]
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            labelled_at.append(batch[-1][1].labelled_at)
            trainer.advance([one for _, one in batch], [one for one in alerts if one.outcome_offset < batch[-1][0]])
            trainer.wait()
    finally:
        trainer.close()
    return learner.mixture
