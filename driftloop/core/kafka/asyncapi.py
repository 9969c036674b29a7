"""The topics as an AsyncAPI document (version 3.0.0, https://www.asyncapi.com/docs/reference), made from the code.

Channels, their settings and their messages are those of `driftloop.core.topics` and `driftloop.core.messages`; who sends and who
receives is what `driftloop.core.kafka.acls` allows. `docs/asyncapi.json` is what `driftloop topics --asyncapi` prints.
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
"""The field that is the key of a topic's records; of the others it is the stream, or the dead message's own."""
REF = "#/components/schemas/{name}"


def build_document() -> dict[str, Any]:
    """The whole description, ready for JSON."""
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
    settings = {name: int(text) if text.isdigit() else [text] for name, text in topic.config.items() if name in named}
    return {
        "address": topic.name,
        "description": f"{topic.description[0].upper()}{topic.description[1:]}. A deployment may set a prefix before the name.",
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
    about = KEY_FIELDS.get(topic.name)
    key = f"The record's key: the field `{about}`." if about else "The record's key."
    return {
        "name": name,
        "summary": inspect.getdoc(topic.message) or "",
        "contentType": "application/json",
        "payload": {"$ref": REF.format(name=name)},
        "bindings": {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}},
    }


def _describe(schema: dict[str, Any], kind: type[messages.Message]) -> None:
    """Put what stands below a field in the code into its schema."""
    for field, told in field_docs.read_field_docs(kind).items():
        schema["properties"][field]["description"] = told
