"""What a command prints can be read whole, whoever reads it."""

from __future__ import annotations

import pytest

from trilane.apps.cli.terminal import ProgressLines, Terminal

NAME = "a-model-with-quite-a-long-name-of-its-own"


def test_a_table_that_no_terminal_reads_is_as_wide_as_it_has_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(json=False).table("Models", ["model", "state", "reason"], [[NAME, "UNAVAILABLE", "x" * 60]])
    assert f"  {NAME}   UNAVAILABLE   {'x' * 60}  " in capsys.readouterr().out.splitlines()


def test_on_a_narrow_terminal_cells_are_folded_and_nothing_is_cut_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal does
    monkeypatch.setenv("COLUMNS", "40")
    Terminal(json=False).table("Models", ["model", "state"], [[NAME, "UNAVAILABLE"]])
    assert "…" not in capsys.readouterr().out


def test_where_no_terminal_is_a_long_job_tells_how_far_it_is_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    instants = iter([100.0, 105.0, 111.0, 112.0, 121.0])
    tell = ProgressLines("score is_big", clock=lambda: next(instants), every=10.0)
    tell("look at the input", 0, 0)
    tell("look at the input", 0, 0)
    tell("9 rows/s, 3 s left", 9, 4_000)
    tell("10 rows/s, 2 s left", 1_000, 4_000)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "score is_big: look at the input",
        "score is_big: 1,000 of 4,000, 10 rows/s, 2 s left",
    ]
