"""What runs `trilane` for the demo says why something did not run, and leaves what others run alone."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from examples.flights.demo import main
from examples.flights.running import command, refuse_if_up
from trilane import ConflictError, SetupError


def test_a_command_that_fails_says_what_it_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"`trilane apply` failed: .*trilane\.toml"):
        command(tmp_path, "apply")


def test_a_state_on_which_something_runs_is_refused(tmp_path: Path) -> None:
    refuse_if_up(tmp_path)
    with (tmp_path / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with pytest.raises(ConflictError, match="process 4711"):
            refuse_if_up(tmp_path)
    refuse_if_up(tmp_path)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--quick", "--folder", str(tmp_path / "file" / "demo")]) == SetupError.exit_code
    told = capsys.readouterr().out
    assert "✗" in told
    assert "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
