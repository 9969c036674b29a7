"""Messages, state and manifests as earlier versions wrote them, and those versions' own readers.

`before-schema` was written before messages said their schema. `record.py` makes the next folder, before a release.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from driftloop.core.messages import Message
from driftloop.core.topics import ALL, Topic

FOLDERS = sorted(path for path in Path(__file__).parent.iterdir() if (path / "messages.py").is_file())


def known(folder: Path) -> list[Topic]:
    """The topics that there were then."""
    return [topic for topic in ALL if (folder / f"{topic.name}.jsonl").is_file()]


def lines(folder: Path, topic: Topic) -> list[bytes]:
    """The values that were recorded of a topic, in their order."""
    return (folder / f"{topic.name}.jsonl").read_bytes().splitlines()


def everything(folder: Path) -> Iterator[tuple[Topic, bytes]]:
    """All recorded values, topic by topic."""
    for topic in known(folder):
        for line in lines(folder, topic):
            yield topic, line


def reader(folder: Path) -> ModuleType:
    """`driftloop.core.messages` as it was."""
    spec = importlib.util.spec_from_file_location(f"recorded_{folder.name.replace('-', '_')}", folder / "messages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where msgspec looks up what the annotations name
    spec.loader.exec_module(module)
    return module


def older(module: ModuleType, kind: type[Message]) -> type[Message] | None:
    """What ``kind`` was in an older reader, None where there was none."""
    found: type[Message] | None = getattr(module, kind.__name__, None)
    return found
