"""What a server tells of itself is found, replaced by the next, and taken back by its own only."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.apps.server import address
from trilane.errors import SetupError


def test_the_last_server_to_start_is_found_and_only_it_takes_that_back(tmp_path: Path) -> None:
    assert address.read(tmp_path) is None
    address.write(tmp_path, "http://127.0.0.1:1")
    address.write(tmp_path, "http://127.0.0.1:2")
    address.forget(tmp_path, "http://127.0.0.1:1")
    assert address.read(tmp_path) == "http://127.0.0.1:2"
    address.forget(tmp_path, "http://127.0.0.1:2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"url": 1}', b"\xff"])
def test_a_file_that_makes_no_sense_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / address.ADDRESS_FILE).write_bytes(content)
    assert address.read(tmp_path) is None


def test_a_state_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / address.ADDRESS_FILE).mkdir()
    with pytest.raises(SetupError, match="cannot be written"):
        address.write(tmp_path, "http://127.0.0.1:1")
