"""A port has one server of a state, also while that server only starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import free_port
from trilane.apps.processes import hold_port
from trilane.errors import SetupError

# Holds a port, then becomes another program, as `trilane serve` becomes the one that listens.
HOLDER = """
import os, sys
from pathlib import Path
from trilane.apps.processes import hold_port
hold_port(Path(sys.argv[1]), int(sys.argv[2]))
os.execv(sys.executable, [sys.executable, "-c", "print('become', flush=True); input()"])
"""


def test_a_held_port_is_refused_with_its_holder_for_as_long_as_that_lives(tmp_path: Path) -> None:
    port = free_port()
    line = [sys.executable, "-c", HOLDER, str(tmp_path), str(port)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "become\n"
        with pytest.raises(SetupError, match=f"process {holder.pid}") as refused:
            hold_port(tmp_path, port)
        assert "--port" in refused.value.remedy
        os.close(hold_port(tmp_path, free_port()))
        holder.kill()
        holder.wait()
    os.close(hold_port(tmp_path, port))


def test_a_state_that_cannot_hold_a_lock_is_told(tmp_path: Path) -> None:
    (tmp_path / "serve-1.lock").mkdir()
    with pytest.raises(SetupError, match="cannot be opened"):
        hold_port(tmp_path, 1)
