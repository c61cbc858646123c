"""A process is called dead when it is known to be, and no other time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trilane.lifecycle.process import is_dead, this_process


def test_a_process_that_ended_is_dead_and_one_that_runs_is_not() -> None:
    assert not is_dead(this_process())
    script = "from trilane.lifecycle.process import this_process; print(this_process())"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert is_dead(ended)


def test_an_id_that_another_process_has_by_now_is_of_a_dead_one() -> None:
    number, began, *rest = this_process().split()
    assert is_dead(" ".join([number, str(int(began) - 1), *rest]))


def test_what_ran_before_the_machine_was_started_anew_is_dead() -> None:
    *rest, boot, namespace = this_process().split()
    assert is_dead(" ".join([*rest, "0" * len(boot), namespace]))


@pytest.mark.parametrize("told", ["", "7", "7 1 elsewhere 0 pid:[1]", "7 1 {host} - -", "7 1 {host} {boot} pid:[1]"])
def test_of_what_cannot_be_known_nothing_is_said(told: str) -> None:
    _, _, host, boot, _ = this_process().split()
    assert not is_dead(told.format(host=host, boot=boot))
