"""What a server tells of itself is found, replaced by the next, and taken back by its own only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import until
from trilane.apps.server import address
from trilane.errors import SetupError


def test_a_server_takes_back_what_it_told(tmp_path: Path) -> None:
    address.write(tmp_path, "http://127.0.0.1:1")
    assert address.read(tmp_path) == "http://127.0.0.1:1"
    address.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_successor_told_stays(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from trilane.apps.server import address\n"
    script += "address.write(Path(sys.argv[1]), 'http://127.0.0.1:2'); input()"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE) as successor:
        until(lambda: address.read(tmp_path) is not None, "the successor to tell its address")
        address.forget(tmp_path)
        assert address.read(tmp_path) == "http://127.0.0.1:2"
        successor.communicate(b"\n")


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
