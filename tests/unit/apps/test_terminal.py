"""What a command prints can be read whole, whoever reads it."""

from __future__ import annotations

import pytest

from trilane.apps.cli.terminal import Terminal

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
