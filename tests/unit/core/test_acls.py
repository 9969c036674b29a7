"""Who may do what on the topics: the table itself."""

from __future__ import annotations

from driftloop.cli import parser
from driftloop.core import topics
from driftloop.core.kafka import acls
from driftloop.core.kafka.acls import ROLES
from driftloop.core.topics import Topic


def writers(topic: Topic) -> set[str]:
    return {role.name for role in ROLES if topic in role.writes}


def test_topics_have_only_their_intended_writers() -> None:
    assert writers(topics.EVENTS) == {"producer"} and writers(topics.LABELS) == {"producer", "api"}
    assert writers(topics.PREDICTIONS) == {"scorer"}
    assert writers(topics.OUTCOMES) == writers(topics.DRIFT_ALERTS) == {"monitor"}
    assert writers(topics.MODEL_UPDATES) == writers(topics.RETRAINING) == {"retrainer"}
    assert writers(topics.DEAD_LETTERS) == {"scorer", "monitor", "retrainer"}
    assert writers(topics.COMMANDS) == {"api"}
    assert acls.find_role("reader").writes == ()


def test_every_broker_command_has_one_acl_role() -> None:
    verbs = parser.verbs()
    known = [verb for role in ROLES for verb in role.verbs]
    # They start processes, log in as the admin, or need no broker.
    alone = {"simulate", "demo", "topics", "bench", "doctor", "init", "check", "report"}
    assert sorted(known) == sorted(set(verbs) - alone)
