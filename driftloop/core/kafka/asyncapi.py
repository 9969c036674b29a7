"""AsyncAPI document of the topics (version 3.0.0, https://www.asyncapi.com/docs/reference), generated from the code.

Channels, their settings and their messages come from `driftloop.core.topics` and `driftloop.core.messages`. Senders and
receivers come from `driftloop.core.kafka.acls`. `driftloop topics --asyncapi` prints `docs/asyncapi.json`.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

import driftloop
from driftloop.core import field_docs, messages, topics
from driftloop.core.kafka import acls
from driftloop.core.topics import Topic

KEY_FIELDS = {"events": "event_id", "predictions": "event_id", "labels": "event_id", "outcomes": "event_id"}
"""Message field that is the key of a topic's records. Other topics have the stream id, or the dead message's key."""
REF = "#/components/schemas/{name}"


def build_document() -> dict[str, Any]:
    """Return the document, ready for JSON."""
    kinds = [topic.message for topic in topics.ALL]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REF)
    for kind in kinds:
        _describe(schemas[kind.__name__], kind)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "driftloop",
            "version": driftloop.__version__,
            "description": (inspect.getdoc(messages) or "").split("\n\n", 1)[1],
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in topics.ALL},
        "operations": {
            f"{role.name}.{action}.{topic.name}": _operation(action, role, topic)
            for role in acls.ROLES
            for action, some in (("send", role.writes), ("receive", role.reads))
            for topic in some
        },
        "components": {
            "messages": {topic.message.__name__: _message(topic) for topic in topics.ALL},
            "schemas": schemas,
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    named = {"retention.ms", "max.message.bytes", "cleanup.policy"}
    about = topic.description
    settings = {name: int(text) if text.isdigit() else [text] for name, text in topic.config.items() if name in named}
    return {
        "address": topic.name,
        "description": f"{about[0].upper()}{about[1:]}. A deployment can add a prefix to the name.",
        "messages": {topic.message.__name__: {"$ref": f"#/components/messages/{topic.message.__name__}"}},
        "bindings": {"kafka": {"topic": topic.name, "topicConfiguration": settings, "bindingVersion": "0.5.0"}},
    }


def _operation(action: str, role: acls.Role, topic: Topic) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "summary": f"`driftloop {', '.join(role.verbs)}` {action}s it.",
        "tags": [{"name": role.name}],
    }


def _message(topic: Topic) -> dict[str, Any]:
    name = topic.message.__name__
    field = KEY_FIELDS.get(topic.name)
    key = f"Key of the record: the field `{field}`." if field else "Key of the record."
    return {
        "name": name,
        "summary": inspect.getdoc(topic.message) or "",
        "contentType": "application/json",
        "payload": {"$ref": REF.format(name=name)},
        "bindings": {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}},
    }


def _describe(schema: dict[str, Any], kind: type[messages.Message]) -> None:
    """Add the docstrings of the fields to a schema."""
    for field, text in field_docs.read_field_docs(kind).items():
        schema["properties"][field]["description"] = text
