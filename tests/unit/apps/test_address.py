"""What a server tells of itself is found, replaced by the next, and taken back by its own only."""

from __future__ import annotations

import subprocess
import sys
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


def test_what_a_killed_server_left_tells_nothing(tmp_path: Path) -> None:
    script = "import os, signal, sys; from pathlib import Path; from trilane.apps.server import address\n"
    script += "address.write(Path(sys.argv[1]), 'http://127.0.0.1:1'); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert (tmp_path / address.ADDRESS_FILE).exists()
    assert address.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"url": 1}', b"\xff"])
def test_a_file_that_makes_no_sense_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / address.ADDRESS_FILE).write_bytes(content)
    assert address.read(tmp_path) is None


def test_a_state_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / address.ADDRESS_FILE).mkdir()
    with pytest.raises(SetupError, match="cannot be written"):
        address.write(tmp_path, "http://127.0.0.1:1")
