"""The AsyncAPI document says what the code does: no more, no less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from driftloop.core import messages, topics
from driftloop.core.kafka import acls, asyncapi
from driftloop.core.messages import decode, encode
from driftloop.core.topics import Topic
from tests.unit.serving.test_views import made

DOCS = Path(__file__).parents[3] / "docs" / "asyncapi.json"
FOUND = asyncapi.build_document()


def test_committed_asyncapi_document_equals_generated_one() -> None:
    assert json.loads(DOCS.read_text(encoding="utf-8")) == FOUND, "driftloop topics --asyncapi > docs/asyncapi.json"


def references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "$ref":
                yield value
            yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)


def test_every_asyncapi_reference_resolves() -> None:
    found = set(references(FOUND))
    assert len(found) > 20
    for reference in found:
        at: Any = FOUND
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


def validator(topic: Topic) -> Draft202012Validator:
    name = topic.message.__name__
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": FOUND["components"]})


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_schema_accepts_valid_and_rejects_undecodable_messages(topic: Topic) -> None:
    fields = {"position": 5, "onset": 3, "reason": "x", "detector": "d", "error": "e", "state": "queued"}
    good = json.loads(encode(made(topic.message, **fields)))
    assert list(validator(topic).iter_errors(good)) == []
    refused = 0
    for field in good:
        for bad in ([], {"x": {"y": [None]}}, -(10**400) if field != "schema" else 0):
            broken = {**good, field: bad}
            try:
                decode(topic.message, json.dumps(broken).encode())
            except ValueError:
                refused += 1
                assert not validator(topic).is_valid(broken), (field, bad)
    assert refused >= len(good)


def test_asyncapi_operations_match_acl_roles() -> None:
    said = {(one["tags"][0]["name"], one["action"], one["channel"]["$ref"]) for one in FOUND["operations"].values()}
    allowed = {
        (role.name, action, f"#/channels/{topic.name}")
        for role in acls.ROLES
        for action, some in (("send", role.writes), ("receive", role.reads))
        for topic in some
    }
    assert said == allowed


def test_schema_descriptions_come_from_code_docstrings() -> None:
    schemas = FOUND["components"]["schemas"]
    assert schemas["DriftAlert"]["properties"]["outcome_offset"]["description"].startswith("Offset in `outcomes`")
    assert schemas["Label"]["properties"]["feedback"]["description"].startswith("True for a human label")
    assert set(schemas) >= {topic.message.__name__ for topic in topics.ALL}
    assert all(schemas[topic.message.__name__]["description"] for topic in topics.ALL)
    assert schemas["Event"]["properties"]["schema"]["default"] == messages.SCHEMA
