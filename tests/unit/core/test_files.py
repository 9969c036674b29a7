"""Atomic writes: whole or not at all, with the rights asked for, and nothing left over."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from driftloop.core.files import THIS_USER, atomic_path, write_atomic, write_private

FULL = Path("/dev/full")


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_atomic_write_replaces_file_without_leftovers(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    for body in (b"before", b"after"):
        write_atomic(file, body)
        assert file.read_bytes() == body
    assert list(tmp_path.iterdir()) == [file]


def test_file_mode_is_default_or_requested(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomic(tmp_path / "plain", b"x")
    write_atomic(tmp_path / "secret", b"x", THIS_USER)
    assert mode(tmp_path / "plain") == mode(tmp_path / "usual") and mode(tmp_path / "secret") == 0o600


def test_private_file_and_new_folder_are_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "key"
    write_private(file, b"tiger")
    assert (file.read_bytes(), mode(file), mode(file.parent)) == (b"tiger", 0o600, 0o700)


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_full_disk_keeps_old_file_without_leftovers(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomic(file, b"before")
    (tmp_path / f".file.{os.getpid()}").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(file, b"after")
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]


def test_missing_folder_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "file", b"x")


def test_failed_block_keeps_old_file_without_leftovers(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    write_atomic(file, b"before")
    with pytest.raises(KeyboardInterrupt), atomic_path(file) as scratch:
        scratch.write_bytes(b"half")
        assert scratch.parent == tmp_path, "a rename works on one file system only"
        raise KeyboardInterrupt
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]
